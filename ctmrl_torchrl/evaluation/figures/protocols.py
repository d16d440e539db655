"""How protocols look in every figure, and how they are described there."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import NamedTuple

from ctmrl_torchrl.evaluation.figures.colors import PALETTE, dash

__all__ = ["Look", "protocol_looks", "protocol_text"]

#: characters per line of a description beside the axes
_LINE = 25


class Look(NamedTuple):
    """Color and dash pattern of a line."""

    color: str
    linestyle: str | tuple[float, tuple[float, ...]]


def protocol_looks(names: Iterable[str]) -> dict[str, Look]:
    """The looks of these protocols; two names never share color and dash pattern.

    A registered protocol looks the same in every figure: it has the place that its
    :attr:`~ctmrl_torchrl.collectors.AdaptationProtocol.palette_index` asks for or, if that is taken or None, the
    next free one. After the last color the colors begin again, with another dash pattern. A name with a number
    of episodes (``np10``) has the color of its protocol; any other name takes the next free place.

    Examples:
        >>> looks = protocol_looks(["np", "np10", "unheard_of"])
        >>> looks["np"].color == looks["np10"].color, looks["np"].linestyle == looks["np10"].linestyle
        (True, False)
    """
    taken = _registered_places()
    looks = {}
    for name in names:
        if name not in taken:
            family = taken.get(name.rstrip("0123456789+"))
            taken[name] = _free(taken, 0) if family is None else _free(taken, family, len(PALETTE))
        number, hue = divmod(taken[name], len(PALETTE))
        looks[name] = Look(PALETTE[hue], dash(number))
    return looks


def protocol_text(name: str, value: str = "", width: int = _LINE) -> str:
    """Name, description and value of a protocol, on lines of about ``width`` characters.

    Examples:
        >>> print(protocol_text("none", "(2.0)"))
        none: acts on a zero
        context (2.0)
    """
    from ctmrl_torchrl.collectors import PROTOCOLS  # slow to import

    description = getattr(PROTOCOLS.get(name), "description", "") if name in PROTOCOLS else ""
    text = " ".join(filter(None, (f"{name}: {description}" if description else name, value)))
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _registered_places() -> dict[str, int]:
    """The place of every registered protocol in the row of looks."""
    from ctmrl_torchrl.collectors import PROTOCOLS  # slow to import

    wanted = {name: getattr(protocol, "palette_index", None) for name, protocol in PROTOCOLS.items()}
    taken: dict[str, int] = {}
    for name, place in wanted.items():
        if place is not None:
            taken[name] = _free(taken, place, len(PALETTE))
    for name, place in wanted.items():
        if place is None:
            taken[name] = _free(taken, 0)
    return taken


def _free(taken: dict[str, int], place: int, step: int = 1) -> int:
    """The first unused place."""
    while place in taken.values():
        place += step
    return place
