"""``summary.json``: the result of one run as validated JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ctmrl_torchrl import storage
from ctmrl_torchrl.evaluation.paper import paper_reference
from ctmrl_torchrl.evaluation.statistics import bootstrap_interval
from ctmrl_torchrl.evaluation.summary_contract import (
    SummaryError,
    as_mapping,
    is_number,
    to_plain,
    validate_summary,
)
from ctmrl_torchrl.machine import processor_facts

__all__ = ["REFERENCES", "best_known", "build_summary", "load_summary", "package_versions", "write_summary"]

#: fields of a summary's ``reference`` with their names in figures and tables, from worst to best
REFERENCES = {
    "random": "random policy",
    "behaviour": "behavior",
    "oracle": "oracle",
    "optimum": "optimum",
}
_PACKAGES = ("torch", "torchrl", "tensordict", "numpy", "gymnasium", "mujoco", "ctmrl_torchrl")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a result depends on.

    Also includes ``processor`` and ``torch_cpu_capability``.

    Example:
        >>> "torch" in package_versions()
        True
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions | processor_facts()


def build_summary(
    *,
    env: str,
    method: str,
    policy_loss: str,
    preset: str,
    seed: int,
    updates: int,
    wall_time_s: float,
    dataset: Mapping[str, Any],
    returns: Mapping[str, Mapping[str, Mapping[str, Any]]],
    random: Mapping[str, float | None] | None = None,
    optimum: Mapping[str, float | None] | None = None,
    oracle: Mapping[str, float | None] | None = None,
    behaviour: Mapping[str, float | None] | None = None,
    versions: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
    with_paper: bool = True,
) -> dict[str, Any]:
    """Assemble the summary of a run.

    Tensors, NumPy values, tuples and paths become plain JSON values, task ids become strings. ``reference``
    holds ``random`` and ``optimum`` (and ``oracle`` and ``behaviour`` if given) of the test tasks as plain
    numbers (``None`` if unknown), the same for the training tasks under ``train``, and the paper's table under
    ``paper``.

    Args:
        env: environment family; also selects the paper's numbers.
        method: method name.
        policy_loss: ``"brac_sac"`` or ``"iql"``.
        preset: preset of the run.
        seed: seed of the run.
        updates: gradient updates made.
        wall_time_s: seconds that the run took.
        dataset: identification of the data (path, counts, ...).
        returns: ``{"test": {protocol: result}, "train": {...}}``, each result with ``per_task``
            (``{task_id: final return}``) and ``per_episode`` (list); ``mean`` and ``ci95`` (bootstrap over
            tasks) are computed if missing; other entries are kept.
        random: mean return of the uniformly random policy, ``{"test": ..., "train": ...}``.
        optimum: mean optimal return, in the same form.
        oracle: mean return of the same policy loss with privileged task information, in the same form.
        behaviour: mean return of the agent that collected the data, without its noise, in the same form.
        versions: defaults to :func:`package_versions`.
        extra: additional top-level fields, such as those of the method's parts.
        with_paper: false if the run's splits are not those of the environment, so that the paper's returns are no
            reference.

    Raises:
        SummaryError: if the result breaks the contract, see :func:`validate_summary`.

    Example:
        >>> result = {"per_task": {2: -4.5, 6: -4.7}, "per_episode": [-6.0, -4.6]}
        >>> summary = build_summary(
        ...     env="point_robot", method="ctmrl", policy_loss="iql", preset="quick", seed=0, updates=10,
        ...     wall_time_s=1.5, dataset={"transitions": 100}, returns={"test": {"np": result}},
        ...     random={"test": -20.36}, optimum={"test": -3.855},
        ...     extra={"codebook": {"perplexity": 7.1, "dead_codes": 0}},
        ... )
        >>> summary["returns"]["test"]["np"]["mean"]
        -4.6
        >>> summary["reference"]["optimum"], summary["reference"]["paper"]["test"]["ctmrl"]["mean"]
        (-3.855, -4.81)
    """
    random, optimum = random or {}, optimum or {}
    reference = {
        "random": random.get("test"),
        "optimum": optimum.get("test"),
        "train": {"random": random.get("train"), "optimum": optimum.get("train")},
        "paper": paper_reference(env) if with_paper else {},
    }
    for name, known in (("oracle", oracle), ("behaviour", behaviour)):
        if known:
            reference[name] = known.get("test")
            reference["train"][name] = known.get("train")
    summary = {
        "env": env,
        "method": method,
        "policy_loss": policy_loss,
        "preset": preset,
        "seed": seed,
        "updates": updates,
        "wall_time_s": wall_time_s,
        "versions": package_versions() if versions is None else versions,
        "dataset": dataset,
        "returns": returns,
        "reference": reference,
    }
    taken = sorted(set(extra or {}) & set(summary))
    if taken:
        raise SummaryError(f"extra must not replace the fields of the contract, but contains {taken}.")
    summary = to_plain({**summary, **(extra or {})}, "")
    for split, protocols in as_mapping(summary["returns"], "returns").items():
        for protocol, result in as_mapping(protocols, f"returns.{split}").items():
            _complete(result, f"returns.{split}.{protocol}")
    validate_summary(summary)
    return summary


def best_known(reference: Mapping[str, Any]) -> tuple[str, float | None]:
    """Name and value of the best return in a summary's ``reference``, as figures and tables show them.

    This is the optimum, else the oracle, else the behavior that collected the data.

    Example:
        >>> best_known({"optimum": None, "behaviour": -40.0})
        ('behavior', -40.0)
    """
    known = (name for name in ("optimum", "oracle", "behaviour") if reference.get(name) is not None)
    name = next(known, "optimum")
    return REFERENCES[name], reference.get(name)


def _complete(result: Any, field: str) -> None:
    per_task = as_mapping(as_mapping(result, field).get("per_task"), f"{field}.per_task")
    if not per_task:
        raise SummaryError(f"{field}.per_task is empty; expected the final return of every task.")
    values = list(per_task.values())
    if not all(is_number(value) for value in values):
        raise SummaryError(f"{field}.per_task must map task ids to numbers.")
    result.setdefault("mean", float(np.mean(values)))
    if "ci95" not in result:
        result["ci95"] = list(bootstrap_interval(values))


def write_summary(summary: Mapping[str, Any], path: str | Path) -> Path:
    """Validate a summary and write it atomically.

    Args:
        summary: see :func:`build_summary`.
        path: the file, by convention ``run_dir/summary.json``; its folder is created if missing.

    Raises:
        SummaryError: before anything is written, if the summary breaks the contract.
    """
    plain = to_plain(summary, "")
    validate_summary(plain)
    path = storage.expanded(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.atomic_write_text(path, json.dumps(plain, indent=2, allow_nan=False) + "\n")
    return path


def load_summary(path: str | Path) -> dict[str, Any]:
    """Read a ``summary.json`` and validate it.

    Raises:
        SummaryError: if the file is not JSON or breaks the contract.
    """
    try:
        summary = json.loads(storage.expanded(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SummaryError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:  # invalid JSON or UTF-8, excessive numbers or nesting
        raise SummaryError(f"{path} is not JSON: {error}.") from error
    if not isinstance(summary, dict):
        raise SummaryError(f"{path} must hold a JSON object, got a {type(summary).__name__}.")
    try:
        validate_summary(summary)
    except SummaryError as error:
        raise SummaryError(f"{path}: {error}") from error
    return summary
