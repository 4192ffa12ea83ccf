"""All steps on one frame in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy import units as u
from astropy.nddata import CCDData
from numpy.typing import NDArray

from flatcal.errors import FrameError
from flatcal.steps import _arithmetic as arithmetic
from flatcal.steps._logging import AddKeyword, logged
from flatcal.steps.bias import subtract_bias
from flatcal.steps.dark import subtract_dark
from flatcal.steps.flat import flat_correct
from flatcal.steps.gain import create_deviation, gain_correct
from flatcal.steps.keyword import Keyword
from flatcal.steps.overscan import subtract_overscan, trim_image


@logged
def ccd_process(
    ccd: CCDData,
    oscan: CCDData | str | None = None,
    trim: str | None = None,
    error: bool = False,
    master_bias: CCDData | None = None,
    dark_frame: CCDData | None = None,
    master_flat: CCDData | None = None,
    bad_pixel_mask: NDArray[Any] | None = None,
    gain: u.Quantity | None = None,
    readnoise: u.Quantity | None = None,
    oscan_median: bool = True,
    oscan_model: Any = None,
    min_value: float | None = None,
    dark_exposure: u.Quantity | None = None,
    data_exposure: u.Quantity | None = None,
    exposure_key: str | Keyword | None = None,
    exposure_unit: Any = None,
    dark_scale: bool = False,
    gain_corrected: bool = True,
    *,
    add_keyword: AddKeyword = True,
) -> CCDData:
    """Calibrate a frame: overscan, trim, deviation, mask, gain, bias, dark, flat.

    Each step is done when its argument is given, in this order.

    Parameters
    ----------
    ccd : CCDData
        Raw frame; not changed.
    oscan : CCDData or str, optional
        Overscan, as a slice of the frame or as a FITS section.
    trim : str, optional
        FITS section that is kept.
    error : bool
        Make the uncertainty from `gain` and `readnoise`.
    master_bias, dark_frame, master_flat : CCDData, optional
        Masters, in electron when `gain_corrected` (and a `gain`) is given, else in ADU.
    bad_pixel_mask : ndarray, optional
        Not zero where a pixel of the trimmed frame is bad; united with the frame's own mask.
    gain, readnoise : Quantity, optional
        See `gain_correct` and `create_deviation`.
    oscan_median, oscan_model
        See `subtract_overscan`.
    min_value : float, optional
        See `flat_correct`.
    dark_exposure, data_exposure, exposure_key, exposure_unit, dark_scale
        See `subtract_dark`, where `exposure_key` is ``exposure_time``.
    gain_corrected : bool
        Multiply by the gain before the masters are subtracted; otherwise at the end.
    add_keyword : bool, str, Keyword, mapping or None
        What to record in the header; False or None records nothing, not even single steps.

    Returns
    -------
    CCDData
        Calibrated frame.

    Raises
    ------
    TypeError
        When an argument is of the wrong type.
    ValueError
        When `error` is asked for without `gain` and `readnoise`.
    """
    _require(oscan, "oscan", CCDData, str)
    _require(trim, "trim", str)
    _require(bad_pixel_mask, "bad_pixel_mask", np.ndarray)
    _require(gain, "gain", u.Quantity)
    for name, master in (
        ("master_bias", master_bias), ("dark_frame", dark_frame), ("master_flat", master_flat)
    ):  # fmt: skip
        _require(master, name, CCDData)
    if error and (gain is None or readnoise is None):
        raise ValueError("error=True needs gain and readnoise")
    record = add_keyword is not None and add_keyword is not False

    frame = ccd
    if oscan is not None:
        where = {"fits_section": oscan} if isinstance(oscan, str) else {"overscan": oscan}
        frame = subtract_overscan(
            frame, **where, median=oscan_median, model=oscan_model, add_keyword=record
        )
    if trim is not None:
        frame = trim_image(frame, fits_section=trim, add_keyword=record)
    if error:
        frame = create_deviation(frame, gain=gain, readnoise=readnoise, add_keyword=record)
    if bad_pixel_mask is not None:
        if frame is ccd:
            frame = trim_image(frame, add_keyword=False)
        _add_mask(frame, bad_pixel_mask)
    if gain is not None and gain_corrected:
        frame = gain_correct(frame, gain, add_keyword=record)
    if master_bias is not None:
        frame = subtract_bias(frame, master_bias, add_keyword=record)
    if dark_frame is not None:
        frame = subtract_dark(
            frame,
            dark_frame,
            dark_exposure=dark_exposure,
            data_exposure=data_exposure,
            exposure_time=exposure_key,
            exposure_unit=exposure_unit,
            scale=dark_scale,
            add_keyword=record,
        )
    if master_flat is not None:
        frame = flat_correct(frame, master_flat, min_value=min_value, add_keyword=record)
    if gain is not None and not gain_corrected:
        frame = gain_correct(frame, gain, add_keyword=record)
    return trim_image(frame, add_keyword=False) if frame is ccd else frame


def _require(value: Any, name: str, *types: type) -> None:
    if value is not None and not isinstance(value, types):
        wanted = " or ".join(kind.__name__ for kind in types)
        raise TypeError(f"{name} must be None or a {wanted}, not {type(value).__name__}")


def _add_mask(frame: CCDData, bad: NDArray[Any]) -> None:
    if bad.shape != frame.shape:
        raise FrameError(
            "frame-shape",
            f"bad_pixel_mask has shape {bad.shape} but the frame, trimmed, has {frame.shape}",
        )
    frame.mask = arithmetic.union_of_masks(arithmetic.mask_of(frame), bad.astype(bool))
