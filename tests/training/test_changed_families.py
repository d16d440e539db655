"""A family in a user's file that changes after its data were collected."""

from __future__ import annotations

import json
import sys

import pytest

from ctmrl_torchrl.data import DatasetError, TaskDataset
from ctmrl_torchrl.envs import get_family, unregister_family
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.data import obtain_data
from ctmrl_torchrl.training.identity import fingerprint
from ctmrl_torchrl.training.plugins import load_plugin

FILE = """
import gymnasium
import numpy as np
from ctmrl_torchrl.envs import from_gymnasium

class Trolley(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, target):
        self.target = target

    def reset(self, *, seed=None, options=None):
        self.place = np.zeros(1, dtype=np.float32)
        return self.place.copy(), {}

    def step(self, action):
        self.place = self.place + 0.1 * action  # a tenth
        return self.place.copy(), -abs(float(self.place[0]) - self.target), False, False, {}

from_gymnasium("trolley", Trolley, {"target": (-1.0, 1.0)}, train_tasks=4, test_tasks=2, horizon=5)
"""


@pytest.fixture
def trolley(tmp_path):
    """Loads the family from a file of this content, as one command after the other would."""

    def leave():
        sys.modules.pop("trolley_file", None)
        unregister_family("trolley")

    def load(content=FILE):
        leave()
        (tmp_path / "trolley_file.py").write_text(content, encoding="utf-8")
        load_plugin(str(tmp_path / "trolley_file.py"))
        settings = compose_config(
            ["env=trolley", "preset=smoke", f"dataset.root={tmp_path / 'data'}", "output.progress=false"]
        ).dataset
        return obtain_data(settings, "trolley", "repo")

    yield load
    leave()


@pytest.fixture
def warnings(monkeypatch):
    told = []
    monkeypatch.setattr("ctmrl_torchrl.training.data.torchrl_logger.warning", told.append)
    return told


def test_data_of_a_changed_simulator_are_used_with_a_warning(trolley, warnings):
    dataset, _ = trolley()
    assert list(dataset.manifest.source) == ["trolley_file.py"]
    trolley(FILE.replace("# a tenth", "# one tenth"))
    assert not warnings
    trolley(FILE.replace("0.1", "0.2"))
    (told,) = warnings
    assert "trolley-repo-smoke-seed0: the code that defines env=trolley (trolley_file.py) has changed" in told
    assert "move that folder away" in told and "dataset.root" in told


def test_changed_ranges_are_told_as_such(trolley):
    trolley()
    with pytest.raises(
        DatasetError, match=r"task 0: target=.*definition of env=trolley has changed.*Move that"
    ):
        trolley(FILE.replace("(-1.0, 1.0)", "(-2.0, 1.0)"))


def test_the_digest_is_no_part_of_the_identity(trolley, warnings):
    dataset, _ = trolley()
    file = dataset.path / "manifest.json"
    fields = json.loads(file.read_text())
    del fields["source"]  # as in data of an earlier version
    file.write_text(json.dumps(fields))
    earlier = TaskDataset.load(dataset.path)
    assert fingerprint(earlier) == fingerprint(dataset)
    assert earlier.manifest.digest() == dataset.manifest.digest()
    trolley(FILE.replace("0.1", "0.2"))
    assert not warnings


def test_shipped_families_have_no_source():
    assert not any(get_family(name).source_digests() for name in ("point_robot", "ant_goal"))
