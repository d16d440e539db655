from __future__ import annotations

import pytest
import torch
from registered import TASKS, Composition, meta_batch, transitions
from sameness import assert_same
from small_runs import check_adapts, check_resumed, outcome, small_config

from ctmrl_torchrl.methods import ERTRLConfig
from ctmrl_torchrl.objectives.representation.er_trl import BehaviourEntropyLoss
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import build_experiment, run_experiment
from ctmrl_torchrl.training.validate import validate_config

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


@pytest.fixture(scope="module")
def uninterrupted(data_root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("er_trl")
    run_experiment(small_config("er_trl", data_root, run_dir))
    return run_dir


def test_every_term_reaches_what_it_should():
    """The entropy teaches the encoder and never the generator; the policy never teaches the encoder."""
    loss, batch = Composition(representation="er_trl").build(), meta_batch()
    reached = {}
    for name in ("loss_metric", "loss_entropy", "loss_qvalue", "loss_actor"):
        loss.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        loss(batch)[name].backward()
        reached[name] = {
            "gan" if ".gan." in key else key.split(".")[0]
            for key, value in loss.named_parameters()
            if value.grad is not None and value.grad.any()
        }
    assert reached["loss_metric"] == reached["loss_entropy"] == {"context_encoder"}
    assert reached["loss_qvalue"] == reached["loss_actor"] == {"policy"}


def test_the_entropy_is_that_of_generated_actions_by_hand():
    loss, batch = Composition(representation="er_trl").build(entropy_weight=3.0), meta_batch()
    torch.manual_seed(5)
    out = loss(batch)
    contexts = loss.encode(batch, "context")
    gan = loss.representation.gan
    torch.manual_seed(5)
    noise = torch.randn(TASKS, 6, 20)
    entropies = []
    for task in range(TASKS):
        given = [batch["transitions", "observation"][task], contexts[task].expand(6, -1), noise[task]]
        actions = gan.generator(*given)
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(2), torch.cov(actions.mT) + 1e-5 * torch.eye(2)
        )
        entropies.append(normal.entropy())
    torch.testing.assert_close(out["loss_entropy"], -3.0 * torch.stack(entropies).mean())
    torch.testing.assert_close(out["behaviour_entropy"], torch.stack(entropies).mean().detach())


def test_without_the_entropy_it_is_focal_bit_for_bit(data_root, tmp_path):
    states = {}
    for method, changes in {"focal": [], "er_trl": ["representation.entropy_weight=0"]}.items():
        run_dir = tmp_path / method
        weight = "representation.metric_weight=10"
        run_experiment(small_config(method, data_root, run_dir, weight, *changes))
        state = outcome(run_dir)[0]
        states[method] = {
            key: value for key, value in state["loss"].items() if not key.startswith("representation.")
        }
    assert_same(states["er_trl"], states["focal"])


def test_the_entropy_term_leaves_the_initial_agent_alone():
    with_term, without = (
        Composition(representation="er_trl").build(entropy_weight=weight).state_dict()
        for weight in (5.0, 0.0)
    )
    assert_same({name: with_term[name] for name in without}, dict(without))


def test_the_main_optimizer_never_moves_the_gan(data_root, tmp_path):
    experiment = build_experiment(small_config("er_trl", data_root, tmp_path))
    trainer, gan = experiment.trainer, experiment.loss.representation.gan
    held = {id(each) for group in trainer.optimizer.param_groups for each in group["params"]}
    assert not held & {id(each) for each in gan.parameters()}
    trainer.begin()
    before = {name: value.clone() for name, value in gan.named_parameters()}
    batch = trainer.next_batch()  # the inner loop
    between = {name: value.clone() for name, value in gan.named_parameters()}
    assert all(not torch.equal(before[name], between[name]) for name in before)
    trainer.update(batch)
    assert all(torch.equal(value, between[name]) for name, value in gan.named_parameters())
    assert int(gan.optimizers["generator"].state[next(gan.generator.parameters())]["step"]) == 5


def test_the_inner_loop_learns_from_the_batch_and_rests_once_the_encoder_is_fixed(data_root, tmp_path):
    experiment = build_experiment(small_config("er_trl", data_root, tmp_path))
    (part,), loss = experiment.parts.parts, experiment.loss
    experiment.trainer.begin()
    batch = experiment.trainer.next_batch()
    shown = loss.representation.behaviour(batch, torch.arange(4.0).unsqueeze(-1))
    assert torch.equal(shown["action"], batch["transitions", "action"])
    assert shown["task_context"][2].unique().tolist() == [2.0] and shown.batch_size == (4, 16)
    assert loss.representation.gan_accuracy != 0.5
    loss.representation_frozen = True
    before = [value.clone() for value in loss.representation.gan.parameters()]
    part.inner_steps(batch, {"task_context": torch.zeros(4, 20)})
    assert all(map(torch.equal, before, loss.representation.gan.parameters()))


def test_states_of_several_steps_are_flattened():
    loss = Composition(representation="er_trl").build()
    steps = transitions(TASKS, 3, 2, generator=torch.Generator().manual_seed(0))
    batch = meta_batch().set("transitions", steps)
    assert loss.representation.behaviour(batch, torch.zeros(TASKS, 4)).batch_size == (TASKS, 6)


# 8 updates, checkpoints after 3 and 6, the encoder fixed from 6.4 on
@pytest.mark.parametrize("killed_at", [5, 7])
def test_resumed_equals_uninterrupted_bit_for_bit(killed_at, uninterrupted, data_root, tmp_path):
    check_resumed(
        lambda run_dir, *more: small_config("er_trl", data_root, run_dir, *more),
        uninterrupted,
        tmp_path,
        lambda trainer, moment: moment == "update" and trainer.update_count == killed_at,
    )


def test_what_is_logged(uninterrupted):
    text = (uninterrupted / "metrics.csv").read_text()
    for name in ("loss/loss_entropy", "behaviour/behaviour_entropy", "behaviour/gan_accuracy"):
        assert f",{name}," in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "representation.entropy_weight=-1",
            "representation.entropy_weight: got -1.0, allowed is a number of",
        ),
        ("representation.rounds=0", "representation.rounds: got 0, allowed is a whole number of at least 1"),
        ("representation.gan_rate=0", "representation.gan_rate: got 0.0, allowed is a positive number"),
        ("representation.metric_weight=0", "representation.metric_weight: got 0.0"),
        ("representation.generator_hidden=[]", "representation.generator_hidden: got"),
        ("batch.transitions=1", "batch.transitions: got 1, allowed is at least 2 with representation=er_trl"),
    ],
)
def test_wrong_options_name_the_field(override, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(compose_config(["method=er_trl", override]))


def test_published_weights_go_with_the_environment():
    weights = {
        env: compose_config(["method=er_trl", f"env={env}"]).representation.entropy_weight
        for env in ("point_robot", "half_cheetah_vel", "ant_goal", "walker_rand_params")
    }
    assert list(weights.values()) == [2.5, 2.5, 5.0, 5.0]
    assert compose_config(["method=er_trl", "env=walker_rand_params"]).encoder.context_dim == 40
    assert ERTRLConfig().entropy_weight == 2.5


def test_an_entropy_without_a_gan_is_refused():
    with pytest.raises(ValueError, match=r"entropy_weight=2.5 needs gan="):
        BehaviourEntropyLoss(None)


def test_seeds_are_not_stacked(data_root, tmp_path):
    experiment = build_experiment(small_config("er_trl", data_root, tmp_path))
    assert not experiment.parts.stackable


def test_it_adapts_under_every_protocol(data_root, tmp_path):
    check_adapts("er_trl", data_root, tmp_path, ("offline", "online", "np", "np_refine", "codes"))
