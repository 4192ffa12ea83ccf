"""Pixel flags: one table, from which FLAGS, MASK, their header cards and the docs are made."""

from __future__ import annotations

from enum import IntFlag
from typing import Final


class Flag(IntFlag):
    """Why a pixel is not to be used; 0 is a good pixel.

    The FLAGS plane of every output holds these bits; its MASK plane is 1 where any is set, which
    is what CCDData reads.
    """

    SATURATED = 1
    NON_FINITE = 2
    FLAT_INVALID = 4
    NO_INPUT = 8
    MASTER_BAD = 16
    HOT = 32
    DEAD = 64
    BAD_COLUMN = 128
    NON_LINEAR = 256
    BLED = 512
    USER = 1024
    COSMIC_RAY = 2048


MEANING: dict[Flag, str] = {
    Flag.SATURATED: "raw value at or above the saturation level",
    Flag.NON_FINITE: "value is not a finite number",
    Flag.FLAT_INVALID: "flat is zero, negative or flagged here",
    Flag.NO_INPUT: "no input frame had a good value here",
    Flag.MASTER_BAD: "a master subtracted here is flagged",
    Flag.HOT: "dark current noisier than read-out",
    Flag.DEAD: "response far from its surroundings",
    Flag.BAD_COLUMN: "column is bad as a whole",
    Flag.NON_LINEAR: "raw value above the linear range",
    Flag.BLED: "next to a saturated pixel in its column",
    Flag.USER: "marked in the user's mask",
    Flag.COSMIC_RAY: "hit by a cosmic ray, as far as its edges tell",
}

# Defects of the detector: what is calibrated with a master has those of the master.
INHERITED: Final = Flag.HOT | Flag.DEAD | Flag.BAD_COLUMN | Flag.USER
