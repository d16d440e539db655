"""Weights, modules, key names and types that a loss cannot use are named when it is built or first called."""

from __future__ import annotations

import inspect

import pytest
import torch
from conformance import CASES, make_cqvae, make_encoder, make_released
from meta_batches import ctmrl_loss, meta_batch, policy_loss, policy_networks, predictors, transitions
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from ctmrl_torchrl import objectives
from ctmrl_torchrl.modules import Codebook
from ctmrl_torchrl.modules.decoders import make_gaussian_predictor, make_transition_decoder
from ctmrl_torchrl.objectives import CQVAELoss, CTMRLLoss, MetaLoss, MetricLoss
from ctmrl_torchrl.objectives.policy.td3_bc import make_td3_bc_loss
from ctmrl_torchrl.objectives.representation.anole import PreferenceLoss
from ctmrl_torchrl.objectives.representation.corro import TransitionContrast
from ctmrl_torchrl.objectives.representation.csro import CSROLoss
from ctmrl_torchrl.objectives.representation.er_trl import BehaviourEntropyLoss
from ctmrl_torchrl.objectives.representation.gentle import TaskAutoencoderLoss
from ctmrl_torchrl.objectives.representation.unicorn import TaskClassificationLoss, UNICORNLoss

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def any_module():
    return policy_networks()[0]


MAKERS = {
    CQVAELoss: make_cqvae,
    objectives.ReleasedCTMRLLoss: make_released,
    MetricLoss: MetricLoss,
    UNICORNLoss: UNICORNLoss,
    TaskClassificationLoss: lambda **o: TaskClassificationLoss(any_module(), [0, 1], **o),
    CSROLoss: lambda **o: CSROLoss(any_module(), **o),
    BehaviourEntropyLoss: lambda **o: BehaviourEntropyLoss(None, **({"entropy_weight": 0.0} | o)),
    PreferenceLoss: lambda **o: PreferenceLoss(any_module(), **o),
    TaskAutoencoderLoss: lambda **o: TaskAutoencoderLoss(any_module(), **o),
}
WEIGHTS = [
    (kind, name)
    for kind in MAKERS
    for name in inspect.signature(kind.__init__).parameters
    if name == "weight" or name.endswith("_weight")
]


def test_every_loss_with_a_weight_is_tested():
    kinds = [each for each in vars(objectives).values() if inspect.isclass(each)]
    weighted = {
        each
        for each in kinds
        if issubclass(each, objectives.RepresentationLoss)
        and any("weight" in name for name in inspect.signature(each.__init__).parameters)
    }
    assert CQVAELoss in weighted and weighted <= set(MAKERS)


@pytest.mark.parametrize(("kind", "name"), WEIGHTS)
def test_negative_weights_are_named(kind, name):
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"{kind.__name__}: {name}={value}; allowed is a finite number"):
            MAKERS[kind](**{name: value})


def test_negative_coefficients_of_policies_are_named():
    for name in ("entropy_coefficient", "regularisation", "penalty_max"):
        with pytest.raises(ValueError, match=f"BRACSACLoss: {name}=-1.0; allowed"):
            policy_loss("brac_sac", **{name: -1.0})
    with pytest.raises(ValueError, match="make_td3_bc_loss: value_weight=-1.0; allowed"):
        make_td3_bc_loss(*policy_networks()[:2], value_weight=-1.0)


@pytest.mark.parametrize("case", list(CASES))
def test_a_misspelt_key_is_named(case):
    loss = CASES[case].build()
    name = next(iter(CASES[case].keys))
    with pytest.raises(ValueError) as error:
        loss.set_keys(**{name[:-3] + name[-2:]: "other"})
    message = str(error.value)
    assert message.startswith(f"{type(loss).__name__}.set_keys: ") and f"Did you mean {name!r}?" in message
    assert "Field(" not in message and len(message) < 500


def test_a_key_of_an_inner_loss_says_whose_it_is():
    loss = ctmrl_loss()
    with pytest.raises(ValueError, match=r"call loss.representation.set_keys\(next_observation=...\)"):
        loss.set_keys(next_observation="s")
    with pytest.raises(ValueError, match=r"call loss.policy.set_keys\(done=...\)"):
        loss.set_keys(done="end")


def test_modules_that_name_no_keys():
    codebook, plain = Codebook(3, 4), nn.Linear(2, 4)
    for encoder, guesses, part in (
        (plain, predictors(), "CTMRLLoss: the context encoder is a Linear"),
        (make_encoder(), (plain, None), "CQVAELoss: the reward predictor is a Linear"),
    ):
        with pytest.raises(TypeError) as error:
            CTMRLLoss(encoder, codebook, *guesses, policy_loss("iql"))
        assert part in str(error.value) and "wrap it: TensorDictModule(module, [" in str(error.value)
    with pytest.raises(TypeError, match="MetaLoss: the policy loss is a Linear, expected a LossModule"):
        MetaLoss(make_encoder(), make_cqvae(), plain)


def test_double_precision_is_named_with_its_key():
    loss, batch = ctmrl_loss(), meta_batch()
    with pytest.raises(ValueError) as error:
        loss(batch.double())
    for part in ("ContextEncoder: ('context", "has the dtype torch.float64, expected torch.float32", ".to("):
        assert part in str(error.value)
    batch["context", "next", "reward"] = batch["context", "next", "reward"].double()
    with pytest.raises(ValueError, match=r"\('context', 'next', 'reward'\) has the dtype torch.float64"):
        loss(batch)
    double = meta_batch().apply(lambda x: x.double() if x.is_floating_point() else x)
    assert ctmrl_loss().double()(double)["loss_prediction"].dtype == torch.float64


def wide_rewards():
    context = transitions(5, 7)
    context["next", "reward"] = torch.randn(5, 7, 3)
    batch = {"context": context, "task_context": torch.randn(5, 4), "task_id": torch.arange(5)}
    return TensorDict(batch, [5])


def narrow_rewards():
    return wide_rewards().set(("context", "next", "reward"), torch.randn(5, 7, 1))


def explained(size, **options):
    sizes = {"observation_dim": 2, "action_dim": 2, "context_dim": 4, "hidden": [8]}
    change, reward = (make_gaussian_predictor(out_features=each, **sizes) for each in (2, size))
    return UNICORNLoss(change, reward, **options)


def autoencoder(**options):
    decoder = make_transition_decoder(
        observation_dim=2, action_dim=2, context_dim=4, hidden=[8], next_observation=False
    )
    return TaskAutoencoderLoss(decoder, **options)


@pytest.mark.parametrize(
    ("loss", "batch"),
    [
        (lambda: explained(1), wide_rewards),
        (lambda: explained(1, reward_statistics=(torch.zeros(3), torch.ones(3))), narrow_rewards),
        (autoencoder, wide_rewards),
        (lambda: autoencoder(reward_scale=torch.tensor([1.0, 2.0, 3.0])), narrow_rewards),
    ],
    ids=["unicorn rewards", "unicorn statistics", "gentle rewards", "gentle scale"],
)
def test_targets_of_another_size_do_not_broadcast(loss, batch):
    with pytest.raises(ValueError, match=r"has shape \[5, 7, 3\], expected \[5, 7, 1\]"):
        loss()(batch())


def test_a_classifier_has_one_logit_per_task():
    classifier = TensorDictModule(nn.Linear(4, 7), ["task_context"], ["task_logits"])
    loss = TaskClassificationLoss(classifier, [3, 5, 9])
    batch = TensorDict({"task_context": torch.randn(2, 4), "task_id": torch.tensor([9, 3])}, [2])
    with pytest.raises(ValueError, match=r"'task_logits' has shape \[2, 7\], expected \[2, 3\]"):
        loss(batch)


def test_negatives_are_checked_where_they_are_chosen():
    draw = pytest.fail
    with pytest.raises(ValueError, match=r"'reward_nois' is unknown.*Did you mean 'reward_noise'"):
        TransitionContrast(nn.Linear(3, 4), draw, in_keys=["value"], negatives="reward_nois")
    with pytest.raises(ValueError, match="'generative' needs vae="):
        TransitionContrast(nn.Linear(3, 4), draw, in_keys=["value"])
