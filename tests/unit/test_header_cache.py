"""The cache of headers: what it gives back, when it is trusted, where it lies."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st
from test_headers import CARDS, ODD_CARDS, as_header, is_end

from flatcal import header_cache, user_cache
from flatcal.cards import HeaderCards
from flatcal.collection import ImageFileCollection
from flatcal.errors import FrameError
from flatcal.header_bytes import decode_entries, encode_entries
from flatcal.header_cache import remembered_headers, remembered_units
from flatcal.headers import read_header_cards, scan_file, scan_hdus
from flatcal.index import find_frames
from flatcal.recipe import Config

pytestmark = pytest.mark.usefixtures("all_settled")

_opened: list[str] = []


def _listen(event: str, arguments: tuple) -> None:
    if event == "open" and str(arguments[0]).lower().endswith((".fits", ".fit", ".fz")):
        _opened.append(Path(os.fsdecode(arguments[0])).name)


@pytest.fixture(scope="module", autouse=True)
def _listening():
    sys.addaudithook(_listen)  # it cannot be removed again


@pytest.fixture
def opened():
    """Names of the FITS files that were opened; to be cleared by the test."""
    _opened.clear()
    return _opened


@pytest.fixture
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache-of-one-test")
    monkeypatch.setenv("FLATCAL_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def raw(tmp_path, put_frame, cache) -> Path:
    """Six frames, two of them with a keyword that the others lack."""
    for number in range(6):
        extra = {"FILTER": "V"} if number > 3 else {}
        put_frame(tmp_path / f"f{number}.fits", "flat", number / 3, NUMBER=number, **extra)
    return tmp_path


def rows(folder: Path, **arguments) -> list[tuple]:
    """The table, with types and masks."""
    table = ImageFileCollection(folder, **arguments).summary
    columns = [
        [(type(v), v, m) for v, m in zip(table[c].tolist(), table[c].mask.tolist(), strict=True)]
        for c in table.colnames
    ]
    return [tuple(table.colnames), *zip(*columns, strict=True)]


def exactly(header: HeaderCards) -> list[tuple]:
    """Cards with all that tells values apart; 1, 1.0 and True are equal, nan is not itself."""
    return [(keyword, type(value), repr(value)) for keyword, value in header.cards]


# -- what it gives back ------------------------------------------------------------------

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text()
)
FEW_VALUES = st.sampled_from([0, 0.0, -0.0, False, 1, 1.0, True, "", None, math.nan, 1j, 2**70])
KEYWORDS = st.sampled_from(["A", "B", "COMMENT", "HISTORY", "", "ESO DET NAME"])
HEADERS = st.lists(st.tuples(KEYWORDS, VALUES | FEW_VALUES), max_size=5).map(HeaderCards)
SIZES = st.integers(0, 2**60)
UNITS = st.tuples(HEADERS, st.tuples(SIZES, SIZES, SIZES, st.booleans(), st.booleans()))
STAMPS = st.tuples(*[st.integers(-(2**64), 2**130)] * 4)
ENTRIES = st.dictionaries(
    st.text(), st.tuples(STAMPS, st.lists(UNITS, min_size=1, max_size=3)), max_size=6
)


@given(ENTRIES)
def test_entries_come_back_exactly(entries):
    found = decode_entries("x", encode_entries("x", entries))
    assert list(found) == list(entries)
    for (stamp, units), (expected_stamp, expected) in zip(
        found.values(), entries.values(), strict=True
    ):
        assert stamp == expected_stamp
        assert [place for _, place in units] == [place for _, place in expected]
        for (header, place), (other, other_place) in zip(units, expected, strict=True):
            assert exactly(header) == exactly(other)
            assert repr(dict(header)) == repr(dict(other))
            assert list(map(type, place)) == list(map(type, other_place))


@given(
    headers=st.lists(
        st.lists(CARDS | ODD_CARDS, max_size=6).filter(lambda c: not any(map(is_end, c))),
        min_size=1,
        max_size=4,
    )
)
def test_headers_of_files_come_back_exactly(headers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    paths = []
    for number, cards in enumerate(headers):
        paths.append(folder / f"{number}.fits")
        paths[-1].write_bytes(as_header(["BITPIX  = 8", "NAXIS   = 0", *cards]))
    for _ in range(2):
        with remembered_headers(folder) as read, remembered_units(folder) as scan:
            for path in paths:
                expected = exactly(read_header_cards(path))
                assert exactly(read(path)) == expected
                assert [exactly(hdu.cards) for hdu in scan(path)] == [expected]
    ours = rows(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLATCAL_CACHE_DIR", os.devnull)
        assert repr(rows(folder)) == repr(ours)


def test_units_come_back(raw, opened):
    image = fits.CompImageHDU(np.zeros((64, 32), np.int16), fits.Header({"EXPTIME": 3.0}))
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(raw / "two.fits.fz")
    expected = {path: scan_file(path) for path in raw.iterdir()}
    for _ in range(2):
        opened.clear()
        with remembered_units(raw) as scan:
            for path, hdus in expected.items():
                found = scan(path)
                assert [(*exactly(hdu.cards), hdu.data_offset) for hdu in found] == [
                    (*exactly(hdu.cards), hdu.data_offset) for hdu in hdus
                ]
    assert opened == []


# -- what is opened ----------------------------------------------------------------------


def test_unchanged_folder_opens_no_file(raw, opened):
    cold = rows(raw)
    assert sorted(opened) == sorted(path.name for path in raw.iterdir())
    opened.clear()
    assert rows(raw) == cold
    assert rows(raw, glob_include="f[1-3]*")[1:] == [row[: len(cold[0]) - 1] for row in cold[2:5]]
    assert len(ImageFileCollection(raw).filter(number=3).summary) == 1
    assert opened == []


def test_unchanged_folder_opens_no_file_in_another_process(raw):
    script = (
        "import sys; from flatcal import ImageFileCollection, user_cache\n"
        "user_cache.SETTLED_NS = 0\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, arguments: event == 'open'\n"
        "    and str(arguments[0]).endswith('.fits') and opened.append(arguments[0]))\n"
        "print(len(ImageFileCollection(sys.argv[1]).summary), len(opened))\n"
    )
    for expected in ("6 6", "6 0"):
        done = subprocess.run(
            [sys.executable, "-c", script, raw], check=True, capture_output=True, text=True
        )
        assert done.stdout.split() == expected.split()


def test_plan_of_an_unchanged_folder_opens_no_file(raw, opened, put_frame, monkeypatch):
    put_frame(raw / "night2" / "b.fits", "bias", 0.0)
    frames = find_frames(raw, Config())
    assert len(frames) == 7
    opened.clear()
    assert find_frames(raw, Config()) == frames
    monkeypatch.chdir(raw)
    assert find_frames(".", Config()) == frames
    assert opened == []


def test_only_within_the_block_are_files_scanned_through_the_cache(raw, opened):
    find_frames(raw, Config())
    opened.clear()
    scan_hdus(raw / "f1.fits")
    assert opened == ["f1.fits"]


def rewrite(path: Path) -> None:
    """Other content of the same length, under the old time."""
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"'flat    '", b"'bias    '"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def exchange(path: Path) -> None:
    """Another file of the same length and time."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes().replace(b"'flat    '", b"'bias    '"))
    status = path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"'flat    '", b"'bias    '") + bytes(2880))


@pytest.mark.parametrize("change", [rewrite, exchange, lengthen])
def test_changed_file_alone_is_opened(raw, opened, change):
    rows(raw)
    change(raw / "f2.fits")
    opened.clear()
    assert ImageFileCollection(raw).values("imagetyp") == ["flat", "flat", "bias"] + ["flat"] * 3
    assert opened == ["f2.fits"]
    opened.clear()
    assert ImageFileCollection(raw).values("imagetyp")[2] == "bias"
    assert opened == []


def test_new_and_vanished_files(raw, opened, put_frame, cache):
    rows(raw)
    (raw / "f0.fits").unlink()
    put_frame(raw / "f7.fits", "flat", 7.0)
    opened.clear()
    assert ImageFileCollection(raw).values("file") == [f"f{n}.fits" for n in (1, 2, 3, 4, 5, 7)]
    assert opened == ["f7.fits"]
    (file,) = (cache / "headers").iterdir()
    assert b'"f1.fits"' in file.read_bytes()
    assert b'"f0.fits"' not in file.read_bytes()


def test_headers_of_an_extension(tmp_path, cache, opened):
    extension = fits.ImageHDU(np.ones((3, 4)), fits.Header({"EXPTIME": 7.0}), name="sci")
    fits.HDUList([fits.PrimaryHDU(), extension]).writeto(tmp_path / "e.fits")
    for ext in (1, "sci", "SCI"):
        assert ImageFileCollection(tmp_path, ext=ext).values("exptime") == [7.0]
    assert opened == ["e.fits"] * 2  # written and read
    with remembered_headers(tmp_path, 2) as read, pytest.raises(FrameError, match="no extension"):
        read(tmp_path / "e.fits")


def test_files_of_other_folders(raw, put_frame, tmp_path_factory, opened):
    other = put_frame(tmp_path_factory.mktemp("other") / "g.fits", "bias")
    for _ in range(2):
        opened.clear()
        files = ImageFileCollection(raw, filenames=["f1.fits", other])
        assert files.values("imagetyp") == ["flat", "bias"]
    assert opened == []


def test_broken_file_is_looked_at_again(raw, opened):
    content = (raw / "f3.fits").read_bytes()
    (raw / "f3.fits").write_bytes(content[:400])
    for _ in range(2):
        opened.clear()
        ((name, reason),) = ImageFileCollection(raw).unreadable
        assert (name, "no END card" in reason) == ("f3.fits", True)
    assert opened == ["f3.fits"]
    (raw / "f3.fits").write_bytes(content)
    assert ImageFileCollection(raw).unreadable == ()


def test_file_that_has_just_changed_is_not_remembered(raw, opened, monkeypatch):
    monkeypatch.setattr(user_cache, "SETTLED_NS", 2_000_000_000)
    os.utime(raw / "f1.fits", ns=(0, 0))  # its other time of change tells
    for _ in range(2):
        opened.clear()
        rows(raw)
        assert len(opened) == 6
    later = time.time_ns() + 3_000_000_000
    monkeypatch.setattr(user_cache.time, "time_ns", lambda: later)
    rows(raw)
    opened.clear()
    rows(raw)
    assert opened == []


# -- what is not trusted -----------------------------------------------------------------


def only_file(cache: Path) -> Path:
    (file,) = (cache / "headers").iterdir()
    return file


def forge(content: bytes, **changes) -> bytes:
    """A whole cache file with something else in it."""
    found = json.loads(content.partition(b"\n")[2])
    body = json.dumps(found | changes).encode()
    return b"flatcal headers %08x\n%s" % (zlib.crc32(body), body)


BROKEN = {
    "empty": lambda content: b"",
    "head": lambda content: content[:20],
    "truncated": lambda content: content[: len(content) // 2],
    "all but one byte": lambda content: content[:-1],
    "one bit": lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
    "foreign": lambda content: b"\x80\x04\x95 not for us",
    "not JSON": lambda content: b"flatcal headers %08x\n{" % zlib.crc32(b"{"),
    "another version": lambda content: forge(content, about="flatcal 0.0.1"),
    "no names": lambda content: forge(content, names=[]),
    "no blocks": lambda content: forge(content, blocks=None),
    "other blocks": lambda content: forge(content, blocks=[[["A"], [700], [["d", "AAA="]]]]),
    "other columns": lambda content: forge(content, places=[["q", "?"], []]),
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_broken_cache_is_ignored_and_replaced(raw, cache, opened, damage, caplog):
    cold = rows(raw)
    content = only_file(cache).read_bytes()
    only_file(cache).write_bytes(damage(content))
    opened.clear()
    with caplog.at_level(logging.INFO):
        assert rows(raw) == cold
    assert len(opened) == 6
    assert caplog.records == []
    assert only_file(cache).read_bytes() == content


@pytest.mark.parametrize("version", ["flatcal.user_cache.__version__", "astropy.__version__"])
def test_headers_that_another_version_has_read_are_read_again(raw, opened, monkeypatch, version):
    rows(raw)
    monkeypatch.setattr(version, "0.0.1")
    opened.clear()
    rows(raw)
    assert len(opened) == 6


def test_program_without_source_files_has_a_cache(raw, opened, monkeypatch):
    for module in (header_cache.cards, header_cache.headers, header_cache.header_bytes):
        monkeypatch.setattr(module, "__file__", None)
    rows(raw)
    opened.clear()
    rows(raw)
    assert opened == []


# -- where it lies -----------------------------------------------------------------------


def test_nothing_is_written_into_the_raw_folder(raw, monkeypatch, opened):
    for inside in (raw, raw / "cache"):
        monkeypatch.setenv("FLATCAL_CACHE_DIR", str(inside))
        for _ in range(2):
            opened.clear()
            rows(raw)
            find_frames(raw, Config())
            assert len(opened) == 12
    assert sorted(path.name for path in raw.iterdir()) == [f"f{n}.fits" for n in range(6)]


def test_cache_that_cannot_be_written_is_done_without(raw, monkeypatch, opened, caplog):
    cold = rows(raw)
    monkeypatch.setenv("FLATCAL_CACHE_DIR", str(raw / "f1.fits"))
    opened.clear()
    with caplog.at_level(logging.INFO):
        assert rows(raw) == rows(raw) == cold
    assert opened.count("f2.fits") == 2
    assert caplog.records == []


def test_write_that_fails_leaves_the_old_file(raw, cache, monkeypatch, put_frame):
    rows(raw)
    content = only_file(cache).read_bytes()
    put_frame(raw / "new.fits", "flat", 1.0)

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    assert len(rows(raw)) == 8
    assert only_file(cache).read_bytes() == content


def test_two_at_once(raw, opened):
    with remembered_headers(raw) as one, remembered_headers(raw) as other:
        one(raw / "f1.fits")
        other(raw / "f2.fits")
    opened.clear()
    assert len(rows(raw)) == 7
    assert "f1.fits" not in opened or "f2.fits" not in opened
    opened.clear()
    rows(raw)
    assert opened == []


def test_oldest_folders_are_dropped(tmp_path, put_frame, cache, monkeypatch, opened):
    monkeypatch.setattr(user_cache, "MAX_FOLDERS", 5)
    folders = [tmp_path / str(number) for number in range(8)]
    for age, folder in enumerate(folders):
        put_frame(folder / "a.fits", "flat", 1.0)
        rows(folder)
        kept = sorted((cache / "headers").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(kept[-1], ns=(age, age))  # in this order, whatever the ticks of the clock
    assert len(kept) == 5
    opened.clear()
    for folder in folders[3:]:
        rows(folder)
    assert opened == []
    monkeypatch.setattr(user_cache, "MAX_BYTES", 2 * kept[0].stat().st_size)
    rows(folders[0])
    assert opened == ["a.fits"]
    assert len(list((cache / "headers").iterdir())) == 2


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.cache/flatcal"),
        ("linux", {"XDG_CACHE_HOME": "/somewhere"}, "/somewhere/flatcal"),
        ("linux", {"XDG_CACHE_HOME": "not/absolute"}, "home/.cache/flatcal"),
        ("darwin", {}, "home/Library/Caches/flatcal"),
        ("win32", {}, "home/AppData/Local/flatcal/Cache"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/flatcal/Cache"),
        ("linux", {"FLATCAL_CACHE_DIR": "/mine"}, "/mine"),
        ("linux", {"FLATCAL_CACHE_DIR": ""}, "home/.cache/flatcal"),
    ],
)
def test_place_of_the_cache(monkeypatch, platform, variables, expected):
    monkeypatch.setattr(Path, "home", lambda: Path("home"))
    monkeypatch.setattr(user_cache.sys, "platform", platform)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "FLATCAL_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert user_cache.cache_folder() == Path(expected)


def test_user_without_a_home_has_no_cache(raw, monkeypatch, opened):
    def fail() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", fail)
    monkeypatch.delenv("FLATCAL_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    rows(raw)
    opened.clear()
    rows(raw)
    assert len(opened) == 6
