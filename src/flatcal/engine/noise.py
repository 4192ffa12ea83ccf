"""Standard deviation of masters by the noise model.

The scatter of a handful of frames tells their noise badly (that of three is less than half
the true one in 22 % of pixels), so where gain and read noise are known they give it:
the variance of a frame, by its photons and its read noise, over the number of frames kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.frame import Detector

Array = NDArray[Any]


def gain_of(detector: Detector) -> float:
    """Gain in electron per ADU of a detector whose noise is known."""
    assert detector.gain_electron_per_adu is not None
    return detector.gain_electron_per_adu


def read_variance_adu2(detector: Detector) -> float:
    """Square of the read noise in ADU of a detector whose noise is known."""
    assert detector.read_noise_electron is not None
    read_noise_adu = detector.read_noise_electron / gain_of(detector)
    return read_noise_adu * read_noise_adu


# Rounding to whole ADU alone scatters by this much.
ROUNDING_STD_ADU = 12**-0.5


def frame_noise(detector: Detector) -> float:
    """Noise in ADU that every pixel of a raw frame has at the least."""
    return read_variance_adu2(detector) ** 0.5 if detector.noise_known else ROUNDING_STD_ADU


def stack_std(
    data: Array, n_used: Array, detector: Detector, *, shot: bool, level_variance: float
) -> Array:
    """Standard deviation of an average of bias or dark frames.

    Parameters
    ----------
    data : ndarray of float32
        The average in ADU.
    n_used : ndarray of int
        Frames kept in each pixel.
    detector : Detector
        With known gain and read noise.
    shot : bool
        Whether the values are electrons of dark current, with their shot noise; False where
        they still hold the bias, which has none.
    level_variance : float
        Variance in ADU squared that the overscan level adds to each frame.
    """
    gain, read_variance = gain_of(detector), read_variance_adu2(detector)
    variance = np.full(data.shape, read_variance + level_variance, np.float32)
    if shot:
        variance += np.maximum(data, 0) / np.float32(gain)
    return np.sqrt(variance / np.maximum(n_used, 1).astype(np.float32))


def flat_std(data: Array, n_used: Array, medians: Array, detector: Detector) -> Array:
    """Standard deviation of an average of flats, each divided by its median.

    Parameters
    ----------
    data : ndarray of float32
        The average, of median 1.
    n_used : ndarray of int
        Frames kept in each pixel.
    medians : ndarray, shape (n_frames,)
        What each flat was divided by, in ADU.
    detector : Detector
        With known gain and read noise.
    """
    gain, read_variance = gain_of(detector), read_variance_adu2(detector)
    photons = np.float32(np.mean(1 / (gain * medians)))
    read = np.float32(np.mean(read_variance / medians**2))
    variance = np.maximum(data, 0) * photons + read
    return np.sqrt(variance / np.maximum(n_used, 1).astype(np.float32))


def flat_noise(medians: Array, detector: Detector) -> float:
    """Noise of a flat over its median where it is 1; see `flat_std`."""
    if not detector.noise_known:
        return float(np.mean(ROUNDING_STD_ADU / medians))
    one = np.ones((1, 1), np.float32)
    return float(flat_std(one, one.astype(np.int32), medians, detector)[0, 0])
