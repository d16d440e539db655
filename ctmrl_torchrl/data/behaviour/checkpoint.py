"""Checkpoints of behavior training."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import torch

from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.sealed import load_sealed, save_sealed
from ctmrl_torchrl.stopping import Stopped, signal_name, stop_requested


def write_checkpoint(
    file: Path, state: dict[str, Any], identity: dict[str, Any], device: torch.device
) -> None:
    """Write a training's state and torch's generator states atomically.

    The file contains its checksum.

    Args:
        file: output file.
        state: tensors and plain values.
        identity: values that a training must share to resume from the file.
        device: device of the training; the generator state of a GPU is saved too.
    """
    state = {**state, "identity": identity, "random": torch.get_rng_state()}
    if device.type == "cuda":
        state["random_device"] = torch.cuda.get_rng_state(device)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_sealed(file, state)


def stopped_in_collection(file: Path | None, where: str) -> Stopped:
    """The exception for a training that was stopped by a signal.

    Args:
        file: the checkpoint that was written, or None. where: the progress of the training.
    """
    number = stop_requested() or signal.SIGTERM
    going_on = "The same command starts again." if file is None else f"The same command resumes from {file}"
    return Stopped(number, f"stopped by {signal_name(number)} in the behavior training, {where}\n{going_on}")


def read_checkpoint(file: Path, identity: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Read a checkpoint of :func:`write_checkpoint` and restore torch's generator states.

    Raises:
        DatasetError: if the file is damaged or belongs to another training.
    """
    try:
        state = load_sealed(file, device)
        found = state["identity"]
    except Exception as error:
        raise DatasetError(
            f"{file}: cannot be read as a collection checkpoint ({error}); delete it to start again"
        ) from error
    names = sorted(found.keys() | identity)
    other = [name for name in names if found.get(name) != identity.get(name)]
    if other:
        raise DatasetError(
            f"{file}: belongs to another collection (different: {', '.join(other)}); delete it to start "
            "again, or continue with its original settings"
        )
    torch.set_rng_state(state["random"].cpu())
    if "random_device" in state:
        torch.cuda.set_rng_state(state["random_device"].cpu(), device)
    return state
