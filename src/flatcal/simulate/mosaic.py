"""Several detectors read out together: one file for each exposure, one extension for each chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from astropy.io import fits

from flatcal.simulate.detector import Detector, make_detector
from flatcal.simulate.night import Exposure, plan_night, refuse_existing
from flatcal.simulate.truth import FrameTruth, NightTruth

# Each chip has its own electronics: an ADU of each stands for fewer electrons than of the first.
_GAIN_STEP = 0.15


def make_mosaic(
    camera: str, n_chips: int, *, full_size: bool = False, seed: int = 20240513
) -> dict[str, Detector]:
    """Return detectors of one camera that differ in their pixels, levels and gains.

    Parameters
    ----------
    camera : {'lfc', 'cg16m'}
        Name of the camera.
    n_chips : int
        Number of detectors.
    full_size : bool
        Give each its real size, not a quarter of it along each axis.
    seed : int
        Of the first; each other is drawn from the next number.

    Returns
    -------
    dict of str to Detector
        By the names of their extensions: CHIP1 and so on.
    """
    chips = {}
    for number in range(n_chips):
        truth = make_detector(camera, full_size=full_size, seed=seed + number).truth
        gain = truth.camera.gain_electron_per_adu / (1 + _GAIN_STEP * number)
        facts = replace(truth.camera, gain_electron_per_adu=gain)
        chips[f"CHIP{number + 1}"] = Detector(replace(truth, camera=facts))
    return chips


def write_mosaic_frame(
    chips: Mapping[str, Detector], exposure: Exposure, number: int, folder: Path
) -> dict[str, FrameTruth]:
    """Expose all chips at once and write one file, of unsigned 16 bits (BZERO 32768)."""
    hdus: list[fits.ImageHDU] = []
    truths: dict[str, FrameTruth] = {}
    primary = fits.Header()
    for name, chip in chips.items():
        data, header, truths[name] = chip.expose(
            exposure.kind,
            exposure.exposure_time_s,
            level_adu=exposure.level_adu,
            filter=exposure.filter,
            frame_number=number,
        )
        own = fits.Header([card for card in header.cards if card.keyword.endswith("SEC")])
        own["CCDNAME"] = name
        primary = primary or fits.Header([c for c in header.cards if c.keyword not in own])
        hdus.append(fits.ImageHDU(data, own, name=name))
    primary["INSTRUME"] = "simulated mosaic"
    primary["NEXTEND"] = len(hdus)
    file = next(iter(truths.values())).file
    fits.HDUList([fits.PrimaryHDU(header=primary), *hdus]).writeto(folder / file)
    return truths


def simulate_mosaic(
    camera: str,
    folder: Path | str,
    n_chips: int,
    *,
    full_size: bool = False,
    seed: int = 20240513,
    log: Sequence[Exposure] | None = None,
) -> dict[str, NightTruth]:
    """Write the raw files of a night of several detectors and return the truth of each.

    Parameters
    ----------
    camera, n_chips, full_size, seed
        As for `make_mosaic`.
    folder : path
        Where the files go; it is made when it does not exist.
    log : sequence of Exposure, optional
        What is exposed; the camera's night when left out.

    Returns
    -------
    dict of str to NightTruth
        By the names of the extensions.

    Raises
    ------
    FileExistsError
        A file of the night is there already; then nothing is written.
    ValueError
        No camera has that name.
    """
    chips = make_mosaic(camera, n_chips, full_size=full_size, seed=seed)
    facts = next(iter(chips.values())).camera
    exposures = list(plan_night(facts) if log is None else log)
    folder = Path(folder)
    refuse_existing(folder, facts, exposures)
    folder.mkdir(parents=True, exist_ok=True)
    frames: dict[str, list[FrameTruth]] = {name: [] for name in chips}
    for number, exposure in enumerate(exposures, start=1):
        for name, truth in write_mosaic_frame(chips, exposure, number, folder).items():
            frames[name].append(truth)
    return {name: replace(chip.truth, frames=tuple(frames[name])) for name, chip in chips.items()}
