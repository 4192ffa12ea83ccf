"""The file collection against ccdproc's on the same folders, and where it means to differ."""

from __future__ import annotations

import gzip
import logging
import os
import warnings
from pathlib import Path

import ccdproc
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st

from flatcal.collection import ImageFileCollection, _as_array
from flatcal.errors import FlatcalWarning

REAL = Path(os.environ.get("FLATCAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
REAL_FOLDERS = ("nickel", "hard/mef", "hard/spaced-biassec", "hard/string-exptime", "hard/two-amps")


def write(path: Path, **cards) -> Path:
    hdu = fits.PrimaryHDU(np.arange(12, dtype=np.uint16).reshape(3, 4))
    for keyword, value in cards.items():
        hdu.header[keyword.replace("_", "-")] = value
    hdu.writeto(path)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small night: missing keywords, undefined and mixed values, comments, odd names."""
    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw / "b1.fits", imagetyp="bias", exptime=0.0, ccd_temp=-25.1, gain=1)
    write(raw / "d1.fit", imagetyp="Dark", exptime=90.0, combined=True, comment="one")
    write(raw / "f2.fits", imagetyp="FLATFIELD", exptime=7.0, filter="r.", object="", gain="high")
    write(raw / "f1.fts", imagetyp="flatfield", exptime=70.011, filter="g'", observer=None)
    path = write(raw / "s1.fits", imagetyp="science", exptime=90.0, combined=False, filter="r.")
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["HIERARCH eso det name"] = "chip"
        hdus[0].header.add_comment("two")
        hdus[0].header.add_history("three")
        hdus[0].header.add_comment("four")
    (raw / "z.fits.gz").write_bytes(gzip.compress((raw / "b1.fits").read_bytes()))
    (raw / "notes.txt").write_text("clouds")
    return raw


def ccdproc_collection(*args, **kwargs) -> ccdproc.ImageFileCollection:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # repeated keywords
        return ccdproc.ImageFileCollection(*args, **kwargs)


def assert_same_table(ours, theirs):
    assert ours.colnames == theirs.colnames
    assert ours.masked == theirs.masked
    for name in ours.colnames:
        assert ours[name].dtype == theirs[name].dtype, name
        assert ours[name].mask.tolist() == theirs[name].mask.tolist(), name
        assert ours[name].tolist() == theirs[name].tolist(), name


ARGUMENTS = [
    {},
    {"keywords": "*"},
    {"keywords": ["exptime", "imagetyp", "exptime"]},
    {"keywords": ["IMAGETYP", "nosuch", "Filter"]},
    {"keywords": ["*", "IMAGETYP"]},
    {"keywords": ["file", "comment", "history", "observer"]},
    {"keywords": []},
    {"glob_include": "f*"},
    {"glob_exclude": "*.fits"},
    {"glob_include": "*1*", "glob_exclude": "[bd]*"},
    {"filenames": ["s1.fits", "b1.fits"]},
    {"filenames": "s1.fits"},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("kind", [str, Path])
def test_summary_equals_ccdprocs(folder, kind, arguments):
    ours = ImageFileCollection(kind(folder), **arguments)
    theirs = ccdproc_collection(kind(folder), **arguments)
    assert ours.files == ([theirs.files] if isinstance(theirs.files, str) else theirs.files)
    if arguments != {"keywords": []}:
        assert_same_table(ours.summary, theirs.summary)
        assert ours.keywords == theirs.keywords
        assert repr(ours) == repr(theirs)


@pytest.mark.usefixtures("all_settled")
@pytest.mark.parametrize("arguments", ARGUMENTS[:6] + ARGUMENTS[7:], ids=str)
def test_remembered_summary_equals_ccdprocs(folder, arguments):
    write(folder / "s2.fits", imagetyp="science", exptime=90, history="x", nothing=None)
    ImageFileCollection(folder)  # remembers all headers
    ours, theirs = ImageFileCollection(folder, **arguments), ccdproc_collection(folder, **arguments)
    assert_same_table(ours.summary, theirs.summary)
    ours.keywords = theirs.keywords = ["gain", "EXPTIME", "nothing"]
    assert_same_table(ours.summary, theirs.summary)


@pytest.mark.usefixtures("all_settled")
def test_values_of_all_types_are_remembered(tmp_path):
    """Headers with the same keywords, of which whole columns are remembered."""
    for number in range(4):
        mixed = (1, 1.5, "text", True)[number]
        cards = {"text": f"no. {number}", "real": number / 3, "whole": -number, "truth": number > 1}
        cards |= {"same": "s", "none": None, "mixed": mixed, "large": 2**70, "larger": 2**64 - 1}
        write(tmp_path / f"{number}.fits", comment=f"c{number}", **cards)
    for _ in range(2):
        ours, theirs = ImageFileCollection(tmp_path), ccdproc_collection(tmp_path)
        assert_same_table(ours.summary, theirs.summary)
        ours.summary["real"][0] = 5.0  # the table is the user's own
        assert ours.values("real")[0] == 5.0


VALUES = st.one_of(
    *[st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers()],
    st.text(st.characters(min_codepoint=32, max_codepoint=126)),
)


@given(st.lists(VALUES, min_size=1) | VALUES.map(lambda value: [value] * 9))
def test_columns_have_the_types_that_a_table_gives_them(values):
    expected = Table({"a": values}, masked=True)["a"]
    found = _as_array(values)
    assert found.dtype == expected.dtype
    assert repr(found.tolist()) == repr(expected.tolist())


def test_summary_without_location(folder):
    names = [str(folder / "s1.fits"), str(folder / "f1.fts")]
    assert_same_table(
        ImageFileCollection(filenames=names).summary, ccdproc_collection(filenames=names).summary
    )


@pytest.mark.parametrize("name", REAL_FOLDERS)
def test_summary_equals_ccdprocs_on_real_frames(name):
    if not (REAL / name).is_dir():
        pytest.skip(f"no real frames in {REAL / name}; set FLATCAL_DATA")
    assert_same_table(
        ImageFileCollection(REAL / name).summary, ccdproc_collection(REAL / name).summary
    )


def test_tile_compressed_real_frame():
    name = REAL / "hard" / "rice"
    if not name.is_dir():
        pytest.skip(f"no real frames in {name}; set FLATCAL_DATA")
    ours, theirs = ImageFileCollection(name, ext=1), ccdproc_collection(name, ext=1)
    assert_same_table(ours.summary, theirs.summary)
    assert repr(ours) == repr(theirs)
    (one,), (other,) = list(ours.data()), list(theirs.data())
    np.testing.assert_array_equal(one, other)


FILTERS = [
    {},
    {"imagetyp": "flatfield"},
    {"imagetyp": "FLATFIELD", "exptime": 7},
    {"IMAGETYP": "dark", "combined": True},
    {"combined": 1},
    {"combined": None},
    {"filter": "*"},
    {"filter": "r."},
    {"filter": "r"},
    {"filter": ""},
    {"object": ""},
    {"imagetyp": "bias|dark", "regex_match": True},
    {"imagetyp": "^F", "regex_match": True, "filter": "'"},
    {"gain": 1},
    {"gain": "HIGH"},
    {"exptime": "7.0"},
    {"nosuch": 5},
    {"nosuch": None},
    {"file": "f1.fts"},
    {"eso det name": "chip"},
]


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
@pytest.mark.parametrize("keywords", ["*", ["imagetyp"]])
def test_files_filtered_equals_ccdprocs(folder, keywords, wanted):
    ours = ImageFileCollection(folder, keywords=keywords)
    theirs = ccdproc_collection(folder, keywords=keywords)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy, on comparing text with numbers
        expected = theirs.files_filtered(**wanted)
        paths = theirs.files_filtered(include_path=True, **wanted)
    found = ours.files_filtered(**wanted)
    assert isinstance(found, np.ndarray)
    assert found.tolist() == expected.tolist()
    assert ours.files_filtered(include_path=True, **wanted) == paths
    assert not ours.summary["file"].mask.any()


def test_values(folder):
    files = ImageFileCollection(folder)
    theirs = ccdproc_collection(folder)
    assert files.values("imagetyp") == theirs.values("imagetyp")
    assert set(files.values("filter", unique=True)) == {"r.", "g'", None}
    with pytest.raises(ValueError, match="keyword nosuch is not in the current summary"):
        files.values("nosuch")


def test_setting_keywords(folder):
    ours, theirs = ImageFileCollection(folder), ccdproc_collection(folder)
    for keywords in (["exptime", "imagetyp"], ["imagetyp"], ["gain", "FILTER"], "*"):
        ours.keywords = keywords
        theirs.keywords = keywords
        assert_same_table(ours.summary, theirs.summary)
    del ours.keywords
    assert ours.summary is None
    assert ours.keywords == []
    assert list(ours.files_filtered(imagetyp="bias")) == []
    assert list(ours.headers()) == []
    ours.keywords = None
    assert ours.summary is None
    with pytest.raises(ValueError, match="not in the current summary"):
        ours.values("file")
    ours.keywords = "exptime"
    assert ours.keywords == ["file", "exptime"]


def test_sort(folder):
    ours, theirs = ImageFileCollection(folder), ccdproc_collection(folder)
    for keys in ("exptime", ["imagetyp", "exptime"]):
        ours.sort(keys)
        theirs.sort(keys)
        assert ours.files == theirs.files
        assert_same_table(ours.summary, theirs.summary)
    assert [h["EXPTIME"] for h in ours.headers(exptime=90.0)] == [90.0, 90.0]
    assert ours.files_filtered(nosuch=None).tolist() == ours.files


def test_filter_and_refresh(folder):
    files = ImageFileCollection(folder, keywords=["imagetyp"])
    flats = files.filter(imagetyp="flat", regex_match=True)
    theirs = ccdproc_collection(folder, keywords=["imagetyp"])
    assert_same_table(flats.summary, theirs.filter(imagetyp="flat", regex_match=True).summary)
    write(folder / "f3.fits", imagetyp="flatfield")
    files.refresh()
    assert files.files_filtered(imagetyp="flatfield").tolist() == ["f1.fts", "f2.fits", "f3.fits"]


def test_empty_folder_is_filled_later(tmp_path):
    with pytest.warns(FlatcalWarning, match="no FITS files") as caught:
        files = ImageFileCollection(tmp_path, keywords=["exptime"])
    assert caught[0].filename == __file__
    assert files.summary is None
    assert files.keywords == []
    assert list(files.files_filtered(exptime=1)) == []
    files.sort("file")
    write(tmp_path / "a.fits", exptime=1.0)
    files.refresh()
    assert files.values("exptime") == [1.0]


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        ImageFileCollection(tmp_path / "nowhere")


def test_headers_hdus_data(folder):
    ours, theirs = ImageFileCollection(folder), ccdproc_collection(folder)
    for (header, name), (expected, other) in zip(
        ours.headers(return_fname=True), theirs.headers(return_fname=True), strict=True
    ):
        assert (header, name) == (expected, other)
    for hdu, other in zip(ours.hdus(), theirs.hdus(), strict=True):
        assert type(hdu) is type(other)
        np.testing.assert_array_equal(hdu.data, other.data)
    raw = list(ours.data(do_not_scale_image_data=True, imagetyp="dark"))
    np.testing.assert_array_equal(raw, np.arange(12).reshape(1, 3, 4) - 32768)
    assert [d.dtype for d in ours.data(imagetyp="science")] == [np.uint16]


def test_masked_rows_are_left_out_of_unfiltered_loops(folder):
    files = ImageFileCollection(folder)
    files.summary["file"].mask = [name != "s1.fits" for name in files.files]
    assert [h["IMAGETYP"] for h in files.headers()] == ["science"]


@pytest.mark.parametrize("method", ["headers", "hdus", "data"])
def test_saving(folder, tmp_path, method):
    (tmp_path / "out").mkdir()
    (tmp_path / "out2").mkdir()
    options = {"save_with_name": "_new", "imagetyp": "flatfield"}
    for item in getattr(ImageFileCollection(folder), method)(
        save_location=tmp_path / "out", **options
    ):
        change(item)
    for item in getattr(ccdproc_collection(folder), method)(
        save_location=str(tmp_path / "out2"), **options
    ):
        change(item)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["f1_new.fts", "f2_new.fits"]
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()


def change(item) -> None:
    if isinstance(item, np.ndarray):
        item += 1
    elif isinstance(item, fits.Header):
        item["NEW"] = "card"
    else:
        item.data[0] = 5


def test_overwriting(folder):
    files = ImageFileCollection(folder)
    for header in files.headers(overwrite=True, imagetyp="bias"):
        header["NEW"] = "card"
    assert fits.getval(folder / "b1.fits", "NEW") == "card"
    with pytest.raises(OSError, match="already exists"):
        list(files.headers(save_location=folder, save_with_name="", imagetyp="bias")) + list(
            files.hdus(save_location=make_occupied(folder), imagetyp="bias")
        )


def make_occupied(folder: Path) -> Path:
    other = folder.parent / "occupied"
    other.mkdir()
    (other / "b1.fits").write_bytes(b"mine")
    return other


def test_ccds_and_their_units(tmp_path):
    write(tmp_path / "a.fits")
    write(tmp_path / "b.fits", bunit="ADU")
    write(tmp_path / "c.fits", bunit="electron")
    write(tmp_path / "d.fits", bunit="")
    primary = fits.PrimaryHDU(header=fits.Header({"EXPTIME": 7.0}))
    extension = fits.ImageHDU(np.ones((3, 4)), fits.Header({"BUNIT": "electron"}))
    fits.HDUList([primary, extension]).writeto(tmp_path / "e.fits")
    files = ImageFileCollection(tmp_path)
    found = {name: ccd for ccd, name in files.ccds(return_fname=True)}
    assert all(isinstance(ccd, CCDData) for ccd in found.values())
    units = [str(ccd.unit) for ccd in found.values()]
    assert units == ["adu", "adu", "electron", "adu", "electron"]
    assert [str(c.unit) for c in files.ccds({"unit": "electron"}, file="a.fits")] == ["electron"]
    np.testing.assert_array_equal(found["a.fits"].data, np.arange(12).reshape(3, 4))


@pytest.mark.parametrize(
    "option",
    [{"overwrite": True}, {"save_location": "x"}, {"save_with_name": "x"}],
)
def test_ccds_do_not_save(folder, option):
    files = ImageFileCollection(folder)
    with pytest.raises(NotImplementedError, match=next(iter(option))):
        files.ccds(**option)
    nothing = {key: type(value)() for key, value in option.items()}
    assert len(list(files.ccds(imagetyp="bias", file="b1.fits", **nothing))) == 1


# Where the collection means to differ from ccdproc's:


def test_upper_case_names_and_folders_with_fits_names(folder):
    write(folder / "L2.00000001.FLAT.FIT", imagetyp="flatfield")
    (folder / "old.fits").mkdir()
    write(folder / "benefits", imagetyp="flatfield")
    files = ImageFileCollection(folder)
    assert "L2.00000001.FLAT.FIT" in files.files_filtered(imagetyp="flatfield")
    assert not {"old.fits", "benefits"} & set(files.files)


def test_files_are_found_by_content(folder):
    (folder / "z.fits.gz").rename(folder / "night.dat")
    (folder / "b1.fits").rename(folder / "no-suffix")
    (folder / "note.fits").write_text("not FITS")
    (folder / "subfolder").mkdir()
    files = ImageFileCollection(folder, find_fits_by_reading=True)
    assert files.files == ["d1.fit", "f1.fts", "f2.fits", "night.dat", "no-suffix", "s1.fits"]
    assert [ccd.shape for ccd in files.ccds(imagetyp="bias")] == [(3, 4), (3, 4)]


def test_file_that_vanishes_while_looking_is_reported(folder):
    (folder / "dangling.fits").symlink_to(folder / "nowhere")
    files = ImageFileCollection(folder, filenames=["dangling.fits", "b1.fits"])
    assert [name for name, _ in files.unreadable] == ["dangling.fits"]
    assert files.summary["file"].tolist() == ["b1.fits"]


def test_unreadable_file_is_named(folder, caplog):
    (folder / "broken.fits").write_bytes(b"SIMPLE  =" + b" " * 100)
    with caplog.at_level(logging.WARNING):
        files = ImageFileCollection(folder)
    assert "broken.fits" in caplog.text
    ((name, reason),) = files.unreadable
    assert name == "broken.fits"
    assert "no END card" in reason
    assert name in files.files
    assert name not in files.summary["file"]
    files.sort("exptime")
    assert files.files == [*files.summary["file"], name]
    files.refresh()
    assert files.files == sorted(files.files)
    only = ImageFileCollection(folder, filenames=["broken.fits"])
    assert only.summary is None


@pytest.mark.parametrize("name", ["\x1b[31mred.fits", "two\nlines.fits", "\udcff.fits"])
def test_what_is_logged_of_an_unreadable_file_is_one_clean_line(folder, caplog, name):
    (folder / name).write_bytes(b"no FITS")
    with caplog.at_level(logging.WARNING):
        files = ImageFileCollection(folder, filenames=[name])
    assert [file for file, _ in files.unreadable] == [name]
    (record,) = caplog.records
    assert record.getMessage().isprintable()


def test_repeated_and_broken_cards(tmp_path):
    path = write(tmp_path / "a.fits", exptime=1.0, file="in the header")
    content = path.read_bytes().replace(
        b"EXPTIME =                  1.0", b"EXPTIME =              6,4E-05"
    )
    end = content.index(b"END" + b" " * 77)
    content = content[:end] + b"EXPTIME =                    5".ljust(80) + content[end:-80]
    path.write_bytes(content)
    files = ImageFileCollection(tmp_path)
    assert files.values("exptime") == ["6,4E-05"]
    assert files.values("file") == ["a.fits"]


def test_damaged_compressed_file_is_unreadable_and_an_odd_card_is_text(tmp_path):
    for name in ("a.fits.fz", "b.fits.fz"):
        header = fits.Header({"EXPTIME": 3.0})
        image = fits.CompImageHDU(np.zeros((64, 32), np.int16), header)
        fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / name)
    content = (tmp_path / "a.fits.fz").read_bytes()
    odd = content.replace(b"EXPTIME =                  3.0", b"EXPTIME =              6,4E-05")
    (tmp_path / "a.fits.fz").write_bytes(odd)
    (tmp_path / "b.fits.fz").write_bytes(content.replace(b"ZNAXIS2 =", b"ZNAXISX ="))
    files = ImageFileCollection(tmp_path, ext=1)
    assert files.values("exptime") == ["6,4E-05"]
    assert [name for name, _ in files.unreadable] == ["b.fits.fz"]


def test_files_of_other_folders(folder, tmp_path):
    other = write(tmp_path / "b1.fits", imagetyp="flatfield")
    files = ImageFileCollection(folder, filenames=[folder / "b1.fits", other])
    assert files.values("file") == ["b1.fits", str(other)]
    assert [h["IMAGETYP"] for h in files.headers()] == ["bias", "flatfield"]


def test_filter_keeps_the_extension(tmp_path):
    extension = fits.ImageHDU(np.ones((3, 4)), fits.Header({"EXPTIME": 7.0}), name="sci")
    fits.HDUList([fits.PrimaryHDU(), extension]).writeto(tmp_path / "e.fits")
    files = ImageFileCollection(tmp_path, ext="sci")
    assert files.filter(exptime=7.0).values("exptime") == [7.0]
    assert [d.shape for d in files.data()] == [(3, 4)]
    assert [h.name for h in files.hdus()] == ["SCI"]
