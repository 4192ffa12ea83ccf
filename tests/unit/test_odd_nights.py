"""Headers, links and limits that must not cost a night."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits

from flatcal import build_plan, run_plan
from flatcal.index import find_frames
from flatcal.recipe import parse_config
from flatcal.report.terminal import print_frames, print_plan, print_result

SETTINGS = '[camera]\noverscan_section="none"\ntrim_section="none"\n[dark]\nrequired=false\n'


@pytest.fixture
def night(tmp_path, put_frame):
    """Three bias frames, three flats and a science frame."""
    raw = tmp_path / "raw"
    rng = np.random.default_rng(3)

    def put(name, kind, exposure, level, **cards):
        data = rng.normal(1000 + level, 5, (16, 20)).round().astype(np.uint16)
        put_frame(raw / name, kind, exposure, data, BUNIT="adu", FILTER="V", **cards)

    for i in range(3):
        put(f"b{i}.fits", "BIAS", 0.0, 0)
        put(f"f{i}.fits", "FLAT", 10.0, 20_000, DATE_OBS=f"2024-05-1{i}T01:00:00")
    put("s.fits", "LIGHT", 60.0, 300)
    return raw


def run(raw, out):
    return run_plan(build_plan(raw, parse_config(SETTINGS, "night.toml")), out)


def replace_card(path, keyword, image):
    content = path.read_bytes()
    place = content.index(keyword.ljust(8).encode())
    assert place % 80 == 0
    path.write_bytes(content[:place] + image.ljust(80)[:80] + content[place + 80 :])


@pytest.mark.parametrize("image", [b"OBSERVER= 'M\t31'", b"COMMENT a\tb", b"\0" * 80])
def test_odd_bytes_in_a_header_card_do_not_end_the_run(night, tmp_path, image):
    with fits.open(night / "s.fits", mode="update") as hdus:
        hdus[0].header["OBSERVER"] = "somebody"
    replace_card(night / "s.fits", "OBSERVER", image)
    result = run(night, tmp_path / "out")
    assert result.failed == ()
    fits.getheader(tmp_path / "out/science/science-s.fits")


@pytest.mark.parametrize("image", [b"CONTINUE  without quotes", b"CONTINUE".ljust(80, b"x")])
def test_a_card_that_spoils_the_scale_of_the_pixels_is_named(night, tmp_path, image):
    """It goes on from the card before it, which is BZERO: the values are not known."""
    with fits.open(night / "s.fits", mode="update") as hdus:
        hdus[0].header["OBSERVER"] = "somebody"
    replace_card(night / "s.fits", "OBSERVER", image)
    (failed,) = run(night, tmp_path / "out").failed
    (error,) = failed.errors
    assert (failed.file, error.slug) == ("s.fits", "image-type")
    assert "BZERO" in error.text


def test_markup_in_a_header_is_shown_as_it_is(tmp_path, put_frame, capsys):
    for i in range(3):
        put_frame(tmp_path / f"b{i}.fits", "BIAS", 0.0, INSTRUME="CCD [/b]", BUNIT="adu")
        put_frame(tmp_path / f"f{i}.fits", "FLAT", 1.0, FILTER="[oiii]", INSTRUME="CCD [/b]")
    config = parse_config(SETTINGS, "night.toml")
    plan = build_plan(tmp_path, config)
    print_plan(plan)
    print_frames(find_frames(tmp_path, config))
    shown = capsys.readouterr().out
    assert "[oiii]" in shown
    assert "CCD [/b]" in shown


def test_cards_of_the_primary_header_are_kept(night, tmp_path):
    image = fits.getdata(night / "s.fits")
    header = fits.getheader(night / "s.fits")
    (night / "s.fits").unlink()
    primary = fits.PrimaryHDU(header=fits.Header({"OBJECT": "M31", "TELESCOP": "small"}))
    extension = fits.ImageHDU(image, fits.Header({"IMAGETYP": "LIGHT", "EXPTIME": 60.0}))
    for keyword in ("FILTER", "BUNIT"):
        extension.header[keyword] = header[keyword]
    fits.HDUList([primary, extension]).writeto(night / "s.fits")
    assert run(night, tmp_path / "out").failed == ()
    written = fits.getheader(tmp_path / "out/science/science-s.fits")
    assert (written["OBJECT"], written["TELESCOP"]) == ("M31", "small")


def test_a_renamed_raw_file_is_named_anew(night, tmp_path):
    run(night, tmp_path / "out")
    (night / "b2.fits").rename(night / "b9.fits")
    run(night, tmp_path / "out")
    header = fits.getheader(tmp_path / "out/masters/master_bias.fits")
    assert header["INF0003"] == "b9.fits"


def test_a_master_has_the_exposure_time_of_the_frames_that_went_in(night, tmp_path):
    with fits.open(night / "f2.fits", mode="update") as hdus:
        hdus[0].header["EXPTIME"] = 100.0
        hdus[0].data[:] = 65535
    result = run(night, tmp_path / "out")
    assert [o.file for o in result.failed] == ["f2.fits"]
    header = fits.getheader(tmp_path / "out/masters/master_flat_V.fits")
    assert (header["EXPTIME"], header["NCOMBINE"]) == (10.0, 2)


def test_dates_that_do_not_sort_as_text_are_left_out(night, tmp_path):
    for i, date in enumerate(("31/12/98", "01/01/99", "01/01/99")):
        with fits.open(night / f"f{i}.fits", mode="update") as hdus:
            hdus[0].header["DATE-OBS"] = date
    run(night, tmp_path / "out")
    header = fits.getheader(tmp_path / "out/masters/master_flat_V.fits")
    assert "DATE-OBS" not in header
    assert "DATE-END" not in header


def test_linked_folders_are_followed_but_not_in_a_circle(night, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (night / "b2.fits").rename(elsewhere / "b2.fits")
    (night / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(night)
    files = [frame.file for frame in build_plan(night).frames]
    assert sorted(files) == [
        "b0.fits", "b1.fits", "f0.fits", "f1.fits", "f2.fits", "linked/b2.fits", "s.fits",
    ]  # fmt: skip


def test_fewer_open_files_than_frames_are_enough(night, tmp_path, put_frame):
    for i in range(40):
        put_frame(night / f"more{i}.fits", "BIAS", 0.0, np.full((16, 20), 1000, np.uint16))
    program = (
        "from flatcal import build_plan, run_plan\n"
        "from flatcal.recipe import parse_config\n"
        f"plan = build_plan({str(night)!r}, parse_config({SETTINGS!r}, 'x'))\n"
        f"result = run_plan(plan, {str(tmp_path / 'out')!r})\n"
        "print({error.slug for o in result.failed for error in o.errors})\n"
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True, preexec_fn=limit, env=os.environ,
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_the_result_names_what_an_earlier_run_left(night, tmp_path, capsys):
    run(night, tmp_path / "out")
    (night / "s.fits").unlink()
    print_result(run(night, tmp_path / "out"))
    assert "left over from an earlier run: science/science-s.fits" in capsys.readouterr().out
