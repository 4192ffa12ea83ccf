"""Which pixels of a frame are kept and which give its overscan level."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from flatcal.amplifiers import detector_of, find_amplifiers
from flatcal.camera import CameraProfile, CameraSettings, Cards
from flatcal.errors import FrameError, SectionError
from flatcal.frame import Amplifier, Geometry
from flatcal.notes import Notes
from flatcal.overscan_model import OverscanModel
from flatcal.section import Section, format_section, parse_section, read_header_section


def geometry_of(
    cards: Cards,
    shape: tuple[int, int],
    profile: CameraProfile,
    settings: CameraSettings,
    overrides: CameraSettings,
    notes: Notes,
) -> Geometry | None:
    """The sections of a frame; None, with an error in the notes, when they make no sense.

    Parameters
    ----------
    cards : mapping
        Header.
    shape : tuple of int
        Rows and columns.
    profile : CameraProfile
        Of the camera.
    settings : CameraSettings
        The profile's, overruled by the configuration.
    overrides : CameraSettings
        The configuration's own.
    notes : Notes
        Receives caveats and errors.
    """
    own = (overrides.overscan_section, overrides.trim_section)
    if None in own and not overrides.amplifiers and profile.shape not in (None, shape):
        remedy = "camera.overscan_section and camera.trim_section"
        notes.error(
            "frame-shape",
            f"the image is {shape[0]} x {shape[1]}, the profile {profile.name} is for "
            f"{profile.shape[0]} x {profile.shape[1]}; set "
            f"{'camera.amplifiers' if profile.amplifiers else remedy}",
        )
        return None
    try:
        if several := find_amplifiers(cards, shape, settings, overrides, notes):
            amplifiers, reason = several
            _refuse_parallel(settings)
            statistic = settings.overscan_statistic or "median"
            return Geometry(amplifiers, statistic, reason, _model(settings, shape))
        trim, trim_reason = _trim(cards, shape, settings.trim_section, notes)
        overscan, reason = _overscan(cards, shape, settings.overscan_section, trim, notes)
        parallel = _parallel(shape, settings.parallel_overscan_section, trim)
        model = _model(settings, shape)
    except (SectionError, FrameError) as error:
        notes.error(error.slug, error.text)
        return None
    if overscan is not None and _overlap(overscan, trim, shape):
        kept = "the whole image is kept" if trim is None else f"{format_section(trim)} is kept"
        notes.error(
            "bad-section",
            f"the overscan {format_section(overscan)} lies in what is kept ({kept}); set "
            "camera.trim_section, or camera.overscan_section = 'none'",
        )
        return None
    kept_section = trim if trim != (slice(0, shape[0]), slice(0, shape[1])) else None
    return Geometry(
        amplifiers=(Amplifier(kept_section, overscan, detector_of(cards, settings)),),
        overscan_statistic=settings.overscan_statistic or "median",
        reason=f"overscan: {reason}; kept: {trim_reason}",
        overscan_model=model,
        parallel_overscan_section=parallel,
    )


def _overlap(overscan: Section, trim: Section | None, shape: tuple[int, int]) -> bool:
    """Whether columns of the overscan are among those that are kept."""
    kept = range(shape[1]) if trim is None else range(trim[1].start, trim[1].stop)
    return any(column in kept for column in range(overscan[1].start, overscan[1].stop))


_TRIM_KEYS: Final = ("TRIMSEC", "DATASEC")
_OVERSCAN_KEYS: Final = ("BIASSEC",)


def _section(
    cards: Cards,
    shape: tuple[int, int],
    setting: str | None,
    keywords: Sequence[str],
    notes: Notes,
) -> tuple[Section | None, str]:
    """A section from the settings or, when they say 'header', from the first valid card."""
    if setting == "none":
        return None, "none, by the camera's settings"
    if setting not in (None, "header"):
        return parse_section(setting, shape), f"{setting}, by the camera's settings"
    for keyword in keywords:
        text = str(cards.get(keyword, "")).strip()
        if not text:
            continue
        try:
            section, remark = read_header_section(text, shape)
        except SectionError as error:
            notes.caveat("overscan-unknown", f"{keyword} is not used: {error.text}")
            continue
        if remark:
            notes.caveat("overscan-unknown", f"{keyword} = {text} {remark}")
        return section, f"{keyword} = {text}"
    return None, "none in the header"


def _trim(
    cards: Cards, shape: tuple[int, int], setting: str | None, notes: Notes
) -> tuple[Section | None, str]:
    """What is kept, or None for the whole image, and who says so."""
    trim, reason = _section(cards, shape, setting, _TRIM_KEYS, notes)
    covered = _covered(cards, shape)
    if trim is None and setting in (None, "header") and covered is not None:
        rows, columns = covered
        return (rows, slice(0, columns.start)), f"all but the columns of {_cover(cards)}"
    return trim, reason


def _overscan(
    cards: Cards, shape: tuple[int, int], setting: str | None, trim: Section | None, notes: Notes
) -> tuple[Section | None, str]:
    """The overscan columns over the rows that are kept, or None, and who says so."""
    rows = slice(0, shape[0]) if trim is None else trim[0]
    overscan, reason = _section(cards, shape, setting, _OVERSCAN_KEYS, notes)
    covered = _covered(cards, shape)
    if overscan is None and setting in (None, "header") and covered is not None:
        if not _overlap(covered, trim, shape):
            return (rows, covered[1]), _cover(cards)
        kept = "the whole image" if trim is None else format_section(trim)
        notes.caveat(
            "overscan-unknown",
            f"{_cover(cards)} is not used: of its columns some are kept ({kept}); set "
            "camera.overscan_section and camera.trim_section",
        )
    if overscan is None:
        return None, reason if setting == "none" else f"{reason}{_hint(cards, shape)}"
    have = overscan[0]
    told = (
        f"the overscan covers rows {have.start + 1} to {have.stop}, the image kept rows "
        f"{rows.start + 1} to {rows.stop}"
    )
    covered = min(have.stop, rows.stop) - max(have.start, rows.start)
    if 2 * covered < rows.stop - rows.start:
        # Rows above or below the image: their columns hold light in the rows of the image.
        told += "; only columns beside the image can serve as its overscan"
        if setting not in (None, "header"):
            raise SectionError("bad-section", told)
        notes.caveat("overscan-unknown", f"{reason} is not used: {told}")
        return None, f"none in the header that can be used{_hint(cards, shape)}"
    if have.start > rows.start or have.stop < rows.stop:
        notes.caveat("overscan-unknown", f"{told}; its columns are used over all of them")
    return (rows, overscan[1]), reason


def _refuse_parallel(settings: CameraSettings) -> None:
    if settings.parallel_overscan_section not in (None, "none"):
        raise SectionError(
            "bad-section",
            f"camera.parallel_overscan_section = {settings.parallel_overscan_section} is for one "
            "amplifier, and several share the image; leave it out",
        )


def _parallel(shape: tuple[int, int], setting: str | None, trim: Section | None) -> Section | None:
    """Rows above or below what is kept, over the columns that are kept."""
    if setting in (None, "none"):
        return None
    rows, columns = parse_section(setting, shape)
    kept_rows, kept = trim or (slice(0, shape[0]), slice(0, shape[1]))
    if rows.start < kept_rows.stop and kept_rows.start < rows.stop:
        raise SectionError(
            "bad-section",
            f"camera.parallel_overscan_section = {setting} has some of the rows that are kept, "
            f"{kept_rows.start + 1} to {kept_rows.stop}; name rows above or below them",
        )
    if columns.start > kept.start or columns.stop < kept.stop:
        raise SectionError(
            "bad-section",
            f"camera.parallel_overscan_section = {setting} has not all of the columns that are "
            f"kept, {kept.start + 1} to {kept.stop}",
        )
    return rows, kept


# Of a function that is fitted: a cubic, or three pieces of a spline.
_DEFAULT_ORDER: Final = 3
# For each parameter of the function.
_FEWEST_ROWS: Final = 2
_NO_ORDER: Final = ("per_row", "constant")


def _model(settings: CameraSettings, shape: tuple[int, int]) -> OverscanModel:
    """How the level varies along the rows; a setting that would be ignored is a mistake."""
    function, order = settings.overscan_model or "per_row", settings.overscan_order
    told = f'camera.overscan_model = "{function}"'
    if function in _NO_ORDER and order is not None:
        raise _no_effect("order", order, told)
    rejects = {
        name: value
        for name in ("low_sigma", "high_sigma", "iterations")
        if (value := getattr(settings, f"overscan_{name}")) is not None
    }
    if rejects and function == "per_row" and settings.overscan_statistic != "clipped_mean":
        raise _no_effect(*next(iter(rejects.items())), told)
    if order is None:
        order = 0 if function in _NO_ORDER else _DEFAULT_ORDER
    if function == "spline" and order == 0:
        raise FrameError("overscan-model", f"{told} has one piece or more; set overscan_order = 1")
    model = OverscanModel(function, order, **rejects)
    if model.is_fitted and _FEWEST_ROWS * model.n_parameters > shape[0]:
        raise FrameError(
            "overscan-model",
            f"{told} of order {order} has {model.n_parameters} parameters, too many for "
            f"{shape[0]} rows; lower camera.overscan_order",
        )
    return model


def _no_effect(name: str, value: float, told: str) -> FrameError:
    text = f"camera.overscan_{name} = {value:g} has no effect with {told}; leave it out"
    return FrameError("overscan-model", text)


def _covered(cards: Cards, shape: tuple[int, int]) -> Section | None:
    """The columns at the end of the rows that COVER, a card of Lick Observatory, counts."""
    count = _count(cards.get("COVER"))
    if not 0 < count < shape[1]:
        return None
    rows = slice(0, max(1, shape[0] - _count(cards.get("ROVER"))))
    return rows, slice(shape[1] - count, shape[1])


def _cover(cards: Cards) -> str:
    return f"COVER = {cards['COVER']}"


# -- columns that may be an overscan ----------------------------------------------------------

# The whole image that is read, before borders that nobody wants are cut off.
_DATA_KEYS: Final = ("DATASEC", "TRIMSEC")
# Lick Observatory's name and others for the number of columns after the image.
_COUNT_KEYS: Final = ("COVER", "NOVER", "OVERSCAN")


def overscan_candidates(cards: Cards, shape: tuple[int, int]) -> tuple[Section | None, str]:
    """Columns beside the image that may be its overscan, as the header has it.

    Nothing here tells whether they are any good: that is for a measurement or the observer.

    Parameters
    ----------
    cards : mapping
        Header.
    shape : tuple of int
        Rows and columns.

    Returns
    -------
    tuple
        The section over the rows of the image, or None; and the card that says so, or why there
        is none. Where there are columns on both sides it is the wider one.
    """
    for keyword in _DATA_KEYS:
        try:
            kept = read_header_section(str(cards.get(keyword, "")), shape).section
        except SectionError:
            continue
        if found := _beside(kept, shape):
            return found, f"outside of {keyword} = {str(cards[keyword]).strip()}"
    for keyword in _COUNT_KEYS:
        count = _count(cards.get(keyword)) * max(1, _count(cards.get("AMPSROW")))
        if 0 < count < shape[1]:
            rows = slice(0, max(1, shape[0] - _count(cards.get("ROVER"))))
            return (rows, slice(shape[1] - count, shape[1])), f"{keyword} = {cards[keyword]}"
    return _beyond_the_chip(cards, shape)


def _hint(cards: Cards, shape: tuple[int, int]) -> str:
    section, reason = overscan_candidates(cards, shape)
    return "" if section is None else f" ({format_section(section)} may be one: {reason})"


def _beside(kept: Section, shape: tuple[int, int]) -> Section | None:
    """The wider strip left or right of what is kept."""
    rows, columns = kept
    left, right = slice(0, columns.start), slice(columns.stop, shape[1])
    wider = left if left.stop > right.stop - right.start else right
    return None if wider.stop == wider.start else (rows, wider)


def _count(value: Any) -> int:
    """A whole number above zero, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


_CHIP: Final = re.compile(r"\[ *(\d{1,9}) *: *(\d{1,9}) *,")


def _beyond_the_chip(cards: Cards, shape: tuple[int, int]) -> tuple[Section | None, str]:
    """Columns that the image has more than the part of the chip that was read."""
    text = str(cards.get("CCDSEC", "")).strip()
    on_chip = _CHIP.match(text)
    if on_chip is None:
        return None, "the header speaks of no columns beside the image"
    first, last = sorted(map(int, on_chip.groups()))
    binning = str(cards.get("CCDSUM", "")).split()
    factor = int(binning[0]) if binning and binning[0].isdigit() and int(binning[0]) else 1
    width = (last - first + 1) // factor
    if not 0 < width < shape[1]:
        return None, f"CCDSEC = {text} leaves no columns beside the image"
    found = (slice(0, shape[0]), slice(width, shape[1]))
    return found, f"more columns than the {width} of CCDSEC = {text}"
