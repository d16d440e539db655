"""The report of a study: tables in three formats, figures, the numbers as JSON, and the page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ctmrl_torchrl.studies.config import study_text
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.figures import study_figures
from ctmrl_torchrl.studies.files import write_json, write_text
from ctmrl_torchrl.studies.formats import to_csv, to_latex, to_markdown
from ctmrl_torchrl.studies.gather import StudyResults
from ctmrl_torchrl.studies.origin import origin_of
from ctmrl_torchrl.studies.page import study_page
from ctmrl_torchrl.studies.results import rounded
from ctmrl_torchrl.studies.tables import study_tables

__all__ = ["write_report"]


def write_report(results: StudyResults, folder: str | Path) -> Path:
    """Write everything that the report of a study consists of.

    The folder then holds ``report.html`` (self-contained), ``tables.md``, a CSV and a LaTeX file per table,
    ``results.json``, ``figures/`` and the study itself, ``NAME.yaml``. Files of the same names
    are replaced, others are left alone.

    Args:
        results: of the study.
        folder: where to.

    Returns:
        The page.

    Raises:
        StudyError: if no run is done.
    """
    if not results.done():
        failed = [each for each in results.runs if each.state == "failed"]
        first = f" The first of {len(failed)} failed runs: {failed[0].error}" if failed else ""
        raise StudyError(f"The study {results.config.name!r} has no finished run to report.{first}")
    folder = Path(folder)
    tables = study_tables(results)
    heading = f"# {results.config.name}\n\n{results.config.description}\n"
    write_text(folder / "tables.md", "\n".join([heading, *map(to_markdown, tables)]))
    for table in tables:
        write_text(folder / f"{table.name}.csv", to_csv(table))
        write_text(folder / f"{table.name}.tex", to_latex(table))
    figures = study_figures(results, folder / "figures")
    origin = origin_of(results)
    write_text(folder / f"{results.config.name}.yaml", study_text(results.config))
    write_json(folder / "results.json", _numbers(results) | {"origin": dataclasses.asdict(origin)})
    return write_text(folder / "report.html", study_page(results, tables, figures, origin))


def _numbers(results: StudyResults) -> dict[str, Any]:
    """The returns of every run, small enough to be kept in a repository."""
    runs = []
    for each in results.runs:
        entry: dict[str, Any] = {"levels": dict(each.run.levels), "state": each.state, "identity": each.key}
        if each.error and each.state == "failed":
            entry["error"] = each.error
        if each.summary is not None:
            entry["returns"] = {
                split: {name: result["mean"] for name, result in protocols.items()}
                for split, protocols in each.summary["returns"].items()
            }
            entry["wall_time_s"] = each.summary["wall_time_s"]
        runs.append(entry)
    study = dataclasses.asdict(results.config)
    return rounded({"study": study, "notes": list(results.notes), "runs": runs}, 6)
