"""Changes to a study from the command line: selected levels, fields, and overrides of every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ctmrl_torchrl.registry import nearest
from ctmrl_torchrl.rules import ConfigError, require
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.field_rules import as_text, labels

__all__ = ["LEVELS_OF_REPORT", "apply_change", "prune_exclusions", "prune_report"]

#: fields of a study's report that name a level of the compared factor
LEVELS_OF_REPORT = ("baseline", "oracle")


def apply_change(content: dict[str, Any], override: str, known: Sequence[str]) -> None:
    """Apply one change to a study's content: ``seeds=[0,1]``, ``runner=ray``, ``+field=value``.

    Args:
        content: the study as in its file. override: the change. known: names of a study's fields.

    Raises:
        StudyError: if the change cannot be read.
        ConfigError: for a name that is neither a field nor a factor, or a level that does not exist.
    """
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise StudyError(f"The override {override!r} must have the form field=value.")
    if name.startswith("+"):
        others = [each for each in content.get("fixed") or [] if str(each).partition("=")[0] != name[1:]]
        content["fixed"] = [*others, f"{name[1:]}={text}"]
        return
    try:
        value = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise StudyError(f"The value of {override!r} cannot be read: {error}") from error
    factors = content.setdefault("factors", {})
    factor = next((each for each in (name, name.removesuffix("s")) if each in factors), None)
    if factor is not None:
        require(
            not isinstance(value, str) or "," not in value or text.startswith(('"', "'")),
            name,
            text,
            f"a list with brackets for several levels: {name}=[{text}]",
        )
        factors[factor] = _chosen(factor, factors[factor], value if isinstance(value, list) else [value])
        return
    if name == "runner" and isinstance(value, str):
        value = {"name": value}
    *path, last = name.split(".") if not name.startswith("factors.") else ("factors", name[8:])
    if (path or [name])[0] not in known:
        choices = [*known, *(f"{each}s" for each in factors)]
        raise ConfigError(
            f"config field {name}: the study has neither a field nor a factor of this name."
            f"{nearest(name, choices)} For an override of every run write +{override}."
        )
    place = content
    for step in path:
        place = place.setdefault(step, {"name": "local"} if step == "runner" else {})
        if not isinstance(place, dict):
            raise StudyError(f"The override {override!r} is invalid: {step!r} is not a section.")
    place[last] = value


def prune_exclusions(content: dict[str, Any]) -> None:
    """Remove exclusions of levels that overrides removed from the grid."""
    kept = []
    for each in content.get("exclude") or []:
        if not set(each) <= set(content["factors"]):  # for the study's own check
            kept.append(each)
            continue
        left = {
            name: [level for level in labels(chosen) if level in labels(list(content["factors"][name]))]
            for name, chosen in each.items()
        }
        if all(left.values()):
            kept.append(left)
    content["exclude"] = kept


def prune_report(content: dict[str, Any], compare: str, own: Mapping[str, str | None]) -> None:
    """Drop the levels that the study's file names for its report, if changes removed them from the grid.

    Args:
        content: the changed study.
        compare: the compared factor of the study's file.
        own: the fields of its report that name levels. One that a change has set is kept.
    """
    report = content.get("report") or {}
    left = labels(list(content["factors"].get(compare, ())))
    for name, level in own.items():
        kept = level is None or level in left or content.get("compare", compare) != compare
        if not kept and report.get(name) is not None and as_text(report[name]) == level:
            report[name] = None


def _chosen(factor: str, levels: Any, wanted: list[Any]) -> Any:
    """The selected levels; levels with overrides are selected by name.

    Where every level is a value of the factor, as ``csro: [method=csro]``, other values are levels, too.
    """
    if not isinstance(levels, Mapping):
        return wanted
    named = {as_text(name): overrides for name, overrides in levels.items()}
    if all(f"{factor}={name}" in overrides for name, overrides in named.items()):
        return {name: named.get(name, [f"{factor}={name}"]) for name in map(as_text, wanted)}
    unknown = next((as_text(each) for each in wanted if as_text(each) not in named), None)
    if unknown is not None:
        raise ConfigError(
            f"config field factors.{factor}: it has no level {unknown!r}.{nearest(unknown, named)} "
            f"Known: {', '.join(named)}."
        )
    return {as_text(each): named[as_text(each)] for each in wanted}
