"""Which of the columns beside an image agree with one another and get no light.

Light leaks into the first columns after the image, or the amplifier has not settled yet; single
columns are bad. Each column is compared with the outer half of them, in frames without light and
in flats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.frame import Frame, Kind
from flatcal.survey import Look

Array = NDArray[Any]

# A difference must be this many times its error. 32 columns are tested twice, so that by chance
# one of 250 good overscans loses a column.
SIGNIFICANT: Final = 4.0
# In frames without light, in units of a pixel's noise: the error that the median of 56 columns
# has by itself. What is less is lost in it, and the master bias takes off what is constant.
TOLERABLE_OFFSET: Final = 1 / 6
# Medians of whole numbers with little noise do not tell less than this.
_ROUNDING: Final = 0.5
# Of the light of a flat: it changes the flat by 0.03 %, and the zero of a sky of 300 ADU by
# 0.1 ADU.
TOLERABLE_LEAK: Final = 3e-4
# Columns that get a fifth of the light belong to the image, be it vignetted.
LIT: Final = 0.2
# Levels that differ by no more than this many times a pixel's noise are near one another. The
# overscan of the Lick Nickel is 3 off the bias level, and drifts by 8 in a night; that of the
# simulated CG16M is 45 off.
NEAR: Final = 10.0
# Noise of a bad column in units of that of the others. With less than so many pixels the noise
# itself is not known to a tenth.
NOISY: Final = 2.0
DEAD: Final = 0.25
_ENOUGH_PIXELS: Final = 100
# Flats with less light, in units of a pixel's noise, tell nothing of a leak; of saturated ones
# the charge flows over into the next columns.
_LEAST_LIGHT: Final = 20.0
_MOST_SATURATED: Final = 0.01
# Standard error of a median over that of a mean.
MEDIAN_ERROR: Final = 1.2533
# Rounding to whole numbers alone makes this much noise.
_LEAST_NOISE: Final = 0.29


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Figures of neighbouring columns in all frames of a set-up.

    Attributes
    ----------
    start : int
        The first column.
    at_right : bool
        Whether they follow the image.
    kinds : ndarray of str, (frames,)
        Kind of each frame.
    image_levels : ndarray, (frames,)
        Level of each image.
    saturated : ndarray, (frames,)
        Part of each image that is saturated.
    levels, scatters : ndarray, (frames, columns)
        Level of each column and the noise of its pixels.
    band_levels : ndarray, (frames, bands)
        Level in each band of rows.
    n_rows : int
        Rows in the sample.
    """

    start: int
    at_right: bool
    kinds: Array
    image_levels: Array
    saturated: Array
    levels: Array
    scatters: Array
    band_levels: Array
    n_rows: int

    @property
    def n_columns(self) -> int:
        """How many they are."""
        return int(self.levels.shape[1])

    @property
    def outer(self) -> slice:
        """The half that is farther from the image; the middle column is in it."""
        half = (self.n_columns + 1) // 2
        return slice(self.n_columns - half, self.n_columns) if self.at_right else slice(0, half)

    @property
    def noise(self) -> float:
        """Noise of one pixel."""
        return max(_LEAST_NOISE, float(np.median(self.scatters[self.unlit_or_all, self.outer])))

    @property
    def unlit(self) -> Array:
        """Bias frames, or darks where there are none."""
        biases = np.asarray(self.kinds == Kind.BIAS)
        return biases if biases.any() else np.asarray(self.kinds == Kind.DARK)

    @property
    def unlit_or_all(self) -> Array:
        """Frames for the noise: light adds some in the first columns only."""
        return self.unlit if self.unlit.any() else np.ones(len(self.kinds), bool)

    @property
    def zero(self) -> Array:
        """Level of the outer half in each frame."""
        return np.asarray(np.median(self.levels[:, self.outer], axis=1))

    @property
    def light(self) -> Array:
        """Level of each image above that of frames without light, or above the outer half."""
        if self.unlit.any():
            return np.asarray(self.image_levels - np.median(self.image_levels[self.unlit]))
        return np.asarray(self.image_levels - self.zero)

    @property
    def flats(self) -> Array:
        """Flats with light enough and not saturated."""
        usable = (self.light > _LEAST_LIGHT * self.noise) & (self.saturated < _MOST_SATURATED)
        return np.asarray((self.kinds == Kind.FLAT) & usable)

    def error(self, selection: Array) -> Array:
        """Standard error of the difference of each column from the outer half."""
        n_frames = np.count_nonzero(selection)
        of_median = MEDIAN_ERROR if n_frames > 2 else 1.0
        noise = np.maximum(np.median(self.scatters[selection], axis=0), _LEAST_NOISE)
        reference = 1 + MEDIAN_ERROR**2 / max(1, (self.n_columns + 1) // 2)
        n_pixels = self.n_rows * n_frames
        return np.asarray(MEDIAN_ERROR * of_median * noise * (reference / n_pixels) ** 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class ColumnTests:
    """What was found of each column.

    Attributes
    ----------
    offsets : ndarray or None
        Difference from the outer half in frames without light; None when there are none.
    leaks : ndarray or None
        Part of the light of flats that is in each column; None without flats.
    is_offset, is_lit, is_bad : ndarray of bool
        What is wrong with each column: level without light, light, noise.
    """

    offsets: Array | None
    leaks: Array | None
    is_offset: Array
    is_lit: Array
    is_bad: Array

    @property
    def good(self) -> Array:
        """Columns with which nothing is wrong."""
        return ~(self.is_offset | self.is_lit | self.is_bad)


def collect_columns(
    frames: Sequence[Frame], looks: Sequence[Look], strip: int, within: slice | None
) -> Columns | None:
    """Figures of one strip in all looks, of the columns `within` only; None when none are.

    Parameters
    ----------
    frames, looks
        The frames and their looks.
    strip : int
        Index of the strip.
    within : slice or None
        Columns to which it is restricted.
    """
    strips = [look.strips[strip] for look in looks]
    first, last = strips[0].start, strips[0].stop
    if within is not None:
        first, last = max(first, within.start), min(last, within.stop)
    if first >= last:
        return None
    chosen = slice(first - strips[0].start, last - strips[0].start)
    return Columns(
        start=first,
        at_right=strips[0].at_right,
        kinds=np.array([frame.kind for frame in frames]),
        image_levels=np.array([look.level for look in looks]),
        saturated=np.array([look.saturated_fraction for look in looks]),
        levels=np.array([strip.levels[chosen] for strip in strips]),
        scatters=np.array([strip.scatters[chosen] for strip in strips]),
        band_levels=np.array([strip.band_levels for strip in strips]),
        n_rows=strips[0].n_rows,
    )


def compare_columns(columns: Columns) -> ColumnTests:
    """Compare each column with the outer half."""
    excess = columns.levels - columns.zero[:, None]
    unlit, flats = columns.unlit, columns.flats
    nothing = np.zeros(columns.n_columns, bool)
    offsets = leaks = None
    is_offset = is_lit = nothing
    # What is there without light is no leak, as far as it is known.
    constant = error = np.zeros(columns.n_columns)
    if unlit.any():
        constant = offsets = np.median(excess[unlit], axis=0)
        error = columns.error(unlit)
        tolerable = max(TOLERABLE_OFFSET * columns.noise, _ROUNDING)
        is_offset = np.abs(offsets) > np.maximum(tolerable, SIGNIFICANT * error)
    if flats.any():
        light = columns.light[flats]
        leaks = np.median((excess[flats] - constant) / light[:, None], axis=0)
        error = np.hypot(error, columns.error(flats)) / np.median(light)
        is_lit = np.abs(leaks) > np.maximum(TOLERABLE_LEAK, SIGNIFICANT * error)
    return ColumnTests(offsets, leaks, is_offset, is_lit, _find_bad(columns))


def _find_bad(columns: Columns) -> Array:
    """Columns whose noise in frames without light is not that of the others."""
    unlit = columns.unlit
    if columns.n_rows * np.count_nonzero(unlit) < _ENOUGH_PIXELS:
        return np.zeros(columns.n_columns, bool)
    scatters = np.median(columns.scatters[unlit], axis=0)
    noise = columns.noise
    return np.asarray((scatters > NOISY * noise) | (scatters < DEAD * noise))


def measure_light(columns: Columns) -> float:
    """The part of the light of flats in all of the columns.

    It is that by which their level in flats is above that in frames without light. Less than
    the bias level may drift by counts as 0, and so does what cannot be told.
    """
    unlit, flats = columns.unlit, columns.flats
    if not (unlit.any() and flats.any()):
        return 0.0
    rise = columns.zero[flats] - np.median(columns.zero[unlit])
    part = rise / columns.light[flats]
    return float(np.median(np.where(rise > NEAR * columns.noise, part, 0.0)))


def find_dark_end(columns: Columns) -> slice | None:
    """The outermost columns of an image that get no light in any flat, or None.

    Parameters
    ----------
    columns : Columns
        One end of the rows of an image that is kept whole.
    """
    unlit, flats = columns.unlit, columns.flats
    if not (unlit.any() and flats.any()):
        return None
    rise = columns.levels[flats] - np.median(columns.levels[unlit], axis=0)
    lit = (rise / columns.light[flats][:, None]).max(axis=0) > LIT
    inwards = lit[::-1] if columns.at_right else lit
    n_dark = int(np.argmax(inwards)) if lit.any() else columns.n_columns
    if n_dark == 0:
        return None
    first = columns.start + (columns.n_columns - n_dark if columns.at_right else 0)
    return slice(first, first + n_dark)


def longest_run(good: Array, *, at_right: bool) -> slice | None:
    """The longest run of good columns; of several the one that is farther from the image."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]])))
    runs = [slice(int(a), int(b)) for a, b in zip(ends[::2], ends[1::2], strict=True)]
    if not runs:
        return None
    return max(runs, key=lambda run: (run.stop - run.start, run.start if at_right else -run.stop))
