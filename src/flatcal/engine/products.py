"""Making one output: a combined master, or one calibrated frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.bands import Combining, Member, Stack, open_members
from flatcal.engine.defects import flag_dead, flag_flat_columns, flag_hot, flag_level_columns
from flatcal.engine.inherited import inherited_errors
from flatcal.engine.likeness import LEAST_FLATS, Likeness, compare_flats, sample_frames
from flatcal.engine.masters import CalibratedFrame
from flatcal.engine.noise import (
    Variance,
    flat_noise,
    flat_variances,
    flat_weights,
    frame_noise,
    frame_variance,
    mean_variance,
    model_noise,
    shares_of_variance,
)
from flatcal.engine.setting import Setting, calibrated
from flatcal.engine.stacking import Stacking
from flatcal.flags import INHERITED, Flag
from flatcal.frame import Detector, Kind
from flatcal.io import RawFrame
from flatcal.kernels.arithmetic import (
    add_error,
    average_std,
    inherit_flags,
    mark_bad,
    normalise_flat,
)
from flatcal.kernels.stats import RunningMedian, median_of_good
from flatcal.plan import FramePlan, MasterPlan
from flatcal.projection import median_room
from flatcal.rejection import require_some_left

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Planes:
    """The planes of an output.

    Attributes
    ----------
    data : ndarray of float32 or float64
        Values.
    std : ndarray or None
        Standard deviation, in the type of the data.
    flags : ndarray of uint16
        Flags.
    n_used : ndarray of uint16
        Frames whose value was kept.
    std_source : str
        What the standard deviation comes from.
    rejected : ndarray of float64, shape (n_frames,), or None
        Share of the pixels that were rejected in each frame of a master.
    likeness : Likeness or None
        Of a master flat, its flats against one another.
    """

    data: Array
    std: Array | None
    flags: Array
    n_used: Array
    std_source: str = "noise model"
    rejected: Array | None = None
    likeness: Likeness | None = None


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
    rejected : tuple of float or None
        Of a master, the share of the pixels of each input that was rejected.
    slopes, unlike : tuple of float or None
        Of a master flat; see `Likeness`.
    """

    median_adu: float | None
    n_flagged: int
    std_source: str | None
    refined_scale: float | None = None
    rejected: tuple[float, ...] | None = None
    slopes: tuple[float, ...] | None = None
    unlike: tuple[float, ...] | None = None


def find_of(planes: Planes) -> Found:
    """What there is to tell of planes that are whole in memory."""
    return Found(
        _rounded(median_of_good(planes.data, planes.flags != 0)),
        int(np.count_nonzero(planes.flags)),
        None if planes.std is None else planes.std_source,
        rejected=_tuple_of(planes.rejected),
        slopes=None if planes.likeness is None else _tuple_of(planes.likeness.slopes),
        unlike=None if planes.likeness is None else _tuple_of(planes.likeness.unlike),
    )


def _tuple_of(numbers: Array | None) -> tuple[float, ...] | None:
    return None if numbers is None else tuple(numbers.tolist())


def _rounded(value: float) -> float | None:
    """As a header holds it exactly; None for NaN."""
    return float(np.float32(value)) if math.isfinite(value) else None


# Takes the next rows of an output: values, standard deviation (or None), 1 where they are bad, and
# flags, which are lent for the time of the call.
Take = Callable[[Array, Array | None, Array, Array], None]


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
    frame = calibrated(raw, setting, plan, plan.steps)
    rows, columns = frame.preparation.shape
    refine = frame.preparation.refine
    if refine:
        _refine(frame, setting)
    n_flagged = 0
    with ExitStack() as stack:
        height = min(rows, frame.band_rows)
        data = stack.enter_context(lend((height, columns), setting.dtype))
        flags = stack.enter_context(lend((height, columns), np.uint16))
        bad = stack.enter_context(lend((height, columns), np.uint8))
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
            n_flagged += mark_bad(flags[:n], np.uint16(0xFFFF), bad[:n])
            if std is not None:
                frame.propagate(band, data[:n], detector, std[:n])
            if running is not None:
                running.add(data[:n], bad[:n])
            take(data[:n], None if std is None else std[:n], bad[:n], flags[:n])
        median = median_of_good(data, bad) if running is None else running.find()
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
    """All calibrated values of a frame, and which are bad, where they are needed at once."""
    shape, lend = frame.preparation.shape, setting.buffers.lend
    with lend(shape, setting.dtype) as data, lend(shape, np.uint8) as bad:
        frame.read_bad(0, shape[0], data, bad)
        yield data, bad


def combine_raw(
    setting: Setting,
    combining: Combining,
    master: MasterPlan,
    frames: Sequence[FramePlan],
    zero: float | None,
) -> Planes:
    """Combine raw bias or dark frames, each calibrated by the steps of the master as it is read.

    `zero` is the value of a dark without current; None takes the median of the first frame.
    """
    detector = frames[0].detector
    assert detector is not None
    n = len(frames)
    members = tuple(Member(frame, master.steps) for frame in frames)
    with open_members(members, setting) as readers:
        bias = readers[0].preparation.bias
        planes = _empty_planes(readers[0].preparation.shape, setting, detector)
        finish = partial(_keep_error, planes)
        ones, noise = np.ones(n), None
        if detector.noise_known:
            variance = frame_variance(
                detector,
                shot=master.kind is Kind.DARK,
                level_variance=readers[0].level_variance(detector),
            )
            if zero is None:
                values, flags = readers[0].read_sample()
                zero = float(median_of_good(values, flags != 0))
            shares = shares_of_variance(setting.config.combine.method, ones)
            finish = partial(
                _fill_std, planes, variance, shares, zero, None if bias is None else bias.std
            )
            # Where the bias is still there, hot pixels have photons all the same.
            photon = frame_variance(detector, shot=True, level_variance=0).photon
            terms = np.tile([photon, variance.read], (n, 1))
            if setting.config.combine.reject == "noise":
                pixels = sample_frames(readers, ones).pixels
                noise = model_noise(terms, ones, pixels, lost_bias=bias is not None)
        grow = setting.config.combine.grow_of(master.kind, by_noise=noise is not None)
        stacking = Stacking(setting.config.combine, ones, ones, noise, frame_noise(detector), grow)
        stack = Stack(master.name, members, stacking, planes.data.shape)
        planes = combine_bands(combining, stack, readers, planes, finish)
        _inherit(readers, planes.flags)
    if master.kind is Kind.DARK:
        flag_hot(planes.data, detector, planes.flags)
    flag_level_columns(planes.data, frame_noise(detector), planes.flags)
    return planes if detector.noise_known else _fill_unknown(planes, n)


def combine_flats(
    setting: Setting,
    combining: Combining,
    master: MasterPlan,
    frames: Sequence[FramePlan],
    flats: Sequence[Found],
) -> Planes:
    """Combine raw flats, each calibrated as it is read and divided by its median.

    The master flat has a median of 1.
    """
    detector, settings = frames[0].detector, setting.config.combine
    assert detector is not None
    levels = np.asarray([flat.median_adu for flat in flats], np.float64)
    weights = flat_weights(levels, detector) if settings.weights != "equal" else np.ones(len(flats))
    members = tuple(
        Member(frame, frame.steps, flat.refined_scale)
        for frame, flat in zip(frames, flats, strict=True)
    )
    with open_members(members, setting) as readers:
        shape = readers[0].preparation.shape
        planes = _empty_planes(shape, setting, detector)
        finish: Finish = partial(_keep_error, planes)
        noise = None
        by_noise = detector.noise_known and settings.reject == "noise"
        if by_noise or len(flats) >= LEAST_FLATS:
            sample = sample_frames(readers, 1 / levels)
            planes = replace(planes, likeness=compare_flats(sample.blocks))
        if detector.noise_known:
            finish = _leave_for_later
            level_variance = readers[0].level_variance(detector)
            terms = flat_variances(levels, detector, level_variance)
            if by_noise:
                noise = model_noise(terms, 1 / levels, sample.pixels, lost_bias=True)
        grow = settings.grow_of(Kind.FLAT, by_noise=by_noise)
        least = flat_noise(levels, detector)
        stacking = Stacking(settings, 1 / levels, weights, noise, least, grow)
        stack = Stack(master.name, members, stacking, shape)
        planes = combine_bands(combining, stack, readers, planes, finish)
        norm = setting.dtype.type(median_of_good(planes.data, planes.flags != 0))
        normalise_flat(planes.data, planes.flags, norm)
        _inherit(readers, planes.flags)
        flag_dead(planes.data, planes.flags)
        flag_flat_columns(planes.data, planes.flags)
        if detector.noise_known:
            variance = mean_variance(terms, weights)
            shares = shares_of_variance(settings.method, weights)
            factors = weights / levels / weights.sum()
            inherited = inherited_errors(setting.masters, frames, readers, factors)

            def fill(band: slice) -> None:
                n_used = planes.n_used[band].astype(np.int32)
                _fill_std(planes, variance, shares, 0.0, None, band, None, n_used)
                if planes.std is not None:
                    for std, factor in inherited:
                        add_error(planes.std[band], std[band], factor)

            workers = combining.workers
            workers.run_bands(*shape, workers.stage(master.name), fill)
            return planes
    if planes.std is not None:
        planes.std[:] /= norm
    return _fill_unknown(planes, len(frames))


def _inherit(readers: Sequence[CalibratedFrame], flags: Array) -> None:
    """Flag the defects of the detector that the masters of some frames have."""
    seen: set[int] = set()
    for reader in readers:
        for its in reader.inherited():
            if id(its) not in seen:
                inherit_flags(flags, its, np.uint16(INHERITED), np.uint16(0))
                seen.add(id(its))


def _empty_planes(shape: tuple[int, int], setting: Setting, detector: Detector) -> Planes:
    """Planes to be filled, with an uncertainty if one is wanted."""
    return Planes(
        np.empty(shape, setting.dtype),
        np.empty(shape, setting.dtype) if setting.config.output.uncertainty else None,
        np.zeros(shape, np.uint16),
        np.empty(shape, np.uint16),
        "noise model" if detector.noise_known else "scatter of the frames",
    )


# What is done with a band when it has been combined: receives its rows, the standard error from
# the scatter of the values kept, and how many were kept.
Finish = Callable[[slice, Array, Array], None]


def _fill_std(
    planes: Planes,
    variance: Variance,
    shares: Array,
    zero: float,
    common_std: Array | None,
    band: slice,
    _error: Array | None,
    n_used: Array,
) -> None:
    """The uncertainty of the noise model, which tells more than the scatter of a few values."""
    if planes.std is None:
        return
    kind = planes.data.dtype.type
    common = np.empty((0, 0), kind)
    if common_std is not None and common_std.size:
        common = common_std[band]
    average_std(
        planes.data[band], n_used, shares.astype(kind), kind(variance.photon), kind(variance.read),
        kind(zero), common, planes.std[band],
    )  # fmt: skip


def _keep_error(planes: Planes, band: slice, error: Array, _n_used: Array) -> None:
    if planes.std is not None:
        planes.std[band] = error


def _leave_for_later(_band: slice, _error: Array, _n_used: Array) -> None:
    """The uncertainty of a flat is worked out when its norm is known."""


def combine_bands(
    combining: Combining,
    stack: Stack,
    readers: Sequence[CalibratedFrame],
    planes: Planes,
    finish: Finish,
) -> Planes:
    """Combine frames in bands of rows, several bands at once.

    Parameters
    ----------
    combining : Combining
        Where the bands are worked on.
    stack : Stack
        The frames, and how they are combined.
    readers : sequence of CalibratedFrame
        The same, open.
    planes : Planes
        Receive the result, and NO_INPUT where no value was kept: the result there is the average
        of all.
    finish : callable
        Called for each band when it has been combined.

    Returns
    -------
    Planes
        The same, with the share of the pixels that were rejected in each frame.
    """
    require_some_left(stack.stacking.settings, stack.name, len(readers))
    rejected: list[Array] = []

    def receive(band: slice, error: Array, n_used: Array, its_rejected: Array) -> None:
        planes.n_used[band] = n_used
        planes.flags[band][n_used == 0] = Flag.NO_INPUT
        rejected.append(its_rejected)
        finish(band, error, n_used)

    # Each band writes its own rows only, so the result does not depend on their order.
    combining.combine(stack, readers, planes.data, receive)
    return replace(planes, rejected=np.sum(rejected, axis=0) / planes.data.size)


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
