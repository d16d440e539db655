"""The files of an agent: weights and card, written and read as a pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from os.path import lexists
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from ctmrl_torchrl.agents.card import CARD, NETWORKS, NEXT_CARD, WEIGHTS, AgentCard, AgentError
from ctmrl_torchrl.rules import is_whole
from ctmrl_torchrl.storage import StorageError, atomic_write_bytes, atomic_write_text, resolved

#: widths up to this size are always built
_ALWAYS_BUILT = 8192
#: entry of the weights' metadata: the digest of the card's fields that define the networks
_NETWORKS = "networks"


def read_agent(folder: Path) -> tuple[AgentCard, dict[str, Tensor]]:
    """Card and weights that were saved together, also after a save that was interrupted between them.

    Raises:
        AgentError: if one of the files is missing, or they do not belong together.
    """
    file = folder / WEIGHTS
    if lexists(folder / NEXT_CARD):
        with suppress(AgentError):  # if the weights are still those of the old card
            card = AgentCard.read(folder / NEXT_CARD)
            return card, _weights(file, card)
    card = AgentCard.read(folder / CARD)
    return card, _weights(file, card)


def write_agent(
    folder: str | Path, card: AgentCard, weights: dict[str, Tensor], *, overwrite: bool = False
) -> Path:
    """Write both files so that :func:`read_agent` finds the old or the new agent after a kill at any step.

    Args:
        folder: created if missing. card, weights: what to write; the card gets the checksum of the weights.
        overwrite: replace any files with the same names.

    Raises:
        AgentError: if the folder cannot be used, or contains other files with these names.
    """
    folder = _writable(folder, overwrite)
    content = save(weights, metadata={"format": "pt", _NETWORKS: card.networks_digest()})
    card = replace(card, weights=hashlib.sha256(content).hexdigest())
    text = json.dumps(card.to_dict(), indent=1, allow_nan=False) + "\n"
    try:
        atomic_write_text(folder / NEXT_CARD, text)
        atomic_write_bytes(folder / WEIGHTS, content)
        atomic_write_text(folder / CARD, text)
    except StorageError as error:
        raise AgentError(f"the agent could not be saved: {error}") from error
    (folder / NEXT_CARD).unlink()
    return folder


def _weights(file: Path, card: AgentCard) -> dict[str, Tensor]:
    """The tensors of an agent's file, after checking that it was saved with the card."""
    try:
        content = file.read_bytes()
        weights = load(content)
    except (OSError, SafetensorError) as error:
        raise AgentError(f"{file} cannot be read as an agent's weights: {error}") from error
    if card.weights not in ("", hashlib.sha256(content).hexdigest()):  # earlier cards have no checksum
        raise AgentError(
            f"{file} was not saved with its card (the sha256 differs); restore both files from a copy, "
            "or save the agent again."
        )
    return weights


def check_networks(file: Path, card: AgentCard) -> None:
    """Reject a card whose networks are not those that were saved, even if the weights fit.

    Raises:
        AgentError: with the fields of the card that define the networks.
    """
    with safe_open(file, "pt") as opened:
        digest = (opened.metadata() or {}).get(_NETWORKS)
    if digest not in (None, card.networks_digest()):  # earlier files have none
        raise AgentError(
            f"{file.with_name(CARD)} describes other networks than those that were saved "
            f"({', '.join(NETWORKS)}); restore it from a copy, or save the agent again."
        )


def check_sizes(card: AgentCard, weights: Mapping[str, Tensor], file: Path) -> None:
    """Reject a card that describes networks much larger than the weights.

    Raises:
        AgentError: with the fields that are too large.
    """
    largest = max((size for value in weights.values() for size in value.shape), default=0)
    largest = max(largest, _ALWAYS_BUILT)  # the card may contain unused widths
    asked: dict[str, Any] = {
        f"problem.{name}": card.problem.get(name) for name in ("observation_dim", "action_dim")
    }
    for section in ("encoder", "policy_loss"):
        for name, value in getattr(card, section).items():
            if name == "context_dim" or name.endswith("hidden"):
                widest = [each for each in (value if isinstance(value, list) else [value]) if is_whole(each)]
                asked[f"{section}.{name}"] = max(widest, default=0)
    wrong = [name for name, size in asked.items() if is_whole(size) and size > largest]
    if wrong:
        raise AgentError(
            f"{file}: {', '.join(wrong)} exceeds the weights; the agent does not match its card."
        )


def _writable(folder: str | Path, overwrite: bool) -> Path:
    """Create the folder of an agent if missing, and check that no other files would be replaced."""
    try:
        folder = resolved(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # including StorageError
        raise AgentError(f"{folder} cannot be used for an agent: {error}") from error
    there = [folder / name for name in (CARD, WEIGHTS, NEXT_CARD) if lexists(folder / name)]
    directory = next((place for place in there if place.is_dir()), None)
    if directory is not None:
        raise AgentError(
            f"{directory} is a folder, but an agent's file is to be written there; move it away."
        )
    if there and not overwrite:
        try:
            for name in (CARD, NEXT_CARD):
                if name == CARD or lexists(folder / name):
                    AgentCard.read(folder / name)
        except AgentError as error:
            raise AgentError(
                f"{there[0]} was not written with an agent and is not replaced ({error}); choose another folder, "
                "or pass overwrite=True."
            ) from error
    return folder
