from __future__ import annotations

import pytest
import torch
from meta_batches import SIZES, meta_batch, predictors
from tensordict import TensorDict

from ctmrl_torchrl.methods import CQVAEConfig, RepresentationConfig
from ctmrl_torchrl.modules import Codebook, make_next_observation_predictor, make_reward_predictor
from ctmrl_torchrl.objectives import CQVAELoss
from ctmrl_torchrl.objectives.representation import code_classification, hard_contrastive
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import ConfigError, check_fields

TERMS = ("loss_prediction", "loss_cross_prediction", "loss_code", "loss_contrastive")
MASK = torch.arange(7) < torch.tensor([7, 1, 3, 5, 2])[:, None]


def make(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CQVAELoss(Codebook(3, 4), *predictors(), **options)


def batch(mask=None, tasks=5):
    td = meta_batch(tasks, mask=mask)
    generator = torch.Generator().manual_seed(1)
    for key in ("task_context", "task_context_positive"):
        td[key] = torch.randn(tasks, 4, generator=generator)
    return td


def literal_prediction(loss, transitions, contexts, scales=(1.0, 1.0)):
    """Eq. (4)-(6), or with codes as contexts (7)-(9), task by task and transition by transition."""
    per_task = []
    for t in range(transitions.shape[0]):
        errors_r, errors_s = [], []
        for i in range(transitions.shape[1]):
            step = transitions[t, i]
            if "mask" in step.keys() and not step["mask"]:  # noqa: SIM118
                continue
            inputs = [step["observation"], step["action"], contexts[t]]
            predict = [
                network[1].module(network[0].module(*inputs))
                for network in (loss.reward_predictor, loss.next_observation_predictor)
            ]
            errors_r.append(((predict[0] - step["next", "reward"]) / scales[0]).square().mean())
            following = step["observation"] + predict[1]  # that network predicts the change
            errors_s.append(((following - step["next", "observation"]) / scales[1]).square().mean())
        per_task.append(sum(errors_r) / len(errors_r) + sum(errors_s) / len(errors_s))
    return sum(per_task) / len(per_task)


@pytest.mark.parametrize("mask", [None, MASK])
def test_prediction_terms_are_the_equations(mask):
    scales = torch.tensor([3.0]), torch.tensor([0.5, 2.0])
    loss, td = make(reward_scale=scales[0], next_observation_scale=scales[1]).eval(), batch(mask)
    out = loss(td)
    context = td["task_context"]
    codes = loss.codebook(TensorDict({"task_context": context}, [5]))["cross_task_context"]
    torch.testing.assert_close(
        out["loss_prediction"], literal_prediction(loss, td["context"], context, scales)
    )
    torch.testing.assert_close(
        out["loss_cross_prediction"], literal_prediction(loss, td["context"], codes, scales)
    )


def test_code_and_contrastive_terms_use_the_match_of_the_first_draw():
    loss, td = make(extra_negatives=4, temperature=0.3).eval(), batch()
    index = loss.codebook(td.clone())["code_index"]
    out = loss(td)
    expected = code_classification(td["task_context"], loss.codebook.codes, index, 0.3).mean()
    torch.testing.assert_close(out["loss_code"], expected)
    expected = hard_contrastive(
        td["task_context"], td["task_context_positive"], index, temperature=0.3, extra_negatives=4
    ).mean()
    torch.testing.assert_close(out["loss_contrastive"], expected)


def test_the_match_precedes_the_move_and_the_terms_see_the_moved_codes():
    loss, td = make().train(), batch()
    index = loss.codebook.eval()(td.clone())["code_index"]
    loss.train()
    before = loss.codebook.codes.detach().clone()
    out = loss(td)
    assert not torch.equal(loss.codebook.codes, before)
    expected = code_classification(td["task_context"], loss.codebook.codes, index, 0.1).mean()
    torch.testing.assert_close(out["loss_code"], expected)


@pytest.mark.parametrize(
    ("weight", "term"),
    list(
        zip(
            ("prediction_weight", "cross_prediction_weight", "code_weight", "contrastive_weight"),
            TERMS,
            strict=True,
        )
    ),
)
def test_weights_scale_and_switch_off_their_own_term(weight, term):
    plain, doubled, without = (
        make(extra_negatives=4, **{weight: w}).eval()(batch()) for w in (1.0, 2.0, 0.0)
    )
    for name in TERMS:
        factor = (2.0, 0.0) if name == term else (1.0, 1.0)
        torch.testing.assert_close(doubled[name], factor[0] * plain[name])
        torch.testing.assert_close(without[name], factor[1] * plain[name])
    assert plain[term] > 0 and not without[term].requires_grad


def test_without_the_contrastive_term_one_draw_suffices():
    loss = make(contrastive_weight=0.0)
    assert "context_positive" not in loss.context_keys
    loss(batch().exclude("task_context_positive", "context_positive"))


def test_warm_up_leaves_only_the_prediction_and_spares_the_codebook():
    loss, td = make().train(), batch()
    reference = loss.eval()(td)["loss_prediction"]
    loss.train().warm_up = True
    state = {key: value.clone() for key, value in loss.codebook.state_dict().items()}
    out = loss(td.exclude("task_context_positive"))
    torch.testing.assert_close(out["loss_prediction"], reference)
    assert all(out[name] == 0 for name in TERMS[1:])
    assert all(torch.equal(value, state[key]) for key, value in loss.codebook.state_dict().items())
    assert "context_positive" not in loss.context_keys


def test_reduction():
    td = batch()
    none, mean, total = (make(reduction=how, extra_negatives=4).eval()(td) for how in ("none", "mean", "sum"))
    for name in TERMS:
        assert none[name].shape == (5,)
        torch.testing.assert_close(none[name].mean(), mean[name])
        torch.testing.assert_close(none[name].sum(), total[name])


def test_diagnostics():
    loss, td = make(reward_scale=torch.tensor([2.0])).eval(), batch()
    out = loss(td)
    assert not any(out[name].requires_grad for name in ("perplexity", "dead_codes", "reward_error"))
    inputs = td["context"].copy().set("task_context", td["task_context"].unsqueeze(1).expand(5, 7, 4))
    error = (loss.reward_predictor(inputs)["reward_prediction"] - td["context", "next", "reward"]) / 2.0
    torch.testing.assert_close(out["reward_error"], error.square().mean().detach())
    assert out["perplexity"] == loss.codebook.perplexity() == pytest.approx(3.0)


def test_the_input_is_left_unchanged():
    loss, td = make().train(), batch(MASK)
    before = td.clone()
    loss(td)
    assert set(td.keys(True, True)) == set(before.keys(True, True)) and (td == before).all()


def test_dispatch_by_keywords():
    loss, td = make(extra_negatives=4).eval(), batch()
    keywords = {"_".join(key) if isinstance(key, tuple) else key: td[key] for key in loss.in_keys}
    for name, value in zip(loss.out_keys, loss(**keywords), strict=True):
        torch.testing.assert_close(value, loss(td)[name])


def test_set_keys_with_nested_and_renamed_entries():
    reference = make(extra_negatives=4).eval()
    keys = {"in_keys": [("state", "position"), "force", ("z", "own")]}
    loss = CQVAELoss(
        Codebook(3, 4),
        make_reward_predictor(action_dim=2, **SIZES, **keys),
        make_next_observation_predictor(action_dim=2, **SIZES, **keys),
        extra_negatives=4,
    ).eval()
    loss.load_state_dict(reference.state_dict())
    loss.set_keys(
        task_context=("z", "own"),
        task_context_positive=("z", "other"),
        prediction=("data", "demo"),
        observation=("state", "position"),
        action="force",
        reward=("next", "gain"),
        next_observation=("next", "state", "position"),
        mask="real",
    )
    td = batch(MASK)
    old = td["context"]
    demo = TensorDict(
        {
            "state": {"position": old["observation"]},
            "force": old["action"],
            "real": old["mask"],
            "next": {"gain": old["next", "reward"], "state": {"position": old["next", "observation"]}},
        },
        [5, 7],
    )
    renamed = TensorDict(
        {
            "data": {"demo": demo},
            "z": {"own": td["task_context"], "other": td["task_context_positive"]},
        },
        [5],
    )
    expected, out = reference(td), loss(renamed)
    for name in TERMS:
        torch.testing.assert_close(out[name], expected[name])
    assert ("data", "demo", "next", "gain") in loss.in_keys and ("z", "own") in loss.in_keys
    loss.set_keys(prediction=None)
    assert loss.tensor_keys.prediction == "context"
    with pytest.raises(ValueError, match="nonsense"):
        loss.set_keys(nonsense="x")


@pytest.mark.parametrize(
    "missing",
    [
        "task_context",
        "task_context_positive",
        "context",
        ("context", "action"),
        ("context", "next", "reward"),
        ("context", "next", "observation"),
    ],
)
def test_a_missing_entry_is_named(missing):
    name = missing if isinstance(missing, str) else missing[-1]
    with pytest.raises(KeyError, match=f"CQVAELoss reads .*{name}"):
        make()(batch().exclude(missing))


def test_contrast_needs_two_tasks():
    with pytest.raises(ValueError, match="at least two tasks per batch"):
        make()(batch(tasks=1))
    assert torch.isfinite(make(contrastive_weight=0.0)(batch(tasks=1))["loss_prediction"])
    with pytest.raises(ValueError, match="temperature=0.0"):
        make(temperature=0.0)


def test_state_dict_round_trip():
    source, target = make(reward_scale=torch.tensor([2.0])), make(reward_scale=torch.tensor([1.0]))
    source(batch())
    target.load_state_dict(source.state_dict())
    for name in ("loss_prediction", "loss_cross_prediction", "loss_code", "perplexity"):
        torch.testing.assert_close(target.eval()(batch())[name], source.eval()(batch())[name])


@pytest.fixture
def problem():
    reward = ("next", "sparse_reward")
    statistics = {
        "observation": (torch.zeros(2), torch.ones(2)),
        reward: (torch.zeros(1), torch.zeros(1)),  # a reward that nobody ever got
        "observation_change": (torch.ones(2), torch.tensor([2.0, 0.0])),
    }
    return Problem(2, 2, 0.9, reward, False, statistics)


def test_targets_that_never_vary_are_left_unscaled(problem):
    loss = CQVAEConfig(predictor_hidden=[8]).build(problem, 4)
    td = batch()
    td["context", "next", "sparse_reward"] = torch.zeros(5, 7, 1)
    out = loss(td)
    assert all(torch.isfinite(out[name]) for name in TERMS)
    assert loss.predictors.reward_spread.tolist() == [
        1.0
    ] and loss.predictors.next_observation_spread.tolist() == [2.0, 1.0]


def test_configuration(problem):
    config = CQVAEConfig(
        predictor_hidden=[8], codes=5, update_rate=0.3, predict="transitions", temperature=0.7
    )
    loss = config.build(problem, 4)
    assert loss.codebook.codes.shape == (5, 4) and loss.codebook.update_rate == 0.3
    assert loss.tensor_keys.prediction == "transitions" and loss.temperature == 0.7
    assert ("transitions", "next", "sparse_reward") in loss.in_keys
    assert CQVAEConfig(predictor_hidden=[8]).build(problem, 4).codebook.num_codes == 8
    with pytest.raises(ConfigError, match="predict: got 'nothing'"):
        check_fields(CQVAEConfig(predict="nothing"))
    with pytest.raises(ValueError, match="'none', which is not a registered representation"):
        RepresentationConfig().build(problem, 4)
