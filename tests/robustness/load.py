"""Large nights, and what a run of them takes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
from astropy.io import fits

KINDS = ("BIAS", "DARK", "FLAT", "LIGHT")
LEVELS = {"BIAS": (0.0, 1000), "DARK": (60.0, 1060), "FLAT": (2.0, 20_000), "LIGHT": (60.0, 3000)}

# Runs a night and tells what it took. The kernels are compiled, and all is loaded, by then.
_RUN = """
import json, sys, threading, time
from pathlib import Path
from flatcal import build_plan, run_plan
from load import peak_mb
most, done = [0], threading.Event()
def watch():
    while not done.wait(0.02):
        most[0] = max(most[0], len(list(Path("/proc/self/fd").iterdir())))
thread = threading.Thread(target=watch, daemon=True)
thread.start()
clock = time.monotonic()
plan = build_plan(sys.argv[1])
result = run_plan(plan, sys.argv[2], memory_bytes=int(sys.argv[3]))
done.set()
print(json.dumps({
    "frames": len(plan.frames),
    "failed": len(result.failed),
    "made": len(result.made),
    "seconds": round(time.monotonic() - clock, 1),
    "peak_mb": peak_mb(),
    "most_files_open": most[0],
}))
"""


def peak_mb() -> int:
    """The most memory that this process has had; `getrusage` tells that of its parent too."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) // 1024


def write_frame(path: Path, kind: str, seed: int, shape: tuple[int, int]) -> Path:
    """A plain frame of 16 bits."""
    exposure, level = LEVELS[kind]
    data = np.random.default_rng(seed).normal(level, 10, shape).astype(np.uint16)
    header = fits.Header({"IMAGETYP": kind, "EXPTIME": exposure, "FILTER": "V", "BUNIT": "adu"})
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(data, header).writeto(path)
    return path


def make_small_night(raw: Path, n_frames: int, shape: tuple[int, int]) -> None:
    """A night of so many frames: a tenth each of bias, dark and flat, the rest science."""
    for n in range(n_frames):
        kind = KINDS[min(n * 10 // n_frames, 3)]
        write_frame(raw / f"{kind.lower()}{n:04d}.fits", kind, n, shape)


def make_linked_night(raw: Path, n_frames: int, shape: tuple[int, int]) -> None:
    """A night of large frames that takes the room of four, the others being links to those."""
    for kind in KINDS:
        write_frame(raw.parent / "real" / f"{kind}.fits", kind, 1, shape)
    raw.mkdir(parents=True)
    for n in range(n_frames):
        kind = KINDS[min(n * 10 // n_frames, 3)]
        (raw / f"{kind.lower()}{n:04d}.fits").symlink_to(raw.parent / "real" / f"{kind}.fits")


def peak_of_a_run(raw: Path, out: Path, n_files: int, memory: int = 2**30) -> dict[str, float]:
    """Run a night in a process that may open so many files; what it took."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, raw, out, str(memory)],
        cwd=Path(__file__).parent,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (n_files, n_files)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures: dict[str, float] = json.loads(done.stdout)
    return figures
