"""Second look at kinds: wrong labels and accidents are named, honest nights are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from flatcal.errors import MESSAGES
from flatcal.frame import Frame
from flatcal.index import find_frames
from flatcal.overscan import apply_overscan
from flatcal.recipe import Config, DarkSettings, parse_config
from flatcal.second_look import second_look
from flatcal.survey import look_at

SHAPE = (160, 200)
NOISE = 6.0
BIAS = 1000.0
RATE = 0.1


class Camera:
    """Writes frames of a small camera: bias 1000 ADU, noise 6 ADU, dark current 0.1 ADU/s."""

    def __init__(self, folder, put_frame: Callable[..., object]) -> None:
        self.folder = folder
        self.put_frame = put_frame
        self.rng = np.random.default_rng(5)

    def take(self, name: str, kind: str, exposure: float, light=0.0, number=1, **cards) -> None:
        """Frames with some light, an image or a number; of a filter when a card says so."""
        for index in range(number):
            mean = BIAS + RATE * exposure + np.broadcast_to(light, SHAPE)
            data = self.rng.normal(mean, np.sqrt(NOISE**2 + np.broadcast_to(light, SHAPE) / 2))
            data = np.clip(np.rint(data), 0, 65535).astype(np.uint16)
            self.put_frame(self.folder / f"{name}{index}.fits", kind, exposure, data, **cards)

    def doubts(self, config: Config | None = None) -> dict[str, str]:
        """Slug and text of what is doubted, by file."""
        config = config or Config()
        frames = find_frames(self.folder, config)
        assert all(frame.errors == () for frame in frames)
        looks = look_at(self.folder, frames, 2)
        return new_caveats(frames, second_look(frames, looks, config.dark))


def new_caveats(before: Sequence[Frame], after: Sequence[Frame]) -> dict[str, str]:
    assert [frame.file for frame in before] == [frame.file for frame in after]
    found = {}
    for old, new in zip(before, after, strict=True):
        assert replace(new, caveats=old.caveats) == old
        for caveat in new.caveats[len(old.caveats) :]:
            assert caveat.slug in MESSAGES
            assert new.file not in found
            found[new.file] = f"{caveat.slug}: {caveat.text}"
    return found


@pytest.fixture
def camera(tmp_path, put_frame) -> Camera:
    return Camera(tmp_path, put_frame)


def illumination(x: float, y: float) -> np.ndarray:
    """A gradient of that much over the image."""
    rows, columns = np.indices(SHAPE) / np.array(SHAPE)[:, None, None] - 0.5
    return 20000 * (1 + x * columns + y * rows)


# -- bias frames and darks ---------------------------------------------------------------


def test_a_bias_with_light_is_named_with_its_figures(camera):
    camera.take("bias", "BIAS", 0.0, number=5)
    camera.take("lit", "BIAS", 0.0, light=200.0)
    (text,) = camera.doubts().values()
    assert list(camera.doubts()) == ["lit0.fits"]
    assert text.startswith("kind-doubt: taken as bias, but its level is 200 ADU above")
    assert "the other 5 bias frames, whose pixels have a noise of 6" in text
    assert "--kind" in text


@pytest.mark.parametrize(
    "levels",
    [
        (0, 0, 0, 0, 0, 30),  # five times the noise of a pixel: the level of a camera that warms up
        (0, 25, 50, 75, 100, 200),  # the last is 14 times the noise off, in a series that drifts
    ],
)
def test_a_drifting_bias_level_raises_no_doubt(camera, levels):
    for index, level in enumerate(levels):
        camera.take(f"bias{index}", "BIAS", 0.0, light=float(level))
    assert camera.doubts() == {}


def test_three_bias_frames_are_too_few_to_say_which_is_wrong(camera):
    camera.take("bias", "BIAS", 0.0, number=2)
    camera.take("lit", "BIAS", 0.0, light=200.0)
    assert camera.doubts() == {}


def test_a_dark_with_sky_in_it(camera):
    camera.take("bias", "BIAS", 0.0, number=3)
    camera.take("dark", "DARK", 60.0, number=4)
    camera.take("sky", "DARK", 60.0, light=150.0)
    found = camera.doubts()
    assert list(found) == ["sky0.fits"]
    assert "its level is 15" in found["sky0.fits"]
    assert "of the other 4 darks of 60 s" in found["sky0.fits"]
    assert "11 ADU against 6" in found["sky0.fits"]  # the noise: sqrt(36 + 75) is 10.5


def test_a_dark_with_stars_in_it(camera):
    """Stars on 2 % of the pixels do not move the level, but the brightest 1 % are theirs."""
    stars = np.where(camera.rng.random(SHAPE) < 0.02, 400.0, 0.0)
    camera.take("dark", "DARK", 60.0, number=4)
    camera.take("stars", "DARK", 60.0, light=stars)
    found = camera.doubts()
    assert list(found) == ["stars0.fits"]
    assert "its brightest 1 %" in found["stars0.fits"]


def test_a_dark_with_more_than_darks_of_other_times_let_expect(camera):
    camera.take("bias", "BIAS", 0.0, number=3)
    for seconds in (30.0, 60.0, 120.0, 300.0):
        camera.take(f"dark{seconds:g}-", "DARK", seconds)
    assert camera.doubts() == {}
    camera.take("lit", "DARK", 20.0, light=150.0)
    found = camera.doubts()
    assert list(found) == ["lit0.fits"]
    assert "4 darks of other exposure times let expect 2 ADU in 20 s" in found["lit0.fits"]


def test_darks_all_with_light_are_held_against_other_exposure_times(camera):
    camera.take("bias", "BIAS", 0.0, number=3)
    camera.take("good", "DARK", 300.0, number=3)
    camera.take("lit", "DARK", 60.0, light=300.0, number=4)
    assert list(camera.doubts()) == ["lit0.fits", "lit1.fits", "lit2.fits", "lit3.fits"]


def test_dark_current_of_a_warm_sensor_raises_no_doubt(camera):
    """A third more than 300 ADU, as from a sensor that is 3 degrees warmer."""
    camera.take("bias", "BIAS", 0.0, number=3)
    camera.take("dark", "DARK", 3000.0, number=5)
    camera.take("warm", "DARK", 3000.0, light=100.0)
    assert camera.doubts() == {}


def test_short_darks_do_not_foretell_long_ones(camera):
    """A level that drifts by 1 ADU in 1 s would be 300 ADU off in 300 s."""
    camera.take("bias", "BIAS", 0.0, number=3)
    camera.take("short", "DARK", 1.0, number=4)
    camera.take("long", "DARK", 300.0, light=200.0)
    assert camera.doubts() == {}


def test_darks_of_another_temperature_are_not_compared(camera):
    camera.take("bias", "BIAS", 0.0, number=3, SET_TEMP=-20.0)
    camera.take("cold", "DARK", 60.0, number=4, SET_TEMP=-20.0)
    camera.take("warm", "DARK", 60.0, light=200.0, number=1, SET_TEMP=0.0)
    assert camera.doubts() == {}


# -- light of flats ----------------------------------------------------------------------


def test_a_saturated_flat(camera):
    camera.take("flat", "FLAT", 1.0, light=20000.0, number=2, FILTER="V")
    camera.take("full", "FLAT", 5.0, light=90000.0, FILTER="V")
    found = camera.doubts()
    assert list(found) == ["full0.fits"]
    assert (
        "flat-level-doubt: 100% of its pixels are at or above saturation (65535)"
        in found["full0.fits"]
    )


def test_a_flat_near_saturation(camera):
    camera.take("bias", "BIAS", 0.0, number=2)
    camera.take("flat", "FLAT", 1.0, light=50000.0, number=2, FILTER="V")
    camera.take("high", "FLAT", 5.0, light=60000.0, FILTER="V")
    found = camera.doubts()
    assert list(found) == ["high0.fits"]
    assert "% of saturation (65535), where few detectors are linear" in found["high0.fits"]
    assert "are above 61" in found["high0.fits"]


def test_a_flat_at_the_level_of_the_bias(camera):
    camera.take("bias", "BIAS", 0.0, number=3)
    camera.take("flat", "FLAT", 1.0, light=20000.0, number=2, FILTER="V")
    camera.take("closed", "FLAT", 1.0, light=20.0, FILTER="V")
    found = camera.doubts()
    assert list(found) == ["closed0.fits"]
    assert "it has 20 ADU of light" in found["closed0.fits"]


def test_a_flat_far_below_its_siblings(camera):
    camera.take("bias", "BIAS", 0.0, number=3)
    camera.take("flat", "FLAT", 1.0, light=20000.0, number=3, FILTER="V")
    camera.take("faint", "FLAT", 1.0, light=3000.0, FILTER="V")
    camera.take("other", "FLAT", 1.0, light=3000.0, FILTER="B")
    found = camera.doubts()
    assert list(found) == ["faint0.fits"]
    assert "it has 3000 ADU of light, the other 3 flats in V 20000 ADU" in found["faint0.fits"]


def test_twilight_flats_of_many_levels_raise_no_doubt(camera):
    camera.take("bias", "BIAS", 0.0, number=3)
    for index, light in enumerate((50000.0, 40000.0, 32000.0, 25000.0, 18000.0, 12000.0)):
        camera.take(f"flat{index}", "FLAT", 1.0, light=light, FILTER="V")
    assert camera.doubts() == {}


def test_a_mask_of_colours_is_no_noise(camera):
    camera.take("bias", "BIAS", 0.0, number=3)
    rows, columns = np.indices(SHAPE)
    mosaic = np.where((rows + columns) % 2, 24000.0, 8000.0)
    camera.take("flat", "FLAT", 1.0, light=mosaic, number=3)
    assert camera.doubts() == {}


# -- filters -----------------------------------------------------------------------------

IN_V, IN_R = illumination(0.02, 0.06), illumination(-0.02, 0.03)


def test_a_flat_in_another_filter_than_its_header_says(camera):
    camera.take("bias", "BIAS", 0.0, number=3)
    camera.take("v", "FLAT", 1.0, light=IN_V, number=4, FILTER="V")
    camera.take("r", "FLAT", 1.0, light=IN_R, number=3, FILTER="R")
    assert camera.doubts() == {}
    camera.take("wrong", "FLAT", 1.0, light=0.7 * IN_R, FILTER="V")
    found = camera.doubts()
    assert list(found) == ["wrong0.fits"]
    # A plane with gradients of 0.04 and 0.03: sqrt((0.04^2 + 0.03^2) / 12) is 1.44 %.
    assert (
        "filter-doubt: its filter is V, but its illumination differs by 1.4" in found["wrong0.fits"]
    )
    assert "of the flats in R" in found["wrong0.fits"]


@pytest.mark.parametrize("x", [0.02, 0.07])
def test_a_flat_like_no_filter_raises_no_doubt(camera, x):
    """It differs from its own filter, but is no other's either."""
    camera.take("bias", "BIAS", 0.0, number=3)
    camera.take("v", "FLAT", 1.0, light=IN_V, number=4, FILTER="V")
    camera.take("r", "FLAT", 1.0, light=IN_R, number=3, FILTER="R")
    camera.take("odd", "FLAT", 1.0, light=illumination(x, -0.02), FILTER="V")
    assert camera.doubts() == {}


def test_a_filter_whose_flats_differ_among_themselves_raises_no_doubt(camera):
    camera.take("bias", "BIAS", 0.0, number=3)
    for index, x in enumerate((-0.06, -0.02, 0.02, 0.06)):
        camera.take(f"v{index}", "FLAT", 1.0, light=illumination(x, 0.0), FILTER="V")
    camera.take("r", "FLAT", 1.0, light=illumination(0.06, 0.0), number=3, FILTER="R")
    assert camera.doubts() == {}


def test_a_small_difference_of_illumination_is_not_worth_a_word(camera):
    """Gradients of 1 % over the image: 0.3 % from filter to filter."""
    camera.take("bias", "BIAS", 0.0, number=3)
    camera.take("v", "FLAT", 1.0, light=illumination(0.0, 0.0), number=4, FILTER="V")
    camera.take("r", "FLAT", 1.0, light=illumination(0.01, 0.0), number=3, FILTER="R")
    camera.take("wrong", "FLAT", 1.0, light=illumination(0.01, 0.0), FILTER="V")
    assert camera.doubts() == {}


def test_filters_of_equal_illumination_are_never_told_apart(camera):
    camera.take("bias", "BIAS", 0.0, number=3)
    for name in "BVRI":
        camera.take(name, "FLAT", 1.0, light=IN_V, number=4, FILTER=name)
    assert camera.doubts() == {}


# -- honest nights -----------------------------------------------------------------------


@pytest.mark.parametrize("overscan", ["used", "not used"])
def test_the_simulated_lfc_raises_no_doubt(lfc_night, overscan):
    toml = lfc_night.config.read_text()
    if overscan == "not used":
        toml = toml.replace("[520:544,1:1032]", "none")
    assert doubts_of(lfc_night, toml) == {}


def test_the_simulated_cg16m_raises_no_doubt(cg16m_night):
    assert doubts_of(cg16m_night, cg16m_night.config.read_text()) == {}


def doubts_of(night, toml: str) -> dict[str, str]:
    config = parse_config(toml, "test")
    frames = find_frames(night.raw, config)
    looks = look_at(night.raw, frames, 2)
    frames = apply_overscan(frames, looks, config.camera)
    return new_caveats(frames, second_look(frames, looks, DarkSettings()))


def test_a_swap_of_filters_in_the_simulated_night_is_found(lfc_night, tmp_path):
    """The first flat in i' with the header of g', against 3 flats in g' and 2 in i'."""
    (tmp_path / "raw").mkdir()
    for path in lfc_night.raw.iterdir():
        (tmp_path / "raw" / path.name).symlink_to(path)
    flats = [frame for frame in lfc_night.truth.frames if frame.filter == "i'"]
    wrong = tmp_path / "raw" / flats[0].file
    data, header = fits.getdata(wrong, header=True)
    wrong.unlink()
    fits.PrimaryHDU(data, fits.Header({**header, "FILTER": "g'"}, copy=True)).writeto(wrong)
    found = doubts_of(lfc_night._replace(raw=tmp_path / "raw"), lfc_night.config.read_text())
    assert list(found) == [flats[0].file]
    assert found[flats[0].file].startswith("filter-doubt: its filter is g'")


def test_nothing_seen_is_nothing_doubted(lfc_night):
    frames = find_frames(lfc_night.raw, parse_config(lfc_night.config.read_text(), "test"))
    assert second_look(frames, {}, DarkSettings()) == frames
