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

from flatcal.engine.average_noise import AverageNoise
from flatcal.engine.bands import Combining, Member, Stack, open_members
from flatcal.engine.calibrated_frame import CalibratedFrame, sampled_rows
from flatcal.engine.colours import equalise, kept_pattern, share_colours
from flatcal.engine.defects import flag_dead, flag_flat_columns, flag_hot, flag_level_columns
from flatcal.engine.inherited import inherited_errors
from flatcal.engine.level import RunningLevel, level_of
from flatcal.engine.likeness import LEAST_FLATS, Likeness, compare_flats, sample_frames
from flatcal.engine.noise import (
    NoiseModel,
    flat_noise,
    flat_variances,
    flat_weights,
    frame_noise,
    frame_variance,
    mean_variance,
    model_noise,
    shares_of_variance,
)
from flatcal.engine.regions import Region, contiguous, levels_of_regions
from flatcal.engine.setting import Setting, calibrated
from flatcal.engine.stacking import Stacking
from flatcal.flags import INHERITED, Flag
from flatcal.frame import Kind
from flatcal.kernels.arithmetic import (
    add_error,
    inherit_flags,
    mark_bad,
    normalise_flat,
)
from flatcal.kernels.stats import median_of_good
from flatcal.plan import FramePlan, MasterPlan
from flatcal.raw_frame import RawFrame
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
    colours : tuple or None
        Of a master flat of a colour matrix, its first cell and what each colour was divided by.
    """

    data: Array
    std: Array | None
    flags: Array
    n_used: Array
    std_source: str = "noise model"
    rejected: Array | None = None
    likeness: Likeness | None = None
    colours: tuple[str, dict[str, float]] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What is found out about an output while it is made, and what its header tells.

    Attributes
    ----------
    median_adu : float or None
        Median of its good pixels (of a frame of several amplifiers its `level_of`), rounded so
        that a header holds it exactly: a later run reads the same level from there. None without
        any good pixel.
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
    colours : tuple or None
        See `Planes`.
    """

    median_adu: float | None
    n_flagged: int
    std_source: str | None
    refined_scale: float | None = None
    rejected: tuple[float, ...] | None = None
    slopes: tuple[float, ...] | None = None
    unlike: tuple[float, ...] | None = None
    colours: tuple[str, dict[str, float]] | None = None


def find_of(planes: Planes) -> Found:
    """What there is to tell of planes that are whole in memory."""
    return Found(
        rounded(median_of_good(planes.data, planes.flags != 0)),
        int(np.count_nonzero(planes.flags)),
        None if planes.std is None else planes.std_source,
        rejected=_tuple_of(planes.rejected),
        slopes=None if planes.likeness is None else _tuple_of(planes.likeness.slopes),
        unlike=None if planes.likeness is None else _tuple_of(planes.likeness.unlike),
        colours=planes.colours,
    )


def _tuple_of(numbers: Array | None) -> tuple[float, ...] | None:
    return None if numbers is None else tuple(numbers.tolist())


def rounded(value: float) -> float | None:
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
    lend = setting.buffers.lend
    with_std = with_std and plan.noise_known
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
        running = RunningLevel(frame, setting.buffers, stack) if height < rows else None
        if hashed:
            raw.hash_while_reading()
        for band in frame.bands(0, rows):
            n = band.stop - band.start
            frame.read(band.start, band.stop, data[:n], flags[:n])
            n_flagged += mark_bad(flags[:n], np.uint16(0xFFFF), bad[:n])
            if std is not None:
                frame.propagate(band, data[:n], std[:n])
            if running is not None:
                running.add(band, data[:n], bad[:n])
            take(data[:n], None if std is None else std[:n], bad[:n], flags[:n])
        regions = frame.preparation.regions
        median = level_of(data, bad, regions) if running is None else running.find()
    if median is None:  # the sample has deceived
        with _whole(frame, setting) as planes:
            median = level_of(*planes, regions)
    return Found(
        rounded(median),
        n_flagged,
        "noise model" if with_std else None,
        rounded(float(frame.preparation.dark_scale)) if refine else None,
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
    n, noise_known = len(frames), frames[0].noise_known
    members = tuple(Member(frame, master.steps) for frame in frames)
    with open_members(members, setting) as readers:
        bias, regions = readers[0].preparation.bias, readers[0].preparation.regions
        planes = _empty_planes(readers[0].preparation.shape, setting, noise_known)
        finish: Finish = partial(_keep_error, planes)
        ones = np.ones(n)
        by_noise = noise_known and setting.config.combine.reject == "noise"
        models: list[NoiseModel | None] = [None] * len(regions)
        if noise_known:
            levels: Sequence[float] = (0.0,) * len(regions)
            if zero is None or len(regions) > 1:
                values, flags = readers[0].read_sample()
                rows = np.array(sampled_rows(planes.data.shape[0]))
                levels = levels_of_regions(values, rows, regions)
                zero = float(median_of_good(values, flags != 0)) if zero is None else zero
            variances = [
                frame_variance(
                    region.detector,
                    shot=master.kind is Kind.DARK,
                    level_variance=readers[0].level_variance(region),
                )
                for region in regions
            ]
            shares = shares_of_variance(setting.config.combine.method, ones)
            common = None if bias is None else bias.std
            noises = [
                AverageNoise(region, variance, shares, zero + level)
                for region, variance, level in zip(regions, variances, levels, strict=True)
            ]
            finish = partial(_fill_std, planes, noises, common)
        if by_noise:
            samples = sample_frames(readers, ones).pixels
            for number, (region, variance) in enumerate(zip(regions, variances, strict=True)):
                # Where the bias is still there, hot pixels have photons all the same.
                photon = frame_variance(region.detector, shot=True, level_variance=0).photon
                terms = np.tile([photon, variance.read], (n, 1))
                models[number] = model_noise(
                    terms, ones, samples[number], lost_bias=bias is not None
                )
        grow = setting.config.combine.grow_of(master.kind, by_noise=by_noise)
        stackings = tuple(
            Stacking(setting.config.combine, ones, ones, noise, frame_noise(region.detector), grow)
            for region, noise in zip(regions, models, strict=True)
        )
        stack = Stack(master.name, members, stackings, planes.data.shape)
        planes = combine_bands(combining, stack, readers, planes, finish)
        _inherit(readers, planes.flags)
    for region in regions:
        image, its_flags = planes.data[region.place], planes.flags[region.place]
        if master.kind is Kind.DARK:
            flag_hot(image, region.detector, its_flags)
        flag_level_columns(image, frame_noise(region.detector), its_flags)
    return planes if noise_known else _fill_unknown(planes, n)


def combine_flats(
    setting: Setting,
    combining: Combining,
    master: MasterPlan,
    frames: Sequence[FramePlan],
    flats: Sequence[Found],
) -> Planes:
    """Combine raw flats, each calibrated as it is read and divided by its median.

    The master flat has a median of 1, and so have its pixels of each colour.
    """
    members = tuple(
        Member(frame, frame.steps, flat.refined_scale)
        for frame, flat in zip(frames, flats, strict=True)
    )
    pattern = ""
    if frames[0].colour_matrix:
        medians = [flat.median_adu or np.nan for flat in flats]
        with open_members(members, setting) as readers:
            pattern = kept_pattern(readers[0], frames[0].colour_matrix)
            tints = share_colours(readers, medians, pattern, setting.buffers)
        members = tuple(replace(m, tint=tint) for m, tint in zip(members, tints, strict=True))
    planes, regions = _average_flats(setting, combining, master, frames, flats, members)
    if pattern:
        levels = equalise(planes.data, planes.std, planes.flags, pattern, master.name)
        planes = replace(planes, colours=(pattern, levels))
    for region in regions:  # their gains differ
        image = np.ascontiguousarray(planes.data[region.place])
        with contiguous(planes.flags[region.place]) as its_flags:
            flag_dead(image, its_flags)
            flag_flat_columns(image, its_flags)
    return planes


def _average_flats(
    setting: Setting,
    combining: Combining,
    master: MasterPlan,
    frames: Sequence[FramePlan],
    flats: Sequence[Found],
    members: tuple[Member, ...],
) -> tuple[Planes, tuple[Region, ...]]:
    """The average of flats over their medians, over its median; and its regions."""
    settings, noise_known = setting.config.combine, frames[0].noise_known
    levels = np.asarray([flat.median_adu for flat in flats], np.float64)
    weights = np.ones(len(flats))
    if settings.weights != "equal":
        weights = np.mean([flat_weights(levels, d) for d in frames[0].detectors], axis=0)
    with open_members(members, setting) as readers:
        shape, regions = readers[0].preparation.shape, readers[0].preparation.regions
        planes = _empty_planes(shape, setting, noise_known)
        finish: Finish = partial(_keep_error, planes)
        models: list[NoiseModel | None] = [None] * len(regions)
        by_noise = noise_known and settings.reject == "noise"
        if by_noise or len(flats) >= LEAST_FLATS:
            sample = sample_frames(readers, 1 / levels)
            planes = replace(planes, likeness=compare_flats(sample.blocks))
        if noise_known:
            finish = _leave_for_later
            terms = [
                flat_variances(levels, region.detector, readers[0].level_variance(region))
                for region in regions
            ]
            for its_terms, region in zip(terms, regions, strict=True):
                its_terms[:, 1] *= readers[0].slopes_at(region, levels) ** 2
        if by_noise:
            models = [
                model_noise(its_terms, 1 / levels, pixels, lost_bias=True)
                for its_terms, pixels in zip(terms, sample.pixels, strict=True)
            ]
        grow = settings.grow_of(Kind.FLAT, by_noise=by_noise)
        stackings = tuple(
            Stacking(
                settings, 1 / levels, weights, noise, flat_noise(levels, region.detector), grow
            )
            for region, noise in zip(regions, models, strict=True)
        )
        stack = Stack(master.name, members, stackings, shape)
        planes = combine_bands(combining, stack, readers, planes, finish)
        norm = setting.dtype.type(level_of(planes.data, planes.flags != 0, regions))
        std = planes.std
        if noise_known and std is not None:
            shares = shares_of_variance(settings.method, weights)
            noises = [
                AverageNoise(region, mean_variance(its_terms, weights), shares, 0.0)
                for region, its_terms in zip(regions, terms, strict=True)
            ]
            factors = weights / levels / weights.sum()
            inherited = inherited_errors(setting.masters, frames, readers, factors)

        def norm_band(band: slice) -> None:
            normalise_flat(planes.data[band], planes.flags[band], norm)
            if std is None:
                return
            if not noise_known:
                std[band] /= norm
                return
            _fill_std(planes, noises, None, band, None, planes.n_used[band].astype(np.int32))
            for its_std, factor in inherited:
                add_error(std[band], its_std[band], factor)

        workers = combining.workers
        row_bytes = shape[1] * (2 * setting.dtype.itemsize + 8)
        workers.run_bands(shape[0], row_bytes, workers.stage(master.name), norm_band)
        _inherit(readers, planes.flags)
    return planes if noise_known else _fill_unknown(planes, len(frames)), regions


def _inherit(readers: Sequence[CalibratedFrame], flags: Array) -> None:
    """Flag the defects of the detector that the masters of some frames have."""
    seen: set[int] = set()
    for reader in readers:
        for its in reader.inherited():
            if id(its) not in seen:
                inherit_flags(flags, its, np.uint16(INHERITED), np.uint16(0))
                seen.add(id(its))


def _empty_planes(shape: tuple[int, int], setting: Setting, noise_known: bool) -> Planes:
    """Planes to be filled, with an uncertainty if one is wanted."""
    return Planes(
        np.empty(shape, setting.dtype),
        np.empty(shape, setting.dtype) if setting.config.output.uncertainty else None,
        np.zeros(shape, np.uint16),
        np.empty(shape, np.uint16),
        "noise model" if noise_known else "scatter of the frames",
    )


# What is done with a band when it has been combined: receives its rows, the standard error from
# the scatter of the values kept, and how many were kept.
Finish = Callable[[slice, Array, Array], None]


def _fill_std(
    planes: Planes,
    noises: Sequence[AverageNoise],
    common_std: Array | None,
    band: slice,
    _error: Array | None,
    n_used: Array,
) -> None:
    """The uncertainty of the noise model, which tells more than the scatter of a few values."""
    if planes.std is not None:
        for noise in noises:
            noise.fill(planes.data, planes.std, common_std, band, n_used)


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
    require_some_left(stack.stackings[0].settings, stack.name, len(readers))
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
