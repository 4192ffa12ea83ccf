"""What a report shows: frozen, and without a word of HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from flatcal.report.pictures import Picture
from flatcal.verify.records import Check

if TYPE_CHECKING:
    from flatcal.photon_transfer.night import MeasuredDetector

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Points that belong together.

    Attributes
    ----------
    label : str
        Of the legend.
    x, y : ndarray, shape (points,)
        Coordinates.
    """

    label: str
    x: Array
    y: Array


@dataclass(frozen=True, slots=True, eq=False)
class Plot:
    """A diagram.

    Attributes
    ----------
    title, alt : str
        What it is, and what it shows for those who do not see it.
    x_label, y_label : str
        Of the axes, with units.
    lines : tuple of Line
        What is drawn.
    x_time : bool
        The x axis is time, in milliseconds since 1970.
    dots : bool
        Draw points instead of lines.
    log_y : bool
        Logarithmic values; zeros are left out.
    span : tuple of float or None
        Part of the x axis that is shaded.
    span_label : str
        What is shaded.
    band : tuple of float or None
        Part of the y axis that is shaded.
    y_range : tuple of float or None
        Part of the y axis that is shown at first.
    names : tuple of str
        Name of each point, where it has one.
    """

    title: str
    alt: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_time: bool = False
    dots: bool = False
    log_y: bool = False
    span: tuple[float, float] | None = None
    span_label: str = ""
    band: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One small picture of many."""

    file: str
    alt: str
    png: bytes


@dataclass(frozen=True, slots=True)
class MasterView:
    """A master.

    Attributes
    ----------
    name, kind : str
        As in the plan.
    facts : tuple of tuple of str
        Name and value.
    pictures : tuple of Picture
        The whole first, cut-outs after it.
    plots : tuple of Plot
        Histogram, and more for a dark.
    missing : tuple of str
        What cannot be shown, and why.
    """

    name: str
    kind: str
    facts: tuple[tuple[str, str], ...]
    pictures: tuple[Picture, ...] = ()
    plots: tuple[Plot, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FilterView:
    """The flats and science frames of a filter.

    Attributes
    ----------
    name : str
        The filter.
    plots : tuple of Plot
        Level and scatter against time, histograms after each step.
    ratios : tuple of Thumbnail
        Each flat over the master.
    ratio_range : float
        Half of the range of their colours.
    missing : tuple of str
        What cannot be shown, and why.
    """

    name: str
    plots: tuple[Plot, ...]
    ratios: tuple[Thumbnail, ...] = ()
    ratio_range: float = 0.0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """A caveat or an error, with all files that have it."""

    slug: str
    text: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FrameRow:
    """A raw frame: what became of it, and the whole story of why."""

    file: str
    kind: str
    exposure: str
    filter: str
    status: str
    result: str
    story: str


@dataclass(frozen=True, slots=True)
class DetectorView:
    """A set-up: its overscan, gain and noise.

    Attributes
    ----------
    name : str
        Camera and size.
    plots : tuple of Plot
        Profiles of the overscan, photon transfer curve.
    measured : MeasuredDetector or None
        Gain and read noise by pairs of frames.
    overscan_reason : str
        Why this overscan is used, or none.
    """

    name: str
    plots: tuple[Plot, ...] = ()
    measured: MeasuredDetector | None = None
    overscan_reason: str = ""


@dataclass(frozen=True, slots=True)
class ReportView:
    """All that a report shows.

    Attributes
    ----------
    title : str
        The raw folder's name.
    summary : tuple of str
        What was done, in sentences.
    errors, caveats : tuple of Note
        What failed, and what the observer should know.
    masters, filters, detectors, frames
        The parts.
    checks : tuple of Check
        Results of the acceptance tests.
    check_plots : tuple of Plot
        Noise against its prediction.
    provenance : tuple of tuple of str
        Name and value.
    settings : str
        The configuration as JSON.
    files : tuple of tuple of str
        Each input and output with its hash.
    missing : tuple of str
        What cannot be shown, and why.
    """

    title: str
    summary: tuple[str, ...]
    errors: tuple[Note, ...]
    caveats: tuple[Note, ...]
    masters: tuple[MasterView, ...]
    filters: tuple[FilterView, ...]
    detectors: tuple[DetectorView, ...]
    frames: tuple[FrameRow, ...]
    checks: tuple[Check, ...]
    check_plots: tuple[Plot, ...]
    provenance: tuple[tuple[str, str], ...]
    settings: str
    files: tuple[tuple[str, str], ...]
    missing: tuple[str, ...] = field(default=())
