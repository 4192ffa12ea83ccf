"""Flats of a colour camera against the truth of its simulated pixels."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from flatcal.colour import PATTERNS, shift, spread
from flatcal.engine.run import run_plan
from flatcal.index import find_frames
from flatcal.planning import build_plan
from flatcal.recipe import parse_config
from flatcal.verify import verify_output

GAIN, READ_NOISE, BIAS = 1.5, 4.0, 500.0
SHAPE = (201, 260)
# As of a sensor under daylight: the share of the light that each kind of pixel sees.
SEEN = {"R": 0.45, "G": 1.0, "B": 0.3}
SECOND_GREEN = 1.02
N_FLATS = 6
SETTINGS = f"""\
[dark]
required = false
[camera]
gain_electron_per_adu = {GAIN}
read_noise_electron = {READ_NOISE}
"""


def colours(pattern, rows, columns):
    """Letter of each pixel, by the definition of BAYERPAT in SBFITSEXT; a test of its own."""
    return np.array([[pattern[2 * (y % 2) + x % 2] for x in range(columns)] for y in range(rows)])


class Camera:
    """A sensor whose every pixel is known."""

    def __init__(self, pattern="RGGB"):
        rng = np.random.default_rng(12)
        self.letters = colours(pattern, *SHAPE)
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        vignette = 1 - 0.3 * ((y - 90) ** 2 + (x - 140) ** 2) / 170**2
        # The green of rows with blue sees somewhat more than that of rows with red.
        row_has_blue = (self.letters == "B").any(axis=1)[:, None]
        self.green = np.where((self.letters == "G") & row_has_blue, SECOND_GREEN, 1.0)
        self.response = vignette * rng.normal(1, 0.01, SHAPE) * self.green

    def light(self, level_adu, tint=(1.0, 1.0, 1.0)):
        """Light on each pixel, of a colour that is given by R, G and B."""
        seen = {c: SEEN[c] * t for c, t in zip("RGB", tint, strict=True)}
        return level_adu * self.response * np.vectorize(seen.get)(self.letters)

    def truth(self):
        """The flat: what a pixel sees of its colour, over the median of those of its colour."""
        flat = self.response.copy()
        for colour in "RGB":
            # Both greens have one level: what they differ by is in the flat.
            of = self.letters == colour
            halves = [flat[of & (self.green == green)] for green in set(self.green[of])]
            flat[of] /= np.mean([np.median(half) for half in halves])
        return flat


def expose(rng, light):
    electrons = rng.poisson(light * GAIN) + rng.normal(0, READ_NOISE, SHAPE)
    return np.round(BIAS + electrons / GAIN).astype(np.uint16)


def write_night(folder, camera, **cards):
    """Bias frames, flats of a twilight that turns blue, and a science frame of a red sky."""
    folder.mkdir()
    rng = np.random.default_rng(13)

    def write(name, kind, light):
        header = fits.Header({"IMAGETYP": kind, "EXPTIME": 1.0 * (kind != "BIAS"), "BUNIT": "adu"})
        header["FILTER"] = "L"
        header.update(cards)
        fits.PrimaryHDU(expose(rng, light), header).writeto(folder / f"{name}.fits")

    for i in range(5):
        write(f"b{i}", "BIAS", np.zeros(SHAPE))
    for i in range(N_FLATS):
        turn = 0.2 * i / (N_FLATS - 1) - 0.1
        write(f"f{i}", "FLAT", camera.light(30_000 - 1500 * i, (1 - turn, 1.0, 1 + turn)))
    write("s", "LIGHT", camera.light(3000, (1.3, 1.0, 0.8)))
    return folder


def reduce(raw, out, text=""):
    result = run_plan(build_plan(raw, parse_config(SETTINGS + text, "night.toml")), out)
    assert result.failed == ()
    return result


def medians(image, letters):
    return {colour: np.median(image[letters == colour]) for colour in "RGB"}


def test_the_master_flat_is_right_in_each_colour(tmp_path):
    """To its noise; and the colour of the science frame stays that of sky and sensor."""
    camera = Camera()
    raw = write_night(tmp_path / "raw", camera, BAYERPAT="RGGB")
    reduce(raw, tmp_path / "out")
    with fits.open(tmp_path / "out/masters/master_flat_L.fits") as hdus:
        flat, std = hdus[0].data.astype(float), hdus["UNCERT"].data.astype(float)
        cards, used = hdus[0].header, hdus["NUSED"].data
    for colour in "RGB":
        of = camera.letters == colour
        pulls = (flat[of] / camera.truth()[of] - 1) / (std[of] / flat[of])
        # The mean over a seventh of 52 000 pixels is known to a hundredth of the noise of one; a
        # level is a median of as many, over pixels that differ by the vignetting.
        assert abs(pulls.mean()) < 0.1
        assert pulls.std() == pytest.approx(1, abs=0.05)
        assert used[of].mean() > N_FLATS - 0.01  # nothing is rejected but chance
    greens = [np.median(flat[(camera.letters == "G") & (camera.green == g)]) for g in (1, 1.02)]
    assert greens[1] / greens[0] == pytest.approx(SECOND_GREEN, abs=0.003)
    assert cards["CFAPAT"] == "RGGB"
    seen = SEEN | {"G": (1 + SECOND_GREEN) / 2}  # of both greens
    assert cards["CFALEVR"] / cards["CFALEVG"] == pytest.approx(seen["R"] / seen["G"], rel=0.01)
    science = medians(fits.getdata(tmp_path / "out/science/science-s.fits"), camera.letters)
    assert science["R"] / science["G"] == pytest.approx(1.3 * seen["R"] / seen["G"], rel=0.005)
    assert science["B"] / science["G"] == pytest.approx(0.8 * seen["B"] / seen["G"], rel=0.005)


def test_verify_passes(tmp_path):
    raw = write_night(tmp_path / "raw", Camera(), BAYERPAT="RGGB")
    reduce(raw, tmp_path / "out")
    checks = verify_output(tmp_path / "out").checks
    assert [(c.test, c.subject, c.figure) for c in checks if c.verdict == "fail"] == []
    passed = {check.test for check in checks if check.verdict == "pass"}
    assert {"bias-noise", "science-uncertainty", "outputs"} <= passed
    assert all("colour matrix" in c.reason for c in checks if c.test == "flat-photons")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_offsets_and_trimming_move_the_pattern(tmp_path, pattern):
    """The header tells a cell that begins one row and one column earlier than the file."""
    camera = Camera(pattern)
    told = shift(pattern, 1, 1)
    raw = write_night(tmp_path / "raw", camera, BAYERPAT=told, XBAYROFF=1, YBAYROFF=1)
    reduce(raw, tmp_path / "out", 'trim_section = "[2:260,3:201]"\n')
    with fits.open(tmp_path / "out/masters/master_flat_L.fits") as hdus:
        flat, kept = hdus[0].data, camera.letters[2:, 1:]
        assert hdus[0].header["CFAPAT"] == "".join(kept[:2, :2].ravel())
        for level in medians(flat, kept).values():
            assert level == pytest.approx(1, abs=0.002)
        told_now = [hdus[0].header[card] for card in ("BAYERPAT", "XBAYROFF", "YBAYROFF")]
    assert shift(told_now[0], told_now[2], told_now[1]) == "".join(kept[:2, :2].ravel())


def test_a_pattern_that_does_not_fit_the_light_is_named(tmp_path):
    """What the header calls green is red and blue."""
    raw = write_night(tmp_path / "raw", Camera("RGGB"), BAYERPAT="GRBG")
    plan = build_plan(raw, parse_config(SETTINGS, "night.toml"))
    result = run_plan(plan, tmp_path / "out")
    told = {o.file: [e.slug for e in o.errors] for o in result.failed}
    assert told["s.fits"] == ["colour-matrix"]


def test_settings_overrule_the_header(tmp_path):
    """Without colours the flat keeps those of its light, as a camera without a matrix has it."""
    camera = Camera()
    raw = write_night(tmp_path / "raw", camera, BAYERPAT="GRBG")
    reduce(raw, tmp_path / "out", 'colour_matrix = "RGGB"\n')
    flat = fits.getdata(tmp_path / "out/masters/master_flat_L.fits")
    assert medians(flat, camera.letters)["R"] == pytest.approx(1, abs=0.002)
    reduce(raw, tmp_path / "none", 'colour_matrix = "none"\n')
    flat = fits.getdata(tmp_path / "none/masters/master_flat_L.fits")
    levels = medians(flat, camera.letters)
    assert levels["R"] / levels["G"] == pytest.approx(SEEN["R"], rel=0.02)


@pytest.mark.parametrize(
    ("cards", "pattern", "slugs"),
    [
        ({"BAYERPAT": "BGGR"}, "BGGR", []),
        ({"COLORTYP": "GBRG"}, "GBRG", []),
        ({"CFA": "rggb", "YBAYROFF": 1}, "GBRG", []),
        ({"BAYERPAT": "RGGB", "XBINNING": 2, "YBINNING": 2}, "", []),
        ({"COLORTYP": "MONO"}, "", []),
        ({"BAYERPAT": "TRUE"}, "", ["colour-matrix"]),
        ({}, "", []),
    ],
)
def test_what_headers_say(tmp_path, put_frame, cards, pattern, slugs):
    put_frame(tmp_path / "x.fits", "FLAT", 1.0, BUNIT="adu", FILTER="L", **cards)
    (frame,) = find_frames(tmp_path, parse_config(SETTINGS, "x"))
    assert frame.colour_matrix == pattern
    assert [c.slug for c in frame.caveats if c.slug == "colour-matrix"] == slugs


@pytest.mark.parametrize("start", [0, 1, 6, 7])
def test_spread_gives_each_pixel_what_is_of_its_colour(start):
    values = {"R": 1.0, "G": 2.0, "B": 3.0}
    expected = np.vectorize(values.get)(colours("GBRG", 20, 9))[start : start + 5]
    np.testing.assert_array_equal(
        spread("GBRG", values, slice(start, start + 5), 9, np.float32), expected
    )
