"""What the header of a master says of it."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Final, TypeVar

from flatcal.errors import BrokenFileError, FlatcalError, SectionError
from flatcal.frame import Kind
from flatcal.headers import HeaderCards, scan_file
from flatcal.library.dates import parse_date
from flatcal.section import parse_sections

T = TypeVar("T", str, bool, int, float)

_KINDS: Final = (Kind.BIAS, Kind.DARK, Kind.FLAT)
# What a database takes as a whole number.
_LARGEST: Final = 2**31 - 1
_MEANING: Final = {str: "text", bool: "T or F", int: "a whole number", float: "a number"}


def read_master_row(path: Path) -> dict[str, object]:
    """Read the facts of a master from its header.

    Parameters
    ----------
    path : Path
        A master that flatcal made.

    Returns
    -------
    dict
        Columns of `flatcal.library.tables.MASTERS` and their values.

    Raises
    ------
    FlatcalError
        The file is no master of flatcal (not-a-master), or is cut off or no FITS file
        (file-broken).
    """
    read = _Cards(_read_cards(path), path)
    if not read.card("COMBINED", bool):
        raise read.refusal("COMBINED is F")
    kind = read.card("IMAGETYP", str)
    if kind not in _KINDS:
        raise read.refusal(f"IMAGETYP is {kind!r}, not bias, dark or flat")
    date_first = read.date("DATE-OBS")
    shape = read.count("FCROWS"), read.count("FCCOLS")
    return {
        "kind": kind,
        "recipe": read.card("RECIPE", str),
        "camera": read.card("FCCAMERA", str),
        "n_rows": shape[0],
        "n_columns": shape[1],
        "x_binning": read.count("FCXBIN"),
        "y_binning": read.count("FCYBIN"),
        "readout_mode": read.card("FCRDMODE", str),
        "gain_setting": read.card("FCGAINST", str),
        "unit": read.card("FCUNIT", str),
        "pedestal_adu": read.card("FCPEDEST", float) if "FCPEDEST" in read else 0.0,
        "detector": read.card("FCDETECT", str) if "FCDETECT" in read else "",
        "linearity": read.card("FCLINEAR", str) if "FCLINEAR" in read else "",
        "trim_section": read.section("TRIMDSEC", shape),
        "overscan": read.card("OSCANSUB", bool) and ("OSCANSEC" in read or "POSCNSEC" not in read),
        "parallel_overscan": "POSCNSEC" in read,
        "exposure_time_s": read.card("EXPTIME", float),
        "set_temperature_c": read.card("FCSETTMP", float) if "FCSETTMP" in read else None,
        "filter": read.card("FILTER", str) if kind == Kind.FLAT else "",
        "lost_bias": kind == Kind.DARK and read.card("FCLOSTB", bool),
        "bias_recipe": read.card("FCBIASRC", str) if "FCBIASRC" in read else "",
        "n_frames": read.count("NCOMBINE"),
        "date_first": date_first,
        "date_last": read.date("DATE-END") or date_first,
        "flatcal_version": read.card("FLATCAL", str),
    }


def _read_cards(path: Path) -> HeaderCards:
    """The first header of a file that holds all the data that its headers announce."""
    try:
        hdus = scan_file(path)
    except OSError as error:
        raise BrokenFileError(
            "file-broken", f"{path} cannot be read: {error.strerror or error}", path
        ) from error
    for hdu in hdus:
        if hdu.stored_bytes < hdu.data_bytes:
            raise BrokenFileError(
                "file-broken",
                f"{path} is cut off: {hdu.stored_bytes} of {hdu.data_bytes} bytes of image "
                f"{hdu.index} are there; run again",
                path,
            )
    return next((hdu for hdu in hdus if hdu.cards.get("NAXIS")), hdus[0]).cards


class _Cards:
    """Cards of one file, with their types checked."""

    def __init__(self, cards: HeaderCards, path: Path) -> None:
        self._cards = cards
        self._path = path

    def __contains__(self, keyword: str) -> bool:
        return keyword in self._cards

    def card(self, keyword: str, wanted: type[T]) -> T:
        """The value of a card that must be there."""
        if keyword not in self._cards:
            raise self.refusal(f"the card {keyword} is missing")
        value = self._cards[keyword]
        if wanted is float and type(value) is int:
            value = float(value)
        # Not isinstance: T and F are whole numbers to Python.
        if type(value) is not wanted or (isinstance(value, float) and not isfinite(value)):
            raise self.refusal(f"{keyword} = {value!r} is not {_MEANING[wanted]}")
        return value

    def count(self, keyword: str) -> int:
        """The value of a card that counts something."""
        value = self.card(keyword, int)
        if value < 1:
            raise self.refusal(f"{keyword} = {value} is less than 1")
        if value > _LARGEST:
            raise self.refusal(f"{keyword} = {value} is more than {_LARGEST}")
        return value

    def section(self, keyword: str, shape: tuple[int, int]) -> str:
        """The value of a card that names sections of an image; nothing where it is missing."""
        if keyword not in self:
            return ""
        text = self.card(keyword, str)
        try:
            parse_sections(text, shape)
        except SectionError as error:
            raise self.refusal(f"{keyword}: {error.text}") from error
        return text

    def date(self, keyword: str) -> str:
        """The value of a card if it is a date that can be compared, else nothing."""
        value = self._cards.get(keyword)
        return value if isinstance(value, str) and parse_date(value) else ""

    def refusal(self, why: str) -> FlatcalError:
        """The error that names the file."""
        return FlatcalError(
            "not-a-master",
            f"{self._path} is not a master of this flatcal: {why}; "
            "add files of OUT/masters that flatcal run wrote",
        )
