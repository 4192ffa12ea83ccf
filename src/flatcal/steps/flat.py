"""Division by the flat."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy import units as u
from astropy.nddata import CCDData
from numpy.typing import NDArray

from flatcal.errors import FrameError
from flatcal.state import refuse_misfit
from flatcal.steps import _arithmetic as arithmetic
from flatcal.steps._logging import AddKeyword, logged, record_done


@logged
def flat_correct(
    ccd: CCDData,
    flat: CCDData,
    min_value: float | None = None,
    norm_value: float | None = None,
    *,
    add_keyword: AddKeyword = True,
) -> CCDData:
    """Divide a frame by the normalised flat.

    Parameters
    ----------
    ccd : CCDData
        Frame; not changed.
    flat : CCDData
        Flat of the same shape; not changed. Pixels that are masked, or not above zero, are
        masked in the result and their values stay as they are.
    min_value : float, optional
        Lower values of the flat are raised to this one before anything else.
    norm_value : float or Quantity, optional
        Level that becomes 1; by default the mean of the finite pixels that are not masked.
    add_keyword : bool, str, Keyword, mapping or None
        What to record in the header; False or None records nothing.

    Returns
    -------
    CCDData
        Frame in its own unit; relative uncertainties add in quadrature, masks are united.

    Raises
    ------
    FrameError
        When the shapes differ, or the level of the flat (`norm_value` or the mean) is not above
        zero; a ValueError.
    StateError
        When the frame was divided by a flat before, or the frame or the flat is known to hold
        its bias and its dark.
    """
    arithmetic.require_ccd(ccd=ccd, flat=flat)
    arithmetic.require_shape(ccd, flat)
    refuse_misfit(ccd.meta, "flat", flat.meta)
    values = flat.data if min_value is None else np.maximum(flat.data, min_value)
    mask = arithmetic.mask_of(flat)
    mean, invalid = _survey(values, mask)
    norm, norm_unit = _level(norm_value, mean, flat.unit)
    dtype = arithmetic.working_dtype(ccd.data, flat.data)
    normed = _normed_band(values, norm, invalid, dtype)
    data = arithmetic.calibrated(ccd.data, dtype, flat=normed)
    result = arithmetic.derive(
        ccd,
        data,
        uncertainty=_uncertainty(ccd, flat, data, normed, norm),
        mask=arithmetic.union_of_masks(arithmetic.mask_of(ccd), mask, invalid),
        unit=ccd.unit if norm_unit == flat.unit else ccd.unit / (flat.unit / norm_unit),
        master=flat,
    )
    return record_done(result, "flat", add_keyword)


def _level(norm_value: Any, mean: float, flat_unit: Any) -> tuple[float, Any]:
    """Level of the flat that becomes 1, and its unit."""
    if norm_value is None:
        what, level, unit = "the mean of the flat's good pixels", mean, flat_unit
    elif isinstance(norm_value, u.Quantity):
        what, level, unit = "norm_value", norm_value.value, norm_value.unit
    else:
        what, level, unit = "norm_value", norm_value, flat_unit
    if not level > 0:
        raise FrameError("flat-level", f"{what} is {level:g}; it must be greater than zero")
    return float(level), unit


def _survey(
    values: arithmetic.Array, mask: NDArray[np.bool_] | None
) -> tuple[float, NDArray[np.bool_] | None]:
    """Mean of the good pixels, and where the flat cannot be divided by (None if nowhere)."""
    rows = arithmetic.rows_of(values)
    bad_rows = None if mask is None else arithmetic.rows_of(mask)

    def survey_band(part: slice) -> tuple[float, int, bool]:
        band = rows[part]
        total = float(band.sum(dtype=np.float64))
        if np.isfinite(total) and (bad_rows is None or not bad_rows[part].any()):
            return total, band.size, bool((band > 0).all())
        good = np.isfinite(band)
        if bad_rows is not None:
            good &= ~bad_rows[part]
        return float(band.sum(where=good, dtype=np.float64)), int(good.sum()), False

    totals, counts, valid = zip(
        *arithmetic.for_each_band(survey_band, rows, values.dtype), strict=True
    )
    mean = sum(totals) / sum(counts) if sum(counts) else float("nan")
    if all(valid):
        return mean, None
    invalid = ~((values > 0) & np.isfinite(values))
    return mean, invalid if mask is None else invalid | mask


def _normed_band(
    values: arithmetic.Array,
    norm: float,
    invalid: NDArray[np.bool_] | None,
    dtype: arithmetic.DType,
) -> arithmetic.Band:
    """Bands of the normalised flat, 1 where it is not valid."""
    rows = arithmetic.rows_of(values)
    bad_rows = None if invalid is None else arithmetic.rows_of(invalid)

    def band(part: slice) -> arithmetic.Array:
        normed: arithmetic.Array = np.divide(rows[part], dtype.type(norm), dtype=dtype)
        if bad_rows is not None:
            normed[bad_rows[part]] = 1
        return normed

    return band


def _uncertainty(
    ccd: CCDData, flat: CCDData, data: arithmetic.Array, normed: arithmetic.Band, norm: float
) -> Any:
    """Uncertainty of ``data = ccd / normed``, None when neither has one.

    With F the normalised flat the variance is (var(ccd) + data^2 var(F)) / F^2.
    """
    of_frame, of_flat = arithmetic.variance_of(ccd), arithmetic.variance_of(flat)
    if of_frame is None and of_flat is None:
        return None
    variance = np.zeros(data.shape, data.dtype)
    if of_flat is not None:
        np.square(data, out=variance)
        variance *= of_flat
        variance /= norm**2
    if of_frame is not None:
        variance += of_frame
    rows = arithmetic.rows_of(variance)

    def divide_band(part: slice) -> None:
        rows[part] /= np.square(normed(part))

    arithmetic.for_each_band(divide_band, rows, data.dtype)
    return arithmetic.uncertainty_from_variance(variance, ccd, flat)
