"""`flatcal verify` on real nights: what passes, and what it finds that no header tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from flatcal import Config, build_plan, run_plan
from flatcal.verify import Verification, verify_output


def reduce(raw: Path, out: Path, *kinds: str) -> Verification:
    assert not run_plan(build_plan(raw, Config().with_kinds(kinds)), out).failed
    return verify_output(out)


@pytest.fixture(scope="module")
def stl1001(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Verification:
    return reduce(data_folder / "stl1001", tmp_path_factory.mktemp("out"), "flat=flat-*")


@pytest.fixture(scope="module")
def nickel(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Verification:
    return reduce(data_folder / "nickel", tmp_path_factory.mktemp("out"))


def test_hot_pixels_of_the_stl1001_hold_no_dark_under_light(stl1001: Verification) -> None:
    """Without any dark they are at 0.997 of the flat's median, and at 0.929 after it is off."""
    assert {check.test for check in stl1001.failed} == {"dark-left"}
    figures = [check.figure for check in stl1001.failed]
    assert figures == pytest.approx([-1.0] * 10, abs=0.05)


def test_flats_of_the_stl1001_scatter_as_photons_do(stl1001: Verification) -> None:
    figures = [c.figure for c in stl1001.checks if c.test in ("flat-photons", "flat-uncertainty")]
    assert len(figures) == 15
    assert figures == pytest.approx([1.0] * 15, abs=0.02)


def test_the_nickel_is_a_little_noisier_than_its_profile(nickel: Verification) -> None:
    failed = {(check.test, Path(check.subject).name) for check in nickel.failed}
    assert {test for test, _ in failed} == {"bias-noise", "science-uncertainty"}
    assert [name for test, name in failed if test == "bias-noise"] == ["d1001.fits"]
    assert all(1.05 < (check.figure or 0) < 1.1 for check in nickel.failed)
    crowded = [check for check in nickel.checks if "crowded" in check.reason]
    assert [Path(check.subject).name for check in crowded] == ["science-d1059.fits"]  # M 13
