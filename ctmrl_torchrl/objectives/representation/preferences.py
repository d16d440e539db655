"""ANOLE's terms: a reward model trained with preferences, and a prior on the task table."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ctmrl_torchrl.modules.draws import uniform


def preference_error(first: Tensor, second: Tensor, first_better: Tensor) -> Tensor:
    """ANOLE's L_pref before its weight of 10: Bradley-Terry likelihood of the better fragment.

    Summed rewards can be as large as a fragment is long (64). The logit is therefore their difference, which
    avoids the exponential of either sum.

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
    """ANOLE's L_kl before its weight of 0.1: KL divergence of the tasks' Gaussians from a standard normal.

    Args:
        mean, log_std (Tensor): ``[T, d]``, as returned by ``TaskTable.lookup``.

    Returns:
        ``[T]``, means over dimensions (PEARL uses sums).

    Source: ANOLE (NeurIPS 2022), as released.

    Examples:
        >>> table_divergence(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))
        tensor([1.])
    """
    return 0.5 * (mean.square() + (2.0 * log_std).exp() - 2.0 * log_std - 1.0).mean(-1)


def draw_fragments(
    lengths: Tensor, count: int, steps: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Sample the starts of fragments uniformly, each within one episode.

    Args:
        lengths (Tensor): ``[T, J]``, length of every episode of every task; 0 for missing episodes.
        count (int): fragments per task. steps (int): length of a fragment, at most the longest episode of each
            task.
        generator (torch.Generator, optional): samples them.

    Returns:
        episode and first step of each fragment, ``[T, count]`` int64 each.

    Raises:
        ValueError: if all episodes of a task are too short; the message contains the maximum length.

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
            f"draw_fragments: for some task no episode has {steps} steps; use at most {longest}."
        )
    share = uniform((len(lengths), count), generator, total.device)
    place = (share * total[:, -1:]).long()
    episode = torch.searchsorted(total, place, right=True)
    return episode, place - (total - places).gather(-1, episode)
