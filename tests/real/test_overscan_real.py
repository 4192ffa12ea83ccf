"""Overscan and kinds of real nights, against figures of plain numpy over the whole frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from flatcal import build_plan
from flatcal.frame import Frame, Kind
from flatcal.index import find_frames
from flatcal.overscan import OverscanVerdict, apply_overscan, judge_overscan
from flatcal.recipe import Config, parse_config
from flatcal.second_look import second_look
from flatcal.survey import Look, look_at

MEASURED = '[camera]\noverscan_section = "header"\n'
NEW = {"overscan-doubt", "overscan-dropped", "overscan-missed"} | {
    "kind-doubt", "flat-level-doubt", "filter-doubt",
}  # fmt: skip
Night = tuple[tuple[Frame, ...], dict[str, Look]]


def see(raw: Path, config: Config) -> Night:
    frames = find_frames(raw, config)
    return frames, look_at(raw, frames, 2)


def doubts(night: Night, config: Config) -> set[tuple[str, str]]:
    frames, looks = night
    found = second_look(apply_overscan(frames, looks, config.camera), looks, config.dark)
    return {(f.file, c.slug) for f in found for c in f.caveats if c.slug in NEW}


@pytest.fixture(scope="module")
def nickel(data_folder: Path) -> Night:
    return see(data_folder / "nickel", parse_config(MEASURED, "test"))


@pytest.fixture(scope="module")
def verdict(nickel: Night) -> OverscanVerdict:
    found = judge_overscan(*nickel)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def pixels(data_folder: Path) -> dict[str, np.ndarray]:
    paths = sorted((data_folder / "nickel").glob("*.fits"))
    return {path.name: fits.getdata(path).astype(float) for path in paths}


def of(night: Night, kind: Kind) -> list[str]:
    return [frame.file for frame in night[0] if frame.kind is kind]


def figure(verdict: OverscanVerdict, name: str) -> float:
    return next(figure.value for figure in verdict.figures if figure.name == name)


# -- Lick Nickel -------------------------------------------------------------------------


def test_nickel_leaves_out_the_columns_that_undershoot(nickel, verdict):
    assert (verdict.useful, verdict.tested, verdict.follows) == (True, True, True)
    assert (verdict.columns, verdict.dropped) == (slice(1028, 1056), (1024, 1025, 1026, 1027))
    assert "up to 10" in verdict.left_out
    for frame in apply_overscan(*nickel, parse_config(MEASURED, "test").camera):
        assert frame.geometry.overscan_section == (slice(0, 1024), slice(1028, 1056))


def test_nickel_figures_are_those_of_the_whole_frames(nickel, verdict, pixels):
    """The look has seen nearly all rows of the overscan, and 3 % of the image."""
    levels = {name: image[:, 1028:].mean() for name, image in pixels.items()}
    biases = [pixels[file] for file in of(nickel, Kind.BIAS)]
    images = np.array([image[:, :1024][image[:, :1024] < 1200].mean() for image in biases])
    overscans = np.array([levels[file] for file in of(nickel, Kind.BIAS)])
    steady = [levels[file] for file in levels if file not in of(nickel, Kind.FLAT)]
    assert verdict.drift == pytest.approx(max(steady) - min(steady), abs=1)
    assert verdict.noise == pytest.approx(np.std(biases[4][:, 1040:]), rel=0.1)
    assert figure(verdict, "overscan level") == pytest.approx(np.median(overscans), abs=0.3)
    assert figure(verdict, "bias level") == pytest.approx(np.median(images), abs=0.5)
    assert figure(verdict, "wander of the bias level") == pytest.approx(np.std(images), abs=0.5)
    left = np.std(images - overscans)
    assert figure(verdict, "wander after subtraction") == pytest.approx(left, abs=0.25)
    assert left < 0.3 * np.std(images)


def test_nickel_one_bias_is_enough_to_leave_out_the_worst(nickel):
    frames, looks = nickel
    for only in of(nickel, Kind.BIAS):
        some = [frame for frame in frames if frame.kind is not Kind.BIAS or frame.file == only]
        found = judge_overscan(some, looks)
        assert found is not None
        assert (found.useful, found.follows) == (True, False)
        assert found.dropped[:3] == (1024, 1025, 1026)
        assert len(found.dropped) < 12


@pytest.mark.parametrize(
    ("toml", "slugs"),
    [
        ("", set()),
        (MEASURED, set()),
        ('[camera]\noverscan_section = "none"', {"overscan-doubt"}),
        ('[camera]\noverscan_section = "[1025:1056,1:1024]"', {"overscan-doubt"}),
        ('[camera]\noverscan_section = "none"\ntrim_section = "none"', {"overscan-missed"}),
    ],
)
def test_nickel_names_what_contradicts_the_settings_and_nothing_else(data_folder, toml, slugs):
    config = parse_config(toml, "test")
    night = see(data_folder / "nickel", config)
    assert doubts(night, config) == {(frame.file, slug) for frame in night[0] for slug in slugs}


def test_nickel_without_profile_and_sections_has_the_overscan_that_cover_counts(
    data_folder, tmp_path
):
    for number in (1001, 1002, 1003, 1035, 1036):
        content = (data_folder / f"nickel/d{number}.fits").read_bytes()
        content = content.replace(b"Nickel Direct Camera", b"Somebody's   Camera ")
        content = content.replace(b"DATASEC =", b"NOSEC   =")
        (tmp_path / f"d{number}.fits").write_bytes(content)
    plan = build_plan(tmp_path, parse_config("[dark]\nrequired = false\n", "test"))
    assert plan.refused == ()
    for frame in plan.frames:
        if frame.kind is Kind.FLAT:
            overscan, trim, _ = frame.steps
            assert (overscan.section, trim.section) == ("[1029:1056,1:1024]", "[1:1024,1:1024]")
            assert "overscan: COVER = 32; kept: all but the columns of COVER" in overscan.reason
            assert "columns 1025 to 1028 left out" in overscan.reason


# -- SBIG STL-1001 -----------------------------------------------------------------------


def stl(data_folder: Path, *rules: str) -> set[tuple[str, str]]:
    config = Config().with_kinds([*rules, "flat=flat-*"])
    return doubts(see(data_folder / "stl1001", config), config)


def test_stl1001_has_no_overscan_and_raises_no_doubt(data_folder):
    assert stl(data_folder) == set()


def test_stl1001_wrong_labels_are_named(data_folder):
    flat, dark = "flat-expos23s-Neg5-Vis.00000000.FIT", "darks-expos60s-Neg5-Vis.00000000.DARK.FIT"
    long = "darks-expos300s-Neg5-Vis.00000000.DARK.FIT"
    found = stl(data_folder, f"dark={flat}", f"flat={dark}", f"bias={long}")
    assert found == {(flat, "kind-doubt"), (dark, "flat-level-doubt"), (long, "kind-doubt")}


# -- awkward files -----------------------------------------------------------------------

RULES = ["bias=Bias*", "dark=Dark*", "flat=Flat*", "bias=bias_*", "flat=flats*", "science=*"]


def test_awkward_files_do_not_stop_the_look(data_folder):
    """The TIRCAM2 flats in J are 0.5 % above its bias frames: two flats that hold no light."""
    config = Config().with_kinds(RULES)
    frames, looks = see(data_folder / "hard", config)
    assert set(looks) == {frame.file for frame in frames if not frame.errors}
    assert len(looks) > 8
    dark_flats = {(f"string-exptime/flats0{n}.fits", "flat-level-doubt") for n in (1, 2)}
    assert doubts((frames, looks), config) == dark_flats


def columns_of(frames: Sequence[Frame], file: str) -> slice | None:
    geometry = next(frame.geometry for frame in frames if frame.file == file)
    assert geometry is not None
    return None if geometry.overscan_section is None else geometry.overscan_section[1]


def test_an_overscan_of_ten_columns_that_cannot_be_tested_is_used_as_the_header_says(data_folder):
    config = Config().with_kinds(["dark=*"])
    night = see(data_folder / "hard" / "spaced-biassec", config)
    assert columns_of(apply_overscan(*night, config.camera), "a8280271.fits") == slice(3, 13)
