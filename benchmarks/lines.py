"""Lines of the table: what is divided by what, and which number is the goal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Protocol

from benchmarks.measure import Measure

# By the name of a contender: its measurements, or why there are none.
Results = Mapping[str, "Series | str"]
Divide = Callable[[float, float], tuple[float, bool | None]]


@dataclass(frozen=True, slots=True)
class Series:
    """The rounds of one contender."""

    rounds: tuple[Measure, ...]

    def seconds(self, part: str = "") -> float:
        """Median of the rounds, of a part or of all."""
        return median(m.parts[part] if part else m.seconds for m in self.rounds)

    @property
    def peak_bytes(self) -> int:
        """The most of all rounds."""
        return max(m.peak_bytes for m in self.rounds)


@dataclass(frozen=True, slots=True)
class TableLine:
    """One printed line; every field is text, and empty where it does not apply.

    Attributes
    ----------
    what, against : str
        The two sides.
    seconds, other_seconds, ratio, goal : str
        Figures.
    met : str
        'yes', 'no', or why it is not known; empty without a goal.
    peak, other_peak : str
        Peak memory in MB.
    """

    what: str
    seconds: str = ""
    against: str = ""
    other_seconds: str = ""
    ratio: str = ""
    goal: str = ""
    met: str = ""
    peak: str = ""
    other_peak: str = ""


class Line(Protocol):
    """Makes a line of the table."""

    def evaluate(self, results: Results) -> TableLine:
        """The line, also when a side was not measured."""
        ...


@dataclass(frozen=True, slots=True)
class Faster:
    """How many times faster flatcal is: seconds of the rival over those of `ours`.

    Attributes
    ----------
    ours, rival : str
        Contenders.
    least : float or None
        The goal.
    part, rival_part : str
        The part that is meant of either; empty for all.
    label : str
        What the line is called, if not as the contender.
    """

    ours: str
    rival: str
    least: float | None = None
    part: str = ""
    rival_part: str = ""
    label: str = ""

    def evaluate(self, results: Results) -> TableLine:
        """See `Line`."""
        goal = "" if self.least is None else f"at least {self.least:g}"

        def ratio(ours: float, rival: float) -> tuple[float, bool | None]:
            value = rival / ours
            return value, None if self.least is None else value >= self.least

        sides = (self.ours, self.part), (self.rival, self.rival_part)
        return replace(_compare(results, *sides, goal, ratio), what=self.label or self.ours)


@dataclass(frozen=True, slots=True)
class Costs:
    """How many times as long `ours` takes as something that it cannot be faster than."""

    ours: str
    other: str
    most: float

    def evaluate(self, results: Results) -> TableLine:
        """See `Line`."""

        def ratio(ours: float, other: float) -> tuple[float, bool | None]:
            return ours / other, ours / other <= self.most

        goal = f"at most {self.most:g}"
        return _compare(results, (self.ours, ""), (self.other, ""), goal, ratio)


@dataclass(frozen=True, slots=True)
class Within:
    """Seconds that a whole process may take."""

    ours: str
    most_seconds: float

    def evaluate(self, results: Results) -> TableLine:
        """See `Line`."""
        goal = f"at most {self.most_seconds:g} s"
        series = results[self.ours]
        if isinstance(series, str):
            return TableLine(self.ours, goal=goal, met=series)
        seconds = series.seconds()
        return TableLine(
            self.ours,
            format_seconds(seconds),
            goal=goal,
            met=_yes(seconds <= self.most_seconds),
            peak=format_bytes(series.peak_bytes),
        )


@dataclass(frozen=True, slots=True)
class Steady:
    """Seconds per frame that must not depend on the number of frames."""

    what: str
    counts: Mapping[str, int]
    most_spread: float

    def evaluate(self, results: Results) -> TableLine:
        """See `Line`."""
        goal = f"within {self.most_spread:.0%}"
        each = {name: results[name] for name in self.counts}
        failed = [series for series in each.values() if isinstance(series, str)]
        if failed:
            return TableLine(self.what, goal=goal, met=failed[0])
        milliseconds = [
            1000 * series.seconds() / self.counts[name]
            for name, series in each.items()
            if isinstance(series, Series)
        ]
        spread = max(milliseconds) / min(milliseconds) - 1
        return TableLine(
            self.what,
            " ".join(f"{value:.0f}" for value in milliseconds) + " ms",
            ratio=f"{spread:.0%}",
            goal=goal,
            met=_yes(spread <= self.most_spread),
        )


@dataclass(frozen=True, slots=True)
class Bounded:
    """Peak memory that a process may take."""

    what: str
    names: Sequence[str]
    most_bytes: int

    def evaluate(self, results: Results) -> TableLine:
        """See `Line`."""
        goal = f"at most {format_bytes(self.most_bytes)} MB"
        each = [results[name] for name in self.names]
        failed = [series for series in each if isinstance(series, str)]
        if failed:
            return TableLine(self.what, goal=goal, met=failed[0])
        peak = max(series.peak_bytes for series in each if isinstance(series, Series))
        met = _yes(peak <= self.most_bytes)
        return TableLine(self.what, goal=goal, met=met, peak=format_bytes(peak))


def format_seconds(seconds: float) -> str:
    """Three digits, in seconds or milliseconds."""
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1000 * seconds:.3g} ms"


def format_bytes(n_bytes: int) -> str:
    """Whole megabytes."""
    return f"{n_bytes / 1e6:.0f}"


def _compare(
    results: Results,
    ours: tuple[str, str],
    other: tuple[str, str],
    goal: str,
    divide: Divide,
) -> TableLine:
    """A line of two sides, each a contender and the part of it that is meant."""
    (name, part), (other_name, other_part) = ours, other
    one, two = results[name], results[other_name]
    line = TableLine(name, against=other_name, goal=goal)
    if isinstance(one, Series):
        line = replace(
            line, seconds=format_seconds(one.seconds(part)), peak=format_bytes(one.peak_bytes)
        )
    else:
        line = replace(line, seconds=one, met=one)
    if isinstance(two, Series):
        line = replace(
            line,
            other_seconds=format_seconds(two.seconds(other_part)),
            other_peak=format_bytes(two.peak_bytes),
        )
    else:
        line = replace(line, other_seconds=two, met=two)
    if isinstance(one, Series) and isinstance(two, Series):
        value, met = divide(one.seconds(part), two.seconds(other_part))
        line = replace(line, ratio=f"{value:.3g}", met=_yes(met))
    return line


def _yes(met: bool | None) -> str:
    return "" if met is None else ("yes" if met else "no")
