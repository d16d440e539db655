"""The registry of runners, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ctmrl_torchrl.registry import Registry, nearest
from ctmrl_torchrl.rules import ConfigError, check_fields
from ctmrl_torchrl.studies.jobs import Runner

__all__ = ["ONE_THREAD", "RUNNERS", "make_runner"]

#: a runner is a dataclass whose fields are its options
RUNNERS: Registry[Callable[..., Runner]] = Registry("runner")

#: what keeps the libraries of a worker to one thread; it must be set before they are imported
ONE_THREAD = {
    name: "1"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
}


def make_runner(options: Mapping[str, Any]) -> Runner:
    """A runner by its name and its options.

    Args:
        options: ``{"name": "local", "workers": 2}``.

    Raises:
        UnknownChoiceError: for a name that is not registered.
        ConfigError: for an option that the runner does not have, or a value that is not allowed.

    Examples:
        >>> make_runner({"name": "local", "workers": 2}).workers
        2
    """
    values = dict(options)
    name = values.pop("name")
    kind = RUNNERS.get(name)
    known = [each.name for each in fields(kind) if each.init]
    for option in values:
        if option not in known:
            raise ConfigError(
                f"config field runner.{option}: the runner {name!r} has no such option."
                f"{nearest(option, known)} Known: {', '.join(known)}."
            )
    runner = kind(**values)
    check_fields(runner, "runner")
    return runner
