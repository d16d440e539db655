"""Runs that differ in the seed only, aggregated."""

from __future__ import annotations

import pytest

from ctmrl_torchrl.evaluation import aggregate_seeds, bootstrap_interval


def run(seed: int, final: float, episodes: int = 3, **setting: object) -> dict:
    result = {"mean": final, "per_episode": [final - 2, final - 1, final][:episodes]}
    base = {"env": "point_robot", "method": "ctmrl", "policy_loss": "iql", "preset": "cpu", "seed": seed}
    return {**base, "returns": {"test": {"np": result}}, **setting}


def test_aggregate_seeds():
    table = aggregate_seeds([run(0, -4.0), run(2, -5.0), run(1, -6.0)])
    result = table["returns"]["test"]["np"]
    assert table["seeds"] == [0, 2, 1] and table["env"] == "point_robot"
    assert result["mean"] == -5.0 and result["per_seed"] == [-4.0, -5.0, -6.0]
    assert result["per_episode"] == [-7.0, -6.0, -5.0]
    assert result["ci95"] == list(bootstrap_interval([-4.0, -5.0, -6.0]))
    lows, highs = result["per_episode_ci95"]
    assert all(low < mean < high for low, mean, high in zip(lows, result["per_episode"], highs, strict=True))


def test_one_seed_has_no_interval_over_seeds_whatever_its_interval_over_tasks():
    single = run(0, -4.0)
    single["returns"]["test"]["np"] |= {
        "ci95": [-5.0, -3.0],
        "per_task": {"2": -5.0, "6": -3.0},
        "per_episode_ci95": [[-7.0, -5.0], [-6.0, -4.0], [-5.0, -3.0]],
    }
    result = aggregate_seeds([single])["returns"]["test"]["np"]
    assert result["ci95"] is None and result["per_episode_ci95"] is None
    assert (result["mean"], result["per_seed"]) == (-4.0, [-4.0])


def test_the_interval_over_seeds_is_not_that_over_tasks():
    runs = [run(seed, value) for seed, value in enumerate((-4.0, -5.0))]
    for each in runs:
        each["returns"]["test"]["np"] |= {"ci95": [-50.0, 50.0], "per_task": {"2": -50.0, "6": 50.0}}
    low, high = aggregate_seeds(runs)["returns"]["test"]["np"]["ci95"]
    assert -5.0 <= low <= high <= -4.0


def of_tasks(seed: int, tasks: list[int]) -> dict:
    summary = run(seed, -4.0)
    summary["returns"]["test"]["np"]["per_task"] = dict.fromkeys(map(str, tasks), -4.0)
    return summary


@pytest.mark.parametrize(
    ("summaries", "message"),
    [
        ([], "at least one"),
        ([run(0, -4.0), run(0, -5.0)], "more than once"),
        ([of_tasks(0, [1, 2]), of_tasks(1, [1, 3])], "Seed 1 was evaluated on different tasks than seed 0"),
        ([run(0, -4.0), run(1, -5.0, method="focal")], "'method'.*ctmrl.*focal"),
        ([run(0, -4.0), run(1, -5.0) | {"updates": 9}], "'updates'.*9.*null"),
        ([run(0, -4.0) | {"held_out": [1, 2]}, run(1, -5.0)], "'held_out'"),
        ([run(0, -4.0, comparison="own"), run(1, -5.0, comparison="shared")], "'comparison'.*own.*shared"),
        ([run(0, -4.0, random_episodes=2), run(1, -5.0, random_episodes=10)], "'random_episodes'.*10.*2"),
        ([run(0, -4.0), run(1, -5.0, episodes=2)], "seed 1 .*'test/np': 2.*'test/np': 3"),
    ],
)
def test_aggregate_errors(summaries, message):
    with pytest.raises(ValueError, match=message):
        aggregate_seeds(summaries)


@pytest.mark.parametrize("recorded", [{"comparison": "shared"}, {"random_episodes": 10}])
def test_summaries_that_do_not_record_every_setting_are_welcome(recorded):
    assert aggregate_seeds([run(0, -4.0), run(1, -5.0, **recorded)])["seeds"] == [0, 1]
