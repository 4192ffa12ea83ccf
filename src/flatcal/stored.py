"""A master of an earlier night, as the library knows it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from flatcal.frame import Kind, Setup


class MasterStatus(StrEnum):
    """Whether a stored master may be chosen: only a good one is."""

    GOOD = "good"
    BAD = "bad"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class StoredMaster:
    """A master in the library.

    Attributes
    ----------
    id : int
        Its number in the library.
    kind : Kind
        bias, dark or flat.
    path : str
        The file.
    sha256 : str
        SHA-256 of the file.
    recipe : str
        Hash of what determined its pixels.
    setup : Setup
        Of the raw frames it was made of.
    trim_section : str
        FITS section of the raw image that it holds; empty for the whole image.
    overscan, parallel_overscan : bool
        Whether its frames lost the level of the overscan beside the image, and of that above or
        below it.
    exposure_time_s : float
        Mean exposure time.
    set_temperature_c : float or None
        Set temperature of the detector.
    filter : str
        Of a flat.
    lost_bias : bool
        Whether a dark has lost its bias.
    bias_recipe : str
        Recipe of the bias that went off it; empty when none did.
    n_frames : int
        Frames it was made of.
    date_first, date_last : str
        Dates of the first and the last of them.
    valid_from, valid_to : str
        The first and last day it may serve; empty for no limit.
    added : str
        When it came into the library.
    status : MasterStatus
        Whether it may be chosen.
    note : str
        What somebody wrote about it.
    flatcal_version : str
        What made it.
    """

    id: int
    kind: Kind
    path: str
    sha256: str
    recipe: str
    setup: Setup
    trim_section: str
    overscan: bool
    parallel_overscan: bool
    exposure_time_s: float
    set_temperature_c: float | None
    filter: str
    lost_bias: bool
    bias_recipe: str
    n_frames: int
    date_first: str
    date_last: str
    valid_from: str
    valid_to: str
    added: str
    status: MasterStatus
    note: str
    flatcal_version: str
