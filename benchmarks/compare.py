"""Tasks that compare what two programs have computed.

Each gives ``{"agrees": bool, "text": str}``; the text states the largest difference and the
tolerance.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from benchmarks.places import Job

Told = dict[str, Any]


def compare_folders(job: Job) -> Told:
    """Compare every FITS image of `ours` with the one of the same path in `theirs`.

    The arguments are ``ours``, ``theirs``, ``kinds`` (folders below both) and the tolerance:
    all pixels but ``share`` of them within ``limit``, and all within ``worst``. With
    ``relative`` images are divided by their median first.
    """
    ours, theirs = Path(job.args["ours"]), Path(job.args["theirs"])
    names = [
        path.relative_to(ours)
        for kind in job.args["kinds"]
        for path in sorted((ours / kind).glob("*.fits"))
    ]
    if not names:
        return {"agrees": False, "text": "there is no image to compare"}
    missing = [str(name) for name in names if not (theirs / name).is_file()]
    if missing:
        return {"agrees": False, "text": f"not written: {', '.join(missing)}"}
    beyond, n_pixels = 0, 0
    largest = 0.0
    for name in names:
        for difference in _differences(ours / name, theirs / name, job.args["relative"]):
            beyond += int(np.count_nonzero(~(difference <= job.args["limit"])))
            n_pixels += difference.size
            largest = max(largest, float(np.nan_to_num(difference, nan=math.inf).max()))
    return _judge(job, largest, beyond / n_pixels)


def compare_text(job: Job) -> Told:
    """Compare two text files, byte by byte."""
    ours, theirs = (Path(job.args[side], "digest.txt").read_text() for side in ("ours", "theirs"))
    return {"agrees": ours == theirs, "text": "the same bits" if ours == theirs else "other bits"}


def compare_tables(job: Job) -> Told:
    """Compare the tables of two header indexes: columns and values."""
    ours, theirs = (
        json.loads(Path(job.args[side], "table.json").read_text()) for side in ("ours", "theirs")
    )
    wrong = sorted(set(ours) ^ set(theirs))
    wrong += [name for name in ours if name in theirs and ours[name] != theirs[name]]
    text = f"columns differ: {', '.join(wrong)}" if wrong else f"{len(ours)} columns, all equal"
    return {"agrees": not wrong, "text": text}


def _differences(ours: Path, theirs: Path, relative: bool) -> list[Any]:
    """Absolute difference of each plane that both have."""
    with fits.open(ours) as one, fits.open(theirs) as other:
        theirs_by_name = {hdu.name: hdu.data for hdu in other}
        pairs = [
            (hdu.data.astype(np.float64), theirs_by_name[hdu.name].astype(np.float64))
            for hdu in one
            if hdu.name in theirs_by_name
        ]
    if relative:
        pairs = [(mine / np.median(mine), yours / np.median(yours)) for mine, yours in pairs]
    return [np.abs(mine - yours) for mine, yours in pairs]


def _judge(job: Job, largest: float, share: float) -> Told:
    limit, worst, unit = job.args["limit"], job.args["worst"], job.args["unit"]
    agrees = bool(largest <= worst and share <= job.args["share"])
    if largest <= limit:
        text = f"all pixels within {largest:.2g} {unit}"
    else:
        text = f"{share:.2%} of the pixels differ by more than {limit:g} {unit}, "
        text += f"none by more than {largest:.2g}"
    text += f" (allowed: {job.args['share']:.1%} beyond {limit:g}, none beyond {worst:g})"
    return {"agrees": agrees, "text": text}
