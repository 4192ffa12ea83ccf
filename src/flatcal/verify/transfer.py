"""Gain and read noise of a set-up by pairs of its raw frames, against what was assumed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from flatcal.errors import FlatcalError
from flatcal.frame import Detector, Kind, Setup
from flatcal.photon_transfer.curve import PhotonTransferCurve, shot_variance
from flatcal.photon_transfer.night import PairedFrame, measure_pairs
from flatcal.verify.night import ReducedNight
from flatcal.verify.planes import SAMPLE_PIXELS
from flatcal.verify.records import (
    COLOURS_DIFFER,
    N_SIGMA,
    TOLERANCE,
    Check,
    judge,
    judge_scatter,
    not_possible,
)

_TESTS = ("gain", "read-noise", "photon-transfer")


def verify_detectors(night: ReducedNight) -> Iterator[Check]:
    """Test gain, read noise and photon transfer curve of every set-up.

    Yields
    ------
    Check
        Three for each amplifier of each set-up.
    """
    groups: dict[tuple[Setup, int], dict[Kind, list[PairedFrame]]] = {}
    detectors: dict[tuple[Setup, int], Detector] = {}
    coloured: set[tuple[Setup, int]] = set()
    for kind in (Kind.BIAS, Kind.FLAT):
        for master, product in night.masters(kind):
            for frame in night.inputs(product):
                whole = night.raw_image(frame, frame.steps or master.steps)
                alike = (master.name, frame.set_temperature_c)
                order = (frame.exposure_time_s or 0.0, frame.date, frame.file)
                for number, part in enumerate(whole.parts):
                    key = master.setup, number
                    group = groups.setdefault(key, {Kind.BIAS: [], Kind.FLAT: []})
                    detectors[key] = frame.detectors[number]
                    if frame.colour_matrix:
                        coloured.add(key)
                    image = replace(whole, parts=(part,))
                    group[kind].append(PairedFrame(frame.file, image, alike, order))
    for key, group in groups.items():
        setup, detector = key[0], detectors[key]
        subject = f"{setup.name}, {setup.shape[0]} x {setup.shape[1]}"
        if detector.amplifier:
            subject += f", amplifier {detector.amplifier}"
        why_not = COLOURS_DIFFER if key in coloured else night.why_no_raw
        yield from _verify_setup(subject, group[Kind.FLAT], group[Kind.BIAS], detector, why_not)


def _verify_setup(
    subject: str,
    flats: list[PairedFrame],
    biases: list[PairedFrame],
    assumed: Detector,
    why_not: str,
) -> Iterator[Check]:
    if not why_not:
        try:
            found = measure_pairs(flats, biases, SAMPLE_PIXELS)
        except FlatcalError as error:
            why_not = error.text
    if why_not:
        for test in _TESTS:
            yield not_possible(test, subject, why_not)
        return
    curve = found.curve
    for test, value, value_error, stated in (
        ("gain", curve.gain_electron_per_adu, curve.gain_error_electron_per_adu,
         assumed.gain_electron_per_adu),
        ("read-noise", found.read_noise_electron, found.read_noise_error_electron,
         assumed.read_noise_electron),
    ):  # fmt: skip
        if not stated:
            text = f"none was assumed; the pairs give {value:.4g} +- {value_error:.2g}"
            yield not_possible(test, subject, text)
            continue
        chance = N_SIGMA * value_error / stated
        reason = (
            f"{value:.4g} +- {value_error:.2g} by pairs, {stated:g} assumed; {TOLERANCE:.0%} and "
        )
        reason += f"{N_SIGMA:g} standard errors"
        yield judge(test, subject, value / stated, TOLERANCE + chance, reason, expected=1.0)
    yield _verify_curve(subject, curve)


def _verify_curve(subject: str, curve: PhotonTransferCurve) -> Check:
    if curve.a00_per_electron is None:
        return not_possible("photon-transfer", subject, curve.model_reason)
    used = curve.points[: len(curve.points) - curve.n_left_out]
    ratios, errors = [], []
    for point in used:
        ratio = point.level1_adu / point.level2_adu
        first, second = (
            float(shot_variance(level, curve.gain_electron_per_adu, curve.a00_per_electron))
            for level in (point.level1_adu, point.level2_adu)
        )
        expected = (first + ratio**2 * second) / (1 + ratio)
        ratios.append(math.sqrt(point.shot_variance_adu2 / expected))
        errors.append(point.shot_variance_error_adu2 / expected / 2)
    worst = int(np.argmax(np.abs(np.array(ratios) - 1)))
    return judge_scatter("photon-transfer", subject, ratios[worst], 0, error=errors[worst])
