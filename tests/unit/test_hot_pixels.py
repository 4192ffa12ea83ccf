"""The refined factor of a dark against the factor that the simulated sensor had."""

import numpy as np
import pytest

from flatcal.engine.hot_pixels import refine_scale

SHAPE = (400, 500)


@pytest.fixture
def dark():
    """A master dark with 0.5 % hot pixels and the noise of ten frames."""
    rng = np.random.default_rng(7)
    current = np.full(SHAPE, 20.0)
    hot = rng.random(SHAPE) < 0.005
    current[hot] += rng.exponential(500, hot.sum())
    return (current + rng.normal(0, 2, SHAPE)).astype(np.float32), current


def frame(current, factor, sky, seed=1):
    rng = np.random.default_rng(seed)
    gradient = np.linspace(0.8, 1.2, SHAPE[1]) * sky
    electrons = rng.poisson(factor * current + gradient)
    return (electrons + rng.normal(0, 5, SHAPE)).astype(np.float32)


NOTHING = np.zeros(SHAPE, np.uint8)


@pytest.mark.parametrize("factor", [0.30, 0.33, 0.40])
def test_the_factor_of_the_sensor_is_found(dark, factor):
    master, current = dark
    data = frame(current, factor, 100) - np.float32(0.333) * master
    found = 0.333 + refine_scale(data, NOTHING, master, None)
    assert found == pytest.approx(factor, abs=0.004)


def test_it_is_found_behind_a_flat_and_under_cosmic_rays(dark):
    master, current = dark
    flat = np.full(SHAPE, 0.5, np.float32)
    data = frame(current, 0.4, 100)
    data[np.random.default_rng(2).random(SHAPE) < 0.002] += 20_000
    data = (data - np.float32(0.333) * master) / flat
    found = 0.333 + refine_scale(data, NOTHING, master, flat)
    assert found == pytest.approx(0.4, abs=0.004)


def test_flagged_pixels_do_not_count(dark):
    master, current = dark
    data = frame(current, 0.4, 100) - np.float32(0.333) * master
    saturated = master > 400
    data[saturated] = 0
    assert abs(0.333 + refine_scale(data, NOTHING, master, None) - 0.4) > 0.02
    found = 0.333 + refine_scale(data, saturated.astype(np.uint8), master, None)
    assert found == pytest.approx(0.4, abs=0.015)


def test_what_may_be_noise_is_not_corrected(dark):
    """Under a bright flat the hot pixels cannot tell; the ratio of the times stands."""
    master, current = dark
    corrections = [
        refine_scale(frame(current, 0.01, 40_000, seed) - np.float32(0.01) * master, NOTHING,
                     master, None)
        for seed in range(40)
    ]  # fmt: skip
    assert sum(c != 0 for c in corrections) <= 2


def test_a_dark_without_hot_pixels_says_nothing():
    rng = np.random.default_rng(3)
    dark = rng.normal(10, 1, SHAPE).astype(np.float32)
    assert refine_scale(2 * dark, NOTHING, dark, None) == 0
