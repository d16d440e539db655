"""UNICORN and its supervised variant: what reaches what, reductions, features, resuming."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from registered import TASKS, meta_batch, problem
from sameness import assert_same
from small_runs import check_adapts, check_resumed, outcome, reached, small_config

from ctmrl_torchrl.methods import UNICORNConfig, UNICORNSupConfig
from ctmrl_torchrl.modules import EncoderConfig
from ctmrl_torchrl.objectives.policy import SACConfig
from ctmrl_torchrl.objectives.representation import metric_loss
from ctmrl_torchrl.objectives.representation.unicorn import UNICORNLoss
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.build import make_loss
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import build_experiment, run_experiment, run_seeds
from ctmrl_torchrl.training.validate import validate_config

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
METHODS = ("unicorn", "unicorn_sup")


def agent(representation=None):
    encoder = EncoderConfig(
        context_dim=4, hidden=[8], last="noisy", flags=["terminated"], next_observation=True
    )
    representation = representation or UNICORNConfig(predictor_hidden=[8])
    return make_loss(encoder, representation, SACConfig(hidden=[8]), problem(False), 0)


def test_every_term_reaches_what_it_should():
    loss = agent()
    out = loss(meta_batch())
    assert reached(loss, out["loss_metric"]) == {"context_encoder"}
    for name in ("loss_change", "loss_reward"):
        assert reached(loss, out[name]) == {"context_encoder", "representation"}
        decoders = {
            each.split(".")[1]
            for each, value in loss.named_parameters()
            if each.startswith("representation.")
            and torch.autograd.grad(out[name], value, allow_unused=True, retain_graph=True)[0] is not None
        }
        assert decoders == {f"{name.removeprefix('loss_')}_decoder"}
    for name in ("loss_actor", "loss_qvalue"):
        assert reached(loss, out[name]) == {"policy"}


def test_the_learned_bounds_and_the_noise_are_taught():
    loss = agent()
    out = loss(meta_batch())
    bounds = loss.representation.reward_decoder.module
    assert all(torch.autograd.grad(out["loss_reward"], each, retain_graph=True)[0].any()
               for each in (bounds.least, bounds.most))  # fmt: skip
    noise = loss.context_encoder.transition_network[-1].log_variance
    assert torch.autograd.grad(out["loss_metric"], noise)[0].any()


def test_the_likelihood_by_hand():
    loss, batch = agent(), meta_batch()
    context = torch.randn(TASKS, 4)
    work = batch.copy().set("task_context", context)
    out = loss.representation(work)
    shown = batch["context"]
    decoder = loss.representation.reward_decoder
    total = 0.0
    for task in range(TASKS):
        inputs = (shown["observation"][task], shown["action"][task], context[task].expand(7, -1))
        loc, log_variance = decoder.module(*inputs)
        error = (loc - shown["next", "reward"][task]).square() / log_variance.exp() + log_variance
        total += error.mean() / TASKS
    expected = total + 0.01 * (0.5 + 10.0)
    torch.testing.assert_close(out["loss_reward"], expected)


def test_rewards_are_predicted_in_raw_units():
    """The mean of the reward's Gaussian learns standardized rewards; protocols read raw ones."""
    statistics = (torch.tensor([3.0]), torch.tensor([2.0]))
    facts = problem(False)
    facts = replace(facts, statistics={**facts.statistics, facts.reward_key: statistics})
    inputs = torch.randn(5, 3), torch.randn(5, 2), torch.randn(5, 4)
    read = {}
    for standardised in (True, False):
        torch.manual_seed(0)
        loss = UNICORNConfig(predictor_hidden=[8], standardised_targets=standardised).build(facts, 4)
        predictor = loss.reward_predictor
        assert predictor.out_keys == loss.reward_decoder.out_keys[:1]
        read[standardised] = predictor(**dict(zip(predictor.in_keys, inputs, strict=True)))
    torch.testing.assert_close(read[True], 3.0 + 2.0 * read[False])
    assert UNICORNConfig(decode=False).build(facts, 4).reward_predictor is None


def test_padding_does_not_count():
    loss, batch = agent(), meta_batch()
    batch["context", "mask"][:, 4:] = False
    work = batch.copy().set("task_context", torch.randn(TASKS, 4))
    expected = loss.representation(work)
    work["context"] = work["context"].clone()
    work["context", "next", "reward"][:, 4:] = 1e3
    for name, value in loss.representation(work).items():
        torch.testing.assert_close(value, expected[name])


def test_targets_can_be_left_as_they_are():
    wide = problem()
    wide.statistics["next", "reward"] = torch.full((1,), 3.0), torch.full((1,), 2.0)
    contexts = torch.randn(TASKS, 4)
    batch = meta_batch().set("task_context", contexts)
    raw, standardised = (
        UNICORNConfig(predictor_hidden=[8], standardised_targets=switch).build(wide, 4)
        for switch in (False, True)
    )
    standardised.load_state_dict(raw.state_dict(), strict=False)
    moved = batch.clone()
    moved["context", "next", "reward"] = batch["context", "next", "reward"] * 2.0 + 3.0
    torch.testing.assert_close(standardised(moved)["loss_reward"], raw(batch)["loss_reward"])
    assert not torch.isclose(standardised(batch)["loss_reward"], raw(batch)["loss_reward"])


def test_without_decoders_it_is_focal_with_a_noisy_encoder():
    loss = agent(UNICORNConfig(decode=False, metric_weight=1.0))
    assert loss.representation.out_keys == ["loss_metric", "context_distance"]
    assert not list(loss.representation.parameters())
    batch = meta_batch()
    batch["task_id"] = torch.tensor([0, 0, 1, 2, 3])
    torch.manual_seed(4)
    out = loss(batch)
    torch.manual_seed(4)
    contexts = loss.encode(batch, "context")
    torch.testing.assert_close(out["loss_metric"], metric_loss(contexts, batch["task_id"]).mean())


def test_without_decoders_and_noise_it_trains_as_focal_bit_for_bit(data_root, tmp_path):
    """The rest of the method is configuration alone."""
    plain = ("encoder.last=tanh", "encoder.flags=[]", "encoder.next_observation=null")
    for method, more in {
        "focal": (),
        "unicorn": ("representation.decode=false", "representation.metric_weight=1", *plain),
    }.items():
        run_experiment(small_config(method, data_root, tmp_path / method, *more))
    first, second = (outcome(tmp_path / method)[0] for method in ("focal", "unicorn"))
    for part in ("loss", "optimizer", "sampling", "torch_rng"):
        assert_same(first[part], second[part], part)


def test_features_are_the_next_observation_and_the_end_of_an_episode():
    loss = agent()
    assert loss.context_encoder.in_keys == [
        ("context", "observation"),
        ("context", "action"),
        ("context", "next", "reward"),
        ("context", "next", "observation"),
        ("context", "next", "terminated"),
    ]
    batch = meta_batch()
    ended = batch.clone()
    ended["context", "next", "terminated"] = ~ended["context", "next", "terminated"]
    contexts = []
    for shown in (batch, ended):
        torch.manual_seed(0)
        contexts.append(loss.encode(shown, "context"))
    assert not torch.allclose(*contexts)


def test_the_noise_is_drawn_at_meta_test_too():
    loss = agent().eval()
    first, second = (loss.encode(meta_batch(), "context") for _ in range(2))
    assert not torch.allclose(first, second)


def test_the_classifier_learns_training_tasks_alone():
    known = replace(problem(False), train_ids=(1, 2, 4))
    loss = UNICORNSupConfig().build(known, 4)
    context = torch.randn(4, 4, requires_grad=True)
    task_id = torch.tensor([4, 1, 4, 2])
    out = loss(meta_batch().empty()[:4].set("task_context", context).set("task_id", task_id))
    logits = loss.classifier.module(context)
    probability = logits.softmax(-1)[range(4), [2, 0, 2, 1]]
    torch.testing.assert_close(out["loss_classification"], -probability.log().mean())
    assert logits.shape == (4, 3)
    assert out["task_accuracy"] == (logits.argmax(-1) == torch.tensor([2, 0, 2, 1])).float().mean()


def test_the_supervised_term_reaches_encoder_and_classifier():
    loss = agent(UNICORNSupConfig())
    out = loss(meta_batch())
    assert reached(loss, out["loss_classification"]) == {"context_encoder", "representation"}


def test_one_decoder_alone_is_refused():
    decoder = agent().representation.reward_decoder
    with pytest.raises(ValueError, match="give both decoders or neither"):
        UNICORNLoss(None, decoder)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("representation.metric_weight=0", "config field representation.metric_weight: got 0.0"),
        ("representation.predictor_hidden=[]", "config field representation.predictor_hidden: got"),
        ("encoder.flags=[ended]", "config field encoder.flags: got"),
        ("representation.decode=2", "config field representation.decode: got 2, allowed is true or false"),
        ("encoder.last=noise", "config field encoder.last: got 'noise'.*Did you mean 'noisy'"),
    ],
)
def test_wrong_options_name_the_field(override, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(compose_config(["method=unicorn", override]))


def test_weights_go_with_the_environment():
    """``own`` keeps published weights; that of the point robots, without one, is chosen on training tasks."""
    envs = (
        "point_robot",
        "sparse_point_robot",
        "point_robot_wind",
        "half_cheetah_vel",
        "hopper_rand_params",
        "walker_rand_params",
    )

    def weights(*more):
        changes = [("method=unicorn", f"env={env}", *more) for env in envs]
        return [compose_config(list(each)).representation.metric_weight for each in changes]

    assert weights() == [1.5, 1.5, 1.5, 0.15, 1.5, 0.7]
    assert weights("comparison=own") == [0.15, 0.15, 1.5, 0.15, 1.5, 0.7]


@pytest.mark.parametrize("method", METHODS)
def test_it_goes_on_where_it_was_killed_bit_for_bit(method, data_root, tmp_path):
    def config(run_dir, *more):
        return small_config(method, data_root, run_dir, *more)

    run_experiment(config(tmp_path / "whole"))
    check_resumed(
        config,
        tmp_path / "whole",
        tmp_path / "parts",
        lambda trainer, moment: moment == "update" and trainer.update_count == 5,
    )


@pytest.mark.parametrize("method", METHODS)
def test_it_adapts_under_every_protocol(method, data_root, tmp_path):
    check_adapts(method, data_root, tmp_path, ("offline", "online", "np", "np_refine", "codes", "np_csro"))


def test_there_is_a_logit_for_every_training_task(data_root, tmp_path):
    experiment = build_experiment(small_config("unicorn_sup", data_root, tmp_path))
    assert experiment.loss.representation.task_ids.tolist() == list(experiment.task_set.train_ids)


def test_seeds_are_trained_together_as_by_themselves(data_root, tmp_path):
    """Each agent's noise is its own."""

    def config(kind, seed):
        return small_config("unicorn", data_root, tmp_path / f"{kind}-{seed}", f"seed={seed}")

    run_seeds([config("together", seed) for seed in (0, 1)])
    for seed in (0, 1):
        run_experiment(config("alone", seed))
        alone, together = (outcome(tmp_path / f"{kind}-{seed}")[0] for kind in ("alone", "together"))
        for name, value in alone["loss"].items():
            torch.testing.assert_close(value, together["loss"][name], rtol=1e-4, atol=1e-5)
