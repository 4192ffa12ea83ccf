"""Frames with what their pixels show, and their siblings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Final

from flatcal.frame import Caveat, Frame, Kind
from flatcal.matching import Group, same_setup
from flatcal.survey import Look

# Others that a frame is held against; the MAD of fewer says nothing.
LEAST_SIBLINGS: Final = 3
# Levels that differ by less than this many times a pixel's noise raise no doubt: over a night
# that of the Lick Nickel drifts by 8 where no overscan is used.
NOTABLE_LEVEL: Final = 10.0
# And by less than this many times the scatter of the siblings, which of three of them may be
# small by chance.
NOTABLE_SCATTER: Final = 6.0
_MAD_TO_SIGMA: Final = 1.4826
# Rounding to whole numbers makes this much noise.
_LEAST_NOISE: Final = 0.29

# A frame and what is to be said of it.
Doubts = Iterator[tuple[Frame, Caveat]]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A frame with what its pixels show.

    Attributes
    ----------
    frame, look
        The frame and its look.
    level : float
        Of the image, less that of its own overscan where one is used.
    bias : float or None
        That of the bias frames; None when there are none.
    """

    frame: Frame
    look: Look
    level: float
    bias: float | None

    @property
    def light(self) -> float | None:
        """Level above the bias; None where that is not known."""
        return None if self.bias is None else self.level - self.bias

    @property
    def noise(self) -> float:
        """Noise of a pixel."""
        return max(self.look.scatter, _LEAST_NOISE)

    def say(self, value: float) -> str:
        """A value with its unit."""
        assert self.frame.setup is not None
        unit = "ADU" if self.frame.setup.unit == "adu" else self.frame.setup.unit
        return f"{value:.0f} {unit}" if abs(value) >= 100 else f"{value:.2g} {unit}"


def see(frames: Sequence[Frame], looks: Mapping[str, Look]) -> dict[str, Seen]:
    """The frames that were looked at, by their files."""
    good = [frame for frame in frames if not frame.errors and frame.file in looks]
    levels = {frame.file: _level(frame, looks[frame.file]) for frame in good}
    setups: list[tuple[Frame, list[float]]] = []
    for frame in good:
        if frame.kind is Kind.BIAS:
            _of_setup(frame, setups).append(levels[frame.file])
    return {
        frame.file: Seen(
            frame,
            looks[frame.file],
            levels[frame.file],
            bias=next((median(of) for like, of in setups if same_setup(like, frame)), None),
        )
        for frame in good
    }


def _of_setup(bias: Frame, setups: list[tuple[Frame, list[float]]]) -> list[float]:
    """The levels of the bias frames of a set-up, which is added where it is new."""
    for like, levels in setups:
        if same_setup(like, bias):
            return levels
    setups.append((bias, []))
    return setups[-1][1]


def _level(frame: Frame, look: Look) -> float:
    assert frame.geometry is not None
    if frame.geometry.is_divided or frame.geometry.overscan_section is None:
        return look.level
    section = frame.geometry.overscan_section
    columns = range(section[1].start, section[1].stop)
    inside = [
        level
        for strip in look.strips
        for column, level in enumerate(strip.levels, strip.start)
        if column in columns
    ]
    return look.level - fmean(inside)


def each_with_others(group: Group, seen: Mapping[str, Seen]) -> Iterator[tuple[Seen, list[Seen]]]:
    """Each frame of a group with the others, where these are enough."""
    members = [seen[frame.file] for frame in group.frames]
    for index, one in enumerate(members):
        if len(members) > LEAST_SIBLINGS:
            yield one, members[:index] + members[index + 1 :]


def noise_of(several: Sequence[Seen]) -> float:
    """Noise of a pixel in most of several frames."""
    return median(one.noise for one in several)


def is_notable(excess: float, others: Sequence[float], noise: float) -> bool:
    """Whether something is above the median of others by more than they scatter or drift."""
    middle = median(others)
    scatter = _MAD_TO_SIGMA * median(abs(other - middle) for other in others)
    return excess > max(NOTABLE_LEVEL * noise, NOTABLE_SCATTER * scatter)
