"""Correction of linearity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy import units as u
from astropy.nddata import CCDData

from flatcal.linearity_curve import curve_of
from flatcal.nonlinearity import load_correction
from flatcal.state import refuse_misfit
from flatcal.steps import _arithmetic as arithmetic
from flatcal.steps._logging import AddKeyword, logged, record_done


@logged
def correct_linearity(
    ccd: CCDData,
    coefficients: Sequence[float] | None = None,
    table: str | None = None,
    *,
    add_keyword: AddKeyword = True,
) -> CCDData:
    """Make the counts of a frame linear, before its dark is subtracted.

    Parameters
    ----------
    ccd : CCDData
        Frame in ADU without its bias level; not changed.
    coefficients : sequence of float, optional
        c1, c2 and on of ``true = raw (1 + c1 raw + c2 raw^2 + ...)``. Give either these or `table`.
    table : str, optional
        Text file of two columns, raw and true counts above the bias level; lines go between its
        points, and on beyond them.
    add_keyword : bool, str, Keyword, mapping or None
        What to record in the header; False or None records nothing.

    Returns
    -------
    CCDData
        Frame in ADU. Its variance is multiplied by the square of the slope of the curve; the shot
        noise in it is that of the true counts if `create_deviation` is called afterwards. Counts
        beyond the end of a table are masked.

    Raises
    ------
    TypeError
        When not exactly one curve is given.
    astropy.units.UnitsError
        When the frame is not in ADU.
    ConfigError
        When the curve makes no sense.
    StateError
        When it was done before, or the frame still holds its bias level, or has lost its dark or
        was divided by a flat.
    """
    arithmetic.require_ccd(ccd=ccd)
    if (coefficients is None) == (table is None):
        raise TypeError("give either coefficients or table, and not both")
    if ccd.unit != u.adu:
        raise u.UnitsError(f"the frame is in '{ccd.unit}', and the curve is for adu")
    refuse_misfit(ccd.meta, "linearity")
    data = arithmetic.calibrated(ccd.data, arithmetic.working_dtype(ccd.data))
    curve = curve_of(None if coefficients is None else tuple(coefficients), table, None)
    variance, beyond = arithmetic.variance_of(ccd), np.zeros(data.shape, np.uint16)
    if curve is not None:
        correction = load_correction(curve, None)
        correction.apply(data, beyond)
        if variance is not None:
            variance = variance * correction.slope_at(data) ** 2
    mask = arithmetic.union_of_masks(arithmetic.mask_of(ccd), beyond != 0 if beyond.any() else None)
    uncertainty = None
    if variance is not None:
        uncertainty = arithmetic.uncertainty_from_variance(np.array(variance), ccd)
    result = arithmetic.derive(ccd, data, uncertainty=uncertainty, mask=mask)
    return record_done(result, "linearity", add_keyword)
