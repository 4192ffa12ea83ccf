"""Gain correction and the deviation expected from gain and read noise."""

from __future__ import annotations

import logging
from numbers import Number
from typing import Any

import numpy as np
from astropy import units as u
from astropy.nddata import CCDData, StdDevUncertainty

from flatcal.io import silencing
from flatcal.state import refuse_misfit
from flatcal.steps import _arithmetic as arithmetic
from flatcal.steps._logging import AddKeyword, logged, record_done
from flatcal.steps.keyword import Keyword

logger = logging.getLogger(__name__)


@logged
def gain_correct(
    ccd: CCDData,
    gain: u.Quantity | Keyword | float,
    gain_unit: Any = None,
    *,
    add_keyword: AddKeyword = True,
) -> CCDData:
    """Multiply a frame by the gain.

    Parameters
    ----------
    ccd : CCDData
        Frame; not changed.
    gain : Quantity, Keyword or float
        Gain, usually in electron per ADU; a Keyword is looked up in the frame's header.
    gain_unit : astropy unit, optional
        Unit of a `gain` that is a plain number; without it the unit of the frame stays.
    add_keyword : bool, str, Keyword, mapping or None
        What to record in the header; False or None records nothing.

    Returns
    -------
    CCDData
        Frame in its unit times that of the gain; integers become float32 or float64.

    Raises
    ------
    TypeError
        When `gain` is none of these.
    StateError
        When the frame was multiplied by the gain before.
    """
    arithmetic.require_ccd(ccd=ccd)
    refuse_misfit(ccd.meta, "gain")
    factor, unit = _gain_of(ccd, gain, gain_unit)
    dtype = arithmetic.working_dtype(ccd.data)
    data = np.empty(ccd.shape, dtype)
    rows, source = arithmetic.rows_of(data), arithmetic.rows_of(ccd.data)

    def multiply_band(part: slice) -> None:
        np.multiply(source[part], dtype.type(factor), out=rows[part], casting="same_kind")

    arithmetic.for_each_band(multiply_band, rows, dtype)
    result = arithmetic.derive(
        ccd,
        data,
        uncertainty=arithmetic.scaled_uncertainty(ccd, factor),
        mask=arithmetic.union_of_masks(arithmetic.mask_of(ccd)),
        unit=ccd.unit * unit,
    )
    return record_done(result, "gain", add_keyword)


def _gain_of(ccd: CCDData, gain: Any, gain_unit: Any) -> tuple[float, Any]:
    if isinstance(gain, Keyword):
        gain = Keyword(gain.name, gain.unit).value_from(ccd.header)
    if isinstance(gain, u.Quantity) and gain.isscalar:
        return float(gain.value), gain.unit
    if isinstance(gain, Number) and not isinstance(gain, complex):
        with silencing(u.UnitsWarning):  # astropy changes filters to parse a unit
            unit = u.dimensionless_unscaled if gain_unit is None else u.Unit(gain_unit)
        return float(gain), unit  # type: ignore[arg-type]
    raise TypeError(f"gain must be one number, a Quantity or a Keyword, not {gain!r}")


@logged
def create_deviation(
    ccd_data: CCDData,
    gain: u.Quantity | None = None,
    readnoise: u.Quantity | None = None,
    disregard_nan: bool = False,
    *,
    add_keyword: AddKeyword = True,  # noqa: ARG001  (for the decorator)
) -> CCDData:
    """Give a frame the standard deviation expected from photon statistics and read noise.

    Parameters
    ----------
    ccd_data : CCDData
        Frame; neither it nor the values of the result are scaled.
    gain : Quantity, optional
        Gain that brings the frame to the unit of `readnoise`; 1 by default.
    readnoise : Quantity
        Read noise per pixel.
    disregard_nan : bool
        Give negative pixels the read noise alone, instead of NaN.
    add_keyword : bool, str, Keyword, mapping or None
        What to record in the header; False or None records nothing.

    Returns
    -------
    CCDData
        Copy with an uncertainty of ``sqrt(gain * data + readnoise**2) / gain`` in the unit of
        the frame.

    Raises
    ------
    TypeError
        When `gain` or `readnoise` is not a Quantity.
    ValueError
        When `readnoise` is missing.
    astropy.units.UnitsError
        When gain times frame is not in the unit of the read noise.
    """
    arithmetic.require_ccd(ccd_data=ccd_data)
    if readnoise is None:
        raise ValueError("create_deviation needs a readnoise")
    if gain is None:
        gain = 1 * u.dimensionless_unscaled
    for name, value in (("gain", gain), ("readnoise", readnoise)):
        if not isinstance(value, u.Quantity):
            raise TypeError(f"{name} must be an astropy Quantity, not {value!r}")
    if gain.unit * ccd_data.unit != readnoise.unit:
        raise u.UnitsError(
            f"gain in '{gain.unit}' times frame in '{ccd_data.unit}' does not give the unit "
            f"'{readnoise.unit}' of the readnoise"
        )
    deviation = _deviation(ccd_data.data, float(gain.value), float(readnoise.value), disregard_nan)
    return arithmetic.derive(
        ccd_data,
        arithmetic.native_copy(ccd_data.data),
        uncertainty=StdDevUncertainty(deviation, copy=False),
        mask=arithmetic.union_of_masks(arithmetic.mask_of(ccd_data)),
    )


def _deviation(
    image: arithmetic.Array, gain: float, read_noise: float, negative_as_zero: bool
) -> arithmetic.Array:
    dtype = arithmetic.working_dtype(image)
    deviation = np.empty(image.shape, dtype)
    rows, source = arithmetic.rows_of(deviation), arithmetic.rows_of(image)

    def fill_band(part: slice) -> int:
        band = rows[part]
        np.multiply(source[part], dtype.type(gain), out=band, casting="same_kind")
        negative = band < 0
        n_negative = int(np.count_nonzero(negative))
        if n_negative:
            band[negative] = 0 if negative_as_zero else np.nan
        band += read_noise**2
        np.sqrt(band, out=band)
        band /= gain
        return n_negative

    n_negative = sum(arithmetic.for_each_band(fill_band, rows, dtype))
    if n_negative and not negative_as_zero:
        logger.warning("%d negative pixels get NaN as their deviation", n_negative)
    return deviation
