"""Masters in memory, and the steps of a plan as arrays for the kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from flatcal.engine.noise import read_variance_adu2
from flatcal.flags import Flag
from flatcal.frame import Detector
from flatcal.io import RawFrame
from flatcal.kernels import arithmetic
from flatcal.plan import Step
from flatcal.section import Section, parse_section

Array = NDArray[Any]

_NO_IMAGE = np.empty((0, 0), np.float32)
_NO_LEVEL = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Master:
    """A master with its planes.

    Attributes
    ----------
    data : ndarray of float32, shape (rows, columns)
        Values.
    std : ndarray of float32, same shape, or size 0
        Standard deviation, if it is known.
    flags : ndarray of uint8, same shape, or size 0
        Flags; size 0 when every pixel is good.
    lost_bias : str
        Name of the bias that a dark has lost; empty when it holds its bias.
    """

    data: Array
    std: Array
    flags: Array
    lost_bias: str


def load_master(path: Path, lost_bias: str) -> Master:
    """Read a master that an earlier run has written."""
    with fits.open(path, memmap=False) as hdus:
        data = np.ascontiguousarray(hdus[0].data, np.float32)
        names = {hdu.name for hdu in hdus}
        std = np.ascontiguousarray(hdus["UNCERT"].data, np.float32) if "UNCERT" in names else None
        flags = np.ascontiguousarray(hdus["MASK"].data, np.uint8) if "MASK" in names else None
    return make_master(data, std, flags, lost_bias)


def make_master(data: Array, std: Array | None, flags: Array | None, lost_bias: str) -> Master:
    """A `Master` of planes, of which an empty one is left out."""
    some = flags is not None and flags.any()
    return Master(
        data,
        _NO_IMAGE if std is None else std,
        flags if some and flags is not None else np.empty((0, 0), np.uint8),
        lost_bias,
    )


@dataclass(frozen=True, slots=True)
class Preparation:
    """The steps for frames of one kind, with their masters.

    Attributes
    ----------
    section : tuple of slice
        The pixels that are kept.
    overscan : tuple of slice or None
        The overscan pixels of the same rows.
    statistic : callable
        Of the overscan pixels of a row.
    bias, dark, flat : Master or None
        What is subtracted and divided by.
    bias_name : str
        Name of the bias; empty for none.
    dark_scale : float32
        Factor of the dark.
    """

    section: Section
    overscan: Section | None
    statistic: Callable[..., Array]
    bias: Master | None
    bias_name: str
    dark: Master | None
    dark_scale: Any
    flat: Master | None

    @property
    def bias_factor(self) -> float:
        """Factor of the variance of the bias; see `kernels.arithmetic.propagate`.

        It differs from 1 where the dark has lost the very bias that the frame loses.
        """
        if self.dark is None or self.dark.lost_bias != self.bias_name:
            return 1.0
        return 1.0 - 2.0 * float(self.dark_scale)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that are kept."""
        rows, columns = self.section
        return rows.stop - rows.start, columns.stop - columns.start


def prepare(
    steps: Sequence[Step], shape: tuple[int, int], master: Callable[[str], Master]
) -> Preparation:
    """Turn the steps of a plan into arrays.

    Parameters
    ----------
    steps : sequence of Step
        Of one frame.
    shape : tuple of int
        Rows and columns of the raw image.
    master : callable
        Gives a master by its name.
    """
    by_name = {step.name: step for step in steps}

    def section_of(name: str) -> Section | None:
        step = by_name.get(name)  # type: ignore[call-overload]
        return None if step is None else parse_section(step.section, shape)

    def master_of(name: str) -> Master | None:
        step = by_name.get(name)  # type: ignore[call-overload]
        return None if step is None else master(step.master)

    overscan = by_name.get("subtract_overscan")
    dark = by_name.get("subtract_dark")
    return Preparation(
        section=section_of("trim_image") or (slice(0, shape[0]), slice(0, shape[1])),
        overscan=section_of("subtract_overscan"),
        statistic=np.mean if overscan and overscan.statistic == "mean" else np.median,
        bias=master_of("subtract_bias"),
        bias_name=bias.master or "" if (bias := by_name.get("subtract_bias")) else "",
        dark=master_of("subtract_dark"),
        dark_scale=np.float32(dark.scale if dark else 1.0),
        flat=master_of("flat_correct"),
    )


class CalibratedFrame:
    """A raw frame that is calibrated as it is read, band by band.

    Parameters
    ----------
    raw : RawFrame
        Open.
    preparation : Preparation
        The steps.
    saturation_adu : float or None
        Raw values from here on are flagged; None flags none.
    """

    def __init__(
        self, raw: RawFrame, preparation: Preparation, saturation_adu: float | None
    ) -> None:
        self.raw = raw
        self.preparation = preparation
        self.saturation = np.float32(np.inf if saturation_adu is None else saturation_adu)
        self.level = _NO_LEVEL if preparation.overscan is None else self._overscan_level()

    def _overscan_level(self) -> Array:
        p = self.preparation
        assert p.overscan is not None
        pixels = self.raw.values(p.section[0], p.overscan[1], np.float64)
        return np.asarray(p.statistic(pixels, axis=1), np.float32)

    def read(self, start: int, stop: int, out: Array, flags: Array) -> None:
        """Calibrated values and flags of some rows.

        Parameters
        ----------
        start, stop : int
            Rows of the image that is kept.
        out : ndarray of float32, shape (stop - start, columns)
            Receives the values.
        flags : ndarray of uint8, same shape
            Receives the flags.
        """
        p = self.preparation
        band = slice(start, stop)
        rows = slice(p.section[0].start + start, p.section[0].start + stop)
        steps = (
            self.level[band],
            _band(p.bias, band),
            _band(p.dark, band),
            p.dark_scale,
            _band(p.flat, band),
        )
        raw = self.raw.bytes_of(rows, p.section[1])
        if raw is not None:
            arithmetic.calibrate_uint16(raw, *steps, self.saturation, out, flags)
        else:
            out[:] = self.raw.values(rows, p.section[1], np.float32)
            arithmetic.flag_image(out, self.saturation, steps[-1], flags)
            arithmetic.calibrate(out, *steps)
        for master, flag in (
            (p.bias, Flag.MASTER_BAD),
            (p.dark, Flag.MASTER_BAD),
            (p.flat, Flag.FLAT_INVALID),
        ):
            if master is not None and master.flags.size:
                flags[master.flags[band] != 0] |= np.uint8(flag)

    def level_variance(self, detector: Detector) -> float:
        """Variance in ADU squared of the overscan level of a row; 0 without an overscan.

        That of a median is pi / 2 times that of a mean.
        """
        p = self.preparation
        if p.overscan is None:
            return 0.0
        n_columns: int = p.overscan[1].stop - p.overscan[1].start
        factor: float = 1.0 if p.statistic is np.mean else np.pi / 2
        return factor * read_variance_adu2(detector) / n_columns

    def std(self, calibrated: Array, detector: Detector) -> Array | None:
        """Standard deviation of the calibrated image; see `kernels.arithmetic.propagate`.

        Parameters
        ----------
        calibrated : ndarray of float32
            All rows, as `read` gives them.
        detector : Detector
            The result is None where its gain or read noise is not known.
        """
        if not detector.noise_known:
            return None
        p = self.preparation
        out = np.empty_like(calibrated)
        arithmetic.propagate(
            calibrated,
            np.float32(read_variance_adu2(detector) + self.level_variance(detector)),
            np.float32(detector.gain_electron_per_adu),
            _std(p.bias),
            np.float32(p.bias_factor),
            _data(p.dark),
            _std(p.dark),
            p.dark_scale,
            p.dark is not None and not p.dark.lost_bias,
            _data(p.flat),
            _std(p.flat),
            out,
        )
        return out


def _data(master: Master | None) -> Array:
    return _NO_IMAGE if master is None else master.data


def _std(master: Master | None) -> Array:
    return _NO_IMAGE if master is None else master.std


def _band(master: Master | None, band: slice) -> Array:
    return _NO_IMAGE if master is None else master.data[band]
