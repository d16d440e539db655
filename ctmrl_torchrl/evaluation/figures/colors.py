"""Colors of the figures, and their contrast as text."""

from __future__ import annotations

import matplotlib.colors
import numpy as np

__all__ = ["INK", "LEAST_CONTRAST", "MUTED", "NOTE", "PALETTE", "contrast", "dash", "text_color"]

#: Okabe and Ito's colorblind-safe palette, without its yellow, which is too pale for lines
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A4B94", "#8C6D31")
INK = "#222222"
NOTE = "#555555"
MUTED = "#6E6E6E"
#: contrast of normal text that the Web Content Accessibility Guidelines (level AA) ask for
LEAST_CONTRAST = 4.5

_FIRST_DASHES = ("-", (0, (4.5, 1.8)), (0, (1.1, 1.5)))


def contrast(color: str, background: str = "white") -> float:
    """Contrast ratio of two colors by WCAG 2, from 1 (equal) to 21 (black on white).

    Examples:
        >>> round(contrast("black"), 2), round(contrast("#56B4E9"), 2)
        (21.0, 2.31)
    """
    dark, light = sorted((_luminance(color), _luminance(background)))
    return (light + 0.05) / (dark + 0.05)


def text_color(color: str) -> str:
    """The color itself if it can be read as text on white, else its lightest shade that can.

    Examples:
        >>> text_color("#0072B2"), text_color("#56B4E9")
        ('#0072B2', '#3C7DA2')
    """
    rgb = np.array(matplotlib.colors.to_rgb(color))
    for share in np.linspace(1.0, 0.0, 201):
        shade = matplotlib.colors.to_hex(share * rgb).upper()
        if contrast(shade) >= LEAST_CONTRAST:
            break
    return shade


def dash(number: int) -> str | tuple[float, tuple[float, ...]]:
    """The dash pattern of this number: solid, dashed, dotted, then dashes with an increasing number of dots.

    No two numbers have the same pattern.

    Examples:
        >>> dash(0), dash(3)
        ('-', (0, (4.5, 1.8, 1.1, 1.8)))
    """
    if number < len(_FIRST_DASHES):
        return _FIRST_DASHES[number]
    dots = number - len(_FIRST_DASHES) + 1
    return (0, (4.5, 1.8) + (1.1, 1.8) * dots)


def _luminance(color: str) -> float:
    values = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
