"""The level of an image: what a flat is divided by, and what its header tells as its median."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.buffers import Buffers
from flatcal.engine.calibrated_frame import CalibratedFrame, sampled_rows
from flatcal.engine.regions import Region, cut_rows, shifted
from flatcal.kernels.stats import RunningMedian, median_of_good
from flatcal.projection import median_room

Array = NDArray[Any]


def level_of(image: Array, bad: Array, regions: Sequence[Region]) -> float:
    """The median of the good pixels; of several amplifiers the mean of their medians.

    Their gains differ, and the median of all pixels lies in a gap between the values of two of
    them, where a few pixels move it far.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        Values.
    bad : ndarray of uint8 or bool, same shape
        Not 0 where they do not count.
    regions : sequence of Region
        Of the image.

    Returns
    -------
    float
        NaN when no pixel is good.
    """
    return _mean([median_of_good(image[r.place], bad[r.place]) for r in regions])


def _mean(medians: Sequence[float]) -> float:
    known = [median for median in medians if math.isfinite(median)]
    return sum(known) / len(known) if known else math.nan


class RunningLevel:
    """The level of a frame that passes by in bands; see `level_of`.

    Parameters
    ----------
    frame : CalibratedFrame
        The frame, of which a sample is read.
    buffers : Buffers
        Lend memory.
    stack : ExitStack
        It is lent until this is left.
    """

    def __init__(self, frame: CalibratedFrame, buffers: Buffers, stack: ExitStack) -> None:
        self._regions = frame.preparation.regions
        rows = np.array(sampled_rows(frame.preparation.shape[0]))
        values, bad = frame.read_sample()
        self._medians = []
        for region in self._regions:
            y, x = region.place
            room = median_room((y.stop - y.start) * (x.stop - x.start))
            inside = stack.enter_context(buffers.lend((room,), values.dtype))
            sample = cut_rows(values, rows, region), cut_rows(bad, rows, region)
            self._medians.append(RunningMedian.for_rows(*sample, inside))

    def add(self, band: slice, values: Array, bad: Array) -> None:
        """Take a band of rows."""
        for region, median in zip(self._regions, self._medians, strict=True):
            section = region.within(band)
            if section is not None:
                place = shifted(section, band.start)
                median.add(np.ascontiguousarray(values[place]), np.ascontiguousarray(bad[place]))

    def find(self) -> float | None:
        """The level, NaN when no pixel is good; None where the sample deceived."""
        medians = [median.find() for median in self._medians]
        return None if None in medians else _mean([m for m in medians if m is not None])
