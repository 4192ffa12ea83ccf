"""Stars in twilight flats leave no trace in the master, whether the telescope tracks or not."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from flatcal import build_plan, run_plan
from flatcal.recipe import parse_config

SHAPE = (512, 512)
GAIN, READ_ADU = 1.5, 6.7
SETTINGS = f"""\
[camera]
gain_electron_per_adu = {GAIN}
read_noise_electron = {GAIN * READ_ADU}
[dark]
required = false
"""
N_STARS, N_FLATS = 40, 10
# The wings of a Moffat profile of this slope reach far, unlike those of a gaussian.
BETA, ALPHA_PIXEL = 2.5, 2.0
REACH = 60


def add_star(image, y, x, flux_adu, trail_pixel):
    """A star that is trailed along x."""
    steps = max(1, 2 * trail_pixel)
    for center in x + np.linspace(-trail_pixel / 2, trail_pixel / 2, steps):
        top, left = max(0, int(y) - REACH), max(0, int(center) - REACH)
        window = image[top : int(y) + REACH, left : max(0, int(center) + REACH)]
        rows, columns = np.indices(window.shape)
        square = (rows + top - y) ** 2 + (columns + left - center) ** 2
        profile = (1 + square / ALPHA_PIXEL**2) ** -BETA
        window += flux_adu / steps * profile * (BETA - 1) / (np.pi * ALPHA_PIXEL**2)


@pytest.fixture(scope="module", params=[0, 30], ids=["tracked", "trailed"])
def sky(request):
    """Frames as they are read, and the response."""
    rng = np.random.default_rng(1)
    response = 1 + 0.01 * rng.standard_normal(SHAPE)
    response /= np.median(response)

    def read_out(light):
        noisy = rng.poisson(light * GAIN) / GAIN + rng.normal(1000, READ_ADU, SHAPE)
        return np.clip(noisy.round(), 0, 65_535).astype(np.uint16)

    biases = [read_out(np.zeros(SHAPE)) for _ in range(10)]
    flats = []
    for i in range(N_FLATS):
        light = np.full(SHAPE, 20_000 * (1 - 0.2 * i / 9))
        # Three times as many stars for each magnitude fainter, over seven magnitudes.
        magnitudes = 7 + np.log(rng.uniform(3.0**-7, 1, N_STARS)) / np.log(3)
        for flux in 3e6 * 10 ** (-0.4 * magnitudes):
            add_star(light, *rng.uniform(0, SHAPE[0], 2), flux, request.param)
        flats.append(read_out(light * response))
    return biases, flats, response


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_master_flat_is_right_to_its_noise(sky, put_frame, tmp_path, n):
    biases, flats, response = sky
    for i, data in enumerate(biases):
        put_frame(tmp_path / f"raw/b{i}.fits", "BIAS", 0.0, data, BUNIT="adu")
    for i in range(n):
        path = tmp_path / f"raw/f{i}.fits"
        put_frame(path, "FLAT", 2.0, flats[i], BUNIT="adu", FILTER="r")
    plan = build_plan(tmp_path / "raw", parse_config(SETTINGS, "night.toml"))
    assert run_plan(plan, tmp_path / "out").failed == ()
    with fits.open(tmp_path / "out/masters/master_flat_r.fits") as hdus:
        good = hdus["MASK"].data == 0
        pull = ((hdus[0].data - response) / hdus["UNCERT"].data)[good]
    assert good.mean() > 0.999
    assert np.mean(np.abs(pull) > 4) <= 1.2e-4  # 31 of 262,144; noise alone makes 17 +- 4
    assert pull.mean() == pytest.approx(0, abs=0.02)
    assert pull.std() == pytest.approx(1, abs=0.01)
