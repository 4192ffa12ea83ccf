"""Gain, read noise and photon transfer curve against the values that the frames were made with."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from typer.testing import CliRunner

from flatcal import measure_gain, measure_photon_transfer
from flatcal.cli import app
from flatcal.draft import draft_config
from flatcal.errors import FrameError
from flatcal.photon_transfer import shot_variance
from flatcal.photon_transfer.boxes import clipped_moments, truncation_factor
from flatcal.recipe import parse_config
from flatcal.simulate import make_detector

GAIN, READ_NOISE = 1.6, 9.0


class Camera:
    """Frames of a detector: Poisson's and gaussian noise, bias pattern, response, rounding."""

    def __init__(self, shape, seed, read_noise=READ_NOISE):
        self.rng = np.random.default_rng(seed)
        self.shape, self.read_noise = shape, read_noise
        self.y, self.x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
        self.response = 1 + 0.01 * self.rng.standard_normal(shape)
        self.response *= 1 - 0.3 * ((self.x - 0.5) ** 2 + (self.y - 0.5) ** 2)
        self.bias = 1000 + self.rng.normal(0, 1.5, (1, shape[1]))

    def expose(self, level_adu=0.0, gradient=0.0, a00=None):
        mean = level_adu * self.response * (1 + gradient * self.x)
        if a00 is None:
            light = self.rng.poisson(mean * GAIN) / GAIN
        else:
            variance = np.expm1(2 * a00 * mean * GAIN) / (2 * a00 * GAIN**2)
            light = mean + self.rng.standard_normal(self.shape) * np.sqrt(variance)
        noise = self.rng.normal(0, self.read_noise / GAIN, self.shape)
        return np.clip(np.rint(self.bias + light + noise), 0, 65535).astype(np.uint16)

    def hit(self, frame, n):
        """Cosmic rays of up to some thousand ADU."""
        y, x = (self.rng.integers(0, size, n) for size in self.shape)
        frame[y, x] = np.minimum(frame[y, x] + self.rng.exponential(2000, n), 65535)


def pair_of(camera, level_adu, **keywords):
    return camera.expose(level_adu, **keywords), camera.expose(level_adu, **keywords)


# -- gain and read noise -------------------------------------------------------------------


def test_one_pair_of_2048_gives_gain_to_1_percent_and_read_noise_to_5():
    """Levels 20 % apart, another gradient, vignetting, cosmic rays, bad columns, an overscan."""
    camera = Camera((2048, 2048), seed=11)
    camera.response[:, -64:] = 0
    flat1, flat2 = camera.expose(20_000.0), camera.expose(16_000.0, gradient=0.05)
    bias1, bias2 = camera.expose(), camera.expose()
    for frame in (flat1, flat2, bias1, bias2):
        camera.hit(frame, 4000)
        frame[:, 700] = 65535
    measured = measure_gain(flat1, flat2, bias1, bias2)
    assert measured.gain_electron_per_adu == pytest.approx(GAIN, rel=0.01)
    assert measured.read_noise_electron == pytest.approx(READ_NOISE, rel=0.05)
    # The errors that it gives itself are far smaller, and hold.
    assert measured.gain_error_electron_per_adu < 0.002 * GAIN
    assert abs(measured.gain_electron_per_adu - GAIN) < 4 * measured.gain_error_electron_per_adu
    rounded = np.hypot(READ_NOISE / GAIN, 12**-0.5)
    assert abs(measured.read_noise_adu - rounded) < 4 * measured.read_noise_error_adu


@pytest.mark.parametrize("name", ["lfc", "cg16m"])
def test_a_pair_of_each_simulated_camera(name):
    detector = make_detector(name)
    facts = detector.camera
    flats = [detector.expose("flat", 1.0, level_adu=20_000.0, frame_number=i)[0] for i in (1, 2)]
    biases = [detector.expose("bias", frame_number=i)[0] for i in (3, 4)]
    measured = measure_gain(*flats, *biases)
    assert measured.gain_electron_per_adu == pytest.approx(facts.gain_electron_per_adu, rel=0.01)
    assert measured.read_noise_electron == pytest.approx(facts.read_noise_electron, rel=0.05)


def test_errors_are_those_of_many_pairs():
    camera = Camera((256, 256), seed=5)
    pulls = []
    for _ in range(24):
        measured = measure_gain(*pair_of(camera, 8000.0), *pair_of(camera, 0.0))
        error = measured.gain_error_electron_per_adu
        pulls.append((measured.gain_electron_per_adu - GAIN) / error)
    assert abs(np.mean(pulls)) < 4 / np.sqrt(len(pulls))
    assert 0.6 < np.std(pulls) < 1.5


def test_plain_numpy_agrees_where_nothing_is_odd():
    camera = Camera((512, 512), seed=2)
    camera.response[:] = 1
    (flat1, flat2), (bias1, bias2) = pair_of(camera, 5000.0), pair_of(camera, 0.0)
    signal = flat1.mean() + flat2.mean() - bias1.mean() - bias2.mean()
    of_flats, of_biases = (np.var(a.astype(float) - b) for a, b in ((flat1, flat2), (bias1, bias2)))
    measured = measure_gain(flat1, flat2, bias1, bias2)
    assert measured.gain_electron_per_adu == pytest.approx(
        signal / (of_flats - of_biases), rel=5e-3
    )
    assert measured.read_noise_adu == pytest.approx(np.sqrt(of_biases / 2), rel=5e-3)


def test_masked_and_saturated_pixels_do_not_count():
    camera = Camera((256, 256), seed=7)
    flats, biases = pair_of(camera, 20_000.0), pair_of(camera, 0.0)
    clean = measure_gain(*flats, *biases)
    mask = np.zeros(camera.shape, bool)
    mask[::20, ::3] = True
    flats[0][::20, ::3] += 500  # too little to be an outlier
    spoilt = measure_gain(*flats, *biases)
    assert abs(spoilt.gain_electron_per_adu / clean.gain_electron_per_adu - 1) > 0.02
    masked = CCDData(flats[0], unit="adu", mask=mask)
    for again in (
        measure_gain(masked, flats[1], *biases),
        measure_gain(*flats, *biases, mask=mask),
    ):
        assert again.gain_electron_per_adu == pytest.approx(clean.gain_electron_per_adu, rel=0.01)
        assert again.point.n_pixels < clean.point.n_pixels
    half = np.where(camera.x > 0.5, 65535, flats[1])
    lit = measure_gain(flats[0], half, *biases, saturation_adu=65535)
    assert lit.point.n_boxes == pytest.approx(clean.point.n_boxes / 2, abs=8)


def test_what_cannot_be_measured_is_refused():
    camera = Camera((128, 128), seed=3)
    flats, biases = pair_of(camera, 5000.0), pair_of(camera, 0.0)
    with pytest.raises(FrameError, match=r"ADU above the bias.*\[gain-not-measured\]"):
        measure_gain(*pair_of(camera, 0.0), *biases)
    with pytest.raises(FrameError, match=r"0 boxes.*\[gain-not-measured\]"):
        measure_gain(*flats, *biases, saturation_adu=2000)
    with pytest.raises(FrameError, match=r"\(127, 128\), \(128, 128\).*\[frame-shape\]"):
        measure_gain(flats[0][:-1], flats[1], *biases)
    with pytest.raises(FrameError, match=r"electron.*\[bad-unit\]"):
        measure_gain(CCDData(flats[0], unit=u.electron), flats[1], *biases)


def test_clipping_keeps_the_variance_of_normal_noise():
    values = np.random.default_rng(1).normal(50, 3, (40, 20_000))
    mean, variance, n = clipped_moments(values)
    # Uncorrected, it would be 1e-3 too small.
    assert variance.mean() == pytest.approx(values.var(axis=1, ddof=1).mean(), rel=4e-4)
    assert mean.mean() == pytest.approx(50, abs=0.02)
    assert n.mean() < values.shape[1]
    # By the tables of the normal distribution: what is left of the variance beyond 3 sigma.
    assert truncation_factor(3.0) == pytest.approx(0.97334, abs=1e-5)


# -- the photon transfer curve ---------------------------------------------------------------

A00 = -2.0e-6
LEVELS = (1000.0, 3000.0, 8000.0, 16_000.0, 26_000.0, 36_000.0)


def test_the_model_is_that_of_astier():
    """Against its own series: mu / g + a00 mu^2 + 2/3 a00^2 g mu^3 and so on."""
    mu = np.array([10.0, 1000.0, 20_000.0])
    series = mu / GAIN + A00 * mu**2 + 2 / 3 * A00**2 * GAIN * mu**3 + A00**3 * GAIN**2 * mu**4 / 3
    assert shot_variance(mu, GAIN, A00) == pytest.approx(series, rel=1e-5)
    assert shot_variance(mu, GAIN, 0.0) == pytest.approx(mu / GAIN)


@pytest.fixture(scope="module")
def bent():
    """Pairs of a detector with the brighter-fatter effect, and two bias frames."""
    camera = Camera((512, 512), seed=4)
    pairs = [(camera.expose(v, a00=A00), camera.expose(0.9 * v, a00=A00)) for v in LEVELS]
    return pairs, pair_of(camera, 0.0)


def test_the_brighter_fatter_term_is_found(bent):
    pairs, biases = bent
    curve = measure_photon_transfer(pairs, *biases)
    assert curve.model == "brighter-fatter"
    assert curve.gain_electron_per_adu == pytest.approx(GAIN, rel=0.01)
    assert abs(curve.gain_electron_per_adu - GAIN) < 4 * curve.gain_error_electron_per_adu
    assert curve.a00_per_electron == pytest.approx(A00, rel=0.1)
    assert abs(curve.a00_per_electron - A00) < 4 * curve.a00_error_per_electron
    assert curve.read_noise_electron == pytest.approx(READ_NOISE, rel=0.02)
    assert curve.chi_square_reduced < 4
    # One bright pair by itself is wrong by what the term corrects.
    bright = measure_gain(*pairs[-1], *biases)
    assert bright.gain_electron_per_adu > 1.05 * GAIN


def test_levels_that_cannot_tell_the_term_say_so(bent):
    pairs, biases = bent
    near = measure_photon_transfer([pairs[-1]] * 3, *biases)
    assert near.model == "linear"
    assert "do not tell the brighter-fatter term from the gain" in near.model_reason
    assert near.a00_per_electron is None
    one = measure_photon_transfer(pairs[:1], *biases)
    assert one.model == "linear"
    assert "one pair" in one.model_reason


def test_without_the_effect_none_is_found():
    camera = Camera((384, 384), seed=8)
    pairs = [pair_of(camera, level) for level in LEVELS]
    curve = measure_photon_transfer(pairs, *pair_of(camera, 0.0))
    assert curve.model == "brighter-fatter"
    assert abs(curve.a00_per_electron) < 4 * curve.a00_error_per_electron
    assert abs(curve.gain_electron_per_adu - GAIN) < 4 * curve.gain_error_electron_per_adu


def test_a_pair_beyond_the_full_well_is_not_fitted(bent):
    pairs, biases = bent
    # Full pixels share their charge: the level still grows, the scatter falls.
    full = tuple(np.rint(45_000 + 0.4 * (f - f.mean())).astype(np.uint16) for f in pairs[-1])
    curve = measure_photon_transfer([*pairs, full], *biases)
    assert curve.n_left_out == 1
    assert curve.points[-1].level1_adu > 40_000
    assert curve.gain_electron_per_adu == pytest.approx(GAIN, rel=0.01)


# -- of a folder -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory, put_frame):
    """Two filters with three flats each, so that one of each has no partner."""
    raw = tmp_path_factory.mktemp("raw")
    camera = Camera((256, 320), seed=6)
    common = {"INSTRUME": "Nameless", "GAIN": 4, "BUNIT": "adu"}
    for i in range(3):
        put_frame(raw / f"b{i}.fits", "BIAS", 0.0, camera.expose(), **common)
        for name, tilt in (("g", 0.0), ("r", 0.5)):
            flat = camera.expose(9000.0 + 500 * i, gradient=tilt)
            put_frame(raw / f"{name}{i}.fits", "FLAT", 1.0, flat, FILTER=name, **common)
    return raw


def test_pairs_are_of_one_filter_and_the_card_is_named(folder):
    result = CliRunner().invoke(app, ["measure", str(folder), "--json"])
    assert result.exit_code == 0
    (detector,) = json.loads(result.stdout)["detectors"]
    assert detector["flat_pairs"] == [["g0.fits", "g1.fits"], ["r0.fits", "r1.fits"]]
    assert detector["bias_pairs"] == [["b0.fits", "b1.fits"]]
    assert detector["curve"]["gain_electron_per_adu"] == pytest.approx(GAIN, rel=0.02)
    assert detector["read_noise_electron"] == pytest.approx(READ_NOISE, rel=0.05)
    (caveat,) = detector["caveats"]
    assert caveat["slug"] == "gain-doubt"
    assert "the card GAIN says 4" in caveat["text"]


def test_the_table_says_the_same(folder):
    result = CliRunner().invoke(app, ["measure", str(folder)])
    assert result.exit_code == 0
    assert "from 2 flat and 1 bias pairs" in result.stdout
    assert "the card GAIN says 4" in result.stdout


def test_a_draft_has_what_was_measured(folder):
    text = draft_config(folder)
    camera = parse_config(text, "draft").camera
    assert camera.gain_electron_per_adu == pytest.approx(GAIN, rel=0.02)
    assert camera.read_noise_electron == pytest.approx(READ_NOISE, rel=0.05)
    assert "# Measured by flatcal from pairs of frames: 2 of flats, 1 of bias frames." in text
    assert "# the card GAIN says 4" in text


def test_a_draft_says_why_nothing_was_measured(tmp_path, put_frame):
    camera = Camera((128, 128), seed=9)
    for i in range(2):
        put_frame(tmp_path / f"b{i}.fits", "BIAS", 0.0, camera.expose(), INSTRUME="Nameless")
    text = draft_config(tmp_path)
    assert "# Not measured: there are no flats, and no two that are alike." in text
    assert parse_config(text, "draft").camera.gain_electron_per_adu is None
    result = CliRunner().invoke(app, ["measure", str(tmp_path)])
    assert "not measured: there are no flats" in result.stdout


def test_the_noise_of_the_overscan_is_not_the_read_noise(tmp_path, put_frame):
    """Ten columns raise the variance of each pixel by a factor of 1 + pi / 20."""
    camera = Camera((512, 330), seed=10)
    camera.response[:, 320:] = 0
    cards = {"INSTRUME": "Nameless", "BIASSEC": "[321:330,1:512]", "TRIMSEC": "[1:320,1:512]"}
    for i in range(2):
        drift = camera.rng.normal(0, 30, (512, 1)).round().astype(np.uint16)
        bias = camera.expose() + 200 + drift
        put_frame(tmp_path / f"b{i}.fits", "BIAS", 0.0, bias, **cards)
        flat = camera.expose(9000.0) + 200
        put_frame(tmp_path / f"f{i}.fits", "FLAT", 1.0, flat, FILTER="g", **cards)
    result = CliRunner().invoke(app, ["measure", str(tmp_path), "--json"])
    (detector,) = json.loads(result.stdout)["detectors"]
    assert detector["read_noise_adu"] == pytest.approx(READ_NOISE / GAIN, rel=0.02)
    assert detector["curve"]["gain_electron_per_adu"] == pytest.approx(GAIN, rel=0.02)


def test_frames_are_only_read(folder):
    """A measurement leaves the folder as it is."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    CliRunner().invoke(app, ["measure", str(folder)])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert all(fits.getval(path, "NAXIS") == 2 for path in folder.iterdir())
