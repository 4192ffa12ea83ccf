"""Whether the dark current of a camera grows in proportion to time, as scaling a dark assumes.

The levels of darks of several exposure times, over that of the bias, are held against each
other. Cameras that suppress their dark current, or glow while they read out, fail here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final

from flatcal.frame import Frame, Kind
from flatcal.matching import Group, same_setup, same_temperature
from flatcal.recipe import DarkSettings
from flatcal.second_look.seen import Seen

# A deviation counts from so many standard errors on, and from this fraction of what was expected.
_SIGNIFICANT: Final = 4.0
_NOTABLE: Final = 0.15
# The level of a frame is a median of whole numbers.
_ROUNDING_ADU: Final = 0.5


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


def find_nonlinear(
    groups: Sequence[Group], seen: Mapping[str, Seen], settings: DarkSettings
) -> dict[int, str]:
    """Groups of darks whose current does not grow with time, by their `id`, with the figures.

    Parameters
    ----------
    groups : sequence of Group
        All darks of a night.
    seen : mapping
        What the pixels of each file show.
    settings : DarkSettings
        They say what belongs together.
    """
    found: dict[int, str] = {}
    for group in groups:
        alike = [
            other
            for other in groups
            if same_setup(group.first, other.first)
            and same_temperature(group.first, other.first, settings.temperature_tolerance_c)
        ]
        wander = _bias_wander(group.first, seen)
        found_levels = (_level_of(other, seen, wander) for other in alike)
        levels = [level for level in found_levels if level is not None]
        verdict = judge_linearity(levels)
        if verdict.linear is False:
            found[id(group)] = verdict.text
    return found


def _bias_wander(dark: Frame, seen: Mapping[str, Seen]) -> float:
    """Scatter of the bias level from frame to frame, as far as no overscan takes it off."""
    levels = [
        one.level
        for one in seen.values()
        if one.frame.kind is Kind.BIAS and same_setup(one.frame, dark)
    ]
    return stdev(levels) if len(levels) > 1 else 0.0


def _level_of(group: Group, seen: Mapping[str, Seen], wander_adu: float) -> DarkLevel | None:
    """Level of a group over its bias; None where that is not known.

    Darks that were taken one after the other share the bias level of that hour, so its wander is
    not averaged out.
    """
    lights = [
        light
        for frame in group.frames
        if frame.file in seen and (light := seen[frame.file].light) is not None
    ]
    if not lights:
        return None
    scatter = stdev(lights) / math.sqrt(len(lights)) if len(lights) > 1 else 0.0
    error = math.hypot(_ROUNDING_ADU, scatter, wander_adu)
    return DarkLevel(group.exposure_time_s, fmean(lights), error)
