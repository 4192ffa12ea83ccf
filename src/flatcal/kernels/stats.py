"""Statistics of images."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.kernels.compiled import kernel

Array = NDArray[Any]

# One pixel in so many is in the sample that brackets the median of a whole image; half the width
# of the bracket in standard deviations of a rank in that sample; below this size nothing is
# bracketed.
_SHARE: Final = 64
_SMALL: Final = 1 << 16
_BRACKET_STD: Final = 5
# Half the width of the bracket, as a share of all ranks, where the sample are whole rows: these
# deceive by more than as many independent pixels do.
_HALF_SHARE: Final = 0.01
# Pixels that are counted together: 4 KiB of float32, in the first cache.
_RUN: Final = 1024

_NO_FLAGS: Final = np.empty(0, np.uint8)


class RunningMedian:
    """Exact median of the good, finite pixels of an image that passes by in pieces.

    A sample brackets the median. Of each piece it is counted what lies below the bracket and at
    its ends, and kept what lies in between; the median is then found among those few.

    Parameters
    ----------
    sample : ndarray of float32 or float64
        Good values from all over the image; put into another order.
    half_ranks : int
        Half the width of the bracket in ranks of the sample.
    inside : ndarray of the same type
        Room for the values in the bracket; its content is lost.
    """

    def __init__(self, sample: Array, half_ranks: int, inside: Array) -> None:
        self._inside = inside
        self._low, self._high = _bracket(sample, half_ranks, inside.dtype)
        self._counts = np.zeros(5, np.int64)

    @staticmethod
    def for_rows(rows: Array, flags: Array, inside: Array) -> RunningMedian:
        """With some whole rows from all over the image as the sample.

        Parameters
        ----------
        rows : ndarray, shape (n_rows, columns)
            Values.
        flags : ndarray of uint8, same shape
            Pixels that are not zero are left out.
        inside : ndarray
            Room for the values in the bracket, which are about 0.02 of all; where they find no
            room the median is not found.
        """
        sample = rows[np.isfinite(rows) & (flags == 0)]
        return RunningMedian(sample, int(_HALF_SHARE * sample.size) + 1, inside)

    def add(self, values: Array, flags: Array) -> None:
        """Take a piece of the image.

        Parameters
        ----------
        values : ndarray
            Contiguous; of any shape.
        flags : ndarray of uint8, same shape or size 0
            Pixels that are not zero are left out.
        """
        chosen = np.empty(_RUN, np.uint8)
        _collect(
            values.ravel(), flags.ravel(), self._low, self._high, chosen, chosen.view(np.uint64),
            self._inside, self._counts,
        )  # fmt: skip

    def find(self) -> float | None:
        """The median, NaN when no pixel is good; None where the sample deceived."""
        n_good = self.n_good
        if n_good == 0:
            return math.nan
        up_to_low, below_high = self._counts[1:3]
        n_inside = below_high - up_to_low
        if n_inside > self._inside.size - _RUN:
            return None
        inside = self._inside[:n_inside]
        middle = sorted({(n_good - 1) // 2, n_good // 2})
        among = [rank - up_to_low for rank in middle if up_to_low <= rank < below_high]
        if among:
            inside.partition(among)
        values = [self._value_of_rank(rank, inside) for rank in middle]
        return None if None in values else float(np.mean(values, dtype=np.float64))

    @property
    def n_good(self) -> int:
        """Good pixels that have been taken."""
        return int(self._counts[4])

    def _value_of_rank(self, rank: int, inside: Array) -> Any:
        below, up_to_low, below_high, up_to, _ = self._counts
        if rank < below or rank >= up_to:
            return None
        if rank < up_to_low:
            return self._low
        return self._high if rank >= below_high else inside[rank - up_to_low]


def median_of_good(image: Array, bad: Array | None = None) -> float:
    """Median of the good, finite pixels of an image.

    It is exact: see `RunningMedian`. Only where the sample deceived it is found by halving
    intervals and counting.

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
        sample = _sample(values, flags, image.shape[-1])
        half_ranks = int(_BRACKET_STD * math.sqrt(sample.size) / 2) + 1
        # Twice the room that should be needed: fresh memory costs more than the pass.
        room = int(4 * half_ranks / max(sample.size, 1) * values.size) + 2 * _RUN
        running = RunningMedian(sample, half_ranks, np.empty(room, values.dtype))
        running.add(values, flags)
        median = running.find()
        if median is not None:
            return median
        n_good = running.n_good
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


def _sample(values: Array, flags: Array, columns: int) -> Array:
    """Good values of one pixel in so many of a whole image."""
    step = _SHARE
    while math.gcd(step, columns) > 1:  # or the sample would come from a few columns
        step += 1
    sample = values[::step]
    good = np.isfinite(sample)
    if flags.size:
        good &= flags[::step] == 0
    return sample[good]


def _bracket(sample: Array, half_ranks: int, dtype: Any) -> tuple[Any, Any]:
    """Two values between which the median should lie."""
    n = sample.size
    if n == 0:
        limits = np.finfo(dtype)
        return limits.min, limits.max
    low, high = max(0, n // 2 - half_ranks), min(n - 1, n // 2 + half_ranks)
    sample.partition((low, high))
    return sample[low], sample[high]


@kernel()
def _drop_flagged(run: Array, flags: Array, cleaned: Array) -> Array:
    """The run, or where it has flagged values a copy in which they are NaN."""
    flagged = 0
    for x in range(flags.size):
        flagged |= flags[x]
    if flagged == 0:
        return run
    for x in range(run.size):
        cleaned[x] = run[x] if flags[x] == 0 else np.nan
    return cleaned[: run.size]


@kernel()
def _count(run: Array, low: Any, high: Any) -> tuple[int, int, int, int, int]:
    """Good values below the bracket, up to its lower end, below and up to its upper; and all."""
    # Of 32 bits as the values are: then the counts are vectorised along with the comparisons.
    below = np.int32(0)
    up_to_low = np.int32(0)
    below_high = np.int32(0)
    up_to = np.int32(0)
    n_good = np.int32(0)
    for x in range(run.size):
        v = run[x]
        good = abs(v) < np.inf  # false for NaN too
        n_good = np.int32(n_good + good)
        below = np.int32(below + (good & (v < low)))
        up_to_low = np.int32(up_to_low + (good & (v <= low)))
        below_high = np.int32(below_high + (good & (v < high)))
        up_to = np.int32(up_to + (good & (v <= high)))
    # Of a bracket of one value nothing lies between its ends.
    return int(below), int(up_to_low), max(int(below_high), int(up_to_low)), int(up_to), int(n_good)


@kernel()
def _pick(
    run: Array, low: Any, high: Any, chosen: Array, eights: Array, inside: Array, place: int
) -> int:
    """Append the values between the ends of the bracket; where the next would go.

    One value in some dozens is picked. So the comparisons are made first, vectorised, and eight
    values are passed over at a time where there is none (three times faster than one by one).
    """
    for x in range(chosen.size):
        chosen[x] = 0
    for x in range(run.size):
        chosen[x] = (run[x] > low) & (run[x] < high)
    for i in range(eights.size):
        if eights[i] != 0:
            for x in range(8 * i, min(8 * i + 8, run.size)):
                if chosen[x]:
                    inside[place] = run[x]
                    place += 1
    return place


@kernel()
def _collect(
    values: Array,
    flags: Array,
    low: Any,
    high: Any,
    chosen: Array,
    eights: Array,
    inside: Array,
    counts: Array,
) -> None:
    """Add to the counts of `_count`, and collect what lies between the ends of the bracket.

    What finds no room in `inside` is counted only. `chosen` is room for a run of bytes, and
    `eights` the same memory as numbers of 64 bits: seen so within, it takes seconds to compile.
    """
    cleaned = np.empty(_RUN, values.dtype)
    place = counts[2] - counts[1]
    for start in range(0, values.size, _RUN):
        run = _drop_flagged(values[start : start + _RUN], flags[start : start + _RUN], cleaned)
        below, up_to_low, below_high, up_to, n_good = _count(run, low, high)
        counts[0] += below
        counts[1] += up_to_low
        counts[2] += below_high
        counts[3] += up_to
        counts[4] += n_good
        if below_high > up_to_low and place + _RUN <= inside.size:
            place = _pick(run, low, high, chosen, eights, inside, place)


@kernel()
def _count_all(values: Array, flags: Array, level: Any) -> tuple[int, int, int]:
    """Number of good values below a level, up to it, and in all."""
    n_below = 0
    n_up_to = 0
    n_good = 0
    cleaned = np.empty(_RUN, values.dtype)
    for start in range(0, values.size, _RUN):
        run = _drop_flagged(values[start : start + _RUN], flags[start : start + _RUN], cleaned)
        below, _, _, up_to, good = _count(run, level, level)
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
