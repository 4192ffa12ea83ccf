"""Acceptance tests of what a run has made, from its outputs and where they are its raw frames.

They share no code with the engine. The tests follow the verification plan of LSST Data
Management, DMTN-101.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from flatcal._version import __version__
from flatcal.errors import BrokenFileError, FlatcalError
from flatcal.frame import Kind
from flatcal.storage import Place
from flatcal.verify.flats import verify_flats
from flatcal.verify.frames import verify_dark, verify_noise
from flatcal.verify.night import ReducedNight, open_night
from flatcal.verify.planes import SAMPLE_PIXELS, require_readable
from flatcal.verify.records import TESTS, Check, Verdict, Verification, not_possible
from flatcal.verify.stacks import verify_stack
from flatcal.verify.transfer import verify_detectors

__all__ = ["TESTS", "Check", "Verdict", "Verification", "verify_output"]


def verify_output(out: str | Place) -> Verification:
    """Test the outputs of a run.

    Parameters
    ----------
    out : str, Path or RemotePath
        The output folder of a run.

    Returns
    -------
    Verification
        One check for each test of each file. Of each file about a million pixels are read, in
        bands of rows spread evenly over it; flagged pixels are left out.

    Raises
    ------
    ConfigError
        When the folder holds no run.
    """
    night = open_night(out)
    with np.errstate(divide="ignore", invalid="ignore"):
        # A noise of zero gives values that are not finite, and those never count as good.
        checks = tuple(_all_checks(night))
    return Verification(
        flatcal_version=__version__,
        out=str(out),
        raw=night.plan.raw,
        sample_pixels=SAMPLE_PIXELS,
        checks=checks,
    )


def _all_checks(night: ReducedNight) -> Iterator[Check]:
    yield from _verify_files(night)
    for kind in (Kind.BIAS, Kind.DARK):
        for master, product in night.masters(kind):
            test = f"{kind.value}-mean"
            yield from _guarded(test, master.output, partial(verify_stack, night, master, product))
    for master, product in night.masters(Kind.FLAT):
        yield from _guarded(
            "flat-over-master", master.output, partial(verify_flats, night, master, product)
        )
    for kind in (Kind.FLAT, Kind.SCIENCE):
        for frame in night.calibrated(kind):
            output = frame.output or ""
            yield from _guarded("dark-left", output, partial(verify_dark, night, frame))
            if kind is Kind.SCIENCE:
                test = "science-uncertainty"
                yield from _guarded(test, output, partial(verify_noise, night, frame))
    yield from verify_detectors(night)


def _verify_files(night: ReducedNight) -> Iterator[Check]:
    for output in night.run.products:
        try:
            require_readable(night.out / output)
        except BrokenFileError as error:
            yield Check(test="outputs", subject=output, verdict=Verdict.FAIL, reason=error.text)
        else:
            yield Check(test="outputs", subject=output, verdict=Verdict.PASS)


def _guarded(test: str, subject: str, verify: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """The checks, and where a file cannot be read what they got to, and that they ended there."""
    try:
        yield from verify()
    except FlatcalError as error:
        yield not_possible(test, subject, error.text)
