"""Brings finished runs of another folder of studies into this one, e.g. from a machine without shared storage."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ctmrl_torchrl.evaluation import SummaryError, load_summary
from ctmrl_torchrl.storage import expanded
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.files import read_json, write_json
from ctmrl_torchrl.studies.records import RunRecord, data_file, locked, run_folder

__all__ = ["Merged", "merge_runs"]


@dataclass(frozen=True)
class Merged:
    """What became of the other folder's runs.

    Args:
        copied: finished runs that this folder lacked.
        known: runs that are finished here as well; those of this folder were kept.
        begun: runs that this folder has begun, so that it goes on with them, or that a process is working on.
        unfinished: runs that are not finished in the other folder.
    """

    copied: int
    known: int
    begun: int
    unfinished: int

    def __str__(self) -> str:
        counts = {
            f"{self.copied} copied": True,
            f"{self.known} already here": self.known,
            f"{self.begun} begun here, so kept (begun=replace replaces those that nothing works on)": self.begun,
            f"{self.unfinished} not finished there": self.unfinished,
        }
        return ", ".join(text for text, said in counts.items() if said)


def merge_runs(other: str | Path, root: str | Path, replace_begun: bool = False) -> Merged:
    """Copy the finished runs of the folder of studies ``other`` into ``root``, with their records.

    A run is known by its identity, so runs of equal configurations on equal data are found by every study of
    ``root``. No finished run here is replaced, and nothing there is changed. A study whose data this folder has
    not prepared yet takes their fingerprint from ``other``; if its own collection turns out to differ, the copied
    runs do not count for it.

    Args:
        other: the folder of studies to copy from.
        root: the folder of studies to copy into.
        replace_begun: whether finished runs of ``other`` replace those that ``root`` has begun, with their
            checkpoints. A run that a process is working on is never replaced.

    Raises:
        StudyError: if there are no runs in ``other``, a summary cannot be read (before anything is copied), or
            the files cannot be copied.
    """
    there, here = expanded(other) / "store", expanded(root) / "store"
    keys = sorted(file.stem for file in (there / "records").glob("*.json"))
    if not keys:
        raise StudyError(
            f"{expanded(other)} has no runs of studies; name a folder that contains store/records."
        )
    if here.exists() and here.resolve() == there.resolve():
        raise StudyError(f"{expanded(other)} is the folder of studies to copy into; give another one.")
    finished = [key for key in keys if (run_folder(there, key) / "summary.json").is_file()]
    for key in finished:
        try:
            load_summary(run_folder(there, key) / "summary.json")
        except SummaryError as error:
            raise StudyError(f"{error} Nothing was copied.") from error
    outcomes = [_take(there, here, key, replace_begun) for key in finished]
    copied = {key for key, outcome in zip(finished, outcomes, strict=True) if outcome == "copied"}
    for file in (there / "datasets").glob("*.json"):
        if not data_file(here, file.stem).exists() and (content := read_json(file)) is not None:
            write_json(data_file(here, file.stem), content)
    for file in (there / "trainings").glob("*.json"):
        if (key := (read_json(file) or {}).get("run")) in copied:
            RunRecord(here, key).offer(file.stem)
    counts = {name: outcomes.count(name) for name in ("copied", "known", "begun")}
    return Merged(**counts, unfinished=len(keys) - len(finished))


def _take(there: Path, here: Path, key: str, replace_begun: bool) -> str:
    """Copy one finished run; returns ``copied``, ``known`` or ``begun``."""
    folder, theirs = run_folder(here, key), RunRecord(there, key)
    with locked(here, key) as free:
        if (folder / "summary.json").is_file():
            return "known"
        if not free or (folder.exists() and not replace_begun):
            return "begun"
        unready, replaced = (folder.with_name(f".{key}.{state}") for state in ("copying", "replaced"))
        attempts = [*RunRecord(here, key).attempts, *theirs.attempts]
        try:
            shutil.rmtree(unready, ignore_errors=True)
            shutil.copytree(theirs.folder, unready)
            if folder.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                os.replace(folder, replaced)
            os.replace(unready, folder)
            write_json(RunRecord(here, key).file, {**theirs.about, "attempts": attempts})
        except (OSError, shutil.Error) as error:
            shutil.rmtree(unready, ignore_errors=True)
            if replaced.exists() and not folder.exists():
                os.replace(replaced, folder)
            raise StudyError(
                f"The run {theirs.folder} cannot be copied to {here}: {error}. Runs copied before are complete."
            ) from error
        shutil.rmtree(replaced, ignore_errors=True)
    return "copied"
