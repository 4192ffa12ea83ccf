"""Files whose pixels are read by place: on this machine, and at an address."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Protocol

from flatcal.file_status import FileStatus
from flatcal.headers import open_file
from flatcal.spool import SMALL_BYTES, SPOOLS, Spool
from flatcal.storage import Place, RangeReader, RemotePath


class PixelFile(Protocol):
    """A file that is open; several threads may read at once."""

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill a buffer from a byte of the file on; give how many bytes there were."""
        ...

    def reader(self) -> IO[bytes] | RangeReader:
        """The open file from its beginning, as astropy reads one; one reader at a time."""
        ...

    def status(self) -> FileStatus:
        """Size and identity as they are now."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


def open_pixels(place: Place, known: FileStatus, *, whole: bool) -> PixelFile:
    """Open a file.

    Parameters
    ----------
    place : Path or RemotePath
        The file.
    known : FileStatus
        What it was when its header was read; the caller looks whether it still is.
    whole : bool
        Whether all of it will be read; a remote file is then fetched once.

    Raises
    ------
    FrameError
        It is no file (file-broken).
    OSError
        It cannot be opened.
    """
    if isinstance(place, Path):
        return LocalPixels(place)
    return RemotePixels(place, known, whole=whole)


class LocalPixels:
    """A file of this machine.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = open_file(path, buffering=0)
        self._descriptor = self._file.fileno()

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """See `PixelFile`."""
        return os.preadv(self._descriptor, [buffer], offset)

    def reader(self) -> IO[bytes]:
        """See `PixelFile`; not by the path, under which another file may stand by now."""
        reader = os.fdopen(os.dup(self._descriptor), "rb")
        reader.seek(0)
        return reader

    def status(self) -> FileStatus:
        """See `PixelFile`."""
        status = os.fstat(self._descriptor)
        return FileStatus(status.st_size, status.st_mtime_ns, "")

    def close(self) -> None:
        """See `PixelFile`."""
        self._file.close()


class RemotePixels:
    """A file at an address; its rows come from its spool, or each by a request of its own.

    Parameters
    ----------
    path : RemotePath
        The file.
    known : FileStatus
        What it was when its header was read.
    whole : bool
        Whether it gets a spool, if there is room; a small file gets one in any case.
    """

    def __init__(self, path: RemotePath, known: FileStatus, *, whole: bool) -> None:
        self._path = path
        self._size_bytes = known.size_bytes
        whole = whole or known.size_bytes <= SMALL_BYTES
        self._spool: Spool | None = SPOOLS.borrow(path, known) if whole else None

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """See `PixelFile`."""
        buffer = buffer.cast("B")
        if self._spool is not None:
            return self._spool.read_into(buffer, offset)
        content = self.read_range(offset, offset + buffer.nbytes)
        buffer[: len(content)] = content
        return len(content)

    def read_range(self, start: int, stop: int) -> bytes:
        """Bytes of the file; fewer where it ends before."""
        stop = min(stop, self._size_bytes)
        if stop <= start:
            return b""
        if self._spool is None:
            return self._path.read_range(start, stop)
        content = bytearray(stop - start)
        return bytes(content[: self._spool.read_into(memoryview(content), start)])

    def reader(self) -> RangeReader:
        """See `PixelFile`."""
        return RangeReader(self, self._size_bytes)

    def status(self) -> FileStatus:
        """See `PixelFile`."""
        return self._path.status_now()

    def close(self) -> None:
        """See `PixelFile`."""
        if self._spool is not None:
            SPOOLS.give_back(self._spool)
            self._spool = None
