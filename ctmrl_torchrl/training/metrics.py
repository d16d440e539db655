"""``metrics.csv``: every logged number as one row ``step,name,value``; beside it any of TorchRL's loggers."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from torchrl.record.loggers import Logger


class MetricsLog:
    """Append-only log of scalars.

    Args:
        path (Path): the CSV file; its folder must exist.
        logger (Logger or None): gets every number too, e.g. TorchRL's ``TensorboardLogger``.
        keep_until (int or None): on resuming, rows of later steps are dropped, since they will be logged
            again.
        keep_from (Path or None): the file whose rows are kept on resuming, where it is not ``path`` itself.
    """

    def __init__(
        self,
        path: Path,
        *,
        logger: Logger | None = None,
        keep_until: int | None = None,
        keep_from: Path | None = None,
    ) -> None:
        self.path = path
        kept = []
        if keep_until is not None:
            earlier = path if keep_from is None or not keep_from.exists() else keep_from
            kept = [row for row in _rows(earlier) if int(row[0]) <= keep_until]
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("step", "name", "value"))
            writer.writerows(kept)
        temporary.replace(path)
        self.logger = logger

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row per value."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows((step, name, repr(float(value))) for name, value in values.items())
        if self.logger is not None:
            self.logger.log_metrics(dict(values), step=step)


def _rows(path: Path) -> list[list[str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        # A run that was killed while writing leaves a last row that is not whole.
        return [row for row in list(csv.reader(file))[1:] if len(row) == 3]
