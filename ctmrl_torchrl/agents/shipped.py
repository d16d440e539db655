"""The small trained agents that are part of the package, and the way to add one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ctmrl_torchrl.agents.card import CARD, NEXT_CARD, AgentError
from ctmrl_torchrl.registry import nearest
from ctmrl_torchrl.storage import expanded

#: one folder per agent, with its card and weights; part of the wheel
SHIPPED = Path(__file__).resolve().parent / "trained"
#: bytes that all shipped agents may take together
LIMIT = 2_000_000


def shipped_agents() -> tuple[str, ...]:
    """Names of the agents that come with the package; :meth:`Agent.load` accepts each of them.

    Examples:
        >>> "point_robot" in shipped_agents()
        True
    """
    return tuple(sorted(card.parent.name for card in SHIPPED.glob(f"*/{CARD}")))


def agent_folder(source: str | Path) -> Path:
    """The folder that a path or the name of a shipped agent refers to.

    A folder that contains an agent, or a run's folder, precedes a shipped agent of the same name.

    Raises:
        AgentError: if there is no such agent; the message lists the shipped names.
    """
    try:
        folder = expanded(source)
        for place in (folder, folder / "agent"):
            if any((place / name).exists() for name in (CARD, NEXT_CARD)):
                return place
    except OSError as error:  # including StorageError; e.g. the name is too long
        raise AgentError(f"{str(source)[:80]} cannot be read: {error}") from error
    names = shipped_agents()
    if str(source) in names:
        return SHIPPED / str(source)
    problem = (
        f"{folder} contains no agent ({CARD} is missing)" if folder.is_dir() else f"there is no {folder}"
    )
    raise AgentError(
        f"{problem}; give a finished run's folder, a folder written by Agent.save, or a shipped agent: "
        f"{', '.join(names)}.{nearest(source, names)}"
    )


def shipping_facts(run_dir: str | Path) -> dict[str, Any]:
    """Fields of the card that a run's ``summary.json`` adds to it: the task set and the command.

    Raises:
        AgentError: if the run has no readable summary.
    """
    file = Path(run_dir).expanduser() / "summary.json"
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        return {"tasks": str(summary["dataset"]["tasks"]), "command": str(summary["command"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AgentError(f"{file} cannot be read as the summary of a finished run: {error!r}") from error


def require_room(folder: Path = SHIPPED, limit: int = LIMIT) -> int:
    """Bytes of all agents below ``folder``.

    Raises:
        AgentError: if they exceed ``limit``; the message lists their sizes.
    """
    sizes = {
        place.name: sum(file.stat().st_size for file in place.iterdir()) for place in sorted(folder.iterdir())
    }
    total = sum(sizes.values())
    if total > limit:
        listed = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in sizes.items())
        raise AgentError(
            f"the shipped agents take {total / 1e6:.2f} MB ({listed}); at most {limit / 1e6:.2f} MB are allowed. "
            "Train a smaller agent, or remove one."
        )
    return total
