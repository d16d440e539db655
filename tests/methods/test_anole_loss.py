"""ANOLE's loss: preferences between fragments, and the prior of the table of contexts."""

from __future__ import annotations

import pytest
import torch
from registered import LENGTH, TASKS, Composition, meta_batch
from small_runs import reached, small_config
from tensordict import TensorDict

from ctmrl_torchrl.modules.decoders import make_preference_reward
from ctmrl_torchrl.objectives.representation.anole import PreferenceLoss
from ctmrl_torchrl.training.build import build_experiment

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def test_every_term_reaches_what_it_should():
    composition = Composition(encoder="table", representation="anole")
    for critic_gradient, by_critic in (("none", {"policy"}), ("all", {"policy", "context_encoder"})):
        loss = composition.build(critic_gradient=critic_gradient)
        torch.manual_seed(0)
        out = loss(meta_batch())
        assert reached(loss, out["loss_preference"]) == {"context_encoder", "representation"}
        assert reached(loss, out["loss_divergence"]) == {"context_encoder"}
        assert reached(loss, out["loss_qvalue"]) == by_critic
        assert reached(loss, out["loss_actor"]) == {"policy"}


def reward_model():
    return make_preference_reward(observation_dim=3, action_dim=2, context_dim=4, hidden=[8])


def test_preferences_by_hand():
    """Whole draws are compared; what the mask leaves out counts neither for the model nor for the label."""
    torch.manual_seed(0)
    model, batch = reward_model(), meta_batch()
    loss = PreferenceLoss(model, preference_weight=10.0, fragment=LENGTH)
    batch["context", "mask"][:, 4:] = False
    batch["context", "next", "reward"][:, 4:] = 100.0
    contexts = torch.randn(TASKS, 4)
    out = loss(batch.clone().set("task_context", contexts))
    total, right = 0.0, 0.0
    for task in range(TASKS):
        sums = []
        for name, steps in (("context", 4), ("context_positive", LENGTH)):
            rows = batch[name][task][:steps]
            features = torch.cat([rows["observation"], rows["action"]], -1)
            predicted = torch.tanh(model.module.embedding(features) @ contexts[task]).sum()
            sums.append((predicted, rows["next", "reward"].sum()))
        (first, true_first), (second, true_second) = sums
        better = true_first >= true_second
        chance = torch.sigmoid(first - second)
        total -= torch.log(chance if better else 1 - chance) / TASKS
        right += ((first > second) == better).float() / TASKS
    torch.testing.assert_close(out["loss_preference"], 10.0 * total)
    torch.testing.assert_close(out["preference_accuracy"], right)
    assert out["loss_divergence"] == 0.0  # this encoder has no distribution


def test_fragments_are_consecutive_steps_that_count():
    loss, tasks, length = PreferenceLoss(reward_model(), fragment=3), 400, 9
    steps = torch.arange(float(length)).expand(tasks, length)
    mask = torch.ones(tasks, length, dtype=torch.bool)
    mask[:, 2] = mask[:, 7:] = False  # a gap and padding: six steps count
    number = torch.where(mask, mask.cumsum(1) - 1.0, torch.nan).unsqueeze(-1)
    tensors = {"observation": steps.unsqueeze(-1).expand(-1, -1, 3), "action": torch.zeros(tasks, length, 2)}
    draw = TensorDict(tensors | {"next": {"reward": number}, "mask": mask}, [tasks, length])
    torch.manual_seed(0)
    _, returns = loss._compared(draw, torch.zeros(tasks, 4))
    assert returns.unique().tolist() == [3.0, 6.0, 9.0, 12.0]  # 0+1+2 to 3+4+5
    # an episode shorter than a fragment is compared as a whole
    draw["mask"] = torch.arange(length).expand(tasks, length) < 2
    draw["next", "reward"] = torch.ones(tasks, length, 1)
    assert loss._compared(draw, torch.zeros(tasks, 4))[1].unique().tolist() == [2.0]


def test_the_prior_is_that_of_the_tables_rows():
    loss = Composition(encoder="table", representation="anole").build(divergence_weight=0.5)
    batch = meta_batch()
    batch["task_id"] = torch.tensor([3, 0, 0, 1, 2])
    torch.manual_seed(0)
    out = loss(batch)
    table = loss.context_encoder
    normal = torch.distributions.Normal(table.mean, table.log_std.exp())
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    expected = 0.5 * divergence[batch["task_id"]].mean()
    torch.testing.assert_close(out["loss_divergence"], expected)


def test_it_learns_to_tell_better_from_worse(data_root, tmp_path):
    changes = ["sizes.encoder_hidden=[32]", "batch.tasks=120", "encoder.noisy=false"]
    experiment = build_experiment(small_config("anole", data_root, tmp_path, *changes, protocols="[anole]"))
    trainer, accuracies = experiment.trainer, []
    trainer.schedule, experiment.loss.policy_frozen = None, True
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.02
    trainer.begin()
    for _ in range(60):
        accuracies.append(trainer.update(trainer.next_batch())["preference_accuracy"].item())
    assert sum(accuracies[-10:]) / 10 > 0.7 > accuracies[0]
