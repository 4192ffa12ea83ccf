"""The steps of a plan as arrays for the kernels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.masters import Master
from flatcal.engine.regions import Region, make_regions
from flatcal.engine.user_mask import UserMask
from flatcal.frame import Detector
from flatcal.levels import Overscan
from flatcal.overscan_model import PER_ROW, OverscanModel
from flatcal.plan import Step
from flatcal.section import Section, parse_sections

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Preparation:
    """The steps for frames of one kind, with their masters.

    Attributes
    ----------
    regions : tuple of Region
        The parts of the image that the amplifiers have read; most often one.
    statistic : str
        Of the overscan pixels of a row, or of a column of the parallel overscan.
    model : OverscanModel
        How the level varies along the rows.
    parallel : slice or None
        Rows of overscan above or below the image.
    linearise : bool
        Whether the counts are made linear, once they have lost their bias.
    bias, dark, flat : Master or None
        What is subtracted and divided by.
    marked : ndarray of bool, shape (rows, columns) or size 0
        Pixels that the user's mask marks.
    bias_name : str
        Name of the bias; empty for none.
    dark_scale : scalar of `dtype`
        Factor of the dark.
    refine : bool
        Whether it is yet to be refined on the hot pixels of the frame.
    dtype : dtype
        Of the calculation.
    """

    regions: tuple[Region, ...]
    statistic: str
    model: OverscanModel
    parallel: slice | None
    linearise: bool
    bias: Master | None
    bias_name: str
    dark: Master | None
    dark_scale: Any
    refine: bool
    flat: Master | None
    marked: Array
    dtype: np.dtype[Any]

    @property
    def bias_factor(self) -> float:
        """Factor of the variance of the bias; see `kernels.arithmetic.propagate`.

        It differs from 1 where the dark has lost the very bias that the frame loses.
        """
        if self.dark is None or self.dark.lost_bias != self.bias_name:
            return 1.0
        return 1.0 - 2.0 * float(self.dark_scale)

    def overscan_of(self, region: Region) -> Overscan:
        """What gives the level of a region."""
        columns = region.overscan and region.overscan[1]
        return Overscan(region.raw, columns, self.parallel, self.statistic, self.model)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that are kept."""
        places = [region.place for region in self.regions]
        return max(place[0].stop for place in places), max(place[1].stop for place in places)


def prepare(
    steps: Sequence[Step],
    shape: tuple[int, int],
    detectors: Sequence[Detector],
    masters: Callable[[Collection[str]], Mapping[str, Master]],
    dtype: np.dtype[Any],
    mask: UserMask | None,
    refined_scale: float | None = None,
) -> Preparation:
    """Turn the steps of a plan into arrays.

    Parameters
    ----------
    steps : sequence of Step
        Of one frame.
    shape : tuple of int
        Rows and columns of the raw image.
    detectors : sequence of Detector
        Noise and range of each amplifier.
    masters : callable
        Gives masters by their names.
    dtype : dtype
        Of the calculation.
    mask : UserMask or None
        Pixels that the user marks.
    refined_scale : float, optional
        Factor of the dark, where it has been refined already.
    """
    by_name = {step.name: step for step in steps}
    found = masters([step.master for step in steps if step.master is not None])

    def sections_of(name: str) -> tuple[Section, ...]:
        step = by_name.get(name)  # type: ignore[call-overload]
        return () if step is None else parse_sections(step.section, shape)

    def master_of(name: str) -> Master | None:
        step = by_name.get(name)  # type: ignore[call-overload]
        return None if step is None else found[step.master]

    parallel = sections_of("subtract_parallel_overscan")
    overscan = by_name.get("subtract_overscan") or by_name.get("subtract_parallel_overscan")
    dark = by_name.get("subtract_dark")
    sections = sections_of("trim_image") or ((slice(0, shape[0]), slice(0, shape[1])),)
    regions = make_regions(sections, sections_of("subtract_overscan"), detectors)
    return Preparation(
        regions=regions,
        statistic=(overscan and overscan.statistic) or "median",
        model=(overscan and overscan.model) or PER_ROW,
        parallel=parallel[0][0] if parallel else None,
        linearise="correct_linearity" in by_name,
        bias=master_of("subtract_bias"),
        bias_name=bias.master or "" if (bias := by_name.get("subtract_bias")) else "",
        dark=master_of("subtract_dark"),
        dark_scale=dtype.type(refined_scale or (dark.scale if dark else 1.0)),
        refine=dark is not None and dark.refine and refined_scale is None,
        flat=master_of("flat_correct"),
        marked=np.empty((0, 0), np.bool_) if mask is None else mask.within(shape, sections),
        dtype=dtype,
    )
