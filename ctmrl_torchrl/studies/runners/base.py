"""The registry of runners and shared code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import cloudpickle

from ctmrl_torchrl.registry import Registry, nearest
from ctmrl_torchrl.rules import ConfigError, check_fields
from ctmrl_torchrl.studies.jobs import Job, Outcome, Runner, Work

__all__ = ["ONE_THREAD", "RUNNERS", "Packed", "make_runner"]

#: a runner is a dataclass whose fields are its options
RUNNERS: Registry[Callable[..., Runner]] = Registry("runner")

#: environment variables that limit a worker's libraries to one thread; must be set before importing them
ONE_THREAD = {
    name: "1"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
}


@dataclass(frozen=True)
class Packed:
    """Work for another process, which gets this process's module search path.

    Args:
        content: the work, serialized with the library that runners use for their messages.
        path: module search path of this process.
    """

    content: bytes
    path: tuple[str, ...]

    @classmethod
    def of(cls, work: Work) -> Packed:
        """Pack work."""
        return cls(cloudpickle.dumps(work), tuple(entry or os.getcwd() for entry in sys.path))

    def __call__(self, job: Job) -> Outcome:
        """Unpack and run the work."""
        sys.path += [entry for entry in self.path if entry not in sys.path and os.path.exists(entry)]
        return cloudpickle.loads(self.content)(job)


def make_runner(options: Mapping[str, Any]) -> Runner:
    """Create a runner from its name and options.

    Args:
        options: ``{"name": "local", "workers": 2}``.

    Raises:
        UnknownChoiceError: for an unknown name.
        ConfigError: for an unknown option, or a value that is not allowed.

    Examples:
        >>> make_runner({"name": "local", "workers": 2}).workers
        2
    """
    values = dict(options)
    name = values.pop("name")
    kind = RUNNERS.get(name)
    known = [each.name for each in fields(cast(Any, kind)) if each.init]
    for option in values:
        if option not in known:
            raise ConfigError(
                f"config field runner.{option}: the runner {name!r} has no such option."
                f"{nearest(option, known)} Known: {', '.join(known)}."
            )
    runner = kind(**values)
    check_fields(runner, "runner")
    return runner
