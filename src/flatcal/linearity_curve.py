"""Which curve makes the counts of a detector linear: settings and tables, before any pixel.

The correction is a function of the signal, the counts above the bias level, and makes true counts
of them. Both forms are in common use: a polynomial as of LSST ip_isr's LinearizePolynomial,
``true = raw + c1 raw^2 + c2 raw^3 + ...``, which is that of IRAF irlincor with
``coeff1 = 1`` and ``coeff(n + 1) = c(n) 32767^n``; and a table, between whose points lines go.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.errors import ConfigError, FrameError
from flatcal.frame import LinearityCurve
from flatcal.headers import open_file

Array = NDArray[Any]

# A table that gives more for no signal would shift the bias level.
_MOST_AT_ZERO_ADU: Final = 0.5
# The largest counts where nothing tells them, as of floats.
TOP_ADU: Final = 65535.0
# Points at which a polynomial must grow.
N_POINTS: Final = 4097


def polynomial(raw: Array, coefficients: tuple[float, ...]) -> Array:
    """True counts for raw ones."""
    return np.asarray(np.polynomial.Polynomial([0.0, 1.0, *coefficients])(raw))


def curve_of(
    coefficients: tuple[float, ...] | None, table: str | None, top_adu: float | None
) -> LinearityCurve | None:
    """The curve that settings name, if they name one.

    Parameters
    ----------
    coefficients : tuple of float or None
        See `LinearityCurve`.
    table : str or None
        Text file of two columns, raw and true counts above the bias level.
    top_adu : float or None
        The largest counts that there are.

    Raises
    ------
    ConfigError
        When there are both, the table cannot be read, or a curve does not grow.
    """
    if coefficients and table is not None:
        raise _no_curve("linearity_coefficients and linearity_table are both set; leave one out")
    if table is not None:
        return LinearityCurve((), table, read_table(table)[1])
    if not coefficients:
        return None
    raw = np.linspace(0.0, top_adu or TOP_ADU, N_POINTS)
    falls = np.diff(polynomial(raw, coefficients)) <= 0
    if falls.any():
        raise _no_curve(
            f"linearity_coefficients = {list(coefficients)} give fewer counts for more from "
            f"{raw[falls.argmax()]:.0f} ADU on; they are c1, c2, ... of "
            "true = raw (1 + c1 raw + c2 raw^2 + ...)"
        )
    return LinearityCurve(coefficients)


def _no_curve(text: str) -> ConfigError:
    return ConfigError("linearity-curve", f"camera.{text}")


def read_table(path: str) -> tuple[Array, str]:
    """Points of a table, and the SHA-256 of their numbers.

    Numbers stand apart by spaces, tabs or commas; lines that begin with # and a first line of names
    are passed over. A table whose raw counts begin above 0 is begun by 0, 0.

    Returns
    -------
    tuple
        ndarray of float64, shape (2, points), both rows growing; and the hash.

    Raises
    ------
    ConfigError
        When it is no such table.
    """
    try:
        return _read_table(path, Path(path).stat().st_mtime_ns)
    except OSError as error:
        raise _no_curve(f"linearity_table = {path} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=8)
def _read_table(path: str, _mtime_ns: int) -> tuple[Array, str]:
    told = f"linearity_table = {path}"
    try:
        with open_file(Path(path)) as file:
            lines = file.read().decode().replace(",", " ").splitlines()
        rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        if rows and not _is_number(rows[0][0]):
            del rows[0]
        points = np.array(rows, np.float64)
    except FrameError as error:
        raise _no_curve(f"linearity_table: {error.text}") from error
    except ValueError as error:
        raise _no_curve(f"{told} is no table of numbers: {error}") from error
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
        raise _no_curve(f"{told} has not two columns, raw and true counts, of two rows or more")
    if points[0, 0] > 0:  # no light is no light
        points = np.vstack([[0.0, 0.0], points])
    grows: Array = np.asarray(np.isfinite(points).all(axis=1))
    grows[1:] &= (np.diff(points, axis=0) > 0).all(axis=1)
    if not grows.all():
        raw, true = points[np.argmin(grows)]
        raise _no_curve(f"{told}: {raw:g}, {true:g} is not above the point before it")
    at_zero = float(np.interp(0.0, *points.T))
    if abs(at_zero) > _MOST_AT_ZERO_ADU:
        raise _no_curve(f"{told} gives {at_zero:g} for 0 counts above the bias level, not 0")
    points = np.ascontiguousarray(points.T, "<f8")
    return points, sha256(points.tobytes()).hexdigest()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
