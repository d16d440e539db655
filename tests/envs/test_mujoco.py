"""The MuJoCo robots: models, formulas and engines against golden numbers and a loop over ``mj_step``."""

from __future__ import annotations

import multiprocessing
import pickle
from functools import cache

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from ctmrl_torchrl.data import CollectionRecipe, collect_task_dataset
from ctmrl_torchrl.envs import get_family, make_env, make_task_set
from ctmrl_torchrl.envs.mujoco.engine import BatchEngine, RolloutEngine, make_engine
from ctmrl_torchrl.envs.mujoco.models import load_model, task_fields
from ctmrl_torchrl.envs.mujoco.robots import ROBOTS, HalfCheetah
from ctmrl_torchrl.envs.task_parameters import RANDOMIZED_FIELDS, log_multipliers, multiplier_sizes

NAMES = tuple(ROBOTS)
BODIES = [name for name in NAMES if ROBOTS[name].task_is_body]
ENGINES = [BatchEngine, RolloutEngine]
PARAMETERS = {"half_cheetah_vel": [[2.0]], "ant_goal": [[2.0, 0.0]]}
#: rewards of steps 1 and 2 and the sum of ten, nominal body, no noise, action 0.3 (1, -1, 1, ...)
GOLDEN = {
    "half_cheetah_vel": (-2.005867, -2.031223, -19.986512),
    "ant_goal": (-2.072246, -2.076079, -20.847374),
    "hopper_rand_params": (0.973893, 0.913242, 8.099814),
    "walker_rand_params": (0.819308, 0.378492, -0.424589),
}


@cache
def nominal(name):
    return load_model(ROBOTS[name])


def constant_action(model):
    return 0.3 * np.where(np.arange(model.nu) % 2 == 0, 1.0, -1.0)[None]


def rewards(name, engine, steps):
    robot, model = ROBOTS[name], engine.model
    engine.set_state(np.arange(1), model.qpos0[None], np.zeros((1, model.nv)))
    paid = []
    for _ in range(steps):
        before = engine.qpos.copy()
        assert not engine.step(constant_action(model)).any()
        task = np.array(PARAMETERS.get(name, [[0.0]]))
        paid.append(robot.reward(before, engine.qpos, constant_action(model), task).item())
    return paid


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_golden_rewards(name, kind):
    paid = rewards(name, kind(nominal(name), 1, ROBOTS[name].frame_skip), 10)
    assert (paid[0], paid[1], sum(paid)) == pytest.approx(GOLDEN[name], abs=1e-6)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    ("name", "recompute", "five"),
    [
        ("hopper_rand_params", False, 4.573218),
        ("hopper_rand_params", True, 4.573870),
        ("walker_rand_params", False, 1.940575),
        ("walker_rand_params", True, 1.936672),
    ],
)
def test_golden_rewards_of_the_first_body(name, recompute, five, kind):
    model = nominal(name)
    engine = pickle.loads(pickle.dumps(kind(model, 1, ROBOTS[name].frame_skip, 1, recompute)))
    engine.set_fields(task_fields(model, make_task_set(name).parameters[:1].numpy()))
    assert sum(rewards(name, engine, 5)) == pytest.approx(five, abs=1e-6)


def test_golden_multipliers():
    sizes = dict(bodies=5, velocities=6, geoms=5)
    parts = log_multipliers(40, **sizes).exp().split(list(multiplier_sizes(**sizes).values()), -1)
    mass, _, damping, friction = (part.numpy() for part in parts)
    assert mass[0] == pytest.approx([0.472145, 1.345903, 0.859422, 2.002142, 1.976095], abs=1e-6)
    assert mass[39] == pytest.approx([0.377669, 0.365709, 1.850637, 1.802977, 0.638372], abs=1e-6)
    assert damping[0] == pytest.approx([0.808403, 1.1992, 0.512513, 0.81343, 1.977519, 1.269086], abs=1e-6)
    sliding = friction[0].reshape(5, 3)[:, 0]
    assert sliding == pytest.approx([0.778735, 1.180183, 2.085611, 1.644939, 0.868698], abs=1e-6)
    walker = log_multipliers(1, bodies=8, velocities=9, geoms=8).exp()[0, :8].tolist()
    expected = [0.472145, 1.345903, 0.859422, 2.002142, 1.976095, 0.575087, 0.580529, 2.084214]
    assert walker == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", BODIES)
def test_bodies_are_multiples_of_the_nominal_one(name):
    model, tasks = nominal(name), make_task_set(name)
    sizes = multiplier_sizes(bodies=model.nbody, velocities=model.nv, geoms=model.ngeom)
    assert sum(sizes.values()) == len(tasks.parameter_names)
    masses = task_fields(model, tasks.parameters.numpy())["body_mass"].sum(-1)
    lightest, heaviest = {"hopper_rand_params": (8.8, 42.9), "walker_rand_params": (13.0, 49.7)}[name]
    assert (masses.min(), masses.max()) == pytest.approx((lightest, heaviest), abs=0.06)


@pytest.mark.parametrize("name", BODIES)
def test_inert_parameters_are_those_of_elements_that_are_zero(name):
    model, family = nominal(name), get_family(name)
    fields = [np.asarray(getattr(model, field)).flatten() for field in RANDOMIZED_FIELDS]
    zero = np.concatenate(fields) == 0
    named = [parameter in family.inert_parameters for parameter in family.parameter_names]
    # no joint but the root's is undamped, and frictions are all positive
    assert named == zero.tolist()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_a_loop_over_mj_step(name, threads):
    robot, model, rows = ROBOTS[name], nominal(name), 3
    engine = BatchEngine(model, rows, robot.frame_skip, threads)
    fields = {}
    if robot.task_is_body:
        fields = task_fields(model, make_task_set(name).parameters[:rows].numpy())
        engine.set_fields(fields)
    generator = np.random.default_rng(0)
    qpos, qvel = robot.initial_state(np.array(model.qpos0), model.nv, rows, generator)
    engine.set_state(np.arange(rows), qpos, qvel)
    actions = generator.uniform(-1.0, 1.0, (30, rows, model.nu))
    for action in actions:
        engine.step(action)
    for row in range(rows):
        own = pickle.loads(pickle.dumps(model))
        for field, values in fields.items():
            getattr(own, field)[:] = values[row]
        data = mujoco.MjData(own)
        data.qpos, data.qvel = qpos[row], qvel[row]
        for action in actions[:, row]:
            data.ctrl = action
            for _ in range(robot.frame_skip):
                mujoco.mj_step(own, data)
        np.testing.assert_array_equal(engine.qpos[row], data.qpos)
        np.testing.assert_array_equal(engine.qvel[row], data.qvel)


@pytest.mark.parametrize("kind", ENGINES)
def test_only_the_rows_asked_for_move(kind):
    model = nominal("half_cheetah_vel")
    engine = kind(model, 3, 5)
    engine.set_state(np.arange(3), np.tile(model.qpos0, (3, 1)), np.zeros((3, model.nv)))
    before = engine.qpos.copy()
    engine.step(np.ones((3, model.nu)), np.array([1]))
    assert (engine.qpos != before).any(-1).tolist() == [False, True, False]
    engine.set_state(np.array([1]), before[[1]], np.zeros((1, model.nv)))
    np.testing.assert_array_equal(engine.qpos, before)


@pytest.mark.parametrize("kind", ENGINES)
def test_broken_simulations_are_seen(kind):
    model = nominal("ant_goal")
    engine = kind(model, 3, 5)
    speed = np.zeros((3, model.nv))
    speed[1] = 1e11
    engine.set_state(np.arange(3), np.tile(model.qpos0, (3, 1)), speed)
    assert engine.step(np.zeros((3, model.nu))).tolist() == [False, True, False]
    engine.set_state(np.array([1]), model.qpos0[None], np.zeros((1, model.nv)))
    assert not engine.step(np.zeros((3, model.nu))).any()


def test_another_asset_is_refused():
    with pytest.raises(RuntimeError, match=r"hopper.xml .* gives 15.82001 kg .* for 14.0 kg"):
        load_model(HalfCheetah("hopper.xml", frame_skip=5, timestep=0.002, total_mass=14.0))


def test_falls_by_hand():
    hopper, walker = ROBOTS["hopper_rand_params"], ROBOTS["walker_rand_params"]
    still = np.zeros((6, 6))
    still[5, 0] = np.nan
    qpos = np.tile([0.0, 1.25, 0.0, 0.0, 0.0, 0.0], (6, 1))
    qpos[1, 1], qpos[2, 2], qpos[3, 2], qpos[4, 5] = 0.69, 0.21, -0.21, 100.5
    assert hopper.fallen(qpos, still).tolist() == [False, True, True, True, True, True]
    heights = np.zeros((4, 9))
    heights[:, 1] = [0.79, 0.81, 1.99, 2.01]
    assert walker.fallen(heights, np.zeros((4, 9))).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in NAMES), (BODIES[0], {"recompute_constants": True})]
)
def test_the_single_environment_is_a_row_of_the_batch(name, options):
    task = 7
    env = make_env(name, [2, task], seed=0, **options)
    single = gymnasium.make(get_family(name).gymnasium_id, task=task, **options).unwrapped
    reset = env.reset()
    single.reset(seed=0)
    single.engine.set_state(np.arange(1), env.engine.qpos[[1]], env.engine.qvel[[1]])
    generator = torch.Generator().manual_seed(0)
    assert reset["observation"].shape == (2, get_family(name).observation_dim)
    for _ in range(20):
        action = torch.rand(2, env.action_spec.shape[-1], generator=generator) * 2.4 - 1.2
        row = env.step(TensorDict({"action": action}, [2]))["next"][1]
        observation, reward, terminated, truncated, info = single.step(action[1].numpy())
        np.testing.assert_array_equal(row["observation"].numpy(), observation)
        assert row["reward"].item() == pytest.approx(reward, rel=1e-6)
        assert (row["terminated"].item(), row["truncated"].item()) == (terminated, truncated)
        assert not info["unstable"]
        if terminated:
            break


def test_falls_terminate_and_the_horizon_truncates():
    env = make_env("hopper_rand_params", [0, 1], seed=0, horizon=3)
    env.reset()
    state = TensorDict({"action": torch.zeros(2, 3)}, [2])
    for step in range(3):
        if step == 2:  # falls on the very step at which time is up
            env.engine.qpos[1, 1] = 0.3
        out = env.step(state.clone())["next"]
    flags = {name: out[name].flatten().tolist() for name in ("done", "terminated", "truncated")}
    assert flags == {"done": [True, True], "terminated": [False, True], "truncated": [True, True]}


def test_partial_resets_leave_the_others_alone():
    env = make_env("half_cheetah_vel", [0, 1, 2], seed=0, horizon=4)
    env.rollout(3)
    before = env.engine.qpos.copy()
    mask = torch.tensor([[False], [True], [False]])
    env.reset(TensorDict({"_reset": mask}, [3]))
    assert (env.engine.qpos != before).any(-1).tolist() == [False, True, False]
    out = env.step(TensorDict({"action": torch.zeros(3, 6)}, [3]))["next", "truncated"]
    assert out.flatten().tolist() == [True, False, True]


def test_a_broken_simulation_is_truncated_counted_and_not_recorded():
    env = make_env("ant_goal", [0, 1], seed=0)
    seen = env.reset()["observation"]
    env.engine.qvel[1] = 1e11
    seen = env._observe()
    out = env.step(TensorDict({"action": torch.zeros(2, 8)}, [2]))["next"]
    assert out["unstable"].flatten().tolist() == out["truncated"].flatten().tolist() == [False, True]
    assert not out["terminated"].any() and out["reward"][1] == 0 and env.unstable_count == 1
    np.testing.assert_array_equal(out["observation"][1].numpy(), seen[1].astype(np.float32))
    assert not env.reset()["unstable"].any()


def test_episodes_with_a_breakdown_are_left_out_of_the_data(monkeypatch):
    healthy = BatchEngine.step

    def step(self, control, rows=None):
        unstable = healthy(self, control, rows)
        unstable[: self.rows // 2] |= self.rows > 4  # the first of two recorded episodes of every task
        return unstable

    monkeypatch.setattr(BatchEngine, "step", step)
    tasks = make_task_set("half_cheetah_vel", num_train=3, num_test=1)
    recipe = CollectionRecipe(
        snapshot_steps=(1,), trajectories_per_snapshot=2, hidden_sizes=(8,), random_snapshot=False
    )
    dataset = collect_task_dataset("half_cheetah_vel", recipe=recipe, task_set=tasks)
    assert dataset.n_trajectories == 4 and dataset.n_transitions == 4 * 200
    assert ("next", "unstable") not in dataset.transitions.keys(True)


def test_random_returns():
    torch.manual_seed(0)
    tasks = make_task_set("half_cheetah_vel")
    env = make_env("half_cheetah_vel", list(tasks.test_ids) * 2, seed=0)
    mean = env.rollout(200)["next", "reward"].sum(1).mean().item()
    assert mean == pytest.approx(tasks.family.random_return["repo"]["test"], abs=12.0)


@pytest.mark.parametrize("threads", [0, 1.5, True])
def test_threads_are_a_whole_number(threads):
    with pytest.raises(ValueError, match="threads must be a whole number of at least 1"):
        make_env("half_cheetah_vel", [0], threads=threads)


def test_seeds_decide_the_initial_states():
    first, again, other = (make_env("walker_rand_params", [0, 1], seed=seed) for seed in (0, 0, 1))
    states = [env.reset()["observation"] for env in (first, again, other)]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    torch.manual_seed(5)
    unseeded = make_env("ant_goal", [0]).reset()["observation"]
    torch.manual_seed(5)
    assert torch.equal(unseeded, make_env("ant_goal", [0]).reset()["observation"])


def test_tasks_are_exposed_for_analysis_and_hidden_from_policies():
    env = make_env("half_cheetah_vel", [0, 39])
    assert env.task_parameters.flatten().tolist() == [1.0, 3.0]
    assert set(env.reset().keys()) == {
        "observation",
        "task_id",
        "unstable",
        "done",
        "terminated",
        "truncated",
    }
    env.set_task([39, 39])
    assert env.task_ids.tolist() == [39, 39]
    with pytest.raises(ValueError, match="1 task ids for an environment with 2 rows"):
        env.set_task([1])
    with pytest.raises(ValueError, match="Task id 40"):
        env.set_task([1, 40])


def _travelled(env, queue):
    torch.manual_seed(0)
    queue.put(env.rollout(3, auto_reset=False, tensordict=env.reset())["next", "reward"].shape)


def test_pickles_are_whole():
    env = make_env("hopper_rand_params", [0, 5], seed=0)
    env.reset()
    twin = pickle.loads(pickle.dumps(env))
    action = TensorDict({"action": torch.full((2, 3), 0.2)}, [2])
    for _ in range(3):
        ours, theirs = (e.step(action.clone())["next"] for e in (env, twin))
        torch.testing.assert_close(ours["observation"], theirs["observation"])


@pytest.mark.ci
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes_can_step(method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    env = make_env("hopper_rand_params", [0, 5], seed=0)
    process = context.Process(target=_travelled, args=(env, queue), daemon=True)
    process.start()
    assert queue.get(timeout=120) == (2, 3, 1)
    process.join(timeout=30)
    assert process.exitcode == 0


def test_the_engine_is_the_batch_where_there_is_one():
    assert type(make_engine(nominal("ant_goal"), 1, 5)) is BatchEngine
