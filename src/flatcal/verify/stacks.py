"""Bias frames and darks against their masters, and the halves of a stack against one another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.frame import Detector, Kind
from flatcal.photon_transfer.boxes import clipped_moments
from flatcal.photon_transfer.raw import OpenImage, RawImage, sample_bands, spread_over_parts
from flatcal.plan import OVERSCAN_STEPS, FramePlan, MasterPlan
from flatcal.records import ProductRecord
from flatcal.verify.night import ReducedNight, read_variance_adu2
from flatcal.verify.planes import SAMPLE_PIXELS, Sample, read_sample
from flatcal.verify.records import Check, judge, judge_scatter, not_possible

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Stack:
    """A master of raw frames, with what its frames have lost.

    Attributes
    ----------
    master : Sample
        Of the master.
    bias : Sample or None
        Of the bias that went off each frame.
    detectors : tuple of Detector
        Assumed gain and read noise of each amplifier.
    n : int
        Frames in it.
    zero_adu : float or None
        Its value without dark current; None for a bias.
    """

    master: Sample
    bias: Sample | None
    detectors: tuple[Detector, ...]
    n: int
    zero_adu: float | None

    def residual(self, image: RawImage) -> tuple[Array, Array]:
        """A raw frame less bias and master, and which pixels are good."""
        bands = sample_bands(image.kept_shape, SAMPLE_PIXELS)
        with OpenImage(image) as opened:
            parts = [opened.read(rows) for rows in bands]
        values, good = (np.concatenate(column) for column in zip(*parts, strict=True))
        good &= self.master.good
        if self.bias is not None:
            values -= self.bias.data
            good &= self.bias.good
        return values - self.master.data, good

    def read_variances(self, image: RawImage) -> tuple[float, ...]:
        """Variance of one frame, by reading and overscan level, for each amplifier."""
        pairs = zip(self.detectors, image.level_factors, strict=True)
        return tuple(read_variance_adu2(detector) * factor for detector, factor in pairs)

    def noise(self, image: RawImage) -> float:
        """Noise of a typical pixel of one frame without current."""
        return math.sqrt(float(np.mean(self.read_variances(image))))

    def predicted_variance(self, image: RawImage) -> Array | float:
        """Variance of one frame: reading, overscan level, and dark current."""
        bands = sample_bands(image.kept_shape, SAMPLE_PIXELS)
        read = spread_over_parts(image, self.read_variances(image), bands)
        if self.zero_adu is None:
            return read
        gains = [detector.gain_electron_per_adu or math.nan for detector in self.detectors]
        gain = spread_over_parts(image, gains, bands)
        zero = self.zero_adu + self._own_levels(image, bands)
        current = np.maximum(self.master.data.astype(np.float64) - zero, 0)
        return np.asarray(read + current / gain)

    def _own_levels(self, image: RawImage, bands: tuple[slice, ...]) -> Array | float:
        """What each of several amplifiers without an overscan is above the level of the whole."""
        n = len(image.parts)
        if n == 1 or image.parts[0].overscan is not None:
            return 0.0
        whole, number = np.median(self.master.data), spread_over_parts(image, range(n), bands)
        levels = [float(np.median(self.master.data[number == i]) - whole) for i in range(n)]
        return spread_over_parts(image, levels, bands)

    @property
    def own_variance(self) -> Array | None:
        """Variance of the master without the part that all its frames share."""
        std = self.master.std
        if std is None or not self.master.noise_model:
            return None
        variance = std.astype(np.float64) ** 2
        if self.bias is not None and self.bias.std is not None:
            variance -= self.bias.std.astype(np.float64) ** 2
        return variance


def verify_stack(
    night: ReducedNight, master: MasterPlan, product: ProductRecord
) -> Iterator[Check]:
    """Test a master bias or master dark against its raw frames.

    Yields
    ------
    Check
        The tests whose names begin with the kind of the master.
    """
    kind = master.kind.value
    frames = night.inputs(product)
    why_not = night.why_no_raw
    if not why_not and not frames[0].noise_known:
        why_not = "gain and read noise are not known"
    if not why_not and len(frames) < 2:
        why_not = "the master is of one frame"
    if why_not:
        for test in ("mean", "noise", "halves", "uncertainty"):
            yield not_possible(f"{kind}-{test}", master.output, why_not)
        return
    bias_name = next((s.master for s in master.steps if s.name == "subtract_bias"), None)
    stack = _Stack(
        read_sample(night.path_of_master(master.name)),
        None if bias_name is None else read_sample(night.path_of_master(bias_name)),
        frames[0].detectors,
        len(frames),
        _zero_of(night, master, product),
    )
    images = [night.raw_image(frame, master.steps) for frame in frames]
    halves = _Halves(stack, images)
    yield from _verify_frames(kind, frames, images, stack, halves)
    yield from halves.verify(kind, master.output)


def _zero_of(night: ReducedNight, master: MasterPlan, product: ProductRecord) -> float | None:
    """Value of a master without dark current; None for a bias.

    Where a dark holds its bias it is the median of the bias of the night, or 0 where the overscan
    took the level off, or else its own median.
    """
    if master.kind is not Kind.DARK:
        return None
    names = {step.name for step in master.steps}
    if "subtract_bias" in names:
        return 0.0
    if master.level_of:
        bias = night.run.products.get(night.plan.master(master.level_of).output)
        if bias is not None and bias.median_adu is not None:
            return bias.median_adu
    return product.median_adu if names.isdisjoint(OVERSCAN_STEPS) else 0.0


class _Halves:
    """Even frames less odd ones: a difference without fixed pattern, bias and master.

    Parameters
    ----------
    stack : _Stack
        The master.
    images : list of RawImage
        Its frames.
    """

    def __init__(self, stack: _Stack, images: list[RawImage]) -> None:
        self.stack = stack
        self.difference = np.zeros(stack.master.good.shape)
        self.good = stack.master.good.copy()
        self.n_in_half = (len(images[::2]), len(images[1::2]))
        # Variance of the difference, in units of that of one frame.
        self.weight = sum(1 / n for n in self.n_in_half)
        self.noise = stack.noise(images[0]) * math.sqrt(self.weight)

    def add(self, number: int, residual: Array, good: Array) -> None:
        """Add the frame of that number."""
        self.difference += (1, -1)[number % 2] / self.n_in_half[number % 2] * residual
        self.good &= good

    def verify(self, kind: str, subject: str) -> Iterator[Check]:
        """Test mean and scatter, when all frames have been added."""
        values, good = self.difference.ravel(), self.good.ravel()
        mean = float(clipped_moments(values, good)[0])
        yield judge(
            f"{kind}-halves", subject, mean, self.noise,
            "the noise of one pixel of the difference", unit="ADU",
        )  # fmt: skip
        variance = self.stack.own_variance
        if variance is None:
            why_not = "the master has no UNCERT from a noise model"
            yield not_possible(f"{kind}-uncertainty", subject, why_not)
            return
        predicted = np.sqrt(np.maximum(variance, 1e-12) * self.stack.n * self.weight).ravel()
        _, scatter, n = clipped_moments((values - mean) / predicted, good)
        yield judge_scatter(f"{kind}-uncertainty", subject, math.sqrt(scatter), int(n))


def _verify_frames(
    kind: str,
    frames: list[FramePlan],
    images: list[RawImage],
    stack: _Stack,
    halves: _Halves,
) -> Iterator[Check]:
    noise = stack.noise(images[0])
    predicted = np.sqrt(stack.predicted_variance(images[0]) * (1 - 1 / stack.n))
    for number, (frame, image) in enumerate(zip(frames, images, strict=True)):
        residual, good = stack.residual(image)
        halves.add(number, residual, good)
        mean = clipped_moments(residual.ravel(), good.ravel())[0]
        yield judge(
            f"{kind}-mean", frame.file, float(mean), noise,
            "the noise of one reading", unit="ADU",
        )  # fmt: skip
        pull = (residual / predicted).ravel()
        _, variance, n = clipped_moments(pull, good.ravel())
        yield judge_scatter(f"{kind}-noise", frame.file, math.sqrt(variance), int(n))
