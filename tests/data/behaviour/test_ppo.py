"""The PPO agent that is told its tasks: advantages, objective, ends of episodes, resumption."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tensordict import TensorDict

from ctmrl_torchrl.data import CollectionRecipe, DatasetError, PPOSettings, collect_task_dataset
from ctmrl_torchrl.data.behaviour import ppo_training
from ctmrl_torchrl.data.behaviour.ppo import PPOAgents
from ctmrl_torchrl.data.behaviour.ppo_networks import ToldFeatures
from ctmrl_torchrl.data.behaviour.ppo_training import PPOTraining, spread_rows
from ctmrl_torchrl.envs import make_task_set

TASKS = make_task_set("point_robot", num_train=3, num_test=1)
SETTINGS = PPOSettings(rollout_steps=10, round_steps=30, epochs=2, minibatches=2, spare_rows=0.5)
#: a round is 3 x 80 steps, the training 3 rounds
RECIPE = CollectionRecipe(
    snapshot_steps=(80, 300, 720),
    trajectories_per_snapshot=2,
    hidden_sizes=(8,),
    learning_rate=3e-3,
    rows_per_task=2,
    agents="ppo",
    settings=SETTINGS,
)


def make_agents(recipe=RECIPE, seed=0, **options):
    return PPOAgents.for_tasks(TASKS, recipe, seed=seed, **options)


def make_training(recipe=RECIPE, seed=0, tasks=TASKS, **options):
    agents = PPOAgents.for_tasks(tasks, recipe, seed=seed)
    return PPOTraining(tasks, agents, recipe, seed=seed, **options)


def made_up_steps(agents, rows=3, time=7, seed=0):
    """Steps whose episodes end in the middle and at the end, by a fall or by the clock."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size):
        return torch.randn(rows, time, size, generator=generator)

    task = torch.arange(rows).unsqueeze(1).expand(rows, time)
    observation, following = draw(2), draw(2)
    done, terminated = torch.zeros(2, rows, time, 1, dtype=torch.bool)
    done[0, 2] = terminated[0, 2] = done[1, 4] = done[1, 6] = True
    goes_on = ~done[:, :-1].squeeze(-1)
    following[:, :-1][goes_on] = observation[:, 1:][goes_on]
    return TensorDict(
        {
            "features": agents.features(observation, task),
            "latent": draw(2),
            "observation": observation,
            "task_id": task,
            "next": {
                "observation": following,
                "reward": draw(1),
                "done": done,
                "terminated": terminated,
            },
        },
        [rows, time],
    )


def naive_advantages(agents, steps):
    """Generalised advantage estimation, step by step."""
    gamma, decay = agents.discount, agents.settings.trace_decay
    rows, time = steps.batch_size
    out = torch.zeros(rows, time)
    for row in range(rows):
        advantage = 0.0
        for t in reversed(range(time)):
            step = steps[row, t]
            after = agents.features(step["next", "observation"], step["task_id"])
            following = 0.0 if step["next", "terminated"] else agents.critic.module(after).item()
            value = agents.critic.module(step["features"]).item()
            error = (1 - gamma) * step["next", "reward"].item() + gamma * following - value
            advantage = error + (0.0 if step["next", "done"] else gamma * decay * advantage)
            out[row, t] = advantage
    return out


@torch.no_grad()
def test_advantages_and_targets_are_those_of_a_naive_loop():
    agents = make_agents()
    agents.features.observe(torch.randn(50, 2) * 3 + 1)
    steps = made_up_steps(agents)
    batch = agents.evaluate(steps)
    expected = naive_advantages(agents, steps)
    values = agents.critic.module(steps["features"]).squeeze(-1)
    torch.testing.assert_close(batch["value_target"].view(3, 7), expected + values, atol=1e-6, rtol=1e-5)
    standardised = (expected - expected.mean()) / expected.std()
    torch.testing.assert_close(batch["advantage"].view(3, 7), standardised, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_without_discount_the_reward_is_seen_as_it_is():
    tasks = dataclasses.replace(TASKS, family=dataclasses.replace(TASKS.family, discount=1.0))
    agents = PPOAgents.for_tasks(tasks, RECIPE, seed=0)
    steps = made_up_steps(agents)
    target = agents.evaluate(steps)["value_target"].view(3, 7)
    torch.testing.assert_close(target[0, 2], steps["next", "reward"][0, 2, 0])  # a fall: nothing follows
    advantage = agents.evaluate(steps)["advantage"]
    steps["next", "reward"] += torch.arange(7.0).view(1, 7, 1)
    assert not torch.allclose(agents.evaluate(steps)["advantage"], advantage)


def test_truncation_bootstraps_and_termination_does_not():
    agents = make_agents()
    truncated = made_up_steps(agents)
    truncated["next", "done"][2, 6] = True
    terminated = truncated.clone()
    terminated["next", "terminated"][2, 6] = True
    targets = [agents.evaluate(steps)["value_target"].view(3, 7)[2, 6] for steps in (truncated, terminated)]
    last = truncated[2, 6]
    reward = (1 - agents.discount) * last["next", "reward"].squeeze()
    after = agents.critic.module(agents.features(last["next", "observation"], last["task_id"])).squeeze()
    torch.testing.assert_close(targets[0], reward + agents.discount * after.detach())
    torch.testing.assert_close(targets[1], reward)


def test_the_objective_is_the_clipped_one():
    agents = make_agents()
    with torch.no_grad():
        agents.network.log_deviation.weight.normal_(std=0.1)  # each task has its own
    batch = agents.evaluate(made_up_steps(agents))
    batch["latent_log_prob"] += torch.linspace(-0.6, 0.6, len(batch))  # ratios on both sides of the clip
    losses = agents.losses(batch, value_variance=2.0)
    mean, deviation = agents.network(batch["features"])
    log_prob = torch.distributions.Normal(mean, deviation).log_prob(batch["latent"]).sum(-1)
    ratio, advantage = (log_prob - batch["latent_log_prob"]).exp(), batch["advantage"].squeeze(-1)
    assert (ratio < 0.8).any() and (ratio > 1.2).any()
    clipped = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    error = (agents.critic.module(batch["features"]) - batch["value_target"]).square().mean()
    entropy = (deviation.log() + 0.5 * torch.tensor(2 * torch.pi * torch.e).log()).sum(-1).mean()
    torch.testing.assert_close(losses["total"], -clipped + 0.5 * error / 2.0 - 0.002 * entropy)
    divergence = (ratio - 1 - ratio.log()).mean()
    torch.testing.assert_close(agents.update(batch, 2.0), divergence.detach())


def test_unstable_steps_are_left_out():
    agents = make_agents()
    steps = made_up_steps(agents)
    assert len(agents.evaluate(steps)) == 21
    steps["next", "unstable"] = torch.zeros(3, 7, 1, dtype=torch.bool)
    steps["next", "unstable"][1, 4] = True
    batch = agents.evaluate(steps)
    assert len(batch) == 20
    assert not (batch["latent"] == steps["latent"][1, 4]).all(-1).any()


def test_running_statistics_are_those_of_all_observations():
    features, rows = ToldFeatures(torch.zeros(1, 1), 3, clip=2.0), torch.randn(90, 3) * 5 + 2
    for part in rows.split([10, 50, 30]):
        features.observe(part.unsqueeze(0))
    torch.testing.assert_close(features.mean.float(), rows.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.variance.float(), rows.var(0, correction=0), rtol=1e-4, atol=1e-4)
    out = features(rows, torch.zeros(90, dtype=torch.int64))
    assert out.shape == (90, 4) and out.abs().max() == 2.0


def test_inert_parameters_are_not_told():
    tasks = make_task_set("hopper_rand_params", num_train=3, num_test=1)
    agents = PPOAgents.for_tasks(tasks, RECIPE, seed=0)
    told = len(tasks.parameter_names) - len(tasks.family.inert_parameters)
    assert agents.features.task_parameters.shape == (4, told)


def test_snapshots_come_in_order_and_hold_the_statistics():
    training = make_training()
    snapshots = training.run()
    assert training.rounds == 3 and training.step == 720 and len(snapshots) == 3
    names = [key for key in snapshots[0].keys(True, True) if key[-1] == "count"]
    count = next(name for name in names if name[-1] == "count")
    assert [round(snapshot[count].item()) for snapshot in snapshots] == [80, 320, 720]
    assert (snapshots[2] == training.agents.snapshot()).all()
    training.agents.load_snapshot(snapshots[0])
    assert (snapshots[0] == training.agents.snapshot()).all()


def test_first_episodes_are_cut_at_different_times_and_only_they():
    training = make_training()
    training.start_rows()
    played = torch.cat([training._play() for _ in range(6)], 1)
    ends = played["next", "done"].squeeze(-1)
    first = ends.long().argmax(1) + 1
    assert torch.equal(first, training.cut.squeeze(-1)) and first.unique().numel() > 2
    for row, start in zip(ends, first.tolist(), strict=True):
        later = row[start:].nonzero().squeeze(-1) + 1
        assert (later % 20 == 0).all() and len(later) == (60 - start) // 20
    assert not played["next", "terminated"].any()
    whole = training.returned[1].sum()
    uncut = int((training.cut == 20).sum())
    assert whole == ends.sum() - 8 + uncut


class Interrupted(Exception):
    pass


def interrupted_training(file, stop_after, **options):
    training = make_training(checkpoint=file, **options)
    play, rounds = training._play, training._round

    def round_or_stop():
        if training.rounds == stop_after:
            raise Interrupted
        rounds()

    training._play, training._round = play, round_or_stop
    with pytest.raises(Interrupted):
        training.run()


@pytest.mark.parametrize("env_name", ["point_robot", "hopper_rand_params"])
def test_resumed_equals_uninterrupted(env_name, tmp_path, monkeypatch):
    monkeypatch.setattr(ppo_training, "CHECKPOINT_SECONDS", 0.0)
    tasks, file = make_task_set(env_name, num_train=3, num_test=1), tmp_path / "unfinished"
    whole = make_training(tasks=tasks).run()
    interrupted_training(file, 2, tasks=tasks)
    resumed = make_training(tasks=tasks, checkpoint=file)
    snapshots = resumed.run()
    assert resumed.rounds == 3 and len(snapshots) == len(whole) == 3
    assert all((a == b).all() for a, b in zip(whole, snapshots, strict=True))
    assert not (whole[1] == whole[2]).all()


def test_a_checkpoint_of_another_collection_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ppo_training, "CHECKPOINT_SECONDS", 0.0)
    file = tmp_path / "unfinished"
    interrupted_training(file, 1, identity={"seed": 0})
    with pytest.raises(DatasetError, match=r"another collection \(different: seed\)"):
        make_training(checkpoint=file, identity={"seed": 1}).run()


def test_training_is_deterministic_and_leaves_global_randomness_alone():
    recipe = dataclasses.replace(RECIPE, snapshot_steps=(80,))
    state = torch.get_rng_state()
    first, again = make_training(recipe).run(), make_training(recipe).run()
    other = make_training(recipe, seed=1).run()
    assert torch.equal(state, torch.get_rng_state())
    assert (first[0] == again[0]).all() and not (first[0] == other[0]).all()


def test_spare_rows_go_to_the_lowest_returns():
    returns = torch.tensor([5.0, 1.0, 3.0, float("nan")])
    assert spread_rows(returns, rows=16, spare=0.5).tolist() == [2, 6, 2, 6]
    assert spread_rows(returns, rows=16, spare=0.4).tolist() == [2, 6, 2, 6]
    assert spread_rows(returns, rows=7, spare=0.5).tolist() == [1, 2, 1, 3]
    assert spread_rows(returns, rows=16, spare=0.0).tolist() == [4, 4, 4, 4]


@pytest.mark.ci
def test_learns_point_robot():
    settings = PPOSettings(
        rollout_steps=20,
        round_steps=400,
        minibatches=2,
        most_rate=2e-2,
        most_divergence=0.1,
        stop_divergence=0.2,
    )
    recipe = CollectionRecipe(
        snapshot_steps=(9_600,),
        trajectories_per_snapshot=10,
        hidden_sizes=(32,),
        learning_rate=1e-2,
        agents="ppo",
        settings=settings,
    )
    dataset = collect_task_dataset("point_robot", recipe=recipe, task_set=TASKS)
    random, trained = (entry["mean_return"] for entry in dataset.manifest.snapshots)
    assert random < -18 and trained > -10
    assert dataset.manifest.recipe["algorithm"] == "ppo"
    assert dataset.manifest.recipe["settings"]["minibatches"] == 2
    assert "batch_size" not in dataset.manifest.recipe
    assert len(dataset.manifest.snapshots[1]["task_returns"]) == 4


@pytest.mark.parametrize("field", ["clip", "epochs", "spare_rows", "deviation"])
def test_settings_name_the_field_that_is_wrong(field):
    with pytest.raises(ValueError, match=f"settings.{field}"):
        PPOSettings(**{field: -1})
