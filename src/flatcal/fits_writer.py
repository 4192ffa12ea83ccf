"""Outputs written band by band, plain or packed without loss, and whole or not at all.

astropy makes the headers; only pixels go past it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from flatcal.extension import plane_key
from flatcal.fits_checksum import CARD_BYTES, RunningSum, add_checksums
from flatcal.io import part_of, replacing
from flatcal.storage import Place

Array = NDArray[Any]

FITS_BLOCK = 2880

# Suffix of tile-compressed files (FITS standard 4.0, section 10).
PACKED = ".fz"

# Cards of the structure of a file, and the checksums; and those that an extension has besides.
_OWN_CARDS = 9
_EXTENSION_CARDS = 4

# DATASUM, CHECKSUM and END.
_CARDS_OF_CHECKSUMS = 3

# Bytes that are swapped and written at once.
_SWAPPED_BYTES = 1 << 19


class ImageWriter:
    """An output that is written in bands of rows, its headers last: they tell what was found.

    An image and its other planes, each with checksums; UNCERT and MASK are as CCDData reads them.

    Parameters
    ----------
    file : RawIOBase
        Empty.
    header : Header
        Of the primary image, with BUNIT.
    n_more_cards : int
        Cards that the final header may have in addition.
    shape : tuple of int
        Rows and columns.
    dtypes : mapping of str to dtype
        Names and types of the planes, the first that of the primary image.
    extension : str
        Of an output of several images which one it is; empty where the image is the primary one.
    start : int
        Byte at which it begins.

    Attributes
    ----------
    end : int
        Byte at which it ends.
    """

    def __init__(
        self,
        file: RawIOBase,
        header: fits.Header,
        n_more_cards: int,
        shape: tuple[int, int],
        dtypes: Mapping[str, Any],
        extension: str = "",
        start: int = 0,
    ) -> None:
        self._file = file
        self._extension = extension
        # For their shape and type: an image of one value takes no memory.
        (_, self._image), *others = (
            (name, np.broadcast_to(np.zeros((), dtype), shape)) for name, dtype in dtypes.items()
        )
        self._extensions = [self._as_extension(image, name) for name, image in others]
        for (name, _), hdu in zip(others, self._extensions, strict=True):
            if name == "UNCERT":
                hdu.header["UTYPE"] = ("StdDevUncertainty", "standard deviation per pixel")
                hdu.header["BUNIT"] = header["BUNIT"]
        self._places: list[HduPlace] = []
        self.end = start
        n_more_cards += _EXTENSION_CARDS if extension else 0
        for its_header, image, n_more in (
            (header, self._image, n_more_cards),
            *((hdu.header, hdu.data, 0) for hdu in self._extensions),
        ):
            self._places.append(HduPlace(self.end, its_header, n_more, image.dtype, shape))
            self.end = self._places[-1].end
        # What is never written is zero, as the padding has to be.
        file.truncate(self.end)

    def _as_extension(
        self, image: Array, plane: str, header: fits.Header | None = None
    ) -> fits.ImageHDU:
        if not self._extension:
            return fits.ImageHDU(image, name=plane)
        name, version = plane_key(self._extension, plane)
        hdu = fits.ImageHDU(image, header, name=name)
        hdu.header["EXTNAME"] = (name, "extension name")  # astropy has put it in capitals
        if "," in self._extension:
            hdu.ver = version
        return hdu

    def write(self, *planes: Array) -> None:
        """Write the next rows of all planes.

        Parameters
        ----------
        *planes : ndarray, shape (any number of rows, columns)
            In the order in which they were announced.
        """
        for place, plane in zip(self._places, planes, strict=True):
            place.write(self._file, plane)

    def finish(self, header: fits.Header) -> None:
        """Write the headers, when all rows have been written.

        Parameters
        ----------
        header : Header
            That of the image as it is now.
        """
        if self._extension:
            first = self._as_extension(self._image, "PRIMARY", header)
        else:
            first = fits.PrimaryHDU(self._image, header)
            if self._extensions:
                first.header.set("EXTEND", True, after="NAXIS2")
        for place, hdu in zip(self._places, (first, *self._extensions), strict=True):
            place.write_header(self._file, hdu.header)


class HduPlace:
    """Where an HDU lies in a file, and how much of it has been written."""

    def __init__(
        self,
        start: int,
        header: fits.Header,
        n_more_cards: int,
        dtype: np.dtype[Any],
        shape: tuple[int, int],
    ) -> None:
        self._start = start
        text = header.tostring(padding=False)
        self._header_bytes = whole_blocks(len(text) + (n_more_cards + _OWN_CARDS) * CARD_BYTES)
        self._next = start + self._header_bytes
        self._dtype = dtype.newbyteorder(">")
        self._data_end = self._next + shape[0] * shape[1] * dtype.itemsize
        self.end = self._next + whole_blocks(self._data_end - self._next)
        self._sum = RunningSum()

    def write(self, file: RawIOBase, rows: Array) -> None:
        """Append rows, in the byte order of FITS.

        They are swapped a few at a time: those are still in a near cache when they are written.
        """
        step = max(1, _SWAPPED_BYTES // rows[0].nbytes)
        for start in range(0, len(rows), step):
            swapped = rows[start : start + step].astype(self._dtype).ravel().view(np.uint8)
            self._sum.add(swapped)
            file.seek(self._next)
            write_whole(file, swapped.data)
            self._next += swapped.nbytes

    def write_header(self, file: RawIOBase, header: fits.Header) -> None:
        """Write the header into the place that was left for it, when all rows are written."""
        if self._next != self._data_end:
            raise RuntimeError(f"{self._data_end - self._next} bytes of pixels are not written")
        file.seek(self._start)
        write_whole(file, memoryview(add_checksums(header, self._sum.value, self._header_bytes)))


def whole_blocks(n_bytes: int) -> int:
    """Bytes of as many whole blocks as are needed."""
    return -(-n_bytes // FITS_BLOCK) * FITS_BLOCK


def go_on() -> None:
    """Nobody interrupts."""


@contextmanager
def writing_image(
    path: Place,
    header: fits.Header,
    n_more_cards: int,
    shape: tuple[int, int],
    dtypes: Mapping[str, Any],
    leave: Callable[[], None] = go_on,
) -> Iterator[ImageWriter]:
    """An output that appears under its name when it is whole, and not at all when it fails.

    Parameters
    ----------
    path : Path or RemotePath
        The file to be; replaced if it is there. Its planes are packed if it ends in `PACKED`.
    header, n_more_cards, shape, dtypes
        As for `ImageWriter`, which the caller must finish.
    leave : callable
        Ends the writing with an exception when the run has been interrupted.
    """
    with writing_hdus(path, leave) as file:
        yield ImageWriter(file, header, n_more_cards, shape, dtypes)


@contextmanager
def writing_hdus(path: Place, leave: Callable[[], None] = go_on) -> Iterator[RawIOBase]:
    """An empty file for HDUs, which has the name when it is whole, and packed if that says so."""
    with replacing(path) as part:
        is_packed = path.name.endswith(PACKED)
        plain = part_of(part) if is_packed else part
        try:
            with plain.open("wb", buffering=0) as file:
                yield file
            if is_packed:
                _pack(plain, part, leave)
        finally:
            if is_packed:
                plain.unlink(missing_ok=True)


def _pack(plain: Path, packed: Path, leave: Callable[[], None]) -> None:
    """Write the planes of a file once more, each in tiles of one row compressed without loss.

    Integers by Rice's algorithm, and numbers of which no bit may change by gzip of their bytes,
    shuffled so that bytes of one significance lie together. One plane is in memory at a time.
    """
    with fits.open(plain, memmap=False) as hdus, packed.open("wb", buffering=0) as file:
        if hdus[0].header["NAXIS"]:
            write_whole(file, memoryview(add_checksums(fits.PrimaryHDU().header, 0, FITS_BLOCK)))
        for hdu in hdus:
            leave()
            if hdu.header["NAXIS"]:
                _write_packed(file, hdu)
                del hdu.data
            else:  # of a mosaic, whose images are all in extensions
                write_whole(file, memoryview(hdu.header.tostring().encode("ascii")))


def _write_packed(file: RawIOBase, hdu: Any) -> None:
    """Append a plane; its own checksums become ZHECKSUM and ZDATASUM, which funpack restores."""
    packed = fits.CompImageHDU(
        hdu.data,
        hdu.header,
        name=hdu.name,
        compression_type="RICE_1" if hdu.header["BITPIX"] > 0 else "GZIP_2",
        quantize_level=0,
    )
    memory = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(memory)
    memory.seek(FITS_BLOCK)  # behind the primary header
    header = fits.Header.fromfile(memory)
    content = np.frombuffer(memory.getbuffer(), np.uint8)[memory.tell() :]
    if header["ZCMPTYPE"] == "GZIP_2":
        _forget_times(header, content)
    running = RunningSum()
    running.add(content)
    header_bytes = whole_blocks((len(header) + _CARDS_OF_CHECKSUMS) * CARD_BYTES)
    write_whole(file, memoryview(add_checksums(header, running.value, header_bytes)))
    write_whole(file, content.data)


def _forget_times(header: fits.Header, content: Array) -> None:
    """Clear the time in the head of each gzip stream (RFC 1952: bytes 4 to 7): bytes must not vary.

    Parameters
    ----------
    header : Header
        Of a table of one column, which tells length and offset of each stream in the heap.
    content : ndarray of uint8
        Its data; changed.
    """
    table_bytes = header["NAXIS1"] * header["NAXIS2"]
    integer = ">i8" if header["TFORM1"].lstrip("1").startswith("Q") else ">i4"
    offsets = content[:table_bytes].view(integer)[1::2]
    content[(table_bytes + offsets[:, None] + np.arange(4, 8)).ravel()] = 0


def write_image(
    path: Place,
    header: fits.Header,
    planes: Mapping[str, Array],
    leave: Callable[[], None] = go_on,
) -> None:
    """Write an output whose planes are whole in memory; see `writing_image`.

    Parameters
    ----------
    path : Path or RemotePath
        The file to be; replaced if it is there.
    header : Header
        Of the primary image, with BUNIT.
    planes : mapping of str to ndarray
        Names and images, the first that of the primary image.
    leave : callable
        As for `writing_image`.
    """
    (first, *_), dtypes = planes.values(), {name: image.dtype for name, image in planes.items()}
    with writing_image(path, header, 0, first.shape, dtypes, leave) as writer:
        writer.write(*planes.values())
        writer.finish(header)


def write_whole(file: RawIOBase, content: memoryview) -> None:
    """Write all of it: on a disk that is nearly full the system may take a part only."""
    while content:
        content = content[file.write(content) :]
