"""Header of a combined frame: what all inputs agree on, and no value of just one of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping, Sequence
from numbers import Real
from typing import Any, Final

from astropy.io import fits
from astropy.wcs import WCS

from flatcal.cards import is_iso_date
from flatcal.io import quiet_astropy

_ABSENT: Final = object()
# Cards of a WCS that astropy keeps in the header as well, because they tell more than the WCS.
_SHARED_WITH_WCS: Final = frozenset({"JD-OBS", "MJD-OBS", "DATE-OBS"})
_MATRIX: Final = re.compile(r"(PC|CD)\d_\d")


def merge_headers(headers: Sequence[MutableMapping[str, Any]]) -> MutableMapping[str, Any]:
    """Merge the headers of frames that are combined.

    Cards that are the same in all headers are kept. Exposure times that differ become their
    mean, with EXPTMIN and EXPTMAX; DATE-OBS becomes the earliest, with DATE-END the latest;
    other cards that differ are left out.

    Parameters
    ----------
    headers : sequence of Header or dict
        At least one; not changed.

    Returns
    -------
    Header or dict
        Of the type of the first, without cards of the file's structure, with NCOMBINE.
    """
    first = headers[0]
    merged: MutableMapping[str, Any] = (
        first.copy(strip=True) if isinstance(first, fits.Header) else dict(first)
    )
    for key in list(dict.fromkeys(merged)):
        values = [_plain(header.get(key, _ABSENT)) for header in headers]
        if all(value == values[0] for value in values[1:]):
            continue
        name = key.upper()
        if name == "EXPTIME" and all(isinstance(value, Real) for value in values):
            _set(merged, key, sum(values) / len(values), "[s] mean exposure time of the inputs")
            _set(merged, "EXPTMIN", min(values), "[s] shortest exposure time of the inputs")
            _set(merged, "EXPTMAX", max(values), "[s] longest exposure time of the inputs")
        elif name == "DATE-OBS" and all(is_iso_date(value) for value in values):
            _set(merged, key, min(values), "earliest DATE-OBS of the inputs")
            _set(merged, "DATE-END", max(values), "latest DATE-OBS of the inputs")
        elif key in merged and name != "DATE-END":
            del merged[key]
    _set(merged, "NCOMBINE", len(headers), "number of combined frames")
    return merged


def wcs_of_header(header: Mapping[str, Any]) -> Any:
    """World coordinates that a FITS header describes, None when it has none."""
    if "CTYPE1" not in header:
        return None
    with quiet_astropy():  # repairs of non-standard dates and the like do not matter here
        return WCS(header)


def merge_wcs(all_wcs: Sequence[Any], header: MutableMapping[str, Any]) -> Any:
    """World coordinates of a combined frame: those of the inputs if all have the same.

    Their cards are removed from `header`: written from the WCS they come back, and where the
    inputs disagree the few cards that they share would describe another WCS.
    """
    cards = [None if wcs is None else wcs.to_header(relax=True) for wcs in all_wcs]
    for key in set().union(*(card for card in cards if card is not None)) - _SHARED_WITH_WCS:
        header.pop(key, None)
    if any(card is not None for card in cards):
        for key in [key for key in header if _MATRIX.fullmatch(key)]:
            del header[key]
    if any(card is None or repr(card) != repr(cards[0]) for card in cards):
        return None
    return all_wcs[0]


def _plain(value: Any) -> Any:
    """Value that compares by content: HISTORY and the like as text."""
    return value if isinstance(value, str | Real) or value is _ABSENT else str(value)


def _set(header: MutableMapping[str, Any], key: str, value: Any, comment: str) -> None:
    header[key] = (value, comment) if isinstance(header, fits.Header) else value
