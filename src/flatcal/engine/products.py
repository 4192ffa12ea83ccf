"""Making one output: a combined master, or one calibrated frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.buffers import Buffers
from flatcal.engine.masters import CalibratedFrame, Master, prepare
from flatcal.engine.noise import (
    Variance,
    flat_noise,
    flat_variance,
    frame_noise,
    frame_variance,
)
from flatcal.engine.workers import Workers
from flatcal.flags import Flag
from flatcal.frame import Detector
from flatcal.io import RawFrame
from flatcal.kernels.arithmetic import average_std
from flatcal.kernels.combine import combine_clipped
from flatcal.kernels.stats import RunningMedian, median_of_good
from flatcal.plan import FramePlan, MasterPlan, Step
from flatcal.projection import Stage, median_room
from flatcal.recipe import Config

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What all products of a run have in common.

    Attributes
    ----------
    raw_folder : Path
        The raw folder.
    config : Config
        Settings.
    masters : callable
        Gives a master by its name.
    workers : Workers
        Threads and their memory.
    buffers : Buffers
        Memory for what is not kept.
    """

    raw_folder: Path
    config: Config
    masters: Callable[[str], Master]
    workers: Workers
    buffers: Buffers

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the calculation."""
        return np.dtype(self.config.output.dtype)


@dataclass(frozen=True, slots=True)
class Planes:
    """The planes of an output.

    Attributes
    ----------
    data : ndarray of float32 or float64
        Values.
    std : ndarray or None
        Standard deviation, in the type of the data.
    flags : ndarray of uint8
        Flags.
    std_source : str
        What the standard deviation comes from.
    """

    data: Array
    std: Array | None
    flags: Array
    std_source: str = "noise model"


@dataclass(frozen=True, slots=True)
class Found:
    """What is found out about an output while it is made, and what its header tells.

    Attributes
    ----------
    median_adu : float or None
        Median of its good pixels, rounded so that a header holds it exactly: a later run reads
        the same level from there. None without any good pixel.
    n_flagged : int
        Pixels that are not good.
    std_source : str or None
        What the uncertainty comes from; None without one.
    refined_scale : float or None
        Factor of its dark, where it was refined on hot pixels; rounded alike.
    """

    median_adu: float | None
    n_flagged: int
    std_source: str | None
    refined_scale: float | None = None


def find_of(planes: Planes) -> Found:
    """What there is to tell of planes that are whole in memory."""
    return Found(
        _rounded(median_of_good(planes.data, planes.flags)),
        int(np.count_nonzero(planes.flags)),
        None if planes.std is None else planes.std_source,
    )


def _rounded(value: float) -> float | None:
    """As a header holds it exactly; None for NaN."""
    return float(np.float32(value)) if math.isfinite(value) else None


# Takes the next rows of an output: values, standard deviation (or None) and flags, which are
# lent for the time of the call.
Take = Callable[[Array, Array | None, Array], None]


def calibrate_frame(
    raw: RawFrame, setting: Setting, plan: FramePlan, *, with_std: bool, hashed: bool, take: Take
) -> Found:
    """Calibrate one frame in bands of rows, each from raw pixels to the end while it is in cache.

    Parameters
    ----------
    raw : RawFrame
        The open frame.
    setting : Setting
        Masters and memory.
    plan : FramePlan
        Its steps.
    with_std : bool
        Whether the standard deviation is wanted, where gain and read noise are known.
    hashed : bool
        Whether the file is to be hashed in the same pass.
    take : callable
        Receives the bands in order.
    """
    detector, lend = plan.detector, setting.buffers.lend
    assert detector is not None
    with_std = with_std and detector.noise_known
    frame = _calibrated(raw, setting, plan, plan.steps)
    rows, columns = frame.preparation.shape
    refine = frame.preparation.refine
    if refine:
        _refine(frame, setting)
    n_flagged = 0
    with ExitStack() as stack:
        height = min(rows, frame.band_rows)
        data = stack.enter_context(lend((height, columns), setting.dtype))
        flags = stack.enter_context(lend((height, columns), np.uint8))
        std = stack.enter_context(lend((height, columns), setting.dtype)) if with_std else None
        running = None
        if height < rows:
            inside = stack.enter_context(lend((median_room(rows * columns),), setting.dtype))
            running = RunningMedian.for_rows(*frame.read_sample(), inside)
        if hashed:
            raw.hash_while_reading()
        for band in frame.bands(0, rows):
            n = band.stop - band.start
            frame.read(band.start, band.stop, data[:n], flags[:n])
            if std is not None:
                frame.propagate(band, data[:n], detector, std[:n])
            if running is not None:
                running.add(data[:n], flags[:n])
            n_flagged += int(np.count_nonzero(flags[:n]))
            take(data[:n], None if std is None else std[:n], flags[:n])
        median = median_of_good(data, flags) if running is None else running.find()
    if median is None:  # the sample has deceived
        with _whole(frame, setting) as planes:
            median = median_of_good(*planes)
    return Found(
        _rounded(median),
        n_flagged,
        "noise model" if with_std else None,
        _rounded(float(frame.preparation.dark_scale)) if refine else None,
    )


def _refine(frame: CalibratedFrame, setting: Setting) -> None:
    with _whole(frame, setting) as planes:
        frame.refine(*planes)


@contextmanager
def _whole(frame: CalibratedFrame, setting: Setting) -> Iterator[tuple[Array, Array]]:
    """All calibrated values and flags of a frame, for the few ends that need them at once."""
    shape, lend = frame.preparation.shape, setting.buffers.lend
    with lend(shape, setting.dtype) as data, lend(shape, np.uint8) as flags:
        frame.read(0, shape[0], data, flags)
        yield data, flags


def _calibrated(
    raw: RawFrame,
    setting: Setting,
    plan: FramePlan,
    steps: Sequence[Step],
    refined_scale: float | None = None,
) -> CalibratedFrame:
    assert plan.shape is not None
    assert plan.detector is not None
    preparation = prepare(steps, plan.shape, setting.masters, setting.dtype, refined_scale)
    return CalibratedFrame(raw, preparation, plan.detector.saturation_adu)


def open_raw(setting: Setting, plan: FramePlan) -> RawFrame:
    """The raw file of a frame, open."""
    assert plan.storage is not None
    assert plan.shape is not None
    return RawFrame(setting.raw_folder / plan.file, plan.storage, plan.shape)


@contextmanager
def _open_calibrated(
    setting: Setting, plan: FramePlan, steps: Sequence[Step], refined_scale: float | None = None
) -> Iterator[CalibratedFrame]:
    with open_raw(setting, plan) as raw:
        yield _calibrated(raw, setting, plan, steps, refined_scale)


def combine_raw(setting: Setting, master: MasterPlan, frames: Sequence[FramePlan]) -> Planes:
    """Combine raw bias or dark frames, each calibrated by the steps of the master as it is read."""
    detector = frames[0].detector
    assert detector is not None
    stage = setting.workers.stage(master.name)
    with ExitStack() as opened:
        readers = [
            opened.enter_context(_open_calibrated(setting, frame, master.steps)) for frame in frames
        ]
        bias = readers[0].preparation.bias
        planes = _empty_planes(readers[0].preparation.shape, setting, detector)
        finish = partial(_keep_error, planes)
        if detector.noise_known:
            variance = frame_variance(
                detector, shot=bias is not None, level_variance=readers[0].level_variance(detector)
            )
            finish = partial(_fill_std, planes, variance, None if bias is None else bias.std)
        ones = np.ones(len(readers))
        combine_bands(readers, ones, frame_noise(detector), planes, setting, stage, finish)
    return planes if detector.noise_known else _fill_unknown(planes, len(frames))


def combine_flats(
    setting: Setting, master: MasterPlan, frames: Sequence[FramePlan], flats: Sequence[Found]
) -> Planes:
    """Combine raw flats, each calibrated as it is read and divided by its median.

    The master flat has a median of 1.
    """
    detector = frames[0].detector
    assert detector is not None
    levels = np.asarray([flat.median_adu for flat in flats], np.float64)
    stage = setting.workers.stage(master.name)
    with ExitStack() as opened:
        readers = [
            opened.enter_context(_open_calibrated(setting, frame, frame.steps, flat.refined_scale))
            for frame, flat in zip(frames, flats, strict=True)
        ]
        shape = readers[0].preparation.shape
        planes = _empty_planes(shape, setting, detector)
        counts = opened.enter_context(setting.buffers.lend(shape, np.uint16))
        finish = partial(_keep_counts, counts)
        if not detector.noise_known:
            finish = partial(_keep_error, planes)
        least_std = flat_noise(levels, detector)
        combine_bands(readers, 1 / levels, least_std, planes, setting, stage, finish)
        norm = setting.dtype.type(median_of_good(planes.data, planes.flags))
        planes.data[:] /= norm
        planes.data[planes.flags != 0] = 1
        planes.flags[planes.data <= 0] |= np.uint8(Flag.FLAT_INVALID)
        if detector.noise_known:
            variance = flat_variance(levels, detector)

            def fill(band: slice) -> None:
                _fill_std(planes, variance, None, band, None, counts[band].astype(np.int32))

            setting.workers.run_bands(*shape, stage, fill)
            return planes
    if planes.std is not None:
        planes.std[:] /= norm
    return _fill_unknown(planes, len(frames))


def _empty_planes(shape: tuple[int, int], setting: Setting, detector: Detector) -> Planes:
    """Planes to be filled, with an uncertainty if one is wanted."""
    return Planes(
        np.empty(shape, setting.dtype),
        np.empty(shape, setting.dtype) if setting.config.output.uncertainty else None,
        np.zeros(shape, np.uint8),
        "noise model" if detector.noise_known else "scatter of the frames",
    )


# What is done with a band when it has been combined: receives its rows, the standard error from
# the scatter of the values kept, and how many were kept.
Finish = Callable[[slice, Array, Array], None]


def _fill_std(
    planes: Planes,
    variance: Variance,
    common_std: Array | None,
    band: slice,
    _error: Array | None,
    n_used: Array,
) -> None:
    """The uncertainty of the noise model, which tells more than the scatter of a few values."""
    if planes.std is None:
        return
    kind = planes.data.dtype.type
    none = np.empty((0, 0), kind)
    average_std(
        planes.data[band], n_used, kind(variance.photon), kind(variance.read),
        none if common_std is None or not common_std.size else common_std[band], planes.std[band],
    )  # fmt: skip


def _keep_error(planes: Planes, band: slice, error: Array, _n_used: Array) -> None:
    if planes.std is not None:
        planes.std[band] = error


def _keep_counts(counts: Array, band: slice, _error: Array, n_used: Array) -> None:
    counts[band] = n_used


def combine_bands(
    readers: Sequence[CalibratedFrame],
    scales: Array,
    least_std: float,
    planes: Planes,
    setting: Setting,
    stage: Stage,
    finish: Finish,
) -> None:
    """Combine frames in bands of rows, several bands at once.

    Parameters
    ----------
    readers : sequence of CalibratedFrame
        The frames.
    scales : ndarray, shape (n_frames,)
        Factor of each frame.
    least_std : float
        Noise that every scaled value has, at the least.
    planes : Planes
        Receive the average, and NO_INPUT where no value was good: the average there is that of
        the bad ones.
    setting : Setting
        Rejection thresholds, type, threads and memory.
    stage : Stage
        Memory for the bands.
    finish : callable
        Called for each band when it has been combined.
    """
    n, (rows, columns) = len(readers), planes.data.shape
    kind, lend = setting.dtype.type, setting.buffers.lend
    factors = np.asarray(scales, kind)
    low, high = kind(setting.config.combine.low_sigma), kind(setting.config.combine.high_sigma)

    def combine(band: slice) -> None:
        height = band.stop - band.start
        with ExitStack() as lent:
            stack = lent.enter_context(lend((n, height, columns), kind))
            bad = lent.enter_context(lend((n, height, columns), np.uint8))
            error = lent.enter_context(lend((height, columns), kind))
            n_used = lent.enter_context(lend((height, columns), np.int32))
            for reader, values, its_flags in zip(readers, stack, bad, strict=True):
                reader.read(band.start, band.stop, values, its_flags)
            average = planes.data[band]
            combine_clipped(
                stack.reshape(n, -1), bad.reshape(n, -1), factors, low, high, kind(least_std),
                average.reshape(-1), error.reshape(-1), n_used.reshape(-1),
            )  # fmt: skip
            empty = n_used == 0
            if empty.any():
                average[empty] = (stack[:, empty] * factors[:, None]).mean(axis=0)
                planes.flags[band][empty] = Flag.NO_INPUT
            finish(band, error, n_used)

    # Each band writes its own rows only, so the result does not depend on their order.
    row_bytes = columns * (n * (kind().itemsize + 1) + kind().itemsize + 4)
    setting.workers.run_bands(rows, row_bytes, stage, combine)


def _fill_unknown(planes: Planes, n_frames: int) -> Planes:
    """Planes whose uncertainty is the scatter of the frames; none of a single frame.

    Where fewer than two values were kept it is that of a single typical value.
    """
    if planes.std is None or n_frames < 2:
        return replace(planes, std=None)
    unknown = ~np.isfinite(planes.std)
    if unknown.any():
        planes.std[unknown] = median_of_good(planes.std) * np.sqrt(n_frames)
    return planes
