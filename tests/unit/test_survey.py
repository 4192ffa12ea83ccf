"""The look at the pixels: figures against plain numpy, and nothing that it meets stops it."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flatcal.frame import Caveat, Frame
from flatcal.index import find_frames
from flatcal.recipe import Config, parse_config
from flatcal.survey import BANDS, GRID_COLUMNS, Look, look_at


def read(raw: Path, toml: str = "") -> tuple[Frame, ...]:
    return find_frames(raw, parse_config(toml, "test") if toml else Config())


@pytest.fixture
def look(tmp_path, put_frame):
    """Write one image and look at it."""

    def write_and_look(data, trim="none", name="x.fits", **cards) -> Look | None:
        (tmp_path / name).unlink(missing_ok=True)
        put_frame(tmp_path / name, "FLAT", 1.0, data, **cards)
        frames = read(tmp_path, f'[camera]\noverscan_section="none"\ntrim_section="{trim}"')
        assert [frame.errors for frame in frames] == [()]
        return look_at(tmp_path, frames, 1).get(name)

    return write_and_look


def gauss(shape, mean=1000.3, sigma=5.0, seed=1):
    return np.rint(np.random.default_rng(seed).normal(mean, sigma, shape)).astype(np.uint16)


# -- figures -----------------------------------------------------------------------------


def test_level_is_known_to_a_fraction_of_an_adu(look):
    """The median of these whole numbers is 1000; their mean is told to five standard errors."""
    for mean in (1000.0, 1000.3, 1000.5, 1000.8):
        found = look(gauss((400, 500), mean))
        assert found.level == pytest.approx(mean, abs=5 * 1.25 * 5 / 65536**0.5)


def test_scatter_does_not_count_gradients_stars_and_masks_of_colours(look):
    flat = gauss((400, 500), 20000, 100).astype(float)
    rows, columns = np.indices(flat.shape)
    assert look(flat.astype(np.uint16)).scatter == pytest.approx(100, rel=0.04)
    with_gradient = flat + 20 * columns + 5 * rows
    with_stars = with_gradient + np.where((rows % 40 < 3) & (columns % 40 < 3), 9000, 0)
    with_mask = with_stars + np.where((columns + rows) % 2, 4000, 0)
    assert look(with_mask.astype(np.uint16)).scatter == pytest.approx(100, rel=0.06)
    assert np.std(with_mask) > 2000


def test_part_that_is_saturated(look):
    data = gauss((400, 500))
    data[:, :50] = 65535
    assert look(data).saturated_fraction == pytest.approx(0.1, abs=0.001)
    assert look(gauss((400, 500))).saturated_fraction == 0


def test_percentiles(look):
    values = np.tile(np.arange(1000, dtype=np.uint16), (400, 1))
    found = look(values)
    assert (found.low, found.high) == (pytest.approx(10, abs=1), pytest.approx(990, abs=1))


def test_grid_goes_from_the_first_row_to_the_last_and_from_left_to_right(look):
    rows, columns = np.indices((1600, 800))
    found = look(rows.astype(np.uint16))
    assert (len(found.grid), len(found.grid[0])) == (BANDS, GRID_COLUMNS)
    # A band is 81 rows high; its middle is the mean of its rows.
    expected = np.linspace(0, 1600 - 81, BANDS).astype(int) + 40
    np.testing.assert_allclose(found.band_levels, expected, atol=1)
    in_columns = np.array(look(columns.astype(np.uint16)).grid)
    np.testing.assert_allclose(in_columns, np.tile(np.arange(8) * 100 + 49.5, (BANDS, 1)), atol=1)


def test_only_what_is_kept_counts_for_the_image(look):
    data = gauss((100, 200), 1000)
    data[:, :20] = data[:, 180:] = 60000
    data[:10] = data[90:] = 60000
    assert look(data, "[21:180,11:90]").high < 1030


def test_columns_beside_the_image_are_told_one_by_one(look):
    data = np.tile(np.arange(200, dtype=np.uint16) + 500, (64, 1))
    left, right = look(data, "[11:180,1:64]").strips
    assert (left.start, left.stop, left.at_right) == (0, 10, False)
    assert (right.start, right.stop, right.at_right) == (180, 200, True)
    np.testing.assert_allclose(left.levels, 500 + np.arange(10), atol=0.5)
    np.testing.assert_allclose(right.levels, 680 + np.arange(20), atol=0.5)
    assert right.n_rows == 64


def test_scatter_of_columns(look):
    data = gauss((1000, 120), 1000, 5)
    data[:, 105] = gauss(1000, 1000, 20, seed=2)
    data[:, 110] = 0
    (strip,) = look(data, "[1:100,1:1000]").strips
    expected = np.full(20, 5.0)
    expected[5], expected[10] = 20, 0
    np.testing.assert_allclose(strip.scatters, expected, rtol=0.2)


def test_level_of_bands_comes_from_the_half_that_is_far_from_the_image(look):
    data = np.full((160, 120), 1000, np.uint16)
    data[:, 90:110] = 3000
    data[:10, 110:] = 800
    (strip,) = look(data, "[1:90,1:160]").strips
    assert len(strip.band_levels) == 16
    assert strip.band_levels[0] == pytest.approx(800, abs=1)
    np.testing.assert_allclose(strip.band_levels[1:], 1000, atol=1)


def test_without_sections_the_ends_of_the_rows_are_looked_at(look):
    data = np.tile(np.arange(800, dtype=np.uint16), (64, 1))
    left, right = look(data).strips
    assert (left.start, left.stop, right.start, right.stop) == (0, 64, 736, 800)
    assert (left.at_right, right.at_right) == (False, True)
    assert right.levels[0] == pytest.approx(736, abs=0.5)


# -- files of all kinds ------------------------------------------------------------------


def test_compressed_files_give_the_same_look(tmp_path):
    data = gauss((300, 200))
    header = fits.Header({"IMAGETYP": "BIAS", "EXPTIME": 0.0})
    fits.PrimaryHDU(data, header).writeto(tmp_path / "a.fits")
    fits.PrimaryHDU(data, header).writeto(tmp_path / "b.fits.gz")
    packed = fits.CompImageHDU(data, header, compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(tmp_path / "c.fits.fz")
    frames = read(tmp_path)
    assert [frame.storage.plain_uint16 for frame in frames] == [True, False, False]
    looks = list(look_at(tmp_path, frames, 2).values())
    assert looks == [looks[0]] * 3


def test_floats_are_not_taken_for_whole_numbers(look):
    data = np.random.default_rng(3).normal(0.25, 0.01, (200, 200)).astype(np.float32)
    assert look(data).level == pytest.approx(0.25, abs=0.001)


def test_pixels_without_a_number(look):
    data = gauss((200, 120)).astype(np.float32)
    data[:60] = np.nan
    data[:, 110] = np.inf
    found = look(data, "[1:100,1:200]")
    assert found.level == pytest.approx(1000, abs=1)
    (strip,) = found.strips
    assert (strip.levels[10], strip.scatters[10]) == (pytest.approx(0, abs=0.5), 0)
    assert look(np.full((20, 20), np.nan, np.float32)) is None


def test_frames_that_cannot_be_read_have_no_look(tmp_path, put_frame):
    for name in ("gone", "short", "good", "refused"):
        put_frame(tmp_path / f"{name}.fits", "BIAS", 0.0, gauss((100, 100)))
    frames = read(tmp_path)
    refused = replace(frames[2], errors=(Caveat("file-broken", "x"),))
    assert refused.file == "refused.fits"
    (tmp_path / "gone.fits").unlink()
    short = tmp_path / "short.fits"
    short.write_bytes(short.read_bytes()[:5000])
    looks = look_at(tmp_path, [*frames[:2], refused, frames[3]], 2)
    assert list(looks) == ["good.fits"]


def test_a_file_that_ends_early_without_a_change_of_its_size_has_no_look(tmp_path, put_frame):
    path = put_frame(tmp_path / "x.fits", "BIAS", 0.0, gauss((100, 100)))
    (frame,) = read(tmp_path)
    path.write_bytes(path.read_bytes()[:5760])
    status = path.stat()
    storage = replace(frame.storage, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)
    assert look_at(tmp_path, [replace(frame, storage=storage)], 1) == {}


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([np.uint16, np.int32, np.float32]),
    st.data(),
)  # fmt: skip
def test_images_of_any_size_give_finite_figures(look, n_rows, n_columns, dtype, data):
    values = np.random.default_rng(n_rows).integers(0, 60000, (n_rows, n_columns)).astype(dtype)
    first = data.draw(st.integers(1, n_columns))
    last = data.draw(st.integers(first, n_columns))
    found = look(values, f"[{first}:{last},1:{n_rows}]")
    json.dumps(asdict(found), allow_nan=False)
    assert float(values.min()) - 1 <= found.level <= float(values.max()) + 1


def test_looks_are_frozen_and_do_not_depend_on_the_threads(lfc_night):
    frames = read(lfc_night.raw, lfc_night.config.read_text())
    looks = look_at(lfc_night.raw, frames, 1)
    assert looks == look_at(lfc_night.raw, frames, 4)
    assert list(looks) == [frame.file for frame in frames]
    with pytest.raises(FrozenInstanceError):
        looks[frames[0].file].level = 0


def test_levels_of_a_simulated_night_are_true(lfc_night):
    """Bias frames: the level of image and overscan that the simulator gave them."""
    frames = read(lfc_night.raw, lfc_night.config.read_text())
    looks = look_at(lfc_night.raw, frames, 2)
    for truth in lfc_night.truth.frames:
        if truth.kind == "bias":
            found = looks[truth.file]
            assert found.level == pytest.approx(truth.bias_level_adu, abs=0.2)
            far = found.strips[0].levels[16:]
            assert np.mean(far) == pytest.approx(truth.overscan_level_adu, abs=0.2)
            assert found.scatter == pytest.approx(5.5, rel=0.1)
