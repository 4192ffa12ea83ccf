"""Combining frames that are in memory: reject, then average, median or sum.

The order is that of IRAF's imcombine: thresholds apply to the values as they are, then each
frame is multiplied by its scale, then outliers are rejected, then the rest is combined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from astropy import stats
from astropy.nddata import CCDData, StdDevUncertainty
from numpy.typing import NDArray

from flatcal.io import silencing
from flatcal.kernels import reject
from flatcal.kernels.combine import (
    MAD_TO_STD,
    combine_clipped,
    combine_median,
    combine_weighted,
)
from flatcal.stack import require_alike, unknown_keyword

Array = NDArray[Any]
Function = Callable[..., Any]

_NO_FLAGS: Final = np.empty((0, 0), np.uint8)


def sigma_func(arr: Any, axis: Any = None, ignore_nan: bool = False) -> Any:
    """Standard deviation of a normal distribution with the same median absolute deviation.

    Parameters
    ----------
    arr : CCDData or ndarray
        Values.
    axis : int, tuple of int or None
        Axes over which it is taken, all by default.
    ignore_nan : bool
        Leave out NaN.

    Returns
    -------
    float or ndarray
        1.4826 times the median absolute deviation, in the unit of `arr`.
    """
    return stats.median_absolute_deviation(arr, axis=axis, ignore_nan=ignore_nan) * MAD_TO_STD


# Functions that do not look past NaN, and the names of statistics of astropy that do.
_STATISTICS: Final = (
    ("median", (np.median, np.nanmedian, np.ma.median)),
    ("mean", (np.mean, np.nanmean, np.ma.mean)),
    ("std", (np.std, np.nanstd, np.ma.std)),
    ("mad_std", (stats.mad_std, sigma_func)),
)
# Those that a kernel knows.
_CENTERS: Final = ("median", "mean")
_SPREADS: Final = ("std", "mad_std")
_SIGMA_CLIP_KEYWORDS: Final = ("maxiters", "axis", "grow", "copy", "use_astropy")


def statistic_name(function: Function | str) -> Function | str:
    """Name of a well-known statistic, or the function as it is."""
    for name, functions in _STATISTICS:
        if any(function is one for one in functions):
            return name
    return function


def clip_limit(threshold: float | None) -> float:
    """Threshold of a rejection as a number above zero; None rejects nothing."""
    return np.inf if threshold is None else abs(float(threshold))


class _MaskIgnoredError(Exception):
    """A function of numpy is about to look past a mask."""


class _Heeded(np.ma.MaskedArray[Any, Any]):
    """A masked array that raises `_MaskIgnoredError` where another one only warns."""

    def partition(self, *_: Any, **__: Any) -> Any:
        """What medians and percentiles begin with."""
        raise _MaskIgnoredError

    argpartition = partition


def scale_of_frame(function: Function, frame: Any) -> float:
    """Scale that a function gives to a frame with masked pixels.

    numpy's median looks past a mask, with a warning; it gets the good pixels alone. To make an
    error of the warning would change the filters of all threads.
    """
    try:
        scale = function(frame.view(_Heeded) if np.ma.isMaskedArray(frame) else frame)
    except _MaskIgnoredError:
        scale = function(frame.compressed())
    if not np.isfinite(scale):
        raise ValueError(f"scale function {function!r} gives {scale}; it must be finite")
    return float(scale)


def average_stack(
    stack: Array, scales: Array, low: float, high: float
) -> tuple[Array, Array, Array]:
    """Clipped average of a stack with the uncertainty that `Combiner` gives.

    Parameters
    ----------
    stack : ndarray of float32 or float64, shape (n_frames, ...)
        Values, NaN where bad.
    scales : ndarray, shape (n_frames,)
        Factors of the frames.
    low, high : float
        Thresholds in units of 1.4826 MAD; infinity rejects nothing.

    Returns
    -------
    average, uncertainty : ndarray, shape (...)
        The uncertainty is the standard deviation of the n values used (their squared
        differences divided by n) over the square root of n.
    n_used : ndarray of int32, shape (...)
        How many values were used.
    """
    average, error, n_used = _outputs(stack)
    kind = stack.dtype.type
    combine_clipped(
        stack.reshape(stack.shape[0], -1), _NO_FLAGS, scales.astype(kind),
        np.empty((0, 2), kind), kind(0), kind(low), kind(high), kind(0),
        average, error, n_used, np.zeros(stack.shape[0], np.int64),
    )  # fmt: skip
    # The kernel divides by n - 1, and knows no scatter of one value.
    error *= np.sqrt((np.maximum(n_used, 1) - 1) / np.maximum(n_used, 1), dtype=kind)
    error[n_used == 1] = 0
    shape = stack.shape[1:]
    return average.reshape(shape), error.reshape(shape), n_used.reshape(shape)


def median_stack(stack: Array, scales: Array) -> tuple[Array, Array, Array]:
    """Median of a stack; see `average_stack`. The uncertainty is 1.4826 MAD over sqrt(n)."""
    median, error, n_used = _outputs(stack)
    combine_median(
        stack.reshape(stack.shape[0], -1), _NO_FLAGS, scales.astype(stack.dtype),
        median, error, n_used,
    )  # fmt: skip
    shape = stack.shape[1:]
    return median.reshape(shape), error.reshape(shape), n_used.reshape(shape)


def _outputs(stack: Array) -> tuple[Array, Array, Array]:
    size = int(np.prod(stack.shape[1:]))
    return np.empty(size, stack.dtype), np.empty(size, stack.dtype), np.empty(size, np.int32)


class Combiner:
    """Combine CCDData objects.

    Parameters
    ----------
    ccd_iter : iterable of CCDData
        Frames of one shape and unit; not changed. Pixels that are not finite count as masked.
    dtype : dtype, optional
        Type of the calculation and of the result, float64 by default.

    Attributes
    ----------
    data_arr : masked array, shape (n_frames, ...)
        Values as they came, and what is masked or rejected so far.
    ccd_list : list of CCDData
        The frames.
    unit : astropy unit
        Unit of the frames.

    Raises
    ------
    TypeError
        When the frames are no CCDData, or differ in shape or unit.
    ValueError
        When there is no frame.
    """

    def __init__(self, ccd_iter: Iterable[CCDData], dtype: Any = None) -> None:
        if ccd_iter is None:
            raise TypeError("ccd_iter must be a list or a generator of CCDData objects")
        self.ccd_list = list(ccd_iter)
        if not self.ccd_list:
            raise ValueError("there is no frame to combine")
        for ccd in self.ccd_list:
            if not isinstance(ccd, CCDData):
                raise TypeError(f"Combiner takes CCDData objects, not {type(ccd).__name__}")
        require_alike(self.ccd_list)
        self.unit = self.ccd_list[0].unit
        self._dtype = np.float64 if dtype is None else dtype
        shape = (len(self.ccd_list), *self.ccd_list[0].shape)
        data, mask = np.empty(shape, self._dtype), np.zeros(shape, bool)
        for i, ccd in enumerate(self.ccd_list):
            data[i] = ccd.data
            mask[i] = ~np.isfinite(ccd.data)
            if ccd.mask is not None:
                mask[i] |= np.asarray(ccd.mask, dtype=bool)
        self.data_arr = np.ma.masked_array(data, mask)
        self.weights = None
        self.scaling = None

    @property
    def dtype(self) -> Any:
        """Type of the calculation and of the result."""
        return self._dtype

    @property
    def weights(self) -> Array | None:
        """Weights, one for each frame or one for each value."""
        return self._weights

    @weights.setter
    def weights(self, value: Array | None) -> None:
        if value is not None:
            if not isinstance(value, np.ndarray):
                raise TypeError(f"weights must be a numpy array, not {type(value).__name__}")
            if value.shape not in (self.data_arr.shape, self.data_arr.shape[:1]):
                raise ValueError(
                    f"weights have shape {value.shape}; one for each of "
                    f"{len(self.data_arr)} frames, or {self.data_arr.shape}, are needed"
                )
        self._weights = value

    @property
    def scaling(self) -> Any:
        """Factors of the frames, of shape (n_frames, 1, ...).

        Set to a sequence of factors, or to a function that gives the factor of a frame and
        receives it as a masked array. Set it before rejecting, which looks at scaled values.
        """
        return self._scaling

    @scaling.setter
    def scaling(self, value: Any) -> None:
        if value is None:
            self._scaling = None
            return
        n_frames = len(self.data_arr)
        if callable(value):
            value = [scale_of_frame(value, frame) for frame in self.data_arr]
        if not hasattr(value, "__len__"):
            raise TypeError("scaling must be a function or one factor for each frame")
        if len(value) != n_frames:
            raise ValueError(f"scaling has {len(value)} factors for {n_frames} frames")
        self._scaling = np.array(value).reshape(n_frames, *[1] * (self.data_arr.ndim - 1))

    def clip_extrema(self, nlow: int | None = 0, nhigh: int | None = 0) -> None:
        """Reject the lowest and highest values of each pixel.

        Values that are masked do not count: `nlow` and `nhigh` good values are rejected, all
        when there are no more than that.

        Parameters
        ----------
        nlow, nhigh : int or None
            How many low and high values are rejected.
        """
        self._reject_by(reject.reject_extremes, nlow or 0, nhigh or 0)

    def minmax_clipping(self, min_clip: float | None = None, max_clip: float | None = None) -> None:
        """Reject values below or above fixed levels, before scaling.

        Parameters
        ----------
        min_clip, max_clip : float, optional
            Lowest and highest level that is kept.
        """
        flags = np.zeros(self.data_arr.shape, np.uint8)
        reject.reject_levels(self.data_arr.data, flags, min_clip, max_clip)
        self._reject(flags != 0)

    def sigma_clipping(
        self,
        low_thresh: float | None = 3,
        high_thresh: float | None = 3,
        func: Function | str = "mean",
        dev_func: Function | str = "std",
        **kwd: Any,
    ) -> None:
        """Reject scaled values that are far from the others of their pixel.

        Parameters
        ----------
        low_thresh, high_thresh : float or None
            How many deviations below and above the centre are kept; None rejects nothing.
        func : {'mean', 'median'} or callable
            Centre; a callable must take ``axis`` and look past NaN. Those of numpy that do not
            are replaced by those that do.
        dev_func : {'std', 'mad_std'} or callable
            Deviation, likewise.
        **kwd
            ``maxiters`` (1 by default), ``axis`` (0 by default) and ``grow`` of
            `astropy.stats.sigma_clip` (``grow`` needs scipy); ``copy`` and ``use_astropy`` have
            no effect.

        Raises
        ------
        TypeError
            When there is any other keyword.
        """
        for name in kwd:
            if name not in _SIGMA_CLIP_KEYWORDS:
                known = ("low_thresh", "high_thresh", "func", "dev_func", *_SIGMA_CLIP_KEYWORDS)
                raise unknown_keyword("sigma_clipping", name, known)
        center, spread = statistic_name(func), statistic_name(dev_func)
        plain = center in _CENTERS and spread in _SPREADS
        if plain and kwd.get("axis", 0) == 0 and not kwd.get("grow", False):
            iterations = kwd.get("maxiters", 1)
            self._reject_by(
                reject.reject_scatter, center == "mean", spread == "std", False,
                clip_limit(low_thresh), clip_limit(high_thresh), 0.0,
                len(self.data_arr) + 1 if iterations is None else int(iterations),
            )  # fmt: skip
            return
        scaled = self._scaled(None)
        has_mask = scaled.mask.any()
        with silencing(RuntimeWarning):  # as sigma_clip does, but without a lock
            clipped = stats.sigma_clip(
                scaled if has_mask else scaled.data,
                sigma_lower=clip_limit(low_thresh),
                sigma_upper=clip_limit(high_thresh),
                maxiters=kwd.get("maxiters", 1),
                axis=kwd.get("axis", 0),
                grow=kwd.get("grow", False),
                cenfunc=center,
                stdfunc=spread,
                masked=True,
                copy=has_mask or bool(kwd),
            )
        self._reject(np.ma.getmaskarray(clipped))

    def median_combine(
        self,
        median_func: Function | None = None,
        scale_to: Any = None,
        uncertainty_func: Function = sigma_func,
    ) -> CCDData:
        """Median of the frames.

        Parameters
        ----------
        median_func : callable, optional
            Median along ``axis`` of a masked array; by default that of the good values.
        scale_to : float or array, optional
            Factor of the frames instead of `scaling`.
        uncertainty_func : callable
            Deviation along ``axis``; the uncertainty is that over the square root of the number
            of good values.

        Returns
        -------
        CCDData
            With mask (True where no value is good), uncertainty and NCOMBINE.
        """
        if median_func is None and uncertainty_func is sigma_func:
            stack = self._filled(scale_to, np.nan)
            median, error, n_used = median_stack(stack, np.ones(len(stack)))
            return self._result(median, error, n_used)
        data = self._scaled(scale_to) if median_func else self._filled(scale_to, np.nan)
        keywords = {"ignore_nan": True} if uncertainty_func is sigma_func else {}
        with _empty_pixels_allowed():
            median = (median_func or np.nanmedian)(data, axis=0)
            deviation = uncertainty_func(data, axis=0, **keywords)
        return self._result(median, *self._error(deviation))

    def average_combine(
        self,
        scale_func: Function | None = None,
        scale_to: Any = None,
        uncertainty_func: Function = np.nanstd,
        sum_func: Function = np.nansum,
    ) -> CCDData:
        """Average of the frames, weighted if `weights` are set.

        Parameters
        ----------
        scale_func : callable, optional
            Average along ``axis`` of a masked array; by default that of the good values.
        scale_to : float or array, optional
            Factor of the frames instead of `scaling`.
        uncertainty_func : callable
            Deviation along ``axis``; the uncertainty is that over the square root of the number
            of good values.
        sum_func : callable
            Sum along ``axis``, for a weighted average.

        Returns
        -------
        CCDData
            With mask (True where no value is good), uncertainty and NCOMBINE.
        """
        if scale_func is None and uncertainty_func is np.nanstd and self.weights is None:
            stack = self._filled(scale_to, np.nan)
            average, error, n_used = average_stack(stack, np.ones(len(stack)), np.inf, np.inf)
            return self._result(average, error, n_used)
        data = self._scaled(scale_to) if scale_func else self._filled(scale_to, np.nan)
        with _empty_pixels_allowed():
            if self.weights is None:
                average = (scale_func or np.nanmean)(data, axis=0)
            else:
                average = self._weighted(data, sum_func)
            deviation = uncertainty_func(data, axis=0)
        return self._result(average, *self._error(deviation))

    def sum_combine(
        self,
        sum_func: Function | None = None,
        scale_to: Any = None,
        uncertainty_func: Function = np.nanstd,
    ) -> CCDData:
        """Sum of the good values of the frames, weighted if `weights` are set.

        Parameters
        ----------
        sum_func : callable, optional
            Sum along ``axis`` of a masked array; by default that of the good values.
        scale_to : float or array, optional
            Factor of the frames instead of `scaling`.
        uncertainty_func : callable
            Deviation along ``axis``; the uncertainty is that times the square root of the number
            of good values.

        Returns
        -------
        CCDData
            With mask (True where no value is good), uncertainty and NCOMBINE.
        """
        data = self._scaled(scale_to) if sum_func else self._filled(scale_to, np.nan)
        weighted = data if self.weights is None else data * self._good_weights()
        with _empty_pixels_allowed():
            total = (sum_func or np.nansum)(weighted, axis=0)
            deviation = uncertainty_func(data, axis=0)
        error, n_used = self._error(deviation)
        return self._result(total, error * n_used, n_used)

    def _weighted(self, data: Array, sum_func: Function) -> Array:
        """Weighted average of the good values."""
        weights = self._good_weights()
        if sum_func is not np.nansum:
            return np.asarray(sum_func(data * weights, axis=0) / sum_func(weights, axis=0))
        n, kind = len(data), np.float32 if np.dtype(self.dtype) == np.float32 else np.float64
        values = np.ascontiguousarray(np.ma.filled(data, np.nan), kind).reshape(n, -1)
        planes = _outputs(values)
        combine_weighted(values, _NO_FLAGS, np.ones(n, kind), weights.reshape(n, -1), *planes)
        return planes[0].reshape(data.shape[1:])

    def _reject_by(self, kernel: Function, *numbers: Any) -> None:
        """Reject what a kernel of `kernels.reject` marks of the scaled values."""
        stack = np.ascontiguousarray(self._filled(None, np.nan))
        n = len(stack)
        flags = np.zeros((n, stack[0].size), np.uint8)
        kernel(stack.reshape(n, -1), flags, np.ones(n, stack.dtype), *numbers)
        self._reject(flags.reshape(stack.shape) != 0)

    def _reject(self, where: Array) -> None:
        mask = np.ma.getmaskarray(self.data_arr)  # the mask itself, not a copy
        mask |= where

    def _scaled(self, scale_to: Any) -> Any:
        """Scaled values with the mask of `data_arr`; not to be changed."""
        scale = self.scaling if scale_to is None else scale_to
        data = self.data_arr.data if scale is None else self.data_arr.data * scale
        return np.ma.masked_array(data, np.ma.getmaskarray(self.data_arr))

    def _filled(self, scale_to: Any, fill: float) -> Array:
        """Scaled values as floats, with `fill` where they are masked; not to be changed."""
        scaled = self._scaled(scale_to)
        dtype = np.dtype(np.float32 if np.dtype(self.dtype) == np.float32 else np.float64)
        values = scaled.data.astype(dtype, copy=False)
        return np.where(scaled.mask, dtype.type(fill), values) if scaled.mask.any() else values

    def _good_weights(self) -> Array:
        """Weights as float64 of the shape of the data, zero where a value is masked."""
        weights = np.asarray(self.weights, dtype=np.float64)
        if weights.ndim == 1:
            weights = weights.reshape(-1, *[1] * (self.data_arr.ndim - 1))
        return np.where(np.ma.getmaskarray(self.data_arr), 0.0, weights)

    def _error(self, deviation: Any) -> tuple[Array, Array]:
        """Deviation over the square root of the number of good values, and that number."""
        n_used = len(self.data_arr) - np.ma.getmaskarray(self.data_arr).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(deviation) / np.sqrt(n_used), n_used

    def _result(self, data: Any, error: Array, n_used: Array) -> CCDData:
        return CCDData(
            np.asarray(data, dtype=self.dtype),
            mask=n_used == 0,
            unit=self.unit,
            uncertainty=StdDevUncertainty(error, copy=False),
            meta={"NCOMBINE": len(self.data_arr)},
        )


@contextmanager
def _empty_pixels_allowed() -> Iterator[None]:
    """Silence what numpy says of pixels without any good value: they are masked."""
    with silencing(RuntimeWarning), np.errstate(invalid="ignore", divide="ignore"):
        yield
