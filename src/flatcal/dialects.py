"""What programs leave in the headers of frames that they have worked on.

One table of cards and one of HISTORY lines: who writes it, what it says, and about which step.
A frame straight from a camera has none of them, or they say no.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np


class StepRecord(NamedTuple):
    """How a step shows in a header of flatcal."""

    card: str
    comment: str


STEP_RECORDS: Final[Mapping[str, StepRecord]] = {
    "overscan": StepRecord("OSCANSUB", "overscan level subtracted"),
    "trim": StepRecord("TRIMMED", "cut to the section that is kept"),
    "bias": StepRecord("BIASSUB", "bias subtracted"),
    "linearity": StepRecord("LINCORR", "counts made linear"),
    "dark": StepRecord("DARKSUB", "dark subtracted"),
    "flat": StepRecord("FLATDIV", "divided by the flat"),
    "gain": StepRecord("GAINCOR", "multiplied by the gain"),
}
# Beside these steps: made of several frames; calibrated without saying how.
COMBINED: Final = "combined"
REDUCED: Final = "reduced"
OWN: Final = "flatcal"
# What this one removes is gone before the observer has the file.
IN_CAMERA: Final = "the camera's software"

# True: the step was done. False: it was not. None: the value does not tell.
Says = Callable[[Any], bool | None]


@dataclass(frozen=True, slots=True)
class Testimony:
    """What one card of a header says about one step.

    Attributes
    ----------
    step : str
        Key of `STEP_RECORDS`, `COMBINED` or `REDUCED`.
    done : bool
        Whether it was done.
    program : str
        Who says so.
    card : str
        The card as it stands, without its comment.
    """

    step: str
    done: bool
    program: str
    card: str


# -- how values are understood -----------------------------------------------------------

_NO_WORDS: Final = frozenset(("", "no", "none", "n/a", "na", "f", "false", "0", "raw", "unknown"))
# IRAF begins with the date: 'Jun  2 18:18 Trim data section is [3:510,3:510]'. Programs that
# write its cards put a date of their own there, or none.
_IRAF_TEXT: Final = re.compile(
    r"[A-Z][a-z]{2} [ \d]\d +\d\d:\d\d|\d{4}-\d\d-\d\d[T ]\d\d:\d\d"
    r"|(?:Overscan section|Trim (?:data|multiple)|Zero level|Dark count|Flat field image"
    r"|Illumination|Fringe|CCD processing) "
)
_ISO_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
_LETTERS: Final = re.compile(r"[A-Z]{1,6}")


def _text(value: Any) -> str:
    return str(value).strip()


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _logical(value: Any) -> bool | None:
    """A FITS logical says yes or no; anything else says nothing."""
    return bool(value) if isinstance(value, bool | np.bool_) else None


def _is_true(value: Any) -> bool | None:
    return True if _logical(value) else None


def _named(value: Any) -> bool | None:
    """Any text that is not a word for no, such as the name of an image."""
    return None if value is None or _text(value).lower() in _NO_WORDS else True


def _logged(value: Any) -> bool | None:
    said = _logical(value)
    return _named(value) if said is None else said


def _yes(value: Any) -> bool | None:
    return True if _text(value).lower() == "yes" else None


def _stamped(value: Any) -> bool | None:
    return True if isinstance(value, str) and _IRAF_TEXT.match(value.strip()) else None


def _timed(value: Any) -> bool | None:
    return True if isinstance(value, str) and _ISO_TIME.match(value.strip()) else None


def _flagged(value: Any) -> bool | None:
    return {"1": True, "True": True, "0": False, "False": False}.get(_text(value))


def _completed(value: Any) -> bool | None:
    return {"COMPLETE": True, "PERFORM": False, "OMIT": False}.get(_text(value))


def _above(limit: float) -> Says:
    return lambda value: True if _number(value) > limit else None


def _auto_dark(value: Any) -> bool | None:
    return True if _number(value) == 5 else None


def _letter(letters: str) -> Says:
    """One of these letters in a word such as 'BDF'."""

    def says(value: Any) -> bool | None:
        word = _text(value).upper()
        if word.lower() in _NO_WORDS or not _LETTERS.fullmatch(word):
            return None
        return True if set(letters) & set(word) else None

    return says


def _sentence(value: Any) -> bool | None:
    """Some text that is not a word of letters such as 'BDF'."""
    word = _text(value).upper()
    return None if word.lower() in _NO_WORDS or _LETTERS.fullmatch(word) else True


# -- the table of cards ------------------------------------------------------------------


class Dialect(NamedTuple):
    """Cards of one program that are understood in the same way: keyword and step."""

    program: str
    says: Says
    steps: Mapping[str, str]


# Of dialects that share a keyword the first that understands its value is believed.
DIALECTS: Final[tuple[Dialect, ...]] = (
    # flatcal.steps and flatcal.engine.headers.
    Dialect(OWN, _logical, {record.card: step for step, record in STEP_RECORDS.items()}),
    Dialect(OWN, _named, {"FLATCAL": REDUCED}),
    # flatcal, and M. Craig and L. Chambers, CCD Data Reduction Guide: meta['combined'] = True.
    Dialect("flatcal or a notebook", _is_true, {"COMBINED": COMBINED}),
    # IRAF noao.imred.ccdred, help ccdproc and ccdlist; source in ccdred/src/set*.x and of
    # imcombine for the last line.
    Dialect(
        "IRAF",
        _stamped,
        {
            "OVERSCAN": "overscan", "TRIM": "trim", "ZEROCOR": "bias", "DARKCOR": "dark",
            "FLATCOR": "flat", "ILLUMCOR": "flat", "FRINGCOR": REDUCED, "CCDPROC": REDUCED,
        },
    ),
    Dialect("IRAF or its like", _above(1), {"NCOMBINE": COMBINED}),
    Dialect("IRAF", _named, {"IMCMB001": COMBINED}),
    # DRAGONS, geminidr/gemini/lookups/timestamp_keywords.py.
    Dialect(
        "DRAGONS",
        _timed,
        {
            "SUBOVER": "overscan", "TRIMOVER": "trim", "BIASCORR": "bias", "DARKCORR": "dark",
            "SUBDARK": "dark", "FLATCORR": "flat", "DIVFLAT": "flat", "NORMLIZE": REDUCED,
            "ADUTOELE": "gain", "STACKFRM": COMBINED,
        },
    ),
    # Gemini IRAF, gmos$gireduce.cl and gbias.cl.
    Dialect(
        "Gemini IRAF or DRAGONS",
        _named,
        {"BIASIM": "bias", "DARKIM": "dark", "FLATIM": "flat"},
    ),
    Dialect("Gemini IRAF", _yes, {"TRIMMED": "trim"}),
    # ccdproc 2.5.1, log_meta.py: the name of each function, in short and in full.
    Dialect(
        "ccdproc",
        _logged,
        {
            "SUBOSCAN": "overscan", "SUBTRACT_OVERSCAN": "overscan",
            "TRIMIM": "trim", "TRIM_IMAGE": "trim",
            "SUBBIAS": "bias", "SUBTRACT_BIAS": "bias",
            "SUBDARK": "dark", "SUBTRACT_DARK": "dark",
            "FLATCOR": "flat", "FLAT_CORRECT": "flat",
        },
    ),
    # Here flatcal's own record has the same name.
    Dialect("ccdproc or flatcal", _logged, {"GAINCOR": "gain", "GAIN_CORRECT": "gain"}),
    # BANZAI of Las Cumbres Observatory, banzai/bias.py, dark.py, flats.py, trim.py; also its
    # forerunner ORAC-DR, which writes -1 for what was not asked for. RLEVEL is 0 for raw frames.
    Dialect(
        "BANZAI",
        _flagged,
        {
            "L1STATOV": "overscan", "L1STATTR": "trim", "L1STATBI": "bias", "L1STATDA": "dark",
            "L1STATFL": "flat",
        },
    ),
    Dialect("BANZAI", _is_true, {"ISMASTER": COMBINED}),
    Dialect("BANZAI", _above(0), {"RLEVEL": REDUCED}),
    # Hubble's calacs and calwf3, HST data handbook: PERFORM, OMIT, COMPLETE.
    Dialect(
        "calacs or calwf3",
        _completed,
        {
            "BLEVCORR": "overscan", "BIASCORR": "bias", "NLINCORR": "linearity",
            "DARKCORR": "dark", "FLATCORR": "flat",
        },
    ),
    # MaxIm DL, "FITS File Header Definitions": "B indicates bias corrected, D dark, F flat".
    # ASTAP (astap_main.pas) adds S for stacked; masters of others have M.
    Dialect("MaxIm DL or its like", _letter("B"), {"CALSTAT": "bias"}),
    Dialect("MaxIm DL or its like", _letter("D"), {"CALSTAT": "dark"}),
    Dialect("MaxIm DL or its like", _letter("F"), {"CALSTAT": "flat"}),
    Dialect("MaxIm DL or its like", _letter("SM"), {"CALSTAT": COMBINED}),
    Dialect("a program that writes CALSTAT", _sentence, {"CALSTAT": REDUCED}),
    # MaxIm DL and SBFITSEXT 1.0: "number of images combined".
    Dialect("MaxIm DL", _above(1), {"SNAPSHOT": COMBINED}),
    # Siril, io/image_format_fits.c; ASIDeepStack, PHD2 and others write it too.
    Dialect("Siril or its like", _above(1), {"STACKCNT": COMBINED}),
    # ASTAP, unit_stack.pas: how many frames of each sort went into it.
    Dialect("ASTAP", _above(1), {"LIGH_CNT": COMBINED}),
    Dialect("ASTAP", _above(0), {"DARK_CNT": REDUCED, "FLAT_CNT": REDUCED, "BIAS_CNT": REDUCED}),
    # CCDSoft with SBIG cameras: 1 light, 2 bias, 3 dark, 5 after an automatic dark (measured:
    # such a flat has a level of 100 ADU where its neighbours have 1100).
    Dialect(IN_CAMERA, _auto_dark, {"CCDSFPT": "dark"}),
    # ESO Data Interface Control: products have PRO keywords, raw frames DPR keywords.
    Dialect("a pipeline of ESO", _named, {"ESO PRO CATG": REDUCED}),
)  # fmt: skip


class _Sign(NamedTuple):
    program: str
    says: Says
    step: str


def _by_keyword() -> dict[str, tuple[_Sign, ...]]:
    table: dict[str, tuple[_Sign, ...]] = {}
    for program, says, steps in DIALECTS:
        for keyword, step in steps.items():
            table[keyword] = (*table.get(keyword, ()), _Sign(program, says, step))
    return table


_SIGNS: Final = _by_keyword()
_KEYWORDS: Final = frozenset((*_SIGNS, "HISTORY"))

# -- the table of HISTORY lines ----------------------------------------------------------


class HistoryLine(NamedTuple):
    """Start of a line that a program writes when it has done a step."""

    program: str
    step: str
    pattern: str


HISTORY_LINES: Final[tuple[HistoryLine, ...]] = (
    # CCDSoft, seen with CCDSFPT = 5.
    HistoryLine(IN_CAMERA, "dark", "Auto-Dark Subtraction"),
    # MaxIm DL, from headers of iTelescope: 'Dark Subtraction (Dark 10, 4864 x 3232, Bin1 x 1,'.
    HistoryLine("MaxIm DL", "bias", r"Bias Subtraction \("),
    HistoryLine("MaxIm DL", "dark", r"Dark Subtraction \("),
    HistoryLine("MaxIm DL", "flat", r"Flat Field \("),
    # Siril, core/preprocess.c.
    HistoryLine("Siril", "bias", r"Calibrated with a (?:master|synthetic) bias"),
    HistoryLine("Siril", "dark", r"Calibrated with an? (?:optimized )?master dark"),
    HistoryLine("Siril", "flat", r"Calibrated with a master flat"),
    # PixInsight, ImageCalibrationInstance.cpp and ImageIntegrationInstance.cpp: the names stand
    # there only when the master was used.
    HistoryLine("PixInsight", "overscan", r"ImageCalibration\.overscan\.imageRect:"),
    HistoryLine("PixInsight", "bias", r"ImageCalibration\.masterBias\.fileName:"),
    HistoryLine("PixInsight", "dark", r"ImageCalibration\.masterDark\.fileName:"),
    HistoryLine("PixInsight", "flat", r"ImageCalibration\.masterFlat\.fileName:"),
    HistoryLine("PixInsight", REDUCED, r"Calibration with ImageCalibration process"),
    HistoryLine("PixInsight", COMBINED, r"(?:Image|Fast)Integration\.numberOfImages:"),
    # VaST, src/fitsfilter: 'Dark frame subtraction:', 'Flat fielding:'.
    HistoryLine("VaST", "dark", r"Dark frame subtraction:"),
    HistoryLine("VaST", "flat", r"Flat fielding:"),
    # AstroImageJ, Process_Images.java and its stacks.
    HistoryLine("AstroImageJ", REDUCED, r"Process_Images "),
    HistoryLine("AstroImageJ", COMBINED, r"(?:Combined s|S)tack of \d+ images using"),
)
_HISTORY: Final = tuple(
    (line, re.compile(rf"^ *({line.pattern}.*)$", re.MULTILINE)) for line in HISTORY_LINES
)


# -- reading -----------------------------------------------------------------------------


def read_testimonies(header: Mapping[str, Any]) -> tuple[Testimony, ...]:
    """What a header says about the steps that a frame has gone through.

    Parameters
    ----------
    header : mapping
        FITS header, or a dictionary with keys in any case.

    Returns
    -------
    tuple of Testimony
        In the order of the tables.
    """
    found = _values_of(header)
    if not found:
        return ()
    history = found.pop("HISTORY", None)
    said = [t for keyword in _SIGNS if keyword in found for t in _hear(keyword, found[keyword])]
    if history is not None:
        said += _hear_history(str(history))
    return tuple(said)


def _values_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the cards that the tables know."""
    if not isinstance(header, dict):  # a FITS header has capitals
        return {keyword: header[keyword] for keyword in _KEYWORDS.intersection(header)}
    names = {str(key).upper(): key for key in header}
    return {keyword: header[names[keyword]] for keyword in _KEYWORDS.intersection(names)}


def _hear(keyword: str, value: Any) -> Iterator[Testimony]:
    heard: set[str] = set()
    for program, says, step in _SIGNS[keyword]:
        done = says(value)
        if done is not None and step not in heard:
            heard.add(step)
            yield Testimony(step, done, program, _format_card(keyword, value))


def _hear_history(text: str) -> Iterable[Testimony]:
    for line, pattern in _HISTORY:
        if match := pattern.search(text):
            yield Testimony(line.step, True, line.program, f"HISTORY {match[1].strip()}")


def _format_card(keyword: str, value: Any) -> str:
    """A card as it stands in a FITS header, without its comment."""
    if value is None:
        return keyword
    if isinstance(value, tuple):  # a dictionary may hold the value with its comment
        value = value[0]
    said = _logical(value)
    if said is not None:
        return f"{keyword} = {'T' if said else 'F'}"
    return f"{keyword} = {value!r}"
