"""Overscan, gain and noise of each set-up as a report shows them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.errors import FlatcalError
from flatcal.frame import Kind
from flatcal.photon_transfer.curve import PhotonTransferCurve, shot_variance
from flatcal.photon_transfer.night import DetectorReport, MeasuredDetector
from flatcal.plan import FramePlan
from flatcal.report.samples import (
    first_of,
    kept_sections,
    overscan_sections,
    raw_rows,
    spread_bands,
)
from flatcal.report.views import DetectorView, Line, Plot
from flatcal.verify.night import ReducedNight

Array = NDArray[Any]

# So many columns of the image are shown beside the overscan.
_LIT_COLUMNS: Final = 4
_CURVE_POINTS: Final = 100

_SetUp = tuple[str, tuple[int, int]]


def gather_detectors(
    night: ReducedNight, measured: DetectorReport | None
) -> Iterator[DetectorView]:
    """Every set-up: camera and size of the image, and amplifier."""
    groups: dict[_SetUp, list[FramePlan]] = {}
    for frame in night.plan.frames:
        if frame.shape is not None and frame.action != "refuse":
            groups.setdefault((frame.camera, frame.shape), []).append(frame)
    for (camera, shape), frames in groups.items():
        known = () if measured is None else measured.detectors
        for number, detector in enumerate(frames[0].detectors):
            wanted = (camera, shape, detector.amplifier)
            found = next((d for d in known if (d.camera, d.shape, d.amplifier) == wanted), None)
            plots = list(_overscan_plots(night, frames, number))
            if found is not None and found.curve is not None:
                plots.append(plot_photon_transfer(found, found.curve))
            of = f", amplifier {detector.amplifier}" if detector.amplifier else ""
            title = f"{camera or 'camera'}, {shape[0]} x {shape[1]}{of}"
            yield DetectorView(title, tuple(plots), found, _reason(frames))


def _reason(frames: list[FramePlan]) -> str:
    """What the plan says of the overscan, or of the section that is kept without one."""
    for name in ("subtract_overscan", "trim_image"):
        for frame in frames:
            for step in frame.steps:
                if step.name == name:
                    return f"{step}: {step.reason}" if step.reason else str(step)
    return "the whole image is kept, without an overscan"


def _overscan_plots(night: ReducedNight, frames: list[FramePlan], number: int) -> Iterator[Plot]:
    """Level of the columns outside of an amplifier's image, and of its overscan along the rows."""
    planned = {frame.file: night.plan.master(frame.part_of) for frame in frames if frame.part_of}
    columns_lines: list[Line] = []
    row_lines: list[Line] = []
    used: slice | None = None
    kept = slice(0, 0)
    for kind in (Kind.BIAS, Kind.DARK, Kind.FLAT):
        frame = first_of(frames, kind)
        if frame is None:
            continue
        steps = frame.steps or (planned[frame.file].steps if frame.file in planned else ())
        sections, overscans = kept_sections(frame, steps), overscan_sections(frame, steps)
        rows, kept = sections[number]
        assert frame.shape is not None
        if kept.stop - kept.start == frame.shape[1]:
            continue
        bands = spread_bands((rows.stop - rows.start, frame.shape[1]))
        shifted = [slice(rows.start + b.start, rows.start + b.stop) for b in bands]
        try:
            values = raw_rows(night, frame, shifted)
        except FlatcalError:
            continue
        used = used or (overscans[number][1] if overscans else None)
        outside = _outside(kept, frame.shape[1])
        if len(sections) > 1 and used is not None:  # what lies beside belongs to others
            outside = np.arange(used.start, used.stop)
        reference = values[:, used] if used is not None else values[:, outside]
        level = float(np.median(reference))
        columns_lines.append(Line(kind.value, outside + 1, values[:, outside].mean(axis=0) - level))
        if used is not None:
            at = np.concatenate([np.arange(b.start, b.stop) for b in shifted]) + 1
            row_lines.append(Line(kind.value, at, np.median(values[:, used], axis=1) - level))
    if not columns_lines:
        return
    kept_text = "no column is used"
    if used is not None:
        kept_text = f"columns {used.start + 1} to {used.stop} are used"
    yield Plot(
        title="profile of the columns beside the image",
        alt=f"mean level of each column beside the image, less that of the overscan; {kept_text}",
        x_label="column",
        y_label="mean level less that of the overscan, ADU",
        lines=tuple(columns_lines),
        span=None if used is None else (used.start + 0.5, used.stop + 0.5),
        span_label=kept_text if used else "",
        band=_reach(columns_lines, used),
        y_range=_seen_range(columns_lines, kept),
    )
    if row_lines:
        yield Plot(
            title="level of the overscan in each row, which is what is subtracted",
            alt="median of the overscan columns of each row, less that of all rows",
            x_label="row",
            y_label="level less its median, ADU",
            lines=tuple(row_lines),
        )


def _outside(kept: slice, n_columns: int) -> Array:
    """Columns outside of what is kept, and a few inside; counted from 0."""
    left = np.arange(0, kept.start + _LIT_COLUMNS if kept.start else 0)
    right_start = kept.stop - _LIT_COLUMNS if kept.stop < n_columns else n_columns
    return np.concatenate([left, np.arange(right_start, n_columns)])


def _reach(lines: list[Line], used: slice | None) -> tuple[float, float] | None:
    """Range of the levels of columns that are used, about the level that is subtracted."""
    if used is None:
        return None
    parts = [line.y[(line.x > used.start) & (line.x <= used.stop)] for line in lines]
    reach = max(float(np.abs(part).max()) for part in parts if part.size)
    return -reach, reach


def _seen_range(lines: list[Line], kept: slice) -> tuple[float, float]:
    """Range of the columns outside of the image, which light in the image would dwarf."""
    parts = [line.y[(line.x <= kept.start) | (line.x > kept.stop)] for line in lines]
    low, high = min(p.min() for p in parts), max(p.max() for p in parts)
    margin = max(0.5, 0.1 * (high - low))
    return float(low - margin), float(high + margin)


def plot_photon_transfer(found: MeasuredDetector, curve: PhotonTransferCurve) -> Plot:
    """Shot variance of pairs of flats against their level, with the fit."""
    levels = np.array([point.level1_adu for point in curve.points])
    variances = np.array([point.shot_variance_adu2 for point in curve.points])
    along = np.linspace(0, levels.max() * 1.05, _CURVE_POINTS)
    fit = shot_variance(along, curve.gain_electron_per_adu, curve.a00_per_electron or 0.0)
    lines = [
        Line("pairs of flats", levels, variances),
        Line(f"fit: {curve.gain_electron_per_adu:.4g} electron/ADU", along, fit),
    ]
    assumed = found.assumed_gain_electron_per_adu
    if assumed is not None and math.isfinite(assumed):
        lines.append(Line(f"assumed: {assumed:.4g} electron/ADU", along, along / assumed))
    return Plot(
        title="photon transfer curve",
        alt=f"variance of {len(levels)} pairs of flats against level; the fit gives "
        f"{curve.gain_electron_per_adu:.4g} +- {curve.gain_error_electron_per_adu:.2g} "
        "electron/ADU",
        x_label="level above the bias, ADU",
        y_label="variance by light, ADU squared",
        lines=tuple(lines),
    )
