"""Soft actor-critic: TorchRL's loss on (observation, task context), without offline regularization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torch import Tensor
from torchrl.objectives import SACLoss, ValueEstimators

from ctmrl_torchrl.objectives.checks import known_reduction
from ctmrl_torchrl.objectives.policy.action_distribution import require_action, sample_and_score
from ctmrl_torchrl.objectives.policy.base import POLICY_LOSSES, PolicyLossConfig
from ctmrl_torchrl.objectives.policy.target_critics import TargetCriticLoss, actor_and_critic
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import NOT_NEGATIVE, NUMBER, POSITIVE, SWITCH, or_none, require, ruled
from ctmrl_torchrl.typed import dispatch


class OfflineSACLoss(TargetCriticLoss, SACLoss):
    """``torchrl.objectives.SACLoss`` with identical loss values and the guarantees of this library's losses.

    Additional guarantees: only the priority is written to the input; a fixed temperature has no loss and may
    be 0; rewards may be scaled; only ``loss_qvalue`` has a gradient to the batch; ``in_keys`` are complete and
    ordered; errors name the wrong entry.

    Args:
        networks: actor and critic (or list of critics).

    Keyword Args:
        gamma (float): discount factor.
        reward_scale (float): factor on rewards.
        temperature (float): weight of the entropy; the initial value if it is learned.
        options: other keyword arguments of ``SACLoss``.

    Keys, outputs, targets and errors: see :func:`make_sac_loss`.

    Examples:
        >>> from ctmrl_torchrl.modules import make_actor, make_qvalue
        >>> sizes = dict(observation_dim=3, context_dim=4, action_dim=2)
        >>> loss = OfflineSACLoss(
        ...     make_actor(**sizes), make_qvalue(**sizes), gamma=0.9, fixed_alpha=True, target_entropy=-2.0
        ... )
        >>> loss.out_keys
        ['loss_actor', 'loss_qvalue', 'alpha', 'entropy']
    """

    alpha_init: Tensor
    log_alpha: Tensor

    def __init__(
        self,
        *networks: Any,
        gamma: float,
        reward_scale: float = 1.0,
        temperature: float = 1.0,
        **options: Any,
    ) -> None:
        learned = not options.get("fixed_alpha", False)
        if temperature < 0 or (learned and temperature == 0):
            raise ValueError(
                f"{type(self).__name__}: temperature={temperature!r}; allowed is a number above 0, or 0 "
                "if it is not learned."
            )
        super().__init__(*networks, alpha_init=temperature or 1.0, **options)
        if temperature == 0:
            self.alpha_init.zero_()
            self.log_alpha.fill_(-math.inf)
        # Read by make_value_estimator, so that another estimator keeps the discount.
        self.gamma = gamma
        self.reward_scale = reward_scale
        kept = [] if self.reduction == "none" else ["alpha", "entropy"]
        self.out_keys = ["loss_actor", "loss_qvalue", *(["loss_alpha"] if learned else []), *kept]
        self._set_in_keys()

    def reset_parameters_recursive(self) -> None:
        """Reinitialize all parameters and reset a learned temperature."""
        super().reset_parameters_recursive()
        self.log_alpha.data.copy_(self.alpha_init.log())

    def _sample(self, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
        with self.actor_network_params.to_module(self.actor_network, preserve_module_state=False):
            return sample_and_score(self.actor_network.get_dist(batch))

    @torch.no_grad()
    def _next_value(self, tensordict: TensorDictBase, lead: tuple[int, ...]) -> Tensor:
        """``min Q_target(s', a') - alpha * log pi(a')`` with an action of the current actor."""
        following = tensordict.get("next")
        batch = TensorDict(
            {key: following.get(key) for key in self.actor_network.in_keys}, tensordict.batch_size
        )
        action, log_prob = self._sample(batch)
        judged = self._with_action(following, action)
        values = self._stacked_values(judged, self.target_qvalue_network_params, lead)
        return values.amin(0) - self._alpha * log_prob

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute all losses of one batch."""
        keys, lead = self.tensor_keys, self._require_transitions(tensordict)
        loss_qvalue, errors = self._regress_critics(tensordict, self._next_value(tensordict, lead), lead)
        tensordict.set(keys.priority, errors.sqrt().amax(0))
        batch = tensordict.detach()
        action, log_prob = self._sample(batch.select(*self.actor_network.in_keys))
        require_action(
            action, log_prob, tensordict.get(keys.action), key=keys.action, reader=type(self).__name__
        )
        judged = self._with_action(batch, action)
        value = self._stacked_values(judged, self.qvalue_network_params.detach(), lead).amin(0)
        out = {"loss_actor": self._alpha * log_prob - value, "loss_qvalue": loss_qvalue}
        if not self.fixed_alpha:
            out["loss_alpha"] = self.alpha_loss(log_prob.detach())
        out = {name: self._reduce_loss(values, tensordict=tensordict) for name, values in out.items()}
        if self.reduction == "none":
            return TensorDict(out, batch_size=tensordict.batch_size)
        entropy = self._reduce_loss(-log_prob.detach(), tensordict=tensordict, reduction="mean")
        return TensorDict(out | {"alpha": self._alpha, "entropy": entropy}, [])


def make_sac_loss(
    actor_network: ProbabilisticTensorDictSequential,
    qvalue_network: TensorDictModuleBase | list[TensorDictModuleBase],
    *,
    gamma: float = 0.99,
    temperature: float = 0.2,
    learned_temperature: bool = False,
    target_entropy: float | None = None,
    reward_scale: float = 1.0,
    num_qvalue_nets: int = 2,
    reduction: str = "mean",
    deactivate_vmap: bool = False,
) -> OfflineSACLoss:
    """Build ``torchrl.objectives.SACLoss`` with squared errors and an initialized value estimator.

    - ``loss_qvalue``: every critic regresses ``reward_scale * r + gamma * (1 - terminated) * (min
      Q_target(s', a') - alpha * log pi(a'))`` with ``a'`` sampled from the actor
    - ``loss_actor``: ``alpha * log pi(a_pi) - min Q(s, a_pi)``
    - ``loss_alpha`` (only with a learned temperature): ``-log(alpha) * (log pi(a_pi) + target_entropy)``

    Nothing constrains the policy to the data, so it needs diverse data such as replay buffers (CORRO, UNICORN).

    Args:
        actor_network, qvalue_network: context-conditioned networks, as made by
            :func:`~ctmrl_torchrl.modules.make_actor` and :func:`~ctmrl_torchrl.modules.make_qvalue`.
        gamma (float): discount factor.
        temperature (float): alpha, the (initial) weight of the entropy; 0 disables the entropy term.
        learned_temperature (bool): whether to tune alpha towards the target entropy.
        target_entropy (float, optional): required for a learned temperature.
        reward_scale (float): factor on rewards.
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

    Out: the losses above, ``alpha`` and ``entropy`` (mean of ``-log pi``).

    Targets: ``target_qvalue_network_params``, for ``SoftUpdate(loss, tau=...)``.

    Raises:
        KeyError: if an entry is missing.
        ValueError: if an entry or a network's output has the wrong shape; for a temperature below 0, or of 0
            if it is learned; for a learned temperature without a target entropy; for an
            unknown ``reduction``.

    Examples:
        >>> from torchrl.objectives import SoftUpdate
        >>> from ctmrl_torchrl.modules import make_actor, make_qvalue
        >>> sizes = dict(observation_dim=3, context_dim=4, action_dim=2)
        >>> loss = make_sac_loss(make_actor(**sizes), make_qvalue(**sizes))
        >>> targets = SoftUpdate(loss, tau=0.005)
        >>> state = {"observation": torch.randn(6, 3), "task_context": torch.randn(6, 4)}
        >>> never = torch.zeros(6, 1, dtype=torch.bool)
        >>> outcome = {"reward": torch.randn(6, 1), "done": never, "terminated": never}
        >>> batch = {"action": torch.rand(6, 2), **state, "next": {**state, **outcome}}
        >>> sorted(loss(TensorDict(batch, [6])).keys())
        ['alpha', 'entropy', 'loss_actor', 'loss_qvalue']
    """
    if learned_temperature and target_entropy is None:
        raise ValueError("make_sac_loss: a learned temperature needs target_entropy, e.g. -action_dim.")
    reduction = known_reduction(reduction, "make_sac_loss")
    loss = OfflineSACLoss(
        actor_network,
        qvalue_network,
        gamma=gamma,
        reward_scale=reward_scale,
        temperature=temperature,
        fixed_alpha=not learned_temperature,
        target_entropy=0.0 if target_entropy is None else float(target_entropy),
        num_qvalue_nets=num_qvalue_nets,
        loss_function="l2",
        reduction=reduction,
        scalar_output_mode="exclude" if reduction == "none" else None,
        deactivate_vmap=deactivate_vmap,
    )
    loss.set_keys(state_action_value=loss.qvalue_network.out_keys[-1])
    # Created now rather than lazily, so that a new loss can load the state of a used one.
    _ = loss.target_entropy  # creates the buffer, which a state to load may contain
    return loss.make_value_estimator(ValueEstimators.TD0)


@POLICY_LOSSES.register("sac")
@dataclass
class SACConfig(PolicyLossConfig):
    """Configuration of soft actor-critic; see :func:`make_sac_loss`.

    Args:
        temperature, reward_scale (float): see :func:`make_sac_loss`.
        learned_temperature (bool): see :func:`make_sac_loss`.
        target_entropy (float or None): see :func:`make_sac_loss`; None means minus the action dimension.

    Examples:
        >>> from ctmrl_torchrl.problem import Problem
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, statistics)
        >>> SACConfig(hidden=[8], learned_temperature=True).build(problem, 4).target_entropy.item()
        -1.0
    """

    name: str = "sac"
    temperature: float = ruled(0.2, NOT_NEGATIVE)
    learned_temperature: bool = ruled(False, SWITCH)
    target_entropy: float | None = ruled(None, or_none(NUMBER))
    reward_scale: float = ruled(1.0, POSITIVE)

    def check(self) -> None:
        """Check that a learned temperature does not start at 0.

        Raises:
            ConfigError: if it does.
        """
        require(
            self.temperature > 0 or not self.learned_temperature,
            "policy_loss.temperature",
            self.temperature,
            "a positive number if policy_loss.learned_temperature is true",
        )

    def build(self, problem: Problem, context_dim: int) -> OfflineSACLoss:
        """Build the loss with its networks."""
        entropy = -float(problem.action_dim) if self.target_entropy is None else self.target_entropy
        return make_sac_loss(
            *actor_and_critic(self, problem, context_dim),
            gamma=problem.discount,
            temperature=self.temperature,
            learned_temperature=self.learned_temperature,
            target_entropy=entropy,
            reward_scale=self.reward_scale,
        )
