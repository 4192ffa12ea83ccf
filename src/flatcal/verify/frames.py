"""Calibrated frames by themselves: their noise, and what is left of the dark in hot pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.photon_transfer.boxes import clipped_moments, cut_boxes
from flatcal.plan import FramePlan
from flatcal.verify.night import ReducedNight
from flatcal.verify.planes import Sample, read_sample
from flatcal.verify.records import N_SIGMA, Check, judge, judge_scatter, not_possible

Array = NDArray[Any]

# Hot enough in the dark for its own noise to count for nothing.
_HOT_SIGMA: Final = 20.0
_LEAST_HOT: Final = 20
# A factor that is twice or half as large as it should be leaves this part of the dark.
_WORTH_FINDING: Final = 0.5
# Half a band of rows: so many rows of differences there are.
_ROW_BOX: Final = 16
# Distance of the quartiles of a normal distribution, in standard deviations.
_QUARTILES: Final = 1.349
# Where noise differs by so much more from box to box than by chance, a good part of the boxes
# holds stars, and a median over boxes is no longer that of the sky.
_CROWDED: Final = 2.0
# Dark current doubles in about so many degrees, at the least.
_DOUBLING_C: Final = 5.0


def verify_noise(night: ReducedNight, frame: FramePlan) -> Iterator[Check]:
    """Test UNCERT of a science frame by the difference of neighbouring rows.

    Sky and other light that is smooth cancels; the median over boxes does not see the few that
    hold stars. Rows rather than columns, because each row has its own error of the overscan
    level, which is in UNCERT.
    """
    assert frame.output is not None
    sample = read_sample(night.out / frame.output)
    if sample.std is None:
        yield not_possible("science-uncertainty", frame.output, "the frame has no UNCERT")
        return
    variance = sample.std.astype(np.float64) ** 2
    # Of a colour matrix the next row of the same colours.
    lag = 2 if frame.colour_matrix else 1
    (data, later), (good, its_good), (variance, its_variance) = (
        _neighbours(plane, lag) for plane in (sample.data, sample.good, variance)
    )
    good = good & its_good
    difference = data.astype(np.float64) - later
    pulls = difference / np.sqrt(np.where(good, variance + its_variance, 1.0))
    _, scatters, n = clipped_moments(cut_boxes(pulls, _ROW_BOX), cut_boxes(good, _ROW_BOX))
    scatters = np.sqrt(scatters[n > _ROW_BOX**2 / 2])
    if not scatters.size:
        yield not_possible("science-uncertainty", frame.output, "there is no good box")
        return
    low, middle, high = np.percentile(scatters, (25, 50, 75))
    by_noise = _QUARTILES / (math.sqrt(2) * _ROW_BOX)
    if high / low - 1 > _CROWDED * by_noise:
        why_not = (
            f"the field is crowded: the noise of boxes differs by {high / low - 1:.0%} between "
            f"quartiles, and chance makes it {by_noise:.0%}"
        )
        yield not_possible("science-uncertainty", frame.output, why_not)
        return
    error = math.sqrt(math.pi / 2) / math.sqrt(2 * int(n.sum()))
    yield judge_scatter("science-uncertainty", frame.output, float(middle), 0, error=error)


def _neighbours(rows: Array, lag: int) -> tuple[Array, Array]:
    """Rows, and as many that are so many below them; each row is in one pair."""
    pairs = rows[: len(rows) // (2 * lag) * 2 * lag].reshape(-1, 2, lag, rows.shape[1])
    first, second = (pairs[:, i].reshape(-1, rows.shape[1]) for i in (0, 1))
    return first, second


def verify_dark(night: ReducedNight, frame: FramePlan) -> Iterator[Check]:
    """Test the dark that was subtracted by the hot pixels of the frame.

    Yields
    ------
    Check
        The part of the subtracted dark that is still there: 0, or -0.5 if it was doubled.
    """
    step = next((step for step in frame.steps if step.name == "subtract_dark"), None)
    if step is None:
        return
    assert frame.output is not None
    assert step.master is not None
    sample = read_sample(night.out / frame.output)
    dark = read_sample(night.path_of_master(step.master))
    if sample.std is None:
        yield not_possible("dark-left", frame.output, "the frame has no UNCERT")
        return
    flat_step = next((step for step in frame.steps if step.name == "flat_correct"), None)
    flat: Array | float = 1.0
    if flat_step is not None:
        assert flat_step.master is not None
        flat = read_sample(night.path_of_master(flat_step.master)).data
    scale = night.run.products[frame.output].refined_scale or step.scale
    left, error, n_hot = _dark_left(sample, dark, flat, scale)
    degrees = night.plan.config.dark.temperature_tolerance_c
    drift = 2 ** (degrees / _DOUBLING_C) - 1
    if n_hot < _LEAST_HOT:
        why_not = f"{n_hot} hot pixels in the sample, and {_LEAST_HOT} are needed"
        yield not_possible("dark-left", frame.output, why_not)
    elif N_SIGMA * error + drift >= _WORTH_FINDING:
        why_not = f"under this light the {n_hot} hot pixels tell it to {error:.2g} only"
        yield not_possible("dark-left", frame.output, why_not)
    else:
        yield judge(
            "dark-left", frame.output, left, drift + N_SIGMA * error,
            "0 is right, -1 that the frame held no such dark; dark current changes by "
            f"{drift:.1%} in {degrees:g} degrees, and {N_SIGMA:g} standard errors "
            f"({N_SIGMA * error:.2g})",
        )  # fmt: skip


def _dark_left(
    frame: Sample, dark: Sample, flat: Array | float, scale: float
) -> tuple[float, float, int]:
    """Slope of the frame's hot pixels on those of the dark, over the factor of the dark."""
    assert frame.std is not None
    good = cut_boxes(frame.good_or_hot & dark.good_or_hot)
    in_dark = _above_surroundings(cut_boxes(dark.data), good) * scale
    in_frame = _above_surroundings(cut_boxes(frame.data * flat), good)
    noise = cut_boxes(frame.std * flat)
    threshold = _HOT_SIGMA * math.sqrt(clipped_moments(in_dark.ravel(), good.ravel())[1])
    hot = good & (in_dark > threshold)
    n_hot = int(hot.sum())
    if n_hot < _LEAST_HOT:
        return math.nan, math.nan, n_hot
    x, y, sigma = in_dark[hot], in_frame[hot], noise[hot].astype(np.float64)
    slope = float(np.median(y / x))
    for _ in range(3):
        pull = (y - slope * x) / sigma
        # What hot pixels vary by themselves counts as noise too.
        excess = max(1.0, 1.4826 * float(np.median(np.abs(pull))))
        near = np.abs(pull) <= N_SIGMA * excess
        weight = 1 / sigma[near] ** 2
        slope = float((weight * x[near] * y[near]).sum() / (weight * x[near] ** 2).sum())
    error = excess / math.sqrt(float((weight * x[near] ** 2).sum()))
    return slope, error, n_hot


def _above_surroundings(boxes: Array, good: Array) -> Array:
    """Values above the mean of their box, without outliers."""
    above: Array = boxes - clipped_moments(boxes.astype(np.float64), good)[0][:, None]
    return above
