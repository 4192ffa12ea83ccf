"""Levels of an overscan: against numpy's and scipy's fits, and against levels that are known."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from astropy.io import fits
from numpy.polynomial import Chebyshev, Legendre, Polynomial
from scipy.interpolate import LSQUnivariateSpline

from flatcal.engine.headers import state_cards
from flatcal.engine.run import run_plan
from flatcal.index import find_frames
from flatcal.levels import fit_levels, level_variance, row_levels
from flatcal.overscan_model import OverscanModel
from flatcal.plan import Step
from flatcal.planning import plan_frames
from flatcal.recipe import parse_config
from flatcal.verify import verify_output
from flatcal.verify.records import Verdict

SIGMA = 5.0
MODELS = {
    "per_row": OverscanModel(),
    "constant": OverscanModel("constant"),
    "polynomial": OverscanModel("polynomial", 3),
    "legendre": OverscanModel("legendre", 4),
    "chebyshev": OverscanModel("chebyshev", 5),
    "spline": OverscanModel("spline", 6),
}
FITTED = [name for name in MODELS if name != "per_row"]


def fit_by_library(levels, model):
    """The same fit by those who are known for it, without rejection."""
    x = np.arange(levels.size, dtype=float)
    if model.function == "spline":
        knots = np.linspace(0, levels.size - 1, model.order + 1)[1:-1]
        return LSQUnivariateSpline(x, levels, knots)(x)
    kinds = {"constant": Polynomial, "polynomial": Polynomial, "legendre": Legendre}
    return kinds.get(model.function, Chebyshev).fit(x, levels, model.order)(x)


def curve(n_rows, amplitude=40.0):
    """A level that no cubic follows to better than 0.4 % of its amplitude."""
    x = np.linspace(0, 1, n_rows)
    return 1000 + amplitude * (np.exp(-3 * x) + 0.2 * x)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("n_columns", [1, 2, 7, 32, 201])
def test_the_level_of_a_row_is_the_median_that_numpy_finds(dtype, n_columns):
    block = np.random.default_rng(1).integers(60_000, 65_000, (40, n_columns)).astype(dtype)
    before = block.copy()
    levels = row_levels(block, "median")
    assert levels.dtype == np.float64
    np.testing.assert_array_equal(levels, np.median(block.astype(np.float64), axis=1))
    np.testing.assert_array_equal(block, before)


@pytest.mark.parametrize("name", FITTED)
def test_fits_are_those_of_numpy_and_scipy(name):
    model = MODELS[name]
    levels = curve(300) + np.random.default_rng(3).normal(0, 2, 300)
    everything = OverscanModel(model.function, model.order, iterations=0)
    np.testing.assert_allclose(
        fit_levels(levels, everything), fit_by_library(levels, model), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("name", FITTED)
def test_rows_that_are_far_off_do_not_count(name):
    """A star that bleeds into the overscan over 40 rows, rows with a cosmic ray, a lost row."""
    model = MODELS[name]
    rng = np.random.default_rng(4)
    clean = rng.normal(1000, 1.0, 400)
    spoilt = clean.copy()
    off = np.r_[100:140, 7, 250, 399]
    spoilt[off] += rng.uniform(30, 3000, off.size)
    spoilt[300] = np.nan
    used = np.ones(400, bool)
    used[[*off, 300]] = False
    # What the parameters cannot tell in rows that are left out: some errors of a fit without.
    error = np.sqrt(model.n_parameters / 400)
    found = fit_levels(spoilt, model)
    assert np.abs(found - fit_levels(clean, model))[used].max() < 4 * error
    not_rejected = fit_levels(spoilt, OverscanModel(model.function, model.order, iterations=0))
    assert np.abs(not_rejected - 1000).max() > 20


def test_low_and_high_rejection_are_told_apart():
    levels = np.random.default_rng(5).normal(100, 1.0, 500)
    levels[::10] += 50
    levels[5::10] -= 50
    high = OverscanModel("constant", low_sigma=1e9, high_sigma=4)
    low = OverscanModel("constant", low_sigma=4, high_sigma=1e9)
    assert fit_levels(levels, high)[0] == pytest.approx(100 - 50 / 9, abs=0.3)
    assert fit_levels(levels, low)[0] == pytest.approx(100 + 50 / 9, abs=0.3)


@pytest.mark.parametrize("statistic", ["median", "mean", "clipped_mean"])
@pytest.mark.parametrize("name", MODELS)
def test_the_variance_of_the_level_is_what_repeated_noise_gives(name, statistic):
    model, shape = MODELS[name], (120, 25)
    rng = np.random.default_rng(6)
    truth = curve(shape[0], 0.0)
    squares = [
        np.mean((fit_levels(row_levels(block, statistic, model), model) - truth) ** 2)
        for block in (rng.normal(truth[:, None], SIGMA, shape) for _ in range(300))
    ]
    error = np.std(squares) / np.sqrt(len(squares))
    # Of a median of 25 values it is 2 % less than that of many.
    predicted = level_variance(SIGMA**2, shape, statistic, model)
    assert np.mean(squares) == pytest.approx(predicted, rel=0.05, abs=4 * error)


def test_a_clipped_mean_leaves_out_cosmic_rays_and_what_is_saturated():
    block = np.random.default_rng(7).normal(1000, SIGMA, (50, 20))
    expected = block.mean(axis=1)
    block[10, 3] = 5000
    block[11, 4:8] = 60_000
    block[12, :] = 60_000
    found = row_levels(block, "clipped_mean", saturation=60_000)
    assert np.isnan(found[12])
    good = np.arange(50) != 12
    # Less than the noise of a mean of 20 by those pixels, and by noise beyond 3 sigma.
    assert np.abs(found - expected)[good].max() < SIGMA
    assert np.abs(found - expected)[good].max() > 0
    plain = row_levels(block, "mean", saturation=60_000)
    assert plain[10] - expected[10] > 190


def test_levels_without_a_good_row_are_no_number():
    assert np.isnan(fit_levels(np.full(30, np.nan), MODELS["spline"])).all()


# -- frames ------------------------------------------------------------------------------

ROWS, COLUMNS, BESIDE, ABOVE = 240, 40, 12, 9
READ_ELECTRON, GAIN = 8.0, 2.0
CAMERA = f"""\
[camera]
overscan_section = "[1:{BESIDE},1:{ROWS}]"
trim_section = "[{BESIDE + 1}:{BESIDE + COLUMNS},1:{ROWS}]"
gain_electron_per_adu = {GAIN}
read_noise_electron = {READ_ELECTRON}
saturation_adu = 60000
"""
PARALLEL = (
    f'parallel_overscan_section = "[{BESIDE + 1}:{BESIDE + COLUMNS},{ROWS + 1}:{ROWS + ABOVE}]"\n'
)
REST = '[dark]\nrequired = false\n[output]\ndtype = "float64"\n'
SKY = 300.0


def model_settings(name, statistic="median"):
    model = MODELS[name]
    order = f"overscan_order = {model.order}\n" if model.order else ""
    return f'overscan_model = "{name}"\noverscan_statistic = "{statistic}"\n{order}'


@pytest.fixture(scope="module")
def raw(tmp_path_factory, put_frame):
    """A prescan left of the image whose level drifts along the rows, and a parallel overscan."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(8)
    by_column = rng.uniform(0, 30, COLUMNS)  # charge that is left in the columns
    structure = rng.uniform(-4, 4, (ROWS, COLUMNS))
    kinds = [("BIAS", 0.0, 0.0)] * 9 + [("FLAT", 1.0, 20_000.0)] * 3 + [("LIGHT", 1.0, SKY)] * 4
    for number, (kind, exposure, light) in enumerate(kinds):
        level = curve(ROWS + ABOVE) + rng.normal(0, 20)
        data = np.repeat(level[:, None], BESIDE + COLUMNS, axis=1)
        data[:, BESIDE:] += by_column
        data[:ROWS, BESIDE:] += structure
        if light:
            data[:ROWS, BESIDE:] += rng.poisson(light * GAIN, (ROWS, COLUMNS)) / GAIN
        data += rng.normal(0, READ_ELECTRON / GAIN, data.shape)
        data[50, 3] = 65_000  # of no use
        put_frame(
            folder / f"f{number:02d}.fits", kind, exposure, data.round().astype(np.uint16),
            BUNIT="adu", FILTER="r" if light else None,
        )  # fmt: skip
    return folder


def plan(raw, camera):
    config = parse_config(CAMERA + camera + REST, "night.toml")
    return plan_frames(raw, find_frames(raw, config), config)


def reduce(raw, out, camera):
    result = run_plan(plan(raw, camera), out)
    assert result.failed == ()
    return result


def values(path, plane=0):
    return fits.getdata(path, plane).astype(np.float64)


@pytest.mark.parametrize(
    ("name", "statistic"),
    [*((name, "median") for name in MODELS), ("per_row", "mean"), ("legendre", "mean")],
)
def test_a_run_subtracts_what_plain_numpy_finds(raw, tmp_path, name, statistic):
    model = MODELS[name]
    # Nothing is rejected, so that the libraries can tell.
    rejects = "" if name == "per_row" else "overscan_iterations = 0\n"
    camera = model_settings(name, statistic) + rejects + PARALLEL
    reduce(raw, tmp_path, camera)
    pixels = values(raw / "f12.fits")
    pixels[50, 3] = np.nan
    average = np.nanmedian if statistic == "median" else np.nanmean
    level = average(pixels[:, :BESIDE], axis=1)
    if name != "per_row":
        level = fit_by_library(level, model)
    pixels -= level[:, None]
    pixels -= np.append(np.zeros(BESIDE), average(pixels[ROWS:, BESIDE:], axis=0))
    image = pixels[:ROWS, BESIDE:] - values(tmp_path / "masters/master_bias.fits")
    image /= values(tmp_path / "masters/master_flat_r.fits")
    np.testing.assert_allclose(values(tmp_path / "science/science-f12.fits"), image, atol=1e-6)


@pytest.mark.parametrize("name", ["per_row", "constant", "legendre", "spline"])
def test_a_model_of_the_prescan_gives_the_sky_with_the_noise_it_tells(raw, tmp_path, name):
    reduce(raw, tmp_path, model_settings(name))
    pulls, rows = [], []
    for path in sorted((tmp_path / "science").iterdir()):
        data, std = values(path), values(path, "UNCERT")
        pulls.append((data - SKY) / std)
        rows.append((data - SKY).mean(axis=1))
    scatter, along = np.std(pulls), np.std(rows)
    noise = np.sqrt(SKY / GAIN + (READ_ELECTRON / GAIN) ** 2) / np.sqrt(COLUMNS)
    if name == "constant":
        # The drift is in the master bias too, and goes with it.
        assert scatter == pytest.approx(1, abs=0.03)
        return
    assert np.mean(pulls) == pytest.approx(0, abs=0.03)
    assert scatter == pytest.approx(1, abs=0.02)
    by_level = np.sqrt(np.pi / 2 / BESIDE) * READ_ELECTRON / GAIN if name == "per_row" else 0.0
    assert along == pytest.approx(np.hypot(noise, by_level), rel=0.06)


def test_the_overscan_read_ahead_is_hashed_once_and_is_that_of_a_packed_file(raw, tmp_path):
    camera = model_settings("spline") + PARALLEL
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in raw.iterdir():
        with fits.open(path) as hdus:
            hdu = fits.CompImageHDU(hdus[0].data, hdus[0].header, compression_type="RICE_1")
            hdu.writeto(packed / path.name)
    result = reduce(raw, tmp_path / "plain", camera)
    reduce(packed, tmp_path / "of_packed", camera)
    for path in (tmp_path / "plain").rglob("*.fits"):
        other = tmp_path / "of_packed" / path.relative_to(tmp_path / "plain")
        np.testing.assert_array_equal(values(path), values(other))
    for file, record in result.record.inputs.items():
        assert record.sha256 == sha256((raw / file).read_bytes()).hexdigest()


@pytest.mark.parametrize("camera", ["", model_settings("spline") + PARALLEL])
def test_verify_holds_the_noise_against_the_model(raw, tmp_path, camera):
    """Of 12 columns a level by itself adds 13 % to the variance, a function through all none."""
    reduce(raw, tmp_path, camera)
    checks = {check.test: check for check in verify_output(tmp_path).checks}
    for test in ("bias-noise", "bias-halves", "bias-uncertainty"):
        assert checks[test].verdict is Verdict.PASS, checks[test]


def test_the_longest_model_fits_into_a_card():
    step = Step(
        name="subtract_overscan",
        section="[1:2,1:2]",
        statistic="clipped_mean",
        model=OverscanModel("spline", 30),
    )
    cards = state_cards([step])
    assert cards["OSCANMOD"] == "cubic spline of 30 pieces through row clipped means"
    assert len(cards.cards["OSCANMOD"].image) == 80  # and astropy does not warn


def test_the_plan_and_the_headers_tell_the_model(raw, tmp_path):
    made = plan(raw, model_settings("spline") + PARALLEL)
    steps = [str(step) for step in made.find_frame("f12.fits").steps]
    assert steps[:3] == [
        "overscan cubic spline of 6 pieces through row medians of [1:12,1:240]",
        "parallel overscan median of [13:52,241:249]",
        "trim to [13:52,1:240]",
    ]
    assert run_plan(made, tmp_path).failed == ()
    header = fits.getheader(tmp_path / "science/science-f12.fits")
    assert header["OSCANSUB"] is True
    assert header["OSCANMOD"] == "cubic spline of 6 pieces through row medians"
    assert header["POSCNSEC"] == "[13:52,241:249]"


@pytest.mark.parametrize(
    ("camera", "slug", "words"),
    [
        ("overscan_order = 3\n", "overscan-model", "overscan_order = 3 has no effect"),
        ('overscan_model = "constant"\noverscan_order = 3\n', "overscan-model", "no effect"),
        ("overscan_low_sigma = 3.0\n", "overscan-model", "overscan_low_sigma = 3 has no effect"),
        ('overscan_model = "spline"\noverscan_order = 0\n', "overscan-model", "one piece"),
        (
            f'parallel_overscan_section = "[13:52,{ROWS}:{ROWS + 5}]"\n',
            "bad-section",
            "some of the rows that are kept, 1 to 240",
        ),
        (
            f'parallel_overscan_section = "[14:52,{ROWS + 1}:{ROWS + 5}]"\n',
            "bad-section",
            "not all of the columns that are kept, 13 to 52",
        ),
    ],
)
def test_settings_that_contradict_themselves_are_refused(raw, camera, slug, words):
    config = parse_config(CAMERA + camera + REST, "night.toml")
    for frame in find_frames(raw, config):
        (error,) = frame.errors
        assert error.slug == slug
        assert words in error.text


def test_more_parameters_than_rows_can_tell_are_refused(tmp_path, put_frame):
    put_frame(tmp_path / "b.fits", "BIAS", 0.0)  # of 10 rows
    config = parse_config('[camera]\noverscan_model = "spline"\noverscan_order = 4\n', "night.toml")
    (frame,) = find_frames(tmp_path, config)
    assert [error.slug for error in frame.errors] == ["overscan-model"]
    assert "7 parameters, too many for 10 rows" in frame.errors[0].text


# -- several amplifiers ------------------------------------------------------------------

TWO = """\
[camera]
saturation_adu = 60000
[[camera.amplifiers]]
name = "left"
data_section = "[13:32,1:240]"
overscan_section = "[1:12,1:240]"
[[camera.amplifiers]]
name = "right"
data_section = "[33:52,1:240]"
overscan_section = "[53:64,1:240]"
"""


def test_each_amplifier_has_a_fit_of_its_own(tmp_path, put_frame):
    """A prescan at the left and an overscan at the right, which drift apart; counts that bend."""
    rng = np.random.default_rng(9)
    for number, (kind, exposure) in enumerate([("BIAS", 0.0)] * 3 + [("LIGHT", 1.0)]):
        data = rng.normal(3000 if exposure else 1000, 4, (ROWS, 64))
        data[:, :32] += curve(ROWS)[:, None]
        data[:, 32:] += 3 * curve(ROWS)[::-1, None]
        put_frame(
            tmp_path / f"raw/a{number}.fits", kind, exposure, data.round().astype(np.uint16),
            BUNIT="adu", FILTER="r",
        )  # fmt: skip
    camera = model_settings("chebyshev") + "overscan_iterations = 0\n"
    camera += "linearity_coefficients = [2e-5]\n"
    text = TWO.replace("[camera]\n", f"[camera]\n{camera}", 1) + REST
    text += "[science]\nflat_required = false\n"
    config = parse_config(text, "night.toml")
    made = plan_frames(tmp_path / "raw", find_frames(tmp_path / "raw", config), config)
    assert run_plan(made, tmp_path / "out").failed == ()
    pixels = values(tmp_path / "raw/a3.fits")
    parts = []
    for beside, data in ((slice(0, 12), slice(12, 32)), (slice(52, 64), slice(32, 52))):
        level = fit_by_library(np.median(pixels[:, beside], axis=1), MODELS["chebyshev"])
        parts.append(pixels[:, data] - level[:, None])
    signal = np.hstack(parts) - values(tmp_path / "out/masters/master_bias.fits")
    expected = signal * (1 + 2e-5 * signal)
    np.testing.assert_allclose(
        values(tmp_path / "out/science/science-a3.fits"), expected, atol=1e-6
    )


def test_a_parallel_overscan_of_several_amplifiers_is_refused(tmp_path, put_frame):
    put_frame(tmp_path / "b.fits", "BIAS", 0.0, np.ones((ROWS + ABOVE, 64), np.uint16))
    text = TWO.replace("[camera]\n", f"[camera]\n{PARALLEL}", 1)
    (frame,) = find_frames(tmp_path, parse_config(text, "night.toml"))
    assert [error.slug for error in frame.errors] == ["bad-section"]
    assert "is for one amplifier" in frame.errors[0].text
