"""Doubts about flats: their light, and the filter that they are said to be in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from flatcal.frame import Caveat
from flatcal.matching import Group, same_setup
from flatcal.second_look.seen import LEAST_SIBLINGS, Doubts, Seen

Array = NDArray[Any]

# A flat with less light, in units of the noise of its pixels, has a noise of 5 % or more.
LEAST_LIGHT: Final = 20.0
# With so much less light than its siblings a flat has more than twice their noise, and all count
# alike. Twilight flats of one series seldom differ by more.
FAINT: Final = 0.2
# The Lick Nickel has a saturated column, 0.1 % of the image.
MOST_SATURATED: Final = 0.01
# Detectors are seldom linear in the last tenth below saturation.
NEAR_SATURATION: Final = 0.9
# A flat is another filter's when it is so many times nearer to that filter's flats than to its
# own, and so many times farther from its own than these are from one another.
NEARER: Final = 3.0
FARTHER: Final = 5.0
# Less than this is not worth a word: twilight flats of one filter differ by as much.
LEAST_DIFFERENCE: Final = 0.005
_LEAST_OF_OTHER_FILTER: Final = 2


def doubt_levels(groups: Sequence[Group], seen: Mapping[str, Seen]) -> Doubts:
    """Flats that are saturated, or have too little light to be of use."""
    for group in groups:
        members = [seen[frame.file] for frame in group.frames]
        for one in members:
            for text in (*_saturated(one), *_faint(one, [o for o in members if o is not one])):
                yield one.frame, Caveat("flat-level-doubt", text)


def _saturated(one: Seen) -> Iterator[str]:
    """Whether a flat is saturated, or near it."""
    limit = min(d.saturation_adu or np.inf for d in one.frame.detectors)
    if one.look.saturated_fraction <= MOST_SATURATED and one.look.high >= NEAR_SATURATION * limit:
        yield (
            f"its brightest 1 % are above {one.say(one.look.high)}, {one.look.high / limit:.0%} of "
            f"saturation ({limit:g}), where few detectors are linear; take it out of the folder, "
            "or correct camera.saturation_adu"
        )
    if one.look.saturated_fraction > MOST_SATURATED:
        yield (
            f"{one.look.saturated_fraction:.0%} of its pixels are at or above saturation "
            f"({limit:g}), its level is {one.say(one.look.level)}; take it out of the folder, or "
            "correct camera.saturation_adu"
        )


def _faint(one: Seen, others: Sequence[Seen]) -> Iterator[str]:
    """Whether a flat has no light, or much less than its siblings."""
    if one.light is None:
        return
    advice = "its noise goes into the master; take it out of the folder"
    if one.light < LEAST_LIGHT * one.noise:
        scatter = one.say(one.noise)
        yield f"it has {one.say(one.light)} of light, and its pixels scatter by {scatter}; {advice}"
        return
    lights = [other.light for other in others if other.light is not None]
    if len(lights) >= LEAST_SIBLINGS and one.light < FAINT * median(lights):
        usual = one.say(median(lights))
        yield (
            f"it has {one.say(one.light)} of light, the other {len(lights)} flats in "
            f"{one.frame.filter or 'no filter'} {usual}; {advice}"
        )


def doubt_filters(groups: Sequence[Group], seen: Mapping[str, Seen]) -> Doubts:
    """Flats that are illuminated like those of another filter rather than like their own."""
    known = [_Illumination.of(group, seen) for group in groups]
    for here in known:
        others = [
            there
            for there in known
            if there is not here
            and same_setup(there.group.first, here.group.first)
            and len(there.patterns) >= _LEAST_OF_OTHER_FILTER
        ]
        if not others or len(here.patterns) <= LEAST_SIBLINGS:
            continue
        for file, pattern in here.patterns.items():
            distance, spread = here.compare(file)
            nearest = min(others, key=lambda there: _distance(pattern, there.usual))
            nearer = _distance(pattern, nearest.usual)
            if distance > max(NEARER * nearer, FARTHER * spread, LEAST_DIFFERENCE):
                yield seen[file].frame, _filter_doubt(here.name, nearest.name, distance, nearer)


@dataclass(frozen=True, slots=True, eq=False)
class _Illumination:
    """How the flats of a filter are illuminated.

    Attributes
    ----------
    group : Group
        The flats.
    patterns : dict
        Grid of each that has light enough, of level 1.
    usual : ndarray
        Their median.
    """

    group: Group
    patterns: dict[str, Array]
    usual: Array

    @classmethod
    def of(cls, group: Group, seen: Mapping[str, Seen]) -> Self:
        """The illumination that the looks at a group show."""
        patterns = {}
        for frame in group.frames:
            one = seen[frame.file]
            usable = one.look.saturated_fraction <= MOST_SATURATED
            if usable and one.light is not None and one.light > LEAST_LIGHT * one.noise:
                zero = one.look.level - one.light
                patterns[frame.file] = (np.array(one.look.grid) - zero) / one.light
        usual = np.median(list(patterns.values()), axis=0) if patterns else np.empty(0)
        return cls(group, patterns, usual)

    @property
    def name(self) -> str:
        """The filter."""
        return self.group.first.filter or "none"

    def compare(self, file: str) -> tuple[float, float]:
        """How far a flat is from the others, and how far these typically are."""
        others = [pattern for name, pattern in self.patterns.items() if name != file]
        usual = np.median(others, axis=0)
        spread = median(_distance(other, usual) for other in others)
        return _distance(self.patterns[file], usual), spread


def _distance(pattern: Array, other: Array) -> float:
    """Root mean square of their difference, whatever their levels."""
    return float(np.std(pattern - other))


def _filter_doubt(own: str, other: str, distance: float, nearer: float) -> Caveat:
    return Caveat(
        "filter-doubt",
        f"its filter is {own}, but its illumination differs by {distance:.2%} from that of the "
        f"other flats in {own}, and by {nearer:.2%} from that of the flats in {other}; look at it, "
        "and take it out of the folder or correct its header",
    )
