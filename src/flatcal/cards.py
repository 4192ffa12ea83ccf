"""From the cards of a FITS header to keywords and values.

Plain cards are read by one regular expression; every card that is not plain goes to
`astropy.io.fits.Card`, so that values equal those of `astropy.io.fits.getheader`.

Source of the format: FITS Standard 4.0, section 4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

from astropy.io import fits

Value = str | bool | int | float | complex | None

CARD: Final = 80
COMMENTARY: Final = ("COMMENT", "HISTORY", "")
_ISO_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")

_PLAIN_CARD: Final = re.compile(
    r"([A-Z0-9_-]{1,8}) *= *"
    r"(?:'([ -&(-~]+)'|([TF])|([+-]?[0-9]+)"
    r"|([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[EDed][+-]?[0-9]+)?))?"
    r" *(?:/.*)?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, eq=False)
class HeaderBlock:
    """Headers with the same keywords, by column, as an index of thousands of files holds them.

    Attributes
    ----------
    layout : tuple of str
        The keywords of all cards, with repeated, COMMENT, HISTORY and blank ones.
    columns : tuple of sequence
        The values of each card in all headers.
    length : int
        Number of headers.
    """

    layout: tuple[str, ...]
    columns: tuple[Sequence[Value], ...]
    length: int


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
    block : HeaderBlock or None
        Where the values come from, unless the header was made of cards.
    number : int
        Place in the block.
    """

    def __init__(self, cards: Iterable[tuple[str, Value]]) -> None:
        pairs = tuple(cards)
        self.layout = tuple([keyword for keyword, _ in pairs])
        self.row = tuple([value for _, value in pairs])
        self.block: HeaderBlock | None = None
        self.number = 0

    @classmethod
    def of_block(cls, block: HeaderBlock, number: int) -> HeaderCards:
        """Make one of the headers of a block."""
        header = cls.__new__(cls)
        header.layout, header.block, header.number = block.layout, block, number
        return header

    # Of thousands of headers in a block only the columns may be needed.
    @cached_property
    def row(self) -> tuple[Value, ...]:
        """The values of all cards."""
        assert self.block is not None
        return tuple([column[self.number] for column in self.block.columns])

    @property
    def cards(self) -> tuple[tuple[str, Value], ...]:
        """Keyword and value of each card, in the order of the file."""
        return tuple(zip(self.layout, self.row, strict=True))

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


def columns_of(headers: Sequence[HeaderCards]) -> dict[str, Sequence[Value]]:
    """Return the values of each lower-case keyword, None where a header lacks it.

    Parameters
    ----------
    headers : sequence of HeaderCards
        Some headers.

    Returns
    -------
    dict
        In the order in which the headers bring the keywords; COMMENT and HISTORY, joined by
        commas, after the others of a header. Of a keyword that comes more than once in a header
        the first value is taken. There is no column ``file``, nor one of blank cards.
    """
    layouts: dict[tuple[str, ...], list[int]] = {}
    for number, header in enumerate(headers):
        layouts.setdefault(header.layout, []).append(number)
    columns: dict[str, Any] = {}
    for layout, numbers in layouts.items():
        part = _name_columns(layout, _select_columns([headers[number] for number in numbers]))
        if len(layouts) == 1:
            return part
        for key, values in part.items():
            column = columns.setdefault(key, [None] * len(headers))
            for number, value in zip(numbers, values, strict=True):
                column[number] = value
    return columns


def _select_columns(headers: Sequence[HeaderCards]) -> Sequence[Sequence[Value]]:
    """The columns of headers with the same keywords; of a whole block they are there."""
    block = headers[0].block
    numbers = [header.number for header in headers if header.block is block]
    if block is not None and numbers == list(range(block.length)) and len(headers) == block.length:
        return block.columns
    return list(zip(*(header.row for header in headers), strict=True))


def _name_columns(
    layout: Sequence[str], columns: Sequence[Sequence[Value]]
) -> dict[str, Sequence[Value]]:
    named: dict[str, Sequence[Value]] = {}
    commentary: dict[str, list[Sequence[Value]]] = {"comment": [], "history": []}
    for keyword, values in zip(layout, columns, strict=True):
        key = keyword.lower()
        if key in commentary:
            commentary[key].append(values)
        elif key not in ("", "file"):
            named.setdefault(key, values)
    for key, texts in commentary.items():
        if texts:
            named[key] = [",".join(map(str, each)) for each in zip(*texts, strict=True)]
    return named


def parse_header(header: bytes) -> HeaderCards:
    """Parse the cards of a header.

    Parameters
    ----------
    header : bytes
        All cards before the END card.

    Returns
    -------
    HeaderCards
        Values equal those of `astropy.io.fits.Header.fromstring`.
    """
    text = header.decode("ascii", errors="replace").replace("\ufffd", "?")
    images = [text[i : i + CARD] for i in range(0, len(text), CARD)]
    if "CONTINUE" in text:
        images = _join_continued(images)
    return HeaderCards([_parse_card(image) for image in images])


def _join_continued(images: list[str]) -> list[str]:
    joined: list[str] = []
    for image in images:
        if joined and image.startswith("CONTINUE"):
            joined[-1] += image
        else:
            joined.append(image)
    return joined


# A night's headers repeat most of their cards, so that remembering them saves a third of the time.
@lru_cache(maxsize=4096)
def _parse_card(image: str) -> tuple[str, Value]:
    keyword, is_one_card = image[:8].rstrip(), len(image) == CARD
    if keyword in COMMENTARY and is_one_card:
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
    except (fits.VerifyError, ValueError):  # the latter of a CONTINUE without a space
        value = image[10:].split("/", 1)[0].strip()
    return card.keyword.upper(), None if isinstance(value, fits.card.Undefined) else value


def is_iso_date(value: Any) -> bool:
    """Whether a date begins as the FITS standard has it, so that such dates sort as text."""
    return isinstance(value, str) and _ISO_DATE.match(value) is not None


def as_number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
