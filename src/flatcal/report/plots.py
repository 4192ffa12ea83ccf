"""Diagrams of a night, as views."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.report.views import Line, Plot
from flatcal.verify.records import Check

Array = NDArray[Any]

_BINS: Final = 200
# Of many pixels a part shows the same histogram.
_COUNTED: Final = 1 << 20
_LOOKED_AT: Final = 1 << 14
_LEAST_FIGURES: Final = 2


def count_values(label: str, values: Array, limits: tuple[float, float] | None = None) -> Line:
    """Histogram of values as a line; without limits the range of 99.98 % of them."""
    flat = values.ravel()
    flat = flat[:: max(1, flat.size // _COUNTED)]
    if not flat.size:
        return Line(label, np.empty(0), np.empty(0))
    low, high = limits or np.percentile(flat, (0.01, 99.99))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(flat, _edges(flat, float(low), float(high)))
    return Line(label, (edges[1:] + edges[:-1]) / 2, counts)


def _edges(values: Array, low: float, high: float) -> Array:
    """Edges of bins that hold as many of the steps in which values come, each; or none does.

    Raw values are whole numbers, and averages of ten are tenths: bins of other widths would hold
    now one step and now two, and their histogram would be a comb.
    """
    width = (high - low) / _BINS
    seen = np.unique(values[:_LOOKED_AT])
    if 2 < seen.size < values[:_LOOKED_AT].size / 2:
        quantum = float(np.median(np.diff(seen)))
        width = quantum * max(1, round(width / quantum + 0.5))
        low = float(seen[0]) + quantum * (round((low - float(seen[0])) / quantum) - 0.5)
    return np.asarray(low + width * np.arange(int((high - low) / width) + 2))


def plot_steps(title: str, rows: Sequence[tuple[str, Array]], unit: str) -> Plot:
    """Histograms of a frame before and after each step, over one range."""
    finite = [(label, values[np.isfinite(values)]) for label, values in rows]
    ends = [np.percentile(values, (0.1, 99.9)) for _, values in finite if values.size]
    limits = (min(e[0] for e in ends), max(e[1] for e in ends)) if ends else (0.0, 1.0)
    medians = ", ".join(
        f"{label} {np.median(values):.5g}" for label, values in finite if values.size
    )
    return Plot(
        title=title,
        alt=f"histograms before and after each step; medians in {unit}: {medians}",
        x_label=unit,
        y_label="pixels",
        lines=tuple(count_values(label, values, limits) for label, values in finite),
        log_y=True,
    )


def times_of(dates: Sequence[str]) -> Array | None:
    """Milliseconds since 1970; None unless all are dates with a time, and not all alike."""
    try:
        moments = [datetime.fromisoformat(date) for date in dates]
    except ValueError:
        return None
    if len(set(moments)) < min(2, len(moments)):
        return None
    return np.array([m.replace(tzinfo=m.tzinfo or UTC).timestamp() * 1000 for m in moments])


def plot_against_time(
    title: str, label: str, files: Sequence[str], dates: Sequence[str], values: Array
) -> Plot:
    """A value of each frame against its time, or against its number where times are missing."""
    times = times_of(dates)
    numbers = np.arange(1, len(files) + 1)
    told = f"from {np.min(values):.5g} to {np.max(values):.5g}" if len(values) else "no value"
    return Plot(
        title=title,
        alt=f"{title} of {len(files)} frames: {told}",
        x_label="number of the frame" if times is None else "time (UTC)",
        y_label=label,
        lines=(Line("", numbers if times is None else times, values),),
        x_time=times is not None,
        dots=True,
        names=tuple(files),
    )


def plot_checks(test: str, meaning: str, checks: Sequence[Check]) -> Plot | None:
    """Figures of one test of all files with their limits; None when there are too few."""
    made = [check for check in checks if check.figure is not None and check.limit is not None]
    if len(made) < _LEAST_FIGURES:
        return None
    expected, limit = made[0].expected or 0.0, min(check.limit or 0.0 for check in made)
    figures = np.array([check.figure for check in made], float)
    return Plot(
        title=test,
        alt=f"{meaning}: {len(made)} figures from {figures.min():.4g} to {figures.max():.4g}; "
        f"{expected:g} +- {limit:.2g} is right",
        x_label="number of the test",
        y_label=made[0].unit or "ratio",
        lines=(Line("", np.arange(1, len(made) + 1), figures),),
        dots=True,
        band=(expected - limit, expected + limit),
        names=tuple(check.subject for check in made),
    )
