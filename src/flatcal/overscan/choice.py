"""One overscan for all frames of a set-up: by the settings, or by measurement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from flatcal.camera import CameraSettings, find_profile_by_name
from flatcal.frame import Caveat, Frame
from flatcal.overscan.columns import collect_columns, find_dark_end
from flatcal.overscan.evidence import LEAST_COLUMNS
from flatcal.overscan.verdict import OverscanVerdict, is_trimmed, judge_overscan, name_columns
from flatcal.section import format_section, format_sections
from flatcal.survey import Look


@dataclass(frozen=True, slots=True)
class _Choice:
    """What becomes of the overscan of a set-up."""

    columns: slice | None
    text: str
    caveats: tuple[Caveat, ...] = ()


def apply_overscan(
    frames: Sequence[Frame], looks: Mapping[str, Look], settings: CameraSettings
) -> tuple[Frame, ...]:
    """Give each frame the overscan that the settings name or that measurement supports.

    A section that the settings or the camera's profile name is used as it is, and "none" stays
    none; where measurement contradicts them the frames get a caveat. Where the header decides,
    the columns that it names, or else all outside of what is kept, are measured: the good ones
    are used, and of a useless overscan none.

    Parameters
    ----------
    frames : sequence of Frame
        All of a night, as their headers have told.
    looks : mapping
        Look of each frame by its file.
    settings : CameraSettings
        The configuration's own, which overrule the profile.

    Returns
    -------
    tuple of Frame
        The same frames, with the verdict in the reason of their geometry. All frames of a
        set-up have one overscan.
    """
    groups: dict[object, list[Frame]] = {}
    for frame in frames:
        if not frame.errors:
            groups.setdefault(_setup_of(frame), []).append(frame)
    choices = {key: _choose(group, looks, settings) for key, group in groups.items()}
    return tuple(
        frame if frame.errors else _with_choice(frame, choices[_setup_of(frame)])
        for frame in frames
    )


def _setup_of(frame: Frame) -> object:
    assert frame.geometry is not None
    return frame.setup, format_sections(frame.geometry.data_sections)


def _with_choice(frame: Frame, choice: _Choice | None) -> Frame:
    geometry = frame.geometry
    assert geometry is not None
    if choice is None:
        return frame
    reason = f"{geometry.reason}; measured: {choice.text}"
    if geometry.names_amplifiers:
        geometry = replace(geometry, reason=reason)
    else:
        section = None if choice.columns is None else (_rows(frame), choice.columns)
        geometry = geometry.with_overscan(section, reason)
    return replace(
        frame,
        geometry=geometry,
        caveats=(*frame.caveats, *choice.caveats),
    )


def _rows(frame: Frame) -> slice:
    assert frame.setup is not None
    assert frame.geometry is not None
    trim = frame.geometry.trim_section
    return slice(0, frame.setup.shape[0]) if trim is None else trim[0]


def _choose(
    group: Sequence[Frame], looks: Mapping[str, Look], settings: CameraSettings
) -> _Choice | None:
    """What measurement says to the settings; None where nothing could be measured."""
    assert group[0].setup is not None
    assert group[0].geometry is not None
    if group[0].geometry.names_amplifiers:
        return _judge_each(group, looks)
    if not is_trimmed(group[0]):
        return _look_for_missed(group, looks)
    camera = group[0].setup.camera
    setting, who = settings.overscan_section, "camera.overscan_section"
    if setting is None:
        setting = find_profile_by_name(camera).overscan_section
        who = f"the profile of {camera}"
    named = _named_columns(group)
    verdict = judge_overscan(group, looks, within=named)
    if verdict is None:
        return None
    if setting == "none":
        return _Choice(None, verdict.text, tuple(_against_none(verdict, group[0], who)))
    if setting in (None, "header"):
        return _by_measurement(verdict, named)
    return _Choice(named, verdict.text, tuple(_against_section(verdict, named, group[0], who)))


def _judge_each(group: Sequence[Frame], looks: Mapping[str, Look]) -> _Choice | None:
    """What measurement says to the overscan of each named amplifier, which is used as named.

    What names amplifiers names their overscans, and they must not go without one singly.
    """
    texts: list[str] = []
    caveats: list[Caveat] = []
    for number, detector in enumerate(group[0].detectors):
        alone = [_only(frame, number) for frame in group]
        own = {f.file: looks[f.file] for f in group if f.file in looks}
        if len(group[0].detectors) > 1:
            own = {file: look.parts[number] for file, look in own.items()}
        named = _named_columns(alone)
        verdict = judge_overscan(alone, own, within=named)
        if verdict is not None and named is not None:
            amplifier = f"amplifier {detector.amplifier}"
            who, setting = f"the description of {amplifier}", f"overscan_section of {amplifier}"
            texts.append(f"{amplifier}: {verdict.text}")
            caveats += _against_section(verdict, named, alone[0], who, setting)
    return _Choice(None, ". ".join(texts), tuple(caveats)) if texts else None


def _only(frame: Frame, number: int) -> Frame:
    """A frame as if one of its amplifiers were all of it."""
    assert frame.geometry is not None
    amplifier = frame.geometry.amplifiers[number]
    return replace(frame, geometry=replace(frame.geometry, amplifiers=(amplifier,)))


def _named_columns(group: Sequence[Frame]) -> slice | None:
    """The columns that most frames have; headers of one set-up seldom differ."""
    sections = [frame.geometry.overscan_section for frame in group if frame.geometry]
    found = Counter((s[1].start, s[1].stop) for s in sections if s is not None)
    return slice(*found.most_common(1)[0][0]) if found else None


def _by_measurement(verdict: OverscanVerdict, named: slice | None) -> _Choice:
    """The good columns of a useful overscan; one that no header names must have been tested."""
    if verdict.useful and (named is not None or verdict.tested):
        return _Choice(verdict.columns, verdict.text)
    if verdict.useful:
        text = (
            "no header names an overscan, and without both bias frames and flats the columns "
            f"beside the image are not used as one: {verdict.text}; set camera.overscan_section "
            "to use them"
        )
        return _Choice(None, verdict.text, (Caveat("overscan-doubt", text),))
    if named is None and (verdict.holds_light or verdict.columns is None):
        # Nobody said that it is an overscan: it may be an edge of the image that is not kept.
        return _Choice(None, verdict.text)
    text = f"the overscan is not used: {verdict.text}; set camera.overscan_section to use it"
    return _Choice(None, verdict.text, (Caveat("overscan-dropped", text),))


def _against_none(verdict: OverscanVerdict, frame: Frame, who: str) -> Iterator[Caveat]:
    """A caveat when an overscan is missed that follows a bias level that drifts notably."""
    if verdict.useful and verdict.follows and verdict.drift > verdict.noise:
        yield Caveat(
            "overscan-doubt",
            f"{who} says 'none', so no overscan is used; but {verdict.text}; "
            f"camera.overscan_section = '{_format(frame, verdict.columns)}' would use it",
        )


def _against_section(
    verdict: OverscanVerdict,
    named: slice | None,
    frame: Frame,
    who: str,
    setting: str = "camera.overscan_section",
) -> Iterator[Caveat]:
    """A caveat when the section that is named is useless, or has columns that are."""
    if verdict.useful and verdict.columns == named:
        return
    why, better = verdict.text, "none"
    if verdict.useful:
        why, better = verdict.left_out, _format(frame, verdict.columns)
    text = f"{who} names {_format(frame, named)}, which is used; but {why}"
    remedy = f"{setting} = '{better}' would be better"
    yield Caveat("overscan-doubt", f"{text}; {remedy}")


def _format(frame: Frame, columns: slice | None) -> str:
    assert columns is not None
    return format_section((_rows(frame), columns))


def _look_for_missed(group: Sequence[Frame], looks: Mapping[str, Look]) -> _Choice | None:
    """A caveat when the whole image is kept, and columns at its ends get no light."""
    seen = [frame for frame in group if frame.file in looks]
    own = [looks[frame.file] for frame in seen]
    for strip in range(len(own[0].strips) if own else 0):
        columns = collect_columns(seen, own, strip, None)
        dark = None if columns is None else find_dark_end(columns)
        if columns is None or dark is None or dark.stop - dark.start < LEAST_COLUMNS:
            continue
        more = " or more" if dark.stop - dark.start == columns.n_columns else ""
        text = (
            f"{name_columns(dark)}{more} get no light in any flat, and nothing says that they "
            "are not of the image"
        )
        remedy = "set camera.overscan_section and camera.trim_section if they are an overscan"
        return _Choice(None, text, (Caveat("overscan-missed", f"{text}; {remedy}"),))
    return None
