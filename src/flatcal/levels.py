"""Levels of an overscan: from a block of its pixels to one level for each row.

The functions do not know where the block lies in a frame: of columns beside the image it is as it
is, of rows above or below it is transposed. `Overscan` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, exp, pi, sqrt
from typing import Any, Final

import numpy as np
from numpy.polynomial import chebyshev, legendre, polynomial
from numpy.typing import NDArray

from flatcal.overscan_model import CUBIC, PER_ROW, OverscanModel
from flatcal.raw_frame import RawFrame
from flatcal.section import Section

Array = NDArray[Any]

# Normal standard deviation over median absolute deviation.
_MAD_TO_STD: Final = 1.482602218505602
# Pixels that are read at once.
_READ_PIXELS: Final = 1 << 18

_POLYNOMIALS: Final = {
    "constant": polynomial.polyvander,
    "polynomial": polynomial.polyvander,
    "legendre": legendre.legvander,
    "chebyshev": chebyshev.chebvander,
}


def row_levels(
    block: Array, statistic: str, model: OverscanModel = PER_ROW, saturation: float = np.inf
) -> Array:
    """Level of each row by itself.

    Parameters
    ----------
    block : ndarray, shape (rows, columns)
        Pixels of the overscan.
    statistic : 'median', 'mean' or 'clipped_mean'
        Of the pixels of each row. A clipped mean leaves out what is far from the median of its
        row, by the noise of the whole block.
    model : OverscanModel
        Tells what is far.
    saturation : float
        Values from here on, and those that are no number, do not count.

    Returns
    -------
    ndarray of float64, shape (rows,)
        NaN for a row without any pixel that counts.
    """
    bad = ~(block < saturation)
    if statistic == "clipped_mean":
        bad |= _is_far(np.ma.masked_array(block, bad), model)
    if bad.any():
        masked = np.ma.masked_array(block, bad)
        average = np.ma.median if statistic == "median" else np.ma.mean
        return np.asarray(np.ma.filled(average(masked, axis=1), np.nan), np.float64)
    # numpy's own where nothing is masked: faster.
    if statistic == "median":
        return _medians(block)
    return np.asarray(np.mean(block, axis=1), np.float64)


def _medians(block: Array) -> Array:
    """Median of each row, none of whose values is missing.

    Rows of an overscan are short: sorting them takes a third of the time of `np.median`.
    """
    ordered = np.sort(block, axis=1)
    n = block.shape[1]
    return np.asarray(0.5 * ordered[:, (n - 1) // 2] + 0.5 * ordered[:, n // 2], np.float64)


def _is_far(block: Any, model: OverscanModel) -> Array:
    """Pixels that are far from the median of their row, by the noise of all."""
    off = block - np.ma.median(block, axis=1, keepdims=True)  # type: ignore[no-untyped-call]
    if not off.count():
        return np.zeros(block.shape, bool)
    return _is_outlier(np.ma.filled(off, 0.0), _spread(off.compressed()), model)


def _is_outlier(off: Array, std: float, model: OverscanModel) -> Array:
    return np.asarray((off < -model.low_sigma * std) | (off > model.high_sigma * std))


def _spread(off: Array) -> float:
    """Standard deviation about 0, as few outliers do not change it.

    Where more than half are 0 it is the plain one.
    """
    return float(_MAD_TO_STD * np.median(np.abs(off))) or float(np.sqrt(np.mean(off * off)))


def fit_levels(levels: Array, model: OverscanModel) -> Array:
    """The levels of rows, or the smooth function that is fitted to them.

    Parameters
    ----------
    levels : ndarray of float64, shape (rows,)
        Levels of the rows; those that are no number do not count.
    model : OverscanModel
        The function, and what is rejected: a row that was left out may come back when the fit
        has come nearer.

    Returns
    -------
    ndarray of float64, shape (rows,)
        NaN everywhere when no level counts.
    """
    if not model.is_fitted:
        return levels
    known = np.isfinite(levels)
    if not known.any():
        return np.full(levels.shape, np.nan)
    basis, kept = _basis(levels.size, model), known
    fitted = _least_squares(basis, levels, kept)
    for _ in range(model.iterations):
        off = np.where(known, levels - fitted, 0.0)
        inside = known & ~_is_outlier(off, _spread(off[kept]), model)
        if np.array_equal(inside, kept):
            break
        kept = inside
        fitted = _least_squares(basis, levels, kept)
    return fitted


def _basis(n_rows: int, model: OverscanModel) -> Array:
    """Functions whose sum is fitted, at each row: shape (rows, parameters)."""
    x = np.linspace(-1.0, 1.0, n_rows)
    if model.function == "spline":
        # Truncated powers span what B-splines span, without the time that scipy takes to import.
        knots = np.linspace(-1.0, 1.0, model.order + 1)[1:-1]
        pieces = np.maximum(x[:, None] - knots, 0.0) ** CUBIC
        return np.hstack([polynomial.polyvander(x, CUBIC), pieces])
    return np.asarray(_POLYNOMIALS[model.function](x, model.order))


def _least_squares(basis: Array, levels: Array, kept: Array) -> Array:
    coefficients = np.linalg.lstsq(basis[kept], levels[kept], rcond=None)[0]
    return np.asarray(basis @ coefficients)


def level_variance(
    pixel_variance: float, shape: tuple[int, int], statistic: str, model: OverscanModel = PER_ROW
) -> float:
    """Variance of the level of a row; of a function that is fitted, its mean over the rows.

    That of a median is pi / 2 times that of a mean, that of a mean clipped at 3 sigma 1.03 times.
    Of a function, the mean is that of a row by itself times the parameters over the rows; at the
    ends it is more.

    Parameters
    ----------
    pixel_variance : float
        Of a pixel of the overscan.
    shape : tuple of int
        Rows and columns of the overscan.
    statistic : str
        Of the pixels of a row.
    model : OverscanModel
        Function along the rows.
    """
    n_rows, n_columns = shape
    of_row = pixel_variance * _variance_factor(statistic, model) / n_columns
    return of_row * model.n_parameters / n_rows if model.is_fitted else of_row


def _variance_factor(statistic: str, model: OverscanModel) -> float:
    """Variance of a statistic of many normal values over that of their mean."""
    if statistic == "median":
        return pi / 2
    if statistic == "mean":
        return 1.0
    # The variance of what is kept over the square of how much it moves with the values: for a
    # skipped mean both are the same number (P. J. Huber, Robust Statistics, 3.2).
    return 1 / sum(
        erf(k / sqrt(2)) / 2 - k * exp(-k * k / 2) / sqrt(2 * pi)
        for k in (model.low_sigma, model.high_sigma)
    )


# -- of a frame --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Levels:
    """Levels of a frame, in ADU.

    Attributes
    ----------
    rows : ndarray of float64, shape (rows that are kept,) or size 0
        Level of each row; size 0 without overscan beside the image.
    columns : ndarray of float64, shape (columns that are kept,) or size 0
        What is still to be subtracted from each column; size 0 without a parallel overscan.
    """

    rows: Array
    columns: Array

    def subtracted_from(self, values: Array, rows: slice) -> Array:
        """Values of some rows of the image that is kept, without their level."""
        if self.rows.size:
            values = values - self.rows[rows, None]
        return values - self.columns if self.columns.size else values


@dataclass(frozen=True, slots=True)
class Overscan:
    """Where the overscan of frames is, and how its level is found.

    Attributes
    ----------
    kept : tuple of slice
        The pixels that are kept.
    columns : slice or None
        Overscan beside the image, on either side of it.
    parallel : slice or None
        Rows of overscan above or below the image.
    statistic : str
        Of the pixels of a row, or of a column of the parallel overscan.
    model : OverscanModel
        How the level varies along the rows.
    """

    kept: Section
    columns: slice | None
    parallel: slice | None
    statistic: str
    model: OverscanModel

    @property
    def needs_all(self) -> bool:
        """Whether all of it must be known before the first row can be calibrated."""
        by_itself = self.statistic != "clipped_mean" and not self.model.is_fitted
        return self.parallel is not None or not by_itself

    @property
    def rows(self) -> slice:
        """Rows whose level is needed: those of the image, and of the parallel overscan."""
        kept, parallel = self.kept[0], self.parallel or self.kept[0]
        return slice(min(kept.start, parallel.start), max(kept.stop, parallel.stop))

    def row_levels(self, pixels: Array, saturation: float) -> Array:
        """Levels of rows by themselves, from the overscan in them."""
        return row_levels(pixels, self.statistic, self.model, saturation)

    def read(self, raw: RawFrame, saturation: float) -> Levels:
        """The levels of a frame.

        A column without a good pixel in the parallel overscan, as below a star that bleeds, has
        the median of the others.

        Parameters
        ----------
        raw : RawFrame
            Open; what is read here takes no part in its hash.
        saturation : float
            Values from here on do not count.
        """
        first, rows = self.rows.start, np.empty(0)
        if self.columns is not None:
            blocks = [raw.look_at(band, self.columns) for band in _bands(raw, self.rows)]
            block = np.concatenate(blocks).astype(np.float64)
            rows = fit_levels(self.row_levels(block, saturation), self.model)
        columns = np.empty(0)
        if self.parallel is not None:
            block = raw.look_at(self.parallel, self.kept[1]).astype(np.float64)
            bad = ~(block < saturation)
            if rows.size:
                block -= rows[self.parallel.start - first : self.parallel.stop - first, None]
            block[bad] = np.nan
            columns = row_levels(block.T, self.statistic, self.model)
            known = np.isfinite(columns)
            columns[~known] = np.median(columns[known]) if known.any() else np.nan
        kept = slice(self.kept[0].start - first, self.kept[0].stop - first)
        return Levels(rows[kept], columns)

    def variance(self, pixel_variance: float) -> float:
        """Variance of what is subtracted from a pixel, given that of a reading."""
        columns, variance = self.kept[1], 0.0
        if self.columns is not None:
            shape = (self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)
            variance = level_variance(pixel_variance, shape, self.statistic, self.model)
        if self.parallel is not None:
            of_pixel = pixel_variance + variance
            shape = (columns.stop - columns.start, self.parallel.stop - self.parallel.start)
            variance += level_variance(of_pixel, shape, self.statistic)
        return variance


def _bands(raw: RawFrame, rows: slice) -> list[slice]:
    """Bands of rows that are read at once: all of a file that has to be unpacked for them."""
    step = max(1, _READ_PIXELS // raw.shape[1]) if raw.is_plain else rows.stop - rows.start
    return [slice(y, min(y + step, rows.stop)) for y in range(rows.start, rows.stop, step)]
