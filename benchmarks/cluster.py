"""``python -m benchmarks.cluster``: what a cluster costs and gains, on processes of this machine.

Three figures: what a frame costs more on a worker than on a thread; how much faster a night is on
two workers than on one; and the memory of the scheduler while it hands out very many tasks, which
go all the way to a worker and back but find nothing to do.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Event, Thread
from time import perf_counter
from uuid import uuid4

import numpy as np

from benchmarks.frames import make_night
from benchmarks.machine import describe_machine
from benchmarks.measure import in_bytes
from benchmarks.places import Job, Places
from benchmarks.settings import read_config
from flatcal import Plan, __version__, build_plan, run_plan
from flatcal.engine.cluster import connect
from flatcal.engine.frames import FrameDone, FrameTask
from flatcal.engine.order import Order
from flatcal.engine.workers import Workers
from flatcal.frame import Kind
from flatcal.projection import Projection
from flatcal.records import InputRecord

_START_S = 60.0

# Limit of all arrays of a process.
_MEMORY_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Processes:
    """A scheduler in a process of its own.

    Attributes
    ----------
    address : str
        Of the scheduler.
    pid : int
        Of its process.
    """

    address: str
    pid: int

    def resident_bytes(self) -> int:
        """Memory that the scheduler takes now (Linux)."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return in_bytes(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")))


@contextmanager
def dask_processes(folder: Path, n_workers: int) -> Iterator[Processes]:
    """A scheduler, and workers of one thread each."""
    told = folder / f"scheduler-{uuid4().hex}.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m"]
    scheduler = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    worker = ["distributed.cli.dask_worker", "--nthreads", "1", "--memory-limit", "0"]
    processes = [
        subprocess.Popen([*dask, *scheduler, "--no-dashboard", "--scheduler-file", told], **quiet)
    ]
    try:
        deadline = time.monotonic() + _START_S
        while not told.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("the Dask scheduler has not started")
            time.sleep(0.1)
        address = json.loads(told.read_text())["address"]
        worker += ["--no-nanny", "--no-dashboard", "--local-directory", str(folder), address]
        processes += [subprocess.Popen([*dask, *worker], **quiet) for _ in range(n_workers)]
        yield Processes(address, processes[0].pid)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def measure_overhead(plan: Plan, folder: Path, rounds: int) -> dict[str, float]:
    """Milliseconds of a small frame on one thread, and how many more on one worker.

    One frame stands for all, under many names.
    """
    frames = _many_frames(plan, 200)
    small = plan.model_copy(update={"frames": frames, "masters": ()})
    with dask_processes(folder, 1) as own:
        cluster = {"engine": "dask", "scheduler": own.address}
        on_thread, on_worker = [], []
        for _ in range(rounds + 1):  # the first is to warm up
            on_thread.append(_seconds(small, folder, jobs=1))
            on_worker.append(_seconds(small, folder, jobs=1, **cluster))
    thread, worker = (median(times[1:]) / len(frames) for times in (on_thread, on_worker))
    return {
        "a frame on a thread, ms": round(1e3 * thread, 2),
        "more on a worker, ms": round(1e3 * (worker - thread), 2),
    }


def measure_speed(plan: Plan, folder: Path, rounds: int) -> dict[str, float]:
    """Seconds of a night on one and on two workers, and on one and two threads."""
    figures = {}
    for n in (1, 2):
        with dask_processes(folder, n) as own:
            cluster = {"engine": "dask", "scheduler": own.address, "jobs": n}
            times = [_seconds(plan, folder, **cluster) for _ in range(rounds + 1)]
        figures[f"a night on workers: {n}, s"] = median(times[1:])
        times = [_seconds(plan, folder, jobs=n) for _ in range(rounds)]
        figures[f"a night on threads: {n}, s"] = median(times)
    one, two = (figures[f"a night on workers: {n}, s"] for n in (1, 2))
    return {name: round(s, 2) for name, s in figures.items()} | {
        "two workers against one": round(one / two, 2)
    }


def measure_scheduler(plan: Plan, folder: Path, n_tasks: int) -> dict[str, float]:
    """Memory of the scheduler in MB before, at the most, and after very many tasks."""
    record = InputRecord(size_bytes=1, mtime_ns=1, sha256="0" * 64)
    # The file is known, so that nothing is left to do.
    tasks = [FrameTask("hash", f, record, None, False) for f in _many_frames(plan, n_tasks)]
    n_done = 0

    def receive(_task: FrameTask, _done: FrameDone) -> None:
        nonlocal n_done
        n_done += 1

    def order(stage: None, _masters: object, jobs: int) -> Order:
        return Order(
            id=uuid4().hex, run=uuid4().hex, version=__version__, raw=Path(plan.raw), out=folder,
            mask=None, config=plan.config, stage=stage, jobs=jobs, masters={},
            memory_bytes=_MEMORY_BYTES,
        )  # fmt: skip

    with (
        dask_processes(folder, 1) as own,
        connect(own.address, None) as cluster,
        ThreadPoolExecutor(1) as pool,
    ):
        workers = Workers(pool, 1, _MEMORY_BYTES, Projection(()))
        executor = cluster.executor(workers, np.dtype(np.float32), order)
        executor.run_frames(tasks[:100], None, receive)
        before = own.resident_bytes()
        with _watching(own) as seen:
            started = perf_counter()
            executor.run_frames(tasks, None, receive)
            seconds = perf_counter() - started
        after = own.resident_bytes()
    if n_done != n_tasks + 100:
        raise RuntimeError(f"{n_done} tasks came back instead of {n_tasks + 100}")
    return {
        "tasks": n_tasks,
        "ms for each": round(1e3 * seconds / n_tasks, 2),
        "scheduler before, MB": round(before / 1e6),
        "at the most, MB": round(max(seen) / 1e6),
        "after, MB": round(after / 1e6),
    }


@contextmanager
def _watching(own: Processes) -> Iterator[list[int]]:
    """The memory of the scheduler, a few times each second."""
    seen, ended = [own.resident_bytes()], Event()

    def look() -> None:
        while not ended.wait(0.2):
            seen.append(own.resident_bytes())

    thread = Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def _many_frames(plan: Plan, n: int) -> tuple:
    """A science frame under so many names, to be calibrated by trimming it alone."""
    one = next(frame for frame in plan.frames if frame.kind is Kind.SCIENCE)
    steps = tuple(step for step in one.steps if step.name == "trim_image")
    return tuple(
        one.model_copy(update={"output": f"science/science-{i}.fits", "steps": steps})
        for i in range(n)
    )


def _seconds(plan: Plan, folder: Path, **options: object) -> float:
    out = folder / "out"
    started = perf_counter()
    result = run_plan(plan, out, **options)
    seconds = perf_counter() - started
    if result.failed:
        raise RuntimeError(result.failed[0].reason)
    shutil.rmtree(out)
    return seconds


def _print(figures: dict[str, float]) -> None:
    for what, figure in figures.items():
        print(f"{what}: {figure:g}", flush=True)


def main() -> int:
    """Measure and print, one figure on a line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000, metavar="N", help="%(default)s")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="%(default)s")
    parser.add_argument("--small", action="store_true", help="a small night, to test this")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where files go")
    options = parser.parse_args()
    # Ended from outside, nothing is left running all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="flatcal-cluster-", dir=options.folder) as name:
        folder = Path(name)
        places = Places(folder, options.small)
        make_night(Job(places, folder, False, {"camera": "cg16m"}))
        small, night = (
            build_plan(n.raw, read_config(n, planes=False))
            for n in (places.warm_night("cg16m"), places.night("cg16m"))
        )
        print("  \n".join(describe_machine(folder)), flush=True)
        _print(measure_overhead(small, folder, options.rounds))
        _print(measure_speed(night, folder, options.rounds))
        _print(measure_scheduler(small, folder, options.tasks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
