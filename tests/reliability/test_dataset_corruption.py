"""Damaged datasets: an error that names the file, or data that are identical; never a raw traceback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from ctmrl_torchrl.data import DatasetError, DatasetManifest, TaskDataset

ROWS, LENGTH = 24, 3
FILES = (
    "manifest.json",
    "transitions/meta.json",
    "transitions/next/meta.json",
    "transitions/observation.memmap",
    "transitions/action.memmap",
    "transitions/task_id.memmap",
    "transitions/trajectory_id.memmap",
    "transitions/snapshot_id.memmap",
    "transitions/extra.memmap",
    "transitions/next/observation.memmap",
    "transitions/next/reward.memmap",
    "transitions/next/done.memmap",
    "transitions/next/terminated.memmap",
    "transitions/next/truncated.memmap",
)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> TaskDataset:
    generator = torch.Generator().manual_seed(0)
    row = torch.arange(ROWS)
    end = (row % LENGTH == LENGTH - 1)[:, None]
    following = {
        "observation": torch.randn(ROWS, 2, generator=generator),
        "reward": torch.randn(ROWS, 1, generator=generator),
        "done": end,
        "terminated": end & (row % 2 == 0)[:, None],
        "truncated": end & (row % 2 == 1)[:, None],
    }
    transitions = TensorDict(
        {
            "observation": torch.randn(ROWS, 2, generator=generator),
            "action": torch.rand(ROWS, 1, generator=generator),
            "next": following,
            "task_id": row // 12,
            "trajectory_id": row // LENGTH,
            "snapshot_id": row // 6 % 2,
            "extra": torch.randn(ROWS, 2, generator=generator).bfloat16(),
        },
        [ROWS],
    )
    tasks = {"parameters": [[0.5], [1.5]], "parameter_names": ["goal"], "train_ids": [0], "test_ids": [1]}
    manifest = DatasetManifest(
        env="toy",
        preset="mine",
        horizon=LENGTH,
        tasks=tasks,
        snapshots=[{"id": i, "step": i, "mean_return": -1.0, "task_returns": [1.0, None]} for i in (0, 1)],
        seeds={"collection": 0},
        recipe={"name": "mine", "steps": [1, 2]},
        oracle={"train": 1.0, "test": None, "task_returns": [1.0, 2.0], "episodes": 3},
        discount=0.9,
    )
    dataset = TaskDataset.from_tensordict(transitions, manifest)
    return TaskDataset.load(dataset.save(tmp_path_factory.mktemp("original") / "set"))


def same(loaded: TaskDataset, original: TaskDataset) -> bool:
    keys = set(original.transitions.keys(True, True))
    tensors = set(loaded.transitions.keys(True, True)) == keys and all(
        loaded.transitions[key].dtype == original.transitions[key].dtype
        and torch.equal(loaded.transitions[key], original.transitions[key])
        for key in keys
    )
    manifests = [each.manifest.replace(checksums={}, folder="transitions") for each in (loaded, original)]
    return tensors and manifests[0] == manifests[1]


@st.composite
def flips(draw):
    file, place, bit = draw(st.sampled_from(FILES)), draw(st.integers(0, 10**6)), draw(st.integers(0, 7))

    def apply(folder: Path) -> None:
        content = bytearray((folder / file).read_bytes())
        content[place % len(content)] ^= 1 << bit
        (folder / file).write_bytes(content)

    return f"flip bit {bit} at {place} in {file}", apply


@st.composite
def noise(draw):
    file, content = draw(st.sampled_from(FILES)), draw(st.binary(max_size=40))

    def apply(folder: Path) -> None:
        old = (folder / file).read_bytes()
        (folder / file).write_bytes(content + old[len(content) :])

    return f"noise at the beginning of {file}", apply


@st.composite
def sizes(draw):
    file, size = draw(st.sampled_from(FILES)), draw(st.integers(0, 5000))
    return f"{file} cut or grown to {size}", lambda folder: os.truncate(folder / file, size)


@st.composite
def swaps(draw):
    first, second = draw(st.sampled_from(FILES)), draw(st.sampled_from(FILES))

    def apply(folder: Path) -> None:
        os.replace(folder / first, folder / "kept")
        if first != second:
            os.replace(folder / second, folder / first)
        os.replace(folder / "kept", folder / second)

    return f"{first} and {second} swapped", apply


@st.composite
def replacements(draw):
    file, kind = draw(st.sampled_from(FILES)), draw(st.sampled_from(["gone", "folder", "dangling", "circle"]))

    def apply(folder: Path) -> None:
        (folder / file).unlink()
        if kind == "folder":
            (folder / file).mkdir()
        elif kind != "gone":
            target = folder / "nowhere" if kind == "dangling" else folder / file
            (folder / file).symlink_to(target)

    return f"{file}: {kind}", apply


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=5,
)
awkward = st.sampled_from(
    [10**30, -1, 0, 1, 2**63, 10**400, 1e308, "float64", "qint8", "bool", "../../x", "observation", [], {},
     [[2], "int32"], [[10**20], "float32"], [[-2], "float32"], [[0], "float32"], [[2.0], "float32"]]
)  # fmt: skip


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Every place in a JSON value, as the keys that lead there."""
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [found for key, entry in entries for found in ((*path, key), *places(entry, (*path, key)))]


@st.composite
def edits(draw):
    where, value = draw(st.integers(0, 10**6)), draw(json_values | awkward)
    kind = draw(st.sampled_from(["set", "set", "delete", "add"]))

    def apply(folder: Path) -> None:
        fields = json.loads((folder / "manifest.json").read_text())
        found = places(fields)
        *parents, last = found[where % len(found)]
        node = fields
        for key in parents:
            node = node[key]
        if kind == "set":
            node[last] = value
        elif kind == "delete":
            del node[last]
        elif isinstance(node, dict):
            node["added.key"] = value
        else:
            node.append(value)
        (folder / "manifest.json").write_text(json.dumps(fields))

    return f"manifest: {kind} number {where} {str(value)[:40]!r}", apply


texts = st.sampled_from(
    [
        "",
        "null",
        "[]",
        "{",
        deep(10**5),
        '{"a":' * 10**5,
        "9" * 5000,
        "NaN",
        '{"horizon": ' + "9" * 5000 + "}",
    ]
).map(
    lambda text: (
        f"manifest: the text {text[:20]!r}",
        lambda folder: (folder / "manifest.json").write_text(text) and None,
    )
)

corruptions = flips() | noise() | sizes() | swaps() | replacements() | edits() | edits() | texts


def damage_and_load(folder: Path, original: TaskDataset, applied: list) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original.path, folder)
    for _, apply in applied:
        with contextlib.suppress(Exception):  # an earlier damage may have taken the file
            apply(folder)
    outcome = "identical"
    try:
        loaded = TaskDataset.load(folder, verify="full")
    except DatasetError as error:
        assert str(folder) in str(error), "the error names the file"
        outcome = "refused"
    else:
        assert same(loaded, original), "changed data were accepted"
    try:
        loaded = TaskDataset.load(folder)
        loaded.rows.draw_rows(torch.zeros(1, dtype=torch.int64), 2, None)
        loaded.statistics()
        repr(loaded)
    except DatasetError:
        pass
    try:
        original.save(folder, overwrite=True)
    except DatasetError as error:
        assert str(folder) in str(error)
    else:
        assert same(TaskDataset.load(folder, verify="full"), original)
    return outcome


@pytest.mark.parametrize("examples", [10, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_datasets_are_refused_or_identical(tmp_path_factory, original, examples, capsys):
    counts, folder = {"refused": 0, "identical": 0}, tmp_path_factory.mktemp("damaged") / "set"

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(corruptions, min_size=1, max_size=2))
    def check(applied):
        counts[damage_and_load(folder, original, applied)] += 1

    check()
    with capsys.disabled():
        if examples > 100:
            print(f"\ndamaged datasets: {counts}; changed data accepted: 0; raw tracebacks: 0")  # noqa: T201
    assert counts["refused"] > examples // 3
