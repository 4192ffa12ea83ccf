"""Planes of outputs, read by name and in bands of rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.errors import BrokenFileError
from flatcal.flags import Flag
from flatcal.outputs import open_planes
from flatcal.photon_transfer.raw import sample_bands
from flatcal.section import Section
from flatcal.storage import Place

Array = NDArray[Any]

# A scatter of so many pixels is known to 0.07 %, far better than any tolerance, and a plane of
# them is 8 MB at the most.
SAMPLE_PIXELS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """The sampled rows of an output, one band below the other.

    Attributes
    ----------
    data : ndarray of float32 or float64
        Values.
    std : ndarray or None
        UNCERT; None where the file has none.
    good : ndarray of bool
        Pixels that are finite and not flagged.
    good_or_hot : ndarray of bool
        Those, and the ones that are flagged as hot alone.
    noise_model : bool
        Whether UNCERT comes from gain and read noise.
    """

    data: Array
    std: Array | None
    good: Array
    good_or_hot: Array
    noise_model: bool


def read_sample(path: Place) -> Sample:
    """Read the sampled rows of an output.

    Raises
    ------
    BrokenFileError
        When it is not there or cannot be read.
    """
    with open_planes(path) as planes:
        header = planes["PRIMARY"].header
        bands = sample_bands((header["NAXIS2"], header["NAXIS1"]), SAMPLE_PIXELS)
        data = _read(planes["PRIMARY"], bands)
        std = _read(planes["UNCERT"], bands) if "UNCERT" in planes else None
        good = good_or_hot = np.isfinite(data)
        if "FLAGS" in planes:
            flags = _read(planes["FLAGS"], bands)
            good, good_or_hot = good & (flags == 0), good & (flags & ~Flag.HOT == 0)
        return Sample(data, std, good, good_or_hot, header.get("ERRSRC") == "noise model")


def cut_sample(sample: Sample, shape: tuple[int, int], place: Section) -> Sample:
    """The part of a sample that lies in a section of the image.

    Parameters
    ----------
    sample : Sample
        From `read_sample`.
    shape : tuple of int
        Rows and columns of the image.
    place : tuple of slice
        The section.
    """
    bands = sample_bands(shape, SAMPLE_PIXELS)
    rows = np.concatenate([np.arange(band.start, band.stop) for band in bands])
    part = np.flatnonzero((rows >= place[0].start) & (rows < place[0].stop))
    cut = slice(part[0], part[-1] + 1), place[1]  # the rows are in order
    std = None if sample.std is None else sample.std[cut]
    return replace(
        sample,
        data=sample.data[cut],
        std=std,
        good=sample.good[cut],
        good_or_hot=sample.good_or_hot[cut],
    )


def _read(hdu: Any, bands: tuple[slice, ...]) -> Array:
    if bands[-1].stop == sum(rows.stop - rows.start for rows in bands):
        # Of a small image all bands are read, and at once that is quicker.
        bands = (slice(0, bands[-1].stop),)
    values = np.concatenate([hdu.section[rows, :] for rows in bands])
    native: Array = values.astype(values.dtype.newbyteorder("="), copy=False)
    return native


def require_readable(path: Place) -> None:
    """Read a row of every plane.

    Raises
    ------
    BrokenFileError
        When the file is not there, has not the planes that it needs, or is cut short.
    """
    with open_planes(path) as planes:
        if "PRIMARY" not in planes or planes["PRIMARY"].header["NAXIS"] != 2:
            raise BrokenFileError("file-broken", f"{path} holds no image", path)
        for hdu in planes.values():
            last = hdu.header["NAXIS2"] - 1
            hdu.section[last : last + 1, :]
