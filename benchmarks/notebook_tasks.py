"""Tasks that are the same lines for flatcal and ccdproc: only the import differs.

``package`` in the arguments of a task is the one that is imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.stats import mad_std

from benchmarks.measure import Measure, measure, peak_bytes
from benchmarks.places import Job, Night

_CALLS = 3  # of each function in a process; their median is told
_FRAMES = 5  # in the Combiner

REJECTION = {
    "sigma_clip": True,
    "sigma_clip_low_thresh": 5,
    "sigma_clip_high_thresh": 5,
    "sigma_clip_func": np.ma.median,
    "sigma_clip_dev_func": mad_std,
}


def combine_files(job: Job) -> Measure:
    """``combine`` of ten flats, as the guide calls it."""
    package = import_module(job.args["package"])

    def combine(night: Night) -> Any:
        return package.combine(
            [str(path) for path in sorted((night.plain / "flats").glob("*.fits"))],
            method="average",
            scale=lambda image: 1 / np.median(image),
            mem_limit=350e6,
            **REJECTION,
        )

    combine(job.places.warm_night("cg16m"))
    measured, master = measure(lambda: combine(job.places.night("cg16m")))
    if job.keep:
        fits.PrimaryHDU(master.data).writeto(job.out / "master.fits")
    return measured


def call_functions(job: Job) -> Measure:
    """Each function of a notebook on one image; the ``parts`` tell their seconds."""
    package = import_module(job.args["package"])
    for call in make_calls(package, job.places.warm_night("cg16m")).values():
        call()
    parts = {}
    for name, call in make_calls(package, job.places.night("cg16m")).items():
        timed = [measure(call) for _ in range(_CALLS)]
        parts[name] = median(measured.seconds for measured, _ in timed)
        if job.keep:
            _save(timed[-1][1], job.out / f"{name}.fits")
    return Measure(sum(parts.values()), peak_bytes(), parts)


def make_calls(package: Any, night: Night) -> dict[str, Callable[[], Any]]:
    """A call of each function, with what the guide would have in memory at that place."""
    raw = CCDData.read(sorted(night.raw.glob("flat-*.fits"))[0], unit="adu")
    masters = night.plain / "masters"
    bias = CCDData.read(masters / "master_bias.fits")
    dark = CCDData.read(masters / "master_dark_90s.fits")
    paths = sorted((night.plain / "flats").glob("*.fits"))[:_FRAMES]
    flats = [CCDData.read(path) for path in paths]
    rows, columns = bias.shape
    trimmed = package.trim_image(raw[:, :columns])
    unbiased = package.subtract_bias(trimmed, bias)
    seconds = {"exposure_time": "exptime", "exposure_unit": u.second}
    gain, read_noise = 1.5 * u.electron / u.adu, 10 * u.electron
    return {
        "subtract_overscan": lambda: package.subtract_overscan(
            raw, overscan=raw[:, columns:], median=True
        ),
        "trim_image": lambda: package.trim_image(raw[:, :columns]),
        "subtract_bias": lambda: package.subtract_bias(trimmed, bias),
        "subtract_dark": lambda: package.subtract_dark(unbiased, dark, scale=True, **seconds),
        "flat_correct": lambda: package.flat_correct(unbiased, flats[0]),
        "gain_correct": lambda: package.gain_correct(unbiased, gain),
        "create_deviation": lambda: package.create_deviation(
            unbiased, gain=gain, readnoise=read_noise, disregard_nan=True
        ),
        "ccd_process": lambda: package.ccd_process(
            raw,
            trim=f"[1:{columns},1:{rows}]",
            master_bias=bias,
            dark_frame=dark,
            dark_scale=True,
            exposure_key="exptime",
            exposure_unit=u.second,
            master_flat=flats[0],
        ),
        "Combiner average": lambda: package.Combiner(flats).average_combine(),
        "Combiner median": lambda: package.Combiner(flats).median_combine(),
        "combine": lambda: package.combine(flats, method="average", **REJECTION),
    }


def _save(ccd: CCDData, path: Path) -> None:
    planes = [fits.PrimaryHDU(np.asarray(ccd.data, np.float32))]
    if ccd.uncertainty is not None:
        uncertainty = np.asarray(ccd.uncertainty.array, np.float32)
        planes.append(fits.ImageHDU(uncertainty, name="UNCERT"))
    fits.HDUList(planes).writeto(path)


def summarise(job: Job) -> Measure:
    """Headers of a folder as a table."""
    package = import_module(job.args["package"])

    def make(folder: Path) -> Any:
        return package.ImageFileCollection(folder).summary

    make(job.places.warm_index)
    measured, table = measure(lambda: make(job.places.index))
    if job.keep:
        columns = {name: table[name].tolist() for name in table.colnames}
        (job.out / "table.json").write_text(json.dumps(columns, default=str))
    return measured
