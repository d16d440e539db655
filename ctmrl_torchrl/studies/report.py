"""The report of a study: tables in three formats, figures, results as JSON, and the page."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from ctmrl_torchrl import storage
from ctmrl_torchrl.studies.config import study_text
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.figures import study_figures
from ctmrl_torchrl.studies.files import read_json, write_json, write_text
from ctmrl_torchrl.studies.formats import to_csv, to_latex, to_markdown
from ctmrl_torchrl.studies.gathered import StudyResults
from ctmrl_torchrl.studies.origin import Origin, origin_of
from ctmrl_torchrl.studies.page import study_page
from ctmrl_torchrl.studies.results_file import RESULTS, numbers_of
from ctmrl_torchrl.studies.tables import study_tables

__all__ = ["check_report_place", "write_report"]

#: the files that a report consists of
_SUFFIXES = (".csv", ".html", ".json", ".md", ".png", ".tex", ".yaml")


def write_report(results: StudyResults, folder: str | Path, origin: Origin | None = None) -> Path:
    """Write the complete report of a study.

    The folder then holds ``report.html`` (self-contained), ``tables.md``, a CSV and a LaTeX file per table,
    ``results.json``, ``figures/`` and the study itself, ``NAME.yaml``. Files of an earlier report are
    replaced, or deleted once the new report is complete without them; other files are not changed.

    Args:
        results: results of the study.
        folder: output folder.
        origin: where the numbers are from; by default what the runs have recorded.

    Returns:
        The page.

    Raises:
        StudyError: if no run is done, or files with these names do not belong to a report.
    """
    if not results.done():
        failed = [each for each in results.runs if each.state == "failed"]
        first = f" The first of {len(failed)} failed runs: {failed[0].error}" if failed else ""
        raise StudyError(f"The study {results.config.name!r} has no finished run to report.{first}")
    folder = check_report_place(folder, results.config.name)
    tables, origin = study_tables(results), origin_of(results) if origin is None else origin
    heading = f"# {results.config.name}\n\n{results.config.description}\n"
    texts = {"tables.md": "\n".join([heading, *map(to_markdown, tables)])}
    for table in tables:
        texts |= {f"{table.name}.csv": to_csv(table), f"{table.name}.tex": to_latex(table)}
    if not origin.reports:
        texts[f"{results.config.name}.yaml"] = study_text(results.config)
    with contextlib.ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        drawn = storage.temporary_path(folder / "figures")
        storage.clear_leftovers(folder / "figures", ours=_are_pictures)
        drawn.mkdir()
        stack.callback(shutil.rmtree, drawn, ignore_errors=True)
        figures = study_figures(results, drawn)
        texts["report.html"] = study_page(results, tables, figures, origin)
        pictures = sorted(drawn.glob("*.png"))
        names = [*texts, RESULTS, *(f"figures/{file.name}" for file in pictures)]
        _check_names(folder, names)
        kept = {name.casefold() for name in names}  # a file system may ignore case
        earlier = [name for name in _own_files(folder) if os.path.lexists(folder / name)]
        stale = [name for name in earlier if name.casefold() not in kept]
        numbers = numbers_of(results) | {"origin": dataclasses.asdict(origin), "files": names}
        # first, because it lists the report's files, and also those of the earlier one until they are gone
        write_json(folder / RESULTS, numbers | {"files": [*names, *stale]})
        for name, text in texts.items():
            write_text(folder / name, text)
        (folder / "figures").mkdir(exist_ok=True)
        for file in pictures:
            os.replace(file, folder / "figures" / file.name)
        if stale:
            _delete(folder, stale)
            write_json(folder / RESULTS, numbers)
    return folder / "report.html"


def check_report_place(folder: str | Path, name: str) -> Path:
    """Check that a report can be written to a folder, before the runs start; nothing is changed.

    Args:
        folder: folder of the report. name: name of the study.

    Raises:
        StudyError: with the file that would be replaced.
    """
    try:
        place = storage.resolved(folder)
        if place.exists() and not place.is_dir():
            raise storage.StorageError(f"{folder} is a file, not a folder; choose another root or name")
    except storage.StorageError as error:
        raise StudyError(f"The report cannot be written: {error}.") from error
    _check_names(place, ["report.html", "tables.md", RESULTS, f"{name}.yaml"])
    return place


def _check_names(folder: Path, names: Sequence[str]) -> None:
    """Reject replacing a file that no report has written, according to ``results.json``."""
    kept = read_json(folder / RESULTS)
    if kept is not None and {"study", "runs"} <= kept.keys() and "files" not in kept:
        return  # a report of an earlier version
    own = _own_files(folder)
    foreign = [name for name in names if name not in own and os.path.lexists(folder / name)]
    if (folder / "figures").exists() and not (folder / "figures").is_dir():
        foreign.append("figures")
    if foreign:
        raise StudyError(
            f"{folder / foreign[0]} was not written with a report and is not replaced; move it away, or choose "
            "another name or root for the study."
        )


def _own_files(folder: Path) -> list[str]:
    """The files of a folder's earlier report, as recorded in its ``results.json``."""
    files = (read_json(folder / RESULTS) or {}).get("files")
    return [name for name in files if isinstance(name, str)] if isinstance(files, list) else []


def _delete(folder: Path, names: Iterable[str]) -> None:
    """Delete files of an earlier report; a damaged list never leads out of its folder."""
    for name in names:
        file = Path(name)
        in_place = file.parts in ((file.name,), ("figures", file.name)) and file.suffix in _SUFFIXES
        if in_place and ((folder / file).is_file() or (folder / file).is_symlink()):
            (folder / file).unlink()


def _are_pictures(folder: Path) -> bool:
    return all(file.suffix == ".png" or ".png.tmp-" in file.name for file in folder.iterdir())
