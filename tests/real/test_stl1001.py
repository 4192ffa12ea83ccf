"""SBIG STL-1001: ten flats of 23 s with bias and a scaled dark, none of it at -10 C.

The expected figures were measured independently of flatcal from the same frames.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from flatcal import build_plan, load_config, run_plan
from flatcal.plan import Plan
from flatcal.records import Status

SETTINGS = '[[kinds]]\nkind = "flat"\nfile = "flat-*"\n'


@pytest.fixture(scope="module")
def raw(data_folder: Path) -> Path:
    return data_folder / "stl1001"


@pytest.fixture(scope="module")
def plan(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    config = tmp_path_factory.mktemp("config") / "flatcal.toml"
    config.write_text(SETTINGS)
    return build_plan(raw, load_config(config))


@pytest.fixture(scope="module")
def out(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    result = run_plan(plan, folder)
    assert not result.failed
    return folder


def read(pattern: str, raw: Path) -> np.ndarray:
    return np.stack([fits.getdata(path).astype(float) for path in sorted(raw.glob(pattern))])


@pytest.fixture(scope="module")
def hot_pixels(raw: Path) -> np.ndarray:
    darks = np.concatenate([read("darks-expos1-*", raw), read("darks-expos60s-Neg5-*", raw)])
    return np.median(darks, axis=0) - np.median(read("biases-Neg5-*", raw), axis=0) > 2000


def test_every_flat_loses_bias_and_the_scaled_dark_of_minus_5(plan: Plan) -> None:
    flats = [frame for frame in plan.frames if frame.kind == "flat"]
    assert len(flats) == 10
    for frame in flats:
        steps = {step.name: step for step in frame.steps}
        assert list(steps) == ["subtract_bias", "subtract_dark"]
        for step in steps.values():
            assert step.master is not None
            inputs = plan.master(step.master).inputs
            assert len(inputs) >= 10
            assert all("Neg5" in file for file in inputs)
        assert steps["subtract_dark"].scale == pytest.approx(23 / 60)


def test_frames_at_minus_10_become_masters_of_their_own(plan: Plan) -> None:
    cold = [m for m in plan.masters if any("Neg10" in file for file in m.inputs)]
    assert {m.kind.value for m in cold} == {"bias", "dark"}
    assert all("Neg10" in file for m in cold for file in m.inputs)


def test_master_flat_has_the_range_that_was_measured(out: Path) -> None:
    flat = fits.getdata(out / "masters" / "master_flat_Visible.fits")
    low, high = np.percentile(flat, (0.1, 99.9))
    assert low == pytest.approx(0.903, abs=0.002)
    assert high == pytest.approx(1.082, abs=0.002)


def test_frames_scatter_as_was_measured(out: Path) -> None:
    flats = read("*.fits", out / "flats")
    flats /= np.median(flats, axis=(1, 2), keepdims=True)
    scatter = np.sqrt(np.mean(np.var(flats, axis=0, ddof=1)))
    assert scatter == pytest.approx(0.00527, rel=0.03)


def test_predicted_noise_is_that_of_the_photons(out: Path) -> None:
    with fits.open(sorted((out / "flats").glob("*.fits"))[0]) as hdus:
        relative = np.median(hdus["UNCERT"].data) / np.median(hdus[0].data)
    assert relative == pytest.approx(0.00527, rel=0.03)


def test_hot_pixels_fall_to_the_level_that_was_measured(
    out: Path, raw: Path, hot_pixels: np.ndarray
) -> None:
    assert hot_pixels.sum() == pytest.approx(413, abs=20)
    without_dark = read("flat-*", raw)[0] - np.median(read("biases-Neg5-*", raw), axis=0)
    flat = fits.getdata(out / "masters" / "master_flat_Visible.fits")
    assert np.median(without_dark[hot_pixels]) / np.median(without_dark) == pytest.approx(
        0.997, abs=0.003
    )
    assert np.median(flat[hot_pixels]) == pytest.approx(0.929, abs=0.003)


def test_second_run_changes_no_byte(plan: Plan, out: Path) -> None:
    before = state(out)
    result = run_plan(plan, out)
    assert result.n_made == 0
    assert state(out) == before


def state(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path): (sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_without_the_kind_rule_the_flats_are_science_with_a_hint(raw: Path) -> None:
    flats = [frame for frame in build_plan(raw).frames if frame.file.startswith("flat-")]
    assert {frame.kind.value for frame in flats if frame.kind} == {"science"}
    assert all("kind-hint" in {c.slug for c in frame.caveats} for frame in flats)


def test_every_frame_has_an_outcome(plan: Plan, out: Path) -> None:
    outcomes = run_plan(plan, out).record.outcomes
    assert [o.file for o in outcomes] == [frame.file for frame in plan.frames]
    assert {o.status for o in outcomes} == {Status.USED, Status.CALIBRATED}
