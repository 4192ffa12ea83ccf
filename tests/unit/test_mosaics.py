"""Files of several images: which of them are exposures, and what becomes of each.

The oracle is plain numpy: bias, dark current and response are constants of each chip.
"""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData

from flatcal.engine.run import run_plan
from flatcal.errors import ConfigError
from flatcal.extension import exact_pattern, plane_key, split_name
from flatcal.index import find_frames
from flatcal.library import open_library
from flatcal.planning import build_plan
from flatcal.recipe import Config, parse_config
from flatcal.report.show import show_file
from flatcal.saved_plan import load_plan
from flatcal.verify import verify_output
from flatcal.verify.night import open_night
from flatcal.viewing.frames import Viewer
from flatcal.viewing.overrule import overrule

SHAPE = (16, 24)
SETTINGS = """\
[camera]
unit = "adu"
gain_electron_per_adu = 2.0
read_noise_electron = 6.0
[camera.extensions.CHIP2]
gain_electron_per_adu = 1.25
"""
# Bias level of each chip, ADU/s of its dark current, and its response at the left and right end.
CHIPS = {"CHIP1": (1000, 2, (1.0, 1.0)), "CHIP2": (1500, 5, (0.5, 1.5))}


def response_of(chip):
    left, right = CHIPS[chip][2]
    return np.where(np.arange(SHAPE[1]) < SHAPE[1] // 2, left, right) * np.ones(SHAPE)


def pixels_of(chip, seconds=0, light=0):
    """Whole numbers of ADU, so that nothing is lost in a raw file."""
    bias, current, _ = CHIPS[chip]
    values = bias + current * seconds + light * response_of(chip)
    assert (values == np.rint(values)).all()
    return values.astype(np.uint16)


def write_mosaic(path, kind, seconds=0, light=0, chips=tuple(CHIPS), hdu=fits.ImageHDU, **cards):
    path.parent.mkdir(parents=True, exist_ok=True)
    primary = fits.Header({"IMAGETYP": kind, "EXPTIME": float(seconds), "FILTER": "V", **cards})
    images = [hdu(pixels_of(chip, seconds, light), name=chip) for chip in chips]
    for image, chip in zip(images, chips, strict=True):
        image.header["CCDNAME"] = chip
    fits.HDUList([fits.PrimaryHDU(header=primary), *images]).writeto(path)
    return path


@pytest.fixture
def raw(tmp_path):
    """A night of two chips: three bias, darks as long as flats and science, flats and science."""
    folder = tmp_path / "raw"
    for n in range(3):
        write_mosaic(folder / f"bias{n}.fits", "BIAS")
        write_mosaic(folder / f"dark{n}.fits", "DARK", 10)
        write_mosaic(folder / f"flat{n}.fits", "FLAT", 10, 20_000)
    write_mosaic(folder / "m001.fits", "LIGHT", 10, 400, OBSERVER="E. Hubble")
    write_mosaic(folder / "m002.fits", "LIGHT", 10, 600)
    return folder


def run(raw, out, text=SETTINGS, **options):
    return run_plan(build_plan(raw, parse_config(text, "night.toml")), out, **options)


def statuses(result):
    return {outcome.file: outcome.status.value for outcome in result.record.outcomes}


def slugs(result):
    return {o.file: [error.slug for error in o.errors] for o in result.failed}


def bytes_of(out):
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*.fits"))}


def write_hdus(path, *images, primary=None, **cards):
    """A file of images, each of pixels and a name."""
    header = fits.Header({"IMAGETYP": "FLAT", "EXPTIME": 2.0, **cards})
    hdus = [fits.ImageHDU(np.full(shape, 7, np.uint16), name=name) for name, shape in images]
    fits.HDUList([fits.PrimaryHDU(primary, header), *hdus]).writeto(path)


def names(folder):
    return [frame.file for frame in find_frames(folder, Config())]


# -- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "extension"),
    [
        ("a/m.fits", "a/m.fits", ""),
        ("a/m.fits[CHIP2]", "a/m.fits", "CHIP2"),
        ("m.FITS.fz[SCI,2]", "m.FITS.fz", "SCI,2"),
        ("m.fit[plane 03]", "m.fit", "plane 03"),
        ("night[1]/m.fts.gz", "night[1]/m.fts.gz", ""),
        ("a.fits[1]/m.fits[2]", "a.fits[1]/m.fits", "2"),
    ],
)
def test_a_name_is_split_into_file_and_extension(name, file, extension):
    assert split_name(name) == (file, extension)


def test_planes_are_named_after_their_image():
    assert plane_key("CHIP1", "PRIMARY") == ("CHIP1", 1)
    assert plane_key("SCI,2", "MASK") == ("SCI_MASK", 2)
    assert plane_key("3", "UNCERT") == ("EXT3_UNCERT", 1)


def test_a_pattern_means_all_images_of_a_file_or_one():
    config = parse_config('[[exclude]]\nfile = "*.fits[CHIP2]"', "night.toml")
    assert config.exclusion("a/m.fits[CHIP2]") is not None
    assert config.exclusion("a/m.fits[CHIP1]") is None
    assert config.exclusion("a/m.fits") is None
    config = parse_config('[[exclude]]\nfile = "m*.fits"', "night.toml")
    assert config.exclusion("a/m.fits[CHIP2]") is not None
    assert exact_pattern("a[1].fits[CHIP2]") == "a[[]1].fits[CHIP2]"


# -- which images --------------------------------------------------------------------------


def test_extensions_go_by_name_version_or_number(tmp_path):
    write_hdus(tmp_path / "a.fits", ("im1", SHAPE), ("im2", SHAPE))
    write_hdus(tmp_path / "b.fits", ("SCI", SHAPE), ("SCI", SHAPE), (None, SHAPE), ("7", SHAPE))
    with fits.open(tmp_path / "b.fits", mode="update") as hdus:
        hdus[1].header["EXTVER"], hdus[2].header["EXTVER"] = 1, 2
    write_hdus(tmp_path / "c.fits", ("../x", SHAPE), ("same", SHAPE), ("SAME", SHAPE))
    frames = find_frames(tmp_path, Config())
    assert [f.file for f in frames] == [
        "a.fits[IM1]", "a.fits[IM2]",
        "b.fits[SCI,1]", "b.fits[SCI,2]", "b.fits[3]", "b.fits[4]",
        "c.fits[1]", "c.fits[2]", "c.fits[3]",
    ]  # fmt: skip
    assert [frame.setup.detector for frame in frames][2:5] == ["SCI,1", "SCI,2", "3"]
    assert {frame.errors for frame in frames} == {()}


def test_one_image_keeps_its_name_wherever_it_is(tmp_path, put_frame):
    put_frame(tmp_path / "a.fits", "FLAT", 2.0)
    write_hdus(tmp_path / "b.fits", ("CHIP1", SHAPE))
    assert names(tmp_path) == ["a.fits", "b.fits"]
    assert {frame.setup.detector for frame in find_frames(tmp_path, Config())} == {""}


def test_an_image_in_the_primary_hdu_is_one_of_several(tmp_path):
    write_hdus(tmp_path / "a.fits", ("X", SHAPE), primary=np.zeros(SHAPE, np.uint16))
    assert names(tmp_path) == ["a.fits[0]", "a.fits[X]"]


def test_previews_and_planes_that_go_with_images_are_left_out_and_named(tmp_path):
    write_hdus(tmp_path / "a.fits", ("CHIP1", SHAPE), ("THUMB", (3, 4)), ("CHIP1_MASK", SHAPE))
    (frame,) = find_frames(tmp_path, Config())
    assert (frame.file, frame.storage.hdu, frame.setup.detector) == ("a.fits", 1, "")
    (told,) = (caveat.text for caveat in frame.caveats if caveat.slug == "other-images")
    assert "[THUMB] (4 x 3 pixels, a preview)" in told
    assert "[CHIP1_MASK] (no exposure, by its name)" in told


def test_an_image_of_a_fourth_of_the_size_is_a_detector(tmp_path):
    write_hdus(tmp_path / "a.fits", ("CHIP1", (16, 24)), ("GUIDE", (8, 12)))
    assert names(tmp_path) == ["a.fits[CHIP1]", "a.fits[GUIDE]"]


def test_amplifiers_in_extensions_are_named(tmp_path):
    path = write_mosaic(tmp_path / "a.fits", "FLAT", 2, 100)
    with fits.open(path, mode="update") as hdus:
        for hdu, section in zip(hdus[1:], ("[1:24,1:16]", "[25:48,1:16]"), strict=True):
            hdu.header["CCDNAME"], hdu.header["CCDSEC"] = "e2v 7", section
    for frame in find_frames(tmp_path, Config()):
        (told,) = (c.text for c in frame.caveats if c.slug == "amplifier-extensions")
        assert told.startswith("CHIP1, CHIP2 are amplifiers of one detector (e2v 7)")


def test_cards_of_an_extension_come_before_those_of_the_primary_header(tmp_path):
    path = write_mosaic(tmp_path / "a.fits", "FLAT", 2, 100)
    with fits.open(path, mode="update") as hdus:
        hdus["CHIP2"].header["EXPTIME"] = 3.0
    assert [f.exposure_time_s for f in find_frames(tmp_path, Config())] == [2.0, 3.0]


@pytest.mark.parametrize("n_bytes", [2880, 5760])
def test_a_file_that_is_cut_off_is_refused_with_all_its_images(tmp_path, n_bytes):
    """Either within its last image or before it, where only NEXTEND tells."""
    path = write_mosaic(
        tmp_path / "a.fits", "FLAT", 2, 100, chips=("CHIP1", "CHIP2", "CHIP1"), NEXTEND=3
    )
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - n_bytes)
    frames = find_frames(tmp_path, Config())
    assert len(frames) >= 2
    assert {error.slug for f in frames for error in f.errors} == {"file-broken"}
    assert all(frame.errors for frame in frames)


# -- cubes ---------------------------------------------------------------------------------


def write_cube(path, planes, hdu=fits.PrimaryHDU, **cards):
    header = fits.Header({"IMAGETYP": "LIGHT", "EXPTIME": 0.5, **cards})
    image = hdu(np.asarray(planes), header)
    hdus = [image] if hdu is fits.PrimaryHDU else [fits.PrimaryHDU(), image]
    fits.HDUList(hdus).writeto(path)


def test_planes_of_a_cube_are_exposures(tmp_path):
    write_cube(tmp_path / "f.fits", np.zeros((12, *SHAPE), np.uint16))
    frames = find_frames(tmp_path, Config())
    assert [frame.file for frame in frames[:2]] == ["f.fits[plane 01]", "f.fits[plane 02]"]
    assert len(frames) == 12
    assert {frame.exposure_time_s for frame in frames} == {0.5}
    assert {(f.setup.shape, f.setup.detector) for f in frames} == {(SHAPE, "")}
    assert all("cube of 12 exposures" in frame.caveats[0].text for frame in frames)


def test_a_cube_of_one_plane_is_an_image(tmp_path):
    write_cube(tmp_path / "f.fits", np.zeros((1, 1, *SHAPE), np.uint16))
    (frame,) = find_frames(tmp_path, Config())
    assert (frame.file, frame.setup.shape, frame.errors) == ("f.fits", SHAPE, ())


@pytest.mark.parametrize(
    ("n_planes", "ctype", "slug"),
    [
        (3, "RGB", "colour-image"),
        (3, None, "colour-image"),
        (4, "COLOR", "colour-image"),
        (5, "FREQ", "image-type"),
        (3, "TIME", None),
        (2, None, None),
    ],
)
def test_colours_and_spectra_are_refused(tmp_path, n_planes, ctype, slug):
    cards = {} if ctype is None else {"CTYPE3": ctype}
    write_cube(tmp_path / "f.fits", np.zeros((n_planes, *SHAPE), np.uint16), **cards)
    frames = find_frames(tmp_path, Config())
    assert [[e.slug for e in f.errors] for f in frames] == ([[slug]] if slug else [[]] * n_planes)


def test_a_cube_beside_other_images_is_refused(tmp_path):
    write_hdus(tmp_path / "a.fits", ("A", SHAPE), ("B", (4, *SHAPE)))
    (frame,) = find_frames(tmp_path, Config())
    assert [error.slug for error in frame.errors] == ["image-type"]


@pytest.mark.parametrize(
    ("hdu", "dtype"),
    [
        (fits.PrimaryHDU, np.uint16),
        (fits.PrimaryHDU, np.float32),
        (fits.ImageHDU, np.uint16),
        (fits.CompImageHDU, np.uint16),
    ],
)
def test_each_plane_of_a_cube_is_calibrated_into_a_file_of_its_own(tmp_path, hdu, dtype):
    raw = tmp_path / "raw"
    raw.mkdir()
    rng = np.random.default_rng(5)
    light = rng.integers(100, 4000, (4, *SHAPE))
    zero = np.full((3, *SHAPE), 50) + np.arange(3)[:, None, None]
    write_cube(
        raw / "bias.fits", zero.astype(dtype), hdu, IMAGETYP="BIAS", EXPTIME=0.0, CTYPE3="TIME"
    )
    write_cube(raw / "f.fits", light.astype(dtype), hdu, CTYPE3="TIME", CRPIX3=1.0)
    text = (
        "[dark]\nrequired = false\n[science]\nflat_required = false\n[combine]\nreject = 'none'\n"
    )
    result = run(raw, tmp_path / "out", text)
    assert slugs(result) == {}
    for number, plane in enumerate(light, start=1):
        path = tmp_path / f"out/science/science-f_plane-{number}.fits"
        with fits.open(path) as hdus:
            np.testing.assert_array_equal(hdus[0].data, plane.astype(np.float32) - 51)
            assert hdus[0].header["INF0001"] == f"f.fits[plane {number}]"
            assert not {"NAXIS3", "CTYPE3", "CRPIX3"} & set(hdus[0].header)
    assert list(result.record.inputs) == ["bias.fits", "f.fits"]


# -- runs ----------------------------------------------------------------------------------


def test_each_chip_is_calibrated_with_its_own_masters_into_one_file(raw, tmp_path):
    result = run(raw, tmp_path / "out")
    assert slugs(result) == {}
    for file, light in (("m001", 400), ("m002", 600)):
        path = tmp_path / f"out/science/science-{file}.fits"
        with fits.open(path, checksum=True) as hdus:
            hdus.verify("exception")
            planes = ("", "_UNCERT", "_MASK", "_FLAGS")
            assert [h.name for h in hdus] == ["PRIMARY", *(c + p for c in CHIPS for p in planes)]
            for chip in CHIPS:
                # The flats' median is 20 000 ADU times the median of the response, which is 1.
                np.testing.assert_allclose(hdus[chip].data, light, rtol=1e-6)
                assert hdus[chip].header["CCDNAME"] == chip
                assert hdus[chip].header["FLATNAME"] == f"master_flat_V_{chip}.fits"
                assert hdus[chip].header["INF0001"] == f"{file}.fits[{chip}]"
            assert hdus[0].header["IMAGETYP"] == "science"
            assert hdus[0].header["NEXTEND"] == len(hdus) - 1
            assert hdus[0].header["INF0001"] == f"{file}.fits"
    assert fits.getheader(tmp_path / "out/science/science-m001.fits")["OBSERVER"] == "E. Hubble"
    for chip, (bias, _, _) in CHIPS.items():
        master = fits.getdata(tmp_path / f"out/masters/master_bias_{chip}.fits")
        np.testing.assert_array_equal(master, bias)


def test_the_gain_of_each_chip_is_that_of_its_extension(raw, tmp_path):
    run(raw, tmp_path / "out")
    with fits.open(tmp_path / "out/flats/flat-flat0.fits") as hdus:
        for chip, gain in (("CHIP1", 2.0), ("CHIP2", 1.25)):
            # Photons of the light and of the dark current, and the read noise of frame and dark.
            _, current, _ = CHIPS[chip]
            light = 20_000 * response_of(chip)
            variance = (light + 10 * current) / gain + (6 / gain) ** 2
            ratio = hdus[f"{chip}_UNCERT"].data ** 2 / variance
            # The master dark, of three frames, adds little.
            assert ratio.min() > 0.999
            assert ratio.max() < 1.01


def test_a_misspelt_extension_is_refused(raw):
    """Its gain would not be used, and nobody would know."""
    text = SETTINGS.replace("CHIP2", "CHIP3")
    with pytest.raises(ConfigError, match=r"camera\.extensions\.CHIP3: .* CHIP1, CHIP2\)"):
        build_plan(raw, parse_config(text, "here"))


def test_ccddata_reads_each_chip(raw, tmp_path):
    run(raw, tmp_path / "out")
    read = CCDData.read(
        tmp_path / "out/science/science-m001.fits",
        hdu="CHIP2", hdu_uncertainty="CHIP2_UNCERT", hdu_mask="CHIP2_MASK",
    )  # fmt: skip
    np.testing.assert_allclose(read.data, 400, rtol=1e-6)
    assert read.mask.shape == read.uncertainty.array.shape == SHAPE
    assert (read.meta["EXPTIME"], read.meta["FILTER"]) == (10.0, "V")


def test_a_second_run_makes_nothing_and_one_with_less_memory_or_threads_the_same(raw, tmp_path):
    run(raw, tmp_path / "out")
    again = run(raw, tmp_path / "out")
    assert (again.n_made, again.n_current) == (0, 11)
    plan = build_plan(raw, parse_config(SETTINGS, "night.toml"))
    run_plan(plan, tmp_path / "one", jobs=1)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "out")


def test_a_file_of_packed_extensions_gives_the_same_pixels(raw, tmp_path):
    write_mosaic(raw / "m003.fits.fz", "LIGHT", 10, 600, hdu=fits.CompImageHDU)
    assert slugs(run(raw, tmp_path / "out")) == {}
    plain, packed = (
        fits.getdata(tmp_path / f"out/science/science-{name}.fits", "CHIP2")
        for name in ("m002", "m003")
    )
    np.testing.assert_array_equal(plain, packed)


def test_packed_outputs_hold_the_same_images(raw, tmp_path):
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    run(raw, plain)
    text = SETTINGS + "[output]\ncompress = true\n"
    assert run(raw, packed, text).n_made
    assert run(raw, packed, text).n_made == 0
    name = "science/science-m001.fits"
    with fits.open(plain / name) as hdus, fits.open(packed / f"{name}.fz", checksum=True) as others:
        assert [hdu.name for hdu in others] == [hdu.name for hdu in hdus]
        for hdu, other in zip(hdus[1:], others[1:], strict=True):
            np.testing.assert_array_equal(other.data, hdu.data)


def test_only_what_has_changed_is_made_again(raw, tmp_path):
    out = tmp_path / "out"
    run(raw, out)
    before = bytes_of(out)
    (raw / "m001.fits").unlink()
    write_mosaic(raw / "m001.fits", "LIGHT", 10, 800)
    result = run(raw, out)
    assert result.made == (
        "science/science-m001.fits[CHIP1]", "science/science-m001.fits[CHIP2]"
    )  # fmt: skip
    changed = {name for name, content in bytes_of(out).items() if content != before[name]}
    assert changed == {"science/science-m001.fits"}


@pytest.mark.parametrize("damage", ["cut off", "another recipe", "an extension is gone"])
def test_a_damaged_output_is_made_again(raw, tmp_path, damage):
    out = tmp_path / "out"
    run(raw, out)
    before = bytes_of(out)
    path = out / "science/science-m001.fits"
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-2880])
    else:
        with fits.open(path) as hdus:
            kept = [hdu.copy() for hdu in hdus][: 1 if damage == "another recipe" else 5]
            kept[0].header["RECIPE"] = (
                "x" if damage == "another recipe" else hdus[0].header["RECIPE"]
            )
            fits.HDUList(kept).writeto(path, overwrite=True)
    assert run(raw, out).n_made == 1
    assert bytes_of(out) == before


def test_a_chip_without_dark_is_refused_and_the_others_are_written(raw, tmp_path):
    for n in range(3):
        fits.setval(raw / f"dark{n}.fits", "EXTNAME", value="CHIP3", ext=2)
    plan = build_plan(raw, parse_config(SETTINGS, "night.toml"))
    assert {f.file.split("[")[1] for f in plan.refused} == {"CHIP2]"}
    result = run_plan(plan, tmp_path / "out")
    assert slugs(result)["m001.fits[CHIP2]"] == ["no-dark"]
    assert statuses(result)["m001.fits[CHIP1]"] == "calibrated"
    with fits.open(tmp_path / "out/science/science-m001.fits") as hdus:
        assert "CHIP2" not in hdus
        np.testing.assert_allclose(hdus["CHIP1"].data, 400, rtol=1e-6)
        assert (hdus[0].header["NEXTIMG"], hdus[0].header["NOIMG001"]) == (1, "CHIP2")


def break_tile(path, chip):
    """Damage the packed pixels of an extension, and nothing else."""
    with fits.open(path, disable_image_compression=True) as hdus:
        (number,) = (n for n, h in enumerate(hdus) if h.header.get("EXTNAME") == chip)
        place = hdus.fileinfo(number)["datLoc"]
        heap = place + hdus[number].header["NAXIS1"] * hdus[number].header["NAXIS2"]
        n_heap = hdus[number].header["PCOUNT"]
    with path.open("r+b") as file:
        file.seek(heap)
        file.write(b"\xff" * n_heap)


@pytest.mark.parametrize("broken", ["CHIP1", "CHIP2"])
def test_an_image_that_cannot_be_read_fails_by_itself(raw, tmp_path, broken):
    path = write_mosaic(raw / "m003.fits.fz", "LIGHT", 10, 600, hdu=fits.CompImageHDU)
    break_tile(path, broken)
    result = run(raw, tmp_path / "out")
    assert slugs(result) == {f"m003.fits.fz[{broken}]": ["file-broken"]}
    (good,) = set(CHIPS) - {broken}
    with fits.open(tmp_path / "out/science/science-m003.fits", checksum=True) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus][:2] == ["PRIMARY", good]
        assert len(hdus) == 5
        np.testing.assert_allclose(hdus[good].data, 600, rtol=1e-6)
        assert hdus[0].header["NOIMG001"] == broken
    # The same again tries the broken one anew, and ends alike.
    assert slugs(run(raw, tmp_path / "out")) == slugs(result)


def test_where_no_image_can_be_read_there_is_no_output(raw, tmp_path):
    path = write_mosaic(raw / "m003.fits.fz", "LIGHT", 10, 600, hdu=fits.CompImageHDU)
    for chip in CHIPS:
        break_tile(path, chip)
    result = run(raw, tmp_path / "out")
    assert slugs(result) == {f"m003.fits.fz[{chip}]": ["file-broken"] for chip in CHIPS}
    assert sorted(p.name for p in (tmp_path / "out/science").iterdir()) == [
        "science-m001.fits", "science-m002.fits"
    ]  # fmt: skip


def test_a_broken_image_is_left_out_of_its_master_alone(raw, tmp_path):
    for n in (3, 4):
        path = write_mosaic(raw / f"bias{n}.fits.fz", "BIAS", hdu=fits.CompImageHDU)
    break_tile(path, "CHIP2")
    result = run(raw, tmp_path / "out")
    assert list(slugs(result)) == ["bias4.fits.fz[CHIP2]"]
    headers = [fits.getheader(tmp_path / f"out/masters/master_bias_{chip}.fits") for chip in CHIPS]
    assert [header["NCOMBINE"] for header in headers] == [5, 4]


def test_a_file_that_changes_after_the_plan_fails_with_all_its_images(raw, tmp_path):
    plan = build_plan(raw, parse_config(SETTINGS, "night.toml"))
    (raw / "m001.fits").unlink()
    write_mosaic(raw / "m001.fits", "LIGHT", 10, 800, OBSERVER="A. N. Other")
    assert slugs(run_plan(plan, tmp_path / "out")) == {
        f"m001.fits[{chip}]": ["file-changed"] for chip in CHIPS
    }


def test_an_output_of_somebody_else_is_not_replaced(raw, tmp_path):
    theirs = tmp_path / "out/science/science-m001.fits"
    theirs.parent.mkdir(parents=True)
    fits.PrimaryHDU(np.zeros(3)).writeto(theirs)
    before = theirs.read_bytes()
    result = run(raw, tmp_path / "out")
    assert slugs(result) == {f"m001.fits[{chip}]": ["output-exists"] for chip in CHIPS}
    assert theirs.read_bytes() == before


def test_a_chip_can_be_left_out(raw, tmp_path):
    text = SETTINGS + '[[exclude]]\nfile = "*.fits[CHIP2]"\nreason = "dead"\n'
    result = run(raw, tmp_path / "out", text)
    assert statuses(result)["m001.fits[CHIP2]"] == "left out"
    with fits.open(tmp_path / "out/science/science-m001.fits") as hdus:
        assert [hdu.name for hdu in hdus][:2] == ["PRIMARY", "CHIP1"]
        assert hdus[0].header["NOIMG001"] == "CHIP2"


def test_a_chip_is_left_out_in_the_viewer(raw, tmp_path):
    settings = tmp_path / "night.toml"
    settings.write_text(SETTINGS)
    run(raw, tmp_path / "out")
    result = overrule(open_night(tmp_path / "out"), "m001.fits[CHIP1]", settings, leave_out=True)
    assert statuses(result)["m001.fits[CHIP1]"] == "left out"
    assert result.made == ("science/science-m001.fits[CHIP2]",)


def test_the_plan_goes_to_a_file_and_back(raw, tmp_path):
    plan = build_plan(raw, parse_config(SETTINGS, "night.toml"))
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    assert load_plan(tmp_path / "plan.json") == plan
    assert plan.find_frame("m001.fits[CHIP2]").output == "science/science-m001.fits[CHIP2]"
    with pytest.raises(ConfigError, match=r"m001.fits\[CHIP1\], m001.fits\[CHIP2\]"):
        plan.find_frame("m001.fits")


def test_a_mask_has_the_extensions_of_the_files(raw, tmp_path):
    marked = {chip: np.zeros(SHAPE, np.uint8) for chip in CHIPS}
    marked["CHIP2"][3, 4] = 1
    images = [fits.ImageHDU(image, name=chip) for chip, image in marked.items()]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(tmp_path / "mask.fits")
    text = SETTINGS.replace("[camera]\n", f'[camera]\nbad_pixel_mask = "{tmp_path}/mask.fits"\n')
    assert slugs(run(raw, tmp_path / "out", text)) == {}
    with fits.open(tmp_path / "out/science/science-m001.fits") as hdus:
        for chip, image in marked.items():
            np.testing.assert_array_equal(hdus[f"{chip}_MASK"].data, image)
    fits.HDUList([fits.PrimaryHDU(), images[0]]).writeto(tmp_path / "mask.fits", overwrite=True)
    failed = slugs(run(raw, tmp_path / "out", text))
    assert failed["m001.fits[CHIP2]"] == ["bad-pixel-mask"]
    assert "m001.fits[CHIP1]" not in failed


def test_a_library_serves_each_chip_with_its_own_masters(raw, tmp_path):
    run(raw, tmp_path / "out")
    library = open_library(tmp_path / "library.sqlite")
    for path in sorted((tmp_path / "out/masters").glob("*.fits")):
        library.add(path)
    later = tmp_path / "later"
    write_mosaic(later / "m.fits", "LIGHT", 10, 500)
    plan = build_plan(later, parse_config(SETTINGS, "night.toml"), library=library)
    assert plan.refused == ()
    assert slugs(run_plan(plan, tmp_path / "out2")) == {}
    with fits.open(tmp_path / "out2/science/science-m.fits") as hdus:
        for chip in CHIPS:
            np.testing.assert_allclose(hdus[chip].data, 500, rtol=1e-6)


def test_verify_report_and_show_know_the_images(raw, tmp_path):
    run(raw, tmp_path / "out")
    checks = verify_output(tmp_path / "out").checks
    output = "science/science-m001.fits[CHIP2]"
    assert {(c.test, c.verdict.value) for c in checks if c.subject == output} >= {
        ("outputs", "pass")
    }
    pictures = [tmp_path / f"{chip}.png" for chip in CHIPS]
    for chip, picture in zip(CHIPS, pictures, strict=True):
        show_file(tmp_path / f"out/flats/flat-flat0.fits[{chip}]", picture)
    assert pictures[0].read_bytes() != pictures[1].read_bytes()


def test_small_letters_in_a_name_stay_small(raw, tmp_path):
    for path in raw.glob("*.fits"):
        fits.setval(path, "EXTNAME", value="im2", ext=2)
    text = SETTINGS.replace("CHIP2", "im2")
    assert slugs(run(raw, tmp_path / "out", text)) == {}
    assert fits.getheader(tmp_path / "out/science/science-m001.fits", "im2")["EXTNAME"] == "im2"
    assert run(raw, tmp_path / "out", text).n_made == 0
    checks = verify_output(tmp_path / "out").checks
    found = [c.verdict.value for c in checks if c.test == "outputs" and "[im2]" in c.subject]
    assert found == ["pass"] * 5


def test_the_viewer_shows_each_image(raw, tmp_path):
    run(raw, tmp_path / "out")
    viewer = Viewer(tmp_path / "out")
    stages = {frame["file"]: frame["stages"] for frame in viewer.frames()}
    assert "ratio" in stages["flat0.fits[CHIP2]"]
    for chip in CHIPS:
        raw_region = viewer.region(f"flat0.fits[{chip}]", "raw")
        np.testing.assert_array_equal(raw_region.values, pixels_of(chip, 10, 20_000))
        ratio = viewer.region(f"flat0.fits[{chip}]", "ratio")
        np.testing.assert_allclose(ratio.values, 1, rtol=1e-5)
