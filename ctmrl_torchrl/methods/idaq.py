"""IDAQ (Wang et al.; ICML 2023): FOCAL's training with adaptation that only accepts in-distribution episodes.

- encoder, representation loss, sampling, policy loss: identical to FOCAL
- protocol: ``idaq``, :class:`~ctmrl_torchrl.collectors.InDistributionProtocol`
- part: :class:`OutcomeModels`, an ensemble on the detached contexts for its two model-based judges; with
  ``part=outcome_models`` every method has it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.methods.base import PARTS, REPRESENTATIONS, PartConfig
from ctmrl_torchrl.methods.focal import FOCALConfig
from ctmrl_torchrl.methods.parts import Part, Setting
from ctmrl_torchrl.modules.keys import join_key, read
from ctmrl_torchrl.modules.outcome_ensembles import (
    OutcomeEnsemble,
    disagreement_judge,
    prediction_error_judge,
)
from ctmrl_torchrl.modules.standardise import Standardise
from ctmrl_torchrl.rules import POSITIVE, SWITCH, WIDTHS, ruled, whole


class OutcomeModels(Part):
    """The ensemble of IDAQ's judges, which is trained alongside the agent without affecting it.

    In every update, each member learns the outcomes of rows sampled from the policy batch, given the current
    contexts. Rewards, observations and their changes are standardized, so that both judges weight reward and
    dynamics equally.

    Args:
        setting (Setting): sizes, statistics, device and seed.

    Keyword Args:
        members (int): K. hidden (sequence of int): hidden layers. rate (float): learning rate of Adam.
    """

    name = "outcome_models"
    judges: ClassVar[tuple[str, ...]] = ("judge_error", "judge_disagreement")

    def __init__(self, setting: Setting, *, members: int, hidden: Sequence[int], rate: float) -> None:
        problem, device = setting.problem, setting.device
        self.loss, self.reward_key = setting.loss, problem.reward_key
        self.generator = torch.Generator().manual_seed(setting.seed)
        self.ensemble = OutcomeEnsemble(
            members,
            observation_dim=problem.observation_dim,
            action_dim=problem.action_dim,
            context_dim=setting.context_dim,
            hidden=hidden,
            generator=self.generator,
        ).to(device)
        self.observation, self.change, self.reward = (
            Standardise(*problem.statistics[key]).to(device)
            for key in ("observation", "observation_change", problem.reward_key)
        )
        self.optimizer = torch.optim.Adam(self.ensemble.parameters(), rate)

    @property
    def _leaves(self) -> tuple[NestedKey, ...]:
        return "observation", "action", self.reward_key, ("next", "observation")

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys of the policy batch with its outcomes, needed even while the policy does not learn."""
        return [join_key(self.loss.tensor_keys.transitions, leaf) for leaf in self._leaves]

    def _entries(
        self, transitions: TensorDictBase, context: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Standardized inputs and outcomes of transitions ``[*, B]`` under contexts ``[*, d]``."""
        observation, action, reward, following = (
            read(transitions, leaf, type(self).__name__) for leaf in self._leaves
        )
        repeated = context.unsqueeze(-2).expand(*observation.shape[:-1], context.shape[-1])
        inputs = self.observation(observation), action, repeated
        return inputs, (self.reward(reward), self.change(following - observation))

    def inner_steps(self, batch: TensorDictBase, contexts: TensorDictBase) -> None:
        """Make one step of all members."""
        rows = batch.get(self.loss.tensor_keys.transitions)
        inputs, outcome = self._entries(rows, contexts["task_context"])
        self.optimizer.zero_grad(set_to_none=True)
        self.ensemble.error(*inputs, outcome, self.generator).sum().backward()
        self.optimizer.step()

    @torch.no_grad()
    def judge_error(self, episode: TensorDictBase, task_context: Tensor) -> Tensor:
        """Minus the prediction error of episodes ``[n, H]`` under contexts ``[n, d]``; ``[n]``."""
        inputs, outcome = self._entries(episode, task_context)
        return -prediction_error_judge(self.ensemble(*inputs), outcome, episode.get("mask", None))

    @torch.no_grad()
    def judge_disagreement(self, episode: TensorDictBase, task_context: Tensor) -> Tensor:
        """Minus the members' disagreement on episodes ``[n, H]`` under contexts ``[n, d]``; ``[n]``."""
        inputs, _ = self._entries(episode, task_context)
        return -disagreement_judge(self.ensemble(*inputs), episode.get("mask", None))

    def protocol_options(self) -> dict[str, Any]:
        """The two judges."""
        return {name: getattr(self, name) for name in self.judges}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer and generator state."""
        return {
            "ensemble": self.ensemble.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.ensemble.load_state_dict(state["ensemble"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())


@PARTS.register("outcome_models")
@dataclass
class OutcomeModelsConfig(PartConfig):
    """Configuration of :class:`OutcomeModels` as a part of any method: ``part=outcome_models``.

    Args:
        members (int): K, number of pairs of networks.
        hidden (list of int): hidden layers of the networks.
        rate (float): learning rate of the networks.

    Examples:
        >>> OutcomeModelsConfig().protocol_options
        ('judge_error', 'judge_disagreement')
    """

    protocol_options: ClassVar[tuple[str, ...]] = OutcomeModels.judges

    name: str = OutcomeModels.name
    members: int = ruled(12, whole(2), allocates="once")
    hidden: list[int] = ruled([256, 256, 256], WIDTHS)
    rate: float = ruled(3e-4, POSITIVE)

    def build(self, setting: Setting) -> OutcomeModels:
        """Build the ensemble."""
        return OutcomeModels(setting, members=self.members, hidden=self.hidden, rate=self.rate)


@REPRESENTATIONS.register("idaq")
@dataclass
class IDAQConfig(FOCALConfig):
    """Configuration of FOCAL's loss and of the ensemble for model-based judges.

    Args:
        ensemble (bool): whether to train the ensemble; without it ``evaluation.judge`` must be ``return``.
        members (int): K, number of pairs of networks.
        predictor_hidden (list of int): hidden layers of the networks.
        ensemble_rate (float): learning rate of the networks.

    Examples:
        >>> config = IDAQConfig(ensemble=True)
        >>> config.build(None, 4).out_keys, config.protocol_options
        (['loss_metric', 'context_distance'], ('judge_error', 'judge_disagreement'))
    """

    name: str = "idaq"
    ensemble: bool = ruled(False, SWITCH)
    members: int = ruled(12, whole(2), allocates="once")
    predictor_hidden: list[int] = ruled([256, 256, 256], WIDTHS)
    ensemble_rate: float = ruled(3e-4, POSITIVE)

    @property
    def protocol_options(self) -> tuple[str, ...]:
        """The judges, if there is an ensemble."""
        return OutcomeModels.judges if self.ensemble else ()

    def parts(self, setting: Setting) -> list[Part]:
        """The ensemble, if enabled."""
        models = OutcomeModelsConfig(
            members=self.members, hidden=self.predictor_hidden, rate=self.ensemble_rate
        )
        return [models.build(setting)] if self.ensemble else []
