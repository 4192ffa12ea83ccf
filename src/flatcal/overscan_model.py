"""How the level of an overscan is modelled: the settings alone, without any arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Statistic = Literal["median", "mean", "clipped_mean"]
LevelFunction = Literal["per_row", "constant", "polynomial", "legendre", "chebyshev", "spline"]

# Degree of the pieces of a spline.
CUBIC: Final = 3


@dataclass(frozen=True, slots=True)
class OverscanModel:
    """How the level of an overscan varies along the rows, and what is rejected of it.

    Attributes
    ----------
    function : str
        'per_row' gives each row its own level, 'constant' all rows one; 'polynomial', 'legendre',
        'chebyshev' and 'spline' (cubic) are fitted to the levels of the rows.
    order : int
        Degree of a polynomial, or pieces of a spline; 0 where the function has none.
    low_sigma, high_sigma : float
        Rows whose level is farther below or above the fit than so many standard deviations are
        left out of it; and for a clipped mean, pixels that are so far from the median of their
        row. The standard deviation is 1.4826 MAD.
    iterations : int
        How often rows are left out at the most.
    """

    function: LevelFunction = "per_row"
    order: int = 0
    low_sigma: float = 3.0
    high_sigma: float = 3.0
    iterations: int = 10

    @property
    def is_fitted(self) -> bool:
        """Whether the levels of all rows make the level of each."""
        return self.function != "per_row"

    @property
    def n_parameters(self) -> int:
        """Parameters of the function that is fitted."""
        return self.order + (CUBIC if self.function == "spline" else 1)

    def __str__(self) -> str:
        if self.function == "spline":
            return f"cubic spline of {self.order} piece{'s' if self.order > 1 else ''}"
        if self.function in ("per_row", "constant"):
            return self.function.replace("_", " ")
        return f"{self.function} of order {self.order}"


PER_ROW: Final = OverscanModel()
