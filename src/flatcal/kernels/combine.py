"""Combining a stack of frames pixel by pixel.

A block of pixels of all N frames is held in cache and sorted along the frames by a Batcher
odd-even merge network [1]_. Each compare-exchange of the network is a minimum and a maximum
over two rows of the block, which the compiler vectorises along the pixels; a sort per pixel
would branch on the data. The median is then the middle row, and the median absolute deviation
is found from the sorted rows without sorting again.

The loops run along the rows of whole arrays, never of slices of larger ones: numba vectorises
only over arrays that it knows to be contiguous (measured: 3 times slower otherwise). A loop
that divides is compiled with numpy's rules for division, because a test for zero in each
pixel would keep it from being vectorised.

References
----------
.. [1] K. E. Batcher, "Sorting networks and their applications", AFIPS 32, 307 (1968).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.kernels.compiled import kernel

Array = NDArray[Any]

# Normal standard deviation over median absolute deviation, as astropy.stats.mad_std has it.
MAD_TO_STD: Final = 1.482602218505602

# Pixels of a block: a block of 20 float32 frames fills 80 KiB, well inside a second cache.
BLOCK: Final = 1024


@kernel()
def sorting_network(n: int) -> Array:
    """Pairs of rows that are compared and exchanged, in order, to sort `n` rows.

    Parameters
    ----------
    n : int
        Number of rows; any.

    Returns
    -------
    ndarray of int, shape (n_pairs, 2)
        Of each pair the first row receives the smaller values.
    """
    most = 1
    while 2**most < n:
        most += 1
    pairs = np.empty((n * most * (most + 1) // 4 + n, 2), np.int64)
    count = 0
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(j, min(j + k, n - k)):
                    if i // (2 * p) == (i + k) // (2 * p):
                        pairs[count, 0] = i
                        pairs[count, 1] = i + k
                        count += 1
            k //= 2
        p *= 2
    return pairs[:count]


@kernel(fastmath={"nnan", "nsz"})
def _compare_exchange(low: Array, high: Array) -> None:
    for x in range(low.size):
        a = low[x]
        b = high[x]
        # The minimum as a maximum of negatives: written plainly, the compiler turns it into a
        # masked store, which is several times slower on some processors. The rows hold no NaN.
        low[x] = -(-a if -a > -b else -b)
        high[x] = a if a > b else b


@kernel()
def sort_frames(block: Array, network: Array) -> None:
    """Sort a block in place along its first axis.

    Parameters
    ----------
    block : ndarray, shape (n_frames, n_pixels)
        Without NaN: a missing value is +inf and sorts last.
    network : ndarray
        Of `sorting_network` for `n_frames`.
    """
    for pair in range(network.shape[0]):
        _compare_exchange(block[network[pair, 0]], block[network[pair, 1]])


@kernel()
def _median(block: Array, out: Array) -> None:
    """Median of each column of a sorted block without missing values."""
    n = block.shape[0]
    half = block.dtype.type(0.5)
    low = block[(n - 1) // 2]
    high = block[n // 2]
    for x in range(out.size):
        out[x] = half * low[x] + half * high[x]


@kernel(fastmath={"nnan", "nsz"})
def _least_of_larger(low: Array, high: Array, center: Array, least: Array) -> None:
    for x in range(least.size):
        a = center[x] - low[x]
        b = high[x] - center[x]
        larger = a if a > b else b
        least[x] = -(-larger if -larger > -least[x] else -least[x])  # see _compare_exchange


@kernel()
def _ranked_deviation(block: Array, center: Array, rank: int, out: Array) -> None:
    """Absolute deviation from the median with the given rank, 1 for the smallest.

    Below and above the median the deviations of a sorted block are sorted already. The one of
    rank m is the least, over all ways to take i of them from below and m - i from above, of the
    larger of the two that were taken last.
    """
    n = block.shape[0]
    split = (n + 1) // 2  # rows up to here lie below the median or at it
    out[:] = np.inf
    for i in range(max(0, rank - (n - split)), min(rank, split) + 1):
        # Where one side gives none, its place is taken by the other: a deviation is >= 0.
        low = block[split - i] if i > 0 else block[split + rank - 1]
        high = block[split + rank - i - 1] if i < rank else low
        _least_of_larger(low, high, center, out)


@kernel()
def _deviation_of_column(column: Array, center: Any) -> Any:
    """Median absolute deviation of a sorted column of good values from their median."""
    n = column.size
    low = (n - 1) // 2
    high = low + 1
    last = column.dtype.type(0)
    for _ in range(n // 2 + 1):
        before = last
        if high == n or (low >= 0 and center - column[low] <= column[high] - center):
            last = center - column[low]
            low -= 1
        else:
            last = column[high] - center
            high += 1
    return last if n % 2 else column.dtype.type(0.5) * (before + last)


@kernel()
def _median_and_mad(block: Array, n_good: Array, all_good: bool, center: Array, mad: Array) -> None:
    """Median and median absolute deviation of the first `n_good` values of sorted columns."""
    n = block.shape[0]
    half = block.dtype.type(0.5)
    _median(block, center)
    _ranked_deviation(block, center, (n - 1) // 2 + 1, mad)
    if n % 2 == 0:
        other = np.empty_like(mad)
        _ranked_deviation(block, center, n // 2 + 1, other)
        for x in range(mad.size):
            mad[x] = half * mad[x] + half * other[x]
    if all_good:
        return
    for x in range(mad.size):
        good = n_good[x]
        if good == 0:
            center[x] = np.nan
            mad[x] = np.nan
        elif good < n:
            center[x] = half * block[(good - 1) // 2, x] + half * block[good // 2, x]
            mad[x] = _deviation_of_column(block[:good, x], center[x])


@kernel()
def combine_clipped(
    stack: Array,
    flags: Array,
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
    flags : ndarray of uint8, shape (n_frames, n_pixels) or size 0
        Values whose flag is not zero are bad.
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
    network = sorting_network(n)
    size = 0
    for start in range(0, n_pixels, BLOCK):
        if min(BLOCK, n_pixels - start) != size:
            size = min(BLOCK, n_pixels - start)
            values = np.empty((n, size), stack.dtype)
            center = np.empty(size, stack.dtype)
            mad = np.empty(size, stack.dtype)
            n_good = np.empty(size, np.int32)
        all_good = _load(stack, flags, scales, start, values, n_good)
        sort_frames(values, network)
        _median_and_mad(values, n_good, all_good, center, mad)
        stop = start + size
        _average_kept(
            values, center, mad, low_sigma, high_sigma, least_std,
            average[start:stop], error[start:stop], n_used[start:stop],
        )  # fmt: skip


@kernel()
def combine_median(
    stack: Array, flags: Array, scales: Array, median: Array, error: Array, n_used: Array
) -> None:
    """Median of each pixel over the frames, each multiplied by its scale first.

    Parameters
    ----------
    stack, flags, scales
        As for `combine_clipped`.
    median : ndarray, shape (n_pixels,)
        Receives the median, NaN where no value is good.
    error : ndarray, shape (n_pixels,)
        Receives 1.4826 MAD over the square root of the number of good values.
    n_used : ndarray of int32, shape (n_pixels,)
        Receives how many values were good.
    """
    n, n_pixels = stack.shape
    network = sorting_network(n)
    size = 0
    for start in range(0, n_pixels, BLOCK):
        if min(BLOCK, n_pixels - start) != size:
            size = min(BLOCK, n_pixels - start)
            values = np.empty((n, size), stack.dtype)
        stop = start + size
        n_good = n_used[start:stop]
        all_good = _load(stack, flags, scales, start, values, n_good)
        sort_frames(values, network)
        _median_and_mad(values, n_good, all_good, median[start:stop], error[start:stop])
        for x in range(start, stop):
            error[x] *= MAD_TO_STD / np.sqrt(max(n_used[x], 1))


@kernel()
def _drop_flagged(flags: Array, row: Array, n_good: Array) -> None:
    """Set flagged values to +inf; a block without a flag costs one look."""
    flagged = 0
    for x in range(flags.size):
        flagged |= flags[x]
    if flagged == 0:
        return
    for x in range(flags.size):
        if flags[x] != 0:
            n_good[x] -= np.int32(row[x] < np.inf)
            row[x] = np.inf


@kernel()
def _load(
    stack: Array, flags: Array, scales: Array, start: int, values: Array, n_good: Array
) -> bool:
    """Copy scaled values into a block, bad ones as +inf; True when none is bad."""
    size = values.shape[1]
    for x in range(size):
        n_good[x] = 0
    for i in range(values.shape[0]):
        source = stack[i, start : start + size]
        scale = scales[i]
        row = values[i]
        for x in range(size):
            v = source[x] * scale
            good = abs(v) < np.inf  # false for NaN too, and vectorised
            row[x] = v if good else np.inf
            n_good[x] += np.int32(good)
        if flags.size:
            _drop_flagged(flags[i, start : start + size], row, n_good)
    least = np.int32(values.shape[0])
    for x in range(size):
        least = min(least, n_good[x])
    return bool(least == values.shape[0])


@kernel()
def _clip_limits(
    center: Array,
    mad: Array,
    low_sigma: Any,
    high_sigma: Any,
    least_std: Any,
    low: Array,
    high: Array,
) -> None:
    """Least and largest value that is kept; always finite, so that +inf never is."""
    to_std = center.dtype.type(MAD_TO_STD)
    largest = np.finfo(center.dtype).max
    for x in range(center.size):
        std = max(to_std * mad[x], least_std)
        lower = center[x] - low_sigma * std
        upper = center[x] + high_sigma * std
        # Asked so that NaN, an infinite threshold times a MAD of zero, rejects nothing.
        low[x] = lower if lower > -largest else -largest
        high[x] = upper if upper < largest else largest


@kernel()
def _add_kept(
    row: Array, center: Array, low: Array, high: Array, total: Array, squares: Array, count: Array
) -> None:
    for x in range(row.size):
        v = row[x]
        keep = (v >= low[x]) & (v <= high[x])
        c = center[x]
        # Sums about the median: squares of small numbers lose no digits.
        d = np.float64(v - c if keep else row.dtype.type(0))
        total[x] += d
        squares[x] += d * d
        count[x] += row.dtype.type(keep)


@kernel()
def _average_kept(
    values: Array,
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
    low = np.empty(size, values.dtype)
    high = np.empty(size, values.dtype)
    count = np.zeros(size, values.dtype)
    total = np.zeros(size, np.float64)
    squares = np.zeros(size, np.float64)
    _clip_limits(center, mad, low_sigma, high_sigma, least_std, low, high)
    for i in range(n):
        _add_kept(values[i], center, low, high, total, squares, count)
    for x in range(size):
        k = np.float64(count[x])
        shift = total[x] / k
        average[x] = np.float64(center[x]) + shift
        scatter = max(squares[x] - k * shift * shift, 0.0)
        error[x] = np.sqrt(scatter / ((k - 1) * k))  # 0 / 0 is NaN where one or none is kept
        n_used[x] = np.int32(count[x])
