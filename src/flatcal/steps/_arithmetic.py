"""What the steps share: working type, row bands, units, uncertainties, masks, results."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any, Final, TypeVar

import numpy as np
from astropy import units as u
from astropy.nddata import (
    CCDData,
    IncompatibleUncertaintiesException,
    InverseVariance,
    StdDevUncertainty,
    VarianceUncertainty,
)
from numpy.typing import NDArray

from flatcal.errors import FrameError
from flatcal.kernels.arithmetic import calibrate

T = TypeVar("T")
Array = NDArray[Any]
DType = np.dtype[Any]
# A band gives the rows of a slice, contiguous and in the working type.
Band = Callable[[slice], Array]

# Rows are worked on in bands of this many bytes: the copy of a band is still in the last cache
# when the kernel passes over it, and calls per band cost nothing (measured: smaller is slower).
BAND_BYTES: Final = 1 << 21


def require_ccd(**frames: Any) -> None:
    """Raise TypeError unless each named argument is a CCDData."""
    for name, frame in frames.items():
        if not isinstance(frame, CCDData):
            raise TypeError(f"{name} must be a CCDData, not {type(frame).__name__}")


def require_shape(ccd: CCDData, master: CCDData) -> None:
    """Raise FrameError unless both have the same shape."""
    if ccd.shape != master.shape:
        raise FrameError(
            "frame-shape",
            f"the frame has shape {ccd.shape} but the master has {master.shape}; trim both alike",
        )


def unit_factor(ccd: CCDData, master: CCDData) -> float:
    """Factor that brings a master to the unit of a frame.

    Raises
    ------
    astropy.units.UnitsError
        When the units are of different kinds; it names both.
    """
    if ccd.unit == master.unit:
        return 1.0
    try:
        return float(master.unit.to(ccd.unit))
    except u.UnitConversionError as error:
        raise u.UnitsError(
            f"the frame is in '{ccd.unit}' but the master is in '{master.unit}'; bring both to "
            "one unit, for example with gain_correct"
        ) from error


def working_dtype(frame: Array, *others: Array) -> DType:
    """Type in which a step calculates and that its result has.

    Parameters
    ----------
    frame : ndarray
        Image; float32 and float64 keep their type.
    *others : ndarray
        Masters; with an integer frame the type is wide enough for all, float32 at least.

    Returns
    -------
    dtype
        Native float32 or float64.
    """
    if frame.dtype.kind != "f":
        wide = np.result_type(frame.dtype, *(other.dtype for other in others), np.float32)
    else:
        wide = np.promote_types(frame.dtype, np.float32)
    return np.dtype(np.float32 if wide == np.float32 else np.float64)


def rows_of(image: Array) -> Array:
    """View of an image of any dimension as rows."""
    return image if image.ndim == 2 else image.reshape(-1, image.shape[-1])


def for_each_band(job: Callable[[slice], T], image: Array, dtype: DType) -> list[T]:
    """Call a job with each band of rows of an image, on as many threads as there are cores.

    Bands are about `BAND_BYTES` long in type `dtype`; the results come in their order.
    """
    n_rows, n_columns = image.shape
    step = max(1, BAND_BYTES // max(1, n_columns * dtype.itemsize))
    bands = [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]
    if len(bands) < 2:
        return [job(band) for band in bands]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(job, bands))


def native_band(image: Array, dtype: DType, factor: float = 1.0) -> Band:
    """Band of an image times a factor; a copy only where the type or layout asks for it."""
    rows = rows_of(image)

    def band(part: slice) -> Array:
        values = rows[part]
        if factor != 1.0:
            scaled: Array = np.multiply(values, dtype.type(factor), dtype=dtype)
            return scaled
        # A read-only (memory-mapped) array is copied too: the kernel would be compiled anew.
        if values.dtype == dtype and values.flags.carray:
            return values
        return np.array(values, dtype=dtype, order="C")

    return band


def calibrated(
    image: Array,
    dtype: DType,
    *,
    level: Array | None = None,
    bias: Band | None = None,
    dark: Band | None = None,
    dark_scale: float = 1.0,
    flat: Band | None = None,
) -> Array:
    """Calibrate a copy of an image with the kernel that the engine uses too.

    Parameters
    ----------
    image : ndarray
        Pixels of any type and byte order; not changed.
    dtype : dtype
        Type of the result, native float32 or float64.
    level : ndarray, shape (rows,), optional
        Overscan level in the type of the result.
    bias, dark, flat : callable, optional
        Bands of the masters; see `Band`.
    dark_scale : float
        Factor of the dark.

    Returns
    -------
    ndarray
        New native array of the shape of `image`.
    """
    result = np.empty(image.shape, dtype)
    source, out = rows_of(image), rows_of(result)
    no_level, no_plane = np.empty(0, dtype), np.empty((0, 0), dtype)
    scale = dtype.type(dark_scale)

    def calibrate_band(part: slice) -> None:
        out[part] = source[part]
        calibrate(
            out[part],
            no_level if level is None else level[part],
            no_plane if bias is None else bias(part),
            no_plane if dark is None else dark(part),
            scale,
            no_plane if flat is None else flat(part),
        )

    for_each_band(calibrate_band, out, dtype)
    return result


def mask_of(ccd: CCDData) -> NDArray[np.bool_] | None:
    """Mask as booleans of the shape of the frame, None when there is none; not a copy."""
    if ccd.mask is None:
        return None
    return np.broadcast_to(np.asarray(ccd.mask, dtype=bool), ccd.shape)


def union_of_masks(*masks: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """New mask that is True where any of the masks is; None when there is no mask."""
    union: NDArray[np.bool_] | None = None
    for mask in masks:
        if mask is not None:
            union = mask.copy() if union is None else np.logical_or(union, mask, out=union)
    return union


def native_copy(array: Array) -> Array:
    """Copy of an array in the byte order of the machine."""
    copy = np.empty(array.shape, array.dtype.newbyteorder("="))
    source, out = rows_of(array), rows_of(copy)

    def copy_band(part: slice) -> None:
        out[part] = source[part]

    for_each_band(copy_band, out, out.dtype)
    return copy


def copy_uncertainty(ccd: CCDData) -> Any:
    """Copy of the uncertainty of a frame, None without one."""
    old = ccd.uncertainty
    if old is None or old.array is None:
        return None
    return type(old)(native_copy(np.asarray(old.array)), unit=old.unit, copy=False)


def scaled_uncertainty(ccd: CCDData, factor: float) -> Any:
    """Uncertainty of ``factor * ccd``, None without one."""
    variance = variance_of(ccd)
    if variance is None:
        return None
    return uncertainty_from_variance(variance * factor**2, ccd)


def variance_of(ccd: CCDData) -> Array | None:
    """Variance of a frame in the square of its unit, None without uncertainty; maybe a view.

    Raises
    ------
    IncompatibleUncertaintiesException
        When the uncertainty is of a kind that has no variance.
    """
    old = ccd.uncertainty
    if old is None or old.array is None:
        return None
    if not isinstance(old, StdDevUncertainty | VarianceUncertainty | InverseVariance):
        raise _cannot_propagate(old)
    variance = old.represent_as(VarianceUncertainty)
    factor = 1.0 if variance.unit is None else float(variance.unit.to(ccd.unit**2))
    array: Array = variance.array
    return array if factor == 1.0 else array * factor


def uncertainty_from_variance(variance: Array, *frames: CCDData) -> Any:
    """Uncertainty of the kind that the first frame with one has.

    Parameters
    ----------
    variance : ndarray
        Used as it is or overwritten.
    """
    like = next(frame.uncertainty for frame in frames if frame.uncertainty is not None)
    if isinstance(like, VarianceUncertainty):
        return VarianceUncertainty(variance, copy=False)
    if isinstance(like, InverseVariance):
        return InverseVariance(1 / variance, copy=False)
    return StdDevUncertainty(np.sqrt(variance, out=variance), copy=False)


def difference_uncertainty(ccd: CCDData, master: CCDData, factor: float) -> Any:
    """Uncertainty of ``ccd - factor * master``, None when neither has one."""
    of_master = variance_of(master)
    if of_master is None:
        return copy_uncertainty(ccd)
    variance = of_master * factor**2
    of_frame = variance_of(ccd)
    if of_frame is not None:
        variance = variance + of_frame
    return uncertainty_from_variance(variance, ccd, master)


def derive(
    ccd: CCDData,
    data: Array,
    *,
    uncertainty: Any,
    mask: NDArray[np.bool_] | None,
    unit: Any = None,
    master: CCDData | None = None,
) -> CCDData:
    """Frame with new pixels and the header, WCS, PSF and flags of another, none of it shared.

    Parameters
    ----------
    data, uncertainty, mask
        Taken as they are.
    unit : astropy unit, optional
        Unit of `data`, that of `ccd` by default.
    master : CCDData, optional
        Gives the WCS when `ccd` has none, as arithmetic of CCDData has it.
    """
    wcs = master.wcs if ccd.wcs is None and master is not None else ccd.wcs
    return type(ccd)(
        data,
        unit=ccd.unit if unit is None else unit,
        uncertainty=uncertainty,
        mask=mask,
        meta=ccd.meta.copy(),
        wcs=deepcopy(wcs),
        psf=deepcopy(ccd.psf),
        flags=deepcopy(ccd.flags),
    )


def _cannot_propagate(uncertainty: Any) -> Exception:
    message = f"uncertainty of type {type(uncertainty).__name__} cannot be propagated"
    return IncompatibleUncertaintiesException(message)  # type: ignore[no-any-return]
