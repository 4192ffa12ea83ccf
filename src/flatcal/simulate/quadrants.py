"""A camera whose four quadrants are read by an amplifier each, with levels and gains of their own.

Amplifiers are named after the row and the column of their quadrant, from 11 at the lower left to
22 at the upper right, as the CCD controllers of NOAO and CTIO do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from flatcal.simulate.cameras import CG16M, Camera, FrameKind, PixelSlice
from flatcal.simulate.detector import Detector, amplify, collect, convert
from flatcal.simulate.patterns import (
    Plane,
    child_rng,
    draw_stars,
    make_bias_pattern,
    make_dark_rate,
    make_response,
)
from flatcal.simulate.truth import FrameTruth, NightTruth

Side = Literal["outer", "middle"]

_SHRINK_FACTOR = 8  # 512 x 512 pixels
_DRIFT_PERIOD_FRAMES = 7


@dataclass(frozen=True, slots=True)
class Quadrant:
    """What one amplifier does to its quadrant.

    Attributes
    ----------
    name : str
        Row and column of the quadrant, from 1.
    gain_electron_per_adu, read_noise_electron : float
        Gain (electron / ADU) and read noise (electron).
    bias_level_adu, bias_drift_adu : float
        Typical bias level, and half the range of its drift from frame to frame.
    row_drift_adu : float
        Half the range of its drift along the rows of a frame.
    overscan_offset_adu : float
        Level of its overscan less that of its image.
    """

    name: str
    gain_electron_per_adu: float
    read_noise_electron: float
    bias_level_adu: float
    bias_drift_adu: float
    row_drift_adu: float
    overscan_offset_adu: float


QUADRANTS = (
    Quadrant("11", 1.20, 7.0, 900.0, 9.0, 3.0, -4.0),
    Quadrant("12", 1.55, 10.0, 1400.0, -6.0, -2.0, 2.0),
    Quadrant("21", 1.80, 8.5, 1100.0, 4.0, 5.0, 0.0),
    Quadrant("22", 2.10, 14.0, 2100.0, -12.0, 1.0, -7.0),
)


@dataclass(frozen=True, slots=True, eq=False)
class QuadrantDetector(Detector):
    """One individual camera with four amplifiers.

    Its truth is in the ADU of each amplifier: dark current and response hold the gains.

    Attributes
    ----------
    side : {'outer', 'middle'}
        Whether each overscan lies beside the edge of the sensor, before the data, or between the
        left and the right quadrants, after the data.
    gap_rows : int
        Rows without data between the lower and the upper quadrants.
    """

    side: Side = "outer"
    gap_rows: int = 6

    @property
    def raw_shape(self) -> tuple[int, int]:
        """Rows and columns of the raw frame."""
        rows, columns = self.camera.image_shape
        return rows + self.gap_rows, columns + 2 * self.camera.overscan_columns

    def image_slice(self, number: int) -> PixelSlice:
        """A quadrant in the assembled image."""
        rows, columns = (size // 2 for size in self.camera.image_shape)
        y, x = divmod(number, 2)
        return slice(y * rows, (y + 1) * rows), slice(x * columns, (x + 1) * columns)

    def data_slice(self, number: int) -> PixelSlice:
        """A quadrant in the raw frame."""
        rows, columns = self.image_slice(number)
        up = self.gap_rows * (number // 2)
        n = self.camera.overscan_columns
        right = n if self.side == "outer" else 2 * n * (number % 2)
        return (
            slice(rows.start + up, rows.stop + up),
            slice(columns.start + right, columns.stop + right),
        )

    def overscan_slice(self, number: int) -> PixelSlice:
        """The overscan of a quadrant in the raw frame."""
        rows, columns = self.data_slice(number)
        n = self.camera.overscan_columns
        after = (self.side == "middle") == (number % 2 == 0)
        return rows, slice(columns.stop, columns.stop + n) if after else slice(
            columns.start - n, columns.start
        )

    def plane_of(self, what: str) -> Plane:
        """An attribute of `Quadrant` as it stands in each pixel of the assembled image."""
        plane = np.empty(self.camera.image_shape, np.float32)
        for number, quadrant in enumerate(QUADRANTS):
            plane[self.image_slice(number)] = getattr(quadrant, what)
        return plane

    def expose(
        self, kind: FrameKind, exposure_time_s: float = 0.0, **how: Any
    ) -> tuple[npt.NDArray[Any], fits.Header, FrameTruth]:
        """Take one frame; see `Detector.expose`. The header names the amplifiers."""
        # super() without arguments does not work in a dataclass with slots.
        data, header, truth = Detector.expose(self, kind, exposure_time_s, **how)
        header["AMPLIST"] = (" ".join(q.name for q in QUADRANTS), "amplifiers, row and column")
        for number, quadrant in enumerate(QUADRANTS):
            name = quadrant.name
            header[f"TSEC{name}"] = (section_text(self.data_slice(number)), "data")
            header[f"BSEC{name}"] = (section_text(self.overscan_slice(number)), "overscan")
            header[f"GTGAIN{name}"] = (quadrant.gain_electron_per_adu, "[electron/adu] gain")
            header[f"GTRON{name}"] = (quadrant.read_noise_electron, "[electron] read noise")
        return data, header, truth

    def _read_out(
        self, frame: FrameTruth, rng: np.random.Generator | None, quantise: bool
    ) -> npt.NDArray[Any]:
        light = self.truth.expected_signal(frame)
        light += self.truth.dark_rate_adu_per_s * np.float32(frame.exposure_time_s)
        # What nobody reads, between the quadrants, is at zero.
        data = np.zeros(self.raw_shape, np.uint16 if quantise else np.float32)
        for number, quadrant in enumerate(QUADRANTS):
            own = replace(
                self.camera,
                gain_electron_per_adu=quadrant.gain_electron_per_adu,
                read_noise_electron=quadrant.read_noise_electron,
            )
            level = self._level_of_rows(quadrant, frame)
            place = self.image_slice(number)
            electrons = light[place] * np.float32(quadrant.gain_electron_per_adu)
            adu = (
                amplify(collect(electrons, own, rng), own, rng) + level + self.truth.bias_adu[place]
            )
            data[self.data_slice(number)] = convert(adu, quantise)
            dark = np.zeros((level.shape[0], self.camera.overscan_columns), np.float32)
            beside = amplify(dark, own, rng) + level + np.float32(quadrant.overscan_offset_adu)
            data[self.overscan_slice(number)] = convert(beside, quantise)
        return data

    def _level_of_rows(self, quadrant: Quadrant, frame: FrameTruth) -> Plane:
        """Bias level of each row of a quadrant, of shape (rows, 1)."""
        number = int(frame.file.split("-")[-1].split(".")[0])
        phase = 2 * np.pi * number / _DRIFT_PERIOD_FRAMES
        rows = np.linspace(0, 2 * np.pi, self.camera.rows // 2, dtype=np.float32)[:, np.newaxis]
        level: Plane = np.float32(quadrant.row_drift_adu) * np.sin(rows + np.float32(phase))
        level += np.float32(quadrant.bias_level_adu + quadrant.bias_drift_adu * np.sin(phase))
        return level


def section_text(region: PixelSlice) -> str:
    """Return a region as FITS text."""
    rows, columns = region
    return f"[{columns.start + 1}:{columns.stop},{rows.start + 1}:{rows.stop}]"


def make_quadrant_detector(*, side: Side = "outer", seed: int = 20240513) -> QuadrantDetector:
    """Build one individual camera with four amplifiers from a seed.

    Parameters
    ----------
    side : {'outer', 'middle'}
        Where the overscans lie.
    seed : int
        The same seed gives the same camera, and the same frames.
    """
    camera = quadrant_camera()
    truth = NightTruth(
        camera=camera,
        seed=seed,
        bias_adu=make_bias_pattern(camera, child_rng(seed, camera.name, "bias")),
        dark_rate_adu_per_s=make_dark_rate(camera, child_rng(seed, camera.name, "dark")),
        flat_response={},
        stars=draw_stars(camera, child_rng(seed, camera.name, "stars")),
        frames=(),
    )
    detector = QuadrantDetector(truth, side)
    gains = detector.plane_of("gain_electron_per_adu")
    responses = {name: make_response(camera, name, seed) for name in camera.filters}
    truth = replace(
        truth,
        dark_rate_adu_per_s=truth.dark_rate_adu_per_s / gains,
        flat_response={name: in_adu(plane, gains) for name, plane in responses.items()},
    )
    return replace(detector, truth=truth)


def in_adu(response: Plane, gains: Plane) -> Plane:
    """Return the response to light as the amplifiers tell it in ADU.

    The mean of the medians of the quadrants is 1.
    """
    told: Plane = response / gains
    rows, columns = (size // 2 for size in told.shape)
    quadrants = told.reshape(2, rows, 2, columns).swapaxes(1, 2).reshape(4, -1)
    told /= np.median(quadrants, axis=1).mean(dtype=np.float32)
    return told


def quadrant_camera() -> Camera:
    """Return the table of facts that the quadrants have in common."""
    return replace(
        CG16M.shrink(_SHRINK_FACTOR),
        name="quadrants",
        instrument="Four Quadrants",
        overscan_columns=24,
        overscan_follows_bias=True,
        overscan_offset_adu=0.0,
        overscan_jitter_adu=0.0,
        max_star_flux_adu_per_s=2000.0,
    )
