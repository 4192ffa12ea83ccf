"""How much of the machine other programs took while something was timed."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

# Columns of the first line of /proc/stat: user, nice, system, (idle, iowait,) irq, softirq, steal.
_BUSY = (0, 1, 2, 5, 6, 7)


@contextmanager
def watched_load() -> Iterator[list[str]]:
    """A list that holds, once the block has ended, one sentence on the load by others.

    It stays empty where the system does not tell.
    """
    told: list[str] = []
    started, busy, own = monotonic(), _busy_seconds(), _own_seconds()
    yield told
    seconds = monotonic() - started
    if busy is not None and (now := _busy_seconds()) is not None and seconds > 0:
        others = max(0.0, now - busy - (_own_seconds() - own)) / seconds
        told.append(f"meanwhile other programs kept {others:.1f} of {os.cpu_count()} cores busy")


def _busy_seconds() -> float | None:
    try:
        ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    return sum(int(ticks[column]) for column in _BUSY) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Of this process and all its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
