"""Checks that a checkpoint's state fits the run that resumes it: every key, shape and type."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

#: entries of the optimizer state that have the shape of their parameter
_SHAPED = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


class MisfitError(ValueError):
    """Names the first entry of a state that does not fit the run."""


def require_fit(found: dict[str, Any], own: dict[str, Any], parameters: list[list[Tensor]]) -> None:
    """Compare a trainer's state from a file with the state of the trainer that will load it.

    Args:
        found: the state from the file. own: ``trainer.state_dict()`` of the newly built trainer.
        parameters: the optimizer's parameters, by group.

    Raises:
        MisfitError: naming the first entry that is missing, unknown, or of another type, shape or dtype.
    """
    _same_keys(found, own, "")
    _alike(found["loss"], own["loss"], "loss")
    _check_optimizer(found["optimizer"], own["optimizer"], parameters)
    _alike(found["sampling"], own["sampling"], "sampling")
    _alike(found["torch_rng"], own["torch_rng"], "torch_rng")
    _alike(found.get("targets"), own.get("targets"), "targets")
    _check_parts(found["parts"], own["parts"])
    _check_recent(found["recent"])
    for name in ("update", "seconds"):
        value = found[name]
        expected = int if name == "update" else (int, float)
        if (
            isinstance(value, bool)
            or not isinstance(value, expected)
            or not math.isfinite(value)
            or value < 0
        ):
            raise MisfitError(f"{name} is {value!r}, expected a number of at least 0")
    _alike(found["evaluation_is_due"], own["evaluation_is_due"], "evaluation_is_due")
    states = found["cuda_rng"]
    if not isinstance(states, list) or not all(_is_bytes(each) for each in states):
        raise MisfitError("cuda_rng is not a list of states of generators")


def with_targets(found: dict[str, Any], own: dict[str, Any], updates: int) -> dict[str, Any]:
    """The state of a finished run, completed if an earlier version wrote it.

    Earlier versions did not keep the state of the target update. Only further updates need it, so an agent that
    has made all its updates can still be meta-tested.

    Args:
        found: the state from the file. own: ``trainer.state_dict()`` of the newly built trainer.
        updates: number of updates of the run.

    Examples:
        >>> with_targets({"update": 8}, {"targets": {"counter": 0}}, updates=8)
        {'update': 8, 'targets': {'counter': 0}}
        >>> with_targets({"update": 5}, {"targets": {"counter": 0}}, updates=8)
        {'update': 5}
    """
    if not isinstance(found, dict) or "targets" in found or "targets" not in own:
        return found
    return found | {"targets": own["targets"]} if found.get("update") == updates else found


def _is_bytes(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.uint8 and value.ndim == 1


def _same_keys(found: Any, own: dict[Any, Any], where: str) -> None:
    if not isinstance(found, dict):
        raise MisfitError(f"{where or 'the state'} is a {type(found).__name__}, expected a dictionary")
    for kind, names in (("lacks", own.keys() - found.keys()), ("has the unknown", found.keys() - own.keys())):
        if names:
            raise MisfitError(f"{where or 'the state'} {kind} entry {sorted(map(str, names))[0]!r}")


def _alike(found: Any, own: Any, where: str) -> None:
    """Require the same nesting, tensors of the same shapes and dtypes, and values of the same kind."""
    if isinstance(own, dict):
        _same_keys(found, own, where)
        for name, value in own.items():
            _alike(found[name], value, f"{where}.{name}")
    elif isinstance(own, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(own):
            raise MisfitError(f"{where} is not a list of {len(own)} entries")
        for index, (each, value) in enumerate(zip(found, own, strict=True)):
            _alike(each, value, f"{where}[{index}]")
    elif isinstance(own, Tensor):
        _same_tensor(found, own, where)
    elif own is not None and type(found) is not type(own):
        raise MisfitError(f"{where} is a {type(found).__name__}, expected a {type(own).__name__}")


def _same_tensor(found: Any, own: Tensor, where: str) -> None:
    if not isinstance(found, Tensor):
        raise MisfitError(f"{where} is a {type(found).__name__}, expected a tensor")
    if found.shape != own.shape:
        raise MisfitError(
            f"size mismatch: {where} has the shape {list(found.shape)}, expected {list(own.shape)}"
        )
    if found.dtype != own.dtype:
        raise MisfitError(f"{where} has the dtype {found.dtype}, expected {own.dtype}")


def _check_optimizer(found: Any, own: dict[str, Any], parameters: list[list[Tensor]]) -> None:
    _same_keys(found, own, "optimizer")
    groups, states = found["param_groups"], found["state"]
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        raise MisfitError(f"optimizer.param_groups is not a list of {len(own['param_groups'])} groups")
    by_index: dict[int, Tensor] = {}
    for index, (group, expected, members) in enumerate(
        zip(groups, own["param_groups"], parameters, strict=True)
    ):
        where = f"optimizer.param_groups[{index}]"
        _same_keys(group, expected, where)
        for name in ("name", "params"):
            if group[name] != expected[name]:
                raise MisfitError(f"{where}.{name} is {group[name]!r}, expected {expected[name]!r}")
        by_index |= dict(zip(expected["params"], members, strict=True))
    if not isinstance(states, dict):
        raise MisfitError("optimizer.state is not a dictionary")
    for index, state in states.items():
        if index not in by_index or not isinstance(state, dict):
            raise MisfitError(f"optimizer.state has the unknown entry {index!r}")
        for name, value in state.items():
            where = f"optimizer.state[{index}].{name}"
            if name in _SHAPED:
                _same_tensor(value, by_index[index], where)
            elif name == "step":
                _same_tensor(value, torch.zeros(()), where)
            if isinstance(value, Tensor) and not value.isfinite().all():
                raise MisfitError(f"{where} is not finite")


def _check_parts(found: Any, own: dict[str, Any]) -> None:
    """Check only the kinds of values. Contents may grow during training, so each part checks its own."""
    if not isinstance(found, dict) or found.keys() != own.keys():
        names = sorted(map(str, found)) if isinstance(found, dict) else found
        raise MisfitError(f"the checkpoint has the parts {names}, this run {sorted(own)}")
    for part, state in own.items():
        if not isinstance(found[part], dict):
            raise MisfitError(f"parts.{part} is a {type(found[part]).__name__}, expected a dictionary")
        for name in state.keys() & found[part].keys():
            value, expected = found[part][name], state[name]
            if expected is not None and value is not None and not _same_kind(value, expected):
                raise MisfitError(
                    f"parts.{part}.{name} is a {type(value).__name__}, expected a {type(expected).__name__}"
                )


def _same_kind(value: Any, expected: Any) -> bool:
    """Whether two values have the same type; a count that begins with 0 may become a sum like 0.5."""
    numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in (value, expected))
    return numbers or type(value) is type(expected)


def _check_recent(found: Any) -> None:
    rows: list[Any] = found if isinstance(found, list) else [None]
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or not all(isinstance(value, Tensor) for value in row.values()):
            raise MisfitError(f"recent[{index}] is not a dictionary of losses")
