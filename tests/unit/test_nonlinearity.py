"""Correction of linearity: a detector whose response is known, and curves that make no sense."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty

import flatcal as ccdp
from flatcal.engine.run import run_plan
from flatcal.errors import ConfigError, StateError
from flatcal.index import find_frames
from flatcal.linearity_curve import curve_of
from flatcal.nonlinearity import load_correction
from flatcal.planning import plan_frames
from flatcal.recipe import load_config, parse_config
from flatcal.saved_plan import load_plan

TOP = 60_000.0
# 6 % of the light are lost at 40 000 ADU, 11 % at 60 000.
LOSS, BEND = 1.2e-6, 1.0e-11
COEFFICIENTS = (1.2e-6, 1.3e-11)
GAIN, READ_ELECTRON, BIAS_ADU = 1.6, 9.6, 1000.0
SHAPE = (64, 80)


def true_of(raw):
    """The law of the detector, written down for itself."""
    return raw * (1 + COEFFICIENTS[0] * raw + COEFFICIENTS[1] * raw**2)


def raw_of(true):
    """What the detector gives: its law turned round by bisection."""
    low, high = np.full_like(true, -2000.0), np.full_like(true, 80_000.0)
    for _ in range(50):
        middle = (low + high) / 2
        above = true_of(middle) > true
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2


def write_table(path, points=201, header="raw,true\n"):
    raw = np.linspace(0, TOP, points)
    lines = [f"{r:.6f},{t:.6f}" for r, t in zip(raw, true_of(raw), strict=True)]
    path.write_text(header + "\n".join(lines) + "\n")
    return path


# -- curves ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_forms_make_true_counts(tmp_path, dtype):
    raw = np.concatenate([np.linspace(-50, 100, 301), np.linspace(100, 59_000, 899)])
    curves = [
        curve_of(COEFFICIENTS, None, TOP),
        curve_of(None, str(write_table(tmp_path / "t")), TOP),
    ]
    # Half of the second derivative times the square of half the distance of the points: 0.04.
    for curve, error in zip(curves, (1e-9, 0.08), strict=True):
        counts = raw.reshape(40, 30).astype(dtype)
        load_correction(curve, TOP).apply(counts)
        tolerance = error + (0.008 if dtype is np.float32 else 0)  # two steps of float32
        np.testing.assert_allclose(counts.ravel(), true_of(raw), rtol=0, atol=tolerance)


@pytest.mark.parametrize("form", ["polynomial", "table"])
def test_the_slope_is_the_derivative(tmp_path, form):
    curve = curve_of(COEFFICIENTS, None, TOP)
    if form == "table":
        curve = curve_of(None, str(write_table(tmp_path / "t")), TOP)
    raw = np.linspace(-100, 58_000, 500)
    derivative = 1 + 2 * COEFFICIENTS[0] * raw + 3 * COEFFICIENTS[1] * raw**2
    found = load_correction(curve, TOP).slope_at(true_of(raw))
    np.testing.assert_allclose(found, derivative, rtol=1e-3)


def test_a_table_goes_on_beyond_its_ends_and_flags_what_is_above(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("# raw true\n100 101\n200 203\n")  # begun by 0 0
    correction = load_correction(curve_of(None, str(path), TOP), TOP)
    counts = np.array([[-10.0, 0.0, 50.0, 150.0, 200.0, 300.0, np.nan]])
    flags = np.zeros(counts.shape, np.uint16)
    correction.apply(counts, flags)
    np.testing.assert_allclose(counts, [[-10.1, 0.0, 50.5, 152.0, 203.0, 305.0, np.nan]])
    np.testing.assert_array_equal(flags, [[0, 0, 0, 0, 0, 256, 0]])


def test_irlincor_and_lsst_have_the_same_law_in_other_units():
    """As their documentation has it: ADU' = ADU [c1 + c2 ADU/32767 + c3 (ADU/32767)^2]."""
    raw = np.linspace(0, 32_767, 100)
    irlincor = (1.0, COEFFICIENTS[0] * 32767, COEFFICIENTS[1] * 32767**2)
    by_iraf = raw * (irlincor[0] + irlincor[1] * raw / 32767 + irlincor[2] * (raw / 32767) ** 2)
    by_lsst = raw + sum(c * raw**order for order, c in enumerate(COEFFICIENTS, start=2))
    counts = raw.reshape(10, 10).copy()
    load_correction(curve_of(COEFFICIENTS, None, TOP), TOP).apply(counts)
    np.testing.assert_allclose(counts.ravel(), by_iraf, rtol=1e-12)
    np.testing.assert_allclose(counts.ravel(), by_lsst, rtol=1e-12)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("0 0\n100 101\n100 102\n", "100, 102 is not above the point before it"),
        ("0 0\n100 101\n200 90\n", "200, 90 is not above"),
        ("0 0\n100 nan\n", "100, nan is not above"),
        ("0 5\n100 110\n", "gives 5 for 0 counts"),
        ("0 0 0\n1 1 1\n", "not two columns"),
        ("0 0\n", "not two columns"),
        ("", "not two columns"),
        ("0 0\n1\n", "no table of numbers"),
        ("raw true\n0 zero\n", "no table of numbers"),
    ],
)
def test_tables_that_make_no_sense_are_refused(tmp_path, content, words):
    path = tmp_path / "t.txt"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"linearity_table = .*t\.txt") as caught:
        curve_of(None, str(path), TOP)
    assert words in caught.value.text
    assert caught.value.slug == "linearity-curve"


def test_other_curves_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="fewer counts for more from 49"):
        curve_of((-1.0e-5,), None, TOP)
    with pytest.raises(ConfigError, match="both set"):
        curve_of((1e-6,), str(tmp_path / "t"), TOP)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        curve_of(None, str(tmp_path / "t"), TOP)


def test_the_name_of_a_curve_fits_into_a_card():
    many = curve_of((1.23456789e-6, -1.23456789e-11, 1.23456789e-16), None, TOP).name
    others = curve_of((1.23456789e-6, -1.23456789e-11, 1.2345678e-16), None, TOP).name
    assert many.startswith("polynomial ")
    assert many != others
    header = fits.Header()
    header["LINCURVE"] = (many, "curve that made counts linear")
    assert len(header.tostring(endcard=False, padding=False)) == 80  # and astropy does not warn


def test_no_coefficients_are_no_curve():
    assert curve_of((), None, TOP) is None
    assert curve_of(None, None, TOP) is None


# -- nights ------------------------------------------------------------------------------

CAMERA = f"""\
[camera]
trim_section = "none"
gain_electron_per_adu = {GAIN}
read_noise_electron = {READ_ELECTRON}
saturation_adu = 62000
"""
LEVELS = (2_000.0, 12_000.0, 25_000.0, 40_000.0, 52_000.0)
RATE = 40.0


@pytest.fixture(scope="module")
def sky():
    """The truth: response and dark current of each pixel, and the light of a science frame."""
    rng = np.random.default_rng(11)
    response = 1 + 0.05 * rng.standard_normal(SHAPE).clip(-3, 3)
    rate = np.where(rng.random(SHAPE) < 0.02, 500.0, RATE)  # some pixels are hot
    light = np.geomspace(50, 48_000, SHAPE[1]) * np.ones(SHAPE)
    return response, rate, light


@pytest.fixture(scope="module")
def raw(tmp_path_factory, put_frame, sky):
    """A detector that saturates gently, without an overscan; darks of the flats' exposure time."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(12)
    response, rate, light = sky
    structure = rng.uniform(-30, 30, SHAPE)

    def put(name, kind, exposure, signal, **cards):
        electrons = rng.poisson((signal + rate * exposure) * GAIN)
        adu = raw_of(electrons / GAIN) + BIAS_ADU + structure
        adu += rng.normal(0, READ_ELECTRON / GAIN, SHAPE)
        put_frame(
            folder / f"{name}.fits", kind, exposure, adu.round().astype(np.uint16),
            BUNIT="adu", **cards,
        )  # fmt: skip

    for i in range(7):
        put(f"bias{i}", "BIAS", 0.0, 0.0)
        put(f"dark{i}", "DARK", 10.0, 0.0)
    for i, level in enumerate(LEVELS):
        put(f"flat{i}", "FLAT", 10.0, level * response, FILTER="r")
    for i in range(4):
        put(f"s{i}", "LIGHT", 5.0 if i % 2 else 10.0, light * response, FILTER="r")
    return folder


def plan(raw, camera):
    config = parse_config(CAMERA + camera, "night.toml")
    return plan_frames(raw, find_frames(raw, config), config)


def values(path, plane=0):
    return fits.getdata(path, plane).astype(np.float64)


@pytest.fixture(scope="module", params=["polynomial", "table"])
def reduced(request, raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    camera = f"linearity_coefficients = {list(COEFFICIENTS)}\n"
    if request.param == "table":
        camera = f'linearity_table = "{write_table(out.parent / "curve.csv")}"\n'
    assert run_plan(plan(raw, camera), out).failed == ()
    return out


@pytest.fixture(scope="module")
def not_corrected(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("as_it_is")
    assert run_plan(plan(raw, ""), out).failed == ()
    return out


def deviations(out, sky):
    """Level of each flat over its truth, less 1."""
    flats = sorted((out / "flats").iterdir())
    return [
        np.mean(values(path) / (level * sky[0])) - 1
        for path, level in zip(flats, LEVELS, strict=True)
    ]


def test_flats_of_many_levels_come_out_linear(reduced, not_corrected, sky):
    """To four standard errors of their levels, of which the faintest has 0.03 %."""
    for deviation, level in zip(deviations(reduced, sky), LEVELS, strict=True):
        error = np.sqrt((level + 400) / GAIN + 2 * 36) / level / np.sqrt(values_per_frame())
        assert abs(deviation) < 4 * error + 1e-5
    lost = deviations(not_corrected, sky)
    assert all(more < less for less, more in pairwise(lost))
    assert lost[-1] < -0.08


def values_per_frame():
    return SHAPE[0] * SHAPE[1]


def test_science_is_the_light_with_the_noise_that_is_told(reduced, not_corrected, sky):
    """Unscaled and scaled darks; from 50 ADU to 48 000 in columns."""
    truth = sky[2] * np.median(sky[0])  # the flat has a median of 1
    pulls = np.array(
        [
            (values(path) - truth) / values(path, "UNCERT")
            for path in sorted((reduced / "science").iterdir())
        ]
    )
    by_part = pulls.reshape(4, SHAPE[0], 8, -1)
    # Four standard errors of the 640 pixels of a part, whose flat the four frames share.
    assert np.abs(by_part.mean(axis=(0, 1, 3))).max() < 4 / np.sqrt(640)
    assert by_part.std(axis=(0, 1, 3)) == pytest.approx(np.ones(8), abs=0.06)
    path = next(iter(sorted((not_corrected / "science").iterdir())))
    assert np.median(values(path) / sky[2], axis=0)[-1] < 0.97


def test_the_master_dark_is_linear_too(reduced, sky):
    dark, std = (values(reduced / "masters/master_dark_10s.fits", p) for p in (0, "UNCERT"))
    pull = (dark - 10 * sky[1]) / std
    assert pull.std() == pytest.approx(1, abs=0.04)
    hot = sky[1] > RATE  # 5000 ADU, of which 0.6 % would be lost: three times the error
    assert pull[hot].mean() == pytest.approx(0, abs=4 / np.sqrt(hot.sum()))


def test_the_plan_and_the_headers_tell_of_it(raw, reduced):
    made = load_plan(reduced / "plan.json")
    frame = made.find_frame("s0.fits")
    names = [step.name for step in frame.steps]
    assert names == ["subtract_bias", "correct_linearity", "subtract_dark", "flat_correct"]
    assert str(frame.steps[1]).startswith(("linear by polynomial 1.2e-06", "linear by table "))
    dark = made.master("master_dark_10s")
    assert [step.name for step in dark.steps] == ["subtract_bias", "correct_linearity"]
    assert made.master("master_bias").steps == ()
    states = {"masters/master_bias": False, "masters/master_dark_10s": True,
              "masters/master_flat_r": True, "science/science-s0": True}  # fmt: skip
    for name, done in states.items():
        header = fits.getheader(reduced / f"{name}.fits")
        assert header["LINCORR"] is done
        assert header.get("LINCURVE", "") == (frame.steps[1].curve if done else "")


def test_without_a_curve_nothing_is_done(not_corrected):
    made = load_plan(not_corrected / "plan.json")
    names = {step.name for frame in made.frames for step in frame.steps}
    assert "correct_linearity" not in names
    assert fits.getheader(not_corrected / "science/science-s0.fits")["LINCORR"] is False


def test_without_bias_frames_the_frames_are_refused(raw, tmp_path):
    config = parse_config(CAMERA + f"linearity_coefficients = {list(COEFFICIENTS)}\n", "night.toml")
    frames = [frame for frame in find_frames(raw, config) if frame.kind != "bias"]
    made = plan_frames(raw, frames, config)
    assert {frame.kind for frame in made.refused} == {"flat", "science"}
    for frame in made.refused:
        if frame.exposure_time_s != 10.0:  # its dark would have to be scaled
            continue
        assert frame.errors[0].slug == "no-bias"
        assert "made linear above the bias level" in frame.errors[0].text


def test_a_table_that_changed_since_the_plan_is_refused(raw, tmp_path):
    table = write_table(tmp_path / "curve.csv")
    made = plan(raw, f'linearity_table = "{table}"\n')
    write_table(table, points=33)
    result = run_plan(made, tmp_path / "out")
    slugs = {error.slug for outcome in result.failed for error in outcome.errors}
    assert slugs == {"linearity-curve"}


def test_a_table_stands_beside_the_settings(tmp_path):
    settings = tmp_path / "night.toml"
    settings.write_text('[camera]\nlinearity_table = "curve.csv"\n')
    assert load_config(settings).camera.linearity_table == str(tmp_path / "curve.csv")


# -- notebooks ---------------------------------------------------------------------------

EXPOSURES = {"dark_exposure": 10 * u.s, "data_exposure": 10 * u.s}


def with_card(ccd, **cards):
    changed = ccd.copy()
    changed.meta.update(cards)
    return changed


def test_the_function_for_notebooks_does_the_same(raw, reduced):
    bias, dark, flat = (
        CCDData.read(reduced / f"masters/master_{name}.fits")
        for name in ("bias", "dark_10s", "flat_r")
    )
    curve = {"coefficients": COEFFICIENTS}
    if "table" in fits.getheader(reduced / "science/science-s0.fits")["LINCURVE"]:
        curve = {"table": str(reduced.parent / "curve.csv")}
    less_bias = ccdp.subtract_bias(CCDData.read(raw / "s0.fits"), bias)
    linear = ccdp.correct_linearity(less_bias, **curve)
    with pytest.raises(StateError, match="made linear before"):
        ccdp.correct_linearity(linear, **curve)
    with pytest.raises(StateError, match="one was made linear and the other not"):
        ccdp.subtract_dark(with_card(less_bias, LINCORR=False), dark, **EXPOSURES)
    less_dark = ccdp.subtract_dark(linear, dark, **EXPOSURES)
    with pytest.raises(StateError, match="DARKSUB"):
        ccdp.correct_linearity(with_card(less_dark, LINCORR=False), **curve)
    done = ccdp.flat_correct(less_dark, flat, norm_value=1.0)
    good = values(reduced / "science/science-s0.fits", "MASK") == 0
    expected = values(reduced / "science/science-s0.fits")
    np.testing.assert_array_equal(done.data[good], expected[good])


def test_the_function_propagates_and_masks(tmp_path):
    table = write_table(tmp_path / "t")
    counts = np.array([[100.0, 50_000.0, 61_000.0]])
    ccd = CCDData(counts, unit="adu", uncertainty=StdDevUncertainty(np.full((1, 3), 10.0)))
    result = ccdp.correct_linearity(ccd, table=str(table))
    slope = 1 + 2 * COEFFICIENTS[0] * counts + 3 * COEFFICIENTS[1] * counts**2
    np.testing.assert_allclose(result.uncertainty.array[:, :2], 10 * slope[:, :2], rtol=1e-3)
    np.testing.assert_array_equal(result.mask, [[False, False, True]])
    np.testing.assert_array_equal(ccd.data, [[100.0, 50_000.0, 61_000.0]])
    assert result.meta["LINCORR"] is True


@pytest.mark.parametrize(
    ("unit", "cards", "arguments", "error"),
    [
        ("adu", {}, {}, TypeError),
        ("adu", {}, {"coefficients": (1e-6,), "table": "t"}, TypeError),
        ("electron", {}, {"coefficients": (1e-6,)}, u.UnitsError),
        ("adu", {"BIASSUB": False}, {"coefficients": (1e-6,)}, StateError),
    ],
)
def test_the_function_refuses(unit, cards, arguments, error):
    ccd = CCDData(np.ones((2, 2)), unit=unit, meta=cards)
    with pytest.raises(error):
        ccdp.correct_linearity(ccd, **arguments)


# -- set-ups -----------------------------------------------------------------------------


def test_another_curve_is_another_set_up(raw):
    config = parse_config(CAMERA + "linearity_coefficients = [1e-6]\n", "night.toml")
    corrected = find_frames(raw, config)[0].setup
    plain = find_frames(raw, parse_config(CAMERA, "night.toml"))[0].setup
    assert (corrected.linearity, plain.linearity) == ("polynomial 1e-06", "")
    assert corrected != plain
