"""Ensembles of outcome models, their judges, and the transitions that they make up."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from ctmrl_torchrl.modules.outcome_ensembles import (
    OutcomeEnsemble,
    TaskModels,
    disagreement_judge,
    prediction_error_judge,
)
from ctmrl_torchrl.modules.pseudo_transitions import (
    exchange_partners,
    mixed_context,
    pseudo_transitions,
    real_and_made_up,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_task_models_predict_what_they_are_taught():
    statistics = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 4.0])
    models = TaskModels(
        3, 2, observation_dim=2, action_dim=1, hidden=[8], next_observation=True,
        observation_statistics=(torch.ones(2), torch.full((2,), 2.0)), target_statistics=statistics,
    )  # fmt: skip
    observation, action = torch.randn(3, 5, 2), torch.randn(3, 5, 1)
    reward, following = torch.randn(3, 5, 1), torch.randn(3, 5, 2)
    inputs = models.inputs(observation, action)
    torch.testing.assert_close(inputs, torch.cat([(observation - 1) / 2, action], -1))
    targets = models.targets(observation, reward, following)
    raw = torch.cat([reward, following - observation], -1)
    torch.testing.assert_close(targets, (raw - statistics[0]) / statistics[1])
    outputs = models.network(inputs.unsqueeze(1))
    mean = (outputs * statistics[1] + statistics[0]).mean(1)
    found_reward, found_following = models(observation, action)
    torch.testing.assert_close(found_reward, mean[..., :1])
    torch.testing.assert_close(found_following, observation + mean[..., 1:])
    only = TaskModels(3, 2, observation_dim=2, action_dim=1, hidden=[8])
    assert only(observation, action)[1] is None
    torch.testing.assert_close(only.targets(observation, reward, None), reward)


def test_judges_written_out():
    reward, following = torch.randn(4, 3, 6, 1), torch.randn(4, 3, 6, 2)
    outcome = torch.randn(3, 6, 1), torch.randn(3, 6, 2)
    mask = torch.arange(6) < torch.tensor([[6], [2], [4]])
    for padded in (None, mask):
        errors, spreads = [], []
        for n in range(3):
            steps = [t for t in range(6) if padded is None or padded[n, t]]
            per_member = [
                (reward[k, n, steps] - outcome[0][n, steps]).square().mean()
                + (following[k, n, steps] - outcome[1][n, steps]).square().mean()
                for k in range(4)
            ]
            errors.append(sum(per_member) / 4)
            spreads.append(
                sum(
                    torch.stack([values[k, n, t, j] for k in range(4)]).std()
                    / (len(steps) * values.shape[-1])
                    for values in (reward, following)
                    for t in steps
                    for j in range(values.shape[-1])
                )
            )
        prediction = reward, following
        torch.testing.assert_close(prediction_error_judge(prediction, outcome, padded), torch.stack(errors))
        torch.testing.assert_close(disagreement_judge(prediction, padded), torch.stack(spreads))


def test_disagreement_is_among_members_and_not_over_time():
    changing = torch.arange(6.0).view(1, 1, 6, 1).expand(4, 1, 6, 1)
    assert disagreement_judge((changing, torch.zeros(4, 1, 6, 2))).item() == 0


def test_every_member_of_an_ensemble_learns_and_no_context_does():
    ensemble = OutcomeEnsemble(4, observation_dim=2, action_dim=1, context_dim=3, hidden=[8])
    observation, action, context = (torch.randn(5, 6, size) for size in (2, 1, 3))
    context.requires_grad_()
    outcome = torch.randn(5, 6, 1), torch.randn(5, 6, 2)
    error = ensemble.error(observation, action, context, outcome, seeded())
    error.sum().backward()
    assert context.grad is None
    for parameter in ensemble.parameters():
        assert (parameter.grad.flatten(1).abs().sum(-1) > 0).all()
    row = torch.rand(4, 30, generator=seeded(), dtype=torch.float64).mul(30).long()
    reward, following = ensemble(observation, action, context)
    for k in range(4):
        expected = (reward[k].flatten(0, 1)[row[k]] - outcome[0].flatten(0, 1)[row[k]]).square().mean()
        expected += (following[k].flatten(0, 1)[row[k]] - outcome[1].flatten(0, 1)[row[k]]).square().mean()
        torch.testing.assert_close(error[k], expected)


@pytest.mark.parametrize(("tasks", "others"), [(5, 3), (2, 1), (30, 3), (4, 0)])
def test_exchange_partners(tasks, others):
    for seed in range(5):
        partners = exchange_partners(tasks, others, seeded(seed))
        assert partners.shape == (tasks, others)
        for task, row in enumerate(partners.tolist()):
            assert task not in row and len(set(row)) == others
        assert (partners.flatten().bincount(minlength=tasks) == others).all()
    if (tasks, others) == (5, 3):
        assert len({tuple(exchange_partners(5, 3, seeded(seed)).flatten().tolist()) for seed in range(9)}) > 5
    with pytest.raises(ValueError, match=f"at most {tasks - 1} are available"):
        exchange_partners(tasks, tasks)


@pytest.mark.parametrize("next_observation", [False, True])
def test_stores_hold_what_each_tasks_model_says_of_several_tasks_actions(next_observation):
    models = TaskModels(
        4, 3, observation_dim=2, action_dim=2, hidden=[8], next_observation=next_observation,
        generator=seeded(),
    )  # fmt: skip
    observation, context = torch.randn(4, 5, 2, generator=seeded(1)), torch.randn(4, 2, generator=seeded(2))

    def act(td):
        return (td["observation"] + td["task_context"]).tanh()

    store = pseudo_transitions(models, observation, context, act, others=2, chunk=4, generator=seeded(3))
    partners = exchange_partners(4, 2, seeded(3))
    assert store.batch_size == (4, 15) and not any(value.requires_grad for value in store.values(True, True))
    for j in range(4):
        for place, i in enumerate([j, *partners[j].tolist()]):
            for row in range(5):
                entry = store[j, 5 * place + row]
                action = (observation[i, row] + context[i]).tanh()
                torch.testing.assert_close(entry["observation"], observation[i, row])
                torch.testing.assert_close(entry["action"], action)
                outputs = models.network(torch.cat([observation[i, row], action]).view(1, 1, 1, 4))
                said = outputs[j].mean(0)[0]  # the mean over members of task j's ensemble
                torch.testing.assert_close(entry["next", "reward"], said[:1].detach())
                if next_observation:
                    following = observation[i, row] + said[1:].detach()
                    torch.testing.assert_close(entry["next", "observation"], following)


def test_mixed_contexts_are_real_ones_with_rows_of_their_own_stores():
    assert real_and_made_up(256, 0.95) == (13, 243) and real_and_made_up(100, 0.0) == (100, 0)
    real = TensorDict({"observation": -torch.ones(2, 13, 1), "mine": torch.ones(2, 13)}, [2, 13])
    store = TensorDict({"observation": torch.arange(200.0).view(5, 40, 1)}, [5, 40])
    mixed = mixed_context(real, store, torch.tensor([4, 1]), 243, seeded())
    assert mixed.batch_size == (2, 256) and set(mixed.keys()) == {"observation"}
    assert (mixed["observation"][:, :13] == -1).all()
    made_up = mixed["observation"][:, 13:, 0]
    for row, task in enumerate((4, 1)):
        drawn = set(made_up[row].tolist())
        assert drawn <= set(range(40 * task, 40 * task + 40)) and len(drawn) > 35
    # without made-up transitions it is the plain task autoencoder's context
    plain = mixed_context(real, store, torch.tensor([4, 1]), 0, seeded())
    assert (plain == real.select("observation")).all()
