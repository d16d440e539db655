"""Ensembles that predict rewards and next observations: one per task (GENTLE), or context-conditioned (IDAQ)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctmrl_torchrl.modules.draws import uniform
from ctmrl_torchrl.modules.stacked_mlp import StackedMLP
from ctmrl_torchrl.modules.standardise import Standardise, Statistics, Unstandardise


class TaskModels(nn.Module):
    """GENTLE's task models: one ensemble per training task, all in one stack.

    Args:
        tasks, members (int): the stack.
        observation_dim, action_dim (int): sizes.
        hidden (sequence of int): widths; released two layers for rewards alone, three with next observations.

    Keyword Args:
        next_observation (bool): whether to predict the change of the observation too.
        observation_statistics (Statistics, optional): standardize observations.
        target_statistics (Statistics, optional): statistics of the targets, ``[1]`` or
            ``[1 + observation_dim]`` (the reward, then the change); the networks then predict in unit variance.
            The released code uses none.
        generator (torch.Generator, optional): samples the weights.

    Attributes:
        network (StackedMLP): for :func:`~ctmrl_torchrl.objectives.stacked_fit.fit_stacked`.

    Source: GENTLE (AAAI 2024), as released.

    Examples:
        >>> models = TaskModels(3, 7, observation_dim=2, action_dim=1, hidden=[8], next_observation=True)
        >>> reward, following = models(torch.zeros(3, 5, 2), torch.zeros(3, 5, 1))
        >>> reward.shape, following.shape
        (torch.Size([3, 5, 1]), torch.Size([3, 5, 2]))
    """

    def __init__(
        self,
        tasks: int,
        members: int = 7,
        *,
        observation_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256, 256),
        next_observation: bool = False,
        observation_statistics: Statistics | None = None,
        target_statistics: Statistics | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.next_observation = next_observation
        outputs = 1 + (observation_dim if next_observation else 0)
        loc, scale = target_statistics or (torch.zeros(outputs), torch.ones(outputs))
        self.standardise = (
            nn.Identity() if observation_statistics is None else Standardise(*observation_statistics)
        )
        self.unstandardise, self.standardise_target = Unstandardise(loc, scale), Standardise(loc, scale)
        self.network = StackedMLP(
            [tasks, members], observation_dim + action_dim, outputs, hidden, generator=generator
        )

    def inputs(self, observation: Tensor, action: Tensor) -> Tensor:
        """Inputs of the networks, ``[*, observation_dim + action_dim]``."""
        return torch.cat([self.standardise(observation), action], -1)

    def targets(self, observation: Tensor, reward: Tensor, next_observation: Tensor | None) -> Tensor:
        """Targets of the networks: the reward and, if predicted, the change of the observation."""
        if not self.next_observation or next_observation is None:
            return self.standardise_target(reward)
        return self.standardise_target(torch.cat([reward, next_observation - observation], -1))

    def members(self, observation: Tensor, action: Tensor) -> Tensor:
        """All members' predictions in raw units, ``[tasks, members, B, 1 (+ observation_dim)]``."""
        return self.unstandardise(self.network(self.inputs(observation, action).unsqueeze(1)))

    def forward(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor | None]:
        """Means over members of reward and next observation.

        Args:
            observation, action (Tensor): ``[tasks, B, features]``.

        Returns:
            reward ``[tasks, B, 1]`` and next observation ``[tasks, B, observation_dim]``, or None.
        """
        mean = self.members(observation, action).mean(1)
        return mean[..., :1], observation + mean[..., 1:] if self.next_observation else None


class OutcomeEnsemble(nn.Module):
    """Pairs of networks that predict reward and next observation from (s, a, c), for IDAQ's judges.

    Args:
        members (int): number of pairs; released 12.
        observation_dim, action_dim, context_dim (int): sizes.
        hidden (sequence of int): widths.
        generator (torch.Generator, optional): samples the weights.

    Source: IDAQ (ICML 2023), as released, except that the released code never trains member 0's dynamics model.

    Examples:
        >>> ensemble = OutcomeEnsemble(4, observation_dim=2, action_dim=1, context_dim=3, hidden=[8])
        >>> reward, following = ensemble(torch.zeros(5, 6, 2), torch.zeros(5, 6, 1), torch.zeros(5, 6, 3))
        >>> reward.shape, following.shape
        (torch.Size([4, 5, 6, 1]), torch.Size([4, 5, 6, 2]))
    """

    def __init__(
        self,
        members: int = 12,
        *,
        observation_dim: int,
        action_dim: int,
        context_dim: int,
        hidden: Sequence[int] = (256, 256, 256),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        features = observation_dim + action_dim + context_dim
        options = {"activation": nn.ReLU, "generator": generator}
        self.reward = StackedMLP([members], features, 1, hidden, **options)
        self.next_observation = StackedMLP([members], features, observation_dim, hidden, **options)

    def forward(self, observation: Tensor, action: Tensor, task_context: Tensor) -> tuple[Tensor, Tensor]:
        """Every member's reward ``[K, *, 1]`` and next observation ``[K, *, observation_dim]``."""
        features = torch.cat([observation, action, task_context], -1)
        lead, rows = features.shape[:-1], features.reshape(1, -1, features.shape[-1])
        outputs = (network(rows) for network in (self.reward, self.next_observation))
        return tuple(output.reshape(output.shape[0], *lead, output.shape[-1]) for output in outputs)

    def error(
        self,
        observation: Tensor,
        action: Tensor,
        task_context: Tensor,
        outcome: tuple[Tensor, Tensor],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """L_r + L_s of every member, ``[K]``, each on a bootstrap sample of the batch.

        Args:
            observation, action, task_context (Tensor): ``[*, features]``; the context receives no gradient.
            outcome (pair of Tensor): reward ``[*, 1]`` and next observation ``[*, observation_dim]``.
            generator (torch.Generator, optional): samples the rows.
        """
        given = torch.cat([observation, action, task_context.detach()], -1).flatten(0, -2)
        members, rows = self.reward.stack[0], given.shape[0]
        row = uniform((members, rows), generator, given.device).mul(rows).long()
        total = given.new_zeros(members)
        for network, target in zip((self.reward, self.next_observation), outcome, strict=True):
            error = (network(given[row]) - target.flatten(0, -2)[row]).square()
            total = total + error.mean((-2, -1))
        return total


def prediction_error_judge(
    prediction: tuple[Tensor, Tensor], outcome: tuple[Tensor, Tensor], mask: Tensor | None = None
) -> Tensor:
    """Prediction error of an ensemble on an episode: mean over members of the squared errors of (r, s').

    Args:
        prediction (pair of Tensor): output of :class:`OutcomeEnsemble`, ``[K, n, H, 1]`` and ``[K, n, H, n_s]``.
        outcome (pair of Tensor): true outcomes, ``[n, H, 1]`` and ``[n, H, n_s]``.
        mask (Tensor, optional): ``[n, H]`` boolean, valid steps of the episode.

    Returns:
        ``[n]``: the less, the more like the training data.

    Source: IDAQ (ICML 2023), the prediction-error quantification.

    Examples:
        >>> prediction = torch.zeros(4, 1, 2, 1), torch.zeros(4, 1, 2, 3)
        >>> prediction_error_judge(prediction, (torch.ones(1, 2, 1), torch.full((1, 2, 3), 2.0)))
        tensor([5.])
    """
    reward, following = (
        (guess - truth).square().mean(-1).mean(0) for guess, truth in zip(prediction, outcome, strict=True)
    )
    return _mean_over_steps(reward + following, mask)


def disagreement_judge(prediction: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
    """Disagreement of an ensemble on an episode: the standard deviation of r over members plus that of s'.

    The deviation is taken over members; the released code takes it over time steps.

    Args:
        prediction, mask: see :func:`prediction_error_judge`.

    Returns:
        ``[n]``: the less, the more like the training data.

    Source: IDAQ (ICML 2023), the prediction-variance quantification.

    Examples:
        >>> rewards = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
        >>> disagreement_judge((rewards, torch.zeros(2, 1, 1, 3)))
        tensor([1.4142])
    """
    reward, following = (guess.std(0).mean(-1) for guess in prediction)
    return _mean_over_steps(reward + following, mask)


def _mean_over_steps(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean(-1)
    kept = torch.where(mask, values, torch.zeros_like(values))
    return kept.sum(-1) / mask.sum(-1).clamp_min(1)
