"""Logs every number as one ``step,name,value`` row of ``metrics.csv``, and to the registered logger."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from ctmrl_torchrl import storage
from ctmrl_torchrl.training.loggers import NoLogger, RunLogger

_HEADER = ("step", "name", "value")


class MetricsLog:
    """Append-only log of scalars.

    Args:
        path (Path): the CSV file; its folder must exist.
        logger (RunLogger, optional): also receives every number.
        keep_until (int or None): on resuming, rows of later steps are dropped, because they will be logged
            again.
        keep_from (Path or None): file whose rows are kept on resuming, if different from ``path``.
    """

    def __init__(
        self,
        path: Path,
        *,
        logger: RunLogger | None = None,
        keep_until: int | None = None,
        keep_from: Path | None = None,
    ) -> None:
        self.path = path
        kept = []
        if keep_until is not None:
            earlier = path if keep_from is None or not keep_from.exists() else keep_from
            kept = [row for row in _rows(earlier) if int(row[0]) <= keep_until]
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(_HEADER)
        writer.writerows(kept)
        storage.atomic_write_text(path, text.getvalue())
        self.logger = NoLogger() if logger is None else logger

    def require_place(self) -> None:
        """Check that the log file still exists, so that nothing is written to a folder that replaced it.

        Raises:
            StorageError: if the file is gone.
        """
        if not self.path.exists():
            raise storage.StorageError(
                f"{self.path} is gone: the run folder was moved or deleted, or its disk was lost. Nothing more "
                "is written; the last checkpoint is in the moved folder."
            )

    def close(self) -> None:
        """End the logger's run; ``metrics.csv`` needs no end."""
        self.logger.close()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row per value.

        Raises:
            StorageError: if the disk is full, or the file is gone.
        """
        self.require_place()
        with storage.disk_errors(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows((step, name, repr(float(value))) for name, value in values.items())
        self.logger.numbers(values, step)


def _rows(path: Path) -> list[list[str]]:
    """The complete rows of a log. Rows truncated by a kill or damaged otherwise are dropped."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    lines = text.splitlines()
    if not text.endswith("\n"):
        lines = lines[:-1]
    return [row for row in csv.reader(lines) if _is_whole(row)]


def _is_whole(row: list[str]) -> bool:
    if len(row) != len(_HEADER):
        return False
    try:
        number = float(row[2])
    except ValueError:
        return False
    # A truncated number still parses. Only complete numbers equal their own repr.
    return row[0].isascii() and row[0].isdigit() and (repr(number) == row[2] or not math.isfinite(number))
