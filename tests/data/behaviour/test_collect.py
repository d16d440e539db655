from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from tensordict import TensorDictBase

from ctmrl_torchrl.data.behaviour.collect import collect_task_dataset, record_snapshots, snapshot_returns
from ctmrl_torchrl.data.behaviour.recipes import CollectionRecipe
from ctmrl_torchrl.data.behaviour.sac import BatchedSAC
from ctmrl_torchrl.data.dataset import TaskDataset
from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.manifest import DatasetManifest
from ctmrl_torchrl.envs import PointRobotEnv, make_task_set, optimal_returns

TINY = CollectionRecipe(
    snapshot_steps=(1, 3), trajectories_per_snapshot=2, hidden_sizes=(8,), batch_size=4, rows_per_task=2
)
TASKS, SNAPSHOTS, TRAJECTORIES, HORIZON = 4, 3, 2, 20


def collect(env: str = "point_robot", **options) -> TaskDataset:
    tasks = make_task_set(env, num_train=3, num_test=1)
    return collect_task_dataset(env, **{"recipe": TINY, "task_set": tasks, **options})


@pytest.fixture(scope="module")
def dataset() -> TaskDataset:
    return collect()


def test_layout(dataset):
    shape = (TASKS, SNAPSHOTS, TRAJECTORIES, HORIZON)
    data = dataset.transitions
    grid = torch.arange(len(data)).view(shape)
    assert torch.equal(data["task_id"].view(shape), torch.arange(TASKS).view(-1, 1, 1, 1).expand(shape))
    snapshot = torch.arange(SNAPSHOTS).view(1, -1, 1, 1).expand(shape)
    assert torch.equal(data["snapshot_id"].view(shape), snapshot)
    assert torch.equal(data["trajectory_id"].view(shape), grid // HORIZON)
    time = grid % HORIZON
    assert torch.equal(data["next", "truncated"].view(shape), time == HORIZON - 1)
    assert not data["next", "terminated"].any()
    observation, following = data["observation"].view(*shape, 2), data["next", "observation"].view(*shape, 2)
    assert not observation[..., 0, :].any(), "every episode starts at the origin"
    assert torch.equal(observation[..., 1:, :], following[..., :-1, :])
    torch.testing.assert_close(following - observation, 0.1 * data["action"].view(*shape, 2))
    assert data["action"].dtype == data["observation"].dtype == torch.float32


def test_rewards_are_those_of_the_rows_own_task(dataset):
    tasks = make_task_set("point_robot", num_train=3, num_test=1)
    goal = tasks.parameters.float()[dataset.transitions["task_id"]]
    distance = (dataset.transitions["next", "observation"] - goal).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(dataset.transitions["next", "reward"], -distance)


def test_behaviour_is_stochastic_and_differs_between_snapshots(dataset):
    action = dataset.transitions["action"].view(TASKS, SNAPSHOTS, TRAJECTORIES, HORIZON, 2)
    assert action[:, :, 0].ne(action[:, :, 1]).all()
    assert action[:, 0].abs().mean() == pytest.approx(0.5, abs=0.1), "snapshot 0 is uniformly random"


@pytest.mark.ci
def test_snapshot_order_follows_training():
    recipe = CollectionRecipe(
        snapshot_steps=(250,),
        trajectories_per_snapshot=5,
        hidden_sizes=(64, 32),
        learning_rate=1.5e-2,
        batch_size=32,
    )
    tasks = make_task_set("sparse_point_robot", num_train=3, num_test=1)
    dataset = collect_task_dataset("sparse_point_robot", recipe=recipe, task_set=tasks)
    dense = snapshot_returns(dataset, ("next", "reward"))
    assert dense["mean"][0] < -18 and dense["mean"][1] > -8.5
    reported = snapshot_returns(dataset)
    assert reported["mean"][0] < 0.5 < reported["mean"][1], "the reported return is the sparse one"
    entry = dataset.manifest.snapshots[1]
    assert entry["mean_return"] == pytest.approx(reported["mean"][1])
    assert entry["optimal_return"] == pytest.approx(float(optimal_returns(tasks).mean()))


def test_snapshot_returns_agree_with_the_rows(dataset):
    returns = snapshot_returns(dataset)
    rewards = dataset.transitions["next", "reward"].view(TASKS, SNAPSHOTS, TRAJECTORIES, HORIZON).double()
    expected = rewards.sum(-1).mean(-1).T
    per_task = torch.tensor(returns["per_task"], dtype=torch.float64)
    torch.testing.assert_close(per_task, expected, rtol=1e-5, atol=0)
    manifest = dataset.manifest
    for split, ids in (("mean", range(TASKS)), ("train", manifest.train_ids), ("test", manifest.test_ids)):
        assert returns[split] == pytest.approx(expected[:, list(ids)].mean(1).tolist(), rel=1e-5)
    assert returns["step"] == [0, 1, 3] and returns["task_id"] == [0, 1, 2, 3]


def test_manifest_is_readable_and_complete(tmp_path):
    dataset = collect(path=tmp_path / "data")
    assert dataset.path == tmp_path / "data"
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert [(entry["id"], entry["step"]) for entry in manifest["snapshots"]] == [(0, 0), (1, 1), (2, 3)]
    assert manifest["recipe"]["name"] == "custom" and manifest["recipe"]["snapshot_steps"] == [1, 3]
    assert manifest["seeds"] == {"collection": 0}
    assert manifest["env"] == "point_robot" and manifest["preset"] == "3+1"
    assert len(manifest["snapshots"][0]["task_returns"]) == TASKS
    assert manifest["versions"]["torchrl"]


def test_collection_is_deterministic_and_leaves_global_randomness_alone(dataset):
    state = torch.get_rng_state()
    again, other = collect(), collect(seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert (dataset.transitions == again.transitions).all()
    assert dataset.manifest == again.manifest
    assert not (dataset.transitions["action"] == other.transitions["action"]).all()


@pytest.mark.parametrize(
    "stage",
    [
        "ctmrl_torchrl.data.behaviour.sac_training.SACTraining.run",
        "ctmrl_torchrl.data.behaviour.collect.record_snapshots",
        "ctmrl_torchrl.data.files.folder_checksums",
    ],
)
def test_an_interrupted_collection_leaves_nothing(tmp_path, monkeypatch, stage):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, interrupt)
    with pytest.raises(KeyboardInterrupt):
        collect(path=tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_path_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("ctmrl_torchrl.data.behaviour.sac_training.SACTraining", None)
    with pytest.raises(DatasetError, match="already exists"):
        collect(path=tmp_path)


@pytest.mark.parametrize("place", ["file/set", "link", "", "~/set"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_place_that_cannot_be_used_is_refused_before_any_work(place, overwrite, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "home" / "set").mkdir(parents=True)
    (tmp_path / "home" / "set" / "thesis.txt").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        "ctmrl_torchrl.data.behaviour.collect.get_agents", lambda kind: pytest.fail("the work has begun")
    )
    path = place if place in ("", "~/set") else tmp_path / place
    with pytest.raises(DatasetError):
        collect_task_dataset("point_robot", recipe=TINY, path=path, overwrite=overwrite)
    assert {each.name for each in tmp_path.iterdir()} == {"file", "link", "home"}


def test_the_task_set_must_be_of_the_environment():
    with pytest.raises(ValueError, match="env_name is 'point_robot_wind', but the task set .* 'point_robot'"):
        collect_task_dataset("point_robot_wind", recipe=TINY, task_set=make_task_set("point_robot"))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="Unknown environment family"):
        collect_task_dataset("no_such_env", recipe=TINY)
    with pytest.raises(ValueError, match="Unknown collection recipe"):
        collect_task_dataset("point_robot", recipe="no_such_recipe")


@pytest.mark.parametrize("optimum", [lambda tasks: torch.full((4,), torch.nan), lambda tasks: [0.0]])
def test_a_wrong_optimum_is_found_before_the_agents_train(optimum, monkeypatch):
    tasks = make_task_set("point_robot", num_train=3, num_test=1)
    wrong = dataclasses.replace(tasks, family=dataclasses.replace(tasks.family, optimum=optimum))
    monkeypatch.setattr(BatchedSAC, "train", lambda *args, **options: pytest.fail("the training has begun"))
    with pytest.raises(ValueError, match="optimum of 'point_robot' must return one number per task"):
        collect(task_set=wrong)


class FallingPointRobot(PointRobotEnv):
    """Terminates as soon as the robot is 0.25 away from the origin."""

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        out = super()._step(tensordict)
        fallen = out["observation"].norm(dim=-1, keepdim=True) > 0.25
        return out.set("terminated", fallen).set("done", fallen | out["truncated"])


def build_falling(task_set, task_ids, device) -> FallingPointRobot:
    return FallingPointRobot(task_set, task_ids, device=device)


def test_trajectories_that_end_early_keep_their_first_episode():
    tasks = make_task_set("point_robot", num_train=3, num_test=1)
    family = dataclasses.replace(tasks.family, env_builder=f"{__name__}:build_falling")
    tasks = dataclasses.replace(tasks, family=family)
    agents = BatchedSAC(TASKS, 2, 2, TINY, discount=0.9, seed=0)
    data = record_snapshots(tasks, agents, [None, agents.snapshot()], trajectories=30, seed=0)
    manifest = DatasetManifest("point_robot", "repo", HORIZON, tasks.to_dict())
    dataset = TaskDataset.from_tensordict(data, manifest)  # checks order, ids and episode ends
    assert dataset.n_trajectories == TASKS * 2 * 30
    lengths = dataset.trajectory_length
    assert lengths.min() >= 2 and lengths.max() <= HORIZON and lengths.unique().numel() > 3
    assert not dataset.transitions["observation"][dataset.trajectory_start].any()
    ends = dataset.trajectory_start + lengths - 1
    assert dataset.transitions["next", "terminated"][ends].float().mean() > 0.5
    before = torch.ones(len(data), dtype=torch.bool).index_fill_(0, ends, False)
    following = dataset.transitions["next", "observation"][:-1][before[:-1]]
    assert torch.equal(dataset.transitions["observation"][1:][before[:-1]], following)
