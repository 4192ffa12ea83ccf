"""Noise of the frames that go into a master, for its uncertainty and for rejecting outliers.

The scatter of a handful of frames tells their noise badly (that of three is less than half
the true one in 22 % of pixels), so where gain and read noise are known they give it:
the variance of a frame, by its photons and its read noise, over the number of frames kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.frame import Detector
from flatcal.kernels.combine import MAD_TO_STD

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


def flat_variances(medians: Array, detector: Detector, level_variance: float = 0) -> Array:
    """Variances of flats that are each divided by their median: of each `photon` and `read`.

    Parameters
    ----------
    medians : ndarray, shape (n_frames,)
        What each flat was divided by, in ADU.
    detector : Detector
        With known gain and read noise.
    level_variance : float
        Variance in ADU squared that the overscan level adds to each frame.

    Returns
    -------
    ndarray, shape (n_frames, 2)
    """
    read = read_variance_adu2(detector) + level_variance
    return np.column_stack([1 / (_gain(detector) * medians), read / medians**2])


def flat_weights(medians: Array, detector: Detector) -> Array:
    """Weights of flats that are each divided by their median: 1 over their variance where it is 1.

    Where the noise is not known it is taken for that of photons alone.
    """
    if not detector.noise_known:
        return np.asarray(medians / medians.mean())
    return np.asarray(1 / flat_variances(medians, detector).sum(axis=1))


def mean_variance(terms: Array, weights: Array) -> Variance:
    """Variance of a typical frame: times the share of `shares_of_variance`, that of the average.

    Parameters
    ----------
    terms : ndarray, shape (n_frames, 2)
        `photon` and `read` of each.
    weights : ndarray, shape (n_frames,)
        Weights of the frames.
    """
    photon, read = np.average(terms, axis=0, weights=weights**2)
    return Variance(float(photon), float(read))


def shares_of_variance(method: str, weights: Array) -> Array:
    """Variance of a combination of n frames over that of one, for n up to all of them.

    Where some were rejected it is that of as many typical frames.

    Parameters
    ----------
    method : 'average' or 'median'
        How they are combined.
    weights : ndarray, shape (n_frames,)
        Weights of an average.

    Returns
    -------
    ndarray, shape (n_frames + 1,)
        That of no frame is 1.
    """
    n = weights.size
    if method == "median":
        return np.array([1.0] + [_median_variance(k) for k in range(1, n + 1)])
    share_of_all = np.sum(weights**2) / np.sum(weights) ** 2
    return np.asarray(n * share_of_all / np.maximum(np.arange(n + 1.0), 1))


@cache
def _median_variance(n: int) -> float:
    """Variance of the median of n values of a standard normal distribution.

    The mean square of the middle value, or of the mean of the two in the middle, over the joint
    distribution of order statistics (H. A. David and H. N. Nagaraja, *Order Statistics*, 2.2).
    """
    x = np.linspace(-8, 8, 4001)
    density = np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    below = np.cumsum(density)
    below = (below - density / 2) / below[-1]
    k = (n - 1) // 2
    if n % 2:
        weight = (below * below[::-1]) ** k * density
        return float(np.sum(weight * x * x) / np.sum(weight))
    # x is the lower of the two in the middle, y = x[i] the upper: sums over all x up to y.
    lower, upper = below**k * density, below[::-1] ** k * density
    moments = [np.cumsum(lower * x**power) for power in range(3)]
    squares = moments[2] + 2 * x * moments[1] + x * x * moments[0]
    return float(np.sum(upper * squares) / (4 * np.sum(upper * moments[0])))


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """Variance that the values of a stack should have, each frame brought to one scale.

    Attributes
    ----------
    terms : ndarray of float64, shape (n_frames, 2)
        That of the value v of frame i is ``terms[i, 0] * max(v - zero, 0) + terms[i, 1]``.
    zero : float
        Value without photons.
    """

    terms: Array
    zero: float


def model_noise(variances: Array, scales: Array, sample: Array, *, lost_bias: bool) -> NoiseModel:
    """The noise by which outliers are told.

    It is what gain and read noise predict, with the rounding to whole ADU; but no less than what
    the frames have. That is taken from the differences of frames that follow one another, over
    many pixels: their typical size tells whether a gain is wrong, or a level drifts, while
    it says nothing of single outliers. A third of the pairs may be spoilt by a frame that is
    unlike the others.

    Parameters
    ----------
    variances : ndarray, shape (n_frames, 2)
        `photon` and `read` of the scaled values of each frame.
    scales : ndarray, shape (n_frames,)
        Factor of each frame.
    sample : ndarray, shape (n_frames, n_pixels)
        Scaled values of some pixels, NaN where bad.
    lost_bias : bool
        Whether the values are photons. Otherwise only what exceeds the typical value is taken
        for photons: hot pixels.

    Returns
    -------
    NoiseModel
    """
    sample = sample[:, np.isfinite(sample).all(axis=0)]
    terms = variances.copy()
    terms[:, 1] += (ROUNDING_STD_ADU * scales) ** 2
    if not sample.size:
        return NoiseModel(terms, 0.0)
    center = np.median(sample, axis=0)
    zero = 0.0 if lost_bias else float(np.median(center))
    photons = np.maximum(center - zero, 0)
    ratios = []
    for i in range(len(sample)):
        photon, read = terms[i - 1] + terms[i]
        difference = np.abs(sample[i] - sample[i - 1]) / np.sqrt(photon * photons + read)
        ratios.append(MAD_TO_STD * float(np.median(difference)))
    found = sorted(ratios)[(len(ratios) - 1) // 3]
    return NoiseModel(terms * max(1.0, found) ** 2, zero)


def frame_noise(detector: Detector) -> float:
    """Noise in ADU that every pixel of a raw frame has at the least."""
    return read_variance_adu2(detector) ** 0.5 if detector.noise_known else ROUNDING_STD_ADU


def flat_noise(medians: Array, detector: Detector) -> float:
    """Noise of a flat over its median where it is 1."""
    if not detector.noise_known:
        return float(np.mean(ROUNDING_STD_ADU / medians))
    return float(np.sqrt(np.mean(flat_variances(medians, detector).sum(axis=1))))
