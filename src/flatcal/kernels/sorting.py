"""A block of pixels of all frames: loaded, sorted along the frames, its median and MAD.

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

# Pixels of a block: 20 float32 rows of one fill 80 KiB, well inside a second cache.
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


@kernel(fastmath={"nnan", "nsz"})
def _sort_pair(first: Array, second: Array, low: Array, high: Array) -> None:
    """As `_compare_exchange` into other rows: rows that may be the same are not vectorised."""
    for x in range(low.size):
        a = first[x]
        b = second[x]
        low[x] = -(-a if -a > -b else -b)
        high[x] = a if a > b else b


@kernel()
def sort_frames(values: Array, network: Array, block: Array) -> None:
    """Sort the columns of a block into another block.

    Parameters
    ----------
    values : ndarray, shape (n_frames or more, n_pixels)
        Without NaN: a missing value is +inf and sorts last.
    network : ndarray
        Of `sorting_network` for `n_frames`.
    block : ndarray, shape (n_frames, n_pixels)
        Receives the values in order; its memory is not that of `values`.
    """
    n = block.shape[0]
    # Every network begins with the pairs (0, 1), (2, 3) and on, sorted here as they are copied.
    for i in range(n // 2):
        _sort_pair(values[2 * i], values[2 * i + 1], block[2 * i], block[2 * i + 1])
    if n % 2:
        for x in range(block.shape[1]):  # assigned as a whole it takes seconds to compile
            block[n - 1, x] = values[n - 1, x]
    for pair in range(n // 2, network.shape[0]):
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
def deviation_of_column(column: Array, center: Any) -> Any:
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
def median_and_mad(
    block: Array, n_good: Array, all_good: bool, exact: bool, center: Array, mad: Array
) -> None:
    """Median and median absolute deviation of the first `n_good` values of sorted columns.

    The MAD of an even number of values is the mean of two deviations. Where it need not be
    `exact` it is the smaller, which half of the values do not exceed either, in half the time.
    """
    n = block.shape[0]
    half = block.dtype.type(0.5)
    _median(block, center)
    _ranked_deviation(block, center, (n - 1) // 2 + 1, mad)
    if exact and n % 2 == 0:
        other = np.empty_like(mad)
        _ranked_deviation(block, center, n // 2 + 1, other)
        for x in range(mad.size):
            mad[x] = half * mad[x] + half * other[x]
    if not all_good:
        _mend_columns(block, n_good, center, mad)


@kernel()
def _mend_columns(block: Array, n_good: Array, center: Array, mad: Array) -> None:
    """Median and MAD of sorted columns that lack values."""
    n = block.shape[0]
    for x in range(mad.size):
        good = n_good[x]
        if good == 0:
            center[x] = np.nan
            mad[x] = np.nan
        elif good < n:
            column = block[:good, x]
            center[x] = median_of_column(column)
            mad[x] = deviation_of_column(column, center[x])


@kernel()
def median_of_column(column: Array) -> Any:
    """Median of a sorted column of good values."""
    half = column.dtype.type(0.5)
    n = column.size
    return half * column[(n - 1) // 2] + half * column[n // 2]


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
def load_block(
    stack: Array, flags: Array, scales: Array, start: int, values: Array, n_good: Array
) -> bool:
    """Copy scaled values into a block, bad ones as +inf; True when none is bad."""
    size = values.shape[1]
    for x in range(size):
        n_good[x] = 0
    for i in range(stack.shape[0]):
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
    least = np.int32(stack.shape[0])
    for x in range(size):
        least = min(least, n_good[x])
    return bool(least == stack.shape[0])


@kernel()
def count_good(row: Array) -> int:
    """Number of values of a row that are not missing."""
    n_good = np.int32(0)
    for x in range(row.size):
        n_good = np.int32(n_good + (row[x] < np.inf))
    return int(n_good)
