"""Whether the dark current of a camera grows in proportion to time, as scaling a dark assumes.

The levels of darks of several exposure times, over that of the bias, are held against each
other. Cameras that suppress their dark current, or glow while they read out, fail here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# A deviation counts from so many standard errors on, and from this fraction of what was expected.
_SIGNIFICANT: Final = 4.0
_NOTABLE: Final = 0.15


@dataclass(frozen=True, slots=True)
class DarkLevel:
    """Darks of one exposure time.

    Attributes
    ----------
    exposure_time_s : float
        Exposure time.
    level_adu : float
        Their mean level over that of the bias.
    error_adu : float
        Standard error of that, with the scatter of the bias level from frame to frame.
    """

    exposure_time_s: float
    level_adu: float
    error_adu: float


@dataclass(frozen=True, slots=True)
class DarkLinearity:
    """What the darks say.

    Attributes
    ----------
    linear : bool or None
        None when it cannot be told.
    text : str
        The figures.
    """

    linear: bool | None
    text: str


def judge_linearity(levels: Sequence[DarkLevel]) -> DarkLinearity:
    """Compare each dark with the longest, scaled to its exposure time.

    Parameters
    ----------
    levels : sequence of DarkLevel
        Of one set-up and temperature.
    """
    exposed = sorted((d for d in levels if d.exposure_time_s > 0), key=lambda d: d.exposure_time_s)
    if len(exposed) < 2:
        return DarkLinearity(None, "darks of one exposure time cannot tell whether it is linear")
    *others, longest = exposed
    worst, text = 0.0, ""
    for dark in others:
        ratio = dark.exposure_time_s / longest.exposure_time_s
        expected = longest.level_adu * ratio
        error = math.hypot(dark.error_adu, longest.error_adu * ratio)
        deviation = abs(dark.level_adu - expected)
        excess = deviation / max(_SIGNIFICANT * error, _NOTABLE * abs(expected))
        if excess > worst:
            worst = excess
            text = (
                f"darks of {dark.exposure_time_s:g} s hold {dark.level_adu:.1f} ADU "
                f"+- {dark.error_adu:.1f}, those of {longest.exposure_time_s:g} s "
                f"{longest.level_adu:.1f} +- {longest.error_adu:.1f}, which scales to "
                f"{expected:.1f}"
            )
    return DarkLinearity(worst <= 1, text)
