"""Overscan subtraction and trimming."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.modeling import fitting
from astropy.nddata import CCDData

from flatcal.errors import FrameError
from flatcal.levels import fit_levels
from flatcal.overscan_model import OverscanModel
from flatcal.section import parse_section
from flatcal.state import refuse_misfit, refuse_part
from flatcal.steps import _arithmetic as arithmetic
from flatcal.steps._logging import AddKeyword, logged, record_done


@logged
def subtract_overscan(
    ccd: CCDData,
    overscan: CCDData | None = None,
    overscan_axis: int | None = 1,
    fits_section: str | None = None,
    median: bool = False,
    model: Any = None,
    *,
    add_keyword: AddKeyword = True,
) -> CCDData:
    """Subtract the level of the overscan from every row or column.

    Parameters
    ----------
    ccd : CCDData, shape (rows, columns)
        Frame; not changed.
    overscan : CCDData, optional
        Overscan part of the frame, usually a slice like ``ccd[:, 2055:]``. Give either this
        or `fits_section`. Its masked pixels do not count.
    overscan_axis : {1, 0, None}
        Axis over which the overscan is averaged: 1 gives one level for each row, 0 one for
        each column. None takes the shorter side of the overscan.
    fits_section : str, optional
        Overscan as a FITS section ``[x1:x2,y1:y2]``.
    median : bool
        Median instead of mean.
    model : astropy.modeling.Model or OverscanModel, optional
        Model that is fitted to the levels and replaces them: one of astropy that is linear in its
        parameters, or that of a run, which leaves outliers out of the fit. Rows without any good
        pixel have no part in it.
    add_keyword : bool, str, Keyword, mapping or None
        What to record in the header; False or None records nothing.

    Returns
    -------
    CCDData
        Frame of the same shape and unit; integers become float32 or, when they need it,
        float64. A row without any good overscan pixel becomes NaN.

    Raises
    ------
    TypeError
        When an argument is of the wrong type, or not exactly one overscan is given.
    SectionError
        When `fits_section` is not a section of this frame.
    FrameError
        When the overscan has another number of rows (or columns) than the frame.
    StateError
        When the overscan was subtracted before, or the frame was divided by a flat; when
        `fits_section` is given for a frame that was trimmed, or the frame has lost something
        that `overscan` has not.
    """
    arithmetic.require_ccd(ccd=ccd)
    refuse_misfit(ccd.meta, "overscan")
    overscan = _overscan_of(ccd, overscan, fits_section)
    if overscan_axis is None:
        overscan_axis = 0 if overscan.shape[1] > overscan.shape[0] else 1
    factor = arithmetic.unit_factor(ccd, overscan)
    level = _level(overscan, overscan_axis, median) * factor
    if model is not None:
        level = _fitted(level, model)
    data = _subtract_level(ccd.data, level, overscan_axis)
    mask = arithmetic.union_of_masks(arithmetic.mask_of(ccd))
    result = arithmetic.derive(ccd, data, uncertainty=arithmetic.copy_uncertainty(ccd), mask=mask)
    return record_done(result, "overscan", add_keyword)


def _overscan_of(ccd: CCDData, overscan: Any, fits_section: Any) -> CCDData:
    if (overscan is None) == (fits_section is None):
        raise TypeError("give either overscan or fits_section, and not both")
    if fits_section is None:
        arithmetic.require_ccd(overscan=overscan)
        refuse_part(ccd.meta, overscan.meta)
        return overscan
    if not isinstance(fits_section, str):
        raise TypeError(f"fits_section must be a str, not {type(fits_section).__name__}")
    refuse_part(ccd.meta, None)
    return ccd[parse_section(fits_section, ccd.shape)]


def _level(overscan: CCDData, axis: int, median: bool) -> arithmetic.Array:
    mask = arithmetic.mask_of(overscan)
    if mask is None or not mask.any():
        if median:
            return np.asarray(np.median(overscan.data, axis=axis))
        return np.asarray(np.mean(overscan.data, axis=axis, dtype=np.float64))
    values = np.ma.masked_array(overscan.data.astype(np.float64), mask)
    average = np.ma.median if median else np.ma.mean
    level = average(values, axis=axis)
    return np.asarray(np.ma.filled(level, np.nan))


def _fitted(level: arithmetic.Array, model: Any) -> arithmetic.Array:
    """The levels as a model has them, also where there is none."""
    level = level.astype(np.float64)
    if isinstance(model, OverscanModel):
        return fit_levels(level, model)
    known, position = np.isfinite(level), np.arange(level.size)
    if not known.any():
        return level
    fit = fitting.LinearLSQFitter()(model, position[known], level[known])
    return np.asarray(fit(position))


def _subtract_level(image: arithmetic.Array, level: arithmetic.Array, axis: int) -> Any:
    dtype = arithmetic.working_dtype(image)
    size = image.shape[0 if axis == 1 else 1]
    if level.size not in (1, size):
        raise FrameError(
            "frame-shape",
            f"the overscan gives {level.size} levels but the frame has {size} "
            f"{'rows' if axis == 1 else 'columns'}; slice the overscan from the same frame",
        )
    levels = np.array(np.broadcast_to(level, size), dtype=dtype)
    if axis == 1:
        return arithmetic.calibrated(image, dtype, level=levels)
    columns = np.broadcast_to(levels, image.shape)
    return arithmetic.calibrated(image, dtype, bias=arithmetic.native_band(columns, dtype))


@logged
def trim_image(
    ccd: CCDData, fits_section: str | None = None, *, add_keyword: AddKeyword = True
) -> CCDData:
    """Cut a frame to a section, always as a copy.

    Parameters
    ----------
    ccd : CCDData
        Frame, or a slice of one; not changed.
    fits_section : str, optional
        Section ``[x1:x2,y1:y2]`` that is kept; all of `ccd` by default.
    add_keyword : bool, str, Keyword, mapping or None
        What to record in the header; False or None records nothing.

    Returns
    -------
    CCDData
        Copy in native byte order, with uncertainty, mask and WCS cut alike.

    Raises
    ------
    TypeError
        When `fits_section` is not a text.
    SectionError
        When `fits_section` is not a section of this frame.
    """
    arithmetic.require_ccd(ccd=ccd)
    if fits_section is not None and not isinstance(fits_section, str):
        raise TypeError(f"fits_section must be a str, not {type(fits_section).__name__}")
    part = ccd[parse_section(fits_section, ccd.shape)] if fits_section else ccd
    result = arithmetic.derive(
        part,
        arithmetic.native_copy(part.data),
        uncertainty=arithmetic.copy_uncertainty(part),
        mask=arithmetic.union_of_masks(arithmetic.mask_of(part)),
    )
    return record_done(result, "trim", add_keyword)
