"""Forward model of a CCD: photons to electrons to ADU.

The order is that of the photons: light x response + dark current, shot noise, full well, then
amplifier noise, gain, bias, and the converter that rounds and clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from flatcal.simulate.cameras import Camera, FrameKind, get_camera
from flatcal.simulate.headers import SET_TEMPERATURE_C, make_header
from flatcal.simulate.patterns import (
    Plane,
    child_rng,
    draw_stars,
    make_bias_pattern,
    make_dark_rate,
    make_response,
)
from flatcal.simulate.truth import FrameTruth, NightTruth

MAX_ADU = 65535
_BAND_ROWS = 64  # a band of a frame stays in the processor's cache through all its steps
_DRIFT_PERIOD_FRAMES = 11


@dataclass(frozen=True, slots=True, eq=False)
class Detector:
    """One individual camera, with its own bias structure, hot pixels, dust and stars.

    Attributes
    ----------
    truth : NightTruth
        Everything that is the same in all frames; its ``frames`` is empty.
    """

    truth: NightTruth

    @property
    def camera(self) -> Camera:
        """The camera's table of facts."""
        return self.truth.camera

    def expose(
        self,
        kind: FrameKind,
        exposure_time_s: float = 0.0,
        *,
        level_adu: float = 0.0,
        filter: str | None = None,  # noqa: A002  the name of the card
        frame_number: int = 1,
        noise: bool = True,
        quantise: bool = True,
    ) -> tuple[npt.NDArray[Any], fits.Header, FrameTruth]:
        """Take one frame.

        Parameters
        ----------
        kind : {'bias', 'dark', 'flat', 'science'}
            Kind of the frame. Stars shine in science frames only.
        exposure_time_s : float
            Exposure time; 0 for a bias.
        level_adu : float
            Median light collected in the exposure, less bias and dark current: the flat's level
            or the sky's. It is not scaled by the exposure time.
        filter : str, optional
            A filter of the camera; by default its first.
        frame_number : int
            Two frames of one detector with the same number have the same noise and levels.
        noise : bool
            False leaves out shot noise and read noise, not the drift of the levels.
        quantise : bool
            False leaves out the rounding, not the clipping, and gives float32.

        Returns
        -------
        data : ndarray of uint16, (rows, columns)
            The raw frame with its overscan, in ADU.
        header : `astropy.io.fits.Header`
            The cards, without those that describe the array.
        truth : FrameTruth
            What the frame was made from.

        Raises
        ------
        ValueError
            The kind or the filter is unknown, a number is negative, a bias has an exposure time,
            or a bias or dark has light.
        """
        self._check(kind, exposure_time_s, level_adu, filter)
        wheel = self.camera.filters[0] if filter is None else filter
        rng = child_rng(self.truth.seed, self.camera.name, "frame", frame_number)
        bias_level, overscan_level = self._draw_levels(frame_number, rng)
        temperature = rng.normal(SET_TEMPERATURE_C, 0.1)
        frame = FrameTruth(
            file=name_file(self.camera, kind, frame_number),
            kind=kind,
            exposure_time_s=exposure_time_s,
            filter=wheel if kind in ("flat", "science") else None,
            signal_adu=level_adu,
            bias_level_adu=bias_level,
            overscan_level_adu=overscan_level,
        )
        header = make_header(
            self.camera,
            kind,
            exposure_time_s=exposure_time_s,
            filter_name=wheel,
            frame_number=frame_number,
            ccd_temperature_c=temperature,
        )
        return self._read_out(frame, rng if noise else None, quantise), header, frame

    def _check(
        self, kind: str, exposure_time_s: float, level_adu: float, filter_name: str | None
    ) -> None:
        if kind not in self.camera.image_types:
            kinds = tuple(self.camera.image_types)
            raise ValueError(f"no frame is of kind {kind!r}; there are {kinds}")
        if filter_name not in (None, *self.camera.filters):
            raise ValueError(
                f"{self.camera.name} has no filter {filter_name!r}; it has {self.camera.filters}"
            )
        if exposure_time_s < 0 or level_adu < 0:
            raise ValueError(
                f"negative exposure time or level: {exposure_time_s} s, {level_adu} ADU"
            )
        if kind == "bias" and exposure_time_s != 0:
            raise ValueError(f"a bias has no exposure time, not {exposure_time_s} s")
        if kind in ("bias", "dark") and level_adu != 0:
            raise ValueError(f"a {kind} has no light, not {level_adu} ADU")

    def _draw_levels(self, frame_number: int, rng: np.random.Generator) -> tuple[float, float]:
        """Return the bias level of the image and the level of the overscan (ADU)."""
        camera = self.camera
        drift = camera.bias_drift_adu * np.sin(2 * np.pi * frame_number / _DRIFT_PERIOD_FRAMES)
        bias = camera.bias_level_adu + drift + rng.normal(0, camera.bias_jitter_adu)
        reference = bias if camera.overscan_follows_bias else camera.bias_level_adu
        overscan = (
            reference + camera.overscan_offset_adu + rng.normal(0, camera.overscan_jitter_adu)
        )
        return float(bias), float(overscan)

    def _read_out(
        self, frame: FrameTruth, rng: np.random.Generator | None, quantise: bool
    ) -> npt.NDArray[Any]:
        camera = self.camera
        data = np.empty(camera.shape, dtype=np.uint16 if quantise else np.float32)
        light = self.truth.expected_signal(frame)
        for first in range(0, camera.rows, _BAND_ROWS):
            rows = slice(first, first + _BAND_ROWS)
            dark = self.truth.dark_rate_adu_per_s[rows] * np.float32(frame.exposure_time_s)
            electrons = np.empty((dark.shape[0], camera.columns), dtype=np.float32)
            electrons[camera.image_slice] = light[rows] + dark
            electrons[camera.overscan_slice] = light[rows, -1:] * leak_profile(camera)
            electrons *= np.float32(camera.gain_electron_per_adu)
            adu = amplify(collect(electrons, camera, rng), camera, rng)
            adu[camera.image_slice] += self.truth.bias_adu[rows] + np.float32(frame.bias_level_adu)
            adu[camera.overscan_slice] += np.float32(frame.overscan_level_adu)
            data[rows] = convert(adu, quantise)
        return data


def make_detector(camera: str, *, full_size: bool = False, seed: int = 20240513) -> Detector:
    """Build one individual camera from a seed.

    Parameters
    ----------
    camera : {'lfc', 'cg16m'}
        Name of the camera.
    full_size : bool
        Give the imaging area its real size, not a quarter of it along each axis.
    seed : int
        The same seed gives the same camera, and the same frames.

    Raises
    ------
    ValueError
        No camera has that name.
    """
    facts = get_camera(camera, full_size=full_size)
    dark_rate = make_dark_rate(facts, child_rng(seed, camera, "dark"))
    dark_rate /= np.float32(facts.gain_electron_per_adu)
    truth = NightTruth(
        camera=facts,
        seed=seed,
        bias_adu=make_bias_pattern(facts, child_rng(seed, camera, "bias")),
        dark_rate_adu_per_s=dark_rate,
        flat_response={name: make_response(facts, name, seed) for name in facts.filters},
        stars=draw_stars(facts, child_rng(seed, camera, "stars")),
        frames=(),
    )
    return Detector(truth)


def name_file(camera: Camera, kind: FrameKind, frame_number: int) -> str:
    """Return the file's name in the habit of the camera's observatory."""
    if camera.name == "lfc":
        return f"ccd.{frame_number:03d}.0.fits"
    return f"{kind}-{frame_number:03d}.fits"


def leak_profile(camera: Camera) -> Plane:
    """Return, for each overscan column, the part of the last image column's light in it."""
    column = np.arange(camera.overscan_columns)
    leak = camera.leak_fraction * np.exp(-column / camera.leak_scale_columns)
    return np.where(column < camera.leak_columns, leak, 0).astype(np.float32)


def collect(mean_electrons: Plane, camera: Camera, rng: np.random.Generator | None) -> Plane:
    """Return the electrons that the pixels hold: shot noise (when `rng` is given), full well."""
    electrons = mean_electrons if rng is None else draw_shot_noise(mean_electrons, rng)
    room = np.float32(camera.full_well_electron - camera.linear_limit_electron)
    excess = electrons - np.float32(camera.linear_limit_electron)
    over = excess > 0
    if over.any():
        # Slope 1 at the limit of linearity, and the full well is approached and never exceeded.
        electrons[over] += room * -np.expm1(-excess[over] / room) - excess[over]
    return electrons


def draw_shot_noise(mean_electrons: Plane, rng: np.random.Generator) -> Plane:
    """Draw the number of electrons from its mean.

    Above 100 electrons the normal law stands for Poisson's: its skewness (below 0.1) is lost in
    the read noise, and it is ten times as fast. The faint rest is drawn from Poisson's law.
    """
    drawn: Plane = rng.standard_normal(mean_electrons.shape, dtype=np.float32)
    drawn *= np.sqrt(mean_electrons)
    drawn += mean_electrons
    faint = mean_electrons <= 100
    if faint.any():
        drawn[faint] = rng.poisson(mean_electrons[faint])
    return drawn


def amplify(electrons: Plane, camera: Camera, rng: np.random.Generator | None) -> Plane:
    """Return ADU (float) without bias; read noise is added when `rng` is given."""
    if rng is not None:
        read_noise = rng.standard_normal(electrons.shape, dtype=np.float32)
        electrons = electrons + np.float32(camera.read_noise_electron) * read_noise
    return electrons / np.float32(camera.gain_electron_per_adu)


def convert(adu: Plane, quantise: bool) -> Plane:
    """Return what the converter gives: clipped to 16 bits and, with `quantise`, rounded."""
    clipped = np.clip(adu, 0, MAX_ADU)
    return np.rint(clipped) if quantise else clipped
