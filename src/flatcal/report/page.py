"""Writing the report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from flatcal.io import is_ours, require_ours, write_text
from flatcal.records import REPORT
from flatcal.report.gather import gather_report
from flatcal.report.html import Alert, render_report
from flatcal.storage import Place, place_of
from flatcal.verify.records import Verification

if TYPE_CHECKING:
    from flatcal.photon_transfer.night import DetectorReport

# Stands in report.html, before anything that is of a night.
_MARK: Final = b'<meta name="generator" content="flatcal">'


def has_report(out: Place) -> bool:
    """Whether there is a report of flatcal in an output folder."""
    return is_ours(out / REPORT, _MARK)


def require_our_report(out: str | Place) -> None:
    """Refuse a page under the name of the report that flatcal did not write.

    Raises
    ------
    OutputError
        When there is one.
    """
    require_ours(place_of(out) / REPORT, _MARK)


def write_report(
    out: str | Place,
    *,
    verification: Verification | None = None,
    measured: DetectorReport | None = None,
    alerts: Sequence[Alert] = (),
    live: str = "",
    overwrite: bool = False,
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
    overwrite : bool, optional
        Replace a page that flatcal did not write.

    Returns
    -------
    Path or RemotePath
        The page, ``report.html`` in the output folder.

    Raises
    ------
    ConfigError
        When the folder holds no run.
    OutputError
        When the page cannot be written, or flatcal did not write the one that is there.
    """
    folder = place_of(out)
    if not overwrite:
        require_our_report(folder)
    view = gather_report(folder, verification, measured)
    path = folder / REPORT
    write_text(path, render_report(view, alerts, live))
    return path
