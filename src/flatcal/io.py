"""Raw frames read without a copy; files written whole or not at all.

astropy says where the pixels are and makes the headers; only pixels go past it. Raw files are
opened for reading alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, RLock
from types import TracebackType
from typing import Any, Self

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from flatcal.errors import BrokenFileError, OutputError
from flatcal.frame import Storage

Array = NDArray[Any]

# Bytes that are read and hashed at once where they are not needed for anything else.
_READ_BYTES = 1 << 20

_WARNINGS_LOCK = RLock()


class RawFrame:
    """The pixels of one raw file, open for reading.

    Rows are read where they are needed, never mapped: of a file that shrinks or a disk that
    fails while it is read comes an error that names the file, not the end of the process.

    Parameters
    ----------
    path : Path
        The file.
    storage : Storage
        Where its pixels lie, as found when its header was read.
    shape : tuple of int
        Rows and columns.

    Raises
    ------
    BrokenFileError
        When the file has changed since, or cannot be opened.
    """

    def __init__(self, path: Path, storage: Storage, shape: tuple[int, int]) -> None:
        self.path = path
        self.storage = storage
        self.shape = shape
        self._lock = Lock()
        self._hdus: fits.HDUList | None = None
        self._hash: Any = None
        self._hashed = 0
        with naming(path):
            self._file = path.open("rb", buffering=0)
        status = os.fstat(self._file.fileno())
        self.stamp = (status.st_size, status.st_mtime_ns)
        if self.stamp != (storage.size_bytes, storage.mtime_ns):
            self._file.close()
            raise BrokenFileError(
                "file-changed",
                f"{path} had {storage.size_bytes} bytes when planned and has "
                f"{status.st_size} now, or was touched since; plan again",
                path,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._hdus is not None:
            self._hdus.close()

    def sha256(self) -> str:
        """SHA-256 of the file; of what `hash_while_reading` has not seen, the rest is read."""
        self.hash_while_reading()
        self._hash_up_to(None)
        digest: str = self._hash.hexdigest()
        return digest

    def hash_while_reading(self) -> None:
        """Hash stored rows as they are read: from the top down, by one thread."""
        if self._hash is None:
            self._hash = hashlib.sha256()

    def _hash_up_to(self, end: int | None) -> None:
        """Hash what has not been hashed up to a byte of the file, or to its end."""
        descriptor = self._file.fileno()
        with naming(self.path):
            while end is None or self._hashed < end:
                n_bytes = _READ_BYTES if end is None else min(_READ_BYTES, end - self._hashed)
                content = os.pread(descriptor, n_bytes, self._hashed)
                if not content:
                    break
                self._hash.update(content)
                self._hashed += len(content)

    @property
    def is_plain(self) -> bool:
        """Whether the kernels can decode what `stored_rows` gives."""
        return self.storage.plain_uint16

    def stored_rows(self, rows: slice) -> Array:
        """Rows as the file holds them: the bytes of a plain image, viewed as uint16.

        Parameters
        ----------
        rows : slice
            With explicit ends.

        Raises
        ------
        BrokenFileError
            When the file ends before them or cannot be read.
        """
        pixels = self._read_stored(rows)
        offset = self._offset(rows)
        if self._hash is not None:
            self._hash_up_to(offset)
            if offset == self._hashed:
                self._hash.update(pixels)
                self._hashed += pixels.nbytes
        return pixels

    def _offset(self, rows: slice) -> int:
        start: int = rows.start
        return self.storage.data_offset + start * self.shape[1] * 2

    def _read_stored(self, rows: slice) -> Array:
        pixels = np.empty((rows.stop - rows.start, self.shape[1]), "<u2")
        offset = self._offset(rows)
        with naming(self.path):
            n_read = os.preadv(self._file.fileno(), [pixels.data], offset)
        if n_read != pixels.nbytes:
            raise BrokenFileError(
                "file-broken",
                f"{self.path} ends at byte {offset + n_read}, "
                f"{pixels.nbytes - n_read} bytes too early; copy the file again",
                self.path,
            )
        return pixels

    def look_at_row(self, row: int) -> Array:
        """Values of one row beside those that are read, which takes no part in their hash."""
        if self.is_plain:
            values = decode(self._read_stored(slice(row, row + 1)), np.float64)
        else:
            values = self.values(slice(row, row + 1), slice(0, self.shape[1]), np.float64)
        return values.reshape(-1)

    def values(self, rows: slice, columns: slice, dtype: Any) -> Array:
        """Pixel values of a region, scaled by BZERO and BSCALE, in native byte order.

        Parameters
        ----------
        rows, columns : slice
            With explicit ends.
        dtype : dtype
            Of the result.

        Raises
        ------
        BrokenFileError
            When the data cannot be decoded.
        """
        if self.is_plain:
            return decode(self.stored_rows(rows)[:, columns], dtype)
        # astropy's lazy HDUs are not meant for several threads at once.
        with self._lock, naming(self.path):
            if self._hdus is None:
                with quiet_astropy():
                    self._hdus = fits.open(self.path, mode="readonly", memmap=False)
            # Whole rows: astropy reads a section with fewer columns row by row.
            band = self._hdus[self.storage.hdu].section[rows, :]
        return np.ascontiguousarray(band[:, columns], dtype=dtype)


def decode(stored: Array, dtype: Any) -> Array:
    """Values of stored pixels (see `RawFrame.stored_rows`): big-endian, BZERO 32768."""
    values: Array = (stored.byteswap() ^ np.uint16(0x8000)).astype(dtype)
    return values


@contextmanager
def quiet_astropy() -> Iterator[None]:
    """No warnings about odd headers: planning has named what matters of them already.

    One thread at a time, because the filters of warnings belong to the whole process.
    """
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the file system and of decoding, with the file's name and a slug."""
    try:
        yield
    except BrokenFileError:
        raise
    except (OSError, MemoryError) as error:
        if isinstance(error, MemoryError) or error.errno in (errno.EMFILE, errno.ENFILE):
            # Not the file's fault: it must not be named as broken and left out.
            raise OutputError("resources", f"{path} cannot be opened: {error}") from error
        raise BrokenFileError("file-broken", f"{path} cannot be read: {error}", path) from error
    except Exception as error:
        # Of a damaged file astropy and its C library may raise anything.
        raise BrokenFileError("file-broken", f"{path} cannot be read: {error}", path) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its name when all went well."""
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise OutputError(
            "output-not-writable", f"{path} cannot be written: {error.strerror or error}"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; one that holds the same text is left alone."""
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with replacing(path) as part:
        part.write_bytes(text.encode())
