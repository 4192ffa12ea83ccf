"""A sample of frames that are to be combined, and how unlike its siblings a flat is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.calibrated_frame import CalibratedFrame, sampled_rows
from flatcal.engine.regions import cut_rows
from flatcal.kernels.combine import MAD_TO_STD

Array = NDArray[Any]

# Values of all frames that are looked at to see whether their noise is what it should be: some
# thousand pixels tell it to a percent or two.
_SAMPLE_VALUES: Final = 1 << 16
# Neighbouring pixels of a row that are averaged: fewer than the shadow of dust has, and enough for
# a shadow of 1 % to stand out of the noise of a flat.
_BLOCK_PIXELS: Final = 32
# Three others have a median that the odd one does not move.
LEAST_FLATS: Final = 4
# What differs by so many times the noise of a block is no noise.
_UNLIKE_SIGMA: Final = 5.0
# No light differs by so many times itself; what a broken file holds may.
_FARTHEST: Final = 1000.0


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Scaled values of some rows of each frame, NaN where they are bad.

    Attributes
    ----------
    pixels : list of ndarray, each of shape (n_frames, n_pixels)
        Some of what each amplifier has read.
    blocks : list of ndarray, each of shape (rows, blocks)
        Means over neighbours; see `average_blocks`.
    """

    pixels: list[Array]
    blocks: list[Array]


def sample_frames(readers: Sequence[CalibratedFrame], scales: Array) -> Sample:
    """Read the sample of some frames, each of which is multiplied by its scale."""
    pixels: list[list[Array]] = []
    blocks = []
    preparation = readers[0].preparation
    rows = np.array(sampled_rows(preparation.shape[0]))
    for reader, scale in zip(readers, scales, strict=True):
        values, flags = reader.read_sample()
        with np.errstate(all="ignore"):
            scaled = np.where(flags == 0, values * values.dtype.type(scale), np.nan)
        blocks.append(average_blocks(scaled))
        # Odd, or the pixels would come from a few columns.
        step = len(readers) * scaled.size // _SAMPLE_VALUES | 1
        pixels.append([])
        for region in preparation.regions:
            own = cut_rows(scaled, rows, region)
            pixels[-1].append(own.ravel()[::step].copy())  # or all of it would stay in memory
    return Sample([np.array(of_region) for of_region in zip(*pixels, strict=True)], blocks)


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """Flats against one another, each brought to the level 1.

    Attributes
    ----------
    slopes : ndarray, shape (n_flats,)
        How much each changes over the image against the median of the others: along rows and
        along columns, together.
    unlike : ndarray, shape (n_flats,)
        Share of the blocks in which it differs from them by more than noise, slope aside.
    """

    slopes: Array
    unlike: Array


def average_blocks(rows: Array) -> Array:
    """Means of neighbouring pixels of some rows of an image; a bad pixel is NaN.

    A block with too few good pixels is NaN.
    """
    n_rows, columns = rows.shape
    size = min(_BLOCK_PIXELS, columns)
    blocks = rows[:, : columns // size * size].reshape(n_rows, -1, size)
    good = np.isfinite(blocks)
    n = good.sum(axis=2)
    total = np.where(good, blocks, 0).sum(axis=2, dtype=np.float64)
    enough = n > size // 2
    return np.where(enough, total / np.maximum(n, 1), np.nan)


def compare_flats(blocks: Sequence[Array]) -> Likeness | None:
    """Compare flats with the median of the others; None where they are too few to say.

    Parameters
    ----------
    blocks : sequence of ndarray, each of shape (rows, blocks)
        From `average_blocks`, of the same rows of each flat over its level.
    """
    if len(blocks) < LEAST_FLATS:
        return None
    stack = np.array(blocks)
    rows, columns = (np.linspace(-0.5, 0.5, size) for size in stack.shape[1:])
    y, x = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    slopes, unlike = np.zeros(len(stack)), np.zeros(len(stack))
    for i, flat in enumerate(stack):
        others = np.median(np.delete(stack, i, axis=0), axis=0)
        with np.errstate(all="ignore"):  # blocks of no light are not known
            ratio = np.clip((flat / others).ravel() - 1, -_FARTHEST, _FARTHEST)
        known = np.isfinite(ratio)
        terms = np.stack([np.ones(known.sum()), y[known], x[known]], axis=1)
        if len(terms) >= 2 * terms.shape[1]:
            slopes[i], unlike[i] = _slope_and_rest(terms, ratio[known])
    return Likeness(slopes, unlike)


def _slope_and_rest(terms: Array, ratio: Array) -> tuple[float, float]:
    """Change of a plane over the image, fitted to what is not far off it, and the share that is."""
    near = np.ones(ratio.size, bool)
    for _ in range(3):
        plane, *_ = np.linalg.lstsq(terms[near], ratio[near], rcond=None)
        rest = np.abs(ratio - terms @ plane)
        near = rest <= _UNLIKE_SIGMA * MAD_TO_STD * np.median(rest)
    return float(np.abs(plane[1:]).sum()), float(1 - near.mean())
