"""Diagrams of a run in matplotlib, for notebooks."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from flatcal.errors import ConfigError
from flatcal.report.gather_detectors import gather_detectors
from flatcal.report.gather_flats import gather_filters
from flatcal.report.plots import plot_steps
from flatcal.report.samples import rows_after_each_step, spread_bands
from flatcal.report.tested import measure_run
from flatcal.report.views import Plot
from flatcal.verify.night import open_night


def plot_view(plot: Plot, ax: Axes | None = None) -> Axes:
    """Draw a diagram of a report.

    Parameters
    ----------
    plot : Plot
        What is drawn.
    ax : matplotlib Axes, optional
        Where to draw instead of in a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    if ax is None:
        ax = plt.figure().gca()
    for line in plot.lines:
        x: Any = line.x
        if plot.x_time:
            x = [datetime.fromtimestamp(moment / 1000, UTC) for moment in line.x]
        is_dots = plot.dots or len(line.x) <= 20
        ax.plot(x, line.y, "o" if is_dots else "-", markersize=4, label=line.label or None)
    if plot.span is not None:
        ax.axvspan(*plot.span, alpha=0.15, color="green")
    if plot.band is not None:
        ax.axhspan(*plot.band, alpha=0.15, color="green")
    if plot.y_range is not None:
        ax.set_ylim(*plot.y_range)
    if plot.log_y:
        ax.set_yscale("log", nonpositive="mask")
    ax.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
    if any(line.label for line in plot.lines):
        ax.legend()
    return ax


def plot_flats(out: str | Path, master: str, ax: Axes | None = None) -> Axes:
    """Draw the level of each flat of a master against time.

    Parameters
    ----------
    out : path
        The output folder of a run.
    master : str
        Name of a master flat, as ``master_flat_V``.
    ax : matplotlib Axes, optional
        Where to draw instead of in a new figure.

    Raises
    ------
    ConfigError
        The folder holds no run (no-run), or the run no such master.
    """
    for view in gather_filters(open_night(out), only=master):
        return plot_view(view.plots[0], ax)
    raise ConfigError("no-run", f"{out} holds no {master}; name one of its master flats")


def plot_histograms(out: str | Path, file: str, ax: Axes | None = None) -> Axes:
    """Draw the histogram of a frame as it is raw, and after each step of its calibration.

    Parameters
    ----------
    out : path
        The output folder of a run.
    file : str
        Path of a flat or science frame below the raw folder, or its name.
    ax : matplotlib Axes, optional
        Where to draw instead of in a new figure.

    Raises
    ------
    ConfigError
        The folder holds no run (no-run), or the run no such frame (plan-file).
    BrokenFileError
        The raw file or a master cannot be read.
    """
    night = open_night(out)
    frame = night.plan.find_frame(file)
    if frame.action != "calibrate":
        raise ConfigError("plan-file", f"{file} is not calibrated; choose a flat or science frame")
    rows = list(rows_after_each_step(night, frame, spread_bands(frame.kept_shape)))
    return plot_view(plot_steps(f"{Path(frame.file).name}", rows, frame.unit.upper()), ax)


def plot_overscan(out: str | Path, ax: Axes | None = None) -> Axes:
    """Draw the profile of the columns beside the image, of the first camera of a run.

    Parameters
    ----------
    out : path
        The output folder of a run.
    ax : matplotlib Axes, optional
        Where to draw instead of in a new figure.

    Raises
    ------
    ConfigError
        The folder holds no run (no-run), or no frame of it has columns beside the image.
    """
    return plot_view(_find(out, "profile of the columns beside the image"), ax)


def plot_photon_transfer(out: str | Path, ax: Axes | None = None) -> Axes:
    """Draw the photon transfer curve of the first camera of a run, measured anew.

    Parameters
    ----------
    out : path
        The output folder of a run.
    ax : matplotlib Axes, optional
        Where to draw instead of in a new figure.

    Raises
    ------
    ConfigError
        The folder holds no run (no-run), or its frames do not tell the gain.
    """
    return plot_view(_find(out, "photon transfer curve"), ax)


def _find(out: str | Path, title: str) -> Plot:
    night = open_night(out)
    measured = measure_run(out) if title == "photon transfer curve" else None
    for view in gather_detectors(night, measured):
        for plot in view.plots:
            if plot.title == title:
                return plot
    raise ConfigError("no-run", f"the frames of {out} give no {title}")
