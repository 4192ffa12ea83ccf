"""Pixels in and out: raw frames read without a copy, outputs written whole or not at all.

astropy says where the pixels are; only those of plain unsigned 16-bit images go past it, as a
read-only memory map. Raw files are opened for reading alone.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, RLock
from types import TracebackType
from typing import Any, Self

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from flatcal.errors import BrokenFileError, OutputError
from flatcal.frame import Storage
from flatcal.kernels.arithmetic import decode_uint16

Array = NDArray[Any]

_WARNINGS_LOCK = RLock()


class RawFrame:
    """The pixels of one raw file, open for reading.

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
        with naming(path), path.open("rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) != (storage.size_bytes, storage.mtime_ns):
                raise BrokenFileError(
                    "file-changed",
                    f"{path} had {storage.size_bytes} bytes when planned and has "
                    f"{status.st_size} now, or was touched since; plan again",
                    path,
                )
            self.stamp = (status.st_size, status.st_mtime_ns)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._pixels: Array | None = None
        if storage.plain_uint16:
            count = shape[0] * shape[1]
            flat = np.frombuffer(self._map, "<u2", count, storage.data_offset)
            self._pixels = flat.reshape(shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pixels = None
        # Interrupted, a thread may still read a band: then the map goes with its last view.
        with suppress(BufferError):
            self._map.close()
        if self._hdus is not None:
            self._hdus.close()

    def sha256(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self._map).hexdigest()

    def bytes_of(self, rows: slice, columns: slice) -> Array | None:
        """Pixels as the file holds them, for `kernels.arithmetic`; None if it cannot be so."""
        return None if self._pixels is None else self._pixels[rows, columns]

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
        if self._pixels is not None:
            decoded = np.empty(self._pixels[rows, columns].shape, dtype)
            decode_uint16(self._pixels[rows, columns], decoded)
            return decoded
        # astropy's lazy HDUs are not meant for several threads at once.
        with self._lock, naming(self.path):
            if self._hdus is None:
                with quiet_astropy():
                    self._hdus = fits.open(self.path, mode="readonly", memmap=False)
            # Whole rows: astropy reads a section with fewer columns row by row.
            band = self._hdus[self.storage.hdu].section[rows, :]
        return np.ascontiguousarray(band[:, columns], dtype=dtype)


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


def to_big_endian(image: Array) -> Array:
    """The same values in the byte order of FITS, swapped in place: `image` is used up."""
    swapped = image.byteswap(inplace=True)
    return swapped.view(image.dtype.newbyteorder(">"))


def write_image(
    path: Path, header: fits.Header, data: Array, std: Array | None, flags: Array | None
) -> None:
    """Write an output: a primary image with UNCERT and MASK extensions as CCDData reads them.

    The file appears under its name only when it is whole. The arrays are used up.

    Parameters
    ----------
    path : Path
        The file to be; replaced if it is there.
    header : Header
        Of the primary image, with BUNIT.
    data : ndarray of float32 or float64
        The image.
    std : ndarray or None
        Standard deviation, same shape, in the unit of the data.
    flags : ndarray of uint8 or None
        Bits of `flatcal.flags.Flag`; not zero is bad.
    """
    hdus = fits.HDUList([fits.PrimaryHDU(to_big_endian(data), header)])
    if std is not None:
        uncertainty = fits.ImageHDU(to_big_endian(std), name="UNCERT")
        uncertainty.header["UTYPE"] = ("StdDevUncertainty", "standard deviation per pixel")
        uncertainty.header["BUNIT"] = header["BUNIT"]
        hdus.append(uncertainty)
    if flags is not None:
        hdus.append(fits.ImageHDU(flags, name="MASK"))
    with replacing(path) as part:
        hdus.writeto(part)


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
