"""Flats of colour matrices: scaled by colour as they are combined, and the master equalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.colour import COLOURS, pixels_of, shift, spread
from flatcal.engine.buffers import Buffers
from flatcal.engine.calibrated_frame import CalibratedFrame
from flatcal.errors import FrameError
from flatcal.kernels.stats import median_of_good

Array = NDArray[Any]

# Two greens of a cell differ by some percent at the most; where the pattern is wrong, by tens.
_GREENS_DIFFER = 0.2

# Factors of colours.
Tint = dict[str, float]


class TintedFrame(CalibratedFrame):
    """A calibrated frame whose pixels of each colour are multiplied by a factor.

    Parameters
    ----------
    frame : CalibratedFrame
        The frame.
    pattern : str
        Its first cell.
    buffers : Buffers
        Lend memory.
    factors : dict of str to float
        Of each colour.
    """

    def __init__(
        self, frame: CalibratedFrame, pattern: str, buffers: Buffers, factors: Tint
    ) -> None:
        super().__init__(frame.raw, frame.preparation, buffers)
        self._pattern = pattern
        self._factors = factors

    def _read_bad(self, band: slice, out: Array, bad: Array, ignored: int) -> None:
        super()._read_bad(band, out, bad, ignored)
        out *= spread(self._pattern, self._factors, band, out.shape[1], out.dtype)


def kept_pattern(frame: CalibratedFrame, pattern: str) -> str:
    """The first cell of the image that is kept of a frame, by that of its raw image."""
    rows, columns = frame.preparation.regions[0].raw
    return shift(pattern, rows.start, columns.start)


def share_colours(
    readers: Sequence[CalibratedFrame],
    medians: Sequence[float],
    pattern: str,
    buffers: Buffers,
) -> list[Tint]:
    """What brings flats to one colour, that of their average.

    The colour of twilight changes within minutes. Scaled by one number, the flats would differ by
    percents in red and blue, and pixels of these would be rejected as outliers.

    Parameters
    ----------
    readers : sequence of CalibratedFrame
        The flats.
    medians : sequence of float
        Of all good pixels of each, which it is divided by when they are combined.
    pattern : str
        The first cell of the images that are kept.
    buffers : Buffers
        Lend the memory of one frame.

    Returns
    -------
    list of dict
        Factors of the colours of each.

    Raises
    ------
    FrameError
        When a colour has no light, or the pattern cannot be that of the frame.
    """
    relative = []
    for reader, median in zip(readers, medians, strict=True):
        shape, dtype = reader.preparation.shape, reader.preparation.dtype
        with buffers.lend(shape, dtype) as data, buffers.lend(shape, np.uint8) as bad:
            reader.read_bad(0, shape[0], data, bad)
            levels = _levels(data, bad, pattern, reader.raw.path.name)
        relative.append({colour: level / median for colour, level in levels.items()})
    common = {c: sum(its[c] for its in relative) / len(relative) for c in COLOURS}
    return [{c: common[c] / its[c] for c in COLOURS} for its in relative]


def equalise(
    data: Array, std: Array | None, flags: Array, pattern: str, name: str
) -> dict[str, float]:
    """Divide a master flat by the median of the pixels of each colour, so that each has 1.

    Parameters
    ----------
    data, std : ndarray
        Values and their standard deviation, if it is known; changed.
    flags : ndarray of uint16
        Flags.
    pattern : str
        Of its first cell.
    name : str
        Of the master.

    Returns
    -------
    dict of str to float
        The medians, rounded so that a header holds them exactly.
    """
    bad = flags != 0
    levels = _levels(data, bad, pattern, name)
    levels = {colour: float(np.float32(level)) for colour, level in levels.items()}
    for colour, level in levels.items():
        for where in pixels_of(pattern, colour):
            for plane in (data, std):
                if plane is not None:
                    plane[where] /= plane.dtype.type(level)
    data[bad] = 1
    return levels


def _levels(data: Array, bad: Array, pattern: str, name: str) -> dict[str, float]:
    """Medians of the good pixels of each colour."""
    levels = {}
    for colour in COLOURS:
        medians = [
            float(median_of_good(np.ascontiguousarray(data[where]), bad[where] != 0))
            for where in pixels_of(pattern, colour)
        ]
        if not min(medians) > 0:
            raise FrameError("flat-level", f"the {colour} pixels of {name} have no light")
        if max(medians) > (1 + _GREENS_DIFFER) * min(medians):
            raise FrameError(
                "colour-matrix",
                f"two kinds of pixels of {name} that are {colour} in {pattern} have levels of "
                f"{medians[0]:.5g} and {medians[1]:.5g}; set camera.colour_matrix",
            )
        levels[colour] = sum(medians) / len(medians)
    return levels
