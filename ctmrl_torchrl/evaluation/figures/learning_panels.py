"""The panels of the learning figures. Each draws into its axes and returns the labels for the margin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ctmrl_torchrl.evaluation.figures import style
from ctmrl_torchrl.evaluation.figures.series import Series, total

__all__ = ["Curves", "Panel", "all_panels", "first_panels"]

Panel = Callable[[Axes], list[style.Label]]

_FIRST = 4
_MAX_POINTS = 300
_SPLITS = {"test": "unseen test tasks", "train": "training tasks"}
#: titles of the losses that TorchRL's policy losses share
_TITLES = {
    "loss_qvalue": "Critic loss",
    "loss_actor": "Actor loss",
    "loss_value": "State-value loss",
    "loss_alpha": "Entropy temperature loss",
}


@dataclass(frozen=True)
class Curves:
    """The series of a run and what the panels need to know about them.

    Args:
        series: ``{name: (steps, values)}``.
        random, optimum: returns of the random policy and of the best known agent. best_name: name of the latter.
        codes: size of the codebook.
        titles: title of each loss, by name without group.
        representation: names of the losses of the representation. main: the most important one.
    """

    series: Series
    random: float | None
    optimum: float | None
    best_name: str
    codes: int | None
    titles: dict[str, str]
    representation: tuple[str, ...]
    main: str

    def title(self, loss: str) -> str:
        """The title of a loss."""
        words = loss.removeprefix("loss_").replace("_", " ")
        return {**_TITLES, **self.titles}.get(loss, f"{words[:1].upper()}{words[1:]} loss")

    def splits(self) -> dict[str, Series]:
        """Returns of the meta-tests during training, ``{split: {protocol: series}}``."""
        names = {split: [] for split in _SPLITS}
        for name in self.series:
            parts = name.split("/")
            if len(parts) == 4 and parts[0] == "eval" and parts[1] in names and parts[3] == "return":
                names[parts[1]].append(name)
        return {
            split: {name.split("/")[2]: self.series[name] for name in found}
            for split, found in names.items()
            if found
        }

    def group(self, name: str) -> Series:
        """The series of a group, by name without the group."""
        prefix = f"{name}/"
        return {
            each.removeprefix(prefix): values
            for each, values in self.series.items()
            if each.startswith(prefix)
        }


def first_panels(curves: Curves) -> list[Panel]:
    """The four main panels, or fewer if there are fewer curves."""
    losses = curves.group("loss")
    panels: list[Panel] = []
    rest = _panels(curves)
    found = curves.splits()
    if found:
        panels.append(partial(_returns, curves, found))
    terms = [name for name in curves.representation if name in losses]
    if curves.main in losses or len(terms) == 1:
        name = curves.main if curves.main in losses else terms[0]
        panels.append(partial(_loss, f"Representation: {_lower(curves.title(name))}", losses[name]))
        rest.pop(f"loss/{name}")
    elif terms:
        panels.append(partial(_loss, "Representation loss", total(losses[name] for name in terms)))
    panels += [rest.pop(name) for name in ("loss/loss_qvalue", "codebook", "loss/loss_actor") if name in rest]
    others = [panel for name, panel in rest.items() if not name.startswith("eval/")]
    return (panels + others)[:_FIRST]


def all_panels(curves: Curves) -> list[Panel]:
    """Returns of each split, context noise, use of the codebook, and every loss."""
    return list(_panels(curves).values())


def _panels(curves: Curves) -> dict[str, Panel]:
    panels: dict[str, Panel] = {
        f"eval/{split}": partial(_returns, curves, {split: found}) for split, found in curves.splits().items()
    }
    if curves.group("context_noise"):
        panels["context_noise"] = partial(_noise, curves.group("context_noise"))
    if curves.group("codebook"):
        panels["codebook"] = partial(_usage, curves)
    for name, values in curves.group("loss").items():
        panels[f"loss/{name}"] = partial(_loss, curves.title(name), values)
    return panels


def _returns(curves: Curves, splits: dict[str, Series], axes: Axes) -> list[style.Label]:
    """Returns of one split, or of both; then training tasks have hollow markers and no labels."""
    labels, values, finals = [], [], []
    optimum = curves.optimum
    for place, found in enumerate(splits.values()):
        for protocol, look in style.protocol_looks(found).items():
            steps, means = found[protocol]
            hollow = {"markerfacecolor": "white", "linewidth": 1.2} if place else {}
            size = 4.0 if steps.size <= 40 else 0
            axes.plot(steps, means, **look._asdict(), marker="o", markersize=size, **hollow)
            if not place:
                labels.append(style.Label(means[-1], f"{protocol} {style.number(means[-1])}", look.color))
            values.append(means)
            finals.append(means[-1])
    means = np.concatenate(values)
    top = float(max(means.max(), -np.inf if optimum is None else optimum))
    if optimum is not None:
        style.reference_line(axes, optimum, style.INK, "-")
        labels.append(style.Label(optimum, f"{curves.best_name} {style.number(optimum)}", style.INK))
    floor = style.clipped_floor(means, np.array(finals), top, curves.random)
    axes.set_ylim(floor, top + 0.07 * (top - floor))
    if curves.random is not None and curves.random < floor:
        labels.append(style.below_axis(floor, f"random policy\n{style.number(curves.random, 1)}"))
    first, *others = (_SPLITS[split] for split in splits)
    note = f"full markers: {first}; hollow: {others[0]}" if others else "last episode of each meta-test"
    _title(axes, "Return during training" if others else f"Return, {first}", note)
    return labels


def _noise(noise: Series, axes: Axes) -> list[style.Label]:
    labels = []
    for protocol, look in style.protocol_looks(noise).items():
        steps, values = noise[protocol]
        positive = values > 0
        if positive.any():
            axes.plot(steps[positive], values[positive], **look._asdict(), marker="o", markersize=3.5)
            labels.append(style.Label(values[positive][-1], protocol, look.color))
    _log_scale(axes)
    _title(axes, "Context noise", "variance within a task / between tasks")
    return labels


def _usage(curves: Curves, axes: Axes) -> list[style.Label]:
    labels, usage = [], curves.group("codebook")
    for name, text, colour in (
        ("perplexity", "effective number\nof codes in use", style.PALETTE[2]),
        ("dead_codes", "unused codes", style.PALETTE[1]),
    ):
        if name in usage:
            steps, values = usage[name]
            axes.plot(steps, values, color=colour)
            labels.append(style.Label(values[-1], text, colour))
    codes = curves.codes
    if codes is not None:
        style.reference_line(axes, codes, style.INK, "-")
        labels.append(style.Label(codes, f"all {codes} codes", style.INK))
    highest = max([float(values.max()) for _, values in usage.values()] + ([codes] if codes else []))
    axes.set_ylim(-0.05 * max(highest, 1), 1.1 * max(highest, 1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _title(axes, "Use of the codebook", "number of codes")
    return labels


def _loss(title: str, values: tuple[np.ndarray, np.ndarray], axes: Axes) -> list[style.Label]:
    steps, raw = values
    stride = -(-steps.size // _MAX_POINTS)
    blue = style.PALETTE[0]
    window = max(1, steps.size // 30)
    smooth = raw
    if window > 1:
        kernel = np.ones(window)
        smooth = np.convolve(raw, kernel, "same") / np.convolve(np.ones_like(raw), kernel, "same")
        axes.plot(steps[::stride], raw[::stride], color=blue, alpha=0.25, linewidth=0.8)
    axes.plot(steps[::stride], smooth[::stride], color=blue)
    if raw.min() > 0 and raw.max() > 50 * raw.min():
        _log_scale(axes)
    _title(axes, title, "thin: as logged; bold: running mean" if window > 1 else "as logged")
    return [style.Label(smooth[-1], f"{smooth[-1]:.3g}".replace("-", "\u2212"), blue)]


def _log_scale(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _title(axes: Axes, title: str, note: str) -> None:
    axes.set_title(title, fontsize=11.5, pad=20)
    axes.text(0, 1.045, note, transform=axes.transAxes, fontsize=9, color=style.NOTE, va="bottom")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
