"""Master flats written apart: their product, and what is in which factor."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from flatcal import build_plan, run_plan
from flatcal.engine.illumination import find_illumination, interpolation_weights
from flatcal.recipe import parse_config

SETTINGS = """\
[camera]
gain_electron_per_adu = 2.0
read_noise_electron = 10.0
[dark]
required = false
[output]
split_flat = true
"""
SHAPE = (192, 320)


def vignetting():
    y, x = np.indices(SHAPE) / np.array(SHAPE)[:, None, None] - 0.5
    return (1 + 0.1 * x) * (1 - 0.6 * (x**2 + y**2))


@pytest.fixture
def raw(tmp_path, put_frame):
    rng = np.random.default_rng(3)
    response = 1 + 0.01 * rng.standard_normal(SHAPE)
    response[40:60, 100:120] *= 0.9  # a shadow larger than a block of 12 x 20 pixels
    response[::17, ::13] = 0.02
    light = 2 * 20_000 * vignetting() * response
    for i in range(3):
        bias = rng.normal(1000, 5, SHAPE).round().astype(np.uint16)
        put_frame(tmp_path / f"raw/b{i}.fits", "BIAS", 0.0, bias, BUNIT="adu")
        flat = (rng.poisson(light) / 2 + rng.normal(1000, 5, SHAPE)).round().astype(np.uint16)
        flat[90:125, 200:260] = 65_535  # whole blocks without a good pixel
        put_frame(tmp_path / f"raw/f{i}.fits", "FLAT", 1.0, flat, BUNIT="adu", FILTER="V")
    return tmp_path / "raw"


def planes_of(out, name):
    with fits.open(out / f"masters/{name}_V.fits") as hdus:
        return hdus[0].header, {hdu.name: np.array(hdu.data) for hdu in hdus}


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 2e-7), ("float64", 4e-16)])
def test_the_product_is_the_master_flat(raw, tmp_path, dtype, rounding):
    config = parse_config(SETTINGS + f'dtype = "{dtype}"\n', "night.toml")
    result = run_plan(build_plan(raw, config), tmp_path / "out")
    assert result.failed == ()
    assert result.left_over == ()
    header, flat = planes_of(tmp_path / "out", "master_flat")
    its_header, illumination = planes_of(tmp_path / "out", "illumination")
    response_header, response = planes_of(tmp_path / "out", "pixel_response")
    product = illumination["PRIMARY"] * response["PRIMARY"]
    np.testing.assert_allclose(product, flat["PRIMARY"], rtol=rounding)
    product = illumination["PRIMARY"] * response["UNCERT"]
    np.testing.assert_allclose(product, flat["UNCERT"], rtol=rounding)
    for plane in ("MASK", "FLAGS"):
        np.testing.assert_array_equal(response[plane], flat[plane])
        assert not illumination[plane].any()
    assert set(illumination) == {"PRIMARY", "MASK", "FLAGS"}
    assert its_header["IMAGETYP"] == "illumination"
    assert response_header["IMAGETYP"] == "pixel response"
    assert response_header["ERRSRC"] == header["ERRSRC"]
    assert its_header["FILTER"] == "V"
    assert (flat["MASK"] != 0).sum() >= 35 * 60


def test_what_is_made_once_is_kept(raw, tmp_path):
    plan = build_plan(raw, parse_config(SETTINGS, "night.toml"))
    run_plan(plan, tmp_path / "out")
    parts = ["masters/illumination_V.fits", "masters/pixel_response_V.fits"]
    before = [(tmp_path / "out" / part).read_bytes() for part in parts]
    again = run_plan(plan, tmp_path / "out")
    assert again.made == ()
    assert set(parts) < set(again.record.products)
    (tmp_path / "out" / parts[0]).unlink()
    assert set(parts) <= set(run_plan(plan, tmp_path / "out").made)
    assert [(tmp_path / "out" / part).read_bytes() for part in parts] == before
    # Without the setting they are neither made nor known.
    plain = parse_config(SETTINGS.replace("true", "false"), "night.toml")
    assert run_plan(build_plan(raw, plain), tmp_path / "out").left_over == tuple(parts)
    assert run_plan(build_plan(raw, plain), tmp_path / "new").left_over == ()
    assert not (tmp_path / "new" / parts[0]).exists()


def test_the_illumination_is_smooth_light_and_the_rest_is_response():
    rng = np.random.default_rng(4)
    light = vignetting()
    response = 1 + 0.01 * rng.standard_normal(SHAPE)
    flags = np.zeros(SHAPE, np.uint8)
    flags[rng.random(SHAPE) < 0.3] = 1
    flags[24:60, 100:160] = 1  # 3 x 3 blocks
    flat = np.where(flags == 0, light * response, 1e6)
    found = find_illumination(flat, flags)
    smooth = np.vstack([found.of(slice(y, y + 50)) for y in range(0, 192, 50)])
    assert smooth.shape == SHAPE
    far = np.ones(SHAPE, bool)
    far[0:84, 60:200] = False
    # Medians of 170 pixels that scatter by 1 % are off by 0.1 %, five times that in the corners.
    error = smooth / light - 1
    assert np.std(error[far]) < 0.0015
    assert np.abs(error[12:-12, 20:-20][far[12:-12, 20:-20]]).max() < 0.005
    assert np.abs(error).max() < 0.04  # in the hole, which has the light of its edges


def test_between_and_beyond_the_blocks_a_parabola_is_met_exactly():
    def parabola(y):
        return 1 + 1e-3 * y - 2e-6 * y**2

    centers = np.arange(4.5, 160, 10)
    np.testing.assert_allclose(
        interpolation_weights(160, 16) @ parabola(centers), parabola(np.arange(160)), rtol=1e-13
    )


@pytest.mark.parametrize("shape", [(1, 1), (5, 30), (30, 7), (23, 25)])
def test_small_images(shape):
    found = find_illumination(np.full(shape, 2.5), np.empty((0, 0), np.uint8))
    np.testing.assert_allclose(found.of(slice(0, shape[0])), np.full(shape, 2.5), rtol=1e-12)


def test_a_flat_without_a_good_pixel():
    found = find_illumination(np.ones((30, 40)), np.ones((30, 40), np.uint8))
    np.testing.assert_allclose(found.of(slice(0, 30)), np.ones((30, 40)), rtol=1e-12)
