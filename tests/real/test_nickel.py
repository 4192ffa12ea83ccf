"""Lick Nickel: the overscan wanders by tens of ADU and must be used; there are no darks."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.stats import sigma_clipped_stats

from flatcal import build_plan, run_plan
from flatcal.plan import Plan

GOOD = (slice(100, 900), slice(300, 900))


@pytest.fixture(scope="module")
def raw(data_folder: Path) -> Path:
    return data_folder / "nickel"


@pytest.fixture(scope="module")
def plan(raw: Path) -> Plan:
    return build_plan(raw)


@pytest.fixture(scope="module")
def out(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    assert not run_plan(plan, folder).failed
    return folder


def sky_of(image: np.ndarray) -> float:
    return float(sigma_clipped_stats(image[GOOD], sigma=2.5, maxiters=10)[1])


def plain_overscan(path: Path) -> np.ndarray:
    image = fits.getdata(path).astype(float)
    return image[:, :1024] - np.median(image[:, 1028:1056], axis=1)[:, None]


def test_kinds_come_from_obstype_object_and_exposure(plan: Plan) -> None:
    kinds = [frame.kind.value for frame in plan.frames if frame.kind]
    assert (kinds.count("bias"), kinds.count("flat"), kinds.count("science")) == (10, 3, 6)


def test_the_columns_that_undershoot_are_left_out(plan: Plan) -> None:
    sections = {s.section for f in plan.frames for s in f.steps if s.name == "subtract_overscan"}
    assert sections == {"[1029:1056,1:1024]"}


def test_sky_is_right_to_2_adu(plan: Plan, out: Path, raw: Path) -> None:
    """Against overscan and bias taken off by numpy; the raw sky is wrong by tens of ADU."""
    bias = np.mean([plain_overscan(path) for path in sorted(raw.glob("d10[01]*"))[:10]], axis=0)
    flat = fits.getdata(out / "masters" / "master_flat_V.fits")
    science = [frame for frame in plan.frames if frame.kind == "science"]
    for frame in science:
        expected = sky_of((plain_overscan(raw / frame.file) - bias) / flat)
        assert sky_of(fits.getdata(out / str(frame.output))) == pytest.approx(expected, abs=2)


def test_dark_sky_of_two_frames_agrees_to_2_adu(out: Path, raw: Path) -> None:
    """d1048 and d1083 are 60 s each of dark sky; their overscans, and raw levels, are 10 apart."""
    sky, raw_level = [], []
    for name in ("d1048", "d1083"):
        sky.append(sky_of(fits.getdata(out / "science" / f"science-{name}.fits")))
        raw_level.append(sky_of(fits.getdata(raw / f"{name}.fits").astype(float)))
    assert abs(raw_level[0] - raw_level[1]) > 7
    assert abs(sky[0] - sky[1]) < 2


def test_no_dark_is_asked_for(plan: Plan) -> None:
    calibrated = [frame for frame in plan.frames if frame.action == "calibrate"]
    assert len(calibrated) == 9
    assert all("subtract_dark" not in {s.name for s in frame.steps} for frame in calibrated)


def test_column_saturated_in_bias_is_flagged(out: Path) -> None:
    with fits.open(sorted((out / "science").glob("*.fits"))[0]) as hdus:
        mask = hdus["MASK"].data
    assert np.mean(mask[:, 256] != 0) > 0.9
    assert np.mean(mask != 0) < 0.01


def test_second_run_changes_no_byte(plan: Plan, out: Path) -> None:
    files = [path for path in out.rglob("*") if path.is_file()]
    before = {path: (sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns) for path in files}
    assert run_plan(plan, out).n_made == 0
    after = {path: (sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns) for path in files}
    assert after == before
