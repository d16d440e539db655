"""Finds the user's own code: the files that define a family, and the line in which an error arose."""

from __future__ import annotations

import functools
import inspect
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ctmrl_torchrl.guests import code_digest

_PACKAGE = Path(__file__).resolve().parents[1]
_STANDARD = tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")})
_INSTALLED = {"site-packages", "dist-packages"}


def is_users(file: str | Path) -> bool:
    """Whether a file exists and belongs neither to this library, nor to Python, nor to an installed package."""
    path = Path(file)
    if not path.is_file():
        return False
    path = path.resolve()
    library = any(path.is_relative_to(folder) for folder in (_PACKAGE, *_STANDARD))
    return not library and not _INSTALLED & set(path.parts)


def line_of(error: BaseException) -> str:
    """Where the user's code raised an error, as ``" (FILE, line N)"``; empty if no line of it did.

    Examples:
        >>> line_of(ValueError("raised nowhere"))
        ''
    """
    steps = [step for step in traceback.extract_tb(error.__traceback__) if is_users(step.filename)]
    return f" ({steps[-1].filename}, line {steps[-1].lineno})" if steps else ""


def source_digests(definitions: Iterable[Any]) -> dict[str, str]:
    """Digests of the user's files that define functions and classes, by the name of the file.

    Code of a notebook, which is in no file, is listed by the name of its function. Code of this library and of
    installed packages is left out, and so is code whose text is not known.

    Examples:
        >>> source_digests([source_digests, len])
        {}
    """
    files: set[Path] = set()
    digests: dict[str, list[str]] = {}
    for definition in definitions:
        for code in _with_text(definition):
            file = Path(inspect.getsourcefile(code) or "")
            if is_users(file):
                files.add(file.resolve())
            elif not file.exists():
                digests.setdefault(code.__qualname__, []).append(code_digest(inspect.getsource(code)))
    for file in files:
        digests.setdefault(file.name, []).append(
            code_digest(file.read_text(encoding="utf-8", errors="replace"))
        )
    return {
        name: found[0] if len(found) == 1 else code_digest("\n".join(sorted(found)))
        for name, found in sorted(digests.items())
    }


def _with_text(definition: Any) -> list[Any]:
    """The definition, or the functions of a class without a file; nothing where no text is known."""
    while isinstance(definition, functools.partial):
        definition = definition.func
    if not (inspect.isclass(definition) or inspect.isroutine(definition)):
        definition = type(definition)
    parts = [definition]
    if inspect.isclass(definition):
        parts += [each for each in vars(definition).values() if inspect.isfunction(each)]
    for known in (parts[:1], parts[1:]):
        try:
            if known and all(inspect.getsource(each) for each in known):
                return known
        except (OSError, TypeError):
            continue
    return []
