"""Tasks that build what is measured on: nights, masters, flats, links, long headers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from benchmarks.places import Job
from benchmarks.plans import plan_masters, plan_night
from benchmarks.settings import write_configs
from flatcal import run_plan
from flatcal.demo import simulate_nights
from flatcal.simulate import make_detector, simulate_mosaic
from flatcal.simulate.night import Exposure, write_frame

# Beside the six flats of the simulated night, so that every loop is over ten.
_MORE_LFC_FLATS = ((70.001, 19_700.0, "g'"), (70.011, 20_000.0, "g'")) * 2

_N_KEYWORDS = 73


def make_night(job: Job) -> None:
    """Simulate a night in full size, and a small one to warm up with."""
    camera = job.args["camera"]
    for night in (job.places.warm_night(camera), job.places.night(camera)):
        made = next(simulate_nights(night.folder.parent, camera, full_size=night.full_size))
        made.truth_file.unlink()
        if camera == "lfc":
            detector = make_detector(camera, full_size=night.full_size)
            n_frames = len(made.truth.frames)
            for number, (exposure_time_s, level_adu, band) in enumerate(_MORE_LFC_FLATS, 1):
                exposure = Exposure("flat", exposure_time_s, level_adu, band)
                write_frame(detector, exposure, n_frames + number, night.raw)
        write_configs(night, made.config.read_text())


def make_mosaic(job: Job) -> None:
    """Simulate a night of two chips, in one file for each exposure and in one for each chip."""
    night, chips = job.places.night("mosaic"), job.places.night("chips")
    truths = simulate_mosaic("lfc", night.raw, 2, full_size=night.full_size)
    camera = truths["CHIP1"].camera
    first = camera.image_columns + camera.leak_columns + 1
    settings = (
        f'[camera]\noverscan_section = "[{first}:{camera.columns},1:{camera.rows}]"\n'
        f'trim_section = "[1:{camera.image_columns},1:{camera.rows}]"\n'
        f"gain_electron_per_adu = {camera.gain_electron_per_adu}\n"
        f"read_noise_electron = {camera.read_noise_electron}\n"
    )
    for one in (night, chips):
        one.folder.mkdir(parents=True, exist_ok=True)
        write_configs(one, settings)
    chips.raw.mkdir()
    for path in sorted(night.raw.iterdir()):
        with fits.open(path) as hdus:
            for hdu in hdus[1:]:
                header = hdus[0].header.copy(strip=True)
                header.update(hdu.header.copy(strip=True))
                header["INSTRUME"] = hdu.name  # so that they do not serve one another
                fits.PrimaryHDU(hdu.data, header).writeto(
                    chips.raw / f"{path.stem}_{hdu.name}.fits"
                )


def make_masters(job: Job) -> None:
    """Make the bias and dark masters with flatcal; every program calibrates with these."""
    camera, planes = job.args["camera"], job.args["planes"]
    for night in (job.places.warm_night(camera), job.places.night(camera)):
        run_plan(plan_masters(night, planes=planes), night.masters(planes=planes))


def make_plain_masters(job: Job) -> None:
    """Copy the masters for the rivals."""
    camera = job.args["camera"]
    for night in (job.places.warm_night(camera), job.places.night(camera)):
        (night.plain / "masters").mkdir(parents=True)
        for path in sorted((night.masters(planes=False) / "masters").glob("*.fits")):
            data, header = _read(path)
            plain = _plain_header(header)
            section = f"[1:{data.shape[1]},1:{data.shape[0]}]"
            # IRAF asks for these: without them it would calibrate the masters first.
            plain["TRIM"] = plain["CCDSEC"] = section
            if header["BIASSUB"]:
                plain["ZEROCOR"] = "done"
            fits.PrimaryHDU(data, plain).writeto(night.plain / "masters" / path.name)


def make_flats(job: Job) -> None:
    """Calibrate and combine the flats of a night with flatcal, data alone."""
    camera = job.args["camera"]
    for night in (job.places.warm_night(camera), job.places.night(camera)):
        run_plan(plan_night(night, {"bias", "dark", "flat"}, planes=False), night.flats)


def make_plain_flats(job: Job) -> None:
    """Copy the calibrated flats for the rivals."""
    camera = job.args["camera"]
    for night in (job.places.warm_night(camera), job.places.night(camera)):
        (night.plain / "flats").mkdir(parents=True)
        for path in sorted((night.flats / "flats").glob("*.fits")):
            data, header = _read(path)
            target = night.plain / "flats" / path.name
            fits.PrimaryHDU(data, _plain_header(header)).writeto(target)


def make_siril_flats(job: Job) -> None:
    """Scale the calibrated flats to numbers from 0 to 1, and name them as Siril wants it."""
    night = job.places.night(job.args["camera"])
    night.siril.mkdir()
    paths = sorted((night.plain / "flats").glob("*.fits"))
    for number, path in enumerate(paths, 1):
        data, _ = _read(path)
        fits.PrimaryHDU(data / np.float32(65535)).writeto(night.siril / f"flat_{number:05d}.fit")


def link_many_flats(job: Job) -> None:
    """Make raw folders with many names for the flats of 70 s of a night, and their darks.

    The flats of full size are 120 MB, more than the cache of a processor holds: under a second
    name they come from memory again like frames of their own.
    """
    raw = job.places.night("lfc").raw
    of_70_s = [path for path in sorted(raw.iterdir()) if round(fits.getval(path, "EXPTIME")) == 70]
    darks = [path for path in of_70_s if fits.getval(path, "IMAGETYP") == "DARK"]
    flats = [path for path in of_70_s if path not in darks]
    for n_frames in job.args["counts"]:
        folder = job.places.many_flats(n_frames)
        folder.mkdir(parents=True)
        for path in darks:
            os.link(path, folder / path.name)
        for number in range(n_frames):
            os.link(flats[number % len(flats)], folder / f"flat-{number + 1:03d}.fits")


def make_index(job: Job) -> None:
    """Write files with long headers and small images."""
    for folder, n_files in ((job.places.warm_index, 3), (job.places.index, None)):
        folder.mkdir()
        for number in range(n_files or job.places.n_index_files):
            header = _long_header(number)
            image = np.full((16, 16), number, np.uint16)
            fits.PrimaryHDU(image, header).writeto(folder / f"frame-{number:04d}.fits")


def _long_header(number: int) -> fits.Header:
    """Text, whole and real numbers and truth values; with those of the image 73 keywords."""
    header = fits.Header()
    kinds = ("BIAS", "DARK", "FLAT", "LIGHT")
    header["IMAGETYP"] = kinds[number % len(kinds)]
    header["EXPTIME"] = (float(number % 7), "[s] exposure time")
    header["DATE-OBS"] = f"2024-05-13T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:00"
    values: tuple[Any, ...] = (number, number / 7, number % 2 == 0, f"value {number}")
    n_own = 7  # SIMPLE, BITPIX, NAXIS, NAXIS1, NAXIS2, BSCALE, BZERO
    while len(header) < _N_KEYWORDS - n_own:
        place = len(header)
        header[f"KEY{place:03d}"] = (values[place % len(values)], "a comment of common length")
    return header


def _read(path: Path) -> tuple[Any, fits.Header]:
    with fits.open(path, memmap=False) as hdus:
        return hdus[0].data, hdus[0].header


def _plain_header(header: fits.Header) -> fits.Header:
    """The cards that the rivals need."""
    plain = fits.Header()
    for keyword in ("IMAGETYP", "EXPTIME", "BUNIT"):
        plain[keyword] = header[keyword]
    if plain["IMAGETYP"] == "bias":
        plain["IMAGETYP"] = "zero"  # as IRAF says; the others do not look
    return plain
