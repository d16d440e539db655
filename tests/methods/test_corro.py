"""CORRO: what is learned when and by what, its negatives, its VAE, resuming within each stage."""

from __future__ import annotations

import itertools

import pytest
import torch
from small_runs import check_adapts, check_resumed, outcome, small_config
from tensordict import TensorDict
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.methods.corro import TaskRows, TransitionPretraining
from ctmrl_torchrl.objectives.representation.corro import OutcomeVAE, TransitionContrast
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import build_experiment, run_experiment
from ctmrl_torchrl.training.validate import validate_config

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
# a VAE as well, so that there are two stages
STAGES = ("representation.negatives=generative", "representation.queries=4", "representation.vae_batch=8")


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(TransitionPretraining, "checkpoint_steps", 3)


@pytest.fixture
def prepared(data_root, tmp_path):
    experiment = build_experiment(
        small_config(
            "corro", data_root, tmp_path, *STAGES, "policy_loss=sac", "schedule.representation_end=1"
        )
    )
    experiment.trainer.begin()
    return experiment


def transitions(*shape):
    after = {"observation": torch.randn(*shape, 3), "reward": torch.randn(*shape, 1)}
    state = {"observation": torch.randn(*shape, 3), "action": torch.randn(*shape, 2)}
    return TensorDict(state | {"next": after}, shape)


def taught(loss, value):
    """Names of the encoder's parameters that a term reaches."""
    names, parameters = zip(*loss.context_encoder.named_parameters(), strict=True)
    learned = [each for each in parameters if each.requires_grad]
    gradients = torch.autograd.grad(value, learned, allow_unused=True, retain_graph=True)
    found = {
        id(each)
        for each, slope in zip(learned, gradients, strict=True)
        if slope is not None and slope.abs().max() > 1e-6
    }
    return {name for name, each in zip(names, parameters, strict=True) if id(each) in found}


def test_the_critic_alone_teaches_the_pooling_alone(prepared):
    loss = prepared.loss
    out = loss(prepared.trainer.next_batch())
    # The bias of the score is the same for all transitions: a softmax does not see it.
    assert taught(loss, out["loss_qvalue"]) == {"pooling.score.weight"}
    assert taught(loss, out["loss_actor"]) == set()
    assert not any(each.requires_grad for each in loss.context_encoder.transition_network.parameters())
    groups = {group["name"]: group["params"] for group in prepared.trainer.optimizer.param_groups}
    assert set(map(id, groups["representation"])) == set(map(id, loss.context_encoder.pooling.parameters()))


def test_the_transition_encoder_learns_beforehand_and_stays_as_it_is(data_root, tmp_path):
    experiment = build_experiment(small_config("corro", data_root, tmp_path, *STAGES, "policy_loss=sac"))
    network, pooling = (
        [each.detach().clone() for each in module.parameters()]
        for module in (
            experiment.loss.context_encoder.transition_network,
            experiment.loss.context_encoder.pooling,
        )
    )
    experiment.trainer.begin()
    learned = [each.clone() for each in experiment.loss.context_encoder.transition_network.parameters()]
    assert all(not torch.equal(*pair) for pair in zip(network, learned, strict=True))
    for _ in range(2):
        experiment.trainer.update(experiment.trainer.next_batch())
    after = experiment.loss.context_encoder.transition_network.parameters()
    assert all(torch.equal(*pair) for pair in zip(learned, after, strict=True))
    moved = experiment.loss.context_encoder.pooling.parameters()
    assert not torch.equal(pooling[0], next(iter(moved)))


@pytest.mark.parametrize(("loss", "warned"), [(2.8, True), (2.2, False)])
def test_a_contrast_at_chance_is_reported(loss, warned, data_root, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(torchrl_logger, "warning", said.append)
    negatives = "representation.negatives=reward_noise"
    experiment = build_experiment(small_config("corro", data_root, tmp_path, "policy_loss=sac", negatives))
    (part,) = experiment.parts.parts
    for stage in part.stages.values():
        stage.step, stage.last_loss = stage.steps, loss
    part.prepare(lambda: None)
    assert [each[:30] for each in said] == ["CORRO's contrast ended at 2.80"] * warned
    assert all("representation.negatives=generative, other_tasks" in each for each in said)


def test_contexts_are_one_whole_trajectory(prepared):
    batch = prepared.trainer.next_batch()
    horizon = prepared.task_set.family.horizon
    assert batch["context"].shape[1] == horizon and batch["context", "mask"].all()
    moves = batch["context", "next", "observation"][:, :-1] - batch["context", "observation"][:, 1:]
    assert moves.abs().max() < 1e-5  # one step follows the other


def test_codes_have_unit_length_and_contexts_at_most_that(prepared):
    encoding = prepared.loss.encoding(prepared.trainer.next_batch())
    encoded = encoding(encoding.draw("context"))
    lengths = encoded.transition_contexts.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert (encoded.task_context.norm(dim=-1) <= 1 + 1e-6).all()


def test_rows_are_of_training_tasks_and_pairs_of_one_task(prepared, data_root, tmp_path):
    (part,) = prepared.parts.parts
    draw = part.stages["contrast"].loss.draw
    dataset = prepared.dataset
    assert isinstance(draw, TaskRows)
    draw.data = dataset.transitions.select("task_id")
    drawn = draw(300, 2, torch.Generator().manual_seed(0))["task_id"].reshape(300, 2)
    assert set(drawn.flatten().tolist()) == set(prepared.task_set.train_ids)
    assert (drawn[:, 0] == drawn[:, 1]).all()


def contrast(negatives, vae=None, **options):
    network = torch.nn.Linear(9, 4)

    def draw(tasks, rows, generator):
        return transitions(tasks, rows)

    keys = ["observation", "action", ("next", "reward"), ("next", "observation")]
    return TransitionContrast(network, draw, in_keys=keys, negatives=negatives, vae=vae, **options)


def test_generated_negatives_share_observation_and_action():
    query, vae = transitions(6), OutcomeVAE(3, 2, latent_dim=5)
    negatives = contrast("generative", vae).negatives_of(query, torch.Generator().manual_seed(0))
    assert negatives.shape == (6, 16)
    for key in ("observation", "action"):
        assert (negatives[key] == query[key].unsqueeze(1)).all()
    for key in ("observation", "reward"):
        assert negatives["next", key].unique(dim=1).shape[1] == 16  # each has a latent of its own
        assert not negatives["next", key].requires_grad


def test_noisy_negatives_share_all_but_the_reward():
    query = transitions(6)
    make = contrast("reward_noise", noise=0.25, count=400)
    negatives = make.negatives_of(query, torch.Generator().manual_seed(0))
    for key in ("observation", "action", ("next", "observation")):
        assert (negatives[key] == query[key].unsqueeze(1)).all()
    noise = negatives["next", "reward"] - query["next", "reward"].unsqueeze(1)
    assert noise.mean().abs() < 0.02 and (noise.std() - 0.25).abs() < 0.02


def test_other_tasks_negatives_share_nothing():
    query = transitions(6)
    negatives = contrast("other_tasks").negatives_of(query, torch.Generator().manual_seed(0))
    assert negatives.shape == (6, 16)
    assert not (negatives["observation"] == query["observation"].unsqueeze(1)).any()


def test_without_anything_to_tell_apart_the_contrast_is_its_logarithm():
    same = transitions(1, 1)

    def draw(tasks, rows, generator):
        return same.expand(tasks, rows)

    keys = ["observation", "action", ("next", "reward"), ("next", "observation")]
    loss = TransitionContrast(torch.nn.Linear(9, 4), draw, in_keys=keys, negatives="other_tasks")
    torch.testing.assert_close(loss(torch.Generator()).exp(), torch.tensor(17.0))


def test_the_vae_by_hand_in_units_of_deviations():
    rows = transitions(50)
    statistics = {
        "observation_statistics": (torch.full((3,), 0.5), torch.full((3,), 2.0)),
        "change_statistics": (torch.full((3,), -0.1), torch.full((3,), 0.3)),
        "reward_statistics": (torch.tensor([4.0]), torch.tensor([5.0])),
    }
    vae = OutcomeVAE(3, 2, latent_dim=4, hidden=[8], **statistics)
    observation = (rows["observation"] - 0.5) / 2.0
    change = (rows["next", "observation"] - rows["observation"] + 0.1) / 0.3
    reward = (rows["next", "reward"] - 4.0) / 5.0
    mean, log_variance = vae.encoder.module(observation, rows["action"], reward, change)
    generator = torch.Generator().manual_seed(1)
    latent = mean + (0.5 * log_variance).exp() * torch.randn(50, 4, generator=generator)
    guessed_change, guessed_reward = vae.decoder.module.network(observation, rows["action"], latent)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
    expected = (guessed_change - change).square().mean(-1) + (guessed_reward - reward).square().mean(-1)
    found = vae.error(rows, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, expected + 0.2 * divergence)
    raw = vae.decoder(rows.select("observation", "action").set("latent", latent))
    torch.testing.assert_close(raw["next", "observation"], rows["observation"] - 0.1 + 0.3 * guessed_change)
    torch.testing.assert_close(raw["next", "reward"], 4.0 + 5.0 * guessed_reward)


def test_the_vae_learns_and_only_generated_negatives_need_it(data_root, tmp_path):
    more = ("representation.vae_steps=300", "representation.pretraining_rate=0.01")
    experiment = build_experiment(small_config("corro", data_root, tmp_path, *STAGES, *more))
    (part,) = experiment.parts.parts
    stage = part.stages["vae"]
    stage.run(10)
    first = stage.last_loss
    stage.run(280)
    stage.run()
    assert stage.last_loss < 0.8 * first
    noise = build_experiment(small_config("corro", data_root, tmp_path / "noise"))
    assert list(noise.parts.parts[0].stages) == ["contrast"]  # tuned for point_robot


# 8 steps of the VAE, 8 of the contrast, saved after every 3: at 3, 6, 8, 3, 6, 8, then after 3 and 6 updates
@pytest.mark.parametrize("save", [1, 2, 3, 4, 6])
def test_killed_in_a_stage_it_goes_on_bit_for_bit(save, data_root, tmp_path_factory, tmp_path):
    def config(run_dir, *more):
        return small_config("corro", data_root, run_dir, *STAGES, "policy_loss=sac", *more)

    run_experiment(config(tmp_path / "whole"))
    saves = itertools.count(1)
    check_resumed(
        config,
        tmp_path / "whole",
        tmp_path / "parts",
        lambda trainer, moment: moment == "save" and next(saves) == save,
    )


def test_killed_in_meta_training_it_goes_on_bit_for_bit(data_root, tmp_path):
    def config(run_dir, *more):
        return small_config("corro", data_root, run_dir, *STAGES, "policy_loss=sac", *more)

    run_experiment(config(tmp_path / "whole"))
    check_resumed(
        config,
        tmp_path / "whole",
        tmp_path / "parts",
        lambda trainer, moment: moment == "update" and trainer.update_count == 5,
    )
    summary = outcome(tmp_path / "whole")[1]
    assert set(summary["pretraining"]) == {"vae", "contrast"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "encoder.flags=[terminated]",
            "config field encoder.flags: got .*terminated.*, allowed is",
        ),
        (
            "encoder.pool=mean_mlp",
            "config field encoder.pool: got 'mean_mlp', allowed is 'attention' or 'mean'",
        ),
        ("encoder.last=tanh", "config field encoder.last: got 'tanh', allowed is 'unit' with"),
        (
            "representation.negatives=noise",
            "config field representation.negatives: got 'noise'.*one of generative",
        ),
        ("representation.contrast_steps=0", "config field representation.contrast_steps: got 0"),
        ("representation.critic_gradient=some", "config field representation.critic_gradient: got 'some'"),
    ],
)
def test_wrong_options_name_the_field(override, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(compose_config(["method=corro", override]))


def test_negatives_and_schedule_go_with_the_environment():
    chosen = {
        env: compose_config(["method=corro", f"env={env}"])
        for env in (
            "point_robot",
            "point_robot_wind",
            "ant_goal",
            "half_cheetah_vel",
            "hopper_rand_params",
            "walker_rand_params",
        )
    }
    negatives = [each.representation.negatives for each in chosen.values()]
    assert negatives == [
        "other_tasks",
        "generative",
        "other_tasks",
        "other_tasks",
        "other_tasks",
        "other_tasks",
    ]
    for env, published in (
        ("half_cheetah_vel", "generative"),
        ("point_robot", "reward_noise"),
        ("walker_rand_params", "generative"),
        ("ant_goal", "reward_noise"),
    ):
        own = compose_config(["method=corro", f"env={env}", "comparison=own"])
        assert own.representation.negatives == published
    for config in chosen.values():
        assert config.context.trajectories == [1, 1]
        assert (config.schedule.representation_end, config.schedule.policy_start) == (1.0, 0.0)
        assert config.representation.contrast_steps == config.schedule.updates


def test_it_adapts_under_every_protocol(data_root, tmp_path):
    protocols = ("offline", "online", "np", "np_refine", "codes", "np_csro", "idaq")
    check_adapts("corro", data_root, tmp_path, protocols, "policy_loss=sac")
