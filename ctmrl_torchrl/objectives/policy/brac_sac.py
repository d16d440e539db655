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
from torchrl.objectives import LossModule, ValueEstimators
from torchrl.objectives.utils import _vmap_func, dispatch_value_estimator

from ctmrl_torchrl.modules.keys import read
from ctmrl_torchrl.modules.policies import make_qvalue
from ctmrl_torchrl.objectives.policy.base import PolicyLossConfig
from ctmrl_torchrl.objectives.policy.behaviour_divergence import dual_divergence, witness_penalty
from ctmrl_torchrl.problem import Problem


class BRACSACLoss(LossModule):
    """The lineage's offline policy loss: SAC with V and target V, optionally kept near the behaviour policy.

    - ``loss_qvalue``: both Q networks regress ``reward_scale * r + gamma * (1 - terminated) * V_target(s')``
    - ``loss_value``: V regresses ``min Q(s, a_pi) - entropy_coefficient * log pi(a_pi)``
    - ``loss_actor``: ``entropy_coefficient * log pi - min Q(s, a_pi) + penalty * D
      + regularisation * (mean(loc^2) + mean(log(scale)^2))``
    - ``loss_behaviour_critic`` (only with a ``behaviour_critic``): minus the dual divergence D, plus a
      penalty that confines its witness; the penalty coefficient follows ``D`` towards ``divergence_target``.

    Each loss reaches its own network only. Only the ratio of ``entropy_coefficient`` to ``reward_scale``
    shapes the optimal policy: the lineage's reward scale of 100 with coefficient 1 equals scale 1 with 0.01.

    Args:
        actor_network (ProbabilisticActor): reads ``observation`` and ``task_context``.
        qvalue_network (TensorDictModule): one critic; it is expanded to ``num_qvalue_nets`` independent ones.
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
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"``.

    Keys (see ``set_keys``): ``action``, ``reward``, ``done``, ``terminated`` (the last three under
    ``"next"``), ``state_value``, ``state_action_value``; batches of any shape.

    Out: the losses above, ``entropy`` (mean of ``-log pi``), and ``behaviour_divergence`` with a
    behaviour critic.
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
    default_value_estimator = ValueEstimators.TD0

    actor_network: ProbabilisticTensorDictSequential
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams
    qvalue_network: TensorDictModule
    qvalue_network_params: TensorDictParams
    target_qvalue_network_params: TensorDictParams
    value_network: TensorDictModule
    value_network_params: TensorDictParams
    target_value_network_params: TensorDictParams

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        qvalue_network: TensorDictModuleBase,
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
    ) -> None:
        super().__init__()
        self.convert_to_functional(actor_network, "actor_network", create_target_params=False)
        self.convert_to_functional(
            qvalue_network, "qvalue_network", num_qvalue_nets, create_target_params=False
        )
        self.convert_to_functional(value_network, "value_network", create_target_params=True)
        self.behaviour_critic = behaviour_critic
        # Read by make_value_estimator, so that choosing another estimator keeps the discount.
        self.gamma = gamma
        self.reward_scale = reward_scale
        self.entropy_coefficient = entropy_coefficient
        self.regularisation = regularisation
        self.penalty_max = penalty_max
        self.divergence_target = divergence_target
        self.reduction = reduction
        self.deactivate_vmap = False
        self.register_buffer("penalty", torch.tensor(float(penalty_init)))
        self._make_vmap()
        # Before the value estimator, which insists on a value that the network writes.
        self.set_keys(state_value=value_network.out_keys[-1], state_action_value=qvalue_network.out_keys[-1])
        self.make_value_estimator(self.default_value_estimator)
        self._set_in_keys()

    def _make_vmap(self) -> None:
        self._stacked_qvalue = _vmap_func(
            self.qvalue_network, (None, 0), randomness=self.vmap_randomness, pseudo_vmap=self.deactivate_vmap
        )

    def _set_in_keys(self) -> None:
        keys = self.tensor_keys
        self.in_keys = list(
            dict.fromkeys(
                [
                    keys.action,
                    ("next", keys.reward),
                    ("next", keys.done),
                    ("next", keys.terminated),
                    *self.actor_network.in_keys,
                    *(key for key in self.qvalue_network.in_keys if key != keys.action),
                    *self.value_network.in_keys,
                    *(
                        ("next", *((key,) if isinstance(key, str) else key))
                        for key in self.value_network.in_keys
                    ),
                ]
            )
        )
        self.out_keys = ["loss_actor", "loss_qvalue", "loss_value", "entropy"]
        if self.behaviour_critic is not None:
            self.out_keys += ["loss_behaviour_critic", "behaviour_divergence"]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        if self._value_estimator is not None:
            keys = self.tensor_keys
            self._value_estimator.set_keys(
                value=keys.state_value, reward=keys.reward, done=keys.done, terminated=keys.terminated
            )
        self._set_in_keys()

    def make_value_estimator(self, value_type: ValueEstimators | None = None, **hyperparams: float) -> None:
        """Choose how the target of Q is estimated: TD(0), TD(1) or TD(lambda); ``gamma=`` is the discount."""
        keys = self.tensor_keys
        dispatch_value_estimator(
            self,
            value_type or self.default_value_estimator,
            supported=(ValueEstimators.TD0, ValueEstimators.TD1, ValueEstimators.TDLambda),
            tensor_keys={
                "value_target": "value_target",
                "value": keys.state_value,
                "reward": keys.reward,
                "done": keys.done,
                "terminated": keys.terminated,
            },
            **hyperparams,
        )

    @torch.no_grad()
    def _qvalue_target(self, tensordict: TensorDictBase) -> Tensor:
        reward_key = ("next", self.tensor_keys.reward)
        scaled = tensordict.copy()
        scaled.set(reward_key, self.reward_scale * read(tensordict, reward_key, type(self).__name__))
        return self.value_estimator.value_estimate(
            scaled, target_params=self.target_value_network_params
        ).squeeze(-1)

    def _smallest_qvalue(self, tensordict: TensorDictBase, action: Tensor) -> Tensor:
        """min over critics of Q(s, a_pi), with gradient to the action alone."""
        batch = tensordict.select(*self.qvalue_network.in_keys, strict=False)
        batch.set(self.tensor_keys.action, action)
        stacked = self._stacked_qvalue(batch, self.qvalue_network_params.data)
        return stacked.get(self.tensor_keys.state_action_value).squeeze(-1).amin(0)

    def _witness(self, tensordict: TensorDictBase, action: Tensor, *, learn: bool) -> Tensor:
        batch = tensordict.select(*self.behaviour_critic.in_keys, strict=False)
        batch.set(self.tensor_keys.action, action)
        params = TensorDict.from_module(self.behaviour_critic)
        with (params if learn else params.data).to_module(self.behaviour_critic):
            return self.behaviour_critic(batch).get(self.behaviour_critic.out_keys[-1]).squeeze(-1)

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
        keys = self.tensor_keys
        with self.actor_network_params.to_module(self.actor_network):
            distribution = self.actor_network.get_dist(tensordict.select(*self.actor_network.in_keys))
        action = distribution.rsample()
        log_prob = distribution.log_prob(action)

        target = self._qvalue_target(tensordict)
        stacked = self._stacked_qvalue(
            tensordict.select(*self.qvalue_network.in_keys, strict=False), self.qvalue_network_params
        )
        qvalue_error = stacked.get(keys.state_action_value).squeeze(-1) - target
        loss_qvalue = qvalue_error.square().sum(0)

        qvalue = self._smallest_qvalue(tensordict, action)
        soft_value = (qvalue - self.entropy_coefficient * log_prob).detach()
        with self.value_network_params.to_module(self.value_network):
            value = self.value_network(tensordict.select(*self.value_network.in_keys)).get(keys.state_value)
        loss_value = (value.squeeze(-1) - soft_value).square()

        loc, scale = distribution.loc, distribution.scale
        spread = loc.square().mean(-1) + scale.log().square().mean(-1)
        loss_actor = self.entropy_coefficient * log_prob - qvalue + self.regularisation * spread
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


@dataclass
class BRACSACConfig(PolicyLossConfig):
    """Configuration of :class:`BRACSACLoss`.

    Args:
        behaviour_penalty (bool): whether the dual-KL penalty is used. The lineage leaves it off on the
            point robots.
    """

    name: str = "brac_sac"
    reward_scale: float = 1.0
    entropy_coefficient: float = 0.01
    regularisation: float = 1e-5
    behaviour_penalty: bool = False
    penalty_init: float = 50.0
    penalty_max: float = 2000.0
    divergence_target: float = 0.05

    def build(self, problem: Problem, context_dim: int) -> BRACSACLoss:
        """Build the loss with its networks."""
        behaviour_critic = None
        if self.behaviour_penalty:
            behaviour_critic = make_qvalue(
                observation_dim=problem.observation_dim,
                context_dim=context_dim,
                action_dim=problem.action_dim,
                hidden=self.hidden,
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
