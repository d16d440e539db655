"""What every registered family keeps to, whoever registered it."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from functools import partial

import gymnasium
import pytest
import torch
from guest_toys import make_cart
from gymnasium.utils.env_checker import check_env
from torch import nn
from torchrl.envs import EnvCreator, ParallelEnv, StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from ctmrl_torchrl.collector_kinds import EpisodeEnv
from ctmrl_torchrl.envs import (
    TaskSet,
    family_names,
    from_gymnasium,
    get_family,
    make_env,
    make_task_set,
    unregister_family,
)
from ctmrl_torchrl.envs.families import load_entry_point

GUEST = "conformance_cart"


@pytest.fixture(autouse=True)
def guest():
    yield from_gymnasium(GUEST, make_cart, {"mass": (0.5, 2.0)}, train_tasks=5, test_tasks=3)
    unregister_family(GUEST)


def played(env, steps=4):
    """A rollout with fixed actions from fixed starts."""
    env.set_seed(0)
    torch.manual_seed(0)
    return env.rollout(steps, break_when_any_done=False)


def specs(name):
    check_env_specs(make_env(name, [0, 3, 3], seed=0))
    check_env_specs(TransformedEnv(make_env(name, [1, 2], seed=0), StepCounter()))


def state_dict(name):
    env = make_env(name, [1, 2])
    assert not env.state_dict()  # what a checkpoint holds of an environment: nothing
    TransformedEnv(env, StepCounter()).state_dict()


def parameters(name):
    env = make_env(name, [1, 2])
    assert list(env.parameters()) == [] and all(not each.requires_grad for each in env.buffers())


def moves(name):
    env = make_env(name, [1, 2])
    assert env.to("cpu") is env and env.eval() is env
    assert played(env)["task_id"][:, 0].tolist() == [1, 2]


def devices(name):
    """A CPU with an index differs from one without, as a GPU would, so specs left on the default device show."""
    indexed = torch.device("cpu", 0)
    env = make_env(name, [1, 2], device=indexed)
    for each in (env, TransformedEnv(env, StepCounter()), EpisodeEnv(env, 3, owned=False)):
        specs = {"output": each.output_spec, "input": each.input_spec}
        found = {(kind, *path): spec[path].device for kind, spec in specs.items() for path in leaves(spec)}
        assert len(found) >= 6 and set(found.values()) == {indexed}, found


def leaves(spec):
    return [path if isinstance(path, tuple) else (path,) for path in spec.keys(True, True)]


def copies(name):
    env = make_env(name, [0, 5])
    expected = played(env)
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert (played(twin) == expected).all()
        assert twin.task_ids.tolist() == [0, 5] and twin.horizon == env.horizon
        twin.set_task([1, 2])
    assert env.task_ids.tolist() == [0, 5]


def creator(name):
    env = EnvCreator(partial(make_env, name, [0, 5]))()
    assert played(env).shape == (2, 4)


def names_of_torch(name):
    """No attribute of ours, of class or instance, hides one of ``nn.Module``'s."""
    env, bare = make_env(name, [0, 1]), nn.Module()
    own = [each for each in type(env).__mro__ if each.__module__.startswith("ctmrl_torchrl")]
    assert own
    taken = {each for each in dir(nn.Module()) if not (each.startswith("__") and each.endswith("__"))}
    assert not taken & {each for kind in own for each in vars(kind)}
    changed = {each for each in taken & set(vars(env)) if type(vars(env)[each]) is not type(vars(bare)[each])}
    assert not changed


def seeds(name):
    first, again, other = (make_env(name, [0, 3], seed=seed) for seed in (0, 0, 1))
    assert (played(first) == played(again)).all()
    other.set_seed(1)
    assert other.reset()["observation"].shape == (2, get_family(name).observation_dim)


def tasks(name):
    env, fresh = make_env(name, [0, 1]), make_env(name, [4, 2])
    played(env)
    env.set_task(torch.tensor([4, 2]))
    assert (played(env) == played(fresh)).all()
    assert torch.equal(env.task_parameters, make_task_set(name).parameters[[4, 2]])
    with pytest.raises(ValueError, match="3 task ids .* 2 rows"):
        env.set_task([0, 1, 2])
    with pytest.raises(ValueError, match="task_ids is empty"):
        make_env(name, [])


def horizon(name):
    env = make_env(name, [0, 1], horizon=3, seed=0)
    assert env.rollout(3, break_when_any_done=False)["next", "truncated"][:, -1].all()
    for wrong in (0, 2.5, True):
        with pytest.raises(ValueError, match="horizon must be a whole number of at least 1"):
            make_env(name, [0], horizon=wrong)


def task_set(name):
    family, tasks = get_family(name), make_task_set(name)
    assert torch.equal(tasks.parameters, make_task_set(name).parameters)
    again = TaskSet.from_dict(json.loads(json.dumps(tasks.to_dict())))
    assert again.to_dict() == tasks.to_dict() and again.family is family
    for preset, counts in family.presets.items():
        each = make_task_set(name, preset)
        assert (len(each.train_ids), len(each.test_ids)) == counts
    odd = make_task_set(name, num_train=7, num_test=3)
    assert sorted(odd.train_ids + odd.test_ids) == list(range(10))
    standardized = odd.standardized_parameters()[list(odd.train_ids)]
    varying = odd.parameters[list(odd.train_ids)].std(0) > 0
    torch.testing.assert_close(standardized.std(0)[varying], torch.ones(int(varying.sum())))
    goals = tasks.goal_positions()
    assert goals is None or (goals.shape == (len(tasks), 2) and goals.isfinite().all())


def entry_points(name):
    family = get_family(name)
    for entry in filter(None, (family.env_builder, family.gymnasium_class, family.optimum)):
        assert callable(load_entry_point(entry))
    for figure in family.figures:
        assert callable(figure) or figure.count(":") == 1


def single(name):
    family = get_family(name)
    env = gymnasium.make(family.gymnasium_id, task=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*infinity.*")  # positions are unbounded by design
        check_env(env.unwrapped)
    assert env.observation_space.shape == (family.observation_dim,)
    assert env.action_space.shape == (family.action_dim,) and env.action_space.high.tolist()[0] == 1.0


CHECKS = [
    specs,
    state_dict,
    parameters,
    moves,
    devices,
    copies,
    creator,
    names_of_torch,
    seeds,
    tasks,
    horizon,
    task_set,
    entry_points,
    single,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_family(check):
    assert GUEST in family_names()
    for name in family_names():
        check(name)


@pytest.mark.parametrize("simulator", ["torch", "mujoco", "gymnasium"])
def test_parallel_environments(simulator):
    name = next(name for name in family_names() if get_family(name).simulator == simulator)
    env = ParallelEnv(
        2,
        [partial(make_env, name, [0, 1]), partial(make_env, name, [2, 3])],
        mp_start_method="fork",
        non_blocking=False,
    )
    try:
        rows = env.rollout(3)
        assert rows.shape == (2, 2, 3) and rows["task_id"][..., 0].tolist() == [[0, 1], [2, 3]]
    finally:
        env.close()
