"""Combining a stack of frames pixel by pixel: averages and medians of what is kept.

`combine_clipped` loads, sorts, rejects and averages a block of pixels while it is in cache; it
is what masters are made with by default. The other kernels combine what `kernels.reject` left.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.kernels.compiled import kernel
from flatcal.kernels.sorting import (
    BLOCK,
    count_good,
    load_block,
    median_and_mad,
    sort_frames,
    sorting_network,
)

Array = NDArray[Any]

# Normal standard deviation over median absolute deviation, as astropy.stats.mad_std has it.
MAD_TO_STD: Final = 1.482602218505602


@kernel()
def combine_clipped(
    stack: Array,
    flags: Array,
    scales: Array,
    noise: Array,
    zero: Any,
    low_sigma: Any,
    high_sigma: Any,
    least_std: Any,
    average: Array,
    error: Array,
    n_used: Array,
    n_rejected: Array,
) -> None:
    """Average after one rejection about the median, by the noise of the frames or by the MAD.

    Each frame is multiplied by its scale first; then values farther from the median than
    `low_sigma` or `high_sigma` standard deviations are left out, and the rest is averaged.

    By the noise, the standard deviation of frame i at the median m is
    ``sqrt(noise[i, 0] * max(m - zero, 0) + noise[i, 1])``, and at least half of the values are
    kept: no value is left out that is as near the median as the MAD. By the MAD it is 1.4826 MAD.

    Parameters
    ----------
    stack : ndarray of float32 or float64, shape (n_frames, n_pixels)
        Values; one that is not finite is bad.
    flags : ndarray of uint8, shape (n_frames, n_pixels) or size 0
        Values whose flag is not zero are bad.
    scales : ndarray, shape (n_frames,)
        Factors, in the type of `stack`.
    noise : ndarray, shape (n_frames, 2) or (0, 2)
        Terms of the variance of a scaled value of each frame; size 0 rejects by the MAD.
    zero : scalar of the type of `stack`
        Scaled value without photons.
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
    n_rejected : ndarray of int64, shape (n_frames,)
        To which the number of good values that were left out of each frame is added.
    """
    n, n_pixels = stack.shape
    network = sorting_network(n)
    size = 0
    for start in range(0, n_pixels, BLOCK):
        if min(BLOCK, n_pixels - start) != size:
            size = min(BLOCK, n_pixels - start)
            values = np.zeros((n + n % 2, size), stack.dtype)  # an even number of rows
            ordered = np.empty((n, size), stack.dtype)
            center = np.empty(size, stack.dtype)
            spread = np.empty(size, stack.dtype)
            level = np.empty(size, stack.dtype)
            n_good = np.empty(size, np.int32)
        all_good = load_block(stack, flags, scales, start, values, n_good)
        sort_frames(values, network, ordered)
        median_and_mad(ordered, n_good, all_good, noise.size == 0, center, spread)
        set_levels(center, spread, noise, zero, least_std, level)
        stop = start + size
        _average_kept(
            values, all_good, center, level, spread, noise, low_sigma, high_sigma,
            average[start:stop], error[start:stop], n_used[start:stop], n_rejected,
        )  # fmt: skip


@kernel()
def set_levels(
    center: Array, spread: Array, noise: Array, zero: Any, least_std: Any, level: Array
) -> None:
    """What the variance is a linear function of: the photons, or itself where the MAD gives it.

    `spread` becomes the square of a deviation that is kept in any case.
    """
    none = center.dtype.type(0)
    if noise.size:
        for x in range(center.size):
            photons = center[x] - zero
            level[x] = photons if photons > none else none
            spread[x] *= spread[x]
    else:
        to_std = center.dtype.type(MAD_TO_STD)
        for x in range(center.size):
            std = to_std * spread[x]
            std = std if std > least_std else least_std
            level[x] = std * std
            spread[x] = none


@kernel()
def set_limit(sigma: Any, slope: Any, constant: Any, limit: Array) -> None:
    """Square of the deviation that is kept, as a linear function of `level`."""
    limit[0] = sigma * sigma * slope if sigma < np.inf else limit.dtype.type(0)
    limit[1] = sigma * sigma * constant if sigma < np.inf else sigma


@kernel()
def is_kept(
    d: Any,
    level: Any,
    least: Any,
    low_slope: Any,
    low_constant: Any,
    high_slope: Any,
    high_constant: Any,
) -> bool:
    """Whether a deviation from the centre is kept; that of a missing value, +inf, never is."""
    below = level * low_slope + low_constant
    above = level * high_slope + high_constant
    limit = below if d < 0 else above
    limit = limit if limit > least else least
    return bool((d * d <= limit) & (d < np.inf))


@kernel()
def _keep(
    row: Array, center: Array, level: Array, least: Array, low: Array, high: Array, count: Array
) -> int:
    """Turn a frame into deviations from the centre, 0 where it is rejected; how many are kept."""
    none = row.dtype.type(0)
    n_kept = np.int32(0)
    for x in range(row.size):
        d = row[x] - center[x]
        keep = is_kept(d, level[x], least[x], low[0], low[1], high[0], high[1])
        row[x] = d if keep else none
        count[x] += row.dtype.type(keep)
        n_kept = np.int32(n_kept + keep)
    return int(n_kept)


@kernel()
def _add(first: Array, second: Array, total: Array, squares: Array) -> None:
    """Add two frames at once: the sums are read and written half as often."""
    for x in range(first.size):
        a = np.float64(first[x])
        b = np.float64(second[x])
        total[x] += a + b
        squares[x] += a * a + b * b


@kernel()
def _average_kept(
    values: Array,
    all_good: bool,
    center: Array,
    level: Array,
    least: Array,
    noise: Array,
    low_sigma: Any,
    high_sigma: Any,
    average: Array,
    error: Array,
    n_used: Array,
    n_rejected: Array,
) -> None:
    size = center.size
    count = np.zeros(size, values.dtype)
    low = np.empty(2, values.dtype)
    high = np.empty(2, values.dtype)
    slope = values.dtype.type(1)
    constant = values.dtype.type(0)
    for i in range(n_rejected.size):
        if noise.size:
            slope = noise[i, 0]
            constant = noise[i, 1]
        set_limit(low_sigma, slope, constant, low)
        set_limit(high_sigma, slope, constant, high)
        n_good = size if all_good else count_good(values[i])
        n_rejected[i] += n_good - _keep(values[i], center, level, least, low, high, count)
    # Sums about the median: squares of small numbers lose no digits.
    total = np.zeros(size, np.float64)
    squares = np.zeros(size, np.float64)
    for i in range(0, values.shape[0], 2):
        _add(values[i], values[i + 1], total, squares)
    for x in range(size):
        k = np.float64(count[x])
        shift = total[x] / k
        average[x] = np.float64(center[x]) + shift
        scatter = squares[x] - k * shift * shift
        scatter = scatter if scatter > 0 else 0.0
        error[x] = np.sqrt(scatter / ((k - 1) * k))  # 0 / 0 is NaN where one or none is kept
        n_used[x] = np.int32(count[x])


@kernel()
def _set_weights(weights: Array, start: int, weight: Array) -> None:
    """Weights of the pixels of a block, which may be one for all."""
    # One by one: a slice that is assigned takes a second to compile.
    for x in range(weight.size):
        weight[x] = weights[0] if weights.size == 1 else weights[start + x]


@kernel()
def combine_weighted(
    stack: Array,
    flags: Array,
    scales: Array,
    weights: Array,
    average: Array,
    error: Array,
    n_used: Array,
) -> None:
    """Weighted average of each pixel over the frames, each multiplied by its scale first.

    Parameters
    ----------
    stack, flags, scales
        As for `combine_clipped`.
    weights : ndarray of float64, shape (n_frames, 1) or (n_frames, n_pixels)
        Weight of each frame, or of each value.
    average : ndarray, shape (n_pixels,)
        Receives the average, NaN where no value is good. Sums are float64.
    error : ndarray, shape (n_pixels,)
        Receives its standard error from the scatter of the values about it, NaN where fewer
        than two are good: ``sqrt(sum(w**2 (v - average)**2) n / (n - 1)) / sum(w)``, which for
        equal weights is that of an average.
    n_used : ndarray of int32, shape (n_pixels,)
        Receives how many values were good.
    """
    n, n_pixels = stack.shape
    size = 0
    for start in range(0, n_pixels, BLOCK):
        if min(BLOCK, n_pixels - start) != size:
            size = min(BLOCK, n_pixels - start)
            values = np.empty((n, size), stack.dtype)
            weight = np.empty(size, np.float64)
            total = np.empty(size, np.float64)
            mean = np.empty(size, np.float64)
            squares = np.empty(size, np.float64)
        stop = start + size
        n_good = n_used[start:stop]
        load_block(stack, flags, scales, start, values, n_good)
        total[:] = 0
        mean[:] = 0
        squares[:] = 0
        for i in range(n):
            _set_weights(weights[i], start, weight)
            for x in range(size):
                w = weight[x] if values[i, x] < np.inf else 0.0
                total[x] += w
                mean[x] += w * values[i, x] if w != 0 else 0.0
        for x in range(size):
            mean[x] /= total[x]
        for i in range(n):
            _set_weights(weights[i], start, weight)
            for x in range(size):
                d = weight[x] * (values[i, x] - mean[x])
                squares[x] += d * d if values[i, x] < np.inf else 0.0
        for x in range(size):
            k = np.float64(n_good[x])
            average[start + x] = mean[x]
            error[start + x] = np.sqrt(squares[x] * k / (k - 1)) / total[x]


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
            ordered = np.empty((n, size), stack.dtype)
        stop = start + size
        n_good = n_used[start:stop]
        all_good = load_block(stack, flags, scales, start, values, n_good)
        sort_frames(values, network, ordered)
        median_and_mad(ordered, n_good, all_good, True, median[start:stop], error[start:stop])
        for x in range(start, stop):
            error[x] *= MAD_TO_STD / np.sqrt(max(n_used[x], 1))
