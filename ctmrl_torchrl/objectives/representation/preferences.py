"""ANOLE's terms: a reward model taught by preferences, and a prior on the table of tasks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ctmrl_torchrl.modules.draws import uniform


def preference_error(first: Tensor, second: Tensor, first_better: Tensor) -> Tensor:
    """ANOLE's L_pref before its weight of 10: Bradley-Terry likelihood of the better fragment.

    Summed rewards reach the length of a fragment (64), so the logit is their difference and no exponential
    is taken of either.

    Args:
        first, second (Tensor): ``[T]``, predicted rewards of the fragments, summed; receive gradient.
        first_better (Tensor): ``[T]`` boolean, whether the first fragment's true return is at least as large.

    Returns:
        ``[T]``.

    Source: ANOLE (NeurIPS 2022), as released.

    Examples:
        >>> preference_error(torch.zeros(1), torch.zeros(1), torch.tensor([True])).exp()
        tensor([2.])
    """
    return functional.binary_cross_entropy_with_logits(
        first - second, first_better.to(first.dtype), reduction="none"
    )


def table_divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """ANOLE's L_kl before its weight of 0.1: KL of the tasks' Gaussians to a standard normal.

    Args:
        mean, log_std (Tensor): ``[T, d]``, as ``TaskTable.lookup`` gives them.

    Returns:
        ``[T]``, means over dimensions (PEARL has sums).

    Source: ANOLE (NeurIPS 2022), as released.

    Examples:
        >>> table_divergence(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))
        tensor([1.])
    """
    return 0.5 * (mean.square() + (2.0 * log_std).exp() - 2.0 * log_std - 1.0).mean(-1)


def draw_fragments(
    lengths: Tensor, count: int, steps: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Where fragments begin: within one episode each, all places equally likely.

    Args:
        lengths (Tensor): ``[T, J]``, steps of every episode of every task; 0 where there is none.
        count (int): fragments per task. steps (int): of a fragment; at most those of some episode of a task.
        generator (torch.Generator, optional): draws them.

    Returns:
        episode and first step of each fragment, ``[T, count]`` int64 each.

    Raises:
        ValueError: if no episode of a task is long enough; it says how many steps would be.

    Source: ANOLE (NeurIPS 2022); the release lets fragments cross episodes.

    Examples:
        >>> episode, start = draw_fragments(torch.tensor([[5, 2]]), 100, 4)
        >>> episode.unique().tolist(), start.unique().tolist()
        ([0], [0, 1])
    """
    places = (lengths - steps + 1).clamp_min(0)
    total = places.cumsum(-1)
    if (total[:, -1] == 0).any():
        longest = int(lengths.amax(-1).min())
        raise ValueError(
            f"draw_fragments: no episode of some task has {steps} steps; ask for at most {longest}."
        )
    share = uniform((len(lengths), count), generator, total.device)
    place = (share * total[:, -1:]).long()
    episode = torch.searchsorted(total, place, right=True)
    return episode, place - (total - places).gather(-1, episode)
