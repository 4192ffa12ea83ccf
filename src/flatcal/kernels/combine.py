"""Combining a stack of frames pixel by pixel.

A block of pixels of all N frames is held in cache and sorted along the frames by a Batcher
odd-even merge network [1]_. Each compare-exchange of the network is a minimum and a maximum
over two rows of the block, which the compiler vectorises along the pixels; a sort per pixel
would branch on the data. The median is then the middle row, and so is the median absolute
deviation after a second sort.

References
----------
.. [1] K. E. Batcher, "Sorting networks and their applications", AFIPS 32, 307 (1968).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

# Normal standard deviation over median absolute deviation, as astropy.stats.mad_std has it.
MAD_TO_STD: Final = 1.482602218505602

# Pixels of a block: two blocks of 20 float32 frames fill 160 KiB, well inside a second cache.
BLOCK: Final = 1024


@njit(nogil=True, cache=True)
def sort_frames(block: Array) -> None:
    """Sort a block in place along its first axis; any number of frames.

    Parameters
    ----------
    block : ndarray, shape (n_frames, n_pixels)
        Without NaN: a missing value is +inf and sorts last.
    """
    n = block.shape[0]
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(j, min(j + k, n - k)):
                    if i // (2 * p) == (i + k) // (2 * p):
                        low = block[i]
                        high = block[i + k]
                        for x in range(low.size):
                            a = low[x]
                            b = high[x]
                            low[x] = a if a < b else b
                            high[x] = b if a < b else a
            k //= 2
        p *= 2


@njit(nogil=True, cache=True)
def _middle(block: Array, n_good: Array, all_good: bool, out: Array) -> None:
    """Median of the first `n_good` values of each column of a sorted block."""
    n = block.shape[0]
    half = block.dtype.type(0.5)
    if all_good:
        low = block[(n - 1) // 2]
        high = block[n // 2]
        for x in range(out.size):
            out[x] = half * low[x] + half * high[x]
        return
    for x in range(out.size):
        good = n_good[x]
        if good == 0:
            out[x] = np.nan
        else:
            out[x] = half * block[(good - 1) // 2, x] + half * block[good // 2, x]


@njit(nogil=True, cache=True)
def combine_clipped(
    stack: Array,
    scales: Array,
    low_sigma: Any,
    high_sigma: Any,
    least_std: Any,
    average: Array,
    error: Array,
    n_used: Array,
) -> None:
    """Average after one rejection about the median with the scaled MAD.

    Each frame is multiplied by its scale first; then values farther from the median than
    `low_sigma` or `high_sigma` times 1.4826 MAD are left out, and the rest is averaged.

    Parameters
    ----------
    stack : ndarray of float32 or float64, shape (n_frames, n_pixels)
        Values; one that is not finite is bad.
    scales : ndarray, shape (n_frames,)
        Factors, in the type of `stack`.
    low_sigma, high_sigma : scalar of the type of `stack`
        Thresholds; infinity rejects nothing.
    least_std : scalar of the type of `stack`
        The least that the scaled MAD is taken as. The MAD of a few values is often far too
        small, and that of integers may be 0; noise that is known to be there keeps good values
        from being rejected then. 0 takes the MAD as it is.
    average : ndarray, shape (n_pixels,)
        Receives the average, NaN where no value is good. Sums are float64.
    error : ndarray, shape (n_pixels,)
        Receives the standard error of the average from the scatter of the values kept,
        NaN where fewer than two are kept.
    n_used : ndarray of int32, shape (n_pixels,)
        Receives how many values were kept.
    """
    n, n_pixels = stack.shape
    size = 0
    for start in range(0, n_pixels, BLOCK):
        if min(BLOCK, n_pixels - start) != size:
            # Whole arrays, never slices of larger ones: numba vectorises only over arrays
            # that it knows to be contiguous (measured: 3 times slower otherwise).
            size = min(BLOCK, n_pixels - start)
            values = np.empty((n, size), stack.dtype)
            deviations = np.empty((n, size), stack.dtype)
            center = np.empty(size, stack.dtype)
            mad = np.empty(size, stack.dtype)
            n_good = np.empty(size, np.int32)
        all_good = _load(stack, scales, start, values, n_good)
        sort_frames(values)
        _middle(values, n_good, all_good, center)
        _deviations(values, center, n_good, all_good, deviations)
        sort_frames(deviations)
        _middle(deviations, n_good, all_good, mad)
        stop = start + size
        _average_kept(
            values, n_good, center, mad, low_sigma, high_sigma, least_std,
            average[start:stop], error[start:stop], n_used[start:stop],
        )  # fmt: skip


@njit(nogil=True, cache=True)
def combine_median(stack: Array, scales: Array, median: Array, error: Array, n_used: Array) -> None:
    """Median of each pixel over the frames, each multiplied by its scale first.

    Parameters
    ----------
    stack, scales
        As for `combine_clipped`.
    median : ndarray, shape (n_pixels,)
        Receives the median, NaN where no value is good.
    error : ndarray, shape (n_pixels,)
        Receives 1.4826 MAD over the square root of the number of good values.
    n_used : ndarray of int32, shape (n_pixels,)
        Receives how many values were good.
    """
    n, n_pixels = stack.shape
    size = 0
    for start in range(0, n_pixels, BLOCK):
        if min(BLOCK, n_pixels - start) != size:
            size = min(BLOCK, n_pixels - start)
            values = np.empty((n, size), stack.dtype)
            deviations = np.empty((n, size), stack.dtype)
        stop = start + size
        n_good = n_used[start:stop]
        all_good = _load(stack, scales, start, values, n_good)
        sort_frames(values)
        _middle(values, n_good, all_good, median[start:stop])
        _deviations(values, median[start:stop], n_good, all_good, deviations)
        sort_frames(deviations)
        _middle(deviations, n_good, all_good, error[start:stop])
        for x in range(start, stop):
            error[x] *= MAD_TO_STD / np.sqrt(max(n_used[x], 1))


@njit(nogil=True, cache=True)
def _deviations(values: Array, center: Array, n_good: Array, all_good: bool, out: Array) -> None:
    for i in range(values.shape[0]):
        row = values[i]
        to = out[i]
        for x in range(row.size):
            to[x] = abs(row[x] - center[x])
        if not all_good:
            for x in range(row.size):
                # A missing value is inf, or NaN where all are missing: it must sort last.
                to[x] = to[x] if i < n_good[x] else np.inf


@njit(nogil=True, cache=True)
def _load(stack: Array, scales: Array, start: int, values: Array, n_good: Array) -> bool:
    """Copy scaled values into a block, NaN as +inf; True when none is missing."""
    size = values.shape[1]
    n_good[:] = 0
    for i in range(values.shape[0]):
        source = stack[i, start : start + size]
        scale = scales[i]
        for x in range(size):
            v = source[x] * scale
            good = abs(v) < np.inf  # false for NaN too, and vectorised
            values[i, x] = v if good else np.inf
            n_good[x] += 1 if good else 0
    return bool(n_good.min() == values.shape[0])


@njit(nogil=True, cache=True)
def _average_kept(
    values: Array,
    n_good: Array,
    center: Array,
    mad: Array,
    low_sigma: Any,
    high_sigma: Any,
    least_std: Any,
    average: Array,
    error: Array,
    n_used: Array,
) -> None:
    n, size = values.shape
    total = np.zeros(size, np.float64)
    squares = np.zeros(size, np.float64)
    n_used[:] = 0
    to_std = values.dtype.type(MAD_TO_STD)
    for i in range(n):
        for x in range(size):
            v = values[i, x]
            std = max(to_std * mad[x], least_std)
            # Asked so that NaN, an infinite threshold times a MAD of zero, rejects nothing.
            rejected = (v < center[x] - low_sigma * std) | (v > center[x] + high_sigma * std)
            keep = (i < n_good[x]) & (not rejected)
            # Sums about the median: squares of small numbers lose no digits.
            d = np.float64(v) - np.float64(center[x]) if keep else 0.0
            total[x] += d
            squares[x] += d * d
            n_used[x] += 1 if keep else 0
    for x in range(size):
        k = n_used[x]
        if k == 0:
            average[x] = np.nan
            error[x] = np.nan
            continue
        shift = total[x] / k
        average[x] = np.float64(center[x]) + shift
        scatter = max(squares[x] - k * shift * shift, 0.0)
        error[x] = np.sqrt(scatter / (k - 1) / k) if k > 1 else np.nan
