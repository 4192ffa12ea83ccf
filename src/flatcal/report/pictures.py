"""Images small enough for a page: averages of blocks, cut-outs of single pixels, thumbnails."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flatcal.io import naming, open_fits
from flatcal.storage import Place

Array = NDArray[Any]

# Pixels of a picture on a page; a laptop shows no more beside a column of text.
PICTURE_PIXELS: Final = 512 * 512
CUT_OUT: Final = 96
_THUMBNAIL: Final = 64
# Few colours: noise in many would make the file three times as large.
_COLOURS: Final = 21
_BLUE: Final = (5, 80, 160)
_RED: Final = (170, 20, 40)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image as a page shows it.

    Attributes
    ----------
    title, alt : str
        What it is; what it shows, for those who do not see it.
    values : ndarray of float32, shape (rows, columns)
        Averages of blocks, or pixels.
    block : int
        Side of the blocks; 1 shows every pixel as it is.
    first_x, first_y : int
        The first pixel, counted from 1 as FITS does.
    unit : str
        Of the values.
    marks : tuple of tuple of int
        Pixels (x, y) that are marked.
    """

    title: str
    alt: str
    values: Array
    block: int
    first_x: int
    first_y: int
    unit: str
    marks: tuple[tuple[int, int], ...] = ()


def read_planes(path: Place) -> dict[str, Array]:
    """All image planes of an output by their names; the first is PRIMARY.

    Raises
    ------
    BrokenFileError
        When the file is not there or cannot be read.
    """
    with naming(path), open_fits(path) as hdus:
        return {hdu.name: _native(hdu.data) for hdu in hdus if hdu.header.get("NAXIS") == 2}


def _native(values: Array) -> Array:
    native: Array = values.astype(values.dtype.newbyteorder("="), copy=False)
    return native


def block_for(shape: tuple[int, int], most_pixels: int) -> int:
    """Side of blocks of which an image has no more than so many."""
    block = 1
    while -(-shape[0] // block) * -(-shape[1] // block) > most_pixels:
        block += 1
    return block


def shrink(values: Array, block: int) -> Array:
    """Averages of square blocks; those at the far ends may be smaller.

    Parameters
    ----------
    values : ndarray, shape (rows, columns)
        Pixels that are not finite do not count; a block of none others is NaN.
    block : int
        Side of the blocks.
    """
    if block == 1:
        return values.astype(np.float32)
    finite = np.isfinite(values)
    clean = values if finite.all() else np.where(finite, values, 0)
    with np.errstate(invalid="ignore"):
        means = _block_sums(clean, block) / _block_sums(finite, block)
    return np.asarray(means, np.float32)


def _block_sums(values: Array, block: int) -> Array:
    rows, columns = (np.arange(0, size, block) for size in values.shape)
    by_rows = np.add.reduceat(values, rows, axis=0, dtype=np.float64)
    return np.asarray(np.add.reduceat(by_rows, columns, axis=1))


def make_picture(values: Array, title: str, what: str, unit: str, most_pixels: int) -> Picture:
    """A whole image, its blocks as small as so many pixels allow."""
    block = block_for(values.shape, most_pixels)
    small = shrink(values, block)
    low, high = finite_percentiles(small, (1, 99))
    rows, columns = values.shape
    told = f"{what}, {rows} rows and {columns} columns; 98 % of the values shown lie between "
    told += f"{low:.5g} and {high:.5g} {unit}".rstrip()
    return Picture(title, told, small, block, 1, 1, unit)


def cut_out(values: Array, x: int, y: int, title: str, what: str, unit: str) -> Picture:
    """Every pixel of a square about a pixel (x, y), counted from 0."""
    height, width = (min(CUT_OUT, size) for size in values.shape)
    top = min(max(0, y - height // 2), values.shape[0] - height)
    left = min(max(0, x - width // 2), values.shape[1] - width)
    part = np.asarray(values[top : top + height, left : left + width], np.float32)
    told = f"{what}: every pixel of columns {left + 1} to {left + width} and rows {top + 1} to "
    told += f"{top + height}"
    return Picture(title, told, part, 1, left + 1, top + 1, unit)


def finite_percentiles(values: Array, percentiles: tuple[float, ...]) -> list[float]:
    """Percentiles of what is finite; zeros when nothing is."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return [0.0 for _ in percentiles]
    found: list[float] = np.percentile(finite, percentiles).tolist()
    return found


def coarse_grid(values: Array) -> Array:
    """Averages of at most 64 x 64 parts of an image that are as alike in size as can be."""
    starts = [
        np.linspace(0, size, min(_THUMBNAIL, size), endpoint=False).astype(int)
        for size in values.shape
    ]
    sums = values
    for axis, start in enumerate(starts):
        sums = np.add.reduceat(sums, start, axis=axis, dtype=np.float64)
    heights, widths = (
        np.diff(np.append(start, size)) for start, size in zip(starts, values.shape, strict=True)
    )
    return np.asarray(sums / np.outer(heights, widths))


def thumbnail(grid: Array, low: float, high: float) -> bytes:
    """A small PNG in colours from blue (low) over white to red (high); row 0 at the bottom."""
    steps = np.rint((grid - low) / (high - low) * (_COLOURS - 1)).clip(0, _COLOURS - 1)
    image = Image.fromarray(steps[::-1].astype(np.uint8)).convert("P")
    along = np.linspace(-1, 1, _COLOURS)[:, None]
    end = np.where(along < 0, _BLUE, _RED)
    image.putpalette(np.rint(255 + abs(along) * (end - 255)).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
