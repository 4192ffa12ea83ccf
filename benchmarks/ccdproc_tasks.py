"""Tasks of ccdproc: the loops of the guide, with its mistakes mended.

The guide forgets to subtract the bias from the flats of its second example, and misspells a
keyword so that the deviation is not the MAD. Results are written as float64, as the guide does, or
as float32, half the bytes, as flatcal does. Only the work is timed: imports are not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ccdproc as ccdp
import numpy as np
from astropy import units as u
from astropy.nddata import CCDData
from astropy.stats import mad_std

from benchmarks.measure import Measure, measure
from benchmarks.places import Job, Night
from flatcal.simulate import get_camera

Step = Callable[[CCDData], CCDData]


REJECTION = {
    "sigma_clip": True,
    "sigma_clip_low_thresh": 5,
    "sigma_clip_high_thresh": 5,
    "sigma_clip_func": np.ma.median,
    "sigma_clip_dev_func": mad_std,
    "mem_limit": 350e6,
}


def inverse_median(image: Any) -> float:
    """Scale of a flat."""
    return 1 / np.median(image)


def calibrate_flats(job: Job) -> Measure:
    """The loop over the flats of either example; the masters are in memory already."""

    def run(night: Night) -> Measure:
        kind = get_camera(night.camera).image_types["flat"]
        files = ccdp.ImageFileCollection(night.raw)
        flats = [Path(name) for name in files.files_filtered(imagetyp=kind, include_path=True)]
        # Those of the guide are float64, and so is all that is calibrated with them.
        dtype = np.float32 if job.args["float32"] else np.float64
        masters = read_masters(night.plain / "masters", dtype)
        step = {"cg16m": example_2, "lfc": example_1}[night.camera](night, masters)
        # flatcal puts the kind before a name that does not have it; here names must be equal.
        prefix = "" if flats[0].name.startswith("flat-") else "flat-"
        measured, _ = measure(lambda: write_all(flats, step, job.out / "flats", prefix))
        return measured

    camera = job.args["camera"]
    run(job.places.warm_night(camera))
    for path in (job.out / "flats").iterdir():
        path.unlink()
    return run(job.places.night(camera))


def reduce_night(job: Job) -> Measure:
    """The guide's scripts from bias to science."""
    _reduce(job.places.warm_night("cg16m"), job.out / "warm")
    measured, _ = measure(lambda: _reduce(job.places.night("cg16m"), job.out))
    for folder in (job.out / "warm", job.out / "reduced"):
        shutil.rmtree(folder)
    return measured


def read_masters(folder: Path, dtype: Any) -> dict[str, CCDData]:
    """Masters by the names of their files."""
    masters = {path.stem: CCDData.read(path) for path in sorted(folder.glob("*.fits"))}
    for master in masters.values():
        master.data = master.data.astype(dtype)
    return masters


def write_all(paths: Iterable[Path], step: Step, folder: Path, prefix: str = "") -> list[str]:
    """Calibrate files one by one, as in the guide; names of the results."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in paths:
        ccd = step(CCDData.read(path, unit="adu"))
        target = folder / f"{prefix}{path.name}"
        ccd.write(target)
        written.append(str(target))
    return written


def example_1(night: Night, masters: dict[str, CCDData]) -> Step:
    """Overscan, trim, and the dark of the nearest exposure time with the bias in it."""
    camera = get_camera(night.camera, full_size=night.full_size)
    darks = {m.header["exptime"]: m for name, m in masters.items() if "dark" in name}
    times = np.array(list(darks))

    def calibrate(ccd: CCDData) -> CCDData:
        overscan = ccd[camera.clean_overscan_slice]
        ccd = ccdp.subtract_overscan(ccd, overscan=overscan, median=True)
        ccd = ccdp.trim_image(ccd[camera.image_slice])
        nearest = times[np.argmin(np.abs(times - ccd.header["exptime"]))]
        return ccdp.subtract_dark(
            ccd, darks[nearest], exposure_time="exptime", exposure_unit=u.second
        )

    return calibrate


def example_2(night: Night, masters: dict[str, CCDData]) -> Step:
    """Trim, bias, and the scaled dark that has lost its bias."""
    camera = get_camera(night.camera, full_size=night.full_size)
    bias, dark = masters["master_bias"], masters["master_dark_90s"]

    def calibrate(ccd: CCDData) -> CCDData:
        ccd = ccdp.trim_image(ccd[camera.image_slice])
        ccd = ccdp.subtract_bias(ccd, bias)
        return ccdp.subtract_dark(
            ccd, dark, exposure_time="exptime", exposure_unit=u.second, scale=True
        )

    return calibrate


def _reduce(night: Night, out: Path) -> None:
    raw, reduced = night.raw, out / "reduced"
    camera = get_camera(night.camera, full_size=night.full_size)

    def trim(ccd: CCDData) -> CCDData:
        return ccdp.trim_image(ccd[camera.image_slice])

    masters: dict[str, CCDData] = {}

    def make_master(files: list[str], name: str, **scaling: Any) -> None:
        master = ccdp.combine(files, method="average", **REJECTION, **scaling)
        # Of the scatter of the frames, in float64; the guide does not use it.
        master.mask = master.uncertainty = None
        master.meta["combined"] = True
        (out / "masters").mkdir(parents=True, exist_ok=True)
        master.write(out / "masters" / f"{name}.fits")
        masters[name] = master

    make_master(write_all(sorted(raw.glob("bias-*")), trim, reduced), "master_bias")
    bias = masters["master_bias"]
    darks = write_all(
        sorted(raw.glob("dark-*")), lambda ccd: ccdp.subtract_bias(trim(ccd), bias), reduced
    )
    make_master(darks, "master_dark_90s")
    calibrate = example_2(night, masters)
    flats = write_all(sorted(raw.glob("flat-*")), calibrate, out / "flats")
    make_master(flats, "master_flat_r", scale=inverse_median)
    flat = masters["master_flat_r"]
    # flatcal's flats have the median 1; ccdproc would divide by the mean of the flat.
    norm = np.median(flat.data)
    write_all(
        sorted(raw.glob("science-*")),
        lambda ccd: ccdp.flat_correct(calibrate(ccd), flat, norm_value=norm),
        out / "science",
    )
