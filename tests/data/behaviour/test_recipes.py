"""Recipes and kinds of agents as open registries, and what a recipe refuses."""

from __future__ import annotations

import dataclasses

import pytest

from ctmrl_torchrl.data import (
    CollectionRecipe,
    PPOSettings,
    collect_task_dataset,
    get_recipe,
    recipe_names,
    recipes_of,
    register_agents,
    register_recipe,
)
from ctmrl_torchrl.data.behaviour import BEHAVIOUR_AGENTS, unregister_recipe
from ctmrl_torchrl.data.behaviour.sac import BatchedSAC
from ctmrl_torchrl.envs import ENV_NAMES, get_family, make_task_set

TINY = CollectionRecipe(
    snapshot_steps=(1, 3), trajectories_per_snapshot=2, hidden_sizes=(8,), batch_size=4, rows_per_task=2
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("snapshot_steps", (3, 3)),
        ("snapshot_steps", (0, 3)),
        ("snapshot_steps", (1.5,)),
        ("hidden_sizes", (0,)),
        ("trajectories_per_snapshot", 0),
        ("rows_per_task", 0),
        ("random_episodes", 0),
        ("gradient_steps_per_episode", 0),
        ("discount", 1.0),
        ("learning_rate", 0.0),
        ("entropy_coefficient", float("nan")),
        ("annealed_fraction", 1.5),
        ("behaviour_tasks", "test"),
        ("settings", PPOSettings()),
        ("snapshot_steps", 100),
        ("hidden_sizes", 64),
    ],
)
def test_a_recipe_names_the_field_that_is_wrong(field, value):
    with pytest.raises(ValueError, match=f"config field {field}"):
        dataclasses.replace(TINY, **{field: value})


def test_a_recipe_without_any_snapshot_is_refused():
    with pytest.raises(ValueError, match="otherwise no data would be collected"):
        CollectionRecipe(snapshot_steps=(), trajectories_per_snapshot=1, random_snapshot=False)


def test_settings_must_be_those_of_the_agents():
    ppo = CollectionRecipe((1,), 1, agents="ppo")
    assert ppo.to_dict()["settings"]["epochs"] == 6, "defaults are written out"
    with pytest.raises(ValueError, match="settings.*PPOSettings with agents='ppo'"):
        dataclasses.replace(ppo, settings={"epochs": 6})


def test_agents_that_are_not_told_cannot_act_on_tasks_they_have_not_learned():
    with pytest.raises(ValueError, match="behaviour_tasks.*'train_only' with agents='per_task'"):
        dataclasses.replace(TINY, behaviour_tasks="train")
    dataclasses.replace(TINY, behaviour_tasks="train", agents="conditioned")


def test_agents_of_one_task_each_learn_nothing_from_more_tasks():
    with pytest.raises(ValueError, match="more_tasks: got 4, allowed is 0 with agents='per_task'"):
        dataclasses.replace(TINY, more_tasks=4)
    dataclasses.replace(TINY, more_tasks=4, agents="conditioned")


@pytest.mark.parametrize("agents", ["per_task", "conditioned"])
def test_without_training_the_data_are_random(agents):
    recipe = dataclasses.replace(TINY, snapshot_steps=(), agents=agents)
    assert recipe.learning_rate_scale(0) == 1.0
    tasks = make_task_set("point_robot", num_train=2, num_test=1)
    dataset = collect_task_dataset("point_robot", recipe=recipe, task_set=tasks)
    assert dataset.n_trajectories == 3 * 2 and dataset.snapshot_ids.tolist() == [0]


def test_a_manifest_of_sac_data_has_the_fields_it_always_had():
    assert "settings" not in TINY.to_dict() and "behaviour_tasks" not in TINY.to_dict()
    assert (
        dataclasses.replace(TINY, behaviour_tasks="train_only").to_dict()["behaviour_tasks"] == "train_only"
    )


@pytest.mark.parametrize("env", ENV_NAMES)
def test_every_family_has_the_named_recipes(env):
    recipes = recipes_of(env)
    assert {"smoke", "small", "paper"} <= set(recipes) <= set(recipe_names())
    assert all(recipes[name].all_steps[0] == 0 for name in ("smoke", "small", "paper"))
    with pytest.raises(ValueError, match=f"'smal' of {env}.*Did you mean 'small'.*paper, .*small"):
        get_recipe("smal", env)


@pytest.mark.parametrize("env", [name for name in ENV_NAMES if get_family(name).simulator == "mujoco"])
def test_the_robots_default_is_ppo_with_geometric_snapshots(env):
    recipe = get_recipe("small", env)
    assert recipe.agents == "ppo" and get_recipe("small_sac", env).agents == "conditioned"
    steps = recipe.snapshot_steps
    ratios = [after / before for before, after in zip(steps, steps[1:], strict=False)]
    assert max(ratios) / min(ratios) < 1.06 and len(steps) >= 9


@pytest.mark.parametrize("env", ["hopper_rand_params", "walker_rand_params"])
def test_families_that_take_more_tasks_have_a_longer_recipe(env):
    small, long = get_recipe("small", env), get_recipe("long", env)
    assert long.total_steps == 2 * small.total_steps and long.rows_per_task == small.rows_per_task // 2
    same = {"snapshot_steps": small.snapshot_steps, "rows_per_task": small.rows_per_task}
    assert dataclasses.replace(long, **same) == small
    assert get_recipe("broad", env) == dataclasses.replace(long, more_tasks=60)


@pytest.mark.parametrize("env", ENV_NAMES)
def test_the_default_has_variants_that_do_not_practise_on_test_tasks(env):
    recipes = recipes_of(env)
    small = recipes["small"]
    told = BEHAVIOUR_AGENTS.get(small.agents).told_parameters
    assert recipes["small_train_only"] == dataclasses.replace(small, behaviour_tasks="train_only")
    assert ("small_train" in recipes) == told
    if told:
        assert recipes["small_train"] == dataclasses.replace(small, behaviour_tasks="train")


def test_late_data_are_as_many_episodes_of_the_same_behavior():
    small, late = get_recipe("small", "point_robot"), get_recipe("small_late", "point_robot")
    episodes = [len(recipe.all_steps) * recipe.trajectories_per_snapshot for recipe in (small, late)]
    assert episodes[0] == episodes[1] and late.all_steps == small.all_steps[-4:]
    same = ("snapshot_steps", "trajectories_per_snapshot", "random_snapshot")
    assert dataclasses.replace(late, **{name: getattr(small, name) for name in same}) == small


def test_the_papers_recipe_has_the_released_checkpoints():
    assert set(range(2200, 5001, 200)) <= set(get_recipe("paper", "point_robot").snapshot_steps)
    assert get_recipe("paper_per_task", "ant_goal").snapshot_steps == tuple(range(50_000, 950_001, 50_000))


def test_a_familys_recipe_goes_before_its_simulators():
    try:
        register_recipe("tiny", TINY, simulator="torch")
        own = register_recipe("tiny", dataclasses.replace(TINY, batch_size=5), family="point_robot_wind")
        assert get_recipe("tiny", "point_robot_wind") is own and get_recipe("tiny", "point_robot") is TINY
        assert "tiny" not in recipes_of("ant_goal") and "tiny" in recipe_names()
        with pytest.raises(ValueError, match="'tiny' is already registered"):
            register_recipe("tiny", TINY, family="point_robot_wind")
    finally:
        unregister_recipe("tiny", simulator="torch")
        unregister_recipe("tiny", family="point_robot_wind")
    assert "tiny" not in recipe_names()
    with pytest.raises(ValueError, match="belongs to a family or to a simulator"):
        register_recipe("tiny", TINY)


def test_a_guests_agents_are_a_choice():
    class LazySAC(BatchedSAC):
        algorithm = "lazy"

        def train(self, tasks, recipe, **options):
            return [self.snapshot() for _ in recipe.snapshot_steps]

    with pytest.raises(ValueError, match="agents: got 'lazy'"):
        dataclasses.replace(TINY, agents="lazy")
    with pytest.raises(TypeError, match="subclass of BehaviourAgents"):
        register_agents("lazy", dict)
    register_agents("lazy", LazySAC)
    try:
        tasks = make_task_set("point_robot", num_train=3, num_test=1)
        recipe = dataclasses.replace(TINY, agents="lazy")
        manifest = collect_task_dataset("point_robot", recipe=recipe, task_set=tasks).manifest
        assert manifest.recipe["algorithm"] == "lazy" and len(manifest.snapshots) == 3
    finally:
        BEHAVIOUR_AGENTS.unregister("lazy")
