"""The machine and the versions, as the head of a table states them."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.contenders import find_program

_PACKAGES = ("flatcal", "ccdproc", "astropy", "numpy", "numba")


def describe_machine(folder: Path) -> tuple[str, ...]:
    """Date, processor, memory, kind of disk and versions; one text each.

    Parameters
    ----------
    folder : Path
        Where the files lie.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"{_processor()}, {os.cpu_count()} cores, {memory / 2**30:.0f} GiB of memory",
        f"{platform.system()} {platform.release()}, files on {_file_system(folder)}",
        ", ".join(_versions()),
    )


def _versions() -> Iterable[str]:
    yield f"Python {platform.python_version()}"
    for package in _PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"{package} not installed"
    yield _ask("Siril", find_program("siril-cli"), "--version")
    yield _ask("IRAF", find_program("irafcl"), "-v")


def _ask(name: str, program: str, option: str) -> str:
    """Version that a program tells, after its name."""
    if not program:
        return f"{name} not installed"
    told = subprocess.run([program, option], capture_output=True, text=True, check=False).stdout
    words = told.split()
    number = next((word for word in words if word[:1].isdigit() or word[1:2].isdigit()), "")
    return f"{name} {number}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _file_system(folder: Path) -> str:
    """Kind of the file system, by the longest mount point that holds the folder."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "a disk"
    real = folder.resolve()
    holding = [(len(place), kind) for _, place, kind, *_ in mounts if real.is_relative_to(place)]
    return max(holding)[1] if holding else "a disk"
