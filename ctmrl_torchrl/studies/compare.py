"""Comparisons over all environments of a study: aggregates of normalized scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctmrl_torchrl.evaluation import (
    Estimate,
    interquartile_mean,
    mean_over_seeds,
    normalised_scores,
    performance_profile,
    probability_of_improvement,
)
from ctmrl_torchrl.studies.gathered import RunResult, StudyResults

__all__ = ["Comparison", "compare_levels"]

ENV = "env"


@dataclass(frozen=True)
class Comparison:
    """The compared levels over the environments for which all of them have runs.

    Args:
        group: levels of the other row factors; results of different groups are never mixed.
        split, protocol: split and protocol of the returns.
        environments: the included environments. left_out: ``{environment: reason}``.
        scores: ``{level: {environment: normalized scores}}``.
        runs: all runs of every level on the included environments, whatever came of them.
        baseline: the level with which others are compared.
    """

    group: Mapping[str, str]
    split: str
    protocol: str
    environments: tuple[str, ...]
    left_out: Mapping[str, str]
    scores: Mapping[str, Mapping[str, np.ndarray]]
    runs: Mapping[str, Sequence[RunResult]]
    baseline: str

    def interquartile_means(self) -> dict[str, Estimate]:
        """The interquartile mean of every level."""
        return {level: interquartile_mean(scores) for level, scores in self.scores.items()}

    def means(self) -> dict[str, Estimate]:
        """The mean over environments of the mean over seeds of every level, without interval."""
        return {
            level: Estimate(
                float(np.mean([mean_over_seeds(each).value for each in scores.values()])),
                None,
                sum(map(len, scores.values())),
            )
            for level, scores in self.scores.items()
        }

    def improvements(self) -> dict[str, Estimate]:
        """For every level except the baseline, the probability that the baseline scores higher."""
        if self.baseline not in self.scores:
            return {}
        return {
            level: probability_of_improvement(self.scores[self.baseline], scores)
            for level, scores in self.scores.items()
            if level != self.baseline
        }

    def profiles(
        self, points: int = 101
    ) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray | None]]]:
        """Thresholds, and every level's fraction of runs above each with its interval."""
        every = np.concatenate([each for scores in self.scores.values() for each in scores.values()])
        low, high = float(every.min()), float(every.max())
        margin = 0.05 * max(high - low, 1e-3)
        thresholds = np.linspace(low - margin, high + margin, points)
        return thresholds, {
            level: performance_profile(scores, thresholds) for level, scores in self.scores.items()
        }


def compare_levels(results: StudyResults, split: str, protocol: str) -> Iterator[Comparison]:
    """One comparison per combination of the row factors other than the environment."""
    groups = [{name: level for name, level in row.items() if name != ENV} for row in results.rows()]
    for group in [group for index, group in enumerate(groups) if group not in groups[:index]]:
        comparison = _compare(results, group, split, protocol)
        if comparison is not None:
            yield comparison


def _compare(results: StudyResults, group: Mapping[str, str], split: str, protocol: str) -> Comparison | None:
    rows = {
        row.get(ENV, "all runs"): row
        for row in results.rows()
        if all(row[name] == level for name, level in group.items())
    }
    found = {env: _normalised(results, row, split, protocol) for env, row in rows.items()}
    present = [level for level in results.compared if any(level in scores for scores, _ in found.values())]
    left_out, environments = {}, []
    for env, (scores, problem) in found.items():
        lacking = [level for level in present if level not in scores]
        if problem:
            left_out[env] = problem
        elif lacking:
            left_out[env] = _lack(results, rows[env], lacking, protocol)
        else:
            environments.append(env)
    if not environments or len(present) < 2:
        return None
    scores = {level: {env: found[env][0][level] for env in environments} for level in present}
    runs = {
        level: [each for env in environments for each in results.cell(rows[env], level)]
        for level in results.compared
    }
    return Comparison(
        group, split, protocol, tuple(environments), left_out, scores, runs, results.config.baseline
    )  # fmt: skip


def _lack(results: StudyResults, row: Mapping[str, str], levels: Sequence[str], protocol: str) -> str:
    """Why levels have no scores in a row: not in the study, no finished run, or none with this protocol."""
    cells = {level: results.cell(row, level) for level in levels}
    finished = {level for level, cell in cells.items() if any(each.summary is not None for each in cell)}
    excluded = ", ".join(level for level, cell in cells.items() if not cell)
    unfinished = ", ".join(level for level, cell in cells.items() if cell and level not in finished)
    others = ", ".join(level for level in levels if level in finished)
    reasons = {
        f"{excluded} not part of the study": excluded,
        f"no finished run of {unfinished}": unfinished,
        f"no returns of {others} under {protocol}": others,
    }
    return "; ".join(reason for reason, named in reasons.items() if named)


def _normalised(
    results: StudyResults, row: Mapping[str, str], split: str, protocol: str
) -> tuple[dict[str, np.ndarray], str]:
    reference = results.references(row, split)
    if reference.problem:
        return {}, f"its runs have {reference.problem}, so no score means the same for all of them."
    returns = {level: results.scores(row, level, split, protocol) for level in results.compared}
    try:
        return {
            level: normalised_scores(values, reference.random, reference.best)
            for level, values in returns.items()
            if values
        }, ""
    except ValueError as error:
        return {}, str(error)
