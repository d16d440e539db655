"""The figures of a study."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctmrl_torchrl.evaluation import bootstrap_interval, mean_over_seeds
from ctmrl_torchrl.evaluation.figures import plot_adaptation_panels, plot_intervals, plot_profiles
from ctmrl_torchrl.studies.compare import compare_levels
from ctmrl_torchrl.studies.gathered import RunResult, StudyResults
from ctmrl_torchrl.studies.results_table import display_name

__all__ = ["ReportFigure", "figures_of_runs", "study_figures"]

#: figures of single runs that are shown side by side, if available
_OF_RUNS = {"context_map": "Context map", "code_distances": "Distances between codes"}
#: about as many of each kind make a page that can be sent
_MOST_OF_RUNS = 12


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report.

    Args:
        file: the PNG. title, caption: text for the page.
        small (bool): shown next to others instead of at full width.
    """

    file: Path
    title: str
    caption: str = ""
    small: bool = False


def study_figures(results: StudyResults, folder: str | Path) -> list[ReportFigure]:
    """Draw the figures of a study and select figures of its runs.

    Args:
        results: the study's results. folder: folder of the PNG files.

    Raises:
        ConfigError: if a protocol of ``report.figure_protocols`` is not one of the study's.
    """
    report, available = results.config.report, results.protocols()
    report.check_figures(available)
    folder, figures = Path(folder), []
    protocols = report.figure_protocols or available
    names = dict(zip(protocols, _file_names(protocols), strict=True))
    for protocol, name in names.items():
        figures += _intervals(results, protocol, folder / f"intervals-{name}.png")
    for protocol, name in names.items():
        figures += _adaptation(results, protocol, folder / f"adaptation-{name}.png")
    if report.profiles:
        figures += _profiles(results, protocols, folder)
    return figures + figures_of_runs(results)


def _intervals(results: StudyResults, protocol: str, file: Path) -> list[ReportFigure]:
    panels: dict[str, dict[str, Any]] = {}
    references: dict[str, dict[str, float]] = {}
    for row in results.rows():
        name = _panel(row)
        for level in results.compared:
            scores = results.scores(row, level, "test", protocol)
            if scores:
                estimate = mean_over_seeds(scores)
                low, high = estimate.interval or (None, None)
                entry = {"mean": estimate.value, "low": low, "high": high, "runs": scores}
                panels.setdefault(name, {})[level] = entry
        reference = results.references(row, "test")
        if reference.best is not None:
            references[name] = {reference.name: reference.best}
    if not panels:
        return []
    plot_intervals(
        panels,
        file,
        title=f"Return on unseen tasks under protocol {protocol}",
        subtitle="dots: seeds; bar: 95 % interval over seeds; mark: mean",
        references=references,
    )
    return [ReportFigure(file, f"Returns, protocol {protocol}", "A single seed has no interval.")]


def _adaptation(results: StudyResults, protocol: str, file: Path) -> list[ReportFigure]:
    panels: dict[str, dict[str, Any]] = {}
    references: dict[str, dict[str, float]] = {}
    for row in results.rows():
        name = _panel(row)
        for level in results.compared:
            curve = _curve(results, row, level, protocol)
            if curve is not None:
                panels.setdefault(name, {})[level] = curve
        reference = results.references(row, "test")
        if reference.best is not None:
            references[name] = {reference.name: reference.best}
    if not panels:
        return []
    plot_adaptation_panels(
        panels,
        file,
        title=f"Adaptation to unseen tasks under protocol {protocol}",
        subtitle="mean over seeds; bands: 95 % interval over seeds",
        references=references,
    )
    return [ReportFigure(file, f"Adaptation, protocol {protocol}")]


def _curve(results: StudyResults, row: Mapping[str, str], level: str, protocol: str) -> dict[str, Any] | None:
    entries = [
        each.summary["returns"].get("test", {}).get(protocol)
        for each in results.cell(row, level)
        if each.summary is not None
    ]
    episodes = [entry["per_episode"] for entry in entries if entry is not None and "per_episode" in entry]
    values = np.asarray(episodes, dtype=np.float64)
    if values.size == 0 or values.shape[1] == 1:  # one measured episode, as under none, is no curve
        return None
    curve: dict[str, Any] = {"mean": values.mean(0), "low": None, "high": None}
    if len(values) > 1:
        curve["low"], curve["high"] = np.transpose([bootstrap_interval(column) for column in values.T])
    return curve


def _profiles(results: StudyResults, protocols: Iterable[str], folder: Path) -> list[ReportFigure]:
    figures = []
    comparisons = [each for protocol in protocols for each in compare_levels(results, "test", protocol)]
    names = _file_names("-".join([*each.group.values(), each.protocol]) for each in comparisons)
    for comparison, name in zip(comparisons, names, strict=True):
        file = folder / f"profiles-{name}.png"
        group = " ".join([*comparison.group.values(), f"protocol {comparison.protocol}"])
        thresholds, profiles = comparison.profiles()
        over = ", ".join(map(display_name, comparison.environments))
        plot_profiles(thresholds, profiles, file, subtitle=f"{group}, unseen tasks of {over}")
        figures.append(
            ReportFigure(file, f"Performance profiles, {group}", "Bands: pointwise 95 % intervals.")
        )
    return figures


def figures_of_runs(results: StudyResults) -> list[ReportFigure]:
    """Figures of one finished seed of each cell, as many of each row as there is room for."""
    figures: list[ReportFigure] = []
    rows = results.rows()
    room = max(_MOST_OF_RUNS // len(rows), 1)
    for stem, title in _OF_RUNS.items():
        drawn = [
            [found for level in results.compared if (found := _drawn(results.cell(row, level), stem))]
            for row in rows
        ]
        shown = [
            ReportFigure(file, f"{title}: {label}", small=True)
            for found in drawn
            for file, label in found[:room]
        ]
        cells = sum(bool(results.cell(row, level)) for row in rows for level in results.compared)
        if shown and len(shown) < cells:
            have = sum(map(len, drawn))
            caption = f"{len(shown)} of {cells} cells; {have} have a run with this figure."
            shown[0] = replace(shown[0], caption=caption)
        figures += shown
    return figures


def _drawn(cell: list[RunResult], stem: str) -> tuple[Path, str] | None:
    """The figure of the first finished run that has it, and the run's label."""
    for each in cell:
        if each.summary is not None and each.folder is not None:
            file = each.folder / "figures" / f"{stem}.png"
            if file.is_file():
                return file, each.run.label
    return None


def _panel(row: Mapping[str, str]) -> str:
    return ", ".join(map(display_name, row.values())) or "all runs"


def _file_names(texts: Iterable[str]) -> list[str]:
    """A name for the file of every text, different also where a file system ignores case."""
    names: list[str] = []
    for text in texts:
        stem = re.sub(r"[^\w.-]+", "_", text)
        choices = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        taken = {name.casefold() for name in names}
        names.append(next(name for name in choices if name.casefold() not in taken))
    return names
