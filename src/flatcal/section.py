"""FITS sections and Python slices.

Outside the package a section is FITS text, ``[x1:x2,y1:y2]``: x first, counted from 1, both
ends included. Inside it is a pair of slices ``(y, x)``.
"""

from __future__ import annotations

import re
from typing import Final

from flatcal.errors import SectionError

_AXIS: Final = r"(?:(\d+):(\d+)|([*:]))"
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


def format_section(section: Section) -> str:
    """Turn ``(y, x)`` slices with explicit ends into FITS text ``[x1:x2,y1:y2]``."""
    y, x = section
    return f"[{x.start + 1}:{x.stop},{y.start + 1}:{y.stop}]"
