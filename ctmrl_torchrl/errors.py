"""The errors that tell a user what to do differently: shown as a line or two, without a traceback."""

from __future__ import annotations

from ctmrl_torchrl.agents.card import AgentError
from ctmrl_torchrl.data import DatasetError
from ctmrl_torchrl.evaluation.summary_contract import SummaryError
from ctmrl_torchrl.registry import UnknownChoiceError
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.storage import StorageError
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.training.checkpoint import CheckpointError
from ctmrl_torchrl.training.experiment import SeedsError
from ctmrl_torchrl.training.finite import NotFiniteError

USER_ERRORS: tuple[type[Exception], ...] = (
    AgentError,
    CheckpointError,
    ConfigError,
    DatasetError,
    NotFiniteError,
    SeedsError,
    StorageError,
    StudyError,
    SummaryError,
    UnknownChoiceError,
)
