"""Every method builds its whole objective wherever a shipped study trains it."""

from __future__ import annotations

import pytest
import torch

from ctmrl_torchrl.envs import get_family, make_task_set
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.studies.config import load_study
from ctmrl_torchrl.training.build import make_loss, parameter_groups
from ctmrl_torchrl.training.compose import choices, compose_config

STUDY = load_study("table1").factors
PAIRS = [(method, "shared") for method in choices("method")] + [(method, "own") for method in STUDY["method"]]
SMALL = [f"sizes.{name}_hidden=[8]" for name in ("encoder", "predictor", "policy")]


def problem_of(env):
    family, tasks = get_family(env), make_task_set(env)
    sizes = {
        "observation": family.observation_dim,
        "action": family.action_dim,
        ("next", "observation"): family.observation_dim,
        "observation_change": family.observation_dim,
        ("next", "reward"): 1,
        family.return_key: 1,
    }
    statistics = {key: (torch.zeros(size), torch.ones(size)) for key, size in sizes.items()}
    return Problem(
        family.observation_dim,
        family.action_dim,
        0.99,
        family.return_key,
        family.context_next_observation,
        statistics,
        len(tasks),
        tasks.standardized_parameters(),
        tasks.train_ids,
    )


@pytest.mark.parametrize(("method", "comparison"), PAIRS)
def test_every_method_builds_its_objective_in_every_environment(method, comparison):
    """Configurations that are valid alone may still not fit: CORRO's pooling learns from a critic."""
    for env in STUDY["env"]:
        config = compose_config([f"method={method}", f"env={env}", f"comparison={comparison}", *SMALL])
        loss = make_loss(config.encoder, config.representation, config.policy_loss, problem_of(env), 0)
        groups = parameter_groups(config.representation, config.policy_loss, loss)
        assert {"loss_actor", "loss_bc"} & set(loss.out_keys) and groups
