"""Safe file output: checked paths, reserved space, atomic replacement, and cleanup after killed processes.

Every path is checked before it is used (:func:`resolved`). Every file is written and synced under an
unpredictable temporary name and then renamed (:func:`atomic_write`). Temporary names contain the writer's
process id, so the next writer can remove those of killed processes (:func:`clear_leftovers`).
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

#: error numbers of a full disk or an exhausted quota
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_TAG = r"(?P<pid>\d{1,10})-(?P<machine>[0-9a-f]{8})-[0-9a-f]{8}"
_TEMPORARY = re.compile(rf"\.tmp-({_TAG}|(?P<only_pid>\d{{1,10}}))$")
_TAGGED = re.compile(rf"-{_TAG}$")
_SYSTEM_LIMIT = 255
_ENDING = len(".tmp-") + 10 + 2 * len("-01234567")
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


class StorageError(OSError, ValueError):
    """A path that cannot be used, or a full disk; the message contains the path and how to fix it.

    Examples:
        >>> resolved("")
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.storage.StorageError: the path is empty; give the path of a file or folder
    """


def expanded(path: str | os.PathLike[str]) -> Path:
    """Replace a leading ``~`` by the home folder; nothing else changes.

    Raises:
        StorageError: if the value is empty or not a path, or the user is unknown.

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
        raise StorageError("the path is empty; give the path of a file or folder")
    if "\0" in text:
        raise StorageError(f"the path {text!r} contains a null byte; choose another name")
    home = os.path.expanduser(text)
    if home.startswith("~"):
        raise StorageError(
            f"{text}: the home folder of {text.split(os.sep)[0]!r} is unknown; write the full path, or ./{text} "
            "if the name begins with ~"
        )
    return Path(home)


def resolved(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path with ``~`` and links resolved, after checking that it can be written.

    Nothing is created. Call this before the work whose result is written there.

    Args:
        path: a file or folder, which need not exist.

    Raises:
        StorageError: if the path is empty, one of its names is too long, a link is broken, a parent is a
            file, or the folder is not writable.

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
                    f"{path}: {place} is a broken link to {os.readlink(place)}; "
                    "create its target or remove the link"
                )
            if place != absolute and os.path.lexists(place) and not place.is_dir():
                raise StorageError(f"{path}: {place} is a file, not a folder; choose another path")
        real = Path(os.path.realpath(absolute))
        existing = next(place for place in (real, *real.parents) if os.path.lexists(place))
    except StorageError:
        raise
    except OSError as error:  # path too long, a loop of links, a folder without access
        raise StorageError(f"{path}: {error.strerror}; choose another path") from error
    folder = existing if existing.is_dir() else existing.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(
            f"{path}: {folder} is not writable (missing permissions or a read-only disk); choose "
            "another path or change the permissions"
        )
    return real


def disk_of(path: Path) -> Path:
    """Return the mount point of the disk that contains, or will contain, ``path``."""
    place = next(each for each in (path, *path.parents) if each.exists()).resolve()
    while not os.path.ismount(place):
        place = place.parent
    return place


def require_space(path: Path, size: int) -> None:
    """Check that ``size`` bytes fit on the disk of ``path``.

    Raises:
        StorageError: if they do not fit; the message contains the path, the disk and both sizes.
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
    """Create a new file, yield its descriptor, and sync it at the end.

    Args:
        path: the file. An existing file or link is never opened.
        size: bytes to reserve first, so that a full disk is detected before anything is written.

    Raises:
        FileExistsError: if the path exists.
        StorageError: if the disk is full; no partial file remains.
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
    """Convert "no space left" errors into a StorageError that contains the file and the disk."""
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
    """Yield a temporary file beside ``path``; at the end, sync it and rename it to ``path``.

    If the process is killed, ``path`` contains either the complete old content or the complete new content.
    Temporary files that killed writers of the same file have left are removed.

    Args:
        path: the file to write; its folder must exist.
        follow_link: if ``path`` is a link, write its target and keep the link; otherwise replace the link and
            keep its target unchanged.

    Raises:
        StorageError: if the path cannot be used or the disk is full; nothing changes in this case.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_write(folder / "notes.txt") as temporary:
        ...     _ = temporary.write_text("completely or not at all")
        >>> [file.name for file in folder.iterdir()]
        ['notes.txt']
    """
    target = resolved(path) if follow_link else resolved(Path(path).parent) / Path(path).name
    if target.is_dir():
        raise StorageError(f"{path} is a folder, so no file can be written there; choose another name")
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
    """Write a file completely or not at all; see :func:`atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text completely or not at all; see :func:`atomic_write`."""
    atomic_write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; at the end, rename it to ``path``, which must not exist.

    Raises:
        StorageError: if ``path`` exists by then, or the disk is full. The temporary folder is removed.
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
                f"{path} was created by another process in the meantime and is unchanged; choose another path"
            ) from error
        sync(path.parent)


def temporary_path(path: Path) -> Path:
    """An unpredictable path beside ``path`` that contains this process's id: ``NAME.tmp-PID-...``."""
    return path.with_name(f"{_beginning(path)}.tmp-{owner_tag()}")


def owner_tag() -> str:
    """An unpredictable suffix, ``PID-MACHINE-TOKEN``, that identifies the writer."""
    return f"{os.getpid()}-{_machine()}-{secrets.token_hex(4)}"


def owned_by_dead_process(path: Path) -> bool:
    """Whether a name ends in ``.tmp-PID`` or an :func:`owner_tag` of a process of this machine that has ended.

    Examples:
        >>> owned_by_dead_process(Path(f"set.tmp-{os.getpid()}")), owned_by_dead_process(Path("set"))
        (False, False)
    """
    match = _TEMPORARY.search(path.name) or _TAGGED.search(path.name)
    if match is None or match["machine"] not in (None, _machine()):
        return False
    return not process_lives(int(match["pid"] or match["only_pid"]))


def process_lives(pid: int) -> bool:
    """Whether a process with this id is running on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def clear_leftovers(path: Path, ours: Callable[[Path], bool] | None = None) -> list[Path]:
    """Delete temporary files and folders of ``path`` that killed processes have left beside it.

    Args:
        path: the file or folder for which they were created.
        ours: whether a temporary folder contains only files that the library writes; other folders are
            kept. Without it, only files and empty folders are deleted.

    Returns:
        the deleted paths.
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
    """Flush a file's content, or a folder's entries, to the disk."""
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
    except AttributeError:  # not available on every system; writing detects a full disk too, but later
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


@contextlib.contextmanager
def _disposed(temporary: Path, remove: Callable[[Path], None]) -> Iterator[Path]:
    """Remove a temporary file or folder that was not renamed."""
    try:
        yield temporary
    finally:
        remove(temporary)


def _beginning(path: Path) -> str:
    """The name of a path, shortened so that the suffix of a temporary name fits."""
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
    """Eight characters that identify this machine and its process namespace; machines may share a folder."""
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
