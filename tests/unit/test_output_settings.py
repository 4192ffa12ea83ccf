"""Settings of what is written: type, uncertainty, mask, calibrated flats."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import test_engine
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from test_engine import (
    ALL,
    SETTINGS,
    changed,
    clipped_mean,
    fits_bytes,
    image_of,
    outcomes,
    poke,
    run,
    slugs_of_failures,
    states,
)

from flatcal.cli import main
from flatcal.engine.run import run_plan
from flatcal.planning import build_plan
from flatcal.raw_frame import RawFrame
from flatcal.recipe import parse_config

night = test_engine.night

FLATS = {name for name in ALL if name.startswith("flats/")}
MASTERS = {name for name in ALL if name.startswith("masters/")}
SCIENCE = {name for name in ALL if name.startswith("science/")}

FLOAT64 = SETTINGS + "[output]\ndtype='float64'\n"
NO_UNCERTAINTY = "[output]\nuncertainty=false\n"
NO_MASK = "[output]\nmask=false\n"
NO_FLATS = "[output]\nflats=false\n"
RAW_FLATS = [f"{name}{i}.fits" for name in "gr" for i in range(3)]


def planes(path):
    """Bytes of each plane as they stand in the file."""
    with fits.open(path) as hdus:
        return {hdu.name: hdu.data.tobytes() for hdu in hdus}


def kinds_of_values(path):
    with fits.open(path) as hdus:
        return {hdu.name: hdu.header["BITPIX"] for hdu in hdus}


def command(monkeypatch, capsys, *words):
    """Exit code, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["flatcal", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, *capsys.readouterr()


# -- float64 -----------------------------------------------------------------------------


def stack_of(night, name):
    return np.array([image_of(night / f"{name}{i}.fits") for i in range(3)])


# No difference of pixels is a limit of clipping to the last digit, as with a noise of 4 ADU.
# By the MAD, which no sample of pixels bears on.
ODD_NOISE = FLOAT64.replace("electron=6", "electron=6.1") + '[combine]\nreject="sigma"\n'
READ_ADU = 6.1 / 1.5


def flat_of(flats, gain=1.5):
    # The level of a flat is a number of float32, so that a header holds it exactly.
    levels = np.array([np.median(flat) for flat in flats]).astype(np.float32).astype(float)
    noise = np.sqrt(np.mean(1 / (gain * levels) + READ_ADU**2 / levels**2))
    average = clipped_mean(flats / levels[:, None, None], noise)
    return average / np.median(average)


def reduce_by_numpy(night):
    """Everything that the night is reduced to, in float64."""
    bias = clipped_mean(stack_of(night, "b"), READ_ADU)
    dark10 = clipped_mean(stack_of(night, "d10-"), READ_ADU)
    dark60 = clipped_mean(stack_of(night, "d60-") - bias, READ_ADU)
    g = stack_of(night, "g") - dark10
    r = stack_of(night, "r") - bias - 2 / 60 * dark60
    flat_g, flat_r = flat_of(g), flat_of(r)
    return {
        "masters/master_bias": bias,
        "masters/master_dark_10s": dark10,
        "masters/master_dark_60s": dark60,
        "masters/master_flat_g": flat_g,
        "masters/master_flat_r": flat_r,
        **{f"flats/flat-g{i}": flat for i, flat in enumerate(g)},
        **{f"flats/flat-r{i}": flat for i, flat in enumerate(r)},
        "science/science-sg": (image_of(night / "sg.fits") - dark10) / flat_g,
        "science/science-sr": (image_of(night / "sr.fits") - bias - dark60) / flat_r,
    }


def test_float64_is_plain_numpy_to_twelve_digits(night, tmp_path):
    assert run(night, tmp_path / "out", ODD_NOISE).failed == ()
    expected = reduce_by_numpy(night)
    assert set(expected) == ALL
    for name, image in expected.items():
        path = tmp_path / "out" / f"{name}.fits"
        used = {"NUSED": 16} if name in MASTERS else {}
        assert kinds_of_values(path) == {
            "PRIMARY": -64, "UNCERT": -64, "MASK": 8, "FLAGS": 16, **used
        }  # fmt: skip
        # Differences of numbers near 1000 are as good as those.
        atol = 0 if "master_flat" in name else 1e-11
        np.testing.assert_allclose(fits.getdata(path), image, rtol=1e-12, atol=atol, err_msg=name)


def test_float32_is_float64_to_six_digits(night, tmp_path):
    run(night, tmp_path / "out")
    run(night, tmp_path / "out64", FLOAT64)
    for name in ALL:
        with (
            fits.open(tmp_path / "out" / f"{name}.fits") as single,
            fits.open(tmp_path / "out64" / f"{name}.fits") as double,
        ):
            for one, two in zip(single, double, strict=True):
                integers = {"MASK": 8, "FLAGS": 16, "NUSED": 16}
                assert one.header["BITPIX"] == integers.get(one.name, -32)
                np.testing.assert_allclose(one.data, two.data, rtol=2e-6, atol=1e-3)


# -- planes that are left out ------------------------------------------------------------


@pytest.mark.parametrize("camera", [SETTINGS, ""])
def test_without_uncertainty_the_rest_is_the_same(night, tmp_path, camera):
    run(night, tmp_path / "with", camera)
    result = run(night, tmp_path / "out", camera + NO_UNCERTAINTY)
    assert result.failed == ()
    for name in ALL:
        path = tmp_path / "out" / f"{name}.fits"
        expected = planes(tmp_path / "with" / f"{name}.fits")
        expected.pop("UNCERT", None)
        assert planes(path) == expected
        assert "ERRSRC" not in fits.getheader(path)
        assert CCDData.read(path).uncertainty is None


@pytest.mark.parametrize("camera", [SETTINGS, NO_UNCERTAINTY])
def test_without_masks_of_frames_the_rest_is_the_same(night, tmp_path, camera):
    poke(night / "d10-1.fits", 3, 4, 65535)
    poke(night / "sr.fits", 5, 6, 65535)
    run(night, tmp_path / "with", camera)
    text = camera + ("mask=false\n" if NO_UNCERTAINTY in camera else NO_MASK)
    assert run(night, tmp_path / "out", text).failed == ()
    for name in ALL:
        path = tmp_path / "out" / f"{name}.fits"
        expected = planes(tmp_path / "with" / f"{name}.fits")
        if name not in MASTERS:
            del expected["MASK"], expected["FLAGS"]
        assert planes(path) == expected
        with fits.open(path) as hdus:
            hdus.verify("exception")
        ccd = CCDData.read(path)
        assert (ccd.mask is None) == (name not in MASTERS)
        assert ccd.unit == (u.dimensionless_unscaled if "master_flat" in name else u.adu)
    assert fits.getval(tmp_path / "out/science/science-sr.fits", "NFLAGGED") == 3


# -- flats that are not written ----------------------------------------------------------


@pytest.mark.parametrize("camera", [SETTINGS, "", FLOAT64])
def test_without_calibrated_flats_all_else_is_the_same(night, tmp_path, camera):
    poke(night / "g1.fits", 3, 4, 65535)
    run(night, tmp_path / "with", camera)
    text = camera + ("flats=false\n" if camera == FLOAT64 else NO_FLATS)
    result = run(night, tmp_path / "out", text)
    expected = fits_bytes(tmp_path / "with")
    for name in FLATS:
        del expected[f"{name}.fits"]
    assert fits_bytes(tmp_path / "out") == expected
    assert set(result.made) == set(expected)
    for file in RAW_FLATS:
        outcome = outcomes(result)[file]
        assert (outcome.status, outcome.output) == ("used", None)
        assert outcome.part_of == f"master_flat_{file[0]}"


def test_the_plan_of_flats_that_are_not_written_has_their_steps(night, monkeypatch, capsys):
    plans = [build_plan(night, parse_config(SETTINGS + t, "n")) for t in ("", NO_FLATS)]
    with_flats, without = ({frame.file: frame for frame in plan.frames} for plan in plans)
    for file in RAW_FLATS:
        frame = without[file]
        assert (frame.action, frame.output) == ("combine", None)
        assert frame.steps == with_flats[file].steps != ()
        assert frame.part_of == f"master_flat_{file[0]}"
    config = night.parent / "night.toml"
    config.write_text(SETTINGS + NO_FLATS)
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = command(monkeypatch, capsys, "plan", night, "-c", config)
    assert (code, err) == (0, "")
    (line,) = (line for line in out.splitlines() if "g0.fits" in line or "g0 " in line)
    assert "flat" in line
    assert "- master_dark_60s x 0.03333" in out
    assert "15 into masters, 2 to calibrate" in out


def test_a_second_run_without_flats_reads_no_pixel(night, tmp_path, monkeypatch):
    run(night, tmp_path / "out", SETTINGS + NO_FLATS)
    before = states(tmp_path / "out")

    def refuse(*_):
        raise AssertionError("pixels are read")

    plan = build_plan(night, parse_config(SETTINGS + NO_FLATS, "n"))
    monkeypatch.setattr(RawFrame, "stored_rows", refuse)
    result = run_plan(plan, tmp_path / "out")
    assert (result.n_made, result.failed) == (0, ())
    assert states(tmp_path / "out") == before


@pytest.mark.parametrize("light", [65535, 0])
def test_a_flat_without_light_is_left_out_also_when_it_is_not_written(night, tmp_path, light):
    with fits.open(night / "g1.fits", mode="update") as hdus:
        hdus[0].data[:, :30] = light
    run(night, tmp_path / "with")
    result = run(night, tmp_path / "out", SETTINGS + NO_FLATS)
    for _ in range(2):
        assert slugs_of_failures(result) == {"g1.fits": ["flat-level"]}
        assert "master_flat_g" in outcomes(result)["g1.fits"].reason
        product = result.record.products["masters/master_flat_g.fits"]
        assert product.inputs == ("g0.fits", "g2.fits")
        result = run(night, tmp_path / "out", SETTINGS + NO_FLATS)
    expected = fits_bytes(tmp_path / "with")
    assert fits_bytes(tmp_path / "out").items() <= expected.items()


# -- other settings, in the same folder --------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "redone"),
    [
        (NO_FLATS, "", FLATS),
        ("", NO_FLATS, set()),
        (NO_UNCERTAINTY, "", ALL),
        ("", "[output]\ndtype='float64'\n", ALL),
        ("", NO_MASK, FLATS | SCIENCE),
        (NO_MASK, "", FLATS | SCIENCE),
        ("", NO_MASK + "flats=false\n", SCIENCE),
        ("", "[output]\ndtype='float32'\nuncertainty=true\nmask=true\nflats=true\n", set()),
    ],
)
def test_other_settings_remake_what_they_bear_on_and_nothing_else(
    night, tmp_path, first, second, redone
):
    out = tmp_path / "out"
    run(night, out, SETTINGS + first)
    before = states(out)
    result = run(night, out, SETTINGS + second)
    assert result.failed == ()
    run(night, tmp_path / "fresh", SETTINGS + second)
    fresh = fits_bytes(tmp_path / "fresh")
    assert {name: content for name, content in fits_bytes(out).items() if name in fresh} == fresh
    assert set(result.left_over) == set(fits_bytes(out)) - set(fresh)
    assert changed(before, states(out)) == redone


@pytest.mark.parametrize(
    "text", [FLOAT64, SETTINGS + NO_UNCERTAINTY, SETTINGS + NO_MASK, SETTINGS + NO_FLATS, ""]
)
def test_masters_read_back_from_files_give_the_same_bytes(night, tmp_path, text):
    out = tmp_path / "out"
    run(night, out, text)
    good = fits_bytes(out)
    for name in (*SCIENCE, "masters/master_flat_g"):
        (out / f"{name}.fits").unlink()
    result = run(night, out, text)
    assert set(result.made) == {f"{n}.fits" for n in (*SCIENCE, "masters/master_flat_g")}
    assert fits_bytes(out) == good


# -- the command line --------------------------------------------------------------------


def test_options_of_the_command_line_go_before_the_configuration(
    night, tmp_path, monkeypatch, capsys
):
    config, out = tmp_path / "night.toml", tmp_path / "out"
    config.write_text(SETTINGS + "[output]\ndtype='float32'\nflats=true\nmask=false\n")
    words = ["run", night, out, "-c", config, "--dtype", "float64", "--no-write-flats"]
    code, _, err = command(monkeypatch, capsys, *words)
    assert (code, err) == (0, "")
    assert set(fits_bytes(out)) == {f"{name}.fits" for name in MASTERS | SCIENCE}
    assert kinds_of_values(out / "science/science-sg.fits") == {"PRIMARY": -64, "UNCERT": -64}


@pytest.mark.parametrize(
    ("words", "setting", "told"),
    [
        (["--dtype", "float16"], "", "output.dtype = 'float16'"),
        (["--dtype", ""], "", "output.dtype = ''"),
        ([], "dtype = 'double'", "night.toml:2: output.dtype = 'double'"),
        ([], "flats = 'no'", "night.toml:2: output.flats = 'no'"),
        ([], "uncertainty = 0", "night.toml:2: output.uncertainty = 0"),
        ([], "masks = false", "night.toml:2: output.masks is not a setting; did you mean mask?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    night, tmp_path, monkeypatch, capsys, words, setting, told
):
    config = tmp_path / "night.toml"
    config.write_text(f"[output]\n{setting}\n")
    code, out, err = command(
        monkeypatch, capsys, "run", night, tmp_path / "out", "-c", config, *words
    )
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("flatcal: ")
    assert line.endswith("[bad-config]")
    assert told in line
    assert not (tmp_path / "out").exists()
