"""Headers of many files as bytes, and back: what a file of the header cache holds.

It is JSON, since nothing in that can be executed, with a checksum. The headers of a night have
the same keywords and share many values. So they are stored by column, a value that all share once,
and numbers as the bytes of an array, which is read faster than digits.
"""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice, repeat
from operator import is_
from typing import Any, Final

from flatcal.cards import HeaderBlock, HeaderCards, Value
from flatcal.user_cache import Stamp

# Where the data lie, as in `flatcal.headers.HduInfo`.
Place = tuple[int, int, int, bool, bool]
Unit = tuple[HeaderCards, Place]
Entry = tuple[Stamp, Sequence[Unit]]

_HEAD: Final = b"flatcal headers %08x\n"


def encode_entries(about: str, entries: Mapping[str, Entry]) -> bytes:
    """Turn entries into bytes.

    Parameters
    ----------
    about : str
        What they are of; `decode_entries` wants the same.
    entries : mapping
        For the name of each file what tells whether it is unchanged, and its units.
    """
    units = [unit for _, units in entries.values() for unit in units]
    content = {
        "about": f"{about}, {sys.byteorder}",
        "names": list(entries),
        "stamps": list(zip(*(stamp for stamp, _ in entries.values()), strict=True)),
        "counts": [len(units) for _, units in entries.values()],
        "places": [_encode_column(each) for each in zip(*(p for _, p in units), strict=True)],
        "blocks": _encode_headers([header for header, _ in units]),
    }
    body = json.dumps(content, separators=(",", ":")).encode("ascii")
    return _HEAD % zlib.crc32(body) + body


def decode_entries(about: str, content: bytes) -> dict[str, Entry]:
    """Invert `encode_entries`.

    Raises
    ------
    ValueError
        The content is not whole, or of something else.
    """
    head, _, body = content.partition(b"\n")
    if head + b"\n" != _HEAD % zlib.crc32(body):
        raise ValueError("not a whole file of headers")
    found = json.loads(body)
    if found["about"] != f"{about}, {sys.byteorder}":
        raise ValueError(f"{found['about']} instead of {about}")
    counts = found["counts"]
    n_units = sum(counts)
    places = zip(*(_decode_column(column, n_units) for column in found["places"]), strict=True)
    units: Any = iter(zip(_decode_headers(found["blocks"], n_units), places, strict=True))
    of_files = [list(islice(units, count)) for count in counts]
    stamps: Any = zip(*found["stamps"], strict=True)
    return dict(zip(found["names"], zip(stamps, of_files, strict=True), strict=True))


def _encode_headers(headers: Sequence[HeaderCards]) -> list[Any]:
    layouts: dict[tuple[str, ...], list[int]] = {}
    for number, header in enumerate(headers):
        layouts.setdefault(header.layout, []).append(number)
    blocks = []
    for layout, numbers in layouts.items():
        columns = zip(*(headers[number].row for number in numbers), strict=True)
        blocks.append([layout, numbers, [_encode_column(column) for column in columns]])
    return blocks


def _decode_headers(blocks: Sequence[Any], count: int) -> list[HeaderCards]:
    headers: list[Any] = [None] * count
    for layout, numbers, columns in blocks:
        decoded = tuple([_decode_column(column, len(numbers)) for column in columns])
        block = HeaderBlock(tuple(layout), decoded, len(numbers))
        for place, number in enumerate(numbers):
            headers[number] = HeaderCards.of_block(block, place)
    return headers


def _encode_column(values: Sequence[Any]) -> list[Any]:
    # To be equal is not enough, as 1, 1.0 and T are. Cards of the same text share their value.
    if all(map(is_, values, repeat(values[0]))):
        values = values[:1]
    kinds = set(map(type, values))
    for code, kind in (("d", float), ("q", int)):
        if kinds == {kind}:
            with suppress(OverflowError):
                return [code, b64encode(array(code, values)).decode("ascii")]
    if complex in kinds:
        return ["complex", [[v.real, v.imag] if isinstance(v, complex) else v for v in values]]
    return ["json", values]


def _decode_column(column: Sequence[Any], count: int) -> Sequence[Value]:
    code: str
    values: Any
    code, values = column
    if code in ("d", "q"):
        values = array(code, b64decode(values))
    elif code == "complex":
        values = [complex(*v) if isinstance(v, list) else v for v in values]
    decoded: Sequence[Value] = values * count if len(values) == 1 else values
    return decoded
