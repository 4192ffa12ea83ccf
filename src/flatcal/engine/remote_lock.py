"""One run at a time at an output address.

The lock is an object that is made on the condition that there is none of its name (If-None-Match on
S3), which succeeds for one of several who try. That of a process that is no more is taken over on
the condition that nobody else has (If-Match), but only on the machine on which that process ran:
from elsewhere nobody can tell whether it lives. The lock is read back after it was written, for a
server that does not know these conditions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from flatcal.engine.holder import busy, is_dead, is_this, read_holder, this_holder
from flatcal.errors import StorageError
from flatcal.io import naming_output
from flatcal.storage import RemotePath

# What this process has written into locks that it holds. Another with its number is left of a run
# whose server went away before its end.
_OURS: set[bytes] = set()

logger = logging.getLogger(__name__)


@contextmanager
def locking_remote(lock: RemotePath) -> Iterator[None]:
    """Hold the lock for the time of the context.

    Parameters
    ----------
    lock : RemotePath
        The lock.

    Raises
    ------
    OutputError
        Another run holds it (output-busy), or nothing can be written there.
    """
    mine = this_holder()
    _OURS.add(mine)
    try:
        _claim(lock, mine)
        try:
            yield
        finally:
            _release(lock, mine)
    finally:
        _OURS.discard(mine)


def _claim(lock: RemotePath, mine: bytes) -> None:
    with naming_output(lock):
        while not _try_to_claim(lock, mine):
            pass
        if (there := lock.read_bytes()) != mine:
            raise busy(lock, read_holder(there))


def _try_to_claim(lock: RemotePath, mine: bytes) -> bool:
    """Make the lock or take it over; False to try again, as another process has come between."""
    try:
        lock.create(mine)
    except FileExistsError:
        try:
            _take_over(lock, mine)
        except FileNotFoundError:
            return False
    return True


def _take_over(lock: RemotePath, mine: bytes) -> None:
    """Take the lock of a process that is no more, or name the one that holds it."""
    etag = lock.status_now().etag
    content = lock.read_bytes()
    if content == mine:  # the first try has made it, and its answer was lost
        return
    holder = read_holder(content)
    if not is_dead(holder) and (not is_this(holder) or content in _OURS):
        raise busy(lock, holder)
    try:
        lock.replace_unchanged(mine, etag)
    except OSError as error:
        logger.info("somebody else has taken %s over: %s", lock, error)
        raise busy(lock, read_holder(lock.read_bytes())) from error


def _release(lock: RemotePath, mine: bytes) -> None:
    """Remove the lock, unless it has become another's; the outcome of the run stands either way."""
    try:
        if lock.read_bytes() == mine:
            lock.unlink()
    except (OSError, StorageError) as error:
        logger.warning("%s may be left: %s", lock, error)
