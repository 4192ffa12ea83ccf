"""The limit of memory where nobody says one: what is read of the system, and that it is kept."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from flatcal.free_memory import default_memory_bytes

GIB = 2**30
MIB = 2**20


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


def meminfo(n_bytes):
    n_kib = n_bytes // 1024
    return f"MemTotal: 99999999 kB\nMemFree: 1000 kB\nMemAvailable: {n_kib} kB\nCached: 5 kB"


def unified(group, limit, taken, *, inactive=0, active=0):
    folder = f"sys/fs/cgroup{group}"
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.current": taken,
        f"{folder}/memory.stat": f"anon 7\ninactive_file {inactive}\nactive_file {active}",
    }


def first_version(group, limit, taken, *, inactive=0):
    folder = f"sys/fs/cgroup/memory{group}"
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": taken,
        f"{folder}/memory.stat": f"cache 9\ninactive_file 3\ntotal_inactive_file {inactive}",
    }


CASES = {
    "nothing can be read": ({}, 2 * GIB),
    "enough": ({"proc/meminfo": meminfo(30 * GIB)}, 2 * GIB),
    "a small machine": ({"proc/meminfo": meminfo(GIB)}, GIB // 2),
    "a container": (
        {
            "proc/meminfo": meminfo(30 * GIB),
            "proc/self/cgroup": "0::/",
            **unified("", GIB, 200 * MIB),
        },
        412 * MIB,
    ),
    "files that were read do not count": (
        {"proc/self/cgroup": "0::/", **unified("", GIB, GIB, inactive=300 * MIB, active=100 * MIB)},
        200 * MIB,
    ),
    "a group without a limit": (
        {"proc/self/cgroup": "0::/a/b", **unified("/a/b", "max", 200 * MIB)},
        2 * GIB,
    ),
    "the limit of a group above": (
        {
            "proc/self/cgroup": "0::/a/b",
            **unified("/a/b", "max", 100 * MIB),
            **unified("/a", GIB, 200 * MIB),
        },
        412 * MIB,
    ),
    "a container that is not told its own name": (
        {"proc/self/cgroup": "0::/../..", **unified("", GIB, 0)},
        512 * MIB,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/4af\n0::/",
            **first_version("", 9223372036854771712, 7 * GIB),
            **first_version("/docker/4af", GIB, 300 * MIB, inactive=100 * MIB),
        },
        412 * MIB,
    ),
    "version 1, of which a container sees the uppermost": (
        {"proc/self/cgroup": "4:memory:/docker/4af", **first_version("", GIB, 0)},
        512 * MIB,
    ),
    "more is taken than allowed": (
        {"proc/self/cgroup": "0::/", **unified("", 100 * MIB, 120 * MIB)},
        0,
    ),
}


@pytest.mark.parametrize(("files", "limit"), CASES.values(), ids=CASES)
def test_half_of_what_is_free_and_2_gib_at_the_most(tmp_path, files, limit):
    write(tmp_path, files)
    assert default_memory_bytes(tmp_path) == limit


def test_a_run_in_a_small_address_space_keeps_to_it(tmp_path, put_frame):
    """Without the limit that follows from it, the bands of this master would not fit in it."""
    rng = np.random.default_rng(5)
    for n in range(100):
        data = rng.integers(900, 930, (300, 2000), np.uint16)
        put_frame(tmp_path / f"raw/b{n}.fits", "BIAS", 0.0, data, BUNIT="adu")
    code = """
import resource, sys
from pathlib import Path
from flatcal import build_plan, run_plan
from flatcal.free_memory import default_memory_bytes

plan = build_plan(sys.argv[1])
run_plan(plan, sys.argv[2] + "-first", jobs=1, memory_bytes=12 * 2**20)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 40 * 2**20, resource.RLIM_INFINITY))
assert 16 * 2**20 < default_memory_bytes() <= 20 * 2**20, default_memory_bytes()
failed = run_plan(plan, sys.argv[2], jobs=1).failed
assert failed == (), [(e.slug, e.text) for o in failed[:1] for e in o.errors]
assert run_plan(plan, sys.argv[2] + "-told", jobs=1, memory_bytes=2**31).failed != ()
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert run_plan(plan, sys.argv[2] + "-free", jobs=1).failed == ()
"""
    words = [sys.executable, "-c", code, tmp_path / "raw", tmp_path / "out"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    free, bound = (tmp_path / f"{n}/masters/master_bias.fits" for n in ("out-free", "out"))
    assert free.read_bytes() == bound.read_bytes()


def test_an_address_space_without_room_for_the_program_is_refused(tmp_path, put_frame):
    """Libraries that are loaded in it would wait for memory for ever."""
    put_frame(tmp_path / "raw/b.fits", "BIAS", 0.0, BUNIT="adu")
    code = """
import resource, sys
from pathlib import Path
from flatcal import build_plan, run_plan

plan = build_plan(sys.argv[1])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 10**8, resource.RLIM_INFINITY))
run_plan(plan, sys.argv[2], jobs=1)
"""
    words = [sys.executable, "-c", code, tmp_path / "raw", tmp_path / "out"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert "leaves 100 MB" in done.stderr or "leaves 99 MB" in done.stderr
    assert done.stderr.rstrip().endswith("raise it (ulimit -v) [resources]")
    assert not (tmp_path / "out").exists()
