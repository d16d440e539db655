"""BRAC-SAC: soft actor-critic with a state-value network and a dual-KL behaviour penalty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    dispatch,
)
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives.utils import _vmap_func

from ctmrl_torchrl.modules.policies import make_qvalue
from ctmrl_torchrl.objectives.checks import known_reduction
from ctmrl_torchrl.objectives.policy.action_distribution import magnitude, require_action, sample_and_score
from ctmrl_torchrl.objectives.policy.base import POLICY_LOSSES, PolicyLossConfig
from ctmrl_torchrl.objectives.policy.behaviour_divergence import dual_divergence, witness_penalty
from ctmrl_torchrl.objectives.policy.transitions import TransitionLoss
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import NOT_NEGATIVE, NUMBER, POSITIVE, SWITCH, ruled


class BRACSACLoss(TransitionLoss):
    """The lineage's offline policy loss: SAC with V and target V, optionally kept near the behaviour policy.

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

    Where the context has a gradient, ``loss_qvalue`` and the others reach it too; see
    :class:`~ctmrl_torchrl.objectives.MetaLoss`. Only the ratio of ``entropy_coefficient`` to ``reward_scale``
    shapes the optimal policy: the lineage's reward scale of 100 with coefficient 1 equals scale 1 with 0.01.

    Args:
        actor_network (ProbabilisticActor): reads ``observation`` and ``task_context``.
        qvalue_network (TensorDictModule): one critic; it is expanded to ``num_qvalue_nets`` independent ones
            (a list of as many critics is taken as it is).
        value_network (TensorDictModule): V.

    Keyword Args:
        gamma (float): discount factor. Defaults to 0.99.
        behaviour_critic (TensorDictModule, optional): C(s, a, c) of the dual divergence, reading the Q
            network's keys. ``None`` (default) means no behaviour penalty.
        num_qvalue_nets (int): Defaults to 2.
        reward_scale, entropy_coefficient (float): Default 1 and 0.01.
        regularisation (float): weight of the squared mean and log-scale of the action distribution. Defaults
            to 1e-5: the lineage's 1e-3 divided by its reward scale of 100.
        penalty_init, penalty_max, divergence_target (float): Default 50, 2000 and 0.05; the penalty weighs
            against Q, so these go with a reward scale as large as the lineage's (5).
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"``; the last keeps the shape of the batch and leaves
            the two diagnostics out.
        deactivate_vmap (bool): evaluate the critics one by one, for networks that vmap cannot handle.

    Keys (see ``set_keys``); ``*`` is a batch of any shape:
        - ``action`` ``[*, actions]``
        - under ``"next"``: ``reward``, ``done`` and (optional) ``terminated``, each ``[*, 1]``
        - ``state_value`` and ``state_action_value``, ``[*, 1]``: what the critics write; named after them
        - all that the networks read, and below ``"next"`` what the value network reads
        - ``("collector", "mask")`` (optional): padding to leave out, as in TorchRL's losses

    Out: the losses above, ``entropy`` (mean of ``-log pi``), and ``behaviour_divergence`` with a
    behaviour critic. The input is left as it was.

    Targets: ``target_value_network_params``, for ``SoftUpdate(loss, tau=...)``.

    ``torch.compile`` traces it without a break. With a behaviour critic, the compiled gradient of the actor
    weighs the divergence by the penalty after its update instead of before (AOT autograd reads the buffer
    in the backward pass); the losses themselves are the same.

    Raises:
        KeyError: if an entry is missing.
        ValueError: if an entry, or what a network writes, has another shape than said here; if the critics do
            not read the action; for an unknown ``reduction``.

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
    behaviour_critic: TensorDictModule | None
    behaviour_critic_params: TensorDictParams
    target_behaviour_critic_params: TensorDictParams

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        qvalue_network: TensorDictModuleBase | list[TensorDictModuleBase],
        value_network: TensorDictModuleBase,
        *,
        gamma: float = 0.99,
        behaviour_critic: TensorDictModuleBase | None = None,
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
        self.convert_to_functional(actor_network, "actor_network", create_target_params=False)
        self.convert_to_functional(
            qvalue_network, "qvalue_network", num_qvalue_nets, create_target_params=False
        )
        self.convert_to_functional(value_network, "value_network", create_target_params=True)
        if behaviour_critic is None:
            self.behaviour_critic = None
        else:
            self.convert_to_functional(behaviour_critic, "behaviour_critic", create_target_params=False)
        # Read by make_value_estimator, so that choosing another estimator keeps the discount.
        self.gamma = gamma
        self.reward_scale = reward_scale
        self.entropy_coefficient = entropy_coefficient
        self.regularisation = regularisation
        self.penalty_max = penalty_max
        self.divergence_target = divergence_target
        self.deactivate_vmap = deactivate_vmap
        self.register_buffer("penalty", torch.tensor(float(penalty_init)))
        self._make_vmap()
        # Before the value estimator, which insists on a value that the network writes.
        self.set_keys(
            state_value=self.value_network.out_keys[-1], state_action_value=self.qvalue_network.out_keys[-1]
        )
        self.make_value_estimator(self.default_value_estimator)
        self._set_in_keys()

    def _make_vmap(self) -> None:
        self._stacked_qvalue = _vmap_func(
            self.qvalue_network, (None, 0), randomness=self.vmap_randomness, pseudo_vmap=self.deactivate_vmap
        )

    def critics(self) -> list[TensorDictModuleBase]:
        """The Q network and, if there is one, the behaviour critic."""
        return [self.qvalue_network] + ([] if self.behaviour_critic is None else [self.behaviour_critic])

    def _set_in_keys(self) -> None:
        super()._set_in_keys()
        penalised = self.behaviour_critic is not None
        losses = ["loss_behaviour_critic"] if penalised else []
        diagnostics = ["entropy", "behaviour_divergence"] if penalised else ["entropy"]
        kept = [] if self.reduction == "none" else diagnostics
        self.out_keys = ["loss_actor", "loss_qvalue", "loss_value", *losses, *kept]

    @torch.no_grad()
    def _qvalue_target(self, tensordict: TensorDictBase) -> Tensor:
        reward_key = self._outcome_keys[0]
        scaled = tensordict.copy()
        scaled.set(reward_key, self.reward_scale * tensordict.get(reward_key))
        return self.value_estimator.value_estimate(
            scaled, target_params=self.target_value_network_params
        ).squeeze(-1)

    def _smallest_qvalue(self, tensordict: TensorDictBase, action: Tensor) -> Tensor:
        """min over critics of Q(s, a_pi), with gradient to the action alone."""
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
        """The divergence seen by the actor, and the loss of the behaviour critic."""
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
        """All losses from one batch."""
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
        diagnostics = {"entropy": -log_prob.detach().mean()}
        if self.behaviour_critic is not None:
            divergence, critic_terms = self._behaviour_terms(tensordict, action)
            loss_actor = loss_actor + self.penalty.clamp(0.0, self.penalty_max) * divergence
            out["loss_behaviour_critic"] = critic_terms
            diagnostics["behaviour_divergence"] = divergence.detach().mean()
            if self.training:
                self.penalty.add_(diagnostics["behaviour_divergence"] - self.divergence_target)
        out["loss_actor"] = loss_actor
        out = {name: self._reduce_loss(values, tensordict=tensordict) for name, values in out.items()}
        if self.reduction == "none":
            return TensorDict(out, batch_size=tensordict.batch_size)
        return TensorDict(out | diagnostics, [])


@POLICY_LOSSES.register("brac_sac")
@dataclass
class BRACSACConfig(PolicyLossConfig):
    """Configuration of :class:`BRACSACLoss`.

    Args:
        behaviour_penalty (bool): whether the dual-KL penalty is used. The lineage leaves it off on the
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
