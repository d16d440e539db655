"""The policy may learn from the best trajectories of each task; contexts come from all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_data import make_dataset

from ctmrl_torchrl.data import ContextDraw, TaskSampler
from ctmrl_torchrl.data.best import BestRows
from ctmrl_torchrl.data.rows import RowTable


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 5), st.floats(-9, 9)), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    ),
    st.floats(0.01, 1.0),
)
def test_the_best_trajectories_of_each_task_are_kept(tasks, share):
    lengths = torch.tensor([length for task in tasks for length, _ in task])
    returns = torch.tensor([value for task in tasks for _, value in task])
    ids = torch.tensor([number for number, task in enumerate(tasks) for _ in task])
    table = RowTable.of(ids, torch.zeros_like(ids), lengths, horizon=5)
    best = BestRows.of(table, returns, share)
    starts = lengths.cumsum(0) - lengths
    first = 0
    for number, task in enumerate(tasks):
        kept = max(1, round(torch.tensor(share * len(task)).round().item()))
        ranked = sorted(range(len(task)), key=lambda each: (-returns[first + each].item(), each))[:kept]
        expected = [
            row
            for each in sorted(ranked)
            for row in range(int(starts[first + each]), int(starts[first + each] + lengths[first + each]))
        ]
        begin = int(best.start[number])
        assert best.rows[begin : begin + int(best.count[number])].tolist() == expected
        first += len(task)


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


def sampler_of(dataset, **options):
    return TaskSampler(
        dataset,
        task_ids=dataset.task_ids,
        tasks_per_batch=None,
        transitions_per_task=400,
        context=ContextDraw(trajectories=(1, 3)),
        num_contexts=1,
        **options,
    )


def drawn(dataset, sampler):
    buffer = dataset.replay_buffer(sampler, generator=torch.Generator().manual_seed(0))
    index, _ = sampler.sample(buffer.storage, sampler.batch_size)
    trajectory = dataset.transitions["trajectory_id"]
    return [set(part.unique().tolist()) for part in (trajectory[index[:, :400]], trajectory[index[:, 400:]])]


def test_policy_transitions_come_from_the_best_and_contexts_from_all(dataset):
    sampler = sampler_of(dataset, best_share=0.3)
    everything = set(dataset.transitions["trajectory_id"].unique().tolist())
    assert drawn(dataset, sampler)[0] == everything
    sampler.best_only = True
    policy, contexts = drawn(dataset, sampler)
    returns = dataset.trajectory_returns()
    for task in dataset.task_ids:
        own = (dataset.trajectory_task == task).nonzero().flatten()
        chosen = torch.tensor(sorted(policy & set(own.tolist())))
        best = returns[own].topk(max(1, round(0.3 * len(own)))).values  # returns may be equal
        assert returns[chosen].sort(descending=True).values.tolist() == best.tolist()
    assert len(contexts - policy) > 0


def test_a_share_of_one_changes_nothing(dataset):
    plain, whole = sampler_of(dataset), sampler_of(dataset, best_share=1.0)
    whole.best_only = True
    assert drawn(dataset, plain) == drawn(dataset, whole)


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan"), "half"])
def test_a_share_that_cannot_be(dataset, share):
    with pytest.raises(ValueError, match="best_share must be above 0"):
        sampler_of(dataset, best_share=share)
