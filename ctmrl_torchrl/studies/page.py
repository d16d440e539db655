"""A self-contained HTML page of a study or of a single run."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ctmrl_torchrl.evaluation import REFERENCES, format_summary_table, load_summary
from ctmrl_torchrl.progress import duration
from ctmrl_torchrl.storage import expanded
from ctmrl_torchrl.studies.cells import Cell, Table
from ctmrl_torchrl.studies.config import study_text
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.figures import ReportFigure
from ctmrl_torchrl.studies.files import write_text
from ctmrl_torchrl.studies.gathered import StudyResults
from ctmrl_torchrl.studies.identity import what_matters
from ctmrl_torchrl.studies.origin import Origin, commit_of_package, machine, written_with
from ctmrl_torchrl.studies.page_parts import SCRIPT, STYLE, compact_png
from ctmrl_torchrl.studies.progress import counted
from ctmrl_torchrl.studies.tables import PUBLISHED

__all__ = ["study_page", "write_run_page"]

_RUN_FIGURES = ("adaptation", "trajectories", "context_map", "code_distances", "learning", "speed", "data")

#: marks pages written by this library
_GENERATOR = '<meta name="generator" content="ctmrl_torchrl">'


def study_page(
    results: StudyResults, tables: Sequence[Table], figures: Sequence[ReportFigure], origin: Origin
) -> str:
    """The page of a study, which needs no network and no other files.

    Args:
        results: results of the study.
        tables, figures: contents of the page.
        origin: commands, commit, versions, machine.
    """
    study = results.config
    done, total = len(results.done()), len(results.runs)
    failed = [each for each in results.runs if each.state == "failed"]
    facts = [
        f"{done} of {total} runs done",
        *([f"{len(failed)} failed"] if failed else []),
        f"compared: {study.compare}",
        f"{duration(origin.core_hours * 3600)} of one core",
    ]
    shared = _shared([each.run.configuration for each in results.runs])
    parts = [
        _header(study.name, study.description, facts),
        _notes(results.notes),
        *(_section(table.title, _table(table), _list(_of_table(table, results.notes))) for table in tables),
        _section("Figures", _figures(figures)) if figures else "",
        _section("Failed runs", _pairs({each.run.label: each.error for each in failed})) if failed else "",
        _section("Runs", _runs(results)),
        _section(
            "Configuration",
            "" if origin.reports else _details("The study", _code(study_text(study))),
            _details("Fields that all runs share", _pairs(shared)),
        ),
        _section(
            "How to make these numbers again",
            f"<p>{_how(study.name, origin)}</p>",
            _code(origin.command),
            _details("The command of every run", _code("\n".join(origin.commands.values()))),
            _pairs(written_with(origin.commit) | origin.versions | origin.machine),
            _pairs({f"data {fingerprint}": what for fingerprint, what in origin.data.items()}),
        ),
    ]
    return _document(f"Study {study.name}", parts)


def _how(name: str, origin: Origin) -> str:
    if origin.reports:
        return f"From the reports {_text(', '.join(origin.reports))}:"
    return f"Save the study above as <code>{_text(name)}.yaml</code>, then:"


def write_run_page(folder: str | Path) -> Path:
    """Write the page of a single run, ``report.html``, to its folder; an earlier page is replaced.

    Args:
        folder: folder of a finished run; its ``summary.json``, ``config.yaml`` and ``figures/`` are read.

    Raises:
        SummaryError: if the summary breaks its contract.
        StudyError: if there is a ``report.html`` from another source.
    """
    folder = expanded(folder)
    page = folder / "report.html"
    if page.exists() and _GENERATOR not in page.read_text(encoding="utf-8", errors="replace"):
        raise StudyError(f"{page} was not written by this library and is not replaced; move it away.")
    summary = load_summary(folder / "summary.json")
    file = folder / "config.yaml"
    try:
        configuration = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StudyError(f"{file} cannot be read ({reason}); restore it from a copy.") from error
    drawn = sorted((folder / "figures").glob("*.png"), key=_place)
    figures = [ReportFigure(each, each.stem.replace("_", " ").capitalize()) for each in drawn]
    facts = [
        summary["env"],
        f"preset {summary['preset']}",
        f"seed {summary['seed']}",
        f"{summary['updates']:,} updates",
        duration(summary["wall_time_s"]),
    ]
    parts = [
        _header(f"{summary['method']} + {summary['policy_loss']}", "", facts),
        *(_section(table.title, _table(table), _list(table.notes)) for table in _run_tables(summary)),
        _section("Figures", _figures(figures)) if figures else "",
        _section("Data", _pairs(_flattened(summary["dataset"]))),
        _section("Summary as text", _code(format_summary_table(summary))),
        _section("Configuration", _details("All fields", _code(_yaml(configuration))))
        if configuration
        else "",
        _section(
            "How to make these numbers again",
            _code(str(summary.get("command", "not recorded"))),
            _pairs(written_with(commit_of_package()) | summary["versions"] | machine()),
        ),
    ]
    title = f"{summary['env']}, {summary['method']}, seed {summary['seed']}"
    return write_text(page, _document(title, parts))


def _run_tables(summary: Mapping[str, Any]) -> Iterable[Table]:
    for split, protocols in summary["returns"].items():
        if not protocols:
            continue
        rows = []
        for name, result in protocols.items():
            episodes = result["per_episode"]
            low, high = result["ci95"]
            rows.append(
                (Cell(text=name), Cell(episodes[0]), Cell(result["mean"], (low, high)),
                 Cell(text=f"{len(episodes)}"))
            )  # fmt: skip
        reference = summary["reference"] if split == "test" else summary["reference"].get("train", {})
        for name, label in REFERENCES.items():
            if reference.get(name) is not None:
                rows.append((Cell(text=label), Cell(), Cell(reference[name]), Cell()))
        tasks = "unseen test tasks" if split == "test" else "training tasks"
        yield Table(
            f"returns-{split}",
            f"Return on {tasks}",
            ("protocol", "before adaptation", "final", "episodes"),
            tuple(rows),
            3,
            ("Means over tasks with 95 % bootstrap intervals over tasks, of one seed.",),
        )


def _place(file: Path) -> tuple[int, str]:
    known = file.stem in _RUN_FIGURES
    return (_RUN_FIGURES.index(file.stem) if known else len(_RUN_FIGURES)), file.stem


def _of_table(table: Table, notes: Sequence[str]) -> list[str]:
    """The notes of one table; notes on all tables are at the top of the page."""
    return [note for note in table.notes if note not in notes]


def _shared(configurations: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    first, *others = [what_matters(each) for each in configurations]
    return {
        name: str(value) for name, value in first.items() if all(each.get(name) == value for each in others)
    }


def _flattened(values: Mapping[str, Any], path: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flattened(value, f"{path}{name}.")
        else:
            found[f"{path}{name}"] = f"{value:,}" if type(value) is int else str(value)
    return found


def _runs(results: StudyResults) -> str:
    names = list(results.config.factors)
    head = "".join(f"<th>{_text(name)}</th>" for name in (*names, "state", "minutes", "folder"))
    lines = []
    for each in results.runs:
        minutes = "" if each.summary is None else f"{each.summary['wall_time_s'] / 60:.1f}"
        cells = [
            *each.run.levels.values(),
            each.state,
            minutes,
            "" if each.folder is None else each.folder.name,
        ]
        lines.append(
            f'<tr class="{each.state}">' + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>"
        )
    return _details(counted(len(lines), "run"), _sortable(head, "".join(lines)))


def _sortable(head: str, rows: str) -> str:
    table = f'<table class="sort"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in table.header)
    rows = "".join(_row(row, table.digits) for row in table.rows)
    return _sortable(head, rows)


def _row(row: Sequence[Cell], digits: int) -> str:
    kind = ' class="aside"' if any(cell.text == PUBLISHED for cell in row) else ""
    return f"<tr{kind}>{''.join(_cell(cell, digits) for cell in row)}</tr>"


def _cell(cell: Cell, digits: int) -> str:
    if cell.value is None:
        kind = ' class="failed"' if cell.failed else ""
        return f"<td{kind}>{_text(cell.plain(digits))}</td>"
    number = f"{cell.value:z.{digits}f}".replace("-", "\u2212")
    mark = "b" if cell.best else "u" if cell.within else "span"
    ends = ""
    if cell.interval is not None:
        low, high = (f"{end:z.{digits}f}".replace("-", "\u2212") for end in cell.interval)
        ends = f"<small>[{low}, {high}]</small>"
    remark = f'<small class="failed">{_text(cell.remark())}</small>' if cell.remark() else ""
    if cell.text:
        remark += f"<small>{_text(cell.text)}</small>"
    return f'<td class="n" data-v="{cell.value!r}"><{mark}>{number}</{mark}>{ends}{remark}</td>'


def _figures(figures: Sequence[ReportFigure]) -> str:
    large = "".join(_figure(each) for each in figures if not each.small)
    small = "".join(_figure(each) for each in figures if each.small)
    return large + (f'<div class="beside">{small}</div>' if small else "")


def _figure(figure: ReportFigure) -> str:
    caption = f"{_text(figure.title)}. {_text(figure.caption)}".strip()
    try:
        data = base64.b64encode(compact_png(figure.file)).decode("ascii")
        image = f'<img alt="{_text(figure.title)}" src="data:image/png;base64,{data}">'
    except OSError as error:  # damaged since the run wrote it
        image = f"<p>This figure cannot be read: {_text(str(error))}</p>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _header(title: str, description: str, facts: Iterable[str]) -> str:
    chips = "".join(f"<span>{_text(fact)}</span>" for fact in facts)
    return f'<header><h1>{_text(title)}</h1><p>{_text(description)}</p><p class="facts">{chips}</p></header>'


def _notes(notes: Sequence[str]) -> str:
    return f"<aside><h2>Read this first</h2>{_list(notes)}</aside>" if notes else ""


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{''.join(parts)}</section>"


def _details(title: str, content: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{content}</details>"


def _list(entries: Iterable[str]) -> str:
    lines = "".join(f"<li>{_text(entry)}</li>" for entry in entries)
    return f"<ul>{lines}</ul>" if lines else ""


def _pairs(values: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in values.items()
    )
    return f'<div class="wide"><table class="pairs">{rows}</table></div>'


def _code(text: str) -> str:
    return f"<pre>{_text(text)}</pre>"


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, width=100)


def _text(value: Any) -> str:
    return html.escape(str(value))


def _document(title: str, parts: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{_GENERATOR}'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main><script>{SCRIPT}</script></body></html>\n"
    )
