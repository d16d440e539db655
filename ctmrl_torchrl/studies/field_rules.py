"""What the fields of a study may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctmrl_torchrl.rules import Rule, is_number

__all__ = [
    "NAME",
    "OVERRIDES",
    "FACTORS",
    "EXCLUDED",
    "SENTENCE",
    "RUNNER",
    "as_text",
    "field_of",
    "is_scalar",
    "labels",
]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.replace("_", "a").replace("-", "a").isalnum()


def as_text(value: Any) -> str:
    """Format a value for Hydra's command line.

    Examples:
        >>> as_text(True), as_text(0.1), as_text("focal")
        ('true', '0.1', 'focal')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def field_of(override: str) -> str:
    """The field that an override sets.

    Examples:
        >>> field_of("+schedule.updates=8")
        'schedule.updates'
    """
    return override.lstrip("+~").partition("=")[0]


def labels(value: Any) -> list[str]:
    """The levels of a list, or of one value, as texts."""
    return [as_text(each) for each in (value if isinstance(value, list) else [value])]


def is_scalar(value: Any) -> bool:
    """Whether a value can be a level: a text, a number or a switch."""
    return isinstance(value, (str, bool)) or is_number(value)


def _is_factor(levels: Any) -> bool:
    if isinstance(levels, Mapping):
        return bool(levels) and all(
            is_scalar(name)
            and isinstance(overrides, list)
            and all(isinstance(each, str) and "=" in each for each in overrides)
            for name, overrides in levels.items()
        )
    return isinstance(levels, list) and bool(levels) and all(is_scalar(level) for level in levels)


def _is_choice(value: Any) -> bool:
    return is_scalar(value) or (isinstance(value, list) and bool(value) and all(map(is_scalar, value)))


NAME = Rule(_is_name, "a name of letters, digits, '-' and '_'")
OVERRIDES = Rule(
    lambda value: isinstance(value, list) and all(isinstance(each, str) and "=" in each for each in value),
    "a list of overrides, each 'field=value'",
)
FACTORS = Rule(
    lambda value: (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) for name in value)
        and all(map(_is_factor, value.values()))
    ),
    "a mapping from a field to a list of its values, or from a name to {level: [overrides]}",
)
EXCLUDED = Rule(
    lambda value: (
        isinstance(value, list)
        and all(
            isinstance(each, Mapping) and each and all(_is_choice(v) for v in each.values()) for each in value
        )
    ),
    "a list of {factor: level or list of levels}",
)
SENTENCE = Rule(lambda value: isinstance(value, str), "a text")
RUNNER = Rule(
    lambda value: isinstance(value, Mapping) and isinstance(value.get("name"), str),
    "a mapping with the runner's name: {name: local}",
)
