"""The two nights of the guide: which frames were taken, and the writing of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from astropy.io import fits

from flatcal.simulate.cameras import Camera, FrameKind
from flatcal.simulate.detector import Detector, make_detector, name_file
from flatcal.simulate.truth import FrameTruth, NightTruth


@dataclass(frozen=True, slots=True)
class Exposure:
    """One line of the observing log."""

    kind: FrameKind
    exposure_time_s: float = 0.0
    level_adu: float = 0.0
    filter: str | None = None


def plan_lfc() -> list[Exposure]:
    """Return the log of the Large Format Camera: darks for each exposure time of the flats."""
    log = [Exposure("bias")] * 6
    for exposure_time_s in (7.0, 70.0, 300.0):
        log += [Exposure("dark", exposure_time_s)] * 3
    log += [
        Exposure("flat", 70.001, 19_800.0, "g'"),
        Exposure("flat", 70.011, 20_100.0, "g'"),
        Exposure("flat", 70.001, 20_300.0, "g'"),
        Exposure("flat", 7.0, 20_500.0, "i'"),
        Exposure("flat", 7.0, 20_200.0, "i'"),
        Exposure("flat", 7.0, 19_900.0, "i'"),
        Exposure("science", 300.062, 900.0, "g'"),
        Exposure("science", 300.014, 3_200.0, "i'"),
    ]
    return log


def plan_cg16m(bias_level_adu: float) -> list[Exposure]:
    """Return the log of the CG16M: darks of one exposure time, flats in a fading twilight."""
    log = [Exposure("bias")] * 10 + [Exposure("dark", 90.0)] * 11
    # The exposures grow longer, but too slowly: the level with its bias falls from 45 900 ADU
    # to 38 700 ADU.
    for i, exposure_time_s in enumerate([1.0] * 5 + [1.02, 1.06, 1.11, 1.16, 1.21]):
        log.append(Exposure("flat", exposure_time_s, 45_900.0 - 800.0 * i - bias_level_adu, "r"))
    log += [Exposure("science", 90.0, 310.0, "r"), Exposure("science", 90.0, 300.0, "r")]
    return log


def plan_night(camera: Camera) -> list[Exposure]:
    """Return the observing log of the camera's night."""
    return plan_lfc() if camera.name == "lfc" else plan_cg16m(camera.bias_level_adu)


def simulate_night(
    camera: str,
    folder: Path | str,
    *,
    full_size: bool = False,
    seed: int = 20240513,
    progress: Callable[[str], None] | None = None,
) -> NightTruth:
    """Write the raw frames of the camera's night into one folder and return their truth.

    Parameters
    ----------
    camera : {'lfc', 'cg16m'}
        Name of the camera.
    folder : path
        Where the files go; it is made when it does not exist.
    full_size : bool
        Give the imaging area its real size, not a quarter of it along each axis.
    seed : int
        The same seed gives the same pixels.
    progress : callable, optional
        Called with a line of text after each file.

    Returns
    -------
    NightTruth
        What a calibration of the night should find.

    Raises
    ------
    FileExistsError
        A file of the night is there already; then nothing is written.
    ValueError
        No camera has that name.
    """
    detector = make_detector(camera, full_size=full_size, seed=seed)
    log = plan_night(detector.camera)
    folder = Path(folder)
    refuse_existing(folder, detector.camera, log)
    folder.mkdir(parents=True, exist_ok=True)
    frames = []
    for number, exposure in enumerate(log, start=1):
        frames.append(write_frame(detector, exposure, number, folder))
        if progress is not None:
            progress(f"wrote {frames[-1].file} ({number} of {len(log)})")
    return replace(detector.truth, frames=tuple(frames))


def refuse_existing(folder: Path, camera: Camera, log: list[Exposure]) -> None:
    """Raise FileExistsError when a file of the night exists."""
    for number, exposure in enumerate(log, start=1):
        path = folder / name_file(camera, exposure.kind, number)
        if path.exists():
            raise FileExistsError(f"{path} exists; simulate into an empty folder")


def write_frame(detector: Detector, exposure: Exposure, number: int, folder: Path) -> FrameTruth:
    """Expose one frame and write it as unsigned 16 bits (BZERO 32768)."""
    data, header, truth = detector.expose(
        exposure.kind,
        exposure.exposure_time_s,
        level_adu=exposure.level_adu,
        filter=exposure.filter,
        frame_number=number,
    )
    fits.PrimaryHDU(data, header).writeto(folder / truth.file)
    return truth
