"""ANOLE as a whole: its configuration, its candidates, adaptation and resuming."""

from __future__ import annotations

import pytest
import torch
from sameness import assert_same
from small_runs import check_adapts, check_resumed, outcome, small_config
from tensordict import TensorDict

from ctmrl_torchrl import Agent
from ctmrl_torchrl.envs import make_env
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.build import build_experiment
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import prepare, run_experiment
from ctmrl_torchrl.training.stacked import StackedTrainer
from ctmrl_torchrl.training.validate import validate_config

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def anole_config(root, run_dir, *overrides):
    return small_config("anole", root, run_dir, *overrides, protocols="[anole]")


@pytest.fixture(scope="module")
def uninterrupted(data_root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("anole")
    run_experiment(anole_config(data_root, run_dir))
    return run_dir


def test_candidates_are_the_training_tasks_alone(anole_experiment):
    candidates = anole_experiment.tester.options()["search_candidates"]
    table, train_ids = anole_experiment.loss.context_encoder, list(anole_experiment.task_set.train_ids)
    assert torch.equal(candidates(18), table.mean[train_ids].detach())
    more = candidates(33)
    assert more.shape == (33, 5) and torch.equal(more, candidates(33))
    assert not (more[30:].unsqueeze(1) == table.mean).all(-1).any()


def test_it_adapts_by_the_search_alone(data_root, tmp_path):
    runs = check_adapts("anole", data_root, tmp_path, ["anole"])
    assert (runs["anole"]["oracle_answers"][..., -1] == 10).all() and not runs["anole"]["episodes"].any()


def test_it_adapts_by_rollouts_where_rewards_are_shared(data_root, tmp_path):
    runs = check_adapts("anole", data_root, tmp_path, ["anole"], "env=point_robot_wind")
    for cost, expected in (("oracle_answers", 2), ("episodes", 3)):
        assert (runs["anole"][cost][..., -1] == expected).all()


def test_contexts_of_training_tasks_are_the_means_of_the_table(anole_experiment):
    table, train_ids = anole_experiment.loss.context_encoder, list(anole_experiment.task_set.train_ids)
    assert torch.equal(anole_experiment.tester.training_contexts(), table.mean[train_ids].detach())
    batch = TensorDict({"task_id": torch.tensor([0, 0])}, [2])
    first, second = table(batch)["task_context"]
    assert not torch.equal(first, second)  # noisy otherwise


def test_it_tries_candidates_and_keeps_the_best(data_root, tmp_path):
    budget = ("evaluation.episodes=6", "evaluation.candidates=3")
    experiment = build_experiment(small_config("anole", data_root, tmp_path, *budget, protocols="[codes]"))
    candidates = experiment.tester.candidates()
    run = experiment.tester.run(experiment.task_set.test_ids[:4], 2, seed=0)["codes"]
    experiment.tester.close()
    assert run["episodes"][0, 0].tolist() == [0, 1, 2, 3, 3, 3]  # nothing is collected after the candidates
    assert candidates.shape == (3, 5) and not run["oracle_answers"].any()
    last = run["task_context"][..., -1, :]
    assert (last.unsqueeze(-2) == candidates).all(-1).any(-1).all()
    torch.testing.assert_close(run["returns"][..., 3:], run["returns"][..., 3:4].expand(4, 2, 3))


def test_its_agent_tries_candidates_too(uninterrupted):
    agent = Agent.load(uninterrupted)
    found = agent.adapt(make_env("point_robot", [2, 6]), "codes", episodes=10)
    assert found.returns.shape == (2, 10) and found.returns.isfinite().all()
    with pytest.raises(ValueError, match="'np' encodes evidence.* choose from anole, codes, none"):
        agent.adapt(make_env("point_robot", [2, 6]), "np")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["method=anole", "evaluation.protocols=[anole,np]"],
            "evaluation.protocols: .*without 'np', which enc",
        ),
        (
            ["method=anole", "evaluation.protocols=[offline]"],
            "knows only the training tasks; choose from anole",
        ),
        (
            ["method=anole", "evaluation.protocols=[told]"],
            "evaluation.protocols: .*without 'told', which enc",
        ),
        (
            ["method=focal", "evaluation.protocols=[anole]"],
            "evaluation.protocols: got 'anole', .*predicts rewa",
        ),
        (
            ["method=anole", "evaluation.episodes=1"],
            "evaluation.episodes: got 1, allowed is at least 2 under",
        ),
        (["method=anole", "env=point_robot_wind", "evaluation.episodes=2"], "episodes: got 2, .* at least 3"),
        (
            ["method=anole", "evaluation.oracle_error=0.5"],
            "evaluation.oracle_error: got 0.5, allowed is a numb",
        ),
        (
            ["method=anole", "evaluation.queries=0"],
            "evaluation.queries: got 0, allowed is a whole number of at",
        ),
        (["method=anole", "representation.fragment=0"], "representation.fragment: got 0"),
        (["method=anole", "representation.preference_weight=0"], "representation.preference_weight: got 0.0"),
        (
            ["method=anole", "representation.divergence_weight=-1"],
            "representation.divergence_weight: got -1.0",
        ),
        (["method=anole", "representation.reward_hidden=[]"], "representation.reward_hidden: got"),
    ],
)
def test_wrong_options_name_the_field(overrides, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(compose_config(overrides))


@pytest.mark.parametrize(
    ("env", "critic_gradient"),
    [("sparse_point_robot", "none"), ("point_robot_wind", "all"), ("ant_goal", "none")],
)
def test_contexts_and_protocols_are_its_own_in_every_environment(env, critic_gradient):
    config = compose_config(["method=anole", f"env={env}"])
    validate_config(config)
    assert config.context.trajectories == [1, 1] and config.context.behaviours is None
    assert config.evaluation.protocols == ["none", "anole"]
    assert config.representation.critic_gradient == critic_gradient


# 8 updates, checkpoints after 3 and 6
@pytest.mark.parametrize("killed_at", [2, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(killed_at, uninterrupted, data_root, tmp_path):
    check_resumed(
        lambda run_dir, *more: anole_config(data_root, run_dir, "output.checkpoint_every=2", *more),
        uninterrupted,
        tmp_path,
        lambda trainer, moment: moment == "update" and trainer.update_count == killed_at,
    )


def test_costs_are_in_the_summary(uninterrupted):
    summary = outcome(uninterrupted)[1]
    assert summary["returns"]["test"]["anole"]["cost"]["oracle_answers"] == 10
    assert summary["returns"]["test"]["anole"]["cost"]["episodes"] == 0


def test_seeds_can_be_trained_together(data_root, tmp_path):
    def config(kind, seed):
        folder = tmp_path / f"{kind}-{seed}"
        return anole_config(data_root, folder, f"seed={seed}", "schedule.updates=3")

    alone = prepare(config("alone", 1))
    alone.trainer.train()
    together = [prepare(config("together", seed)) for seed in (0, 1)]
    StackedTrainer([each.trainer for each in together], [0, 1]).train()
    expected = alone.loss.context_encoder.state_dict()
    found = together[1].loss.context_encoder.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_the_table_is_part_of_the_agent(uninterrupted):
    state = outcome(uninterrupted)[0]["loss"]
    assert state["context_encoder.mean"].shape == (40, 5)
    assert_same(outcome(uninterrupted)[0]["parts"], {"searched_table": {}})
