"""How kernels are compiled: without the interpreter's lock, and once for a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator for a function that numba compiles.

    The machine code is kept beside the module, or in the user's cache folder where the
    installation is read-only; where neither can be written it is compiled in every process.
    Division follows numpy (infinity or NaN, no exception), because a test for zero at each
    pixel would keep a loop from being vectorised.

    Parameters
    ----------
    **options
        More options of `numba.njit`.
    """
    options = {"nogil": True, "error_model": "numpy", **options}

    def compile_later(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            compiled: Callable[..., Any] = njit(cache=True, **options)(function)
        except RuntimeError:  # numba found no folder for its cache
            compiled = njit(**options)(function)
        return compiled

    return compile_later
