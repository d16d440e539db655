from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ctmrl_torchrl.agents import Agent, AgentError, shipped_agents
from ctmrl_torchrl.agents.shipped import LIMIT, SHIPPED, require_room, shipping_facts
from ctmrl_torchrl.envs import make_env, make_task_set

ROOT = Path(__file__).parents[2]
#: steps of an episode beyond which adapting is too slow for the default suite
LONG = 100


def agents(long: bool) -> list[str]:
    return [name for name in shipped_agents() if (Agent.load(name).card.horizon > LONG) is long]


def check_returns(name: str, repeats: int = 4) -> None:
    """Adapt to every test task several times, and compare the last episode with the card."""
    agent = Agent.load(name)
    card = agent.card
    ids = make_task_set(card.env, card.tasks).test_ids
    env = make_env(card.env, list(ids) * repeats, preset=card.tasks)
    protocols = [protocol for protocol in ("np", "codes") if protocol in card.returns["test"]]
    assert "np" in protocols
    for protocol in protocols:
        measured = agent.adapt(env, protocol, seed=1).returns[:, -1]
        expected = card.returns["test"][protocol]
        # Episodes are drawn anew: six standard errors of the mean, and a little for rounding.
        margin = 6 * measured.std().item() / len(measured) ** 0.5 + 0.01
        zero = card.returns["test"]["none"]
        assert abs(measured.mean().item() - expected) < margin, (protocol, measured.mean(), expected)
        assert measured.mean().item() > zero, protocol


@pytest.mark.parametrize("name", agents(long=False))
def test_a_shipped_agent_adapts_as_its_card_says(name):
    check_returns(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", agents(long=True))
def test_a_shipped_agent_with_long_episodes_adapts_as_its_card_says(name):
    check_returns(name, repeats=1)


@pytest.mark.parametrize("name", shipped_agents())
def test_the_card_is_complete(name):
    card = Agent.load(name).card
    files = {file.name for file in (SHIPPED / name).iterdir()}
    assert files == {"agent.json", "agent.safetensors"}
    assert card.method and card.env and card.tasks and card.license == "MIT"
    assert re.fullmatch(r"[0-9a-f]{12,}", card.data)
    assert {"torch", "torchrl", "tensordict", "ctmrl_torchrl"} <= set(card.versions)
    assert card.command.startswith(("ctmrl train", "python examples/train_ctmrl.py"))
    assert "/" not in card.command.removeprefix("python examples/train_ctmrl.py")


def test_there_are_agents_for_the_point_robots_and_they_are_small():
    assert {"point_robot", "point_robot_wind", "sparse_point_robot"} <= set(shipped_agents())
    assert require_room() <= LIMIT


def test_too_much_is_refused(tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "agent.safetensors").write_bytes(b"0" * 11_000)
    assert require_room(tmp_path, 11_000) == 11_000
    with pytest.raises(AgentError, match=r"take 0\.01 MB \(large 0\.01 MB\); at most 0\.01 MB"):
        require_room(tmp_path, 10_999)


def test_a_wrong_name_lists_the_shipped_ones():
    with pytest.raises(
        AgentError, match=r"there is no point_robt; .*: .*point_robot.*Did you mean 'point_robot'"
    ):
        Agent.load("point_robt")


def test_a_folder_with_an_agent_precedes_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "point_robot").mkdir()
    assert Agent.load("point_robot").card.license == "MIT"  # an empty folder is no agent
    Agent.load("point_robot").with_card(license="mine").save("point_robot")
    assert Agent.load("point_robot").card.license == "mine"
    assert Agent.load(tmp_path / "point_robot").card.license == "mine"


def test_one_command_ships_an_agent(tmp_path, monkeypatch, capsys):
    program = runpy.run_path(str(ROOT / "examples" / "ship_agent.py"))
    monkeypatch.setitem(program["main"].__globals__, "SHIPPED", tmp_path / "trained")
    run = tmp_path / "run"
    Agent.load("point_robot").with_card(tasks="", command="").save(run / "agent")

    def ship():
        monkeypatch.setattr(sys, "argv", ["ship_agent.py", str(run), "mine"])
        program["main"]()

    with pytest.raises(SystemExit, match=r"summary\.json cannot be read"):
        ship()
    assert not (tmp_path / "trained").exists()
    (run / "summary.json").write_text(
        json.dumps({"dataset": {"tasks": "repo"}, "command": "ctmrl train seed=3"})
    )
    ship()
    card = Agent.load(tmp_path / "trained" / "mine").card
    assert (card.tasks, card.command) == ("repo", "ctmrl train seed=3")
    assert "Agent(method='ctmrl'" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"dataset": {"tasks": "repo"}}'])
def test_a_run_without_a_summary_is_not_shipped(content, tmp_path):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(AgentError, match="cannot be read as the summary of a finished run"):
        shipping_facts(tmp_path)


@pytest.mark.ci
def test_acting_needs_torchrl_and_what_it_requires_alone():
    """Every other package is hidden from a process that loads a shipped agent and acts."""
    code = """
import sys
from importlib.metadata import packages_distributions, requires
import re
from packaging.requirements import Requirement

def closure(name, seen):
    if name in seen:
        return seen
    seen.add(name)
    for line in requires(name) or ():
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            try:
                closure(re.sub(r"[-_.]+", "-", need.name).lower(), seen)
            except ImportError:
                pass
    return seen

stack = ("torch", "tensordict", "torchrl", "safetensors")
needed = {"ctmrl-torchrl"}.union(*(closure(name, set()) for name in stack))
hidden = []
for module, owners in packages_distributions().items():
    owners = {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}
    if not owners & needed and not module.startswith(("_", "ctmrl")):
        hidden.append(module)
        sys.modules[module] = None
assert {"mujoco", "gymnasium", "hydra", "matplotlib", "sklearn", "scipy", "yaml"} <= set(hidden), hidden

import torch
from ctmrl_torchrl import Agent
agent = Agent.load("point_robot")
assert agent.act(torch.zeros(3, 2), agent.prior_context(3)).shape == (3, 2)
assert agent.card.returns["test"]["np"] < 0
assert not any(name.startswith(("ctmrl_torchrl.training", "ctmrl_torchrl.data")) for name in sys.modules)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)
