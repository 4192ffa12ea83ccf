"""Several amplifiers that share an image: who says so, and what becomes of their pixels."""

from __future__ import annotations

import json
import shutil
import tomllib

import numpy as np
import pytest
from astropy.io import fits

from flatcal import build_plan, run_plan
from flatcal.camera import CameraSettings
from flatcal.draft import draft_config
from flatcal.errors import SectionError
from flatcal.facts import read_frames
from flatcal.flags import Flag
from flatcal.index import find_frames
from flatcal.library import open_library
from flatcal.photon_transfer.night import measure_detectors
from flatcal.recipe import Config, parse_config
from flatcal.report.gather_detectors import gather_detectors
from flatcal.report.samples import output_rows, rows_after_each_step, spread_bands
from flatcal.saved_plan import load_plan
from flatcal.section import assemble_sections, parse_sections
from flatcal.verify import verify_output
from flatcal.verify.night import open_night

SHAPE = (8, 26)
# Prescan of the left amplifier, its image, that of the right one, whose overscan lies far away.
SETTINGS = """\
[dark]
required = false

[camera]
linear_to_adu = 50000

[[camera.amplifiers]]
name = "left"
data_section = "[4:11,1:8]"
overscan_section = "[1:3,1:8]"
gain_electron_per_adu = 2.0
read_noise_electron = 6.0

[[camera.amplifiers]]
name = "right"
data_section = "[12:19,1:8]"
overscan_section = "[22:26,1:8]"
gain_electron_per_adu = 1.0
read_noise_electron = 5.0
saturation_adu = 40000
"""
LEFT, RIGHT = np.s_[:, 3:11], np.s_[:, 11:19]


def assemble(image, statistic=np.median):
    """What the settings ask for, in plain numpy."""
    image = image.astype(np.float64)
    left = image[LEFT] - statistic(image[:, 0:3], axis=1, keepdims=True)
    right = image[RIGHT] - statistic(image[:, 21:26], axis=1, keepdims=True)
    return np.hstack([left, right])


@pytest.fixture
def look(tmp_path, put_frame):
    """Facts of a frame with some cards, read with some settings."""

    def look_at(text="", data=None, **cards):
        path = put_frame(tmp_path / "frame.fits", "bias", 0.0, data, **cards)
        (frame,) = read_frames(tmp_path, path.name, parse_config(text, "here").camera, ())
        return frame

    return look_at


def sections_of(frame):
    return [
        tuple((s.start, s.stop) for part in (a.data_section, a.overscan_section) for s in part)
        for a in frame.geometry.amplifiers
    ]


# -- sections ----------------------------------------------------------------------------


def test_sections_are_moved_together_in_the_order_of_the_pixels():
    parts = parse_sections("[5:8,1:3]+[11:12,1:3]+[5:8,6:9]+[11:12,6:9]", (10, 12))
    assert assemble_sections(parts) == (
        (slice(0, 3), slice(0, 4)),
        (slice(0, 3), slice(4, 6)),
        (slice(3, 7), slice(0, 4)),
        (slice(3, 7), slice(4, 6)),
    )


@pytest.mark.parametrize(
    "text",
    [
        "[1:4,1:4]+[4:8,1:4]",  # they share a column
        "[1:4,1:4]+[5:8,1:3]",  # of other rows
        "[1:4,1:4]+[5:8,5:8]",  # two corners are missing
        "[1:4,1:4]+[1:4,1:4]",
    ],
)
def test_sections_that_make_no_image_are_refused(text):
    with pytest.raises(SectionError, match="do not make one image"):
        assemble_sections(parse_sections(text, (10, 12)))


# -- who says so -------------------------------------------------------------------------


def test_settings_name_amplifiers(look):
    frame = look(SETTINGS, np.full(SHAPE, 1000, np.uint16), AMPSROW=2)
    assert frame.errors == ()
    assert sections_of(frame) == [
        ((0, 8), (3, 11), (0, 8), (0, 3)),
        ((0, 8), (11, 19), (0, 8), (21, 26)),
    ]
    left, right = frame.detectors
    assert (left.amplifier, left.gain_electron_per_adu, left.saturation_adu) == ("left", 2, 65535)
    assert (right.amplifier, right.gain_electron_per_adu, right.saturation_adu) == (
        "right", 1, 40000,
    )  # fmt: skip
    assert {left.linear_to_adu, right.linear_to_adu} == {50000}  # of the camera
    assert "amplifier left reads [4:11,1:8] with the overscan [1:3,1:8]" in frame.geometry.reason


def table(name, data, overscan="none"):
    text = f'[[camera.amplifiers]]\nname = "{name}"\ndata_section = "{data}"\n'
    return f'{text}overscan_section = "{overscan}"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (table("a", "[1:5,1:10]") + table("a", "[6:10,1:10]"), "two amplifiers have one name"),
        (table("a", "[1:5,1:10]") + table("b", "[5:10,1:10]"), "do not make one image"),
        (table("a", "[1:5,1:10]") + table("b", "[6:13,1:10]"), "asks for columns 6 to 13"),
        (
            table("a", "[1:5,1:10]", "[11:12,1:10]") + table("b", "[6:10,1:10]"),
            "amplifier b has no overscan and others have one",
        ),
        (
            table("a", "[1:5,1:10]", "[5:6,1:10]") + table("b", "[6:10,1:10]", "[12:12,1:10]"),
            "the overscan [5:6,1:10] lies in the image",
        ),
        (
            table("a", "[1:5,1:10]", "[11:12,2:10]") + table("b", "[6:10,1:10]", "[12:12,1:10]"),
            "must have all rows of its data section",
        ),
        (
            '[camera]\ntrim_section = "[1:10,1:10]"\n'
            + table("a", "[1:5,1:10]")
            + table("b", "[6:10,1:10]"),
            "camera.trim_section = '[1:10,1:10]' is for one amplifier",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(look, text, words):
    (error,) = look(text).errors
    assert error.slug == "bad-section"
    assert words in error.text


def test_an_empty_list_says_that_there_is_one(look):
    frame = look("[camera]\namplifiers = []\n", AMPSROW=2, COVER=1, DNAXIS1=10)
    assert frame.errors == ()
    assert not frame.geometry.is_divided


@pytest.mark.parametrize("name", ["overscan_section", "trim_section"])
def test_sections_of_one_are_not_taken_for_those_of_several(look, name):
    """An overscan that the settings name is not passed over in silence."""
    text = f'[camera]\n{name} = "[11:12,1:10]"\n'
    texts = {error.slug: error.text for error in look(text, **CTIO).errors}
    assert "2 amplifiers share the image (AMPLIST)" in texts["several-amplifiers"]


def test_one_amplifier_can_be_kept_by_itself(look):
    """As IRAF's extensions are: by its sections, and by saying that there is one."""
    text = 'amplifiers = []\noverscan_section = "[1:2,1:10]"\ntrim_section = "[3:6,1:10]"\n'
    frame = look(f"[camera]\n{text}", **CTIO)
    assert frame.errors == ()
    assert sections_of(frame) == [((0, 10), (2, 6), (0, 10), (0, 2))]


def test_lick_puts_the_overscans_after_the_image(look):
    frame = look(AMPSROW=2, AMPSCOL=1, COVER=2, DNAXIS1=8)
    assert sections_of(frame) == [
        ((0, 10), (0, 4), (0, 10), (8, 10)),
        ((0, 10), (4, 8), (0, 10), (10, 12)),
    ]
    assert "AMPSROW = 2, COVER = 2" in frame.geometry.reason


@pytest.mark.parametrize(
    "cards",
    [
        {"AMPSROW": 2, "COVER": 2},  # a window, for all that is known
        {"AMPSROW": 2, "COVER": 2, "DNAXIS1": 16},
        {"AMPSROW": 2, "AMPSCOL": 2, "COVER": 2, "DNAXIS1": 8},
        {"AMPSROW": 2, "DNAXIS1": 12},
    ],
)
def test_amplifiers_that_cannot_be_told_apart_are_refused(look, cards):
    (error,) = look(**cards).errors
    assert error.slug == "several-amplifiers"
    assert "name them in camera.amplifiers" in error.text


CTIO = {
    "AMPLIST": "11 12",
    "TSEC11": "[3:6,1:10]",
    "BSEC11": "[1:2,1:10]",
    "GTGAIN11": 1.5,
    "GTRON11": 4.0,
    "DSEC12": "[7:10,1:10]",
    "BSEC12": "[11:12,1:10]",
}


def test_ctio_lists_amplifiers(look):
    frame = look("[camera]\ngain_electron_per_adu = 3.0\n", **CTIO)
    assert sections_of(frame) == [
        ((0, 10), (2, 6), (0, 10), (0, 2)),
        ((0, 10), (6, 10), (0, 10), (10, 12)),
    ]
    assert [d.gain_electron_per_adu for d in frame.detectors] == [1.5, 3.0]
    assert [d.read_noise_electron for d in frame.detectors] == [4.0, None]
    (text,) = (c.text for c in frame.caveats if c.slug == "noise-unknown")
    assert "read noise of amplifier 12" in text


def test_an_amplifier_without_a_section_is_an_error(look):
    (error,) = look(**{**CTIO, "DSEC12": None}).errors
    assert error.slug == "several-amplifiers"
    assert "neither TSEC12 nor DSEC12" in error.text


def test_a_list_of_one_is_one_amplifier(look):
    assert not look(AMPLIST="11", TRIMSEC="[1:10,1:10]").geometry.is_divided


def test_the_settings_win_over_the_header(look):
    text = table("a", "[1:6,1:10]") + table("b", "[7:12,1:10]")
    assert [a.detector.amplifier for a in look(text, **CTIO).geometry.amplifiers] == ["a", "b"]


# -- what becomes of the pixels ------------------------------------------------------------


@pytest.fixture(params=["uint16", "float32"])
def raw(request, tmp_path, put_frame):
    """Three bias frames, three flats and a science frame, with levels that wander by rows."""
    rng = np.random.default_rng(77)
    images = {}
    for i, kind in enumerate(["bias"] * 3 + ["flat"] * 3 + ["science"]):
        image = np.empty(SHAPE)
        rows = rng.normal(0, 40, (SHAPE[0], 1))
        image[:, :11] = 1000 + rows
        image[:, 11:] = 3000 - 2 * rows
        light = {"bias": 0, "flat": 15000, "science": 500}[kind]
        image[LEFT] += light
        image[RIGHT] += 2 * light
        image += rng.normal(0, 5, SHAPE)
        if kind == "science":
            image[2, 5] = image[3, 15] = 45000  # saturated for the right amplifier alone
            image[5, 4] = 55000
        path = tmp_path / "raw" / f"{kind}-{i}.fits"
        data = np.rint(image).astype(np.uint16)
        if request.param == "float32":
            data = data.astype(np.float32)
        put_frame(path, kind, 0.0 if kind == "bias" else 10.0, data, FILTER="r")
        images[path.name] = data.astype(np.float64)
    return tmp_path / "raw", images


def by_kind(images, kind):
    return [image for name, image in images.items() if name.startswith(kind)]


def run(raw, out, text=SETTINGS):
    result = run_plan(build_plan(raw, parse_config(text, "here")), out)
    assert result.failed == ()
    return result


def test_frames_are_what_plain_numpy_makes(raw, tmp_path):
    folder, images = raw
    out = tmp_path / "out"
    run(folder, out)
    bias = np.mean([assemble(image) for image in by_kind(images, "bias")], axis=0)
    flats = [assemble(image) - bias for image in by_kind(images, "flat")]
    levels = [np.mean([np.median(f[:, :8]), np.median(f[:, 8:])]) for f in flats]
    flat = np.mean([f / level for f, level in zip(flats, levels, strict=True)], axis=0)
    flat /= np.mean([np.median(flat[:, :8]), np.median(flat[:, 8:])])
    science = (assemble(by_kind(images, "science")[0]) - bias) / flat
    with fits.open(out / "masters/master_bias.fits") as hdus:
        np.testing.assert_allclose(hdus[0].data, bias, atol=1e-3)
    with fits.open(out / "masters/master_flat_r.fits") as hdus:
        np.testing.assert_allclose(hdus[0].data, flat, rtol=1e-6)
        assert not (hdus["FLAGS"].data & (Flag.DEAD | Flag.BAD_COLUMN)).any()
    with fits.open(out / "science/science-6.fits") as hdus:
        np.testing.assert_allclose(hdus[0].data, science, rtol=1e-6, atol=1e-3)


def test_amplifiers_that_are_kept_apart_have_all_of_their_own(raw, tmp_path):
    """Level of a flat included; what is subtracted is the same to the bit."""
    folder, images = raw
    together, apart = tmp_path / "together", tmp_path / "apart"
    run(folder, together)
    run(folder, apart, SETTINGS.replace("[camera]\n", "[camera]\nassemble_amplifiers = false\n"))
    whole = fits.getdata(together / "masters/master_bias.fits")
    with fits.open(together / "flats/flat-3.fits") as hdus:
        flat, std = hdus[0].data, hdus["UNCERT"].data
    bias = np.mean([assemble(image) for image in by_kind(images, "bias")], axis=0)
    for name, part in (("left", np.s_[:, :8]), ("right", np.s_[:, 8:])):
        np.testing.assert_array_equal(
            fits.getdata(apart / f"masters/master_bias_{name}.fits"), whole[part]
        )
        flats = [assemble(image)[part] - bias[part] for image in by_kind(images, "flat")]
        own = np.mean([f / np.median(f) for f in flats], axis=0)
        master = fits.getdata(apart / f"masters/master_flat_r_{name}.fits")
        np.testing.assert_allclose(master, own / np.median(own), rtol=1e-6)
        with fits.open(apart / "flats/flat-3.fits") as hdus:
            np.testing.assert_array_equal(hdus[name].data, flat[part])
            np.testing.assert_array_equal(hdus[f"{name}_UNCERT"].data, std[part])
    flags = fits.getdata(apart / "science/science-6.fits", "right_FLAGS")
    assert np.argwhere(flags & Flag.SATURATED).tolist() == [[3, 4]]


def test_each_amplifier_has_its_limits(raw, tmp_path):
    folder, _ = raw
    run(folder, tmp_path / "out")
    flags = fits.getdata(tmp_path / "out/science/science-6.fits", "FLAGS")
    saturated = np.argwhere(flags & Flag.SATURATED).tolist()
    assert saturated == [[3, 12]]
    assert np.argwhere(flags & Flag.NON_LINEAR).tolist() == [[5, 1]]
    assert np.argwhere(flags & Flag.BLED).tolist() == [[2, 12], [4, 12]]


def test_each_amplifier_has_its_noise(raw, tmp_path):
    folder, _ = raw
    run(folder, tmp_path / "out")
    with fits.open(tmp_path / "out/masters/master_bias.fits") as hdus:
        std = hdus["UNCERT"].data
    # Read noise in ADU, and the error of a median over 3 or 5 columns of overscan.
    variance = [(noise**2) * (1 + np.pi / 2 / n) / 3 for noise, n in ((3.0, 3), (5.0, 5))]
    np.testing.assert_allclose(std[:, :8], np.sqrt(variance[0]), rtol=1e-6)
    np.testing.assert_allclose(std[:, 8:], np.sqrt(variance[1]), rtol=1e-6)


def test_outliers_are_told_by_the_noise_of_each(tmp_path, put_frame):
    rng = np.random.default_rng(12)
    frames = []
    for i in range(6):
        image = np.full((60, 80), 1000.0)
        image[:, :40] += rng.normal(0, 2, (60, 40))
        image[:, 40:] += rng.normal(0, 30, (60, 40))
        if i == 3:
            image[20, 10] += 40  # 20 times the noise of the one, 1.3 times that of the other
            image[20, 60] += 600
        frames.append(np.rint(image))
        put_frame(tmp_path / "raw" / f"bias-{i}.fits", "bias", 0.0, frames[-1].astype(np.uint16))
    text = table("quiet", "[1:40,1:60]") + "gain_electron_per_adu = 1\nread_noise_electron = 2\n"
    text += table("loud", "[41:80,1:60]") + "gain_electron_per_adu = 1\nread_noise_electron = 30\n"
    run(tmp_path / "raw", tmp_path / "out", text)
    master = fits.getdata(tmp_path / "out/masters/master_bias.fits")
    wanted = np.mean(frames, axis=0)
    others = np.mean(frames[:3] + frames[4:], axis=0)
    for place in ((20, 10), (20, 60)):
        wanted[place] = others[place]
    # Of 30,000 values hardly one is five times its noise off by chance.
    assert np.count_nonzero(np.abs(master - wanted) > 1e-3) <= 2
    assert master[20, 10] == pytest.approx(wanted[20, 10], abs=1e-3)
    assert master[20, 60] == pytest.approx(wanted[20, 60], abs=1e-3)


def test_headers_tell_of_each_amplifier(raw, tmp_path):
    folder, _ = raw
    run(folder, tmp_path / "out")
    for name in ("masters/master_bias", "masters/master_flat_r", "science/science-6"):
        header = fits.getheader(tmp_path / f"out/{name}.fits")
        assert header["OSCANSEC"] == "[1:3,1:8]+[22:26,1:8]"
        assert header["TRIMDSEC"] == "[4:11,1:8]+[12:19,1:8]"
        assert header["NAMPS"] == 2
        cards = [header[f"AMP{what}2"] for what in ("NAM", "SEC", "GAI", "RDN")]
        assert cards == ["right", "[9:16,1:8]", 1.0, 5.0]


def test_a_reference_pixel_follows_the_part_that_it_lies_in(tmp_path, put_frame):
    for i in range(3):
        put_frame(
            tmp_path / "raw" / f"bias-{i}.fits", "bias", 0.0, CRPIX1=8.0, CRPIX2=4.0, CRPIX1A=2.0
        )
    text = table("a", "[1:4,2:9]") + table("b", "[7:10,2:9]")
    run(tmp_path / "raw", tmp_path / "out", text)
    header = fits.getheader(tmp_path / "out/masters/master_bias.fits")
    assert [header[card] for card in ("CRPIX1", "CRPIX2", "CRPIX1A")] == [6.0, 3.0, 2.0]


def test_the_plan_goes_to_json_and_back(raw, tmp_path):
    folder, _ = raw
    plan = build_plan(folder, parse_config(SETTINGS, "here"))
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    assert load_plan(tmp_path / "plan.json") == plan
    step = plan.frames[-1].steps[0]
    assert str(step) == "overscan median of [1:3,1:8]+[22:26,1:8]"
    assert plan.frames[-1].kept_shape == (8, 16)


def test_a_second_run_makes_nothing_and_other_gains_make_all(raw, tmp_path):
    folder, _ = raw
    run(folder, tmp_path / "out")
    assert run(folder, tmp_path / "out").made == ()
    other = SETTINGS.replace("gain_electron_per_adu = 1.0", "gain_electron_per_adu = 1.1")
    made = run(folder, tmp_path / "out", other).made
    assert "masters/master_bias.fits" in made
    assert "science/science-6.fits" in made


@pytest.mark.parametrize("whole", [True, False], ids=["raw image", "what is kept"])
def test_a_mask_is_of_the_raw_image_or_of_what_is_kept(raw, tmp_path, whole):
    folder, _ = raw
    mask = np.zeros(SHAPE if whole else (8, 16), np.uint8)
    mask[6, 14 if whole else 11] = 1
    fits.PrimaryHDU(mask).writeto(tmp_path / "mask.fits")
    path = json.dumps(str(tmp_path / "mask.fits"))
    run(
        folder,
        tmp_path / "out",
        SETTINGS.replace("[camera]\n", f"[camera]\nbad_pixel_mask = {path}\n"),
    )
    flags = fits.getdata(tmp_path / "out/science/science-6.fits", "FLAGS")
    assert np.argwhere(flags & Flag.USER).tolist() == [[6, 11]]


def test_without_an_overscan_each_keeps_its_level_and_its_noise(tmp_path, put_frame):
    """What one amplifier of a dark with its bias is above the other is not taken for current."""
    rng = np.random.default_rng(5)
    level = np.hstack([np.full((40, 30), 1000.0), np.full((40, 30), 9000.0)])
    for i in range(3):
        for kind, seconds in (("bias", 0.0), ("dark", 30.0)):
            image = np.rint(level + rng.normal(0, 5, level.shape)).astype(np.uint16)
            put_frame(tmp_path / "raw" / f"{kind}-{i}.fits", kind, seconds, image)
    text = table("a", "[1:30,1:40]") + table("b", "[31:60,1:40]")
    text += "[camera]\ngain_electron_per_adu = 1.0\nread_noise_electron = 5.0\n"
    run(tmp_path / "raw", tmp_path / "out", text)
    std = fits.getdata(tmp_path / "out/masters/master_dark_30s.fits", "UNCERT")
    # Half of the pixels are above their level by noise, which counts as current.
    assert np.median(std) == pytest.approx(5 / 3**0.5, rel=0.1)
    assert std.max() < 2 * 5 / 3**0.5
    checks = [c for c in verify_output(tmp_path / "out").checks if c.test.startswith("dark-")]
    assert [c.test for c in checks if c.verdict == "pass"].count("dark-noise") == 3
    assert not [c for c in checks if c.verdict == "fail"]


# -- a look at the pixels --------------------------------------------------------------------


@pytest.fixture
def leaky(tmp_path, put_frame):
    """Bias frames and flats; light leaks into the overscan of the second amplifier."""
    rng = np.random.default_rng(31)
    for i in range(8):
        light = 0 if i < 5 else 20000
        image = rng.normal(0, 4, (240, 148))
        for level, data, overscan in (
            (1000, np.s_[:, :64], np.s_[:, 128:138]),
            (4000, np.s_[:, 64:128], np.s_[:, 138:148]),
        ):
            wander = rng.normal(0, 20)
            image[data] += level + wander + light * rng.normal(1, 0.001, (240, 64))
            image[overscan] += level + wander
        image[:, 138:140] += 0.02 * light
        kind = "bias" if i < 5 else "flat"
        data = np.rint(image).astype(np.uint16)
        seconds = 0.0 if i < 5 else 4.0
        put_frame(tmp_path / "raw" / f"{kind}-{i}.fits", kind, seconds, data, FILTER="r")
    text = table("a", "[1:64,1:240]", "[129:138,1:240]")
    text += table("b", "[65:128,1:240]", "[139:148,1:240]") + "[dark]\nrequired = false\n"
    return build_plan(tmp_path / "raw", parse_config(text, "here"))


def test_the_overscan_of_each_is_measured(leaky):
    reason = leaky.masters[0].steps[0].reason
    assert "amplifier a: columns 129 to 138 follow the bias level" in reason
    assert "amplifier b: columns 141 to 148 follow the bias level" in reason
    doubts = {c.text for f in leaky.frames for c in f.caveats if c.slug == "overscan-doubt"}
    (text,) = doubts
    assert "amplifier b names [139:148,1:240], which is used" in text
    assert "overscan_section of amplifier b = '[141:148,1:240]' would be better" in text
    assert leaky.masters[0].steps[0].section == "[129:138,1:240]+[139:148,1:240]"


def test_levels_of_amplifiers_are_no_light(leaky):
    """The second look counts each part from its own overscan."""
    slugs = {c.slug for f in leaky.frames for c in f.caveats}
    assert slugs.isdisjoint({"flat-level-doubt", "filter-doubt", "kind-doubt"})


# -- gain and read noise, acceptance ---------------------------------------------------------


@pytest.fixture(scope="module")
def lit(tmp_path_factory):
    """Pairs of bias frames and flats of two amplifiers, whose gains differ by a factor of two."""
    folder = tmp_path_factory.mktemp("lit") / "raw"
    folder.mkdir()
    rng = np.random.default_rng(9)
    for i in range(4):
        image = np.empty((96, 26))
        light = 0 if i < 2 else 20000 + 100 * i
        wide = np.empty((96, 3 + 128 + 128 + 7))
        for gain, noise, level, data, overscan in (
            (2.0, 6.0, 1000, np.s_[:, 3:131], np.s_[:, :3]),
            (1.0, 5.0, 2500, np.s_[:, 131:259], np.s_[:, 259:]),
        ):
            electrons = rng.poisson(light, wide[data].shape)
            wide[data] = level + (electrons + rng.normal(0, noise, electrons.shape)) / gain
            wide[overscan] = level + rng.normal(0, noise / gain, wide[overscan].shape)
        header = fits.Header()
        header["IMAGETYP"], header["EXPTIME"] = ("bias", 0.0) if i < 2 else ("flat", 5.0)
        header["FILTER"] = "r"
        image = np.rint(wide).astype(np.uint16)
        fits.PrimaryHDU(image, header).writeto(folder / f"{i}.fits")
    text = SETTINGS.replace("[4:11,1:8]", "[4:131,1:96]").replace("[1:3,1:8]", "[1:3,1:96]")
    text = text.replace("[12:19,1:8]", "[132:259,1:96]").replace("[22:26,1:8]", "[260:266,1:96]")
    return folder, text


def test_gain_and_read_noise_are_measured_for_each(lit):
    folder, text = lit
    frames = find_frames(folder, parse_config(text, "here"))
    left, right = measure_detectors(folder, frames).detectors
    assert (left.amplifier, right.amplifier) == ("left", "right")
    assert left.gain_electron_per_adu == pytest.approx(2.0, rel=0.05)
    assert right.gain_electron_per_adu == pytest.approx(1.0, rel=0.05)
    assert left.read_noise_electron == pytest.approx(6.0, rel=0.08)
    assert right.read_noise_electron == pytest.approx(5.0, rel=0.08)


def test_acceptance_tests_go_by_the_noise_of_each(lit, tmp_path):
    folder, text = lit
    run(folder, tmp_path / "out", text)
    checks = verify_output(tmp_path / "out").checks
    assert [c for c in checks if c.verdict == "fail"] == []
    subjects = [c.subject for c in checks if c.test == "flat-photons" and c.verdict == "pass"]
    assert [s.rsplit(", ", 1)[1] for s in subjects] == ["amplifier left", "amplifier right"]


def test_wrong_noise_of_one_amplifier_is_found(lit, tmp_path):
    folder, text = lit
    wrong = text.replace("gain_electron_per_adu = 2.0", "gain_electron_per_adu = 1.0")
    run(folder, tmp_path / "out", wrong)
    checks = verify_output(tmp_path / "out").checks
    failed = [c.subject for c in checks if c.test == "gain" and c.verdict == "fail"]
    assert [subject.rsplit(", ", 1)[1] for subject in failed] == ["amplifier left"]


def test_the_report_has_each(lit, tmp_path):
    folder, text = lit
    run(folder, tmp_path / "out", text)
    night = open_night(tmp_path / "out")
    measured = measure_detectors(folder, find_frames(folder, parse_config(text, "here")))
    views = list(gather_detectors(night, measured))
    assert [view.name.rsplit(", ", 1)[1] for view in views] == ["amplifier left", "amplifier right"]
    gains = [view.measured.gain_electron_per_adu for view in views]
    assert gains == pytest.approx([2.0, 1.0], rel=0.05)
    assert [len(view.plots) for view in views] == [3, 3]


def test_rows_after_each_step_end_as_written(lit, tmp_path):
    folder, text = lit
    run(folder, tmp_path / "out", text)
    night = open_night(tmp_path / "out")
    frame = night.plan.frames[-1]
    bands = spread_bands(frame.kept_shape)
    *_, (_, values) = rows_after_each_step(night, frame, bands)
    np.testing.assert_array_equal(values, output_rows(tmp_path / "out" / frame.output, bands))


def test_masters_come_back_from_the_library(raw, tmp_path):
    folder, _ = raw
    config = parse_config(SETTINGS, "here")
    run(folder, tmp_path / "out")
    with open_library(tmp_path / "masters.sqlite") as library:
        for name in ("master_bias", "master_flat_r"):
            library.add(tmp_path / f"out/masters/{name}.fits")
        alone = tmp_path / "alone"
        alone.mkdir()
        shutil.copy2(folder / "science-6.fits", alone)
        plan = build_plan(alone, config, library=library.good_masters())
        assert run_plan(plan, tmp_path / "again").failed == ()
    first, again = (
        fits.getdata(tmp_path / f"{out}/science/science-6.fits") for out in ("out", "again")
    )
    np.testing.assert_array_equal(first, again)


def test_a_draft_has_a_table_for_each(tmp_path, put_frame):
    for i in range(2):
        put_frame(tmp_path / f"{i}.fits", "bias", 0.0, **CTIO)
    text = draft_config(tmp_path)
    camera = CameraSettings.model_validate(tomllib.loads(text)["camera"])
    assert [a.data_section for a in camera.amplifiers] == ["[3:6,1:10]", "[7:10,1:10]"]
    assert parse_config(text, "here") != Config()
