"""The report of a run with the tests of its outputs, and gain and noise measured."""

from __future__ import annotations

from flatcal.errors import FlatcalError
from flatcal.index import find_frames
from flatcal.photon_transfer.night import DetectorReport, measure_detectors
from flatcal.report.page import require_our_report, write_report
from flatcal.storage import Place
from flatcal.verify import verify_output
from flatcal.verify.night import open_night


def write_tested_report(out: str | Place) -> Place:
    """Test the outputs, measure gain and noise, and write the report with the results.

    Unlike `write_report` this reads all frames again.

    Raises
    ------
    ConfigError
        When the folder holds no run.
    OutputError
        When the page cannot be written, or flatcal did not write the one that is there.
    """
    require_our_report(out)  # before all the work
    return write_report(out, verification=verify_output(out), measured=measure_run(out))


def measure_run(out: str | Place) -> DetectorReport | None:
    """Gain and noise by the raw frames; nothing where they are gone, which the report says."""
    night = open_night(out)
    config = night.plan.config
    try:
        frames = find_frames(night.raw, config)
    except FlatcalError:
        return None
    kept = [frame for frame in frames if config.exclusion(frame.file) is None]
    return measure_detectors(night.raw, kept)
