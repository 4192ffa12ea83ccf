"""A night whose sensor warmed up after its darks: the refined factor against the simulator's."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from flatcal import build_plan, run_plan
from flatcal.recipe import parse_config
from flatcal.simulate import Detector, make_detector
from flatcal.simulate.night import Exposure, write_frame

# Dark current doubles every 6 C or so: the sensor is 2 C warmer than in the darks.
WARMER = 1.26
SETTINGS = """
[camera]
overscan_section = "none"
trim_section = "[1:1024,1:1024]"
gain_electron_per_adu = 1.5
read_noise_electron = 10.0
[science]
flat_required = false
[dark]
refine = {}
"""


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Raw folder and truth of the science frames, one at each temperature, stars among them."""
    raw = tmp_path_factory.mktemp("raw")
    cold = make_detector("cg16m", seed=5)
    current = cold.truth.dark_rate_adu_per_s * np.float32(WARMER)
    warm = Detector(replace(cold.truth, dark_rate_adu_per_s=current))
    log = [Exposure("bias")] * 5 + [Exposure("dark", 90.0)] * 5
    for number, exposure in enumerate(log, start=1):
        write_frame(cold, exposure, number, raw)
    science = Exposure("science", 60.0, 300.0, "r")
    return raw, {
        factor: (detector, write_frame(detector, science, number, raw))
        for number, detector, factor in ((21, cold, 1.0), (22, warm, WARMER))
    }


@pytest.fixture(scope="module", params=[False, True], ids=["ratio of times", "refined"])
def reduced(request, night, tmp_path_factory):
    raw, _ = night
    out = tmp_path_factory.mktemp("out")
    settings = parse_config(SETTINGS.format(str(request.param).lower()), "night.toml")
    assert run_plan(build_plan(raw, settings), out).failed == ()
    return request.param, out


def test_the_factor_is_that_of_the_sensor_in_each_frame(night, reduced):
    refined, out = reduced
    for factor, (_, frame) in night[1].items():
        header = fits.getheader(out / "science" / frame.file)
        used = header.get("DARKSREF", header["DARKSCAL"])
        assert header["DARKSCAL"] == pytest.approx(60 / 90)
        assert used == pytest.approx(60 / 90 * (factor if refined else 1.0), rel=0.01)


def test_hot_pixels_are_at_the_level_of_their_surroundings(night, reduced):
    """To 2 % of their dark current; with the ratio of the times 26/126 of it stay."""
    refined, out = reduced
    for factor, (detector, frame) in night[1].items():
        left = fits.getdata(out / "science" / frame.file) - detector.truth.expected_signal(frame)
        dark = detector.truth.dark_rate_adu_per_s * 60
        hot = (dark > 300) & (dark < 20_000)
        assert hot.sum() > 100
        part = np.median(left[hot] / dark[hot])
        expected = 0.0 if refined else 1 - 1 / factor
        assert part == pytest.approx(expected, abs=0.02)
