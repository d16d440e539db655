"""User errors, which are shown in one or two lines without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ctmrl_torchrl.agents.card import AgentError
from ctmrl_torchrl.data import DatasetError
from ctmrl_torchrl.envs import TaskSimulationError
from ctmrl_torchrl.evaluation.summary_contract import SummaryError
from ctmrl_torchrl.registry import UnknownChoiceError
from ctmrl_torchrl.rules import ConfigError, NotFiniteError
from ctmrl_torchrl.storage import StorageError
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.training.checkpoint import CheckpointError
from ctmrl_torchrl.training.experiment import SeedsError
from ctmrl_torchrl.training.memory import OutOfMemoryError

USER_ERRORS: tuple[type[Exception], ...] = (
    AgentError,
    CheckpointError,
    ConfigError,
    DatasetError,
    NotFiniteError,
    OutOfMemoryError,
    SeedsError,
    StorageError,
    StudyError,
    SummaryError,
    TaskSimulationError,
    UnknownChoiceError,
)


@contextmanager
def told_plainly() -> Iterator[None]:
    """Exit after a user error: two lines on stderr, exit status 2, no traceback.

    With ``HYDRA_FULL_ERROR=1`` in the environment, the original error is raised.

    Examples:
        >>> with told_plainly():
        ...     raise ConfigError("config field seed: got -1, allowed is a whole number.")
        Traceback (most recent call last):
        ...
        SystemExit: 2
    """
    try:
        yield
    except USER_ERRORS as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.stderr.write(f"{error}\nHYDRA_FULL_ERROR=1 shows where this comes from.\n")
        raise SystemExit(2) from None
