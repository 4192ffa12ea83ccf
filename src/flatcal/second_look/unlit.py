"""Doubts about bias frames and darks: whether light fell on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Final

from flatcal.frame import Caveat, Frame
from flatcal.matching import Group, exposure_of, same_setup, same_temperature
from flatcal.recipe import DarkSettings
from flatcal.second_look.seen import (
    LEAST_SIBLINGS,
    NOTABLE_LEVEL,
    Doubts,
    Seen,
    each_with_others,
    is_notable,
    noise_of,
)

# Dark current changes by half when a sensor that is not cooled warms up by 4 degrees.
NOTABLE_DARK: Final = 0.5
# From darks of another exposure time less is known: glow does not grow with time.
NOTABLE_RATE: Final = 3.0


def doubt_biases(groups: Sequence[Group], seen: Mapping[str, Seen]) -> Doubts:
    """Bias frames whose level is far above that of the others."""
    for group in groups:
        for one, others in each_with_others(group, seen):
            levels = [other.level for other in others]
            excess, noise = one.level - median(levels), noise_of(others)
            if is_notable(excess, levels, noise):
                text = (
                    f"its level is {one.say(excess)} above that of the other {len(others)} bias "
                    f"frames, whose pixels have a noise of {one.say(noise)}"
                )
                yield one.frame, _doubt("bias", text)


def _doubt(kind: str, text: str) -> Caveat:
    remedy = "say its kind with --kind or in [[kinds]], or take it out of the folder"
    return Caveat("kind-doubt", f"taken as {kind}, but {text}: light fell on it; {remedy}")


def doubt_darks(
    groups: Sequence[Group], seen: Mapping[str, Seen], settings: DarkSettings
) -> Doubts:
    """Darks with more than others of their exposure time have, or than the current accounts for."""
    for group in groups:
        unlike = {
            one.frame.file: text
            for one, others in each_with_others(group, seen)
            if (text := _unlike_others(one, others))
        }
        fitting = _of_other_times(group.first, groups, settings)
        others = [seen[frame.file] for frame in fitting]
        for frame in group.frames:
            text = unlike.get(frame.file) or _beyond_current(seen[frame.file], others)
            if text:
                yield frame, _doubt("dark", text)


def _of_other_times(
    dark: Frame, groups: Sequence[Group], settings: DarkSettings
) -> Iterator[Frame]:
    for group in groups:
        near = same_temperature(dark, group.first, settings.temperature_tolerance_c)
        if dark not in group.frames and same_setup(dark, group.first) and near:
            yield from group.frames


def _unlike_others(one: Seen, others: Sequence[Seen]) -> str:
    """How a dark differs from others of its exposure time: sky lifts the level, stars the top."""
    noise = noise_of(others)
    levels = [other.level for other in others]
    spreads = [other.look.high - other.look.level for other in others]
    current = 0.0 if one.bias is None else median(levels) - one.bias
    for what, value, usual, least in (
        ("its level is", one.level, levels, current),
        ("its brightest 1 % are", one.look.high - one.look.level, spreads, median(spreads)),
    ):
        excess = value - median(usual)
        if is_notable(excess, usual, noise) and excess > NOTABLE_DARK * least:
            return (
                f"{what} {one.say(excess)} above that of the other {len(others)} darks of "
                f"{exposure_of(one.frame):g} s, and the noise of its pixels is "
                f"{one.say(one.noise)} against {one.say(noise)}"
            )
    return ""


def _beyond_current(one: Seen, others: Sequence[Seen]) -> str:
    """Whether a dark has far more than the current that darks of other exposure times show."""
    time = exposure_of(one.frame)
    known = [
        (time / exposure_of(other.frame), other.light)
        for other in others
        if other.light is not None and exposure_of(other.frame) > 0
    ]
    if one.light is None or len(known) < LEAST_SIBLINGS:
        return ""
    # A level that is off by the drift is off by more when it is scaled up.
    drift = NOTABLE_LEVEL * noise_of(others)
    allowed = median(
        NOTABLE_RATE * max(0.0, ratio * light) + drift * max(1.0, ratio) for ratio, light in known
    )
    if one.light <= allowed:
        return ""
    expected = median(ratio * light for ratio, light in known)
    return (
        f"its level is {one.say(one.light)} above the bias, where {len(known)} darks of other "
        f"exposure times let expect {one.say(expected)} in {time:g} s"
    )
