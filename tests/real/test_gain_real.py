"""Gain and read noise of real cameras, against what others measured on the same frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from flatcal import Config, measure_gain
from flatcal.index import find_frames
from flatcal.photon_transfer.night import MeasuredDetector, measure_detectors


def read(paths: list[Path]) -> list[np.ndarray]:
    return [fits.getdata(path) for path in paths]


@pytest.mark.parametrize("first", [0, 4, 8])
def test_each_pair_of_the_stl1001(data_folder: Path, first: int) -> None:
    """Gain 1.89 to 1.96 electron/ADU, read noise 6.3 to 6.7 ADU."""
    pair = slice(first, first + 2)
    flats = read(sorted((data_folder / "stl1001").glob("flat-*"))[pair])
    biases = read(sorted((data_folder / "stl1001").glob("biases-Neg5-*"))[pair])
    measured = measure_gain(*flats, *biases)
    assert 1.89 < measured.gain_electron_per_adu < 1.96
    assert 6.25 < measured.read_noise_adu < 6.75  # as the figures are rounded


def measure(data_folder: Path, name: str, *kinds: str) -> MeasuredDetector:
    frames = find_frames(data_folder / name, Config().with_kinds(kinds))
    (detector,) = measure_detectors(data_folder / name, frames).detectors
    return detector


def test_the_stl1001_and_its_egain(data_folder: Path) -> None:
    detector = measure(data_folder, "stl1001", "flat=flat-*")
    assert len(detector.flat_pairs) == 5
    assert detector.gain_electron_per_adu == pytest.approx(1.93, rel=0.01)
    assert [c.text for c in detector.caveats if "EGAIN says 2.06" in c.text]


def test_the_nickel_and_its_controller_index(data_folder: Path) -> None:
    """About 1.8 electron/ADU by its sky flats, 5.4 ADU by its bias frames; GAIN = 1."""
    detector = measure(data_folder, "nickel")
    assert detector.gain_electron_per_adu == pytest.approx(1.8, rel=0.02)
    assert detector.read_noise_adu == pytest.approx(5.4, rel=0.05)
    (caveat,) = detector.caveats
    assert "the card GAIN says 1," in caveat.text
