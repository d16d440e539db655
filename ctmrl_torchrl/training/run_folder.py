"""The folder of a run: refused where it cannot be used, never mixed with an earlier run's files."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.checkpoint import find_checkpoint
from ctmrl_torchrl.training.config import ExperimentConfig


def check_writable(name: str, folder: Path) -> None:
    """Make sure that a folder can be made or written, leaving nothing behind.

    Raises:
        ConfigError: naming the configuration's field.
    """
    nearest = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryDirectory(dir=nearest):
            pass
    except OSError as error:
        raise ConfigError(
            f"config field {name}: {folder} cannot be written ({nearest}: {error.strerror}); name a folder "
            "that can be made or written."
        ) from error


def check_run_dir(config: ExperimentConfig) -> None:
    """Results are only replaced by a run that goes on from them, or on request.

    Raises:
        ConfigError: if the folder cannot be written, or holds another run.
    """
    run_dir = Path(config.run_dir)
    check_writable("run_dir", run_dir)
    held = _held(run_dir)
    if not held or config.overwrite:
        return
    checkpoint = None if config.resume is None else find_checkpoint(config.resume).resolve()
    if checkpoint is None or not checkpoint.is_relative_to(run_dir.resolve()):
        raise ConfigError(
            f"config field run_dir: {run_dir} holds a run already ({', '.join(held)}). Go on with it by "
            f"resume={run_dir}, choose another run_dir=, or replace it by overwrite=true."
        )


def set_aside(run_dir: Path) -> None:
    """Make room for a run that overwrites another; the earlier one is kept until :func:`drop_replaced`."""
    if not _held(run_dir):
        return
    if _replaced(run_dir).exists():  # the run that replaced it has not finished either
        shutil.rmtree(run_dir)
    else:
        run_dir.rename(_replaced(run_dir))
        torchrl_logger.info(f"the earlier run is kept in {_replaced(run_dir)} until this one has finished")
    run_dir.mkdir()


def drop_replaced(run_dir: Path) -> None:
    """Delete the run that this finished one replaces."""
    shutil.rmtree(_replaced(run_dir), ignore_errors=True)


def _held(run_dir: Path) -> list[str]:
    return [name for name in ("summary.json", "checkpoints/last.pt") if (run_dir / name).exists()]


def _replaced(run_dir: Path) -> Path:
    place = run_dir.absolute()
    return place.with_name(f"{place.name}.replaced")
