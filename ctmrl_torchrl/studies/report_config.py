"""The settings of a study's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctmrl_torchrl.registry import nearest
from ctmrl_torchrl.rules import (
    SWITCH,
    TEXT,
    Rule,
    among,
    different,
    is_whole,
    list_of,
    or_none,
    require,
    ruled,
    whole,
)

__all__ = ["ReportConfig"]

_TEXTS = Rule(
    lambda value: isinstance(value, Mapping) and all(isinstance(each, str) for each in value.values()),
    "a mapping from a level to a text",
)
_DIGITS = Rule(lambda value: is_whole(value) and 0 <= value <= 12, "a whole number from 0 to 12")


@dataclass
class ReportConfig:
    """Settings of a study's report.

    Args:
        splits (list of str): ``test`` (unseen tasks) and ``train``.
        paper (str or None): table of the paper to show for comparison: ``methods``, ``ablations`` or ``codes``.
        paper_columns (dict): names of levels in the paper's table, if different: ``{full: ctmrl}``.
        baseline (str or None): the level for probabilities of improvement; the first one by default.
        oracle (str or None): a compared level whose mean return is the best known one in rows without a known
            optimum, such as ``oracle: [method=oracle, "evaluation.protocols=[told]"]``, which is told the task.
            By default it is that of the data's oracle, else of the behavior.
        digits (int): decimals of returns.
        after (list of int): numbers of collected episodes after which a table also shows the return on unseen
            tasks; empty for no such table.
        profiles (bool): draw performance profiles.
        figure_protocols (list of str): protocols that have figures, for a smaller page; empty draws all. Tables
            always have all.
        notes (list of str): notes for every table.
    """

    splits: list[str] = ruled(["test"], different(list_of(among("test", "train"), 1)))
    paper: str | None = ruled(None, or_none(among("methods", "ablations", "codes")))
    paper_columns: dict[str, str] = ruled({}, _TEXTS)
    baseline: str | None = ruled(None, or_none(TEXT))
    oracle: str | None = ruled(None, or_none(TEXT))
    digits: int = ruled(2, _DIGITS)
    after: list[int] = ruled([1, 3, 5], different(list_of(whole(1), 0)))
    profiles: bool = ruled(True, SWITCH)
    figure_protocols: list[str] = ruled([], different(list_of(TEXT, 0)))
    notes: list[str] = ruled([], list_of(TEXT, 0))

    def check_figures(self, protocols: Sequence[str]) -> None:
        """Check that every protocol with figures is one of the study's.

        Raises:
            ConfigError: for the first one that is not.
        """
        for name in self.figure_protocols:
            require(
                name in protocols,
                "report.figure_protocols",
                name,
                f"the study's protocols: {', '.join(protocols)}",
                nearest(name, protocols),
            )
