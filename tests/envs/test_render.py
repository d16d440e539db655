"""Pictures of the robots where a machine can draw, a clear word where it cannot; positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctmrl_torchrl.envs import make_env, make_task_set
from ctmrl_torchrl.envs.mujoco import render
from ctmrl_torchrl.envs.mujoco.models import load_model
from ctmrl_torchrl.envs.mujoco.render import RenderingUnavailableError, render_robot
from ctmrl_torchrl.envs.mujoco.robots import ROBOTS


@pytest.mark.parametrize("name", ROBOTS)
def test_positions_are_read_back_from_observations(name):
    env = make_env(name, [3], seed=0)
    state, observations, qpos = env.reset(), [], []
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        observations.append(state["observation"][0])
        qpos.append(env.engine.qpos[0].copy())
        action = 0.3 * torch.rand(env.action_spec.shape, generator=generator)
        state = env.step(state.set("action", action))["next"]
    found = ROBOTS[name].positions(torch.stack(observations).double().numpy())
    expected = np.stack(qpos)
    np.testing.assert_allclose(found[:, 1:], expected[:, 1:], atol=1e-6)
    # where x is not observed it is integrated from the speeds at the control steps
    integrated = name in ("hopper_rand_params", "walker_rand_params")
    np.testing.assert_allclose(
        np.diff(found[:, 0]), np.diff(expected[:, 0]), atol=0.02 if integrated else 1e-6
    )


def robot_frames(name, **options):
    standing = load_model(ROBOTS[name]).qpos0
    aside = standing.copy()
    aside[-1] += 0.6  # bends the last joint
    try:
        return render_robot(make_task_set(name), 3, np.stack([standing, aside]), **options)
    except RenderingUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ROBOTS)
def test_a_robot_is_seen_and_moves(name):
    frames = robot_frames(name, width=160, height=120)
    assert frames.shape == (2, 120, 160, 3) and frames.dtype == np.uint8
    assert frames.std() > 10  # floor, sky and robot
    assert 20 < (frames[0] != frames[1]).any(-1).sum() < 0.6 * 120 * 160


def test_bodies_of_other_tasks_and_wrong_positions_are_refused():
    tasks = make_task_set("half_cheetah_vel")
    with pytest.raises(ValueError, match="Task id 40"):
        render_robot(tasks, 40, np.zeros((1, 9)))
    with pytest.raises(ValueError, match=r"must have the shape \[n, 9\] for half_cheetah_vel, got \[1, 8\]"):
        render_robot(tasks, 0, np.zeros((1, 8)))


def test_without_a_platform_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(render, "_PLATFORMS", ("no_such_platform",))
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(RenderingUnavailableError, match=r"no_such_platform.*libegl1.*libosmesa6"):
        render_robot(make_task_set("half_cheetah_vel"), 0, np.zeros((1, 9)))
