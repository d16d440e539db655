"""Notes on what differs between the runs of a study beside its factors, for every table of its results."""

from __future__ import annotations

from collections.abc import Iterator

from ctmrl_torchrl.studies.gathered import StudyResults
from ctmrl_torchrl.studies.identity import identity_of, settings_of
from ctmrl_torchrl.studies.results_table import display_name

__all__ = ["SAID", "notes_on"]

#: settings that are noted if they differ between compared levels: environment, data, budgets, task set, policy
#: loss, and the updates during which encoder and policy learn
SAID = (
    "env",
    "comparison",
    "preset",
    "tasks",
    "held_out",
    "dataset.path",
    "dataset.recipe",
    "dataset.seed",
    "batch.tasks",
    "batch.transitions",
    "schedule.updates",
    "schedule.policy_start",
    "schedule.representation_end",
    "policy_loss.name",
    "evaluation.episodes",
    "evaluation.random_episodes",
    "evaluation.final_repeats",
)


def notes_on(results: StudyResults) -> Iterator[str]:
    """The study's own notes, then what the compared levels share or do not share, and which runs lack."""
    yield from results.config.report.notes
    yield from _differing_settings(results)
    yield from _differing_rows(results)
    yield from _differing_numbers(results)
    yield from _equal_levels(results)
    yield from _made_with(results)
    failed = [each for each in results.runs if each.state == "failed"]
    missing = len(results.runs) - len(results.done()) - len(failed)
    if failed:
        yield f"{len(failed)} of {len(results.runs)} runs failed; the tables count them, the means do not."
    if missing:
        yield f"{missing} of {len(results.runs)} runs are not done yet."


def _differing_settings(results: StudyResults) -> Iterator[str]:
    """Settings beside the compared factor in which its levels differ."""
    compare = results.config.compare
    for name in SAID:
        if name == compare:
            continue
        differing: dict[str, set[str]] = {}
        for row in results.rows():
            values = {
                level: str(settings_of(cell[0].run.configuration).get(name))
                for level in results.compared
                if (cell := results.cell(row, level))
            }
            if len(set(values.values())) > 1:
                for level, value in values.items():
                    differing.setdefault(level, set()).add(value)
        if differing:
            said = ", ".join(f"{level}: {' or '.join(sorted(values))}" for level, values in differing.items())
            yield f"The levels of {compare} differ in {name} as well ({said})."


def _differing_rows(results: StudyResults) -> Iterator[str]:
    """Settings in which the rows differ, which an aggregate over environments averages."""
    rows = [(row, runs[0].run.configuration) for row in results.rows() if (runs := results.of_row(row))]
    for name in SAID:
        if name == "env" or name in results.row_factors:
            continue
        places: dict[str, list[str]] = {}
        for row, configuration in rows:
            where = ", ".join(map(display_name, row.values()))
            places.setdefault(str(settings_of(configuration).get(name)), []).append(where)
        if len(places) > 1:
            said = "; ".join(f"{value}: {' and '.join(where)}" for value, where in places.items())
            yield f"The rows differ in {name} ({said})."


def _differing_numbers(results: StudyResults) -> Iterator[str]:
    """Rows whose levels have different numbers of runs, so that intervals are of different samples."""
    for row in results.rows():
        numbers = {level: len(cell) for level in results.compared if (cell := results.cell(row, level))}
        if len(set(numbers.values())) > 1:
            said = ", ".join(f"{level}: {number}" for level, number in numbers.items())
            where = ", ".join(map(display_name, row.values())) or "All runs"
            yield f"{where}: the levels of {results.config.compare} have different numbers of runs ({said})."


def _equal_levels(results: StudyResults) -> Iterator[str]:
    """Levels with the same configuration and data, which a table compares with themselves."""
    equal: dict[tuple[str, ...], dict[str, None]] = {}
    for row in results.rows():
        runs: dict[tuple[str, ...], list[str]] = {}
        for level in results.compared:
            keys = tuple(
                identity_of(each.run.configuration, each.run.data, each.run.code)
                for each in results.cell(row, level)
            )
            if keys:
                runs.setdefault(keys, []).append(level)
        for levels in runs.values():
            if len(levels) > 1:
                equal.setdefault(tuple(levels), {})[", ".join(row.values())] = None
    for levels, rows in equal.items():
        where = f" ({'; '.join(rows)})" if any(rows) else ""
        yield f"The levels {' and '.join(levels)} have the same configuration: they are the same runs{where}."


def _made_with(results: StudyResults) -> Iterator[str]:
    """Machines and versions, if the runs were made with several: equal configurations round differently there."""
    made = [(each.run.levels[results.config.compare], each.finished()["versions"]) for each in results.done()]
    names = dict.fromkeys(name for _, versions in made for name in versions)
    differing = [name for name in names if len({versions.get(name) for _, versions in made}) > 1]
    if not differing:
        return
    groups: dict[tuple[str, ...], list[str]] = {}
    for level, versions in made:
        known = tuple(f"{name} {versions.get(name, 'not recorded')}" for name in differing)
        groups.setdefault(known, []).append(level)
    said = "; ".join(
        f"{len(levels)} {'run' if len(levels) == 1 else 'runs'} with {', '.join(known)} "
        f"({results.config.compare}: {', '.join(level for level in results.compared if level in levels)})"
        for known, levels in groups.items()
    )
    yield f"The runs were made with different versions or on different machines: {said}."
