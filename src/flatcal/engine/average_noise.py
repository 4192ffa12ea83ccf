"""The uncertainty that an average of frames has by their noise, for what one amplifier has read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.noise import Variance
from flatcal.engine.regions import Region, contiguous, shifted
from flatcal.kernels.arithmetic import average_std

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class AverageNoise:
    """Noise of an average in one region.

    Attributes
    ----------
    region : Region
        The region.
    variance : Variance
        Of a typical frame.
    shares : ndarray of float64, shape (n_frames + 1,)
        Variance of a combination of n frames over that of one; see `shares_of_variance`.
    zero : float
        Value without photons.
    """

    region: Region
    variance: Variance
    shares: Array
    zero: float

    def fill(
        self, data: Array, std: Array, common_std: Array | None, band: slice, n_used: Array
    ) -> None:
        """Work out the uncertainty in a band of rows.

        Parameters
        ----------
        data, std : ndarray, shape (rows, columns)
            The whole average, and its uncertainty, of which the band receives values.
        common_std : ndarray or None
            Standard deviation of what all frames have in common.
        band : slice
            The rows.
        n_used : ndarray of int32, shape (rows of the band, columns)
            Values that were kept.
        """
        section = self.region.within(band)
        if section is None:
            return
        kind = data.dtype.type
        common = np.empty((0, 0), kind)
        if common_std is not None and common_std.size:
            common = np.ascontiguousarray(common_std[section])
        with contiguous(std[section]) as its_std:
            average_std(
                np.ascontiguousarray(data[section]),
                np.ascontiguousarray(n_used[shifted(section, band.start)]),
                self.shares.astype(kind),
                kind(self.variance.photon),
                kind(self.variance.read),
                kind(self.zero),
                common,
                its_std,
            )
