"""The code of the pages runs, and their commands compose."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))
#: what the pages say, and what a test can afford
SMALLER = {
    '"preset=quick"': '"preset=smoke", "schedule.updates=20", "evaluation.every=0", "evaluation.protocols=[np]"',
    'recipe="small"': 'recipe="smoke"',
    "-small-seed0": "-smoke-seed0",
}


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def commands(page: str) -> list[list[str]]:
    """The lines of a page that train, as words."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if not line.lstrip().startswith("#")]
    starts = (["ctmrl", "train"], ["python", "examples/train_ctmrl.py"])
    return [words for words in found if words[:2] in starts]


PROGRAMS = [page for page in PAGES if blocks(page, "python")]
TRAINING = [page for page in ("README.md", *PAGES) if commands(page)]


@pytest.mark.ci
@pytest.mark.parametrize("page", PROGRAMS)
def test_the_programs_of_the_pages_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(page, "python"))
    for large, small in SMALLER.items():
        code = code.replace(large, small)
    module = types.ModuleType("page")  # where a page's dataclasses look up their annotations
    monkeypatch.setitem(sys.modules, "page", module)
    exec(compile(code, page, "exec"), vars(module))


@pytest.mark.parametrize("page", TRAINING)
def test_the_commands_of_the_pages_compose(page, monkeypatch):
    from ctmrl_torchrl.training.compose import compose_config
    from ctmrl_torchrl.training.sweep import check_sweep
    from ctmrl_torchrl.training.validate import validate_config

    # A page may name a logger whose package is not installed here.
    monkeypatch.setattr("ctmrl_torchrl.training.validate.require_logger", lambda name: None)
    for _, _, *words in commands(page):
        overrides = [word for word in words if "=" in word]
        if {"-m", "--cfg", "--help"} & set(words):
            check_sweep(overrides)
            continue
        config = compose_config(overrides)
        config.seeds = None  # each of them is checked as a run of its own
        validate_config(config)


def test_the_page_on_own_data_trains_on_its_data(tmp_path, monkeypatch):
    import ctmrl_torchrl

    monkeypatch.chdir(tmp_path)
    page = "docs/howto/own_dataset.md"
    exec("\n".join(blocks(page, "python")), {"__name__": "page"})
    (command,) = commands(page)
    few = [
        "preset=smoke",
        "schedule.updates=10",
        "output.figures=false",
        "output.progress=false",
        "device=cpu",
    ]
    assert ctmrl_torchrl.run([*command[2:], *few])["updates"] == 10


def test_the_commands_of_the_page_on_own_families_are_valid(tmp_path, monkeypatch):
    from ctmrl_torchrl.envs import unregister_family
    from ctmrl_torchrl.training.compose import compose_config
    from ctmrl_torchrl.training.plugins import load_plugin
    from ctmrl_torchrl.training.validate import validate_config

    page = "docs/howto/own_family.md"
    text = "\n".join(blocks(page, "text")).replace("\\\n", " ")
    lines = [
        shlex.split(line) for line in text.splitlines() if line.startswith("ctmrl") and "..." not in line
    ]
    assert len(lines) == 3
    (tmp_path / "my_family.py").write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    places = {
        "my_family.py": tmp_path / "my_family.py",
        "examples/own_family.py": ROOT / "examples/own_family.py",
    }
    for name in ("swing", "pendulum"):  # another test may have defined them
        unregister_family(name)
    try:
        for _, option, plugin, action, *overrides in lines:
            assert (option, action) == ("--plugin", "train")
            load_plugin(str(places[plugin]))
            validate_config(compose_config(overrides))
        validate_config(
            compose_config(["env=swing", "tasks=repo", "batch.tasks=6", "representation.codes=4"])
        )
    finally:
        for module, name in (("my_family", "swing"), ("own_family", "pendulum")):
            sys.modules.pop(module, None)
            unregister_family(name)


def test_every_protocol_is_explained():
    import ctmrl_torchrl.training.config  # noqa: F401  (everything registers)
    from ctmrl_torchrl.collectors import PROTOCOLS

    text = (ROOT / "docs/explanation/protocols.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \| .* \| .* \| .* \|$", text, re.M))
    shipped = {name for name, choice in PROTOCOLS.items() if choice.__module__.startswith("ctmrl_torchrl.")}
    assert shipped <= rows


def test_the_studies_that_the_pages_name_exist():
    from ctmrl_torchrl.studies.places import study_names

    text = "\n".join("\n".join(blocks(page, "bash")) for page in ("README.md", *PAGES))
    named = set(re.findall(r"ctmrl study (?:plan|run|status|report) (\w+)(?![\w.])", text))
    assert named and named <= {"NAME", *study_names()}


def test_the_tutorial_is_whole():
    code = "\n".join(blocks("docs/tutorial.md", "python"))
    for step in ("collect_task_dataset(", "ctmrl_torchrl.run(", "Agent.load(", ".adapt(", "TaskSet("):
        assert step in code, step


def test_every_page_is_found_from_the_landing_page():
    reached, todo = set(), ["docs/index.md"]
    while todo:
        page = todo.pop()
        if page in reached:
            continue
        reached.add(page)
        folder = (ROOT / page).parent
        for tree in re.findall(r"```{toctree}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S):
            for line in tree.splitlines():
                entry = re.sub(r".*<(.*)>", r"\1", line.strip())
                if entry and not entry.startswith(":"):
                    todo += [each.relative_to(ROOT).as_posix() for each in folder.glob(f"{entry}.md")]
    assert reached == set(PAGES)


def test_hidden_signatures_are_shown():
    """TorchRL's and tensordict's bases hide the arguments of their classes."""
    from ctmrl_torchrl.modules import Codebook

    pytest.importorskip("sphinx")
    real_signature = runpy.run_path(str(ROOT / "docs" / "conf.py"))["real_signature"]
    shown, _ = real_signature(None, "class", "Codebook", Codebook, None, "(*args, **kwargs)", None)
    assert shown.startswith("(num_codes: int, context_dim: int, *, update_rate: float = 0.1")
    assert real_signature(None, "class", "Codebook", Codebook, None, "(size)", None) == ("(size)", None)


def test_the_picture_of_the_flow_is_what_its_program_draws(tmp_path):
    drawn = runpy.run_path(str(ROOT / "docs" / "figures" / "flow.py"))["draw"](tmp_path)
    committed = ROOT / "docs" / "figures" / "flow.svg"
    assert committed.stat().st_size < 300_000
    shapes = [len(re.findall("<path ", file.read_text(encoding="utf-8"))) for file in (drawn, committed)]
    assert shapes[0] == shapes[1] > 30


def test_the_changelog_has_the_present_version():
    from ctmrl_torchrl import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
