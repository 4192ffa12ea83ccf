"""Calibrated flats against one another and against their master."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.frame import Detector
from flatcal.photon_transfer.boxes import (
    BOX_PIXELS,
    PairStrip,
    clipped_moments,
    cut_boxes,
    lit_boxes,
    measure_boxes,
    near_median,
)
from flatcal.plan import FramePlan, MasterPlan
from flatcal.records import ProductRecord
from flatcal.verify.night import ReducedNight, read_variance_adu2
from flatcal.verify.planes import Sample, cut_sample, read_sample
from flatcal.verify.records import (
    COLOURS_DIFFER,
    N_SIGMA,
    PATTERN,
    TOLERANCE,
    Check,
    judge,
    judge_scatter,
    not_possible,
)

Array = NDArray[Any]

_TESTS = ("flat-photons", "flat-over-master", "flat-pattern", "flat-uncertainty")


def verify_flats(
    night: ReducedNight, master: MasterPlan, product: ProductRecord
) -> Iterator[Check]:
    """Test the flats of a master flat.

    Yields
    ------
    Check
        The tests whose names begin with flat.
    """
    flats = [frame for frame in night.inputs(product) if frame.output in night.run.products]
    why_not = ""
    if not flats:
        why_not = "the calibrated flats were not written"
    elif len(flats) < 2:
        why_not = "there is one flat"
    elif flats[0].colour_matrix:
        why_not = COLOURS_DIFFER
    if why_not:
        for test in _TESTS:
            yield not_possible(test, master.output, why_not)
        return
    yield from _verify_pairs(night, flats)
    sample = read_sample(night.path_of_master(master.name))
    for frame in flats:
        assert frame.output is not None
        median = night.run.products[frame.output].median_adu
        flat = read_sample(night.out / frame.output)
        yield from _against_master(
            frame.output, flat, median or math.nan, sample, len(product.inputs)
        )


def _verify_pairs(night: ReducedNight, flats: list[FramePlan]) -> Iterator[Check]:
    """Neighbours in brightness, each in one pair."""
    ordered = sorted(flats, key=lambda flat: (_median_of(night, flat), flat.file))
    for first, second in zip(ordered[::2], ordered[1::2], strict=False):
        assert first.output is not None
        assert second.output is not None
        subject = f"{first.output} and {second.output}"
        if not first.noise_known:
            yield not_possible("flat-photons", subject, "gain and read noise are not known")
            continue
        image = night.raw_image(first, first.steps)
        samples = read_sample(night.out / first.output), read_sample(night.out / second.output)
        for detector, factor, place in zip(
            first.detectors, image.level_factors, image.places, strict=True
        ):
            of = f", amplifier {detector.amplifier}" if detector.amplifier else ""
            one, other = (cut_sample(sample, image.kept_shape, place) for sample in samples)
            ratio, n = _pair_scatter(one, other, detector, factor)
            yield judge_scatter("flat-photons", f"{subject}{of}", ratio, n)


def _median_of(night: ReducedNight, flat: FramePlan) -> float:
    assert flat.output is not None
    return night.run.products[flat.output].median_adu or 0.0


def _pair_scatter(
    first: Sample, second: Sample, detector: Detector, level_factor: float
) -> tuple[float, int]:
    """Scatter of the difference of scaled flats over that of photons and read noise."""
    good = first.good & second.good
    boxes = lit_boxes(measure_boxes([PairStrip(first.data, second.data, None, None, good)]))
    read = read_variance_adu2(detector) * level_factor
    shot = boxes.level1 * (1 + boxes.ratio) / detector.gain_electron_per_adu
    relative = boxes.variance / (shot + boxes.read_factor * read)
    kept = near_median(relative)
    n = boxes.n_pixels[kept]
    return math.sqrt(np.average(relative[kept], weights=n)), int(n.sum())


def _against_master(
    subject: str, flat: Sample, median_adu: float, master: Sample, n_flats: int
) -> Iterator[Check]:
    """A flat over its median and over the master: a constant 1, but for noise.

    The master holds the flat. With the variance s^2 of the flat over its median and that of the
    master, S^2 (which is the mean of s^2 over n), their difference has (1 - 2 / n) s^2 + S^2.
    """
    good = flat.good & master.good & (master.data > 0)
    divisor = np.where(good, master.data, 1.0) * np.float64(median_adu)
    ratio = np.where(good, flat.data / divisor, 1.0)
    if flat.std is None or master.std is None or not master.noise_model:
        for test in ("flat-over-master", "flat-pattern", "flat-uncertainty"):
            yield not_possible(test, subject, "flat or master has no UNCERT from a noise model")
        return
    own = (flat.std / divisor) ** 2
    shared = (master.std / np.where(good, master.data, 1.0)) ** 2
    noise = np.sqrt((1 - 2 / n_flats) * own + shared)
    mean, _, n = clipped_moments(ratio.ravel(), good.ravel())
    typical = float(np.median(noise[good])) if good.any() else math.nan
    chance = N_SIGMA * typical / math.sqrt(max(int(n), 1))
    reason = f"what would raise the scatter by {TOLERANCE:.0%} ({PATTERN:.2f} of the noise)"
    yield judge(
        "flat-over-master", subject, float(mean), PATTERN * typical + chance, reason, expected=1.0
    )
    yield _pattern(subject, (ratio - mean) / noise, good, typical, reason)
    _, scatter, n = clipped_moments(((ratio - 1) / noise).ravel(), good.ravel())
    yield judge_scatter("flat-uncertainty", subject, math.sqrt(scatter), int(n))


def _pattern(subject: str, pulls: Array, good: Array, typical: float, reason: str) -> Check:
    """The box that departs most, as a part of the flat's level."""
    allowed = cut_boxes(good)
    means, _, n = clipped_moments(cut_boxes(pulls), allowed)
    means = means[(n > BOX_PIXELS**2 / 2) & np.isfinite(means)]
    worst = float(np.abs(means).max()) if means.size else math.nan
    chance = N_SIGMA / BOX_PIXELS
    return judge(
        "flat-pattern",
        subject,
        worst * typical,
        (PATTERN + chance) * typical,
        f"{reason}, and {N_SIGMA:g} standard errors",
    )
