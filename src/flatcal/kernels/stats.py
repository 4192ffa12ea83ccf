"""Statistics of images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def median_of_good(image: NDArray[Any], bad: NDArray[Any] | None = None) -> float:
    """Median of the good, finite pixels of an image.

    Parameters
    ----------
    image : ndarray
        Values.
    bad : ndarray, optional
        Same shape; pixels that are not zero are left out.

    Returns
    -------
    float
        The median, NaN when no pixel is good.
    """
    values = image.ravel() if bad is None or not bad.any() else image[bad == 0]
    if not np.isfinite(values).all():
        values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else float("nan")
