"""Writing the report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flatcal.errors import FlatcalError
from flatcal.index import find_frames
from flatcal.io import write_text
from flatcal.photon_transfer.night import DetectorReport, measure_detectors
from flatcal.report.gather import gather_report
from flatcal.report.html import Alert, render_report
from flatcal.verify import verify_output
from flatcal.verify.night import open_night

REPORT: str = "report.html"


def write_report(
    out: str | Path, *, tests: bool = True, alerts: Sequence[Alert] = (), live: str = ""
) -> Path:
    """Write the report of a run as one page that opens without a network.

    Parameters
    ----------
    out : str or Path
        The output folder of a run.
    tests : bool
        Whether the outputs are tested and gain and noise measured; that reads all frames again.
    alerts, live
        See `render_report`.

    Returns
    -------
    Path
        The page, ``report.html`` in the output folder.

    Raises
    ------
    ConfigError
        When the folder holds no run.
    OutputError
        When the page cannot be written.
    """
    folder = Path(out)
    verification = verify_output(folder) if tests else None
    measured = _measure(folder) if tests else None
    view = gather_report(folder, verification, measured)
    path = folder / REPORT
    write_text(path, render_report(view, alerts, live))
    return path


def _measure(out: Path) -> DetectorReport | None:
    """Gain and noise of the raw frames; nothing where they are gone, which the report says."""
    night = open_night(out)
    try:
        return measure_detectors(night.raw, find_frames(night.raw, night.plan.config))
    except FlatcalError:
        return None
