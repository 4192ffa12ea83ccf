"""One run at a time in an output folder.

The lock is a file that tells who holds it. It is made by a call that succeeds for one process
alone on any file system, and while its maker lives the system holds a lock on it (flock), which
ends with the process however that ends. So a lock that nobody holds is known to be dead and is
taken over, also that of another machine. Where the file system has no such locks, that is told by
the number of the process, on the machine that it ran on; from another machine it cannot be told.
At an address the lock is as `flatcal.engine.remote_lock` says.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from flatcal.engine.holder import busy, is_dead, read_holder, this_holder
from flatcal.engine.remote_lock import locking_remote
from flatcal.io import naming_output
from flatcal.storage import Place

LOCK_NAME = ".flatcal.lock"

_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_NOT_SUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def locking(folder: Place) -> Iterator[None]:
    """Hold an output folder for the time of the context.

    Parameters
    ----------
    folder : Path or RemotePath
        The folder.

    Raises
    ------
    OutputError
        Another run holds it (output-busy), or nothing can be written there.
    """
    hold = _locking_here(folder) if isinstance(folder, Path) else locking_remote(folder / LOCK_NAME)
    with hold:
        yield


@contextmanager
def _locking_here(folder: Path) -> Iterator[None]:
    path = folder / LOCK_NAME
    file = None
    with naming_output(path):
        while file is None:
            file = _claim(path)
    try:
        yield
    finally:
        _give_up(file, path)


def _claim(path: Path) -> IO[bytes] | None:
    """Make the lock and hold it; None to try again, as another process has come between."""
    try:
        file = path.open("x+b", buffering=0)
    except FileExistsError:
        _remove_dead(path)
        return None
    try:
        if _try_flock(file) is not False and _is_at(file, path):
            file.write(this_holder())
            return file
    except OSError:
        _give_up(file, path)
        raise
    file.close()
    return None


def _give_up(file: IO[bytes], path: Path) -> None:
    """Remove the lock of this run; where it was removed by hand, another's may be in its place."""
    with suppress(OSError):
        if _is_at(file, path):
            path.unlink(missing_ok=True)
    file.close()


def _remove_dead(path: Path) -> None:
    """Remove the lock of a process that is no more, or name the one that holds it."""
    try:
        file = path.open("r+b", buffering=0)
    except FileNotFoundError:
        return
    with file:
        free = _try_flock(file)
        if not _is_at(file, path):
            return
        # At a pipe of that name one could wait for ever.
        is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        holder = read_holder(file.read(1000) if is_file else b"")
        if free or (free is None and is_dead(holder)):
            path.unlink(missing_ok=True)
            return
    raise busy(path, holder)


def _try_flock(file: IO[bytes]) -> bool | None:
    """Whether the system's lock could be had; None where the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno in _NOT_SUPPORTED:
            return None
        raise
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
