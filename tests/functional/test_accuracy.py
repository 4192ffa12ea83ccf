"""Results against the truth of simulated nights: errors as large as UNCERT says, and no larger.

Every night is at a quarter of the camera's size: some 500,000 or 1,000,000 pixels, which tell the
mean of the pulls to 0.0014 and their standard deviation to 0.001. Only where an overscan level is
subtracted, whose error is that of all the row, is the mean of 1,032 rows no better than 0.008 in
biases and darks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from astropy.io import fits

from flatcal import build_plan, run_plan
from flatcal.recipe import parse_config
from flatcal.simulate import (
    FrameTruth,
    NightTruth,
    make_detector,
    make_mosaic,
    make_quadrant_detector,
    write_mosaic_frame,
)
from flatcal.simulate.night import Exposure, write_frame
from flatcal.simulate.patterns import make_response
from flatcal.simulate.quadrants import in_adu

SEED = 411
# 30 % of the light is lost in the corners.
VIGNETTING = {"vignetting_centre": (0.5, 0.5), "vignetting_radius": 0.0, "vignetting_strength": 0.6}


class Camera(NamedTuple):
    """What is exposed: where darks are as long as the frames they are not scaled."""

    filter: str
    darks: tuple[float, ...]
    flat_s: float
    science_s: float
    sky_adu: float
    block: int


CAMERAS = {
    "lfc": Camera("g'", (70.0, 300.0), 70.0, 300.0, 300.0, 256),
    "cg16m": Camera("r", (90.0,), 2.0, 60.0, 300.0, 256),
    # Four amplifiers, with their overscans at the edges or in the middle of the raw frame.
    "outer": Camera("r", (90.0,), 2.0, 60.0, 300.0, 128),
    "middle": Camera("r", (60.0,), 60.0, 60.0, 300.0, 128),
    # Two detectors of a mosaic, which are in the same files.
    "CHIP1": Camera("g'", (70.0, 300.0), 70.0, 300.0, 300.0, 256),
    "CHIP2": Camera("g'", (70.0, 300.0), 70.0, 300.0, 300.0, 256),
}


class OneAmplifier:
    """A camera with its gain and read noise, and its overscan if that is subtracted."""

    extension = ""

    def __init__(self, detector):
        self.detector = detector
        camera = self.detector.camera
        self.gain, self.read_noise = camera.gain_electron_per_adu, camera.read_noise_electron
        self.has_overscan = camera.name == "lfc"
        # Four standard errors, where each row has a level of its own, the median of 25 pixels.
        by_levels = 4 * np.sqrt(np.pi / 2 / 25 / camera.rows) if self.has_overscan else 0.0
        self.mean_limit = max(0.02, by_levels)
        self.parts = (np.s_[:, :],)

    def settings(self, of_cameras):
        return of_cameras[self.detector.camera.name]

    def write(self, truth, exposure, number, raw):
        return write_frame(replace(self.detector, truth=truth), exposure, number, raw)

    def level(self, frame):
        """Bias of a frame over its overscan, where that is subtracted."""
        return frame.bias_level_adu - (frame.overscan_level_adu if self.has_overscan else 0.0)

    def response(self, camera, band):
        return make_response(camera, band, self.detector.truth.seed)


class Chip(OneAmplifier):
    """One of two detectors that are read out into extensions of the same files."""

    def __init__(self, extension):
        self.extension, self.chips = extension, make_mosaic("lfc", 2, seed=SEED)
        super().__init__(self.chips[extension])

    def settings(self, of_cameras):
        return of_cameras["lfc"] + "".join(
            f"[camera.extensions.{name}]\n"
            f"gain_electron_per_adu = {chip.camera.gain_electron_per_adu}\n"
            for name, chip in self.chips.items()
        )

    def write(self, truth, exposure, number, raw):
        chips = self.chips | {self.extension: replace(self.detector, truth=truth)}
        return write_mosaic_frame(chips, exposure, number, raw)[self.extension]


class Quadrants:
    """The same of a camera with four amplifiers: planes of the assembled image."""

    extension, mean_limit = "", 0.02

    def __init__(self, side):
        self.detector = make_quadrant_detector(side=side, seed=SEED)
        self.parts = tuple(self.detector.image_slice(number) for number in range(4))
        self.gain = self.detector.plane_of("gain_electron_per_adu").astype(float)
        self.read_noise = self.detector.plane_of("read_noise_electron").astype(float)
        self.offset = self.detector.plane_of("overscan_offset_adu").astype(float)

    def settings(self, _of_cameras):
        return ""

    def write(self, truth, exposure, number, raw):
        return write_frame(replace(self.detector, truth=truth), exposure, number, raw)

    def level(self, frame):
        return -self.offset

    def response(self, camera, band):
        return in_adu(make_response(camera, band, SEED), self.gain.astype(np.float32))


def sensor_of(name):
    if name in ("outer", "middle"):
        return Quadrants(name)
    if name in ("CHIP1", "CHIP2"):
        return Chip(name)
    return OneAmplifier(make_detector(name, seed=SEED))


class Night:
    """A night with its truth and its outputs."""

    def __init__(self, name, settings, folder):
        self.camera = CAMERAS[name]
        self.sensor = sensor_of(name)
        plain = self.sensor.detector
        camera = replace(plain.camera, **VIGNETTING)
        band = self.camera.filter
        response = {band: self.sensor.response(camera, band)}
        starry = replace(plain.truth, camera=camera, flat_response=response)
        empty = replace(starry, stars=np.empty((0, 3)))
        self.frames: list[FrameTruth] = []
        self.truths: dict[str, NightTruth] = {}
        raw = folder / "raw"
        raw.mkdir()

        def expose(kind, seconds=0.0, level=0.0, truth=empty):
            number = len(self.frames) + 1
            lit = band if level else None
            frame = self.sensor.write(truth, Exposure(kind, seconds, level, lit), number, raw)
            self.frames.append(frame)
            self.truths[frame.file] = truth

        for _ in range(5):
            expose("bias")
        for seconds in self.camera.darks:
            for _ in range(5):
                expose("dark", seconds)
        for i in range(5):
            expose("flat", self.camera.flat_s, 25_000.0 * (1 - 0.05 * i))
        for level in (2_000.0, 40_000.0):
            expose("science", self.camera.science_s, level)
        expose("science", self.camera.science_s, self.camera.sky_adu, starry)
        self.truth = empty
        self.out = folder / "out"
        config = parse_config(self.sensor.settings(settings), "night.toml")
        result = run_plan(build_plan(raw, config), self.out)
        assert result.failed == ()
        self.products = result.record.products

    def level(self, frame):
        """Bias of a frame over its overscan, where that is subtracted."""
        return self.sensor.level(frame)

    def mean_level(self, kind, seconds=0.0):
        """That of the frames of a master."""
        same = [f for f in self.frames if (f.kind, f.exposure_time_s) == (kind, seconds)]
        return np.mean([self.level(f) for f in same], axis=0)

    def of(self, kind):
        return [frame for frame in self.frames if frame.kind == kind]

    def output_of(self, frame):
        extension = self.sensor.extension
        name = f"{frame.file}[{extension}]" if extension else frame.file
        (output,) = (
            p.output for p in self.products.values() if p.inputs == (name,) and p.kind == frame.kind
        )
        return Planes(self.out / output.removesuffix(f"[{extension}]"), extension)

    def master(self, name):
        extension = self.sensor.extension
        (path,) = (self.out / "masters").glob(f"{name}{f'_{extension}' if extension else ''}.fits")
        return Planes(path)

    def level_of(self, image):
        """Mean of the medians of what each amplifier reads."""
        return np.mean([np.median(image[part]) for part in self.sensor.parts])

    def left_over(self, frame):
        """What remains of the bias level of a frame whose level is not that of its masters."""
        seconds = frame.exposure_time_s
        if seconds in self.camera.darks:
            return self.level(frame) - self.mean_level("dark", seconds)
        share = seconds / max(self.camera.darks)
        masters = [self.mean_level("bias"), self.mean_level("dark", max(self.camera.darks))]
        return self.level(frame) - (1 - share) * masters[0] - share * masters[1]

    @property
    def is_scaled(self):
        """Whether some frame needs a dark scaled."""
        return not {self.camera.flat_s, self.camera.science_s} <= set(self.camera.darks)

    def is_linear(self, frame):
        """Where frame and darks stay below the limit of linearity, well above their noise."""
        camera = self.truth.camera
        current = self.truth.dark_rate_adu_per_s * max(frame.exposure_time_s, *self.camera.darks)
        light = self.truths[frame.file].expected_signal(frame)
        most = self.sensor.gain * (light + current)
        return most + 6 * np.sqrt(most) < camera.linear_limit_electron


class Planes:
    """The planes of an output in float64."""

    def __init__(self, path, extension=""):
        prefix = f"{extension}_" if extension else ""
        with fits.open(path) as hdus:
            self.data = hdus[extension or 0].data.astype(float)
            self.std = hdus[f"{prefix}UNCERT"].data.astype(float)
            self.good = hdus[f"{prefix}MASK"].data == 0


@pytest.fixture(scope="module", params=CAMERAS)
def night(request, camera_settings, tmp_path_factory):
    return Night(request.param, camera_settings, tmp_path_factory.mktemp("night"))


def check_pulls(night, planes, expected, good=True):
    """Of all good pixels, none of which may be farther off than noise alone ever is."""
    good = good & planes.good
    assert good.mean() > 0.99
    pulls = (planes.data - expected) / planes.std
    assert np.abs(pulls[good]).max() < 8
    assert pulls[good].mean() == pytest.approx(0, abs=night.sensor.mean_limit)
    for part in night.sensor.parts:
        pull = pulls[part][good[part]]
        # Four standard errors, where each of 256 rows has an overscan level of its own.
        assert pull.mean() == pytest.approx(0, abs=0.064)
        assert pull.std() == pytest.approx(1, abs=0.03)


# -- pulls -------------------------------------------------------------------------------


def test_pulls_of_the_master_bias(night):
    expected = night.truth.bias_adu + night.mean_level("bias")
    check_pulls(night, night.master("master_bias"), expected)


def test_pulls_of_master_darks(night):
    for seconds in night.camera.darks:
        planes = night.master(f"master_dark_{seconds:g}s")
        current = seconds * night.truth.dark_rate_adu_per_s
        level = night.mean_level("dark", seconds)
        if night.is_scaled:  # so it has lost its bias
            expected = current + level - night.mean_level("bias")
        else:
            expected = night.truth.bias_adu + level + current
        frame = replace(night.of("dark")[0], exposure_time_s=seconds)
        check_pulls(night, planes, expected, night.is_linear(frame))
        # Of hot pixels alone, flagged or not: the shot noise of their current counts.
        hot = (current > 50) & night.is_linear(frame)
        assert hot.sum() > 20
        pull = ((planes.data - expected) / planes.std)[hot]
        assert pull.std() == pytest.approx(1, abs=5 / np.sqrt(2 * pull.size))


def test_pulls_of_the_master_flat(night):
    response = night.truth.flat_response[night.camera.filter]
    expected = response / night.level_of(response)
    check_pulls(night, night_flat(night), expected, night.is_linear(brightest(night)))


def test_pulls_of_flats(night):
    for frame in night.of("flat")[:2]:
        expected = night.truth.expected_signal(frame) + night.left_over(frame)
        check_pulls(night, night.output_of(frame), expected, night.is_linear(frame))


@pytest.mark.parametrize("which", [0, 1, 2], ids=["2,000 ADU", "40,000 ADU", "sky with stars"])
def test_pulls_of_science_frames(night, which):
    frame = night.of("science")[which]
    light = night.truths[frame.file].expected_flattened(frame)
    response = night.truth.flat_response[night.camera.filter]
    expected = light + night.left_over(frame) / response
    check_pulls(night, night.output_of(frame), expected, night.is_linear(frame))


# -- flats -------------------------------------------------------------------------------


def night_flat(night):
    return night.master("master_flat_*")


def brightest(night):
    return max(night.of("flat"), key=lambda frame: frame.signal_adu)


def test_the_master_flat_has_the_noise_of_photons_and_read_out(night):
    gain, read_adu = night.sensor.gain, night.sensor.read_noise / night.sensor.gain
    response = night.truth.flat_response[night.camera.filter]
    response = response / night.level_of(response)
    flats = night.of("flat")
    levels = np.array([frame.signal_adu for frame in flats])
    photons = response / gain * np.mean(1 / levels)
    read = read_adu**2 * np.mean(1 / levels**2)
    planes = night_flat(night)
    good = planes.good & night.is_linear(brightest(night))
    error = (planes.data - response)[good]
    predicted = np.sqrt(np.mean((photons + read)[good] / len(flats)))
    assert np.sqrt(np.mean(error**2)) <= 1.05 * predicted
    assert abs(error.mean()) < 1e-4


@pytest.mark.parametrize("which", [0, 1], ids=["2,000 ADU", "40,000 ADU"])
def test_vignetting_is_flat_to_a_thousandth(night, which):
    response = night.truth.flat_response[night.camera.filter]
    light = response * night.sensor.gain
    assert np.percentile(light, 0.1) / np.percentile(light, 99.9) < 0.75
    frame = night.of("science")[which]
    planes = night.output_of(frame)
    values = np.where(planes.good & night.is_linear(frame), planes.data, np.nan)
    size = night.camera.block
    rows, columns = (n // size for n in values.shape)
    blocks = values[: rows * size, : columns * size].reshape(rows, size, columns, size)
    binned = np.nanmean(blocks, axis=(1, 3))
    assert binned.size >= 8
    assert np.ptp(binned) / np.median(binned) < 1e-3
