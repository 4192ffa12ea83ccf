"""Combining a stack in memory by the settings: which kernels, with which numbers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.noise import NoiseModel
from flatcal.engine.regions import Region, contiguous, shifted
from flatcal.kernels import reject
from flatcal.kernels.combine import combine_clipped, combine_median, combine_weighted
from flatcal.recipe import CombineSettings

Array = NDArray[Any]

# Values that are gathered at once where pixels are combined anew.
_VALUES_AT_ONCE = 1 << 18


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
    grow_pixels : float
        Radius around a rejected value in which the others of its frame are rejected as well.
    """

    settings: CombineSettings
    scales: Array
    weights: Array
    noise: NoiseModel | None
    least_std: float
    grow_pixels: float = 0.0

    @property
    def halo_rows(self) -> int:
        """Rows above and below a band whose rejected pixels bear on it."""
        return int(self.grow_pixels)

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
            1 where a value is bad, else 0; changed.
        inner : slice
            Rows without the halo.
        average, error : ndarray, shape (rows, columns)
            Receive the result, and its standard error by the scatter of what was kept; in the halo
            it is not whole.
        n_used : ndarray of int32, same shape
            Receives how many values were kept.

        Returns
        -------
        ndarray of int64, shape (n_frames,)
            Pixels of `inner` that were rejected in each frame.
        """
        planes = average, error, n_used
        if self._is_fused and self.grow_pixels < 1:
            return self._combine_at_once(stack, bad, planes)
        if self._is_fused:
            self._combine_at_once(stack, bad, planes)
            return self._combine_again(stack, bad, inner, planes)
        values, flags = _by_pixel(stack), _by_pixel(bad)
        self._reject(values, flags)
        if self.grow_pixels >= 1:
            rejected = np.flatnonzero((flags == reject.REJECTED).any(axis=0))
            reject.grow_rejected(bad, rejected, self.grow_pixels)
        self._combine_kept(values, flags, [plane.reshape(-1) for plane in planes])
        return _count_rejected(bad[:, inner])

    def _combine_again(
        self, stack: Array, bad: Array, inner: slice, planes: tuple[Array, ...]
    ) -> Array:
        """Combine anew the few pixels near one of which not all values were kept.

        These are all that can have a rejected value, which are counted as in `combine`.
        """
        near = _widen(planes[2] < len(stack), self.halo_rows)
        places = np.flatnonzero(near)
        parts = np.array_split(places, 1 + len(stack) * places.size // _VALUES_AT_ONCE)
        values, flags = _by_pixel(stack), _by_pixel(bad)
        # As `take` gathers them they lie as the kernels were compiled for.
        of_parts = [np.take(values, part, axis=1) for part in parts]
        for part, its_values in zip(parts, of_parts, strict=True):
            its_flags = np.take(flags, part, axis=1)
            self._reject(its_values, its_flags)
            flags[:, part] = its_flags
        reject.grow_rejected(bad, places, self.grow_pixels)
        for part, its_values in zip(parts, of_parts, strict=True):
            again = [np.empty(part.size, plane.dtype) for plane in planes]
            self._combine_kept(its_values, np.take(flags, part, axis=1), again)
            for plane, its_part in zip(planes, again, strict=True):
                plane.reshape(-1)[part] = its_part
        columns = stack.shape[2]
        wanted = (places >= inner.start * columns) & (places < inner.stop * columns)
        return _count_rejected(np.take(flags, places[wanted], axis=1))

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

    def _reject(self, values: Array, flags: Array) -> None:
        """Mark in `flags` what the settings reject of each pixel by itself."""
        s, kind = self.settings, values.dtype.type
        scales = self.scales.astype(kind)
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

    def _combine_kept(self, values: Array, flags: Array, out: list[Array]) -> None:
        scales = self.scales.astype(values.dtype.type)
        if self.settings.method == "median":
            combine_median(values, flags, scales, *out)
        else:
            combine_weighted(values, flags, scales, self.weights[:, None].copy(), *out)


def combine_regions(
    regions: Sequence[Region],
    stackings: Sequence[Stacking],
    band: slice,
    wide: slice,
    stack: Array,
    bad: Array,
    planes: Sequence[Array],
) -> Array:
    """Combine a band, what each amplifier has read by itself; see `Stacking.combine`.

    Parameters
    ----------
    regions : sequence of Region
        Of the image.
    stackings : sequence of Stacking
        How the frames are combined in each.
    band, wide : slice
        Rows of the image, and the same with the halo.
    stack, bad : ndarray, shape (n_frames, rows of `wide`, columns)
        Values, and what is bad.
    planes : sequence of three ndarray, shape (rows of `wide`, columns)
        Receive average, error and how many values were kept.

    Returns
    -------
    ndarray of int64, shape (n_frames,)
        Pixels that were rejected in each frame.
    """
    n_rejected = np.zeros(len(stack), np.int64)
    for region, stacking in zip(regions, stackings, strict=True):
        section, outer = region.within(band), region.within(wide)
        if section is None or outer is None:
            continue
        part = shifted(outer, wide.start)
        with ExitStack() as parts:
            average, error, n_used = (parts.enter_context(contiguous(p[part])) for p in planes)
            its_bad = parts.enter_context(contiguous(bad[:, *part]))
            n_rejected += stacking.combine(
                np.ascontiguousarray(stack[:, *part]),
                its_bad,
                shifted(section, outer[0].start)[0],
                average,
                error,
                n_used,
            )
    return n_rejected


def _by_pixel(stack: Array) -> Array:
    """A stack of images as one of pixels, which shares its memory."""
    return stack.reshape(len(stack), -1)


def _count_rejected(flags: Array) -> Array:
    """How many values of each frame were rejected."""
    return np.array([np.count_nonzero(frame >= reject.GROWN) for frame in flags])


def _widen(mask: Array, reach: int) -> Array:
    """What lies no farther than some pixels from one that is set, along rows and columns."""
    wide = mask
    for axis in (0, 1):
        mask, wide = wide, wide.copy()
        before, after = mask.swapaxes(0, axis), wide.swapaxes(0, axis)
        for step in range(1, reach + 1):
            after[step:] |= before[:-step]
            after[:-step] |= before[step:]
    return wide
