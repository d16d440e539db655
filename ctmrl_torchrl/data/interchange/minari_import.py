"""Import from Minari: lossless for datasets exported by this library, and for other datasets, one per task."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctmrl_torchrl.data.dataset import TaskDataset
from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.interchange.assemble import assemble, finish, workspace
from ctmrl_torchrl.data.interchange.minari_common import (
    MANIFEST_ENTRY,
    TASK_ENTRY,
    local_names,
    read_manifest_entry,
    require_minari,
)
from ctmrl_torchrl.data.interchange.minari_episodes import OpenedMinari, damage_named, read_trajectories
from ctmrl_torchrl.data.interchange.minari_fit import check_fit
from ctmrl_torchrl.data.interchange.registry import IMPORTERS
from ctmrl_torchrl.data.manifest import DatasetManifest, library_versions
from ctmrl_torchrl.rules import is_whole
from ctmrl_torchrl.storage import expanded

Source = Any


@IMPORTERS.register("minari")
def from_minari(
    datasets: Mapping[int, Source | Sequence[Source]],
    *,
    env: str | None = None,
    parameters: Sequence[Sequence[float]] | Mapping[int, Sequence[float]] | None = None,
    parameter_names: Sequence[str] | None = None,
    test_ids: Sequence[int] | None = None,
    horizon: int | None = None,
    discount: float | None = None,
    preset: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
) -> TaskDataset:
    """Create a :class:`TaskDataset` from Minari datasets, one per task; no environment is needed.

    Datasets of :func:`~ctmrl_torchrl.data.interchange.to_minari` are restored exactly; explicit arguments
    override their manifest. In other datasets, observations (flattened; parts in the order of
    their names) and rewards become float32, and actions are scaled from the bounds of their space to [-1, 1].
    Terminations and truncations are kept separate; an episode that ends with neither counts as truncated.
    Infos are left out. All datasets must have the same parts of observations and the same action bounds.

    Args:
        datasets: by task id (integers from 0), the name of a local Minari dataset, the folder of its
            data, or a ``minari.MinariDataset``; or a list of these, from the least to the best trained,
            which become the snapshots 0, 1, ....
        env: name of the environment, for the manifest; None means ``"minari"``.
        parameters: task parameters by task id, for figures and oracles; None means the task id.
        parameter_names: names of the parameters.
        test_ids: tasks of the test split; the others are training tasks. None keeps the split of an export; in
            other datasets, all are then training tasks.
        horizon: maximum trajectory length; None means Minari's limit of the environment, or the longest episode.
        discount: gamma, for the manifest.
        preset: name of the task set; None means ``"minari"``.
        output: save the dataset here, memory-mapped; episodes are read one at a time. None keeps it in
            memory.
        overwrite: replace a dataset at ``output``.

    Raises:
        ImportError: if names or folders are given and Minari is not installed.
        DatasetError: with the Minari dataset, episode and step that cannot be used.

    Examples:
        >>> dataset = from_minari(  # doctest: +SKIP
        ...     {0: "mine/light-v0", 1: "mine/heavy-v0", 2: "mine/heavier-v0"}, test_ids=[2],
        ...     parameters=[[1.0], [2.0], [4.0]], parameter_names=["mass"], discount=0.99)
    """
    opened = _open_all(datasets)
    check_fit(opened)
    lengths = [each.lengths() for each in opened]
    for each, steps in zip(opened, lengths, strict=True):
        if 0 in steps or not steps:
            what = f"episode {steps.index(0)} has no steps" if steps else "it contains no episodes"
            raise DatasetError(f"{each.name}: {what}; remove it, e.g. with Minari's filter_episodes")
    episodes = [count for steps in lengths for count in steps]
    given = {"env": env, "preset": preset, "horizon": horizon, "discount": discount}
    own = _common_manifest(opened)
    said = parameters is not None or parameter_names is not None or test_ids is not None
    if own is None:
        longest = max(max(episodes), max(_limit(each.data) for each in opened))
        manifest = DatasetManifest(
            env="minari",
            preset="minari",
            horizon=longest,
            tasks=_tasks(opened, parameters, parameter_names, test_ids, {}),
            versions=library_versions(),
            recipe=_recipe(opened),
        )
    elif said:
        tasks = own.tasks | _tasks(opened, parameters, parameter_names, test_ids, own.tasks)
        manifest = own.replace(tasks=tasks)
    else:
        manifest = own
    manifest = manifest.replace(**{name: value for name, value in given.items() if value is not None})
    with workspace(output, overwrite) as room:
        transitions = assemble(read_trajectories(opened), sum(episodes), room)
        return finish(transitions, manifest, output=output, overwrite=overwrite)


def _open_all(datasets: Mapping[int, Source | Sequence[Source]]) -> list[OpenedMinari]:
    """Open every dataset, sorted by task, then by snapshot."""
    if not isinstance(datasets, Mapping) or not datasets:
        raise DatasetError(
            "give a dictionary {task id: Minari dataset}, with one or a list of Minari datasets per task"
        )
    by_task = {_whole(task, "task ids"): sources for task, sources in datasets.items()}
    opened = []
    for task in sorted(by_task):
        sources = by_task[task]
        sources = list(sources) if isinstance(sources, (list, tuple)) else [sources]
        if not sources:
            raise DatasetError(f"task {task} has no Minari dataset")
        for snapshot, source in enumerate(sources):
            name, data = _open(source)
            with damage_named(name):
                metadata = data.storage.metadata
            manifest = read_manifest_entry(metadata, name)
            if manifest is not None and metadata[TASK_ENTRY] != task:
                raise DatasetError(
                    f"{name} contains task {metadata[TASK_ENTRY]}, but was given as task {task}"
                )
            if manifest is None:
                _require_no_exports(metadata, name)
            opened.append(OpenedMinari(name, data, task, snapshot, manifest))
    return opened


def _whole(value: Any, what: str) -> int:
    """A whole number from 0, also NumPy's."""
    try:
        whole = -1 if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        whole = -1
    if whole < 0:
        raise DatasetError(f"{what} must be integers of at least 0, got {value!r}")
    return whole


def _require_no_exports(metadata: dict[str, Any], name: str) -> None:
    """Refuse what Minari combined from exports: it drops their tasks, snapshots and manifests."""
    for part in metadata.get("combined_datasets") or ():
        try:
            exported = MANIFEST_ENTRY in require_minari().load_dataset(part).storage.metadata
        except Exception:  # it may be gone; then nothing is known of it
            continue
        if exported:
            raise DatasetError(
                f"{name} combines exports of to_minari, such as {part}; Minari drops their tasks and snapshots "
                "when it combines datasets. Give the exported ones, one per task"
            )


def _common_manifest(opened: list[OpenedMinari]) -> DatasetManifest | None:
    """The manifest of an exported dataset; None for other data.

    Raises:
        DatasetError: if the data come from several exports, or from an export and another source.
    """
    own = opened[0].manifest
    other = next((each.name for each in opened if each.manifest != own), None)
    if other is not None:
        raise DatasetError(
            f"{opened[0].name} and {other} were not exported from one dataset by to_minari; import them one "
            "export at a time"
        )
    return own


def _open(source: Source) -> tuple[str, Any]:
    if hasattr(source, "iterate_episodes"):
        return str(source.spec.dataset_id), source
    if not isinstance(source, (str, Path)):
        raise DatasetError(f"expected a Minari dataset or its name, got {type(source).__name__} ({source!r})")
    minari = require_minari()
    try:
        if isinstance(source, Path) or expanded(source).joinpath("metadata.json").is_file():
            return str(source), minari.MinariDataset(expanded(source))
        return source, minari.load_dataset(source)
    except Exception as error:  # report the dataset for every exception of Minari
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(
            f"{source} cannot be loaded as a Minari dataset ({reason}); local datasets: {local_names(minari)}"
        ) from error


def _limit(data: Any) -> int:
    """The environment's step limit, if Minari knows it."""
    spec = getattr(data.spec, "env_spec", None)
    limit: Any = getattr(spec, "max_episode_steps", None)
    return limit if is_whole(limit) else 0


def _tasks(
    opened: list[OpenedMinari],
    parameters: Sequence[Sequence[float]] | Mapping[int, Sequence[float]] | None,
    names: Sequence[str] | None,
    test_ids: Sequence[int] | None,
    known: dict[str, Any],
) -> dict[str, Any]:
    ids = sorted({each.task for each in opened})
    for what, values in (("parameters", parameters), ("parameter_names", names), ("test_ids", test_ids)):
        if values is not None and (isinstance(values, (str, bytes)) or not isinstance(values, Iterable)):
            raise DatasetError(f"{what} must be a list, got {values!r}")
    count = max(ids[-1] + 1, len(known.get("parameters", ())))
    if parameters is None:
        rows = known.get("parameters", [[float(task)] for task in range(count)])
        names = known.get("parameter_names", ["task"]) if names is None else names
    else:
        numbered = parameters if isinstance(parameters, Mapping) else dict(enumerate(parameters))
        given = {_whole(task, "the task ids of parameters"): row for task, row in numbered.items()}
        lacking = [task for task in ids if task not in given]
        if lacking:
            raise DatasetError(
                f"parameters has no row for the tasks {lacking}; give one list of numbers per task"
            )
        wrong = next((task for task, row in given.items() if not hasattr(row, "__len__")), None)
        if wrong is not None:
            raise DatasetError(
                f"parameters of task {wrong} is {given[wrong]!r}; give one list of numbers per task id"
            )
        width = len(given[ids[0]])
        rows = [list(given.get(task, [0.0] * width)) for task in range(max(count, max(given) + 1))]
        names = [f"parameter_{i}" for i in range(width)] if names is None else names
    tested = [
        _whole(task, "test_ids") for task in (known.get("test_ids", ()) if test_ids is None else test_ids)
    ]
    unknown = sorted(set(tested) - set(ids))
    if unknown and not known:
        raise DatasetError(f"test_ids {unknown} have no Minari dataset; tasks: {ids}")
    others = [task for task in ids if task not in set(tested)]
    return {
        "parameters": rows,
        "parameter_names": [] if names is None else list(names),
        "train_ids": known.get("train_ids", others) if test_ids is None else others,
        "test_ids": tested,
    }


def _recipe(opened: list[OpenedMinari]) -> dict[str, Any]:
    """The origin of the data and the scaling of their actions."""
    space = opened[0].data.spec.action_space
    sources = [{"task": each.task, "snapshot": each.snapshot, "name": each.name} for each in opened]
    recipe = {"source": "from_minari", "datasets": sources}
    if hasattr(space, "low") and np.isfinite([space.low, space.high]).all():
        recipe |= {"action_low": space.low.reshape(-1), "action_high": space.high.reshape(-1)}
    return recipe
