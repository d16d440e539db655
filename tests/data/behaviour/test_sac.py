from __future__ import annotations

import dataclasses

import pytest
import torch
from tensordict import TensorDict

from ctmrl_torchrl.data.behaviour.agents import isolated_rng
from ctmrl_torchrl.data.behaviour.recipes import CollectionRecipe
from ctmrl_torchrl.data.behaviour.sac import BatchedSAC, TaskRows
from ctmrl_torchrl.data.behaviour.sac_training import SACTraining
from ctmrl_torchrl.envs import make_env, make_task_set

TASKS = 4
TINY = CollectionRecipe(
    snapshot_steps=(1, 3), trajectories_per_snapshot=2, hidden_sizes=(8,), batch_size=4, rows_per_task=2
)


def make_agents(recipe: CollectionRecipe = TINY, seed: int = 0, tasks: int = TASKS) -> BatchedSAC:
    return BatchedSAC(tasks, observation_dim=2, action_dim=2, recipe=recipe, discount=0.9, seed=seed)


def make_batch(batch: int = 4, seed: int = 0) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> torch.Tensor:
        return torch.rand(batch, TASKS, size, generator=generator) * 2 - 1

    flag = torch.zeros(batch, TASKS, 1, dtype=torch.bool)
    following = {"observation": draw(2), "reward": draw(1), "done": flag, "terminated": flag.clone()}
    return TensorDict({"observation": draw(2), "action": draw(2), "next": following}, [batch, TASKS])


def gradients(agents: BatchedSAC, batch: TensorDict) -> dict[str, torch.Tensor]:
    """Gradients with the task dimension in front."""
    agents.optimizer.zero_grad()
    with isolated_rng(0, "cpu"):
        agents.objective(batch.clone())["total"].backward()
    by_name = {name: p.grad.clone() for name, p in agents.loss.named_parameters() if p.requires_grad}
    return {name: g.movedim(1, 0) if name.startswith("qvalue") else g for name, g in by_name.items()}


def train(recipe: CollectionRecipe, seed: int = 0) -> tuple[BatchedSAC, list[TensorDict]]:
    tasks = make_task_set("point_robot", num_train=3, num_test=1)
    agents = make_agents(recipe, seed)
    env = make_env("point_robot", torch.arange(TASKS).repeat(recipe.rows_per_task), task_set=tasks)
    return agents, SACTraining(env, agents, recipe, horizon=20, seed=seed).run()


def test_agents_are_independent():
    agents, batch = make_agents(), make_batch()
    other = batch.clone()
    other[:, 2] = make_batch(seed=1)[:, 2]
    before, after = gradients(agents, batch), gradients(agents, other)
    assert any("actor" in name for name in before) and any("qvalue" in name for name in before)
    untouched = [0, 1, 3]
    for name, gradient in before.items():
        assert gradient.shape[0] == TASKS, name
        assert gradient[untouched].any(), name
        assert torch.equal(gradient[untouched], after[name][untouched]), name
    assert any(not torch.equal(before[name][2], after[name][2]) for name in before)


def test_a_task_gets_the_gradient_it_would_get_alone(monkeypatch):
    # the same (zero) sampling noise for both; everything else of the loss stays
    monkeypatch.setattr(
        torch.distributions.normal, "_standard_normal", lambda shape, dtype, device: torch.zeros(shape)
    )
    agents, alone, batch, task = make_agents(), make_agents(tasks=1), make_batch(), 1
    source = dict(agents.loss.state_dict())
    for name, value in alone.loss.state_dict().items():
        if "qvalue" in name and value.ndim > 2:
            value.copy_(source[name][:, task : task + 1])
        elif value.ndim > 1:
            value.copy_(source[name][task : task + 1])
    expected = gradients(alone, batch[:, task : task + 1])
    for name, gradient in gradients(agents, batch).items():
        assert gradient[task].any(), name
        torch.testing.assert_close(gradient[task], expected[name][0])


def test_every_agent_starts_differently_and_from_the_seed():
    first, again, other = make_agents().snapshot(), make_agents().snapshot(), make_agents(seed=1).snapshot()
    assert (first == again).all() and not (first == other).all()
    for key, leaf in first.items(True, True):
        assert leaf[0].ne(leaf[1]).any(), key


def test_only_termination_cuts_the_bootstrap():
    agents, batch = make_agents(), make_batch()
    truncated, terminated = batch.clone(), batch.clone()
    truncated["next", "done"].fill_(True)
    terminated["next", "done"].fill_(True)
    terminated["next", "terminated"].fill_(True)
    losses = []
    for data in (batch, truncated, terminated):
        with isolated_rng(0, "cpu"):
            losses.append(agents.objective(data)["loss_qvalue"].item())
    assert losses[0] == losses[1] != losses[2]


def test_update_moves_actor_critics_and_targets():
    agents = make_agents()
    before = {name: p.clone() for name, p in agents.loss.named_parameters()}
    targets = agents.loss.target_qvalue_network_params.clone()
    losses = agents.update(make_batch())
    assert not any(value.requires_grad for value in losses.values())
    assert all(not torch.equal(p, before[name]) for name, p in agents.loss.named_parameters())
    assert not (agents.loss.target_qvalue_network_params == targets).all()


def test_learning_rate_falls_to_zero():
    scales = [dataclasses.replace(TINY, snapshot_steps=(8,)).learning_rate_scale(step) for step in range(9)]
    assert scales == [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert dataclasses.replace(TINY, annealed_fraction=0.0).learning_rate_scale(3) == 1.0


def test_snapshots_are_copies_at_the_given_steps():
    agents, snapshots = train(TINY)
    assert len(snapshots) == 2
    assert not (snapshots[0] == snapshots[1]).all()
    assert (snapshots[1] == agents.snapshot()).all(), "the last snapshot is the trained actor"
    agents.load_snapshot(snapshots[0])
    assert (agents.snapshot() == snapshots[0]).all()
    assert all(not leaf.requires_grad for leaf in snapshots[0].values(True, True))


def test_training_is_deterministic_and_leaves_global_randomness_alone():
    state = torch.get_rng_state()
    (_, first), (_, second), (_, other) = train(TINY), train(TINY), train(TINY, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert not (first[0] == other[0]).all()


@pytest.mark.ci
def test_learns_point_robot():
    recipe = CollectionRecipe(
        snapshot_steps=(250,),
        trajectories_per_snapshot=1,
        hidden_sizes=(64, 32),
        learning_rate=1.5e-2,
        batch_size=32,
    )
    agents, _ = train(recipe)
    tasks = make_task_set("point_robot", num_train=3, num_test=1)
    env = make_env("point_robot", torch.arange(TASKS).repeat(5), task_set=tasks)
    with torch.no_grad(), isolated_rng(0, "cpu"):
        scores = [
            env.rollout(20, policy)["next", "reward"].sum(1).view(5, TASKS).mean(0)
            for policy in (None, agents.policy())
        ]
    assert scores[0].mean() < -18  # uniformly random actions: about -20.4
    assert scores[1].mean() > -8.5 and scores[1].min() > -13


def test_task_rows_gives_each_row_its_own_agent():
    agents = make_agents()
    rows = TensorDict({"observation": torch.rand(3 * TASKS, 2)}, [3 * TASKS])
    with isolated_rng(0, "cpu"):
        action = TaskRows(agents.actor, TASKS)(rows.copy())["action"]
    with isolated_rng(0, "cpu"):
        stacked = agents.actor(rows.view(3, TASKS))["action"]
    assert torch.equal(action.view(3, TASKS, 2), stacked)


def test_env_rows_must_fit():
    env = make_env("point_robot", [0, 1, 2])
    with pytest.raises(ValueError, match=r"batch size \(3,\).*4 tasks.*rows_per_task=2 need \(8,\)"):
        SACTraining(env, make_agents(), TINY, horizon=20, seed=0)
