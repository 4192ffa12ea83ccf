"""Hostile and broken files; the long version is `make soak`."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import hostile
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from kills import contents
from nights import program

from flatcal import ImageFileCollection, combine, open_library
from flatcal.camera import CameraSettings
from flatcal.engine.master_files import require_unchanged
from flatcal.engine.run import run_plan
from flatcal.engine.user_mask import load_user_mask
from flatcal.errors import MESSAGES, ConfigError, FlatcalError, OutputError
from flatcal.facts import read_frames
from flatcal.headers import is_fits
from flatcal.linearity_curve import read_table
from flatcal.planning import build_plan
from flatcal.recipe import Config, OutputSettings, parse_config
from flatcal.report.terminal import print_plan
from flatcal.saved_plan import load_plan
from flatcal.verify import verify_output

NIGHT = hostile.good_night()


@pytest.fixture
def night(tmp_path):
    """A good night, to which a test adds what is odd."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, content in NIGHT.items():
        (raw / name).write_bytes(content)
    return raw


def errors_of(raw, out, files=None):
    """What the run says of each file that failed; all must hold that holds for hostile files."""
    hostile.require_sound(raw, out, files=files)
    return told(out)


def told(out):
    """The slugs of each file that failed; what is good is calibrated."""
    outcomes = json.loads((out / "run.json").read_bytes())["outcomes"]
    assert {"b0.fits", "s.fits"} <= {o["file"] for o in outcomes if o["status"] != "failed"}
    return {o["file"]: [e["slug"] for e in o["errors"]] for o in outcomes if o["errors"]}


def test_hundreds_of_hostile_files(tmp_path):
    """Each batch and its files come back with its number; see `hostile.py`."""
    words = [*hostile.WARNINGS, hostile.__file__, "--batches", "30", "--keep", tmp_path]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["inputs"] == 300


keywords = st.sampled_from(hostile.KEYWORDS) | st.text("ABCXYZ0129-_ é=", max_size=9)
values = (
    st.sampled_from(hostile.VALUES)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.text(max_size=75)
    | st.text(max_size=70).map(lambda text: f"'{text}'")
)
cards = st.lists(st.tuples(keywords, st.sampled_from(["= ", "=", "  ", ""]), values), max_size=12)


@given(cards)
@settings(max_examples=200)
def test_any_cards_make_a_frame_or_an_error_with_a_slug(tmp_path_factory, drawn):
    path = tmp_path_factory.mktemp("cards") / "a.fits"
    good = NIGHT["s.fits"]
    head = b"".join(
        f"{keyword:8}{sign}{value}".encode(errors="replace").ljust(80)[:80]
        for keyword, sign, value in drawn
    )
    place = good.index(b"IMAGETYP")
    header = hostile._pad(good[:place] + head + good[place : good.index(b"END     ") + 80])
    path.write_bytes(header + good[-2880:])
    (frame,) = read_frames(path.parent, path.name, CameraSettings(), ())
    assert all(note.slug in MESSAGES for note in (*frame.errors, *frame.caveats))
    assert frame.errors or frame.kind is not None


# -- sizes -------------------------------------------------------------------------------


def header_of(**cards):
    start = {"SIMPLE": "T", "BITPIX": 16, "NAXIS": 2, "NAXIS1": 20, "NAXIS2": 16}
    cards = {**start, **cards, "IMAGETYP": "'BIAS    '", "EXPTIME": 0.0, "BUNIT": "'adu     '"}
    lines = [f"{key:8}= {value!s:>20}" for key, value in cards.items()]
    return hostile._pad("".join(f"{line:80}" for line in [*lines, "END"]).encode())


@pytest.mark.parametrize(
    ("cards", "slug"),
    [
        ({"NAXIS1": 10**6, "NAXIS2": 10**6}, "file-broken"),
        ({"NAXIS1": 10**12, "NAXIS2": 1}, "file-broken"),
        ({"NAXIS1": 10**30}, "file-broken"),
        ({"NAXIS1": -20}, "file-broken"),
        ({"NAXIS": -1}, "file-broken"),
        ({"NAXIS": 999}, "file-broken"),
        ({"NAXIS": 10**9}, "file-broken"),
        ({"NAXIS1": "NaN"}, "file-broken"),
        ({"NAXIS2": "'16'"}, "file-broken"),
        ({"NAXIS1": 0}, "image-type"),
        ({"BITPIX": 17}, "file-broken"),
        ({"BITPIX": -16}, "file-broken"),
        ({"BITPIX": "inf"}, "file-broken"),
        ({"PCOUNT": 10**15}, "file-broken"),
        ({"GCOUNT": -1}, "file-broken"),
    ],
)
def test_senseless_sizes(night, tmp_path, cards, slug):
    (night / "h.fits").write_bytes(header_of(**cards) + bytes(2880))
    assert errors_of(night, tmp_path / "out") == {"h.fits": [slug]}


@pytest.mark.parametrize("keyword", ["NAXIS", "NAXIS2", "BITPIX"])
def test_a_size_that_stands_twice(night, tmp_path, keyword):
    header = header_of()
    again = f"{keyword:8}= {10**12:>20}".ljust(80).encode()
    header = header.replace(b"END".ljust(80), again + b"END".ljust(80), 1)[:2880]
    (night / "h.fits").write_bytes(header + bytes(2880))
    assert errors_of(night, tmp_path / "out") == {"h.fits": ["file-broken"]}


@pytest.mark.parametrize("keyword", ["ZNAXIS", "ZNAXIS2", "ZBITPIX"])
def test_a_size_that_stands_twice_in_a_packed_file(night, tmp_path, keyword):
    """A reader that takes the other one finds another image."""
    head, _, rest = hostile.packed_bytes().partition(b"ZTILE1  ")
    again = f"{keyword:8}= {2**40:>20}".ljust(80).encode()
    (night / "h.fits.fz").write_bytes(head + again + rest[72:])
    assert errors_of(night, tmp_path / "out") == {"h.fits.fz": ["file-broken"]}


def test_a_sparse_file_of_a_million_million_pixels_does_not_stop_the_night(night, tmp_path):
    with (night / "h.fits").open("wb") as file:
        file.write(header_of(NAXIS1=10**6, NAXIS2=10**6))
        try:
            file.truncate(2880 + 2 * 10**12 + 2880 - 2 * 10**12 % 2880)
        except OSError:
            pytest.skip("the file system takes no file of 2 TB")
    plan = build_plan(night)
    (error,) = plan.find_frame("h.fits").errors
    assert error.slug == "image-type"
    assert "1000000 x 1000000" in error.text
    assert run_plan(plan, tmp_path / "out").failed[0].file == "h.fits"


def cards_of(kind):
    exposure = {"BIAS": 0.0, "FLAT": 2.0, "LIGHT": 60.0}[kind]
    return fits.Header({"IMAGETYP": kind, "EXPTIME": exposure, "FILTER": "V", "BUNIT": "adu"})


def put_sparse(path, kind):
    """A plain frame of 16,000 x 16,000 pixels that takes a few bytes of the disk."""
    header = fits.PrimaryHDU(np.zeros((2, 2), np.uint16), cards_of(kind)).header
    header["NAXIS1"] = header["NAXIS2"] = 16_000
    with path.open("wb") as file:
        file.write(header.tostring().encode())
        file.truncate(file.tell() + -(-2 * 16_000**2 // 2880) * 2880)


def put_packed(path, kind):
    """A packed frame that claims as many pixels, in a few kB."""
    tiles = {"compression_type": "GZIP_1", "tile_shape": (1000, 16_000)}
    hdu = fits.CompImageHDU(np.zeros((16_000, 16_000), np.uint8), cards_of(kind), **tiles)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    assert path.stat().st_size < 500_000


@pytest.mark.parametrize(("put", "name"), [(put_packed, "h.fits.fz"), (put_sparse, "h.fits")])
def test_a_bias_of_more_pixels_than_memory_fails_alone(night, tmp_path, put, name):
    put(night / name, "BIAS")
    assert errors_of(night, tmp_path / "out") == {name: ["memory-limit"]}
    (night / name).unlink()
    # Its name tells the size where there are two of them, which is no matter of its pixels.
    run_plan(build_plan(night), tmp_path / "alone")
    assert pixels_of(tmp_path / "out") == pixels_of(tmp_path / "alone")


def test_frames_of_more_pixels_than_memory_take_none_of_their_kind_with_them(
    night, tmp_path, capsys
):
    huge = {f"h{kind}.fits": kind for kind in ("BIAS", "FLAT", "LIGHT")}
    for name, kind in huge.items():
        put_sparse(night / name, kind)
    config = parse_config("[dark]\nrequired = false\n", "night.toml")
    plan = build_plan(night, config)
    assert plan.refused == ()
    print_plan(plan)
    assert "it is too small for master_bias_16000x16000 (3." in capsys.readouterr().out
    result = run_plan(plan, tmp_path / "out", memory_bytes=hostile.MEMORY_BYTES)
    errors = {o.file: [e.slug for e in o.errors] for o in result.failed}
    assert errors == {name: ["memory-limit"] for name in huge}
    # None of it is read, not to hash it either.
    assert set(result.record.inputs) == set(NIGHT)


def pixels_of(out):
    return [fits.getdata(path).tobytes() for path in sorted(out.rglob("*.fits"))]


def bomb(header, n_bytes):
    """What unpacks to a header and so many zeros, in members of 64 MB each."""
    member = gzip.compress(bytes(1 << 26), 9)
    return gzip.compress(header) + member * (n_bytes >> 26)


# What a night takes beyond what another has taken, with which all is loaded and compiled.
_WHAT_IT_TAKES = """
import json, sys, time
from pathlib import Path
from hostile import require_sound
from load import peak_mb
known, raw, out = map(Path, sys.argv[1:])
require_sound(known, out.with_name("known"))
before, clock = peak_mb(), time.process_time()
require_sound(raw, out)
print(json.dumps({"cpu_s": time.process_time() - clock, "memory_mb": peak_mb() - before}))
"""


@pytest.mark.parametrize(
    "header",
    [
        header_of(NAXIS1=10**6, NAXIS2=8000),  # and all of them are there
        header_of(),  # the zeros follow the image
        b"",
        header_of()[:800],
    ],
)
def test_a_gzip_bomb_takes_neither_memory_nor_time(night, tmp_path, header):
    """In a process of its own: the peak of this one may be that of an earlier test."""
    raw, out = tmp_path / "bomb", tmp_path / "out"
    shutil.copytree(night, raw)
    (raw / "h.fits.gz").write_bytes(bomb(header, 16 << 30))
    done = subprocess.run(
        [sys.executable, *hostile.WARNINGS, "-c", _WHAT_IT_TAKES, night, raw, out],
        cwd=Path(hostile.__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert told(out) == {"h.fits.gz": ["file-broken"]}
    took = json.loads(done.stdout)
    assert took["cpu_s"] < 5
    assert took["memory_mb"] < 100


def test_a_million_units_in_a_zipped_file_are_given_up(night, tmp_path):
    extension = header_of().replace(
        b"SIMPLE  =                    T", b"XTENSION= 'IMAGE   '          "
    )
    extension = extension.replace(
        b"NAXIS   =                    2", b"NAXIS   =                    0"
    )
    units = gzip.compress(extension * 5000)
    (night / "h.fits.gz").write_bytes(gzip.compress(header_of(NAXIS=0)) + units * 200)
    clock = time.process_time()
    assert errors_of(night, tmp_path / "out") == {"h.fits.gz": ["file-broken"]}
    assert time.process_time() - clock < 30


def test_a_packed_image_that_claims_more_than_it_can_hold(night, tmp_path):
    content = hostile.packed_bytes(tile_shape=(16, 20))
    for axis in (b"1", b"2"):
        for word in (b"ZNAXIS", b"ZTILE"):
            start = content.index(word + axis)
            card = (word + axis).ljust(8) + b"= %20d" % 10**6
            content = content[:start] + card.ljust(80) + content[start + 80 :]
    (night / "h.fits.fz").write_bytes(content)
    assert list(errors_of(night, tmp_path / "out")) == ["h.fits.fz"]


def test_a_packed_image_of_a_table_with_a_million_million_columns(night, tmp_path):
    """astropy would count up to it."""
    card = b"TFIELDS =                    1"
    content = hostile.packed_bytes()
    assert card in content
    (night / "h.fits.fz").write_bytes(content.replace(card, b"TFIELDS =        1000000000000"))
    assert errors_of(night, tmp_path / "out") == {"h.fits.fz": ["file-broken"]}


def test_headers_that_are_too_much_together(night, tmp_path):
    """Each may have many cards, and a file many units; zipped they are small."""
    cards = b"".join(b"HIERARCH C%06d = 1".ljust(80) % number for number in range(30_000))
    unit = header_of(NAXIS=0).replace(b"SIMPLE  =", b"XTENSION=")
    unit = unit.replace(b"                   T", b"'IMAGE   '          ")
    end = unit.index(b"END".ljust(80))
    unit = unit[:end] + cards + b"END".ljust(80)
    unit += b" " * (-len(unit) % 2880)
    (night / "h.fits.gz").write_bytes(gzip.compress(header_of(NAXIS=0) + unit * 16, 1))
    clock = time.process_time()
    assert errors_of(night, tmp_path / "out") == {"h.fits.gz": ["file-broken"]}
    assert time.process_time() - clock < 60


def test_a_packed_image_in_a_zipped_file_is_refused(night, tmp_path):
    """With many tiles astropy takes minutes for it."""
    (night / "h.fits.fz.gz").write_bytes(gzip.compress(hostile.packed_bytes(tile_shape=(1, 20))))
    (night / "h.fits.gz").write_bytes(gzip.compress(hostile.packed_bytes(tile_shape=(1, 20))))
    assert errors_of(night, tmp_path / "out") == {"h.fits.gz": ["file-broken"]}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [1e35, -1e35, 3e38, 1e300, 1e-45])
def test_a_flat_with_values_of_no_light(night, tmp_path, value, dtype):
    """A second run reads the figures of it from the header, and says the same."""
    content = hostile.frame_bytes("FLAT", 2.0, 20_000, "f8")
    row = np.full(20, value, ">f8").tobytes()
    (night / "h.fits").write_bytes(content[:2880] + row + content[2880 + len(row) :])
    plan = build_plan(night, Config(output=OutputSettings(dtype=dtype)))
    first, second = run_plan(plan, tmp_path / "out"), run_plan(plan, tmp_path / "out")
    assert second.record == first.record
    assert {o.file: o.errors for o in first.record.outcomes if o.errors} == {}
    told = [c.text for o in first.record.outcomes for c in o.caveats if c.slug == "flat-unlike"]
    assert all(len(text) < 300 for text in told)


def test_a_frame_whose_values_are_beyond_the_type_of_the_outputs(night, tmp_path):
    """Its limits, too: where integers saturate is told by BZERO."""
    header = header_of(BZERO="9" * 60)
    (night / "h.fits").write_bytes(header + bytes(2880))
    assert errors_of(night, tmp_path / "out") == {}
    with fits.open(tmp_path / "out/masters/master_bias.fits") as hdus:
        assert np.abs(hdus[0].data - 1000).max() < 100


# -- what is no file ---------------------------------------------------------------------


def test_folders_pipes_and_links_in_a_circle(night, tmp_path):
    (night / "folder.fits").mkdir()
    os.mkfifo(night / "pipe.fits")
    (night / "loop.fits").symlink_to(night / "loop.fits")
    (night / "gone.fits").symlink_to(tmp_path / "nothing")
    (night / "zeros.fits").symlink_to("/dev/zero")
    (night / "empty.fits").write_bytes(b"")
    found = errors_of(night, tmp_path / "out")
    odd = ["pipe.fits", "loop.fits", "gone.fits", "zeros.fits", "empty.fits"]
    assert found == {name: ["file-broken"] for name in odd}


def test_a_folder_that_cannot_be_listed_is_named(night, tmp_path, monkeypatch):
    """Its rights or its disk hinder it."""
    (night / "second half").mkdir()
    (night / "b2.fits").rename(night / "second half/b2.fits")
    scandir = os.scandir

    def scandir_or_fail(path):
        if Path(path).name == "second half":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_or_fail)
    plan = build_plan(night)
    (failed,) = run_plan(plan, tmp_path / "out").failed
    assert failed.file == "second half"
    assert [error.slug for error in failed.errors] == ["folder-closed"]
    assert "Permission denied" in failed.errors[0].text


@pytest.mark.parametrize("name", ["pipe.fits", "zeros.fits", "folder.fits"])
def test_what_is_no_file_is_never_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / "pipe.fits")
    (tmp_path / "zeros.fits").symlink_to("/dev/zero")
    (tmp_path / "folder.fits").mkdir()
    assert not is_fits(tmp_path / name)
    collection = ImageFileCollection(tmp_path, filenames=[name])
    assert [file for file, _ in collection.unreadable] == [name]


def test_a_pipe_in_place_of_a_planned_file_is_not_waited_for(night, tmp_path):
    plan = build_plan(night)
    (night / "s.fits").unlink()
    os.mkfifo(night / "s.fits")
    (failed,) = run_plan(plan, tmp_path / "out").failed
    assert (failed.file, failed.errors[0].slug) == ("s.fits", "file-broken")


@pytest.fixture
def pipe(tmp_path):
    """A pipe; who waits for it is released after a while, to be told by a wrong error."""
    path, done = tmp_path / "pipe.fits", Event()
    os.mkfifo(path)

    def release():
        while not done.wait(10):
            with suppress(OSError):
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    thread = Thread(target=release)
    thread.start()
    yield path
    done.set()
    thread.join()


def slug_of(function, *values):
    with pytest.raises(FlatcalError) as caught:
        function(*values)
    return caught.value.slug


def test_a_pipe_is_not_waited_for_by_the_functions_for_notebooks(pipe):
    assert slug_of(combine, [str(pipe)]) == "file-broken"
    pipe.rename(pipe.with_name("away"))
    pipe.write_bytes(NIGHT["s.fits"])
    collection = ImageFileCollection(pipe.parent, filenames=[pipe.name])
    pipe.with_name("away").rename(pipe)
    for loop in (collection.ccds, collection.hdus, collection.headers, collection.data):
        assert slug_of(next, loop()) == "file-broken"


def test_a_pipe_is_not_waited_for_as_mask_or_table_or_in_a_library(pipe, night, tmp_path):
    assert slug_of(load_user_mask, str(pipe)) == "bad-pixel-mask"
    assert slug_of(read_table, str(pipe)) == "linearity-curve"
    run_plan(build_plan(night), tmp_path / "out")
    master = next((tmp_path / "out/masters").iterdir())
    with open_library(tmp_path / "masters.sqlite") as library:
        stored = library.add(master)
        assert slug_of(library.add, pipe) == "file-broken"
        Path(stored.path).unlink()
        Path(stored.path).symlink_to(pipe)
        assert slug_of(library.verify, stored.id) == "library"
    assert slug_of(require_unchanged, stored) == "library"


# -- names -------------------------------------------------------------------------------


def test_names_of_any_kind_stay_in_the_folder_and_the_terminal_clean(night, tmp_path):
    for name in hostile.NAMES:
        path = os.fsencode(str(night)) + b"/" + name.encode(errors="surrogateescape")
        Path(os.fsdecode(path)).write_bytes(NIGHT["s.fits"])
    before = contents(tmp_path).keys()
    found = errors_of(night, tmp_path / "out")
    assert list(found.values()) == [["file-broken"]]  # the one that is not UTF-8
    made = {name for name in contents(tmp_path) if name not in before}
    assert all(name.startswith("out/") for name in made)
    assert len([name for name in made if name.startswith("out/science/")]) == len(
        [name for name in hostile.NAMES if not name.startswith(".")]
    )
    for path in (tmp_path / "out/science").iterdir():
        with fits.open(path, checksum=True) as hdus:
            assert np.isfinite(hdus[0].data).all()


@pytest.mark.parametrize("command", ["inspect", "plan", "run"])
def test_names_of_any_kind_leave_the_terminal_clean(night, tmp_path, command):
    """Whatever is said and logged of files that cannot be used."""
    for name in hostile.NAMES:
        (night / name).write_bytes(NIGHT["s.fits"][:5000])
    words = [night, tmp_path / "out"] if command == "run" else [night]
    said = "".join(program(command, *words, "-vv").communicate())
    assert "red" in said
    assert said.replace("\n", "").isprintable()


def test_an_output_folder_that_is_a_link_into_the_raw_folder_is_refused(night, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/science").symlink_to(night)
    with pytest.raises(OutputError, match=r"\[output-in-raw\]"):
        run_plan(build_plan(night), tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("name", ["plan.json", "run.json"])
def test_a_pipe_in_place_of_a_record_is_not_waited_for(night, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / name)
    with pytest.raises(OutputError, match=r"\[output-exists\]"):
        run_plan(build_plan(night), out)
    run_plan(build_plan(night), out, overwrite=True)
    assert json.loads((out / name).read_text())["schema_version"] == 1
    (out / name).unlink()
    os.mkfifo(out / name)
    with pytest.raises(ConfigError, match=r"pipe.*\[no-run\]"):
        verify_output(out)


def test_a_saved_plan_cannot_name_an_output_outside_the_folder(night, tmp_path):
    """Nor a raw file outside the raw folder."""
    text = build_plan(night).model_dump_json()
    for old, new in (
        ('"science/science-s.fits"', '"../../escaped.fits"'),
        ('"science/science-s.fits"', f'"{tmp_path}/escaped.fits"'),
        ('"file":"s.fits"', '"file":"../s.fits"'),
    ):
        assert old in text
        path = tmp_path / "plan.json"
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=r"\[plan-file\]"):
            load_plan(path)


def frame_of(plan, file):
    return next(frame for frame in plan["frames"] if frame["file"] == file)


def master_of(plan, name):
    return next(master for master in plan["masters"] if master["name"] == name)


def drop(plan, part, key, name):
    plan[part] = [entry for entry in plan[part] if entry[key] != name]


CHANGES = {
    "a master's file": lambda p: frame_of(p, "s.fits").update(output="masters/master_bias.fits"),
    "another's file": lambda p: frame_of(p, "f0.fits").update(output="flats/FLAT-F1.fits"),
    "plan.json": lambda p: frame_of(p, "s.fits").update(output="plan.json"),
    "a hidden file": lambda p: frame_of(p, "s.fits").update(output="science/.s.fits"),
    "a deeper file": lambda p: frame_of(p, "s.fits").update(output="science/x/s.fits"),
    "a file with NUL": lambda p: frame_of(p, "s.fits").update(output="science/a\0b.fits"),
    "a long name": lambda p: frame_of(p, "s.fits").update(output=f"science/{'a' * 300}.fits"),
    "no output": lambda p: frame_of(p, "s.fits").update(output=None),
    "a master elsewhere": lambda p: master_of(p, "master_bias").update(output="x.fits"),
    "no kind": lambda p: frame_of(p, "s.fits").update(kind=None),
    "no detectors": lambda p: frame_of(p, "s.fits").update(detectors=[]),
    "no gain": lambda p: frame_of(p, "s.fits")["detectors"][0].update(gain_electron_per_adu=0),
    "no shape": lambda p: frame_of(p, "s.fits").update(shape=None),
    "no storage": lambda p: frame_of(p, "s.fits").update(storage=None),
    "no pixels": lambda p: frame_of(p, "b0.fits").update(shape=[0, 9]),
    "another shape": lambda p: frame_of(p, "s.fits").update(shape=[9, 9]),
    "another action": lambda p: frame_of(p, "f0.fits").update(action="combine"),
    "left out": lambda p: frame_of(p, "b0.fits").update(action="leave_out"),
    "a frame that is gone": lambda p: drop(p, "frames", "file", "b0.fits"),
    "a frame twice": lambda p: p["frames"].append(frame_of(p, "s.fits")),
    "a master that is gone": lambda p: drop(p, "masters", "name", "master_bias"),
    "a master twice": lambda p: p["masters"].append(master_of(p, "master_bias")),
    "masters in another order": lambda p: p["masters"].reverse(),
    "an unknown input": lambda p: master_of(p, "master_bias")["inputs"].append("x.fits"),
    "no input": lambda p: master_of(p, "master_bias").update(inputs=[]),
    "an unknown level": lambda p: p["masters"][1].update(level_of="x"),
    "an unknown master": lambda p: frame_of(p, "s.fits")["steps"][-1].update(master="x"),
    "a master of another kind": lambda p: frame_of(p, "s.fits")["steps"][-1].update(
        master="master_bias"
    ),
    "no section": lambda p: frame_of(p, "s.fits")["steps"].append({"name": "trim_image"}),
    "a section outside": lambda p: frame_of(p, "s.fits")["steps"].append(
        {"name": "trim_image", "section": "[1:9000,1:9000]"}
    ),
    "two sections": lambda p: frame_of(p, "s.fits")["steps"].append(
        {"name": "subtract_overscan", "section": "[1:2,1:4]+[3:4,1:4]"}
    ),
    "no curve": lambda p: frame_of(p, "s.fits")["steps"].append({"name": "correct_linearity"}),
    "a raw folder with NUL": lambda p: p.update(raw="/a\0b"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_saved_plan_that_contradicts_itself_is_refused(night, tmp_path, change):
    plan = json.loads(build_plan(night).model_dump_json())
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    load_plan(path)
    change(plan)
    path.write_text(json.dumps(plan))
    with pytest.raises(ConfigError, match=r"cannot be run: .*; plan again \[plan-file\]"):
        load_plan(path)
