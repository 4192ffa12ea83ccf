"""Writing the report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flatcal.io import write_text
from flatcal.records import REPORT
from flatcal.report.gather import gather_report
from flatcal.report.html import Alert, render_report
from flatcal.storage import Place, place_of
from flatcal.verify.records import Verification

if TYPE_CHECKING:
    from flatcal.photon_transfer.night import DetectorReport


def write_report(
    out: str | Place,
    *,
    verification: Verification | None = None,
    measured: DetectorReport | None = None,
    alerts: Sequence[Alert] = (),
    live: str = "",
) -> Place:
    """Write the report of a run as one page that opens without a network.

    Parameters
    ----------
    out : str, Path or RemotePath
        The output folder of a run.
    verification : Verification, optional
        Results of the acceptance tests, see `flatcal.verify`.
    measured : DetectorReport, optional
        Gain and read noise, see `flatcal.photon_transfer`.
    alerts, live
        See `render_report`.

    Returns
    -------
    Path or RemotePath
        The page, ``report.html`` in the output folder.

    Raises
    ------
    ConfigError
        When the folder holds no run.
    OutputError
        When the page cannot be written.
    """
    folder = place_of(out)
    view = gather_report(folder, verification, measured)
    path = folder / REPORT
    write_text(path, render_report(view, alerts, live))
    return path
