"""Imports inside the data room form no circle, those for type checkers included.

In ``behaviour/``, a training and the agents that it trains name each other in type hints: there only what is
imported when the code runs counts, and nothing else of the room may import it.
"""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import ctmrl_torchrl.data

ROOM = Path(ctmrl_torchrl.data.__file__).parent
NAME = "ctmrl_torchrl.data"


def module_name(file: Path) -> str:
    parts = [NAME, *file.relative_to(ROOM).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path, modules: set[str]) -> set[str]:
    """Every import statement of the file: at the top, under TYPE_CHECKING, in functions."""
    found, tree = set(), ast.parse(file.read_text(encoding="utf-8"))
    if "behaviour" in file.parts:
        tree.body = [each for each in tree.body if "TYPE_CHECKING" not in ast.unparse(each).split("\n")[0]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: write imports in full"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in names}
    return (found & modules) - {module_name(file)}


def graph() -> dict[str, set[str]]:
    files = {module_name(file): file for file in ROOM.rglob("*.py")}
    return {name: imports_of(file, set(files)) for name, file in files.items()}


def test_imports_form_no_circle():
    assert graph()[f"{NAME}.sampler"] >= {f"{NAME}.dataset"}
    order = list(graphlib.TopologicalSorter(graph()).static_order())  # raises CycleError, naming the circle
    assert order.index(f"{NAME}.rows") < order.index(f"{NAME}.dataset") < order.index(f"{NAME}.sampler")


def test_who_makes_data_is_unknown_to_the_data():
    below = {name: found for name, found in graph().items() if ".behaviour" not in name and name != NAME}
    assert not [name for name, found in below.items() if any(".behaviour" in each for each in found)]


def test_the_row_table_knows_no_dataset():
    assert imports_of(ROOM / "rows.py", {f"{NAME}.{file.stem}" for file in ROOM.glob("*.py")}) == {
        f"{NAME}.draws"
    }
