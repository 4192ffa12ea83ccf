"""`flatcal verify` passes a good night, and fails one that is wrong in just what a test is for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from flatcal import build_plan, run_plan
from flatcal.cli import app
from flatcal.plan import Plan
from flatcal.recipe import parse_config
from flatcal.verify import TESTS, Verdict, verify_output
from flatcal.verify.records import Verification

# Some columns of the quarter-size cameras: enough pixels for every test.
LFC = """\
[camera]
overscan_section = "[520:544,1:1032]"
trim_section = "[1:128,1:1032]"
gain_electron_per_adu = 2.0
read_noise_electron = 11.0
"""
CG16M = """\
[camera]
overscan_section = "none"
trim_section = "[1:128,1:1024]"
gain_electron_per_adu = 1.5
read_noise_electron = 10.0
"""
# Flats at six levels, without anything else that is odd.
TRANSFER = """\
[camera]
gain_electron_per_adu = 2.0
read_noise_electron = 8.0
[dark]
required = false
"""
LEVELS = (1500, 4000, 9000, 16_000, 24_000, 30_000)


class Reduced(NamedTuple):
    """A night that was reduced as it should be."""

    plan: Plan
    out: Path
    verification: Verification


def reduce(raw, settings, out):
    plan = build_plan(raw, parse_config(settings, "night.toml"))
    assert not run_plan(plan, out).failed
    return Reduced(plan, out, verify_output(out))


@pytest.fixture(scope="module")
def lfc(lfc_night, tmp_path_factory):
    return reduce(lfc_night.raw, LFC, tmp_path_factory.mktemp("lfc") / "out")


@pytest.fixture(scope="module")
def cg16m(cg16m_night, tmp_path_factory):
    return reduce(cg16m_night.raw, CG16M, tmp_path_factory.mktemp("cg16m") / "out")


def write_transfer(folder, put_frame, excess=1.0):
    """Pairs of flats; the noise of the fourth is that of the photons times `excess`."""
    rng = np.random.default_rng(3)
    shape = (320, 352)
    for i in range(4):
        bias = 1000 + rng.normal(0, 4, shape)
        put_frame(folder / f"b{i}.fits", "BIAS", 0.0, bias.round().astype(np.uint16))
    for i, level in enumerate(LEVELS):
        for half in "ab":
            std = np.sqrt(level / 2 + 16) * (excess if i == 3 else 1)
            flat = (1000 + level + rng.normal(0, std, shape)).round().astype(np.uint16)
            put_frame(folder / f"f{i}{half}.fits", "FLAT", 1.0 + i, flat, FILTER="g")
    return folder


@pytest.fixture(scope="module")
def transfer(tmp_path_factory, put_frame):
    folder = tmp_path_factory.mktemp("transfer")
    return reduce(write_transfer(folder / "raw", put_frame), TRANSFER, folder / "out")


# -- good nights -----------------------------------------------------------------------------


@pytest.mark.parametrize("night", ["lfc", "cg16m", "transfer"])
def test_a_good_night_passes(night, request):
    verification = request.getfixturevalue(night).verification
    assert verification.failed == ()


def test_every_test_passes_somewhere(lfc, cg16m, transfer):
    passed = {
        check.test
        for night in (lfc, cg16m, transfer)
        for check in night.verification.checks
        if check.verdict is Verdict.PASS
    }
    assert passed == set(TESTS)


def test_scatters_are_far_nearer_to_1_than_they_must_be(lfc, cg16m):
    """On simulated nights the noise model is true: 2 % is what it neglects."""
    scatters = [
        check
        for night in (lfc, cg16m)
        for check in night.verification.checks
        if check.expected == 1.0 and check.figure is not None
    ]
    assert len(scatters) > 80
    assert [check for check in scatters if abs(check.figure - 1) > 0.02] == []


def test_each_frame_is_tested(cg16m):
    subjects = {}
    for check in cg16m.verification.checks:
        subjects.setdefault(check.test, []).append(check.subject)
    n = {test: len(found) for test, found in subjects.items()}
    assert (n["bias-mean"], n["dark-noise"], n["flat-pattern"], n["flat-photons"]) == (
        10,
        11,
        10,
        5,
    )
    assert (n["outputs"], n["science-uncertainty"], n["dark-left"]) == (15, 2, 12)


# -- wrong nights ----------------------------------------------------------------------------


class Copy:
    """A copy of an output folder, whose files may be spoilt."""

    def __init__(self, night, folder):
        self.out = folder / "out"
        shutil.copytree(night.out, self.out)

    def change(self, pattern, *, add=0.0, times=1.0, std_times=1.0, other=None):
        """Change planes of the first file that fits."""
        path = min(self.out.glob(pattern))
        with fits.open(path, mode="update", memmap=False) as hdus:
            added = 0.0 if other is None else fits.getdata(min(self.out.glob(other)))
            hdus[0].data = ((hdus[0].data + add + added) * times).astype(np.float32)
            hdus["UNCERT"].data *= np.float32(std_times)
        return path

    def failed(self):
        """Names of the tests that fail."""
        return {check.test for check in verify_output(self.out).failed}


@pytest.fixture
def spoilt_lfc(lfc, tmp_path):
    return Copy(lfc, tmp_path)


@pytest.fixture
def spoilt_cg16m(cg16m, tmp_path):
    return Copy(cg16m, tmp_path)


def test_overscan_forgotten_in_the_master_bias(spoilt_lfc):
    """The level of the overscan is about 1100 ADU; 20 ADU of it would do."""
    spoilt_lfc.change("masters/master_bias.fits", add=20.0)
    assert spoilt_lfc.failed() == {"bias-mean"}


def test_bias_forgotten_in_a_master_dark(spoilt_cg16m):
    spoilt_cg16m.change("masters/master_dark_90s.fits", other="masters/master_bias.fits")
    failed = spoilt_cg16m.failed()
    assert "dark-mean" in failed
    assert not {test for test in failed if test.startswith(("bias", "flat", "gain"))}


@pytest.mark.parametrize(
    ("pattern", "test"),
    [
        ("masters/master_bias.fits", "bias-uncertainty"),
        ("masters/master_dark_70s.fits", "dark-uncertainty"),
        ("flats/*.fits", "flat-uncertainty"),
        ("science/*.fits", "science-uncertainty"),
    ],
)
def test_an_uncertainty_that_is_halved(spoilt_lfc, pattern, test):
    spoilt_lfc.change(pattern, std_times=0.5)
    assert test in spoilt_lfc.failed() <= {test, "flat-pattern", "dark-left"}


def test_a_flat_that_lost_too_much(spoilt_cg16m):
    """Of 40000 ADU one percent; a wrong dark may do that."""
    spoilt_cg16m.change("flats/*.fits", times=1.01)
    assert spoilt_cg16m.failed() == {"flat-over-master"}


@pytest.mark.parametrize("how", ["gradient", "dust"])
def test_a_flat_of_another_pattern(spoilt_cg16m, how):
    y, x = np.mgrid[0:1024, 0:128]
    change = 1 + 0.01 * (y / 1023 - 0.5)
    if how == "dust":
        radius = np.hypot(y - 400, x - 60)
        change = np.where((radius > 15) & (radius < 30), 0.99, 1.0)
    spoilt_cg16m.change("flats/*.fits", times=change)
    failed = spoilt_cg16m.failed()
    assert "flat-pattern" in failed
    assert failed <= {"flat-pattern", "flat-uncertainty"}


def test_a_master_flat_of_another_filter(spoilt_lfc):
    masters = spoilt_lfc.out / "masters"
    shutil.copy(masters / "master_flat_gp.fits", masters / "master_flat_ip.fits")
    assert {"flat-pattern", "flat-uncertainty"} <= spoilt_lfc.failed()


def test_an_output_that_is_gone_or_cut_short(spoilt_lfc):
    gone, short = sorted((spoilt_lfc.out / "flats").iterdir())[:2]
    gone.unlink()
    short.write_bytes(short.read_bytes()[:-100_000])
    verification = verify_output(spoilt_lfc.out)
    failed = {check.subject for check in verification.failed if check.test == "outputs"}
    assert failed == {f"flats/{gone.name}", f"flats/{short.name}"}
    assert all(check.reason for check in verification.failed)


def verify_run(raw, settings, out):
    """Names of the tests that a run with other settings fails."""
    return {check.test for check in reduce(raw, settings, out).verification.failed}


def test_a_gain_that_is_20_percent_off(lfc_night, tmp_path):
    settings = LFC.replace("adu = 2.0", "adu = 2.4").replace("electron = 11.0", "electron = 13.2")
    failed = verify_run(lfc_night.raw, settings, tmp_path / "out")
    # The read noise in ADU is right; that in electron is off with the gain.
    assert {"gain", "read-noise", "flat-photons", "flat-uncertainty"} <= failed
    assert not {"bias-noise", "bias-uncertainty", "bias-mean"} & failed


def test_a_read_noise_that_is_20_percent_off(lfc_night, tmp_path):
    settings = LFC.replace("electron = 11.0", "electron = 8.8")
    failed = verify_run(lfc_night.raw, settings, tmp_path / "out")
    expected = {"bias-noise", "bias-uncertainty", "dark-noise", "dark-uncertainty", "read-noise"}
    assert failed == expected


def scale_dark(plan, factor):
    def scaled(frame):
        steps = tuple(
            s.model_copy(update={"scale": s.scale * factor}) if s.name == "subtract_dark" else s
            for s in frame.steps
        )
        return frame.model_copy(update={"steps": steps}) if frame.kind == "science" else frame

    return plan.model_copy(update={"frames": tuple(map(scaled, plan.frames))})


@pytest.mark.parametrize(("factor", "left"), [(2.0, -0.5), (0.5, 1.0)])
def test_a_dark_whose_factor_is_wrong(cg16m_night, tmp_path, factor, left):
    plan = scale_dark(build_plan(cg16m_night.raw, parse_config(CG16M, "night.toml")), factor)
    assert not run_plan(plan, tmp_path / "out").failed
    failed = verify_output(tmp_path / "out").failed
    assert {check.test for check in failed} == {"dark-left"}
    assert [check.figure for check in failed] == pytest.approx([left, left], abs=0.05)


def test_frames_that_change_from_one_to_the_next(tmp_path, put_frame):
    """A level that jumps by 30 ADU with every second bias and dark: read noise 4 ADU."""
    rng = np.random.default_rng(9)
    for i in range(6):
        jump = 30 * (i % 2)
        for name, kind, exposure in (("b", "BIAS", 0.0), ("d", "DARK", 60.0)):
            data = rng.normal(1000 + jump, 4, (96, 96)).round().astype(np.uint16)
            put_frame(tmp_path / "raw" / f"{name}{i}.fits", kind, exposure, data)
        flat = rng.normal(9000, 67, (96, 96)).round().astype(np.uint16)
        put_frame(tmp_path / "raw" / f"f{i}.fits", "FLAT", 60.0, flat, FILTER="g")
    settings = TRANSFER.replace("required = false", 'scale = "never"')
    failed = verify_run(tmp_path / "raw", settings, tmp_path / "out")
    assert {"bias-halves", "dark-halves", "bias-mean", "dark-mean"} & failed == {
        "bias-halves", "dark-halves", "bias-mean", "dark-mean",
    }  # fmt: skip


def test_a_pair_that_is_off_the_photon_transfer_curve(tmp_path, put_frame):
    raw = write_transfer(tmp_path / "raw", put_frame, excess=1.2)
    assert "photon-transfer" in verify_run(raw, TRANSFER, tmp_path / "out")


# -- what is not possible, and the command ---------------------------------------------------


@pytest.fixture
def without_raw(lfc, tmp_path, raw_is_said_to_be_at):
    """Outputs whose raw frames are no longer where they were."""
    copy = Copy(lfc, tmp_path)
    raw_is_said_to_be_at(copy.out, tmp_path / "moved")
    return copy


def test_without_raw_frames_nothing_passes_that_needs_them(without_raw):
    verification = verify_output(without_raw.out)
    assert verification.failed == ()
    needs_raw = {test for test in TESTS if test.startswith(("bias", "dark"))} - {"dark-left"}
    needs_raw |= {"gain", "read-noise", "photon-transfer"}
    for check in verification.checks:
        if check.test in needs_raw:
            assert check.verdict is Verdict.NOT_POSSIBLE
            assert "raw frames are no longer at" in check.reason
    passed = {check.test for check in verification.checks if check.verdict is Verdict.PASS}
    assert {"flat-photons", "flat-pattern", "science-uncertainty"} <= passed


def test_without_gain_the_noise_cannot_be_tested(transfer, tmp_path):
    settings = "[dark]\nrequired = false\n"
    verification = reduce(transfer.plan.raw, settings, tmp_path / "out").verification
    assert verification.failed == ()
    gain = next(check for check in verification.checks if check.test == "gain")
    assert gain.verdict is Verdict.NOT_POSSIBLE
    assert "none was assumed; the pairs give 2" in gain.reason
    assert {check.test for check in verification.checks if check.verdict is Verdict.PASS} == {
        "outputs", "photon-transfer",
    }  # fmt: skip


@pytest.mark.parametrize("read_noise", [0.0, 8.0])
def test_images_that_are_smaller_than_a_box(tmp_path, put_frame, read_noise):
    rng = np.random.default_rng(1)
    for i in range(3):
        for name, kind, level in (("b", "BIAS", 1000), ("f", "FLAT", 9000), ("s", "LIGHT", 2000)):
            data = rng.normal(level, 4, (20, 24)).round().astype(np.uint16)
            put_frame(tmp_path / "raw" / f"{name}{i}.fits", kind, 1.0 * (name != "b"), data)
    settings = TRANSFER.replace("electron = 8.0", f"electron = {read_noise}")
    verification = reduce(tmp_path / "raw", settings, tmp_path / "out").verification
    gain = next(check for check in verification.checks if check.test == "gain")
    assert gain.verdict is Verdict.NOT_POSSIBLE
    outputs = [check for check in verification.checks if check.test == "outputs"]
    assert {check.verdict for check in outputs} == {Verdict.PASS}


def test_exit_codes_and_forms(lfc, spoilt_lfc, tmp_path):
    runner = CliRunner()
    good = runner.invoke(app, ["verify", str(lfc.out), "--json"])
    assert good.exit_code == 0
    assert Verification.model_validate_json(good.stdout) == lfc.verification
    spoilt_lfc.change("masters/master_bias.fits", add=20.0)
    wrong = runner.invoke(app, ["verify", str(spoilt_lfc.out)])
    assert wrong.exit_code == 1
    assert "6 failed" in wrong.stdout
    assert "ccd.001.0.fits" in wrong.stdout
    missing = runner.invoke(app, ["verify", str(tmp_path)])
    assert missing.exit_code != 0
    assert "[no-run]" in str(missing.exception)


def test_nothing_is_written(lfc):
    before = {path: path.stat().st_mtime_ns for path in lfc.out.rglob("*")}
    verify_output(lfc.out)
    assert {path: path.stat().st_mtime_ns for path in lfc.out.rglob("*")} == before
