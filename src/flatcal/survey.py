"""A look at a sample of each frame's pixels: figures that no header tells.

Planning uses them for the second opinions of `flatcal.overscan` and `flatcal.second_look`.
About a million pixels of a frame are read, in bands of rows, which takes some milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.errors import FlatcalError, StorageError
from flatcal.extension import file_of
from flatcal.frame import Detector, Frame, Geometry
from flatcal.raw_frame import RawFrame, decode
from flatcal.section import Section, assemble_sections
from flatcal.storage import Place
from flatcal.transfer import REQUESTS_AT_ONCE

Array = NDArray[Any]

BANDS: Final = 16
GRID_COLUMNS: Final = 8
# A million pixels come in 1 ms from the system's cache, and in 20 ms from a disk of 100 MB/s.
# They hold 255 rows of a 16-megapixel image, so that the level of each of its few columns of
# overscan is known to a tenth of the noise.
_READ_PIXELS: Final = 1 << 20
_LEAST_ROWS: Final = 8
# Of the image fewer are enough: they give its level to 1/200 of the noise.
_IMAGE_PIXELS: Final = 1 << 16
# And of a wide strip.
_STRIP_PIXELS: Final = 1 << 15
# So many columns at either end are looked at when no section says where the image ends, but no
# more than a part of it. Overscans of 10 to 32 columns are common.
_END_COLUMNS: Final = 64
_SMALLEST_PART: Final = 8
# From the median absolute difference of two values to the standard deviation of one.
_SIGMA_OF_DIFFERENCES: Final = 1.4826 / 2**0.5


@dataclass(frozen=True, slots=True)
class Strip:
    """Columns beside the image that could be an overscan.

    Attributes
    ----------
    start : int
        The first of them, from 0.
    at_right : bool
        Whether they follow the image rather than precede it.
    n_rows : int
        Rows in the sample.
    levels : tuple of float
        Median of each column.
    scatters : tuple of float
        Standard deviation of each column's pixels, from differences of neighbouring rows.
    band_levels : tuple of float
        Median of the half that is farther from the image, in each band of rows.
    """

    start: int
    at_right: bool
    n_rows: int
    levels: tuple[float, ...]
    scatters: tuple[float, ...]
    band_levels: tuple[float, ...]

    @property
    def stop(self) -> int:
        """The column after the last."""
        return self.start + len(self.levels)


@dataclass(frozen=True, slots=True)
class Look:
    """What a sample of a frame's pixels shows, in the unit of the raw values.

    Of an image that several amplifiers share, level and grid are less the overscan of each.

    Attributes
    ----------
    level : float
        Median of the image.
    scatter : float
        Standard deviation of its pixels, from differences between near ones, so that neither
        gradients nor stars count.
    saturated_fraction : float
        Part of the pixels at or above saturation.
    low, high : float
        The 1st and 99th percentile.
    grid : tuple of tuple of float
        Medians of blocks of the image, band after band of rows from the first to the last.
    strips : tuple of Strip
        The columns left and right of what is kept; the outermost of the image when no section
        says what is kept.
    parts : tuple of Look
        Where several amplifiers share the image, that at each, whose strip is its overscan; there
        are no other strips then.
    """

    level: float
    scatter: float
    saturated_fraction: float
    low: float
    high: float
    grid: tuple[tuple[float, ...], ...]
    strips: tuple[Strip, ...]
    parts: tuple[Look, ...] = ()

    @property
    def band_levels(self) -> tuple[float, ...]:
        """Level of each band of rows."""
        return tuple(float(median(blocks)) for blocks in self.grid)


def look_at(raw: Place, frames: Sequence[Frame], jobs: int) -> dict[str, Look]:
    """Look at all frames.

    Parameters
    ----------
    raw : Path or RemotePath
        The raw folder.
    frames : sequence of Frame
        As their headers have told; those with errors are passed over.
    jobs : int
        Threads.

    Returns
    -------
    dict
        Look of each frame by its file. A frame whose pixels cannot be read has none: the run
        names it.
    """
    good = [frame for frame in frames if not frame.errors]
    # To wait for a server takes no core.
    n_threads = jobs if isinstance(raw, Path) else max(jobs, REQUESTS_AT_ONCE)
    with ThreadPoolExecutor(n_threads) as pool:
        looks = pool.map(partial(_try_to_look, raw), good)
        return {f.file: look for f, look in zip(good, looks, strict=True) if look is not None}


def _try_to_look(raw: Place, frame: Frame) -> Look | None:
    assert frame.storage is not None
    assert frame.setup is not None
    try:
        with RawFrame(raw / file_of(frame.file), frame.storage, frame.setup.shape) as pixels:
            return _look(pixels, frame)
    except StorageError:
        raise
    except FlatcalError:
        return None


def _look(pixels: RawFrame, frame: Frame) -> Look | None:
    assert frame.setup is not None
    assert frame.geometry is not None
    geometry, (n_rows, n_columns) = frame.geometry, frame.setup.shape
    if geometry.is_divided:
        return _look_at_each(pixels, geometry)
    kept = geometry.trim_section or (slice(0, n_rows), slice(0, n_columns))
    (detector,) = frame.detectors
    return _look_at_part(pixels, kept, _sides(kept[1], n_columns), detector)


def _look_at_each(pixels: RawFrame, geometry: Geometry) -> Look | None:
    """A look at an image that several amplifiers share, made of one at each."""
    looks = []
    for amplifier, data in zip(geometry.amplifiers, geometry.data_sections, strict=True):
        beside = amplifier.overscan_section
        sides = [_Side(beside[1], beside[1].start >= data[1].stop)] if beside else []
        look = _look_at_part(pixels, data, sides, amplifier.detector)
        if look is None:
            return None
        looks.append(look)
    return _put_together(looks, assemble_sections(geometry.data_sections))


def _put_together(parts: Sequence[Look], places: Sequence[Section]) -> Look:
    """The look of an image by those of its parts, each less the level of its overscan."""
    zeros = [fmean(part.strips[0].levels) if part.strips else 0.0 for part in parts]
    rows = sorted({place[0].start for place in places})
    grids: list[list[Array]] = [[] for _ in rows]
    ordered = sorted(zip(places, parts, zeros, strict=True), key=lambda each: each[0][1].start)
    for place, part, zero in ordered:
        grids[rows.index(place[0].start)].append(np.array(part.grid) - zero)
    return Look(
        level=fmean(part.level - zero for part, zero in zip(parts, zeros, strict=True)),
        scatter=fmean(part.scatter for part in parts),
        saturated_fraction=fmean(part.saturated_fraction for part in parts),
        low=min(part.low for part in parts),
        high=max(part.high for part in parts),
        grid=tuple(tuple(row) for grid in grids for row in np.hstack(grid).tolist()),
        strips=(),
        parts=tuple(parts),
    )


def _look_at_part(
    pixels: RawFrame, kept: Section, sides: Sequence[_Side], detector: Detector
) -> Look | None:
    """A look at what one amplifier has read, and at columns beside it."""
    rows, columns = kept
    bands = _bands(rows, pixels.shape[1])
    height, width = bands[0].stop - bands[0].start, columns.stop - columns.start
    in_image = _spread(height, _IMAGE_PIXELS // (len(bands) * width))
    parts: list[list[Array]] = [[] for _ in range(1 + len(sides))]
    for band in bands:
        whole = _read(pixels, band)
        parts[0].append(whole[in_image, columns])
        for part, side in zip(parts[1:], sides, strict=True):
            width = side.columns.stop - side.columns.start
            part.append(whole[: max(1, _STRIP_PIXELS // (len(bands) * width)), side.columns])
    image, *beside = (_values(pixels, np.stack(part)) for part in parts)
    if not np.isfinite(image).all() and not _fill(image):
        return None
    saturation = detector.saturation_adu
    ordered = np.sort(image, axis=None)
    n_below = ordered.size if saturation is None else np.searchsorted(ordered, saturation)
    low, high = ordered[((ordered.size - 1) * np.array([0.01, 0.99])).astype(int)]
    return Look(
        level=float(_median(ordered)),
        # One row of each band is enough: 16 x 1000 differences give it to 1 %. Two columns
        # apart, for with a mask of colours before the sensor neighbours differ.
        scatter=float(_scatter((image[:, 0, 2:] - image[:, 0, :-2]).ravel())),
        saturated_fraction=1.0 - float(n_below) / ordered.size,
        low=float(low),
        high=float(high),
        grid=_grid(image),
        strips=tuple(_strip(values, side) for values, side in zip(beside, sides, strict=True)),
    )


@dataclass(frozen=True, slots=True)
class _Side:
    """Columns on one side of the image."""

    columns: slice
    at_right: bool


def _sides(columns: slice, n_columns: int) -> tuple[_Side, ...]:
    """What lies outside the columns that are kept, or the ends of the rows where all are kept."""
    left, right = columns.start, columns.stop
    if (left, right) == (0, n_columns):
        left = min(_END_COLUMNS, n_columns // _SMALLEST_PART)
        right = n_columns - left
    sides = (_Side(slice(0, left), False), _Side(slice(right, n_columns), True))
    return tuple(side for side in sides if side.columns.start < side.columns.stop)


def _bands(rows: slice, n_columns: int) -> list[slice]:
    """Bands of equal height from the first row to the last."""
    n_rows = rows.stop - rows.start
    n_bands = min(BANDS, n_rows)
    height = min(n_rows // n_bands, max(_LEAST_ROWS, _READ_PIXELS // (BANDS * n_columns)))
    starts = np.linspace(rows.start, rows.stop - height, n_bands).astype(int).tolist()
    return [slice(start, start + height) for start in starts]


def _spread(height: int, n_rows: int) -> Array:
    """Some rows of a band, one at the least, spread over it."""
    return np.linspace(0, height - 1, min(height, max(1, n_rows))).astype(int)


def _read(pixels: RawFrame, band: slice) -> Array:
    """Whole rows; of a plain file as they are stored, so that only what is used is decoded."""
    if pixels.is_plain:
        return pixels.stored_rows(band)
    # Integers of 32 bits do not fit into a float of as many.
    return pixels.values(band, slice(0, pixels.shape[1]), np.float64)


def _values(pixels: RawFrame, part: Array) -> Array:
    # Of floats, sorting those of 32 bits is the fastest (0.6 ms for 131 000, uint16 4.8 ms).
    return decode(part, np.float32) if pixels.is_plain else part


def _fill(image: Array) -> bool:
    """Give pixels without a number the level of the others, if there are any."""
    finite = np.isfinite(image)
    if finite.any():
        image[~finite] = np.median(image[finite])
    return bool(finite.any())


def _median(values: Array) -> Array:
    """Median along the last axis, of whole numbers to a fraction of 1.

    The level of a frame is wanted to a hundredth of its noise, but the median of whole numbers
    is a whole number. Values are taken as spread evenly over the unit about each number.
    """
    ordered = np.sort(values, axis=-1)
    n = ordered.shape[-1]
    middle: Array = ordered[..., (n - 1) // 2]
    if not np.array_equal(ordered, np.rint(ordered)):
        return np.asarray(0.5 * (middle + ordered[..., n // 2]))
    n_below = np.count_nonzero(ordered < middle[..., None], axis=-1)
    n_equal = np.count_nonzero(ordered == middle[..., None], axis=-1)
    return np.asarray(middle - 0.5 + (0.5 * n - n_below) / n_equal)


def _scatter(differences: Array) -> Array:
    """Standard deviation of one value from differences of two, along the last axis."""
    if not differences.shape[-1]:
        return np.zeros(differences.shape[:-1])
    return np.asarray(_SIGMA_OF_DIFFERENCES * np.maximum(_median(np.abs(differences)), 0))


def _grid(image: Array) -> tuple[tuple[float, ...], ...]:
    """Medians of blocks: bands x columns."""
    n_bands, n_rows, width = image.shape
    n_blocks = min(GRID_COLUMNS, width)
    block = width // n_blocks
    cut = image[:, :, : n_blocks * block].reshape(n_bands, n_rows, n_blocks, block)
    levels = _median(cut.swapaxes(1, 2).reshape(n_bands, n_blocks, n_rows * block))
    return tuple(tuple(row) for row in levels.tolist())


def _strip(values: Array, side: _Side) -> Strip:
    # A column without numbers is to look dead.
    values[~np.isfinite(values)] = 0
    n_bands, height, width = values.shape
    half = (width + 1) // 2
    outer = values[:, :, -half:] if side.at_right else values[:, :, :half]
    columns = np.ascontiguousarray(values.reshape(n_bands * height, width).T)
    return Strip(
        start=side.columns.start,
        at_right=side.at_right,
        n_rows=columns.shape[1],
        levels=tuple(_median(columns).tolist()),
        scatters=tuple(_scatter(np.diff(columns)).tolist()),
        band_levels=tuple(_median(outer.reshape(n_bands, height * half)).tolist()),
    )
