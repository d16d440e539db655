"""The folder of a run. One process holds it at a time, and files that no run wrote are never deleted.

Every file that a run writes is recorded (:mod:`~ctmrl_torchrl.training.run_record`). A run that replaces an
earlier run first moves that run's recorded files into a subfolder and deletes them once its own summary is
written. Each step can be interrupted; the next attempt completes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl import storage
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.checkpoint import find_checkpoint
from ctmrl_torchrl.training.config import DATA_ALONE, DatasetConfig, ExperimentConfig
from ctmrl_torchrl.training.data import dataset_folder
from ctmrl_torchrl.training.locks import FolderLock
from ctmrl_torchrl.training.run_record import RECORD_FILE, RUN_FILES, TIMED, RunRecord, is_there

_KEPT = "replaced-run"
_FOLDERS = ("agent", "checkpoints", "figures")
#: maximum length of a folder's path in bytes; Linux allows 4096 including the file names inside it
_LONGEST = 3800
_RESULTS = ("summary.json", "checkpoints/last.pt")


def check_place(name: str, path: str | Path) -> Path:
    """Resolve a folder and check that it can be created and written. The check leaves no files.

    Args:
        name (str): the configuration's field. path: its value.

    Raises:
        ConfigError: with the field and the problem.
    """
    try:
        given = storage.expanded(path).absolute()
        file = next((place for place in (given, *given.parents) if place.is_file()), None)
        if file is not None:
            raise ConfigError(
                f"config field {name}: {path} cannot be written ({file} is a file, not a directory); choose a "
                "folder that can be created or written."
            )
        folder = storage.resolved(path)
        if is_there(folder) and not folder.is_dir():
            raise storage.StorageError(f"{path} is not a folder; choose another path")
        if len(os.fsencode(folder)) > _LONGEST:
            raise storage.StorageError(
                f"{str(path)[:80]}... is too long for the files inside it; choose a shorter path"
            )
    except OSError as error:  # including StorageError; e.g. the name is too long
        raise ConfigError(f"config field {name}: {error}.") from error
    return folder


def check_run_dir(config: ExperimentConfig) -> Path:
    """Check that no results would be replaced unless the run resumes or overwrites them; return the folder.

    Raises:
        ConfigError: if the folder cannot be written, is in use, or holds another run or files with the same
            names that no run wrote.
    """
    run_dir = check_place("run_dir", config.run_dir)
    if not run_dir.is_dir():
        return run_dir
    lock = FolderLock(run_dir)
    if lock.file.exists():
        _acquire(lock, run_dir)
        lock.release()
    record, goes_on = RunRecord.read(run_dir), _goes_on(config, run_dir)
    if record.moving and (not config.overwrite or goes_on):
        raise ConfigError(
            f"config field run_dir: replacing the run in {run_dir} was interrupted; repeat it with "
            "overwrite=true (without resume). The earlier run is in that folder and in its subfolder "
            f"{record.kept_in}/."
        )
    held = _held(run_dir, record)
    if held and not config.overwrite and not goes_on:
        other = _other_data(config, run_dir)
        if other is not None:
            raise ConfigError(
                f"config field run_dir: {run_dir} already holds a run on other data ({other}; this run: "
                f"{_data_of(config.env, config.tasks, config.dataset)}), which this run cannot continue. Choose "
                "another run_dir=, or replace that run with overwrite=true."
            )
        raise ConfigError(
            f"config field run_dir: {run_dir} already holds a run ({', '.join(held)}). Continue it with "
            f"resume={run_dir}, choose another run_dir=, or replace it with overwrite=true."
        )
    _check_names(run_dir, record)
    return run_dir


class RunFolder:
    """A run folder that this process holds.

    Args:
        path (Path): the folder; it is created if missing.

    Raises:
        ConfigError: if another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._made = [place for place in (path, *path.parents) if not place.exists()]
        with _told("run_dir", path):
            path.mkdir(parents=True, exist_ok=True)
            self.path = path
            self._lock = FolderLock(path)
            _acquire(self._lock, path)

    def begin(self, config: ExperimentConfig) -> None:
        """Check the folder again, make room if requested, and record the files that will be written.

        Raises:
            ConfigError: as :func:`check_run_dir`.
        """
        record = RunRecord.read(self.path)
        _check_names(self.path, record)
        goes_on = _goes_on(config, self.path)
        if config.overwrite and not goes_on:
            set_aside(self.path)
        elif _held(self.path, record) and not goes_on:
            raise ConfigError(
                f"config field run_dir: another process has written a run to {self.path} meanwhile; choose "
                "another run_dir=."
            )
        record = RunRecord.read(self.path)
        record.add(RUN_FILES)
        with _told("run_dir", self.path):
            record.write(self.path)

    def log_folder(self, name: str) -> str:
        """Choose a log folder name that no other run has used, and record it."""
        record, free, number = RunRecord.read(self.path), name, 1
        while is_there(self.path / free):
            number += 1
            free = f"{name}-{number}"
        record.logs = [*record.logs, free]
        record.write(self.path)
        return free

    @contextlib.contextmanager
    def pictures(self) -> Iterator[Path]:
        """A temporary folder for figures; on exit its contents are moved to ``figures/``."""
        with contextlib.ExitStack() as stack:
            target = self.path / "figures"
            place = storage.temporary_path(target)
            storage.clear_leftovers(target, ours=_are_pictures)
            place.mkdir()
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            yield place
            self._take_over(sorted(file for file in place.iterdir() if file.is_file()), target)

    def _take_over(self, files: list[Path], target: Path) -> None:
        target.mkdir(exist_ok=True)
        record = RunRecord.read(self.path)
        foreign = [
            file.name
            for file in files
            if f"figures/{file.name}" not in record.files and is_there(target / file.name)
        ]
        if foreign:
            torchrl_logger.warning(
                f"{target}: {', '.join(foreign)} was not written by a run and was not replaced; the figures "
                "with these names are missing"
            )
        own = [file for file in files if file.name not in foreign]
        record.add(f"figures/{file.name}" for file in own)
        record.write(self.path)
        for file in own:
            os.replace(file, target / file.name)

    def take(self, file: Path) -> None:
        """Record a file that was written to the folder for this run, so that a later run may replace it."""
        record = RunRecord.read(self.path)
        if record.add([file.relative_to(self.path).as_posix()]):
            record.write(self.path)

    def finish(self) -> None:
        """Delete the run that this finished run replaces and release the folder."""
        drop_replaced(self.path)
        self.release()

    def release(self) -> None:
        """Release the folder. Delete it if this process created it and it is still empty."""
        self._lock.release()
        for place in self._made:
            with contextlib.suppress(OSError):
                place.rmdir()


def set_aside(run_dir: Path) -> None:
    """Make room for a run that overwrites another. A finished run is kept until :func:`drop_replaced`.

    Raises:
        ConfigError: if files with a run's names exist that no run wrote.
    """
    run_dir = check_place("run_dir", run_dir)
    record = RunRecord.read(run_dir)
    _check_names(run_dir, record)
    with _told("run_dir", run_dir):
        if not record.moving:
            present = record.present(run_dir)
            if not present:
                return
            finished = is_there(run_dir / "summary.json")
            if finished:
                _drop(run_dir, record)  # the present run has already replaced it
            if record.kept:  # an earlier attempt to replace a run that did not finish either
                for name in present:
                    (run_dir / name).unlink()
                _remove_empty_logs(run_dir, record.logs)
                record.files, record.logs = [], []
                record.write(run_dir)
                return
            record = RunRecord(present, record.logs, present, _free_name(run_dir), moving=True)
            record.write(run_dir)
        _move(run_dir, record)
    torchrl_logger.info(f"the earlier run is kept in {run_dir / record.kept_in} until this one has finished")


def drop_replaced(run_dir: Path) -> None:
    """Delete only the run that this finished run replaces."""
    run_dir = storage.resolved(run_dir)
    record = RunRecord.read(run_dir)
    if record.kept and not record.moving and is_there(run_dir / "summary.json"):
        _drop(run_dir, record)


def _move(run_dir: Path, record: RunRecord) -> None:
    kept = run_dir / record.kept_in
    kept.mkdir(exist_ok=True)
    for name in record.kept:
        source, target = run_dir / name, kept / name
        if not is_there(source):
            continue  # moved before an interruption
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with storage.atomic_write(target, follow_link=False) as temporary:  # a link leads to another disk
                shutil.copyfile(source, temporary)
            source.unlink()
    logs = [name for name in record.kept if Path(name).parts[0] not in _FOLDERS]
    _remove_empty({run_dir / parent for name in logs for parent in Path(name).parents[:-1]})
    _remove_empty_logs(run_dir, record.logs)
    storage.sync(kept)
    RunRecord([], [], record.kept, record.kept_in).write(run_dir)


def _drop(run_dir: Path, record: RunRecord) -> None:
    kept = run_dir / record.kept_in
    for name in record.kept:
        (kept / name).unlink(missing_ok=True)
    _remove_empty({kept / parent for name in record.kept for parent in Path(name).parents})
    record.kept, record.kept_in = [], ""
    record.write(run_dir)


def _remove_empty(folders: set[Path]) -> None:
    """Remove folders that are empty, the innermost first."""
    for folder in sorted(folders, key=lambda each: -len(each.parts)):
        with contextlib.suppress(OSError):  # it holds a user's file, or is a link
            folder.rmdir()


def _remove_empty_logs(run_dir: Path, logs: list[str]) -> None:
    """Remove log folders, and their folders named by a time, in which no run's file is left."""
    folders = {run_dir / log for log in logs}
    _remove_empty(folders | {place for log in folders for place in log.glob(TIMED) if place.is_dir()})


def _free_name(run_dir: Path) -> str:
    name, number = _KEPT, 1
    while is_there(run_dir / name):
        number += 1
        name = f"{_KEPT}-{number}"
    return name


def _held(run_dir: Path, record: RunRecord) -> list[str]:
    held = [name for name in _RESULTS if is_there(run_dir / name)]
    return held or ([f"{record.kept_in}/{record.kept[-1]}"] if record.kept else [])


def _data_of(env: str, tasks: str, settings: DatasetConfig) -> str:
    """The data of a run, for messages."""
    given = "" if env == DATA_ALONE else f"env={env} tasks={tasks}, "
    return f"{given}{dataset_folder(settings, env, tasks).absolute()}"


def _other_data(config: ExperimentConfig, run_dir: Path) -> str | None:
    """The data of the run in a folder if they are not those of this run; None if they are, or are not known."""
    try:
        earlier = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
        settings = DatasetConfig(**earlier["dataset"])
        data = _data_of(earlier["env"], earlier["tasks"], settings)
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None
    return None if data == _data_of(config.env, config.tasks, config.dataset) else data


def _goes_on(config: ExperimentConfig, run_dir: Path) -> bool:
    """Whether the run resumes from a checkpoint of this folder."""
    return config.resume is not None and find_checkpoint(config.resume).resolve().is_relative_to(run_dir)


def _check_names(run_dir: Path, record: RunRecord) -> None:
    """Check that the paths a run writes to are of the right type and are not a user's files."""
    for name in _FOLDERS:
        place = run_dir / name
        if is_there(place) and not place.is_dir():
            kind = "a broken link" if place.is_symlink() else "a file, not a folder"
            raise ConfigError(
                f"config field run_dir: {place} is {kind}; move it away or choose another run_dir=."
            )
        if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(f"config field run_dir: no permission to write to {place}.")
    if record.moving:
        return
    for name in RUN_FILES:
        place = run_dir / name
        if is_there(place) and (name not in record.files or place.is_dir()):
            raise ConfigError(
                f"config field run_dir: {place} was not written by a run (it is not recorded in "
                f"{RECORD_FILE}) and is not replaced; move it away or choose another run_dir=."
            )


def _acquire(lock: FolderLock, run_dir: Path) -> None:
    with _told("run_dir", run_dir):
        free = lock.acquire()
    if not free:
        raise ConfigError(
            f"config field run_dir: {run_dir} is in use by {lock.holder()}; wait until it has ended, or "
            "choose another run_dir=."
        )


def _are_pictures(folder: Path) -> bool:
    return all(file.suffix == ".png" or ".png.tmp-" in file.name for file in folder.iterdir())


@contextlib.contextmanager
def _told(name: str, place: Path) -> Iterator[None]:
    """Convert system errors to errors of the configuration field."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ConfigError):
            raise
        reason = error if isinstance(error, storage.StorageError) else error.strerror
        raise ConfigError(
            f"config field {name}: {place} cannot be used ({reason}); choose another {name}=."
        ) from error
