"""How much memory a run takes where nobody says: never more than the system has to give."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from flatcal.errors import OutputError

MOST_BYTES: Final = 2 * 2**30
# Address space that the libraries take which a run loads; 250 MB were measured with two cores.
_LIBRARY_BYTES: Final = 300 * 10**6

# Files of control groups: the limit, what is taken, and what of that are files that were read or
# written, which the system drops when memory is wanted. Version 2, and version 1 below its mount.
_UNIFIED: Final = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_MEMORY: Final = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)


def default_memory_bytes(root: Path = Path("/")) -> int:
    """Limit of all arrays of a run: 2 GiB, or half of what this process may still get if less.

    The other half is for the program, which grows while it runs, and for other programs.

    Parameters
    ----------
    root : Path
        Holds ``proc`` and ``sys``.
    """
    free = (*_free_of_process(root), *_free_of_groups(root), *_free_of_system(root))
    return max(0, min((MOST_BYTES, *(n_bytes // 2 for n_bytes in free))))


def require_room_for_libraries(root: Path = Path("/")) -> None:
    """Refuse an address space that is too small for what a run loads.

    OpenBLAS, which numba has scipy load, would wait for ever for memory that it is not given.

    Raises
    ------
    OutputError
        It names what is left (resources).
    """
    if "scipy.linalg" in sys.modules:
        return
    for n_bytes in _free_of_process(root):
        if n_bytes < _LIBRARY_BYTES:
            raise OutputError(
                "resources",
                f"the limit of the address space leaves {n_bytes / 1e6:.0f} MB, and the libraries "
                f"of a run take {_LIBRARY_BYTES / 1e6:.0f} MB; raise it (ulimit -v)",
            )


def _free_of_process(root: Path) -> Iterator[int]:
    """The limit of its address space (ulimit -v), less what is taken."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        pages = _words(root / "proc/self/statm")
        yield limit - (int(pages[0]) * os.sysconf("SC_PAGESIZE") if pages else 0)


def _free_of_groups(root: Path) -> Iterator[int]:
    """What the control groups of the process leave, of a container for example."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", _UNIFIED
        elif "memory" in controllers.split(","):
            top, names = root / "sys/fs/cgroup/memory", _MEMORY
        else:
            continue
        # Each group is bound by those above it; a container may see none but the uppermost.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for n in range(len(parts) + 1):
            yield from _free_of_group(top.joinpath(*parts[:n]), *names)


def _free_of_group(
    group: Path, limit_name: str, taken_name: str, files: tuple[str, ...]
) -> Iterator[int]:
    limit, taken = _words(group / limit_name), _words(group / taken_name)
    if limit and taken and limit[0] != "max":
        stat = dict(line.split(" ", 1) for line in _lines(group / "memory.stat"))
        yield int(limit[0]) - int(taken[0]) + sum(int(stat.get(name, 0)) for name in files)


def _free_of_system(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    """Lines of a file of the system; none where there is no such file."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
