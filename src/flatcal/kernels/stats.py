"""Statistics of images."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.kernels.compiled import kernel

Array = NDArray[Any]

# One pixel in so many is in the sample that brackets the median; half the width of the bracket
# in standard deviations of a rank in that sample; below this size nothing is bracketed.
_SHARE: Final = 64
_SMALL: Final = 1 << 16
_BRACKET_STD: Final = 5
# Pixels that are counted together; those in the bracket are picked out of such a run only if
# there are any.
_RUN: Final = 32

_NO_FLAGS: Final = np.empty(0, np.uint8)


def median_of_good(image: Array, bad: Array | None = None) -> float:
    """Median of the good, finite pixels of an image.

    It is exact: a sample brackets the median, one pass counts what lies below the bracket and
    collects what lies in it, and the median is found among those few. Only where the sample
    deceived, or too many pixels are equal, it is found by halving intervals and counting.

    Parameters
    ----------
    image : ndarray of float32 or float64
        Values.
    bad : ndarray of uint8 or bool, optional
        Same shape; pixels that are not zero are left out.

    Returns
    -------
    float
        The median, NaN when no pixel is good. Of an even number it is the mean of the middle
        two.
    """
    values = np.ascontiguousarray(image).ravel()
    flags = _NO_FLAGS if bad is None else np.ascontiguousarray(bad).view(np.uint8).ravel()
    if values.size > _SMALL:
        low, high, share = _bracket(values, flags, image.shape[-1])
        # Twice the room that should be needed: fresh memory costs more than the pass.
        inside = np.empty(int(2 * share * values.size) + 2 * _RUN, values.dtype)
        n_below, n_inside, n_good = _collect(values, flags, low, high, inside)
        first, last = (n_good - 1) // 2 - n_below, n_good // 2 - n_below
        if first >= 0 and last < n_inside < inside.size:
            return _middle(inside[:n_inside], first, last)
        if n_good:
            ranks = (n_good - 1) // 2, n_good // 2
            return sum(_value_of_rank(values, flags, rank) for rank in ranks) / 2
    good = np.isfinite(values)
    if flags.size:
        good &= flags == 0
    values = values[good]
    if not values.size:
        return math.nan
    return _middle(values, (values.size - 1) // 2, values.size // 2)


def _middle(values: Array, first: int, last: int) -> float:
    """Mean of the values of two ranks; the order of `values` is lost."""
    values.partition((first, last))
    return float(values[[first, last]].astype(np.float64).mean())


def _value_of_rank(values: Array, flags: Array, rank: int) -> float:
    """The good value with that many below it, found without a copy of the image."""
    kind = values.dtype.type
    low, high = map(kind, _extremes(values))
    while low < high:
        middle = kind(low / 2 + high / 2)
        n_below, n_up_to, _ = _count_all(values, flags, middle)
        if rank >= n_up_to:
            low = np.nextafter(middle, high)
        elif rank < n_below:
            high = np.nextafter(middle, low)
        else:
            return float(middle)
    return float(low)


def _bracket(values: Array, flags: Array, columns: int) -> tuple[Any, Any, float]:
    """Two values between which the median should lie, and the share of pixels between them."""
    step = _SHARE
    while math.gcd(step, columns) > 1:  # or the sample would come from a few columns
        step += 1
    sample = values[::step]
    good = np.isfinite(sample)
    if flags.size:
        good &= flags[::step] == 0
    sample = sample[good]
    n = sample.size
    if n == 0:
        limits = np.finfo(values.dtype)
        return limits.min, limits.max, 0.5
    to_side = int(_BRACKET_STD * math.sqrt(n) / 2) + 1
    low, high = max(0, n // 2 - to_side), min(n - 1, n // 2 + to_side)
    sample.partition((low, high))
    return sample[low], sample[high], (high - low) / n


@kernel()
def _count(run: Array, flags: Array, low: Any, high: Any) -> tuple[int, int, int]:
    """Number of good values below the bracket, up to its end, and in all."""
    # Of 32 bits as the values are: then the counts are vectorised along with the comparisons.
    n_below = np.int32(0)
    n_up_to = np.int32(0)
    n_good = np.int32(0)
    for x in range(run.size):
        v = run[x]
        good = abs(v) < np.inf  # false for NaN too
        if flags.size:
            good &= flags[x] == 0
        n_good = np.int32(n_good + good)
        n_below = np.int32(n_below + (good & (v < low)))
        n_up_to = np.int32(n_up_to + (good & (v <= high)))
    return int(n_below), int(n_up_to), int(n_good)


@kernel()
def _collect(
    values: Array, flags: Array, low: Any, high: Any, inside: Array
) -> tuple[int, int, int]:
    """Count good values below the bracket, in it and in all; collect those in it.

    What finds no room in `inside` is counted only; one place of it is always written over.
    """
    n_below = 0
    n_inside = 0
    n_good = 0
    for start in range(0, values.size, _RUN):
        run = values[start : start + _RUN]
        run_flags = flags[start : start + _RUN]
        below, up_to, good = _count(run, run_flags, low, high)
        within = up_to - below
        n_below += below
        n_good += good
        if within and n_inside + within < inside.size:
            place = n_inside
            for x in range(run.size):
                v = run[x]
                take = (v >= low) & (v <= high)
                if run_flags.size:
                    take &= run_flags[x] == 0
                # Written always, counted when it belongs: no branch that depends on the value.
                inside[place] = v
                place += take
        n_inside += within
    return n_below, n_inside, n_good


@kernel()
def _count_all(values: Array, flags: Array, level: Any) -> tuple[int, int, int]:
    """Number of good values below a level, up to it, and in all."""
    n_below = 0
    n_up_to = 0
    n_good = 0
    for start in range(0, values.size, _RUN):
        run = values[start : start + _RUN]
        below, up_to, good = _count(run, flags[start : start + _RUN], level, level)
        n_below += below
        n_up_to += up_to
        n_good += good
    return n_below, n_up_to, n_good


@kernel()
def _extremes(values: Array) -> tuple[Any, Any]:
    """Least and largest finite value."""
    low = np.inf
    high = -np.inf
    for v in values:
        if abs(v) < np.inf:
            low = min(low, v)
            high = max(high, v)
    return low, high
