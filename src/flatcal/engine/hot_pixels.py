"""The factor of a dark that leaves the least of its hot pixels in a frame.

The ratio of exposure times is right where dark current does not change. Where the sensor was a
little warmer or colder than in the darks, hot pixels tell by how much: each stands out of its
neighbours in the dark, and what is left of it in the calibrated frame is proportional to that.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# The hottest pixels that are looked at, and how few say nothing.
_MOST: Final = 4000
_LEAST: Final = 30
# Neighbours are taken at this distance along the row: a hot pixel may bleed into the next one.
_STEP: Final = 2
_CLIP_STD: Final = 5.0
_MAD_TO_STD: Final = 1.4826
# A correction that may well be noise would only add that noise.
_SIGNIFICANT: Final = 3.0


def refine_scale(data: Array, flags: Array, dark: Array, flat: Array | None) -> float:
    """What must be added to the factor of a dark.

    Parameters
    ----------
    data : ndarray, shape (rows, columns)
        Frame from which the dark was subtracted with the factor to be refined.
    flags : ndarray of uint8, same shape
        Pixels that are not zero do not count.
    dark : ndarray, same shape
        Master dark without its bias.
    flat : ndarray or None
        What the frame was divided by since.

    Returns
    -------
    float
        The correction, by least squares over the hot pixels with one rejection of outliers in
        each of three rounds; 0 where it is within three standard errors of 0, or there are too
        few hot pixels to tell.
    """
    rows, columns = _hot_pixels(dark)
    good = flags[rows, columns] == 0
    for shift in (-_STEP, _STEP):
        good &= flags[rows, columns + shift] == 0
    rows, columns = rows[good], columns[good]
    height = _contrast(dark, rows, columns)
    left = _contrast(data if flat is None else data * flat, rows, columns)
    for _ in range(3):
        if left.size < _LEAST:
            return 0.0
        correction = float((height * left).sum() / (height * height).sum())
        residual = left - correction * height
        residual -= np.median(residual)
        std = _MAD_TO_STD * float(np.median(np.abs(residual)))
        error = std / math.sqrt((height * height).sum())
        kept = np.abs(residual) <= _CLIP_STD * std
        height, left = height[kept], left[kept]
    return correction if abs(correction) > _SIGNIFICANT * error else 0.0


def _hot_pixels(dark: Array) -> tuple[Array, Array]:
    """Rows and columns of the pixels that stand out most of their neighbours in a dark."""
    inner = dark[:, _STEP:-_STEP]
    contrast = inner - (dark[:, : -2 * _STEP] + dark[:, 2 * _STEP :]) / 2
    noise = _MAD_TO_STD * float(np.median(np.abs(contrast[::7])))
    hot = np.flatnonzero(contrast > 10 * noise)
    if hot.size > _MOST:
        values = contrast.ravel()[hot]
        hot = hot[np.argpartition(values, -_MOST)[-_MOST:]]
    rows, columns = np.unravel_index(np.sort(hot), contrast.shape)
    return rows, columns + _STEP


def _contrast(image: Array, rows: Array, columns: Array) -> Array:
    """How far pixels stand out of their neighbours."""
    around = (image[rows, columns - _STEP] + image[rows, columns + _STEP]) / 2
    return np.asarray(image[rows, columns] - around, np.float64)
