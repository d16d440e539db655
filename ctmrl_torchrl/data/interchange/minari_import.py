"""Import from Minari: lossless for datasets exported by this library, and for other datasets, one per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctmrl_torchrl.data.dataset import TaskDataset
from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.interchange.assemble import assemble, finish, workspace
from ctmrl_torchrl.data.interchange.minari_common import TASK_ENTRY, read_manifest_entry, require_minari
from ctmrl_torchrl.data.interchange.minari_episodes import OpenedMinari, read_trajectories
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

    Args:
        datasets: by task id (integers from 0), the name of a local Minari dataset, the folder of its
            data, or a ``minari.MinariDataset``; or a list of these, from the least to the best trained,
            which become the snapshots 0, 1, ....
        env: name of the environment, for the manifest; None means ``"minari"``.
        parameters: task parameters by task id, for figures and oracles; None means the task id.
        parameter_names: names of the parameters.
        test_ids: tasks of the test split; the others are training tasks.
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
    wrong = next((task for task in datasets if not is_whole(task) or task < 0), None)
    if wrong is not None:
        raise DatasetError(f"task ids must be integers of at least 0, got {wrong!r}")
    opened = []
    for task in sorted(datasets):
        sources = datasets[task]
        sources = list(sources) if isinstance(sources, (list, tuple)) else [sources]
        if not sources:
            raise DatasetError(f"task {task} has no Minari dataset")
        for snapshot, source in enumerate(sources):
            name, data = _open(source)
            manifest = read_manifest_entry(data.storage.metadata, name)
            if manifest is not None and data.storage.metadata[TASK_ENTRY] != task:
                raise DatasetError(
                    f"{name} contains task {data.storage.metadata[TASK_ENTRY]}, but was given as task {task}"
                )
            opened.append(OpenedMinari(name, data, task, snapshot, manifest))
    return opened


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
        known = ", ".join(sorted(minari.list_local_datasets())) or "none"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(
            f"{source} cannot be loaded as a Minari dataset ({reason}); local datasets: {known}"
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
    count = max(ids[-1] + 1, len(known.get("parameters", ())))
    if parameters is None:
        rows = known.get("parameters", [[float(task)] for task in range(count)])
        names = known.get("parameter_names", ["task"]) if names is None else names
    else:
        given = parameters if isinstance(parameters, Mapping) else dict(enumerate(parameters))
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
    tested: Sequence[int] = known.get("test_ids", ()) if test_ids is None else test_ids
    unknown = sorted(set(tested) - set(ids))
    if unknown and not known:
        raise DatasetError(f"test_ids {unknown} have no Minari dataset; tasks: {ids}")
    return {
        "parameters": rows,
        "parameter_names": list(names or ()),
        "train_ids": [task for task in ids if task not in set(tested)],
        "test_ids": list(tested),
    }


def _recipe(opened: list[OpenedMinari]) -> dict[str, Any]:
    """The origin of the data and the scaling of their actions."""
    space = opened[0].data.spec.action_space
    sources = [{"task": each.task, "snapshot": each.snapshot, "name": each.name} for each in opened]
    recipe = {"source": "from_minari", "datasets": sources}
    if hasattr(space, "low") and np.isfinite([space.low, space.high]).all():
        recipe |= {"action_low": space.low.reshape(-1), "action_high": space.high.reshape(-1)}
    return recipe
