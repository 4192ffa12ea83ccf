"""Making one output: a combined master, or one calibrated frame."""

from __future__ import annotations

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
from flatcal.kernels.stats import median_of_good
from flatcal.plan import FramePlan, MasterPlan, Step
from flatcal.projection import Stage
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
    refined_scale : float or None
        Factor of the dark, where it was refined on hot pixels.
    """

    data: Array
    std: Array | None
    flags: Array
    std_source: str = "noise model"
    refined_scale: float | None = None


@dataclass(frozen=True, slots=True)
class FlatLevel:
    """What a master flat needs to know of a calibrated flat.

    Attributes
    ----------
    median_adu : float or None
        Median of its good pixels; None without any.
    refined_scale : float or None
        Factor of its dark, where it was refined.
    """

    median_adu: float | None
    refined_scale: float | None


@contextmanager
def calibrate_frame(setting: Setting, plan: FramePlan, *, with_std: bool) -> Iterator[Planes]:
    """Calibrate one frame; its planes can be used within the context only."""
    detector, lend = plan.detector, setting.buffers.lend
    assert detector is not None
    with ExitStack() as stack:
        frame = stack.enter_context(_open_calibrated(setting, plan, plan.steps))
        shape = frame.preparation.shape
        data = stack.enter_context(lend(shape, setting.dtype))
        flags = stack.enter_context(lend(shape, np.uint8))
        frame.read(0, shape[0], data, flags)
        refine = frame.preparation.refine
        frame.refine(data, flags)
        std = None
        if with_std and detector.noise_known:
            std = stack.enter_context(lend(shape, setting.dtype))
            frame.propagate(data, detector, std)
        # Rounded so that a header holds it exactly.
        scale = float(np.float32(frame.preparation.dark_scale)) if refine else None
        yield Planes(data, std, flags, refined_scale=scale)


@contextmanager
def _open_calibrated(
    setting: Setting, plan: FramePlan, steps: Sequence[Step], refined_scale: float | None = None
) -> Iterator[CalibratedFrame]:
    assert plan.storage is not None
    assert plan.shape is not None
    assert plan.detector is not None
    with RawFrame(setting.raw_folder / plan.file, plan.storage, plan.shape) as raw:
        preparation = prepare(steps, plan.shape, setting.masters, setting.dtype, refined_scale)
        yield CalibratedFrame(raw, preparation, plan.detector.saturation_adu)


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
    setting: Setting, master: MasterPlan, frames: Sequence[FramePlan], flats: Sequence[FlatLevel]
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
