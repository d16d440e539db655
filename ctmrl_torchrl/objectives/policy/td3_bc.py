"""TD3+BC: TorchRL's loss with the options of the methods that use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives import SoftUpdate, TD3BCLoss, ValueEstimators

from ctmrl_torchrl.objectives.checks import known_reduction, require_same_action, require_weights
from ctmrl_torchrl.objectives.policy.base import POLICY_LOSSES, PolicyLossConfig
from ctmrl_torchrl.objectives.policy.target_critics import TargetCriticLoss, actor_and_critic
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import NOT_NEGATIVE, POSITIVE, SWITCH, among, ruled, whole
from ctmrl_torchrl.typed import dispatch

#: which critic evaluates the actor's action: the first one (TD3+BC) or the minimum (GENTLE)
JUDGES = ("first", "smallest")


class OfflineTD3BCLoss(TargetCriticLoss, TD3BCLoss):
    """``torchrl.objectives.TD3BCLoss`` with identical loss values and the guarantees of this library's losses.

    Additional guarantees: only the priority is written to the input; every term excludes padding; the actor may
    learn from a sampled action and from the minimum of the critics; rewards may be scaled; only ``loss_qvalue``
    has a gradient to the batch; ``in_keys`` are complete and ordered; errors name the wrong entry.

    Args:
        networks: actor and critic (or list of critics).

    Keyword Args:
        gamma (float): discount factor.
        reward_scale (float): factor on rewards.
        policy_delay (int): the actor and all targets are updated every ``policy_delay`` updates.
        sampled_actions (bool): whether the actor learns from a reparameterized sample.
        judge (str): ``"first"`` or ``"smallest"``.
        options: keyword arguments of ``TD3BCLoss``.

    Attributes:
        actor_due (bool): whether the actor learns in the next update; set by :meth:`before_update`.

    Keys, outputs, targets and errors: see :func:`make_td3_bc_loss`.

    Examples:
        >>> from ctmrl_torchrl.modules import make_actor, make_qvalue
        >>> sizes = dict(observation_dim=3, context_dim=4, action_dim=2)
        >>> loss = OfflineTD3BCLoss(make_actor(**sizes), make_qvalue(**sizes), gamma=0.9, bounds=(-1.0, 1.0))
        >>> [(loss.before_update(update), loss.actor_due)[1] for update in range(4)]
        [True, False, True, False]
    """

    min_action: Tensor
    max_action: Tensor

    def __init__(
        self,
        *networks: Any,
        gamma: float,
        reward_scale: float = 1.0,
        policy_delay: int = 2,
        sampled_actions: bool = False,
        judge: str = "first",
        **options: Any,
    ) -> None:
        super().__init__(*networks, **options)
        if judge not in JUDGES:
            raise ValueError(f"{type(self).__name__}: judge={judge!r}; choose one of {', '.join(JUDGES)}.")
        if sampled_actions and not hasattr(self.actor_network, "get_dist"):
            raise ValueError(
                f"{type(self).__name__}: sampled_actions=True needs an actor with a distribution "
                "(ProbabilisticActor); this one is deterministic."
            )
        # Read by make_value_estimator, so that another estimator keeps the discount.
        self.gamma = gamma
        self.reward_scale = reward_scale
        self.policy_delay = policy_delay
        self.sampled_actions = sampled_actions
        self.judge = judge
        self.actor_due = True
        kept = [] if self.reduction == "none" else ["behaviour_error", "value_weight"]
        self.out_keys = ["loss_actor", "loss_qvalue", *kept]
        self._set_in_keys()

    def before_update(self, update: int) -> None:
        """Set the number of the next update, from 0. The actor learns in the first of every ``policy_delay``."""
        self.actor_due = update % self.policy_delay == 0

    def make_target_updater(self, rate: float) -> DelayedSoftUpdate:
        """An updater whose ``step()`` updates the targets with ``rate``, but only after actor updates."""
        return DelayedSoftUpdate(self, tau=rate)

    def act(self, batch: TensorDictBase, *, target: bool = False) -> Tensor:
        """Actions ``[*, a]`` of the actor in training, or deterministic actions of the target actor."""
        params = self.target_actor_network_params if target else self.actor_network_params
        with params.to_module(self.actor_network, preserve_module_state=False):
            if self.sampled_actions and not target:
                return self.actor_network.get_dist(batch).rsample()
            with set_exploration_type(ExplorationType.DETERMINISTIC):
                return self.actor_network(batch).get(self.tensor_keys.action)

    @torch.no_grad()
    def _next_value(self, tensordict: TensorDictBase, lead: tuple[int, ...]) -> Tensor:
        """The minimum target value of the target actor's action with clipped noise."""
        data_action = tensordict.get(self.tensor_keys.action)
        noise = (torch.randn_like(data_action) * self.policy_noise).clamp(-self.noise_clip, self.noise_clip)
        following = tensordict.get("next")
        batch = TensorDict(
            {key: following.get(key) for key in self.actor_network.in_keys}, tensordict.batch_size
        )
        action = (self.act(batch, target=True) + noise).clamp(self.min_action, self.max_action)
        judged = self._with_action(following, action)
        return self._stacked_values(judged, self.target_qvalue_network_params, lead).amin(0)

    def _actor_terms(self, tensordict: TensorDictBase, lead: tuple[int, ...]) -> tuple[Tensor, ...]:
        """The actor's loss ``[*lead]``, its action error, and the weight of its value."""
        batch, data_action = tensordict.detach(), tensordict.get(self.tensor_keys.action)
        action = self.act(batch.select(*self.actor_network.in_keys))
        require_same_action(action, data_action, key=self.tensor_keys.action, reader=type(self).__name__)
        values = self._stacked_values(
            self._with_action(batch, action), self.qvalue_network_params.detach(), lead
        )
        value = values[0] if self.judge == "first" else values.amin(0)
        error = (action - data_action).square().mean(-1)
        size = self._reduce_loss(value.detach().abs(), tensordict=tensordict, reduction="mean")
        weight = self.alpha / size.clamp_min(1e-8)  # a critic of zeros
        return error - weight * value, error.detach(), weight

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute all losses of one batch. The actor loss has no gradient unless ``actor_due`` is true."""
        lead = self._require_transitions(tensordict)
        with torch.set_grad_enabled(self.actor_due and torch.is_grad_enabled()):
            loss_actor, behaviour_error, weight = self._actor_terms(tensordict, lead)
        loss_qvalue, errors = self._regress_critics(tensordict, self._next_value(tensordict, lead), lead)
        tensordict.set(self.tensor_keys.priority, errors.amax(0))
        out = {"loss_actor": loss_actor, "loss_qvalue": loss_qvalue}
        out = {name: self._reduce_loss(values, tensordict=tensordict) for name, values in out.items()}
        if self.reduction == "none":
            return TensorDict(out, batch_size=tensordict.batch_size)
        error = self._reduce_loss(behaviour_error, tensordict=tensordict, reduction="mean")
        return TensorDict(out | {"behaviour_error": error, "value_weight": weight}, [])


class DelayedSoftUpdate(SoftUpdate):
    """``SoftUpdate`` that skips updates in which the actor does not learn.

    Args:
        loss_module (OfflineTD3BCLoss): the loss with the targets. tau (float): update rate.

    Examples:
        >>> from ctmrl_torchrl.modules import make_actor, make_qvalue
        >>> sizes = dict(observation_dim=3, context_dim=4, action_dim=2)
        >>> loss = make_td3_bc_loss(make_actor(**sizes), make_qvalue(**sizes))
        >>> targets = DelayedSoftUpdate(loss, tau=0.005)
        >>> for update in range(4):
        ...     loss.before_update(update)
        ...     targets.step()  # moves them after updates 0 and 2
    """

    def step(self) -> None:
        """Update the targets if the actor has just learned."""
        if self.loss_module.actor_due:
            super().step()


def make_td3_bc_loss(
    actor_network: TensorDictModuleBase,
    qvalue_network: TensorDictModuleBase | list[TensorDictModuleBase],
    *,
    gamma: float = 0.99,
    value_weight: float = 2.5,
    policy_noise: float = 0.2,
    noise_clip: float = 0.5,
    policy_delay: int = 2,
    reward_scale: float = 1.0,
    sampled_actions: bool = False,
    judge: str = "first",
    num_qvalue_nets: int = 2,
    reduction: str = "mean",
    deactivate_vmap: bool = False,
) -> OfflineTD3BCLoss:
    """Build ``torchrl.objectives.TD3BCLoss`` with squared errors and an initialized value estimator.

    - ``loss_qvalue``: every critic regresses ``reward_scale * r + gamma * (1 - terminated) * min Q_target(s',
      a')``, where ``a'`` is the target actor's action plus clipped noise
    - ``loss_actor``: ``-w * Q(s, a_pi) + mean((a_pi - a)^2)`` with ``w = value_weight / mean |Q(s, a_pi)|``

    The defaults are those of TD3+BC (Fujimoto, Gu; NeurIPS 2021). GENTLE uses ``sampled_actions=True``,
    ``judge="smallest"`` and ``reward_scale=5``.

    The actor and the targets are updated every ``policy_delay`` updates: call ``before_update(n)`` before
    update ``n`` and update the targets with ``make_target_updater(rate)``. Without ``before_update``, they are
    updated every time. Actions must lie in [-1, 1].

    Args:
        actor_network, qvalue_network: context-conditioned networks, as made by
            :func:`~ctmrl_torchrl.modules.make_actor` and :func:`~ctmrl_torchrl.modules.make_qvalue`.
        gamma (float): discount factor.
        value_weight (float): weight of the normalized value relative to imitation; TorchRL's ``alpha``.
        policy_noise, noise_clip (float): scale and limit of the noise on the target actor's action.
        policy_delay (int), reward_scale (float), sampled_actions (bool), judge (str): see above.
        num_qvalue_nets (int): size of the critic ensemble.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"``; ``"none"`` keeps the batch shape and omits the
            two diagnostics.
        deactivate_vmap (bool): evaluate the critics sequentially, for networks that do not support vmap.

    Keys (see ``set_keys``); ``*`` is a batch of any shape:
        - ``action`` ``[*, actions]``
        - under ``"next"``: ``reward``, ``done`` and (optional) ``terminated``, each ``[*, 1]``
        - ``state_action_value``, ``[*, 1]``: the critic's output, under its out-key
        - all in-keys of the networks, at this step and under ``"next"``
        - ``("collector", "mask")`` (optional): excludes padding
        - ``priority`` (default ``"td_error"``) ``[*]`` is written, for prioritized replay

    Out: the losses above, ``behaviour_error`` (mean of ``(a_pi - a)^2``) and ``value_weight`` (w).

    Targets: ``target_actor_network_params`` and ``target_qvalue_network_params``.

    Raises:
        KeyError: if an entry is missing.
        ValueError: if an entry or a network's output has the wrong shape; for an unknown ``judge`` or
            ``reduction``; for sampled actions with an actor that has no distribution.

    Examples:
        >>> from ctmrl_torchrl.modules import make_actor, make_qvalue
        >>> sizes = dict(observation_dim=3, context_dim=4, action_dim=2)
        >>> loss = make_td3_bc_loss(make_actor(**sizes), make_qvalue(**sizes))
        >>> targets = loss.make_target_updater(0.005)
        >>> state = {"observation": torch.randn(6, 3), "task_context": torch.randn(6, 4)}
        >>> never = torch.zeros(6, 1, dtype=torch.bool)
        >>> outcome = {"reward": torch.randn(6, 1), "done": never, "terminated": never}
        >>> batch = {"action": torch.rand(6, 2), **state, "next": {**state, **outcome}}
        >>> sorted(loss(TensorDict(batch, [6])).keys())
        ['behaviour_error', 'loss_actor', 'loss_qvalue', 'value_weight']
    """
    noise = {"policy_noise": policy_noise, "noise_clip": noise_clip}
    require_weights("make_td3_bc_loss", value_weight=value_weight, **noise)
    loss = OfflineTD3BCLoss(
        actor_network,
        qvalue_network,
        gamma=gamma,
        reward_scale=reward_scale,
        policy_delay=policy_delay,
        sampled_actions=sampled_actions,
        judge=judge,
        alpha=value_weight,
        policy_noise=policy_noise,
        noise_clip=noise_clip,
        bounds=(-1.0, 1.0),
        num_qvalue_nets=num_qvalue_nets,
        loss_function="l2",
        reduction=known_reduction(reduction, "make_td3_bc_loss"),
        deactivate_vmap=deactivate_vmap,
    )
    loss.set_keys(state_action_value=loss.qvalue_network.out_keys[-1])
    # Created now rather than lazily, so that a new loss can load the state of a used one.
    return loss.make_value_estimator(ValueEstimators.TD0)


@POLICY_LOSSES.register("td3_bc")
@dataclass
class TD3BCConfig(PolicyLossConfig):
    """Configuration of TD3+BC; see :func:`make_td3_bc_loss`.

    Args:
        value_weight, policy_noise, noise_clip, reward_scale (float): see :func:`make_td3_bc_loss`.
        policy_delay (int): see :func:`make_td3_bc_loss`.
        sampled_actions (bool), judge (str): see :func:`make_td3_bc_loss`; GENTLE uses ``true`` and
            ``smallest``.

    Examples:
        >>> from ctmrl_torchrl.problem import Problem
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, statistics)
        >>> TD3BCConfig(hidden=[8], reward_scale=5.0).build(problem, 4).reward_scale
        5.0
    """

    name: str = "td3_bc"
    value_weight: float = ruled(2.5, POSITIVE)
    policy_noise: float = ruled(0.2, NOT_NEGATIVE)
    noise_clip: float = ruled(0.5, NOT_NEGATIVE)
    policy_delay: int = ruled(2, whole(1))
    reward_scale: float = ruled(1.0, POSITIVE)
    sampled_actions: bool = ruled(False, SWITCH)
    judge: str = ruled("first", among(*JUDGES))

    def build(self, problem: Problem, context_dim: int) -> OfflineTD3BCLoss:
        """Build the loss with its networks."""
        return make_td3_bc_loss(
            *actor_and_critic(self, problem, context_dim),
            gamma=problem.discount,
            value_weight=self.value_weight,
            policy_noise=self.policy_noise,
            noise_clip=self.noise_clip,
            policy_delay=self.policy_delay,
            reward_scale=self.reward_scale,
            sampled_actions=self.sampled_actions,
            judge=self.judge,
        )

    def target_update(self, loss: OfflineTD3BCLoss) -> DelayedSoftUpdate:
        """The updater of the target networks, which skips updates in which the actor does not learn."""
        return loss.make_target_updater(self.target_rate)
