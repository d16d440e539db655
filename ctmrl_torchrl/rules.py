"""Rules for configuration fields, defined next to the fields, and functions that check them.

A field has its rule as metadata: ``rate: float = ruled(3e-4, NOT_NEGATIVE)``. Checks across fields are methods
``check`` of the configuration class. :func:`check_fields` checks any dataclass, including user-defined ones.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from ctmrl_torchrl.registry import Registry, nearest

_RULE = "rule"
_ALLOCATES = "allocates"


class ConfigError(ValueError):
    """A configuration value is not allowed; the message contains the field, the value and what is allowed."""


class NotFiniteError(FloatingPointError):
    """A loss, parameter, context or return is not finite; the message names it."""


@dataclass(frozen=True)
class Rule:
    """A condition on a value.

    Args:
        allows: whether a value is allowed.
        description: description of allowed values for error messages; a function if it depends on
            registered choices.
        names: the allowed names, if the value is a name; for "did you mean".
    """

    allows: Callable[[Any], bool]
    description: str | Callable[[], str]
    names: Callable[[], Iterable[str]] | None = None

    def describe(self) -> str:
        """The description of allowed values."""
        return self.description if isinstance(self.description, str) else self.description()


def ruled(default: Any, rule: Rule, *, allocates: Literal["once", "per task"] | None = None) -> Any:
    """A dataclass field with a rule; a list (or other mutable default) is copied for every instance.

    Args:
        default: default value. rule: what the field may hold.
        allocates: for a field that sets the number of rows of a tensor: whether a run holds the tensor once or
            for each task of a batch. The memory estimate of a run counts these rows.

    Examples:
        >>> @dataclass
        ... class Sizes:
        ...     hidden: list = ruled([8], WIDTHS)
        >>> Sizes().hidden
        [8]
    """
    metadata = {_RULE: rule, _ALLOCATES: allocates}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def rule_of(configuration: Any, name: str) -> Rule | None:
    """The rule of a field, or None."""
    found = next((each for each in fields(configuration) if each.name == name), None)
    return None if found is None else found.metadata.get(_RULE)


def allocated_rows(configuration: Any, tasks: int) -> dict[str, int]:
    """Number of tensor rows that each field marked with ``allocates`` asks for, with ``tasks`` per batch.

    Examples:
        >>> @dataclass
        ... class Search:
        ...     queries: int = ruled(8, whole(1), allocates="per task")
        >>> allocated_rows(Search(), tasks=16)
        {'queries': 128}
    """
    held = {each.name: each.metadata.get(_ALLOCATES) for each in fields(configuration)}
    values = {name: getattr(configuration, name) for name, kind in held.items() if kind is not None}
    return {
        name: value * (tasks if held[name] == "per task" else 1)
        for name, value in values.items()
        if is_whole(value)
    }


def require(condition: bool, name: str, value: Any, description: str, hint: str = "") -> None:
    """Raise an error for a field's value unless the condition holds.

    Raises:
        ConfigError: with the field, its value and what is allowed.
    """
    if not condition:
        raise ConfigError(f"config field {name}: got {value!r}, allowed is {description}.{hint}")


def lacks_build(
    configuration: Any, base: type, registry: Registry[Any], section: str, call: str
) -> ConfigError:
    """The error of a configuration that inherits ``build`` from its abstract base class.

    Args:
        configuration: a dataclass instance with a ``name``. base: the base class.
        registry: the registered choices. section (str): its section, such as ``"encoder"``.
        call (str): the method with its arguments, such as ``"build(problem)"``.

    Examples:
        >>> @dataclass
        ... class Base:
        ...     name: str = "none"
        ...     def build(self): ...
        >>> class Mine(Base):
        ...     def biuld(self): ...
        >>> shapes = Registry("shape")
        >>> _ = shapes.register("mine", Mine)
        >>> print(lacks_build(Mine("mine"), Base, shapes, "shape", "build()"))
        config field shape.name: got 'mine', but its class Mine has no method build(). Did you mean 'build' \
where it defines 'biuld'?
        >>> print(lacks_build(Base(), Base, shapes, "shape", "build()"))
        config field shape.name: got 'none', which is not a registered shape; choose one of mine.
    """
    own, name = type(configuration), configuration.name
    if own is base:
        return ConfigError(
            f"config field {section}.name: got {name!r}, which is not a registered {registry.kind}; "
            f"choose one of {', '.join(sorted(registry))}."
        )
    close = difflib.get_close_matches("build", sorted(set(dir(own)) - set(dir(base))), n=1, cutoff=0.5)
    hint = f"Did you mean 'build' where it defines {close[0]!r}?" if close else "Define it there."
    return ConfigError(
        f"config field {section}.name: got {name!r}, but its class {own.__name__} has no method {call}. {hint}"
    )


def check_fields(configuration: Any, path: str = "") -> None:
    """Check every field that has a rule in this dataclass and in nested ones.

    Args:
        configuration: a dataclass instance.
        path (str): name of the configuration, used as a prefix of its fields: ``"policy_loss"``.

    Raises:
        ConfigError: for the first value that is not allowed.

    Examples:
        >>> @dataclass
        ... class Rates:
        ...     rate: float = ruled(3e-4, NOT_NEGATIVE)
        >>> check_fields(Rates(rate=-1.0), "policy")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.rules.ConfigError: config field policy.rate: got -1.0, allowed is a number ...
    """
    for each in fields(configuration):
        value, name = getattr(configuration, each.name), f"{path}.{each.name}" if path else each.name
        rule = each.metadata.get(_RULE)
        foreign = next((v for v in _entries(value) if hasattr(v, "dtype")), None)
        require(foreign is None, name, foreign, "a plain Python value, which records can hold (use .item())")
        if rule is not None and not _allowed(rule, value):
            hint = "" if rule.names is None else _hint(value, rule.names())
            require(False, name, value, rule.describe(), hint)
        if is_dataclass(value):
            check_fields(value, name)


def _entries(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _allowed(rule: Rule, value: Any) -> bool:
    """Whether a rule allows a value; values of wrong types, such as a string for a number, are not allowed."""
    try:
        return bool(rule.allows(value))
    except (TypeError, ValueError, AttributeError):
        return False


def _hint(value: Any, names: Iterable[str]) -> str:
    names = list(names)
    values = value if isinstance(value, (list, tuple)) else [value]
    unknown = next((each for each in values if each not in names), None)
    return "" if unknown is None else nearest(unknown, names)


def is_whole(value: Any) -> bool:
    """Whether it is an integer and not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number, not a boolean, and small enough for a float.

    Examples:
        >>> is_number(0.5), is_number(True), is_number(10**400)
        (True, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _is_list_of(values: Any, rule: Rule, least: int) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) >= least
        and all(rule.allows(value) for value in values)
    )


def whole(least: int) -> Rule:
    """An integer of at least ``least``."""
    return Rule((lambda value: is_whole(value) and value >= least), f"a whole number of at least {least}")


def among(*names: str) -> Rule:
    """One of these names."""
    return Rule((lambda value: value in names), "one of " + ", ".join(names), lambda: names)


def registered(registry: Registry[Any]) -> Rule:
    """A name that is registered at the time of the check."""
    return Rule(
        lambda value: value in registry,
        lambda: "one of " + ", ".join(sorted(registry)),
        registry.names,
    )


def or_none(rule: Rule) -> Rule:
    """A value that the rule allows, or None."""
    return Rule(
        lambda value: value is None or rule.allows(value), lambda: f"{rule.describe()}, or null", rule.names
    )


def list_of(rule: Rule, least: int) -> Rule:
    """A list of at least ``least`` values that the rule allows."""
    return Rule(
        lambda values: _is_list_of(values, rule, least),
        lambda: f"a list of at least {least}, each {rule.describe()}",
        rule.names,
    )


def different(rule: Rule) -> Rule:
    """A list that the rule allows, without duplicates."""
    return Rule(
        lambda values: rule.allows(values) and len(set(values)) == len(values),
        lambda: f"{rule.describe()}, none of them twice",
        rule.names,
    )


def _bounds(values: Any) -> bool:
    return _is_list_of(values, whole(1), 2) and len(values) == 2 and values[0] <= values[1]


SHARE = Rule((lambda value: is_number(value) and 0.0 <= value <= 1.0), "a number from 0 to 1")
POSITIVE_SHARE = Rule((lambda value: is_number(value) and 0.0 < value <= 1.0), "a number above 0, at most 1")
SHARE_BELOW_ONE = Rule((lambda value: is_number(value) and 0.0 <= value < 1.0), "a number from 0 to below 1")
SHARE_BELOW_HALF = Rule(
    (lambda value: is_number(value) and 0.0 <= value < 0.5), "a number from 0 to below 0.5"
)
BETWEEN_ZERO_AND_ONE = Rule(
    (lambda value: is_number(value) and 0.0 < value < 1.0), "a number between 0 and 1, both excluded"
)
POSITIVE = Rule((lambda value: is_number(value) and value > 0), "a positive number")
NOT_NEGATIVE = Rule((lambda value: is_number(value) and value >= 0), "a number of at least 0")
NUMBER = Rule(is_number, "a finite number")
SWITCH = Rule((lambda value: isinstance(value, bool)), "true or false")
BOUNDS = Rule(_bounds, "a pair [least, most] of whole numbers with 1 <= least <= most")
WIDTHS = list_of(whole(1), 1)
SEED = Rule((lambda value: is_whole(value) and 0 <= value < 2**31), "a whole number from 0 to 2**31 - 1")
TEXT = Rule((lambda value: isinstance(value, str) and bool(value.strip())), "a text that is not empty")
