"""Masters in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.kernels.stats import median_of_good

Array = NDArray[Any]

_NO_FLAGS = np.empty((0, 0), np.uint16)


@dataclass(frozen=True, slots=True)
class Master:
    """A master with its planes.

    Attributes
    ----------
    data : ndarray of float32 or float64, shape (rows, columns)
        Values.
    std : ndarray, same shape and type, or size 0
        Standard deviation, if it is known.
    flags : ndarray of uint16, same shape, or size 0
        Flags; size 0 when every pixel is good.
    lost_bias : str
        Name of the bias that a dark has lost; empty when it holds its bias.
    zero : float
        Value that a dark has where there is no current: the level of the bias that it holds.
    """

    data: Array
    std: Array
    flags: Array
    lost_bias: str
    zero: float


def make_master(
    data: Array, std: Array | None, flags: Array, lost_bias: str, zero: float | None = 0.0
) -> Master:
    """A `Master` of planes, of which an empty one is left out; its median is its zero for None."""
    if zero is None:
        zero = median_of_good(data, flags != 0)
    return Master(
        data,
        np.empty((0, 0), data.dtype) if std is None else std,
        flags if flags.any() else _NO_FLAGS,
        lost_bias,
        zero,
    )
