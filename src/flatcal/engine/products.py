"""Making one output: a combined master, or one calibrated frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
from flatcal.io import RawFrame
from flatcal.kernels.arithmetic import average_std
from flatcal.kernels.combine import combine_clipped
from flatcal.kernels.stats import median_of_good
from flatcal.plan import FramePlan, MasterPlan, Step
from flatcal.projection import Stage
from flatcal.recipe import Config

Array = NDArray[Any]
ReadBand = Callable[[int, int, Array, Array], None]


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


@dataclass(frozen=True, slots=True)
class Stack:
    """An average with what is known of each pixel.

    Attributes
    ----------
    data : ndarray of float32 or float64
        The average.
    error : ndarray
        Standard error from the scatter of the values kept; NaN below two values.
    n_used : ndarray of int32
        Values kept.
    flags : ndarray of uint8
        NO_INPUT where no value was good.
    """

    data: Array
    error: Array
    n_used: Array
    flags: Array


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
        preparation = readers[0].preparation
        result = opened.enter_context(
            _combine_bands(
                [reader.read for reader in readers], np.ones(len(readers)), preparation.shape,
                setting, frame_noise(detector), stage,
            )
        )  # fmt: skip
        if not detector.noise_known:
            return _scatter_planes(result, len(frames), setting)
        bias = preparation.bias
        variance = frame_variance(
            detector, shot=bias is not None, level_variance=readers[0].level_variance(detector)
        )
        return _model_planes(result, variance, setting, stage, bias)


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
        result = opened.enter_context(
            _combine_bands(
                [reader.read for reader in readers], 1 / levels, readers[0].preparation.shape,
                setting, flat_noise(levels, detector), stage,
            )
        )  # fmt: skip
        norm = setting.dtype.type(median_of_good(result.data, result.flags))
        result.data[:] /= norm
        no_input = result.flags != 0
        result.data[no_input] = 1
        result.flags[result.data <= 0] |= np.uint8(Flag.FLAT_INVALID)
        if detector.noise_known:
            return _model_planes(result, flat_variance(levels, detector), setting, stage)
        result.error[:] /= norm
        return _scatter_planes(result, len(frames), setting)


def _model_planes(
    stack: Stack, variance: Variance, setting: Setting, stage: Stage, common: Master | None = None
) -> Planes:
    """Planes with the uncertainty of the noise model, if any is wanted."""
    if not setting.config.output.uncertainty:
        return Planes(stack.data, None, stack.flags)
    std = np.empty_like(stack.data)
    kind = setting.dtype.type
    none = np.empty((0, 0), setting.dtype)
    common_std = none if common is None else common.std

    def fill(band: slice) -> None:
        average_std(
            stack.data[band], stack.n_used[band], kind(variance.photon), kind(variance.read),
            common_std[band] if common_std.size else none, std[band],
        )  # fmt: skip

    rows, columns = stack.data.shape
    setting.workers.run_bands(rows, columns * 8 * setting.dtype.itemsize, stage, fill)
    return Planes(stack.data, std, stack.flags)


def _scatter_planes(stack: Stack, n_frames: int, setting: Setting) -> Planes:
    """Planes with the uncertainty from the scatter of the frames, if any is wanted."""
    std = _fill_error(stack.error, n_frames) if setting.config.output.uncertainty else None
    return Planes(stack.data, std, stack.flags, "scatter of the frames")


@contextmanager
def _combine_bands(
    reads: Sequence[ReadBand],
    scales: Array,
    shape: tuple[int, int],
    setting: Setting,
    least_std: float,
    stage: Stage,
) -> Iterator[Stack]:
    """Combine frames in bands of rows, several bands at once.

    Parameters
    ----------
    reads : sequence of callable
        Each reads rows of one frame: ``read(start, stop, out, flags)``.
    scales : ndarray, shape (n_frames,)
        Factor of each frame.
    shape : tuple of int
        Rows and columns.
    setting : Setting
        Rejection thresholds, type and threads.
    least_std : float
        Noise that every scaled value has, at the least.
    stage : Stage
        Memory for the bands.

    Yields
    ------
    Stack
        A pixel without a good input has the plain average of the bad ones and NO_INPUT. Error
        and counts can be used within the context only.
    """
    n, (rows, columns) = len(reads), shape
    kind, lend = setting.dtype.type, setting.buffers.lend
    data = np.empty(shape, kind)
    flags = np.zeros(shape, np.uint8)
    factors = np.asarray(scales, kind)
    low, high = kind(setting.config.combine.low_sigma), kind(setting.config.combine.high_sigma)

    def combine(band: slice) -> None:
        block = (n, band.stop - band.start, columns)
        with lend(block, kind) as stack, lend(block, np.uint8) as bad:
            for read, values, its_flags in zip(reads, stack, bad, strict=True):
                read(band.start, band.stop, values, its_flags)
            combine_clipped(
                stack.reshape(n, -1), bad.reshape(n, -1), factors, low, high, kind(least_std),
                data[band].reshape(-1), error[band].reshape(-1), n_used[band].reshape(-1),
            )  # fmt: skip
            empty = n_used[band] == 0
            if empty.any():
                data[band][empty] = (stack[:, empty] * factors[:, None]).mean(axis=0)
                flags[band][empty] = Flag.NO_INPUT

    # Each band writes its own rows only, so the result does not depend on their order.
    row_bytes = n * columns * (kind().itemsize + 1)
    with lend(shape, kind) as error, lend(shape, np.int32) as n_used:
        setting.workers.run_bands(rows, row_bytes, stage, combine)
        yield Stack(data, error, n_used, flags)


def _fill_error(error: Array, n_frames: int) -> Array | None:
    """Standard errors, with that of a single typical value where fewer than two were kept."""
    if n_frames < 2:
        return None
    error = error.copy()
    unknown = ~np.isfinite(error)
    if unknown.any():
        error[unknown] = median_of_good(error) * np.sqrt(n_frames)
    return error
