"""Tasks of flatcal's engine: pieces of a run, timed from inside while it goes on.

The run is the public one, `run_plan`; only the names of the functions that are watched are taken
from the engine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from astropy.io import fits

from benchmarks.measure import Measure, measure, peak_bytes
from benchmarks.places import Job, Night
from benchmarks.plans import plan_flats, plan_night, restore, run_flats
from benchmarks.settings import read_config
from flatcal import Plan, build_plan, run_plan
from flatcal.engine import run as engine_run
from flatcal.engine import store as engine_store
from flatcal.kernels.stats import median_of_good


def combine_ten_flats(job: Job) -> Measure:
    """Combine ten flats over their medians; the ``parts`` tell the combination by itself.

    As in a run: straight from the raw flats, which are calibrated as they are read. A run knows
    the medians from calibrating the flats, while the rivals have to find them; so the time to
    find them in the calibrated images, which lie in memory as they do in a run, is added.
    """
    _combine_flats(job, job.places.warm_night("cg16m"))
    combining = _combine_flats(job, job.places.night("cg16m"))
    peak = peak_bytes()
    _find_medians(job.places.warm_night("cg16m"))
    finding = _find_medians(job.places.night("cg16m"))
    shutil.move(_only_flat_master(job.out / "out"), job.out / "master.fits")
    return Measure(combining + finding, peak, {"combination": combining})


def combine_flats_on(job: Job) -> Measure:
    """The combination by itself, on some threads."""
    _combine_flats(job, job.places.warm_night("cg16m"))
    seconds = _combine_flats(job, job.places.night("cg16m"))
    _keep_digest(job, [_only_flat_master(job.out / "out")])
    return Measure(seconds, peak_bytes())


def calibrate_on(job: Job) -> Measure:
    """Calibrate ten flats on some threads, without planes and without writing them."""

    def run(night: Night) -> Measure:
        restore(night.masters(planes=False), job.out / "out")
        plan = plan_flats(night, planes=False)
        measured, _ = measure(lambda: run_flats(plan, job.out / "out", job.args["jobs"]))
        return measured

    if job.keep:  # written, to be compared
        measured = run(job.places.night("cg16m"))
        _keep_digest(job, sorted((job.out / "out" / "flats").glob("*.fits")))
        return measured
    with _replaced(engine_store, "writing_image", _writing_nothing):
        run(job.places.warm_night("cg16m"))
        return run(job.places.night("cg16m"))


def combine_many(job: Job) -> Measure:
    """Combine N flats within a limit of memory.

    The flats are not written, so that the seconds are those of the combination, straight from
    the raw frames; the peak is that of the whole run.
    """
    memory_bytes = job.args["memory_bytes"]
    night, warm = job.places.night("lfc"), job.places.warm_night("lfc")

    def plan(night: Night, raw: Path) -> Plan:
        return build_plan(raw, read_config(night, planes=True).with_output(flats=False))

    run_plan(plan(warm, warm.raw), job.out / "warm", memory_bytes=memory_bytes)
    many = plan(night, job.places.many_flats(job.args["n_frames"]))
    with _watched("combine_flats") as seconds:
        run_plan(many, job.out / "out", memory_bytes=memory_bytes)
    peak = peak_bytes()
    _keep_digest(job, [_only_flat_master(job.out / "out")])
    return Measure(sum(seconds), peak)


def _combine_flats(job: Job, night: Night) -> float:
    """Run the plan of a master flat whose masters and flats stand already."""
    restore(night.flats, job.out / "out")
    _only_flat_master(job.out / "out").unlink()
    plan: Plan = plan_night(night, {"bias", "dark", "flat"}, planes=False)
    with _watched("combine_flats") as seconds:
        result = run_plan(plan, job.out / "out", jobs=job.args.get("jobs"))
    if len(result.made) != 1:
        raise RuntimeError(f"the run made {result.made} instead of the master flat alone")
    return sum(seconds)


def _only_flat_master(out: Path) -> Path:
    (path,) = (out / "masters").glob("master_flat_*.fits")
    return path


def _find_medians(night: Night) -> float:
    """Seconds to find the medians of ten calibrated images that are in memory."""
    paths = sorted((night.plain / "flats").glob("*.fits"))
    images = [fits.getdata(path).astype(np.float32) for path in paths]
    flags = [np.zeros(image.shape, np.uint8) for image in images]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        measured, _ = measure(lambda: list(pool.map(median_of_good, images, flags)))
    return measured.seconds


class _Nothing:
    """A writer that writes nothing."""

    def write(self, *_planes: Any) -> None:
        """Take rows."""

    def finish(self, _header: Any) -> None:
        """Take the header."""


@contextmanager
def _writing_nothing(*_args: Any) -> Iterator[_Nothing]:
    yield _Nothing()


@contextmanager
def _watched(function: str) -> Iterator[list[float]]:
    """Seconds of each call of a function of the engine in the runs within."""
    seconds: list[float] = []
    original = getattr(engine_run, function)

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = perf_counter()
        result = original(*args, **kwargs)
        seconds.append(perf_counter() - started)
        return result

    with _replaced(engine_run, function, timed):
        yield seconds
    if not seconds:
        raise RuntimeError(f"the run did not call {function}")


@contextmanager
def _replaced(module: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, original)


def _keep_digest(job: Job, paths: list[Path]) -> None:
    """The digest of the pixels of some files, where a result is compared."""
    if job.keep:
        digest = sha256()
        for path in paths:
            digest.update(fits.getdata(path).tobytes())
        (job.out / "digest.txt").write_text(digest.hexdigest())
