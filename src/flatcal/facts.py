"""From the header of one raw file to the facts that planning needs.

Nothing is guessed in silence: whatever is odd becomes a caveat of the frame, whatever makes
it unusable an error of the frame, each with the values and the remedy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from flatcal.camera import CameraSettings, Cards, KindRule, find_profile
from flatcal.cards import as_number
from flatcal.colour import PATTERN_KEYS, PATTERNS, shift
from flatcal.dialects import IN_CAMERA, read_testimonies
from flatcal.errors import FrameError
from flatcal.extension import extension_of, file_of, with_extension
from flatcal.file_status import FileStatus
from flatcal.frame import Caveat, Frame, Geometry, Kind, Setup, Storage
from flatcal.geometry import geometry_of
from flatcal.headers import HduInfo, scan_hdus
from flatcal.images import Image, find_images
from flatcal.io import quiet_astropy
from flatcal.kinds import kind_of, master_word
from flatcal.notes import Notes
from flatcal.state import ProcessingState
from flatcal.storage import Place, RemotePath, status_of

_UNIT_WORDS: Final[dict[str, str]] = {
    **dict.fromkeys(("adu", "adus", "count", "counts", "dn", "ct"), "adu"),
    **dict.fromkeys(("electron", "electrons", "e", "e-", "el"), "electron"),
}
_SENSOR_KEYS: Final = ("CCD-TEMP", "DET-TEMP", "TEMPDET")
# A cooler that has settled keeps its sensor this near.
_NEAR_SET_C: Final = 3.0
_TO_SECONDS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d+,\d+(?:[eEdD][+-]?\d+)?")


def read_frames(
    root: Place, file: str, overrides: CameraSettings, rules: Sequence[KindRule]
) -> tuple[Frame, ...]:
    """Read the headers of one file into its frames: one for each exposure that it holds.

    Parameters
    ----------
    root : Path or RemotePath
        The raw folder.
    file : str
        Path of the file below it.
    overrides : CameraSettings
        The configuration's ``[camera]`` table.
    rules : sequence of KindRule
        The configuration's rules of kind, tried first.

    Returns
    -------
    tuple of Frame
        One at the least, with `errors` where it cannot be used; none is left out.
    """
    notes = Notes()
    printable = printable_name(file)
    if isinstance(root, RemotePath) and not {"", ".", ".."}.isdisjoint(file.split("/")):
        error = Caveat("file-broken", "its name has an empty or dotted part; rename it")
        return (Frame(printable, errors=(error,)),)
    if printable != file:
        error = Caveat("file-broken", "the name of the file is not UTF-8 text; rename it")
        return (Frame(printable, errors=(error,)),)
    hdus, status = _open(root / file, notes)
    if status is None or _is_product(hdus, notes):
        return (Frame(file, errors=tuple(notes.errors)),)
    images = find_images(hdus, notes)
    if not images:
        return (Frame(file, errors=tuple(notes.errors)),)
    return tuple(
        frame
        for image in images
        for frame in _apart(
            _read_image(file, hdus[0], image, status, overrides, rules, notes.copy()), overrides
        )
    )


def printable_name(file: str) -> str:
    """The name of a file; bytes that are not UTF-8 as escapes."""
    return os.fsencode(file).decode(errors="backslashreplace")


def _apart(frame: Frame, overrides: CameraSettings) -> tuple[Frame, ...]:
    """A frame for each of several amplifiers, named after it, where they are to be kept apart."""
    geometry, setup = frame.geometry, frame.setup
    if overrides.assemble_amplifiers is not False or setup is None:
        return (frame,)
    if geometry is None or not geometry.is_divided:
        return (frame,)
    frames = []
    for amplifier in geometry.amplifiers:
        name = "_".join(filter(None, (extension_of(frame.file), amplifier.detector.amplifier)))
        frames.append(
            replace(
                frame,
                file=with_extension(file_of(frame.file), name),
                setup=replace(setup, detector=name),
                geometry=replace(geometry, amplifiers=(amplifier,)),
            )
        )
    return tuple(frames)


def _read_image(
    file: str,
    primary: HduInfo,
    image: Image,
    status: FileStatus,
    overrides: CameraSettings,
    rules: Sequence[KindRule],
    notes: Notes,
) -> Frame:
    """The facts of one image of a file, of which the notes are those of the whole file."""
    # The image's cards over those of the primary header.
    cards = {**primary.cards, **image.hdu.cards}
    profile = find_profile(cards)
    settings: CameraSettings = profile.overruled_by(overrides)
    name = with_extension(file, image.name)
    if master := master_word(cards, settings):
        text = f"{master}: this is a master, not a raw frame; use what it was made from"
        return Frame(name, errors=(Caveat("already-calibrated", text),))
    shape = _shape(cards)
    exposure = _exposure_time(cards, settings, notes)
    kind, reason = kind_of(file, cards, settings, (*rules, *profile.kinds), exposure, notes)
    if exposure is None and kind not in (Kind.BIAS, None):
        _refuse_missing_exposure(settings, notes)
    _check_scale(cards, notes)
    set_point = as_number(_first(cards, settings.set_temperature_keyword)[1])
    sensor = as_number(_first(cards, _SENSOR_KEYS)[1])
    if set_point is not None and sensor is not None and abs(sensor - set_point) > _NEAR_SET_C:
        notes.caveat("temperature-off", f"sensor at {sensor:g} C, cooler set to {set_point:g} C")
    settings = settings.of_extension(image.name)
    geometry = geometry_of(cards, shape, profile, settings, overrides, notes)
    _warn_of_unknown_noise(geometry, notes)
    colours = _colour_matrix(cards, settings, geometry, notes)
    return Frame(
        file=name,
        kind=kind,
        kind_reason=reason,
        exposure_time_s=0.0 if exposure is None and kind is Kind.BIAS else exposure,
        set_temperature_c=set_point,
        sensor_temperature_c=sensor,
        filter=_filter(cards, settings, kind, notes),
        object=_text(cards.get("OBJECT")),
        date=_text(_first(cards, ("DATE-OBS", "DATE-BEG"))[1]),
        colour_matrix=colours,
        setup=Setup(
            camera=profile.name or _text(cards.get("INSTRUME")) or "unnamed camera",
            shape=shape,
            binning=_binning(cards),
            readout_mode=_all_of(cards, settings.readout_mode_keyword),
            gain_setting=_all_of(cards, settings.gain_setting_keyword),
            unit=_unit(cards, settings, notes),
            pedestal_adu=_pedestal(cards, notes),
            detector=image.name if image.is_extension else "",
            linearity=_linearity(geometry),
        ),
        storage=_storage(image, shape, status),
        geometry=geometry,
        caveats=tuple(notes.caveats),
        errors=tuple(notes.errors),
    )


def _first(cards: Cards, keywords: Sequence[str] | None) -> tuple[str, Any]:
    """The first of the keywords that has a value, and the value."""
    for keyword in keywords or ():
        value = cards.get(keyword)
        if value is not None and value != "":
            return keyword, value
    return "", None


def _all_of(cards: Cards, keywords: Sequence[str] | None) -> str:
    """The values of all keywords that have one; together they describe a setting."""
    return " ".join(filter(None, (_text(cards.get(keyword)) for keyword in keywords or ())))


def _text(value: Any) -> str:
    """As text that any header and terminal takes."""
    text = "" if value is None else str(value).strip()
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


# -- structure of the file ---------------------------------------------------------------


def _open(path: Place, notes: Notes) -> tuple[tuple[HduInfo, ...], FileStatus | None]:
    """All headers, and size and times of the file; None with an error when it is not readable."""
    try:
        with quiet_astropy():
            return scan_hdus(path), status_of(path)
    except (FrameError, OSError) as error:
        notes.error("file-broken", error.text if isinstance(error, FrameError) else str(error))
        return (), None


def _shape(cards: Cards) -> tuple[int, int]:
    return int(float(cards["NAXIS2"])), int(float(cards["NAXIS1"]))


def _storage(image: Image, shape: tuple[int, int], status: FileStatus) -> Storage:
    offset, plain = image.hdu.data_offset, _is_plain_uint16(image.hdu)
    if plain and image.plane is not None:
        offset += image.plane * shape[0] * shape[1] * 2
    return Storage(
        hdu=image.hdu.index,
        data_offset=offset,
        plain_uint16=plain,
        plane=image.plane,
        **status._asdict(),
    )


def _is_plain_uint16(image: HduInfo) -> bool:
    cards = image.cards
    return (
        not image.compressed
        and not image.zipped
        and cards.get("BITPIX") == 16
        and as_number(cards.get("BZERO")) == 32768
        and as_number(cards.get("BSCALE", 1)) == 1
        and "BLANK" not in cards
    )


# -- what is gone already ----------------------------------------------------------------


def _is_product(hdus: Sequence[HduInfo], notes: Notes) -> bool:
    """Name what was done to the frame before; True when it is no raw frame at all."""
    state = ProcessingState(tuple(t for hdu in hdus for t in read_testimonies(hdu.cards)))
    programs = {testimony.program for testimony in state.done}
    if not programs:
        return False
    if programs == {IN_CAMERA}:
        told = f"{state.describe()}; use the frame before that subtraction"
        notes.error("dark-in-camera", told)
        return False
    told = f"{state.describe()}: this is a product, not a raw frame; use what it was made from"
    notes.error("already-calibrated", told)
    return True


def _pedestal(cards: Cards, notes: Notes) -> float:
    """What undoes an offset that software has added to all pixels (SBFITSEXT 1.0, MaxIm DL)."""
    value = as_number(cards.get("PEDESTAL")) or 0.0
    if value:
        notes.caveat(
            "pedestal",
            f"PEDESTAL = {value:g}: software has shifted all pixels by {abs(value):g} ADU; only "
            "frames of the same PEDESTAL serve one another",
        )
    return value


# -- values ------------------------------------------------------------------------------


def _exposure_time(cards: Cards, settings: CameraSettings, notes: Notes) -> float | None:
    keyword, value = _first(cards, settings.exposure_keyword)
    if value is None:
        return None
    number = as_number(value)
    text = _text(value)
    if number is None and _DECIMAL_COMMA.fullmatch(text):
        number = as_number(text.replace(",", ".").replace("D", "E").replace("d", "e"))
    if number is None or number < 0:
        notes.error(
            "exposure-not-a-number",
            f"{keyword} = {text!r} is not a number of 0 or more; name another keyword in "
            "camera.exposure_keyword",
        )
        return None
    if isinstance(value, str):
        notes.caveat("exposure-text", f"{keyword} = {text!r} is text; read as {number:g}")
    return number * _TO_SECONDS[settings.exposure_unit or "s"]


def _refuse_missing_exposure(settings: CameraSettings, notes: Notes) -> None:
    if any(error.slug == "exposure-not-a-number" for error in notes.errors):
        return
    tried = ", ".join(settings.exposure_keyword or ())
    notes.error(
        "exposure-missing",
        f"no exposure time under {tried}; name the keyword in camera.exposure_keyword",
    )


def _unit(cards: Cards, settings: CameraSettings, notes: Notes) -> str:
    if settings.unit is not None:
        return settings.unit
    text = _text(cards.get("BUNIT"))
    if not text:
        notes.caveat("unit-missing", "no BUNIT; values are taken as ADU")
        return "adu"
    unit = _UNIT_WORDS.get(text.lower())
    if unit is None:
        notes.error("bad-unit", f"BUNIT = {text!r} is not known; set camera.unit")
        return "adu"
    return unit


# Words for a place of a filter wheel without a filter.
_NO_FILTER: Final = frozenset(("clear", "open", "none", "empty", "air", "no filter"))


def _filter(cards: Cards, settings: CameraSettings, kind: Kind | None, notes: Notes) -> str:
    """The filter; of two wheels the one that is in the beam, or both names."""
    value = _text(_first(cards, settings.filter_keyword)[1])
    if not value:
        wheels = [_text(cards.get(f"FILTER{n}")) for n in (1, 2, 3)]
        inserted = [name for name in wheels if name and name.lower() not in _NO_FILTER]
        value = "+".join(inserted) or next(filter(None, wheels), "")
    if not value and kind in (Kind.FLAT, Kind.SCIENCE):
        notes.caveat("filter-missing", "no filter in the header; it matches only its like")
    return value


def _binning(cards: Cards) -> tuple[int, int]:
    # CCDSUM holds both, as in '2 2'.
    both = _text(cards.get("CCDSUM")).split()
    x_sum, y_sum = both if len(both) == 2 else (None, None)
    x = as_number(_first(cards, ("XBINNING", "CCDXBIN", "BINX"))[1] or x_sum)
    y = as_number(_first(cards, ("YBINNING", "CCDYBIN", "BINY"))[1] or y_sum)
    return int(x or 1), int(y or 1)


def _linearity(geometry: Geometry | None) -> str:
    """Name of the curve that makes counts linear, which is one for all amplifiers."""
    curve = None if geometry is None else geometry.amplifiers[0].detector.linearity
    return "" if curve is None else curve.name


def _check_scale(cards: Cards, notes: Notes) -> None:
    """Name values that no arithmetic gives back from the numbers of the file."""
    for keyword in ("BSCALE", "BZERO"):
        value = cards.get(keyword)
        if value is None:
            continue
        number = as_number(value)
        if number is None or (keyword, number) == ("BSCALE", 0):
            notes.error(
                "image-type",
                f"{keyword} = {_text(value)!r} gives no pixel values; correct the header, or "
                "leave the file out",
            )


def _warn_of_unknown_noise(geometry: Geometry | None, notes: Notes) -> None:
    """A caveat where gain or read noise of some amplifier is not known."""
    detectors = () if geometry is None else (a.detector for a in geometry.amplifiers)
    unknown = [detector.amplifier for detector in detectors if not detector.noise_known]
    if unknown:
        of = f" of amplifier {unknown[0]}" if unknown[0] else ""
        table = ", or those of its table in camera.amplifiers" if unknown[0] else ""
        notes.caveat(
            "noise-unknown",
            f"gain or read noise{of} is not set, so calibrated frames get no UNCERT; set "
            f"camera.gain_electron_per_adu and camera.read_noise_electron{table}",
        )


# Words of sensors without a colour matrix, and of images that no longer have one.
_NO_COLOURS: Final = frozenset(
    ("", "NONE", "MONO", "MONOCHROME", "GRAY", "GREY", "RGB", "FULL COLOR")
)


def _colour_matrix(
    cards: Cards, settings: CameraSettings, geometry: Geometry | None, notes: Notes
) -> str:
    """Colours of the first 2 x 2 pixels of the file (SBFITSEXT, MaxIm DL: BAYERPAT, XBAYROFF)."""
    chosen = settings.colour_matrix or "header"
    keyword, value = _first(cards, PATTERN_KEYS)
    pattern = _text(value).upper() if chosen == "header" else chosen.upper()
    if pattern in _NO_COLOURS or _binning(cards) != (1, 1):
        return ""  # each binned pixel is of all colours
    told = ""
    if pattern not in PATTERNS:
        told = f"{keyword} = {pattern!r} is not one of {', '.join(PATTERNS)}"
    elif geometry is not None and geometry.is_divided:
        told = "several amplifiers share an image with a colour matrix"
    if told:
        notes.caveat(
            "colour-matrix", f"{told}; colours are not told apart; see camera.colour_matrix"
        )
        return ""
    if chosen != "header":
        return pattern
    rows, columns = (int(as_number(cards.get(card)) or 0) for card in ("YBAYROFF", "XBAYROFF"))
    return shift(pattern, rows, columns)
