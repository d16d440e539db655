"""Imports a user's file or module, whose registered choices then become available."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import runpy
import sys
import traceback
from pathlib import Path
from types import ModuleType

from ctmrl_torchrl.guests import PLUGIN_MARK, Guest
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.storage import StorageError, expanded

_PACKAGE = Path(__file__).resolve().parents[1]


def load_plugin(name: str) -> ModuleType:
    """Import a user's file or module so that its registered choices become available.

    Args:
        name (str): an importable module (the working folder is also searched), or a path that ends in ``.py``.

    Raises:
        ConfigError: if the file or module does not exist, is not Python, has the name of another module, or
            passes an invalid argument to this library.
    """
    try:
        return _load_file(expanded(name)) if name.endswith(".py") else _load_module(name)
    except ConfigError:
        raise
    except StorageError as error:
        raise ConfigError(f"plugin {name}: {error}.") from error
    except ValueError as error:
        steps = traceback.extract_tb(error.__traceback__)
        if error.__cause__ is not None or not Path(steps[-1].filename).is_relative_to(_PACKAGE):
            raise  # an error in the user's code, which needs its traceback
        users = [step for step in steps if not _is_machinery(step.filename)]
        where = f"{users[-1].filename}, line {users[-1].lineno}" if users else name
        raise ConfigError(f"plugin {where}: {error}") from error
    except SyntaxError as error:
        where = f"{error.filename}, line {error.lineno}" if error.lineno else str(error.filename or name)
        raise ConfigError(f"plugin {name}: {where}: {error.msg}.") from error


def load_guest(guest: Guest) -> None:
    """Import a user's module in another process, so that its choices are registered there.

    A program is run under the name ``__mp_main__``, as Python does for its own worker processes.

    Raises:
        ConfigError: as :func:`load_plugin`.
    """
    if guest.module == "__main__":
        if "__mp_main__" not in sys.modules:
            module = ModuleType("__mp_main__")
            module.__dict__.update(runpy.run_path(guest.file, run_name="__mp_main__"))
            sys.modules["__mp_main__"] = module
    elif guest.module not in sys.modules:
        alone = "." not in guest.module and Path(guest.file).name != "__init__.py"
        load_plugin(guest.file if alone else guest.module)


def _is_machinery(file: str) -> bool:
    """Whether a line of a traceback belongs to Python's import system or this library."""
    return file.startswith("<") or Path(file).is_relative_to(_PACKAGE)


def _load_file(path: Path) -> ModuleType:
    try:
        there = path.is_file()
    except OSError as error:  # e.g. the name is too long
        raise ConfigError(f"plugin {str(path)[:80]}: {error.strerror or error}.") from error
    if not there:
        raise ConfigError(f"plugin {path}: file not found.")
    stem, file = re.sub(r"\W", "_", path.stem), str(path.resolve())
    loaded = sys.modules.get(stem)
    if loaded is not None and getattr(loaded, "__file__", None) == file:
        return loaded
    found = None if loaded is not None else importlib.util.find_spec(stem)
    other = found is not None and os.path.realpath(str(found.origin)) != file
    if other or (loaded is not None and not hasattr(loaded, PLUGIN_MARK)):
        raise ConfigError(f"plugin {path}: another module is named {stem}; rename the file.")
    spec = importlib.util.spec_from_file_location(stem, file)
    assert spec is not None and spec.loader is not None  # the file ends in .py
    module = importlib.util.module_from_spec(spec)
    setattr(module, PLUGIN_MARK, True)
    sys.modules[stem] = module
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # spawned processes, such as those of collectors, import the module by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[stem]
        raise
    return module


def _load_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"plugin {name!r}: give a module, or the path of a file (it ends with .py).")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.split(".")[0] and error.name != name:
            raise
        raise ConfigError(
            f"plugin {name}: module not found in {folder} or among the installed packages; give the "
            "path of the file (it must end in .py)."
        ) from error
