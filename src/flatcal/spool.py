"""Remote files that are read as a whole, each byte fetched once.

Rows of a frame are wanted several times: to hash the file, a few for a first idea of the level,
all to calibrate, and again to combine. So what has been fetched is kept in a nameless file in the
system's temporary folder (TMPDIR), which ends with the process however that ends. A file is fetched
from the top down, in pieces, and only as far as rows are wanted. Files that are no longer open stay
for a while, those used least recently make room; where there is no room at all, rows are fetched
whenever they are wanted.
"""

from __future__ import annotations

import atexit
import os
import resource
import shutil
import sys
import tempfile
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock
from typing import IO, Final

from flatcal.file_status import FileStatus
from flatcal.storage import RemotePath
from flatcal.transfer import REQUESTS_AT_ONCE

# A piece is fetched by one request: four bands of pixels as they are calibrated.
_PIECE_BYTES: Final = 1 << 21
# A file as small as this takes less time whole than some of its rows by a request each.
SMALL_BYTES: Final = 2 * _PIECE_BYTES
# Of one file at once; so many pieces are in memory for each file that is being fetched.
_PIECES_AT_ONCE: Final = 4

_MOST_BYTES: Final = 4 << 30
# Of the files that the system lets a process open, and of the room in the temporary folder.
_SHARE_OF_FILES: Final = 4
_SHARE_OF_ROOM: Final = 2


class Spool:
    """The part of a remote file that has been fetched.

    Parameters
    ----------
    path : RemotePath
        The file.
    size_bytes : int
        Its size.
    """

    def __init__(self, path: RemotePath, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.n_users = 0
        self._file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._fetched = 0
        self._lock = Lock()

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill a buffer from a byte of the file on; give how many bytes there were."""
        self._fetch_up_to(min(offset + buffer.nbytes, self.size_bytes))
        return os.preadv(self._file.fileno(), [buffer], offset)

    def _fetch_up_to(self, end: int) -> None:
        with self._lock:
            while self._fetched < end:
                stop = min(self.size_bytes, end + -end % _PIECE_BYTES)
                stop = min(stop, self._fetched + _PIECES_AT_ONCE * _PIECE_BYTES)
                starts = range(self._fetched, stop, _PIECE_BYTES)
                for piece in _fetchers().map(
                    self.path.read_range, starts, [min(s + _PIECE_BYTES, stop) for s in starts]
                ):
                    os.pwrite(self._file.fileno(), piece, self._fetched)
                    self._fetched += len(piece)
                if self._fetched < stop:  # the file has become shorter
                    return

    def close(self) -> None:
        """Give its room back."""
        self._file.close()


class _Shelf:
    """The spools of this process."""

    def __init__(self) -> None:
        self._spools: OrderedDict[tuple[RemotePath, FileStatus], Spool] = OrderedDict()
        self._lock = Lock()

    def borrow(self, path: RemotePath, status: FileStatus) -> Spool | None:
        """The spool of a file as it is now, or None where there is no room for it."""
        with self._lock:
            key = path, status
            if key not in self._spools:
                if not self._make_room(status.size_bytes):
                    return None
                self._spools[key] = Spool(path, status.size_bytes)
            self._spools.move_to_end(key)
            spool = self._spools[key]
            spool.n_users += 1
            return spool

    def give_back(self, spool: Spool) -> None:
        """Nobody reads by it any more who has borrowed it."""
        with self._lock:
            spool.n_users -= 1

    def clear(self) -> None:
        """Give all room back."""
        with self._lock:
            while self._spools:
                self._spools.popitem()[1].close()

    def _make_room(self, size_bytes: int) -> bool:
        held = sum(spool.size_bytes for spool in self._spools.values())
        free = shutil.disk_usage(tempfile.gettempdir()).free
        most_bytes = min(_MOST_BYTES, (free + held) // _SHARE_OF_ROOM) - size_bytes
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most_files = sys.maxsize if limit == resource.RLIM_INFINITY else limit // _SHARE_OF_FILES
        for key in [key for key, spool in self._spools.items() if not spool.n_users]:
            if held <= most_bytes and len(self._spools) < most_files:
                break
            held -= self._spools[key].size_bytes
            self._spools.pop(key).close()
        return held <= most_bytes and len(self._spools) < most_files


SPOOLS: Final = _Shelf()
atexit.register(SPOOLS.clear)


@cache
def _fetchers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="flatcal-fetch")
