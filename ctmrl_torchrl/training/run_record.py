"""Records the files that a run has written to its folder. Only recorded files are deleted or replaced."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ctmrl_torchrl import storage
from ctmrl_torchrl.agents.card import CARD, NEXT_CARD, WEIGHTS
from ctmrl_torchrl.rules import ConfigError

RECORD_FILE = ".ctmrl-run.json"
FORMAT_VERSION = 1
#: files that every run writes, besides figures and logs
RUN_FILES = (
    "config.yaml",
    "metrics.csv",
    "checkpoints/last.pt",
    f"agent/{WEIGHTS}",
    f"agent/{NEXT_CARD}",
    f"agent/{CARD}",
    "summary.json",
)
#: name pattern of the folders, named by a time, in which TensorBoard keeps the files of hyperparameters
TIMED = "[0-9]*.[0-9]*"
#: name patterns of TensorBoard's files in a log folder
_EVENTS = ("events.out.tfevents.*", f"{TIMED}/events.out.tfevents.*")


@dataclass
class RunRecord:
    """The files of a run folder that runs have written.

    Args:
        files: files of the present run, relative to the folder. logs: its log folders.
        kept: files of an earlier run, which are deleted when the present run finishes.
        kept_in: subfolder of the run folder to which they are moved.
        moving: whether the move is still in progress.
    """

    files: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    kept_in: str = ""
    moving: bool = False

    def add(self, names: Iterable[str]) -> bool:
        """Record files and return whether any of them is new."""
        before = len(self.files)
        self.files = list(dict.fromkeys([*self.files, *names]))
        return len(self.files) > before

    def present(self, folder: Path) -> list[str]:
        """Existing files of the present run, including logs; ``summary.json`` comes last."""
        logs = [
            str(PurePosixPath(log, event.relative_to(folder / log)))
            for log in self.logs
            for pattern in _EVENTS
            for event in sorted((folder / log).glob(pattern))
        ]
        there = [name for name in dict.fromkeys([*self.files, *logs]) if is_there(folder / name)]
        return sorted(there, key="summary.json".__eq__)

    def write(self, folder: Path) -> None:
        """Write the record atomically."""
        content = {"format_version": FORMAT_VERSION, **vars(self)}
        storage.atomic_write_text(folder / RECORD_FILE, json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read the record of a folder; empty if there is none.

        Raises:
            ConfigError: if it cannot be read, or names a file outside the folder.
        """
        file = folder / RECORD_FILE
        if not is_there(file):
            return cls()
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
            if content.pop("format_version") != FORMAT_VERSION:
                raise ValueError("another format version")
            record = cls(**content)
            record._check()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"config field run_dir: the record of written files, {file}, cannot be read "
                f"({error}); choose another run_dir, or move this folder away."
            ) from error
        return record

    def _check(self) -> None:
        for name, value in vars(self).items():
            expected = {"kept_in": str, "moving": bool}.get(name, list)
            if type(value) is not expected:
                raise ValueError(f"{name} is {value!r}")
        names = [*self.files, *self.logs, *self.kept, *([self.kept_in] if self.kept_in else [])]
        for name in names:
            if not isinstance(name, str) or not name or "\0" in name:
                raise ValueError(f"{name!r} is not a file name")
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise ValueError(f"{name!r} is not a file of this folder")


def is_there(path: Path) -> bool:
    """Whether the path exists; a broken link counts as existing."""
    return path.is_symlink() or path.exists()
