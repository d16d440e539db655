"""What a benchmark stands or falls with, asserted directly: which tasks are learned from, which reward is shown,
which rate and which interval is used. One tiny experiment of every registered family."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_runs import small_config
from tensordict import TensorDict
from tiny_experiments import random_dataset, tiny_config

from ctmrl_torchrl.data import DatasetManifest, TaskDataset, TaskSampler, buffer
from ctmrl_torchrl.data.buffer import take_rows
from ctmrl_torchrl.data.manifest import TENSOR_SUFFIX
from ctmrl_torchrl.envs import FAMILIES, make_task_set, optimal_returns
from ctmrl_torchrl.evaluation import aggregate_seeds
from ctmrl_torchrl.evaluation.statistics import bootstrap_interval
from ctmrl_torchrl.methods import Parts, corro, gentle
from ctmrl_torchrl.methods.codebook_schedule import CodebookSchedule
from ctmrl_torchrl.objectives.policy import POLICY_LOSSES
from ctmrl_torchrl.rules import NotFiniteError
from ctmrl_torchrl.training import build, fragments, outcome
from ctmrl_torchrl.training.build import build_experiment
from ctmrl_torchrl.training.compose import choices
from ctmrl_torchrl.training.data import make_buffer
from ctmrl_torchrl.training.tester import MetaTester

EPISODES, STEPS = 3, 4
#: added to all values of test tasks: whatever learns from one of them sees it
MARK = 1000.0


def marked_data(task_set):
    """Transitions of every task; those of test tasks carry the mark, in every feature and reward."""
    family, tasks = task_set.family, task_set.n_tasks
    generator = torch.Generator().manual_seed(0)
    rows = tasks * EPISODES * STEPS
    task = torch.arange(tasks).repeat_interleave(EPISODES * STEPS)
    mark = MARK * torch.isin(task, torch.tensor(task_set.test_ids))[:, None]

    def values(size):
        return torch.rand(rows, size, generator=generator) + mark

    end = torch.zeros(rows, 1, dtype=torch.bool)
    end[STEPS - 1 :: STEPS] = True
    following = {"observation": values(family.observation_dim), "reward": -values(1) - 5.0}
    if family.return_key != ("next", "reward"):
        following[family.return_key[-1]] = values(1)
    following |= {"done": end, "terminated": torch.zeros_like(end), "truncated": end.clone()}
    return TensorDict(
        {
            "observation": values(family.observation_dim),
            "action": (torch.rand(rows, family.action_dim, generator=generator) - 0.5),
            "next": following,
            "task_id": task,
            "trajectory_id": torch.arange(tasks * EPISODES).repeat_interleave(STEPS),
            "snapshot_id": torch.zeros(rows, dtype=torch.int64),
        },
        [rows],
    )


@pytest.fixture(scope="module", params=list(FAMILIES))
def built(request, tmp_path_factory):
    """An experiment of the family on marked data, and the task ids of every draw from its buffers."""
    folder = tmp_path_factory.mktemp(request.param)
    task_set = make_task_set(request.param)
    manifest = DatasetManifest(
        env=request.param, preset=task_set.preset, horizon=task_set.family.horizon, tasks=task_set.to_dict()
    )
    path = TaskDataset.from_tensordict(marked_data(task_set), manifest).save(folder / "data")
    changes = {"dataset.path": str(path), "schedule.updates": 10, "representation.kmeans_epochs": 4}
    return build_experiment(tiny_config(folder, folder / "run", changes, env=request.param))


@pytest.fixture
def draws(monkeypatch):
    """Task ids of every index that any sampler draws."""
    drawn, sample = [], TaskSampler.sample

    def spy(self, storage, batch_size):
        index, info = sample(self, storage, batch_size)
        drawn.append(self.dataset.transitions["task_id"][index.flatten().cpu()].unique())
        return index, info

    monkeypatch.setattr(TaskSampler, "sample", spy)
    return drawn


def test_nothing_is_learned_from_test_tasks(built, draws, monkeypatch):
    """Batches of training, K-means and the candidates of the meta-test: all draws of a whole training."""
    monkeypatch.setattr(MetaTester, "quick_numbers", lambda self, seed: {})
    seen, kmeans = [], CodebookSchedule._contexts
    monkeypatch.setattr(CodebookSchedule, "_contexts", lambda self: seen.append(kmeans(self)) or seen[-1])
    built.trainer.train()
    monkeypatch.setattr(built.tester.candidates, "_parts", Parts([]))  # as of a method without codes
    built.tester.candidates()
    assert len(draws) > built.trainer.updates and seen  # batches of the training, and those of K-means
    drawn = set(torch.cat(draws).tolist())
    assert drawn == set(built.task_set.train_ids), drawn
    parameters = torch.cat([value.flatten() for value in built.loss.parameters()])
    assert parameters.isfinite().all() and parameters.abs().max() < MARK


@pytest.fixture(scope="module")
def poisoned():
    """Data whose test tasks are not finite: whatever is learned from one of them is not finite either."""
    task_set = make_task_set("point_robot")
    dataset = random_dataset(task_set)
    rows = torch.isin(dataset.transitions["task_id"], torch.tensor(task_set.test_ids))
    for key in ("observation", "action", ("next", "observation"), ("next", "reward")):
        dataset.transitions[key][rows] = float("nan")
    # such data cannot be saved; a run asks for the checksums that saved data have
    dataset.manifest = dataset.manifest.replace(checksums={f"observation{TENSOR_SUFFIX}": "not saved"})
    return dataset, task_set


@pytest.mark.parametrize("method", choices("method"))
def test_no_part_of_any_method_learns_from_test_tasks(method, poisoned, tmp_path, monkeypatch):
    """Pretraining, stores, fragments, K-means, candidates and training contexts: all that reads data."""
    dataset, task_set = poisoned

    def training_rows_alone(data, rows):
        tasks = dataset.transitions["task_id"][rows.cpu().flatten()]
        assert torch.isin(tasks, torch.tensor(task_set.train_ids)).all()
        return take_rows(data, rows)

    for module in (buffer, corro, gentle, fragments):
        monkeypatch.setattr(module, "take_rows", training_rows_alone)
    monkeypatch.setattr(build, "obtain_data", lambda *args, **options: poisoned)
    config = small_config(method, tmp_path, tmp_path / "run", "context.length=16", protocols="[]")
    for field in dataclasses.fields(config.representation):
        if field.name.endswith("_steps"):
            setattr(config.representation, field.name, 4)
        if field.name == "members":
            config.representation.members = 2
    trained = build_experiment(config)
    trained.trainer.train()  # refuses losses that are not finite
    state = trained.loss.state_dict()
    assert all(value.isfinite().all() for value in state.values() if isinstance(value, torch.Tensor))
    if config.encoder.encodes_unseen_tasks:
        assert trained.tester.candidates().isfinite().all()
        assert trained.tester.training_contexts().isfinite().all()
    stored = trained.tester._fragments
    assert stored.draw(64, torch.Generator().manual_seed(0))["observation"].isfinite().all()


def test_poisoned_data_are_noticed(poisoned, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "obtain_data", lambda *args, **options: poisoned)
    config = small_config("focal", tmp_path, tmp_path / "run", protocols="[]")
    task_set = poisoned[1]
    monkeypatch.setattr(
        build, "make_buffer", lambda data, ids, *rest: make_buffer(data, task_set.test_ids, *rest)
    )
    with pytest.raises(NotFiniteError):
        build_experiment(config).trainer.train()


def test_batches_hold_no_mark(built):
    built.trainer.buffer.only = None
    built.trainer.buffer.sampler.num_contexts = 2
    batch = built.trainer.buffer.sample()
    for part in ("transitions", "context", "context_positive"):
        for name, value in batch[part].items(include_nested=True, leaves_only=True):
            assert value.float().abs().max() < MARK, (part, name)


def test_statistics_are_those_of_the_training_tasks(built):
    data, train = built.dataset.transitions, torch.tensor(built.task_set.train_ids)
    rows = torch.isin(data["task_id"], train)
    for key, (mean, spread) in built.problem.statistics.items():
        if key == "observation_change":
            values = (data["next", "observation"] - data["observation"])[rows].double()
        else:
            values = data[key][rows].double()
        torch.testing.assert_close(mean.double(), values.mean(0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(spread.double(), values.std(0, correction=0), rtol=1e-2, atol=1e-3)
        assert mean.abs().max() < MARK / 2, key


def test_references_are_those_of_their_split(built, monkeypatch):
    said = {}
    monkeypatch.setattr(outcome, "build_summary", lambda **fields: said.update(fields))
    outcome.summarize(built, {}, 0.0)
    if not built.task_set.family.has_optimum:
        assert said["optimum"] is None
        return
    optima = optimal_returns(built.task_set)
    splits = {"test": list(built.task_set.test_ids), "train": list(built.task_set.train_ids)}
    assert said["optimum"] == {split: optima[ids].mean().item() for split, ids in splits.items()}


def test_the_encoder_is_shown_the_reward_that_is_reported(built):
    key = built.task_set.family.return_key
    shown = [each for each in built.loss.context_encoder.in_keys if "reward" in str(each)]
    assert shown == [("context", *key)]
    predicted = [each for each in built.loss.representation.in_keys if "reward" in str(each)]
    assert predicted and all(each[-1] == key[-1] for each in predicted)


def test_the_policy_learns_from_the_dense_reward(built):
    rewards = [key for key in built.loss.in_keys if key[0] == "transitions" and "reward" in str(key)]
    assert rewards == [("transitions", "next", "reward")]


def test_the_sparse_reward_is_reported(tmp_path):
    """Dense rewards of Sparse-Point-Robot are negative, sparse ones are not: returns tell which were summed."""
    task_set = make_task_set("sparse_point_robot")
    manifest = DatasetManifest(env="sparse_point_robot", preset="repo", horizon=20, tasks=task_set.to_dict())
    path = TaskDataset.from_tensordict(marked_data(task_set), manifest).save(tmp_path / "data")
    config = tiny_config(tmp_path, tmp_path / "run", {"dataset.path": str(path)}, env="sparse_point_robot")
    tester = build_experiment(config).tester
    run = tester.run(list(task_set.test_ids), 1, seed=0)["codes"]
    assert (run["returns"] >= 0).all()
    goals = task_set.family.goal_positions(task_set.parameters)[run["task_id"][:, 0]].float()
    distance = (run["last_path"][:, 0, 1:] - goals[:, None]).norm(dim=-1)
    inside = distance < task_set.family.goal_radius
    assert ((run["returns"][:, 0, -1] > 0) == inside.any(-1)).all()
    tester.close()


@pytest.mark.parametrize("policy", [name for name in POLICY_LOSSES if name != "bc"])  # it has no targets
@pytest.mark.parametrize("rate", [0.1, 0.7])
def test_targets_move_at_the_target_rate(policy, rate, dataset_root, tmp_path):
    fields = {"policy_loss": POLICY_LOSSES.get(policy)(hidden=[8])}
    config = tiny_config(dataset_root, tmp_path, {"policy_loss.target_rate": rate}, **fields)
    trainer = build_experiment(config).trainer
    loss = trainer.loss.policy
    names = [
        name for name in vars(loss)["_modules"] if name.startswith("target_") and name.endswith("_params")
    ]
    before = {name: getattr(loss, name).clone().flatten_keys(".") for name in names}
    trainer.update(trainer.next_batch())
    moved = 0.0
    for name in names:
        online = getattr(loss, name.removeprefix("target_")).flatten_keys(".")
        after = getattr(loss, name).flatten_keys(".")
        for key, value in before[name].items():
            expected = value + rate * (online[key].detach() - value)
            torch.testing.assert_close(after[key], expected, rtol=1e-4, atol=1e-7)
            moved = max(moved, (after[key] - value).abs().max().item())
    assert names and moved > 0


def summary_of(seed, per_task):
    mean = float(np.mean(per_task))
    result = {
        "mean": mean,
        "ci95": list(bootstrap_interval(per_task)),
        "per_task": {str(task): value for task, value in enumerate(per_task)},
        "per_episode": [mean - 1.0, mean],
        "per_episode_ci95": [[mean - 9.0, mean + 9.0]] * 2,
    }
    setting = {"env": "point_robot", "method": "ctmrl", "policy_loss": "iql", "preset": "cpu", "dataset": {}}
    return {**setting, "seed": seed, "returns": {"test": {"np": result}}}


def test_an_interval_over_seeds_is_not_that_of_a_seeds_tasks():
    """Seeds that agree, on tasks that differ: the interval over seeds is narrow, each seed's own is wide."""
    summaries = [
        summary_of(seed, [-50.0 + shift, 0.0 + shift, 50.0 + shift])
        for seed, shift in enumerate((0.0, 0.5, 1.0))
    ]
    result = aggregate_seeds(summaries)["returns"]["test"]["np"]
    assert result["per_seed"] == [0.0, 0.5, 1.0]
    assert result["ci95"] == list(bootstrap_interval([0.0, 0.5, 1.0]))
    widths = [high - low for low, high in (each["returns"]["test"]["np"]["ci95"] for each in summaries)]
    assert result["ci95"][1] - result["ci95"][0] <= 1.0 < 20.0 < min(widths)
    lower, upper = result["per_episode_ci95"]
    assert all(high - low <= 1.0 for low, high in zip(lower, upper, strict=True))
    alone = aggregate_seeds(summaries[:1])["returns"]["test"]["np"]
    assert alone["ci95"] is None and alone["per_episode_ci95"] is None
