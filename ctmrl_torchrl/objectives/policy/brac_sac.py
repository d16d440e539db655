"""BRAC-SAC: soft actor-critic with a state-value network and a dual-KL behavior penalty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
)
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives.utils import _vmap_func

from ctmrl_torchrl.modules.policies import make_qvalue
from ctmrl_torchrl.objectives.checks import known_reduction, require_weights
from ctmrl_torchrl.objectives.policy.action_distribution import magnitude, require_action, sample_and_score
from ctmrl_torchrl.objectives.policy.base import POLICY_LOSSES, PolicyLossConfig
from ctmrl_torchrl.objectives.policy.behaviour_divergence import dual_divergence, witness_penalty
from ctmrl_torchrl.objectives.policy.transitions import TransitionLoss
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import NOT_NEGATIVE, NUMBER, POSITIVE, SWITCH, ruled
from ctmrl_torchrl.typed import dispatch


class BRACSACLoss(TransitionLoss):
    """Offline policy loss of FOCAL and its successors: SAC with V and target V, and an optional behavior penalty.

    - ``loss_qvalue``: both Q networks regress ``reward_scale * r + gamma * (1 - terminated) * V_target(s')``
    - ``loss_value``: V regresses ``min Q(s, a_pi) - entropy_coefficient * log pi(a_pi)``
    - ``loss_actor``: ``entropy_coefficient * log pi - min Q(s, a_pi) + penalty * D
      + regularisation * (mean(loc^2) + mean(log(scale)^2))``
    - ``loss_behaviour_critic`` (only with a ``behaviour_critic``): minus the dual divergence D, plus a
      penalty that confines its witness; the penalty coefficient follows ``D`` towards ``divergence_target``.

    Gradients:

    =========================  =========================
    term                       reaches
    =========================  =========================
    ``loss_qvalue``            the Q networks
    ``loss_value``             V
    ``loss_actor``             the actor
    ``loss_behaviour_critic``  the behavior critic
    =========================  =========================

    If the context requires gradients, all terms reach it too; see
    :class:`~ctmrl_torchrl.objectives.MetaLoss`. The optimal policy depends only on the ratio of
    ``entropy_coefficient`` to ``reward_scale``: the published reward scale of 100 with coefficient 1 is
    equivalent to scale 1 with 0.01.

    Args:
        actor_network (ProbabilisticActor): reads ``observation`` and ``task_context``.
        qvalue_network (TensorDictModule): one critic, which is expanded to ``num_qvalue_nets`` independent
            critics; or a list of that many critics.
        value_network (TensorDictModule): V.

    Keyword Args:
        gamma (float): discount factor. Defaults to 0.99.
        behaviour_critic (TensorDictModule, optional): C(s, a, c) of the dual divergence, reading the Q
            network's keys. ``None`` (default) disables the behavior penalty.
        num_qvalue_nets (int): Defaults to 2.
        reward_scale (float): factor of the rewards. Defaults to 1. entropy_coefficient (float): weight of the
            entropy. Defaults to 0.01.
        regularisation (float): weight of the squared mean and log-scale of the action distribution. Defaults
            to 1e-5: the published 1e-3 divided by the published reward scale of 100.
        penalty_init, penalty_max (float): first and largest weight of the penalty. Default 50 and 2000. It is
            weighed against Q, so these values require the published reward scale (5).
        divergence_target (float): divergence at which the weight stays as it is. Defaults to 0.05.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"``; ``"none"`` keeps the batch shape and omits the
            two diagnostics.
        deactivate_vmap (bool): evaluate the critics sequentially, for networks that do not support vmap.

    Keys (see ``set_keys``); ``*`` is a batch of any shape:
        - ``action`` ``[*, actions]``
        - under ``"next"``: ``reward``, ``done`` and (optional) ``terminated``, each ``[*, 1]``
        - ``state_value`` and ``state_action_value``, ``[*, 1]``: the critics' outputs, under their out-keys
        - all in-keys of the networks, and those of the value network under ``"next"``
        - ``("collector", "mask")`` (optional): excludes padding, as in TorchRL's losses

    Out: the losses above, ``entropy`` (mean of ``-log pi``), and ``behaviour_divergence`` with a
    behavior critic. The input is not modified.

    Targets: ``target_value_network_params``, for ``SoftUpdate(loss, tau=...)``.

    ``torch.compile`` traces it without graph breaks. With a behavior critic, the compiled actor gradient
    weights the divergence with the penalty after its update instead of before, because AOT autograd reads
    the buffer in the backward pass. The loss values are the same.

    Raises:
        KeyError: if an entry is missing.
        ValueError: if an entry or a network's output has the wrong shape; if the critics do not read the
            action; for an unknown ``reduction``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.objectives import SoftUpdate
        >>> from ctmrl_torchrl.modules import make_actor, make_qvalue, make_value
        >>> sizes = dict(observation_dim=3, context_dim=4)
        >>> loss = BRACSACLoss(
        ...     make_actor(action_dim=2, **sizes), make_qvalue(action_dim=2, **sizes), make_value(**sizes)
        ... )
        >>> targets = SoftUpdate(loss, tau=0.005)
        >>> state = {"observation": torch.randn(6, 3), "task_context": torch.randn(6, 4)}
        >>> never = torch.zeros(6, 1, dtype=torch.bool)
        >>> outcome = {"reward": torch.randn(6, 1), "done": never, "terminated": never}
        >>> batch = {"action": torch.rand(6, 2), **state, "next": {**state, **outcome}}
        >>> sorted(loss(TensorDict(batch, [6])).keys())
        ['entropy', 'loss_actor', 'loss_qvalue', 'loss_value']
    """

    curve_titles = {"loss_behaviour_critic": "Loss of the behavior critic"}
    #: whether the caller adapts the penalty's weight, by calling side_effects after forward
    side_effects_deferred: bool = False

    @dataclass
    class _AcceptedKeys:
        action: NestedKey = "action"
        state_value: NestedKey = "state_value"
        state_action_value: NestedKey = "state_action_value"
        reward: NestedKey = "reward"
        done: NestedKey = "done"
        terminated: NestedKey = "terminated"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    actor_network: ProbabilisticTensorDictSequential
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams
    qvalue_network: TensorDictModule
    qvalue_network_params: TensorDictParams
    target_qvalue_network_params: TensorDictParams
    value_network: TensorDictModule
    value_network_params: TensorDictParams
    target_value_network_params: TensorDictParams
    behaviour_critic: Any
    penalty: Tensor
    behaviour_critic_params: TensorDictParams
    target_behaviour_critic_params: TensorDictParams

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        qvalue_network: Any,
        value_network: Any,
        *,
        gamma: float = 0.99,
        behaviour_critic: Any = None,
        num_qvalue_nets: int = 2,
        reward_scale: float = 1.0,
        entropy_coefficient: float = 0.01,
        regularisation: float = 1e-5,
        penalty_init: float = 50.0,
        penalty_max: float = 2000.0,
        divergence_target: float = 0.05,
        reduction: str = "mean",
        deactivate_vmap: bool = False,
    ) -> None:
        super().__init__()
        self.reduction = known_reduction(reduction, type(self).__name__)
        require_weights(
            type(self).__name__,
            entropy_coefficient=entropy_coefficient,
            regularisation=regularisation,
            penalty_max=penalty_max,
        )
        self.convert_to_functional(actor_network, "actor_network", create_target_params=False)
        self.convert_to_functional(
            qvalue_network, "qvalue_network", num_qvalue_nets, create_target_params=False
        )
        self.convert_to_functional(value_network, "value_network", create_target_params=True)
        if behaviour_critic is None:
            self.behaviour_critic = None
        else:
            self.convert_to_functional(behaviour_critic, "behaviour_critic", create_target_params=False)
        # Read by make_value_estimator, so that another estimator keeps the discount.
        self.gamma = gamma
        self.reward_scale = reward_scale
        self.entropy_coefficient = entropy_coefficient
        self.regularisation = regularisation
        self.penalty_init = float(penalty_init)
        self.penalty_max = penalty_max
        self.divergence_target = divergence_target
        self.deactivate_vmap = deactivate_vmap
        self.register_buffer("penalty", torch.tensor(self.penalty_init))
        self._make_vmap()
        # Set before the value estimator, which requires a value key that the network writes.
        self.set_keys(
            state_value=self.value_network.out_keys[-1], state_action_value=self.qvalue_network.out_keys[-1]
        )
        self.make_value_estimator(self.default_value_estimator)
        self._set_in_keys()
        penalised = self.behaviour_critic is not None
        losses = ["loss_behaviour_critic"] if penalised else []
        diagnostics = ["entropy", "behaviour_divergence"] if penalised else ["entropy"]
        kept = [] if self.reduction == "none" else diagnostics
        self.out_keys = ["loss_actor", "loss_qvalue", "loss_value", *losses, *kept]

    def _make_vmap(self) -> None:
        self._stacked_qvalue = _vmap_func(
            self.qvalue_network, (None, 0), randomness=self.vmap_randomness, pseudo_vmap=self.deactivate_vmap
        )

    def critics(self) -> list[TensorDictModuleBase]:
        """The Q network and, if present, the behavior critic."""
        return [self.qvalue_network, *([] if self.behaviour_critic is None else [self.behaviour_critic])]

    @torch.no_grad()
    def _qvalue_target(self, tensordict: TensorDictBase) -> Tensor:
        reward_key = self._outcome_keys[0]
        scaled = tensordict.copy()
        scaled.set(reward_key, self.reward_scale * tensordict.get(reward_key))
        return self.value_estimator.value_estimate(
            scaled, target_params=self.target_value_network_params
        ).squeeze(-1)

    def _smallest_qvalue(self, tensordict: TensorDictBase, action: Tensor) -> Tensor:
        """min over critics of Q(s, a_pi), with gradient only to the action."""
        batch = tensordict.select(*self.qvalue_network.in_keys, strict=False)
        batch.set(self.tensor_keys.action, action)
        stacked = self._stacked_qvalue(batch, self.qvalue_network_params.detach())
        return stacked.get(self.tensor_keys.state_action_value).squeeze(-1).amin(0)

    def _witness(self, tensordict: TensorDictBase, action: Tensor, *, learn: bool) -> Tensor:
        batch = tensordict.select(*self.behaviour_critic.in_keys, strict=False)
        batch.set(self.tensor_keys.action, action)
        params = self.behaviour_critic_params if learn else self.behaviour_critic_params.detach()
        with params.to_module(self.behaviour_critic, preserve_module_state=False):
            written = self.behaviour_critic(batch)
        return self._column(written, self.behaviour_critic.out_keys[-1], tuple(action.shape[:-1]))

    def _behaviour_terms(self, tensordict: TensorDictBase, action: Tensor) -> tuple[Tensor, Tensor]:
        """The divergence for the actor and the loss of the behavior critic."""
        data_action = tensordict.get(self.tensor_keys.action)
        fixed = action.detach()
        between = fixed + torch.rand_like(fixed[..., :1]) * (data_action - fixed)
        divergence = dual_divergence(
            self._witness(tensordict, fixed, learn=True), self._witness(tensordict, data_action, learn=True)
        )
        critic_terms = 5.0 * witness_penalty(self._witness(tensordict, between, learn=True)) - divergence
        for_actor = dual_divergence(
            self._witness(tensordict, action, learn=False),
            self._witness(tensordict, data_action, learn=False),
        )
        return for_actor, critic_terms

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute all losses of one batch and, in training mode, adapt the penalty's weight."""
        losses, divergence = self._losses(tensordict)
        if divergence is not None and not self.side_effects_deferred:
            self._adapt_penalty(divergence)
        return losses

    def reset_parameters_recursive(self, *args: Any, **kwargs: Any) -> None:
        """Reinitialize all networks and the weight of the penalty."""
        super().reset_parameters_recursive(*args, **kwargs)
        self.penalty.fill_(self.penalty_init)

    def _apply(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Move and convert as usual; the penalty's weight keeps single precision, because it sums small steps."""
        before = self.penalty
        super()._apply(fn)
        if torch.finfo(self.penalty.dtype).bits < 32:
            self.penalty = before.to(self.penalty.device)
        return self

    def side_effects(self, losses: TensorDictBase) -> None:
        """Adapt the penalty's weight to the divergence among the losses, which a deferring caller does itself."""
        divergence = losses.get("behaviour_divergence", None)
        if divergence is not None:
            self._adapt_penalty(divergence)
        elif self.behaviour_critic is not None and self.training:
            raise ValueError(
                f"{type(self).__name__}: the weight of the penalty follows behaviour_divergence, which is not "
                "among the losses; include it in select_out_keys, and do not use reduction='none' while the "
                "critic teaches the encoder."
            )

    def _adapt_penalty(self, divergence: Tensor) -> None:
        if self.training:
            self.penalty.add_(divergence - self.divergence_target)

    def _losses(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, Tensor | None]:
        """The losses, and the mean divergence from the behavior if it is estimated."""
        keys, lead = self.tensor_keys, self._require_transitions(tensordict)
        with self.actor_network_params.to_module(self.actor_network, preserve_module_state=False):
            distribution = self.actor_network.get_dist(tensordict.select(*self.actor_network.in_keys))
        action, log_prob = sample_and_score(distribution)
        require_action(
            action, log_prob, tensordict.get(keys.action), key=keys.action, reader=type(self).__name__
        )

        with self.value_network_params.to_module(self.value_network, preserve_module_state=False):
            written = self.value_network(tensordict.select(*self.value_network.in_keys))
        value = self._column(written, keys.state_value, lead)
        target = self._qvalue_target(tensordict)
        stacked = self._stacked_qvalue(
            tensordict.select(*self.qvalue_network.in_keys), self.qvalue_network_params
        )
        qvalue_error = self._column(stacked, keys.state_action_value, ("critics", *lead)) - target
        loss_qvalue = qvalue_error.square().sum(0)

        qvalue = self._smallest_qvalue(tensordict, action)
        soft_value = (qvalue - self.entropy_coefficient * log_prob).detach()
        loss_value = (value - soft_value).square()

        loss_actor = self.entropy_coefficient * log_prob - qvalue
        if self.regularisation:
            loss_actor = loss_actor + self.regularisation * magnitude(distribution)
        out = {"loss_qvalue": loss_qvalue, "loss_value": loss_value}
        diagnostics = {"entropy": -log_prob.detach()}
        if self.behaviour_critic is not None:
            divergence, critic_terms = self._behaviour_terms(tensordict, action)
            loss_actor = loss_actor + self.penalty.clamp(0.0, self.penalty_max) * divergence
            out["loss_behaviour_critic"] = critic_terms
            diagnostics["behaviour_divergence"] = divergence.detach()
        out["loss_actor"] = loss_actor
        out = {name: self._reduce_loss(values, tensordict=tensordict) for name, values in out.items()}
        means = {
            name: self._reduce_loss(values, tensordict=tensordict, reduction="mean")
            for name, values in diagnostics.items()
        }
        if self.reduction == "none":
            return TensorDict(out, batch_size=tensordict.batch_size), means.get("behaviour_divergence")
        return TensorDict(out | means, []), means.get("behaviour_divergence")


@POLICY_LOSSES.register("brac_sac")
@dataclass
class BRACSACConfig(PolicyLossConfig):
    """Configuration of :class:`BRACSACLoss`.

    Args:
        behaviour_penalty (bool): whether to use the dual-KL penalty. The published code disables it on the
            point robots.

    Examples:
        >>> import torch
        >>> from ctmrl_torchrl.problem import Problem
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, statistics)
        >>> BRACSACConfig(hidden=[8], reward_scale=5.0).build(problem, 4).reward_scale
        5.0
    """

    name: str = "brac_sac"
    reward_scale: float = ruled(1.0, POSITIVE)
    entropy_coefficient: float = ruled(0.01, NOT_NEGATIVE)
    regularisation: float = ruled(1e-5, NOT_NEGATIVE)
    behaviour_penalty: bool = ruled(False, SWITCH)
    penalty_init: float = ruled(50.0, NOT_NEGATIVE)
    penalty_max: float = ruled(2000.0, NOT_NEGATIVE)
    divergence_target: float = ruled(0.05, NUMBER)

    def build(self, problem: Problem, context_dim: int) -> BRACSACLoss:
        """Build the loss with its networks."""
        behaviour_critic = None
        if self.behaviour_penalty:
            behaviour_critic = make_qvalue(
                **self.network_arguments(problem, context_dim),
                action_dim=problem.action_dim,
                out_key="behaviour_witness",
            )
        return BRACSACLoss(
            *self.networks(problem, context_dim),
            gamma=problem.discount,
            behaviour_critic=behaviour_critic,
            reward_scale=self.reward_scale,
            entropy_coefficient=self.entropy_coefficient,
            regularisation=self.regularisation,
            penalty_init=self.penalty_init,
            penalty_max=self.penalty_max,
            divergence_target=self.divergence_target,
        )
