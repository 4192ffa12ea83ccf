"""Combining frames or files in bands of rows, within a limit of memory."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from astropy.nddata import CCDData, StdDevUncertainty
from numpy.typing import NDArray

from flatcal.combiner import (
    Combiner,
    Function,
    average_stack,
    clip_limit,
    median_stack,
    scale_of_frame,
    sigma_func,
    statistic_name,
)
from flatcal.merge import merge_headers, merge_wcs
from flatcal.stack import Source, open_sources, validate_reader_options

__all__ = ["Combiner", "combine", "sigma_func"]

Array = NDArray[Any]
METHODS: Final = ("average", "median", "sum")
# A stack of this size is still in the last cache when it is combined (measured: larger bands
# are slower); mem_limit may ask for less.
STACK_BYTES: Final = 1 << 24
# Copies of the stack that exist at once: Combiner holds values, scaled values, values with
# NaN, and what sigma clipping makes of them; the kernels need the stack alone.
COPIES_IN_COMBINER: Final = 8
COPIES_FOR_KERNEL: Final = 2


@dataclass(frozen=True)
class _Rejection:
    """What `combine` does to every band; see its parameters."""

    method: str
    dtype: np.dtype[Any]
    weights: Array | None
    scales: Array | None
    extrema: tuple[int, int] | None
    levels: tuple[float | None, float | None] | None
    sigma: tuple[float, float, Function | str, Function | str] | None
    uncertainty_func: Function | None

    @property
    def suits_kernel(self) -> bool:
        """Whether one kernel does all of it."""
        plain = (
            self.dtype in (np.float32, np.float64)
            and self.weights is None
            and self.extrema is None
            and self.levels is None
            and self.uncertainty_func is None
        )
        if self.sigma is None:
            return plain and self.method in {"average", "median"}
        return plain and self.method == "average" and self.sigma[2:] == ("median", "mad_std")


def combine(
    img_list: Any,
    output_file: str | os.PathLike[str] | None = None,
    method: str = "average",
    weights: Array | None = None,
    scale: Any = None,
    mem_limit: float = 16e9,
    clip_extrema: bool = False,
    nlow: int = 1,
    nhigh: int = 1,
    minmax_clip: bool = False,
    minmax_clip_min: float | None = None,
    minmax_clip_max: float | None = None,
    sigma_clip: bool = False,
    sigma_clip_low_thresh: float | None = 3,
    sigma_clip_high_thresh: float | None = 3,
    sigma_clip_func: Function | str = np.ma.mean,
    sigma_clip_dev_func: Function | str = np.ma.std,
    dtype: Any = None,
    combine_uncertainty_function: Function | None = None,
    overwrite_output: bool = False,
    **ccdkwargs: Any,
) -> CCDData:
    """Combine images, in memory or in files.

    Thresholds apply to the values as they are; then each frame is multiplied by its scale, then
    outliers are rejected, then the rest is combined. A median and MAD rejection with an average,
    and an average or median without rejection, run in a compiled kernel on all cores.

    Parameters
    ----------
    img_list : iterable of CCDData or path, or str
        Images of one shape and unit; a text may hold several file names with commas.
    output_file : path, optional
        Where the result is written as FITS.
    method : {'average', 'median', 'sum'}
        How what is not rejected is combined.
    weights : ndarray, shape (n_images,) or that of the whole stack, optional
        Weights of an average or sum.
    scale : callable or sequence of float, optional
        Factor of each image. A callable receives the whole image: an ndarray, or a masked array
        when it has bad pixels.
    mem_limit : float
        Bytes that stacks of image bands may take, besides the result.
    clip_extrema : bool
        Reject the `nlow` lowest and `nhigh` highest good values of each pixel.
    minmax_clip : bool
        Reject values below `minmax_clip_min` or above `minmax_clip_max`, before scaling.
    sigma_clip : bool
        Reject values farther from `sigma_clip_func` than `sigma_clip_low_thresh` or
        `sigma_clip_high_thresh` times `sigma_clip_dev_func`; see `Combiner.sigma_clipping`.
    dtype : dtype, optional
        Type of the calculation and of the result, float64 by default.
    combine_uncertainty_function : callable, optional
        See `Combiner.average_combine`.
    overwrite_output : bool
        Replace an existing `output_file`.
    **ccdkwargs
        ``hdu``, ``unit``, ``hdu_mask`` and other keywords of the reader of CCDData.

    Returns
    -------
    CCDData
        With uncertainty and mask (True where no value is good). Its header has the cards that
        all images agree on; see `flatcal.merge.merge_headers`.

    Raises
    ------
    TypeError
        When a keyword is unknown, or images differ in shape or unit.
    ValueError
        When `method` is unknown, or weights or scales do not fit the images.
    """
    validate_reader_options(ccdkwargs, inspect.signature(combine).parameters)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it must be one of {', '.join(METHODS)}")
    with ExitStack() as files:
        sources = open_sources(img_list, files, ccdkwargs)
        how = _Rejection(
            method=method,
            dtype=np.dtype(np.float64 if dtype is None else dtype),
            weights=_weights(weights, sources),
            scales=_scales(scale, sources),
            extrema=(nlow, nhigh) if clip_extrema else None,
            levels=(minmax_clip_min, minmax_clip_max) if minmax_clip else None,
            sigma=(
                clip_limit(sigma_clip_low_thresh),
                clip_limit(sigma_clip_high_thresh),
                statistic_name(sigma_clip_func),
                statistic_name(sigma_clip_dev_func),
            )
            if sigma_clip
            else None,
            uncertainty_func=combine_uncertainty_function,
        )
        data, error, mask = _combine_bands(sources, how, mem_limit)
    header = merge_headers([source.header for source in sources])
    wcs = merge_wcs([source.wcs for source in sources], header)
    result = CCDData(
        data,
        unit=sources[0].unit,
        uncertainty=StdDevUncertainty(error, copy=False),
        mask=mask,
        meta=header,
        wcs=wcs,
    )
    if output_file is not None:
        result.write(output_file, overwrite=overwrite_output)
    return result


def _weights(weights: Any, sources: Sequence[Source]) -> Array | None:
    if weights is None:
        return None
    if not isinstance(weights, np.ndarray):
        raise TypeError(f"weights must be a numpy array, not {type(weights).__name__}")
    whole = (len(sources), *sources[0].shape)
    if weights.shape not in (whole, whole[:1]):
        raise ValueError(f"weights have shape {weights.shape}; {whole[:1]} or {whole} fits")
    return weights


def _scales(scale: Any, sources: Sequence[Source]) -> Array | None:
    if scale is None:
        return None
    if callable(scale):
        return np.array([_scale_of_source(scale, source) for source in sources])
    scales = np.asarray(scale, dtype=np.float64).reshape(-1)
    if scales.size != len(sources):
        raise ValueError(f"scale has {scales.size} factors for {len(sources)} images")
    return scales


def _scale_of_source(function: Function, source: Source) -> float:
    pixels, mask = source.band(slice(0, source.shape[0]))
    bad = ~np.isfinite(pixels)
    if mask is not None:
        bad |= np.asarray(mask, dtype=bool)
    return scale_of_frame(function, np.ma.masked_array(pixels, bad) if bad.any() else pixels)


def _combine_bands(
    sources: Sequence[Source], how: _Rejection, mem_limit: float
) -> tuple[Array, Array, Array]:
    shape = sources[0].shape
    data, error = np.empty(shape, how.dtype), np.empty(shape, how.dtype)
    mask = np.empty(shape, bool)
    band_of = _band_by_kernel if how.suits_kernel else _band_by_combiner

    def combine_band(rows: slice) -> None:
        data[rows], error[rows], mask[rows] = band_of(sources, how, rows)

    # Functions that a user passes in need not be safe to call from several threads.
    workers = (os.cpu_count() or 1) if how.suits_kernel else 1
    bands, workers = _plan_bands(shape, len(sources), how, mem_limit, workers)
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(combine_band, rows) for rows in bands]:
            done.result()
    return data, error, mask


def _plan_bands(
    shape: tuple[int, ...], n_images: int, how: _Rejection, mem_limit: float, workers: int
) -> tuple[list[slice], int]:
    """Bands of rows, and how many may be worked on at once within the limit of memory."""
    copies = COPIES_FOR_KERNEL if how.suits_kernel else COPIES_IN_COMBINER
    row_bytes = max(1, n_images * int(np.prod(shape[1:])) * max(how.dtype.itemsize, 4))
    workers = max(1, min(workers, int(mem_limit // (copies * row_bytes))))
    rows = int(min(mem_limit / (copies * workers), STACK_BYTES) // row_bytes)
    step = min(max(1, rows), shape[0])
    starts = range(0, shape[0], step)
    return [slice(start, min(start + step, shape[0])) for start in starts], workers


def _band_by_kernel(
    sources: Sequence[Source], how: _Rejection, rows: slice
) -> tuple[Array, Array, Array]:
    shape = (len(sources), rows.stop - rows.start, *sources[0].shape[1:])
    stack = np.empty(shape, how.dtype)
    for values, source in zip(stack, sources, strict=True):
        pixels, bad = source.band(rows)
        values[...] = pixels
        if bad is not None:
            values[np.asarray(bad, dtype=bool)] = np.nan
    scales = np.ones(len(sources)) if how.scales is None else how.scales
    if how.method == "median":
        combined, error, n_used = median_stack(stack, scales)
    else:
        low, high = (np.inf, np.inf) if how.sigma is None else how.sigma[:2]
        combined, error, n_used = average_stack(stack, scales, low, high)
    return combined, error, n_used == 0


def _band_by_combiner(
    sources: Sequence[Source], how: _Rejection, rows: slice
) -> tuple[Array, Array, Array]:
    frames = []
    for source in sources:
        pixels, bad = source.band(rows)
        mask = None if bad is None else np.asarray(bad, dtype=bool)
        frames.append(CCDData(pixels, mask=mask, unit=source.unit))
    combiner = Combiner(frames, dtype=how.dtype)
    combiner.scaling = how.scales
    if how.weights is not None:
        combiner.weights = how.weights if how.weights.ndim == 1 else how.weights[:, rows]
    if how.levels is not None:
        combiner.minmax_clipping(*how.levels)
    if how.extrema is not None:
        combiner.clip_extrema(*how.extrema)
    if how.sigma is not None:
        combiner.sigma_clipping(*how.sigma)
    keywords = {} if how.uncertainty_func is None else {"uncertainty_func": how.uncertainty_func}
    result = getattr(combiner, f"{how.method}_combine")(**keywords)
    return result.data, result.uncertainty.array, result.mask
