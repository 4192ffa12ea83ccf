"""Fast header reading against astropy's, on made-up cards and on real files."""

from __future__ import annotations

import bz2
import gzip
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from flatcal.errors import FrameError
from flatcal.headers import BLOCK, HeaderCards, is_fits, read_header_cards, scan_hdus

REAL = Path(os.environ.get("FLATCAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))

KEYWORDS = st.text("ABCXYZ019_-", min_size=1, max_size=8).filter(
    lambda k: k not in ("END", "COMMENT", "HISTORY", "CONTINUE")
)
PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
NUMBERS = st.from_regex(r"\A[+-]?[0-9]{0,4}\.?[0-9]{0,4}([EDed][+-]?[0-9]{1,2})?\Z")
VALUES = st.one_of(
    st.text(PRINTABLE, max_size=60).map(lambda s: "'" + s.replace("'", "''") + "'"),
    st.text(PRINTABLE, max_size=60).map(lambda s: "'" + s + "'"),
    st.text("'/ :.a1", max_size=30),
    st.sampled_from(["T", "F", "TF", "", "6,4E-05", "(1.0, -2.5)", "- 5", "1 234", "'AXIS.1: 2'"]),
    st.integers().map(str),
    NUMBERS,
)
CARDS = st.builds(
    "{:<8}{}{}{:>{}}{}".format,
    KEYWORDS,
    st.sampled_from(["= ", "=", "  "]),
    st.sampled_from(["", " "]),
    VALUES,
    st.sampled_from([1, 20]),
    st.one_of(st.just(""), st.text(PRINTABLE, max_size=20).map(" / {}".format)),
)
ODD_CARDS = st.one_of(
    st.text(PRINTABLE, min_size=1, max_size=80),
    KEYWORDS.map(str.lower).map("{:<8}= 5".format),
    st.sampled_from(
        [
            "HIERARCH ESO DET NAME = 'chip' / comment",
            "HIERARCH eso gain=1.5",
            "COMMENT = 'not a value'",
            "HISTORY",
            "",
            "AB= /   = 5",
        ]
    ),
)


def as_header(cards: list[str]) -> bytes:
    images = [f"{card:<80}"[:80] for card in ["SIMPLE  =                    T", *cards, "END"]]
    text = "".join(images)
    return (text + " " * (-len(text) % BLOCK)).encode("ascii")


def astropy_cards(header: fits.Header) -> list[tuple[str, object]]:
    """Keywords and values by astropy; an unparsable value is the text before the comment."""
    cards = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for card in header.cards:
            keyword = card.keyword.upper()
            try:
                value = card.value
            except fits.VerifyError:
                value = card._image[10:].split("/", 1)[0].strip()
            cards.append((keyword, None if isinstance(value, fits.card.Undefined) else value))
    return cards


def is_end(card: str) -> bool:
    return card.startswith("END") and not card[3:4].isalnum() and card[3:4] not in ("_", "-")


@given(cards=st.lists(CARDS | ODD_CARDS, max_size=40).filter(lambda c: not any(map(is_end, c))))
def test_values_equal_astropys_for_any_cards(cards, tmp_path_factory):
    header = as_header(cards)
    path = tmp_path_factory.getbasetemp() / "cards.fits"
    path.write_bytes(header)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = fits.Header.fromstring(header)
    assert list(read_header_cards(path).cards) == astropy_cards(parsed)


def test_values_keep_their_types(tmp_path):
    cards = ["A       =                    1", "B       = 1.0", "C       = T", "D       = 1D3"]
    (tmp_path / "f.fits").write_bytes(as_header(cards))
    found = read_header_cards(tmp_path / "f.fits")
    assert [type(found[k]) for k in "ABCD"] == [int, float, bool, float]


def test_continued_strings_are_joined(tmp_path):
    header = fits.Header([("LONG", "it's " * 40, "a comment"), ("AFTER", 1)])
    fits.PrimaryHDU(header=header).writeto(tmp_path / "f.fits")
    found = read_header_cards(tmp_path / "f.fits")
    assert found["LONG"] == ("it's " * 40).rstrip()
    assert found["after"] == 1


def test_decimal_comma_keeps_its_text(tmp_path):
    card = "EXPTIME =              6,4E-05 / Exposure time"
    (tmp_path / "f.fits").write_bytes(as_header([card]))
    assert read_header_cards(tmp_path / "f.fits")["EXPTIME"] == "6,4E-05"


def test_text_that_is_not_ascii_is_marked(tmp_path):
    header = as_header(["OBSERVER= 'Zoe'"]).replace(b"Zoe", b"Zo\xeb")
    (tmp_path / "f.fits").write_bytes(header)
    assert read_header_cards(tmp_path / "f.fits")["OBSERVER"] == "Zo?"


def test_first_of_repeated_keywords_and_all_comments():
    header = HeaderCards([("A", 1), ("COMMENT", "x"), ("A", 2), ("COMMENT", "y"), ("", "")])
    assert dict(header) == {"A": 1, "COMMENT": "x\ny"}
    assert header.cards[2] == ("A", 2)
    assert "a" in header
    assert header.get("B") is None
    assert repr(header) == "HeaderCards({'A': 1, 'COMMENT': 'x\\ny'})"


@pytest.fixture
def frame(tmp_path) -> Path:
    path = tmp_path / "frame.fits"
    header = fits.Header({"EXPTIME": 7.0})
    header.extend([(f"KEY{i}", i) for i in range(200)])
    image = fits.ImageHDU(np.ones((10, 20), np.float32), name="second")
    fits.HDUList([fits.PrimaryHDU(np.zeros((30, 40), np.uint16), header), image]).writeto(path)
    return path


def zip_file(path: Path, opener, suffix: str) -> Path:
    zipped = path.with_name(path.name + suffix)
    with opener(zipped, "wb") as stream:
        stream.write(path.read_bytes())
    return zipped


@pytest.mark.parametrize("opener", [open, gzip.open, bz2.open])
def test_scan_gives_place_and_size_of_data(frame, opener):
    path = zip_file(frame, opener, ".x")
    first, second = scan_hdus(path)
    assert (first.index, second.index) == (0, 1)
    assert first.cards["EXPTIME"] == 7.0
    assert (first.data_bytes, first.stored_bytes) == (30 * 40 * 2, 30 * 40 * 2)
    assert (second.data_bytes, second.stored_bytes) == (10 * 20 * 4, 10 * 20 * 4)
    assert not second.compressed
    with fits.open(frame) as hdus:
        assert [hdu.fileinfo()["datLoc"] for hdu in hdus] == [first.data_offset, second.data_offset]


@pytest.mark.parametrize("opener", [open, gzip.open])
def test_scan_shows_cut_data(frame, opener):
    info = scan_hdus(frame)[0]
    frame.write_bytes(frame.read_bytes()[: info.data_offset + 1000])
    (cut,) = scan_hdus(zip_file(frame, opener, ".x"))
    assert (cut.data_bytes, cut.stored_bytes) == (2400, 1000)


def test_extension_by_number_and_name(frame):
    assert read_header_cards(frame, 1)["NAXIS1"] == 20
    assert read_header_cards(frame, "Second")["NAXIS1"] == 20
    with pytest.raises(FrameError, match="no extension 2"):
        read_header_cards(frame, 2)


def test_compressed_image_has_the_header_of_the_image(tmp_path):
    path = tmp_path / "f.fits.fz"
    fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.CompImageHDU(np.zeros((64, 32), np.int16), fits.Header({"EXPTIME": 3.0})),
        ]
    ).writeto(path)
    info = scan_hdus(path)[1]
    assert info.compressed
    assert (info.cards["NAXIS1"], info.cards["EXPTIME"]) == (32, 3.0)
    assert info.stored_bytes == info.data_bytes


def write_compressed(path: Path, data: np.ndarray, cards: list, **options) -> Path:
    image = fits.CompImageHDU(data, fits.Header(cards), **options)
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path)
    return path


NOISE = np.random.default_rng(1).normal(100, 5, (30, 20, 10))
CARDS_OF_ALL_KINDS = [
    *[("EXPTIME", 3.0, "s"), ("LONG", "it's " * 40), ("COMMENT", "x"), ("OBJECT", "M 1")],
    *[("TILT", 5), ("ZENITH", 30.0), ("TUNITS", "m"), ("HISTORY", "a"), ("HISTORY", "b")],
]


@pytest.mark.parametrize(
    ("data", "cards", "options"),
    [
        (NOISE[0].astype("i2"), CARDS_OF_ALL_KINDS, {}),
        (NOISE[0].astype("u2"), CARDS_OF_ALL_KINDS, {"name": "SCI"}),
        (NOISE.astype("i2"), [("BLANK", -1), ("", ""), ("", "")], {}),
        (np.where(NOISE > 110, np.nan, NOISE), [("EXTEND", True)], {"quantize_method": 1}),
        (NOISE[0].astype("u1"), [], {"compression_type": "PLIO_1"}),
    ],
)
@pytest.mark.parametrize("stored", [{}, {"ZSIMPLE": True, "ZEXTEND": True, "ZBLOCKED": True}])
@pytest.mark.parametrize("sums", [{}, {"ZHECKSUM": "abc", "ZDATASUM": "5", "ZPCOUNT": 0}])
def test_header_of_a_compressed_image_is_astropys(data, cards, options, stored, sums, tmp_path):
    path = write_compressed(tmp_path / "f.fits.fz", data, cards, **options)
    with fits.open(path, disable_image_compression=True) as hdus:
        hdus[1].header.update(stored | sums)
        hdus.writeto(tmp_path / "g.fits.fz", checksum=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = astropy_cards(fits.getheader(tmp_path / "g.fits.fz", 1))
    assert list(scan_hdus(tmp_path / "g.fits.fz")[1].cards.cards) == expected


def damage(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new.ljust(len(old))))


def test_odd_card_of_a_compressed_image_holds_its_text(tmp_path):
    path = write_compressed(tmp_path / "f.fits.fz", NOISE[0].astype("i2"), [("EXPTIME", 3.0)])
    damage(path, b"EXPTIME =                  3.0", b"EXPTIME = 6,4E-05")
    assert scan_hdus(path)[1].cards["EXPTIME"] == "6,4E-05"


@pytest.mark.parametrize(
    ("card", "new", "reason"),
    [
        ("ZBITPIX =                   16", "ZBITPIX = 17", "ZBITPIX is 17"),
        ("ZBITPIX =                   16", "ZZ      = 16", "ZBITPIX is None"),
        ("ZNAXIS  =                    2", "ZNAXIS  = 6,4", "ZNAXIS is '6,4'"),
        ("ZNAXIS1 =                   10", "ZNAXISX = 10", "ZNAXIS1 is None"),
        ("ZNAXIS2 =                   20", "ZNAXIS2 = -20", "ZNAXIS2 is -20"),
        ("TFIELDS =                    1", "TFIELDS = 6,4", "TFIELDS is '6,4'"),
        ("TTYPE1  = 'COMPRESSED_DATA'", "TTYPE1  = 6,4", None),
        ("TFORM1  = '1PB", "TFORM1  = '(6,", None),
    ],
)
def test_damaged_compressed_image_is_named_or_read(card, new, reason, tmp_path):
    path = write_compressed(tmp_path / "f.fits.fz", NOISE[0].astype("i2"), [("EXPTIME", 3.0)])
    damage(path, card.encode(), new.encode())
    if reason is None:
        assert scan_hdus(path)[1].cards["EXPTIME"] == 3.0
        return
    with pytest.raises(FrameError, match=rf"{reason} in .*f\.fits\.fz") as error:
        scan_hdus(path)
    assert error.value.slug == "file-broken"


def test_is_fits_by_content(frame, tmp_path):
    (tmp_path / "notes.fits").write_text("SIMPLE notes about the night")
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b and then nothing sensible")
    assert is_fits(frame)
    assert is_fits(zip_file(frame, gzip.open, ".dat"))
    assert not is_fits(tmp_path / "notes.fits")
    assert not is_fits(tmp_path / "broken.gz")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a FITS file"),
        (b"hello", "not a FITS file"),
        (as_header([])[:80], "no END card"),
        (as_header([f"K{i}      = 1" for i in range(100)])[:2880], "no END card"),
        (b"SIMPLE  =" + b" " * 80 * 37_000, "no END card"),
        (b"\x1f\x8b and then nothing sensible", "cannot be unzipped"),
        (gzip.compress(as_header([]), mtime=0)[:-20], "cannot be unzipped"),
    ],
)
def test_broken_headers_are_refused(content, reason, tmp_path):
    (tmp_path / "f.fits").write_bytes(content)
    with pytest.raises(FrameError, match=reason) as error:
        read_header_cards(tmp_path / "f.fits")
    assert error.value.slug == "file-broken"


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        (["BITPIX  = 16"], "NAXIS is None"),
        (["BITPIX  = 16", "NAXIS   = -1"], "NAXIS is -1"),
        (["BITPIX  = 16", "NAXIS   = 'two'"], "NAXIS is 'two'"),
        (["BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 5"], "NAXIS2 is None"),
        (["BITPIX  = 16", "NAXIS   = 99999999999", "NAXIS1  = 5"], "NAXIS2 is None"),
        (["BITPIX  = 16", "NAXIS   = 1", "NAXIS1  = -5"], "NAXIS1 is -5"),
        (["BITPIX  = 17", "NAXIS   = 0"], "BITPIX is 17"),
        (["BITPIX  = 16", "NAXIS   = 1", f"NAXIS1  = {10**30}"], "announces"),
    ],
)
def test_senseless_sizes_are_refused(cards, reason, tmp_path):
    (tmp_path / "f.fits").write_bytes(as_header(cards))
    with pytest.raises(FrameError, match=reason):
        scan_hdus(tmp_path / "f.fits")


def test_huge_size_neither_loops_nor_allocates(tmp_path):
    cards = ["BITPIX  = 8", "NAXIS   = 1", f"NAXIS1  = {10**17}"]
    (tmp_path / "f.fits").write_bytes(as_header(cards))
    (info,) = scan_hdus(tmp_path / "f.fits")
    assert (info.data_bytes, info.stored_bytes) == (10**17, 0)
    (tmp_path / "f.fits.gz").write_bytes(gzip.compress(as_header(cards)))
    with pytest.raises(FrameError, match="unzip it first"):
        scan_hdus(tmp_path / "f.fits.gz")


def test_random_groups_are_measured(tmp_path):
    cards = ["BITPIX  = -32", "NAXIS   = 3", "NAXIS1  = 0", "NAXIS2  = 4", "NAXIS3  = 5"]
    cards += ["GROUPS  = T", "PCOUNT  = 6", "GCOUNT  = 7"]
    (tmp_path / "f.fits").write_bytes(as_header(cards))
    assert scan_hdus(tmp_path / "f.fits")[0].data_bytes == 4 * 7 * (6 + 4 * 5)


def test_bytes_after_the_last_unit_are_ignored(frame):
    frame.write_bytes(frame.read_bytes() + b"\0" * BLOCK)
    assert len(scan_hdus(frame)) == 2


def test_second_header_that_is_cut_is_refused(frame):
    second = scan_hdus(frame)[1]
    frame.write_bytes(frame.read_bytes()[: second.data_offset - BLOCK + 160])
    with pytest.raises(FrameError, match="no END card"):
        scan_hdus(frame)


def real_files() -> list[Path]:
    return [p for p in sorted(REAL.rglob("*")) if p.is_file() and p.suffix != ".md"]


@pytest.mark.skipif(not real_files(), reason=f"no real frames in {REAL}; set FLATCAL_DATA")
def test_values_equal_astropys_for_real_files():
    for path in real_files():
        for hdu in scan_hdus(path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a truncated file is among them
                header = fits.getheader(path, hdu.index)
            assert list(hdu.cards.cards) == astropy_cards(header), path
