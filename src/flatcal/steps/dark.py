"""Dark subtraction, and the choice of the dark."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from math import isfinite
from numbers import Real
from typing import Any, Final

from astropy import units as u
from astropy.nddata import CCDData

from flatcal.errors import DarkExposureError, FlatcalWarning, FrameError, StateError
from flatcal.state import bias_known_inside, record_step, refuse_misfit, removed_steps
from flatcal.steps import _arithmetic as arithmetic
from flatcal.steps._logging import AddKeyword, logged, record_done, wants_record
from flatcal.steps.keyword import Keyword

# Binary fractions, as a part of the exposure time: 1.1 s is not farther from 1 s than 0.1 s.
_ROUNDING: Final = 1e-9


@logged
def subtract_dark(
    ccd: CCDData,
    master: CCDData,
    dark_exposure: u.Quantity | None = None,
    data_exposure: u.Quantity | None = None,
    exposure_time: str | Keyword | None = None,
    exposure_unit: Any = None,
    scale: bool = False,
    *,
    add_keyword: AddKeyword = True,
) -> CCDData:
    """Subtract the master dark from a frame.

    Parameters
    ----------
    ccd : CCDData
        Frame; not changed.
    master : CCDData
        Master dark of the same shape, in a unit that converts to that of the frame.
    dark_exposure, data_exposure : Quantity, optional
        Exposure times of the dark and of the frame. Give either both or `exposure_time`.
    exposure_time : str or Keyword, optional
        Header card that holds the exposure time of each.
    exposure_unit : astropy unit, optional
        Unit of the values in the headers.
    scale : bool
        Multiply the dark by the ratio of the exposure times. The dark must have lost its bias.
    add_keyword : bool, str, Keyword, mapping or None
        What to record in the header; False or None records nothing.

    Returns
    -------
    CCDData
        Frame without dark, in its own unit; uncertainties add in quadrature, masks are united.

    Raises
    ------
    TypeError
        When the exposure times are given in part, twice or without unit.
    astropy.units.UnitsError
        When the units do not fit; it names both.
    FrameError
        When the shapes differ, or a header has no exposure time or one that is not a number.
    StateError
        When a dark was subtracted before, when a dark that is known to hold its bias would be
        scaled (slug ``dark-holds-bias``), or when it would take the bias out a second time; when
        the frame was divided by a flat, or one of both is known to hold its overscan level and
        the other not to.

    Warns
    -----
    FlatcalWarning
        When the dark has lost its bias and the frame has not.
    """
    arithmetic.require_ccd(ccd=ccd, master=master)
    arithmetic.require_shape(ccd, master)
    in_frame, in_dark = _exposures(
        ccd, master, dark_exposure, data_exposure, exposure_time, exposure_unit
    )
    _check_state(ccd.meta, master.meta, scale)
    ratio = _ratio(in_frame, in_dark) if scale else 1.0
    factor = arithmetic.unit_factor(ccd, master) * ratio
    dtype = arithmetic.working_dtype(ccd.data, master.data)
    dark = arithmetic.native_band(master.data, dtype)
    result = arithmetic.derive(
        ccd,
        arithmetic.calibrated(ccd.data, dtype, dark=dark, dark_scale=factor),
        uncertainty=arithmetic.difference_uncertainty(ccd, master, factor),
        mask=arithmetic.union_of_masks(arithmetic.mask_of(ccd), arithmetic.mask_of(master)),
        master=master,
    )
    if bias_known_inside(master.meta) and wants_record(add_keyword):
        record_step(result.meta, "bias")
    return record_done(result, "dark", add_keyword)


def _check_state(frame: Mapping[str, Any], dark: Mapping[str, Any], scale: bool) -> None:
    refuse_misfit(frame, "dark", dark)
    frame_lost_bias = "bias" in removed_steps(frame)
    if bias_known_inside(dark):
        if scale:
            raise StateError(
                "dark-holds-bias",
                "scale=True, but the dark still holds its bias (BIASSUB = F), which would be "
                "scaled too; subtract the bias from the darks, or take one of the same exposure",
            )
        if frame_lost_bias:
            raise StateError(
                "state",
                "the bias is gone from the frame (BIASSUB) but still in the dark (BIASSUB = F), "
                "so it would be subtracted twice; take a dark without bias",
            )
    elif "bias" in removed_steps(dark) and not frame_lost_bias:
        warnings.warn(
            FlatcalWarning(
                "bias-still-in-frame",
                "the dark has lost its bias, but nothing in the frame's header says that the "
                "frame has; call subtract_bias before subtract_dark",
            ),
            stacklevel=4,
        )


def _exposures(
    ccd: CCDData, master: CCDData, in_dark: Any, in_frame: Any, card: Any, unit: Any
) -> tuple[u.Quantity, u.Quantity]:
    """Exposure times of the frame and of the dark."""
    given = [value is not None for value in (in_frame, in_dark)]
    if any(given):
        if card is not None or not all(given):
            raise TypeError("give either exposure_time or both dark_exposure and data_exposure")
        if not (isinstance(in_dark, u.Quantity) and isinstance(in_frame, u.Quantity)):
            raise TypeError("dark_exposure and data_exposure must be astropy Quantity objects")
        return in_frame, in_dark
    if card is None:
        raise TypeError("give exposure_time, or both dark_exposure and data_exposure")
    if isinstance(card, Keyword):
        card, unit = card.name, card.unit if card.unit is not None else unit
    frame_value = _header_exposure(ccd, card, "the frame")
    dark_value = _header_exposure(master, card, "the dark")
    if unit is None:
        raise TypeError(f"give exposure_unit, the unit of {card!r} in the headers")
    return frame_value * unit, dark_value * unit


def _ratio(in_frame: u.Quantity, in_dark: u.Quantity) -> float:
    if not in_dark > 0 * in_dark.unit:
        raise FrameError(
            "exposure-not-a-number",
            f"a dark of {in_dark} cannot be scaled to {in_frame}; take a longer dark",
        )
    return float((in_frame / in_dark).to_value(u.dimensionless_unscaled))


def find_nearest_dark_exposure(
    image: CCDData, dark_exposure_times: Iterable[float], tolerance: float | None = 0.5
) -> float:
    """Find the exposure time of a dark that is nearest to that of an image.

    Parameters
    ----------
    image : CCDData
        Image with ``EXPTIME`` in its header.
    dark_exposure_times : iterable of float
        Exposure times of the darks in seconds; of two equally near ones the first is taken.
    tolerance : float or None
        Largest difference in seconds that is accepted; None accepts any, for darks that will
        be scaled.

    Returns
    -------
    float
        Exposure time in seconds.

    Raises
    ------
    DarkExposureError
        When no dark is near enough, or there is none; a RuntimeError.
    FrameError
        When the header has no exposure time, or an exposure time is not a number.

    References
    ----------
    M. Craig and L. Chambers, CCD Data Reduction Guide, "Calibrating the flats".
    """
    name = _name_of(image)
    exposure = _header_exposure(image, "exptime", name)
    darks = [_number(value, "an exposure time of the darks") for value in dark_exposure_times]
    if not darks:
        raise DarkExposureError(
            "dark-exposure", f"there is no dark exposure time to compare with {name}; take darks"
        )
    nearest = min(darks, key=lambda dark: abs(dark - exposure))
    difference = abs(nearest - exposure)
    if tolerance is not None and difference > tolerance + _ROUNDING * exposure:
        raise DarkExposureError(
            "dark-exposure",
            f"the nearest dark exposure {nearest:g} s is {difference:g} s from the {exposure:g} s "
            f"of {name} (tolerance {tolerance:g} s); take darks of that time, or scale the dark "
            "and pass tolerance=None",
        )
    return nearest


def _header_exposure(ccd: CCDData, card: str, name: str) -> float:
    for key in ccd.meta:
        if str(key).upper() == card.upper():
            return _number(ccd.meta[key], f"{card} of {name}")
    raise FrameError("exposure-missing", f"there is no {card!r} in the header of {name}")


def _number(value: Any, what: str) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not isfinite(value) or value < 0:
        raise FrameError(
            "exposure-not-a-number", f"{what} is {value!r}; it must be a number, zero or more"
        )
    return float(value)


def _name_of(image: CCDData) -> str:
    present = {str(key).upper(): key for key in image.meta}
    for card in ("FILENAME", "FILE", "ORIGFILE", "ORIGNAME", "OBJECT"):
        name = image.meta[present[card]] if card in present else None
        if isinstance(name, str) and name.strip():
            return name.strip()
    return "the image"
