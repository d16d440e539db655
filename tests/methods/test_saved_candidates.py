"""A run's agent keeps the contexts that protocol ``codes`` tries, whatever its method."""

from __future__ import annotations

import pytest
from small_runs import small_config

from ctmrl_torchrl import Agent
from ctmrl_torchrl.envs import make_env
from ctmrl_torchrl.training.build import build_experiment
from ctmrl_torchrl.training.experiment import run_experiment

BUDGET = ("evaluation.episodes=4", "evaluation.random_episodes=2", "evaluation.candidates=2")


@pytest.mark.parametrize("method", ["focal", "corro", "oracle"])
def test_the_agent_of_a_run_adapts_by_candidates(method, data_root, tmp_path):
    config = small_config(method, data_root, tmp_path, *BUDGET, protocols="[codes]")
    summary = run_experiment(config)
    agent = Agent.load(tmp_path)
    assert agent.candidates.shape == (2, agent.context_dim)
    test_ids = build_experiment(config).task_set.test_ids
    adapted = agent.adapt(make_env("point_robot", list(test_ids)), "codes")
    assert adapted.returns.shape == (len(test_ids), 4)
    expected = summary["returns"]["test"]["codes"]["mean"]
    assert adapted.returns[:, -1].mean().item() == pytest.approx(expected, abs=1e-4)
