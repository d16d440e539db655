from __future__ import annotations

import pytest
from tiny_experiments import tiny_config

from ctmrl_torchrl.data import recipes_of
from ctmrl_torchrl.methods import ReleasedConfig, RepresentationConfig
from ctmrl_torchrl.objectives.policy import IQLConfig, PolicyLossConfig
from ctmrl_torchrl.training.config import ExperimentConfig
from ctmrl_torchrl.training.experiment import run_experiment
from ctmrl_torchrl.training.validate import LOSS_RULES, RULES, ConfigError, validate_config

NAN, INF = float("nan"), float("inf")
SHARES, POSITIVES, WHOLES = (
    [-0.1, 1.1, NAN, INF, "half"],
    [0, -1.0, NAN, INF],
    [0, -1, 1.5, "many", True, None],
)

WRONG = {
    "env": ["point_robt", None],
    "seed": [-1, 0.5],
    "threads": WHOLES,
    "compile": ["yes", 1],
    "keep_memory": ["no", 0],
    "tasks": ["papr"],
    "dataset.recipe": ["large"],
    "dataset.seed": [-1],
    "dataset.verify": ["no"],
    "context.kind": ["episodes"],
    "context.length": WHOLES,
    "context.trajectories": [[0, 3], [3, 2], [1], [1, 2, 3], [1, 2.5], None, 4],
    "context.behaviours": [[0, 3], [3, 2], [], "two"],
    "context.near_random_fraction": SHARES,
    "context.near_random_snapshots": WHOLES,
    "batch.tasks": [1, 31, 2.5],
    "batch.transitions": WHOLES,
    "batch.repeat_tasks": ["yes"],
    "encoder.context_dim": WHOLES,
    "encoder.hidden": [[], [0], [8, -1], 8],
    "encoder.head_hidden": [[0], 8],
    "encoder.feature_gain": [0, -1.0, NAN, "fine"],
    "encoder.pool": ["max"],
    "optimiser.representation_rate": [-1.0, NAN, INF],
    "optimiser.policy_rate": [-1.0, NAN, INF],
    "optimiser.policy_final": SHARES,
    "optimiser.policy_decay_from": SHARES,
    "schedule.updates": WHOLES,
    "schedule.representation_end": SHARES,
    "schedule.policy_start": [*SHARES, 0.9],
    "schedule.epochs": WHOLES,
    "schedule.kmeans_from": SHARES,
    "schedule.kmeans_at": SHARES,
    "schedule.refreshes": WHOLES,
    "schedule.kmeans": ["no", 1],
    "schedule.contexts_per_epoch": WHOLES,
    "evaluation.every": [-1, 0.5],
    "evaluation.repeats": WHOLES,
    "evaluation.final_repeats": WHOLES,
    "evaluation.protocols": [[], ["np", "nop"], "np"],
    "evaluation.episodes": [1, 2, 2.5],  # 2 is too few for the 2 codes
    "evaluation.random_episodes": WHOLES,
    "evaluation.seed": [-1],
    "output.log_every": WHOLES,
    "output.checkpoint_every": [-1, 0.5],
    "output.logger": ["csv", True],
    "policy_loss.hidden": [[], [0]],
    "policy_loss.target_rate": SHARES,
    "policy_loss.observation_gain": [0, -1.0, NAN, "fine"],
    "policy_loss.reward_scale": POSITIVES,
    "policy_loss.entropy_coefficient": [-1.0, NAN],
    "policy_loss.regularisation": [-1.0, NAN],
    "policy_loss.behaviour_penalty": ["on"],
    "policy_loss.penalty_init": [-1.0, NAN],
    "policy_loss.penalty_max": [-1.0, NAN],
    "policy_loss.divergence_target": [NAN],
    "representation.name": ["vae"],
    "policy_loss.name": ["sac"],
    "representation.codes": [0, -2, 1.5],
    "representation.prediction_weight": [-1.0, NAN],
    "representation.cross_prediction_weight": [-1.0, NAN],
    "representation.code_weight": [-1.0, NAN],
    "representation.contrastive_weight": [-1.0, NAN],
    "representation.temperature": POSITIVES,
    "representation.extra_negatives": [-1, 0.5],
    "representation.update_rate": SHARES,
    "representation.predictor_hidden": [[], [0]],
    "representation.relabelled_fraction": SHARES,
    "representation.observation_gain": [0, -1.0, NAN, "fine"],
    "representation.predict": ["future"],
}
OF_IQL = {
    "policy_loss.expectile": [0.0, 1.0, NAN],
    "policy_loss.temperature": POSITIVES,
    "policy_loss.rewards": ["clipped", None],
}
NEGATIVES = [-1.0, NAN, INF, "much"]
OF_RELEASED = {
    "representation.metric_weight": NEGATIVES,
    "representation.club_weight": NEGATIVES,
    "representation.guess_weight": NEGATIVES,
    "representation.cycle_weight": NEGATIVES,
    "representation.commitment_weight": NEGATIVES,
    "representation.code_contrast_weight": NEGATIVES,
    "representation.guess_hidden": [[], [0]],
}


def test_every_rule_is_tested():
    assert set(RULES) | set(LOSS_RULES) == {*WRONG, *OF_IQL, *OF_RELEASED} - {"tasks"}


@pytest.mark.parametrize("name", [*WRONG, *OF_IQL, *OF_RELEASED])
def test_wrong_values_are_named_with_what_is_allowed(name, tmp_path):
    loss = {"policy_loss": IQLConfig(hidden=[8])} if name in OF_IQL else {}
    loss |= {"representation": ReleasedConfig()} if name in OF_RELEASED else {}
    for value in (WRONG | OF_IQL | OF_RELEASED)[name]:
        config = tiny_config(tmp_path, tmp_path, {name: value}, **loss)
        with pytest.raises(ConfigError) as error:
            validate_config(config)
        text = str(error.value)
        assert f"config field {name}: got " in text and "allowed is " in text and repr(value) in text


def test_fine_configurations_pass(tmp_path):
    validate_config(tiny_config(tmp_path, tmp_path))
    for changes in (
        {"context.behaviours": None},
        {"context.trajectories": (1, 1)},
        {"representation.codes": None, "evaluation.episodes": 9},
        {"representation.codes": None, "evaluation.protocols": ["np"]},
        {"representation.codes": 31, "schedule.kmeans": False, "evaluation.protocols": ["np"]},
        {"batch.tasks": 31, "batch.repeat_tasks": True},
        {"batch.tasks": 80, "tasks": "paper"},
        {"schedule.policy_start": 0.8},
        *({"dataset.recipe": name} for name in recipes_of("point_robot")),
    ):
        validate_config(tiny_config(tmp_path, tmp_path, changes))


def test_what_must_fit_together_says_so(tmp_path):
    for changes, message in (
        ({"batch.tasks": 31}, "at most 30, the number of training tasks of point_robot with tasks=repo"),
        ({"evaluation.episodes": 2}, "more than 2 under protocol 'codes'"),
        ({"representation.codes": None, "evaluation.episodes": 8}, "more than 8 under protocol 'codes'"),
        (
            {"representation.codes": 31, "evaluation.episodes": 99},
            "at most 30, the contexts that K-means sees",
        ),
        (
            {"schedule.representation_end": 0.0, "schedule.policy_start": 0.0},
            "more than 0 with schedule.kmeans",
        ),
        ({"schedule.updates": 10, "schedule.kmeans_at": 0.95}, "begin within the representation phase"),
        ({"schedule.policy_start": 0.9}, "at most schedule.representation_end=0.8"),
        (
            {"evaluation.protocols": ["np_refine"], "evaluation.random_episodes": 1},
            "at least 2 under protocol 'np_refine'",
        ),
        (
            {"evaluation.protocols": ["np"], "evaluation.random_episodes": 3},
            "random_episodes: got 3, allowed is fewer than evaluation.episodes=3",
        ),
        ({"evaluation.protocols": ["codes", "npp"]}, "one of offline, online, np, np_refine, codes"),
    ):
        with pytest.raises(ConfigError, match=message):
            validate_config(tiny_config(tmp_path, tmp_path, changes))


def test_codes_without_a_codebook(tmp_path, monkeypatch):
    monkeypatch.setitem(RULES, "representation.name", (lambda name: True, "any"))
    config = tiny_config(tmp_path, tmp_path, representation=RepresentationConfig("other"))
    with pytest.raises(ConfigError, match="evaluation.protocols.*other has no codebook"):
        validate_config(config)
    config.evaluation.protocols = ["np"]
    validate_config(config)


def test_the_losses_must_be_chosen():
    with pytest.raises(ConfigError, match="representation.name: got 'none', allowed is one of cqvae"):
        validate_config(ExperimentConfig())
    assert PolicyLossConfig().name == "none"


def test_nothing_is_written_or_made_for_a_wrong_configuration(tmp_path):
    config = tiny_config(tmp_path / "data", tmp_path / "run", {"schedule.kmeans_at": 2.0})
    with pytest.raises(
        ConfigError, match="schedule.kmeans_at: got 2.0, allowed is a number from 0 to below 1"
    ):
        run_experiment(config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["run_dir", "dataset.root"])
def test_a_file_in_the_place_of_a_folder_is_named_and_kept(field, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    place = str(tmp_path / "file" / "below")
    config = tiny_config(tmp_path / "data", tmp_path / "run", {field: place})
    with pytest.raises(
        ConfigError, match=rf"config field {field}: \S+below cannot be written \(\S+file: Not a"
    ):
        run_experiment(config)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "meta", ""])
def test_unknown_devices(device, tmp_path):
    config = tiny_config(tmp_path / "data", tmp_path / "run", {"device": device})
    with pytest.raises(ConfigError, match=f"config field device: got '{device}', allowed is auto, cpu"):
        run_experiment(config)
    assert not list(tmp_path.iterdir())


def test_layers_after_the_mean_do_not_go_with_contexts_of_single_transitions(tmp_path):
    released = {"representation": ReleasedConfig(codes=2)}
    validate_config(tiny_config(tmp_path, tmp_path, {"encoder.pool": "mean"}, **released))
    with pytest.raises(ConfigError, match="encoder.pool: got 'mean_mlp', allowed is 'mean'"):
        validate_config(tiny_config(tmp_path, tmp_path, {"encoder.pool": "mean_mlp"}, **released))
