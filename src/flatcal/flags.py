"""Pixel flags: one table, from which the MASK plane, its header cards and the docs are made."""

from __future__ import annotations

from enum import IntFlag


class Flag(IntFlag):
    """Why a pixel is not to be used; 0 is a good pixel.

    The MASK extension of every output holds these bits, so that a reader that only asks
    "zero or not" (CCDData does) sees a bad-pixel mask.
    """

    SATURATED = 1
    NON_FINITE = 2
    FLAT_INVALID = 4
    NO_INPUT = 8
    MASTER_BAD = 16


MEANING: dict[Flag, str] = {
    Flag.SATURATED: "raw value at or above the saturation level",
    Flag.NON_FINITE: "value is not a finite number",
    Flag.FLAT_INVALID: "flat is zero, negative or flagged here",
    Flag.NO_INPUT: "no input frame had a good value here",
    Flag.MASTER_BAD: "a master subtracted here is flagged",
}
