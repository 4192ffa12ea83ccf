"""The time that a shutter adds to each exposure, pixel by pixel, from flats of two lengths.

Source of the method: Zissell 2000, JAAVSO 28, 149; Stetson 1989 (Highlights of Astronomy 8, 635).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.nddata import CCDData
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from flatcal.errors import FrameError, StateError
from flatcal.steps import _arithmetic as arithmetic

Array = NDArray[Any]

# Of a smaller ratio of exposure times the difference is all but noise.
_LEAST_RATIO = 3.0

_CARD = "SHUTCOR"


@dataclass(frozen=True, slots=True, eq=False)
class ShutterMap:
    """How much longer than the header says each pixel is exposed.

    Attributes
    ----------
    added_time_s : ndarray of float64, shape (rows, columns)
        Seconds; negative where it is shorter. NaN where no good pixel is near.
    error_s : ndarray of float64, same shape
        Standard error, from the scatter of the frames; NaN where it is not known.
    """

    added_time_s: Array
    error_s: Array


def measure_shutter(
    short: Sequence[CCDData],
    long: Sequence[CCDData],
    *,
    short_exposure_time_s: float,
    long_exposure_time_s: float,
    box_pixels: int = 16,
) -> ShutterMap:
    """Measure how much longer than asked for a shutter lets light on each pixel.

    Blades and irises open in the middle first: it is exposed for longer than the corners. A pixel
    that is asked to be exposed for t is for t + d, and a constant light gives long and short flats
    in the ratio of (T + d) to (t + d). So take both of one lamp, alternating: its drift cancels.

    Parameters
    ----------
    short, long : sequence of CCDData
        Flats without bias and dark, not divided by any flat; two of each at the least. Masked
        pixels do not count.
    short_exposure_time_s, long_exposure_time_s : float
        As the headers say, in seconds; the long one at least three times the short one.
    box_pixels : int
        Side of the box over which the times are averaged.

    Returns
    -------
    ShutterMap
        Added time and its error.

    Raises
    ------
    FrameError
        When there are fewer than two flats of a length, their shapes or units differ, the
        exposure times are too much alike, or there is no light (shutter).
    """
    if not 0 < _LEAST_RATIO * short_exposure_time_s <= long_exposure_time_s:
        raise FrameError(
            "shutter",
            f"flats of {short_exposure_time_s:g} s and {long_exposure_time_s:g} s are too much "
            f"alike; take long ones of {_LEAST_RATIO:g} times the short ones or more",
        )
    for name, flats in (("short", short), ("long", long)):
        if len(flats) < 2:
            raise FrameError("shutter", f"{len(flats)} {name} flats; two of each are needed")
    first = short[0]
    for flat in (*short, *long):
        if flat.shape != first.shape or flat.unit != first.unit:
            raise FrameError(
                "shutter",
                f"flats of {flat.shape} in {flat.unit} and of {first.shape} in {first.unit} do not "
                "go together",
            )
    (short_mean, short_variance), (long_mean, long_variance) = map(_average, (short, long))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = short_mean / long_mean
        added = (ratio * long_exposure_time_s - short_exposure_time_s) / (1 - ratio)
        # Of the ratio, and then of the time that it gives.
        relative = short_variance / short_mean**2 + long_variance / long_mean**2
        slope = (long_exposure_time_s - short_exposure_time_s) / (1 - ratio) ** 2
        variance = (slope * ratio) ** 2 * relative
    good = np.isfinite(added) & np.isfinite(variance) & (short_mean > 0) & (long_mean > 0)
    if not good.any():
        raise FrameError("shutter", "no pixel has light in both short and long flats")
    share = _over_boxes(good.astype(np.float64), box_pixels)
    enough = share > 0.5 / box_pixels**2
    counted = np.where(enough, share, np.nan)
    return ShutterMap(
        _over_boxes(np.where(good, added, 0), box_pixels) / counted,
        np.sqrt(np.maximum(0, _over_boxes(np.where(good, variance, 0), box_pixels)))
        / (counted * box_pixels),
    )


def correct_shutter(ccd: CCDData, shutter: ShutterMap, exposure_time_s: float) -> CCDData:
    """Bring each pixel to the exposure time that the header says.

    Parameters
    ----------
    ccd : CCDData
        Frame without bias and dark; not changed.
    shutter : ShutterMap
        From `measure_shutter`, of the same detector and binning.
    exposure_time_s : float
        As the header says, in seconds.

    Returns
    -------
    CCDData
        Values and uncertainty times t / (t + d). Pixels of unknown time are masked.

    Raises
    ------
    FrameError
        When the shapes differ, or a pixel would not have been exposed at all (shutter).
    StateError
        When the frame is corrected already.
    """
    arithmetic.require_ccd(ccd=ccd)
    if ccd.meta.get(_CARD):
        raise StateError("state", f"{_CARD} = T: the frame is corrected for its shutter already")
    if ccd.shape != shutter.added_time_s.shape:
        raise FrameError(
            "shutter", f"a frame of {ccd.shape} and a map of {shutter.added_time_s.shape}"
        )
    true_s = exposure_time_s + shutter.added_time_s
    unknown = np.isnan(true_s)
    if not exposure_time_s > 0 or np.any(true_s[~unknown] <= 0):
        raise FrameError(
            "shutter",
            f"an exposure of {exposure_time_s:g} s, to which the shutter adds down to "
            f"{np.nanmin(shutter.added_time_s):.3g} s; such a frame cannot be corrected",
        )
    dtype = arithmetic.working_dtype(ccd.data)
    factor = np.where(unknown, 1.0, exposure_time_s / np.where(unknown, 1.0, true_s))
    variance = arithmetic.variance_of(ccd)
    mask = arithmetic.mask_of(ccd)
    uncertainty = None
    if variance is not None:
        uncertainty = arithmetic.uncertainty_from_variance(variance * factor**2, ccd)
    result = arithmetic.derive(
        ccd,
        (ccd.data * factor).astype(dtype),
        uncertainty=uncertainty,
        mask=arithmetic.union_of_masks(mask, unknown if unknown.any() else None),
    )
    result.meta[_CARD] = (True, "exposure time of each pixel corrected for the shutter")
    return result


def _average(flats: Sequence[CCDData]) -> tuple[Array, Array]:
    """Mean of the good values of each pixel, and its variance; NaN of fewer than two."""
    bad = np.array([flat.mask if flat.mask is not None else np.zeros(flat.shape) for flat in flats])
    values: Any = np.ma.masked_invalid(
        np.ma.array([flat.data for flat in flats], float, mask=bad != 0)
    )
    n = values.count(axis=0)
    variance = values.var(axis=0, ddof=1) / np.maximum(n, 1)
    mean = values.mean(axis=0)
    mean[n < 2] = np.ma.masked
    return np.ma.filled(mean, np.nan), np.ma.filled(variance, np.nan)


def _over_boxes(values: Array, side: int) -> Array:
    # It goes by running sums, which rounding leaves a little below 0 where all is 0.
    averages: Array = uniform_filter(values, side, mode="nearest")
    return averages
