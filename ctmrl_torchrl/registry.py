"""One small mechanism for every choice: a name, what it stands for, and an error that helps."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar, overload

T = TypeVar("T")


class UnknownChoiceError(ValueError):
    """A name that no choice has; the message lists the choices and the nearest name."""


def nearest(name: object, known: Iterable[str]) -> str:
    """``" Did you mean 'iql'?"`` where a known name is close to the one given, else nothing.

    Examples:
        >>> nearest("iqll", ["brac_sac", "iql"])
        " Did you mean 'iql'?"
        >>> nearest("zzz", ["brac_sac", "iql"])
        ''
    """
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


class Registry(Generic[T]):
    """Named choices of one kind, filled by decorators or calls and looked up when they are needed.

    Nothing freezes the names: what a user's file registers is a choice from then on, in every check, error
    message and table.

    Args:
        kind (str): what the choices are, as error messages call one: ``"policy loss"``.

    Raises:
        UnknownChoiceError: by :meth:`get`, for a name that is not registered.
        ValueError: by :meth:`register`, for a name that is taken by another choice.

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
    def register(self, name: str) -> Callable[[T], T]: ...

    @overload
    def register(self, name: str, choice: T) -> T: ...

    def register(self, name: str, choice: T | None = None) -> T | Callable[[T], T]:
        """Add a choice; without one, a decorator that adds what it decorates.

        Registering the same object again changes nothing, so that a file may be imported twice.
        """
        if choice is None:
            return lambda decorated: self.register(name, decorated)
        if not isinstance(name, str) or not name:
            raise ValueError(f"The name of a {self.kind} must be a non-empty string, got {name!r}.")
        if self._choices.get(name, choice) is not choice:
            raise ValueError(f"The {self.kind} {name!r} is registered already; choose another name.")
        self._choices[name] = choice
        return choice

    def unregister(self, name: str) -> None:
        """Remove a choice, e.g. at the end of a test."""
        self._choices.pop(name, None)

    def get(self, name: str) -> T:
        """The choice of this name."""
        try:
            return self._choices[name]
        except (KeyError, TypeError):
            raise UnknownChoiceError(
                f"Unknown {self.kind} {name!r}.{nearest(name, self._choices)} "
                f"Known: {', '.join(sorted(self._choices))}."
            ) from None

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
