"""What is accepted into a dataset comes back from the disk identical, or is refused when it comes in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_data import even, make_manifest, make_transitions
from tensordict import NonTensorData, TensorDict, lazy_stack, tensorclass

from ctmrl_torchrl.data import DatasetError, TaskDataset
from ctmrl_torchrl.data.keys import DTYPES

TRAJECTORIES = even(n_tasks=2, snapshots=1, trajectories=2, length=3)
ROWS = 12


def build(**entries):
    transitions = make_transitions(TRAJECTORIES, 3)
    for key, value in entries.items():
        transitions.set(tuple(key.split("__")) if "__" in key else key, value)
    return TaskDataset.from_tensordict(transitions, make_manifest(TRAJECTORIES, 3))


def assert_comes_back(dataset: TaskDataset, folder) -> None:
    loaded = TaskDataset.load(dataset.save(folder, overwrite=True), verify="full")
    assert set(loaded.transitions.keys(True, True)) == set(dataset.transitions.keys(True, True))
    for key, value in dataset.transitions.items(True, True):
        found = loaded.transitions[key]
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        as_bytes = [each.contiguous().flatten().view(torch.uint8) for each in (found, value)]
        assert torch.equal(*as_bytes), key
    for key in loaded.transitions.keys(True):
        if isinstance(loaded.transitions[key], TensorDict):
            assert loaded.transitions[key].batch_size == dataset.transitions[key].batch_size
    assert loaded.manifest.replace(checksums={}, folder="transitions") == dataset.manifest


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
@pytest.mark.parametrize("shape", [(), (1,), (3, 2)], ids=str)
def test_every_dtype_and_shape_comes_back(tmp_path, dtype, shape):
    value = (torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(0)) * 9).abs().to(dtype)
    assert_comes_back(build(extra=value, next__extra=value, deep__er__extra=value), tmp_path / "set")


@tensorclass
class Info:
    velocity: torch.Tensor


def test_views_lazy_stacks_gradients_and_tensor_classes_come_back(tmp_path):
    whole = torch.arange(2.0 * ROWS).view(2, ROWS)
    dataset = build(
        view=whole.T[:, 1:],
        expanded=torch.ones(1, 4).expand(ROWS, 4),
        learned=torch.ones(ROWS, requires_grad=True),
        lazy=lazy_stack([TensorDict({"a": torch.ones(2)}) for _ in range(ROWS)]),
        info=Info(torch.ones(ROWS, 2), batch_size=[ROWS]),
    )
    assert_comes_back(dataset, tmp_path / "set")
    assert dataset.transitions["info", "velocity"].shape == (ROWS, 2)
    assert not dataset.transitions["learned"].requires_grad


def test_a_nested_entry_of_a_larger_batch_size_comes_back_as_it_was_taken(tmp_path):
    nested = TensorDict({"a": torch.ones(ROWS, 4, 2)}, [ROWS, 4])
    assert_comes_back(build(nested=nested), tmp_path / "set")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("TimeLimit.truncated", r"'TimeLimit.truncated' cannot be stored.*'TimeLimit_truncated'"),
        ("infos/qpos", "e.g. 'infos_qpos'"),
        ("1st_value", "e.g. '_1st_value'"),
        (("next", "success rate"), "next.success rate: .*'success_rate'"),
        ("", "rename it"),
        ("..", "e.g. '__'"),
        ("x" * 201, "cannot be stored"),
        ("Observation", "'observation' and 'Observation' would become the same file"),
        ("shape", "the name 'shape' is reserved"),
        ("mask", "e.g. to 'my_mask'"),
    ],
)
def test_names_that_cannot_be_files_are_refused(key, message):
    transitions = make_transitions(TRAJECTORIES, 3).set(key, torch.zeros(ROWS, 1))
    with pytest.raises(DatasetError, match=message):
        TaskDataset.from_tensordict(transitions, make_manifest(TRAJECTORIES, 3))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(ROWS, 0), r"extra has shape \[12, 0\], so it has no values; remove it"),
        (TensorDict({}, [ROWS]), "extra is empty"),
        (TensorDict({"deeper": TensorDict({}, [ROWS])}, [ROWS]), "extra.deeper is empty"),
        (NonTensorData("text", batch_size=[ROWS]), r"extra is a str"),
        (["a"] * ROWS, r"extra is a list"),
        (torch.zeros(ROWS, dtype=torch.complex64), "extra is torch.complex64, which a dataset cannot store"),
        (torch.zeros(ROWS, 2).to_sparse(), "extra is a torch.sparse_coo tensor"),
        (torch.zeros(ROWS, 2, device="meta"), "tensor on meta"),
        (torch.full((ROWS, 1), torch.nan, dtype=torch.float16), "extra is not finite"),
    ],
)
def test_values_that_would_be_lost_are_refused(value, message):
    with pytest.raises(DatasetError, match=message):
        build(extra=value)


@pytest.mark.parametrize("key", ["done", "terminated", "truncated"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_flags_of_another_dtype_are_refused_with_the_conversion(key, dtype):
    flags = make_transitions(TRAJECTORIES, 3)["next", key].to(dtype)
    message = rf"next\.{key} is {dtype} \[12, 1\], expected torch.bool \[n, 1\]; convert it with .bool\(\)"
    with pytest.raises(DatasetError, match=message):
        build(**{f"next__{key}": flags})


def test_ids_that_are_no_whole_numbers_are_refused():
    ids = make_transitions(TRAJECTORIES, 3)["task_id"]
    with pytest.raises(DatasetError, match=r"task_id is torch.float32 .*convert it with .long\(\)"):
        build(task_id=ids.float())
    with pytest.raises(DatasetError, match="task_id is torch.float32 .*not integers"):
        build(task_id=ids + 0.5)


@pytest.mark.parametrize(
    "ids", [[0.0, 1.5], [True], ["0"], torch.tensor([0.5]), torch.tensor([True]), [None], [10**30]]
)
def test_task_ids_are_never_rounded(ids):
    with pytest.raises(ValueError, match="task_ids must be integers, got"):
        build().task_index(ids)


def test_task_ids_of_numpy_are_whole_numbers_too():
    import numpy as np

    for ids in (np.array([1, 0]), [np.int64(1), np.int32(0)], range(1, -1, -1), torch.tensor([1, 0]).int()):
        assert build().task_index(ids).tolist() == [1, 0]
    assert build().task_index(1).tolist() == [1]


names = st.text(min_size=0, max_size=6)
values = st.sampled_from(
    [
        torch.zeros(ROWS, 1),
        torch.zeros(ROWS, 0),
        torch.ones(ROWS, 2).bfloat16(),
        torch.ones(ROWS).bool(),
        TensorDict({}, [ROWS]),
        TensorDict({"a": torch.ones(ROWS, 1).double()}, [ROWS]),
        "text",
    ]
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, values, max_size=3), st.booleans())
def test_any_entries_are_refused_or_come_back(tmp_path, entries, nested):
    transitions = make_transitions(TRAJECTORIES, 3)
    target = transitions["next"] if nested else transitions
    for key, value in entries.items():
        target.set(key, NonTensorData(value, batch_size=[ROWS]) if value == "text" else value)
    try:
        dataset = TaskDataset.from_tensordict(transitions, make_manifest(TRAJECTORIES, 3))
    except DatasetError:
        return
    assert_comes_back(dataset, tmp_path / "set")
