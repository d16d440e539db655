"""The promises of the README and of the layout."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ctmrl_torchrl"

#: small mechanisms without a room of their own, which anyone may import
GROUND = {
    "collector_kinds",
    "guests",
    "machine",
    "places",
    "progress",
    "registry",
    "rules",
    "scales",
    "sealed",
    "stopping",
    "storage",
    "typed",
}
#: what each room may import of the others, besides the ground
ALLOWED = {
    "guests": set(),
    "registry": {"guests"},
    "rules": {"registry"},
    "scales": set(),
    "collector_kinds": {"registry", "rules"},
    "machine": set(),
    "sealed": set(),
    "stopping": set(),
    "storage": set(),
    "places": set(),
    "progress": set(),
    "typed": set(),
    "problem": set(),
    "recorded": set(),
    "envs": set(),
    "data": {"envs"},
    "modules": {"problem"},
    "objectives": {"modules", "problem"},
    "collectors": {"modules"},
    "evaluation": {"collectors"},
    "methods": {"collectors", "data", "evaluation", "modules", "objectives", "problem"},
    "agents": {"collectors", "modules", "objectives", "problem"},
    "training": {
        "agents",
        "collectors",
        "data",
        "envs",
        "evaluation",
        "methods",
        "modules",
        "objectives",
        "problem",
        "recorded",
    },
    "studies": {"evaluation", "training"},
    "errors": {"agents", "data", "envs", "evaluation", "training", "studies"},
    "commands": {"errors", "data", "envs", "evaluation", "studies", "training"},
    "cli": {"commands", "errors", "training"},
}


def imported_rooms(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module == "ctmrl_torchrl":
            names = [f"ctmrl_torchrl.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("ctmrl_torchrl."))


def files_of(room):
    return (
        [PACKAGE / f"{room}.py"]
        if (PACKAGE / f"{room}.py").exists()
        else sorted((PACKAGE / room).rglob("*.py"))
    )


def test_every_room_has_rules():
    rooms = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms - {"__init__", "configs"} == set(ALLOWED)


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_run_one_way(room):
    files = files_of(room)
    assert files
    for file in files:
        assert set(imported_rooms(file)) - {room, "__version__"} <= ALLOWED[room] | GROUND, file.name


def imported_modules(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ctmrl_torchrl."):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_is_no_circle():
    """Not even inside a room, and not even by what is imported for type checkers."""
    modules = {}
    for file in PACKAGE.rglob("*.py"):
        if "configs" in file.parts or file.name == "__init__.py":  # a room's front only collects
            continue
        modules[".".join(file.relative_to(ROOT).with_suffix("").parts)] = file
    graph = {
        name: {each for each in imported_modules(file) if each in modules} for name, file in modules.items()
    }
    order = TopologicalSorter(graph)
    order.prepare()  # raises CycleError, which names the circle


@pytest.mark.ci
def test_losses_and_modules_need_no_simulator_and_no_hydra():
    code = """
import sys
for name in ("mujoco", "gymnasium", "hydra", "matplotlib", "sklearn"):
    sys.modules[name] = None
import ctmrl_torchrl.modules, ctmrl_torchrl.objectives
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)


def test_help_needs_no_torch_and_a_start_no_matplotlib():
    code = """
import sys
from ctmrl_torchrl.cli import main
for command in ("train", "collect", "study", "table"):
    assert main([command, "--help"]) == 0
assert "torch" not in sys.modules
import ctmrl_torchrl.evaluation.figures
assert "matplotlib" not in sys.modules
assert "plot_speed" in dir(ctmrl_torchrl.evaluation.figures)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)
    trainings = (ROOT / "ctmrl_torchrl" / "training").glob("*.py")
    assert not [file for file in trainings if "evaluation.figures import" in file.read_text("utf-8")]


@pytest.mark.ci
def test_importing_the_package_imports_nothing_heavy():
    """So that it stays under half a second; public names are imported on first use."""
    code = """
import sys
import ctmrl_torchrl
heavy = {"torch", "tensordict", "torchrl", "numpy", "hydra", "matplotlib", "gymnasium"} & set(sys.modules)
assert not heavy, heavy
assert {"Agent", "run", "register_method"} <= set(dir(ctmrl_torchrl))
assert ctmrl_torchrl.Agent.__name__ == "Agent"
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)


@pytest.mark.ci
def test_the_example_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 1
    names = {}
    exec(compile(blocks[0], "README.md", "exec"), names)
    assert all(value.isfinite().all() for value in names["losses"].values())


def choices_of(group):
    return {file.stem for file in (ROOT / "configs" / group).glob("*.yaml")}


def first_cells(text, header):
    """The names in the first column of the table that begins with this header, and the whole rows."""
    rows = re.search(rf"^\| {header} \|.*\n\|[ |-]+\n((?:\|.*\n)+)", text, re.M).group(1).splitlines()
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}, rows


def test_every_choice_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert first_cells(text, "method")[0] == choices_of("method")
    assert first_cells(text, "environment")[0] == choices_of("env")
    _, rows = first_cells(text, "group")
    groups = {re.search(r"`(\w+)`", row).group(1): set(re.findall(r"`(\w+)`", row)[1:]) for row in rows}
    assert groups == {
        group: choices_of(group) for group in ("comparison", "policy_loss", "preset", "dataset")
    }


def test_the_readme_links_to_the_page_of_every_method():
    _, rows = first_cells((ROOT / "README.md").read_text(encoding="utf-8"), "method")
    assert all(re.search(r"\]\(\S+\)", row) for row in rows)
    pages = {page.name for page in (ROOT / "docs" / "methods").glob("*.md")} - {"index.md"}
    assert pages == set(re.findall(r"docs/methods/([\w.]+)\)", "\n".join(rows)))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize(
    "page", ["README.md", *(file.relative_to(ROOT).as_posix() for file in (ROOT / "docs").rglob("*.md"))]
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "PLACEHOLDER" not in text
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_no_two_test_files_share_a_name():
    """Pytest imports them by name."""
    names = [file.name for file in (ROOT / "tests").rglob("*.py") if file.name != "conftest.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []
