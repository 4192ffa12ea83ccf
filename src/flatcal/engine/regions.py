"""The parts of an image that different amplifiers have read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.frame import Detector
from flatcal.section import Section, assemble_sections

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Region:
    """What one amplifier has read. Where there is but one it is the whole image.

    Attributes
    ----------
    raw : tuple of slice
        Its pixels in the raw image.
    overscan : tuple of slice or None
        The overscan pixels of the same rows.
    place : tuple of slice
        Its pixels in the image that is kept.
    detector : Detector
        Noise and range.
    """

    raw: Section
    overscan: Section | None
    place: Section
    detector: Detector

    def within(self, rows: slice) -> Section | None:
        """Its pixels in some rows of the image that is kept; None where it has none there."""
        start, stop = max(rows.start, self.place[0].start), min(rows.stop, self.place[0].stop)
        if rows.step is not None:
            start += (rows.start - start) % rows.step
        return (slice(start, stop, rows.step), self.place[1]) if start < stop else None

    def raw_rows(self, rows: slice) -> slice:
        """The raw rows of some of its rows of the image that is kept."""
        shift = self.raw[0].start - self.place[0].start
        return slice(rows.start + shift, rows.stop + shift, rows.step)


def make_regions(
    data: Sequence[Section], overscans: Sequence[Section], detectors: Sequence[Detector]
) -> tuple[Region, ...]:
    """The regions of an image, by the sections of its amplifiers.

    Parameters
    ----------
    data, overscans : sequence of tuple of slice
        Of each amplifier; no overscans where none is subtracted.
    detectors : sequence of Detector
        Of each amplifier.
    """
    places = assemble_sections(data)
    found = zip_longest(data, overscans, places, detectors)
    return tuple(Region(*each) for each in found)


def levels_of_regions(values: Array, rows: Array, regions: Sequence[Region]) -> tuple[float, ...]:
    """Level of each amplifier over that of the whole image, where these are its own.

    Amplifiers have levels of their own, while dark current is of the silicon: what an amplifier's
    part of a dark is above the whole counts for its level. Where an overscan is subtracted, or
    there is one amplifier, they have none.

    Parameters
    ----------
    values : ndarray, shape (n, columns)
        Some rows of an image.
    rows : ndarray of int, shape (n,)
        Which they are.
    regions : sequence of Region
        Of the image.
    """
    if len(regions) == 1 or regions[0].overscan is not None:
        return (0.0,) * len(regions)
    whole = np.median(values)
    return tuple(float(np.median(cut_rows(values, rows, r)) - whole) for r in regions)


def cut_rows(values: Array, rows: Array, region: Region) -> Array:
    """What of some rows of an image one amplifier has read."""
    y, x = region.place
    inside = (rows >= y.start) & (rows < y.stop)
    part: Array = values[:, x] if inside.all() else values[inside, x]
    return part


def shifted(section: Section, first_row: int) -> Section:
    """A section in an array of some rows of the image, of which this is the first."""
    rows, columns = section
    start, stop, step = rows.start - first_row, rows.stop - first_row, rows.step or 1
    return slice(start // step, -(-stop // step)), columns


@contextmanager
def contiguous(view: Array) -> Iterator[Array]:
    """A part of an array as kernels take it; what is written there is in the array afterwards."""
    if view.flags.c_contiguous:
        yield view
    else:
        copy = np.ascontiguousarray(view)
        yield copy
        view[...] = copy
