"""Cosmic rays in one frame, by L.A.Cosmic."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy import units as u
from astropy.nddata import CCDData
from numpy.typing import NDArray

from flatcal.extras import require_extra
from flatcal.steps import _arithmetic as arithmetic

Array = NDArray[Any]

# Rows and columns of the largest filter of astroscrappy, which of fewer writes beside its memory.
_LEAST_SIZE = 9


def cosmicray_lacosmic(
    ccd: CCDData | Array,
    sigclip: float = 4.5,
    sigfrac: float = 0.3,
    objlim: float = 5.0,
    gain: float | u.Quantity = 1.0,
    readnoise: float | u.Quantity = 6.5,
    satlevel: float = 65535.0,
    pssl: float = 0.0,
    niter: int = 4,
    sepmed: bool = True,
    cleantype: str = "meanmask",
    fsmode: str = "median",
    psfmodel: str = "gauss",
    psffwhm: float = 2.5,
    psfsize: int = 7,
    psfk: Array | None = None,
    psfbeta: float = 4.765,
    verbose: bool = False,
    gain_apply: bool = True,
    inbkg: Array | None = None,
    invar: Array | None = None,
) -> CCDData | tuple[Array, Array]:
    """Find cosmic rays by the edges that they have, and replace them.

    Parameters
    ----------
    ccd : CCDData or ndarray, shape (rows, columns)
        Frame; not changed. What its mask marks is no hit.
    sigclip : float
        Least Laplacian of a hit, over the noise.
    sigfrac : float
        The share of that which is enough beside a hit.
    objlim : float
        Least ratio of that to what stars have.
    gain : float or Quantity
        Electron per ADU.
    readnoise : float or Quantity
        In electron.
    satlevel : float
        Saturation in electron; what lies about such pixels is no hit.
    pssl : float
        Sky that has been subtracted, in the unit of the frame.
    niter : int
        Iterations at the most.
    sepmed : bool
        Whether medians are taken along rows, then along columns; faster, and nearly the same.
    cleantype : 'median', 'medmask', 'meanmask' or 'idw'
        What hits are replaced by.
    fsmode : 'median' or 'convolve'
        What stars are told by.
    psfmodel : 'gauss', 'gaussx', 'gaussy' or 'moffat'
        Their profile, for 'convolve'.
    psffwhm, psfsize, psfk, psfbeta
        Its width at half maximum and its size in pixels; the profile as an array instead; the
        exponent of 'moffat'.
    verbose : bool
        Whether each iteration is printed.
    gain_apply : bool
        Whether the result is multiplied by the gain.
    inbkg, invar : ndarray, optional
        Background, and variance in the square of the frame's unit, instead of those that are
        guessed from the frame.

    Returns
    -------
    CCDData, or ndarray and ndarray of bool
        The frame without its hits, with its mask and them masked; of an array the values and the
        hits.

    Raises
    ------
    ConfigError
        When the extra [cosmicray] is not installed.
    TypeError
        When `ccd` is neither.
    ValueError
        When the units do not fit one another, `pssl` is given with `inbkg` or `invar`, or the
        image has not two axes of at least 9 and `psfsize` pixels.

    References
    ----------
    van Dokkum 2001, PASP 113, 1420; the program is astroscrappy (McCully et al. 2018,
    doi:10.5281/zenodo.1482019). The arguments are those of ccdproc 2.5.1.
    """
    if not isinstance(ccd, CCDData | np.ndarray):
        raise TypeError(f"ccd must be CCDData or an array, not {type(ccd).__name__}")
    if pssl != 0 and (inbkg is not None or invar is not None):
        raise ValueError("pssl has no meaning beside inbkg or invar; give one of them")
    least = max(_LEAST_SIZE, len(psfk) if psfk is not None else psfsize)
    if np.ndim(ccd) != 2 or min(np.shape(ccd)) < least:
        raise ValueError(
            f"an image of {np.shape(ccd)} pixels cannot be searched for cosmic rays; it needs two "
            f"axes of {least} or more"
        )
    require_extra("cosmicray", "astroscrappy")
    from astroscrappy import detect_cosmics  # noqa: PLC0415

    unit = u.electron
    if isinstance(ccd, CCDData):
        unit = _require_units(ccd.unit, gain, readnoise)
    factor, noise = float(_value(gain)), float(_value(readnoise))
    data, mask = (ccd.data, ccd.mask) if isinstance(ccd, CCDData) else (ccd, None)
    hits, cleaned = detect_cosmics(
        data + pssl, inmask=mask, inbkg=inbkg, invar=invar, sigclip=sigclip, sigfrac=sigfrac,
        objlim=objlim, gain=factor, readnoise=noise, satlevel=satlevel, niter=niter,
        sepmed=sepmed, cleantype=cleantype, fsmode=fsmode, psfmodel=psfmodel, psffwhm=psffwhm,
        psfsize=psfsize, psfk=psfk, psfbeta=psfbeta, verbose=verbose,
    )  # fmt: skip
    # Elsewhere the values that came, which astroscrappy has rounded to float32.
    dtype = arithmetic.working_dtype(data)
    values = np.where(hits, cleaned - pssl, data).astype(dtype)
    if gain_apply:
        values *= dtype.type(factor)
    if not isinstance(ccd, CCDData):
        return values, hits
    result: CCDData = arithmetic.derive(
        ccd,
        values,
        uncertainty=arithmetic.scaled_uncertainty(ccd, factor if gain_apply else 1.0),
        mask=hits if mask is None else mask | hits,
        unit=unit if gain_apply else ccd.unit,
    )
    return result


def _value(number: float | u.Quantity) -> Any:
    return number.value if isinstance(number, u.Quantity) else number


def _require_units(unit: u.UnitBase, gain: Any, readnoise: Any) -> u.UnitBase:
    """The unit of the frame times the gain, which must be that of the read noise."""
    noise_unit = readnoise.unit if isinstance(readnoise, u.Quantity) else u.electron
    if isinstance(gain, u.Quantity):
        gain_unit = gain.unit
    else:
        in_electron = unit.is_equivalent(noise_unit)
        gain_unit = u.dimensionless_unscaled if in_electron else noise_unit / u.adu
        if in_electron and gain != 1:
            raise ValueError(
                f"the frame is in {unit} already, and gain = {gain:g} would be applied once more; "
                "leave gain out"
            )
    result = unit * gain_unit
    if not result.is_equivalent(noise_unit):
        raise ValueError(
            f"a frame in {unit} times a gain in {gain_unit} is not in {noise_unit}, as the read "
            "noise is; give gain and readnoise with their units"
        )
    return result
