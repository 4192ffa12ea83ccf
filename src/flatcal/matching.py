"""Which frames belong together, and which master serves a frame: each choice with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import NamedTuple

from flatcal.frame import Amplifier, Caveat, Detector, Frame, Geometry, Kind, Setup
from flatcal.recipe import DarkSettings
from flatcal.section import Section, parse_sections
from flatcal.stored import StoredMaster

# Darks are averaged together when their exposure times agree to this fraction.
SAME_EXPOSURE = 0.01
# Binary fractions: 1.1 s is not farther from 1 s than 0.1 s.
_ROUNDING = 1e-9
# Of a master it does not matter any more.
_UNKNOWN = Detector(None, None, None)
# Dark current changes by a third or more over this difference.
NOTABLE_TEMPERATURE_C = 3.0
# From this many frames on, a cosmic ray in one of them can be rejected.
ENOUGH_TO_REJECT = 3
# So many candidates are named in a refusal; the story of a frame has all.
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Group:
    """Frames that become one master.

    Attributes
    ----------
    kind : Kind
        Their kind.
    frames : tuple of Frame
        In the order of their files; of a master of the library, its facts as if of one frame.
    stored : StoredMaster or None
        The master of the library that it is.
    """

    kind: Kind
    frames: tuple[Frame, ...]
    stored: StoredMaster | None = None

    @property
    def first(self) -> Frame:
        """A frame that stands for all in what they have in common."""
        return self.frames[0]

    @property
    def n_frames(self) -> int:
        """How many frames the master is made of."""
        return len(self.frames) if self.stored is None else self.stored.n_frames

    @property
    def exposure_time_s(self) -> float:
        """Mean exposure time."""
        times = [frame.exposure_time_s or 0.0 for frame in self.frames]
        return times[0] if len(set(times)) == 1 else sum(times) / len(times)


@dataclass(frozen=True, slots=True)
class DarkChoice:
    """The dark for a frame.

    Attributes
    ----------
    dark : Group
        The darks that are averaged.
    scale : float
        Factor of the master dark; 1 when it is not scaled.
    scaled : bool
        Whether exposure times differ by more than the tolerance.
    reason : str
        Why this one.
    caveats : tuple of Caveat
        What the observer should know.
    """

    dark: Group
    scale: float
    scaled: bool
    reason: str
    caveats: tuple[Caveat, ...] = ()


def stored_group(stored: StoredMaster) -> Group:
    """A master of the library as a group that frames can be matched with."""
    shape = stored.setup.shape
    nowhere = (slice(0, 0), slice(0, 0))
    text = stored.trim_section
    sections: tuple[Section | None, ...] = parse_sections(text, shape) if text else (None,)
    frame = Frame(
        file=stored.path,
        kind=stored.kind,
        exposure_time_s=stored.exposure_time_s,
        set_temperature_c=stored.set_temperature_c,
        filter=stored.filter,
        date=stored.date_first,
        setup=stored.setup,
        geometry=Geometry(
            amplifiers=tuple(
                Amplifier(kept, nowhere if stored.overscan else None, _UNKNOWN) for kept in sections
            ),
            overscan_statistic="median",
            reason="as it was made",
            parallel_overscan_section=nowhere if stored.parallel_overscan else None,
        ),
    )
    return Group(stored.kind, (frame,), stored)


def same_setup(a: Frame, b: Frame) -> bool:
    """Whether camera, shape, binning, read-out mode, gain, unit and sections agree."""
    return a.setup == b.setup and _sections(a) == _sections(b)


def _sections(frame: Frame) -> tuple[object, bool, bool]:
    geometry = frame.geometry
    assert geometry is not None
    has_parallel = geometry.parallel_overscan_section is not None
    return geometry.data_sections, bool(geometry.overscan_sections), has_parallel


def _same_overscan(a: Frame, b: Frame) -> bool:
    """Whether the steps of one frame are those of the other, as within a master they must be."""
    assert a.geometry is not None
    assert b.geometry is not None
    return _levels_of(a.geometry) == _levels_of(b.geometry)


def _levels_of(geometry: Geometry) -> tuple[object, ...]:
    """All that determines the overscan levels."""
    return (
        geometry.overscan_sections,
        geometry.overscan_statistic,
        geometry.overscan_model,
        geometry.parallel_overscan_section,
    )


def same_temperature(a: Frame, b: Frame, tolerance_c: float) -> bool:
    """Whether set temperatures agree, or both headers are silent."""
    if a.set_temperature_c is None or b.set_temperature_c is None:
        return a.set_temperature_c is b.set_temperature_c
    return abs(a.set_temperature_c - b.set_temperature_c) <= tolerance_c + _ROUNDING


def group_bias(frames: Iterable[Frame], settings: DarkSettings) -> tuple[Group, ...]:
    """Bias frames of one set-up and temperature together."""

    def together(a: Frame, b: Frame) -> bool:
        return (
            same_setup(a, b)
            and _same_overscan(a, b)
            and same_temperature(a, b, settings.temperature_tolerance_c)
        )

    return _group(Kind.BIAS, frames, together)


def group_darks(frames: Iterable[Frame], settings: DarkSettings) -> tuple[Group, ...]:
    """Darks of one set-up, temperature and exposure time together."""

    def together(a: Frame, b: Frame) -> bool:
        difference = abs(exposure_of(a) - exposure_of(b))
        return (
            same_setup(a, b)
            and _same_overscan(a, b)
            and same_temperature(a, b, settings.temperature_tolerance_c)
            and difference <= min(settings.tolerance_s, SAME_EXPOSURE * exposure_of(a))
        )

    return _group(Kind.DARK, sorted(frames, key=exposure_of), together)


def group_flats(frames: Iterable[Frame]) -> tuple[Group, ...]:
    """Flats of one set-up and filter together."""
    return _group(Kind.FLAT, frames, lambda a, b: same_setup(a, b) and a.filter == b.filter)


def _group(
    kind: Kind, frames: Iterable[Frame], together: Callable[[Frame, Frame], bool]
) -> tuple[Group, ...]:
    """Each frame joins the first group whose first frame it fits."""
    groups: list[list[Frame]] = []
    for frame in frames:
        for group in groups:
            if together(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append([frame])
    return tuple(Group(kind, tuple(sorted(group, key=lambda f: f.file))) for group in groups)


def exposure_of(frame: Frame) -> float:
    """Exposure time in seconds of a frame without errors."""
    return frame.exposure_time_s or 0.0


def choose_bias(frame: Frame, groups: Sequence[Group], settings: DarkSettings) -> Group | None:
    """The bias frames for a frame, the nearest in set temperature, if there are any."""
    fitting = [
        group
        for group in groups
        if same_setup(frame, group.first)
        and same_temperature(frame, group.first, settings.temperature_tolerance_c)
    ]
    return min(fitting, key=lambda group: _degrees_off(frame, group), default=None)


def choose_flat(frame: Frame, groups: Sequence[Group]) -> Group | None:
    """The flats for a science frame, if there are any."""
    for group in groups:
        if same_setup(frame, group.first) and frame.filter == group.first.filter:
            return group
    return None


def choose_dark(
    frame: Frame,
    groups: Sequence[Group],
    bias: Group | None,
    settings: DarkSettings,
    nonlinear: Mapping[int, str] = MappingProxyType({}),
) -> DarkChoice | Caveat:
    """The dark for a frame, or why there is none.

    A dark as long as the frame is subtracted as it is. Otherwise, where there is a bias, a
    longer dark is scaled down: scaling down also scales down the noise of the dark, so the
    longest serves best, among those of at least three frames, in which cosmic rays could be
    rejected. A shorter one is scaled up only when the settings allow it.

    Parameters
    ----------
    frame : Frame
        The frame to be calibrated.
    groups : sequence of Group
        All groups of darks.
    bias : Group or None
        The bias that serves the frame.
    settings : DarkSettings
        Tolerances and permissions.
    nonlinear : mapping
        Of groups, by their `id`, whose current was measured not to grow with time: the figures.

    Returns
    -------
    DarkChoice or Caveat
        The choice, or the refusal with the candidates.
    """
    fitting = [group for group in groups if _refusal(frame, group, settings) is None]
    if not fitting:
        return Caveat("no-dark", _no_candidate(frame, groups, settings))
    exposure = exposure_of(frame)
    nearest = _nearest(frame, fitting, settings)
    difference = nearest.exposure_time_s - exposure
    if abs(difference) <= settings.tolerance_s + _ROUNDING * exposure:
        reason = (
            f"dark of {nearest.exposure_time_s:g} s for {exposure:g} s: {difference:+.3g} s is "
            f"within {settings.tolerance_s:g} s, so it is not scaled"
        )
        caveats = _dark_caveats(frame, nearest)
        if abs(difference) > SAME_EXPOSURE * exposure + DarkSettings().tolerance_s:
            text = f"unscaled dark of {nearest.exposure_time_s:g} s on a frame of {exposure:g} s"
            caveats += (Caveat("dark-exposure", f"{text}, by your dark.tolerance_s"),)
        return DarkChoice(nearest, 1.0, False, reason, caveats)
    scalable = _scalable(exposure, fitting, bias, settings, nonlinear)
    if isinstance(scalable, _Unscalable):
        return _exposure_refusal(frame, nearest, groups, settings, scalable)
    return _scaled(frame, scalable)


def _nearest(frame: Frame, fitting: Sequence[Group], settings: DarkSettings) -> Group:
    """The dark nearest in exposure time; of the library, of those within the tolerance the first.

    Those of the library come nearest in date first: a dark of yesterday is better than one of
    years ago that is nearer by a hundredth of a second.
    """

    def distance(group: Group) -> tuple[float, float]:
        difference = abs(group.exposure_time_s - exposure_of(frame))
        seconds = max(difference, settings.tolerance_s) if group.stored else difference
        return seconds, _degrees_off(frame, group)

    return min(fitting, key=distance)


def _degrees_off(frame: Frame, group: Group) -> float:
    """How far the set temperature is off; of the library the date decides."""
    mine, its = frame.set_temperature_c, group.first.set_temperature_c
    return 0.0 if group.stored or mine is None or its is None else abs(mine - its)


class _Unscalable(NamedTuple):
    """Why no dark may be scaled to an exposure time, and the remedy."""

    why: str
    remedy: str


def _scalable(
    exposure: float,
    fitting: Sequence[Group],
    bias: Group | None,
    settings: DarkSettings,
    nonlinear: Mapping[int, str],
) -> list[Group] | _Unscalable:
    """The darks that may be scaled to an exposure time, or why there is none and the remedy."""
    take = f"take darks of {exposure:g} s"
    if settings.scale == "never":
        return _Unscalable("dark.scale is never", f"{take}, or set dark.scale = 'auto'")
    # The bias goes off the frame and off the dark: it must fit both, or be gone from the dark.
    without_bias = [
        group
        for group in fitting
        if bias
        and (
            choose_bias(group.first, [bias], settings)
            if group.stored is None
            else group.stored.lost_bias
        )
    ]
    if not without_bias:
        why = "no bias frames fit, so its bias cannot be taken out"
        return _Unscalable(why, f"take bias frames or darks of {exposure:g} s")
    if settings.scale != "always":
        figures = [nonlinear[id(group)] for group in without_bias if id(group) in nonlinear]
        without_bias = [group for group in without_bias if id(group) not in nonlinear]
        if not without_bias:
            why = f"the dark current of this camera does not grow with time: {figures[0]}"
            return _Unscalable(why, f"{take}, or set dark.scale = 'always'")
    longer = [group for group in without_bias if group.exposure_time_s >= exposure]
    if not longer and not settings.scale_up:
        return _Unscalable("it is shorter", f"{take} or longer, or set dark.scale_up = true")
    shorter = [group for group in without_bias if group.exposure_time_s > 0]
    return longer or shorter or _Unscalable("it holds no current", take)


def _scaled(frame: Frame, candidates: Sequence[Group]) -> DarkChoice:
    exposure = exposure_of(frame)
    rejectable = [group for group in candidates if group.n_frames >= ENOUGH_TO_REJECT]
    dark = max(
        rejectable or candidates,
        key=lambda group: (group.exposure_time_s, -_degrees_off(frame, group)),
    )
    scale = exposure / dark.exposure_time_s
    caveats = _dark_caveats(frame, dark)
    if scale > 1:
        text = f"dark of {dark.exposure_time_s:g} s scaled up to {exposure:g} s; so is its noise"
        caveats += (Caveat("dark-exposure", text),)
    reason = (
        f"no dark of {exposure:g} s; the dark of {dark.exposure_time_s:g} s "
        f"({_count(dark)}) is scaled by {scale:.4g}"
    )
    return DarkChoice(dark, scale, True, reason, caveats)


def explain_darks(
    frame: Frame,
    groups: Sequence[Group],
    choice: DarkChoice | Caveat | None,
    settings: DarkSettings,
) -> tuple[str, ...]:
    """What became of each group of darks, the nearest in exposure time first.

    Parameters
    ----------
    frame : Frame
        The frame that was to be calibrated.
    groups : sequence of Group
        All groups of darks.
    choice : DarkChoice or other
        What `choose_dark` gave, or None where the frame goes without.
    settings : DarkSettings
        Tolerances and permissions.
    """
    taken = choice if isinstance(choice, DarkChoice) else None
    exposure = exposure_of(frame)
    lines = []
    for group in sorted(groups, key=lambda group: abs(group.exposure_time_s - exposure)):
        if taken is not None and group is taken.dark:
            verdict = "taken"
        else:
            verdict = _refusal(frame, group, settings) or _second_best(frame, group, taken)
        made_of = f"{_count(group)}, {_celsius(group.first)}"
        if group.stored is not None:
            made_of += f", library {group.stored.id} of {group.stored.date_first[:10] or 'no date'}"
        lines.append(f"dark of {group.exposure_time_s:g} s ({made_of}): {verdict}")
    return tuple(lines)


def _second_best(frame: Frame, group: Group, taken: DarkChoice | None) -> str:
    """Why a dark that could serve a frame was not taken."""
    exposure = exposure_of(frame)
    difference = f"{abs(group.exposure_time_s - exposure):g} s from the frame's {exposure:g} s"
    if taken is None:
        return f"{difference}, and not to be scaled"
    if group.stored and not taken.dark.stored:
        return "of the library, the one taken is of the night itself"
    if group.exposure_time_s == taken.dark.exposure_time_s:
        what = "date" if group.stored else "set temperature"
        return f"as long as the one taken, which is nearer in {what}"
    if taken.scaled:
        return _worse_to_scale(exposure, group, taken)
    return f"{difference}, the one taken is nearer"


def _worse_to_scale(exposure: float, group: Group, taken: DarkChoice) -> str:
    if group.exposure_time_s < exposure:
        return "shorter than the frame"
    if group.n_frames < ENOUGH_TO_REJECT <= taken.dark.n_frames:
        return f"fewer than {ENOUGH_TO_REJECT} frames, so that no cosmic ray in it is rejected"
    return "shorter than the one taken, so that it brings more noise"


def _dark_caveats(frame: Frame, dark: Group) -> tuple[Caveat, ...]:
    caveats: tuple[Caveat, ...] = ()
    if dark.n_frames < ENOUGH_TO_REJECT:
        text = f"dark of {dark.exposure_time_s:g} s has {_count(dark)}"
        caveats += (Caveat("single-dark", f"{text}; cosmic rays in it are not rejected"),)
    here, there = frame.sensor_temperature_c, dark.first.sensor_temperature_c
    known = frame.set_temperature_c is None and here is not None and there is not None
    if known and abs(here - there) > NOTABLE_TEMPERATURE_C:  # type: ignore[operator]
        text = f"sensor at {here:g} C, its dark at {there:g} C, and no set temperature"
        remedy = "name their keyword in camera.set_temperature_keyword to have them matched"
        caveats += (Caveat("temperature-unchecked", f"{text}; {remedy}"),)
    return caveats


def _refusal(frame: Frame, dark: Group, settings: DarkSettings) -> str | None:
    """Why a dark can not serve a frame at all, whatever its exposure time."""
    other = dark.first
    if difference := describe_difference(frame, other):
        return difference
    if not same_temperature(frame, other, settings.temperature_tolerance_c):
        return f"set to {_celsius(other)}, not {_celsius(frame)}"
    return None


def describe_difference(frame: Frame, other: Frame) -> str:
    """The first thing that `same_setup` finds to differ in another frame; empty for nothing."""
    for field in fields(Setup):
        mine, its = getattr(frame.setup, field.name), getattr(other.setup, field.name)
        if mine != its:
            name = field.name.removesuffix("_adu").replace("_", " ")
            return f"{name} {_value(its)} is not {_value(mine)}"
    return "" if _sections(frame) == _sections(other) else "other sections are kept"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return (f"{value:g}" if isinstance(value, float) else str(value)) or "unknown"


def _count(group: Group) -> str:
    return f"{group.n_frames} frame{'s' if group.n_frames > 1 else ''}"


def _celsius(frame: Frame) -> str:
    value = frame.set_temperature_c
    return "no temperature" if value is None else f"{value:g} C"


def _no_candidate(frame: Frame, groups: Sequence[Group], settings: DarkSettings) -> str:
    if not groups:
        return "there are no darks; take some, or set dark.required = false"
    # Where only the temperature is wrong, that is what to take darks at.
    is_cold = frame.set_temperature_c is not None
    near = any(not describe_difference(frame, group.first) for group in groups)
    where = f"set to {_celsius(frame)}" if near and is_cold else "with the set-up of this frame"
    return (
        f"no dark fits; nearest: {_candidates(frame, groups, settings)}; take darks {where}, or "
        "set dark.required = false"
    )


def _candidates(frame: Frame, groups: Sequence[Group], settings: DarkSettings) -> str:
    """The darks nearest in exposure time, each with what is against it."""
    exposure = exposure_of(frame)
    by_distance = sorted(groups, key=lambda group: abs(group.exposure_time_s - exposure))
    named = [
        f"{group.exposure_time_s:g} s ("
        f"{_refusal(frame, group, settings) or f'{abs(group.exposure_time_s - exposure):g} s off'})"
        for group in by_distance[:_NAMED]
    ]
    more = len(groups) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _exposure_refusal(
    frame: Frame,
    nearest: Group,
    groups: Sequence[Group],
    settings: DarkSettings,
    unscalable: _Unscalable,
) -> Caveat:
    exposure = exposure_of(frame)
    difference = abs(nearest.exposure_time_s - exposure)
    others = [group for group in groups if group is not nearest]
    nor = f"; nor do others serve: {_candidates(frame, others, settings)}" if others else ""
    # A tolerance for a dark of quite another length would be no remedy.
    wider = ", or set dark.tolerance_s" if difference <= 0.1 * exposure else ""
    return Caveat(
        "dark-exposure",
        f"dark exposure {nearest.exposure_time_s:g} s is {difference:g} s from the "
        f"{frame.kind}'s {exposure:g} s (tolerance {settings.tolerance_s:g} s) and is not scaled "
        f"because {unscalable.why}{nor}; {unscalable.remedy}{wider}",
    )
