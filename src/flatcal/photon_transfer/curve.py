"""The photon transfer curve and its fit, with and without the brighter-fatter term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from flatcal.io import silencing
from flatcal.photon_transfer.point import PhotonTransferPoint

Array = NDArray[Any]

_LEAST_POINTS: Final = 3
# The term is kept when the levels tell gain and term apart so well that the gain is known to
# this part of itself.
_LARGEST_GAIN_ERROR: Final = 0.01
_BEYOND_FULL_WELL_SIGMA: Final = 5.0


@dataclass(frozen=True, slots=True)
class PhotonTransferCurve:
    """Points and fit.

    Attributes
    ----------
    points : tuple of PhotonTransferPoint
        In order of their level.
    n_left_out : int
        The last so many of them are not in the fit: their variance is below that of fainter
        ones, as beyond the full well.
    model : {'linear', 'brighter-fatter'}
        Variance in proportion to the level, or with the brighter-fatter term.
    model_reason : str
        Why this one.
    gain_electron_per_adu, gain_error_electron_per_adu : float
        Gain, with its standard error.
    a00_per_electron, a00_error_per_electron : float or None
        Brighter-fatter coefficient; negative where charge lowers the variance.
    read_noise_electron, read_noise_error_electron : float
        From the bias frames.
    read_noise_adu : float
        The same in ADU.
    chi_square_reduced : float or None
        Of the fit; None where it has no degree of freedom.
    """

    points: tuple[PhotonTransferPoint, ...]
    n_left_out: int
    model: Literal["linear", "brighter-fatter"]
    model_reason: str
    gain_electron_per_adu: float
    gain_error_electron_per_adu: float
    a00_per_electron: float | None
    a00_error_per_electron: float | None
    read_noise_electron: float
    read_noise_error_electron: float
    read_noise_adu: float
    chi_square_reduced: float | None


@dataclass(frozen=True, slots=True)
class _Fit:
    """Inverse gain k, and the coefficient a00; errors and chi-square of the fit.

    `k_statistical` is the error by the points' own errors, without what chi-square adds.
    """

    k: float
    k_error: float
    k_statistical: float
    a00: float | None
    a00_error: float | None
    chi_square_reduced: float | None

    @property
    def relative_error(self) -> float:
        return abs(self.k_error / self.k)


def shot_variance(level_adu: Any, gain_electron_per_adu: float, a00_per_electron: float) -> Any:
    """Variance in ADU squared that light adds to a pixel.

    It is ``(exp(2 a00 mu g) - 1) / (2 a00 g^2)`` of the level mu and the gain g; for
    a00 -> 0 it is mu / g.

    Parameters
    ----------
    level_adu : float or array
        Level above the bias.
    gain_electron_per_adu, a00_per_electron : float
        Gain, and the brighter-fatter coefficient.

    References
    ----------
    P. Astier et al., A&A 629, A36 (2019), equation 16.
    """
    level = np.asarray(level_adu, np.float64)
    exponent = 2 * a00_per_electron * level * gain_electron_per_adu
    safe = np.where(exponent == 0, 1.0, exponent)
    growth = np.where(exponent == 0, 1.0, np.expm1(safe) / safe)
    return level / gain_electron_per_adu * growth


def fit_photon_transfer(points: Sequence[PhotonTransferPoint]) -> PhotonTransferCurve:
    """Fit the gain, and where levels allow the brighter-fatter term, to points.

    Read noise is not fitted: the bias frames tell it better.

    Parameters
    ----------
    points : sequence of PhotonTransferPoint
        At least one.

    Returns
    -------
    PhotonTransferCurve
        With the brighter-fatter term if there are three points or more and the gain is then
        still known to 1 %. Errors are multiplied by the root of the reduced chi-square where
        that is above 1.
    """
    ordered = tuple(sorted(points, key=lambda point: point.level1_adu))
    used = _before_full_well(ordered)
    fit, model, reason = _choose_fit(used)
    gain = 1 / fit.k
    gain_error = gain * fit.relative_error
    reads = np.array([point.read_variance_adu2 for point in used])
    read_errors = np.array([point.read_variance_error_adu2 for point in used])
    read_noise = math.sqrt(reads.mean())
    # Points may share their bias frames, so their errors are not averaged down.
    read_error = float(read_errors.mean()) / (2 * read_noise) if read_noise else 0.0
    return PhotonTransferCurve(
        points=ordered,
        n_left_out=len(ordered) - len(used),
        model=model,
        model_reason=reason,
        gain_electron_per_adu=gain,
        gain_error_electron_per_adu=gain_error,
        a00_per_electron=fit.a00,
        a00_error_per_electron=fit.a00_error,
        read_noise_electron=gain * read_noise,
        read_noise_error_electron=math.hypot(gain * read_error, gain_error * read_noise),
        read_noise_adu=read_noise,
        chi_square_reduced=fit.chi_square_reduced,
    )


def _before_full_well(ordered: Sequence[PhotonTransferPoint]) -> Sequence[PhotonTransferPoint]:
    """The points up to the first whose variance is clearly below that of a fainter one."""
    highest = ordered[0]
    for n_before, point in enumerate(ordered):
        error = math.hypot(point.shot_variance_error_adu2, highest.shot_variance_error_adu2)
        fall = highest.shot_variance_adu2 - point.shot_variance_adu2
        if fall > _BEYOND_FULL_WELL_SIGMA * error:
            return ordered[:n_before]
        if fall < 0:
            highest = point
    return ordered


def _choose_fit(
    points: Sequence[PhotonTransferPoint],
) -> tuple[_Fit, Literal["linear", "brighter-fatter"], str]:
    levels = f"{points[0].level1_adu:.0f} to {points[-1].level1_adu:.0f} ADU"
    linear = _fit_linear(points)
    if len(points) < _LEAST_POINTS:
        told = "one pair tells" if len(points) == 1 else "two pairs tell"
        return linear, "linear", f"{told} no brighter-fatter term; three levels would"
    full = _fit_brighter_fatter(points, linear)
    if full is None or full.k_statistical > _LARGEST_GAIN_ERROR * full.k:
        reached = ""
        if full is not None:
            reached = f" (the gain would be known to {full.k_statistical / full.k:.1%})"
        text = f"levels of {levels} do not tell the brighter-fatter term from the gain{reached}"
        return linear, "linear", text
    return full, "brighter-fatter", f"{len(points)} pairs of {levels} tell it"


def _columns(points: Sequence[PhotonTransferPoint]) -> tuple[Array, Array, Array, Array]:
    """Levels, their ratios, shot variances and their errors."""
    level = np.array([point.level1_adu for point in points])
    ratio = level / np.array([point.level2_adu for point in points])
    variance = np.array([point.shot_variance_adu2 for point in points])
    error = np.array([point.shot_variance_error_adu2 for point in points])
    return level, ratio, variance, error


def _fit_linear(points: Sequence[PhotonTransferPoint]) -> _Fit:
    level, _, variance, error = _columns(points)
    weights = level / error**2
    k = float((weights * variance).sum() / (weights * level).sum())
    k_error = float(1 / np.sqrt((weights * level).sum()))
    return _inflate(_Fit(k, k_error, k_error, None, None, None), (variance - k * level) / error, 1)


def _fit_brighter_fatter(points: Sequence[PhotonTransferPoint], start: _Fit) -> _Fit | None:
    level, ratio, variance, error = _columns(points)
    highest = level.max()

    def model(_: Any, k: float, bend: float) -> Array:
        # `bend` is the exponent at the highest level, a number of the order of 0.1.
        a00 = bend * k / (2 * highest)
        first, second = (shot_variance(mu, 1 / k, a00) for mu in (level, level / ratio))
        result: Array = (first + ratio**2 * second) / (1 + ratio)
        return result

    try:
        # Points of one level give no covariance; that is seen below.
        with silencing(OptimizeWarning):
            (k, bend), covariance = curve_fit(
                model, level, variance, (start.k, 0.0), sigma=error, absolute_sigma=True
            )
    except RuntimeError:  # it did not converge: the points hold no such curve
        return None
    if not np.isfinite(covariance).all() or k <= 0:
        return None
    slope = np.array([bend, k]) / (2 * highest)
    k_error = float(np.sqrt(covariance[0, 0]))
    fit = _Fit(
        float(k),
        k_error,
        k_error,
        float(bend * k / (2 * highest)),
        float(np.sqrt(slope @ covariance @ slope)),
        None,
    )
    return _inflate(fit, (variance - model(None, k, bend)) / error, 2)


def _inflate(fit: _Fit, pulls: Array, n_parameters: int) -> _Fit:
    """The fit with errors that its chi-square allows."""
    freedom = len(pulls) - n_parameters
    if freedom < 1:
        return fit
    chi_square = float((pulls**2).sum() / freedom)
    factor = max(1.0, math.sqrt(chi_square))
    a00_error = None if fit.a00_error is None else fit.a00_error * factor
    return replace(
        fit, k_error=fit.k_error * factor, a00_error=a00_error, chi_square_reduced=chi_square
    )
