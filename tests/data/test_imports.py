"""Imports inside the data room form no circle, those for type checkers included."""

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
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: write imports in full"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in names}
    return (found & modules) - {module_name(file)}


def test_imports_form_no_circle():
    files = {module_name(file): file for file in ROOM.rglob("*.py")}
    graph = {name: imports_of(file, set(files)) for name, file in files.items()}
    assert graph[f"{NAME}.sampler"] >= {f"{NAME}.dataset"}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, naming the circle
    assert order.index(f"{NAME}.rows") < order.index(f"{NAME}.dataset") < order.index(f"{NAME}.sampler")


def test_the_row_table_knows_no_dataset():
    assert imports_of(ROOM / "rows.py", {f"{NAME}.{file.stem}" for file in ROOM.glob("*.py")}) == {
        f"{NAME}.draws"
    }
