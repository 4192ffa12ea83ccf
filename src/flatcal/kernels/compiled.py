"""How kernels are compiled: without the interpreter's lock, and once for a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba import njit
from numba.core import event


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


@contextmanager
def telling_of_compilation(tell: Callable[[], None]) -> Iterator[None]:
    """Call a function once, when a kernel has to be compiled because no cache holds it."""
    listener = _FirstCompilation(tell)
    event.register("numba:compile", listener)
    try:
        yield
    finally:
        event.unregister("numba:compile", listener)


class _FirstCompilation(event.Listener):  # type: ignore[misc]
    """Told by numba of every compilation; tells of the first."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell: Callable[[], None] | None = tell

    def on_start(self, _event: Any) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()

    def on_end(self, _event: Any) -> None:
        """Nothing to say when it is done."""
