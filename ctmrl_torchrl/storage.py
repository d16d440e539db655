"""Files written so that nothing is lost: checked places, reserved space, atomic replacement, no litter.

Every place is checked before it is used (:func:`resolved`), every file is written under a name that nobody
else can have guessed, synced, and only then given its name (:func:`atomic_write`). What a killed process
leaves behind carries its process id and is cleared by the next writer (:func:`clear_leftovers`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

#: errors that say that a disk, or the user's share of it, is full
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_TAG = r"(?P<pid>\d{1,10})-(?P<machine>[0-9a-f]{8})-[0-9a-f]{8}"
_TEMPORARY = re.compile(rf"\.tmp-({_TAG}|(?P<only_pid>\d{{1,10}}))$")
_TAGGED = re.compile(rf"-{_TAG}$")
_SYSTEM_LIMIT = 255
_ENDING = len(".tmp-") + 10 + 2 * len("-01234567")
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


class StorageError(OSError, ValueError):
    """A place that cannot be used, or a disk that is full; the message names the place and what to do.

    Examples:
        >>> resolved("")
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.storage.StorageError: the path is empty; name a file or folder
    """


def expanded(path: str | os.PathLike[str]) -> Path:
    """Replace a leading ``~`` by the home folder, and change nothing else.

    Raises:
        StorageError: if the path is empty or no path, or there is no such user.

    Examples:
        >>> expanded("~/sets").is_absolute(), expanded("sets")
        (True, PosixPath('sets'))
    """
    try:
        text = os.fspath(path)
    except TypeError:
        raise StorageError(f"expected a path, got {type(path).__name__} ({path!r})") from None
    if not isinstance(text, str):
        raise StorageError(f"expected a path as text, got {text!r}")
    if not text.strip():
        raise StorageError("the path is empty; name a file or folder")
    if "\0" in text:
        raise StorageError(f"the path {text!r} contains a zero byte; choose another name")
    home = os.path.expanduser(text)
    if home.startswith("~"):
        raise StorageError(
            f"{text}: no home folder of {text.split(os.sep)[0]!r} is known; write the path out, or ./{text} "
            "for a name that begins with ~"
        )
    return Path(home)


def resolved(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path that is meant, with ``~`` and links resolved, fit to be written to.

    Nothing is created. Call it before the work whose result goes there.

    Args:
        path: a file or folder, which need not exist.

    Raises:
        StorageError: if the path is empty, a name in it is too long, a link leads nowhere, a parent is a
            file, or nothing may be created there.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()).resolve()
        >>> resolved(folder / "new" / "set") == folder / "new" / "set"
        True
        >>> (folder / "file").touch()
        >>> resolved(folder / "file" / "set")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.storage.StorageError: .../file/set: .../file is a file, not a folder; ...
    """
    given = expanded(path)
    long = next((part for part in given.parts if len(os.fsencode(part)) > _SYSTEM_LIMIT), None)
    if long is not None:
        raise StorageError(
            f"{str(path)[:80]}...: the name {long[:24]!r}... has {len(os.fsencode(long))} bytes; most file "
            f"systems allow {_SYSTEM_LIMIT}. Choose a shorter name"
        )
    absolute = given.absolute()
    try:
        for place in (*reversed(absolute.parents), absolute):
            if place.is_symlink() and not place.exists():
                raise StorageError(
                    f"{path}: {place} is a link to {os.readlink(place)}, which does not exist; "
                    "create that folder or remove the link"
                )
            if place != absolute and os.path.lexists(place) and not place.is_dir():
                raise StorageError(f"{path}: {place} is a file, not a folder; choose another path")
        real = Path(os.path.realpath(absolute))
        existing = next(place for place in (real, *real.parents) if os.path.lexists(place))
    except StorageError:
        raise
    except OSError as error:  # too long as a whole, a loop of links, a folder that may not be entered
        raise StorageError(f"{path}: {error.strerror}; choose another path") from error
    folder = existing if existing.is_dir() else existing.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(
            f"{path}: nothing may be written into {folder} (permissions, or a read-only disk); choose "
            "another path or change the permissions"
        )
    return real


def disk_of(path: Path) -> Path:
    """Return the mount point of the disk that ``path`` is on, or will be on."""
    place = next(each for each in (path, *path.parents) if each.exists()).resolve()
    while not os.path.ismount(place):
        place = place.parent
    return place


def require_space(path: Path, size: int) -> None:
    """Refuse to begin writing ``size`` bytes where they do not fit.

    Raises:
        StorageError: naming the place, the disk, what is needed and what is free.
    """
    existing = next(each for each in (path, *path.parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        raise StorageError(
            f"{path} needs {_readable(size)}, but the disk at {disk_of(existing)} has {_readable(free)} "
            "free; free some space or choose another disk"
        )


@contextlib.contextmanager
def new_file(path: Path, size: int | None = None) -> Iterator[int]:
    """Create a file that did not exist and yield its descriptor; sync it at the end.

    Args:
        path: the file. A file or link that is there already is never opened.
        size: bytes to reserve first, so that a full disk is found before anything is written.

    Raises:
        FileExistsError: if there is something of that name.
        StorageError: if the disk is full; the file is not left half-written.
    """
    with disk_errors(path):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        try:
            if size:
                _reserve(descriptor, size)
            yield descriptor
            os.fsync(descriptor)
        except BaseException:
            _unlink(path)
            raise
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's "no space left" into an error that names the file and the disk."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise StorageError(
            f"{path} could not be written: the disk at {disk_of(path)} is full "
            f"({error.strerror}); free some space or choose another disk"
        ) from error


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, follow_link: bool = True) -> Iterator[Path]:
    """Yield a temporary file beside ``path``; at the end it is synced and takes the place of ``path``.

    Killed at any moment, ``path`` holds the old content or the new one, whole. Leftovers of killed writers
    of the same file are cleared.

    Args:
        path: the file to write; its folder must exist.
        follow_link: write the file that a link leads to, so that the link stays; otherwise the link is
            replaced, and what it leads to stays as it is.

    Raises:
        StorageError: if the place cannot be used or the disk is full; nothing is changed then.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_write(folder / "notes.txt") as temporary:
        ...     _ = temporary.write_text("whole or not at all")
        >>> [file.name for file in folder.iterdir()]
        ['notes.txt']
    """
    target = resolved(path) if follow_link else resolved(Path(path).parent) / Path(path).name
    if target.is_dir():
        raise StorageError(f"{path}: is a folder, but a file is to be written there; choose another name")
    clear_leftovers(target)
    with _disposed(temporary_path(target), _unlink) as temporary, disk_errors(target):
        with new_file(temporary):
            pass
        if target.exists() and not target.is_symlink():
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        yield temporary
        sync(temporary)
        os.replace(temporary, target)
        sync(target.parent)


def atomic_write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all; see :func:`atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text whole or not at all; see :func:`atomic_write`."""
    atomic_write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; at the end it is renamed to ``path``, which must be free.

    Raises:
        StorageError: if there is something at ``path`` by then, or the disk is full. Nothing is left.
    """
    with _disposed(temporary_path(path), _remove_folder) as temporary, disk_errors(path):
        temporary.mkdir()
        yield temporary
        sync(temporary)
        try:
            os.rename(temporary, path)
        except OSError as error:
            if not os.path.lexists(path):
                raise
            raise StorageError(
                f"{path}: was made by another process in the meantime; nothing there was changed"
            ) from error
        sync(path.parent)


def temporary_path(path: Path) -> Path:
    """A name beside ``path`` that carries this process's id and cannot be guessed: ``NAME.tmp-PID-...``."""
    return path.with_name(f"{_beginning(path)}.tmp-{owner_tag()}")


def owner_tag() -> str:
    """An ending for names, ``PID-MACHINE-TOKEN``, that says who writes there and cannot be guessed."""
    return f"{os.getpid()}-{_machine()}-{secrets.token_hex(4)}"


def owned_by_dead_process(path: Path) -> bool:
    """Whether a name ends in ``.tmp-PID`` or an :func:`owner_tag` whose process, on this machine, is gone.

    Examples:
        >>> owned_by_dead_process(Path(f"set.tmp-{os.getpid()}")), owned_by_dead_process(Path("set"))
        (False, False)
    """
    match = _TEMPORARY.search(path.name) or _TAGGED.search(path.name)
    if match is None or match["machine"] not in (None, _machine()):
        return False
    return not process_lives(int(match["pid"] or match["only_pid"]))


def process_lives(pid: int) -> bool:
    """Whether a process of this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def clear_leftovers(path: Path, ours: Callable[[Path], bool] | None = None) -> list[Path]:
    """Delete the temporaries of ``path`` that killed processes have left beside it.

    Args:
        path: the file or folder that they were to become.
        ours: whether the content of a temporary folder is what the library writes; a folder for which it
            is False stays. Without it only files and empty folders are deleted.

    Returns:
        what was deleted.
    """
    cleared = []
    for place in _list(path.parent):
        of_path = _TEMPORARY.sub("", place.name) in (path.name, _beginning(path))
        if place.name == path.name or not of_path or not owned_by_dead_process(place):
            continue
        with contextlib.suppress(OSError):
            if place.is_symlink() or not place.is_dir():
                place.unlink()
            elif ours is not None and ours(place):
                shutil.rmtree(place)
            else:
                place.rmdir()
            cleared.append(place)
    return cleared


def sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def _reserve(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:  # not every system has it; writing finds a full disk too, only later
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


@contextlib.contextmanager
def _disposed(temporary: Path, remove: Callable[[Path], None]) -> Iterator[Path]:
    """Remove a temporary that has not become what it was made for."""
    try:
        yield temporary
    finally:
        remove(temporary)


def _beginning(path: Path) -> str:
    """The name of a path, cut so that a temporary's ending fits behind it."""
    kept = path.name
    while len(os.fsencode(kept)) > _SYSTEM_LIMIT - _ENDING:
        kept = kept[:-1]
    return kept


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _remove_folder(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _machine() -> str:
    """Eight characters for this machine and its space of process ids: a folder may be shared by several."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return hashlib.sha256(f"{socket.gethostname()}/{space}".encode()).hexdigest()[:8]


def _readable(size: float) -> str:
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"
