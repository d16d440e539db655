"""The cells of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

__all__ = ["Cell", "Table", "mark_best"]


@dataclass(frozen=True)
class Cell:
    """One number or text of a table.

    Args:
        value: the number; ``None`` for a text, or if no run is done.
        interval: the ends of its interval.
        text: text instead of a number, or what the number is.
        planned, failed, done (int): numbers of planned, failed and finished runs.
        runs (int): number of runs of the value, which a finished run can lack.
        best (bool): the best of its row. within (bool): inside the interval of the best.
    """

    value: float | None = None
    interval: tuple[float, float] | None = None
    text: str = ""
    runs: int = 0
    planned: int = 0
    failed: int = 0
    done: int = 0
    best: bool = False
    within: bool = False

    def plain(self, digits: int) -> str:
        """The cell as text: ``-4.50 [-5.00, -4.00]``, with what it is and a remark if runs are missing."""
        if self.value is None:
            return self.text or self.remark()
        parts = [f"{self.value:z.{digits}f}"]
        if self.interval is not None:
            low, high = self.interval
            parts.append(f"[{low:z.{digits}f}, {high:z.{digits}f}]")
        return " ".join([*parts, *(f"({each})" for each in (self.text, self.remark()) if each)])

    @property
    def complete(self) -> bool:
        """Whether all planned runs have the number."""
        return self.runs == self.planned

    def remark(self) -> str:
        """The remark on failed and missing runs; ``-`` if no finished run has the number."""
        if self.complete:
            return ""
        if self.failed == self.planned:
            return "failed"
        number = f"{self.runs} of {self.planned} runs" if self.runs else "-" if self.done else "not done"
        return ", ".join([number, *([f"{self.failed} failed"] if self.failed else [])])


@dataclass(frozen=True)
class Table:
    """A table with a title; the first cells of a row are texts.

    Args:
        name: short name for files. title: title for readers.
        header: names of the columns. rows: as long as the header.
        digits: decimals. notes: remarks below the table.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    digits: int = 2
    notes: tuple[str, ...] = field(default=())


def mark_best(cells: Sequence[Cell]) -> list[Cell]:
    """Mark the largest number and those inside its interval; numbers that lack runs are never marked.

    Examples:
        >>> best, near, far = mark_best([Cell(3.0, (2.0, 4.0)), Cell(2.5), Cell(1.0)])
        >>> best.best, near.within, far.within
        (True, True, False)
        >>> [each.best for each in mark_best([Cell(3.0, runs=1, planned=2), Cell(2.5), Cell(1.0)])]
        [False, True, False]
    """
    complete = [cell.value for cell in cells if cell.value is not None and cell.complete]
    if len(complete) < 2:
        return list(cells)
    top = max(complete)
    best = next(cell for cell in cells if cell.value == top and cell.complete)
    low = top if best.interval is None else best.interval[0]
    return [
        cell
        if cell.value is None or not cell.complete
        else replace(cell, best=cell.value == top, within=low <= cell.value < top)
        for cell in cells
    ]
