"""What has been taken out of a frame, as its header tells.

flatcal writes one boolean card for each step. Headers written by ccdproc are understood as
well: it logs each function under a short name and a long one.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Final, NamedTuple

import numpy as np
from astropy.io import fits

from flatcal.errors import StateError


class StepRecord(NamedTuple):
    """How a step shows in a header."""

    card: str
    comment: str
    log_names: tuple[str, ...]


STEP_RECORDS: Final[Mapping[str, StepRecord]] = {
    "overscan": StepRecord(
        "OSCANSUB", "overscan level subtracted", ("SUBOSCAN", "SUBTRACT_OVERSCAN")
    ),
    "trim": StepRecord("TRIMMED", "cut to the section that is kept", ("TRIMIM", "TRIM_IMAGE")),
    "bias": StepRecord("BIASSUB", "bias subtracted", ("SUBBIAS", "SUBTRACT_BIAS")),
    "dark": StepRecord("DARKSUB", "dark subtracted", ("SUBDARK", "SUBTRACT_DARK")),
    "flat": StepRecord("FLATDIV", "divided by the flat", ("FLATCOR", "FLAT_CORRECT")),
    "gain": StepRecord("GAINCOR", "multiplied by the gain", ("GAINCOR", "GAIN_CORRECT")),
}

_SUBTRACTIONS: Final = ("overscan", "bias", "dark")


def removed_steps(header: Mapping[str, Any]) -> frozenset[str]:
    """Steps that the header says were done.

    Parameters
    ----------
    header : mapping
        FITS header, or a dictionary with keys in any case.

    Returns
    -------
    frozenset of str
        Some of overscan, trim, bias, dark, flat, gain.
    """
    return frozenset(step for step, done in _records(header).items() if done)


def bias_known_inside(header: Mapping[str, Any]) -> bool:
    """True when the header says that the bias has not been subtracted (BIASSUB = F)."""
    return _records(header).get("bias") is False


def refuse_misfit(
    header: Mapping[str, Any], step: str, master: Mapping[str, Any] | None = None
) -> None:
    """Refuse a step that was done already, or that does not fit what is known to be done.

    All but the first rule look at the boolean cards alone: where one is missing the step is done.

    Parameters
    ----------
    header : mapping
        Of the frame.
    step : str
        Key of `STEP_RECORDS`.
    master : mapping, optional
        Header of the bias or dark that is to be subtracted.

    Raises
    ------
    StateError
        With slug ``state``; it names the cards.
    """
    if step in removed_steps(header):
        record = STEP_RECORDS[step]
        raise StateError(
            "state",
            f"{step} was removed from this frame before ({record.comment}, see {record.card} or "
            f"{record.log_names[0].lower()} in its header); start from the frame as it was",
        )
    frame = _boolean_cards(header)
    if step in _SUBTRACTIONS and frame.get("flat"):
        raise StateError(
            "state",
            f"the frame was divided by a flat (FLATDIV = T), so that its {step} can no longer be "
            "subtracted; subtract before the flat, from the frame as it was",
        )
    in_master = {} if master is None else _boolean_cards(master)
    mine, its = frame.get("overscan"), in_master.get("overscan")
    if mine is not None and its is not None and mine != its:
        raise StateError(
            "state",
            f"the overscan level is {_gone_or_inside(mine)} the frame but "
            f"{_gone_or_inside(its)} the master {step}; subtract the overscan from both or none",
        )
    is_raw = frame.get("bias") is False and frame.get("dark") is False
    if step == "flat" and is_raw and not frame.get("overscan"):
        raise StateError(
            "state",
            "the frame still holds its bias (BIASSUB = F) and its dark (DARKSUB = F), which the "
            "flat would divide too; subtract them first",
        )


def _gone_or_inside(subtracted: bool) -> str:
    return "gone (OSCANSUB = T) from" if subtracted else "inside (OSCANSUB = F)"


def record_step(header: MutableMapping[str, Any], step: str) -> None:
    """Write the boolean card of a step that was done."""
    record = STEP_RECORDS[step]
    if isinstance(header, fits.Header):
        header[record.card] = (True, record.comment)
    else:
        header[record.card] = True


def _boolean_cards(header: Mapping[str, Any]) -> dict[str, bool]:
    present = {str(key).upper(): key for key in header}
    cards: dict[str, bool] = {}
    for step, record in STEP_RECORDS.items():
        own = header[present[record.card]] if record.card in present else None
        if isinstance(own, bool | np.bool_):
            cards[step] = bool(own)
    return cards


def _records(header: Mapping[str, Any]) -> dict[str, bool]:
    present = {str(key).upper() for key in header}
    logged = {
        step: True
        for step, record in STEP_RECORDS.items()
        if any(name in present for name in record.log_names)
    }
    return logged | _boolean_cards(header)
