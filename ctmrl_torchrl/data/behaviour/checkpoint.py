"""The file that an interrupted behaviour training resumes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ctmrl_torchrl.data.errors import DatasetError


def write_checkpoint(
    file: Path, state: dict[str, Any], identity: dict[str, Any], device: torch.device
) -> None:
    """Write a training's state with that of torch's generators, beside its place, then rename.

    A reader never sees half a file.

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
    temporary = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    try:
        torch.save(state, temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(file: Path, identity: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote and put torch's generators into the state they had.

    Raises:
        DatasetError: if the file is damaged or of another training.
    """
    try:
        state = torch.load(file, map_location=device, weights_only=True)
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
