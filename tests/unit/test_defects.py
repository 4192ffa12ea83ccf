"""Defects of a detector that are put into a night of simple frames, and the user's mask."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from flatcal.engine.run import run_plan
from flatcal.errors import ConfigError
from flatcal.flags import Flag
from flatcal.planning import build_plan
from flatcal.projection import project_memory
from flatcal.recipe import load_config, parse_config

SHAPE = (96, 130)
GAIN, READ_NOISE = 2.0, 8.0
HOT, WARM, DEAD, BAD_COLUMN, TRUNCATED_COLUMN = (10, 20), (11, 40), (30, 50), 70, 90
SATURATED, NON_LINEAR = (50, 5), (60, 8)
SETTINGS = f"""
[camera]
gain_electron_per_adu = {GAIN}
read_noise_electron = {READ_NOISE}
saturation_adu = 60000
linear_to_adu = 50000
"""
# (read noise)^2 x 9 electrons of dark current, in ADU.
HOT_LIMIT_ADU = 9 * READ_NOISE**2 / GAIN


@pytest.fixture(scope="module")
def raw(tmp_path_factory, put_frame):
    """Bias 1000, darks of 60 s with 5 ADU, flats of 20 000 ADU, science of 300 ADU; 60 s each."""
    folder, rng = tmp_path_factory.mktemp("defects") / "raw", np.random.default_rng(1)
    response = np.ones(SHAPE)
    response[DEAD], response[:, TRUNCATED_COLUMN] = 0.2, 0.3
    bias = np.full(SHAPE, 1000.0)
    bias[:, BAD_COLUMN] += 600
    dark = np.full(SHAPE, 5.0)
    dark[HOT], dark[WARM] = 1.2 * HOT_LIMIT_ADU + 5, 0.8 * HOT_LIMIT_ADU + 5

    def put(name, kind, exposure, light, **extra):
        electrons = rng.poisson((light * response + dark * (exposure > 0)) * GAIN)
        values = bias + electrons / GAIN + rng.normal(0, READ_NOISE / GAIN, SHAPE)
        for place, value in extra.items():
            values[{"saturated": SATURATED, "non_linear": NON_LINEAR}[place]] = value
        data = np.clip(np.round(values), 0, 65535).astype(np.uint16)
        put_frame(folder / name, kind, exposure, data, BUNIT="adu", FILTER="r")

    for i in range(5):
        put(f"b{i}.fits", "BIAS", 0.0, 0)
        put(f"d{i}.fits", "DARK", 60.0, 0)
        put(f"f{i}.fits", "FLAT", 60.0, 20_000)
    put("s.fits", "LIGHT", 60.0, 300, saturated=60_001, non_linear=50_001)
    return folder


@pytest.fixture(scope="module")
def out(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reduced")
    assert run_plan(build_plan(raw, parse_config(SETTINGS, "n")), folder).failed == ()
    return folder


def flags_of(path):
    with fits.open(path) as hdus:
        flags = hdus["FLAGS"].data
        np.testing.assert_array_equal(hdus["MASK"].data, flags != 0)
        return flags


def places(flags, flag):
    return set(zip(*(axis.tolist() for axis in np.nonzero(flags & flag)), strict=True))


def column(x):
    return {(y, x) for y in range(SHAPE[0])}


def test_a_pixel_is_hot_where_its_dark_current_is_noisier_than_read_out(out):
    flags = flags_of(out / "masters" / "master_dark_60s.fits")
    assert places(flags, Flag.HOT) == {HOT}


@pytest.mark.parametrize("name", ["bias", "dark_60s"])
def test_a_column_far_from_its_neighbours_is_bad(out, name):
    flags = flags_of(out / "masters" / f"master_{name}.fits")
    assert places(flags, Flag.BAD_COLUMN) == column(BAD_COLUMN)


def test_pixels_and_columns_that_do_not_respond_are_dead_and_bad(out):
    flags = flags_of(out / "masters" / "master_flat_r.fits")
    assert places(flags, Flag.DEAD) == {DEAD} | column(TRUNCATED_COLUMN)
    assert column(TRUNCATED_COLUMN) <= places(flags, Flag.BAD_COLUMN)


def test_a_science_frame_has_the_defects_of_the_detector_and_its_own(out):
    flags = flags_of(out / "science" / "science-s.fits")
    assert places(flags, Flag.HOT) == {HOT}
    assert places(flags, Flag.DEAD) == {DEAD} | column(TRUNCATED_COLUMN)
    assert places(flags, Flag.SATURATED) == {SATURATED}
    y, x = SATURATED
    assert places(flags, Flag.BLED) == {(y - 1, x), (y + 1, x)}
    assert places(flags, Flag.NON_LINEAR) == {NON_LINEAR}
    assert not places(flags, Flag.NO_INPUT | Flag.NON_FINITE | Flag.FLAT_INVALID)


def test_a_hot_pixel_of_a_flat_has_its_response_all_the_same(out):
    with fits.open(out / "masters" / "master_flat_r.fits") as hdus:
        data, std, flags = (hdus[name].data for name in ("PRIMARY", "UNCERT", "FLAGS"))
        assert hdus["NUSED"].data[HOT] == 5
    assert flags[HOT] & Flag.HOT
    assert abs(data[HOT] - 1) < 5 * std[HOT]


def test_flagged_pixels_do_not_enter_the_norm(out):
    with fits.open(out / "masters" / "master_flat_r.fits") as hdus:
        good = hdus["PRIMARY"].data[hdus["MASK"].data == 0]
    assert np.median(good) == pytest.approx(1, abs=1e-4)


def test_bands_of_any_height_flag_the_same(raw, out, tmp_path):
    """Neighbours of a saturated pixel lie in another band, if bands are single rows."""
    plan = build_plan(raw, parse_config(SETTINGS, "n"))
    run_plan(plan, tmp_path, memory_bytes=project_memory(plan).least_bytes, jobs=1)
    for path in sorted(out.glob("*/*.fits")):
        assert (tmp_path / path.relative_to(out)).read_bytes() == path.read_bytes()


# -- the user's mask ---------------------------------------------------------------------


def with_mask(tmp_path, image):
    fits.PrimaryHDU(image).writeto(tmp_path / "bad.fits")
    settings = tmp_path / "night.toml"
    settings.write_text(SETTINGS + 'bad_pixel_mask = "bad.fits"\n')
    return load_config(settings)


def test_the_pixels_of_a_mask_are_flagged_everywhere(raw, tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[40, 41] = 1
    config = with_mask(tmp_path, mask)
    out = tmp_path / "out"
    assert run_plan(build_plan(raw, config), out).failed == ()
    for path in out.glob("*/*.fits"):
        assert places(flags_of(path), Flag.USER) == {(40, 41)}, path
    # Another mask makes everything anew, the same one nothing.
    assert run_plan(build_plan(raw, config), out).made == ()
    mask[1, 2] = 1
    fits.PrimaryHDU(mask).writeto(tmp_path / "bad.fits", overwrite=True)
    assert len(run_plan(build_plan(raw, config), out).made) == len(list(out.glob("*/*.fits")))


def test_a_mask_of_another_size_is_named(raw, tmp_path):
    config = with_mask(tmp_path, np.zeros((9, 7), np.uint8))
    result = run_plan(build_plan(raw, config), tmp_path / "out")
    errors = {error.slug for outcome in result.failed for error in outcome.errors}
    assert errors == {"bad-pixel-mask"}
    assert "7 x 9" in result.failed[0].errors[0].text
    assert "130 x 96" in result.failed[0].errors[0].text


@pytest.mark.parametrize("content", [None, b"not FITS"])
def test_a_mask_that_cannot_be_read_stops_the_run(raw, tmp_path, content):
    settings = tmp_path / "night.toml"
    settings.write_text(SETTINGS + 'bad_pixel_mask = "bad.fits"\n')
    if content is not None:
        (tmp_path / "bad.fits").write_bytes(content)
    plan = build_plan(raw, load_config(settings))
    with pytest.raises(ConfigError) as caught:
        run_plan(plan, tmp_path / "out")
    assert caught.value.slug == "bad-pixel-mask"
    assert not (tmp_path / "out").exists()
