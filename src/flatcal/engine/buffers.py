"""Memory that is used again.

Memory that a process has not touched before is cleared by the system page by page, which takes
longer than calibrating what is then put there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Buffers:
    """Lends arrays, and lends their memory again when they come back."""

    def __init__(self) -> None:
        self._free: list[Array] = []
        self._lock = Lock()

    @contextmanager
    def lend(self, shape: tuple[int, ...], dtype: Any) -> Iterator[Array]:
        """An array of any content, to be used within the context only.

        Parameters
        ----------
        shape : tuple of int
            Shape of the array.
        dtype : dtype
            Type of the array.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        memory = self._take(size)
        try:
            yield memory[:size].view(dtype).reshape(shape)
        finally:
            with self._lock:
                self._free.append(memory)

    def _take(self, size: int) -> Array:
        """The smallest free memory that is large enough, but not half as large again."""
        with self._lock:
            fitting = [m for m in self._free if size <= m.size <= size + size // 2]
            if fitting:
                best = min(fitting, key=lambda memory: memory.size)
                self._free = [memory for memory in self._free if memory is not best]
                return best
            # What is free does not fit the frames of now; it would only add to them.
            self._free.clear()
        return np.empty(size, np.uint8)

    def clear(self) -> None:
        """Give the memory that is not lent back to the system."""
        with self._lock:
            self._free.clear()
