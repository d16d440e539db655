"""The configuration of a study, read from a YAML file: the grid of runs, the comparison and the report."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ctmrl_torchrl import rules
from ctmrl_torchrl.registry import nearest
from ctmrl_torchrl.rules import (
    TEXT,
    ConfigError,
    check_fields,
    different,
    list_of,
    require,
    ruled,
)
from ctmrl_torchrl.studies.changes import LEVELS_OF_REPORT, apply_change, prune_exclusions, prune_report
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.field_rules import (
    EXCLUDED,
    FACTORS,
    NAME,
    OVERRIDES,
    RUNNER,
    SENTENCE,
    as_text,
    field_of,
    is_scalar,
    labels,
)
from ctmrl_torchrl.studies.places import study_file, study_names
from ctmrl_torchrl.studies.report_config import ReportConfig
from ctmrl_torchrl.training.validate import protocol_names

__all__ = ["ReportConfig", "StudyConfig", "load_study"]

SEED = "seed"
#: the factor whose levels no table mixes
APART = "comparison"


#: folder of runs and records, beside those of the reports
_STORE = "store"
#: fields that a study sets itself for every run
_OWN = ("run_dir", "resume", "overwrite", "seeds")


@dataclass
class StudyConfig:
    """A study: a grid of runs and their comparison.

    Args:
        name (str): name of the study and of its report's folder.
        description (str): one sentence for the report.
        factors (dict): the grid. A configuration field with its values, ``{seed: [0, 1]}``, or a name with
            levels that are lists of overrides:
            ``{variant: {full: [], plain: [representation.kmeans=false]}}``.
        fixed (list of str): overrides for every run.
        compare (str): the factor to compare; the others except ``seed`` are the table's rows.
        protocols (list of str): adaptation protocols of every run; empty uses the configuration's protocols.
        exclude (list of dict): excluded combinations: ``{env: ant_goal, method: [focal, csro]}``.
        report (ReportConfig): settings of the report.
        runner (dict): ``name`` of the runner and its options.
    """

    name: str = ruled("study", NAME)
    description: str = ruled("", SENTENCE)
    factors: dict[str, Any] = ruled({}, FACTORS)
    fixed: list[str] = ruled([], OVERRIDES)
    compare: str = ruled("method", TEXT)
    protocols: list[str] = ruled([], different(list_of(TEXT, 0)))
    exclude: list[dict[str, Any]] = ruled([], EXCLUDED)
    report: ReportConfig = field(default_factory=ReportConfig)
    runner: dict[str, Any] = ruled({"name": "local"}, RUNNER)

    def check(self) -> None:
        """Check every field and the combination of fields.

        Raises:
            ConfigError: for the first value that is not allowed.
        """
        check_fields(self)
        require(self.name != _STORE, "name", self.name, f"another name: {_STORE} is the folder of all runs")
        require(
            self.compare in self.factors and self.compare != SEED,
            "compare",
            self.compare,
            f"one of the factors other than seed: {', '.join(sorted(set(self.factors) - {SEED}))}",
            nearest(self.compare, set(self.factors) - {SEED}),
        )
        others = f"anything but {APART}, whose levels no table mixes; as a factor each gets its own tables"
        require(self.compare != APART, "compare", self.compare, others)
        seeds = self.factors.get(SEED, [])
        require(isinstance(seeds, list), f"factors.{SEED}", seeds, "a list of seeds")
        for name in self.factors:
            own = f"anything but {', '.join(_OWN)}, which the study sets itself"
            require(name not in _OWN, "factors", name, own)
            levels = self.levels(name)
            require(len(set(levels)) == len(levels), f"factors.{name}", levels, "a list with no value twice")
        self._check_overrides("fixed", self.fixed, None)
        for name, levels in self.factors.items():
            for level, overrides in levels.items() if isinstance(levels, Mapping) else ():
                self._check_overrides(f"factors.{name}.{level}", overrides, name)
        self._check_factors_apart()
        for seed in self.levels(SEED) if SEED in self.factors else ():
            number = int(seed) if re.fullmatch("[0-9]{1,10}", seed) else None
            require(rules.SEED.allows(number), f"factors.{SEED}", seed, rules.SEED.describe())
        for each in self.exclude:
            for name, chosen in each.items():
                hint = nearest(name, self.factors)
                require(name in self.factors, "exclude", name, "one of the factors", hint)
                levels = self.levels(name)
                for level in labels(chosen):
                    require(
                        level in levels,
                        f"exclude.{name}",
                        level,
                        f"one of its levels: {', '.join(levels)}",
                        nearest(level, levels),
                    )
        self.report.check_figures(self.protocols or protocol_names())
        levels = self.levels(self.compare)
        for name in LEVELS_OF_REPORT:
            level = getattr(self.report, name)
            allowed = f"one of the levels of {self.compare}: {', '.join(levels)}"
            known = level is None or level in levels
            require(known, f"report.{name}", level, allowed, nearest(str(level), levels))

    def _check_factors_apart(self) -> None:
        """Reject a field that levels of two factors set, of which the last would win silently."""
        owner: dict[str, str] = {}
        for factor, levels in self.factors.items():
            for overrides in levels.values() if isinstance(levels, Mapping) else ():
                for each in overrides:
                    name = field_of(each)
                    require(
                        owner.setdefault(name, factor) == factor,
                        f"factors.{factor}",
                        each,
                        f"no {name}, which levels of {owner[name]} set, too; join the two factors",
                    )

    def _check_overrides(self, where: str, overrides: Sequence[str], factor: str | None) -> None:
        """Reject overrides that a factor or the study itself would silently replace."""
        for each in overrides:
            name = field_of(each)
            require(
                name not in _OWN, where, each, f"anything but {', '.join(_OWN)}, which the study sets itself"
            )
            require(
                name not in self.factors or name == factor,
                where,
                each,
                f"no {name}, which is a factor of the study; choose its levels instead",
            )

    def levels(self, factor: str) -> tuple[str, ...]:
        """The levels of a factor as strings, in order."""
        return tuple(labels(list(self.factors[factor])))

    def overrides(self, factor: str, level: str) -> tuple[str, ...]:
        """The overrides of a level."""
        levels = self.factors[factor]
        if isinstance(levels, Mapping):
            return tuple(next(value for key, value in levels.items() if as_text(key) == level))
        return (f"{factor}={level}",)

    @property
    def baseline(self) -> str:
        """The level with which others are compared."""
        return self.report.baseline or self.levels(self.compare)[0]


def load_study(name: str | Path, overrides: Sequence[str] = (), folders: Iterable[Path] = ()) -> StudyConfig:
    """Read a study and apply overrides.

    Args:
        name: a study of ``configs/study``, or a YAML file.
        overrides: ``seeds=[0,1]`` (a factor's levels; the plural is accepted), ``runner=ray`` or
            ``runner.workers=4``, ``report.digits=3``, any other field, and ``+field=value`` for an override
            of every run, which replaces the study's own of that field. A field that a level sets is refused.
        folders: additional folders with studies.

    Raises:
        StudyError: if the study does not exist, the file cannot be read, or a level sets the field of ``+field``.
        ConfigError: for an unknown field or a value that is not allowed.

    Examples:
        >>> study = load_study("quick", ["seeds=[7]", "+schedule.updates=80"])
        >>> study.levels("seed"), study.fixed[-1]
        (('7',), 'schedule.updates=80')
    """
    file = study_file(name, folders)
    if file is None:
        names = study_names(folders)
        raise StudyError(
            f"Unknown study {str(name)!r}.{nearest(name, names)} Give a YAML file or one of: "
            f"{', '.join(names)}."
        )
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Once)  # a safe loader
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StudyError(f"The study {file} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise StudyError(f"The study {file} must be a mapping with the field 'factors', got {content!r}.")
    content.setdefault("name", file.stem)
    study = study_from(content)
    if overrides:
        # The name of a runner comes before its options.
        for override in sorted(overrides, key=lambda each: not each.startswith("runner=")):
            apply_change(content, override, [each.name for each in fields(StudyConfig)])
        for name, rule, value in (
            ("factors", FACTORS, content.get("factors")),
            ("exclude", EXCLUDED, content.get("exclude") or []),
        ):
            require(rule.allows(value), name, value, rule.describe())
        prune_exclusions(content)
        prune_report(content, study.compare, {name: getattr(study.report, name) for name in LEVELS_OF_REPORT})
        whole, study = study, study_from(content)
        _refuse_replaced(study, overrides)
        study.report.notes += _selected(whole, study)
    return study


def _refuse_replaced(study: StudyConfig, overrides: Sequence[str]) -> None:
    """Reject an override of every run that a level would silently replace."""
    given = {name.lstrip("+") for name in map(_field_of, overrides) if name.startswith("+")}
    for factor, levels in study.factors.items():
        for level, own in levels.items() if isinstance(levels, Mapping) else ():
            for each in own:
                name = field_of(each)
                if name in given:
                    raise StudyError(
                        f"The override +{name} is not one of every run: the level {as_text(level)!r} of {factor} "
                        f"sets {each}. Select other levels with {factor}=[...], or change it in the study's file."
                    )


def _field_of(override: str) -> str:
    return override.partition("=")[0]


def _selected(whole: StudyConfig, study: StudyConfig) -> list[str]:
    """A note that names the factors with fewer levels than the study's file has."""
    fewer = [
        f"{factor} ({len(study.levels(factor))} of {len(whole.levels(factor))} levels)"
        for factor in study.factors
        if factor in whole.factors and set(study.levels(factor)) < set(whole.levels(factor))
    ]
    return [f"A selection of the study's grid: {', '.join(fewer)}."] if fewer else []


class _Once(yaml.SafeLoader):
    """A safe loader that rejects a key given twice, of which YAML would silently use the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping after comparing its keys."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
        if twice is not None:
            raise yaml.YAMLError(f"{twice!r} is given twice, line {node.start_mark.line + 1} and below")
        return super().construct_mapping(node, deep)


def study_from(content: Mapping[str, Any]) -> StudyConfig:
    """Create and check a study from plain values, as in a YAML file.

    Raises:
        ConfigError: for an unknown field or a value that is not allowed.
    """
    values = copy.deepcopy(dict(content))
    _refuse_unknown(values, StudyConfig, "")
    report = values.pop("report", None) or {}
    require(isinstance(report, Mapping), "report", report, "a mapping")
    _refuse_unknown(report, ReportConfig, "report.")
    report = dict(report)
    for name in LEVELS_OF_REPORT:
        if is_scalar(report.get(name)):  # a level such as 16
            report[name] = as_text(report[name])
    if isinstance(report.get("paper_columns"), Mapping):
        report["paper_columns"] = {as_text(key): value for key, value in report["paper_columns"].items()}
    study = StudyConfig(**values, report=ReportConfig(**report))
    study.check()
    return study


def study_text(study: StudyConfig) -> str:
    """Format a study as YAML for :func:`load_study`."""
    return yaml.safe_dump(asdict(study), sort_keys=False, width=100)


def _refuse_unknown(values: Mapping[str, Any], schema: type, path: str) -> None:
    known = [each.name for each in fields(schema)]
    for name in values:
        if name not in known:
            raise ConfigError(
                f"config field {path}{name}: a study has no such field.{nearest(name, known)} "
                f"Known: {', '.join(known)}."
            )
