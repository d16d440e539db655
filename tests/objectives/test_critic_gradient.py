"""What the critic's gradient reaches of the encoder, by choice: nothing, what pools, or all of it."""

from __future__ import annotations

import pytest
import torch
from meta_batches import FEATURES, meta_batch, policy_loss, predictors
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.objectives import LossModule

from ctmrl_torchrl import modules
from ctmrl_torchrl.objectives import CQVAELoss, MetaLoss, RepresentationLoss
from ctmrl_torchrl.objectives.representation import NoRepresentationLoss

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
CHOICES = ("none", "pooling", "all")


def make_encoder(pool="mean_mlp"):
    keys = {"transition_key": "transition_contexts"}
    return modules.make_context_encoder(
        feature_dims=FEATURES, context_dim=4, hidden=(8,), pool=pool, head_hidden=(8,), **keys
    )


def meta_loss(choice, policy="brac_sac", representation=None, pool="mean_mlp"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, policy = make_encoder(pool), policy_loss(policy)
    representation = NoRepresentationLoss() if representation is None else representation
    return MetaLoss(encoder, representation, policy, critic_gradient=choice)


def losses_of(loss, batch, seed=3):
    torch.manual_seed(seed)
    return loss(batch)


def reached(value, parameters):
    """The gradient of a loss in each of these parameters, zeros where there is none."""
    parameters = dict(parameters)
    grads = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
    pairs = zip(parameters.items(), grads, strict=True)
    return {name: torch.zeros_like(p) if grad is None else grad for (name, p), grad in pairs}


def names_reached(value, parameters):
    return {name for name, grad in reached(value, parameters).items() if grad.abs().sum() > 0}


@pytest.mark.parametrize("policy", ["brac_sac", "iql"])
@pytest.mark.parametrize("choice", CHOICES)
def test_the_critic_alone_reaches_what_the_choice_names(choice, policy):
    loss, batch = meta_loss(choice, policy), meta_batch()
    out = losses_of(loss, batch)
    encoder = dict(loss.context_encoder.named_parameters())
    head = {name for name in encoder if name.startswith("head.")}
    assert head and head < set(encoder)
    expected = {"none": set(), "pooling": head, "all": set(encoder)}[choice]
    terms = [name for name in out.keys() if name.startswith("loss_")]  # noqa: SIM118
    assert {"loss_actor", "loss_qvalue", "loss_value"} <= set(terms)
    for name in terms:
        assert names_reached(out[name], encoder.items()) == (expected if name == "loss_qvalue" else set()), (
            name
        )


@pytest.mark.parametrize("policy", ["brac_sac", "iql"])
@pytest.mark.parametrize("choice", ["pooling", "all"])
def test_no_value_and_no_other_gradient_changes(choice, policy):
    batch, plain = meta_batch(), meta_loss("none", policy)
    loss = meta_loss(choice, policy)
    out, expected = losses_of(loss, batch), losses_of(plain, batch)
    assert list(out.keys()) == list(expected.keys())
    for name, value in expected.items():
        assert torch.equal(out[name], value), name
    for term in ("loss_actor", "loss_qvalue", "loss_value"):
        own = reached(out[term], loss.policy.named_parameters())
        for name, grad in reached(expected[term], plain.policy.named_parameters()).items():
            torch.testing.assert_close(own[name], grad, rtol=1e-5, atol=1e-6)  # sums may round otherwise


@pytest.mark.parametrize("policy", ["brac_sac", "iql"])
def test_the_gradient_is_that_of_the_critic_on_a_context_that_is_not_detached(policy):
    """The naive reference: the same losses once more, with the context as it comes from the encoder."""
    loss, batch = (
        meta_loss("all", policy),
        meta_batch(mask=torch.arange(7) < torch.tensor([7, 1, 3, 5, 2])[:, None]),
    )
    out = losses_of(loss, batch)
    torch.manual_seed(3)
    naive = loss.policy(loss.policy_batch(batch, loss.encode(batch, "context")))
    expected = reached(naive["loss_qvalue"], loss.context_encoder.named_parameters())
    assert any(grad.abs().sum() > 0 for grad in expected.values())
    found = reached(out["loss_qvalue"], loss.context_encoder.named_parameters())
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad)
    # pooling: the same, for the head alone
    pooled = losses_of(pooling := meta_loss("pooling", policy), batch)
    found = reached(pooled["loss_qvalue"], pooling.context_encoder.named_parameters())
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad if name.startswith("head.") else torch.zeros_like(grad))


class Line(LossModule):
    """``loss_qvalue = mean((weight * context - reward)^2)``; its actor's loss depends on the context too."""

    out_keys = ["loss_actor", "loss_qvalue"]
    in_keys = ["task_context", ("next", "reward")]

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def _forward_value_estimator_keys(self, **kwargs):
        pass

    def forward(self, tensordict):
        context = tensordict["task_context"]
        error = self.weight * context - tensordict["next", "reward"]
        return TensorDict({"loss_actor": context.exp().sum(), "loss_qvalue": error.square().mean()}, [])


def test_the_gradient_computed_by_hand():
    """One number per task: context c = a * x, loss (w * c - r)^2, slope in a 2 * (w * c - r) * w * x."""
    encoder = TensorDictModule(nn.Linear(1, 1, bias=False), [("context", "x")], ["task_context"])
    nn.init.constant_(encoder.module.weight, 2.0)
    loss = MetaLoss(encoder, NoRepresentationLoss(), Line(3.0), critic_gradient="all")
    batch = TensorDict(
        {
            "context": TensorDict({"x": torch.tensor([[1.0], [-1.0]])}, [2]),
            "transitions": TensorDict(
                {"next": {"reward": torch.tensor([[[4.0], [5.0]], [[0.0], [1.0]]])}}, [2, 2]
            ),
        },
        [2],
    )
    out = loss(batch)
    # contexts 2 and -2; errors 6 - 4, 6 - 5, -6 - 0, -6 - 1
    assert out["loss_qvalue"].item() == pytest.approx((4 + 1 + 36 + 49) / 4)
    out["loss_qvalue"].backward(retain_graph=True)
    by_hand = (2 * 2 * 3 * 1 + 2 * 1 * 3 * 1 + 2 * -6 * 3 * -1 + 2 * -7 * 3 * -1) / 4
    assert encoder.module.weight.grad.item() == pytest.approx(by_hand)
    # w gets its own: the mean of 2 * error * c
    assert loss.policy.weight.grad.item() == pytest.approx(
        (2 * 2 * 2 + 2 * 1 * 2 + 2 * -6 * -2 + 2 * -7 * -2) / 4
    )
    sum(out.values()).backward()  # the actor's loss adds nothing to the encoder
    assert encoder.module.weight.grad.item() == pytest.approx(2 * by_hand)


def test_a_mean_without_layers_has_nothing_that_pools():
    loss = meta_loss("pooling", pool="mean")
    out = losses_of(loss, meta_batch())
    assert names_reached(out["loss_qvalue"], loss.context_encoder.named_parameters()) == set()


@pytest.mark.parametrize("choice", CHOICES)
def test_beside_a_representation_loss_the_two_add_up(choice):
    torch.manual_seed(0)
    representation = CQVAELoss(modules.Codebook(3, 4), *predictors())
    loss, batch = meta_loss(choice, representation=representation).eval(), meta_batch()
    out = losses_of(loss, batch)
    alone = meta_loss(choice).eval()
    alone.load_state_dict(
        {name: value for name, value in loss.state_dict().items() if not name.startswith("representation.")}
    )
    critic = reached(losses_of(alone, batch)["loss_qvalue"], alone.context_encoder.named_parameters())
    own = reached(
        sum(out[name] for name in representation.out_keys if name.startswith("loss_")),
        loss.context_encoder.named_parameters(),
    )
    total = sum(value for name, value in out.items() if name.startswith("loss_"))
    for name, grad in reached(total, loss.context_encoder.named_parameters()).items():
        torch.testing.assert_close(grad, own[name] + critic[name])


class Mixing(RepresentationLoss):
    """Encodes something else than the draw: its first three transitions, the rest as padding."""

    out_keys: list[str] = []
    in_keys: list[str] = []

    def contexts(self, encoding):
        shown = encoding.draw("context").copy()
        shown["mask"] = (torch.arange(7) < 3).expand(5, 7)
        return encoding(shown).entries()

    def forward(self, tensordict):
        return TensorDict({}, [])


def test_pooling_counts_the_transitions_that_were_encoded():
    """Not those of the draw: a representation loss may have changed them."""
    loss = meta_loss("pooling", representation=Mixing())
    batch = meta_batch(mask=torch.ones(5, 7, dtype=torch.bool))
    found = reached(losses_of(loss, batch)["loss_qvalue"], loss.context_encoder.named_parameters())
    batch["context", "mask"] = (torch.arange(7) < 3).expand(5, 7)
    torch.manual_seed(3)
    naive = loss.policy(loss.policy_batch(batch, loss.encode(batch, "context")))["loss_qvalue"]
    for name, grad in reached(naive, loss.context_encoder.named_parameters()).items():
        if name.startswith("head."):
            torch.testing.assert_close(found[name], grad)


@pytest.mark.parametrize("choice", ["pooling", "all"])
def test_a_frozen_representation_gets_no_gradient(choice):
    loss = meta_loss(choice)
    loss.representation_frozen = True
    out = losses_of(loss, meta_batch())
    sum(value for name, value in out.items() if name.startswith("loss_")).backward()
    assert all(p.grad is None for p in loss.context_encoder.parameters())


def test_wrong_choices_are_refused():
    with pytest.raises(
        ValueError, match="critic_gradient='some' is unknown; choose 'none', 'pooling', 'all'"
    ):
        meta_loss("some")

    class NoCritic(Line):
        out_keys = ["loss_actor", "loss_alpha"]

    with pytest.raises(
        ValueError,
        match="the output 'loss_qvalue' or with a single loss; NoCritic returns loss_actor, loss_alpha",
    ):
        MetaLoss(make_encoder(), NoRepresentationLoss(), NoCritic(1.0), critic_gradient="all")
    unreduced = policy_loss("brac_sac", reduction="none")
    with pytest.raises(
        ValueError, match="needs a reduced policy loss; build it with reduction='mean' or 'sum'"
    ):
        MetaLoss(make_encoder(), NoRepresentationLoss(), unreduced, critic_gradient="all")
    plain = TensorDictModule(nn.Linear(2, 4), [("context", "observation")], ["task_context"])
    with pytest.raises(ValueError, match="an encoder with a method pooled.*choose 'all'"):
        MetaLoss(plain, NoRepresentationLoss(), policy_loss(), critic_gradient="pooling")


def test_pooling_without_contexts_of_single_transitions_says_how_to_get_them():
    encoder = modules.make_context_encoder(feature_dims=FEATURES, context_dim=4, hidden=(8,))
    loss = MetaLoss(encoder, NoRepresentationLoss(), policy_loss(), critic_gradient="pooling")
    with pytest.raises(ValueError, match="build it with transition_key='transition_contexts'"):
        loss(meta_batch())


def test_none_is_the_default():
    assert MetaLoss(make_encoder(), NoRepresentationLoss(), policy_loss()).critic_gradient == "none"
