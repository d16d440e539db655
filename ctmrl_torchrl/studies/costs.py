"""What the adaptation behind a table's returns has cost: episodes, environment steps and oracle answers."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from ctmrl_torchrl.studies.cells import Cell, Table
from ctmrl_torchrl.studies.gathered import StudyResults
from ctmrl_torchrl.studies.results_table import display_name

__all__ = ["UNITS", "cost_table"]

UNITS = {"episodes": "episodes", "env_steps": "environment steps", "oracle_answers": "oracle answers"}


def cost_table(results: StudyResults) -> Table | None:
    """Cost of the adaptation to an unseen task before the last episode; None if no run has recorded it."""
    places = [(row, protocol) for row in results.rows() for protocol in results.protocols()]
    found = {
        (index, level): _mean_cost(results, row, level, protocol)
        for index, (row, protocol) in enumerate(places)
        for level in results.compared
    }
    if not any(found.values()):
        return None
    asked = any(cost.get("oracle_answers") for cost in found.values())
    units = [name for name in UNITS if asked or name != "oracle_answers"]
    rows = []
    for index, (row, protocol) in enumerate(places):
        names = (*map(display_name, row.values()), protocol)
        cells = [_shown(found[index, level], units) for level in results.compared]
        if any(cells):
            rows.append((*(Cell(text=name) for name in names), *(Cell(text=text or "-") for text in cells)))
    return Table(
        "cost-test",
        "Adaptation cost on unseen test tasks",
        (*results.row_factors, "protocol", *results.compared),
        tuple(rows),
        notes=(
            f"{' / '.join(UNITS[name] for name in units)} before the last episode, whose return the other "
            "tables show; mean over tasks and runs. Stored episodes, as under offline, cost no steps.",
            *results.notes,
        ),
    )


def _mean_cost(results: StudyResults, row: Mapping[str, str], level: str, protocol: str) -> dict[str, float]:
    """The mean cost of the finished runs of a cell; empty if none has recorded it."""
    costs = results.costs(row, level, "test", protocol)
    return {name: fmean(cost[name] for cost in costs) for name in UNITS} if costs else {}


def _shown(cost: Mapping[str, float], units: list[str]) -> str:
    return " / ".join(f"{round(cost[name], 1):g}" for name in units) if cost else ""
