from __future__ import annotations

import pytest
import torch
from synthetic_data import even, make_manifest, make_transitions

from ctmrl_torchrl.data import DatasetError, TaskDataset

TRAJECTORIES = even(n_tasks=3, snapshots=2, trajectories=2, length=4)  # 48 rows, 16 of each task


def build(transitions):
    return TaskDataset.from_tensordict(transitions, make_manifest(TRAJECTORIES, 4))


def changed(key, row, value):
    transitions = make_transitions(TRAJECTORIES, 4)
    transitions[key][row] = value
    return transitions


def test_the_unchanged_transitions_pass():
    assert build(make_transitions(TRAJECTORIES, 4)).n_trajectories == 12


@pytest.mark.parametrize(
    ("key", "row", "value", "message"),
    [
        ("observation", 5, -1e30, r"observation exceeds 1e\+15.*row 5 \(task 0\)"),
        ("observation", 5, float("nan"), r"observation is not finite .*row 5 \(task 0\)"),
        (("next", "reward"), 20, float("inf"), r"next\.reward is not finite .*row 20 \(task 1\)"),
        (("next", "observation"), 47, float("nan"), r"next\.observation .*row 47 .*1 of 48 rows"),
        ("action", 3, 1.5, r"action is outside \[-1, 1\].*row 3"),
        ("task_id", slice(32, 48), 7, r"task_id is outside 0\.\.2: row 32"),
        ("task_id", slice(0, 16), -1, r"task_id is outside"),
        ("task_id", slice(0, 16), 2, r"not sorted \(task-major.*row 16"),
        ("task_id", slice(30, 32), 2, r"changes within a trajectory: row 30 \(task 2\)"),
        ("snapshot_id", slice(6, 8), 1, "changes within a trajectory: row 6"),
        ("snapshot_id", slice(0, 16), -1, "snapshot_id is negative"),
        ("snapshot_id", slice(8, 16), 5, "not among manifest.snapshots"),
        ("trajectory_id", slice(0, 4), 3, "trajectory_id of row 0 is 3"),
        (
            "trajectory_id",
            slice(4, 8),
            5,
            r"nor increases by one.*row 4 \(task 0\) has 5",
        ),
        (("next", "done"), 1, True, r"next\.done is not .*row 1"),
        (("next", "truncated"), 3, False, r"next\.done is not .*row 3"),
    ],
)
def test_wrong_values_are_named(key, row, value, message):
    with pytest.raises(DatasetError, match=message):
        build(changed(key, row, value))


def test_snapshots_must_be_sorted_within_a_task():
    transitions = make_transitions(TRAJECTORIES, 4)
    transitions["snapshot_id"][:16] = 1 - transitions["snapshot_id"][:16]
    with pytest.raises(DatasetError, match=r"not sorted by snapshot_id within a task .*row 8 \(task 0\)"):
        build(transitions)


@pytest.mark.parametrize(("row", "value"), [(1, True), (7, False)])
def test_episodes_end_with_their_trajectory(row, value):
    transitions = changed(("next", "done"), row, value)
    transitions["next", "truncated"][row] = value
    with pytest.raises(DatasetError, match=f"on the last row of each trajectory, and only there: row {row}"):
        build(transitions)


def test_trajectories_may_not_exceed_the_horizon():
    with pytest.raises(DatasetError, match="trajectory 0 has 4 transitions, more than the horizon 3"):
        TaskDataset.from_tensordict(make_transitions(TRAJECTORIES, 4), make_manifest(TRAJECTORIES, 3))


def test_rounding_of_actions_is_tolerated():
    assert build(changed("action", 0, 1 + 1e-6)).n_transitions == 48


@pytest.mark.parametrize("key", ["action", ("next", "terminated"), "snapshot_id"])
def test_missing_keys_are_named(key):
    transitions = make_transitions(TRAJECTORIES, 4).exclude(key)
    name = key if isinstance(key, str) else ".".join(key)
    with pytest.raises(DatasetError, match=f"lack the keys {name}; present: "):
        build(transitions)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "observation",
            torch.zeros(48, 2, dtype=torch.float64),
            r"observation is torch.float64 \[48, 2\], expected",
        ),
        (("next", "reward"), torch.zeros(48), r"next.reward is torch.float32 \[48\], expected .*\[n, 1\]"),
        (("next", "done"), torch.zeros(48, 1), "next.done is torch.float32"),
        ("task_id", torch.zeros(48, 1, dtype=torch.int64), r"task_id is torch.int64 \[48, 1\]"),
        ("trajectory_id", torch.zeros(48, dtype=torch.int32), "trajectory_id is torch.int32"),
        (("next", "observation"), torch.zeros(48, 3), "they must be equal"),
        (("next", "sparse_reward"), torch.zeros(48, 2), "next.sparse_reward"),
    ],
)
def test_wrong_shapes_and_dtypes_are_named(key, value, message):
    with pytest.raises(DatasetError, match=message):
        build(make_transitions(TRAJECTORIES, 4).set(key, value))


@pytest.mark.parametrize("shape", [(0,), (6, 8)])
def test_empty_or_batched_transitions_are_refused(shape):
    transitions = make_transitions(TRAJECTORIES, 4)
    transitions = transitions[:0] if shape == (0,) else transitions.view(shape)
    with pytest.raises(DatasetError, match=r"batch size \[n\] with n > 0"):
        build(transitions)
