"""Raw frames in strips of rows: overscan off, cut, and without saturated pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.frame import Storage
from flatcal.levels import Levels, Overscan
from flatcal.overscan_model import PER_ROW, OverscanModel
from flatcal.photon_transfer.boxes import BOX_PIXELS, PairStrip, difference_variance, measure_boxes
from flatcal.photon_transfer.point import (
    PhotonTransferPoint,
    average_boxes,
    average_read_variance,
)
from flatcal.raw_frame import RawFrame
from flatcal.section import Section, assemble_sections, shape_of_sections
from flatcal.storage import Place

Array = NDArray[Any]

# Of a pair: four million pixels tell a variance to 0.07 %, and more would not help.
PAIR_PIXELS: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class RawPart:
    """What one amplifier has read of a raw frame.

    Attributes
    ----------
    data : tuple of slice
        Its part of the image.
    overscan : tuple of slice or None
        The pixels whose statistic is subtracted from each row.
    saturation_adu : float or None
        Values from here on are not good.
    """

    data: Section
    overscan: Section | None
    saturation_adu: float | None


@dataclass(frozen=True, slots=True)
class RawImage:
    """What must be known of a raw frame to read it.

    Attributes
    ----------
    path : Path or RemotePath
        The file.
    storage : Storage
        Where its pixels lie.
    shape : tuple of int
        Rows and columns as read out.
    parts : tuple of RawPart
        What its amplifiers have read, moved together.
    statistic : str
        'median', 'mean' or 'clipped_mean'.
    model : OverscanModel
        How the level of the overscan varies along the rows.
    parallel : slice or None
        Rows of overscan above or below the image.
    """

    path: Place
    storage: Storage
    shape: tuple[int, int]
    parts: tuple[RawPart, ...]
    statistic: str
    model: OverscanModel = PER_ROW
    parallel: slice | None = None

    def overscan_of(self, part: RawPart) -> Overscan:
        """The overscan whose levels are subtracted from a part."""
        columns = part.overscan and part.overscan[1]
        return Overscan(part.data, columns, self.parallel, self.statistic, self.model)

    @property
    def places(self) -> tuple[Section, ...]:
        """Where the parts lie in the image."""
        return assemble_sections([part.data for part in self.parts])

    @property
    def kept_shape(self) -> tuple[int, int]:
        """Rows and columns that are kept."""
        return shape_of_sections([part.data for part in self.parts])

    @property
    def level_factors(self) -> tuple[float, ...]:
        """Variance of a pixel whose overscan level is off, in units of that of a reading.

        One for each part.
        """
        return tuple(1.0 + self.overscan_of(part).variance(1.0) for part in self.parts)


def spread_over_parts(
    image: RawImage, values: Sequence[float], bands: Sequence[slice]
) -> Array | float:
    """A value for each part, as it stands in some rows; the value itself where there is one part.

    Parameters
    ----------
    image : RawImage
        With its parts.
    values : sequence of float
        One for each part.
    bands : sequence of slice
        Rows of the image.

    Returns
    -------
    float, or ndarray of float64 with the rows of all bands
    """
    if len(values) == 1:
        return values[0]
    plane = np.empty(image.kept_shape)
    for place, value in zip(image.places, values, strict=True):
        plane[place] = value
    return np.concatenate([plane[rows] for rows in bands])


class OpenImage:
    """A raw frame that is read; a context.

    Parameters
    ----------
    image : RawImage
        The frame.
    """

    def __init__(self, image: RawImage) -> None:
        self.image = image
        self._raw = RawFrame(image.path, image.storage, image.shape)
        self._levels: dict[int, Levels] = {}

    def __enter__(self) -> OpenImage:
        self._raw.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._raw.__exit__(*failure)

    def read(self, rows: slice) -> tuple[Array, Array]:
        """Values in ADU without overscan level, and which of them are good.

        Parameters
        ----------
        rows : slice
            Of the image that is kept.
        """
        image = self.image
        shape = (rows.stop - rows.start, image.kept_shape[1])
        values, good = np.empty(shape), np.empty(shape, np.bool_)
        for part, (its_rows, columns) in zip(image.parts, image.places, strict=True):
            start, stop = max(rows.start, its_rows.start), min(rows.stop, its_rows.stop)
            if start < stop:
                place = slice(start - rows.start, stop - rows.start), columns
                shift = part.data[0].start - its_rows.start
                values[place], good[place] = self._read_part(part, start + shift, stop + shift)
        return values, good

    def _read_part(self, part: RawPart, start: int, stop: int) -> tuple[Array, Array]:
        """What an amplifier has read of some raw rows."""
        whole = self._raw.values(slice(start, stop), slice(0, self.image.shape[1]), np.float64)
        values = whole[:, part.data[1]]
        good = np.isfinite(values)
        if part.saturation_adu is not None:
            good &= values < part.saturation_adu
        saturation = np.inf if part.saturation_adu is None else part.saturation_adu
        overscan = self.image.overscan_of(part)
        if overscan.needs_all:
            number = self.image.parts.index(part)
            if number not in self._levels:
                self._levels[number] = overscan.read(self._raw, saturation)
            first = part.data[0].start
            rows = slice(start - first, stop - first)
            values = self._levels[number].subtracted_from(values, rows)
        elif overscan.columns is not None:
            values = values - overscan.row_levels(whole[:, overscan.columns], saturation)[:, None]
        return values, good & np.isfinite(values)


def sample_bands(shape: tuple[int, int], most_pixels: int) -> tuple[slice, ...]:
    """Bands of rows, as high as a box and spread evenly over an image.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    most_pixels : int
        As many as they may hold in all; eight bands are given in any case. An image that is lower
        than a box is one band.
    """
    n_there = shape[0] // BOX_PIXELS
    if n_there == 0:
        return (slice(0, shape[0]),)
    n_wanted = min(n_there, max(8, most_pixels // (BOX_PIXELS * shape[1])))
    starts = np.linspace(0, n_there - 1, n_wanted).round().astype(int) * BOX_PIXELS
    return tuple(slice(int(start), int(start) + BOX_PIXELS) for start in starts)


def read_variance_of_pairs(
    pairs: Sequence[tuple[RawImage, RawImage]], most_pixels: int = PAIR_PIXELS
) -> tuple[float, float]:
    """Variance of a bias frame in ADU squared by pairs of them, with its error.

    The noise of the overscan level is in it; see `RawImage.level_factors`.
    """
    per_pair = max(1, most_pixels // len(pairs))
    parts = []
    for pair in pairs:
        with ExitStack() as stack:
            first, second = (stack.enter_context(OpenImage(image)) for image in pair)
            for rows in sample_bands(pair[0].kept_shape, per_pair):
                (bias1, good1), (bias2, good2) = first.read(rows), second.read(rows)
                parts.append(difference_variance(bias1, bias2, good1 & good2))
    variances, n = (np.concatenate(column) for column in zip(*parts, strict=True))
    return average_read_variance(variances, n)


def measure_raw_pair(
    flats: tuple[RawImage, RawImage],
    biases: tuple[RawImage, RawImage],
    read_variance_adu2: tuple[float, float],
    most_pixels: int = PAIR_PIXELS,
) -> PhotonTransferPoint:
    """Level and noise of a pair of raw flats.

    Parameters
    ----------
    flats, biases : tuple of RawImage
        Two each, of one shape.
    read_variance_adu2 : tuple of float
        See `read_variance_of_pairs`.
    most_pixels : int
        Pixels that are read of each frame.
    """
    return average_boxes(
        measure_boxes(_read_strips((*flats, *biases), most_pixels)), read_variance_adu2
    )


def _read_strips(images: Sequence[RawImage], most_pixels: int) -> Iterator[PairStrip]:
    with ExitStack() as stack:
        opened = [stack.enter_context(OpenImage(image)) for image in images]
        for rows in sample_bands(images[0].kept_shape, most_pixels):
            (flat1, good1), (flat2, good2), (bias1, good3), (bias2, good4) = (
                image.read(rows) for image in opened
            )
            yield PairStrip(flat1, flat2, bias1, bias2, good1 & good2 & good3 & good4)
