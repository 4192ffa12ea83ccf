"""Standard deviation of masters by the noise model.

The scatter of a handful of frames tells their noise badly (that of three is less than half
the true one in 22 % of pixels), so where gain and read noise are known they give it:
the variance of a frame, by its photons and its read noise, over the number of frames kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.frame import Detector

Array = NDArray[Any]

# Rounding to whole ADU alone scatters by this much.
ROUNDING_STD_ADU = 12**-0.5


@dataclass(frozen=True, slots=True)
class Variance:
    """Variance of a value v of one frame: ``photon * v + read``."""

    photon: float
    read: float


def read_variance_adu2(detector: Detector) -> float:
    """Square of the read noise in ADU of a detector whose noise is known."""
    assert detector.read_noise_electron is not None
    read_noise_adu = detector.read_noise_electron / _gain(detector)
    return read_noise_adu * read_noise_adu


def _gain(detector: Detector) -> float:
    assert detector.gain_electron_per_adu is not None
    return detector.gain_electron_per_adu


def frame_variance(detector: Detector, *, shot: bool, level_variance: float) -> Variance:
    """Variance of a bias or dark frame in ADU squared.

    Parameters
    ----------
    detector : Detector
        With known gain and read noise.
    shot : bool
        Whether the values are electrons of dark current, with their shot noise; False where
        they still hold the bias, which has none.
    level_variance : float
        Variance in ADU squared that the overscan level adds to each frame.
    """
    photon = 1 / _gain(detector) if shot else 0.0
    return Variance(photon, read_variance_adu2(detector) + level_variance)


def flat_variance(medians: Array, detector: Detector) -> Variance:
    """Mean variance of flats that are each divided by their median.

    Parameters
    ----------
    medians : ndarray, shape (n_frames,)
        What each flat was divided by, in ADU.
    detector : Detector
        With known gain and read noise.
    """
    photon = float(np.mean(1 / (_gain(detector) * medians)))
    return Variance(photon, float(np.mean(read_variance_adu2(detector) / medians**2)))


def frame_noise(detector: Detector) -> float:
    """Noise in ADU that every pixel of a raw frame has at the least."""
    return read_variance_adu2(detector) ** 0.5 if detector.noise_known else ROUNDING_STD_ADU


def flat_noise(medians: Array, detector: Detector) -> float:
    """Noise of a flat over its median where it is 1."""
    if not detector.noise_known:
        return float(np.mean(ROUNDING_STD_ADU / medians))
    variance = flat_variance(medians, detector)
    return float((variance.photon + variance.read) ** 0.5)
