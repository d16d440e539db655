"""Families, methods and protocols from a user's own file, in a folder outside of the repository."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from programs import EXAMPLES

from ctmrl_torchrl.cli import main
from ctmrl_torchrl.envs import from_gymnasium

pytestmark = pytest.mark.ci

PLUGIN = '''
from dataclasses import dataclass

import gymnasium
import numpy as np

import ctmrl_torchrl
from ctmrl_torchrl.collectors import AdaptationProtocol, register_protocol
from ctmrl_torchrl.envs import from_gymnasium
from ctmrl_torchrl.methods import FOCALConfig, REPRESENTATIONS


class Slope(gymnasium.Env):
    """A point on a line that is pulled by a constant slope and paid for staying at zero."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, slope):
        self.slope = slope

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.1, 0.1)
        return np.array([self.x]), {}

    def step(self, action):
        self.x += 0.1 * float(action[0]) + self.slope
        return np.array([self.x]), -abs(self.x), abs(self.x) > 2.0, False, {}


def make(slope):
    return gymnasium.wrappers.TimeLimit(Slope(slope), 12)


from_gymnasium("slope", make, parameters={"slope": (-0.1, 0.1)}, train_tasks=6, test_tasks=2, discount=0.9)


@REPRESENTATIONS.register("close")
@dataclass
class CloseConfig(FOCALConfig):
    """The metric loss with another weight."""

    name: str = "close"
    metric_weight: float = 0.5


ctmrl_torchrl.register_method("close", representation="close", batch={"repeat_tasks": True})


@register_protocol("one_random")
class OneRandom(AdaptationProtocol):
    def context(self, run):
        return run.encode(run.episodes) if run.episodes else run.prior_context

    def collect(self, run):
        run.add(run.play_randomly())
'''
SMALL = [
    "preset=smoke",
    "schedule.updates=12",
    "batch.tasks=4",
    "batch.transitions=8",
    "evaluation.every=0",
    "evaluation.episodes=3",
    "evaluation.random_episodes=2",
    "evaluation.final_repeats=1",
    "output.logger=none",
    "output.progress=false",
]


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder of the user's with one file in it."""
    (tmp_path / "mine.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ctmrl(*arguments):
    command = [sys.executable, "-W", "ignore", "-m", "ctmrl_torchrl.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_family_method_and_protocol_of_a_user(outside):
    chosen = ["env=slope", "method=close", "evaluation.protocols=[np,none,one_random]", "run_dir=run"]
    done = ctmrl("--plugin", "mine", "train", *chosen, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "one_random" in done.stdout
    summary = json.loads((outside / "run" / "summary.json").read_text())
    assert (summary["env"], summary["method"]) == ("slope", "close")
    assert set(summary["returns"]["test"]) == {"np", "none", "one_random"}
    assert len(summary["returns"]["test"]["np"]["per_task"]) == 2
    assert summary["reference"]["random"] is not None and summary["reference"]["train"]["random"] is not None
    assert summary["command"].startswith("ctmrl train --plugin mine env=slope method=close")
    figures = {file.stem for file in (outside / "run" / "figures").glob("*.png")}
    assert {"adaptation", "data", "learning", "context_map"} <= figures


def test_a_study_of_a_users_choices(outside):
    """Its processes import the file. Results belong to the content of the file."""
    study = {
        "factors": {"env": ["slope"], "method": ["close", "focal"], "seed": [0]},
        "fixed": [*SMALL, "output.figures=false"],
        "compare": "method",
        "protocols": ["np"],
    }
    (outside / "own.yaml").write_text(yaml.safe_dump(study))
    ran = ctmrl("--plugin", "mine.py", "study", "run", "own.yaml", "progress=false")
    assert ran.returncode == 0 and "\n2 done\n" in ran.stdout, ran.stderr
    summaries = map(
        json.loads, (file.read_text() for file in outside.glob("studies/store/runs/*/summary.json"))
    )
    commands = {summary["method"]: summary["command"] for summary in summaries}
    assert commands.keys() == {"close", "focal"}
    assert all(each.startswith("ctmrl train --plugin mine.py ") for each in commands.values())

    def planned():
        return ctmrl("--plugin", "mine.py", "study", "plan", "own.yaml").stdout

    assert "2 runs on 1 dataset: 2 done" in planned()
    with (outside / "mine.py").open("a") as file:
        file.write("CloseConfig.metric_weight = 0.25\n")
    assert "2 runs on 1 dataset: 2 waiting" in planned()


def test_slips_are_told_in_one_line_with_the_guest_among_the_choices(outside, capsys):
    for slip, hint in (
        (["env=slop"], "Did you mean 'slope'"),
        (["env=slope", "method=clos"], "Did you mean 'close'"),
        (["env=slope", "method=close", "evaluation.protocols=[one_randm]"], "Did you mean 'one_random'"),
        (["env=slope", "method=close", "representation.metric_weigth=1"], "representation.metric_weight"),
    ):
        status, told = main(["--plugin", "mine.py", "train", *slip, *SMALL]), capsys.readouterr().err
        assert status == 2 and hint in told
        assert "Traceback" not in told and len(told.strip().splitlines()) <= 2
    done = ctmrl("--plugin", "nowhere", "train")
    assert done.returncode == 2 and "module not found" in done.stderr
    assert not (outside / "runs").exists() and not (outside / "datasets").exists()


def test_the_pendulums_of_the_example(program, registered, monkeypatch, tmp_path):
    """The program in a folder outside of the repository, with fewer pendulums and half of their time."""

    def fewer(*arguments, **options):
        return from_gymnasium(*arguments, **options | {"train_tasks": 8, "test_tasks": 2, "horizon": 100})

    monkeypatch.setattr("ctmrl_torchrl.envs.from_gymnasium", fewer)
    text = program(
        "own_family", *SMALL, "evaluation.protocols=[np,none]", "output.figures=false", "run_dir=run"
    )
    assert "np: mean return of the unseen pendulums -" in text
    assert Path.cwd().is_relative_to(tmp_path)
    summary = json.loads(Path("run", "summary.json").read_text())
    # episodes of at least 100 steps: what families without a file learn by
    assert summary["policy_loss"] == "iql_standardised"
    assert {len(result["per_task"]) for result in summary["returns"]["test"].values()} == {2}
    manifest = json.loads(Path("datasets", "pendulum-repo-smoke-seed0", "manifest.json").read_text())
    assert {motor for _, _, motor in manifest["tasks"]["parameters"]} == {-1.0, 1.0}


def test_the_method_of_the_example(program, registered):
    program("own_method", *SMALL, "evaluation.protocols=[np]", "output.figures=false", "run_dir=run")
    assert json.loads(Path("run", "summary.json").read_text())["method"] == "spherical"


def test_a_motor_that_is_wired_the_other_way_round_mirrors_the_action(registered):
    make = runpy.run_path(str(EXAMPLES / "own_family.py"))["make_pendulum"]
    straight, reversed_ = make(mass=0.6, length=1.2, motor=1.0), make(mass=0.6, length=1.2, motor=-1.0)
    assert np.array_equal(straight.reset(seed=3)[0], reversed_.reset(seed=3)[0])
    for torque in np.float32([[2.0], [-0.5], [1.0]]):
        there, back = straight.step(torque), reversed_.step(-torque)
        assert np.array_equal(there[0], back[0]) and there[1] == back[1]
    assert not np.array_equal(straight.step(torque)[0], reversed_.step(torque)[0])
