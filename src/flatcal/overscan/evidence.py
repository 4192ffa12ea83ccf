"""Whether the level of an overscan is near that of the bias, and follows it over the frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from flatcal.frame import Kind
from flatcal.overscan.columns import (
    LIT,
    MEDIAN_ERROR,
    NEAR,
    Array,
    Columns,
    ColumnTests,
    compare_columns,
    longest_run,
    measure_light,
)

# The median of fewer columns is known no better than to 0.6 of a pixel's noise.
LEAST_COLUMNS: Final = 4
# Bias frames from which a wander can be told.
ENOUGH_FRAMES: Final = 3
# What may be left of the wander of the bias level when the overscan is subtracted: half of the
# variance.
FOLLOWS: Final = 0.7
# Of the bias level, that an overscan may be off it and still count as near, also where the noise
# is small: most of both is the same pedestal. The simulated CG16M is off by a quarter.
NEAR_PART: Final = 0.05
# From so many frames on, the one that is farthest off is not counted: a bias frame with light
# would pass for a wander that the overscan does not follow.
_ENOUGH_TO_LEAVE_ONE: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What the verdict on an overscan rests on.

    Attributes
    ----------
    columns, tests
        The columns and what was found of each.
    used : slice
        Those whose level counts: the ones that are kept or, for want of them, the outer half.
    enough : bool
        Whether enough are kept.
    levels : ndarray
        Level of the overscan in each frame.
    n_biases : int
        Number of bias frames.
    zero, bias : float
        Levels of overscan and image in the bias frames, or else in the darkest frame.
    wander, left : float
        Standard deviation of the bias level, and what is left of it after subtraction.
    light : float
        Part of the light of flats that is in all of the columns.
    """

    columns: Columns
    tests: ColumnTests
    used: slice
    enough: bool
    levels: Array
    n_biases: int
    zero: float
    bias: float
    wander: float
    left: float
    light: float

    @property
    def n_used(self) -> int:
        """Number of columns whose level counts."""
        return int(self.used.stop - self.used.start)

    @property
    def place(self) -> slice:
        """These columns as the image counts them."""
        return slice(self.columns.start + self.used.start, self.columns.start + self.used.stop)

    @property
    def row_error(self) -> float:
        """Error of the level of one row: what matters less than this does not matter."""
        return float(MEDIAN_ERROR * self.columns.noise / self.n_used**0.5)

    @property
    def is_lit(self) -> bool:
        """Whether the columns belong to the image."""
        return self.light > LIT

    @property
    def is_near(self) -> bool:
        """Whether it is near the bias level; light only adds, so it is not above any frame."""
        away = self.zero - self.bias
        allowed = max(NEAR * self.columns.noise, NEAR_PART * abs(self.bias))
        return (abs(away) if self.n_biases else away) <= allowed

    @property
    def enough_biases(self) -> bool:
        """Whether there are bias frames enough to see a wander."""
        return self.n_biases >= ENOUGH_FRAMES

    @property
    def follows(self) -> bool:
        """Whether the bias level wanders, and subtraction takes most of that off."""
        return self.wander > self.row_error and self.left <= FOLLOWS * self.wander

    @property
    def strays(self) -> bool:
        """Whether subtraction leaves a notable wander, no less than there was."""
        return self.left > max(self.row_error, FOLLOWS * self.wander)

    @property
    def drift(self) -> float:
        """Peak to peak over all frames but flats, into which light may leak."""
        steady = self.columns.kinds != Kind.FLAT
        return float(np.ptp(self.levels[steady])) if steady.any() else 0.0

    @property
    def useful(self) -> bool:
        """The verdict."""
        fit = self.enough and not self.is_lit and not self.strays
        return fit and (self.follows or self.is_near)


def weigh(columns: Columns) -> Evidence:
    """Measure all that the verdict rests on."""
    tests = compare_columns(columns)
    run = longest_run(tests.good, at_right=columns.at_right)
    enough = run is not None and run.stop - run.start >= LEAST_COLUMNS
    used = run if run is not None and enough else columns.outer
    levels, images = columns.levels[:, used].mean(axis=1), columns.image_levels
    biases = np.asarray(columns.kinds == Kind.BIAS)
    at = biases if biases.any() else images == images.min()
    return Evidence(
        columns=columns,
        tests=tests,
        used=used,
        enough=enough,
        levels=levels,
        n_biases=int(np.count_nonzero(biases)),
        zero=float(np.median(levels[at])),
        bias=float(np.median(images[at])),
        wander=_wander(images[biases]),
        left=_wander(images[biases] - levels[biases]),
        light=measure_light(columns),
    )


def _wander(levels: Array) -> float:
    """Standard deviation, of many levels without the one that is farthest off."""
    if len(levels) < ENOUGH_FRAMES:
        return 0.0
    if len(levels) >= _ENOUGH_TO_LEAVE_ONE:
        levels = np.delete(levels, np.argmax(np.abs(levels - np.median(levels))))
    return float(np.std(levels, ddof=1))
