from __future__ import annotations

import json

import pytest
import torch
from synthetic_data import even, make_dataset, make_manifest, make_transitions

from ctmrl_torchrl.data import DatasetError, DatasetManifest, TaskDataset
from ctmrl_torchrl.data.keys import describe_keys, parse_dtype
from ctmrl_torchrl.data.manifest import folder_checksums, library_versions


def tasks_with(parameters):
    return {"parameters": parameters, "parameter_names": ["a"], "train_ids": [0], "test_ids": [1]}


twice_named = tasks_with([[0.0, 1.0], [0.5, 1.0]]) | {"parameter_names": ["a", "a"]}


def test_json_round_trip_keeps_every_field():
    manifest = make_manifest(
        even(), 4, seeds={"data": 3}, versions=library_versions(), recipe={"steps": [1, 2]}
    )
    again = DatasetManifest.from_json(manifest.to_json())
    assert again == manifest
    assert again.train_ids == (0, 1, 3)
    assert again.test_ids == (2,)
    assert again.n_tasks == 4


def test_versions_name_the_packages_that_shape_the_data():
    assert {"python", "torch", "torchrl", "tensordict"} <= set(library_versions())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format_version is 99"),
        (
            {"tasks": tasks_with([[0.0, 1.0], [0.5]])},
            "parameters of task 1 is .*the same length as for task 0",
        ),
        ({"tasks": tasks_with([[0.0], ["x"]])}, "parameters of task 1 is .*finite numbers"),
        ({"horizon": "20"}, "horizon must be int"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"env": None}, "env must be str"),
        ({"recipe": []}, "recipe must be dict"),
        ({"tasks": {"parameters": [[0.0]]}}, "tasks lacks parameter_names, train_ids, test_ids"),
        ({"snapshots": [{"step": 1}]}, 'integer "id"'),
        ({"snapshots": [{"id": 1}, {"id": 1}]}, 'unique integer "id"'),
        ({"surprise": 1}, "unknown fields surprise"),
        ({"snapshots": [{"id": True}]}, 'integer "id"'),
        (
            {"snapshots": [{"id": 0, "step": "late"}]},
            r"snapshots\[0\].step is 'late', expected an integer",
        ),
        ({"snapshots": [{"id": 0, "task_returns": ["x"]}]}, r"snapshots\[0\].task_returns"),
        ({"oracle": {"train": "good"}}, "oracle.train is 'good', expected a number or null"),
        ({"oracle": {"task_ids": [1.5]}}, r"oracle.task_ids is \[1.5\], expected a list of integers"),
        ({"discount": 1.5}, "discount must lie between 0 and 1"),
        ({"discount": "0.9"}, "discount must be a number"),
        ({"horizon": 2**40}, "horizon must be at least 1 and at most"),
        ({"folder": "../elsewhere"}, "folder is '../elsewhere'"),
        ({"seeds": {"a": 2**64}}, "seeds.a exceeds"),
        ({"counts": {"transitions": 1.5}}, "counts.transitions is 1.5"),
        ({"keys": {"a": [[2], 3]}}, r"keys.a is \[\[2\], 3\]"),
        ({"checksums": {"a": 1}}, "checksums.a is 1"),
        ({"env": " "}, "env is empty"),
        ({"recipe": {"name": ["small"]}}, r"recipe.name is \['small'\], expected a string or null"),
        ({"seeds": {"collection": 0.5}}, "seeds.collection is 0.5, expected an integer or null"),
        ({"versions": {"torch": 2.13}}, "versions.torch is 2.13, expected a string"),
        ({"tasks": twice_named}, r"tasks.parameter_names is \['a', 'a'\], which contains a name twice"),
    ],
)
def test_wrong_fields_are_named(change, message):
    fields = json.loads(make_manifest(even(), 4).to_json()) | change
    with pytest.raises(DatasetError, match=f"^here/manifest.json: .*{message}"):
        DatasetManifest.from_json(json.dumps(fields), source="here/manifest.json")


@pytest.mark.parametrize(
    ("train_ids", "message"),
    [([0, 9], r"\[9\] are outside 0\.\.3"), ([0, 2], "overlap"), (3, "must be a list")],
)
def test_wrong_splits_are_named(train_ids, message):
    fields = json.loads(make_manifest(even(), 4).to_json())
    fields["tasks"]["train_ids"] = train_ids
    with pytest.raises(DatasetError, match=message):
        DatasetManifest.from_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[]", "expected a JSON object"), ("{}", "lacks the fields env, preset")],
)
def test_damaged_text_names_the_file(text, message):
    with pytest.raises(DatasetError, match=f"some/manifest.json.*{message}"):
        DatasetManifest.from_json(text, source="some/manifest.json")


def test_numbers_that_json_cannot_hold_are_refused():
    with pytest.raises(DatasetError, match="which JSON cannot store"):
        make_manifest(even(), 4, recipe={"mean": float("nan")}).to_json()


def test_keys_are_described_by_shape_and_dtype():
    described = describe_keys(make_transitions(even(), 4))
    assert described["next.reward"] == [[1], "float32"]
    assert described["next.done"] == [[1], "bool"]
    assert described["task_id"] == [[], "int64"]


def test_dtype_names():
    assert parse_dtype("float32") is torch.float32
    for name in ("float33", "nn", 3):
        with pytest.raises(DatasetError, match="not a dtype that a dataset can store"):
            parse_dtype(name)


def test_checksums_are_of_the_content(tmp_path):
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "a").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert folder_checksums(tmp_path) == {"next/a": digest}


def test_numpy_numbers_become_plain_and_come_back_equal():
    import numpy as np

    manifest = make_manifest(
        even(),
        4,
        seeds={"data": np.int64(3)},
        recipe={"means": np.ones(2), "shape": (1, 2)},
        discount=np.float64(0.9),
    )
    assert manifest.seeds == {"data": 3} and type(manifest.seeds["data"]) is int
    assert manifest.recipe == {"means": [1.0, 1.0], "shape": [1, 2]}
    assert DatasetManifest.from_json(manifest.to_json()) == manifest
    numpy = make_manifest(even(), 4).replace(horizon=np.int64(20), discount=np.float32(0.5))
    assert (type(numpy.horizon), type(numpy.discount)) == (int, float)
    with pytest.raises(DatasetError, match="horizon must be int, got bool"):
        numpy.replace(horizon=np.True_)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"a": {1: "x"}}, r"recipe.a has the key 1 \(int\); keys must be strings"),
        ({"a": [object]}, r"recipe.a\[0\] is type"),
        ({"a": float("inf")}, "recipe.a is inf, which JSON cannot store"),
        ({"a": "\ud800"}, "recipe.a is .* not valid Unicode"),
    ],
)
def test_what_json_would_change_is_refused_at_once(recipe, message):
    with pytest.raises(DatasetError, match=message):
        make_manifest(even(), 4, recipe=recipe)


def test_nesting_without_end_is_refused():
    circle: dict = {}
    circle["again"] = circle
    with pytest.raises(DatasetError, match="nested more than 50 levels deep"):
        make_manifest(even(), 4, recipe=circle)
    with pytest.raises(DatasetError, match="nested too deeply"):
        DatasetManifest.from_json("[" * 100000)


def test_versions_name_the_processor():
    versions = library_versions()
    assert (
        versions["processor"] and versions["torch_cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    )


def test_the_digest_is_of_every_field_but_itself():
    manifest = make_manifest(even(), 4)
    assert manifest.replace(checksums={"manifest.json": "x"}).digest() == manifest.digest()
    assert manifest.replace(checksums={"action.memmap": "x"}).digest() != manifest.digest()
    assert manifest.replace(discount=0.5).digest() != manifest.digest()
    assert manifest.replace(seeds={"data": 1}).digest() != manifest.digest()


def test_the_digest_of_the_content_is_of_what_training_reads():
    manifest = make_manifest(even(), 4).replace(checksums={"action.memmap": "x", "meta.json": "y"})
    tasks = manifest.tasks
    parameters = [list(row) for row in tasks["parameters"]]
    rounded = [[value - 1e-15 for value in row] for row in parameters]
    moved = [[value + 0.01 for value in row] for row in parameters]
    one = manifest.content_digest()
    for how in (
        {"versions": {"processor": "other"}},
        {"seeds": {"data": 1}},
        {"checksums": {"action.memmap": "x", "meta.json": "z", "manifest.json": "w"}},
        {"folder": "transitions-2"},
        {"tasks": tasks | {"parameters": rounded}},
    ):
        assert manifest.replace(**how).content_digest() == one, how
    for what in (
        {"checksums": {"action.memmap": "other"}},
        {"env": "other"},
        {"horizon": manifest.horizon + 1},
        {"discount": 0.5},
        {"tasks": tasks | {"parameters": moved}},
        {"tasks": tasks | {"train_ids": tasks["test_ids"], "test_ids": tasks["train_ids"]}},
    ):
        assert manifest.replace(**what).content_digest() != one, what


def test_only_saved_data_have_a_digest_of_their_content(tmp_path):
    dataset = make_dataset()
    with pytest.raises(DatasetError, match=r"is not saved; save it first and load it: TaskDataset\.load"):
        dataset.manifest.content_digest()
    loaded = TaskDataset.load(dataset.save(tmp_path / "data"))
    loaded.transitions["action"].zero_()
    other = TaskDataset.load(loaded.save(tmp_path / "other"))
    digests = {each.manifest.content_digest() for each in (loaded, other)}
    assert len(digests) == 2
