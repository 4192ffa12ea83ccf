"""How much a run does: files hashed, rows read, masters loaded. Work is counted, never timed."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import test_engine
from astropy.io import fits
from test_engine import SETTINGS, TYPES, poke, slugs_of_failures

import flatcal.engine.shelf
import flatcal.engine.store
from flatcal.engine.run import run_plan
from flatcal.planning import build_plan
from flatcal.projection import project_memory
from flatcal.raw_frame import RawFrame
from flatcal.recipe import parse_config

night = test_engine.night

NO_FLATS = SETTINGS + "[output]\nflats=false\n"
BIAS = [f"b{i}.fits" for i in range(3)]
DARKS = [f"d{exposure}-{i}.fits" for exposure in (10, 60) for i in range(3)]
FLATS = [f"{name}{i}.fits" for name in "gr" for i in range(3)]
SCIENCE = ["sg.fits", "sr.fits"]
EVERYTHING = {*BIAS, *DARKS, *FLATS, *SCIENCE}
MASTERS = {"bias", "dark_10s", "dark_60s", "flat_g", "flat_r"}
# A flat is read for its own calibration (or its level), and for the master flat.
PASSES = {file: 2 if file in FLATS else 1 for file in EVERYTHING}
ROWS = 24


class Work:
    """What has been done since the last `clear`."""

    def __init__(self):
        self.clear()

    noise_known = True

    def clear(self):
        # Appending is atomic; a Counter would lose counts of threads.
        self.hashed, self.read, self.loaded, self.written = [], [], [], []

    @property
    def passes(self):
        """Times that each file was opened and its pixels were read."""
        opened = {id(raw): raw for raw, _ in self.read}
        return Counter(raw.path.name for raw in opened.values())

    def rows(self, file):
        """Times that each row of a file was read."""
        read = (rows for raw, rows in self.read if raw.path.name == file)
        return Counter(y for rows in read for y in range(rows.start, rows.stop))

    def assert_each_row_read(self, passes, rows=range(ROWS)):
        """Where noise is known, 32 rows of what is combined are looked at first: here all."""
        assert self.passes == passes
        for file, times in passes.items():
            looked_at = self.noise_known and file.removesuffix(".fz") not in SCIENCE
            assert self.rows(file) == dict.fromkeys(rows, times + looked_at), file

    def assert_none(self):
        assert (self.hashed, self.passes, self.loaded, self.written) == ([], {}, [], [])

    def run(self, raw, out, text=SETTINGS, **options):
        """Count one run, without the planning before it."""
        plan = build_plan(raw, parse_config(text, "n"))
        self.clear()
        self.noise_known = bool(text)
        return run_plan(plan, out, **options)


@pytest.fixture
def work(monkeypatch):
    """Counts of what is done to raw files and masters; nothing that is computed is replaced."""
    done = Work()
    # Files that a test has just written count as settled.
    monkeypatch.setattr("flatcal.user_cache.SETTLED_NS", -(10**12))

    def before(owner, name, note):
        real = getattr(owner, name)

        def noting(*args, **options):
            note(*args)
            return real(*args, **options)

        monkeypatch.setattr(owner, name, noting)

    def note_values(raw, rows, *_):
        if not raw.is_plain:  # those of a plain file are stored rows
            done.read.append((raw, rows))

    before(RawFrame, "sha256", lambda raw: done.hashed.append(raw.path.name))
    before(RawFrame, "stored_rows", lambda raw, rows: done.read.append((raw, rows)))
    before(RawFrame, "values", note_values)
    before(
        flatcal.engine.shelf,
        "load_master",
        lambda path, *_: done.loaded.append(path.stem.removeprefix("master_")),
    )
    for name in ("write_image", "writing_image"):  # masters, and frames
        before(flatcal.engine.store, name, lambda path, *_, **__: done.written.append(path.name))
    return done


# -- hashes ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [SETTINGS, NO_FLATS, ""])
def test_each_file_is_hashed_once_and_never_again(night, tmp_path, work, text):
    work.run(night, tmp_path / "out", text)
    assert Counter(work.hashed) == dict.fromkeys(EVERYTHING, 1)
    assert work.run(night, tmp_path / "out", text).failed == ()
    work.assert_none()


def test_a_file_that_was_changed_just_before_it_was_read_is_hashed_again(
    night, tmp_path, work, monkeypatch
):
    """Another change might not show in its times; the record stays what it is."""
    first = work.run(night, tmp_path / "out")
    monkeypatch.setattr("flatcal.user_cache.SETTLED_NS", 2 * 10**9)
    again = work.run(night, tmp_path / "out")
    assert Counter(work.hashed) == dict.fromkeys(EVERYTHING, 1)
    assert again.made == ()
    assert again.record == first.record


@pytest.mark.parametrize("replaced", [False, True], ids=["written into", "replaced"])
def test_a_change_with_the_same_size_and_time_is_seen(night, tmp_path, work, replaced):
    work.run(night, tmp_path / "out")
    path = night / "sg.fits"
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-2880 + 1] ^= 1  # of the first pixel
    target = night.parent / "other" if replaced else path
    target.write_bytes(content)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    target.replace(path)
    result = work.run(night, tmp_path / "out")
    assert (result.failed, result.made) == ((), ("science/science-sg.fits",))


def test_a_folder_that_was_copied_is_hashed_and_nothing_is_made(night, tmp_path, work):
    out, copy = tmp_path / "out", tmp_path / "copy"
    work.run(night, out)
    shutil.copytree(night, copy)  # with the times of the files
    night.rename(tmp_path / "away")
    copy.rename(night)
    assert work.run(night, out).made == ()
    assert Counter(work.hashed) == dict.fromkeys(EVERYTHING, 1)


def test_only_a_file_that_was_touched_is_hashed_again(night, tmp_path, work):
    work.run(night, tmp_path / "out")
    os.utime(night / "d60-1.fits")
    work.run(night, tmp_path / "out")
    assert work.hashed == ["d60-1.fits"]
    assert work.passes == {}


# -- rows --------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("text", [SETTINGS, ""])
def test_each_row_is_read_once_for_each_output(night, tmp_path, work, text, jobs):
    work.run(night, tmp_path / "out", text, jobs=jobs)
    work.assert_each_row_read(PASSES)
    assert len(work.written) == len(set(work.written)) == 13


def test_bands_of_single_rows_read_no_row_twice(night, tmp_path, work):
    """Where neighbours of outliers are not rejected: these may be in the next band."""
    text = SETTINGS + "[combine]\ngrow_pixels=0\n"
    plan = build_plan(night, parse_config(text, "n"))
    least = project_memory(plan).least_bytes
    work.run(night, tmp_path / "out", text, jobs=2, memory_bytes=least)
    work.assert_each_row_read(PASSES)


def test_flats_that_are_not_written_are_read_twice(night, tmp_path, work):
    work.run(night, tmp_path / "out", NO_FLATS)
    work.assert_each_row_read(PASSES)
    assert list((tmp_path / "out").rglob("flat-*")) == []
    assert len(work.written) == 7


def test_rows_that_are_cut_off_are_not_read(night, tmp_path, work):
    camera = "[camera]\noverscan_statistic='mean'\ntrim_section='[1:30,4:21]'"
    assert work.run(night, tmp_path / "out", SETTINGS.replace("[camera]", camera)).failed == ()
    work.assert_each_row_read(PASSES, range(3, 21))


@pytest.mark.parametrize("name", ["int16", "rice"])
def test_the_overscan_costs_no_second_reading(night, tmp_path, work, name):
    """Also of files that astropy decodes."""
    raw = tmp_path / "others"
    raw.mkdir()
    for path in night.iterdir():
        TYPES[name](path, raw)
    assert work.run(raw, tmp_path / "out").failed == ()
    suffix = ".fz" if name == "rice" else ""
    work.assert_each_row_read({f"{file}{suffix}": times for file, times in PASSES.items()})


def test_of_a_large_frame_some_rows_are_looked_at_first(tmp_path, put_frame, work):
    raw, rows = tmp_path / "raw", 1500
    for name, kind, exposure, level, _ in NIGHT:
        data = np.random.default_rng(4).integers(level - 9, level + 9, (rows, 300), np.uint16)
        put_frame(raw / name, kind, exposure, data, BUNIT="adu", FILTER="r")
    work.run(raw, tmp_path / "out")
    read = work.rows("s.fits")
    assert set(read) == set(range(rows))
    assert sum(times == 2 for times in read.values()) == sum(read.values()) - rows
    assert 30 <= sum(read.values()) - rows <= 35
    with fits.open(tmp_path / "out" / "science" / "science-s.fits") as hdus:
        good = hdus[0].data[hdus["MASK"].data == 0]
        assert hdus[0].header["GOODMED"] == np.median(good)


@pytest.mark.parametrize("text", [SETTINGS, NO_FLATS])
def test_a_flat_without_light_is_not_read_again_in_a_second_run(night, tmp_path, work, text):
    with fits.open(night / "g1.fits", mode="update") as hdus:
        hdus[0].data[:] = 65535
    work.run(night, tmp_path / "out", text)
    result = work.run(night, tmp_path / "out", text)
    assert slugs_of_failures(result) == {"g1.fits": ["flat-level"]}
    work.assert_none()


def test_a_changed_science_frame_is_the_only_one_that_is_read_again(night, tmp_path, work):
    work.run(night, tmp_path / "out")
    poke(night / "sr.fits", 3, 4, 900)
    work.run(night, tmp_path / "out")
    work.assert_each_row_read({"sr.fits": 1})
    assert work.hashed == ["sr.fits"]
    assert Counter(work.loaded) == {"bias": 1, "dark_60s": 1, "flat_r": 1}


def test_planning_reads_a_million_pixels_of_a_file_at_the_most(tmp_path, put_frame, work):
    raw = tmp_path / "raw"
    data = np.random.default_rng(5).integers(990, 1010, (2500, 1000), np.uint16)
    put_frame(raw / "b.fits", "BIAS", 0.0, data, BUNIT="adu")
    build_plan(raw, parse_config(SETTINGS, "n"))
    rows = work.rows("b.fits")
    assert set(rows.values()) <= {1}
    assert len(rows) * 1000 <= 2**20
    assert (work.hashed, work.loaded, work.written) == ([], [], [])


# -- masters -----------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 4])
def test_masters_that_were_just_made_are_not_loaded(night, tmp_path, work, jobs):
    work.run(night, tmp_path / "out", jobs=jobs)
    assert work.loaded == []


@pytest.mark.parametrize(
    ("gone", "needed"),
    [
        (["science/science-sg"], {"dark_10s", "flat_g"}),
        ([f"flats/flat-{file[:2]}" for file in FLATS], {"bias", "dark_10s", "dark_60s"}),
        (["masters/master_flat_g"], {"dark_10s"}),
        (
            [f"flats/flat-{file[:2]}" for file in FLATS] + ["science/science-sg"],
            MASTERS - {"flat_r"},
        ),
    ],
)
def test_masters_of_an_earlier_run_are_loaded_once(night, tmp_path, work, gone, needed):
    work.run(night, tmp_path / "out")
    for name in gone:
        (tmp_path / "out" / f"{name}.fits").unlink()
    work.run(night, tmp_path / "out", jobs=4)
    assert Counter(work.loaded) == dict.fromkeys(needed, 1)
    assert work.hashed == []


# -- bytes -------------------------------------------------------------------------------


NIGHT = [
    *((f"b{i}.fits", "BIAS", 0.0, 1000, 1) for i in range(3)),
    *((f"d{i}.fits", "DARK", 60.0, 1050, 1) for i in range(3)),
    *((f"f{i}.fits", "FLAT", 2.0, 20_000, 2) for i in range(3)),
    ("s.fits", "LIGHT", 60.0, 1300, 1),
]


def bytes_read():
    """Bytes that this process has asked the system for, by whatever way."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count")
@pytest.mark.parametrize("text", [SETTINGS, NO_FLATS])
def test_the_system_sees_no_more_reading_than_that(
    tmp_path, put_frame, monkeypatch, text, all_settled
):
    """Once for the hash, once for each use; beside that, and in a second run, headers alone.

    A frame that is written is hashed as its pixels are read.
    """
    raw, rng = tmp_path / "raw", np.random.default_rng(4)
    for name, kind, exposure, level, _ in NIGHT:
        data = rng.integers(level - 9, level + 9, (600, 620), np.uint16)
        put_frame(raw / name, kind, exposure, data, BUNIT="adu", FILTER="r")
    pixels = data.nbytes
    plan = build_plan(raw, parse_config(text, "n"))
    run_plan(plan, tmp_path / "warm")  # loads compiled code
    monkeypatch.delattr("mmap.mmap")  # what is mapped would not be counted
    read = []
    for _ in range(2):
        before = bytes_read()
        assert run_plan(plan, tmp_path / "out").failed == ()
        read.append(bytes_read() - before)
    written = {"LIGHT"} if text == NO_FLATS else {"LIGHT", "FLAT"}
    expected = sum(((kind not in written) + uses) * pixels for _, kind, *_, uses in NIGHT)
    # All headers, and the rows for a first idea of levels, are less than the pixels of one file.
    assert expected < read[0] < expected + pixels
    assert read[1] < pixels
