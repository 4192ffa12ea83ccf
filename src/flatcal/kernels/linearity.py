"""Correction of counts for a response that is not linear."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.kernels.compiled import kernel

Array = NDArray[Any]


@kernel()
def correct_polynomial(counts: Array, coefficients: Array) -> None:
    """Multiply counts by ``1 + c1 counts + c2 counts^2 + ...``, in place.

    Parameters
    ----------
    counts : ndarray, shape (rows, columns), float32 or float64
        Counts above the bias level.
    coefficients : ndarray of the same type
        c1, c2 and on.
    """
    n = coefficients.size
    for y in range(counts.shape[0]):
        row = counts[y]
        for x in range(row.size):
            v = row[x]
            factor = coefficients[n - 1] * v
            for i in range(n - 2, -1, -1):
                factor = (factor + coefficients[i]) * v
            row[x] = v + v * factor


@kernel()
def stretch_std(
    std: Array,
    calibrated: Array,
    dark: Array,
    dark_scale: Any,
    flat: Array,
    read_variance: Any,
    bias_std: Array,
    bias_factor: Any,
    slopes: Array,
    first: Any,
    per_adu: Any,
) -> None:
    """Let an uncertainty know that a curve stretches what was in the counts before it, in place.

    Shot noise is that of the true counts, as the uncertainty has it already. Reading, the overscan
    level and the master bias are errors of the raw counts: with the slope f of the curve their
    variance is f^2 of what it was. A dark scaled by s has lost the same bias with a slope of 1, so
    that (f - s)^2 of its variance is in the result.

    Parameters
    ----------
    std : ndarray, shape (rows, columns)
        From `kernels.arithmetic.propagate`.
    calibrated, dark, dark_scale, flat, read_variance, bias_std, bias_factor
        As for that.
    slopes : ndarray of the same type
        Slope of the curve at even distances of true counts.
    first, per_adu : scalar of the same type
        True counts of the first, and how many there are to an ADU.
    """
    one = std.dtype.type(1)
    last = std.dtype.type(slopes.size - 1)
    for y in range(std.shape[0]):
        row = std[y]
        for x in range(row.size):
            divisor = one
            if flat.size and flat[y, x] > 0:
                divisor = flat[y, x]
            signal = calibrated[y, x] * divisor
            if dark.size:
                signal += dark_scale * dark[y, x]
            place = (signal - first) * per_adu
            place = place if place > 0 else std.dtype.type(0)  # also for what is no number
            f = slopes[int(place if place < last else last)]
            more = (f * f - one) * read_variance
            if bias_std.size:
                of_bias = f * f - one - (one - bias_factor) * (f - one)
                more += of_bias * bias_std[y, x] * bias_std[y, x]
            row[x] = np.sqrt(row[x] * row[x] + more / (divisor * divisor))
