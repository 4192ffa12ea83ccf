"""Awkward real files: each is named in the result with what was done and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from flatcal import Config, build_plan, run_plan
from flatcal.engine.run import RunResult
from flatcal.extension import file_of
from flatcal.index import find_frames
from flatcal.recipe import DarkSettings, ScienceSettings

OTHER_CAMERA = (
    "no dark fits; nearest: 10 s (camera ZWO ASI120MC-S is not {0}), 360 s (camera SBIG ST-402 CCD "
    "Camera is not {0}); take darks with the set-up of this frame, or set dark.required = false"
)
# A camera whose profile needs no dark.
NO_BIAS = ("no-bias", "goes without a dark, and no bias fits it either; take bias frames")
# File, slug and words of the refusal that it gets when nothing is said about it.
REFUSED = {
    "dark-subtracted-in-camera/L2-flat-hg-360.00000000.FIT": (
        "no-flat",
        "no flat in filter Clear; if this is a flat, as its name says, say --kind 'flat=*flat*', "
        "or set science.flat_required = false",
    ),
    "dark-subtracted-in-camera/L2-flat-red-180.00000000.FIT": (
        "dark-in-camera",
        "dark subtracted by the camera's software (CCDSFPT = 5); use the frame before that "
        "subtraction",
    ),
    **{
        f"mef/flat-mef.fits[{number}]": (
            "exposure-missing",
            "no exposure time under EXPTIME, EXPOSURE, ITIME, EXP_TIME, EXPOSTIM; name the keyword "
            "in camera.exposure_keyword",
        )
        for number in (1, 2, 3)
    },
    **{
        f"mef/science-mef.fits[{number}]": (
            "no-dark",
            OTHER_CAMERA.format("unnamed camera"),
        )
        for number in (1, 2, 3)
    },
    "rice/coj2m002-en12-20200321-0023-w00.fits.fz": ("no-dark", OTHER_CAMERA.format("en12")),
    "spaced-biassec/a8280271.fits": ("no-dark", OTHER_CAMERA.format("STE3 CCD")),
    "string-exptime/IC310_1.fits": ("no-dark", OTHER_CAMERA.format("TIRCAM2")),
    "string-exptime/flats01.fits": ("no-dark", OTHER_CAMERA.format("TIRCAM2")),
    "string-exptime/flats02.fits": ("no-dark", OTHER_CAMERA.format("TIRCAM2")),
    "truncated/Flat_ASIImg_frame0007.fit": (
        "file-broken",
        "the file holds 1042816 bytes of pixels, its header announces 2457600; copy it again",
    ),
    "two-amps/b1003.fits": NO_BIAS,
    "two-amps/b1020.fits": NO_BIAS,
    "two-amps/b1021.fits": NO_BIAS,
}
# File, master that it goes into, and why. Those of the first and last folder have no IMAGETYP:
# their names tell the kind.
USED = {
    "comma-exptime/Bias_ASIImg_frame0001.fit": (
        "master_bias_960x1280",
        "averaged into master_bias_960x1280",
    ),
    "comma-exptime/Dark_ASIImg_10sec_frame0001.fit": (
        "master_dark_10s",
        "averaged into master_dark_10s",
    ),
    "comma-exptime/Flat_ASIImg_frame0001.fit": (
        "master_flat_none",
        "the dark is scaled, so the bias is subtracted by itself; no dark of 0.005 s; the dark of "
        "10 s (1 frame) is scaled by 0.0005",
    ),
    "dark-subtracted-in-camera/L2-dark-flat-360.00000000.DARK.FIT": (
        "master_dark_360s",
        "averaged into master_dark_360s",
    ),
    "string-exptime/bias_1.fits": ("master_bias_512x512", "averaged into master_bias_512x512"),
    "string-exptime/bias_2.fits": ("master_bias_512x512", "averaged into master_bias_512x512"),
}
# What is odd in a file and could be read all the same.
NAMED = {
    "comma-exptime/Bias_ASIImg_frame0001.fit": "EXPTIME = '6,4E-05' is text; read as 6.4e-05",
    "rice/coj2m002-en12-20200321-0023-w00.fits.fz": "BIASSEC is not used: 'UNKNOWN' names no",
    "string-exptime/IC310_1.fits": "EXPTIME = '40' is text; read as 40",
    "string-exptime/bias_1.fits": "EXPTIME = '0' is text; read as 0",
    "string-exptime/bias_2.fits": "EXPTIME = '0' is text; read as 0",
    "string-exptime/flats01.fits": "it has 194 ADU of light, and its pixels scatter by 119 ADU",
    "string-exptime/flats02.fits": "it has 191 ADU of light, and its pixels scatter by 119 ADU",
}


@pytest.fixture(scope="module")
def hard(data_folder: Path) -> Path:
    return data_folder / "hard"


def run(raw: Path, out: Path, config: Config) -> RunResult:
    return run_plan(build_plan(raw, config), out)


def test_the_plan_has_a_verdict_with_its_reason_for_every_file(hard: Path) -> None:
    plan = build_plan(hard)
    refused = {f.file: (f.errors[0].slug, f.errors[0].text) for f in plan.refused}
    assert refused == REFUSED
    used = {f.file: (f.part_of, f.reason) for f in plan.frames if f.action != "refuse"}
    assert used == USED
    files = {path.relative_to(hard).as_posix() for path in hard.rglob("*.f*t*")}
    files |= {path.relative_to(hard).as_posix() for path in hard.rglob("*.FIT")}
    assert {file_of(frame.file) for frame in plan.frames} == files
    for file, words in NAMED.items():
        assert any(words in caveat.text for caveat in plan.find_frame(file).caveats)


def test_a_run_gives_every_file_the_verdict_of_the_plan(hard: Path, tmp_path: Path) -> None:
    result = run(hard, tmp_path, Config())
    outcomes = result.record.outcomes
    failed = {o.file: (o.errors[0].slug, o.errors[0].text) for o in outcomes if o.errors}
    assert failed == REFUSED
    used = {o.file: o.part_of for o in outcomes if not o.errors}
    assert used == {file: master for file, (master, _) in USED.items()}


def test_kinds_from_names_alone_are_named_with_their_cure(hard: Path) -> None:
    for folder in ("comma-exptime", "string-exptime"):
        for frame in build_plan(hard / folder).frames:
            (hint,) = (c.text for c in frame.caveats if c.slug == "kind-hint")
            assert f"taken as {frame.kind} from file name {frame.file} alone" in hint
            assert f"--kind '{frame.kind}=*" in hint


def test_no_raw_frame_is_taken_for_a_product(data_folder: Path) -> None:
    """All real frames are raw but one, and the camera's software says of that what it did."""
    lost = {
        frame.file: error.text
        for frame in find_frames(data_folder, Config())
        for error in frame.errors
        if error.slug in ("already-calibrated", "dark-in-camera")
    }
    assert lost == {
        "hard/dark-subtracted-in-camera/L2-flat-red-180.00000000.FIT": (
            "dark subtracted by the camera's software (CCDSFPT = 5); use the frame before that "
            "subtraction"
        )
    }


def test_decimal_comma_is_read_and_named(hard: Path, tmp_path: Path) -> None:
    """EXPTIME = 6,4E-05; EXPOINUS in the same header says 64 microseconds."""
    kinds = ["bias=Bias*", "dark=Dark*", "flat=Flat*"]
    result = run(hard / "comma-exptime", tmp_path, Config().with_kinds(kinds))
    bias, dark, flat = result.record.outcomes
    assert "exposure-text" in {c.slug for c in bias.caveats}
    assert (bias.status, dark.status, flat.status) == ("used", "used", "calibrated")
    plan = build_plan(hard / "comma-exptime", Config().with_kinds(kinds))
    assert plan.frames[0].exposure_time_s == pytest.approx(64e-6)
    assert [s.name for s in plan.frames[2].steps] == ["subtract_bias", "subtract_dark"]


def test_text_exposure_is_read_and_named(hard: Path, tmp_path: Path) -> None:
    config = Config().with_kinds(["bias=bias_*", "flat=flats*", "science=IC310*"])
    config = config.model_copy(update={"dark": config.dark.model_copy(update={"required": False})})
    result = run(hard / "string-exptime", tmp_path, config)
    assert [o.status for o in result.record.outcomes] == [
        "calibrated", "used", "used", "calibrated", "calibrated",
    ]  # fmt: skip
    assert all("exposure-text" in {c.slug for c in o.caveats} for o in result.record.outcomes)


def test_compressed_image_in_the_second_hdu_is_read(hard: Path, tmp_path: Path) -> None:
    """No bias or dark fits it, so it is made its own dark to go through the whole way."""
    config = Config(science=ScienceSettings(flat_required=False)).with_kinds(["dark=coj*"])
    result = run(hard / "rice", tmp_path, config)
    assert [o.part_of for o in result.record.outcomes] == ["master_dark_40.027s"]
    assert result.record.products["masters/master_dark_40.027s.fits"].median_adu > 100


def test_section_with_spaces_is_understood(hard: Path) -> None:
    frame = build_plan(hard / "spaced-biassec", Config().with_kinds(["dark=*"])).masters[0]
    assert [step.section for step in frame.steps] == ["[4:13,1:520]", "[17:528,1:520]"]


def test_a_real_file_of_three_images_goes_through_with_bias_frames(
    hard: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "science-mef.fits").symlink_to(hard / "mef/science-mef.fits")
    levels = (0.25, 0.5, 0.75)
    for number in range(2):
        zero = [fits.ImageHDU(np.full((10, 10), level, np.float32)) for level in levels]
        primary = fits.PrimaryHDU(header=fits.Header({"IMAGETYP": "BIAS", "EXPTIME": 0.0}))
        fits.HDUList([primary, *zero]).writeto(raw / f"bias{number}.fits")
    config = Config(dark=DarkSettings(required=False), science=ScienceSettings(flat_required=False))
    result = run(raw, tmp_path / "out", config)
    assert result.failed == ()
    with (
        fits.open(hard / "mef/science-mef.fits") as before,
        fits.open(tmp_path / "out/science/science-mef.fits") as after,
    ):
        for number, level in enumerate(levels, start=1):
            expected = before[number].data - np.float32(level)
            np.testing.assert_array_equal(after[f"EXT{number}"].data, expected)
