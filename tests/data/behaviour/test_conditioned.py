"""The agent that is told its tasks, and behaviour training that is interrupted and gone on with."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tensordict import TensorDict

from ctmrl_torchrl.data import DatasetError, TaskDataset, collect_task_dataset
from ctmrl_torchrl.data.behaviour import sac_training
from ctmrl_torchrl.data.behaviour.conditioned import ConditionedSAC, symlog
from ctmrl_torchrl.data.behaviour.recipes import CollectionRecipe, get_recipe
from ctmrl_torchrl.data.behaviour.sac import BatchedSAC
from ctmrl_torchrl.data.behaviour.sac_training import SACTraining
from ctmrl_torchrl.envs import make_env, make_task_set

TOLD = CollectionRecipe(
    snapshot_steps=(2, 45, 60),
    trajectories_per_snapshot=2,
    hidden_sizes=(8,),
    batch_size=4,
    rows_per_task=2,
    entropy_coefficient=0.1,
    agents="conditioned",
    learn_entropy=True,
)
TASKS = make_task_set("point_robot", num_train=3, num_test=1)


def make_training(recipe=TOLD, seed=0, env_name="point_robot", tasks=TASKS, horizon=20, **options):
    agents = ConditionedSAC.for_tasks(tasks, recipe, seed=seed)
    rows = torch.arange(tasks.n_tasks).repeat(recipe.rows_per_task)
    env = make_env(env_name, rows, task_set=tasks)
    return SACTraining(env, agents, recipe, horizon=horizon, seed=seed, **options)


def equal(a, b):
    return bool((a == b).all())


def test_symlog_is_the_identity_near_zero_and_odd():
    x = torch.tensor([-100.0, -1e-3, 0.0, 1e-3, 100.0])
    torch.testing.assert_close(symlog(x), -symlog(-x))
    torch.testing.assert_close(symlog(x[1:4]), x[1:4], atol=1e-6, rtol=0)
    assert symlog(x)[-1].item() == pytest.approx(4.6151, abs=1e-4)


def test_the_agent_acts_by_its_task_and_by_nothing_else_of_the_row():
    agents = ConditionedSAC(torch.randn(3, 2), 2, 2, TOLD, discount=0.9, seed=0)
    rows = {"observation": torch.ones(6, 2), "task_id": torch.tensor([0, 1, 2, 2, 1, 0])}
    loc = agents.actor(TensorDict(rows, [6]))["loc"]
    torch.testing.assert_close(loc[:3], loc[3:].flip(0))
    assert (loc[0] - loc[1]).abs().max() > 1e-3


def test_entropy_is_learned_and_one_batch_of_all_tasks_moves_every_network():
    training = make_training()
    before = {name: p.detach().clone() for name, p in training.agents.loss.named_parameters()}
    training.run()
    after = dict(training.agents.loss.named_parameters())
    for part in ("actor", "qvalue", "log_alpha"):
        assert any(not torch.equal(before[name], after[name]) for name in before if part in name), part


def test_independent_agents_cannot_share_a_learned_coefficient():
    recipe = dataclasses.replace(TOLD, agents="per_task")
    with pytest.raises(ValueError, match="learn_entropy needs agents='conditioned'"):
        BatchedSAC(4, 2, 2, recipe, discount=0.9, seed=0)
    with pytest.raises(ValueError, match="config field agents: got .told., allowed .* per_task, ppo"):
        dataclasses.replace(TOLD, agents="told")


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("env_name", ["point_robot", "half_cheetah_vel"])
def test_resumed_equals_uninterrupted(env_name, tmp_path, monkeypatch):
    monkeypatch.setattr(sac_training, "CHECKPOINT_SECONDS", 0.0)
    tasks, file = make_task_set(env_name, num_train=3, num_test=1), tmp_path / "unfinished"
    settings = {"env_name": env_name, "tasks": tasks, "horizon": 20}
    whole = make_training(**settings).run()

    training = make_training(**settings, checkpoint=file)
    collect = training._collect

    def interrupt(policy):
        if training.step == 40:  # two rounds are done and saved
            raise Interrupted
        collect(policy)

    training._collect = interrupt
    with pytest.raises(Interrupted):
        training.run()
    resumed = make_training(**settings, checkpoint=file)
    snapshots = resumed.run()
    assert resumed.rounds == TOLD.random_episodes + 2
    assert len(whole) == len(snapshots) == 3
    assert all(equal(a, b) for a, b in zip(whole, snapshots, strict=True))
    assert not equal(whole[1], whole[2])


def test_a_checkpoint_of_another_collection_is_refused_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sac_training, "CHECKPOINT_SECONDS", 0.0)
    file = tmp_path / "unfinished"
    make_training(checkpoint=file, identity={"seed": 0}).run()
    held = file.read_bytes()
    with pytest.raises(DatasetError, match=r"another collection \(different: seed\)"):
        make_training(checkpoint=file, identity={"seed": 1}).run()
    assert file.read_bytes() == held
    file.write_bytes(held[:100])
    with pytest.raises(DatasetError, match="cannot be read as a collection checkpoint"):
        make_training(checkpoint=file, identity={"seed": 0}).run()


def test_an_interrupted_recording_goes_on_from_the_trained_agents(tmp_path, monkeypatch):
    monkeypatch.setattr(sac_training, "CHECKPOINT_SECONDS", 0.0)
    arguments = {"recipe": TOLD, "task_set": TASKS, "seed": 3}
    whole = collect_task_dataset("point_robot", **arguments)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ctmrl_torchrl.data.behaviour.collect.record_snapshots", interrupt)
        with pytest.raises(KeyboardInterrupt):
            collect_task_dataset("point_robot", **arguments, path=tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data.unfinished"]
    resumed = collect_task_dataset("point_robot", **arguments, path=tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert equal(whole.transitions, resumed.transitions)
    assert whole.manifest.oracle == resumed.manifest.oracle


def test_unstable_simulations_are_not_learned_from():
    training = make_training()
    rollout = training.env.rollout

    def broken(steps, policy, **options):
        played = rollout(steps, policy, **options)
        unstable = torch.zeros(8, steps, 1, dtype=torch.bool)
        unstable[5, 7] = True  # row 5 is the second row of task 1
        return played.set(("next", "unstable"), unstable)

    training.env.rollout = broken
    training._collect(None)
    assert len(training.buffer) == 2 * 20 - 1


def test_the_return_shown_is_that_of_an_episode_however_many_a_round_has():
    training = make_training(recipe=dataclasses.replace(TOLD, rows_per_task=1))
    rollout = training.env.rollout

    def falling(steps, policy, **options):
        played = rollout(steps, policy, **options)
        played["next", "reward"] = torch.ones(4, steps, 1)
        played["next", "done"] = (torch.arange(1, steps + 1) % 5 == 0).expand(4, steps).unsqueeze(-1)
        return played

    training.env.rollout = falling
    training._collect(None)
    assert training.last_return == 5.0


def test_a_mujoco_dataset_holds_the_oracle(tmp_path):
    tasks = make_task_set("half_cheetah_vel", num_train=3, num_test=1)
    recipe = get_recipe("smoke", "half_cheetah_vel")
    dataset = collect_task_dataset("half_cheetah_vel", task_set=tasks, recipe=recipe, path=tmp_path / "data")
    oracle = TaskDataset.load(dataset.path).manifest.oracle
    assert len(oracle["task_returns"]) == 4 and -800 < oracle["test"] < 0
    assert dataset.manifest.recipe["name"] == "smoke" and dataset.n_trajectories == 4 * 3 * 2
