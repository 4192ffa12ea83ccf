"""The flats and science frames of each filter as a report shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.errors import FlatcalError
from flatcal.frame import Kind
from flatcal.plan import FramePlan, MasterPlan
from flatcal.records import ProductRecord
from flatcal.report.pictures import coarse_grid, finite_percentiles, thumbnail
from flatcal.report.plots import plot_against_time, plot_steps
from flatcal.report.samples import (
    calibrated_rows,
    output_rows,
    rows_after_each_step,
    spread_bands,
)
from flatcal.report.views import FilterView, Plot, Thumbnail
from flatcal.verify.night import ReducedNight

Array = NDArray[Any]

# The colours of ratios reach no less than 0.2 %, so that noise alone stays pale.
_LEAST_RANGE: Final = 0.002


def gather_filters(night: ReducedNight, only: str = "") -> Iterator[FilterView]:
    """Each master flat, or only that of a name, with its flats and a science frame it divides."""
    for master, product in night.masters(Kind.FLAT):
        if only in ("", master.name):
            yield _view(night, master, product)


def _view(night: ReducedNight, master: MasterPlan, product: ProductRecord) -> FilterView:
    flats = night.inputs(product)
    bands = spread_bands(master.shape)
    missing: list[str] = []
    plots, thumbnails, reach = _compare_flats(night, product, bands, missing)
    science = next((f for f in night.calibrated(Kind.SCIENCE) if _uses(f, master.name)), None)
    for frame in (flats[0], science):
        if frame is not None:
            plots += _steps(night, frame, missing)
    name = f"{master.filter or 'no filter'} ({master.name})"
    return FilterView(name, tuple(plots), tuple(thumbnails), reach, tuple(missing))


def _uses(frame: FramePlan, master: str) -> bool:
    return any(step.master == master for step in frame.steps)


def _steps(night: ReducedNight, frame: FramePlan, missing: list[str]) -> list[Plot]:
    assert frame.kind is not None
    try:
        rows = list(rows_after_each_step(night, frame, spread_bands(frame.kept_shape)))
    except FlatcalError as error:
        missing.append(f"histograms of {frame.file}: {error.text}")
        return []
    return [plot_steps(f"{frame.kind.value} before and after each step", rows, frame.unit.upper())]


def _compare_flats(
    night: ReducedNight,
    product: ProductRecord,
    bands: Sequence[slice],
    missing: list[str],
) -> tuple[list[Plot], list[Thumbnail], float]:
    """Level, scatter and ratio of each flat to the master."""
    path = night.out / product.output
    try:
        divisor = output_rows(path, bands, coloured=True)
        flags = output_rows(path, bands, "MASK")
    except FlatcalError as error:
        missing.append(error.text)
        return [], [], 0.0
    assert divisor is not None
    good = divisor > 0 if flags is None else (flags == 0) & (divisor > 0)
    found: list[tuple[FramePlan, float, float, Array]] = []
    for flat in night.inputs(product):
        try:
            values = calibrated_rows(night, flat, bands)
        except FlatcalError as error:
            missing.append(error.text)
            continue
        level = _level_of(night, flat, values[good])
        ratio = np.where(good, values / np.where(good, divisor, 1) / level, 1.0)
        low, high = finite_percentiles(ratio[good], (15.865, 84.135))
        found.append((flat, level, (high - low) / 2 * 100, coarse_grid(ratio)))
    if not found:
        return [], [], 0.0
    reach = max(_LEAST_RANGE, *(float(np.percentile(abs(g - 1), 98)) for *_, g in found))
    files, dates = [f.file for f, *_ in found], [f.date for f, *_ in found]
    plots = [
        plot_against_time(
            "level of each flat", "median, ADU", files, dates, np.array([v for _, v, *_ in found])
        ),
        plot_against_time(
            "scatter of each flat over the master", "percent of the level", files, dates,
            np.array([v for _, _, v, _ in found]),
        ),
    ]  # fmt: skip
    return plots, [_thumbnail(*each, reach) for each in found], reach


def _level_of(night: ReducedNight, flat: FramePlan, values: Array) -> float:
    product = night.run.products.get(flat.output or "")
    known = product.median_adu if product else None
    return known or float(np.median(values)) or 1.0


def _thumbnail(
    flat: FramePlan, level: float, scatter: float, grid: Array, reach: float
) -> Thumbnail:
    told = (
        f"{flat.file} over its median and over the master: parts of the image from "
        f"{grid.min():.4f} to {grid.max():.4f}, scatter of pixels {scatter:.2g} %, level "
        f"{level:.5g}"
    )
    return Thumbnail(flat.file, told, thumbnail(grid, 1 - reach, 1 + reach))
