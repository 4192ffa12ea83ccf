"""Masters of frames with cosmic rays and drifting levels, through the engine, against the truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits

from flatcal.engine.run import run_plan
from flatcal.errors import ConfigError
from flatcal.planning import build_plan
from flatcal.recipe import parse_config
from flatcal.simulate.detector import make_detector

EXPOSURE_S = 60.0
HIT_SHARE = 1e-3


def add_cosmic_rays(data, gain, rng):
    """Tracks of one to four pixels in a thousandth of the pixels.

    A particle frees some 80 electrons in each micrometre: 1,000 to 40,000 in a pixel.
    """
    tall, wide = data.shape
    n = int(HIT_SHARE * data.size / 2.5)
    y, x = rng.integers(0, tall, n), rng.integers(0, wide, n)
    dy, dx = rng.integers(-1, 2, n), rng.integers(-1, 2, n)
    size = np.exp(rng.uniform(np.log(1000), np.log(40_000), n)) / gain
    hit = data.astype(float)
    for step in range(4):
        on = rng.integers(1, 5, n) > step
        places = (np.clip(y + step * dy, 0, tall - 1)[on], np.clip(x + step * dx, 0, wide - 1)[on])
        np.add.at(hit, places, size[on])
    return np.clip(hit, 0, 65_535).astype(np.uint16)


class Simulated:
    """Ten frames of each kind in memory, with their truth."""

    def __init__(self, camera):
        self.detector = make_detector(camera, seed=77)
        self.camera = self.detector.camera
        self.band = self.camera.filters[0]
        self.frames, self.hits = [], {}
        rng = np.random.default_rng(5)
        for i in range(10):
            # Levels that drift by a fifth.
            for kind, exposure, level in (
                ("bias", 0.0, 0.0),
                ("dark", EXPOSURE_S, 0.0),
                ("flat", EXPOSURE_S, 20_000.0 * (1 - 0.2 * i / 9)),
            ):
                number = len(self.frames) + 1
                lit = {"level_adu": level, "filter": self.band} if kind == "flat" else {}
                data, header, truth = self.detector.expose(
                    kind, exposure, frame_number=number, **lit
                )
                hit = add_cosmic_rays(data, self.camera.gain_electron_per_adu, rng)
                self.hits[truth.file] = np.mean((hit != data)[self.camera.image_slice])
                self.frames.append((i, hit, header, truth))

    def write(self, folder, n):
        """Files of n frames of each kind, the flats spread over the whole drift."""
        folder.mkdir()
        chosen = set(np.linspace(0, 9, n).round().astype(int))
        for i, data, header, truth in self.frames:
            if i in chosen:
                fits.PrimaryHDU(data, header).writeto(folder / truth.file)
        return [truth for i, _, _, truth in self.frames if i in chosen]

    def expected(self, truths):
        """Each master without noise."""
        truth = self.detector.truth
        current = EXPOSURE_S * truth.dark_rate_adu_per_s

        def level(kind):
            levels = [
                t.bias_level_adu - (t.overscan_level_adu if self.camera.name == "lfc" else 0)
                for t in truths
                if t.kind == kind
            ]
            return truth.bias_adu + np.mean(levels)

        response = truth.flat_response[self.band]
        return {
            "bias": level("bias"),
            "dark": level("dark") + current,
            "flat": response / np.median(response),
        }


@pytest.fixture(scope="module", params=["lfc", "cg16m"])
def simulated(request):
    return Simulated(request.param)


def planes_of(out, kind):
    (path,) = (out / "masters").glob(f"master_{kind}*.fits")
    with fits.open(path) as hdus:
        return hdus[0].header, *(np.array(hdus[name].data) for name in (0, "UNCERT", "MASK"))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_no_outlier_is_left_in_a_master(simulated, n, camera_settings, tmp_path):
    truths = simulated.write(tmp_path / "raw", n)
    config = parse_config(camera_settings[simulated.camera.name], "night.toml")
    result = run_plan(build_plan(tmp_path / "raw", config), tmp_path / "out")
    assert result.failed == ()
    slugs = {caveat.slug for outcome in result.record.outcomes for caveat in outcome.caveats}
    assert "frame-rejected" not in slugs
    for kind, expected in simulated.expected(truths).items():
        header, data, std, mask = planes_of(tmp_path / "out", kind)
        known = (mask == 0) & np.isfinite(expected)
        assert known.mean() > 0.995
        pull = ((data - expected) / std)[known]
        assert abs(np.median(pull)) < 0.05
        assert np.mean(np.abs(pull) > 4) <= 1e-4  # of normal noise alone it is 6.3e-5
        low, high = np.percentile(pull, (15.865, 84.135))
        assert (high - low) / 2 == pytest.approx(1, abs=0.03)
        # What was rejected is what was hit: all but a few, and hardly anything else.
        for i in range(1, n + 1):
            hit = simulated.hits[header[f"INF{i:04d}"]]
            if kind == "flat":  # with the neighbours: nine pixels for one, twelve for two
                assert 4 * hit < header[f"INR{i:04d}"] < 9 * hit
            else:
                assert header[f"INR{i:04d}"] == pytest.approx(hit, rel=0.12)


# -- small nights ------------------------------------------------------------------------

SMALL = "[camera]\ngain_electron_per_adu=2.0\nread_noise_electron=10.0\n"
SHAPE = (40, 50)


def small_night(folder, put_frame, *, levels=(20_000,) * 5, offsets=(0,) * 5, n_bias=5):
    """Biases and flats of plain noise; the flats of some levels, the biases with offsets."""
    rng = np.random.default_rng(12)
    for i, offset in zip(range(n_bias), offsets, strict=False):
        data = rng.normal(1000 + offset, 5, SHAPE).round().astype(np.uint16)
        put_frame(folder / f"b{i}.fits", "BIAS", 0.0, data)
    for i, level in enumerate(levels):
        light = rng.poisson(2 * level, SHAPE) / 2 + rng.normal(1000, 5, SHAPE)
        put_frame(folder / f"f{i}.fits", "FLAT", 1.0, light.round().astype(np.uint16), FILTER="r")
    return folder


def reduce(raw, out, combine="", **options):
    text = SMALL + "[dark]\nrequired=false\n[combine]\n" + combine
    return run_plan(build_plan(raw, parse_config(text, "night.toml")), out, **options)


def stack_of(raw, letter):
    paths = sorted(raw.glob(f"{letter}*.fits"))
    return np.array([fits.getdata(path).astype(float) for path in paths])


def test_a_frame_that_is_unlike_its_siblings_is_named(tmp_path, put_frame):
    raw = small_night(tmp_path / "raw", put_frame, offsets=(0, 0, 0, 40, 0))
    result = reduce(raw, tmp_path / "out")
    named = {o.file: [c.slug for c in o.caveats] for o in result.record.outcomes if o.caveats}
    slugs = {file for file, its in named.items() if "frame-rejected" in its}
    assert slugs == {"b3.fits"}
    product = result.record.products["masters/master_bias.fits"]
    assert product.rejected[3] > 0.9
    assert max(product.rejected[:3]) < 0.01
    header, data, _, _ = planes_of(tmp_path / "out", "bias")
    assert header["INR0004"] == product.rejected[3]
    assert np.mean(data) == pytest.approx(1000, abs=0.5)
    # A later run knows as much from the files alone.
    (tmp_path / "out/run.json").unlink()
    again = reduce(raw, tmp_path / "out")
    assert again.made == ()
    assert again.record.outcomes == result.record.outcomes
    assert again.record.products == result.record.products
    assert json.loads((tmp_path / "out/run.json").read_text())["products"]


def test_a_level_that_drifts_without_an_overscan_costs_no_values(tmp_path, put_frame):
    raw = small_night(tmp_path / "raw", put_frame, offsets=(0, 15, -15, 30, -30))
    result = reduce(raw, tmp_path / "out")
    rejected = result.record.products["masters/master_bias.fits"].rejected
    assert max(rejected) < 0.1  # by the noise alone it would be half of two frames


def test_a_gain_that_is_wrong_costs_no_values(tmp_path, put_frame):
    raw = small_night(tmp_path / "raw", put_frame)
    text = SMALL.replace("2.0", "30.0") + "[dark]\nrequired=false\n"
    result = run_plan(build_plan(raw, parse_config(text, "x")), tmp_path / "out")
    assert max(result.record.products["masters/master_flat_r.fits"].rejected) < 1e-3


@pytest.mark.parametrize(
    ("how", "levels"),
    [
        ("", (40_000, 20_000, 10_000, 5_000)),
        ('weights="inverse_variance"\n', (40_000, 20_000, 10_000, 5_000)),
        ('method="median"\n', (10_000, 9_900, 9_800)),
        ('method="median"\n', (10_000, 9_900, 9_800, 9_700)),
    ],
)
def test_the_uncertainty_is_that_of_the_method(tmp_path, put_frame, how, levels):
    raw = small_night(tmp_path / "raw", put_frame, levels=levels)
    assert reduce(raw, tmp_path / "out", how).failed == ()
    _, data, std, _ = planes_of(tmp_path / "out", "flat")
    # 1,900 pixels tell a standard deviation to 1.6 %; the bias adds a little.
    assert data.std() == pytest.approx(np.median(std), rel=0.06)


def test_faint_flats_weigh_less(tmp_path, put_frame):
    levels = (40_000, 4_000, 4_000)
    raw = small_night(tmp_path / "raw", put_frame, levels=levels)
    result = {}
    for how in ("equal", "inverse_variance"):
        reduce(raw, tmp_path / how, f'weights="{how}"\nreject="none"\n')
        result[how] = planes_of(tmp_path / how, "flat")[1].std()
    bias = stack_of(raw, "b").mean(axis=0)
    flats = np.array([flat / np.median(flat) for flat in stack_of(raw, "f") - bias])
    variance = np.array([1 / (2 * level) + 25 / level**2 for level in levels])
    expected = np.average(flats, axis=0, weights=1 / variance)
    _, data, _, _ = planes_of(tmp_path / "inverse_variance", "flat")
    np.testing.assert_allclose(data, expected / np.median(expected), rtol=1e-5)
    assert result["inverse_variance"] < 0.7 * result["equal"]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ('reject="minmax"\n', lambda s: np.sort(s, axis=0)[1:-1].mean(axis=0)),
        ('reject="none"\nmethod="median"\n', lambda s: np.median(s, axis=0)),
        (
            'reject="none"\nhigh_threshold_adu=1004.0\n',
            lambda s: np.ma.masked_greater(s, 1004).mean(axis=0).filled(np.nan),
        ),
    ],
)
def test_settings_reach_the_masters(tmp_path, put_frame, how, expected):
    raw = small_night(tmp_path / "raw", put_frame, levels=())
    reduce(raw, tmp_path / "out", how)
    _, data, _, mask = planes_of(tmp_path / "out", "bias")
    wanted = expected(stack_of(raw, "b"))
    np.testing.assert_array_equal(mask != 0, np.isnan(wanted))
    np.testing.assert_allclose(data[mask == 0], wanted[mask == 0], rtol=1e-6)


def test_grow_does_not_depend_on_bands(tmp_path, put_frame):
    raw = small_night(tmp_path / "raw", put_frame, levels=())
    for i in range(5):
        with fits.open(raw / f"b{i}.fits", mode="update") as hdus:
            hdus[0].data[i::7, 3 * i :: 11] += 900
    outs = []
    for name, options in (("wide", {}), ("narrow", {"memory_bytes": 60_000, "jobs": 1})):
        reduce(raw, tmp_path / name, "grow_pixels=1.5\n", **options)
        outs.append((tmp_path / name / "masters/master_bias.fits").read_bytes())
    assert outs[0] == outs[1]
    stack = stack_of(raw, "b")
    hit = stack > 1500
    grown = hit.copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            shifted = np.zeros_like(hit)
            shifted[:, max(0, dy) : 40 + min(0, dy), max(0, dx) : 50 + min(0, dx)] = hit[
                :, max(0, -dy) : 40 + min(0, -dy), max(0, -dx) : 50 + min(0, -dx)
            ]
            grown |= shifted
    _, data, _, mask = planes_of(tmp_path / "wide", "bias")
    np.testing.assert_allclose(
        data, np.ma.masked_array(stack, grown).mean(axis=0).filled(np.nan), rtol=1e-6
    )
    assert not mask.any()


def test_a_rejection_that_leaves_nothing_is_refused(tmp_path, put_frame):
    raw = small_night(tmp_path / "raw", put_frame)
    text = SMALL + '[combine]\nreject="minmax"\nn_low=2\nn_high=3\n'
    with pytest.raises(ConfigError) as caught:
        build_plan(raw, parse_config(text, "night.toml"))
    assert caught.value.slug == "nothing-left"
    for figure in ("n_low = 2", "n_high = 3", "5 frames", "master_bias"):
        assert figure in caught.value.text


def test_a_rejection_that_can_reject_nothing_is_told(tmp_path, put_frame):
    raw = small_night(tmp_path / "raw", put_frame)
    text = SMALL + '[dark]\nrequired=false\n[combine]\nreject="sigma"\nspread="std"\n'
    plan = build_plan(raw, parse_config(text, "night.toml"))
    for frame in plan.frames:
        (caveat,) = [c for c in frame.caveats if c.slug == "rejects-nothing"]
        assert "at most 2.50 standard deviations" in caveat.text
        assert "take 24 frames" in caveat.text
