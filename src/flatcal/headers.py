"""Fast reading of FITS headers, for an index of thousands of files. Pixels are never touched.

Source of the format: FITS Standard 4.0, sections 3, 4 and 10 (tile-compressed images).
"""

from __future__ import annotations

import bz2
import gzip
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from typing import IO, Any, Final, cast

from flatcal.cards import CARD, COMMENTARY, HeaderCards, Value, parse_header
from flatcal.errors import FrameError
from flatcal.storage import Place, RemotePath

__all__ = [
    "BLOCK",
    "FITS_SUFFIXES",
    "MAX_CARDS",
    "HduInfo",
    "HeaderCards",
    "Scanner",
    "StrPath",
    "Value",
    "choose_unit",
    "is_fits",
    "open_file",
    "read_header_cards",
    "scan_file",
    "scan_first_image",
    "scan_hdus",
    "scanning_by",
    "unzipping",
]

StrPath = str | Place

FITS_SUFFIXES: Final = tuple(
    f".{name}{packed}" for name in ("fits", "fit", "fts") for packed in ("", ".fz", ".gz", ".bz2")
)
BLOCK: Final = 2880
MAX_CARDS: Final = 36_000
_CHUNK: Final = 4 * BLOCK  # most headers are one read
_MAX_DATA_BYTES: Final = 2**60
# A zipped file of some megabytes can hold as much as this; it would take half a minute to unzip.
_MAX_UNZIPPED_BYTES: Final = 2**31
# astropy looks for a header in all that follows the last unit.
_MAX_TRAILING_BYTES: Final = 2**22
# Files of many detectors have some hundreds.
_MAX_UNITS: Final = 5000
# All headers of a file together; to parse them takes some seconds and four times the memory.
_MAX_HEADER_BYTES: Final = 2**25
# FITS Standard 4.0, section 7.3.1; astropy counts up to what stands there.
_MAX_FIELDS: Final = 999

# Cards that say how large an image is, also one that is packed.
_SIZES: Final = ("NAXIS", "BITPIX", "ZNAXIS", "ZBITPIX", "TFIELDS")
_IS_FITS: Final = re.compile(rb"SIMPLE  = *T")
_END: Final = re.compile(rb"END(?![A-Z0-9_-])")
_STARTS: Final = (b"SIMPLE  =", b"XTENSION=")
_COMPRESSED: Final = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open))
# Cards of a tile-compressed image that describe the table it is stored in.
_OF_TABLE: Final = re.compile(
    "SIMPLE|XTENSION|BITPIX|NAXIS[0-9]*|EXTEND|BLOCKED|PCOUNT|GCOUNT|GROUPS|CHECKSUM|DATASUM"
    "|BSCALE|BZERO|TFIELDS|THEAP|T(?:TYPE|FORM|UNIT|NULL|SCAL|ZERO|DISP|BCOL|DIM)[0-9]*"
    "|T(?:CTYP|CUNI|CRPX|CRVL|CDLT|RPOS)[0-9]*|Z(?:NAXIS|TILE|NAME|VAL)[0-9]*"
    "|Z(?:IMAGE|CMPTYPE|MASKCMP|QUANTIZ|DITHER0|BLANK|SCALE|ZERO)"
    "|Z(?:SIMPLE|TENSION|BITPIX|EXTEND|BLOCKED|PCOUNT|GCOUNT|HECKSUM|DATASUM)"
)


@dataclass(frozen=True, slots=True)
class HduInfo:
    """One header-data unit of a file.

    Attributes
    ----------
    index : int
        Place in the file, from 0.
    cards : HeaderCards
        Its header; of a tile-compressed image the header of the image.
    data_offset : int
        Where its data start, in bytes from the start of the (unzipped) file.
    data_bytes : int
        Bytes of data that its header announces, without padding.
    stored_bytes : int
        How many of them the file holds; fewer in a truncated file.
    compressed : bool
        True for a tile-compressed image, whose pixels only astropy can read.
    zipped : bool
        True when the whole file is zipped, so that offsets are not those of the file itself.
    """

    index: int
    cards: HeaderCards
    data_offset: int
    data_bytes: int
    stored_bytes: int
    compressed: bool
    zipped: bool


def open_file(path: StrPath, buffering: int = -1) -> IO[bytes]:
    """Open a file for reading, but nothing at which a program could wait for ever.

    Parameters
    ----------
    path : path
        The file.
    buffering : int
        As for `open`.

    Raises
    ------
    FrameError
        It is a folder, a pipe or a device (file-broken).
    OSError
        It cannot be opened.
    """
    if isinstance(path, RemotePath):
        return cast("IO[bytes]", path.open())
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb", buffering)
    os.close(descriptor)
    raise FrameError("file-broken", f"{path} is a folder, pipe or device, not a file")


def is_fits(path: StrPath) -> bool:
    """Tell by content whether a file is FITS, plain or compressed by gzip or bzip2.

    Parameters
    ----------
    path : path
        Any file.

    Returns
    -------
    bool
        True when its first card is ``SIMPLE = T``.

    Raises
    ------
    OSError
        The file cannot be opened.
    """
    try:
        with _open_unzipped(path) as stream:
            return _IS_FITS.match(stream.read(CARD)) is not None
    except FrameError:
        return False


def read_header_cards(path: StrPath, ext: int | str = 0) -> HeaderCards:
    """Read the header of one header-data unit.

    Parameters
    ----------
    path : path
        FITS file, plain or compressed by gzip or bzip2 (found by content).
    ext : int or str
        Place of the unit in the file, or its EXTNAME in any case.

    Returns
    -------
    HeaderCards
        Values equal those of `astropy.io.fits.getheader`.

    Raises
    ------
    FrameError
        The file is not FITS, its header is cut off, or it has no such unit (file-broken).
    OSError
        The file cannot be opened.
    """
    if ext == 0:
        with _open_unzipped(path) as stream:
            return _read_header(stream, path)[0]
    return choose_unit(scan_file(path), ext, path)


def choose_unit(hdus: Iterable[HduInfo], ext: int | str, path: StrPath) -> HeaderCards:
    """Return the header of one of the units of a file; see `read_header_cards`."""
    for hdu in hdus:
        if ext == hdu.index or _has_name(hdu.cards, ext):
            return hdu.cards
    raise FrameError("file-broken", f"{path} has no extension {ext!r}; choose another ext")


def _has_name(cards: HeaderCards, ext: int | str) -> bool:
    name = cards.get("EXTNAME")
    return isinstance(ext, str) and isinstance(name, str) and name.upper() == ext.upper()


@contextmanager
def scanning_by(scanner: Scanner) -> Iterator[None]:
    """Let a function that knows files from before do the work of `scan_hdus` in the block.

    Parameters
    ----------
    scanner : callable
        Gives what `scan_file` would; used on the thread of the block only.
    """
    token = _scanner.set(scanner)
    try:
        yield
    finally:
        _scanner.reset(token)


def scan_hdus(path: StrPath) -> tuple[HduInfo, ...]:
    """Read all headers of a file by `scan_file`, or by what `scanning_by` has set."""
    return _scanner.get()(path)


def scan_first_image(path: StrPath) -> HduInfo:
    """The first unit that has pixels: where those are packed, the primary one has none.

    Raises
    ------
    FrameError
        There is none, or see `scan_hdus`.
    OSError
        The file cannot be opened.
    """
    for hdu in scan_hdus(path):
        if hdu.cards.get("NAXIS"):
            return hdu
    raise FrameError("file-broken", f"{path} holds no image; leave it out")


def scan_file(path: StrPath) -> tuple[HduInfo, ...]:
    """Read all headers of a file and where their data lie.

    Bytes after the last unit that do not start another one are ignored, as the FITS standard
    asks, unless they are many. A file whose data are cut off is described, not refused: its last
    unit has ``stored_bytes < data_bytes``.

    Parameters
    ----------
    path : path
        FITS file, plain or compressed by gzip or bzip2 (found by content).

    Returns
    -------
    tuple of HduInfo
        One for each unit.

    Raises
    ------
    FrameError
        The file is not FITS, a header is cut off, or a header gives no sensible size for its
        data (file-broken).
    OSError
        The file cannot be opened.
    """
    hdus: list[HduInfo] = []
    with _open_unzipped(path) as stream:
        offset, start, header_bytes = 0, b"", 0
        while not hdus or start == _STARTS[1]:
            hdu = _scan_one(stream, path, len(hdus), offset, start)
            hdus.append(hdu)
            if hdu.stored_bytes < hdu.data_bytes:
                break
            header_bytes += hdu.data_offset - offset
            if len(hdus) > _MAX_UNITS or header_bytes > _MAX_HEADER_BYTES:
                raise FrameError(
                    "file-broken",
                    f"{path} has more than {_MAX_UNITS} units or {_MAX_HEADER_BYTES} bytes of "
                    "headers; leave it out",
                )
            offset = hdu.data_offset + _pad(hdu.data_bytes)
            stream.seek(offset)
            start = stream.read(len(_STARTS[1]))
        stream.seek(offset + _MAX_TRAILING_BYTES)
        if stream.read(1) and hdus[-1].stored_bytes == hdus[-1].data_bytes:
            raise FrameError(
                "file-broken", f"{path} goes on for long after its last unit; copy it again"
            )
    return tuple(hdus)


Scanner = Callable[[StrPath], tuple[HduInfo, ...]]
_scanner: Final[ContextVar[Scanner]] = ContextVar("_scanner", default=scan_file)


def _scan_one(stream: IO[bytes], path: StrPath, index: int, offset: int, start: bytes) -> HduInfo:
    cards, header_bytes = _read_header(stream, path, start)
    data_offset = offset + header_bytes
    data_bytes = _data_bytes(cards, path)
    compressed = cards.get("ZIMAGE") is True and cards.get("XTENSION") == "BINTABLE"
    if compressed:
        cards = _image_header(cards, path)
    zipped = _is_zipped(stream)
    if zipped and data_offset + data_bytes > _MAX_UNZIPPED_BYTES:
        raise FrameError(
            "file-broken", f"{path} announces {data_bytes} bytes in a zipped file; unzip it first"
        )
    stored_bytes = _stored_bytes(stream, data_offset, data_bytes)
    return HduInfo(index, cards, data_offset, data_bytes, stored_bytes, compressed, zipped)


def _image_header(table: HeaderCards, path: StrPath) -> HeaderCards:
    """Header of a tile-compressed image from that of its table, in the order of astropy.

    astropy itself would warn of odd cards and raise anything for damaged ones.
    """
    n_axes, bits = _size(table, "ZNAXIS", path), _bits(table, "ZBITPIX", path)
    axes = [f"NAXIS{i}" for i in range(1, min(n_axes, 999) + 1)]
    is_primary = "ZSIMPLE" in table
    head: list[tuple[str, Value]] = [
        ("SIMPLE", table["ZSIMPLE"]) if is_primary else ("XTENSION", "IMAGE"),
        ("BITPIX", bits),
        ("NAXIS", n_axes),
        *((axis, _size(table, f"Z{axis}", path)) for axis in axes),
    ]
    if not is_primary:
        head += [("PCOUNT", table.get("ZPCOUNT", 0)), ("GCOUNT", table.get("ZGCOUNT", 1))]
    body = [
        (keyword, value)
        for keyword, value in table.cards
        if not _OF_TABLE.fullmatch(keyword) and (keyword, value) != ("EXTNAME", "COMPRESSED_IMAGE")
    ]
    end = len(body)
    while end and body[end - 1][0] in COMMENTARY:
        end -= 1
    moved = [(keyword, table[keyword]) for keyword in ("BSCALE", "BZERO") if table.get(keyword)]
    moved += [
        (keyword, table[stored])
        for keyword, stored in (
            ("EXTEND", "ZEXTEND"),
            ("BLOCKED", "ZBLOCKED"),
            ("CHECKSUM", "ZHECKSUM"),
            ("DATASUM", "ZDATASUM"),
        )
        if stored in table
    ]
    if bits > 0 and "BLANK" not in table:
        if "ZBLANK" in table:
            moved.append(("BLANK", table["ZBLANK"]))
        elif any(keyword[:5] == "TTYPE" and value == "ZBLANK" for keyword, value in table.cards):
            moved.append(("BLANK", -(1 << (bits - 1))))
    return HeaderCards([*head, *body[:end], *moved, *body[end:]])


def _is_zipped(stream: IO[bytes]) -> bool:
    return isinstance(stream, gzip.GzipFile | bz2.BZ2File)


def _stored_bytes(stream: IO[bytes], start: int, length: int) -> int:
    # A zipped stream has no known size, but it seeks no further than its end.
    end = stream.seek(start + length) if _is_zipped(stream) else stream.seek(0, 2)
    return max(0, min(length, end - start))


def _pad(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _require_one_size(cards: HeaderCards, path: StrPath) -> None:
    """Refuse a size that stands twice with different values.

    Other readers take the last one, and astropy does not come back from a huge NAXIS.
    """
    for keyword, value in cards.cards:
        if keyword.startswith(_SIZES) and value != cards[keyword]:
            told = f"{cards[keyword]!r} and {value!r}"
            raise FrameError(
                "file-broken", f"{keyword} stands twice in {path}, as {told}; copy the file again"
            )


def _data_bytes(cards: HeaderCards, path: StrPath) -> int:
    _require_one_size(cards, path)
    if (n_fields := _size(cards, "TFIELDS", path, 0)) > _MAX_FIELDS:
        raise FrameError("file-broken", f"TFIELDS is {n_fields} in {path}; copy the file again")
    n_axes = _size(cards, "NAXIS", path)
    axes = [_size(cards, f"NAXIS{i}", path) for i in range(1, min(n_axes, 999) + 1)]
    if axes and axes[0] == 0 and cards.get("GROUPS") is True:
        axes = axes[1:]  # random groups (FITS Standard 4.0, section 6)
    bits = _bits(cards, "BITPIX", path)
    groups, heap = _size(cards, "GCOUNT", path, 1), _size(cards, "PCOUNT", path, 0)
    total = abs(bits) // 8 * groups * (heap + prod(axes)) if axes else 0
    if total > _MAX_DATA_BYTES:
        raise FrameError(
            "file-broken", f"the header announces {total} bytes in {path}; copy the file again"
        )
    return total


def _bits(cards: HeaderCards, keyword: str, path: StrPath) -> int:
    bits = cards.get(keyword)
    if isinstance(bits, int) and bits in (8, 16, 32, 64, -32, -64):
        return bits
    raise FrameError("file-broken", f"{keyword} is {bits!r} in {path}; copy the file again")


def _size(cards: HeaderCards, keyword: str, path: StrPath, default: int | None = None) -> int:
    value = cards.get(keyword, default)
    if isinstance(value, int) and value >= 0:
        return value
    raise FrameError("file-broken", f"{keyword} is {value!r} in {path}; copy the file again")


def unzipping(stream: Any) -> IO[bytes]:
    """The stream, or what it holds where it is zipped as a whole."""
    magic = stream.read(3)
    stream.seek(0)
    opener = next((open_ for start, open_ in _COMPRESSED if magic.startswith(start)), None)
    return cast("IO[bytes]", stream if opener is None else opener(stream))


@contextmanager
def _open_unzipped(path: StrPath) -> Iterator[IO[bytes]]:
    with open_file(path) as raw:
        stream = unzipping(raw)
        if not _is_zipped(stream):
            yield stream
            return
        try:
            with stream:
                yield stream
        except (EOFError, OSError, zlib.error) as error:
            raise FrameError(
                "file-broken", f"{path} cannot be unzipped ({error}); copy the file again"
            ) from error


def _read_header(stream: IO[bytes], path: StrPath, start: bytes = b"") -> tuple[HeaderCards, int]:
    """Parse the header at the stream's place; return it with its length in bytes.

    Of `start` the stream has been read already. A zipped stream is not read beyond the header:
    to go back it would be unzipped from its first byte.
    """
    n_bytes = BLOCK if _is_zipped(stream) else _CHUNK
    header = start + stream.read(n_bytes - len(start))
    if not header.startswith(_STARTS):
        raise FrameError("file-broken", f"{path} is not a FITS file; leave it out")
    searched = 0
    while (end := _find_end(header, searched)) is None:
        chunk = stream.read(n_bytes)
        if not chunk or len(header) > MAX_CARDS * CARD:
            raise FrameError(
                "file-broken",
                f"the header has no END card within {len(header)} bytes in {path}; "
                "copy the file again",
            )
        searched = len(header) // CARD * CARD
        header += chunk
    return parse_header(header[:end]), _pad(end + CARD)


def _find_end(header: bytes, start: int) -> int | None:
    for match in _END.finditer(header, start):
        if match.start() % CARD == 0:
            return match.start()
    return None
