from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from ctmrl_torchrl import rules
from ctmrl_torchrl.registry import Registry, UnknownChoiceError


def test_a_choice_is_found_from_the_moment_it_is_registered():
    registry = Registry("loss")
    rule = rules.registered(registry)
    assert not rule.allows("mine")

    @registry.register("mine")
    class Mine: ...

    assert rule.allows("mine") and registry.get("mine") is Mine and registry.names() == ("mine",)
    assert registry.register("mine", Mine) is Mine  # a file may be imported twice
    registry.unregister("mine")
    assert "mine" not in registry and len(registry) == 0


@pytest.mark.parametrize("name", ["iqll", "", 3, None, ["ppo"]])
def test_an_unknown_choice_lists_the_known_ones(name):
    registry = Registry("policy loss")
    registry.register("iql", int), registry.register("brac_sac", str)
    start = "Unknown policy loss" if isinstance(name, str) else "The policy loss is chosen by its name, got"
    with pytest.raises(UnknownChoiceError, match=f"^{start} .*Known: brac_sac, iql") as error:
        registry.get(name)
    assert ("Did you mean 'iql'" in str(error.value)) == (name == "iqll")


def test_a_taken_or_empty_name_is_refused():
    registry = Registry("loss")
    registry.register("iql", int)
    with pytest.raises(ValueError, match="'iql' is already registered"):
        registry.register("iql", str)
    with pytest.raises(ValueError, match="non-empty"):
        registry.register("", str)


NAMES = rules.among("brac_sac", "iql")


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        (rules.whole(1), [1, 10**9], [0, True, 1.0, "1", None, float("nan")]),
        (rules.SHARE, [0, 1, 0.5], [-0.1, 1.1, float("nan"), True, "0.5"]),
        (rules.SHARE_BELOW_ONE, [0, 0.99], [1, 1.0]),
        (rules.BETWEEN_ZERO_AND_ONE, [0.5], [0, 1]),
        (rules.POSITIVE, [1e-9], [0, float("inf"), False]),
        (rules.NOT_NEGATIVE, [0], [-1e-9]),
        (rules.NUMBER, [-3], [float("inf"), None]),
        (rules.SWITCH, [True, False], [0, 1, 7, "yes", None]),
        (rules.BOUNDS, [[1, 1], (2, 5)], [[2, 1], [0, 1], [1], [1, 2, 3], "12", None]),
        (rules.WIDTHS, [[8], [8, 8]], [[], [0], 8, ["8"]]),
        (rules.SEED, [0, 2**31 - 1], [2**31, -1, 0.0]),
        (rules.TEXT, ["a"], ["", "  ", None, 3]),
        (NAMES, ["iql"], ["ppo", None]),
        (rules.or_none(NAMES), ["iql", None], ["ppo"]),
        (rules.list_of(NAMES, 0), [[], ["iql", "iql"]], ["iql", ["ppo"]]),
        (rules.different(rules.list_of(NAMES, 0)), [["iql"]], [["iql", "iql"], ["ppo"]]),
    ],
)
def test_rules(rule, allowed, refused):
    assert all(rule.allows(value) for value in allowed)
    assert not any(rule.allows(value) for value in refused)
    assert rule.describe()


@dataclass
class Inner:
    names: list[str] = rules.ruled(["iql"], rules.list_of(NAMES, 1))


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    free: object = None
    rate: float = rules.ruled(1.0, rules.POSITIVE)


def test_the_walk_reaches_nested_configurations():
    rules.check_fields(Outer())
    with pytest.raises(rules.ConfigError, match=r"config field inner\.names: got \['iqk'\].*mean 'iql'"):
        rules.check_fields(Outer(Inner(["iqk"])))
    with pytest.raises(rules.ConfigError, match=r"config field a\.rate: got 0, allowed is a positive number"):
        rules.check_fields(Outer(rate=0), "a")


def test_defaults_are_not_shared():
    Inner().names.append("brac_sac")
    assert Inner().names == ["iql"]


@pytest.mark.parametrize("value", [np.float64(0.5), np.int64(1), [8, np.int64(8)], torch.tensor(0.5)])
def test_numbers_that_records_cannot_hold_are_refused(value):
    """``config.yaml`` and checkpoints could not be written with them, after the data have been made."""

    @dataclass
    class Sizes:
        size: object = rules.ruled(1, rules.Rule(lambda value: True, "anything"))

    with pytest.raises(rules.ConfigError, match="config field size: got .*, allowed is a plain Python value"):
        rules.check_fields(Sizes(value))
    rules.check_fields(Sizes([8, 0.5]))


def test_a_definition_that_is_run_again_takes_the_place_of_the_first():
    registry, code = Registry("loss"), "class Mine: pass\nregistry.register('mine', Mine)\n"
    places = {"__name__": "a_file", "registry": registry}
    exec(code, places)
    first = registry.get("mine")
    exec(code, places)
    assert registry.get("mine") is not first
    with pytest.raises(ValueError, match="'mine' is already registered"):
        exec(code, {"__name__": "another_file", "registry": registry})
    with pytest.raises(ValueError, match="'mine' is already registered"):
        registry.register("mine", lambda: None)
