"""Parts that ``part=NAME`` adds to any method: the ensemble of IDAQ's judges, and a user's own."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hydra.core.config_store import ConfigStore
from sameness import assert_same
from small_runs import check_adapts, check_resumed, outcome, small_config

from ctmrl_torchrl.methods import PARTS, Part, PartConfig
from ctmrl_torchrl.rules import SHARE, ConfigError, require, ruled
from ctmrl_torchrl.studies.identity import identity_of
from ctmrl_torchrl.training.build import build_experiment
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import run_experiment
from ctmrl_torchrl.training.memory import estimate_memory
from ctmrl_torchrl.training.validate import validate_config

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
JUDGED = ("evaluation.judge=error", "evaluation.episodes=3")
REWARDS = ("transitions", "next", "reward")
MODELS = ("part=outcome_models", "parts.outcome_models.members=3")


class Waning(Part):
    """Scales the rewards of every batch by a factor that wanes; a state that resuming needs."""

    name = "waning"

    def __init__(self, factor: float) -> None:
        self.factor, self.updates = factor, 0

    def batch(self, batch):
        rewards = batch[REWARDS] * self.factor**self.updates
        return batch.clone(recurse=False).set(REWARDS, rewards)

    def after_update(self, update):
        self.updates = update + 1

    def summary(self):
        return {"waning": {"updates": self.updates}}

    def state_dict(self):
        return {"updates": self.updates}

    def load_state_dict(self, state):
        self.updates = state["updates"]


@dataclass
class WaningConfig(PartConfig):
    """A guest's part."""

    name: str = "waning"
    factor: float = ruled(0.9, SHARE)

    def build(self, setting):
        return Waning(self.factor)

    def check(self, facts):
        require(facts.training_tasks > 2, "parts.waning", self.factor, "more than two training tasks")


@pytest.fixture
def waning():
    """The guest's part, registered for one test."""
    PARTS.register("waning", WaningConfig)
    yield
    PARTS.unregister("waning")
    for group in ("part", "part_schema"):
        ConfigStore.instance().repo[group].pop("waning.yaml", None)


def test_focal_with_the_models_is_idaq_with_its_ensemble(data_root, tmp_path):
    methods = {"focal": MODELS, "idaq": ("representation.ensemble=true", "representation.members=3")}
    for method, changes in methods.items():
        run_experiment(
            small_config(method, data_root, tmp_path / method, *changes, *JUDGED, protocols="[np,idaq]")
        )
    (focal, told, _), (idaq, same, _) = (outcome(tmp_path / method) for method in methods)
    for name in ("loss", "optimizer", "sampling", "torch_rng", "parts"):
        assert_same(focal[name], idaq[name], name)
    assert told["returns"] == same["returns"]


@pytest.mark.ci
@pytest.mark.parametrize("method", ["ctmrl", "er_trl"])
def test_the_models_leave_the_agent_as_it_is(method, data_root, tmp_path):
    for name, changes in {"without": (), "with": MODELS}.items():
        run_experiment(small_config(method, data_root, tmp_path / name, *changes))
    first, second = (outcome(tmp_path / name) for name in ("without", "with"))
    for part in ("loss", "optimizer", "sampling", "torch_rng"):
        assert_same(first[0][part], second[0][part], part)
    assert first[1]["returns"] == second[1]["returns"]


@pytest.mark.parametrize("judge", ["error", "disagreement"])
@pytest.mark.parametrize("method", ["ctmrl", "corro"])
def test_any_method_is_judged_by_models(method, judge, data_root, tmp_path):
    runs = check_adapts(method, data_root, tmp_path, ("idaq",), *MODELS, f"evaluation.judge={judge}")
    assert (runs["idaq"]["episodes"][..., -1] == 3).all()


@pytest.mark.ci
def test_a_run_with_added_parts_goes_on_where_it_was_killed(waning, data_root, tmp_path):
    def config(run_dir, *more):
        parts = ("part=[outcome_models,waning]", *MODELS[1:])
        return small_config("ctmrl", data_root, run_dir, *parts, *JUDGED, *more, protocols="[idaq]")

    run_experiment(config(tmp_path / "whole"))
    check_resumed(
        config,
        tmp_path / "whole",
        tmp_path / "cut",
        lambda trainer, moment: moment == "update" and trainer.update_count == 5,
    )
    assert outcome(tmp_path / "whole")[1]["waning"] == {"updates": 8}
    other = config(tmp_path / "other", f"resume={tmp_path / 'cut'}", "parts.waning.factor=0.5")
    with pytest.raises(ValueError, match="parts.waning.factor"):
        run_experiment(other)


def test_parts_come_after_those_of_the_method_in_the_given_order(waning, data_root, tmp_path):
    experiment = build_experiment(
        small_config("ctmrl", data_root, tmp_path, "part=[waning,outcome_models]", "parts.waning.factor=0.5")
    )
    own = [part.name for part in build_experiment(small_config("ctmrl", data_root, tmp_path)).parts.parts]
    assert [part.name for part in experiment.parts.parts] == [*own, "waning", "outcome_models"] and own
    assert experiment.parts.parts[-2].factor == 0.5


def test_a_guests_part_changes_what_every_method_learns_from(waning, data_root, tmp_path):
    for method in ("ctmrl", "csro"):
        with_part = build_experiment(small_config(method, data_root, tmp_path, "part=waning"))
        without = build_experiment(small_config(method, data_root, tmp_path))
        (part,) = [each for each in with_part.parts.parts if each.name == "waning"]
        part.updates = 1
        scaled, plain = (each.trainer.next_batch() for each in (with_part, without))
        torch.testing.assert_close(scaled[REWARDS], 0.9 * plain[REWARDS])


def test_the_sizes_follow_the_preset_and_count_for_memory():
    small, large = (compose_config([f"preset={name}", *MODELS]) for name in ("quick", "paper"))
    assert small.parts["outcome_models"].hidden == small.sizes.predictor_hidden
    assert large.parts["outcome_models"].hidden == large.sizes.predictor_hidden
    assert small.parts["outcome_models"].rate == small.optimizer.representation_rate
    with_part, without = estimate_memory(small), estimate_memory(compose_config(["preset=quick"]))
    assert with_part.parameters > without.parameters and with_part.others > without.others
    huge = compose_config([*MODELS[:1], "parts.outcome_models.hidden=[10000000]"])
    assert estimate_memory(huge).cause.startswith("parts.outcome_models.hidden=")


def test_runs_without_added_parts_are_known_as_before():
    plain = {"env": "point_robot", "parts": None}
    assert identity_of(plain, "data") == identity_of({"env": "point_robot"}, "data")
    assert identity_of(plain | {"parts": {"a": {"name": "a"}}}, "data") != identity_of(plain, "data")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["part=outcome_model"],
            "part=outcome_model: there is no such choice. Did you mean 'outcome_models'",
        ),
        (["part=[outcome_models,judges]"], "there is no such choice.* needs the file .*: --plugin FILE.py"),
        (["parts.outcome_models.members=3"], "It is a field of part=outcome_models, which must be added"),
        (
            ["parts.models.members=3"],
            "Parts are added by part=NAME; known are .*Did you mean 'outcome_models'",
        ),
        ([*MODELS, "parts.outcome_models.member=3"], "there is no such field.* Did you mean 'members'"),
        ([*MODELS, "parts.outcome_models.members=1"], "outcome_models.members: got 1, allowed is a whole"),
        ([*MODELS, "parts.outcome_models.name=x"], "parts.outcome_models.name: got 'x', allowed is outcome"),
        (
            ["method=idaq", "representation.ensemble=true", *MODELS],
            "provides 'judge_error' already; leave one",
        ),
        (["evaluation.judge=error", "evaluation.protocols=[idaq]"], r"\(part=outcome_models\)"),
    ],
)
def test_what_is_wrong_is_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(compose_config(overrides))


def test_a_guests_part_is_checked_like_all_choices(waning):
    with pytest.raises(ConfigError, match="parts.waning.factor: got 2.0, allowed is a number from 0 to 1"):
        validate_config(compose_config(["part=waning", "parts.waning.factor=2"]))

    class Unbuilt(PartConfig):
        """Defines nothing."""

    config = compose_config([])
    config.parts = {"unbuilt": Unbuilt("unbuilt")}
    with pytest.raises(ConfigError, match="parts.unbuilt: got 'Unbuilt', allowed is one of outcome_models"):
        validate_config(config)
    PARTS.register("unbuilt", Unbuilt)
    try:
        with pytest.raises(ConfigError, match=r"has no method build\(setting\)"):
            validate_config(config)
    finally:
        PARTS.unregister("unbuilt")
