"""Wrong use raises an error that says what was wrong, where, what was expected and how to hint it."""

from __future__ import annotations

import pytest
import torch
from conformance import POLICIES, make_cqvae, make_encoder, policy_batch, representation_batch, run
from foreign_modules import Net
from meta_batches import ctmrl_loss, meta_batch, policy_loss, policy_networks, predictors
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn
from torch.distributions import Normal
from torchrl.objectives import SACLoss

from ctmrl_torchrl.modules import Codebook
from ctmrl_torchrl.objectives import BRACSACLoss, CQVAELoss, MetaLoss, make_iql_loss
from ctmrl_torchrl.objectives.checks import require_shape

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
every_policy = pytest.mark.parametrize("kind", list(POLICIES))


def says(error, *parts):
    message = str(error.value)
    for part in parts:
        assert part in message, f"{part!r} is not in {message!r}"


def squeezed(td, key):
    return td.set(key, td.get(key).squeeze(-1))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda td: squeezed(td, ("context", "next", "reward")),
            [
                "CQVAELoss: ('next', 'reward') has shape [5, 7], expected [5, 7, 1]",
                "a scalar reward is [T, L, 1]",
            ],
        ),
        (
            lambda td: td.set(("context", "mask"), torch.ones(5, 7, 1, dtype=torch.bool)),
            ["CQVAELoss: 'mask' has shape [5, 7, 1], expected [5, 7]", "one flag per transition"],
        ),
        (
            lambda td: td.set("task_context", torch.zeros(5, 6)),
            ["'task_context' has latent size 6", "codes of the codebook have 4", "same context_dim"],
        ),
        (
            lambda td: td.set("task_context", torch.zeros(5, 7, 4)),
            ["'task_context' has shape [5, 7, 4], expected [T, d]", "one context per task"],
        ),
        (
            lambda td: td.set("task_context_positive", torch.zeros(5, 3)),
            ["'task_context_positive' has shape [5, 3], expected [5, 4]", "second draw of the same tasks"],
        ),
        (
            lambda td: td.set("task_id", torch.zeros(5, 1)),
            ["'task_id' has shape [5, 1], expected [5]", "one id per task"],
        ),
        (
            lambda td: td.set(
                "context", TensorDict({"observation": torch.zeros(5, 2), "action": torch.zeros(5, 2)})
            ),
            [
                "'observation' has shape [5, 2], expected [5, 2, features]",
                "the transitions [T, L] of every task",
            ],
        ),
    ],
)
@pytest.mark.parametrize("warm_up", [False, True])
def test_what_a_representation_loss_is_given(change, parts, warm_up):
    loss = make_cqvae()
    loss.warm_up = warm_up and "positive" not in parts[0] and "task_id" not in parts[0]
    with pytest.raises(ValueError) as error:
        run(loss, change(representation_batch()))
    says(error, *parts)


@pytest.mark.parametrize("loss", [make_cqvae, lambda: ctmrl_loss("iql")])
def test_one_task_cannot_be_contrasted(loss):
    td = representation_batch()[:1]
    with pytest.raises(ValueError) as error:
        run(loss(), td)
    says(error, "CQVAELoss: the batch holds one task", "at least two tasks", "contrastive_weight=0")


def test_predictors_and_scales_that_do_not_fit():
    reward, following = predictors()
    with pytest.raises(ValueError) as error:
        run(CQVAELoss(Codebook(3, 4), following, reward), representation_batch())
    says(error, "('next', 'reward') has shape [5, 7, 1], expected [5, 7, 2]", "the shape of its prediction")
    stranger = TensorDictModule(Net(3, 1), ["position"], ["guess"])
    with pytest.raises(KeyError) as error:
        run(CQVAELoss(Codebook(3, 4), stranger, following), representation_batch())
    says(error, "CQVAELoss's predictor of ('next', 'reward') reads 'position'", "it holds action", "in_keys")
    with pytest.raises(ValueError) as error:
        run(make_cqvae(reward_scale=torch.ones(3)), representation_batch())
    says(error, "the scale has 3 features", "the target has 1", "one standard deviation per feature")


@every_policy
@pytest.mark.parametrize("key", ["reward", "done", "terminated"])
def test_outcomes_without_a_last_dimension(kind, key):
    with pytest.raises(ValueError) as error:
        run(policy_loss(kind), squeezed(policy_batch(4, 6), ("next", key)))
    says(error, f"('next', '{key}') has shape [4, 6], expected [4, 6, 1]", "unsqueeze(-1)")


@every_policy
@pytest.mark.parametrize("key", ["done", "terminated"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_flags_that_are_no_truth_values(kind, key, dtype):
    batch = policy_batch(4, 6)
    batch["next", key] = batch["next", key].to(dtype)
    with pytest.raises(ValueError) as error:
        run(policy_loss(kind), batch)
    says(error, f"('next', '{key}') has the dtype {dtype}, expected torch.bool", ".bool()")


@pytest.mark.parametrize("key", ["done", "terminated"])
def test_flags_that_are_no_truth_values_under_a_loss_of_torchrl(key):
    actor, qvalue, _ = policy_networks()
    foreign = SACLoss(actor, qvalue, action_spec=None, target_entropy=-2.0, fixed_alpha=True)
    foreign.make_value_estimator(gamma=0.9)
    loss, batch = MetaLoss(make_encoder(), make_cqvae(), foreign), meta_batch()
    loss(batch)
    flags = batch["transitions", "next", key]
    batch["transitions", "next", key] = flags.float()
    with pytest.raises(ValueError) as error:
        loss(batch)
    says(error, "SACLoss", f"('next', '{key}') has the dtype torch.float32, expected torch.bool")


@every_policy
@pytest.mark.parametrize("key", ["observation", "action", ("next", "reward"), ("next", "task_context")])
def test_a_missing_entry(kind, key):
    with pytest.raises(KeyError) as error:
        run(policy_loss(kind), policy_batch(4, 6).exclude(key))
    says(error, f"Loss reads {key!r}, which this input lacks", "it holds", "set_keys")


@every_policy
def test_critics_that_do_not_read_the_action(kind):
    loss = policy_loss(kind)
    loss.set_keys(action="deed")
    with pytest.raises(ValueError) as error:
        run(loss, policy_batch(4, 6).set("deed", torch.zeros(4, 6, 2)))
    says(error, "a critic does not read the action 'deed'", "set_keys(action=...)")


@pytest.mark.parametrize("make", [BRACSACLoss, make_iql_loss])
def test_critics_with_several_outputs(make):
    actor, _, value = policy_networks()
    wide = TensorDictModule(Net(2 + 2 + 4, 3), ["observation", "action", "task_context"], ["q"])
    with pytest.raises((ValueError, RuntimeError)) as error:
        run(make(actor, wide, value), policy_batch(4, 6))
    if make is BRACSACLoss:
        says(error, "'q' has shape [2, 4, 6, 3], expected [critics, 4, 6, 1]", "one output")


def test_values_with_several_outputs():
    actor, qvalue, _ = policy_networks()
    wide = TensorDictModule(Net(2 + 4, 3), ["observation", "task_context"], ["v"])
    with pytest.raises(ValueError) as error:
        run(BRACSACLoss(actor, qvalue, wide), policy_batch(4, 6))
    says(error, "BRACSACLoss: 'v' has shape [4, 6, 3], expected [4, 6, 1]", "one output")


def actor_with(distribution, outputs, keys):
    return ProbabilisticTensorDictSequential(
        TensorDictModule(_Split(outputs), ["observation", "task_context"], list(keys)),
        ProbabilisticTensorDictModule(list(keys), ["action"], distribution_class=distribution),
    )


class _Split(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.network = Net(2 + 4, 2 * outputs)

    def forward(self, *inputs):
        loc, scale = self.network(*inputs).chunk(2, -1)
        return loc, scale.exp()


class _Beta(torch.distributions.Independent):
    def __init__(self, concentration1, concentration0):
        super().__init__(torch.distributions.Beta(concentration1.exp(), concentration0), 1)


def test_actors_that_do_not_fit():
    _, qvalue, value = policy_networks()
    batch = policy_batch(4, 6)
    with pytest.raises(ValueError) as error:
        run(BRACSACLoss(actor_with(Normal, 2, ("loc", "scale")), qvalue, value), batch)
    says(error, "the log-probability", "[4, 6, 2], expected [4, 6]", "sums over the action's dimensions")
    with pytest.raises(ValueError) as error:
        run(BRACSACLoss(actor_with(Normal, 3, ("loc", "scale")), qvalue, value), batch)
    says(error, "the actor's action has shape [4, 6, 3], expected [4, 6, 2]", "as the data's 'action'")
    beta = actor_with(_Beta, 2, ("concentration1", "concentration0"))
    with pytest.raises(TypeError) as error:
        run(BRACSACLoss(beta, qvalue, value), batch)
    says(error, "_Beta has no loc and scale", "regularisation=0")
    assert run(BRACSACLoss(beta, qvalue, value, regularisation=0.0), batch)["loss_actor"].isfinite()


@pytest.mark.parametrize(
    ("change", "kind", "parts"),
    [
        (
            lambda td: squeezed(td, ("context", "next", "reward")),
            ValueError,
            ["ContextEncoder: ('context', 'next', 'reward') has shape [5, 7], expected [5, 7]", "[*, L, 1]"],
        ),
        (
            lambda td: td.set(("context", "mask"), torch.ones(5, 7, 1, dtype=torch.bool)),
            ValueError,
            ["mask ('context', 'mask') has shape [5, 7, 1], expected [5, 7]", "squeeze(-1)"],
        ),
        (
            lambda td: td.set("transitions", td["transitions"][:, :0].clone()),
            ValueError,
            ["CTMRLLoss: 'transitions' has batch size [5, 0], expected [5, B]"],
        ),
        (
            lambda td: td.set("transitions", td["transitions"][:, 0].clone().auto_batch_size_(1)),
            ValueError,
            ["CTMRLLoss: 'transitions' has batch size [5], expected [5, B]", "one row per context"],
        ),
        (
            lambda td: TensorDict({**td[:4], "transitions": meta_batch(5)["transitions"]}),
            ValueError,
            ["CTMRLLoss: 'transitions' has batch size [5, 6], expected [4, B]"],
        ),
        (
            lambda td: td.exclude(("context_positive", "next", "reward")),
            KeyError,
            [
                "ContextEncoder reads ('context_positive', 'next', 'reward'), which this input lacks",
                "it holds",
            ],
        ),
        (
            lambda td: td.exclude(("transitions", "next", "reward")),
            KeyError,
            ["BRACSACLoss reads ('next', 'reward')", "it holds"],
        ),
    ],
)
def test_what_a_composed_loss_is_given(change, kind, parts):
    with pytest.raises(kind) as error:
        run(ctmrl_loss(), change(meta_batch()))
    says(error, *parts)


def test_encoders_that_do_not_fit():
    batch, parts = meta_batch(), lambda: (make_cqvae(), policy_loss("iql"))
    with pytest.raises(ValueError) as error:
        run(MetaLoss(TensorDictModule(Net(2, 4), [("context", "observation")], ["z"]), *parts()), batch)
    says(error, "MetaLoss: 'z' has shape [5, 7, 4], expected [5, d]", "pool over the transitions")
    elsewhere = TensorDictModule(Net(2, 4, pool=True), [("demo", "observation")], ["z"])
    for use in (lambda loss: run(loss, batch), lambda loss: loss.in_keys):
        with pytest.raises(ValueError) as error:
            use(MetaLoss(elsewhere, *parts()))
        says(
            error, "reads ('demo', 'observation')", "not below the context 'context'", "set_keys(context=...)"
        )
    other = MetaLoss(make_encoder(), CQVAELoss(Codebook(3, 6), *predictors()), policy_loss("iql"))
    for warm_up in (False, True):  # seen at once, not when the warm-up ends
        other.representation.warm_up = warm_up
        with pytest.raises(ValueError) as error:
            run(other, batch)
        says(error, "latent size 4", "codebook have 6")


def test_a_shape_with_names_for_any_size():
    ask = dict(reader="R", what="x", hint="m.")
    value = torch.zeros(3, 4)
    assert require_shape(value, ("T", 4), **ask) is value
    for wrong in ((3, 5), ("T",), (3, 4, "d")):
        with pytest.raises(ValueError, match=r"R: x has shape \[3, 4\], expected .*; m\."):
            require_shape(value, wrong, **ask)
