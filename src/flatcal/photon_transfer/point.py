"""One point of a photon transfer curve: level and noise of a pair of flats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.errors import FrameError
from flatcal.photon_transfer.boxes import Boxes, lit_boxes, near_median

Array = NDArray[Any]

# A gain from a weaker signal would be no measurement.
_LEAST_SIGMA: Final = 5.0


@dataclass(frozen=True, slots=True)
class PhotonTransferPoint:
    """Level and noise of a pair of flats, and the noise of a pair of bias frames.

    Attributes
    ----------
    level1_adu, level2_adu : float
        Mean level of either flat above the bias.
    shot_variance_adu2, shot_variance_error_adu2 : float
        Variance that the light adds to the first flat, and its standard error.
    read_variance_adu2, read_variance_error_adu2 : float
        Variance of a bias frame, rounding included.
    n_pixels : int
        Pixels that were used.
    n_boxes, n_boxes_rejected : int
        Boxes that got light, and those of them whose noise is unlike that of the others.
    """

    level1_adu: float
    level2_adu: float
    shot_variance_adu2: float
    shot_variance_error_adu2: float
    read_variance_adu2: float
    read_variance_error_adu2: float
    n_pixels: int
    n_boxes: int
    n_boxes_rejected: int

    @property
    def gain_electron_per_adu(self) -> float:
        """Electron per ADU by this pair alone: the level over its shot variance."""
        return self.level1_adu / self.shot_variance_adu2

    @property
    def gain_error_electron_per_adu(self) -> float:
        """Standard error of the gain."""
        relative = self.shot_variance_error_adu2 / self.shot_variance_adu2
        return self.gain_electron_per_adu * relative


def average_boxes(
    boxes: Boxes, read_variance_adu2: tuple[float, float] | None = None
) -> PhotonTransferPoint:
    """The boxes of a pair as one point.

    With the levels m1 = r m2 of the flats, the gain g and the variance R2 of a reading, the
    first flat less r times the second has the variance m1 (1 + r) / g + f R2, where f is
    `Boxes.read_factor`. The shot variance is (variance - f R2) / (1 + r).

    Parameters
    ----------
    boxes : Boxes
        Of a pair.
    read_variance_adu2 : tuple of float, optional
        Variance of a reading, and its error; by default by the bias pair.

    Returns
    -------
    PhotonTransferPoint
        The error is that of a variance of so many normal values, and larger where the boxes
        differ more among one another.

    Raises
    ------
    FrameError
        When the light adds nothing to the variance that could be told from chance.
    """
    read, read_error = read_variance_adu2 or average_read_variance(
        boxes.bias_variance, boxes.n_pixels
    )
    lit = lit_boxes(boxes)
    sum_of_both = 1 + lit.ratio
    per_level = (lit.variance - lit.read_factor * read) / sum_of_both / lit.level1
    kept = near_median(per_level)
    n_boxes, lit, per_level = len(kept), lit[kept], per_level[kept]
    sum_of_both = 1 + lit.ratio
    n = lit.n_pixels
    level = float(np.average(lit.level1, weights=n))
    shot = float(np.average(per_level * lit.level1, weights=n))
    expected = lit.level1 * sum_of_both * max(shot / level, 0) + lit.read_factor * read
    pull = (lit.variance - expected) / (expected * np.sqrt(2 / n))
    statistical = np.sqrt((2 * n * (expected / sum_of_both) ** 2).sum()) / n.sum()
    from_read = float(np.average(lit.read_factor / sum_of_both, weights=n)) * read_error
    error = float(np.hypot(statistical * max(1.0, float(pull.std())), from_read))
    if shot <= _LEAST_SIGMA * error:
        raise FrameError(
            "gain-not-measured",
            f"flats of {level:.4g} ADU above the bias differ by a variance that is "
            f"{shot:.4g} +- {error:.2g} ADU^2 above that of the bias frames; use flats with "
            "light that are not saturated",
        )
    return PhotonTransferPoint(
        level1_adu=level,
        level2_adu=float(np.average(lit.level1 / lit.ratio, weights=n)),
        shot_variance_adu2=shot,
        shot_variance_error_adu2=error,
        read_variance_adu2=read,
        read_variance_error_adu2=read_error,
        n_pixels=int(n.sum()),
        n_boxes=n_boxes,
        n_boxes_rejected=int(n_boxes - kept.sum()),
    )


def average_read_variance(variances: Array, n_pixels: Array) -> tuple[float, float]:
    """Variance of one bias frame from those of differences of two in boxes, and its error.

    Parameters
    ----------
    variances, n_pixels : ndarray, shape (boxes,)
        Variance of the difference, and the pixels that it comes from.

    Raises
    ------
    FrameError
        When there is no box.
    """
    if not variances.size:
        raise FrameError(
            "gain-not-measured",
            "no box of 32 x 32 pixels of the bias frames is good; use larger ones",
        )
    kept = near_median(variances)
    values, n = variances[kept] / 2, n_pixels[kept]
    mean = float(np.average(values, weights=n))
    if mean == 0:
        return 0.0, 0.0
    pull = (values - mean) / (mean * np.sqrt(2 / n))
    return mean, mean * float(np.sqrt(2 / n.sum()) * max(1.0, float(pull.std())))
