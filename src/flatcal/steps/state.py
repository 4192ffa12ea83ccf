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


def state_known(header: Mapping[str, Any]) -> bool:
    """True when the header has a record of any step, done or known not done."""
    return bool(_records(header))


def bias_known_inside(header: Mapping[str, Any]) -> bool:
    """True when the header says that the bias has not been subtracted (BIASSUB = F)."""
    return _records(header).get("bias") is False


def refuse_twice(header: Mapping[str, Any], step: str) -> None:
    """Refuse a step that the header says was done already.

    Raises
    ------
    StateError
        With slug ``state``.
    """
    if step in removed_steps(header):
        record = STEP_RECORDS[step]
        raise StateError(
            "state",
            f"{step} was removed from this frame before ({record.comment}, see {record.card} or "
            f"{record.log_names[0].lower()} in its header); start from the frame as it was",
        )


def record_step(header: MutableMapping[str, Any], step: str) -> None:
    """Write the boolean card of a step that was done."""
    record = STEP_RECORDS[step]
    if isinstance(header, fits.Header):
        header[record.card] = (True, record.comment)
    else:
        header[record.card] = True


def _records(header: Mapping[str, Any]) -> dict[str, bool]:
    present = {str(key).upper(): key for key in header}
    records: dict[str, bool] = {}
    for step, record in STEP_RECORDS.items():
        own = header[present[record.card]] if record.card in present else None
        if isinstance(own, bool | np.bool_):
            records[step] = bool(own)
        elif any(name in present for name in record.log_names):
            records[step] = True
    return records
