"""The amplifiers of a camera, where several share an image: by settings, or by the header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from flatcal.camera import AmplifierSettings, CameraSettings, Cards
from flatcal.cards import as_number
from flatcal.errors import SectionError
from flatcal.frame import Amplifier, Detector
from flatcal.linearity_curve import curve_of
from flatcal.notes import Notes
from flatcal.section import (
    Section,
    assemble_sections,
    format_section,
    parse_section,
    read_header_section,
)

_REMEDY: Final = "name them in camera.amplifiers, or say camera.amplifiers = [] if it is one"


def find_amplifiers(
    cards: Cards,
    shape: tuple[int, int],
    settings: CameraSettings,
    overrides: CameraSettings,
    notes: Notes,
) -> tuple[tuple[Amplifier, ...], str] | None:
    """Several amplifiers that share an image, and who says so; None where there is one.

    They are those of the settings, or else those that the header describes in one of two ways: of
    Lick Observatory (AMPSROW, COVER), or of the CCD controllers of NOAO and CTIO (AMPLIST and for
    the amplifier of row y and column x TSECyx or DSECyx, BSECyx, GTGAINyx, GTRONyx).

    Parameters
    ----------
    cards : mapping
        Header.
    shape : tuple of int
        Rows and columns.
    settings : CameraSettings
        The profile's, overruled by the configuration.
    overrides : CameraSettings
        The configuration's own.
    notes : Notes
        Receives the error where a header speaks of several and they cannot be told apart.

    Raises
    ------
    SectionError
        When the sections make no sense.
    """
    named = settings.amplifiers
    if named is None:
        # Sections of the settings are of one amplifier, and go before those of the header.
        sections = {settings.trim_section, settings.overscan_section}
        by_header = sections <= {None, "header"}
        named, reason = _of_header(cards, shape, notes) if by_header else (None, "")
        if named is None:
            _refuse_unknown(cards, notes)
            return None
    else:
        if not named:
            return None
        reason = "the camera's settings"
        _refuse_both(overrides)
    amplifiers = tuple(_amplifier(each, cards, shape, settings) for each in named)
    _check(amplifiers)
    return amplifiers, f"{'; '.join(map(_describe, amplifiers))}, by {reason}"


def _refuse_both(overrides: CameraSettings) -> None:
    for name in ("overscan_section", "trim_section"):
        if getattr(overrides, name) not in (None, "header"):
            raise SectionError(
                "bad-section",
                f"camera.{name} = {getattr(overrides, name)!r} is for one amplifier, but "
                "camera.amplifiers names several; set one of them",
            )


def _refuse_unknown(cards: Cards, notes: Notes) -> None:
    listed = len(str(cards.get("AMPLIST", "")).split())
    count = max(listed, _count(cards, "AMPSROW") * _count(cards, "AMPSCOL"))
    if count > 1:
        by = "AMPLIST" if listed > 1 else "AMPSROW, AMPSCOL"
        notes.error(
            "several-amplifiers",
            f"{count} amplifiers share the image ({by}), and neither header nor settings tell "
            f"which pixels are whose; {_REMEDY}",
        )


def _count(cards: Cards, keyword: str) -> int:
    return int(max(1.0, as_number(cards.get(keyword)) or 1.0))


# -- as headers have them ------------------------------------------------------------------------


def _of_header(
    cards: Cards, shape: tuple[int, int], notes: Notes
) -> tuple[tuple[AmplifierSettings, ...] | None, str]:
    """The amplifiers that a header describes, and by which cards."""
    if names := str(cards.get("AMPLIST", "")).split():
        return _of_list(cards, shape, names, notes), f"AMPLIST = {cards['AMPLIST']}"
    return _of_lick(cards, shape), f"AMPSROW = {cards.get('AMPSROW')}, COVER = {cards.get('COVER')}"


def _of_list(
    cards: Cards, shape: tuple[int, int], names: Sequence[str], notes: Notes
) -> tuple[AmplifierSettings, ...] | None:
    """Amplifiers that AMPLIST names by their row and column on the detector."""
    if len(names) == 1:
        return None
    found = []
    for name in names:
        keyword = next((k for k in (f"TSEC{name}", f"DSEC{name}") if k in cards), None)
        if keyword is None:
            raise SectionError(
                "several-amplifiers",
                f"AMPLIST names amplifier {name}, and there is neither TSEC{name} nor DSEC{name}; "
                f"{_REMEDY}",
            )
        has_overscan = f"BSEC{name}" in cards
        found.append(
            AmplifierSettings(
                name=name,
                data_section=_read(cards, keyword, shape, notes),
                overscan_section=_read(cards, f"BSEC{name}", shape, notes)
                if has_overscan
                else "none",
                gain_electron_per_adu=_positive(cards, f"GTGAIN{name}"),
                read_noise_electron=_positive(cards, f"GTRON{name}"),
            )
        )
    return tuple(found)


def _read(cards: Cards, keyword: str, shape: tuple[int, int], notes: Notes) -> str:
    """A section of the header, as settings have it."""
    text = str(cards[keyword]).strip()
    section, remark = read_header_section(text, shape)
    if remark:
        notes.caveat("overscan-unknown", f"{keyword} = {text} {remark}")
    return format_section(section)


def _positive(cards: Cards, keyword: str) -> float | None:
    value = as_number(cards.get(keyword))
    return value if value is not None and value > 0 else None


def _of_lick(cards: Cards, shape: tuple[int, int]) -> tuple[AmplifierSettings, ...] | None:
    """Amplifiers side by side, and after the image the overscan of each, from left to right.

    Only of images as wide as the sensor: of a window the card does not tell where the amplifiers
    meet.
    """
    n, cover = _count(cards, "AMPSROW"), cards.get("COVER")
    if n == 1 or _count(cards, "AMPSCOL") > 1 or not isinstance(cover, int) or cover < 1:
        return None
    rows, columns = shape
    width = columns - n * cover
    if width <= 0 or width % n or cards.get("DNAXIS1") != width:
        return None
    rows -= cards["ROVER"] if isinstance(cards.get("ROVER"), int) else 0
    each = width // n
    return tuple(
        AmplifierSettings(
            name=str(i + 1),
            data_section=f"[{i * each + 1}:{(i + 1) * each},1:{rows}]",
            overscan_section=f"[{width + i * cover + 1}:{width + (i + 1) * cover},1:{rows}]",
        )
        for i in range(n)
    )


# -- what they mean ------------------------------------------------------------------------------


def _amplifier(
    named: AmplifierSettings, cards: Cards, shape: tuple[int, int], settings: CameraSettings
) -> Amplifier:
    data, overscan = parse_section(named.data_section, shape), None
    if named.overscan_section != "none":
        overscan = parse_section(named.overscan_section, shape)
        rows, beside = data[0], overscan[0]
        if beside.start > rows.start or beside.stop < rows.stop:
            raise SectionError(
                "bad-section",
                f"the overscan {named.overscan_section} of amplifier {named.name} must have all "
                f"rows of its data section {named.data_section}",
            )
        overscan = (rows, overscan[1])
    return Amplifier(data, overscan, detector_of(cards, settings, named))


def detector_of(
    cards: Cards, settings: CameraSettings, amplifier: AmplifierSettings | None = None
) -> Detector:
    """Noise and range by the settings, of an amplifier before those of the camera.

    Parameters
    ----------
    cards : mapping
        Header.
    settings : CameraSettings
        Of the camera.
    amplifier : AmplifierSettings or None
        One of several; None where there is one.
    """

    def known(name: str) -> Any:
        own = None if amplifier is None else getattr(amplifier, name)
        return getattr(settings, name) if own is None else own

    saturation = known("saturation_adu") or _largest_value(cards)
    return Detector(
        gain_electron_per_adu=known("gain_electron_per_adu"),
        read_noise_electron=known("read_noise_electron"),
        saturation_adu=saturation,
        linear_to_adu=known("linear_to_adu"),
        linearity=curve_of(settings.linearity_coefficients, settings.linearity_table, saturation),
        amplifier="" if amplifier is None else amplifier.name,
    )


def _largest_value(cards: Mapping[str, Any]) -> float | None:
    """The largest value that the integers of the file can hold; None for floats."""
    bits = cards.get("BITPIX")
    if not isinstance(bits, int) or bits < 0:
        return None
    ends = (0.0, 255.0) if bits == 8 else (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    scale, zero = as_number(cards.get("BSCALE", 1)), as_number(cards.get("BZERO", 0))
    return max(end * (1.0 if scale is None else scale) for end in ends) + (zero or 0.0)


def _check(amplifiers: Sequence[Amplifier]) -> None:
    """Refuse names that are not unique, sections that overlap, an overscan that some lack."""
    names = [amplifier.detector.amplifier for amplifier in amplifiers]
    if len(set(names)) < len(names):
        raise SectionError("bad-section", f"two amplifiers have one name: {', '.join(names)}")
    data = [amplifier.data_section for amplifier in amplifiers if amplifier.data_section]
    assemble_sections(data)
    overscans = [a.overscan_section for a in amplifiers if a.overscan_section]
    if overscans and len(overscans) < len(amplifiers):
        without = next(a for a in amplifiers if a.overscan_section is None)
        raise SectionError(
            "bad-section",
            f"amplifier {without.detector.amplifier} has no overscan and others have one; give all "
            "of them one, or none",
        )
    for overscan in overscans:
        for section in data:
            if _overlap(overscan, section):
                raise SectionError(
                    "bad-section",
                    f"the overscan {format_section(overscan)} lies in the image "
                    f"{format_section(section)}",
                )


def _overlap(a: Section, b: Section) -> bool:
    return all(x.start < y.stop and y.start < x.stop for x, y in zip(a, b, strict=True))


def _describe(amplifier: Amplifier) -> str:
    assert amplifier.data_section is not None
    text = (
        f"amplifier {amplifier.detector.amplifier} reads {format_section(amplifier.data_section)}"
    )
    if amplifier.overscan_section is None:
        return f"{text} without an overscan"
    return f"{text} with the overscan {format_section(amplifier.overscan_section)}"
