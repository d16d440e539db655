"""Implicit Q-learning: TorchRL's loss with this library's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.objectives import IQLLoss, ValueEstimators
from torchrl.objectives.utils import distance_loss

from ctmrl_torchrl.modules.standardise import Standardise, Statistics
from ctmrl_torchrl.objectives.checks import known_reduction
from ctmrl_torchrl.objectives.policy.base import POLICY_LOSSES, PolicyLossConfig
from ctmrl_torchrl.objectives.policy.transitions import TransitionLoss
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import BETWEEN_ZERO_AND_ONE, POSITIVE, among, ruled
from ctmrl_torchrl.typed import dispatch

#: choices of ``policy_loss.rewards``
REWARDS = ("raw", "scaled", "standardised")


class OfflineIQLLoss(TransitionLoss, IQLLoss):
    """``torchrl.objectives.IQLLoss`` with identical loss values and the guarantees of this library's losses.

    Additional guarantees: only the priority is written to the input; critics may read keys that the actor does
    not read; ``loss_qvalue`` excludes padding like the other terms; ``in_keys`` are complete, flat and in a fixed
    order; another value estimator keeps the discount; errors name missing or misshapen entries.

    Args:
        networks: actor, critic (or list of critics), and value network.

    Keyword Args:
        gamma (float): discount factor.
        reward_statistics (Statistics, optional): mean and standard deviation of the reward, ``[1]`` each; the
            critics learn from the standardized reward.
        options: keyword arguments of ``IQLLoss``.

    Keys, outputs, targets and errors: see :func:`make_iql_loss`.

    Examples:
        >>> from ctmrl_torchrl.modules import make_actor, make_qvalue, make_value
        >>> sizes = dict(observation_dim=3, context_dim=4)
        >>> loss = OfflineIQLLoss(
        ...     make_actor(action_dim=2, **sizes), make_qvalue(action_dim=2, **sizes), make_value(**sizes),
        ...     gamma=0.9,
        ... )
        >>> round(loss.make_value_estimator("td1").value_estimator.gamma.item(), 2)
        0.9
    """

    _vmap_qvalue_networkN0: Any
    value_field = "value"
    out_keys: list[NestedKey] = ["loss_actor", "loss_qvalue", "loss_value", "entropy"]

    def __init__(
        self,
        *networks: Any,
        gamma: float,
        reward_statistics: Statistics | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*networks, **options)
        self.standardise_reward = (
            nn.Identity() if reward_statistics is None else Standardise(*reward_statistics)
        )
        # Read by make_value_estimator, so that another estimator keeps the discount.
        self.gamma = gamma
        if self.reduction == "none" and self.scalar_output_mode == "exclude":
            self.out_keys = self.out_keys[:3]
        self._set_in_keys()

    def qvalue_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Regression of all critics to ``r + gamma * (1 - terminated) * V(s')``."""
        reward_key, seen = self._outcome_keys[0], tensordict.copy()
        seen.set(reward_key, self.standardise_reward(tensordict.get(reward_key)))
        target = self.value_estimator.value_estimate(
            seen, target_params=self.target_value_network_params
        ).squeeze(-1)
        stacked = self._vmap_qvalue_networkN0(
            tensordict.select(*self.qvalue_network.in_keys), self.qvalue_network_params
        )
        values = self._column(stacked, self.tensor_keys.state_action_value, ("critics", *target.shape))
        error = distance_loss(values, target.expand_as(values), loss_function=self.loss_function).sum(0)
        metadata = {"td_error": (values - target).square().detach()}
        return self._reduce_loss(error, tensordict=tensordict), metadata

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute all losses of one batch."""
        self._require_transitions(tensordict)
        work = tensordict.copy()
        out = IQLLoss.forward(self, work)  # super() would run LossModule's wrapper
        tensordict.set(self.tensor_keys.priority, work.get(self.tensor_keys.priority))
        if "entropy" in out.keys():  # noqa: SIM118 (IQLLoss averages over padding, too)
            information = -work.get(self.tensor_keys.log_prob)
            entropy = self._reduce_loss(information, tensordict=tensordict, reduction="mean")
            if out.batch_dims:  # without reduction, a number has no place among the batch's entries
                out.set_non_tensor("entropy", entropy)
            else:
                out.set("entropy", entropy)
        return out


def make_iql_loss(
    actor_network: TensorDictModuleBase,
    qvalue_network: TensorDictModuleBase | list[TensorDictModuleBase],
    value_network: TensorDictModuleBase,
    *,
    gamma: float = 0.99,
    expectile: float = 0.8,
    temperature: float = 10.0,
    num_qvalue_nets: int = 2,
    reward_statistics: Statistics | None = None,
    reduction: str = "mean",
    deactivate_vmap: bool = False,
) -> OfflineIQLLoss:
    """Build ``torchrl.objectives.IQLLoss`` with squared errors and an initialized value estimator.

    - ``loss_qvalue``: every critic regresses ``r + gamma * (1 - terminated) * V(s')``
    - ``loss_value``: V regresses the upper ``expectile`` of ``min Q_target(s, a)``
    - ``loss_actor``: ``-min(exp(temperature * (min Q_target - V)), 100) * log pi(a)``

    Each loss reaches only its own network.

    Args:
        actor_network, qvalue_network, value_network: context-conditioned networks, as made by
            :func:`~ctmrl_torchrl.modules.make_actor` and related functions.
        gamma (float): discount factor.
        expectile (float): the expectile of the value regression, in (0.5, 1).
        temperature (float): inverse temperature of the advantage weights.
        num_qvalue_nets (int): size of the critic ensemble.
        reward_statistics (Statistics, optional): mean and standard deviation of the reward, ``[1]`` each, by
            which it is standardized for the critics. Values then stay near zero instead of growing to the
            size of a return, so their error does not hide the advantages. A nonzero mean changes the optimal
            policy if episodes can end early.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"``; ``"none"`` keeps the batch shape and omits
            ``entropy``.
        deactivate_vmap (bool): evaluate the critics sequentially, for networks that do not support vmap.

    Keys (see ``set_keys``); ``*`` is a batch of any shape:
        - ``action`` ``[*, actions]``
        - under ``"next"``: ``reward``, ``done`` and (optional) ``terminated``, each ``[*, 1]``
        - ``value`` and ``state_action_value``, ``[*, 1]``: the critics' outputs, under their out-keys
        - all in-keys of the networks, and those of the value network under ``"next"``
        - ``("collector", "mask")`` (optional): excludes padding
        - ``priority`` (default ``"td_error"``) ``[*]`` is written, for prioritized replay

    Out: the losses above and ``entropy`` (mean of ``-log pi(a)`` over the data's actions).

    Targets: ``target_qvalue_network_params``, for ``SoftUpdate(loss, tau=...)``.

    Raises:
        KeyError: if an entry is missing.
        ValueError: if reward, flags or the critics' values are not ``[*, 1]``; for an unknown ``reduction``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.objectives import SoftUpdate
        >>> from ctmrl_torchrl.modules import make_actor, make_qvalue, make_value
        >>> sizes = dict(observation_dim=3, context_dim=4)
        >>> loss = make_iql_loss(
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
    reduction = known_reduction(reduction, "make_iql_loss")
    loss = OfflineIQLLoss(
        actor_network,
        qvalue_network,
        value_network,
        num_qvalue_nets=num_qvalue_nets,
        reward_statistics=reward_statistics,
        loss_function="l2",
        expectile=expectile,
        temperature=temperature,
        gamma=gamma,
        reduction=reduction,
        scalar_output_mode="exclude" if reduction == "none" else None,
        deactivate_vmap=deactivate_vmap,
    )
    loss.set_keys(value=loss.value_network.out_keys[-1], state_action_value=loss.qvalue_network.out_keys[-1])
    # Created now rather than lazily, so that a new loss can load the state of a used one.
    return loss.make_value_estimator(ValueEstimators.TD0)


@POLICY_LOSSES.register("iql")
@dataclass
class IQLConfig(PolicyLossConfig):
    """Configuration of implicit Q-learning; see :func:`make_iql_loss`.

    Args:
        expectile, temperature (float): see :func:`make_iql_loss`.
        rewards (str): rewards for the critics: ``raw``, ``scaled`` to unit standard deviation over the
            training tasks, or ``standardised`` (with the mean subtracted; only if no episode ends early).

    Examples:
        >>> import torch
        >>> from ctmrl_torchrl.problem import Problem
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, statistics)
        >>> IQLConfig(hidden=[8], expectile=0.7).build(problem, 4).expectile
        0.7
    """

    name: str = "iql"
    expectile: float = ruled(0.8, BETWEEN_ZERO_AND_ONE)
    temperature: float = ruled(10.0, POSITIVE)
    rewards: str = ruled("raw", among(*REWARDS))

    @property
    def label(self) -> str:
        """``iql``, or e.g. ``iql_standardised`` if rewards are transformed."""
        return self.name if self.rewards == "raw" else f"{self.name}_{self.rewards}"

    def build(self, problem: Problem, context_dim: int) -> IQLLoss:
        """Build the loss with its networks.

        Raises:
            ValueError: for an unknown reward transformation.
        """
        if self.rewards not in REWARDS:
            raise ValueError(f"policy_loss.rewards={self.rewards!r}; choose one of {', '.join(REWARDS)}.")
        statistics = None
        if self.rewards != "raw":
            mean, spread = problem.statistics["next", "reward"]
            statistics = (mean if self.rewards == "standardised" else torch.zeros_like(mean)), spread
        return make_iql_loss(
            *self.networks(problem, context_dim),
            gamma=problem.discount,
            expectile=self.expectile,
            temperature=self.temperature,
            reward_statistics=statistics,
        )
