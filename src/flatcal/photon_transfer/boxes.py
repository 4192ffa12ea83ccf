"""Noise in boxes: variances that neither outliers nor gradients reach.

A box is small enough for the illumination to be even in it, and large enough for its variance
to be known to some percent. What differs between boxes (level, gradient, vignetting) is taken
out with the mean of each box; what is odd within one (cosmic rays, hot pixels) is clipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.errors import FrameError

Array = NDArray[Any]

BOX_PIXELS: Final = 32
CLIP_SIGMA: Final = 4.0
_ROUNDS: Final = 3
# Values from which the first scatter is taken; it is good to some percent, and clipping goes on.
_FIRST_SAMPLE: Final = 4096
# Of rounded values more than half may be equal; their quartiles then tell no scatter.
_LEAST_STD_ADU: Final = 0.5
_GOOD_FRACTION: Final = 0.9
# Part of the light of the brighter boxes below which a box counts as not lit (an overscan).
_LIT_FRACTION: Final = 0.2
_LEAST_BOXES: Final = 8


@dataclass(frozen=True, slots=True)
class PairStrip:
    """Some rows of two flats and two bias frames; as many as a box is high.

    Attributes
    ----------
    flat1, flat2 : ndarray, shape (rows, columns)
        In ADU.
    bias1, bias2 : ndarray or None
        Of the same shape; None where the flats have lost their bias already.
    good : ndarray of bool
        Pixels that may be used.
    """

    flat1: Array
    flat2: Array
    bias1: Array | None
    bias2: Array | None
    good: Array


@dataclass(frozen=True, slots=True)
class Boxes:
    """What the boxes of a pair show; arrays of one value for each box.

    Attributes
    ----------
    level1, ratio : ndarray
        Level of the first flat above the bias in ADU, and what it is in units of the second's;
        0 where the second has no light.
    variance : ndarray
        Of the first flat less `ratio` times the second.
    n_pixels : ndarray
        Pixels that the variance comes from.
    bias_variance : ndarray
        Of the difference of the bias frames; 0 where there are none.
    """

    level1: Array
    ratio: Array
    variance: Array
    n_pixels: Array
    bias_variance: Array

    def __getitem__(self, kept: Array) -> Boxes:
        return Boxes(
            self.level1[kept],
            self.ratio[kept],
            self.variance[kept],
            self.n_pixels[kept],
            self.bias_variance[kept],
        )

    @property
    def read_factor(self) -> Array:
        """How often the variance of one reading is in `variance`.

        The mean of the bias frames is subtracted from both flats, so (1 - ratio) times it from
        their difference, which brings half of the square of that.
        """
        with_bias = 0.5 * (1 - self.ratio) ** 2 if self.bias_variance.any() else 0.0
        factor: Array = 1 + self.ratio**2 + with_bias
        return factor


def clipped_moments(values: Array, good: Array | None = None) -> tuple[Array, Array, Array]:
    """Mean, variance and number of values along the last axis, without outliers.

    The quartiles give a first scatter; values farther than four standard deviations from the
    mean are left out, three times over. The variance is corrected for what clipping takes from a
    normal distribution (0.1 %), so that it is that of the noise.

    Parameters
    ----------
    values : ndarray, shape (..., n)
        Values.
    good : ndarray of bool, same shape, optional
        Values that count; all by default.

    Returns
    -------
    mean, variance, n : ndarray, shape (...)
        NaN where fewer than two values are left.
    """
    if values.shape[-1] == 0:
        nothing = np.full(values.shape[:-1], np.nan)
        return nothing, nothing, np.zeros(values.shape[:-1], int)
    good = np.isfinite(values) if good is None else good & np.isfinite(values)
    values = np.where(good, values, 0.0)
    centre, std = _quartile_moments(values, good)
    shrink = truncation_factor(CLIP_SIGMA)
    for _ in range(_ROUNDS):
        residual = values - centre[..., None]
        kept = good & (np.abs(residual) <= CLIP_SIGMA * std[..., None])
        residual[~kept] = 0
        n = np.count_nonzero(kept, axis=-1)
        safe = np.maximum(n, 2)
        shift = residual.sum(axis=-1) / safe
        squares = np.einsum("...i,...i->...", residual, residual) - n * shift**2
        variance = squares / (safe - 1) / shrink
        centre, std = centre + shift, np.sqrt(variance)
    few = n < 2
    return np.where(few, np.nan, centre), np.where(few, np.nan, variance), n


def truncation_factor(clip_sigma: float) -> float:
    """What is left of the variance of a normal distribution that is cut at both ends."""
    density = math.exp(-0.5 * clip_sigma**2) / math.sqrt(2 * math.pi)
    return 1 - 2 * clip_sigma * density / math.erf(clip_sigma / math.sqrt(2))


def _quartile_moments(values: Array, good: Array) -> tuple[Array, Array]:
    """Median, and standard deviation from the quartiles, of some thousands of the values."""
    # An odd step, or the sample would come from a few columns of an image.
    step = (values.shape[-1] // _FIRST_SAMPLE) | 1
    values, good = values[..., ::step], good[..., ::step]
    ordered = np.sort(np.where(good, values, np.inf), axis=-1)
    last = np.maximum(good.sum(axis=-1) - 1, 0)
    ordered[~np.isfinite(ordered)] = 0  # behind the last good value, or all where none is good
    low, centre, high = (
        np.take_along_axis(ordered, (last * part).astype(int)[..., None], -1)[..., 0]
        for part in (0.25, 0.5, 0.75)
    )
    return centre, np.maximum(0.7413 * (high - low), _LEAST_STD_ADU)


def cut_boxes(image: Array, box_pixels: int = BOX_PIXELS) -> Array:
    """The square boxes of a strip of rows, shape (boxes, pixels); what is left over is left out."""
    n_down, n_across = image.shape[0] // box_pixels, image.shape[1] // box_pixels
    kept = image[: n_down * box_pixels, : n_across * box_pixels]
    split = kept.reshape(n_down, box_pixels, n_across, box_pixels).swapaxes(1, 2)
    boxes: Array = split.reshape(n_down * n_across, box_pixels**2)
    return boxes


def difference_variance(
    first: Array, second: Array, good: Array, box_pixels: int = BOX_PIXELS
) -> tuple[Array, Array]:
    """Variance of the difference of two strips in each box that is good enough, and its pixels."""
    allowed = cut_boxes(good, box_pixels)
    enough = allowed.mean(axis=1) >= _GOOD_FRACTION
    difference = cut_boxes(np.asarray(first, np.float64) - second, box_pixels)
    _, variance, n = clipped_moments(difference[enough], allowed[enough])
    return variance, n


def measure_boxes(strips: Iterable[PairStrip], box_pixels: int = BOX_PIXELS) -> Boxes:
    """Levels and variances in all boxes of a pair of flats.

    Parameters
    ----------
    strips : iterable of PairStrip
        The image, or a sample of it.
    box_pixels : int
        Side of a box.

    Returns
    -------
    Boxes
        Of all boxes in which nine pixels of ten are good.

    Raises
    ------
    FrameError
        When there are fewer than eight of them.
    """
    parts = [_measure_strip(strip, box_pixels) for strip in strips]
    n_boxes = sum(part.level1.size for part in parts)
    if n_boxes < _LEAST_BOXES:
        raise FrameError(
            "gain-not-measured",
            f"{n_boxes} boxes of {box_pixels} x {box_pixels} pixels are good and "
            f"{_LEAST_BOXES} are needed; use larger frames, or flats that are not saturated",
        )
    names = ("level1", "ratio", "variance", "n_pixels", "bias_variance")
    return Boxes(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _measure_strip(strip: PairStrip, box_pixels: int) -> Boxes:
    good = cut_boxes(strip.good, box_pixels)
    enough = good.mean(axis=1) >= _GOOD_FRACTION
    good = good[enough]

    def boxes_of(image: Array) -> Array:
        boxes: Array = cut_boxes(image, box_pixels)[enough].astype(np.float64)
        return boxes

    flat1, flat2 = boxes_of(strip.flat1), boxes_of(strip.flat2)
    bias_variance = np.zeros(len(good))
    if strip.bias1 is not None and strip.bias2 is not None:
        bias1, bias2 = boxes_of(strip.bias1), boxes_of(strip.bias2)
        difference = bias1 - bias2
        centre, bias_variance, _ = clipped_moments(difference, good)
        # What hit a bias frame would come into both flats with the mean of the two.
        limit = CLIP_SIGMA * np.sqrt(bias_variance)
        good &= np.abs(difference - centre[:, None]) <= limit[:, None]
        bias = (bias1 + bias2) / 2
        flat1 -= bias
        flat2 -= bias
    centre1, centre2 = (_quartile_moments(flat, good)[0] for flat in (flat1, flat2))
    lit = centre2 > 0
    ratio = np.where(lit, centre1 / np.where(lit, centre2, 1.0), 0.0)
    _, variance, n = clipped_moments(flat1 - ratio[:, None] * flat2, good)
    level1 = clipped_moments(flat1, good)[0]
    known = np.isfinite(level1) & np.isfinite(variance) & np.isfinite(bias_variance)
    return Boxes(level1, ratio, variance, n, bias_variance)[known]


def lit_boxes(boxes: Boxes) -> Boxes:
    """The boxes that got light.

    Raises
    ------
    FrameError
        When the flats are not brighter than the bias.
    """
    bright = np.percentile(boxes.level1, 90)
    lit = (boxes.level1 > _LIT_FRACTION * bright) & (boxes.ratio > 0)
    if bright <= 0 or lit.sum() < _LEAST_BOXES:
        raise FrameError(
            "gain-not-measured",
            f"the flats are {bright:.4g} ADU above the bias, so they tell no gain; use flats "
            "with light",
        )
    return boxes[lit]


def near_median(values: Array) -> Array:
    """Which values are within five standard deviations, by the MAD, of the median."""
    centre = np.median(values)
    deviation = np.abs(values - centre)
    near: Array = deviation <= 5 * 1.4826 * np.median(deviation)
    return near
