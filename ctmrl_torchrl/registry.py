"""Registries of named choices with helpful error messages."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar, overload

from ctmrl_torchrl.guests import forget_choice, note_choice

T = TypeVar("T")
_Choice = TypeVar("_Choice")


class UnknownChoiceError(ValueError):
    """An unknown name; the message lists the choices and the nearest name."""


def nearest(name: object, known: Iterable[str]) -> str:
    """``" Did you mean 'iql'?"`` if a known name is close to the given one, else an empty string.

    Examples:
        >>> nearest("iqll", ["brac_sac", "iql"])
        " Did you mean 'iql'?"
        >>> nearest("zzz", ["brac_sac", "iql"])
        ''
    """
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


class Registry(Generic[T]):
    """Named choices of one kind, registered by decorators or calls and looked up on demand.

    The names are never frozen: choices that a user's file registers are immediately available in every check,
    error message and table.

    Args:
        kind (str): name of the kind in error messages: ``"policy loss"``.

    Raises:
        UnknownChoiceError: raised by :meth:`get` for an unknown name.
        ValueError: raised by :meth:`register` if another choice has the name.

    Examples:
        >>> shapes = Registry("shape")
        >>> @shapes.register("circle")
        ... class Circle: ...
        >>> shapes.get("circle") is Circle, "square" in shapes, shapes.names()
        (True, False, ('circle',))
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._choices: dict[str, T] = {}

    @overload
    def register(self, name: str) -> Callable[[_Choice], _Choice]: ...

    @overload
    def register(self, name: str, choice: T) -> T: ...

    def register(self, name: str, choice: Any = None) -> Any:
        """Register a choice; without one, return a decorator that registers the decorated object.

        Registering the same object again has no effect. A class or function that is defined anew by the same
        module and under the same name takes the place of the earlier one, so a file may be imported twice.
        """
        if choice is None:
            return lambda decorated: self.register(name, decorated)
        if not isinstance(name, str) or not name:
            raise ValueError(f"The name of a {self.kind} must be a non-empty string, got {name!r}.")
        if not _same_definition(self._choices.get(name, choice), choice):
            raise ValueError(f"The {self.kind} {name!r} is already registered; choose another name.")
        self._choices[name] = choice
        note_choice(self.kind, name)
        return choice

    def unregister(self, name: str) -> None:
        """Remove a choice, e.g. at the end of a test."""
        self._choices.pop(name, None)
        forget_choice(self.kind, name)

    def get(self, name: str) -> T:
        """The choice of this name."""
        try:
            return self._choices[name]
        except (KeyError, TypeError):
            known = f"Known: {', '.join(sorted(self._choices))}."
            if not isinstance(name, str):
                message = f"The {self.kind} is chosen by its name, got {reprlib.repr(name)}. {known}"
            else:
                message = f"Unknown {self.kind} {name!r}.{nearest(name, self._choices)} {known}"
            raise UnknownChoiceError(message) from None

    def names(self) -> tuple[str, ...]:
        """All names, in the order of registration."""
        return tuple(self._choices)

    def items(self) -> tuple[tuple[str, T], ...]:
        """All names with their choices, in the order of registration."""
        return tuple(self._choices.items())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._choices

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._choices))

    def __len__(self) -> int:
        return len(self._choices)


def _same_definition(one: Any, other: Any) -> bool:
    """Whether two objects are the same, or come from running the same definition twice."""
    if one is other:
        return True
    # An instance has no name of its own, and lambdas and local definitions share theirs.
    places = {(getattr(each, "__module__", ""), getattr(each, "__qualname__", "<")) for each in (one, other)}
    return len(places) == 1 and "<" not in places.pop()[1]
