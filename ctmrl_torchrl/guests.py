"""Modules outside the library that have registered choices, and how other processes get them."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tokenize
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = [
    "Guest",
    "code_digest",
    "file_digest",
    "forget_choice",
    "guests_of",
    "names_in",
    "note_choice",
    "plugin_of",
]

_LIBRARY = __name__.partition(".")[0]
_IMPORTING = ("importlib", "_frozen_importlib")
#: marks a module that :func:`~ctmrl_torchrl.training.plugins.load_plugin` has loaded from a file
PLUGIN_MARK = "__ctmrl_plugin__"
#: tokens that do not change what a file does
_SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER)
#: the module that has registered a choice, by kind and name of the choice
_ORIGINS: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Guest:
    """A module outside the library that has registered a choice.

    Args:
        module: its name. file: its source file, empty for an interactive session.
        choice: name of a choice that it has registered.
        digest: of the code in the source file when this was made; modules that the file imports are not part of
            it.
    """

    module: str
    file: str
    choice: str
    digest: str = ""

    @property
    def changed(self) -> bool:
        """Whether the code in the source file has changed since this was made."""
        return bool(self.digest) and self.digest != file_digest(self.file)


def code_digest(text: str) -> str:
    """The sha256 of a program without its comments and its layout.

    Examples:
        >>> code_digest("x = 1  # one") == code_digest("x  =  1") != code_digest("x = 2")
        True
    """
    try:
        tokens = [
            {tokenize.INDENT: "{", tokenize.DEDENT: "}", tokenize.NEWLINE: "\n"}.get(token.type, token.string)
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type not in _SILENT
        ]
    except (tokenize.TokenError, SyntaxError):  # a file may have been damaged since it was imported
        tokens = [text]
    return hashlib.sha256("\0".join(tokens).encode()).hexdigest()


def file_digest(file: str) -> str:
    """The digest of the code in a source file; empty without a file, or if it is gone or inside an archive."""
    try:
        return code_digest(Path(file).read_text(encoding="utf-8", errors="replace")) if file else ""
    except OSError:
        return ""


def note_choice(kind: str, name: str) -> None:
    """Remember the module that registers a choice, unless it belongs to the library."""
    module = _caller(sys._getframe(1))
    if module is not None:
        _ORIGINS[kind, name] = module


def forget_choice(kind: str, name: str) -> None:
    """Forget a choice that is not registered any more."""
    _ORIGINS.pop((kind, name), None)


def guests_of(names: Collection[str]) -> tuple[Guest, ...]:
    """The modules that have registered choices of these names, in the order of registration.

    Examples:
        >>> guests_of(["ctmrl", "point_robot"])
        ()
    """
    found: dict[str, Guest] = {}
    for (_, name), module in _ORIGINS.items():
        if name in names and module not in found:
            file = getattr(sys.modules.get(module), "__file__", None)
            path = "" if file is None else os.path.abspath(file)
            found[module] = Guest(module, path, name, file_digest(path))
    return tuple(found.values())


def names_in(configuration: Any) -> Iterator[str]:
    """All texts among the values of a configuration; some of them are names of choices.

    Examples:
        >>> sorted(names_in({"env": "a", "evaluation": {"protocols": ["np"], "every": 0}}))
        ['a', 'np']
    """
    if isinstance(configuration, str):
        yield configuration
    elif isinstance(configuration, Mapping):
        for value in configuration.values():
            yield from names_in(value)
    elif isinstance(configuration, (list, tuple)):
        for value in configuration:
            yield from names_in(value)


def plugin_of(guest: Guest) -> str | None:
    """The argument of ``--plugin`` that loads a guest; ``None`` for a program or an interactive session.

    A file below the working folder has its path. Of one elsewhere only the name is given, because recorded
    commands contain no paths of a machine.
    """
    if guest.module == "__main__" or not guest.file:
        return None
    if not hasattr(sys.modules.get(guest.module), PLUGIN_MARK):
        return guest.module
    file = Path(guest.file)
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else file.name


def _caller(frame: FrameType | None) -> str | None:
    """The nearest module outside the library, unless the library is being imported."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        root = module.partition(".")[0]
        if root in _IMPORTING:
            return None
        if root != _LIBRARY:
            return module
        frame = frame.f_back
    return None
