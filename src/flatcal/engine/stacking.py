"""Combining a stack in memory by the settings: which kernels, with which numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.noise import NoiseModel
from flatcal.kernels import reject
from flatcal.kernels.combine import combine_clipped, combine_median, combine_weighted
from flatcal.recipe import CombineSettings

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Stacking:
    """How the frames of one master are combined.

    Attributes
    ----------
    settings : CombineSettings
        Of the run.
    scales : ndarray of float64, shape (n_frames,)
        Factor of each frame.
    weights : ndarray of float64, shape (n_frames,)
        Weight of each frame in an average.
    noise : NoiseModel or None
        What values are rejected by; None where it is not known or not asked for.
    least_std : float
        Noise that every scaled value has, at the least.
    """

    settings: CombineSettings
    scales: Array
    weights: Array
    noise: NoiseModel | None
    least_std: float

    @property
    def halo_rows(self) -> int:
        """Rows above and below a band whose rejected pixels bear on it."""
        return int(self.settings.grow_pixels)

    @property
    def _is_fused(self) -> bool:
        """Whether one kernel does all of it."""
        s = self.settings
        by_mad = s.reject in ("noise", "sigma") and (s.center, s.spread) == ("median", "mad")
        return (
            (by_mad or s.reject == "none")
            and s.iterations == 1
            and s.method == "average"
            and s.weights == "equal"
            and s.low_threshold_adu is None
            and s.high_threshold_adu is None
            and s.grow_pixels < 1
        )

    def combine(
        self, stack: Array, bad: Array, inner: slice, average: Array, error: Array, n_used: Array
    ) -> Array:
        """Combine a band.

        Parameters
        ----------
        stack : ndarray of float32 or float64, shape (n_frames, rows, columns)
            Values of a band with its halo.
        bad : ndarray of uint8, same shape
            Not 0 where a value is bad; changed.
        inner : slice
            Rows without the halo.
        average, error : ndarray, shape (rows of `inner`, columns)
            Receive the result, and its standard error by the scatter of what was kept.
        n_used : ndarray of int32, same shape
            Receives how many values were kept.

        Returns
        -------
        ndarray of int64, shape (n_frames,)
            Pixels of `inner` that were rejected in each frame.
        """
        planes = average, error, n_used
        if self._is_fused:
            return self._combine_at_once(stack, bad, planes)
        np.minimum(bad, 1, out=bad)
        self._reject(stack, bad)
        if inner == slice(0, stack.shape[1]):
            self._combine_kept(stack, bad, planes)
        else:
            whole = tuple(np.empty(stack.shape[1:], plane.dtype) for plane in planes)
            self._combine_kept(stack, bad, whole)
            for plane, its_whole in zip(planes, whole, strict=True):
                plane[:] = its_whole[inner]
        return np.array([np.count_nonzero(frame[inner] >= reject.GROWN) for frame in bad])

    def _thresholds(self, kind: Any) -> tuple[Any, Any]:
        s = self.settings
        if s.reject == "none":
            return kind(np.inf), kind(np.inf)
        return kind(s.low_sigma), kind(s.high_sigma)

    def _noise(self, kind: Any) -> tuple[Array, Any]:
        if self.noise is None:
            return np.empty((0, 2), kind), kind(0)
        return self.noise.terms.astype(kind), kind(self.noise.zero)

    def _combine_at_once(self, stack: Array, bad: Array, planes: tuple[Array, ...]) -> Array:
        n, kind = len(stack), stack.dtype.type
        n_rejected = np.zeros(n, np.int64)
        combine_clipped(
            stack.reshape(n, -1), bad.reshape(n, -1), self.scales.astype(kind),
            *self._noise(kind), *self._thresholds(kind), kind(self.least_std),
            *(plane.reshape(-1) for plane in planes), n_rejected,
        )  # fmt: skip
        return n_rejected

    def _reject(self, stack: Array, bad: Array) -> None:
        """Mark in `bad` what the settings reject."""
        s, n, kind = self.settings, len(stack), stack.dtype.type
        scales = self.scales.astype(kind)
        values, flags = stack.reshape(n, -1), bad.reshape(n, -1)
        reject.reject_levels(values, flags, s.low_threshold_adu, s.high_threshold_adu)
        if s.reject == "minmax":
            reject.reject_extremes(values, flags, scales, s.n_low, s.n_high)
        elif s.reject == "noise" and self.noise is not None:
            reject.reject_noise(values, flags, scales, *self._noise(kind), *self._thresholds(kind))
        elif s.reject != "none":
            reject.reject_scatter(
                values, flags, scales, s.center == "mean", s.spread == "std",
                s.reject == "winsorised", s.low_sigma, s.high_sigma, self.least_std, s.iterations,
            )  # fmt: skip
        if s.grow_pixels >= 1:
            reject.grow_rejected(bad, s.grow_pixels)

    def _combine_kept(self, stack: Array, bad: Array, planes: tuple[Array, ...]) -> None:
        n, kind = len(stack), stack.dtype.type
        scales = self.scales.astype(kind)
        values, flags = stack.reshape(n, -1), bad.reshape(n, -1)
        out = [plane.reshape(-1) for plane in planes]
        if self.settings.method == "median":
            combine_median(values, flags, scales, *out)
        else:
            combine_weighted(values, flags, scales, self.weights[:, None].copy(), *out)
