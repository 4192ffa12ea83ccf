"""FITS sections and Python slices.

Outside the package a section is FITS text, ``[x1:x2,y1:y2]``: x first, counted from 1, both
ends included. Inside it is a pair of slices ``(y, x)``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from flatcal.errors import SectionError

_AXIS: Final = r"(?:(\d{1,9}):(\d{1,9})|([*:]))"
_SECTION: Final = re.compile(rf"\[{_AXIS},{_AXIS}\]")

Section = tuple[slice, slice]


def parse_section(text: str, shape: tuple[int, int]) -> Section:
    """Turn a FITS section into slices of an image.

    Parameters
    ----------
    text : str
        ``[x1:x2,y1:y2]``, inner spaces allowed; ``*`` or ``:`` stands for a whole axis.
    shape : tuple of int
        Rows and columns of the image that the section must lie in.

    Returns
    -------
    tuple of slice
        ``(y, x)`` slices with explicit, ascending ends.

    Raises
    ------
    SectionError
        When the text is not such a section, runs backwards or leaves the image.
    """
    match = _SECTION.fullmatch(re.sub(r"\s", "", text))
    if match is None:
        raise SectionError(
            "bad-section", f"section {text!r} is not of the form [x1:x2,y1:y2]; write both axes"
        )
    x_first, x_last, _, y_first, y_last, _ = match.groups()
    rows, columns = shape
    x = _axis_slice(x_first, x_last, columns, text, "columns")
    y = _axis_slice(y_first, y_last, rows, text, "rows")
    return y, x


def _axis_slice(first: str | None, last: str | None, size: int, text: str, name: str) -> slice:
    if first is None or last is None:
        return slice(0, size)
    start, stop = int(first) - 1, int(last)
    if start < 0 or stop > size or start >= stop:
        raise SectionError(
            "bad-section",
            f"section {text!r} asks for {name} {first} to {last} of an image with {size}; "
            f"1 to {size} are there",
        )
    return slice(start, stop)


# -- as cameras write them ----------------------------------------------------------------

# First and last pixel of a whole axis, or as written.
Ends = tuple[int, int]


class HeaderSection(NamedTuple):
    """A section from a header, and what had to be done to understand it."""

    section: Section
    remark: str


def read_header_section(text: str, shape: tuple[int, int]) -> HeaderSection:
    """Turn the section that a card holds into slices; what is odd but clear is understood.

    Clear are a section that runs backwards, one that counts from 0 where a whole axis shows it,
    and one that reaches a single pixel outside the image.

    Parameters
    ----------
    text : str
        Value of the card.
    shape : tuple of int
        Rows and columns of the image.

    Returns
    -------
    HeaderSection
        The remark is empty for a section as `parse_section` understands it.

    Raises
    ------
    SectionError
        When nothing or more than one thing could be meant.
    """
    match = _SECTION.fullmatch(re.sub(r"\s", "", text))
    if match is None:
        raise SectionError("bad-section", _why_not(text))
    x_first, x_last, _, y_first, y_last, _ = match.groups()
    sizes = (shape[1], shape[0])
    axes = [
        (1, size) if first is None else (int(first), int(last))
        for first, last, size in zip((x_first, y_first), (x_last, y_last), sizes, strict=True)
    ]
    remarks = []
    if any(first > last for first, last in axes):
        axes = [(min(ends), max(ends)) for ends in axes]
        remarks.append("runs backwards")
    if any(first == 0 for first, _ in axes):
        axes = _counted_from_1(axes, sizes, text)
        remarks.append("counts from 0")
    cut = [
        (first, size if last == size + 1 else last)
        for (first, last), size in zip(axes, sizes, strict=True)
    ]
    if cut != axes:
        axes = cut
        remarks.append("reaches one pixel outside the image")
    read = "[{0[0]}:{0[1]},{1[0]}:{1[1]}]".format(*axes)
    if not remarks:
        return HeaderSection(parse_section(text, shape), "")
    try:
        return HeaderSection(parse_section(read, shape), f"{' and '.join(remarks)}, read as {read}")
    except SectionError:
        parse_section(text, shape)  # names what stands in the card
        raise


def _why_not(text: str) -> str:
    if ":" not in text and "*" not in text:
        return f"{text!r} names no section"
    if "," not in text:
        return f"section {text!r} has one axis only; two are needed, [x1:x2,y1:y2]"
    return f"section {text!r} is not of the form [x1:x2,y1:y2]"


def _counted_from_1(axes: Sequence[Ends], sizes: Sequence[int], text: str) -> list[Ends]:
    """A section that counts from 0, if a whole axis shows whether its last pixels count."""
    if any(ends == (0, 0) for ends in axes):
        raise SectionError("bad-section", f"section {text!r} holds no pixel")
    pairs = list(zip(axes, sizes, strict=True))
    if any(ends == (0, size - 1) for ends, size in pairs):
        return [(first + 1, last + 1) for first, last in axes]
    if any(ends == (0, size) for ends, size in pairs):
        return [(first + 1, last) for first, last in axes]
    raise SectionError(
        "bad-section",
        f"section {text!r} counts from 0, and whether its last pixels count is not clear",
    )


def format_section(section: Section) -> str:
    """Turn ``(y, x)`` slices with explicit ends into FITS text ``[x1:x2,y1:y2]``."""
    y, x = section
    return f"[{x.start + 1}:{x.stop},{y.start + 1}:{y.stop}]"


# -- several sections of one image -------------------------------------------------------------

_BETWEEN: Final = "+"


def parse_sections(text: str, shape: tuple[int, int]) -> tuple[Section, ...]:
    """Turn what `format_sections` wrote into slices of an image; see `parse_section`."""
    return tuple(parse_section(part, shape) for part in text.split(_BETWEEN))


def format_sections(sections: Sequence[Section]) -> str:
    """Turn one section or several into FITS text, with a plus sign between them."""
    return _BETWEEN.join(map(format_section, sections))


def assemble_sections(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Where sections of a raw image lie in the image that they make without what is between them.

    Parameters
    ----------
    sections : sequence of tuple of slice
        They must be a grid: each of the row ranges with each of the column ranges, once.

    Returns
    -------
    tuple of tuple of slice
        Their places, in the same order.

    Raises
    ------
    SectionError
        When they overlap, or leave a hole.
    """
    rows, columns = ({(s[axis].start, s[axis].stop) for s in sections} for axis in (0, 1))
    cells = {(s[0].start, s[0].stop, s[1].start, s[1].stop) for s in sections}
    places = _close_up(rows), _close_up(columns)
    whole = len(cells) == len(sections) == len(rows) * len(columns)
    if not whole or None in places:
        raise SectionError(
            "bad-section",
            f"sections {', '.join(map(format_section, sections))} do not make one image; each "
            "range of rows must stand once beside each range of columns, without overlap",
        )
    y, x = places
    assert y is not None
    assert x is not None
    return tuple((y[s[0].start], x[s[1].start]) for s in sections)


def _close_up(ranges: set[tuple[int, int]]) -> dict[int, slice] | None:
    """Places of ranges without the gaps between them, by their starts; None where they overlap."""
    places, end, at = {}, 0, 0
    for start, stop in sorted(ranges):
        if start < end:
            return None
        places[start] = slice(at, at + stop - start)
        end, at = stop, at + stop - start
    return places


def shape_of_sections(sections: Sequence[Section]) -> tuple[int, int]:
    """Rows and columns of the image that sections make."""
    places = assemble_sections(sections)
    return max(place[0].stop for place in places), max(place[1].stop for place in places)
