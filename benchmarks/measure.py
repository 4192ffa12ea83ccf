"""What one timed process reports: seconds, and the most memory that it took."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Measure:
    """One measurement.

    Attributes
    ----------
    seconds : float
        Of the timed part.
    peak_bytes : int
        Peak resident memory of the process, from its start to the end of the timed part.
    parts : dict of str to float
        Seconds of pieces that are told by name, where one process measures several.
    """

    seconds: float
    peak_bytes: int
    parts: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Measure:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


def measure(work: Callable[[], Result]) -> tuple[Measure, Result]:
    """Time some work, and nothing else, in this process."""
    started = perf_counter()
    result = work()
    seconds = perf_counter() - started
    return Measure(seconds, peak_bytes()), result


def peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    return in_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def in_bytes(ru_maxrss: int) -> int:
    """``ru_maxrss`` in bytes: Linux counts KiB, macOS bytes."""
    return ru_maxrss if sys.platform == "darwin" else ru_maxrss * 1024
