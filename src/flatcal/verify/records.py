"""What the acceptance tests found: one record for each test of each file."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final, Literal

from flatcal.camera import Strict

# DMTN-101 asks for a noise within 5 % of the read noise; every scatter here is held to that.
TOLERANCE: Final = 0.05
# Standard errors of an estimate that are granted to chance: exceeded once in two million
# tests, so a night of thousands of them does not fail by chance.
N_SIGMA: Final = 5.0
# A pattern of this rms, in units of the noise of a pixel, raises the scatter by the tolerance.
PATTERN: Final = math.sqrt((1 + TOLERANCE) ** 2 - 1)

TESTS: Final[dict[str, str]] = {
    "outputs": "every output that the run lists is there and can be read",
    "bias-mean": "mean of a raw bias less the master",
    "bias-noise": "scatter of a raw bias less the master, over the read noise",
    "bias-halves": "mean of the even less the odd bias frames",
    "bias-uncertainty": "scatter of the halves' difference, over UNCERT of the master",
    "dark-mean": "mean of a raw dark, treated as for the master, less the master",
    "dark-noise": "scatter of that, over the predicted noise",
    "dark-halves": "mean of the even less the odd darks",
    "dark-uncertainty": "scatter of the halves' difference, over UNCERT of the master",
    "flat-photons": "scatter between two flats, over that of photons and read noise",
    "flat-over-master": "mean of a flat over its median and over the master",
    "flat-pattern": "largest departure of a box of 32 x 32 pixels of that from its mean",
    "flat-uncertainty": "scatter of a flat about the master, over UNCERT",
    "dark-left": "part of the subtracted dark that hot pixels still show",
    "science-uncertainty": "scatter between neighbouring rows, over UNCERT",
    "gain": "gain by flat pairs, over the gain that was assumed",
    "read-noise": "read noise by bias pairs, over the one that was assumed",
    "photon-transfer": "noise of the flat pair that departs most from the fitted curve, over it",
}


# Why flats of a colour matrix are not held against one another, which is for one colour.
COLOURS_DIFFER: Final = "the sensor has a colour matrix, and its flats may differ in colour"


class Verdict(StrEnum):
    """How a test ended."""

    PASS = "pass"
    FAIL = "fail"
    NOT_POSSIBLE = "not possible"


class Check(Strict):
    """One test of one file.

    Attributes
    ----------
    test : str
        Key of `TESTS`.
    subject : str
        What was tested: a file, a pair or a set-up.
    verdict : Verdict
        Passed when the figure is within the limit of what is expected.
    figure, expected, limit : float or None
        The figure, what it should be, and how far from that it may be.
    unit : str
        Of all three; empty for ratios.
    reason : str
        Where the limit comes from, or why the test is not possible.
    """

    test: str
    subject: str
    verdict: Verdict
    figure: float | None = None
    expected: float | None = None
    limit: float | None = None
    unit: str = ""
    reason: str = ""


class Verification(Strict):
    """What `flatcal verify` found.

    Attributes
    ----------
    schema_version : int
        Of the JSON form.
    flatcal_version : str
        That tested.
    out, raw : str
        The output folder and the raw folder.
    sample_pixels : int
        Pixels that were read of a file, in bands of rows spread evenly over it.
    checks : tuple of Check
        In the order of the calibration.
    """

    schema_version: Literal[1] = 1
    flatcal_version: str
    out: str
    raw: str
    sample_pixels: int
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """Tests that failed."""
        return tuple(check for check in self.checks if check.verdict is Verdict.FAIL)


def judge(
    test: str,
    subject: str,
    figure: float,
    limit: float,
    reason: str,
    *,
    expected: float = 0.0,
    unit: str = "",
) -> Check:
    """A test by its figure; one without a number fails."""
    if not (math.isfinite(figure) and math.isfinite(limit)):
        return Check(
            test=test, subject=subject, verdict=Verdict.FAIL, reason="there is no good pixel"
        )
    passed = abs(figure - expected) <= limit
    return Check(
        test=test,
        subject=subject,
        verdict=Verdict.PASS if passed else Verdict.FAIL,
        figure=figure,
        expected=expected,
        limit=limit,
        unit=unit,
        reason=reason,
    )


def judge_scatter(test: str, subject: str, ratio: float, n: int, *, error: float = 0.0) -> Check:
    """A test of a scatter over its prediction.

    Parameters
    ----------
    test, subject : str
        See `Check`.
    ratio : float
        Standard deviation of n values over the predicted one.
    n : int
        Values; the standard error of the ratio is 1 / sqrt(2 n).
    error : float
        The standard error, where it is not that.
    """
    chance = N_SIGMA * (error or 1 / math.sqrt(2 * max(n, 1)))
    reason = f"{TOLERANCE:.0%} of the noise and {N_SIGMA:g} standard errors ({chance:.2g})"
    return judge(test, subject, ratio, TOLERANCE + chance, reason, expected=1.0)


def not_possible(test: str, subject: str, reason: str) -> Check:
    """A test that cannot be made, and why."""
    return Check(test=test, subject=subject, verdict=Verdict.NOT_POSSIBLE, reason=reason)
