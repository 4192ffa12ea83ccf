"""The library of masters in a file: what is kept, what is refused, what may serve a frame."""

import errno
import hashlib
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from flatcal.cli import _keep_masters
from flatcal.cli_library import library_app
from flatcal.engine.run import run_plan
from flatcal.errors import FlatcalError
from flatcal.frame import Kind, Setup
from flatcal.index import find_frames
from flatcal.library import default_library, open_library
from flatcal.planning import build_plan
from flatcal.recipe import Config
from flatcal.stored import MasterStatus

SETUP = Setup("Aspen CG16M", (40, 52), (1, 2), "fast", "high", "adu")
START, END = "2026-01-04T22:00:00", "2026-01-04T22:30:00.5"
RECIPE, BIAS_RECIPE = "ab" * 32, "cd" * 32
CARDS = {
    "IMAGETYP": "bias",
    "COMBINED": True,
    "NCOMBINE": 10,
    "EXPTIME": 0.0,
    "DATE-OBS": START,
    "DATE-END": END,
    "OSCANSUB": False,
    "FLATCAL": "0.1.0",
    "RECIPE": RECIPE,
    "FCCAMERA": "Aspen CG16M",
    "FCROWS": 40,
    "FCCOLS": 52,
    "FCXBIN": 1,
    "FCYBIN": 2,
    "FCRDMODE": "fast",
    "FCGAINST": "high",
    "FCUNIT": "adu",
}
DARK = {"IMAGETYP": "dark", "EXPTIME": 60.0, "FCLOSTB": False}
FLAT = {"IMAGETYP": "flat", "EXPTIME": 1.5, "FILTER": "V"}


@pytest.fixture
def put(tmp_path):
    """Write a master; '_' stands for '-', and a card of None is left out."""

    def write(name="master.fits", **cards):
        header = fits.Header()
        for keyword, value in (CARDS | {k.replace("_", "-"): v for k, v in cards.items()}).items():
            if value is not None:
                header[keyword] = value
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        fits.PrimaryHDU(np.zeros((40, 50), np.float32), header).writeto(path, overwrite=True)
        return path

    return write


@pytest.fixture
def library(tmp_path):
    with open_library(tmp_path / "lib/masters.sqlite") as opened:
        yield opened


def refusal(call, *args, slug="library", **options):
    """The one line of an error."""
    with pytest.raises(FlatcalError) as error:
        call(*args, **options)
    assert error.value.slug == slug
    assert "\n" not in str(error.value)
    return str(error.value)


def corrupt(library, change):
    """Change a library as no program of flatcal would."""
    connection = sqlite3.connect(library.where)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute(change)
    connection.commit()
    connection.close()


def ids(masters):
    return [master.id for master in masters]


def files_of(library):
    return sorted(path.name for path in library.store.iterdir())


# -- what is kept of a master ------------------------------------------------------------


def test_facts_come_from_the_header(library, put):
    cards = {**DARK, "FCLOSTB": True, "FCBIASRC": BIAS_RECIPE, "FCSETTMP": -20}
    path = put(**cards, OSCANSUB=True, TRIMDSEC="[1:50,1:40]")
    master = library.add(path, valid_from="2026-01-01", valid_to="2026-06-30", note="first light")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (master.kind, master.setup) == (Kind.DARK, SETUP)
    assert (master.sha256, master.recipe) == (sha256, RECIPE)
    assert Path(master.path) == library.store / f"dark-{sha256}.fits"
    assert (master.exposure_time_s, master.set_temperature_c) == (60.0, -20.0)
    assert (master.lost_bias, master.bias_recipe) == (True, BIAS_RECIPE)
    assert (master.overscan, master.trim_section) == (True, "[1:50,1:40]")
    assert (master.n_frames, master.filter) == (10, "")
    assert (master.date_first, master.date_last) == (START, END)
    assert (master.valid_from, master.valid_to) == ("2026-01-01", "2026-06-30")
    assert (master.status, master.note) == (MasterStatus.GOOD, "first light")
    assert master.added.endswith("Z")
    assert master.flatcal_version == "0.1.0"
    assert library.get(master.id) == master


def test_facts_that_a_header_may_lack(library, put):
    master = library.add(put(**FLAT, DATE_OBS=None, DATE_END=None, FCRDMODE=""))
    assert (master.kind, master.filter) == (Kind.FLAT, "V")
    assert master.setup == replace(SETUP, readout_mode="")
    assert master.set_temperature_c is None
    assert (master.trim_section, master.bias_recipe, master.lost_bias) == ("", "", False)
    assert (master.date_first, master.date_last) == ("", "")
    assert (master.valid_from, master.valid_to, master.note) == ("", "", "")


def test_dates_that_are_no_fits_dates_are_not_known(library, put):
    master = library.add(put(DATE_OBS="04/01/26", DATE_END=None))
    assert (master.date_first, master.date_last) == ("", "")
    master = library.add(put("one.fits", DATE_END=None))
    assert (master.date_first, master.date_last) == (START, START)


@pytest.mark.parametrize("kind", ["bias", "dark", "flat"])
def test_every_card_that_is_needed_is_named_when_it_is_missing(library, put, kind):
    cards = {"bias": {}, "dark": DARK, "flat": FLAT}[kind]
    for missing in {**CARDS, **cards}.keys() - {"DATE-OBS", "DATE-END"}:
        path = put(f"{missing}.fits", **{**cards, missing: None})
        line = refusal(library.add, path, slug="not-a-master")
        assert f"{path} is not a master of this flatcal: the card {missing} is missing" in line
    assert files_of(library) == []


@pytest.mark.parametrize(
    ("cards", "told"),
    [
        ({"COMBINED": False}, "COMBINED is F"),
        ({"COMBINED": "yes"}, "COMBINED = 'yes' is not T or F"),
        ({"IMAGETYP": "science"}, "IMAGETYP is 'science', not bias, dark or flat"),
        ({"FCROWS": 40.5}, "FCROWS = 40.5 is not a whole number"),
        ({"FCROWS": True}, "FCROWS = True is not a whole number"),
        ({"NCOMBINE": 0}, "NCOMBINE = 0 is less than 1"),
        ({"FCCOLS": 2**31}, "FCCOLS = 2147483648 is more than 2147483647"),
        ({"NCOMBINE": 10**20}, "NCOMBINE = 100000000000000000000 is more than"),
        ({"TRIMDSEC": "[1:53,1:40]"}, "TRIMDSEC: section '[1:53,1:40]' asks for columns 1 to 53"),
        ({"TRIMDSEC": "x"}, "TRIMDSEC: "),
        ({"EXPTIME": "1"}, "EXPTIME = '1' is not a number"),
        ({"RECIPE": 7}, "RECIPE = 7 is not text"),
    ],
)
def test_cards_of_another_kind_are_refused(library, put, cards, told):
    assert told in refusal(library.add, put(**cards), slug="not-a-master")


def test_numbers_without_end_are_refused(library, put):
    path = put(EXPTIME=1.5)
    path.write_bytes(
        path.read_bytes().replace(b"  1.5 /", b"1E999 /").replace(b"  1.5 ", b"1E999 ")
    )
    assert "EXPTIME = inf is not a number" in refusal(library.add, path, slug="not-a-master")
    assert library.entries() == {}


def test_files_that_are_broken_are_refused(library, put, tmp_path):
    text = tmp_path / "text.fits"
    text.write_text("nothing")
    short = put()
    short.write_bytes(short.read_bytes()[:-2880])
    for path in (text, short, tmp_path, tmp_path / "gone.fits"):
        assert str(path) in refusal(library.add, path, slug="file-broken")
    assert library.find(status=None) == []


def test_masters_of_a_run_are_kept_and_found_for_its_frames(library, put_frame, tmp_path):
    frames = {"BIAS": (0.0, 1000), "DARK": (60.0, 1060), "FLAT": (2.0, 20_000), "LIGHT": (60.0, 9)}
    for kind, (exposure, level) in frames.items():
        data = np.full((10, 12), level, np.uint16)
        for number in range(3):
            cards = {"FILTER": "V", "SET_TEMP": -20.0, "DATE_OBS": f"2026-01-0{number + 1}"}
            path = tmp_path / f"raw/{kind}{number}.fits"
            put_frame(path, kind, exposure, data, BUNIT="adu", **cards)
    run_plan(build_plan(tmp_path / "raw", Config()), tmp_path / "out", jobs=1)
    for path in sorted((tmp_path / "out/masters").iterdir()):
        library.add(path)
    frame = next(frame for frame in find_frames(tmp_path / "raw", Config()) if frame.filter)
    assert frame.setup is not None
    for kind in (Kind.BIAS, Kind.DARK, Kind.FLAT):
        (master,) = library.candidates(kind, frame.setup, frame.date)
        assert (master.n_frames, master.set_temperature_c) == (3, -20.0)
        assert (master.date_first, master.date_last) == ("2026-01-01", "2026-01-03")
        assert master.filter == ("V" if kind is Kind.FLAT else "")
    (bias,) = library.find(Kind.BIAS)
    # The flats are shorter than the darks, which therefore have lost their bias.
    (dark,) = library.find(Kind.DARK)
    assert (dark.lost_bias, dark.bias_recipe) == (True, bias.recipe)


@pytest.mark.parametrize(
    "image", [b"INSTRUME= 'Kam\xe9ra'", b"INSTRUME= 'Kam\tra'", b"INSTRUME= 'Kam\xc3\xa9\\ra'"]
)
def test_a_camera_whose_name_is_not_ascii_finds_its_masters(library, put_frame, tmp_path, image):
    for number in range(3):
        cards = {"BUNIT": "adu", "PEDESTAL": -100}
        path = put_frame(tmp_path / f"raw/{number}.fits", "BIAS", 0.0, INSTRUME="name", **cards)
        content = path.read_bytes()
        place = content.index(b"INSTRUME")
        path.write_bytes(content[:place] + image.ljust(80) + content[place + 80 :])
    plan = build_plan(tmp_path / "raw", Config())
    run_plan(plan, tmp_path / "out", jobs=1)
    master = library.add(tmp_path / "out/masters/master_bias.fits")
    (frame, *_) = find_frames(tmp_path / "raw", Config())
    assert "Kam?" in frame.setup.camera
    assert frame.setup.pedestal_adu == -100
    assert library.candidates(Kind.BIAS, frame.setup, "") == [master]


# -- files -------------------------------------------------------------------------------


def test_a_master_outlives_the_folder_that_it_comes_from(library, put):
    path = put()
    content = path.read_bytes()
    master = library.add(path)
    path.unlink()
    assert Path(library.verify(master.id).path).read_bytes() == content


def test_the_same_content_is_kept_once_and_its_row_unchanged(library, put):
    first = library.add(put("a.fits"), note="mine")
    library.set_status(first.id, MasterStatus.RETIRED)
    again = library.add(put("b.fits"), valid_to="2026-01-31", note="yours")
    assert again == replace(first, status=MasterStatus.RETIRED)
    assert len(files_of(library)) == 1


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"0")])
def test_a_copy_that_is_gone_or_damaged_is_told_and_made_good(library, put, damage):
    path = put()
    master = library.add(path)
    kept = Path(master.path)
    kept.chmod(0o644)
    damage(kept)
    line = refusal(library.verify, master.id)
    assert f"master {master.id}: {kept} " in line
    assert f"mark {master.id} bad" in line
    assert library.add(path) == master
    assert library.verify(master.id) == master
    assert len(files_of(library)) == 1


def test_copies_cannot_be_changed_by_accident(library, put):
    assert Path(library.add(put()).path).stat().st_mode & 0o222 == 0


def test_a_file_that_changes_while_it_is_copied_is_refused(library, put, monkeypatch):
    path = put()
    read = "flatcal.library.catalogue.read_master_row"
    row = {"kind": "bias"}
    monkeypatch.setattr(read, lambda source: source.write_bytes(b"new") and row)
    assert "changed while it was copied" in refusal(library.add, path)
    assert files_of(library) == []
    assert library.find(status=None) == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs names of open files")
def test_copies_are_on_the_disk_with_their_names(library, put, monkeypatch):
    synced = []
    sync = os.fsync
    names = {}

    def watch(descriptor):
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        names[synced[-1]] = files_of(library)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    kept = Path(library.add(put()).path)
    part, folder = [name for name in synced if name.startswith(str(library.store))]
    assert Path(part).parent == Path(folder) == library.store
    assert kept.name not in names[part]
    assert kept.name in names[folder]


@pytest.mark.parametrize("name", [f".{'ab' * 16}.part", ".bias-ab.fits.12345678.part-1"])
def test_copies_that_killed_programs_have_left_are_removed(library, put, name):
    old, new = library.store / name, library.store / ".bias-cd.fits.12345678.part-2"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    master = library.add(put())
    # The other may be in work on another computer.
    assert files_of(library) == sorted([new.name, Path(master.path).name])


def test_why_a_copy_cannot_be_written_is_told(library, put, monkeypatch):
    def refuse(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfileobj", refuse)
    path = put()
    line = refusal(library.add, path)
    assert f"{path} cannot be copied to {library.store}" in line
    assert line.endswith(": No space left on device [library]")
    assert files_of(library) == []


def test_a_folder_that_is_not_mounted_is_not_made_again(library, put):
    library.store.rmdir()
    assert str(library.store) in refusal(library.add, put())
    assert not library.store.exists()


def test_a_library_can_be_moved_as_a_whole(library, put, tmp_path):
    master = library.add(put())
    library.close()
    (tmp_path / "lib").rename(tmp_path / "elsewhere")
    with open_library(tmp_path / "elsewhere/masters.sqlite", create=False) as moved:
        assert moved.verify(master.id).path.startswith(f"{tmp_path}/elsewhere/")


def test_a_lost_table_can_be_made_again_from_the_files(library, put, tmp_path):
    masters = [library.add(put(**cards)) for cards in ({}, DARK, FLAT)]
    (tmp_path / "lib/masters.sqlite").unlink()
    with open_library(tmp_path / "lib/masters.sqlite") as again:
        for file in files_of(library):
            again.add(library.store / file)
        assert {m.sha256 for m in again.find()} == {m.sha256 for m in masters}
        assert len(files_of(again)) == 3


# -- a master that is made again ---------------------------------------------------------


def test_a_master_made_again_takes_the_place_of_the_one_from_the_same_path(library, put):
    old = library.add(put(), note="ten frames")
    new = library.add(put(NCOMBINE=11, DATE_END="2026-01-04T23:00:00"))
    assert library.find() == [new]
    retired = library.get(old.id)
    assert retired.status is MasterStatus.RETIRED
    assert retired.note == f"ten frames; replaced by {new.id}"
    assert library.verify(old.id).n_frames == 10


@pytest.mark.parametrize("dates", [(None, None), ("yesterday", None)])
def test_masters_of_one_path_whose_dates_do_not_tell_are_the_same(library, put, dates):
    old = library.add(put(DATE_OBS=dates[0], DATE_END=dates[1]))
    new = library.add(put())
    assert library.find() == [new]
    assert library.get(old.id).note == f"replaced by {new.id}"


@pytest.mark.parametrize(
    ("name", "cards"),
    [
        ("master.fits", {"DATE_OBS": "2026-01-05T22:00:00", "DATE_END": "2026-01-05T22:30:00"}),
        ("master.fits", {"DATE_OBS": "2026-01-03", "DATE_END": "2026-01-04"}),
        ("master.fits", {**FLAT, "FILTER": "R"}),
        ("master.fits", DARK),
        ("master.fits", {**FLAT, "FCYBIN": 1}),
        ("other.fits", {**FLAT, "NCOMBINE": 11}),
    ],
)
def test_another_night_another_master_or_another_path_replaces_nothing(library, put, name, cards):
    library.add(put(**FLAT))
    library.add(put(name, **{**FLAT, **cards}))
    assert len(library.find()) == 2


def test_a_bad_master_stays_bad_when_it_is_made_again(library, put):
    old = library.add(put())
    library.set_status(old.id, MasterStatus.BAD, "light leak")
    library.add(put(NCOMBINE=11))
    assert library.get(old.id).status is MasterStatus.BAD
    assert library.get(old.id).note == "light leak"


# -- another library ---------------------------------------------------------------------


def test_a_library_is_copied_with_all_that_is_known(library, put, tmp_path):
    library.add(put(), note="ten frames")
    library.add(put(NCOMBINE=11), valid_to="2026-06-30")
    library.set_status(library.add(put(**DARK)).id, MasterStatus.BAD, "light leak")
    with open_library(tmp_path / "new/masters.sqlite") as new:
        assert new.copy_from(library) == []
        here, there = new.find(status=None), library.find(status=None)
        paths = [(a.path, b.path) for a, b in zip(here, there, strict=True)]
        assert all(Path(a).name == Path(b).name and a != b for a, b in paths)
        assert [replace(master, path="") for master in here] == [
            replace(master, path="") for master in there
        ]
        for master in here:
            new.verify(master.id)
        assert new.add(put(**FLAT)).id == 4
        assert "holds masters" in refusal(new.copy_from, library)
    assert library.find(status=None) == there


def test_a_lost_file_does_not_keep_a_library_from_being_copied(library, put, tmp_path):
    lost = library.add(put())
    library.add(put(**FLAT))
    Path(lost.path).unlink()
    with open_library(tmp_path / "new/masters.sqlite") as new:
        (told,) = new.copy_from(library)
        assert told.id == lost.id
        assert ids(new.find()) == [1, 2]
        assert "is gone" in refusal(new.verify, lost.id)


# -- which may serve a frame -------------------------------------------------------------


def test_candidates_agree_in_the_whole_setup(library, put):
    master = library.add(put())
    assert library.candidates(Kind.BIAS, SETUP, START) == [master]
    assert library.candidates(Kind.DARK, SETUP, START) == []
    for other in (
        {"camera": "LFC"},
        {"shape": (52, 40)},
        {"binning": (2, 1)},
        {"readout_mode": ""},
        {"gain_setting": "low"},
        {"unit": "electron"},
        {"pedestal_adu": -100.0},
        {"linearity": "polynomial 1e-06"},
    ):
        assert library.candidates(Kind.BIAS, replace(SETUP, **other), START) == []


@pytest.mark.parametrize("status", [MasterStatus.BAD, MasterStatus.RETIRED])
def test_a_master_that_is_not_good_is_no_candidate(library, put, status):
    master = library.add(put())
    changed = library.set_status(master.id, status, "seen in the flats")
    assert changed == replace(master, status=status, note="seen in the flats")
    assert library.candidates(Kind.BIAS, SETUP, START) == []
    good = library.set_status(master.id, MasterStatus.GOOD)
    assert library.candidates(Kind.BIAS, SETUP, START) == [good]
    assert good.note == "seen in the flats"


@pytest.mark.parametrize(
    ("first", "last", "date", "serves"),
    [
        ("2026-01-04", "2026-01-06", "2026-01-03T23:59:59.9", False),
        ("2026-01-04", "2026-01-06", "2026-01-04", True),
        ("2026-01-04", "2026-01-06", "2026-01-04T00:00:00", True),
        ("2026-01-04", "2026-01-06", "2026-01-06T23:59:60", True),
        ("2026-01-04", "2026-01-06", "2026-01-07T00:00:00", False),
        ("2026-01-04", "2026-01-06", "2026-01-07T01:00:00+02:00", True),
        ("2026-01-04", None, "2050-01-01", True),
        ("0001-01-01", None, "0001-01-01T00:00:00+05:00", True),
        ("2026-01-04", None, "2000-01-01", False),
        (None, "2026-01-06", "2000-01-01", True),
        (None, "2026-01-06", "2050-01-01", False),
        (None, None, "2050-01-01", True),
        (None, None, "", True),
        (None, None, "05/01/26", True),
        ("2026-01-04", None, "", False),
        (None, "2026-01-06", "05/01/26", False),
    ],
)
def test_validity(library, put, first, last, date, serves):
    master = library.add(put(), valid_from=first, valid_to=last)
    expected = [master] if serves else []
    assert library.candidates(Kind.BIAS, SETUP, date) == expected
    assert library.find(date=date) == expected


def test_the_nearest_in_time_comes_first(library, put):
    def add(name, first, last):
        return library.add(put(name, DATE_OBS=first, DATE_END=last)).id

    january = add("1.fits", "2026-01-01T20:00:00", "2026-01-31T20:00:00")
    june = add("2.fits", "2026-06-01", "2026-06-02")
    unknown = add("3.fits", None, None)
    july = add("4.fits", "2026-07-01", "2026-07-02")

    def order(date):
        return ids(library.candidates(Kind.BIAS, SETUP, date))

    assert order("2026-01-15T03:00:00.123") == [january, june, july, unknown]
    # 15 days after one and before another: the one that was added last.
    assert order("2026-06-16T12:00:00") == [july, june, january, unknown]
    assert order("2026-06-16T11:59:59") == [june, july, january, unknown]
    assert order("2030-01-01") == [july, june, january, unknown]
    assert order("") == [july, unknown, june, january]


def test_what_was_good_stays_so_for_a_whole_plan(library, put):
    master = library.add(put())
    good = library.good_masters()
    library.set_status(master.id, MasterStatus.BAD)
    assert good.candidates(Kind.BIAS, SETUP, START) == [master]
    assert library.good_masters().candidates(Kind.BIAS, SETUP, START) == []


def test_find_asks_for_all_at_once(library, put):
    bias = library.add(put("1.fits"))
    red = library.add(put("2.fits", **{**FLAT, "FILTER": "R"}))
    visual = library.add(put("3.fits", **FLAT, RECIPE=BIAS_RECIPE))
    other = library.add(put("4.fits", **FLAT, FCCAMERA="LFC"))
    library.set_status(red.id, MasterStatus.BAD)
    assert ids(library.find()) == ids([bias, visual, other])
    assert ids(library.find(status=None)) == ids([bias, red, visual, other])
    assert ids(library.find(status=MasterStatus.BAD)) == [red.id]
    assert ids(library.find(Kind.FLAT, "Aspen CG16M")) == [visual.id]
    assert ids(library.find(filter_name="V")) == ids([visual, other])
    assert ids(library.find(recipe=BIAS_RECIPE)) == [visual.id]
    assert library.find(Kind.BIAS, filter_name="V") == []


def test_limits_can_be_set_later(library, put):
    master = library.add(put())
    changed = library.set_validity(master.id, None, "2026-03-01")
    assert changed == replace(master, valid_to="2026-03-01")
    assert library.set_validity(master.id, None, None) == master
    for first, last, told in (
        ("2026-02-30", None, "'2026-02-30' is not a day"),
        (None, "1.2.2026", "'1.2.2026' is not a day"),
        (None, "20260102", "'20260102' is not a day"),
        ("2026-02-02", "2026-02-01", "the last day is before the first"),
    ):
        assert told in refusal(library.set_validity, master.id, first, last)
        assert told in refusal(library.add, put("new.fits", NCOMBINE=3), valid_from=first,
                               valid_to=last)  # fmt: skip
    assert library.find(status=None) == [master]


def test_a_number_that_no_master_has(library):
    for call in (library.get, library.verify):
        for number in (7, -1, 1 << 63, -(1 << 63), 10**30):
            assert f"no master {number} in {library.where}" in refusal(call, number)
    assert "no master 7" in refusal(library.set_status, 7, MasterStatus.BAD)
    assert "no master 7" in refusal(library.set_validity, 7, None, None)


# -- opening -----------------------------------------------------------------------------


BROKEN = [
    ("kind = 'x'", "kind is 'x'"),
    ("status = 'x'", "status is 'x'"),
    ("added = 'x'", "added is 'x'"),
    ("added = 5", "added is 5"),
    ("valid_from = 'x'", "valid_from is 'x'"),
    ("valid_from = '2026-02-01', valid_to = '2026-01-31'", "2026-02-01 is after"),
    ("n_rows = 'x'", "n_rows is 'x'"),
    ("n_frames = 0", "n_frames is 0"),
    ("overscan = 'x'", "overscan is 'x'"),
    ("exposure_time_s = 'x'", "exposure_time_s is 'x'"),
    ("exposure_time_s = 9e999", "exposure_time_s is inf"),
    ("set_temperature_c = 'warm'", "set_temperature_c is 'warm'"),
    ("pedestal_adu = x'ff'", r"pedestal_adu is b'\xff'"),
    ("filter = x'ff00'", r"filter is b'\xff\x00'"),
    ("filter = CAST(x'ff' AS TEXT)", r"filter is b'\xff'"),
    ("trim_section = x'ff'", r"trim_section is b'\xff'"),
    ("trim_section = '[1:99,1:5]'", "trim_section: section '[1:99,1:5]'"),
    ("date_first = 'x'", "date_first is 'x'"),
    ("sha256 = 'x'", "sha256 is 'x'"),
    ("file = '../x.fits'", "file is '../x.fits'"),
    ("file = '/dev/zero'", "file is '/dev/zero'"),
    ("file = 'a' || char(0)", r"file is 'a\x00'"),
]


@pytest.mark.parametrize(("change", "told"), BROKEN)
def test_a_master_that_cannot_be_read_is_told_and_not_passed_over(library, put, change, told):
    library.add(put("1.fits"))
    sound = library.add(put("2.fits", **DARK))
    corrupt(library, f"UPDATE flatcal_master SET {change} WHERE id = 1")
    for call in (library.get, library.verify):
        line = refusal(call, 1)
        assert f"master 1 of the library {library.where} cannot be read: " in line
        assert told in line
        assert "mark 1 bad" in line
    for call in (library.find, library.good_masters):
        assert refusal(call) == line
    broken, other = library.entries(MasterStatus.GOOD).values()
    assert (str(broken), other) == (line, sound)
    assert library.add(put("3.fits", **FLAT)).id == 3
    # A mark is what lets the others serve.
    if told == "status is 'x'":
        library.set_status(1, MasterStatus.BAD)
    else:
        assert "it is marked bad" in refusal(library.set_status, 1, MasterStatus.BAD)
    assert ids(library.find()) == [2, 3]
    assert list(library.entries()) == [1, 2, 3]


def test_masters_of_a_run_that_could_not_be_kept_are_named(library, put, monkeypatch):
    monkeypatch.setattr("flatcal.library.database.BUSY_S", 0.1)
    files = [put(f"masters/{n}.fits", NCOMBINE=10 + n) for n in range(3)]
    library.add(files[1])
    corrupt(library, "UPDATE flatcal_master SET date_first = x'ff'")
    line = refusal(_keep_masters, library.where, [put("science.fits"), *files])
    assert "date_first" in line
    assert line.endswith(f"yet: flatcal library add {files[1]} {files[2]} [library]")
    assert len(library.entries()) == 2
    other = sqlite3.connect(library.where, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    line = refusal(_keep_masters, library.where, files)
    other.close()
    assert "is busy" in line
    assert all(str(file) in line for file in files)


def test_all_that_cannot_be_read_are_counted(library, put):
    library.add(put("1.fits"))
    library.add(put("2.fits", **DARK))
    corrupt(library, "UPDATE flatcal_master SET added = ''")
    assert "(and 1 more: flatcal library list)" in refusal(library.find)


def test_a_master_made_again_does_not_hide_one_that_cannot_be_read(library, put):
    library.add(put())
    corrupt(library, "UPDATE flatcal_master SET date_first = x'ff'")
    assert "master 1 of" in refusal(library.add, put(NCOMBINE=11))
    assert list(library.entries()) == [1]


def test_a_library_is_copied_without_what_cannot_be_read(library, put, tmp_path):
    library.add(put("1.fits"))
    library.add(put("2.fits", **DARK), valid_from="2026-01-01")
    corrupt(library, "UPDATE flatcal_master SET n_rows = 'x' WHERE id = 1")
    with open_library(tmp_path / "new.sqlite") as new:
        assert "master 1 of" in refusal(new.copy_from, library)
        assert new.entries() == {}
        assert new.copy_from(library, skip_broken=True) == []
        (kept,) = new.find()
        assert replace(kept, path="") == replace(library.get(2), path="")


def test_what_is_kept_is_there_when_it_is_opened_again(library, put, tmp_path):
    master = library.add(put())
    for where in (tmp_path / "lib/masters.sqlite", f"sqlite:///{tmp_path}/lib/masters.sqlite"):
        with open_library(where, create=False) as again:
            assert again.find() == [master]


def test_a_missing_library_is_not_made_by_who_only_reads(tmp_path):
    line = refusal(open_library, tmp_path / "typo/masters.sqlite", create=False)
    assert f"there is no library at {tmp_path}/typo/masters.sqlite" in line
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_library(tmp_path):
    text = tmp_path / "text"
    text.write_text("nothing but text, and more of it than a header")
    assert "not a database" in refusal(open_library, text)
    assert "unable to open" in refusal(open_library, tmp_path)
    other = tmp_path / "other.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE stars (id INTEGER)")
    connection.close()
    assert f"{other} is a file of another program" in refusal(open_library, other)
    assert "cannot be made" in refusal(open_library, text / "masters.sqlite")


@pytest.mark.parametrize(
    ("version", "words"),
    [(4, ("a newer flatcal", "update flatcal")), (2, ("an older flatcal", "to a new library"))],
)
def test_a_library_of_another_flatcal_is_refused(library, tmp_path, version, words):
    connection = sqlite3.connect(tmp_path / "lib/masters.sqlite")
    connection.execute(f"UPDATE flatcal_library SET schema_version = {version}")
    connection.commit()
    connection.close()
    line = refusal(open_library, tmp_path / "lib/masters.sqlite")
    assert f"version {version} of its tables, this flatcal knows 3" in line
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM flatcal_library", "no version"),
        ("UPDATE flatcal_library SET schema_version = 'x'", "'x'"),
        ("UPDATE flatcal_library SET schema_version = x'ff'", "b'\\xff'"),
    ],
)
@pytest.mark.parametrize("create", [True, False])
def test_a_library_that_does_not_tell_its_version_is_refused(library, change, said, create):
    corrupt(library, change)
    line = refusal(open_library, library.where, create=create)
    assert f"{library.where} is damaged: its table flatcal_library says {said}, not" in line


def test_a_library_in_a_file_has_its_folder_beside_it(tmp_path):
    file, folder = tmp_path / "m.sqlite", tmp_path / "m.sqlite.files"
    line = refusal(open_library, file, store=tmp_path / "x")
    assert f"keeps its files beside it, in {folder}" in line
    assert list(tmp_path.iterdir()) == []
    with open_library(file, store=folder) as library:
        assert library.store == folder


@pytest.mark.parametrize("where", ["mysql://me:secret@host/x", "postgresql://me:secret@host:x/x"])
def test_urls_that_are_not_understood(where):
    line = refusal(open_library, where)
    assert "postgresql://USER@HOST/DATABASE" in line
    assert "secret" not in line


@pytest.mark.parametrize("where", ["~nobody-of-that-name/x", Path("~nobody-of-that-name/x")])
def test_the_home_of_a_user_that_is_not_known(where):
    assert "~nobody-of-that-name/x is in the home of a user" in refusal(open_library, where)
    place = "postgresql://me@host/x"
    assert "write the path out" in refusal(open_library, place, store=where)


@pytest.mark.parametrize("create", [True, False])
def test_a_name_that_is_too_long(tmp_path, create):
    where = tmp_path / ("a" * 300)
    assert f"{where} cannot be used" in refusal(open_library, where, create=create)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may do all")
def test_a_library_that_may_only_be_read(library, put, tmp_path):
    master = library.add(put())
    (tmp_path / "lib/masters.sqlite").chmod(0o444)
    (tmp_path / "lib").chmod(0o555)
    try:
        with open_library(tmp_path / "lib/masters.sqlite", create=False) as readable:
            assert readable.candidates(Kind.BIAS, SETUP, START) == [master]
            assert "readonly" in refusal(readable.set_status, master.id, MasterStatus.BAD)
    finally:
        (tmp_path / "lib").chmod(0o755)


def test_a_library_that_another_program_keeps_busy(library, put, tmp_path, monkeypatch):
    monkeypatch.setattr("flatcal.library.database.BUSY_S", 0.1)
    path = tmp_path / "lib/masters.sqlite"
    master = library.add(put())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with open_library(path) as waiting:
            assert ids(waiting.find()) == [master.id]
            assert "is busy" in refusal(waiting.set_status, master.id, MasterStatus.BAD)
    finally:
        other.close()


def test_the_library_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_library() == tmp_path / "flatcal/masters.sqlite"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_library() == tmp_path / ".local/share/flatcal/masters.sqlite"


# -- commands ----------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path):
    """Run a command on a library of its own."""
    environment = {"FLATCAL_LIBRARY": str(tmp_path / "lib/masters.sqlite"), "COLUMNS": "120"}

    def run(*words, code=0, error=None):
        done = CliRunner().invoke(library_app, list(map(str, words)), env=environment)
        if error is not None:
            assert isinstance(done.exception, FlatcalError), done.output
            assert done.exception.slug == error
            return str(done.exception)
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    return run


def test_add_list_and_find(command, put):
    bias, flat = put("bias.fits"), put("flat.fits", **FLAT)
    assert command("add", bias, flat, "--to", "2026-06-30").splitlines() == [
        f"{bias} is kept as 1",
        f"{flat} is kept as 2",
    ]
    assert command("add", bias) == f"{bias} is there already as 1 (good), unchanged\n"
    table = command("list")
    for words in (
        "bias",
        "flat V",
        "Aspen CG16M, fast, high",
        "40 x 52, binned 1 x 2",
    ):
        assert words in table
    assert table.endswith("\n1: may serve to 2026-06-30\n2: may serve to 2026-06-30\n")
    found = command("find", "--kind", "flat", "--filter", "V", "--date", "2026-06-30", "--paths")
    assert [Path(line).name[:5] for line in found.splitlines()] == ["flat-"]
    assert command("find", "--date", "2026-07-01") == "no masters\n"
    assert "'soon' is not a day" in command("find", "--date", "soon", error="library")


def test_add_tells_what_it_replaces(command, put):
    command("add", put())
    path = put(NCOMBINE=11)
    assert command("add", path).splitlines() == [
        f"{path} is kept as 2",
        "1, added from the same path, is retired",
    ]


def test_add_keeps_what_it_can_and_exits_1(command, put, tmp_path):
    good, raw = put("good.fits"), put("raw.fits", COMBINED=None)
    said = command("add", raw, tmp_path / "gone.fits", good, code=1)
    assert "[not-a-master]" in said
    assert "[file-broken]" in said
    assert said.endswith(f"{good} is kept as 1\n")


def test_marks(command, put):
    command("add", put())
    assert command("retire", "1", "--note", "[old]") == "1 is retired: [old]\n"
    assert command("find") == "no masters\n"
    assert command("list").endswith("\n1: [old]\n")
    assert command("mark", "1", "good") == "1 is good: [old]\n"
    assert command("limit", "1", "--from", "2026-01-01") == "1 may serve from 2026-01-01\n"
    assert command("limit", "1") == "1 may serve on any day\n"
    command("mark", "1", "perfect", code=2)
    assert "no master 7" in command("retire", "7", error="library")


def test_what_masters_hold_leaves_the_terminal_clean(command, put):
    command("add", put())
    command("retire", "1", "--note", "\x1b[31mred\x1b[0m\n2: forged")
    said = command("list")
    assert said.endswith("\n1: \u241b[31mred\u241b[0m\u240a2: forged\n")
    assert "\x1b" not in said


def test_show_and_verify(command, put, tmp_path):
    command("add", put("1.fits"), put("2.fits", **FLAT))
    shown = dict(
        line.split(maxsplit=1) for line in command("show", "2").splitlines() if " " in line
    )
    assert shown["sha256"] in shown["path"]
    assert (shown["filter"], shown["binning"], shown["status"]) == ("V", "(1, 2)", "good")
    assert command("verify") == "2 of 2 masters are there and unchanged\n"
    Path(shown["path"]).unlink()
    said = command("verify", code=1)
    assert f"{shown['path']} is gone" in said
    assert said.endswith("1 of 2 masters are there and unchanged\n")
    assert command("verify", "1") == "1 of 1 masters are there and unchanged\n"


def test_copy(command, put, tmp_path):
    command("add", put("1.fits"), put("2.fits", **FLAT))
    old, new = tmp_path / "lib/masters.sqlite", tmp_path / "new.sqlite"
    assert command("copy", old, "--library", new) == f"2 masters are copied to {new}\n"
    assert command("verify", "--library", new) == "2 of 2 masters are there and unchanged\n"
    for path in (tmp_path / "lib/masters.sqlite.files").glob("flat*"):
        path.unlink()
    said = command("copy", old, "--library", tmp_path / "third.sqlite", code=1)
    assert f"the file of 2 is gone from {old}" in said
    assert "1 masters are copied" in said


def test_commands_name_what_cannot_be_read_and_go_on(command, library, put, tmp_path):
    command("add", put("1.fits"), put("2.fits", **DARK), put("3.fits", **FLAT))
    corrupt(library, "UPDATE flatcal_master SET exposure_time_s = 'x' WHERE id < 3")
    broken = [f"flatcal: master {n} of the library {library.where} cannot be" for n in (1, 2)]
    said = command("list", code=1)
    assert all(line in said for line in (*broken, "flat V"))
    said = command("verify", code=1)
    assert all(line in said for line in (*broken, "1 of 3 masters are there and unchanged"))
    assert "is kept as 4" in command("add", put("4.fits", **FLAT, NCOMBINE=11))
    said = command("copy", library.where, "--library", tmp_path / "new.sqlite", code=1)
    assert all(line in said for line in (*broken, "2 masters are copied"))
    assert "cannot be read" in command("find", error="library")
    command("mark", "1", "bad", error="library")
    command("mark", "2", "retired", error="library")
    assert "flat V" in command("find")
    assert "2 of 2 masters" in command("verify")


def test_commands_that_read_do_not_make_a_library(command, tmp_path):
    for words in (["list"], ["find"], ["show", "1"], ["retire", "1"], ["verify"]):
        assert "there is no library" in command(*words, error="library")
    assert not (tmp_path / "lib").exists()
