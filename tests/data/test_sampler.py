from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_data import even, make_dataset
from torchrl.data import TensorDictReplayBuffer, TensorStorage

from ctmrl_torchrl.data import ContextDraw, TaskDataset, TaskSampler

DRAW = ContextDraw(trajectories=(1, 3))


def make_sampler(dataset, **options):
    fields = dict(task_ids=dataset.task_ids, tasks_per_batch=2, transitions_per_task=6, context=DRAW)
    return TaskSampler(dataset, **(fields | options))


def make_buffer(dataset, seed=0, buffer=(), **options):
    generator = torch.Generator().manual_seed(seed)
    return dataset.replay_buffer(make_sampler(dataset, **options), generator=generator, **dict(buffer))


def paths(batch):
    return set(batch.keys(include_nested=True, leaves_only=True))


def test_the_meta_batch_is_as_documented():
    batch = make_buffer(make_dataset()).sample()
    assert batch.batch_size == (2,)
    assert set(batch.keys()) == {"task_id", "transitions", "context", "context_positive"}
    assert batch["task_id"].dtype == torch.int64
    assert batch["transitions"].batch_size == (2, 6)
    following = {("next", k) for k in ("observation", "reward", "done", "terminated", "truncated")}
    assert paths(batch["transitions"]) == {"observation", "action"} | following
    for name in ("context", "context_positive"):
        assert batch[name].batch_size == (2, 12)
        assert paths(batch[name]) == paths(batch["transitions"]) | {"mask"}
        assert batch[name, "mask"].shape == (2, 12)
    assert all(leaf.is_contiguous() for leaf in batch.values(True, True))


def test_everything_in_a_row_is_of_its_task():
    buffer = make_buffer(make_dataset(), tasks_per_batch=3)
    for _ in range(5):
        batch = buffer.sample()
        for name in ("transitions", "context", "context_positive"):
            assert (batch[name, "next", "reward"][..., 0] == batch["task_id"][:, None]).all()


def test_rows_are_those_of_the_index():
    dataset = make_dataset()
    batch, info = make_buffer(dataset).sample(return_info=True)
    assert info["index"].shape == (2, 6 + 2 * 12)
    policy, context, positive = info["index"].split([6, 12, 12], 1)
    for name, index in (("transitions", policy), ("context", context), ("context_positive", positive)):
        for key in ("observation", "action", ("next", "observation"), ("next", "done")):
            assert torch.equal(batch[name][key], dataset.transitions[key][index])


def test_the_two_contexts_are_independent_draws():
    buffer = make_buffer(make_dataset(), tasks_per_batch=4)
    batches = [buffer.sample() for _ in range(200)]
    first, second = (
        torch.cat([b[name, "mask"].sum(1) for b in batches]).float()
        for name in ("context", "context_positive")
    )
    assert (first != second).any()
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.12  # 800 pairs: 3.4 standard errors
    assert first.mean().item() == pytest.approx(second.mean().item(), abs=0.5)


def test_one_context_and_single_transitions():
    draw = ContextDraw(kind="transitions", length=7)
    batch = make_buffer(make_dataset(), num_contexts=1, context=draw).sample()
    assert set(batch.keys()) == {"task_id", "transitions", "context"}
    assert batch["context"].batch_size == (2, 7)
    assert batch["context", "mask"].all()


def test_policy_transitions_are_uniform_over_the_task():
    dataset = make_dataset([(0, 0, 1), (0, 1, 4), (1, 0, 4)])
    sampler = make_sampler(dataset, task_ids=[0], tasks_per_batch=1, transitions_per_task=5000)
    batch, info = dataset.replay_buffer(sampler, generator=torch.Generator().manual_seed(0)).sample(
        return_info=True
    )
    counts = torch.bincount(info["index"][0, :5000])
    torch.testing.assert_close(counts / 5000, torch.full((5,), 0.2), atol=0.03, rtol=0)


def test_all_tasks_in_the_given_order():
    buffer = make_buffer(make_dataset(), task_ids=[3, 0, 1], tasks_per_batch=None)
    assert buffer.sample()["task_id"].tolist() == [3, 0, 1]
    assert buffer.sample()["task_id"].tolist() == [3, 0, 1]


def test_tasks_are_distinct_and_all_come_up():
    buffer = make_buffer(make_dataset(), task_ids=[0, 1, 3], tasks_per_batch=2)
    drawn = [buffer.sample()["task_id"].tolist() for _ in range(40)]
    assert all(len(set(tasks)) == 2 for tasks in drawn)
    assert {task for tasks in drawn for task in tasks} == {0, 1, 3}
    repeated = make_buffer(make_dataset(), task_ids=[0, 1], tasks_per_batch=5, repeat_tasks=True).sample()
    assert set(repeated["task_id"].tolist()) <= {0, 1}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 4)), min_size=1, max_size=15).map(
        sorted
    ),
    st.data(),
)
def test_uneven_datasets(trajectories, data):
    dataset = make_dataset(trajectories)
    tasks = data.draw(st.integers(1, dataset.task_ids.numel()))
    batch = make_buffer(dataset, tasks_per_batch=tasks, seed=data.draw(st.integers(0, 99))).sample()
    assert len(set(batch["task_id"].tolist())) == tasks
    for name in ("transitions", "context", "context_positive"):
        assert (batch[name, "next", "reward"][..., 0] == batch["task_id"][:, None]).all()
    trajectory, step = batch["context", "observation"].view(tasks, 3, 4, 2).unbind(-1)
    mask = batch["context", "mask"].view(tasks, 3, 4)
    assert (trajectory == trajectory[..., :1]).all()
    assert (step == torch.arange(4))[mask].all()
    assert mask[:, 0, 0].all()


def test_memory_mapped_in_memory_and_saved_give_the_same_batches(tmp_path):
    dataset = make_dataset()
    loaded = TaskDataset.load(dataset.save(tmp_path / "data"))
    buffers = [make_buffer(dataset), make_buffer(loaded), make_buffer(loaded, buffer={"in_memory": True})]
    for _ in range(3):
        first, *others = [buffer.sample() for buffer in buffers]
        assert all((first == other).all() for other in others)


def test_only_spares_entries_and_changes_no_draw():
    whole, spared = make_buffer(make_dataset()), make_buffer(make_dataset())
    asked = {("context", "observation"), ("context", "next", "reward"), ("transitions", "action")}
    spared.only = [*asked, "task_id", ("transitions", "no such entry"), ("elsewhere", "action")]
    for _ in range(3):
        batch, expected = spared.sample(), whole.sample()
        assert paths(batch) == {"task_id", *asked, ("context", "mask"), ("context_positive", "mask")}
        assert all(torch.equal(batch[key], expected[key]) for key in paths(batch))
        assert batch["context_positive"].batch_size == expected["context_positive"].batch_size
    spared.only = ["transitions", ("context", "next")]
    batch, expected = spared.sample(), whole.sample()
    assert (batch["transitions"] == expected["transitions"]).all()
    assert (batch["context", "next"] == expected["context", "next"]).all() and "action" not in batch[
        "context"
    ]
    spared.only = None
    assert (spared.sample() == whole.sample()).all()


def test_a_text_is_one_key_and_one_key_alone_is_no_list():
    buffer, listed = make_buffer(make_dataset()), make_buffer(make_dataset())
    buffer.only, listed.only = "context", ["context"]
    assert buffer.only == ["context"] and (buffer.sample() == listed.sample()).all()
    with pytest.raises(
        ValueError, match=r"must be a list of keys.*write \[\('context', 'observation'\)\] for"
    ):
        buffer.only = ("context", "observation")
    buffer.only = (("context", "observation"), "task_id")
    assert ("context", "observation") in paths(buffer.sample())


def test_numpys_whole_numbers_are_sizes():
    sampler = make_sampler(make_dataset(), tasks_per_batch=np.int64(2), transitions_per_task=np.int32(6))
    assert sampler.sections == [6, 12, 12] and type(sampler.batch_size) is int
    for options in (
        {"tasks_per_batch": np.int64(0)},
        {"transitions_per_task": True},
        {"tasks_per_batch": 2.0},
    ):
        with pytest.raises(ValueError, match="must be at least 1"):
            make_sampler(make_dataset(), **options)


def test_seeds_decide():
    first, same, other = (make_buffer(make_dataset(), seed=seed).sample() for seed in (1, 1, 2))
    assert (first == same).all()
    assert not (first == other).all()


@pytest.mark.parametrize("prefetch", [None, 1])
def test_a_resumed_buffer_continues_the_draws(tmp_path, prefetch):
    dataset = make_dataset()
    options = {"buffer": {"prefetch": prefetch}}
    buffer = make_buffer(dataset, **options)
    for _ in range(3):
        buffer.sample()
    torch.save(buffer.state_dict(), tmp_path / "buffer.pt")
    expected = [buffer.sample() for _ in range(3)]
    resumed = make_buffer(dataset, seed=99, **options)
    resumed.sample()
    resumed.load_state_dict(torch.load(tmp_path / "buffer.pt", weights_only=False))
    assert all((resumed.sample() == batch).all() for batch in expected)


def test_the_state_holds_no_data_and_fits_only_its_dataset(tmp_path):
    state = make_buffer(make_dataset()).state_dict()
    assert state["_storage"] == {"_len": 240}
    with pytest.raises(ValueError, match="240 transitions, but this one has 120"):
        make_buffer(make_dataset(even(n_tasks=2))).load_state_dict(state)


def test_the_dataset_cannot_be_written_through_the_buffer():
    dataset = make_dataset()
    buffer = make_buffer(dataset)
    with pytest.raises(RuntimeError, match="doesn't allow writing"):
        buffer.extend(dataset.transitions[:2])
    before = dataset.transitions.clone()
    batch = buffer.sample()
    batch["transitions", "next", "reward"].zero_()
    assert (dataset.transitions == before).all()


def test_transforms_see_the_meta_batch():
    buffer = make_buffer(
        make_dataset(), buffer={"transform": lambda td: td.set("seen", td["context", "mask"].any(1))}
    )
    assert buffer.sample()["seen"].tolist() == [True, True]


def test_the_sampler_works_in_a_plain_buffer():
    dataset = make_dataset()
    sampler = make_sampler(dataset)
    plain = TensorDictReplayBuffer(
        storage=TensorStorage(dataset.transitions), sampler=sampler, batch_size=sampler.batch_size
    )
    batch = plain.sample()
    assert batch.batch_size == (2, 30)
    assert batch["mask"].shape == batch["index"].shape == (2, 30)
    assert torch.equal(batch["next", "reward"][..., 0].long(), batch["task_id"])


def test_contexts_outside_of_training_need_not_be_of_the_samplers_tasks():
    sampler = make_sampler(make_dataset(), task_ids=[0, 1])
    context = sampler.sample_context([3, 3], torch.Generator().manual_seed(0))
    assert context.batch_size == (2, 12)
    assert (context["next", "reward"] == 3).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_ids": [0, 9]}, r"has no data of the tasks \[9\]"),
        ({"task_ids": []}, "task_ids is empty"),
        ({"task_ids": [1, 1]}, "repeats a task"),
        ({"tasks_per_batch": 5}, "tasks_per_batch is 5, but there are only 4 tasks"),
        ({"tasks_per_batch": 0}, "tasks_per_batch must be at least 1"),
        ({"transitions_per_task": 0}, "transitions_per_task must be at least 1"),
        ({"num_contexts": 3}, "num_contexts must be 1 or 2"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(make_dataset(), **options)


def test_wrong_sizes_and_foreign_datasets_are_refused():
    dataset, other = make_dataset(), make_dataset(even(n_tasks=2))
    with pytest.raises(ValueError, match="made for another dataset"):
        other.replay_buffer(make_sampler(dataset))
    with (
        pytest.warns(UserWarning, match="conflicting"),
        pytest.raises(ValueError, match="this sampler returns 60 rows"),
    ):
        make_buffer(dataset).sample(64)
    plain = TensorDictReplayBuffer(
        storage=TensorStorage(other.transitions), sampler=make_sampler(dataset), batch_size=60
    )
    with pytest.raises(ValueError, match="storage has 120 rows, the sampler's dataset 240"):
        plain.sample()
