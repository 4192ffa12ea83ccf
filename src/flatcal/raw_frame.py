"""Raw frames, read without a copy and for reading alone.

astropy says where the pixels are; those of plain images go past it.
"""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from flatcal.errors import BrokenFileError, FlatcalError
from flatcal.frame import Storage
from flatcal.headers import unzipping
from flatcal.io import naming, quiet_astropy
from flatcal.pixel_file import PixelFile, open_pixels
from flatcal.storage import Place, RemotePath

Array = NDArray[Any]

# Bytes that are read and hashed at once where they are not needed for anything else.
_READ_BYTES = 1 << 20


class _OpenFiles:
    """Which raw files stay open: as many as a share of the system's limit allows.

    The others are opened for each read. One whose pixels are astropy's counts as two files, so
    that no more than half of the limit is taken.
    """

    _SHARE = 4

    def __init__(self) -> None:
        self._lock = Lock()
        self._n_open = 0

    def admit(self) -> bool:
        """Whether one more may stay open."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        with self._lock:
            admitted = limit == resource.RLIM_INFINITY or self._n_open < limit // self._SHARE
            self._n_open += admitted
        return admitted

    def leave(self) -> None:
        """One that was admitted is closed."""
        with self._lock:
            self._n_open -= 1


_OPEN_FILES = _OpenFiles()


class RawFrame:
    """The pixels of one raw file, open for reading.

    Rows are read where they are needed, never mapped: of a file that shrinks or a disk that
    fails while it is read comes an error that names the file, not the end of the process.

    Parameters
    ----------
    path : Path or RemotePath
        The file.
    storage : Storage
        Where its pixels lie, as found when its header was read.
    shape : tuple of int
        Rows and columns.
    whole : bool
        Whether all of it will be read, perhaps more than once: a remote file is then fetched once.

    Raises
    ------
    BrokenFileError
        When the file has changed since, or cannot be opened; at the end of the context, when it
        has changed within.
    """

    def __init__(
        self, path: Place, storage: Storage, shape: tuple[int, int], *, whole: bool = False
    ) -> None:
        self.path = path
        self.storage = storage
        self.shape = shape
        self._whole = whole
        self._lock = Lock()
        self._units: _Units | None = None
        self._hash: Any = None
        self._hashed = 0
        self._file: PixelFile | None = self._open()
        # A remote one takes no place among the open files of the system.
        self._is_counted = isinstance(path, Path) and _OPEN_FILES.admit()
        self._stays_open = self._is_counted or isinstance(path, RemotePath)
        if not self._stays_open:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._file is not None:
                self._require_unchanged(self._file)
        finally:
            if self._file is not None:
                self._file.close()
            if self._is_counted:
                _OPEN_FILES.leave()
            if self._units is not None:
                self._units.close()

    def _open(self) -> PixelFile:
        with naming(self.path):
            file = open_pixels(self.path, self.storage.stamp, whole=self._whole)
        try:
            self._require_unchanged(file)
        except FlatcalError:
            file.close()
            raise
        return file

    def _require_unchanged(self, file: PixelFile) -> None:
        with naming(self.path):
            status = file.status()
        if status != self.storage.stamp:
            raise BrokenFileError(
                "file-changed",
                f"{self.path} had {self.storage.size_bytes} bytes when planned and has "
                f"{status.size_bytes} now, or was touched since; plan again",
                self.path,
            )

    @contextmanager
    def _opened(self) -> Iterator[PixelFile]:
        """The file, which stays open if there is room for that."""
        if self._file is not None:
            yield self._file
        else:
            file = self._open()
            try:
                yield file
                self._require_unchanged(file)
            finally:
                file.close()

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
        with naming(self.path), self._opened() as file:
            while end is None or self._hashed < end:
                n_bytes = _READ_BYTES if end is None else min(_READ_BYTES, end - self._hashed)
                content = np.empty(n_bytes, np.uint8)
                n_read = file.read_into(content.data, self._hashed)
                if not n_read:
                    break
                self._hash.update(content[:n_read])
                self._hashed += n_read

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
        with naming(self.path), self._opened() as file:
            n_read = file.read_into(pixels.data, offset)
        if n_read != pixels.nbytes:
            raise BrokenFileError(
                "file-broken",
                f"{self.path} ends at byte {offset + n_read}, "
                f"{pixels.nbytes - n_read} bytes too early; copy the file again",
                self.path,
            )
        return pixels

    def look_at_row(self, row: int) -> Array:
        """One row beside those that are read, which takes no part in their hash.

        It is as stored of a plain file, else values of float64; shape (1, columns).
        """
        rows = slice(row, row + 1)
        if self.is_plain:
            return self._read_stored(rows)
        return self.values(rows, slice(0, self.shape[1]), np.float64)

    def look_at(self, rows: slice, columns: slice) -> Array:
        """Values of a region beside what is read, which takes no part in the hash.

        They are uint16 of a plain file, else float64.
        """
        if self.is_plain:
            return decode(self._read_stored(rows)[:, columns], np.uint16)
        return self.values(rows, columns, np.float64)

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
        # astropy's lazy HDUs are not meant for several threads at once. Pixels that are no numbers,
        # or that `dtype` cannot hold, are no good ones, and not to be warned of.
        with self._lock, naming(self.path), np.errstate(all="ignore"), self._opened() as file:
            units = self._units or _Units(file)
            try:
                # Whole rows: astropy reads a section with fewer columns row by row.
                hdu, plane = units.hdus[self.storage.hdu], self.storage.plane
                # Axes beyond the third have a length of 1.
                before = () if plane is None else (*(0,) * (len(hdu.shape) - 3), plane)
                band = hdu.section[(*before, rows, slice(None))]
            finally:
                if self._stays_open:
                    self._units = units
                else:
                    units.close()
            wanted = (rows.stop - rows.start, self.shape[1])
            if band.shape != wanted:
                raise BrokenFileError(
                    "file-broken",
                    f"{self.path} has pixels of shape {band.shape} where its header announces "
                    f"{wanted}; copy the file again",
                    self.path,
                )
            return np.ascontiguousarray(band[:, columns], dtype=dtype)


class _Units:
    """An open file as astropy reads it; closing it leaves the file open."""

    def __init__(self, file: PixelFile) -> None:
        self._reader = file.reader()
        try:
            with quiet_astropy():
                # As unsigned integers its pixels would have no NaN for those that are BLANK.
                self.hdus = fits.open(unzipping(self._reader), memmap=False, uint=False)
        except BaseException:
            self._reader.close()
            raise

    def close(self) -> None:
        self.hdus.close()
        self._reader.close()  # which astropy does not where the file is zipped


def decode(stored: Array, dtype: Any) -> Array:
    """Values of stored pixels (see `RawFrame.stored_rows`): big-endian, BZERO 32768."""
    values: Array = (stored.byteswap() ^ np.uint16(0x8000)).astype(dtype)
    return values
