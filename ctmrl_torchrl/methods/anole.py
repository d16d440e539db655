"""ANOLE (NeurIPS 2022): a table of task contexts and a search among them with queries to a noisy oracle.

- encoder: :class:`~ctmrl_torchrl.modules.TaskTable`, a learned Gaussian per training task instead of an encoder
- representation loss: :class:`~ctmrl_torchrl.objectives.representation.anole.PreferenceLoss`
- part: :class:`SearchedTable`, which provides the candidates of the search
- protocol: ``anole``, :class:`~ctmrl_torchrl.collectors.PreferenceSearchProtocol`
- policy loss as published: ``brac_sac`` without a behavior penalty
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctmrl_torchrl.methods.base import REPRESENTATIONS, RepresentationConfig
from ctmrl_torchrl.methods.parts import Part, Setting
from ctmrl_torchrl.modules.decoders import make_preference_reward
from ctmrl_torchrl.modules.task_table import TaskTable
from ctmrl_torchrl.objectives.representation.anole import PreferenceLoss
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import NOT_NEGATIVE, POSITIVE, WIDTHS, ruled, whole


class SearchedTable(Part):
    """Provides the search candidates: the mean context of every training task, then samples of their Gaussians.

    Args:
        table (TaskTable): the agent's table. setting (Setting): the run's components.
    """

    name = "searched_table"

    def __init__(self, table: TaskTable, setting: Setting) -> None:
        self.table = table
        self.task_ids = torch.as_tensor(list(setting.train_ids), device=setting.device)
        self.seed = setting.seed

    def _candidates(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        wanted = max(count, len(self.task_ids))
        return self.table.candidates(wanted, generator, self.task_ids)

    def protocol_options(self) -> dict[str, Callable[[int], Tensor]]:
        """``search_candidates``: a function from a number to at least that many contexts ``[N, d]``."""
        return {"search_candidates": self._candidates}


@REPRESENTATIONS.register("anole")
@dataclass
class ANOLEConfig(RepresentationConfig):
    """Configuration of :class:`PreferenceLoss`.

    Args:
        preference_weight, divergence_weight (float): weights of the terms.
        fragment (int): length of the compared fragments in steps; shorter episodes are used completely.
        reward_hidden (list of int): hidden layers of the reward model.

    If all tasks share one reward function, preferences carry no task information. The table then learns only
    from the critic (``critic_gradient: all``).

    Examples:
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, {})
        >>> ANOLEConfig(reward_hidden=[8]).build(problem, 4).reward.in_keys
        ['observation', 'action', 'task_context']
    """

    protocol_options: ClassVar[tuple[str, ...]] = ("reward_predictor",)

    name: str = "anole"
    preference_weight: float = ruled(10.0, POSITIVE)
    divergence_weight: float = ruled(0.1, NOT_NEGATIVE)
    fragment: int = ruled(64, whole(1))
    reward_hidden: list[int] = ruled([200, 200, 200], WIDTHS)

    def build(self, problem: Problem, context_dim: int) -> PreferenceLoss:
        """Build the reward model and the loss; labels use the rewards that the policy learns from."""
        reward = make_preference_reward(
            observation_dim=problem.observation_dim,
            action_dim=problem.action_dim,
            context_dim=context_dim,
            next_observation=problem.context_next_observation,
            hidden=self.reward_hidden,
        )
        return PreferenceLoss(
            reward,
            preference_weight=self.preference_weight,
            divergence_weight=self.divergence_weight,
            fragment=self.fragment,
        )

    def parts(self, setting: Setting) -> list[Part]:
        """The part with the candidates if the encoder is a table; otherwise candidates come from the data."""
        encoder: Any = setting.loss.context_encoder
        return [SearchedTable(encoder, setting)] if isinstance(encoder, TaskTable) else []
