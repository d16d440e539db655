"""Behavior policies as one task-conditioned SAC agent for all tasks of a set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from ctmrl_torchrl.data.behaviour.agents import register_agents
from ctmrl_torchrl.data.behaviour.recipes import CollectionRecipe
from ctmrl_torchrl.data.behaviour.sac import SACAgents
from ctmrl_torchrl.envs import TaskSet


def symlog(x: Tensor) -> Tensor:
    """``sign(x) log(1 + |x|)``: the identity near zero, which compresses large positions and speeds."""
    return x.sign() * x.abs().log1p()


class ToldNetwork(nn.Module):
    """An MLP with layer norms that reads its inputs and the parameters of each row's task.

    Args:
        task_parameters: ``[tasks, k]``, standardized.
        in_features: size of the inputs without the parameters. out_features: size of the output.
        hidden_sizes: hidden layers.
    """

    task_parameters: Tensor

    def __init__(
        self, task_parameters: Tensor, in_features: int, out_features: int, hidden_sizes: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.register_buffer("task_parameters", task_parameters.clone())
        sizes = (in_features + task_parameters.shape[1], *hidden_sizes)
        layers: list[nn.Module] = []
        for size, width in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(size, width), nn.LayerNorm(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], out_features))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs ``[*, d]``, the last of them the task ids ``[*]``; output ``[*, out_features]``."""
        *values, task_id = inputs
        told = self.task_parameters[task_id]
        return self.layers(torch.cat([symlog(torch.cat(values, -1)), told], -1))


class ConditionedSAC(SACAgents):
    """One SAC agent for all tasks, conditioned on their true parameters: both behavior policy and oracle.

    Similar tasks share data, so it needs far fewer environment steps than one agent per task.

    Args:
        task_parameters: ``[tasks, k]``, standardized.
        observation_dim, action_dim, recipe, discount, seed, task_ids, device: see :class:`SACAgents`. The agent
            can act in every task of ``task_parameters`` and learns from those in ``task_ids``.

    Keys: the keys of :class:`SACAgents`, and ``task_id`` (int64 ``[batch, num_tasks]``), also under ``"next"``.

    Examples:
        >>> from tensordict import TensorDict
        >>> recipe = CollectionRecipe((1,), 1, hidden_sizes=(8,), agents="conditioned", learn_entropy=True)
        >>> agents = ConditionedSAC(torch.randn(3, 1), 2, 2, recipe, discount=0.9, seed=0)
        >>> rows = {"observation": torch.zeros(6, 2), "task_id": torch.arange(3).repeat(2)}
        >>> agents.policy()(TensorDict(rows, [6]))["action"].shape
        torch.Size([6, 2])
    """

    task_keys = ("task_id",)
    told_parameters = True

    def __init__(
        self,
        task_parameters: Tensor,
        observation_dim: int,
        action_dim: int,
        recipe: CollectionRecipe,
        *,
        discount: float,
        seed: int,
        task_ids: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._task_parameters = task_parameters.float()
        super().__init__(
            len(task_parameters if task_ids is None else task_ids),
            observation_dim,
            action_dim,
            recipe,
            discount=discount,
            seed=seed,
            task_ids=task_ids,
            device=device,
        )

    @classmethod
    def for_tasks(
        cls,
        tasks: TaskSet,
        recipe: CollectionRecipe,
        *,
        seed: int,
        task_ids: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> ConditionedSAC:
        """Create the agent of a task set, with parameters standardized over the training tasks."""
        family = tasks.family
        sizes = family.observation_dim, family.action_dim
        parameters = tasks.standardized_parameters()
        options = {"seed": seed, "task_ids": task_ids, "device": device}
        return cls(parameters, *sizes, recipe, discount=family.discount, **options)

    def _network(self, in_features: int, out_features: int, recipe: CollectionRecipe) -> ToldNetwork:
        sizes = in_features, out_features, recipe.hidden_sizes
        return ToldNetwork(self._task_parameters, *sizes).to(self.device)

    def policy(self) -> TensorDictModuleBase:
        """The current stochastic actor; rows contain their task id."""
        return self.actor


register_agents("conditioned", ConditionedSAC)
