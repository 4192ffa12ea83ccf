"""Cosmic rays: hits of known truth among stars, through `flatcal run`; the notebook function."""

from __future__ import annotations

import sys

import ccdproc
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from scipy.ndimage import binary_dilation

import flatcal
from flatcal.engine.cosmic_rays import find_cosmic_rays
from flatcal.engine.run import run_plan
from flatcal.errors import ConfigError
from flatcal.planning import build_plan
from flatcal.recipe import CosmicRaySettings, parse_config

GAIN, READ_NOISE, BIAS, SKY = 1.5, 6.0, 1000.0, 200.0
SHAPE = (300, 320)
COSMIC_RAY, SATURATED = 2048, 1
SETTINGS = f"""\
[camera]
gain_electron_per_adu = {GAIN}
read_noise_electron = {READ_NOISE}
saturation_adu = 40000
[dark]
required = false
"""


def stars(rng, fwhm_pixels):
    """Gaussian stars, from faint ones to some that saturate."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image, sigma = np.zeros(SHAPE), fwhm_pixels / 2.3548
    for peak in 10 ** rng.uniform(2, 5, 120):
        y0, x0 = rng.uniform(0, SHAPE[0]), rng.uniform(0, SHAPE[1])
        image += peak * np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / (2 * sigma**2))
    return image


def hits(rng):
    """Points and tracks, in ADU: 600 to 6000 electron in each pixel of a track of 1 to 12."""
    image = np.zeros(SHAPE)
    for _ in range(150):
        y, x = rng.uniform(5, SHAPE[0] - 5), rng.uniform(5, SHAPE[1] - 5)
        angle, charge = rng.uniform(0, np.pi), 10 ** rng.uniform(2.78, 3.78)
        for step in range(rng.integers(1, 13)):
            place = round(y + step * np.sin(angle)), round(x + step * np.cos(angle))
            if 0 <= place[0] < SHAPE[0] and 0 <= place[1] < SHAPE[1]:
                image[place] = charge / GAIN
    return image


def expose(rng, light_adu, extra_adu=0.0):
    electrons = rng.poisson(np.clip(light_adu + extra_adu, 0, None) * GAIN)
    values = BIAS + (electrons + rng.normal(0, READ_NOISE, SHAPE)) / GAIN
    return np.clip(np.round(values), 0, 65535).astype(np.uint16)


@pytest.fixture(scope="module", params=[2.5, 4.0], ids=["sharp", "wide"])
def night(request, tmp_path_factory):
    """A vignetted field with stars, and the truth of its hits."""
    raw = tmp_path_factory.mktemp("night") / "raw"
    raw.mkdir()
    rng = np.random.default_rng(20)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    response = 1 - 0.5 * ((y - 150) ** 2 + (x - 160) ** 2) / 220**2
    truth = hits(rng)
    light = (SKY + stars(rng, request.param)) * response

    def write(name, kind, data):
        header = fits.Header({"IMAGETYP": kind, "EXPTIME": 60.0 * (kind != "BIAS"), "BUNIT": "adu"})
        header["FILTER"] = "V"
        fits.PrimaryHDU(data, header).writeto(raw / f"{name}.fits")

    for i in range(5):
        write(f"b{i}", "BIAS", expose(rng, np.zeros(SHAPE)))
        write(f"f{i}", "FLAT", expose(rng, 20_000 * response))
    write("s", "LIGHT", expose(rng, light, truth))
    return raw, truth, light


def reduce(raw, out, text=""):
    result = run_plan(build_plan(raw, parse_config(SETTINGS + text, "night.toml")), out)
    assert result.failed == ()
    with fits.open(out / "science/science-s.fits") as hdus:
        return {h.name: h.data.copy() for h in hdus} | {"cards": dict(hdus[0].header)}


FLAG = '[cosmic_rays]\nfind = "flag"\n'


def test_hits_are_flagged_and_stars_are_not(night, tmp_path):
    """Completeness and false alarms, by truth.

    Of pixels that a hit lifts by more than 10 times the noise 95 % are found. Of those that no hit
    has touched or neighbours, fewer than two in ten thousand are flagged, in a field with 120
    stars to 100 000 pixels. At the edges, where half of a star may be missing, none is.
    """
    raw, truth, light = night
    made = reduce(raw, tmp_path / "out", FLAG)
    flagged = made["FLAGS"] & COSMIC_RAY != 0
    noise = np.sqrt(light / GAIN + (READ_NOISE / GAIN) ** 2)
    inside = np.zeros(SHAPE, bool)
    inside[8:-8, 8:-8] = True
    # What surrounds a saturated pixel is not looked at.
    near_saturated = binary_dilation(made["FLAGS"] & SATURATED != 0, np.ones((11, 11)))
    seen = (truth > 10 * noise) & inside & ~near_saturated
    completeness = np.mean(flagged[seen])
    untouched = ~binary_dilation(truth > 0, np.ones((3, 3)))
    false_alarms = np.mean(flagged[untouched & inside])
    print(f"completeness {completeness:.3f} of {seen.sum()}, false alarms {false_alarms:.1e}")
    assert np.count_nonzero(seen) > 500
    assert completeness > 0.95
    assert false_alarms < 2e-4
    assert not flagged[~inside].any()
    assert made["cards"]["COSMICS"] == "flag"
    assert made["cards"]["FLAG2048"] == "COSMIC_RAY"
    assert made["cards"]["NFLAGGED"] == np.count_nonzero(made["FLAGS"])
    np.testing.assert_array_equal(made["MASK"], made["FLAGS"] != 0)
    good = made["PRIMARY"][made["FLAGS"] == 0]
    assert made["cards"]["GOODMED"] == np.float32(np.median(good))


def test_values_stay_unless_they_are_to_be_cleaned(night, tmp_path):
    raw, _, _ = night
    off = reduce(raw, tmp_path / "off")
    flag = reduce(raw, tmp_path / "flag", FLAG)
    clean = reduce(raw, tmp_path / "clean", FLAG.replace("flag", "clean"))
    assert "COSMICS" not in off["cards"]
    assert np.all(off["FLAGS"] & COSMIC_RAY == 0)
    hit = flag["FLAGS"] & COSMIC_RAY != 0
    assert np.all(flag["FLAGS"] & ~COSMIC_RAY == off["FLAGS"])
    for plane in ("PRIMARY", "UNCERT"):
        np.testing.assert_array_equal(flag[plane], off[plane])
    np.testing.assert_array_equal(clean["FLAGS"], flag["FLAGS"])
    np.testing.assert_array_equal(clean["PRIMARY"][~hit], off["PRIMARY"][~hit])
    # What is put there is the level of the surroundings, not that of the hits.
    before, after = np.median(off["PRIMARY"][hit]), np.median(clean["PRIMARY"][hit])
    assert abs(after - SKY) < 0.2 * (before - SKY)


def test_a_change_of_the_thresholds_makes_the_frame_again(night, tmp_path):
    raw, _, _ = night
    reduce(raw, tmp_path / "out", FLAG)
    config = parse_config(SETTINGS + FLAG + "sigma = 6\n", "night.toml")
    assert run_plan(build_plan(raw, config), tmp_path / "out").made == ("science/science-s.fits",)
    assert run_plan(build_plan(raw, config), tmp_path / "out").made == ()


def test_without_noise_the_frame_is_refused(night):
    plan = build_plan(night[0], parse_config("[dark]\nrequired=false\n" + FLAG, "night.toml"))
    assert [(f.file, [e.slug for e in f.errors]) for f in plan.refused] == [
        ("s.fits", ["cosmic-rays"])
    ]


def test_without_the_extra_one_line_names_it(night, monkeypatch):
    monkeypatch.setitem(sys.modules, "astroscrappy", None)
    with pytest.raises(ConfigError, match=r"\[cosmicray\]") as caught:
        build_plan(night[0], parse_config(SETTINGS + FLAG, "night.toml"))
    assert caught.value.slug == "missing-extra"
    with pytest.raises(ConfigError, match=r"\[cosmicray\]"):
        flatcal.cosmicray_lacosmic(np.zeros((9, 9)))


def test_thresholds_without_effect_are_a_mistake():
    with pytest.raises(ConfigError, match="no effect"):
        parse_config("[cosmic_rays]\nsigma = 6\n", "night.toml")


# -- the notebook function ---------------------------------------------------------------


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(7)
    data = expose(rng, SKY + stars(rng, 3.0), hits(rng)).astype(np.float64)
    mask = rng.random(SHAPE) < 1e-3
    return CCDData(data, unit="adu", mask=mask, uncertainty=StdDevUncertainty(np.sqrt(data)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gain": GAIN, "readnoise": READ_NOISE},
        {"gain": GAIN * u.electron / u.adu, "readnoise": READ_NOISE * u.electron, "satlevel": 3e4},
        {"sigclip": 6, "cleantype": "idw", "niter": 2, "sepmed": False},
        {"fsmode": "convolve", "psfmodel": "moffat", "psffwhm": 3.0},
    ],
)
def test_it_agrees_with_ccdproc(frame, options):
    mine = flatcal.cosmicray_lacosmic(frame, **options)
    theirs = ccdproc.cosmicray_lacosmic(frame, **options)
    np.testing.assert_array_equal(mine.mask, theirs.mask)
    np.testing.assert_allclose(mine.data, theirs.data, rtol=1e-6)
    assert mine.unit == theirs.unit
    values, found = flatcal.cosmicray_lacosmic(frame.data, **options | {"gain": GAIN})
    # Of an array ccdproc 2.5.1 takes a plain number for the gain alone.
    its_values, its_found = ccdproc.cosmicray_lacosmic(frame.data, **options | {"gain": GAIN})
    np.testing.assert_array_equal(found, its_found)
    np.testing.assert_allclose(values, its_values, rtol=1e-6)


def test_where_it_means_to_differ_from_ccdproc(frame):
    """The uncertainty goes with the gain, and the unit with what was applied."""
    gain = GAIN * u.electron / u.adu
    applied = flatcal.cosmicray_lacosmic(frame, gain=gain, readnoise=READ_NOISE)
    np.testing.assert_allclose(applied.uncertainty.array, frame.uncertainty.array * GAIN)
    assert applied.unit == u.electron
    kept = flatcal.cosmicray_lacosmic(frame, gain=gain, readnoise=READ_NOISE, gain_apply=False)
    assert kept.unit == u.adu
    found = kept.mask & ~frame.mask
    np.testing.assert_array_equal(kept.data[~found], frame.data[~found])
    theirs = ccdproc.cosmicray_lacosmic(frame, gain=gain, readnoise=READ_NOISE)
    np.testing.assert_array_equal(theirs.uncertainty.array, frame.uncertainty.array)


def test_units_that_do_not_fit_are_refused(frame):
    with pytest.raises(ValueError, match="not in electron"):
        flatcal.cosmicray_lacosmic(frame, gain=GAIN * u.one)
    electrons = CCDData(frame.data, unit="electron")
    with pytest.raises(ValueError, match="once more"):
        flatcal.cosmicray_lacosmic(electrons, gain=GAIN)
    with pytest.raises(ValueError, match="pssl"):
        flatcal.cosmicray_lacosmic(frame, pssl=1.0, invar=frame.data)
    with pytest.raises(TypeError, match="list"):
        flatcal.cosmicray_lacosmic([[1.0]])


@pytest.mark.parametrize(
    "shape", [(0, 0), (0, 9), (3, 3), (80, 1), (8, 30), (30, 8), (9,), (2, 9, 9)]
)
def test_what_is_too_small_is_refused(shape):
    """astroscrappy would write beside its memory."""
    with pytest.raises(ValueError, match="two axes of 9 or more"):
        flatcal.cosmicray_lacosmic(np.ones(shape))
    if len(shape) == 2 and min(shape) > 0:
        ones, flags = np.ones(shape, np.float32), np.zeros(shape, np.uint16)
        hits, cleaned = find_cosmic_rays(ones, ones, flags, CosmicRaySettings(find="flag"))
        assert not hits.any()
        np.testing.assert_array_equal(cleaned, ones)


def test_a_frame_of_a_few_pixels_can_be_searched():
    values, hits = flatcal.cosmicray_lacosmic(np.ones((9, 9)))
    np.testing.assert_array_equal(values, 1)
    assert not hits.any()
