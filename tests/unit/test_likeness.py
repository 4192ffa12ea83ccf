"""Flats that do not belong to their siblings are named, honest series are not."""

from __future__ import annotations

import numpy as np
import pytest

from flatcal import build_plan, run_plan
from flatcal.errors import MESSAGES
from flatcal.recipe import parse_config

SETTINGS = """\
[camera]
gain_electron_per_adu = 2.0
read_noise_electron = 10.0
[dark]
required = false
"""
SHAPE = (320, 480)
Y, X = np.indices(SHAPE) / np.array(SHAPE)[:, None, None] - 0.5


def dust(y, x, depth=0.03, radius=24):
    """The shadow of a grain: a ring."""
    rows, columns = np.indices(SHAPE)
    distance = np.hypot(rows - y, columns - x)
    return 1 - depth * ((distance < radius) & (distance > 0.3 * radius))


GRAINS = [(60, 90), (150, 300), (240, 120), (270, 400)]


def grains(moved=0.0):
    shadows = [dust(y + moved, x + moved) for y, x in GRAINS]
    return np.prod(shadows, axis=0)


class Series:
    """A night of flats of some lights."""

    def __init__(self, folder, put_frame):
        self.folder, self.put_frame = folder, put_frame
        self.rng = np.random.default_rng(21)
        self.pixels = 1 + 0.01 * self.rng.standard_normal(SHAPE)

    def reduce(self, lights, text=SETTINGS):
        raw = self.folder / "raw"
        for i in range(3):
            bias = self.rng.normal(1000, 5, SHAPE).round().astype(np.uint16)
            self.put_frame(raw / f"b{i}.fits", "BIAS", 0.0, bias, BUNIT="adu")
        for i, light in enumerate(lights):
            data = self.rng.poisson(2 * light * self.pixels) / 2
            data += self.rng.normal(1000, 5, SHAPE)
            path = raw / f"f{i}.fits"
            self.put_frame(
                path, "FLAT", 1.0, data.round().astype(np.uint16), BUNIT="adu", FILTER="V"
            )
        self.plan = build_plan(raw, parse_config(text, "night.toml"))
        return self.run()

    def run(self):
        self.result = run_plan(self.plan, self.folder / "out")
        assert self.result.failed == ()
        assert "flat-unlike" in MESSAGES
        return {
            outcome.file: caveat.text
            for outcome in self.result.record.outcomes
            for caveat in outcome.caveats
            if caveat.slug == "flat-unlike"
        }

    @property
    def product(self):
        return self.result.record.products["masters/master_flat_V.fits"]


@pytest.fixture
def series(tmp_path, put_frame):
    return Series(tmp_path, put_frame)


def levels(n):
    return [20_000.0 * (1 - 0.2 * i / n) for i in range(n)]


def test_a_flat_with_another_gradient_is_named_with_its_figure(series):
    lights = [level * grains() * (1 + 0.05 * X) for level in levels(5)]
    lights[3] = lights[3] * (1 + 0.01 * Y - 0.01 * X)
    named = series.reduce(lights)
    assert list(named) == ["f3.fits"]
    slopes = series.product.slopes
    assert slopes[3] == pytest.approx(0.02, abs=0.002)
    assert max(slopes[i] for i in (0, 1, 2, 4)) < 0.003
    assert f"{slopes[3]:.2%} of slope" in named["f3.fits"]
    # A later run knows as much from the files alone.
    (series.folder / "out/run.json").unlink()
    assert series.run() == named
    assert series.result.made == ()


def test_a_flat_whose_dust_has_moved_is_named(series):
    lights = [level * grains() for level in levels(5)]
    lights[1] = levels(5)[1] * grains(moved=40)
    named = series.reduce(lights)
    assert list(named) == ["f1.fits"]
    assert "another pattern" in named["f1.fits"]
    assert "slope" not in named["f1.fits"]
    # Of the area of the grains, where they were and where they are, most blocks differ.
    area = 2 * np.mean(grains() < 1)
    assert 0.3 * area < series.product.unlike[1] < 2 * area


@pytest.mark.parametrize("text", [SETTINGS, "[dark]\nrequired = false\n"])
def test_an_honest_series_raises_no_doubt(series, text):
    """The gradient of the sky drifts a little, and each frame has its stars."""
    lights = []
    for i, level in enumerate(levels(6)):
        light = level * grains() * (1 + 0.001 * i * X)
        for y, x in series.rng.uniform(5, 315, (10, 2)).astype(int):
            light[y - 1 : y + 2, x - 1 : x + 2] += 10_000
        lights.append(light)
    assert series.reduce(lights, text) == {}
    assert len(series.product.slopes) == 6


def test_three_flats_cannot_say_which_is_the_odd_one(series):
    lights = [level * grains() for level in levels(3)]
    lights[0] = lights[0] * (1 + 0.1 * Y)
    assert series.reduce(lights) == {}
    assert series.product.slopes is None
