from __future__ import annotations

import copy

import pytest
import torch
from meta_batches import ctmrl_loss, meta_batch
from tensordict import TensorDict, lazy_stack

from ctmrl_torchrl import modules
from ctmrl_torchrl.objectives.representation.relabel import mix_other_tasks


def contexts(tasks, length, mask=None):
    """Observation and reward of a transition name its task."""
    task = torch.arange(float(tasks)).view(-1, 1, 1).expand(tasks, length, 1)
    td = TensorDict({"observation": task, "next": {"reward": task}}, [tasks, length])
    return td if mask is None else td.set("mask", mask)


def answered_by(transitions, task_context):
    return transitions.set(("next", "reward"), task_context[:, None].expand_as(transitions["observation"]))


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_replaced_transitions_come_from_another_task_and_are_answered_by_the_own(fraction):
    torch.manual_seed(0)
    task_context = 1000.0 + torch.arange(200.0).unsqueeze(-1)
    mixed = mix_other_tasks(contexts(200, 50), task_context, answered_by, fraction)
    own = torch.arange(200.0).view(-1, 1, 1)
    foreign = mixed["observation"] != own
    assert torch.equal(mixed["next", "reward"] >= 1000, foreign)
    assert (mixed["next", "reward"] == own + 1000)[foreign].all()
    shares = foreign.float().mean((1, 2))
    assert (shares > 0).float().mean().item() == pytest.approx(fraction, abs=0.1)
    assert shares[shares > 0].mean().item() == pytest.approx(0.5, abs=0.1)
    # one other task per context
    assert all(context.unique().numel() <= 2 for context in mixed["observation"])


def test_the_input_is_left_alone_and_masks_travel_along():
    torch.manual_seed(0)
    mask = torch.rand(6, 9) < 0.5
    td = contexts(6, 9, mask)
    before = td.clone()
    mixed = mix_other_tasks(td, torch.zeros(6, 1), answered_by, 1.0)
    assert (td == before).all()
    source = mixed["observation"].squeeze(-1).long()
    assert torch.equal(mixed["mask"], mask[source, torch.arange(9).expand(6, 9)])
    assert (source != torch.arange(6).unsqueeze(-1)).any()


def test_one_task_has_no_others():
    td = contexts(1, 5)
    assert (mix_other_tasks(td, torch.zeros(1, 1), lambda transitions, _: transitions, 1.0) == td).all()


def test_a_context_of_batch_size_t_is_mixed_too():
    td = contexts(6, 9)
    flat = TensorDict({"observation": td["observation"], "next": {"reward": td["next", "reward"]}}, [6])
    results = []
    for context in (td, flat):
        torch.manual_seed(0)
        results.append(mix_other_tasks(context, torch.zeros(6, 1), answered_by, 1.0)["observation"])
    assert torch.equal(*results)
    assert flat.batch_size == (6,)


def test_without_contrast_the_representation_reads_no_second_context():
    loss = ctmrl_loss(relabelled_fraction=1.0, contrastive_weight=0.0).representation
    td = meta_batch().set("task_context", torch.randn(5, 4))
    assert "task_context_positive" not in loss.in_keys
    assert loss(td.select(*loss.in_keys))["loss_prediction"].isfinite()


def test_the_loss_encodes_mixed_contexts_only_when_asked():
    """Only the main draw, not in the warm-up, not once the encoder is fixed."""
    plain, mixing = ctmrl_loss(), ctmrl_loss(relabelled_fraction=1.0)
    mixing.load_state_dict(plain.state_dict())
    batch = meta_batch()
    name = "loss_prediction"
    assert not torch.equal(mixing(batch.clone())[name], plain(batch.clone())[name])
    for loss in (plain, mixing):
        loss.representation.warm_up = True
    torch.testing.assert_close(mixing(batch.clone())[name], plain(batch.clone())[name])
    for loss in (plain, mixing):
        loss.representation.warm_up, loss.representation_frozen = False, True
    torch.manual_seed(1)
    expected = plain(batch.clone())["loss_value"]
    torch.manual_seed(1)
    torch.testing.assert_close(mixing(batch.clone())["loss_value"], expected)


def test_replaced_transitions_are_answered_by_the_predictors():
    loss, td = ctmrl_loss(relabelled_fraction=1.0).representation, meta_batch()["context"]
    td["next", "observation"] = torch.full_like(td["next", "observation"], 9.0)  # tells what is replaced
    task_context = torch.randn(5, 4)
    torch.manual_seed(0)
    mixed = loss.mixed(td, task_context)
    replaced = (mixed["next", "observation"] != 9.0).all(-1)
    assert replaced.any() and not replaced.all()
    reward, following = loss.predictors.predict(mixed, task_context, loss.tensor_keys).values()
    torch.testing.assert_close(mixed["next", "reward"][replaced], reward[replaced])
    torch.testing.assert_close(mixed["next", "observation"][replaced], following[replaced])
    assert torch.equal(mixed["action"][~replaced], td["action"][~replaced])
    assert not mixed["next", "reward"].requires_grad


def test_relabelling_needs_no_contrastive_term_and_says_what_it_reads():
    loss = ctmrl_loss(relabelled_fraction=1.0, contrastive_weight=0.0)
    loss.representation.set_keys(prediction="transitions")
    loss.context_encoder = modules.make_context_encoder(
        feature_dims={("context", "next", "reward"): 1}, context_dim=4, hidden=(8,)
    )
    assert {("context", "observation"), ("context", "action")} <= set(loss.in_keys)
    td = meta_batch()
    needed = td.select(*loss.in_keys)
    assert ("context", "next", "observation") not in needed.keys(True)
    torch.manual_seed(0)
    mixed = loss(needed)["loss_prediction"]
    loss.representation.relabelled_fraction = 0.0
    assert not torch.equal(loss(td)["loss_prediction"], mixed)


@pytest.mark.parametrize("fraction", [-0.1, 1.5])
def test_a_fraction_outside_of_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match=r"relabelled_fraction=.* must lie in \[0, 1\]"):
        ctmrl_loss(relabelled_fraction=fraction)


def test_a_lazy_stack_of_the_users_data_is_left_alone():
    batch = meta_batch()
    tasks = [batch[number].clone() for number in range(len(batch))]
    before = [task.clone() for task in tasks]
    loss = ctmrl_loss("iql", relabelled_fraction=1.0)
    torch.manual_seed(0)
    expected = copy.deepcopy(loss)(batch)
    torch.manual_seed(0)
    lazily = loss(lazy_stack(tasks))
    assert all((task == known).all() for task, known in zip(tasks, before, strict=True))
    torch.testing.assert_close(lazily.to_dict(), expected.to_dict())
