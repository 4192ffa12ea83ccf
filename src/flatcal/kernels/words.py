"""Sums of the words of a file."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.kernels.compiled import kernel


@kernel()
def sum_of_words(words: NDArray[Any]) -> Any:
    """Sum of big-endian words of 32 bits.

    numpy converts in small pieces before it adds and takes four times as long.

    Parameters
    ----------
    words : ndarray of uint32
        The bytes of the file, viewed on a little-endian machine.

    Returns
    -------
    uint64
        It does not overflow for an array that fits in memory.
    """
    total = np.uint64(0)
    for x in range(words.size):
        v = words[x]
        swapped = (v >> 24) | ((v >> 8) & 0xFF00) | ((v << 8) & 0xFF0000) | (v << 24)
        total += np.uint64(np.uint32(swapped))
    return total
