"""Rejecting values of a stack pixel by pixel, one kernel for each way to tell outliers.

A kernel marks in `flags` what it rejects, and `kernels.combine` leaves it out. Values that are
marked already, or are not finite, take no part.

All stacks are of float32 or float64 and shape (n_frames, n_pixels), their flags uint8 of the
same shape: 0 for a good value, `REJECTED` or `GROWN` for what was rejected here, else bad.
Each frame is multiplied by its scale, of the type of the stack, before it is judged.

References
----------
.. [1] Analytical Methods Committee, "Robust statistics: a method of coping with outliers", AMC
   Technical Brief 6, Royal Society of Chemistry (2001): the winsorised standard deviation.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.kernels.combine import MAD_TO_STD, is_kept, set_levels, set_limit
from flatcal.kernels.compiled import kernel
from flatcal.kernels.sorting import (
    BLOCK,
    deviation_of_column,
    load_block,
    median_and_mad,
    median_of_column,
    sort_frames,
    sorting_network,
)

Array = NDArray[Any]

# Bits that no pixel flag has alone; a stack's flags are only asked whether they are 0.
REJECTED: Final = 255
GROWN: Final = 254

# Values are winsorised at so many standard deviations, which makes that of a normal distribution
# smaller by the factor; repeated until it changes by less than the share. [1]_
_WINSOR_SIGMA: Final = 1.5
_WINSOR_TO_STD: Final = 1.134
_WINSOR_SHARE: Final = 5e-4
_WINSOR_MOST: Final = 100


def reject_levels(stack: Array, flags: Array, low: float | None, high: float | None) -> None:
    """Reject values below or above fixed levels, before scaling; None is no level."""
    with np.errstate(invalid="ignore"):
        for values, marks in zip(stack, flags, strict=True):
            if low is not None:
                marks[(values < low) & (marks == 0)] = REJECTED
            if high is not None:
                marks[(values > high) & (marks == 0)] = REJECTED


@kernel()
def reject_noise(
    stack: Array,
    flags: Array,
    scales: Array,
    noise: Array,
    zero: Any,
    low_sigma: Any,
    high_sigma: Any,
) -> None:
    """Reject by the noise of the frames, as `kernels.combine.combine_clipped` does."""
    n, n_pixels = stack.shape
    network = sorting_network(n)
    low = np.empty(2, stack.dtype)
    high = np.empty(2, stack.dtype)
    size = 0
    for start in range(0, n_pixels, BLOCK):
        if min(BLOCK, n_pixels - start) != size:
            size = min(BLOCK, n_pixels - start)
            values = np.empty((n, size), stack.dtype)
            ordered = np.empty((n, size), stack.dtype)
            center = np.empty(size, stack.dtype)
            half = np.empty(size, stack.dtype)
            level = np.empty(size, stack.dtype)
            n_good = np.empty(size, np.int32)
        all_good = load_block(stack, flags, scales, start, values, n_good)
        sort_frames(values, network, ordered)
        median_and_mad(ordered, n_good, all_good, False, center, half)
        set_levels(center, half, noise, zero, stack.dtype.type(0), level)
        for i in range(n):
            set_limit(low_sigma, noise[i, 0], noise[i, 1], low)
            set_limit(high_sigma, noise[i, 0], noise[i, 1], high)
            for x in range(size):
                d = values[i, x] - center[x]
                kept = is_kept(d, level[x], half[x], low[0], low[1], high[0], high[1])
                if values[i, x] < np.inf and not kept:
                    flags[i, start + x] = REJECTED


@kernel()
def reject_scatter(
    stack: Array,
    flags: Array,
    scales: Array,
    about_mean: bool,
    by_std: bool,
    winsorised: bool,
    low_sigma: float,
    high_sigma: float,
    least_std: float,
    most_iterations: int,
) -> None:
    """Reject values by the scatter of their pixel, again and again until none is rejected.

    Parameters
    ----------
    stack, flags, scales
        See the module.
    about_mean : bool
        The centre is the mean, else the median.
    by_std : bool
        The spread is the standard deviation (with n), else 1.4826 MAD.
    winsorised : bool
        The spread is the winsorised standard deviation instead.
    low_sigma, high_sigma : float
        How many spreads below and above the centre are kept; infinity rejects nothing.
    least_std : float
        The least that the spread is taken as.
    most_iterations : int
        How often at the most.
    """
    n, n_pixels = stack.shape
    network = sorting_network(n)
    column = np.empty(n, np.float64)
    size = 0
    for start in range(0, n_pixels, BLOCK):
        if min(BLOCK, n_pixels - start) != size:
            size = min(BLOCK, n_pixels - start)
            values = np.empty((n, size), stack.dtype)
            ordered = np.empty((n, size), stack.dtype)
            lowest = np.empty(size, stack.dtype)
            highest = np.empty(size, stack.dtype)
            n_good = np.empty(size, np.int32)
        load_block(stack, flags, scales, start, values, n_good)
        sort_frames(values, network, ordered)
        for x in range(size):
            for i in range(n_good[x]):
                column[i] = ordered[i, x]
            first, last = _clip_column(
                column[: n_good[x]], about_mean, by_std, winsorised,
                low_sigma, high_sigma, least_std, most_iterations,
            )  # fmt: skip
            lowest[x] = ordered[first, x] if first < last else np.inf
            highest[x] = ordered[last - 1, x] if first < last else -np.inf
        for i in range(n):
            for x in range(size):
                v = values[i, x]
                if v < np.inf and (v < lowest[x] or v > highest[x]):
                    flags[i, start + x] = REJECTED


@kernel()
def _clip_column(
    column: Array,
    about_mean: bool,
    by_std: bool,
    winsorised: bool,
    low_sigma: float,
    high_sigma: float,
    least_std: float,
    most_iterations: int,
) -> tuple[int, int]:
    """First and last (exclusive) value that is kept of a sorted column of good values."""
    first = 0
    last = column.size
    for _ in range(most_iterations):
        n_before = last - first
        if n_before == 0:
            break
        kept = column[first:last]
        center = _mean(kept) if about_mean else median_of_column(kept)
        if winsorised:
            std = _winsorised_std(kept, center)
        elif by_std:
            std = _std(kept, 0)
        else:
            std = MAD_TO_STD * deviation_of_column(kept, median_of_column(kept))
        std = max(std, least_std)
        lower = center - low_sigma * std
        upper = center + high_sigma * std
        # Asked so that NaN, an infinite threshold times a spread of zero, rejects nothing.
        while first < last and column[first] < lower:
            first += 1
        while first < last and column[last - 1] > upper:
            last -= 1
        if last - first == n_before:
            break
    return first, last


@kernel()
def _mean(values: Array) -> float:
    """Mean, exact where all values are equal."""
    total = 0.0
    for v in values:
        total += v - values[0]
    return float(values[0] + total / values.size)


@kernel()
def _std(values: Array, ddof: int) -> float:
    mean = _mean(values)
    total = 0.0
    for v in values:
        total += (v - mean) * (v - mean)
    return float(np.sqrt(total / (values.size - ddof)))


@kernel()
def _winsorised_std(values: Array, center: float) -> float:
    """Standard deviation of values of which those far from the centre are pulled in. [1]_"""
    if values.size == 1:
        return 0.0
    pulled = np.empty_like(values)
    std = _std(values, 1)
    for _ in range(_WINSOR_MOST):
        lower = center - _WINSOR_SIGMA * std
        upper = center + _WINSOR_SIGMA * std
        for i in range(values.size):
            pulled[i] = min(max(values[i], lower), upper)
        before = std
        std = _WINSOR_TO_STD * _std(pulled, 1)
        if abs(std - before) <= _WINSOR_SHARE * before:
            break
    return float(std)


@kernel()
def reject_extremes(stack: Array, flags: Array, scales: Array, n_low: int, n_high: int) -> None:
    """Reject the `n_low` lowest and `n_high` highest good values of each pixel.

    Of equal values the one of the earlier frame counts as the lower.
    """
    n, n_pixels = stack.shape
    size = 0
    for start in range(0, n_pixels, BLOCK):
        if min(BLOCK, n_pixels - start) != size:
            size = min(BLOCK, n_pixels - start)
            values = np.empty((n, size), stack.dtype)
            ranks = np.empty((n, size), np.int32)
            n_good = np.empty(size, np.int32)
        load_block(stack, flags, scales, start, values, n_good)
        ranks[:] = 0
        for i in range(n):
            for j in range(i):
                for x in range(size):
                    below = np.int32(values[i, x] < values[j, x])
                    ranks[j, x] += below
                    ranks[i, x] += 1 - below
        for i in range(n):
            for x in range(size):
                extreme = ranks[i, x] < n_low or ranks[i, x] >= n_good[x] - n_high
                if extreme and values[i, x] < np.inf:
                    flags[i, start + x] = REJECTED


@kernel()
def grow_rejected(flags: Array, places: Array, radius: float) -> None:
    """Mark what lies no farther than `radius` pixels from a rejected value of the same frame.

    Parameters
    ----------
    flags : ndarray of uint8, shape (n_frames, rows, columns)
        Good values near one that is `REJECTED` become `GROWN`.
    places : ndarray of int64
        Pixels of the flattened image among which are all that hold a rejected value.
    radius : float
        In pixels, from centre to centre.
    """
    n, rows, columns = flags.shape
    reach = int(radius)
    for i in range(n):
        for place in places:
            y, x = place // columns, place % columns
            if flags[i, y, x] != REJECTED:
                continue
            for v in range(max(0, y - reach), min(rows, y + reach + 1)):
                for u in range(max(0, x - reach), min(columns, x + reach + 1)):
                    near = (u - x) ** 2 + (v - y) ** 2 <= radius * radius
                    if near and flags[i, v, u] == 0:
                        flags[i, v, u] = GROWN
