"""Fast reading of FITS headers, for an index of thousands of files.

Plain cards are read by one regular expression; every card that is not plain goes to
`astropy.io.fits.Card`, so that values equal those of `astropy.io.fits.getheader`. Pixels are
never touched.

Source of the format: FITS Standard 4.0, sections 3, 4 and 10 (tile-compressed images).
"""

from __future__ import annotations

import bz2
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import IO, Final, cast

from astropy.io import fits

from flatcal.errors import FrameError

Value = str | bool | int | float | complex | None
StrPath = str | Path

BLOCK: Final = 2880
CARD: Final = 80
MAX_CARDS: Final = 36_000
_CHUNK: Final = 4 * BLOCK  # most headers are one read
_MAX_DATA_BYTES: Final = 2**60

_IS_FITS: Final = re.compile(rb"SIMPLE  = *T")
_END: Final = re.compile(rb"END(?![A-Z0-9_-])")
_STARTS: Final = (b"SIMPLE  =", b"XTENSION=")
_COMPRESSED: Final = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open))
_COMMENTARY: Final = ("COMMENT", "HISTORY", "")
# Cards of a tile-compressed image that describe the table it is stored in.
_OF_TABLE: Final = re.compile(
    "SIMPLE|XTENSION|BITPIX|NAXIS[0-9]*|EXTEND|BLOCKED|PCOUNT|GCOUNT|GROUPS|CHECKSUM|DATASUM"
    "|BSCALE|BZERO|TFIELDS|THEAP|T(?:TYPE|FORM|UNIT|NULL|SCAL|ZERO|DISP|BCOL|DIM)[0-9]*"
    "|T(?:CTYP|CUNI|CRPX|CRVL|CDLT|RPOS)[0-9]*|Z(?:NAXIS|TILE|NAME|VAL)[0-9]*"
    "|Z(?:IMAGE|CMPTYPE|MASKCMP|QUANTIZ|DITHER0|BLANK|SCALE|ZERO)"
    "|Z(?:SIMPLE|TENSION|BITPIX|EXTEND|BLOCKED|PCOUNT|GCOUNT|HECKSUM|DATASUM)"
)
_PLAIN_CARD: Final = re.compile(
    r"([A-Z0-9_-]{1,8}) *= *"
    r"(?:'([ -&(-~]+)'|([TF])|([+-]?[0-9]+)"
    r"|([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[EDed][+-]?[0-9]+)?))?"
    r" *(?:/.*)?",
    re.DOTALL,
)


class HeaderCards(Mapping[str, Value]):
    """Keywords and values of one header, found whatever their case.

    Of a keyword that comes more than once the first value is found, as in
    `astropy.io.fits.Header`; COMMENT and HISTORY are one text with a line for each card. A card
    without a value holds None, and one whose value is not valid FITS holds its text.

    Parameters
    ----------
    cards : iterable of tuple
        Keyword (upper case) and value of each card, in the order of the file.

    Attributes
    ----------
    layout : tuple of str
        The keywords of all cards, with repeated, COMMENT, HISTORY and blank ones.
    row : tuple
        The values of the same cards.
    """

    def __init__(self, cards: Iterable[tuple[str, Value]]) -> None:
        pairs = tuple(cards)
        self.layout = tuple(keyword for keyword, _ in pairs)
        self.row = tuple(value for _, value in pairs)

    @classmethod
    def of_row(cls, layout: tuple[str, ...], row: tuple[Value, ...]) -> HeaderCards:
        """Make a header of keywords, which many headers can share, and values."""
        header = cls.__new__(cls)
        header.layout, header.row = layout, row
        return header

    @property
    def cards(self) -> tuple[tuple[str, Value], ...]:
        """Keyword and value of each card, in the order of the file."""
        return tuple(zip(self.layout, self.row, strict=True))

    # An index of thousands of files needs rows alone.
    @cached_property
    def _values(self) -> dict[str, Value]:
        values = dict(zip(self.layout, self.row, strict=True))
        return values if len(values) == len(self.layout) else _merge_repeated(self.cards)

    def __getitem__(self, keyword: str) -> Value:
        return self._values[keyword.upper()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"HeaderCards({self._values!r})"


def _merge_repeated(cards: tuple[tuple[str, Value], ...]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for keyword, value in cards:
        if keyword in ("COMMENT", "HISTORY") and keyword in values:
            values[keyword] = f"{values[keyword]}\n{value}"
        elif keyword:
            values.setdefault(keyword, value)
    return values


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
    for hdu in scan_hdus(path):
        if ext == hdu.index or _has_name(hdu.cards, ext):
            return hdu.cards
    raise FrameError("file-broken", f"{path} has no extension {ext!r}; choose another ext")


def _has_name(cards: HeaderCards, ext: int | str) -> bool:
    name = cards.get("EXTNAME")
    return isinstance(ext, str) and isinstance(name, str) and name.upper() == ext.upper()


def scan_hdus(path: StrPath) -> tuple[HduInfo, ...]:
    """Read all headers of a file and where their data lie.

    Bytes after the last unit that do not start another one are ignored, as the FITS standard
    asks. A file whose data are cut off is described, not refused: its last unit has
    ``stored_bytes < data_bytes``.

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
        offset = 0
        while not hdus or stream.read(9) == _STARTS[1]:
            stream.seek(offset)
            hdu = _scan_one(stream, path, len(hdus), offset)
            hdus.append(hdu)
            if hdu.stored_bytes < hdu.data_bytes:
                break
            offset = hdu.data_offset + _pad(hdu.data_bytes)
            stream.seek(offset)
    return tuple(hdus)


def _scan_one(stream: IO[bytes], path: StrPath, index: int, offset: int) -> HduInfo:
    cards, header_bytes = _read_header(stream, path)
    data_offset = offset + header_bytes
    data_bytes = _data_bytes(cards, path)
    compressed = cards.get("ZIMAGE") is True and cards.get("XTENSION") == "BINTABLE"
    if compressed:
        cards = _image_header(cards, path)
    stored_bytes = _stored_bytes(stream, data_offset, data_bytes)
    zipped = isinstance(stream, gzip.GzipFile | bz2.BZ2File)
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
    while end and body[end - 1][0] in _COMMENTARY:
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


def _stored_bytes(stream: IO[bytes], start: int, length: int) -> int:
    # A zipped stream has no known size, but it seeks no further than its end.
    if isinstance(stream, gzip.GzipFile | bz2.BZ2File):
        end = stream.seek(start + length)
    else:
        end = stream.seek(0, 2)
    return max(0, min(length, end - start))


def _pad(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _data_bytes(cards: HeaderCards, path: StrPath) -> int:
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
    if isinstance(bits, int) and abs(bits) in (8, 16, 32, 64):
        return bits
    raise FrameError("file-broken", f"{keyword} is {bits!r} in {path}; copy the file again")


def _size(cards: HeaderCards, keyword: str, path: StrPath, default: int | None = None) -> int:
    value = cards.get(keyword, default)
    if isinstance(value, int) and value >= 0:
        return value
    raise FrameError("file-broken", f"{keyword} is {value!r} in {path}; copy the file again")


@contextmanager
def _open_unzipped(path: StrPath) -> Iterator[IO[bytes]]:
    with Path(path).open("rb") as raw:
        magic = raw.read(3)
        raw.seek(0)
        opener = next((open_ for start, open_ in _COMPRESSED if magic.startswith(start)), None)
        if opener is None:
            yield raw
            return
        try:
            with opener(raw) as unzipped:
                yield cast("IO[bytes]", unzipped)
        except (EOFError, OSError, zlib.error) as error:
            raise FrameError(
                "file-broken", f"{path} cannot be unzipped ({error}); copy the file again"
            ) from error


def _read_header(stream: IO[bytes], path: StrPath) -> tuple[HeaderCards, int]:
    """Parse the header at the stream's place; return it with its length in bytes."""
    header = stream.read(_CHUNK)
    if not header.startswith(_STARTS):
        raise FrameError("file-broken", f"{path} is not a FITS file; leave it out")
    searched = 0
    while (end := _find_end(header, searched)) is None:
        chunk = stream.read(_CHUNK)
        if not chunk or len(header) > MAX_CARDS * CARD:
            raise FrameError(
                "file-broken",
                f"the header has no END card within {len(header)} bytes in {path}; "
                "copy the file again",
            )
        searched = len(header) // CARD * CARD
        header += chunk
    return HeaderCards(_parse_header(header[:end])), _pad(end + CARD)


def _find_end(header: bytes, start: int) -> int | None:
    for match in _END.finditer(header, start):
        if match.start() % CARD == 0:
            return match.start()
    return None


def _parse_header(header: bytes) -> list[tuple[str, Value]]:
    text = header.decode("ascii", errors="replace").replace("\ufffd", "?")
    images = [text[i : i + CARD] for i in range(0, len(text), CARD)]
    if "CONTINUE" in text:
        images = _join_continued(images)
    return [_parse_card(image) for image in images]


def _join_continued(images: list[str]) -> list[str]:
    joined: list[str] = []
    for image in images:
        if joined and image.startswith("CONTINUE"):
            joined[-1] += image
        else:
            joined.append(image)
    return joined


# A night's headers repeat most of their cards, so that remembering them saves a third of the time.
@lru_cache(maxsize=16_384)
def _parse_card(image: str) -> tuple[str, Value]:
    keyword, is_one_card = image[:8].rstrip(), len(image) == CARD
    if keyword in _COMMENTARY and is_one_card:
        return keyword, image[8:].rstrip()
    plain = _PLAIN_CARD.fullmatch(image) if is_one_card and image[8:10] == "= " else None
    if plain is None or ": " in (plain[2] or ""):  # a string with ": " may be a record
        return _parse_odd_card(image)
    keyword, text, logical, integer, real = plain.groups()
    if text is not None:
        return keyword, text.rstrip()
    if integer is not None:
        return keyword, int(integer)
    if real is not None:
        return keyword, float(real.replace("D", "E").replace("d", "e"))
    return keyword, logical == "T" if logical else None


def _parse_odd_card(image: str) -> tuple[str, Value]:
    is_hierarch = image[:9].upper() == "HIERARCH " and "=" in image
    if not is_hierarch and not 0 <= image.find("= ") <= 8:  # no value: astropy warns of each
        return image[:8].strip().upper(), image[8:].rstrip()
    card = fits.Card.fromstring(image)
    try:
        value = card.value
    except fits.VerifyError:
        value = image[10:].split("/", 1)[0].strip()
    return card.keyword.upper(), None if isinstance(value, fits.card.Undefined) else value
