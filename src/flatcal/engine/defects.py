"""Defects of the detector, found in masters: hot pixels, dead pixels, bad columns."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.noise import read_variance_adu2
from flatcal.flags import Flag
from flatcal.frame import Detector
from flatcal.kernels.arithmetic import flag_unlike
from flatcal.kernels.combine import MAD_TO_STD

Array = NDArray[Any]

# A pixel is hot where the shot noise of its dark current, in the exposure of the dark, is so many
# times the read noise: 3 means a noise of more than three times that of its neighbours.
HOT_NOISE: Final = 3.0
# A pixel or column whose response is below this share of its surroundings, or above its inverse
# counterpart, is no use: what is divided by it is noise or belongs to its neighbours.
LEAST_RESPONSE: Final = 0.5
MOST_RESPONSE: Final = 1.5
# A column of a bias or dark that is off its neighbours by so many times the noise of a frame.
COLUMN_NOISE: Final = 10.0
# A column is bad as a whole when this share of its pixels is.
BAD_SHARE: Final = 0.5

# Surroundings: blocks of so many rows and columns, of which one pixel in so many is looked at.
_BLOCK: Final = 64
_STEP: Final = 4
# Rows in which a column is looked at where there are more: the median of so many is known to a
# twelfth of the noise of one.
_COLUMN_ROWS: Final = 256
# Neighbouring columns on each side.
_NEIGHBOURS: Final = 5


def flag_hot(dark: Array, detector: Detector, flags: Array) -> None:
    """Flag hot pixels of a master dark.

    Parameters
    ----------
    dark : ndarray, shape (rows, columns)
        Master dark in ADU, as exposed, with its bias or without.
    detector : Detector
        Without known gain and read noise nothing is flagged.
    flags : ndarray of uint16, same shape
        Gets `Flag.HOT`.
    """
    if not detector.noise_known or detector.gain_electron_per_adu is None:
        return
    # Variance of the current in ADU squared is current over gain.
    limit = HOT_NOISE**2 * read_variance_adu2(detector) * detector.gain_electron_per_adu
    # Of its column: what is left of the bias differs from column to column.
    levels = np.median(_some_rows(dark), axis=0)
    flags[dark > levels + limit] |= np.uint16(Flag.HOT)


def flag_dead(flat: Array, flags: Array) -> None:
    """Flag pixels of a master flat that respond unlike their surroundings.

    Parameters
    ----------
    flat : ndarray, shape (rows, columns)
        Master flat.
    flags : ndarray of uint16, same shape
        Gets `Flag.DEAD`.
    """
    around = _block_medians(flat)
    flag_unlike(flat, around, _BLOCK, LEAST_RESPONSE, MOST_RESPONSE, np.uint16(Flag.DEAD), flags)


def _block_medians(image: Array) -> Array:
    """Median of a sample of each block; blocks at the far sides may be smaller."""
    n_rows, n_columns = (-(-size // _BLOCK) for size in image.shape)
    medians = np.empty((n_rows, n_columns), image.dtype)
    sample, size = image[::_STEP, ::_STEP], _BLOCK // _STEP
    whole_rows, whole_columns = (side // size for side in sample.shape)
    for rows in (slice(0, whole_rows), slice(whole_rows, n_rows)):
        for columns in (slice(0, whole_columns), slice(whole_columns, n_columns)):
            their = sample[rows.start * size :, columns.start * size :]
            their = their[: len(medians[rows]) * size, : medians[rows, columns].shape[1] * size]
            if their.size:
                n_y, n_x = medians[rows, columns].shape
                blocks = their.reshape(n_y, their.shape[0] // n_y, n_x, -1).swapaxes(1, 2)
                medians[rows, columns] = np.median(blocks.reshape(n_y, n_x, -1), axis=2)
    return medians


def flag_level_columns(image: Array, noise_adu: float, flags: Array) -> None:
    """Flag columns of a master bias or dark that are far from their neighbours.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        Master in ADU.
    noise_adu : float
        Noise that a single frame has at the least.
    flags : ndarray of uint16, same shape
        Gets `Flag.BAD_COLUMN`.
    """
    sample = _some_rows(image)
    levels = np.median(sample, axis=0)
    scatter = MAD_TO_STD * float(np.median(np.abs(sample - levels)))
    limit = COLUMN_NOISE * max(noise_adu, scatter)
    _flag_columns(np.abs(levels - _around(levels)) > limit, flags)


def flag_flat_columns(flat: Array, flags: Array) -> None:
    """Flag columns of a master flat that respond unlike their neighbours, or are mostly flagged.

    Parameters
    ----------
    flat : ndarray, shape (rows, columns)
        Master flat.
    flags : ndarray of uint16, same shape
        Gets `Flag.BAD_COLUMN`.
    """
    response = np.median(_some_rows(flat), axis=0)
    around = _around(response)
    _flag_columns((response < LEAST_RESPONSE * around) | (response > MOST_RESPONSE * around), flags)


def _some_rows(image: Array) -> Array:
    return image[:: max(_STEP, image.shape[0] // _COLUMN_ROWS)]


def _around(values: Array) -> Array:
    """Median of each value and its neighbours."""
    padded = np.pad(values, _NEIGHBOURS, mode="reflect" if values.size > _NEIGHBOURS else "edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _NEIGHBOURS + 1)
    return np.asarray(np.median(windows, axis=1))


def _flag_columns(bad: Array, flags: Array) -> None:
    looked_at = _some_rows(flags)
    mostly = np.count_nonzero(looked_at, axis=0) > BAD_SHARE * len(looked_at)
    flags[:, bad | mostly] |= np.uint16(Flag.BAD_COLUMN)
