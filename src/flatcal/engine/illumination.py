"""A master flat taken apart: its illumination, which is smooth, times the response of its pixels.

The illumination goes through the medians of large blocks. A median is not moved by flagged pixels,
dust or the scatter of the pixels; between the centres of the blocks it is a cubic convolution [1]_,
exact for a parabola, such as vignetting is.

References
----------
.. [1] R. Keys, "Cubic convolution interpolation for digital image processing", IEEE Trans.
   Acoust. Speech Signal Process. 29, 1153 (1981).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.kernels.stats import median_of_good

Array = NDArray[Any]

# Blocks along each side: one of a sensor of 4096 pixels is larger than the shadows of dust.
_BLOCKS: Final = 16
_LEAST_PIXELS: Final = 8
# Two values more on either side, on the parabola through the three outermost: the convolution needs
# four about each pixel.
_BEYOND: Final = np.array([[6.0, -8.0, 3.0], [3.0, -3.0, 1.0]])


@dataclass(frozen=True, slots=True)
class Illumination:
    """The smooth part of a flat.

    Attributes
    ----------
    rows, columns : ndarray, shape (pixels along the axis, blocks along it)
        Weights of the blocks at each pixel.
    blocks : ndarray of float64, shape (blocks along y, blocks along x)
        Median of each block.
    """

    rows: Array
    columns: Array
    blocks: Array

    def of(self, band: slice) -> Array:
        """Illumination of some rows, in float64, above 0 everywhere."""
        # In a corner that is almost dark the parabola may fall below 0.
        smooth = self.rows[band] @ self.blocks @ self.columns.T
        return np.asarray(np.maximum(smooth, self.blocks.min() / 10))


def find_illumination(flat: Array, flags: Array) -> Illumination:
    """The illumination of a master flat.

    Parameters
    ----------
    flat : ndarray, shape (rows, columns)
        Above 0 where it is good.
    flags : ndarray of uint16, same shape or size 0
        Not 0 where it is not.
    """
    n_blocks = tuple(_count_blocks(size) for size in flat.shape)
    edges = [
        np.linspace(0, size, n + 1).round().astype(int)
        for size, n in zip(flat.shape, n_blocks, strict=True)
    ]
    blocks = np.empty(n_blocks)
    for y, x in np.ndindex(n_blocks):
        block = slice(*edges[0][y : y + 2]), slice(*edges[1][x : x + 2])
        blocks[y, x] = median_of_good(flat[block], flags[block] != 0 if flags.size else None)
    rows, columns = (
        interpolation_weights(size, n) for size, n in zip(flat.shape, n_blocks, strict=True)
    )
    return Illumination(rows, columns, _fill(blocks))


def _count_blocks(size: int) -> int:
    """Blocks along an axis: one, where there are not three for a parabola."""
    n = min(_BLOCKS, size // _LEAST_PIXELS)
    return n if n >= len(_BEYOND[0]) else 1


def interpolation_weights(size: int, n: int) -> Array:
    """Weights of n blocks at each of some pixels along an axis."""
    if n == 1:
        return np.ones((size, 1))
    place = (np.arange(size) + 0.5) * n / size - 0.5  # in blocks, from the centre of the first
    first = np.floor(place).astype(int)
    t = place - first
    cubic = [
        (-t + 2 * t**2 - t**3) / 2,
        (2 - 5 * t**2 + 3 * t**3) / 2,
        (t + 4 * t**2 - 3 * t**3) / 2,
        (-(t**2) + t**3) / 2,
    ]
    extended = np.zeros((size, n + 4))
    for step, weight in enumerate(cubic):
        # Block 0 is the third of the extended ones; the first of the four stands before `first`.
        extended[np.arange(size), first + 1 + step] = weight
    extension = np.zeros((n + 4, n))
    extension[2:-2] = np.eye(n)
    extension[:2, :3] = _BEYOND
    extension[-2:, -3:] = _BEYOND[::-1, ::-1]
    return extended @ extension


def _fill(blocks: Array) -> Array:
    """Give blocks without a good pixel the mean of those beside them, from the nearest on."""
    if np.isnan(blocks).all():
        return np.ones(blocks.shape)
    while np.isnan(blocks).any():
        padded = np.pad(blocks, 1, constant_values=np.nan)
        beside = np.stack(
            [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        )
        n = np.isfinite(beside).sum(axis=0)
        mean = np.divide(np.nansum(beside, axis=0), n, out=np.full(n.shape, np.nan), where=n > 0)
        blocks = np.where(np.isnan(blocks), mean, blocks)
    return blocks
