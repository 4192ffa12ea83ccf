"""Headers of outputs: what is kept of the raw ones, the processing state, the inputs.

A master describes its inputs, not the first of them: cards in which all agree are kept,
exposure time and date become those of the whole, the rest is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from astropy.io import fits

from flatcal import __version__
from flatcal.cards import as_number, is_iso_date
from flatcal.colour import LEVEL_CARD, PATTERN_CARD, PATTERN_KEYS
from flatcal.extension import extension_of
from flatcal.flags import MEANING
from flatcal.frame import Kind
from flatcal.io import naming, open_fits, quiet_astropy
from flatcal.plan import FramePlan, MasterPlan, Step
from flatcal.section import assemble_sections, format_section, parse_sections
from flatcal.state import STEP_RECORDS
from flatcal.storage import Place

# Cards of the file's structure, which astropy writes anew, and sections that no longer hold.
_STRUCTURE: Final = frozenset(
    ("SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND", "XTENSION", "PCOUNT", "GCOUNT")
    + ("BSCALE", "BZERO", "BLANK", "CHECKSUM", "DATASUM", "EXTNAME", "EXTVER", "END", "")
    + ("TFIELDS", "THEAP", "GROUPS")
)
# Of axes beyond the second, which an output has not.
_MORE_AXES: Final = re.compile(
    r"NAXIS[3-9]|(?:CTYPE|CUNIT|CNAME|CRVAL|CRPIX|CDELT|CROTA)[3-9][A-Z]?"
    r"|(?:CD|PC)(?:[3-9]_[1-9]|[12]_[3-9])[A-Z]?|WCSAXES[A-Z]?"
)
_SECTIONS: Final = frozenset(("BIASSEC", "TRIMSEC", "DATASEC", "CCDSEC", "DETSEC", "AMPSEC"))

# A longer text, such as the sections of several amplifiers, fills its cards.
_LONGEST_WITH_COMMENT: Final = 45

# Sections of one of several amplifiers, as CTIO and NOAO name them.
_SECTION_OF_AMPLIFIER: Final = re.compile("[ABCDT]SEC[0-9]{2}")
_VERSION_COMMENT: Final = "version of flatcal that wrote this file"

# What is told of each input of a master: keyword, and the comment before its name.
PER_INPUT: Final = {
    "rejected": ("INR", "share of pixels rejected in"),
    "slopes": ("ING", "slope against the other flats:"),
    "unlike": ("INU", "share unlike the other flats:"),
}


def read_header(path: Place, hdu: int) -> fits.Header:
    """The header of a raw image over the primary one; cards that are not valid as comments.

    Raises
    ------
    BrokenFileError
        When it cannot be read.
    """
    with naming(path), quiet_astropy(), open_fits(path) as hdus:
        header = fits.Header()
        for number in sorted({0, hdu}):
            raw = hdus[number].header
            has_more_axes = raw["NAXIS"] > 2
            for card in raw.cards:
                if not (has_more_axes and _MORE_AXES.fullmatch(card.keyword)):
                    _copy_card(card, header)
    return header


def _copy_card(card: fits.Card, header: fits.Header) -> None:
    if card.keyword in _STRUCTURE:
        return
    try:
        card.verify("fix+exception")
        copy = fits.Card(card.keyword, card.value, card.comment)
        if copy.keyword in header and copy.keyword not in ("COMMENT", "HISTORY"):
            header.set(copy.keyword, copy.value, copy.comment)
        else:
            header.append(copy, end=True)
    except (fits.VerifyError, ValueError):
        header.add_comment(f"not valid FITS: {ascii_text(_card_text(card))}")


def _card_text(card: fits.Card) -> str:
    """The card as it stands in the file; astropy gives none for one with control characters."""
    try:
        return str(card.image).strip()
    except ValueError:
        return f"{card.keyword} with control characters"


def frame_header(raw: fits.Header, plan: FramePlan) -> fits.Header:
    """The header of a calibrated frame.

    Parameters
    ----------
    raw : Header
        Of the raw frame, from `read_header`.
    plan : FramePlan
        What is done to the frame.
    """
    header = raw.copy()
    _set_exposure(header, plan)
    if extension_of(plan.file):
        header.remove("NEXTEND", ignore_missing=True)  # of the primary header
    header["BUNIT"] = (plan.unit, "unit of the pixel values")
    _shift_wcs(header, plan.steps, plan.shape)
    header.update(state_cards(plan.steps))
    header.update(_amplifier_cards(plan, plan.steps))
    return header


def mosaic_header(raw: fits.Header, image: FramePlan) -> fits.Header:
    """The primary header of an output that holds the images of one raw file.

    Parameters
    ----------
    raw : Header
        Of the raw file, from `read_header`.
    image : FramePlan
        What is done to one of them.
    """
    header = raw.copy()
    _set_exposure(header, image)
    header["FLATCAL"] = (__version__, _VERSION_COMMENT)
    return header


def _set_exposure(header: fits.Header, plan: FramePlan) -> None:
    _set_kind(header, plan.kind)
    if plan.exposure_time_s is not None:
        header["EXPTIME"] = (plan.exposure_time_s, "[s] exposure time")
    if plan.filter:
        header["FILTER"] = (plan.filter, "filter")


def master_header(
    raws: Sequence[fits.Header],
    master: MasterPlan,
    frames: Sequence[FramePlan],
    bias_recipe: str,
) -> fits.Header:
    """The header of a master.

    Parameters
    ----------
    raws : sequence of Header
        Of the inputs.
    master : MasterPlan
        What is combined.
    frames : sequence of FramePlan
        Plans of the inputs, in the same order.
    bias_recipe : str
        Recipe of the bias that went off a dark; empty for none.
    """
    header = common_cards(raws)
    _set_kind(header, master.kind)
    header["COMBINED"] = (True, "made by combining frames")
    header["NCOMBINE"] = (len(frames), "frames combined")
    exposures = [frame.exposure_time_s or 0.0 for frame in frames]
    mean = min(exposures) if len(set(exposures)) == 1 else sum(exposures) / len(exposures)
    header["EXPTIME"] = (mean, "[s] mean exposure time of the frames")
    if min(exposures) != max(exposures):
        header["EXPTMIN"] = (min(exposures), "[s] shortest exposure time")
        header["EXPTMAX"] = (max(exposures), "[s] longest exposure time")
    if master.kind is Kind.FLAT:
        header["FILTER"] = (master.filter, "filter")
    elif "FILTER" in header:
        del header["FILTER"]
    dates = sorted(frame.date for frame in frames)
    if all(is_iso_date(date) for date in dates):
        header["DATE-OBS"] = (dates[0], "of the first frame")
        header["DATE-END"] = (dates[-1], "start of the last frame")
    header["BUNIT"] = (frames[0].unit, "unit of the pixel values")
    _shift_wcs(header, master.steps or frames[0].steps, frames[0].shape)
    # Flats may differ in their darks and scales: what they do not share is not said.
    steps = [master.steps] if master.steps else [frame.steps for frame in frames]
    header.update(common_cards([state_cards(its_steps) for its_steps in steps]))
    if master.kind is Kind.FLAT:
        header["BUNIT"] = ("", "relative response, median 1")
    header.update(_identity_cards(master, bias_recipe))
    header.update(_amplifier_cards(frames[0], steps[0]))
    return header


def _amplifier_cards(plan: FramePlan, steps: Sequence[Step]) -> fits.Header:
    """Place, gain and read noise of each amplifier, where several share the image."""
    header = fits.Header()
    trim = next((step for step in steps if step.name == "trim_image"), None)
    if len(plan.detectors) == 1 or trim is None or trim.section is None or plan.shape is None:
        return header
    places = assemble_sections(parse_sections(trim.section, plan.shape))
    header["NAMPS"] = (len(places), "amplifiers that share the image")
    for number, (detector, place) in enumerate(zip(plan.detectors, places, strict=True), start=1):
        header[f"AMPNAM{number}"] = (ascii_text(detector.amplifier), "amplifier")
        header[f"AMPSEC{number}"] = (format_section(place), "its part of this image")
        if detector.gain_electron_per_adu is not None:
            gain = detector.gain_electron_per_adu
            header[f"AMPGAI{number}"] = (gain, "[electron/adu] its gain")
        if detector.read_noise_electron is not None:
            header[f"AMPRDN{number}"] = (detector.read_noise_electron, "[electron] its read noise")
    return header


def _identity_cards(master: MasterPlan, bias_recipe: str) -> fits.Header:
    """What frames must agree in to be served by a master, as the library reads it again."""
    setup = master.setup
    header = fits.Header()
    header["FCCAMERA"] = (ascii_text(setup.camera), "camera")
    header["FCROWS"] = (setup.shape[0], "rows of the raw image")
    header["FCCOLS"] = (setup.shape[1], "columns of the raw image")
    header["FCXBIN"] = (setup.binning[0], "binning along x")
    header["FCYBIN"] = (setup.binning[1], "binning along y")
    header["FCRDMODE"] = (ascii_text(setup.readout_mode), "read-out mode")
    header["FCGAINST"] = (ascii_text(setup.gain_setting), "gain setting")
    header["FCUNIT"] = (setup.unit, "unit of the raw values")
    if setup.pedestal_adu:
        header["FCPEDEST"] = (setup.pedestal_adu, "[adu] PEDESTAL of the raw frames")
    if setup.detector:
        header["FCDETECT"] = (setup.detector, "detector of a mosaic, by its extension")
    if setup.linearity:
        header["FCLINEAR"] = (setup.linearity, "curve that makes counts linear")
    if master.set_temperature_c is not None:
        header["FCSETTMP"] = (master.set_temperature_c, "[C] set temperature")
    if master.kind is Kind.DARK:
        header["FCLOSTB"] = (bool(master.lost_bias), "whether the dark has lost its bias")
        if bias_recipe:
            header["FCBIASRC"] = bias_recipe  # a comment would not fit
    return header


def common_cards(headers: Sequence[fits.Header]) -> fits.Header:
    """The cards of the first header that all the others have with the same value."""
    common = fits.Header()
    for card in headers[0].cards:
        if card.keyword in ("COMMENT", "HISTORY") or card.keyword in common:
            continue
        if all(other.get(card.keyword) == card.value for other in headers[1:]):
            common.append(card, end=True)
    return common


def _set_kind(header: fits.Header, kind: Kind | None) -> None:
    assert kind is not None
    if "IMAGETYP" in header and header["IMAGETYP"] != kind.value:
        header["RAWTYPE"] = (header["IMAGETYP"], "IMAGETYP of the raw frame")
    header["IMAGETYP"] = (kind.value, "kind of frame")


def _shift_wcs(header: fits.Header, steps: Sequence[Step], shape: tuple[int, int] | None) -> None:
    """Sections that no longer hold go; reference pixels follow the trimming.

    Where several amplifiers share the image a reference pixel follows the part that it lies in, or
    the first part if it lies in none.
    """
    trim = next((step for step in steps if step.name == "trim_image"), None)
    if trim is None or trim.section is None or shape is None:
        return
    for keyword in [*header]:
        if keyword in _SECTIONS or _SECTION_OF_AMPLIFIER.fullmatch(keyword):
            del header[keyword]
    sections = parse_sections(trim.section, shape)
    parts = list(zip(sections, assemble_sections(sections), strict=True))
    if any(keyword in header for keyword in PATTERN_KEYS):
        # The colour matrix begins elsewhere in the image that is kept.
        for keyword, axis in (("XBAYROFF", 1), ("YBAYROFF", 0)):
            if sections[0][axis].start % 2:
                offset = int(as_number(header.get(keyword)) or 0)
                header[keyword] = (1 - offset % 2, "offset of the colour matrix")
    for card in list(header.cards):
        for names, axis in ((("CRPIX1", "LTV1"), 1), (("CRPIX2", "LTV2"), 0)):
            if _stem(card.keyword) in names and isinstance(card.value, int | float):
                holds = (p for p in parts if p[0][axis].start < card.value <= p[0][axis].stop)
                section, place = next(holds, parts[0])
                header[card.keyword] = card.value - (section[axis].start - place[axis].start)


def _stem(keyword: str) -> str:
    """CRPIX1 also for the alternative descriptions CRPIX1A to CRPIX1Z."""
    return keyword[:-1] if keyword[:5] == "CRPIX" and keyword[-1:].isalpha() else keyword


_REMOVES: Final = {
    "subtract_overscan": "overscan",
    "subtract_parallel_overscan": "overscan",
    "trim_image": "trim",
    "subtract_bias": "bias",
    "correct_linearity": "linearity",
    "subtract_dark": "dark",
    "flat_correct": "flat",
}


def state_cards(steps: Sequence[Step]) -> fits.Header:
    """Cards that say what has been removed, one for each possible step."""
    header = fits.Header()
    header["FLATCAL"] = (__version__, _VERSION_COMMENT)
    done = {step.name: step for step in steps}
    removed = {_REMOVES[name] for name in done if name in _REMOVES}
    if "dark" in removed:
        # Either it has gone by itself, or with a dark that still held it.
        removed.add("bias")
    for step, record in STEP_RECORDS.items():
        header[record.card] = (step in removed, record.comment)
    for keyword, name, comment in (
        ("OSCANSEC", "subtract_overscan", "overscan section used"),
        ("POSCNSEC", "subtract_parallel_overscan", "parallel overscan section used"),
        ("TRIMDSEC", "trim_image", "section that was kept"),
    ):
        if name in done:
            header[keyword] = done[name].section
            if len(header[keyword]) <= _LONGEST_WITH_COMMENT:
                header.comments[keyword] = comment
    if "correct_linearity" in done:
        header["LINCURVE"] = (done["correct_linearity"].curve, "curve that made counts linear")
    if "subtract_overscan" in done:
        header["OSCANMOD"] = (done["subtract_overscan"].level, "level of a row")
    for keyword, name, comment in (
        ("BIASNAME", "subtract_bias", "master bias"),
        ("DARKNAME", "subtract_dark", "master dark"),
        ("FLATNAME", "flat_correct", "master flat"),
    ):
        if name in done:
            header[keyword] = (f"{done[name].master}.fits", comment)
    if "subtract_dark" in done:
        header["DARKSCAL"] = (done["subtract_dark"].scale, "factor of the dark")
    if "find_cosmic_rays" in done:
        header["COSMICS"] = (done["find_cosmic_rays"].statistic, "cosmic rays, by L.A.Cosmic")
    return header


def add_inputs(header: fits.Header, inputs: Sequence[tuple[str, str]], recipe: str) -> None:
    """Name and SHA-256 of each raw input, and the hash of the whole recipe.

    Parameters
    ----------
    header : Header
        Changed in place.
    inputs : sequence of tuple
        File and its SHA-256.
    recipe : str
        See `flatcal.engine.recipes`.
    """
    header["NINPUT"] = (len(inputs), "raw frames: names INFnnnn, SHA-256 INSnnnn")
    for number, (file, digest) in enumerate(inputs, start=1):
        header[f"INF{number:04d}"] = ascii_text(file)
        header[f"INS{number:04d}"] = digest
    header["RECIPE"] = recipe


def add_per_input(header: fits.Header, what: str, numbers: Sequence[float]) -> None:
    """A number of each input of a master.

    Parameters
    ----------
    header : Header
        Changed in place.
    what : str
        A key of `PER_INPUT`.
    numbers : sequence of float
        In the order of the inputs.
    """
    keyword, comment = PER_INPUT[what]
    for place, number in enumerate(numbers, start=1):
        # To digits that a header holds exactly: a later run reads the same from there.
        header[f"{keyword}{place:04d}"] = (float(f"{number:.7g}"), f"{comment} INF{place:04d}")


def read_per_input(cards: Mapping[str, Any], n: int) -> dict[str, tuple[float, ...] | None]:
    """What `add_per_input` has written for n inputs; None where it has not."""
    found: dict[str, tuple[float, ...] | None] = {}
    for what, (keyword, _) in PER_INPUT.items():
        values = [cards.get(f"{keyword}{place:04d}") for place in range(1, n + 1)]
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        found[what] = tuple(numbers) if numbers and len(numbers) == n else None
    return found


def colour_cards(pattern: str, levels: Mapping[str, float]) -> fits.Header:
    """The first cell of a colour matrix, and what the pixels of each colour were divided by."""
    header = fits.Header()
    header[PATTERN_CARD] = (pattern, "colours of the first 2 x 2 pixels, row by row")
    for colour, level in levels.items():
        header[f"{LEVEL_CARD}{colour}"] = (level, f"the {colour} pixels were divided by this")
    return header


def add_flag_legend(header: fits.Header, n_flagged: int, *, has_mask: bool) -> None:
    """How many pixels are flagged, and what the bits of FLAGS mean if there is one."""
    if not has_mask:
        header["NFLAGGED"] = (n_flagged, "pixels that are not good")
        return
    header["NFLAGGED"] = (n_flagged, "pixels that are not good; bits of FLAGS:")
    for flag, meaning in MEANING.items():
        header[f"FLAG{flag.value:04d}"] = (flag.name, meaning)


def ascii_text(text: str) -> str:
    """Text as FITS can hold it: other characters, and control characters, as Python escapes."""
    printable = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(printable).encode("ascii", "backslashreplace").decode()
