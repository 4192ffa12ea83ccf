"""Colour matrices: cells of 2 x 2 pixels with filters of their own, of one-shot colour sensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Colours of a cell, row by row from the first pixel of the file.
PATTERNS: Final = ("RGGB", "BGGR", "GRBG", "GBRG")

COLOURS: Final = "RGB"

# Where headers tell the pattern.
PATTERN_KEYS: Final = ("BAYERPAT", "COLORTYP", "CFA", "CFAPAT")

# Of an output: the colours of its first cell, and of a master flat what its pixels of each colour
# were divided by.
PATTERN_CARD: Final = "CFAPAT"
LEVEL_CARD: Final = "CFALEV"


def shift(pattern: str, rows: int, columns: int) -> str:
    """The cell that begins so many rows and columns later.

    Parameters
    ----------
    pattern : str
        One of `PATTERNS`.
    rows, columns : int
        Any number.
    """
    return "".join(
        pattern[2 * ((row + rows) % 2) + (column + columns) % 2]
        for row in (0, 1)
        for column in (0, 1)
    )


def pixels_of(pattern: str, colour: str) -> list[tuple[slice, slice]]:
    """Where the pixels of a colour are in an image that begins with that cell."""
    return [
        (slice(place // 2, None, 2), slice(place % 2, None, 2))
        for place, its_colour in enumerate(pattern)
        if its_colour == colour
    ]


def spread(
    pattern: str, values: Mapping[str, float], rows: slice, columns: int, dtype: Any
) -> Array:
    """One value for each pixel of some rows, by its colour.

    Parameters
    ----------
    pattern : str
        Of the first cell of the image.
    values : mapping of str to float
        Of each colour.
    rows : slice
        With explicit ends; with a step the rows lie apart.
    columns : int
        Of the image.
    dtype : dtype
        Of the result.

    Returns
    -------
    ndarray, shape (rows, columns)
        The values.
    """
    cell = np.array([values[colour] for colour in pattern], dtype).reshape(2, 2)
    row_of_cell = np.arange(rows.start, rows.stop, rows.step) % 2
    whole = np.empty((row_of_cell.size, columns), dtype)
    for column in (0, 1):
        whole[:, column::2] = cell[row_of_cell, column, None]
    return whole


def read_levels(cards: Mapping[str, Any]) -> tuple[str, dict[str, float]] | None:
    """Cell and levels of a master flat whose colours were equalised; None of any other image."""
    pattern = cards.get(PATTERN_CARD)
    levels = {colour: cards.get(f"{LEVEL_CARD}{colour}") for colour in COLOURS}
    if pattern not in PATTERNS or not all(isinstance(v, int | float) for v in levels.values()):
        return None
    return str(pattern), {colour: float(level or 0) for colour, level in levels.items()}


def with_colours(rows: Array, cards: Mapping[str, Any], place: slice) -> Array:
    """Rows of a master flat as they were before its colours were equalised; others as they are.

    Parameters
    ----------
    rows : ndarray, shape (rows, columns)
        Values or their standard deviation.
    cards : mapping
        Header of the image.
    place : slice
        Which rows of the image they are.
    """
    found = read_levels(cards)
    if found is None:
        return rows
    factors: Array = rows * spread(*found, place, rows.shape[1], rows.dtype.newbyteorder("="))
    return factors
