"""The tables of a study: returns by environment and protocol, and aggregates over environments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ctmrl_torchrl.evaluation import Estimate, load_paper_table, mean_over_seeds
from ctmrl_torchrl.studies.cells import Cell, Table, mark_best
from ctmrl_torchrl.studies.compare import Comparison, compare_levels
from ctmrl_torchrl.studies.config import APART
from ctmrl_torchrl.studies.costs import cost_table
from ctmrl_torchrl.studies.gathered import RunResult, StudyResults
from ctmrl_torchrl.studies.notes import notes_on
from ctmrl_torchrl.studies.results_table import display_name

__all__ = ["PUBLISHED", "study_tables"]

_SPLITS = {"test": "unseen test tasks", "train": "training tasks"}
#: name of the row with the paper's results
PUBLISHED = "published (other data)"
_PAPER_SPLIT = {"test": "ood", "train": "id"}


def study_tables(results: StudyResults) -> list[Table]:
    """All tables of a study: returns and aggregates of each split, returns after few episodes, and costs.

    Each way of comparing methods (``comparison``) has its own tables.
    """
    parts = results.apart()
    if len(parts) == 1:
        return _tables(results)
    return [
        replace(table, name=f"{table.name}-{level}", title=f"{table.title}, {APART}={level}")
        for part, level in zip(parts, results.config.levels(APART), strict=True)
        for table in _tables(replace(part, notes=tuple(notes_on(part))))
    ]


def _tables(results: StudyResults) -> list[Table]:
    tables = []
    for split in results.config.report.splits:
        tables.append(_returns(results, split))
        comparisons = [
            each for protocol in results.protocols() for each in compare_levels(results, split, protocol)
        ]
        if comparisons:
            groups = [each.group for each in comparisons]
            comparisons.sort(key=lambda each: groups.index(each.group))  # all protocols of a group together
            tables.append(_aggregates(results, split, comparisons))
    further = (_early_returns(results), cost_table(results))
    return [*tables, *(table for table in further if table is not None)]


def _returns(results: StudyResults, split: str) -> Table:
    header = (*results.row_factors, "protocol", *results.compared, "random", "best known")
    rows = [cells for row in results.rows() for cells in _rows(results, row, split)]
    notes = [
        "Mean final return over seeds (higher is better) with its 95 % bootstrap interval over seeds; one "
        "seed has no interval. The best of a row is bold, and what lies inside its interval is underlined; "
        "cells that lack runs are not marked."
    ]
    if any(cell.done and not cell.runs for cells in rows for cell in cells):
        notes.append("A dash: no finished run has this number.")
    if any(cell.text == PUBLISHED for cells in rows for cell in cells):
        notes.append(
            "The published numbers are of other data, other task sets and other budgets, with half the width "
            "of their interval; they show the order of magnitude and are not a comparison."
        )
    for row in results.rows():
        if problem := results.references(row, split).problem:
            where = ", ".join(map(display_name, row.values())) or "All rows"
            notes.append(
                f"{where}: the runs have {problem}; they share no reference and no normalized score."
            )
    return Table(
        f"returns-{split}",
        f"Return on {_SPLITS[split]}",
        header,
        tuple(rows),
        results.config.report.digits,
        (*notes, *results.notes),
    )


def _rows(results: StudyResults, row: Mapping[str, str], split: str) -> Iterator[tuple[Cell, ...]]:
    names = tuple(Cell(text=display_name(level)) for level in row.values())
    reference = results.references(row, split)
    known = (Cell(reference.random), Cell(reference.best, text=reference.name))
    for protocol in results.protocols():
        cells = [_cell(results, row, level, split, protocol) for level in results.compared]
        yield (*names, Cell(text=protocol), *mark_best(cells), *known)
    published = _published(results, row, split)
    if any(cell.value is not None for cell in published):
        yield (*names, Cell(text=PUBLISHED), *published, Cell(), Cell())


def _early_returns(results: StudyResults) -> Table | None:
    """Returns on unseen tasks after ``report.after`` collected episodes; None without such numbers."""
    rows = []
    for row in results.rows():
        names = tuple(Cell(text=display_name(level)) for level in row.values())
        for protocol in results.protocols():
            for number in results.config.report.after:
                cells = [_cell(results, row, level, "test", protocol, number) for level in results.compared]
                if any(cell.value is not None for cell in cells):
                    rows.append((*names, Cell(text=protocol), Cell(text=str(number)), *mark_best(cells)))
    if not rows:
        return None
    return Table(
        "early-test",
        f"Return on {_SPLITS['test']} after few collected episodes",
        (*results.row_factors, "protocol", "collected episodes", *results.compared),
        tuple(rows),
        results.config.report.digits,
        (
            "Mean over seeds of the episode that follows the collected ones, with its interval.",
            *results.notes,
        ),
    )


def _cell(
    results: StudyResults,
    row: Mapping[str, str],
    level: str,
    split: str,
    protocol: str,
    after: int | None = None,
) -> Cell:
    scores = results.scores(row, level, split, protocol, after)
    estimate = mean_over_seeds(scores) if scores else None
    return _counted(estimate, results.cell(row, level), len(scores))


def _counted(estimate: Estimate | None, runs: Sequence[RunResult], number: int) -> Cell:
    """A cell of these runs, of which a number have the estimated value."""
    return Cell(
        None if estimate is None else estimate.value,
        None if estimate is None else estimate.interval,
        runs=number,
        planned=len(runs),
        failed=sum(each.state == "failed" for each in runs),
        done=sum(each.summary is not None for each in runs),
    )


def _published(results: StudyResults, row: Mapping[str, str], split: str) -> list[Cell]:
    report = results.config.report
    if report.paper is None:
        return [Cell()]
    envs = {each.run.configuration.get("env") for each in results.of_row(row)}
    numbers = {
        line.method: line
        for line in load_paper_table(cast(Any, report.paper))
        if envs == {line.env} and line.split == _PAPER_SPLIT[split]
    }
    cells = []
    for level in results.compared:
        line = numbers.get(report.paper_columns.get(level, level))
        ends = None if line is None else (line.mean - line.halfwidth, line.mean + line.halfwidth)
        cells.append(Cell() if line is None else Cell(line.mean, ends))
    return cells


def _aggregates(results: StudyResults, split: str, comparisons: list[Comparison]) -> Table:
    groups = tuple(comparisons[0].group)
    header = (*groups, "protocol", "aggregate", *results.compared)
    rows: list[tuple[Cell, ...]] = []
    notes = [
        "Scores are 0 for the random policy and 1 for the best known return: the optimum, else the oracle, else "
        "the behavior. Interquartile mean: the mean of the middle half of all runs. Probability: that a run of "
        f"{results.config.baseline} scores higher than one of the column, ties counted half. "
        "95 % bootstrap intervals, seeds resampled within each environment. Cells that lack runs are not marked; "
        "the runs of a probability are those of both its levels."
    ]
    remarks: dict[str, list[str]] = {}
    for each in comparisons:
        names = (*(Cell(text=display_name(level)) for level in each.group.values()), Cell(text=each.protocol))
        middle, means, wins = each.interquartile_means(), each.means(), each.improvements()
        lines = {
            "interquartile mean": mark_best([_over(each, middle, level) for level in results.compared]),
            "mean": mark_best([_over(each, means, level) for level in results.compared]),
            f"probability that {each.baseline} is better": [
                Cell() if level == each.baseline else _over(each, wins, level, each.baseline)
                for level in results.compared
            ],
        }
        rows += [(*names, Cell(text=name), *cells) for name, cells in lines.items()]
        where = " ".join([*each.group.values(), each.protocol])
        for remark in _remarks(results, each):
            remarks.setdefault(remark, []).append(where)
    notes += [f"{', '.join(dict.fromkeys(places))}: {remark}" for remark, places in remarks.items()]
    return Table(
        f"aggregates-{split}",
        f"Normalized scores on {_SPLITS[split]}, over environments",
        header,
        tuple(rows),
        max(results.config.report.digits, 3),
        (*notes, *results.notes),
    )


def _remarks(results: StudyResults, comparison: Comparison) -> list[str]:
    """What a comparison covers and what it lacks. Comparisons with the same remark share a note."""
    remarks = [f"over {', '.join(map(display_name, comparison.environments))}."]
    lacking = [level for level in results.compared if level not in comparison.scores]
    unfinished = [level for level in lacking if not _finished(comparison.runs[level])]
    others = [level for level in lacking if level not in unfinished]
    if unfinished:
        remarks.append(f"without {', '.join(unfinished)}, which has no finished run there.")
    if others:
        remarks.append(f"without {', '.join(others)}, which has no returns under this protocol.")
    return remarks + [f"without {display_name(env)}: {why}" for env, why in comparison.left_out.items()]


def _over(comparison: Comparison, estimates: Mapping[str, Estimate], level: str, *others: str) -> Cell:
    """The aggregate of a level, and the runs of the levels that it is of; of those that lack, if any does."""
    levels = [level, *others]
    levels = [each for each in levels if each not in comparison.scores] or levels
    runs = [run for each in levels for run in comparison.runs[each]]
    number = sum(len(scores) for each in levels for scores in comparison.scores.get(each, {}).values())
    return _counted(estimates.get(level), runs, number)


def _finished(runs: Iterable[RunResult]) -> bool:
    return any(each.summary is not None for each in runs)
