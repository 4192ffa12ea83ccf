"""Sections: text to slices and back."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ccdproc.utils.slices import slice_from_string

from flatcal.errors import SectionError
from flatcal.section import format_section, parse_section, read_header_section


@st.composite
def sections(draw):
    rows, columns = draw(st.integers(1, 5000)), draw(st.integers(1, 5000))
    y1, x1 = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    y2, x2 = draw(st.integers(y1, rows)), draw(st.integers(x1, columns))
    return (rows, columns), f"[{x1}:{x2},{y1}:{y2}]"


@given(sections())
@settings(max_examples=200, derandomize=True)
def test_round_trip_and_ccdproc(case):
    shape, text = case
    section = parse_section(text, shape)
    assert format_section(section) == text
    assert section == slice_from_string(text, fits_convention=True)
    assert parse_section(text.replace(":", " : ").replace(",", " ,\t"), shape) == section


def test_x_comes_first_and_both_ends_count():
    image = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(image[parse_section("[2:3,1:1]", image.shape)], [[1, 2]])


@pytest.mark.parametrize("whole", ["*", ":"])
def test_whole_axes(whole):
    assert parse_section(f"[{whole},{whole}]", (3, 4)) == (slice(0, 3), slice(0, 4))
    assert parse_section(f"[2:4,{whole}]", (3, 4)) == (slice(0, 3), slice(1, 4))


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "[1:2]", "1:2,1:2", "[1:2,1:2", "[a:b,1:2]", "[1:2,1:2,1:2]", "[-1:2,1:2]",
        "[1.0:2,1:2]", "[0:2,1:2]", "[1:5,1:2]", "[1:2,1:4]", "[3:2,1:2]", "[1:2,3:1]", "[-*,*]",
    ],
)  # fmt: skip
def test_what_is_no_section_of_the_image(text):
    with pytest.raises(SectionError) as caught:
        parse_section(text, (3, 4))
    assert caught.value.slug == "bad-section"
    assert repr(text) in str(caught.value)


# -- sections as cameras write them: images have 10 rows and 12 columns -------------------------


@given(sections())
@settings(max_examples=100, derandomize=True)
def test_a_valid_section_of_a_header_is_read_as_it_stands(case):
    shape, text = case
    assert read_header_section(text, shape) == (parse_section(text, shape), "")


@given(sections())
@settings(max_examples=100, derandomize=True)
def test_a_section_that_runs_backwards_is_the_same_pixels(case):
    shape, text = case
    section = parse_section(text, shape)
    (y, x), rows = section, shape[0]
    backwards = f"[{x.stop}:{x.start + 1},{y.stop}:{y.start + 1}]"
    read = read_header_section(backwards, shape)
    assert read.section == section
    assert ("backwards" in read.remark) == (backwards != text)
    assert rows == shape[0]


@pytest.mark.parametrize(
    ("text", "read", "why"),
    [
        ("[   4:  13,   1: 10]", "[4:12,1:10]", "one pixel outside"),
        ("[1:8, :]", "[1:8,1:10]", ""),
        ("[12:9,1:10]", "[9:12,1:10]", "backwards"),
        ("[9:13,1:10]", "[9:12,1:10]", "one pixel outside"),
        ("[1:8,1:11]", "[1:8,1:10]", "one pixel outside"),
        # A whole axis shows how it is counted: 0 to 9 are ten rows, and so are 0 to 10 in Python.
        ("[0:7,0:9]", "[1:8,1:10]", "counts from 0"),
        ("[8:11,0:9]", "[9:12,1:10]", "counts from 0"),
        ("[0:8,0:10]", "[1:8,1:10]", "counts from 0"),
        ("[8:12,0:10]", "[9:12,1:10]", "counts from 0"),
        ("[7:0,9:0]", "[1:8,1:10]", "backwards and counts from 0"),
    ],
)
def test_odd_sections_that_are_clear(text, read, why):
    section, remark = read_header_section(text, (10, 12))
    assert format_section(section) == read
    assert why in remark
    assert bool(why) == bool(remark)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("UNKNOWN", "'UNKNOWN' names no section"),
        ("N/A", "names no section"),
        ("", "names no section"),
        ("[]", "names no section"),
        ("0", "names no section"),
        ("[4096:4109]", "'[4096:4109]' has one axis only"),
        ("[*]", "one axis only"),
        ("[1:8,1:10", "not of the form"),
        ("[1:8:2,1:10]", "not of the form"),
        ("[a:b,1:10]", "not of the form"),
        ("[1:8,1:99999999999]", "not of the form"),
        # Ten rows of twelve columns: columns 0 to 7 may be 1 to 8 or 1 to 7.
        ("[0:7,1:10]", "not clear"),
        ("[0:0,0:0]", "holds no pixel"),
        ("[1:14,1:10]", "'[1:14,1:10]' asks for columns 1 to 14 of an image with 12"),
        ("[13:13,1:10]", "asks for columns 13 to 13"),
        ("[14:13,1:10]", "asks for columns 14 to 13"),
    ],
)
def test_sections_that_are_not_clear_are_named(text, why):
    with pytest.raises(SectionError) as caught:
        read_header_section(text, (10, 12))
    assert caught.value.slug == "bad-section"
    assert why in str(caught.value)
