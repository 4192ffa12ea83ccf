"""The long part of the robustness tests: `make soak`. Prints what docs/robustness.md shows.

    python tests/robustness/soak.py [--kills 200] [--inputs 100000] [--small 2000] [--large 200]

Each part can be left out with 0. FLATCAL_DATA names a folder of real frames to mutate as well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hostile import PER_BATCH, WARNINGS, make_work_folder
from load import make_linked_night, make_small_night, peak_of_a_run
from nights import PACKED, SETTINGS

HERE = Path(__file__).parent
# The limit of the arrays of a run of many frames, and what the program itself may take.
MEMORY_MB, PROGRAM_MB = 1024, 300


def start(script: str, *words: object) -> subprocess.Popen[str]:
    """Start one of the programs beside this one."""
    command = [sys.executable, *WARNINGS, HERE / script, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What it printed; it may have failed."""
    printed = process.communicate()[0]
    return json.loads(printed) if printed else {"failed": [f"exit code {process.returncode}"]}


def kill(folder: Path, kills: int, seed: int) -> list[str]:
    """Runs that are killed."""
    words: list[object] = ["--kills", kills, "--seed", seed]
    # Compression takes its time: with smaller frames the runs of both nights are of like length.
    for name, text, shape in (("plain", SETTINGS, (900, 640)), ("packed", PACKED, (200, 300))):
        make_small_night(folder / name, 20, shape)
        (folder / f"{name}.toml").write_text(text)
        words += ["--night", folder / name, folder / f"{name}.toml"]
    found = finish(start("kills.py", *words))
    if "kills" not in found:
        return [f"FAILED: kills: {found}"]
    plain, packed = found["outputs"]
    return [
        f"kills: {sum(found['kills'])} runs killed in {found['nights']} nights, every second one "
        f"compressed and its flat split ({plain} and {packed} files), {found['kills'][1]} of the "
        f"kills in those; {found['images_left_whole']} images and {found['records_left_whole']} "
        f"records looked at after a kill, all whole; {found['left_half_made']} part files left and "
        "removed; every resumed night equal to the undisturbed one"
    ]


def fuzz(inputs: int, seed: int) -> list[str]:
    """Hostile files, in two processes."""
    n_batches = -(-inputs // PER_BATCH // 2)
    clock = time.monotonic()
    works = [make_work_folder() for _ in range(2)]
    try:
        started = [
            start(
                "hostile.py", "--first", i * n_batches, "--batches", n_batches, "--seed", seed,
                "--work", work,
            )
            for i, work in enumerate(works)
        ]  # fmt: skip
        found = [finish(process) for process in started]
        for part, work in zip(found, works, strict=True):
            if "inputs" not in part:  # it ended in the middle of a batch
                at = (work / "batch").read_text() if (work / "batch").exists() else "the first"
                part["failed"] = [f"{text} in batch {at}" for text in part["failed"]]
    finally:
        for work in works:
            shutil.rmtree(work, ignore_errors=True)
    failed = [f"FAILED: fuzz: {text}" for part in found for text in part["failed"]]
    slugs = sorted({slug for part in found for slug in part.get("slugs", ())})
    return [
        f"fuzz: {sum(part.get('inputs', 0) for part in found)} hostile files (seed {seed}) in "
        f"{time.monotonic() - clock:.0f} s; {len(failed)} failed; {len(slugs)} slugs met; slowest "
        f"batch of {PER_BATCH} and a night {max(p.get('slowest_batch_s', 0) for p in found)} s; "
        f"peak memory {max(part.get('peak_memory_mb', 0) for part in found)} MB",
        *failed,
    ]


def load(folder: Path, small: int, large: int) -> list[str]:
    """Large nights with 64 open files allowed."""
    lines = []
    nights = [("small", small, (200, 300)), ("full-size, as links", large, (4096, 4096))]
    for what, n_frames, shape in nights:
        if not n_frames:
            continue
        make = make_linked_night if shape[0] > 1000 else make_small_night
        make(folder / "raw", n_frames, shape)
        took = peak_of_a_run(folder / "raw", folder / "out", 64, MEMORY_MB * 2**20)
        is_bad = took["failed"] or took["peak_mb"] > MEMORY_MB + PROGRAM_MB
        word = "FAILED: " if is_bad else ""
        lines.append(
            f"{word}load: {n_frames} frames {shape[0]} x {shape[1]} ({what}), --memory 1GiB, "
            f"ulimit -n 64: {took['seconds']} s, peak memory {took['peak_mb']} MB, at most "
            f"{took['most_files_open']} files open, {took['failed']} failed"
        )
        shutil.rmtree(folder)
        folder.mkdir()
    return lines


def main() -> int:
    """Run the parts, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--small", type=int, default=2000)
    parser.add_argument("--large", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    print(f"{platform.system()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    failed = False
    with tempfile.TemporaryDirectory(prefix="flatcal-soak-") as name:
        os.environ["FLATCAL_CACHE_DIR"] = f"{name}/cache"
        parts = [
            lambda folder: kill(folder, chosen.kills, chosen.seed) if chosen.kills else [],
            lambda folder: load(folder, chosen.small, chosen.large),
            lambda _: fuzz(chosen.inputs, chosen.seed) if chosen.inputs else [],
        ]
        for number, part in enumerate(parts):
            folder = Path(name) / str(number)
            folder.mkdir()
            for line in part(folder):
                print(line, flush=True)
                failed |= line.startswith("FAILED")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
