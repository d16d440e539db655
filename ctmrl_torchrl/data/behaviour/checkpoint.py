"""The file that an interrupted behaviour training resumes from."""

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
    """Write a training's state with that of torch's generators, beside its place, then rename.

    A reader never sees half a file; the file carries its checksum.

    Args:
        file: where to.
        state: tensors and plain values.
        identity: what a training must share with this one to resume from the file.
        device: of the training; the state of a GPU's generator is kept too.
    """
    state = {**state, "identity": identity, "random": torch.get_rng_state()}
    if device.type == "cuda":
        state["random_device"] = torch.cuda.get_rng_state(device)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_sealed(file, state)


def stopped_in_collection(file: Path | None, where: str) -> Stopped:
    """What a training raises that a signal has asked to stop.

    Args:
        file: its checkpoint, which has been written; None if it has none. where: how far it has come.
    """
    number = stop_requested() or signal.SIGTERM
    going_on = "The same command begins anew." if file is None else f"The same command goes on from {file}"
    return Stopped(
        number, f"stopped by {signal_name(number)} in the training of the behaviour, {where}\n{going_on}"
    )


def read_checkpoint(file: Path, identity: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote and put torch's generators into the state they had.

    Raises:
        DatasetError: if the file is damaged or of another training.
    """
    try:
        state = load_sealed(file, device)
        found = state["identity"]
    except Exception as error:
        raise DatasetError(
            f"{file}: cannot be read as a checkpoint of a collection ({error}); delete it to begin anew"
        ) from error
    names = sorted(found.keys() | identity)
    other = [name for name in names if found.get(name) != identity.get(name)]
    if other:
        raise DatasetError(
            f"{file}: belongs to another collection (different: {', '.join(other)}); delete it to begin "
            "anew, or go on with the settings it was made with"
        )
    torch.set_rng_state(state["random"].cpu())
    if "random_device" in state:
        torch.cuda.set_rng_state(state["random_device"].cpu(), device)
    return state
