"""Which pixels of a frame are kept and which give its overscan level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from flatcal.camera import CameraProfile, CameraSettings, Cards
from flatcal.errors import SectionError
from flatcal.frame import Geometry
from flatcal.notes import Notes
from flatcal.section import Section, format_section, parse_section


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
    if None in own and profile.shape not in (None, shape):
        notes.error(
            "frame-shape",
            f"the image is {shape[0]} x {shape[1]}, the profile {profile.name} is for "
            f"{profile.shape[0]} x {profile.shape[1]}; set camera.overscan_section and "
            "camera.trim_section",
        )
        return None
    try:
        trim, trim_reason = _section(cards, shape, settings.trim_section, _TRIM_KEYS, notes)
        rows = slice(0, shape[0]) if trim is None else trim[0]
        overscan, reason = _overscan(cards, shape, settings.overscan_section, rows, notes)
    except SectionError as error:
        notes.error("bad-section", error.text)
        return None
    if overscan is not None and _overlap(overscan, trim, shape):
        kept = "the whole image is kept" if trim is None else f"{format_section(trim)} is kept"
        notes.error(
            "bad-section",
            f"the overscan {format_section(overscan)} lies in what is kept ({kept}); set "
            "camera.trim_section, or camera.overscan_section = 'none'",
        )
        return None
    return Geometry(
        trim_section=trim if trim != (slice(0, shape[0]), slice(0, shape[1])) else None,
        overscan_section=overscan,
        overscan_statistic=settings.overscan_statistic or "median",
        reason=f"overscan: {reason}; kept: {trim_reason}",
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
            return parse_section(text, shape), f"{keyword} = {text}"
        except SectionError as error:
            notes.caveat("overscan-unknown", f"{keyword} is not used: {error.text}")
    return None, "none in the header"


def _overscan(
    cards: Cards, shape: tuple[int, int], setting: str | None, rows: slice, notes: Notes
) -> tuple[Section | None, str]:
    """The overscan columns over the rows that are kept, or None, and who says so."""
    overscan, reason = _section(cards, shape, setting, _OVERSCAN_KEYS, notes)
    if overscan is None:
        return None, reason
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
        return None, "none in the header that can be used"
    if have.start > rows.start or have.stop < rows.stop:
        notes.caveat("overscan-unknown", f"{told}; its columns are used over all of them")
    return (rows, overscan[1]), reason
