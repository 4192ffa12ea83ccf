"""Bias subtraction."""

from __future__ import annotations

from astropy.nddata import CCDData

from flatcal.state import refuse_misfit
from flatcal.steps import _arithmetic as arithmetic
from flatcal.steps._logging import AddKeyword, logged, record_done


@logged
def subtract_bias(ccd: CCDData, master: CCDData, *, add_keyword: AddKeyword = True) -> CCDData:
    """Subtract the master bias from a frame.

    Parameters
    ----------
    ccd : CCDData
        Frame; not changed.
    master : CCDData
        Master bias of the same shape, in a unit that converts to that of the frame.
    add_keyword : bool, str, Keyword, mapping or None
        What to record in the header; False or None records nothing.

    Returns
    -------
    CCDData
        Frame without bias, in its own unit; uncertainties add in quadrature, masks are united.

    Raises
    ------
    astropy.units.UnitsError
        When the units do not fit; it names both.
    FrameError
        When the shapes differ; a ValueError that names both.
    StateError
        When the bias was subtracted before, when the frame was divided by a flat, or when one
        of both is known to hold its overscan level and the other not to.
    """
    arithmetic.require_ccd(ccd=ccd, master=master)
    arithmetic.require_shape(ccd, master)
    refuse_misfit(ccd.meta, "bias", master.meta)
    factor = arithmetic.unit_factor(ccd, master)
    dtype = arithmetic.working_dtype(ccd.data, master.data)
    bias = arithmetic.native_band(master.data, dtype, factor)
    result = arithmetic.derive(
        ccd,
        arithmetic.calibrated(ccd.data, dtype, bias=bias),
        uncertainty=arithmetic.difference_uncertainty(ccd, master, factor),
        mask=arithmetic.union_of_masks(arithmetic.mask_of(ccd), arithmetic.mask_of(master)),
        master=master,
    )
    return record_done(result, "bias", add_keyword)
