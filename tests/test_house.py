"""The promises of the README and of the layout."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ctmrl_torchrl"

#: what each room may import of the others
ALLOWED = {
    "problem": set(),
    "envs": set(),
    "data": {"envs"},
    "modules": {"problem"},
    "objectives": {"modules", "problem"},
    "collectors": {"modules"},
    "evaluation": set(),
    "training": {"collectors", "data", "envs", "evaluation", "modules", "objectives", "problem"},
    "studies": {"evaluation", "registry", "rules", "training"},
}


def imported_rooms(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module == "ctmrl_torchrl":
            names = [f"ctmrl_torchrl.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("ctmrl_torchrl."))


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_run_one_way(room):
    files = [PACKAGE / f"{room}.py"] if room == "problem" else sorted((PACKAGE / room).rglob("*.py"))
    assert files
    for file in files:
        assert set(imported_rooms(file)) - {room} <= ALLOWED[room], file.name


def test_losses_and_modules_need_no_simulator_and_no_hydra():
    code = """
import sys
for name in ("mujoco", "gymnasium", "hydra", "matplotlib", "sklearn"):
    sys.modules[name] = None
import ctmrl_torchrl.modules, ctmrl_torchrl.objectives
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)


def test_the_example_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 1
    names = {}
    exec(compile(blocks[0], "README.md", "exec"), names)
    assert all(value.isfinite().all() for value in names["losses"].values())


def test_every_choice_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for group in ("env", "method", "policy_loss", "preset", "dataset"):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{group}` |"))
        named = set(re.findall(r"`(\w+)`", row)) - {group}
        assert named == {file.stem for file in (ROOT / "configs" / group).glob("*.yaml")}, group


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "PLACEHOLDER" not in text
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
