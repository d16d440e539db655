"""ANOLE's search against Berlekamp's counts written out, with noiseless and noisy oracles."""

from __future__ import annotations

from itertools import product
from math import comb

import pytest
import torch
from tensordict import TensorDict
from term_checks import agree

from ctmrl_torchrl.modules.predictors import make_reward_predictor
from ctmrl_torchrl.modules.preference_search import (
    NoisyOracle,
    PreferenceSearch,
    candidates_wanted,
    error_budget,
    fragment_predictions,
    fragment_values,
    rollout_predictions,
    volume_table,
)
from ctmrl_torchrl.objectives.representation.anole import preference_error, table_divergence
from ctmrl_torchrl.training.fragments import draw_fragments


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_volumes_count_the_answers_to_come():
    table = volume_table(5, 4)
    for n in range(6):
        for m in range(-1, 5):
            ways = sum(sum(errors) <= m for errors in product((0, 1), repeat=n))
            assert table[n, m + 1] == ways
    assert error_budget(10, 0.2) == 2 and error_budget(5, 0.2) == 1  # where 5 * 0.2 is a hair off 1
    assert candidates_wanted(3, 10, 0.2) == 1024 // (1 + 10 + 45) == 18


def test_the_question_is_the_one_with_the_smallest_worst_volume():
    generator = seeded()
    search = PreferenceSearch(2, 9, queries=6, error_rate=0.34)
    agree, budget = [[0] * 9, [0] * 9], [2, 2]
    for asked in range(6):
        predictions = torch.rand(2, 7, 9, generator=generator) < 0.5
        worst = []
        for task in range(2):
            row = []
            for pair in range(7):
                volumes = []
                for answer in (True, False):
                    total = 0
                    for n in range(9):
                        errors = asked + 1 - agree[task][n] - (predictions[task, pair, n].item() == answer)
                        total += sum(comb(5 - asked, k) for k in range(max(budget[task] - errors, -1) + 1))
                    volumes.append(total)
                row.append(max(volumes))
            worst.append(row)
        assert search.worst_volume(predictions).tolist() == worst
        chosen = search.choose(predictions)
        assert chosen.tolist() == [row.index(min(row)) for row in worst]
        allowed = torch.ones(2, 7, dtype=torch.bool)
        allowed[torch.arange(2), chosen] = False
        assert (search.choose(predictions, allowed) != chosen).all()
        believed = predictions[torch.arange(2), chosen]
        answer = torch.rand(2, generator=generator) < 0.5
        search.observe(believed, answer)
        for task in range(2):
            for n in range(9):
                agree[task][n] += believed[task, n].item() == answer[task].item()
            budget[task] = max(budget[task], min(asked + 1 - count for count in agree[task]))
        assert search.agree.tolist() == agree and search.budget.tolist() == budget
    with pytest.raises(ValueError, match="all 6 queries have been asked"):
        search.choose(predictions)


def thresholds(count):
    """Candidates 0 ... count - 1 and the questions whether one is at least 1, 2, ..."""
    return torch.arange(count) >= torch.arange(1, count).unsqueeze(-1)


def test_a_noiseless_oracle_halves_the_candidates_and_finds_the_planted_one():
    questions, planted = thresholds(16), torch.arange(16)
    search = PreferenceSearch(16, 16, queries=4, error_rate=0.0)
    for query in range(4):
        asked = questions[search.choose(questions)]
        search.observe(asked, asked[planted, planted])
        assert (search.leaders().sum(-1) == 16 // 2 ** (query + 1)).all()
    assert torch.equal(search.pick(seeded()), planted)
    assert torch.equal(search.mean_of_leaders(torch.arange(16.0).unsqueeze(-1)).squeeze(-1), planted.float())


def test_a_planted_candidate_is_found_whichever_two_answers_are_wrong():
    questions, planted = torch.tensor(list(product((True, False), repeat=8))), 5
    wrong = torch.zeros(56, 10, dtype=torch.bool)
    for row, errors in enumerate(
        [(), *((i,) for i in range(10)), *((i, j) for i in range(10) for j in range(i))]
    ):
        wrong[row, list(errors)] = True
    search = PreferenceSearch(56, 8, queries=10, error_rate=0.2)
    for query in range(10):
        asked = questions[search.choose(questions)]
        search.observe(asked, asked[:, planted] ^ wrong[:, query])
    assert (search.leaders().sum(-1) == 1).all()
    assert (search.pick(seeded()) == planted).all()


def test_ties_are_broken_at_random_and_may_be_averaged():
    search = PreferenceSearch(300, 4, queries=1, error_rate=0.0)
    search.observe(torch.tensor([True, True, False, False]).expand(300, 4), torch.ones(300, dtype=torch.bool))
    assert set(search.pick(seeded()).tolist()) == {0, 1}
    candidates = torch.tensor([[0.0, 2.0], [4.0, 0.0], [9.0, 9.0], [9.0, 9.0]])
    torch.testing.assert_close(search.mean_of_leaders(candidates)[7], torch.tensor([2.0, 1.0]))
    other = PreferenceSearch(300, 4, queries=1)
    other.load_state_dict(search.state_dict())
    assert other.asked == 1 and torch.equal(other.agree, search.agree)


def test_the_oracles_errors_belong_to_task_and_seed():
    first, second = torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, -1.0])
    tasks = [2, 5, 7, 9]

    def answers(task_ids, seed, **options):
        oracle = NoisyOracle(task_ids, 200, seed=seed, **options)
        count = len(task_ids)
        found = torch.stack([oracle(first[:count], second[:count]) for _ in range(200)], -1)
        assert oracle.answers == 200 * count
        return found

    given = answers(tasks, 0)
    assert torch.equal(answers([2], 0)[0], given[0])  # whoever else is asked
    assert not torch.equal(answers(tasks, 1), given)
    assert (
        len({tuple((row == (f > s)).tolist()) for row, f, s in zip(given, first, second, strict=True)}) == 4
    )
    truth = (first > second).unsqueeze(-1)
    assert (given != truth).float().mean().item() == pytest.approx(0.2, abs=0.05)
    assert torch.equal(answers(tasks, 0, error_rate=0.0), truth.expand(4, 200))
    wrong = (answers(tasks, 0, sharpness=1.0) != truth).float().mean().item()
    assert wrong == pytest.approx(1 / (1 + 2.718281828), abs=0.05)


def test_predictions_of_pairs():
    values = torch.randn(5, 7, generator=seeded())
    first, second = torch.tensor([[0, 3, 6]]), torch.tensor([[1, 4, 2]])
    found = fragment_predictions(values, first, second)
    candidates = torch.randn(5, 2, generator=seeded(1))
    nearer = rollout_predictions(candidates, torch.tensor([0, 3]), torch.tensor([1, 4]))
    assert found.shape == (1, 3, 5) and nearer.shape == (2, 5)
    for n in range(5):
        for pair in range(3):
            expected = values[n, first[0, pair]] > values[n, second[0, pair]]
            assert found[0, pair, n] == expected
        for pair, (m, other) in enumerate(((0, 1), (3, 4))):
            expected = (candidates[n] - candidates[m]).norm() < (candidates[n] - candidates[other]).norm()
            assert nearer[pair, n] == expected
    assert nearer[0, 0] and not nearer[0, 1] and nearer[1, 3] and not nearer[1, 4]


def test_preference_error_and_prior_written_out():
    first, second = (
        torch.randn(6, generator=seeded(s), dtype=torch.float64).requires_grad_() for s in (0, 1)
    )
    better = torch.tensor([True, False, True, True, False, False])
    chance = first.exp() / (first.exp() + second.exp())
    expected = -torch.where(better, chance, 1 - chance).log()
    found = preference_error(first, second, better)
    agree(found, expected, first, second)
    far = preference_error(torch.tensor([64.0]), torch.tensor([-64.0]), torch.tensor([False]))
    assert far.item() == 128.0
    mean, log_std = first.view(2, 3), second.view(2, 3)
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(mean, log_std.exp()), normal(0.0, 1.0))
    agree(table_divergence(mean, log_std), divergence.mean(-1), first, second)


def test_fragments_stay_within_episodes():
    lengths = torch.tensor([[5, 2, 4], [0, 9, 3]])
    episode, start = draw_fragments(lengths, 4000, 3, seeded())
    for task, places in enumerate(
        ({(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)}, {(1, s) for s in range(7)} | {(2, 0)})
    ):
        pairs = list(zip(episode[task].tolist(), start[task].tolist(), strict=True))
        assert set(pairs) == places
        share = torch.tensor([pairs.count(place) / 4000 for place in places])
        assert (share - 1 / len(places)).abs().max() < 0.03
    with pytest.raises(ValueError, match="use at most 5"):
        draw_fragments(lengths, 1, 6)


def test_any_reward_predictor_values_fragments():
    predictor = make_reward_predictor(observation_dim=3, action_dim=2, context_dim=4, hidden=[8])
    observation, action = torch.randn(7, 6, 3), torch.randn(7, 6, 2)
    mask = torch.arange(6) < torch.arange(1, 8).clamp_max(6).unsqueeze(-1)
    candidates = torch.randn(5, 4)
    td = TensorDict({"observation": observation, "action": action}, [7, 6])
    for padded in (False, True):
        values = fragment_values(predictor, td.clone().set("mask", mask) if padded else td, candidates)
        for n, m in ((0, 0), (4, 2), (2, 6)):
            steps = [t for t in range(6) if mask[m, t] or not padded]
            total = sum(predictor(observation[m, t], action[m, t], candidates[n]) for t in steps)
            torch.testing.assert_close(values[n, m], total.squeeze().detach())


def test_close_candidates_are_told_apart():
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(1, 20, generator=generator, dtype=torch.float64)
    close = centre / centre.norm() + 3e-4 * torch.randn(30, 20, generator=generator, dtype=torch.float64)
    pairs = torch.combinations(torch.arange(30))
    found, exact = (rollout_predictions(each, *pairs.mT) for each in (close.float(), close.float().double()))
    assert (found != exact).float().mean() < 1e-3
