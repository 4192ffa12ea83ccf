"""UNCERT against the formulas of docs/outputs.md written plainly, and against repeated noise."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from flatcal.engine.run import run_plan
from flatcal.index import find_frames
from flatcal.planning import plan_frames
from flatcal.recipe import parse_config

GAIN, READ_ADU = 2.0, 20.0
CAMERA = "[camera]\ngain_electron_per_adu=2.0\nread_noise_electron=40.0\nsaturation_adu=60000\n"
ROWS, COLUMNS, OVERSCAN = 6, 8, 4
SECTIONS = {"BIASSEC": "[9:12,1:6]", "TRIMSEC": "[1:8,1:6]"}

# Pixels of single frames that no average may use, so that n differs from pixel to pixel.
SATURATED = {"b0": (1, 2), "d10-0": (0, 1), "d60-1": (3, 4), "r2": (5, 6)}
N_FRAMES = 3

# What is subtracted and divided by: bias, dark and its factor, flat.
WITH_SCALING = {
    "flats/flat-g0": (None, "dark_10s", 1.0, None),
    "flats/flat-r0": ("bias", "dark_60s", 2 / 60, None),
    "science/science-sg": (None, "dark_10s", 1.0, "flat_g"),
    "science/science-sr": ("bias", "dark_60s", 30 / 60, "flat_r"),
    "science/science-sr60": ("bias", "dark_60s", 1.0, "flat_r"),
}
WITHOUT_SCALING = {
    "flats/flat-g0": (None, "dark_10s", 1.0, None),
    "flats/flat-r0": ("bias", None, 1.0, None),
    "science/science-sr": ("bias", None, 1.0, "flat_r"),
    "science/science-sr60": (None, "dark_60s", 1.0, "flat_r"),
}
NEVER_SCALED = '[dark]\nscale="never"\nrequired=false\n'
LEVEL_VARIANCE = {
    "median": np.pi / 2 * READ_ADU**2 / OVERSCAN,
    "mean": READ_ADU**2 / OVERSCAN,
    "none": 0.0,
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory, put_frame):
    """Three frames of each kind; every term of the formulas is a good part of the whole."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(5)
    bias = rng.uniform(200, 900, (ROWS, COLUMNS))
    rate = rng.uniform(2, 30, (ROWS, COLUMNS))
    response = rng.uniform(0.6, 1.4, (ROWS, COLUMNS))

    def put(name, kind, exposure, light, **cards):
        data = rng.normal(1000, 3, (ROWS, COLUMNS + OVERSCAN))
        data[:, :COLUMNS] += bias + exposure * rate + light * response
        data = data.round().astype(np.uint16)
        if name in SATURATED:
            data[SATURATED[name]] = 65_000
        if name.startswith("s"):
            data[0, 0] = 100  # fewer than no electrons
        put_frame(folder / f"{name}.fits", kind, exposure, data, BUNIT="adu", **SECTIONS, **cards)

    for i in range(N_FRAMES):
        put(f"b{i}", "BIAS", 0.0, 0)
        put(f"d10-{i}", "DARK", 10.0, 0)
        put(f"d60-{i}", "DARK", 60.0, 0)
        put(f"g{i}", "FLAT", 10.0, 1500 + 700 * i, FILTER="g")
        put(f"r{i}", "FLAT", 2.0, 1000 + 900 * i, FILTER="r")
    put("sg", "LIGHT", 10.0, 3000, FILTER="g")
    put("sr", "LIGHT", 30.0, 400, FILTER="r")
    put("sr60", "LIGHT", 60.0, 100, FILTER="r")
    return folder


def reduce(raw, out, text):
    config = parse_config(text, "night.toml")
    # By the headers alone: the overscans here are too small to be judged by their pixels.
    result = run_plan(plan_frames(raw, find_frames(raw, config), config), out)
    assert result.failed == ()
    return result


class Planes:
    """The planes of an output in float64."""

    def __init__(self, path):
        with fits.open(path) as hdus:
            self.header = hdus[0].header
            self.data = hdus[0].data.astype(float)
            self.mask = hdus["MASK"].data
            names = [hdu.name for hdu in hdus]
            self.std = hdus["UNCERT"].data.astype(float) if "UNCERT" in names else None


class Outputs:
    """Reads outputs by their names."""

    def __init__(self, out):
        self.out = out

    def __call__(self, name):
        return Planes(self.out / f"{name}.fits")

    def master(self, name):
        return self(f"masters/master_{name}")


NIGHTS = {
    "median": (CAMERA + 'overscan_statistic="median"\n', "median"),
    "mean": (CAMERA + 'overscan_statistic="mean"\n', "mean"),
    "none": (CAMERA + 'overscan_section="none"\n', "none"),
}


@pytest.fixture(scope="module", params=NIGHTS)
def scaled(request, raw, tmp_path_factory):
    """Outputs where darks are scaled, and the variance of the overscan level."""
    text, level = NIGHTS[request.param]
    out = tmp_path_factory.mktemp("scaled")
    reduce(raw, out, text)
    return Outputs(out), LEVEL_VARIANCE[level]


@pytest.fixture(scope="module", params=NIGHTS)
def unscaled(request, raw, tmp_path_factory):
    """Outputs where no dark is scaled, and the variance of the overscan level."""
    text, level = NIGHTS[request.param]
    out = tmp_path_factory.mktemp("unscaled")
    reduce(raw, out, text + NEVER_SCALED)
    return Outputs(out), LEVEL_VARIANCE[level]


def n_kept(prefix):
    n = np.full((ROWS, COLUMNS), N_FRAMES)
    for name, (y, x) in SATURATED.items():
        if name.startswith(prefix):
            # What lies above and below a saturated pixel, where charge spills, is left out too.
            n[max(0, y - 1) : y + 2, x] -= 1
    return n


def level_of(outputs):
    """Level of the bias that a dark still holds."""
    bias = outputs.master("bias")
    return np.median(bias.data[bias.mask == 0])


@pytest.fixture(scope="session")
def of_average(shot_variance):
    """Variance of an average of n out of three frames of some light."""

    def variance(light, photon, read, n):
        return shot_variance(light, photon, read, 1 / N_FRAMES) / n

    return variance


def assert_std(planes, variance):
    assert planes.header["ERRSRC"] == "noise model"
    np.testing.assert_allclose(planes.std, np.sqrt(variance), rtol=1e-5)


# -- masters -----------------------------------------------------------------------------


def test_master_bias(scaled):
    outputs, level = scaled
    assert_std(outputs.master("bias"), (READ_ADU**2 + level) / n_kept("b"))


def test_dark_that_holds_its_bias(scaled, of_average):
    outputs, level = scaled
    dark = outputs.master("dark_10s")
    assert not dark.header["BIASSUB"]
    current = dark.data - level_of(outputs)
    assert_std(dark, of_average(current, 1 / GAIN, READ_ADU**2 + level, n_kept("d10")))


def test_dark_that_has_lost_its_bias(scaled, of_average):
    outputs, level = scaled
    dark, bias = outputs.master("dark_60s"), outputs.master("bias")
    assert dark.header["BIASSUB"]
    own = of_average(dark.data, 1 / GAIN, READ_ADU**2 + level, n_kept("d60"))
    assert_std(dark, own + bias.std**2)


@pytest.mark.parametrize(
    ("name", "dark_name", "scale"), [("g", "dark_10s", 1.0), ("r", "dark_60s", 2 / 60)]
)
def test_master_flat(scaled, of_average, name, dark_name, scale):
    outputs, level = scaled
    flats = [outputs(f"flats/flat-{name}{i}") for i in range(N_FRAMES)]
    medians = np.array([np.median(flat.data[flat.mask == 0]) for flat in flats])
    flat = outputs.master(f"flat_{name}")
    photons = np.mean(1 / (GAIN * medians))
    read = np.mean((READ_ADU**2 + level) / medians**2)
    assert read > 0.1 * photons
    own = of_average(flat.data, photons, read, n_kept(name))
    # All flats have lost the same bias and dark, whose errors do not average down.
    dark, bias = outputs.master(dark_name), outputs.master("bias")
    inherited = scale**2 * dark.std**2
    if dark.header["BIASSUB"]:
        inherited += ((1 - scale) ** 2 - scale**2) * bias.std**2
    inherited *= np.mean(1 / medians) ** 2
    assert np.median(inherited) > 0.05 * np.median(own)
    assert_std(flat, own + inherited)


# -- calibrated frames -------------------------------------------------------------------


def variance_of(shot_variance, outputs, level, frame, bias, dark, scale, flat):
    """Variance of a calibrated frame, term by term.

    A bias that frame and dark have lost leaves (1 - s) B in the frame, and s^2 var(D) without
    that of B.
    """
    value = outputs(frame).data
    f = outputs.master(flat).data if flat else 1.0
    electrons = f * value
    var_masters = 0.0
    if dark and bias:
        var_bias = outputs.master(bias).std ** 2
        electrons = electrons + scale * outputs.master(dark).data
        var_dark_alone = outputs.master(dark).std ** 2 - var_bias
        var_masters = (1 - scale) ** 2 * var_bias + scale**2 * var_dark_alone
    elif dark:
        electrons = electrons + outputs.master(dark).data - level_of(outputs)
        var_masters = outputs.master(dark).std ** 2
    elif bias:
        var_masters = outputs.master(bias).std ** 2
    own = shot_variance(electrons, 1 / GAIN, READ_ADU**2 + level)
    variance = (own + var_masters) / f**2
    if flat:
        variance = variance + (value * outputs.master(flat).std / f) ** 2
    return variance


def check_frame(shot_variance, night, frame, bias, dark, scale, flat):
    outputs, level = night
    planes = outputs(frame)
    names = [planes.header.get(card) for card in ("BIASNAME", "DARKNAME", "FLATNAME")]
    assert names == [name and f"master_{name}.fits" for name in (bias, dark, flat)]
    if dark:
        assert planes.header["DARKSCAL"] == pytest.approx(scale)
    assert_std(planes, variance_of(shot_variance, outputs, level, frame, bias, dark, scale, flat))


@pytest.mark.parametrize("frame", WITH_SCALING)
def test_frame_where_darks_are_scaled(scaled, shot_variance, frame):
    check_frame(shot_variance, scaled, frame, *WITH_SCALING[frame])


@pytest.mark.parametrize("frame", WITHOUT_SCALING)
def test_frame_where_no_dark_is_scaled(unscaled, shot_variance, frame):
    check_frame(shot_variance, unscaled, frame, *WITHOUT_SCALING[frame])


def test_bias_frames_of_another_overscan_are_a_master_of_their_own(tmp_path, put_frame):
    """Their level is known less well: one variance cannot be that of both."""
    n_columns = {"b0": 4, "b1": 4, "b2": 4, "c0": 2, "c1": 2}
    rng = np.random.default_rng(6)
    for name, n in n_columns.items():
        data = rng.normal(1000, 3, (ROWS, COLUMNS + OVERSCAN)).round().astype(np.uint16)
        sections = SECTIONS | {"BIASSEC": f"[9:{8 + n},1:6]"}
        put_frame(tmp_path / f"raw/{name}.fits", "BIAS", 0.0, data, BUNIT="adu", **sections)
    result = reduce(tmp_path / "raw", tmp_path / "out", CAMERA)
    assert sorted(p.inputs for p in result.record.products.values()) == [
        ("b0.fits", "b1.fits", "b2.fits"),
        ("c0.fits", "c1.fits"),
    ]
    for product in result.record.products.values():
        n = n_columns[product.inputs[0].removesuffix(".fits")]
        variance = READ_ADU**2 * (1 + np.pi / 2 / n) / len(product.inputs)
        planes = Planes(tmp_path / "out" / product.output)
        assert_std(planes, np.full((ROWS, COLUMNS), variance))


# -- from the scatter of the frames ------------------------------------------------------


def standard_error(stack, bad):
    """That of the mean; where fewer than two values are good, that of one typical value."""
    values = np.ma.masked_array(stack, bad)
    n = (~bad).sum(axis=0)
    known = n >= 2
    error = np.empty(n.shape)
    error[known] = (values.std(axis=0, ddof=1) / np.sqrt(n)).data[known]
    error[~known] = np.median(error[known]) * np.sqrt(len(stack))
    return error


@pytest.fixture(scope="module")
def unknown_noise(tmp_path_factory, put_frame):
    """A night of flats with different gradients, without gain and read noise: raw and outputs."""
    folder = tmp_path_factory.mktemp("unknown")
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:ROWS, :COLUMNS]
    slopes = [(0.0, 0.3), (0.25, 0.0), (0.1, -0.08)]
    for i, (along_y, along_x) in enumerate(slopes):
        for name, kind, exposure, light in (
            (f"b{i}", "BIAS", 0.0, 0.0),
            (f"d{i}", "DARK", 10.0, 0.0),
            (f"g{i}", "FLAT", 10.0, 2000.0 * (i + 1) * np.exp(along_y * y + along_x * x)),
        ):
            data = rng.normal(1000, 4, (ROWS, COLUMNS + OVERSCAN))
            data[:, :COLUMNS] += light
            data = data.round().astype(np.uint16)
            if i > 0:
                data[2, 3] = 65_000  # one good value in each stack
            cards = {"FILTER": "g"} if kind == "FLAT" else {}
            path = folder / f"raw/{name}.fits"
            put_frame(path, kind, exposure, data, BUNIT="adu", **SECTIONS, **cards)
    text = "[camera]\nsaturation_adu=60000\n[combine]\nlow_sigma=1e6\nhigh_sigma=1e6\n"
    reduce(folder / "raw", folder / "out", text)
    return folder / "raw", Outputs(folder / "out")


@pytest.mark.parametrize(("master", "prefix"), [("bias", "b"), ("dark_10s", "d")])
def test_scatter_of_raw_frames(unknown_noise, master, prefix):
    raw, outputs = unknown_noise
    images = np.array([fits.getdata(raw / f"{prefix}{i}.fits") for i in range(3)], float)
    stack = images[:, :, :COLUMNS] - np.median(images[:, :, COLUMNS:], axis=2)[:, :, None]
    planes = outputs.master(master)
    assert planes.header["ERRSRC"] == "scatter of the frames"
    saturated = np.pad(images[:, :, :COLUMNS] >= 60_000, ((0, 0), (1, 1), (0, 0)))
    # With what lies above and below, where charge spills.
    bad = saturated[:, 1:-1] | saturated[:, :-2] | saturated[:, 2:]
    expected = standard_error(stack, bad)
    np.testing.assert_allclose(planes.std, expected, rtol=1e-5)


def test_scatter_of_flats(unknown_noise):
    _, outputs = unknown_noise
    flats = [outputs(f"flats/flat-g{i}") for i in range(3)]
    assert all(flat.std is None for flat in flats)
    bad = np.array([flat.mask != 0 for flat in flats])
    assert bad.sum() == 6
    stack = np.array([flat.data / np.median(flat.data[flat.mask == 0]) for flat in flats])
    norm = np.median(np.ma.masked_array(stack, bad).mean(axis=0).data)
    assert abs(norm - 1) > 0.01
    planes = outputs.master("flat_g")
    assert planes.header["ERRSRC"] == "scatter of the frames"
    np.testing.assert_allclose(planes.std, standard_error(stack, bad) / norm, rtol=1e-5)


# -- noise of a whole night --------------------------------------------------------------


@pytest.fixture(scope="module")
def noisy_night(tmp_path_factory, put_frame):
    """Outputs of a night with the noise of a CCD, and the light of its science frames.

    With three bias frames the error of the bias is a good part of the whole.
    """
    folder = tmp_path_factory.mktemp("noisy")
    rng = np.random.default_rng(9)
    gain, read_noise_adu = 1.5, 8.0
    shape, overscan = (200, 300), 25
    bias = rng.uniform(80, 120, shape)
    rate = rng.uniform(0.1, 0.3, shape)
    response = rng.uniform(0.8, 1.2, shape)
    response /= np.median(response)
    sections = {"BIASSEC": "[301:325,1:200]", "TRIMSEC": "[1:300,1:200]"}

    def put(name, kind, exposure, light, **cards):
        electrons = gain * (rate * exposure + light * response)
        data = rng.normal(1000, read_noise_adu, (shape[0], shape[1] + overscan))
        data[:, :300] += bias + rng.poisson(electrons) / gain
        data = data.round().astype(np.uint16)
        put_frame(
            folder / f"raw/{name}.fits", kind, exposure, data, BUNIT="adu", **sections, **cards
        )

    for i in range(3):
        put(f"b{i}", "BIAS", 0.0, 0)
        put(f"f{i}", "FLAT", 10.0, 20_000, FILTER="r")
    for i in range(5):
        put(f"d{i}", "DARK", 100.0, 0)
    light = {"half": 20.0, "full": 20.0, "bright": 20_000.0}
    put("half", "LIGHT", 50.0, light["half"], FILTER="r")
    put("full", "LIGHT", 100.0, light["full"], FILTER="r")
    put("bright", "LIGHT", 50.0, light["bright"], FILTER="r")
    text = "[camera]\ngain_electron_per_adu=1.5\nread_noise_electron=12.0\n"
    reduce(folder / "raw", folder / "out", text)
    return Outputs(folder / "out"), light


@pytest.mark.parametrize(("name", "scale"), [("half", 0.5), ("full", 1.0), ("bright", 0.5)])
def test_frames_are_as_far_from_the_light_as_their_uncertainty_says(noisy_night, name, scale):
    outputs, light = noisy_night
    planes = outputs(f"science/science-{name}")
    assert planes.header["DARKSCAL"] == scale
    assert planes.header["BIASNAME"] == "master_bias.fits"
    pull = (planes.data - light[name]) / planes.std
    assert pull.std() == pytest.approx(1, abs=0.03)
    # The overscan level of each of the 200 rows is off by 2 ADU: that of all by 0.013 sigma.
    assert abs(pull.mean()) < 0.06


# -- headers of trimmed images -----------------------------------------------------------


@pytest.fixture
def with_coordinates(tmp_path, put_frame):
    """One bias frame with coordinates and sections, and how to reduce it."""
    data = np.full((ROWS, COLUMNS), 1000, np.uint16)
    cards = {"CRPIX1": 5.5, "CRPIX2": 4, "CRPIX1A": 50.25, "CRPIX2A": 40.0}
    cards |= {"LTV1": 7.0, "LTV2": -2.0, "LTM1_1": 1.0, "LTM2_2": 1.0}
    cards |= dict.fromkeys(("DETSEC", "AMPSEC", "CCDSEC", "DATASEC", "TRIMSEC"), "[1:8,1:6]")
    path = put_frame(tmp_path / "raw/b.fits", "BIAS", 0.0, data, BUNIT="adu", BIASSEC="[1:1,1:6]")
    with fits.open(path, mode="update") as hdus:
        hdus[0].header.update(cards)

    def reduced_header(sections):
        text = f'[camera]\noverscan_section="none"\n{sections}'
        reduce(tmp_path / "raw", tmp_path / "out", text)
        return fits.getheader(tmp_path / "out/masters/master_bias.fits")

    return reduced_header


SECTION_CARDS = ("DETSEC", "AMPSEC", "CCDSEC", "BIASSEC", "TRIMSEC", "DATASEC")


def test_coordinates_move_with_the_trimming(with_coordinates):
    header = with_coordinates('trim_section="[3:8,2:6]"\n')
    assert header["TRIMDSEC"] == "[3:8,2:6]"
    assert (header["CRPIX1"], header["CRPIX2"]) == (3.5, 3)
    assert (header["CRPIX1A"], header["CRPIX2A"]) == (48.25, 39.0)
    assert (header["LTV1"], header["LTV2"]) == (5.0, -3.0)
    assert (header["LTM1_1"], header["LTM2_2"]) == (1.0, 1.0)


def test_sections_of_the_raw_image_go_with_the_trimming(with_coordinates):
    header = with_coordinates('trim_section="[3:8,2:6]"\n')
    assert [card for card in SECTION_CARDS if card in header] == []


def test_coordinates_stay_without_trimming(with_coordinates):
    header = with_coordinates('trim_section="none"\n')
    assert (header["CRPIX1"], header["CRPIX2"], header["CRPIX1A"]) == (5.5, 4, 50.25)
    assert (header["LTV1"], header["LTV2"]) == (7.0, -2.0)
    assert (header["DETSEC"], header["CCDSEC"]) == ("[1:8,1:6]", "[1:8,1:6]")
