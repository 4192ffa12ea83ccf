"""Names of outputs: never the same twice, safe in any file system, never out of their folder."""

import re
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flatcal.naming import distinct, numbered, output_names, slug, stem

# What a file system may hold as a name: anything but '/' and NUL.
NAME = st.text(
    st.one_of(
        st.sampled_from("aAbB01-_. :*?\\\"<>|'+\n\t"),
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]),
    ),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in (".", ".."))
SUFFIX = st.sampled_from([".fits", ".FIT", ".fts", ".fits.fz", ".fits.gz"])
FILE = st.builds(
    lambda folders, name, suffix: "/".join([*folders, name + suffix]),
    st.lists(NAME, max_size=2),
    NAME,
    SUFFIX,
)
FILES = st.lists(FILE, min_size=1, max_size=8, unique=True)
TEXT = st.text(max_size=12)


def assert_safe(name):
    """One part of a path on any system, that neither hides nor means a device or folder."""
    assert PurePosixPath(name).parts == (name,)
    assert PureWindowsPath(name).parts == (name,)
    assert not re.search(r'[<>:"/\\|?*\x00-\x1f]', name)
    assert not name.startswith((".", " "))
    assert not name.endswith((".", " "))
    assert len(name.encode()) <= 255


def assert_distinct(names):
    """Also where a file system does not tell capitals."""
    assert len({name.casefold() for name in names}) == len(names)


@given(FILES, st.sampled_from(["flat", "science"]))
@example(["a/x.fits", "b/x.fits", "a-x.fits"], "flat")
@example(["flat-x.fits", "x.fits"], "flat")
@example(["R.fits", "r.fits"], "flat")
@example(["x.fits", "x.fit", "x_2.fits", "x.fits.fz"], "flat")
@example(["a:b.fits", "a\\b.fits"], "science")
@example(["n" * 250 + ".fits", "n" * 250 + ".fit"], "science")
@example(["x/..fits", "y/...fits"], "flat")
def test_outputs_have_names_of_their_own_that_are_safe(files, prefix):
    names = output_names(files, prefix)
    assert len(names) == len(files)
    assert_distinct(names)
    for name in names:
        assert_safe(name)
        assert name.startswith(f"{prefix}-")
        assert name.endswith(".fits")


@given(FILES, st.randoms())
def test_the_name_of_an_output_is_the_stem_where_that_is_enough(files, random):
    """So that the name does not depend on what else lies in the folder."""
    stems = [re.sub(r"(?i)\.(fits?|fts)(\.(fz|gz))?$", "", file.split("/")[-1]) for file in files]
    plain = [s for s in stems if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", s)]
    names = output_names(files, "science")
    for one, name in zip(stems, names, strict=True):
        if one in plain and len({s.casefold() for s in stems}) == len(stems):
            assert name == f"science-{one}.fits"


def test_names_in_words():
    assert output_names(["n1/flat-001.fit", "n1/ccd.002.0.fits"], "flat") == [
        "flat-001.fits",
        "flat-ccd.002.0.fits",
    ]
    assert output_names(["a/x.fits", "b/x.fits"], "science") == [
        "science-a-x.fits",
        "science-b-x.fits",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("g'", "gp"), ("r", "r"), ("", "none"), ("  ", "none"), ("H alpha", "H-alpha"), ("../x", "x")]
    + [("sdss_g", "sdss-g"), ("Clear/None", "Clear-None"), ("[OIII]", "OIII"), ("λ", "none")],
)
def test_slugs(text, expected):
    assert slug(text) == expected


@given(st.one_of(TEXT, NAME))
def test_a_slug_is_safe(text):
    assert re.fullmatch(r"[A-Za-z0-9+][A-Za-z0-9.+-]*", slug(text))
    assert_safe(slug(text))


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("x.fits", "x"),
        ("a/b/x.y.fit", "x.y"),
        ("x.FITS.gz", "x"),
        ("x.fits.fz", "x"),
        ("x.fits.fits", "x.fits"),
        ("x.fts", "x"),
        ("x.gz", "x.gz"),
    ],
)
def test_stems(file, expected):
    assert stem(file) == expected


BASES = st.sampled_from(["master_flat_r", "master_flat_R", "master_flat_g", "master_flat_r_2"])
DETAILS = st.tuples(st.sampled_from(["", "-10C", "-5C"]), st.sampled_from(["bin1x1", "bin2x2"]))


@given(st.lists(st.tuples(BASES, DETAILS), max_size=8))
@example([("master_flat_r", ("", "bin1x1")), ("master_flat_R", ("", "bin1x1"))])
@example([("master_flat_r", ("", "bin1x1")), ("master_flat_r", ("-10C", "bin1x1"))])
def test_masters_have_names_of_their_own(masters):
    names = distinct([base for base, _ in masters], [details for _, details in masters])
    assert_distinct(names)
    for name, (base, _) in zip(names, masters, strict=True):
        assert name.startswith(base)
        assert not name.endswith("_")
        assert "__" not in name


def test_masters_have_only_the_details_that_tell_them_apart():
    bases = ["dark_60s", "dark_60s", "dark_90s"]
    details = [("-10C", "bin1x1"), ("-5C", "bin1x1"), ("-5C", "bin1x1")]
    assert distinct(bases, details) == ["dark_60s_-10C", "dark_60s_-5C", "dark_90s"]
    details = [("-5C", "bin1x1"), ("-5C", "bin2x2"), ("-5C", "bin1x1")]
    assert distinct(bases, details) == ["dark_60s_bin1x1", "dark_60s_bin2x2", "dark_90s"]


def test_no_names_are_distinct():
    assert distinct([], []) == []


@given(st.lists(st.sampled_from(["a", "A", "a_2", "a_3", "b", "a_2_2"]), max_size=10))
def test_numbered_names_differ_and_the_first_of_each_keeps_its_own(names):
    result = numbered(names)
    assert_distinct(result)
    seen = set()
    for name, new in zip(names, result, strict=True):
        if name.casefold() not in seen:
            assert new == name
        else:
            assert re.fullmatch(re.escape(name) + r"_\d+", new)
        seen.add(name.casefold())
