"""Correction of counts for a response that is not linear; see `flatcal.linearity_curve`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flatcal.errors import FrameError
from flatcal.flags import Flag
from flatcal.frame import LinearityCurve
from flatcal.kernels.linearity import correct_polynomial
from flatcal.linearity_curve import N_POINTS, TOP_ADU, polynomial, read_table

Array = NDArray[Any]

# Beyond its ends a table goes on as straight as its first and last piece, so many times its length.
_BEYOND: Final = 100.0
# Noise makes counts below the bias level: a polynomial is known down to this part of the top.
_BELOW: Final = 0.01


class EvenSlopes(NamedTuple):
    """Slopes at even distances of true counts: the first of these, and how many are to an ADU."""

    values: Array
    first: float
    per_adu: float


@dataclass(frozen=True, eq=False)
class Correction:
    """A curve, ready to be used.

    Attributes
    ----------
    coefficients : tuple of float
        Of the polynomial; empty for a table.
    raw, true : ndarray of float64, shape (points,)
        Points of the curve, both growing.
    last_adu : float
        Raw counts beyond which nothing is known; infinity for a polynomial.
    """

    coefficients: tuple[float, ...]
    raw: Array
    true: Array
    last_adu: float

    def apply(self, counts: Array, flags: Array | None = None) -> None:
        """Make raw counts above the bias level true ones, in place.

        Parameters
        ----------
        counts : ndarray of float32 or float64, shape (rows, columns)
            Changed in place.
        flags : ndarray of uint16, same shape, optional
            Gets NON_LINEAR where a table ends below the counts.
        """
        if self.coefficients:
            correct_polynomial(counts, np.asarray(self.coefficients, counts.dtype))
            return
        if flags is not None:
            flags[counts > self.last_adu] |= np.uint16(Flag.NON_LINEAR)
        counts[:] = np.interp(counts, self.raw, self.true)

    def slope_at(self, true: Array) -> Array:
        """Derivative of the true counts by the raw ones, where the true ones are these."""
        slopes = np.diff(self.true) / np.diff(self.raw)
        return np.asarray(slopes[np.searchsorted(self.true[1:-1], true)], true.dtype)

    @cached_property
    def even_slopes(self) -> EvenSlopes:
        """Slopes at even distances: to search for that of each pixel would take longer."""
        first, last = (self.true[0], self.true[-1]) if self.coefficients else self.true[[1, -2]]
        true = np.linspace(first, last, N_POINTS)
        return EvenSlopes(self.slope_at(true), float(first), (N_POINTS - 1) / float(last - first))


def load_correction(curve: LinearityCurve, top_adu: float | None) -> Correction:
    """Make a curve ready.

    Parameters
    ----------
    curve : LinearityCurve
        As it was planned.
    top_adu : float or None
        The largest counts that there are.

    Raises
    ------
    FrameError
        When its table is not what it was.
    """
    if curve.coefficients:
        top = top_adu or TOP_ADU
        raw = np.linspace(-_BELOW * top, top, N_POINTS)
        return Correction(curve.coefficients, raw, polynomial(raw, curve.coefficients), np.inf)
    points, digest = read_table(curve.table)
    if digest != curve.digest:
        raise FrameError(
            "linearity-curve",
            f"{curve.table} is not the table that was planned with (SHA-256 {digest[:12]}, not "
            f"{curve.digest[:12]}); plan again",
        )
    slopes = np.diff(points[1]) / np.diff(points[0])
    far = _BEYOND * (points[0, -1] - points[0, 0])
    first, last = points[:, 0], points[:, -1]
    ends = [first - far * np.array([1, slopes[0]]), last + far * np.array([1, slopes[-1]])]
    raw, true = np.column_stack([ends[0], points, ends[1]])
    return Correction((), raw, true, float(last[0]))
