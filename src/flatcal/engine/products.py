"""Making one output: a combined master, or one calibrated frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from flatcal.engine.masters import CalibratedFrame, Master, prepare
from flatcal.engine.noise import flat_noise, flat_std, frame_noise, stack_std
from flatcal.flags import Flag
from flatcal.io import RawFrame, naming
from flatcal.kernels.combine import combine_clipped
from flatcal.kernels.stats import median_of_good
from flatcal.plan import FramePlan, Step
from flatcal.recipe import CombineSettings

Array = NDArray[Any]
MasterSource = Callable[[str], Master]

# Bands of about this many bytes keep all threads busy without outgrowing a shared cache.
_BAND_BYTES = 24 * 2**20
# Bytes held for each pixel of a band and frame: value, flag, and their copies in the kernel.
_BYTES_PER_VALUE = 6

ReadBand = Callable[[int, int, Array, Array], None]


@dataclass(frozen=True, slots=True)
class Workers:
    """Threads, and the memory that all bands worked on at once may take."""

    pool: ThreadPoolExecutor
    jobs: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Planes:
    """The planes of an output.

    Attributes
    ----------
    data : ndarray of float32
        Values.
    std : ndarray of float32 or None
        Standard deviation.
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
class Stack:
    """An average with what is known of each pixel.

    Attributes
    ----------
    data : ndarray of float32
        The average.
    error : ndarray of float32
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


def calibrate_frame(raw_folder: Path, plan: FramePlan, masters: MasterSource) -> Planes:
    """Calibrate one frame.

    Parameters
    ----------
    raw_folder : Path
        The raw folder.
    plan : FramePlan
        With the steps.
    masters : callable
        Gives a master by its name.
    """
    with _open_calibrated(raw_folder, plan, plan.steps, masters) as frame:
        shape = frame.preparation.shape
        data = np.empty(shape, np.float32)
        flags = np.empty(shape, np.uint8)
        frame.read(0, shape[0], data, flags)
        assert plan.detector is not None
        return Planes(data, frame.std(data, plan.detector), flags)


@contextmanager
def _open_calibrated(
    raw_folder: Path, plan: FramePlan, steps: Sequence[Step], masters: MasterSource
) -> Iterator[CalibratedFrame]:
    assert plan.storage is not None
    assert plan.shape is not None
    assert plan.detector is not None
    with RawFrame(raw_folder / plan.file, plan.storage, plan.shape) as raw:
        preparation = prepare(steps, plan.shape, masters)
        yield CalibratedFrame(raw, preparation, plan.detector.saturation_adu)


def combine_raw(
    raw_folder: Path,
    frames: Sequence[FramePlan],
    steps: Sequence[Step],
    masters: MasterSource,
    settings: CombineSettings,
    workers: Workers,
) -> Planes:
    """Combine raw bias or dark frames, each calibrated by the steps as it is read."""
    with ExitStack() as stack:
        readers = [
            stack.enter_context(_open_calibrated(raw_folder, frame, steps, masters))
            for frame in frames
        ]
        shape = readers[0].preparation.shape
        reads = [reader.read for reader in readers]
        detector = frames[0].detector
        assert detector is not None
        ones = np.ones(len(reads))
        result = combine_bands(reads, ones, shape, settings, frame_noise(detector), workers)
        return _raw_planes(result, readers[0], frames)


def _raw_planes(stack: Stack, reader: CalibratedFrame, frames: Sequence[FramePlan]) -> Planes:
    """Planes of averaged bias or dark frames, which all had the same preparation."""
    detector = frames[0].detector
    assert detector is not None
    if not detector.noise_known:
        return _scatter_planes(stack, len(frames))
    bias = reader.preparation.bias
    std = stack_std(
        stack.data,
        stack.n_used,
        detector,
        shot=bias is not None,
        level_variance=reader.level_variance(detector),
    )
    if bias is not None and bias.std.size:
        # The same bias went off every frame: its error does not average down.
        std = np.hypot(std, bias.std)
    return Planes(stack.data, std, stack.flags)


def _scatter_planes(stack: Stack, n_frames: int) -> Planes:
    std = _fill_error(stack.error, n_frames)
    return Planes(stack.data, std, stack.flags, "scatter of the frames")


def combine_flats(
    paths: Sequence[Path],
    medians: Sequence[float],
    frames: Sequence[FramePlan],
    settings: CombineSettings,
    workers: Workers,
) -> Planes:
    """Combine calibrated flats, each divided by its median, into a flat of median 1."""
    levels = np.asarray(medians)
    detector = frames[0].detector
    assert detector is not None
    with ExitStack() as stack:
        opened = []
        for path in paths:
            with naming(path):
                opened.append(stack.enter_context(fits.open(path, memmap=True)))
        reads = [_calibrated_reader(hdus) for hdus in opened]
        noise = flat_noise(levels, detector)
        result = combine_bands(reads, 1 / levels, opened[0][0].shape, settings, noise, workers)
    norm = np.float32(median_of_good(result.data, result.flags))
    result.data[:] /= norm
    result.error[:] /= norm
    no_input = result.flags != 0
    result.data[no_input] = 1
    result.flags[result.data <= 0] |= np.uint8(Flag.FLAT_INVALID)
    if not detector.noise_known:
        return _scatter_planes(result, len(frames))
    std = flat_std(result.data, result.n_used, levels, detector)
    return Planes(result.data, std, result.flags)


def _calibrated_reader(hdus: fits.HDUList) -> ReadBand:
    data, mask = hdus[0].data, hdus["MASK"].data

    def read(start: int, stop: int, out: Array, flags: Array) -> None:
        out[:] = data[start:stop]
        flags[:] = mask[start:stop]

    return read


def combine_bands(
    reads: Sequence[ReadBand],
    scales: Array,
    shape: tuple[int, int],
    settings: CombineSettings,
    least_std: float,
    workers: Workers,
) -> Stack:
    """Combine frames in bands of rows, several bands at once.

    Parameters
    ----------
    reads : sequence of callable
        Each reads rows of one frame: ``read(start, stop, out, flags)``.
    scales : ndarray, shape (n_frames,)
        Factor of each frame.
    shape : tuple of int
        Rows and columns.
    settings : CombineSettings
        Rejection thresholds.
    least_std : float
        Noise that every scaled value has, at the least.
    workers : Workers
        Threads and their memory.

    Returns
    -------
    Stack
        A pixel without a good input has the plain average of the bad ones and NO_INPUT.
    """
    n, (rows, columns) = len(reads), shape
    band_bytes = min(_BAND_BYTES, workers.memory_bytes // (2 * workers.jobs))
    step = max(1, min(rows, band_bytes // (n * columns * _BYTES_PER_VALUE)))
    data = np.empty(shape, np.float32)
    error = np.empty(shape, np.float32)
    n_used = np.empty(shape, np.int32)
    flags = np.zeros(shape, np.uint8)
    factors = np.asarray(scales, np.float32)
    low, high = np.float32(settings.low_sigma), np.float32(settings.high_sigma)

    def combine(start: int) -> None:
        band = slice(start, min(start + step, rows))
        height = band.stop - band.start
        stack = np.empty((n, height, columns), np.float32)
        bad = np.empty((n, height, columns), np.uint8)
        for read, values, its_flags in zip(reads, stack, bad, strict=True):
            read(band.start, band.stop, values, its_flags)
        empty = bad.all(axis=0) if bad.any() else None
        instead = None if empty is None else (stack[:, empty] * factors[:, None]).mean(axis=0)
        stack[bad != 0] = np.nan
        combine_clipped(
            stack.reshape(n, -1), factors, low, high, np.float32(least_std),
            data[band].reshape(-1), error[band].reshape(-1), n_used[band].reshape(-1),
        )  # fmt: skip
        if empty is not None:
            data[band][empty] = instead
            flags[band][empty] |= np.uint8(Flag.NO_INPUT)

    # Each band writes its own rows only, so the result does not depend on their order. All are
    # waited for before the frames are closed, also when one has failed.
    bands = [workers.pool.submit(combine, start) for start in range(0, rows, step)]
    for done in wait(bands, return_when=FIRST_EXCEPTION).not_done:
        done.cancel()
    wait(bands)
    for band in bands:
        if not band.cancelled():
            band.result()
    return Stack(data, error, n_used, flags)


def _fill_error(error: Array, n_frames: int) -> Array | None:
    """Standard errors, with that of a single typical value where fewer than two were kept."""
    if n_frames < 2:
        return None
    unknown = ~np.isfinite(error)
    if unknown.any():
        typical = np.median(error[~unknown]) if not unknown.all() else np.nan
        error[unknown] = typical * np.sqrt(np.float32(n_frames))
    return error
