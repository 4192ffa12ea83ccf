"""Statistics of images."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

# Pixels of the sample that brackets the median; its median is off by 0.4 % of the ranks (one
# standard deviation), so that a bracket of 3 % to either side holds that of the image.
_SAMPLE: Final = 1 << 14
_BRACKET: Final = 0.03


def median_of_good(image: Array, bad: Array | None = None) -> float:
    """Median of the good, finite pixels of an image.

    It is exact: a regular sample brackets the median, one pass counts what lies below the
    bracket and collects what lies in it, and the median is found among those few. Only where
    the sample deceived, so that the median lies outside, all pixels are sorted through.

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
    flags = np.zeros(0, np.uint8) if bad is None else np.ascontiguousarray(bad).view(np.uint8)
    low, high = _bracket(values, flags.ravel())
    # Room for twice what the bracket should hold: fresh memory costs more than the pass.
    inside = np.empty(int(4 * _BRACKET * values.size) + 1, values.dtype)
    n_below, n_inside, n_good = _collect(values, flags.ravel(), low, high, inside)
    if n_good == 0:
        return float("nan")
    first, last = (n_good - 1) // 2 - n_below, n_good // 2 - n_below
    if first < 0 or last >= n_inside or n_inside == inside.size - 1:
        everything = values.dtype.type(np.inf)
        inside = np.empty(values.size + 1, values.dtype)
        _, n_inside, _ = _collect(values, flags.ravel(), -everything, everything, inside)
        first, last = (n_good - 1) // 2, n_good // 2
    middle = np.partition(inside[:n_inside], (first, last))[[first, last]]
    return float(middle.astype(np.float64).mean())


def _bracket(values: Array, flags: Array) -> tuple[Any, Any]:
    """Two values between which the median should lie."""
    step = max(1, values.size // _SAMPLE)
    sample = values[::step]
    good = np.isfinite(sample)
    if flags.size:
        good &= flags[::step] == 0
    if not good.any():
        return values.dtype.type(-np.inf), values.dtype.type(np.inf)
    low, high = np.quantile(sample[good], (0.5 - _BRACKET, 0.5 + _BRACKET))
    return values.dtype.type(low), values.dtype.type(high)


@njit(nogil=True, cache=True)
def _collect(
    values: Array, flags: Array, low: Any, high: Any, inside: Array
) -> tuple[int, int, int]:
    """Count good values below the bracket and in all, and collect those in it.

    The last place of `inside` is written over when it is full; the count then says so.
    """
    last = inside.size - 1
    n_below = 0
    n_inside = 0
    n_good = 0
    for i in range(values.size):
        v = values[i]
        good = np.isfinite(v) and (flags.size == 0 or flags[i] == 0)
        n_good += good
        n_below += good & (v < low)
        # Written always, counted when it belongs: no branch that depends on the value.
        inside[n_inside] = v
        n_inside += (n_inside < last) & good & (v >= low) & (v <= high)
    return n_below, n_inside, n_good
