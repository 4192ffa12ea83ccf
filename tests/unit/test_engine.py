"""Runs against plain numpy and the simulator's truth; what is redone, and what is left alone."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty

from flatcal.engine.run import run_plan
from flatcal.errors import ConfigError, OutputError
from flatcal.planning import build_plan
from flatcal.projection import project_memory
from flatcal.recipe import load_config, parse_config
from flatcal.records import RunRecord

SETTINGS = "[camera]\ngain_electron_per_adu=1.5\nread_noise_electron=6\n"


def run(raw, out, text=SETTINGS, **options):
    return run_plan(build_plan(raw, parse_config(text, "night.toml")), out, **options)


def outcomes(result):
    return {outcome.file: outcome for outcome in result.record.outcomes}


def slugs_of_failures(result):
    return {o.file: [error.slug for error in o.errors] for o in result.failed}


def fits_bytes(out):
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*.fits"))}


def states(folder):
    """Content and modification time of every file, hidden ones too."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def changed(before, after):
    """Images that are new, or written anew."""
    names = {name for name in after if after[name] != before.get(name)}
    return {name.removesuffix(".fits") for name in names if name.endswith(".fits")}


# -- against plain numpy -----------------------------------------------------------------


def clipped_mean(stack, noise):
    """Mean without values beyond 5 MAD (as a standard deviation) from the median, in float64.

    The MAD counts as no less than the noise of one value.
    """
    stack = np.array(stack, float)
    median = np.median(stack, axis=0)
    distance = np.abs(stack - median)
    std = np.maximum(1.482602218505602 * np.median(distance, axis=0), noise)
    kept = distance <= 5 * std
    return np.where(kept, stack, 0).sum(axis=0) / kept.sum(axis=0)


def with_neighbours(mask):
    """What is set in each image, and the eight pixels about it."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    rows, columns = mask.shape[1:]
    shifted = [padded[:, y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    return np.any(shifted, axis=0)


def mean_by_noise(stack, photon, read, zero, *, grow=False):
    """Mean without values beyond 5 times the noise of their frame from the median, in float64.

    Half of the values of a pixel are kept. The noise counts as no less than that of the frames
    as their differences show it. Here all pixels are asked, in flatcal some: a value so near
    its limit that this decides gives NaN.
    """
    stack = np.array(stack, float)
    unknown = np.isnan(stack).any(axis=0)
    stack[:, unknown] = 0
    n = len(stack)
    photon, read = (np.broadcast_to(term, n)[:, None, None] for term in (photon, read))
    median = np.median(stack, axis=0)
    variance = photon * np.maximum(median - zero, 0) + read
    shown = sorted(
        np.median(np.abs(stack[i] - stack[i - 1]) / np.sqrt(variance[i] + variance[i - 1]))
        / 0.67449
        for i in range(n)
    )
    limit = 5 * np.sqrt(variance) * max(1, shown[(n - 1) // 3])
    distance = np.abs(stack - median)
    half = np.sort(distance, axis=0)[(n - 1) // 2]
    kept = (distance <= limit) | (distance <= half * (1 + 1e-9))
    near = (np.abs(distance - limit) < 0.03 * limit) & (distance > half)
    if grow:
        kept, near = ~with_neighbours(~kept), with_neighbours(near)
    mean = np.where(kept, stack, 0).sum(axis=0) / kept.sum(axis=0)
    return np.where(near.any(axis=0) | unknown, np.nan, mean)


class Reference:
    """The reduction of a night as a few lines of numpy in float64."""

    def __init__(self, night):
        self.raw = night.raw
        self.frames = night.truth.frames
        self.camera = night.truth.camera
        gain = self.camera.gain_electron_per_adu
        read_noise = self.camera.read_noise_electron / gain
        # A median of the 25 columns of an overscan adds the noise of the level of a row.
        self.read = read_noise**2 * (1 + np.pi / 2 / 25 if self.camera.name == "lfc" else 1)
        self.photon = 1 / gain

    def pixels(self, file):
        """Overscan and trim."""
        image = fits.getdata(self.raw / file).astype(float)
        if self.camera.name == "lfc":
            image = image - np.median(image[:, 519:544], axis=1)[:, None]
            return image[:, :512]
        return image[:, :1024]

    def stack(self, kind, exposure=None):
        return [
            self.pixels(frame.file)
            for frame in self.frames
            if frame.kind == kind and exposure in (None, frame.exposure_time_s)
        ]

    def flat_of(self, flats):
        levels = np.array([np.nanmedian(flat) for flat in flats])
        scaled = [flat / level for flat, level in zip(flats, levels, strict=True)]
        read = (self.read + 1 / 12) / levels**2
        average = mean_by_noise(scaled, self.photon / levels, read, zero=0, grow=True)
        return average / np.nanmedian(average)

    def mean_of(self, stack, *, lost_bias):
        """Of biases or darks; those that hold their bias have photons above their level only."""
        zero = 0 if lost_bias else np.median(np.median(stack, axis=0))
        return mean_by_noise(stack, self.photon, self.read + 1 / 12, zero)


class LfcReference(Reference):
    """Darks as long as the frames, with the bias in them."""

    def masters(self):
        made = {"master_bias": self.mean_of(self.stack("bias"), lost_bias=False)}
        for exposure in (7, 70, 300):
            darks = self.stack("dark", exposure)
            made[f"master_dark_{exposure}s"] = self.mean_of(darks, lost_bias=False)
        for name, filter_name in (("gp", "g'"), ("ip", "i'")):
            files = [f for f in self.frames if (f.kind, f.filter) == ("flat", filter_name)]
            flats = [self.calibrated(frame, made) for frame in files]
            made[f"master_flat_{name}"] = self.flat_of(flats)
        return made

    def calibrated(self, frame, made):
        exposure = {"g'": 70, "i'": 7}[frame.filter] if frame.kind == "flat" else 300
        image = self.pixels(frame.file) - made[f"master_dark_{exposure}s"]
        flat = {"g'": "gp", "i'": "ip"}[frame.filter]
        return image / made[f"master_flat_{flat}"] if frame.kind == "science" else image


class Cg16mReference(Reference):
    """One dark of 90 s, scaled without its bias."""

    def masters(self):
        bias = self.mean_of(self.stack("bias"), lost_bias=False)
        dark = self.mean_of([image - bias for image in self.stack("dark")], lost_bias=True)
        made = {"master_bias": bias, "master_dark_90s": dark}
        flats = [self.calibrated(f, made) for f in self.frames if f.kind == "flat"]
        return made | {"master_flat_r": self.flat_of(flats)}

    def calibrated(self, frame, made):
        image = self.pixels(frame.file) - made["master_bias"]
        image = image - frame.exposure_time_s / 90 * made["master_dark_90s"]
        return image / made["master_flat_r"] if frame.kind == "science" else image


@pytest.fixture(scope="module")
def reduced(lfc_night, cg16m_night, tmp_path_factory):
    """For each camera the night, its result, and the reference with its masters."""
    made = {}
    for night, reference in ((lfc_night, LfcReference), (cg16m_night, Cg16mReference)):
        out = tmp_path_factory.mktemp("reduced")
        plan = build_plan(night.raw, load_config(night.config))
        result = run_plan(plan, out)
        assert result.failed == ()
        truth = reference(night)
        made[night.truth.camera.name] = (night, result, truth, truth.masters())
    return made


CAMERAS = ["lfc", "cg16m"]


def assert_close(actual, expected, **tolerances):
    """Equal but for very few pixels that rounding decides, which are not known."""
    known = np.isfinite(expected)
    assert known.mean() > 0.998
    np.testing.assert_allclose(actual[known], expected[known], **tolerances)


@pytest.mark.parametrize("camera", CAMERAS)
def test_masters_are_those_of_plain_numpy(reduced, camera):
    _, result, _, masters = reduced[camera]
    files = {path.stem for path in (result.out / "masters").iterdir()}
    assert files == set(masters)
    for name, expected in masters.items():
        with fits.open(result.out / "masters" / f"{name}.fits") as hdus:
            assert hdus[0].data.dtype == np.dtype(">f4")
            good = hdus["MASK"].data == 0
            assert good.mean() > 0.99
            atol = 1e-5 if "flat" in name else 1e-3
            assert_close(hdus[0].data[good], expected[good], rtol=1e-5, atol=atol, err_msg=name)


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("kind", ["flat", "science"])
def test_frames_are_those_of_plain_numpy(reduced, camera, kind):
    night, result, reference, masters = reduced[camera]
    frames = [frame for frame in night.truth.frames if frame.kind == kind]
    assert len(frames) >= 2
    for frame in frames:
        outcome = outcomes(result)[frame.file]
        with fits.open(result.out / outcome.output) as hdus:
            good = hdus["MASK"].data == 0
            assert good.mean() > 0.99
            expected = reference.calibrated(frame, masters)
            assert_close(hdus[0].data[good], expected[good], rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("kind", ["flat", "science"])
def test_frames_are_as_far_from_the_truth_as_their_uncertainty_says(reduced, camera, kind):
    night, result, _, _ = reduced[camera]
    for frame in night.truth.frames:
        if frame.kind != kind:
            continue
        truth = night.truth.expected_signal(frame)
        if kind == "science":
            truth = night.truth.expected_flattened(frame)
        with fits.open(result.out / outcomes(result)[frame.file].output) as hdus:
            good = hdus["MASK"].data == 0
            pull = ((hdus[0].data - truth) / hdus["UNCERT"].data)[good]
        low, middle, high = np.percentile(pull, (15.865, 50, 84.135))
        assert (high - low) / 2 == pytest.approx(1, abs=0.05)
        # The level of a CG16M frame moves by 0.3 ADU, without an overscan to tell.
        assert abs(middle) < 0.15


@pytest.mark.parametrize(("camera", "n"), [("lfc", 6), ("cg16m", 10)])
def test_the_bias_is_as_far_from_the_truth_as_its_uncertainty_says(reduced, camera, n):
    night, result, _, _ = reduced[camera]
    with fits.open(result.out / "masters" / "master_bias.fits") as hdus:
        residual = hdus[0].data - night.truth.bias_adu
        std = hdus["UNCERT"].data
    low, middle, high = np.percentile(residual, (15.865, 50, 84.135))
    read_noise_adu = (
        night.truth.camera.read_noise_electron / night.truth.camera.gain_electron_per_adu
    )
    assert (high - low) / 2 == pytest.approx(np.median(std), rel=0.05)
    assert np.median(std) == pytest.approx(read_noise_adu / np.sqrt(n), rel=0.1)
    expected = 5 if camera == "lfc" else 1200  # the simulator's level less that of its overscan
    assert middle == pytest.approx(expected, abs=0.3)


def test_the_uncertainty_of_a_dark_has_the_shot_noise_of_its_current(reduced):
    night, result, _, _ = reduced["cg16m"]
    camera = night.truth.camera
    current_adu = 90 * night.truth.dark_rate_adu_per_s
    read_adu = camera.read_noise_electron / camera.gain_electron_per_adu
    of_the_darks = (current_adu / camera.gain_electron_per_adu + read_adu**2) / 11
    expected = np.sqrt(of_the_darks + read_adu**2 / 10)  # and of the bias, taken from each
    hot = (current_adu > 500) & (current_adu < 20_000)
    assert hot.sum() > 50
    with fits.open(result.out / "masters" / "master_dark_90s.fits") as hdus:
        ratio = (hdus["UNCERT"].data / expected)[hot]
    # A frame rejected by chance makes it larger; without shot noise it would be a third.
    assert np.median(ratio) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_master_flat_is_the_response_within_its_uncertainty(reduced, camera):
    night, result, _, _ = reduced[camera]
    for path in (result.out / "masters").glob("master_flat_*.fits"):
        with fits.open(path) as hdus:
            response = night.truth.flat_response[hdus[0].header["FILTER"]]
            good = hdus["MASK"].data == 0
            assert np.median(hdus[0].data[good]) == pytest.approx(1, abs=1e-6)
            pull = ((hdus[0].data - response) / hdus["UNCERT"].data)[good]
        low, high = np.percentile(pull, (15.865, 84.135))
        assert (high - low) / 2 == pytest.approx(1, abs=0.1)


# -- files -------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", CAMERAS)
def test_astropy_reads_every_output_with_unit_mask_and_uncertainty(reduced, camera):
    _, result, _, _ = reduced[camera]
    paths = sorted(result.out.rglob("*.fits"))
    assert len(paths) == result.n_made
    for path in paths:
        ccd = CCDData.read(path)
        flat = path.stem.startswith("master_flat")
        assert ccd.unit == (u.dimensionless_unscaled if flat else u.adu)
        assert ccd.mask.dtype == bool
        assert isinstance(ccd.uncertainty, StdDevUncertainty)
        assert ccd.uncertainty.array.shape == ccd.shape == ccd.mask.shape
        with fits.open(path) as hdus:
            hdus.verify("exception")
            assert hdus[0].header["NFLAGGED"] == ccd.mask.sum()


@pytest.mark.parametrize("camera", CAMERAS)
def test_headers_name_each_input_with_its_hash(reduced, camera):
    night, result, _, _ = reduced[camera]
    for product in result.record.products.values():
        header = fits.getheader(result.out / product.output)
        named = {
            header[f"INF{i:04d}"]: header[f"INS{i:04d}"] for i in range(1, header["NINPUT"] + 1)
        }
        assert named == {
            file: sha256((night.raw / file).read_bytes()).hexdigest() for file in product.inputs
        }
        assert header["RECIPE"] == product.recipe
        assert len(header["RECIPE"]) == 64
        assert header["IMAGETYP"] == product.kind


def state(path):
    header = fits.getheader(path)
    return tuple(header[k] for k in ("OSCANSUB", "TRIMMED", "BIASSUB", "DARKSUB", "FLATDIV"))


def test_headers_say_what_has_been_removed(reduced):
    out = reduced["lfc"][1].out
    assert state(out / "masters/master_bias.fits") == (True, True, False, False, False)
    assert state(out / "masters/master_dark_70s.fits") == (True, True, False, False, False)
    assert state(out / "masters/master_flat_gp.fits") == (True, True, True, True, False)
    # The bias has gone with the dark that holds it.
    assert state(out / "flats/flat-ccd.016.0.fits") == (True, True, True, True, False)
    assert state(out / "science/science-ccd.022.0.fits") == (True, True, True, True, True)
    out = reduced["cg16m"][1].out
    assert state(out / "masters/master_dark_90s.fits") == (False, True, True, False, False)
    assert state(out / "flats/flat-022.fits") == (False, True, True, True, False)
    assert state(out / "science/science-032.fits") == (False, True, True, True, True)


def test_headers_name_masters_sections_and_scale(reduced):
    header = fits.getheader(reduced["cg16m"][1].out / "flats/flat-031.fits")
    assert header["BIASNAME"] == "master_bias.fits"
    assert header["DARKNAME"] == "master_dark_90s.fits"
    assert header["DARKSCAL"] == pytest.approx(1.21 / 90)
    assert header["TRIMDSEC"] == "[1:1024,1:1024]"
    assert header["BUNIT"] == "adu"
    assert "FLATNAME" not in header
    header = fits.getheader(reduced["lfc"][1].out / "science/science-ccd.022.0.fits")
    assert header["FLATNAME"] == "master_flat_gp.fits"
    assert header["OSCANSEC"] == "[520:544,1:1032]"
    assert header["OBJECT"] == "simulated field"
    assert header["RAWTYPE"] == "OBJECT"


def test_the_header_of_a_master_is_that_of_all_its_frames(reduced):
    night, result, _, _ = reduced["cg16m"]
    header = fits.getheader(result.out / "masters/master_flat_r.fits")
    times = [f.exposure_time_s for f in night.truth.frames if f.kind == "flat"]
    assert header["EXPTIME"] == pytest.approx(np.mean(times), rel=1e-12)
    assert (header["EXPTMIN"], header["EXPTMAX"]) == (1.0, 1.21)
    dates = [fits.getval(night.raw / f"flat-{n:03d}.fits", "DATE-OBS") for n in range(22, 32)]
    assert (header["DATE-OBS"], header["DATE-END"]) == (min(dates), max(dates))
    assert (header["FILTER"], header["NCOMBINE"], header["COMBINED"]) == ("r", 10, True)
    assert header["INSTRUME"] == "Aspen CG16M"
    assert "CCD-TEMP" not in header  # it differs from frame to frame
    assert "DARKSCAL" not in header  # so does this
    assert header["DARKNAME"] == "master_dark_90s.fits"
    assert "FILTER" not in fits.getheader(result.out / "masters/master_bias.fits")


@pytest.mark.parametrize("camera", CAMERAS)
def test_no_output_keeps_sections_of_the_raw_image(reduced, camera):
    for path in reduced[camera][1].out.rglob("*.fits"):
        assert not {"BIASSEC", "TRIMSEC", "DATASEC"} & set(fits.getheader(path)), path.name


def test_results_are_the_same_bytes_with_any_threads_and_memory(reduced, tmp_path):
    night, result, _, _ = reduced["lfc"]
    expected = fits_bytes(result.out)
    plan = build_plan(night.raw, load_config(night.config))
    least = project_memory(plan).least_bytes
    for name, options in {"one": {"jobs": 1}, "few": {"jobs": 3, "memory_bytes": least}}.items():
        run_plan(plan, tmp_path / name, **options)
        assert fits_bytes(tmp_path / name) == expected


def test_the_record_is_in_the_folder(reduced):
    _, result, _, _ = reduced["lfc"]
    assert RunRecord.model_validate_json((result.out / "run.json").read_bytes()) == result.record
    assert {o.status for o in result.record.outcomes} == {"calibrated", "used"}
    assert len(result.record.outcomes) == 23


# -- a small night -----------------------------------------------------------------------


@pytest.fixture
def night(tmp_path, put_frame):
    """A raw folder: darks of 10 s fit, those of 60 s must be scaled; filters g and r.

    Four columns of overscan follow the image of 24 rows and 30 columns.
    """
    raw = tmp_path / "raw"
    rng = np.random.default_rng(7)
    sections = {"BIASSEC": "[31:34,1:24]", "TRIMSEC": "[1:30,1:24]"}

    def put(name, kind, exposure, level, **cards):
        data = rng.normal(1000, 8, (24, 34))
        data[:, :30] += level
        data = data.round().astype(np.uint16)
        put_frame(raw / name, kind, exposure, data, BUNIT="adu", **sections, **cards)

    for i in range(3):
        put(f"b{i}.fits", "BIAS", 0.0, 0)
        put(f"d10-{i}.fits", "DARK", 10.0, 10)
        put(f"d60-{i}.fits", "DARK", 60.0, 60)
        put(f"g{i}.fits", "FLAT", 10.0, 20_000, FILTER="g")
        put(f"r{i}.fits", "FLAT", 2.0, 15_000, FILTER="r")
    put("sg.fits", "LIGHT", 10.0, 300, FILTER="g")
    put("sr.fits", "LIGHT", 60.0, 400, FILTER="r")
    return raw


ALL = (
    {"masters/master_bias", "masters/master_dark_10s", "masters/master_dark_60s"}
    | {"masters/master_flat_g", "masters/master_flat_r"}
    | {f"flats/flat-{f}{i}" for f in "gr" for i in range(3)}
    | {"science/science-sg", "science/science-sr"}
)
OF_G = {f"flats/flat-g{i}" for i in range(3)} | {"masters/master_flat_g", "science/science-sg"}
OF_R = {f"flats/flat-r{i}" for i in range(3)} | {"masters/master_flat_r", "science/science-sr"}


def shift(path, by=3):
    """Change the pixels of a raw file a little; its header stays."""
    with fits.open(path, mode="update", output_verify="ignore") as hdus:
        hdus[0].data[5:10, 5:10] += np.uint16(by)


def test_the_first_run_makes_everything(night, tmp_path):
    result = run(night, tmp_path / "out")
    assert result.failed == ()
    assert changed({}, states(tmp_path / "out")) == ALL
    assert (result.n_made, result.n_current) == (len(ALL), 0)


def test_a_second_run_touches_nothing(night, tmp_path):
    out = tmp_path / "out"
    run(night, out)
    before = states(out)
    result = run(night, out)
    assert states(out) == before
    assert (result.n_made, result.n_current) == (0, len(ALL))


def test_a_second_run_with_other_threads_and_memory_touches_nothing(night, tmp_path):
    out = tmp_path / "out"
    run(night, out)
    before = states(out)
    run(night, out, jobs=1, memory_bytes=2**20)
    assert states(out) == before


DARKS = {"masters/master_dark_10s", "masters/master_dark_60s"}


@pytest.mark.parametrize(
    ("file", "redone"),
    [
        # The level of the bias tells how much of the dark that holds it is current.
        ("b1.fits", {"masters/master_bias", *DARKS} | OF_R | OF_G),
        ("d10-0.fits", {"masters/master_dark_10s"} | OF_G),
        ("d60-2.fits", {"masters/master_dark_60s"} | OF_R),
        ("r1.fits", {"flats/flat-r1", "masters/master_flat_r", "science/science-sr"}),
        ("sg.fits", {"science/science-sg"}),
    ],
)
def test_a_changed_raw_frame_redoes_what_depends_on_it(night, tmp_path, file, redone):
    out = tmp_path / "out"
    run(night, out)
    before = states(out)
    shift(night / file)
    result = run(night, out)
    assert changed(before, states(out)) == redone
    assert result.n_made == len(redone)
    fresh = tmp_path / "fresh"
    run(night, fresh)
    assert fits_bytes(out) == fits_bytes(fresh)


def test_a_raw_frame_that_is_only_touched_redoes_no_image(night, tmp_path):
    out = tmp_path / "out"
    run(night, out)
    before = states(out)
    os.utime(night / "b1.fits")
    result = run(night, out)
    assert changed(before, states(out)) == set()
    assert result.n_made == 0
    before = states(out)
    run(night, out)
    assert states(out) == before


def test_another_bias_redoes_what_depends_on_the_bias(night, tmp_path, put_frame):
    out = tmp_path / "out"
    run(night, out)
    before = states(out)
    shutil.copy(night / "b1.fits", night / "b9.fits")
    run(night, out)
    assert changed(before, states(out)) == {"masters/master_bias", *DARKS} | OF_R | OF_G


@pytest.mark.parametrize(
    "text",
    [
        SETTINGS.replace("1.5", "1.6"),
        SETTINGS + "saturation_adu=50000\n",
        SETTINGS + "[combine]\nhigh_sigma=3\n",
        SETTINGS.replace("[camera]", "[camera]\ntrim_section='[1:20,1:20]'"),
        SETTINGS.replace("[camera]", "[camera]\noverscan_statistic='mean'"),
    ],
)
def test_other_settings_redo_everything_that_they_bear_on(night, tmp_path, text):
    out = tmp_path / "out"
    run(night, out)
    before = states(out)
    run(night, out, text)
    assert changed(before, states(out)) == ALL
    fresh = tmp_path / "fresh"
    run(night, fresh, text)
    assert fits_bytes(out) == fits_bytes(fresh)


def test_settings_that_change_no_decision_redo_nothing(night, tmp_path):
    out = tmp_path / "out"
    run(night, out)
    before = states(out)
    run(night, out, SETTINGS + "[dark]\ntolerance_s=0.4\n[science]\nflat_required=false\n")
    assert changed(before, states(out)) == set()


def test_a_setting_that_changes_a_decision_redoes_that(night, tmp_path):
    """The dark of 60 s is never scaled now: it keeps its bias, and the flats in r are refused."""
    out = tmp_path / "out"
    run(night, out)
    before = states(out)
    result = run(night, out, SETTINGS + "[dark]\nscale='never'\n[science]\nflat_required=false\n")
    assert changed(before, states(out)) == {"masters/master_dark_60s", "science/science-sr"}
    assert set(slugs_of_failures(result)) == {"r0.fits", "r1.fits", "r2.fits"}
    assert set(result.left_over) == {f"{name}.fits" for name in OF_R - {"science/science-sr"}}


def cut_in_pixels(path):
    os.truncate(path, 6000)


def cut_in_header(path):
    os.truncate(path, 1000)


def cut_at_the_last_byte(path):
    os.truncate(path, path.stat().st_size - 1)


def cut_off_mask(path):
    with fits.open(path) as hdus:
        size = hdus["MASK"]._header_offset
    os.truncate(path, size)


def cut_off_uncert_and_mask(path):
    with fits.open(path) as hdus:
        size = hdus["UNCERT"]._header_offset
    os.truncate(path, size)


DAMAGES = [Path.unlink, cut_in_pixels, cut_in_header, cut_at_the_last_byte, cut_off_mask]
DAMAGES += [cut_off_uncert_and_mask, lambda path: path.write_bytes(b"")]


@pytest.mark.parametrize(
    ("name", "damage"),
    [("flats/flat-g1", damage) for damage in DAMAGES]
    + [("masters/master_dark_10s", cut_off_mask), ("masters/master_flat_g", cut_in_pixels)]
    + [("science/science-sr", cut_off_mask), ("masters/master_bias", Path.unlink)],
)
def test_a_damaged_output_is_made_again_and_nothing_else(night, tmp_path, name, damage):
    out = tmp_path / "out"
    run(night, out)
    good = fits_bytes(out)
    damage(out / f"{name}.fits")
    before = states(out)
    result = run(night, out)
    assert result.failed == ()
    assert changed(before, states(out)) == {name}
    assert fits_bytes(out) == good


def test_a_damaged_run_json_costs_time_only(night, tmp_path):
    out = tmp_path / "out"
    run(night, out)
    good = fits_bytes(out)
    record = (out / "run.json").read_text()
    for text in (record[:-100], record.replace('"schema_version": 1', '"schema_version": 9')):
        (out / "run.json").write_text(text)
        assert run(night, out).failed == ()
        assert fits_bytes(out) == good


def test_the_record_of_another_raw_folder_is_not_believed(night, tmp_path):
    """Two nights with the same names, sizes and times, as some copies make them."""
    other = tmp_path / "other"
    shutil.copytree(night, other)
    for path in other.iterdir():
        shift(path)
    for path in other.iterdir():
        status = (night / path.name).stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    run(night, tmp_path / "out")
    run(other, tmp_path / "out")
    run(other, tmp_path / "fresh")
    assert fits_bytes(tmp_path / "out") == fits_bytes(tmp_path / "fresh")


# -- files that are not ours -------------------------------------------------------------


FOREIGN = ["masters/master_bias.fits", "flats/flat-g1.fits", "science/science-sr.fits"]


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("content", [b"my notes", None])
def test_a_file_that_flatcal_did_not_write_is_not_replaced(night, tmp_path, name, content):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content or (night / "sg.fits").read_bytes())
    before = path.read_bytes()
    result = run(night, tmp_path / "out")
    assert path.read_bytes() == before
    told = {slug for slugs in slugs_of_failures(result).values() for slug in slugs}
    assert "output-exists" in told
    result = run(night, tmp_path / "out", overwrite=True)
    assert result.failed == ()
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    "options",
    [
        {"jobs": -3},
        {"jobs": 0},
        {"jobs": 1.5},
        {"memory_bytes": float("nan")},
        {"memory_bytes": float("inf")},
        {"memory_bytes": -1},
        {"memory_bytes": "2GiB"},
    ],
)
def test_numbers_that_are_none_are_refused(night, tmp_path, options):
    ((name, value),) = options.items()
    with pytest.raises(ConfigError, match=re.escape(f"{name} = {value!r} is no")) as caught:
        run(night, tmp_path / "out", **options)
    assert caught.value.slug == "bad-config"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["plan.json", "run.json"])
def test_a_json_file_that_flatcal_did_not_write_is_not_replaced(night, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"mine": true}')
    with pytest.raises(OutputError, match=name) as caught:
        run(night, out)
    assert caught.value.slug == "output-exists"
    assert (out / name).read_text() == '{"mine": true}'
    run(night, out, overwrite=True)
    assert "schema_version" in (out / name).read_text()


def test_other_files_in_the_folder_are_left_alone(night, tmp_path):
    out = tmp_path / "out"
    (out / "masters").mkdir(parents=True)
    (out / "masters" / "notes.txt").write_text("mine")
    result = run(night, out)
    assert (out / "masters" / "notes.txt").read_text() == "mine"
    assert not list(out.rglob("*.part-*"))
    assert result.left_over == ()


# -- raw frames that fail ----------------------------------------------------------------


def cut(path):
    os.truncate(path, path.stat().st_size - 2880)


@pytest.mark.parametrize(
    ("file", "harm", "slug"),
    [
        ("b1.fits", Path.unlink, "file-broken"),
        ("d60-0.fits", shift, "file-changed"),
        ("g2.fits", cut, "file-changed"),
        ("g2.fits", Path.unlink, "file-broken"),
        ("sr.fits", shift, "file-changed"),
    ],
)
def test_a_raw_frame_that_goes_or_changes_after_planning_fails_alone(
    night, tmp_path, file, harm, slug
):
    plan = build_plan(night, parse_config(SETTINGS, "n"))
    harm(night / file)
    result = run_plan(plan, tmp_path / "out")
    assert slugs_of_failures(result) == {file: [slug]}
    assert len(result.record.outcomes) == len(plan.frames)
    for product in result.record.products.values():
        assert file not in product.inputs
    made = {name.removesuffix(".fits") for name in result.record.products}
    assert made == ALL - {f"flats/flat-{file[:2]}", f"science/science-{file[:2]}"}


def test_frames_without_their_master_fail_with_the_reason(night, tmp_path):
    plan = build_plan(night, parse_config(SETTINGS, "n"))
    for i in range(3):
        (night / f"d10-{i}.fits").unlink()
    result = run_plan(plan, tmp_path / "out")
    failures = slugs_of_failures(result)
    assert set(failures) == {"d10-0.fits", "d10-1.fits", "d10-2.fits"} | {
        "g0.fits",
        "g1.fits",
        "g2.fits",
        "sg.fits",
    }
    assert all(failures.values())
    for file in ("g0.fits", "sg.fits"):
        assert "master_dark_10s" in outcomes(result)[file].reason


def write_fz_with_broken_tiles(path):
    """A header that is whole, and pixels that cannot be unpacked."""
    rng = np.random.default_rng(3)
    header = fits.Header({"IMAGETYP": "BIAS", "EXPTIME": 0.0, "BUNIT": "adu"})
    image = rng.integers(990, 1010, (24, 30)).astype(np.int32)
    hdu = fits.CompImageHDU(image, header, compression_type="GZIP_1")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    content = bytearray(path.read_bytes())
    content[-2880:-1000] = b"\x55" * 1880
    path.write_bytes(content)


def test_a_frame_whose_pixels_cannot_be_unpacked_fails_with_its_reason(night, tmp_path):
    write_fz_with_broken_tiles(night / "b3.fits.fz")
    result = run(night, tmp_path / "out")
    failed = outcomes(result)["b3.fits.fz"]
    assert failed.status == "failed"
    assert [error.slug for error in failed.errors] == ["file-broken"]
    assert all(o.errors for o in result.failed)
    assert outcomes(result)["sg.fits"].status == "calibrated"


# -- levels ------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, -30, 65535])
def test_flats_without_light_make_no_flat(tmp_path, put_frame, level):
    """No light, less than none, or all pixels saturated: nothing to divide by."""
    rng = np.random.default_rng(2)
    for i in range(3):
        for kind, light in (("DARK", 0), ("FLAT", level)):
            data = np.clip(rng.normal(1000 + light, 5, (20, 20)).round(), 0, 65535)
            put_frame(
                tmp_path / f"raw/{kind}{i}.fits", kind, 5.0, data.astype(np.uint16), BUNIT="adu"
            )
    # A constant dark and flat have a median of exactly zero.
    if level == 0:
        for path in (tmp_path / "raw").iterdir():
            with fits.open(path, mode="update") as hdus:
                hdus[0].data[:] = 1000
    put_frame(
        tmp_path / "raw/s.fits", "LIGHT", 5.0, np.full((20, 20), 1500, np.uint16), BUNIT="adu"
    )
    result = run(tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out/masters/master_flat_none.fits").exists()
    assert "flat-level" in slugs_of_failures(result)["s.fits"]


def test_one_flat_without_light_is_left_out_of_the_master(night, tmp_path):
    with fits.open(night / "g1.fits", mode="update") as hdus:
        hdus[0].data[:] = 65535
    result = run(night, tmp_path / "out")
    assert slugs_of_failures(result) == {"g1.fits": ["flat-level"]}
    product = result.record.products["masters/master_flat_g.fits"]
    assert product.inputs == ("g0.fits", "g2.fits")


def test_a_frame_without_a_good_pixel_does_not_upset_the_next_run(night, tmp_path):
    with fits.open(night / "sg.fits", mode="update") as hdus:
        hdus[0].data[:] = 65535
    out = tmp_path / "out"
    run(night, out)
    before = states(out)
    result = run(night, out)
    assert result.n_made == 0
    assert states(out) == before


def flags_of(path):
    with fits.open(path) as hdus:
        return np.array(hdus["FLAGS"].data)


SATURATED, NON_FINITE, FLAT_INVALID, NO_INPUT, MASTER_BAD = 1, 2, 4, 8, 16
HOT, DEAD, BLED = 32, 64, 512


def poke(path, y, x, value):
    with fits.open(path, mode="update") as hdus:
        hdus[0].data[y, x] = value


def test_saturated_pixels_are_flagged_and_left_out_of_masters(night, tmp_path):
    poke(night / "sg.fits", 3, 4, 65535)
    poke(night / "sg.fits", 3, 5, 65534)
    poke(night / "b0.fits", 6, 7, 65535)
    result = run(night, tmp_path / "out")
    assert result.failed == ()
    expected = np.zeros((24, 30), np.int16)
    assert (flags_of(tmp_path / "out/masters/master_bias.fits") == expected).all()
    expected[3, 4], expected[2, 4], expected[4, 4] = SATURATED, BLED, BLED
    assert (flags_of(tmp_path / "out/science/science-sg.fits") == expected).all()
    two = [image_of(night / f"b{i}.fits")[6, 7] for i in (1, 2)]
    bias = fits.getdata(tmp_path / "out/masters/master_bias.fits")
    assert bias[6, 7] == pytest.approx(np.mean(two), abs=1e-4)


def image_of(path):
    """A frame of the small night without overscan, by plain numpy."""
    pixels = fits.getdata(path).astype(float)
    return pixels[:, :30] - np.median(pixels[:, 30:], axis=1)[:, None]


def test_saturated_values_are_left_out_even_where_they_are_the_majority(night, tmp_path):
    """Clipping alone would take the one good value of three for the outlier."""
    for i in (0, 2):
        poke(night / f"b{i}.fits", 6, 7, 65535)
    run(night, tmp_path / "out")
    bias = fits.getdata(tmp_path / "out/masters/master_bias.fits")
    assert bias[6, 7] == pytest.approx(image_of(night / "b1.fits")[6, 7], abs=1e-4)


def test_the_saturation_level_can_be_set(night, tmp_path):
    poke(night / "sg.fits", 3, 4, 50_000)
    poke(night / "sg.fits", 3, 5, 49_999)
    run(night, tmp_path / "out", SETTINGS + "saturation_adu=50000\n")
    flags = flags_of(tmp_path / "out/science/science-sg.fits")
    assert (flags[3, 4], flags[3, 5]) == (SATURATED, 0)


def test_a_pixel_that_is_bad_in_all_darks_is_bad_in_all_that_they_calibrate(night, tmp_path):
    for i in range(3):
        poke(night / f"d10-{i}.fits", 8, 9, 65535)
    run(night, tmp_path / "out")
    out = tmp_path / "out"
    assert flags_of(out / "masters/master_dark_10s.fits")[8, 9] == NO_INPUT | HOT
    assert flags_of(out / "flats/flat-g0.fits")[8, 9] == MASTER_BAD | HOT
    assert flags_of(out / "masters/master_flat_g.fits")[8, 9] == NO_INPUT | HOT
    assert flags_of(out / "science/science-sg.fits")[8, 9] == MASTER_BAD | FLAT_INVALID | HOT
    for path in out.rglob("*.fits"):
        flags = flags_of(path)
        flags[7:10, 9] = 0  # also above and below, where charge spills
        assert not flags.any()
        assert np.isfinite(fits.getdata(path)).all()


def test_a_pixel_that_sees_no_light_is_not_divided_by(night, tmp_path):
    for i in range(3):
        poke(night / f"g{i}.fits", 2, 3, 900)
    run(night, tmp_path / "out")
    out = tmp_path / "out"
    assert flags_of(out / "masters/master_flat_g.fits")[2, 3] == FLAT_INVALID | DEAD
    assert flags_of(out / "science/science-sg.fits")[2, 3] == FLAT_INVALID | DEAD
    assert np.isfinite(fits.getdata(out / "science/science-sg.fits")[2, 3])


def test_values_that_are_not_numbers_are_flagged(night, tmp_path):
    data = fits.getdata(night / "sg.fits").astype(np.float32)
    data[4, 5], data[4, 6] = np.nan, np.inf
    header = fits.getheader(night / "sg.fits")
    del header["BZERO"], header["BSCALE"]
    fits.PrimaryHDU(data, header).writeto(night / "sg.fits", overwrite=True)
    assert run(night, tmp_path / "out").failed == ()
    flags = flags_of(tmp_path / "out/science/science-sg.fits")
    assert flags[4, 5] == NON_FINITE
    assert flags[4, 6] == NON_FINITE | SATURATED
    assert (flags[3, 6], flags[5, 6]) == (BLED, BLED)
    assert np.count_nonzero(flags) == 4


# -- types of raw files ------------------------------------------------------------------


def as_type(dtype):
    def write(source, target):
        header = fits.getheader(source)
        del header["BZERO"], header["BSCALE"]
        data = fits.getdata(source)
        fits.PrimaryHDU(data.astype(dtype), header).writeto(target / source.name)

    return write


def as_tiles(**options):
    def write(source, target):
        header = fits.getheader(source)
        del header["BZERO"], header["BSCALE"]
        hdu = fits.CompImageHDU(fits.getdata(source), header, **options)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(target / f"{source.name}.fz")

    return write


def as_gz(source, target):
    (target / f"{source.name}.gz").write_bytes(gzip.compress(source.read_bytes()))


def as_extension(source, target):
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(fits.getdata(source), fits.getheader(source))]
    fits.HDUList(hdus).writeto(target / source.name)


TYPES = {
    "int16": as_type(np.int16),
    "float32": as_type(np.float32),
    "rice": as_tiles(compression_type="RICE_1", tile_shape=(7, 11)),
    "gz": as_gz,
    "extension": as_extension,
}


@pytest.mark.parametrize("name", TYPES)
def test_raw_files_of_any_type_give_the_same_result(night, tmp_path, name):
    raw = tmp_path / "others"
    raw.mkdir()
    for path in night.iterdir():
        TYPES[name](path, raw)
    text = SETTINGS.replace("[camera]", "[camera]\ntrim_section='[2:25,3:24]'")
    run(night, tmp_path / "out", text)
    result = run(raw, tmp_path / "out-others", text)
    assert result.failed == ()
    for path in (tmp_path / "out").rglob("*.fits"):
        other = tmp_path / "out-others" / path.relative_to(tmp_path / "out")
        with fits.open(path) as a, fits.open(other) as b:
            assert [hdu.name for hdu in a] == [hdu.name for hdu in b]
            for one, two in zip(a, b, strict=True):
                np.testing.assert_array_equal(one.data, two.data)


# -- the raw folder ----------------------------------------------------------------------


AUDIT = """
import json, os, sys
events = []
PATHS = {"open": 0, "os.remove": 0, "os.rename": 0, "os.truncate": 0, "os.utime": 0,
         "os.chmod": 0, "os.rmdir": 0, "os.mkdir": 0, "os.link": 1, "os.symlink": 1}
def hook(event, args):
    if event not in PATHS:
        return
    path = args[PATHS[event]]
    if not isinstance(path, (str, bytes, os.PathLike)):
        return
    if event == "open":
        mode, flags = args[1] or "", args[2] or 0
        if not (set(mode) & set("wax+") or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
    events.append((event, os.path.abspath(os.fsdecode(path))))
sys.addaudithook(hook)
from flatcal.engine.run import run_plan
from flatcal.planning import build_plan
raw, out = sys.argv[1:]
result = run_plan(build_plan(raw), out)
assert not result.failed
print(json.dumps(events))
"""


def test_raw_files_are_never_opened_for_writing(night, tmp_path):
    os.link(night / "sg.fits", tmp_path / "kept.fits")
    source = night / "b0.fits"
    as_gz(source, night)
    as_tiles()(night / "b1.fits", night)
    source.unlink()
    before = states(night)
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, night, out], capture_output=True, text=True, check=True
    )
    paths = {path for _, path in json.loads(done.stdout.splitlines()[-1])}
    # The hook does see writing, so that its silence about raw files means something.
    assert any(path.startswith(str(out)) for path in paths)
    assert not [path for path in paths if path.startswith(str(night))]
    assert states(night) == before


@pytest.mark.parametrize("place", ["raw", "raw/out", "raw/a/b", ""])
def test_output_and_raw_folder_may_not_lie_in_one_another(night, tmp_path, place):
    before = states(night)
    with pytest.raises(OutputError) as caught:
        run(night, tmp_path / place)
    assert caught.value.slug == "output-in-raw"
    assert {path.name for path in tmp_path.iterdir()} == {"raw"}
    assert states(night) == before


def test_what_an_interrupted_run_has_finished_is_kept(night, tmp_path):
    """Killed before run.json was written: the outputs themselves say what they are."""
    out = tmp_path / "out"
    run(night, out)
    (out / "run.json").unlink()
    (out / "science/science-sg.fits").unlink()
    before = states(out)
    result = run(night, out)
    assert result.made == ("science/science-sg.fits",)
    assert changed(before, states(out)) == {"science/science-sg"}
    assert len(result.record.products) == result.n_current + 1


def test_a_link_into_the_raw_folder_is_seen_through(night, tmp_path):
    (tmp_path / "link").symlink_to(night)
    with pytest.raises(OutputError) as caught:
        run(night, tmp_path / "link" / "out")
    assert caught.value.slug == "output-in-raw"


def test_a_file_in_place_of_the_output_folder_is_refused(night, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError) as caught:
        run(night, tmp_path / "out")
    assert caught.value.slug == "output-not-writable"
    assert (tmp_path / "out").read_text() == "mine"


def test_unknown_noise_still_gives_masters_an_uncertainty_from_their_scatter(night, tmp_path):
    result = run(night, tmp_path / "out", "")
    assert result.failed == ()
    with fits.open(tmp_path / "out/masters/master_bias.fits") as hdus:
        stack = np.array([image_of(night / f"b{i}.fits") for i in range(3)])
        whole = np.isclose(clipped_mean(stack, 12**-0.5), stack.mean(axis=0))
        expected = stack.std(axis=0, ddof=1) / np.sqrt(3)
        assert whole.mean() > 0.5
        np.testing.assert_allclose(hdus["UNCERT"].data[whole], expected[whole], rtol=1e-4)
    with fits.open(tmp_path / "out/science/science-sg.fits") as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "MASK", "FLAGS"]


def test_odd_cards_of_raw_headers_survive(night, tmp_path):
    with fits.open(night / "sg.fits", mode="update") as hdus:
        hdus[0].header["LONGTEXT"] = ("x" * 100, "a comment on another card")
        hdus[0].header["HIERARCH ESO DET CHIP"] = ("name", "hierarch")
        hdus[0].header["OBSERVER"] = "O''Neill"
        hdus[0].header["HISTORY"] = "taken"
    content = (night / "sg.fits").read_bytes()
    odd = b"GAINX   = 6,4E-05".ljust(80)
    observer = content.index(b"OBSERVER")
    (night / "sg.fits").write_bytes(content[:observer] + odd + content[observer + 80 :])
    result = run(night, tmp_path / "out")
    assert result.failed == ()
    header = fits.getheader(tmp_path / "out/science/science-sg.fits")
    assert header["LONGTEXT"] == "x" * 100
    assert header["ESO DET CHIP"] == "name"
    assert header["GAINX"] == "6,4E-05"


def test_names_that_are_not_ascii_are_kept_in_headers_as_escapes(night, tmp_path):
    (night / "sg.fits").rename(night / "sgé λ.fits")
    result = run(night, tmp_path / "out")
    assert result.failed == ()
    header = fits.getheader(tmp_path / "out" / outcomes(result)["sgé λ.fits"].output)
    assert header["INF0001"] == r"sg\xe9 \u03bb.fits"
    assert json.loads((tmp_path / "out/run.json").read_text())["outcomes"]


def test_progress_counts_every_output_to_the_end(night, tmp_path):
    seen = []
    run(night, tmp_path / "out", progress=lambda what, done, total: seen.append((done, total)))
    assert sorted(seen) == [(i + 1, len(ALL)) for i in range(len(ALL))]


def test_the_reference_point_of_coordinates_follows_the_trimming(night, tmp_path):
    for keyword, value in (("CRPIX1", 15.0), ("CRPIX2", 12.0)):
        fits.setval(night / "sg.fits", keyword, value=value)
    text = SETTINGS.replace("[camera]", "[camera]\ntrim_section='[3:28,5:24]'")
    run(night, tmp_path / "out", text)
    header = fits.getheader(tmp_path / "out/science/science-sg.fits")
    assert (header["CRPIX1"], header["CRPIX2"]) == (13.0, 8.0)
    assert (header["NAXIS1"], header["NAXIS2"]) == (26, 20)
