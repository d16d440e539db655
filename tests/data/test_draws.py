"""Contexts against plain loops over the dataset's trajectories."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_data import even, make_dataset

from ctmrl_torchrl.data import ContextDraw, TaskDataset, draw_context

HORIZON = 4


def check_context(
    dataset: TaskDataset, task: int, rows: list[int], mask: list[bool], draw: ContextDraw
) -> None:
    """What a context must be, looked up row by row."""
    task_of, trajectory_of, snapshot_of = (
        dataset.transitions[key].tolist() for key in ("task_id", "trajectory_id", "snapshot_id")
    )
    assert all(task_of[row] == task for row in rows)  # padding included
    whole = {}
    for row, trajectory in enumerate(trajectory_of):
        whole.setdefault(trajectory, []).append(row)
    least, most = draw.trajectories
    used, snapshots = 0, set()
    for slot in range(most):
        span = slice(slot * HORIZON, (slot + 1) * HORIZON)
        kept = [row for row, keep in zip(rows[span], mask[span], strict=True) if keep]
        if not kept:
            continue
        assert slot == used, "unused slots come last"
        used += 1
        assert kept == whole[trajectory_of[kept[0]]], "a whole trajectory, in time order"
        assert mask[span] == [True] * len(kept) + [False] * (HORIZON - len(kept))
        snapshots.add(snapshot_of[kept[0]])
    assert least <= used <= most
    if draw.behaviours is not None:
        assert len(snapshots) <= draw.behaviours[1]


trajectory_lists = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(1, HORIZON)), min_size=1, max_size=25
).map(sorted)
bounds = st.tuples(st.integers(1, 5), st.integers(0, 3)).map(lambda b: (b[0], b[0] + b[1]))
draws = st.builds(
    ContextDraw,
    trajectories=bounds,
    behaviours=st.none() | bounds,
    near_random_fraction=st.sampled_from([0.0, 0.5, 1.0]),
    near_random_snapshots=st.integers(1, 6),
)


@settings(max_examples=60, deadline=None)
@given(trajectory_lists, draws, st.integers(0, 2**32))
def test_contexts_of_uneven_datasets_hold_whole_trajectories(trajectories, draw, seed):
    dataset = make_dataset(trajectories, HORIZON)
    tasks = torch.arange(dataset.task_ids.numel()).repeat(3)
    rows, mask = dataset.rows.draw_context(tasks, draw, torch.Generator().manual_seed(seed))
    assert rows.shape == mask.shape == (len(tasks), draw.context_length(HORIZON))
    for i, task in enumerate(dataset.task_ids[tasks].tolist()):
        check_context(dataset, task, rows[i].tolist(), mask[i].tolist(), draw)


@settings(max_examples=25, deadline=None)
@given(trajectory_lists, st.integers(1, 9), st.integers(0, 2**32))
def test_single_transitions_are_of_the_right_task(trajectories, length, seed):
    dataset = make_dataset(trajectories, HORIZON)
    tasks = torch.arange(dataset.task_ids.numel())
    draw = ContextDraw(kind="transitions", length=length)
    rows, mask = dataset.rows.draw_context(tasks, draw, torch.Generator().manual_seed(seed))
    assert rows.shape == (len(tasks), length)
    assert mask.all()
    assert (dataset.transitions["task_id"][rows] == dataset.task_ids[:, None]).all()


def snapshots_of(dataset: TaskDataset, draw: ContextDraw, contexts: int = 3000) -> torch.Tensor:
    """Snapshot of each trajectory of many contexts of task 0, ``[contexts, most]``; -1 where unused."""
    tasks = torch.zeros(contexts, dtype=torch.int64)
    rows, mask = dataset.rows.draw_context(tasks, draw, torch.Generator().manual_seed(0))
    snapshots = dataset.transitions["snapshot_id"][rows].masked_fill(~mask, -1)
    return snapshots.view(contexts, draw.trajectories[1], -1)[..., 0]


@pytest.mark.parametrize(("fraction", "near"), [(0.0, 1), (0.5, 1), (0.5, 3), (1.0, 2)])
def test_near_random_first_behaviours_are_as_frequent_as_asked(fraction, near):
    dataset = make_dataset(even(n_tasks=1, snapshots=10, trajectories=3))
    draw = ContextDraw(
        trajectories=(1, 1), behaviours=(1, 1), near_random_fraction=fraction, near_random_snapshots=near
    )
    snapshots = snapshots_of(dataset, draw)[:, 0]
    expected = fraction + (1 - fraction) * near / 10
    assert (snapshots < near).float().mean().item() == pytest.approx(expected, abs=0.03)
    counts = torch.bincount(snapshots, minlength=10) / len(snapshots)
    torch.testing.assert_close(counts[:near], torch.full((near,), expected / near), atol=0.03, rtol=0)
    torch.testing.assert_close(
        counts[near:], torch.full((10 - near,), (1 - expected) / (10 - near)), atol=0.03, rtol=0
    )


def test_further_behaviours_are_uniform_among_the_others():
    dataset = make_dataset(even(n_tasks=1, snapshots=5, trajectories=2))
    draw = ContextDraw(trajectories=(40, 40), behaviours=(2, 2), near_random_fraction=1.0)
    snapshots = snapshots_of(dataset, draw, 1500)
    seen = torch.stack([(snapshots == s).any(1) for s in range(5)], 1).float()
    assert seen[:, 0].mean() > 0.99  # the near-random one, always among the two
    assert (seen.sum(1) == 2).float().mean() > 0.99  # two different ones, and both appear in 40 trajectories
    torch.testing.assert_close(seen[:, 1:].mean(0), torch.full((4,), 0.25), atol=0.05, rtol=0)
    share = (snapshots == 0).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.02)  # each trajectory from either one


def test_numbers_of_trajectories_and_behaviours_are_uniform():
    dataset = make_dataset(even(n_tasks=1, snapshots=6, trajectories=4))
    snapshots = snapshots_of(dataset, ContextDraw(trajectories=(2, 5)))
    used = (snapshots >= 0).sum(1)
    torch.testing.assert_close(
        torch.bincount(used)[2:] / len(used), torch.full((4,), 0.25), atol=0.03, rtol=0
    )
    many = snapshots_of(dataset, ContextDraw(trajectories=(60, 60), behaviours=(1, 3)), 600)
    mixed = torch.stack([(many == s).any(1) for s in range(6)]).sum(0)
    torch.testing.assert_close(torch.bincount(mixed)[1:] / 600, torch.full((3,), 1 / 3), atol=0.07, rtol=0)


def test_trajectories_are_uniform_within_a_behaviour_and_over_the_task():
    # 1 trajectory of snapshot 0 and 4 of snapshot 1
    dataset = make_dataset([(0, 0, 4)] + [(0, 1, 4)] * 4)
    tasks = torch.zeros(4000, dtype=torch.int64)

    def shares(draw):
        rows, _ = dataset.rows.draw_context(tasks, draw, torch.Generator().manual_seed(1))
        return torch.bincount(dataset.transitions["trajectory_id"][rows[:, 0]], minlength=5) / 4000

    one = dict(trajectories=(1, 1), near_random_fraction=0.0)
    by_behaviour = shares(ContextDraw(behaviours=(1, 1), **one))
    torch.testing.assert_close(by_behaviour, torch.tensor([0.5] + [0.125] * 4), atol=0.03, rtol=0)
    over_the_task = shares(ContextDraw(behaviours=None, **one))
    torch.testing.assert_close(over_the_task, torch.full((5,), 0.2), atol=0.03, rtol=0)


def test_contexts_outside_of_training():
    dataset = make_dataset()
    draw = ContextDraw(trajectories=(1, 3))
    context = draw_context(dataset, [2, 0, 2], draw, torch.Generator().manual_seed(0))
    assert context.batch_size == (3, 12)
    assert set(context.keys()) == {"observation", "action", "next", "mask"}
    assert (context["next", "reward"][..., 0] == torch.tensor([[2.0], [0.0], [2.0]])).all()
    assert (context == draw_context(dataset, [2, 0, 2], draw, torch.Generator().manual_seed(0))).all()
    assert not (context == draw_context(dataset, [2, 0, 2], draw, torch.Generator().manual_seed(1))).all()
    with pytest.raises(ValueError, match=r"has no data of the tasks \[9\]"):
        draw_context(dataset, [9], draw)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "bags"}, "kind must be"),
        ({"length": 0}, "length must be an integer of at least 1"),
        ({"length": 2.5}, "length must be an integer"),
        ({"near_random_snapshots": True}, "near_random_snapshots must be an integer"),
        ({"near_random_fraction": float("nan")}, "near_random_fraction must be"),
        ({"trajectories": (0, 3)}, "trajectories must be"),
        ({"trajectories": (3, 2)}, "trajectories must be"),
        ({"trajectories": None}, "trajectories must be"),
        ({"trajectories": (1, 2.5)}, "trajectories must be"),
        ({"trajectories": (1, float("inf"))}, "trajectories must be"),
        ({"trajectories": (True, 2)}, "trajectories must be"),
        ({"behaviours": (0, 1)}, "behaviours must be"),
        ({"behaviours": 3}, "behaviours must be"),
        ({"near_random_fraction": 1.1}, "near_random_fraction must be"),
        ({"near_random_snapshots": 0}, "near_random_snapshots must be"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=f"ContextDraw.{message}"):
        ContextDraw(**fields)


def test_bounds_may_be_lists_as_in_a_configuration():
    assert ContextDraw(trajectories=[1, 2], behaviours=[1, 1]) == ContextDraw(
        trajectories=(1, 2), behaviours=(1, 1)
    )


def test_different_draws_share_no_trajectory():
    table = make_dataset(even(n_tasks=3, snapshots=2, trajectories=3, length=4)).rows
    draw = ContextDraw(trajectories=(1, 2), behaviours=None, different=True)
    task = torch.tensor([0, 2, 2])
    generator, seen = torch.Generator().manual_seed(0), [set(), set(), set()]
    for _ in range(100):
        contexts = table.draw_contexts(task, draw, 2, generator)
        for row in range(3):
            used = [(rows[row][mask[row]] // 4).unique().tolist() for rows, mask in contexts]
            assert not set(used[0]) & set(used[1])
            assert all(each // 6 == task[row] for part in used for each in part)
            seen[row] |= {*used[0], *used[1]}
    assert [len(each) for each in seen] == [6, 6, 6]  # every trajectory has its turn


def test_different_draws_need_enough_trajectories_and_the_right_kind():
    table = make_dataset(even(n_tasks=2, snapshots=1, trajectories=3, length=4)).rows
    draw = ContextDraw(trajectories=(2, 2), behaviours=None, different=True)
    with pytest.raises(ValueError, match="needs 4 different trajectories per task, but a task has only 3"):
        table.draw_contexts(torch.tensor([0]), draw, 2, None)
    for fields in ({"behaviours": (1, 2)}, {"kind": "transitions", "behaviours": None}):
        with pytest.raises(ValueError, match="different needs kind='trajectories' and behaviours=None"):
            ContextDraw(different=True, **fields)
