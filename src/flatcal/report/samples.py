"""Rows of frames spread evenly over them: raw, after each step, and as written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.colour import with_colours
from flatcal.extension import file_of
from flatcal.frame import Kind
from flatcal.kernels.arithmetic import calibrate
from flatcal.levels import Levels, Overscan
from flatcal.nonlinearity import load_correction
from flatcal.outputs import open_planes
from flatcal.plan import KEEPS_VALUES, OVERSCAN_STEPS, FramePlan, Step
from flatcal.raw_frame import RawFrame
from flatcal.section import (
    Section,
    assemble_sections,
    parse_sections,
    shape_of_sections,
)
from flatcal.storage import Place
from flatcal.verify.night import ReducedNight

Array = NDArray[Any]

# Bands of rows: as many as a thumbnail has rows, and a quarter of a million pixels in all. Those
# give a level to 1/500 of the noise and each of 4096 parts of an image to an eighth of it.
_BANDS: Final = 64
_PIXELS: Final = 1 << 18
_STEP_LABELS: Final = {
    "subtract_overscan": "less overscan",
    "subtract_parallel_overscan": "less parallel overscan",
    "subtract_bias": "less bias",
    "correct_linearity": "made linear",
    "subtract_dark": "less dark",
    "flat_correct": "over flat",
}


def spread_bands(shape: tuple[int, int]) -> tuple[slice, ...]:
    """Bands of rows of equal height."""
    n_bands = min(_BANDS, shape[0])
    height = max(1, min(shape[0] // n_bands, _PIXELS // (n_bands * shape[1])))
    starts = np.linspace(0, shape[0] - height, n_bands).astype(int).tolist()
    return tuple(slice(start, start + height) for start in starts)


def output_rows(
    path: Place, bands: Sequence[slice], plane: str = "PRIMARY", *, coloured: bool = False
) -> Array | None:
    """Those rows of a plane of an output; None where it has no such plane.

    With `coloured` it is undone that the colours of a master flat were equalised.

    Raises
    ------
    BrokenFileError
        When the file cannot be read.
    """
    with open_planes(path) as planes:
        if plane not in planes:
            return None
        cards = planes[plane].header if coloured else {}
        rows = np.concatenate(
            [with_colours(planes[plane].section[band, :], cards, band) for band in bands]
        )
        return np.asarray(rows.astype(rows.dtype.newbyteorder("="), copy=False))


def raw_rows(night: ReducedNight, frame: FramePlan, rows: Sequence[slice]) -> Array:
    """Whole rows of a raw frame.

    Raises
    ------
    BrokenFileError
        When the file is gone, has changed or cannot be read.
    """
    assert frame.storage is not None
    assert frame.shape is not None
    with RawFrame(night.raw / file_of(frame.file), frame.storage, frame.shape) as raw:
        columns = slice(0, frame.shape[1])
        return np.concatenate([raw.values(band, columns, np.float32) for band in rows])


def kept_sections(frame: FramePlan, steps: Sequence[Step]) -> tuple[Section, ...]:
    """What is kept of a raw frame: of each amplifier, its part."""
    assert frame.shape is not None
    found = _sections_of("trim_image", frame, steps)
    return found or ((slice(0, frame.shape[0]), slice(0, frame.shape[1])),)


def overscan_sections(frame: FramePlan, steps: Sequence[Step]) -> tuple[Section, ...]:
    """The overscan of each amplifier that the steps use; none without one."""
    return _sections_of("subtract_overscan", frame, steps)


def _sections_of(name: str, frame: FramePlan, steps: Sequence[Step]) -> tuple[Section, ...]:
    assert frame.shape is not None
    for step in steps:
        if step.name == name and step.section is not None:
            return parse_sections(step.section, frame.shape)
    return ()


def rows_after_each_step(
    night: ReducedNight, frame: FramePlan, bands: Sequence[slice]
) -> Iterator[tuple[str, Array]]:
    """Rows of a frame as they are raw, and after each step that changes values.

    Parameters
    ----------
    night : ReducedNight
        With its masters.
    frame : FramePlan
        A frame that is calibrated.
    bands : sequence of slice
        Rows of the image that is kept.

    Yields
    ------
    tuple
        What was done, and the rows in float32; the arithmetic is that of a run.

    Raises
    ------
    BrokenFileError
        When the raw file or a master cannot be read.
    """
    values, levels, of_columns = _rows_and_levels(night, frame, bands)
    yield "raw", values.copy()
    for step in frame.steps:
        if step.name in KEEPS_VALUES:
            continue
        bias, dark, flat = _no_masters()
        scale = 1.0
        if step.name == "subtract_overscan":
            values -= levels
        elif step.name == "subtract_parallel_overscan":
            values -= of_columns
        elif step.name == "correct_linearity":
            _make_linear(values, frame, bands)
        else:
            assert step.master is not None
            master = output_rows(night.path_of_master(step.master), bands)
            assert master is not None
            master = np.ascontiguousarray(master, np.float32)
            if step.name == "subtract_bias":
                bias = master
            elif step.name == "subtract_dark":
                dark, scale = master, _scale(night, frame, step)
            else:
                flat = master
        calibrate(values, np.empty(0, np.float32), bias, dark, np.float32(scale), flat)
        yield _STEP_LABELS[step.name], values.copy()


def _no_masters() -> tuple[Array, Array, Array]:
    nothing = np.empty((0, 0), np.float32)
    return nothing, nothing, nothing


def _rows_and_levels(
    night: ReducedNight, frame: FramePlan, bands: Sequence[slice]
) -> tuple[Array, Array, Array]:
    """Raw values of some rows of the image, the overscan level of each, and of each column."""
    data, overscans = kept_sections(frame, frame.steps), overscan_sections(frame, frame.steps)
    parallel = _sections_of("subtract_parallel_overscan", frame, frame.steps)
    step = next((step for step in frame.steps if step.name in OVERSCAN_STEPS), None)
    wanted = np.concatenate([np.arange(band.start, band.stop) for band in bands])
    values = np.empty((wanted.size, shape_of_sections(data)[1]), np.float32)
    levels = np.zeros_like(values)
    of_columns = np.zeros(values.shape[1], np.float32)
    for section, (rows, columns), beside, detector in zip_longest(
        data, assemble_sections(data), overscans, frame.detectors
    ):
        shift = section[0].start - rows.start
        own = [slice(max(b.start, rows.start), min(b.stop, rows.stop)) for b in bands]
        own = [slice(b.start + shift, b.stop + shift) for b in own if b.start < b.stop]
        if not own:
            continue
        whole = raw_rows(night, frame, own)
        its = (wanted >= rows.start) & (wanted < rows.stop)
        values[its, columns] = whole[:, section[1]]
        if step is None:
            continue
        assert step.model is not None
        assert step.statistic is not None
        overscan = Overscan(
            section, beside and beside[1], parallel[0][0] if parallel else None,
            step.statistic, step.model,
        )  # fmt: skip
        saturation = detector.saturation_adu or np.inf
        if not overscan.needs_all:
            pixels = whole[:, overscan.columns].astype(np.float64)
            levels[its, columns] = overscan.row_levels(pixels, saturation)[:, None]
            continue
        found = _read_levels(night, frame, overscan, saturation)
        if found.rows.size:
            levels[its, columns] = found.rows[wanted[its] - rows.start, None]
        of_columns[columns] = found.columns if found.columns.size else 0.0
    return values, levels, of_columns


def _read_levels(
    night: ReducedNight, frame: FramePlan, overscan: Overscan, saturation: float
) -> Levels:
    assert frame.storage is not None
    assert frame.shape is not None
    with RawFrame(night.raw / frame.file, frame.storage, frame.shape) as raw:
        return overscan.read(raw, saturation)


def _make_linear(values: Array, frame: FramePlan, bands: Sequence[slice]) -> None:
    """Correct the linearity of some rows of the image, by the curve of each amplifier."""
    wanted = np.concatenate([np.arange(band.start, band.stop) for band in bands])
    places = assemble_sections(kept_sections(frame, frame.steps))
    for (rows, columns), detector in zip(places, frame.detectors, strict=True):
        assert detector.linearity is not None
        its = (wanted >= rows.start) & (wanted < rows.stop)
        part = np.ascontiguousarray(values[its, columns])
        load_correction(detector.linearity, detector.saturation_adu).apply(part)
        values[its, columns] = part


def _scale(night: ReducedNight, frame: FramePlan, step: Step) -> float:
    product = night.run.products.get(frame.output or "")
    return (product.refined_scale if product else None) or step.scale


def calibrated_rows(night: ReducedNight, frame: FramePlan, bands: Sequence[slice]) -> Array:
    """Rows of a calibrated frame: as written, or else calibrated from the raw ones.

    Raises
    ------
    BrokenFileError
        When neither can be read.
    """
    if frame.output in night.run.products and frame.output is not None:
        rows = output_rows(night.out / frame.output, bands)
        assert rows is not None
        return rows
    *_, (_, values) = rows_after_each_step(night, frame, bands)
    return values


def first_of(frames: Sequence[FramePlan], kind: Kind) -> FramePlan | None:
    """The first good frame of a kind."""
    return next((f for f in frames if f.kind is kind and f.action != "refuse"), None)
