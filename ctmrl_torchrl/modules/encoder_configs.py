"""Configurations of context encoders, which build an encoder for the sizes of a problem."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey

from ctmrl_torchrl.modules.context_encoder import ContextEncoder, Last, Pooling, make_context_encoder
from ctmrl_torchrl.modules.keys import join_key
from ctmrl_torchrl.modules.standardise import finer
from ctmrl_torchrl.modules.task_encoders import TaskParameters
from ctmrl_torchrl.modules.task_table import TaskTable
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.registry import Registry
from ctmrl_torchrl.rules import POSITIVE, SWITCH, WIDTHS, among, lacks_build, list_of, or_none, ruled, whole

#: configurations of context encoders by ``encoder.name``
ENCODERS: Registry[type[ContextEncoderConfig]] = Registry("context encoder")


@dataclass
class ContextEncoderConfig:
    """Base class of encoder configurations. Register a subclass with ``ENCODERS.register(name)``.

    Args:
        name (str): name of the choice.
        context_dim (int): latent size d.

    Examples:
        >>> @ENCODERS.register("first_context")
        ... @dataclass
        ... class FirstContextConfig(ContextEncoderConfig):
        ...     name: str = "first_context"  # and build(problem, transition_key)
        >>> "first_context" in ENCODERS
        True
        >>> ENCODERS.unregister("first_context")
    """

    name: str = "none"
    context_dim: int = ruled(20, whole(1))

    def size(self, problem: Problem) -> int:
        """Size of the contexts that the encoder writes."""
        return self.context_dim

    def reads(self, problem: Problem) -> Problem:
        """The problem with the features that this encoder reads, by which the method decides what to predict."""
        return problem

    def build(self, problem: Problem, transition_key: NestedKey | None = None) -> TensorDictModuleBase:
        """Build the encoder.

        Args:
            problem: sizes, keys and statistics.
            transition_key: key of per-transition contexts, if the representation loss needs them.

        Raises:
            ConfigError: if a subclass does not define this method.
        """
        raise lacks_build(self, ContextEncoderConfig, ENCODERS, "encoder", "build(problem, transition_key)")

    @property
    def compares_transitions(self) -> bool:
        """Whether per-transition contexts and task contexts lie in the same space."""
        return False

    @property
    def learns_pooling(self) -> bool:
        """Whether the encoder has parameters that combine the codes of transitions."""
        return True

    @property
    def reads_task_alone(self) -> bool:
        """Whether the encoder only reads ``task_id``, as protocol ``told`` requires."""
        return False

    @property
    def encodes_unseen_tasks(self) -> bool:
        """Whether the encoder can encode tasks that it was not trained on, as most protocols require."""
        return True


@ENCODERS.register("pooling")
@dataclass
class EncoderConfig(ContextEncoderConfig):
    """Encode every transition, then pool; see :func:`~ctmrl_torchrl.modules.make_context_encoder`.

    Args:
        hidden (list of int): hidden layers of the per-transition network.
        pool (str): ``mean`` (the paper's), ``mean_mlp`` (layers after the mean) or ``attention``.
        last (str): output activation of the per-transition network: ``tanh``, ``linear``, ``unit`` or ``noisy``.
        head_hidden (list of int): widths of the layers after the mean.
        feature_gain (float or None): features are standardized with the statistics of the training tasks and
            multiplied by this; None disables this.
        flags (list of str): flags of the transition to use as features, e.g. ``terminated``.
        next_observation (bool or None): whether the next observation is a feature; None uses the
            environment's default.

    The next observation enters as its change from the observation.

    Examples:
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, statistics)
        >>> EncoderConfig(context_dim=5, flags=["terminated"]).build(problem).in_keys[-2:]
        [('context', 'next', 'reward'), ('context', 'next', 'terminated')]
    """

    name: str = "pooling"
    hidden: list[int] = ruled([200, 200, 200], WIDTHS)
    pool: str = ruled("mean", among("mean", "mean_mlp", "attention"))
    last: str = ruled("tanh", among("tanh", "linear", "unit", "noisy"))
    head_hidden: list[int] = ruled([200], list_of(whole(1), 0))
    feature_gain: float | None = ruled(1.0, or_none(POSITIVE))
    flags: list[str] = ruled([], list_of(among("terminated", "truncated", "done"), 0))
    next_observation: bool | None = ruled(None, or_none(SWITCH))

    @property
    def compares_transitions(self) -> bool:
        """Only without layers after the mean."""
        return self.pool == "mean"

    @property
    def learns_pooling(self) -> bool:
        """Attention and layers after the mean learn."""
        return self.pool != "mean"

    def reads(self, problem: Problem) -> Problem:
        """The problem with or without the next observation among the features."""
        if self.next_observation is None:
            return problem
        return replace(problem, context_next_observation=self.next_observation)

    def build(self, problem: Problem, transition_key: NestedKey | None = None) -> ContextEncoder:
        """Build the encoder for the features of a problem, under the root key ``"context"``."""
        problem = self.reads(problem)
        features = problem.feature_dims
        relative, scaled = None, list(features)
        if problem.context_next_observation:
            total, size = sum(features.values()), problem.observation_dim
            relative = slice(total - size, total), slice(0, size)
            scaled[-1] = "observation_change"
        means, spreads = map(list, zip(*(problem.statistics[key] for key in scaled), strict=True))
        for flag in self.flags:
            features["next", flag] = 1
            means.append(torch.zeros(1))
            spreads.append(torch.ones(1))
        return make_context_encoder(
            feature_dims={join_key("context", key): size for key, size in features.items()},
            context_dim=self.context_dim,
            hidden=self.hidden,
            pool=cast(Pooling, self.pool),
            head_hidden=self.head_hidden,
            last=cast(Last, self.last),
            feature_statistics=finer((torch.cat(means), torch.cat(spreads)), self.feature_gain),
            relative=relative,
            transition_key=transition_key,
        )


@ENCODERS.register("table")
@dataclass
class TaskTableConfig(ContextEncoderConfig):
    """A table of learned contexts, one per task, instead of an encoder (ANOLE).

    Args:
        noisy (bool): whether a lookup samples from the task's Gaussian.

    The table only covers training tasks; the context of an unknown task is found by a search protocol.

    Examples:
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, {}, num_tasks=3)
        >>> TaskTableConfig(context_dim=2).build(problem).mean.shape
        torch.Size([3, 2])
    """

    name: str = "table"
    noisy: bool = ruled(True, SWITCH)

    @property
    def learns_pooling(self) -> bool:
        """False, because a table does not pool."""
        return False

    @property
    def reads_task_alone(self) -> bool:
        """True, because contexts are looked up by task."""
        return True

    @property
    def encodes_unseen_tasks(self) -> bool:
        """False, because rows of other tasks are never trained."""
        return False

    def build(self, problem: Problem, transition_key: NestedKey | None = None) -> TaskTable:
        """Build the table with a row for every task."""
        return TaskTable(range(problem.num_tasks), self.context_dim, noisy=self.noisy)


@ENCODERS.register("task_parameters")
@dataclass
class TaskParametersConfig(ContextEncoderConfig):
    """The task's true parameters as the context: the oracle's encoder.

    ``context_dim`` is ignored; the context size is the number of task parameters.

    Examples:
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, {}, task_parameters=torch.zeros(3, 2))
        >>> TaskParametersConfig().size(problem)
        2
    """

    name: str = "task_parameters"

    def size(self, problem: Problem) -> int:
        """Number of parameters of a task."""
        return self._parameters(problem).shape[-1]

    def build(self, problem: Problem, transition_key: NestedKey | None = None) -> TaskParameters:
        """Build the table.

        Raises:
            ValueError: if the parameters of the tasks are unknown.
        """
        return TaskParameters(self._parameters(problem))

    @property
    def learns_pooling(self) -> bool:
        """False, because nothing is pooled."""
        return False

    @property
    def reads_task_alone(self) -> bool:
        """True, because it reads the task."""
        return True

    @staticmethod
    def _parameters(problem: Problem) -> torch.Tensor:
        if problem.task_parameters is None:
            raise ValueError("encoder.name='task_parameters': the parameters of these tasks are not known.")
        return problem.task_parameters
