"""Frames that are calibrated as they are read, in bands of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.buffers import Buffers
from flatcal.engine.hot_pixels import refine_scale
from flatcal.engine.masters import Master
from flatcal.engine.noise import read_variance_adu2
from flatcal.engine.preparation import Preparation
from flatcal.engine.regions import Region, contiguous, levels_of_regions, shifted
from flatcal.flags import INHERITED, Flag
from flatcal.frame import Detector
from flatcal.kernels import arithmetic
from flatcal.kernels.linearity import stretch_std
from flatcal.levels import Levels
from flatcal.nonlinearity import Correction, load_correction
from flatcal.projection import READ_PIXELS
from flatcal.raw_frame import RawFrame, decode
from flatcal.section import Section

Array = NDArray[Any]

_NO_FLAGS = np.empty((0, 0), np.uint16)
_NO_PIXELS = np.empty((0, 0), np.uint16)

# Rows that are looked at before a frame is calibrated, for a first idea of its level.
_SAMPLE_ROWS = 32


def sampled_rows(n_rows: int) -> range:
    """The rows that `CalibratedFrame.read_sample` reads of so many."""
    step = max(1, n_rows // _SAMPLE_ROWS)
    return range(step // 2, n_rows, step)


class CalibratedFrame:
    """A raw frame that is calibrated as it is read, band by band.

    Parameters
    ----------
    raw : RawFrame
        Open.
    preparation : Preparation
        The steps.
    buffers : Buffers
        Lend memory for flags that are not kept.
    """

    def __init__(self, raw: RawFrame, preparation: Preparation, buffers: Buffers) -> None:
        self.raw = raw
        self._buffers = buffers
        self.preparation = preparation
        self._lock = Lock()
        self._all_levels: dict[int, Levels] = {}
        self._corrections: dict[int, Correction] = {}
        if preparation.linearise:
            for region in preparation.regions:
                detector = region.detector
                assert detector.linearity is not None
                correction = load_correction(detector.linearity, detector.saturation_adu)
                self._corrections[id(region)] = correction

    @property
    def band_rows(self) -> int:
        """Rows that are best read at once: all of a file that has to be unpacked for them."""
        if not self.raw.is_plain:
            return self.preparation.shape[0]
        return max(1, READ_PIXELS // self.raw.shape[1])

    def bands(self, start: int, stop: int) -> Iterator[slice]:
        """Bands of so many rows, from the first to the last of some rows."""
        for first in range(start, stop, self.band_rows):
            yield slice(first, min(first + self.band_rows, stop))

    def read_sample(self) -> tuple[Array, Array]:
        """Calibrated values of some rows from all over the frame, and which of them are bad.

        What lies beside a saturated pixel is not bad here.
        """
        rows, columns = self.preparation.shape
        chosen = sampled_rows(rows)
        values = np.empty((len(chosen), columns), self.preparation.dtype)
        bad = np.empty(values.shape, np.uint8)
        self._read_bad(slice(chosen.start, chosen.stop, chosen.step), values, bad, Flag.BLED)
        return values, bad

    def read(self, start: int, stop: int, out: Array, flags: Array) -> None:
        """Calibrated values and flags of some rows.

        Parameters
        ----------
        start, stop : int
            Rows of the image that is kept.
        out : ndarray, shape (stop - start, columns)
            Receives the values.
        flags : ndarray of uint16, same shape
            Receives the flags.
        """
        for band in self.bands(start, stop):
            place = slice(band.start - start, band.stop - start)
            self._read_band(band, out[place], flags[place])
            self._flag_bled(band, flags[place])

    def read_bad(self, start: int, stop: int, out: Array, bad: Array, ignored: int = 0) -> None:
        """Calibrated values of some rows, and which of them are bad.

        Parameters
        ----------
        start, stop : int
            Rows of the image that is kept.
        out : ndarray, shape (stop - start, columns)
            Receives the values.
        bad : ndarray of uint8, same shape
            Receives 1 where a pixel is flagged.
        ignored : int
            Bits that do not matter.
        """
        for band in self.bands(start, stop):
            place = slice(band.start - start, band.stop - start)
            self._read_bad(band, out[place], bad[place], ignored)

    def _read_bad(self, band: slice, out: Array, bad: Array, ignored: int) -> None:
        """See `read_bad`; the rows may lie apart, as the step of `band` says."""
        with self._buffers.lend(out.shape, np.uint16) as flags:
            self._read_band(band, out, flags)
            if not ignored & Flag.BLED:  # its neighbours need not be read
                self._flag_bled(band, flags)
            arithmetic.mark_bad(flags, np.uint16(~ignored & 0xFFFF), bad)

    def inherited(self) -> Iterator[Array]:
        """Flags of what it is calibrated with, of which those of the detector are its own too."""
        for master in (self.preparation.bias, self.preparation.dark, self.preparation.flat):
            if master is not None and master.flags.size:
                yield master.flags
        if self.preparation.marked.size:
            yield self.preparation.marked * np.uint16(Flag.USER)

    def _read_band(self, band: slice, out: Array, flags: Array) -> None:
        """Calibrate some rows, which may lie apart, as the step of `band` says."""
        p = self.preparation
        rows, pixels = slice(0, 0), _NO_PIXELS
        for region in p.regions:
            section = region.within(band)
            if section is None:
                continue
            # Amplifiers beside one another share their rows.
            if region.raw_rows(section[0]) != rows:
                rows = region.raw_rows(section[0])
                pixels = self._read_rows(rows)
            place = shifted(section, band.start)
            with contiguous(out[place]) as its_out, contiguous(flags[place]) as its_flags:
                self._read_region(region, section, pixels, its_out, its_flags)
        for master, flag in (
            (p.bias, Flag.MASTER_BAD),
            (p.dark, Flag.MASTER_BAD),
            (p.flat, Flag.FLAT_INVALID),
        ):
            if master is not None and master.flags.size:
                arithmetic.inherit_flags(
                    flags, master.flags[band], np.uint16(INHERITED), np.uint16(flag)
                )
        if p.marked.size:
            flags[p.marked[band]] |= np.uint16(Flag.USER)

    def _read_rows(self, rows: slice) -> Array:
        """Whole raw rows, as they are stored where that is plain."""
        if rows.step is not None:  # rows apart are read one by one
            each = range(rows.start, rows.stop, rows.step)
            return np.concatenate([self._read_rows(slice(row, row + 1)) for row in each])
        p = self.preparation
        if self.raw.is_plain:
            return self.raw.stored_rows(rows)
        has_overscan = p.regions[0].overscan is not None
        whole = slice(0, self.raw.shape[1])
        return self.raw.values(rows, whole, np.float64 if has_overscan else p.dtype)

    def _read_region(
        self, region: Region, section: Section, pixels: Array, out: Array, flags: Array
    ) -> None:
        """Calibrate a section of the image, which one amplifier has read, from its raw rows."""
        p = self.preparation
        limits = _limits(region.detector, p.dtype)
        steps = (
            self._level(region, section[0], pixels),
            _cut(p.bias, section, p.dtype),
            _cut(p.dark, section, p.dtype),
            p.dark_scale,
            _cut(p.flat, section, p.dtype),
        )
        if self.raw.is_plain and p.parallel is None and not p.linearise:
            arithmetic.calibrate_uint16(pixels, region.raw[1].start, *steps, *limits, out, flags)
            return
        self._decode(region, pixels, out)
        arithmetic.flag_image(out, *limits, steps[-1], flags)
        self._calibrate_in_turn(region, out, flags, *steps)

    def _decode(self, region: Region, pixels: Array, out: Array) -> None:
        """Raw values of what one amplifier has read, from whole raw rows."""
        first = region.raw[1].start
        if self.raw.is_plain:
            none = out.dtype.type(np.inf)
            arithmetic.calibrate_uint16(
                pixels, first, *_no_steps(out.dtype), none, none, out, _NO_FLAGS
            )
        else:
            out[:] = pixels[:, region.raw[1]]

    def _calibrate_in_turn(
        self, region: Region, out: Array, flags: Array, level: Array, bias: Array, *others: Any
    ) -> None:
        """Calibrate rows to which more is done than the kernel knows, while they are in cache."""
        no_level, no_plane, *nothing = _no_steps(out.dtype)
        if self.preparation.parallel is not None:
            arithmetic.calibrate(out, level, no_plane, *nothing)
            out -= np.asarray(self._levels(region).columns, out.dtype)
            level = no_level
        if self.preparation.linearise:
            arithmetic.calibrate(out, level, bias, *nothing)
            self._corrections[id(region)].apply(out, flags)
            level, bias = no_level, no_plane
        arithmetic.calibrate(out, level, bias, *others)

    def _flag_bled(self, band: slice, flags: Array) -> None:
        """Flag the neighbours of saturated pixels, also of those in the rows beside the band."""
        above, below = self._saturated(band.start - 1), self._saturated(band.stop)
        if above is None and below is None and not arithmetic.any_bit(flags) & Flag.SATURATED:
            return
        none = np.zeros(flags.shape[1], np.uint16)
        arithmetic.flag_bled(
            flags, none if above is None else above, none if below is None else below
        )

    def _saturated(self, row: int) -> Array | None:
        """SATURATED in a row of the image that is kept, or in the raw rows at its ends.

        None where nowhere.
        """
        n_rows, n_columns = self.preparation.shape
        nearest = min(max(row, 0), n_rows - 1)
        found = None
        for region in self.preparation.regions:
            limit = _limits(region.detector, self.preparation.dtype)[1]
            place = region.raw_rows(slice(row, row)).start
            is_there = 0 <= place < self.raw.shape[0]
            if is_there and region.within(slice(nearest, nearest + 1)) and limit < np.inf:
                columns = region.place[1]
                values = np.empty((1, columns.stop - columns.start), self.preparation.dtype)
                self._decode(region, self.raw.look_at_row(place), values)
                saturated = values[0] >= limit
                if saturated.any():
                    found = np.zeros(n_columns, np.uint16) if found is None else found
                    found[columns] = saturated * np.uint16(Flag.SATURATED)
        return found

    def _level(self, region: Region, rows: slice, pixels: Array) -> Array:
        """Overscan level of some rows of the image that is kept, from the raw rows as stored."""
        dtype, overscan = self.preparation.dtype, self.preparation.overscan_of(region)
        if overscan.columns is None:
            return np.empty(0, dtype)
        if overscan.needs_all:
            first = region.place[0].start
            found = self._levels(region).rows[rows.start - first : rows.stop - first : rows.step]
            return np.asarray(found, dtype)
        beside = pixels[:, overscan.columns]
        if self.raw.is_plain:
            beside = decode(beside, np.float64)
        return np.asarray(overscan.row_levels(beside, _limits(region.detector, dtype)[1]), dtype)

    def _levels(self, region: Region) -> Levels:
        """Levels that need all of the overscan; whichever band comes first has it read."""
        p = self.preparation
        with self._lock:
            if id(region) not in self._all_levels:
                saturation = _limits(region.detector, p.dtype)[1]
                self._all_levels[id(region)] = p.overscan_of(region).read(self.raw, saturation)
            return self._all_levels[id(region)]

    def refine(self, data: Array, flags: Array) -> None:
        """Refine the factor of the dark on the hot pixels, where the plan says so.

        Parameters
        ----------
        data : ndarray
            All rows, as `read` gives them; they are still those of the factor before.
        flags : ndarray of uint8
            Not 0 where they are bad.
        """
        p = self.preparation
        if not p.refine or p.dark is None:
            return
        flat = None if p.flat is None else p.flat.data
        correction = p.dtype.type(refine_scale(data, flags, p.dark.data, flat))
        self.preparation = replace(p, dark_scale=p.dark_scale + correction, refine=False)

    def level_variance(self, region: Region) -> float:
        """Variance in ADU squared of the overscan level of a pixel; 0 without an overscan."""
        return self.preparation.overscan_of(region).variance(read_variance_adu2(region.detector))

    def slopes_at(self, region: Region, levels: Array) -> Array:
        """How much the correction of linearity stretches counts at these levels."""
        correction = self._corrections.get(id(region))
        return np.ones_like(levels) if correction is None else correction.slope_at(levels)

    def propagate(self, band: slice, calibrated: Array, out: Array) -> None:
        """Standard deviation of calibrated rows; see `kernels.arithmetic.propagate`.

        Gain and read noise must be known.

        Parameters
        ----------
        band : slice
            The rows.
        calibrated : ndarray
            Their values, as `read` gives them.
        out : ndarray
            Receives the standard deviation.
        """
        regions = self.preparation.regions
        for region, zero in zip(regions, self._dark_zeros, strict=True):
            section = region.within(band)
            if section is not None:
                place = shifted(section, band.start)
                values = np.ascontiguousarray(calibrated[place])
                with contiguous(out[place]) as its_out:
                    self._propagate_region(region, zero, section, values, its_out)

    @cached_property
    def _dark_zeros(self) -> tuple[float, ...]:
        """Value of the dark without current, for each region."""
        dark, regions = self.preparation.dark, self.preparation.regions
        if dark is None or dark.lost_bias:
            return (0.0 if dark is None else dark.zero,) * len(regions)
        rows = np.array(sampled_rows(self.preparation.shape[0]))
        levels = levels_of_regions(dark.data[rows], rows, regions)
        return tuple(dark.zero + level for level in levels)

    def _propagate_region(
        self, region: Region, zero: float, section: Section, calibrated: Array, out: Array
    ) -> None:
        p, detector = self.preparation, region.detector
        kind = p.dtype.type
        read_variance = kind(read_variance_adu2(detector) + self.level_variance(region))
        bias = _cut_std(p.bias, section, p.dtype), kind(p.bias_factor)
        dark, flat = _cut(p.dark, section, p.dtype), _cut(p.flat, section, p.dtype)
        arithmetic.propagate(
            calibrated,
            read_variance,
            kind(detector.gain_electron_per_adu),
            *bias,
            dark,
            _cut_std(p.dark, section, p.dtype),
            p.dark_scale,
            kind(zero),
            flat,
            _cut_std(p.flat, section, p.dtype),
            out,
        )
        if p.linearise:
            slopes = self._corrections[id(region)].even_slopes
            stretch_std(
                out, calibrated, dark, p.dark_scale, flat, read_variance, *bias,
                slopes.values.astype(p.dtype), kind(slopes.first), kind(slopes.per_adu),
            )  # fmt: skip


def _no_steps(dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """The steps that kernels take, none of which does anything."""
    no_plane = np.empty((0, 0), dtype)
    return np.empty(0, dtype), no_plane, no_plane, dtype.type(1), no_plane


def _limits(detector: Detector, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Where an amplifier is no longer linear, and where it saturates; infinity for nowhere."""
    with np.errstate(over="ignore"):  # what the type cannot hold no pixel reaches
        linear, saturation = (
            dtype.type(np.inf if limit is None else limit)
            for limit in (detector.linear_to_adu, detector.saturation_adu)
        )
    return linear, saturation


def _cut(master: Master | None, section: Section, dtype: np.dtype[Any]) -> Array:
    """A section of a master, without a copy where that is whole rows."""
    if master is None:
        return np.empty((0, 0), dtype)
    return np.ascontiguousarray(master.data[section])


def _cut_std(master: Master | None, section: Section, dtype: np.dtype[Any]) -> Array:
    if master is None or not master.std.size:
        return np.empty((0, 0), dtype)
    return np.ascontiguousarray(master.std[section])
