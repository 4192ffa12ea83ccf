"""Which kind of frame a file holds, and who says so.

Rules of the user come first, then those of the profile, the keywords of the header, OBJECT, and
last the names of folder and file. What rests on OBJECT or on names alone carries a caveat.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from flatcal.camera import CameraSettings, Cards, KindRule
from flatcal.frame import Kind
from flatcal.notes import Notes

# -- words -------------------------------------------------------------------------------

# How the field spells the kinds, in lower case without spaces and signs.
_BIAS_WORDS: Final = ("bias", "biases", "biasframe", "zero", "zeros", "zeroes", "zeroframe")
_DARK_WORDS: Final = ("dark", "darks", "darkframe", "darkflat", "flatdark", "darkflatframe")
_FLAT_WORDS: Final = (
    ("flat", "flats", "flatfield", "flatfields", "flatframe", "flatfieldframe")
    + ("skyflat", "domeflat", "lampflat", "screenflat", "internalflat", "twilightflat", "twiflat")
    + ("skyflats", "domeflats", "dflat", "dflats", "domeflatfield", "skyflatfield")
)
_CALIBRATION_WORDS: Final[dict[str, Kind]] = {
    **dict.fromkeys(_BIAS_WORDS, Kind.BIAS),
    **dict.fromkeys(_DARK_WORDS, Kind.DARK),
    **dict.fromkeys(_FLAT_WORDS, Kind.FLAT),
}
# With these a program says no more than that the shutter was open.
_OPEN_SHUTTER: Final = frozenset(("object", "obj", "expose"))
_KIND_WORDS: Final[dict[str, Kind]] = {
    **_CALIBRATION_WORDS,
    "offset": Kind.BIAS,
    **dict.fromkeys(
        (*_OPEN_SHUTTER, "science", "sci", "light", "lightframe", "target", "standard"),
        Kind.SCIENCE,
    ),
}
# With these a keyword says nothing, as if it were not there.
_NO_WORDS: Final = frozenset(("", "unknown", "none", "na", "undefined", "null", "unspecified"))
_FOLDER_WORDS: Final[dict[str, Kind]] = {
    **_CALIBRATION_WORDS,
    **dict.fromkeys(
        ("light", "lights", "science", "sci", "object", "objects", "target", "targets"),
        Kind.SCIENCE,
    ),
}
# Words that may stand beside a kind without changing it: '300 s', 'dome', names of filters.
_BESIDE: Final = frozenset(
    ("sky", "dome", "twilight", "twi", "lamp", "screen", "field", "frame", "frames", "filter")
    + ("morning", "evening", "dawn", "dusk", "sec", "exp", "red", "green", "blue", "clear", "lum")
)
_NAME_WORD: Final = re.compile(r"(?<![a-z])(bias|zero|dark|flat)(?:e?s)?(?![a-z])", re.IGNORECASE)
# 'light' and names of catalogues with a number: M 31, NGC7000, IC 310, PG1323-085.
_SCIENCE_NAME: Final = re.compile(
    r"(?<![a-z0-9])(?:lights?(?![a-z])|science(?![a-z])|m[ _-]?[1-9]\d{0,2}(?!\d)"
    r"|(?:ngc|ic|ugc|pgc|messier|abell|arp|mrk|hd|hip|sao|hr|gj|pg|sa|sn|at|wasp|hatp|tres|kelt"
    r"|toi|koi|qso|barnard|sh2|vdb|stock|melotte|tycho)[ _-]?[1-9]\d*)",
    re.IGNORECASE,
)
# A file with one of these is no raw frame, or its name says what was taken from it.
_WORKED_ON: Final = re.compile(
    r"(?<![a-z])(?:master|super|stack\w*|comb\w*|average|avg|median|mean|cal|calib\w*|reduced|proc"
    r"|processed|sub|subtracted|corr|corrected|minus)(?![a-z])",
    re.IGNORECASE,
)
# Tried after the keywords of the settings: INDI, and the data products of ESO.
_MORE_KEYWORDS: Final = ("FRAME", "ESO DPR TYPE")
# No camera needs longer for its shortest exposure.
_LONGEST_BIAS_S: Final = 1.0


class _Said(NamedTuple):
    """A kind and who says so; `confirm` is how to say it, where nobody says it for sure."""

    kind: Kind
    reason: str
    confirm: str = ""


# -- the decision ------------------------------------------------------------------------


def kind_of(
    file: str,
    cards: Cards,
    settings: CameraSettings,
    rules: Sequence[KindRule],
    exposure_s: float | None,
    notes: Notes,
) -> tuple[Kind | None, str]:
    """Find the kind of a frame.

    Parameters
    ----------
    file : str
        Path below the raw folder.
    cards : mapping
        Header.
    settings : CameraSettings
        Name the keywords of the kind.
    rules : sequence of KindRule
        Of the user and of the profile, in this order.
    exposure_s : float or None
        Exposure time.
    notes : Notes
        Receives caveats, and the error when nothing tells the kind.

    Returns
    -------
    tuple
        The kind, None when nothing tells it, and what tells it.
    """
    for rule in rules:
        if rule.matches(file, cards):
            _check(file, _Said(rule.kind, str(rule)), exposure_s, notes)
            return rule.kind, str(rule)
    said, word = _from_keywords(cards, settings)
    if said is None:
        said = None if word else _from_object(cards) or _from_names(file)
    elif word in _OPEN_SHUTTER:
        said = _from_object(cards) or said
    elif said.kind is Kind.SCIENCE and (title := _from_object(cards)):
        notes.caveat(
            "kind-hint",
            f"taken as science ({said.reason}), but {title.reason} speaks of a {title.kind}; if "
            f"that is right, say it {title.confirm}",
        )
    if said is None:
        _refuse(file, word, notes)
        return None, ""
    if said.kind is Kind.DARK and exposure_s == 0:
        confirm = said.confirm.replace("'dark=", "'bias=")
        said = _Said(Kind.BIAS, f"{said.reason} of 0 s", confirm)
    _check(file, said, exposure_s, notes)
    return said.kind, said.reason


def master_word(cards: Cards, settings: CameraSettings) -> str:
    """The card that calls a file a master or a stack, as 'Master Dark' does; empty if none does."""
    for keyword in (*(settings.kind_keyword or ()), *_MORE_KEYWORDS):
        value = _text(cards.get(keyword))
        if "master" in value.lower() or value.lower().startswith("stack"):
            return f"{keyword} = {value!r}"
    return ""


# -- the sources -------------------------------------------------------------------------


def _from_keywords(cards: Cards, settings: CameraSettings) -> tuple[_Said | None, str]:
    """What the first keyword with a known word says; and that word, or the first unknown one."""
    unknown = ""
    for keyword in (*(settings.kind_keyword or ()), *_MORE_KEYWORDS):
        value = _text(cards.get(keyword))
        bare = _bare(value)
        if kind := _KIND_WORDS.get(bare):
            return _Said(kind, f"{keyword} = {value}"), bare
        if bare not in _NO_WORDS and not unknown and keyword not in _MORE_KEYWORDS:
            unknown = f"{keyword} = {value!r}"
    return None, unknown


def _from_object(cards: Cards) -> _Said | None:
    value = _text(cards.get("OBJECT"))
    kind = _kind_in_title(value, _CALIBRATION_WORDS)
    if kind is None or _SCIENCE_NAME.search(value):
        return None
    return _Said(kind, f"OBJECT = {value}", f'in [[kinds]] with header = {{ OBJECT = "{value}" }}')


def _from_names(file: str) -> _Said | None:
    """What the file name says, or the folder; nothing where they speak of different kinds."""
    *folders, name = file.split("/")
    by_name, by_folder = _from_file_name(name), _from_folders(folders)
    if by_name and by_folder and by_name.kind is not by_folder.kind:
        return None
    return by_name or by_folder


def _from_file_name(name: str) -> _Said | None:
    if _WORKED_ON.search(name):
        return None
    found = {_CALIBRATION_WORDS[m[1].lower()]: m[1] for m in _NAME_WORD.finditer(name)}
    if science := _SCIENCE_NAME.search(name):
        found[Kind.SCIENCE] = science[0]
    if len(found) != 1:
        return None
    ((kind, word),) = found.items()
    return _Said(kind, f"file name {name}", f"with --kind '{kind}=*{word}*'")


def _from_folders(folders: Sequence[str]) -> _Said | None:
    """What the nearest folder says that has the name of a kind."""
    for folder in reversed(folders):
        if kind := _kind_in_title(folder, _FOLDER_WORDS):
            return _Said(kind, f"folder {folder}", f"with --kind '{kind}=*{folder}/*'")
    return None


def _kind_in_title(title: str, words: dict[str, Kind]) -> Kind | None:
    """The kind that a title is about if it is about nothing else: 'sky flat 3', 'dark 300s'."""
    parts = re.findall(r"[a-z]+", title.lower())
    if kind := words.get("".join(parts)):
        return kind
    kinds = {words[part] for part in parts if part in words}
    others = [part for part in parts if part not in words and part not in _BESIDE and len(part) > 2]
    return kinds.pop() if len(kinds) == 1 and not others else None


def _bare(value: str) -> str:
    return re.sub(r"[^a-z]", "", value.lower())


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


# -- what is told ------------------------------------------------------------------------


def word_in_name(file: str) -> tuple[Kind, str] | None:
    """The calibration that the file name speaks of, if just of one, and the word as spelt."""
    words = _NAME_WORD.findall(file.rsplit("/", 1)[-1])
    kinds = {_CALIBRATION_WORDS[word.lower()] for word in words}
    return (kinds.pop(), words[0]) if len(kinds) == 1 else None


def _refuse(file: str, unknown: str, notes: Notes) -> None:
    named = word_in_name(file)
    # The pattern has the word as the name spells it: patterns heed the case.
    example = f"'{named[0]}=*{named[1]}*'" if named else "'science=PATTERN'"
    told = f"{unknown} is no kind" if unknown else "neither keywords nor names tell the kind"
    notes.error("kind-unknown", f"{told} of frame; say it, for example with --kind {example}")


def _check(file: str, said: _Said, exposure_s: float | None, notes: Notes) -> None:
    """Name what rests on little, and what contradicts."""
    for text in _doubts(file, said, exposure_s):
        notes.caveat("kind-hint", text)


def _doubts(file: str, said: _Said, exposure_s: float | None) -> Iterator[str]:
    kind, reason, confirm = said
    if confirm:
        yield f"taken as {kind} from {reason} alone; confirm or correct it {confirm}"
    if kind is Kind.BIAS and (exposure_s or 0) > _LONGEST_BIAS_S:
        yield f"taken as bias ({reason}), but exposed for {exposure_s:g} s"
    named = word_in_name(file)
    if named is not None and named[0] is not kind and not reason.startswith("file name"):
        yield (
            f"taken as {kind}, but the file name says {named[0]}; if the name is right, say "
            f"--kind '{named[0]}=*{named[1]}*'"
        )
