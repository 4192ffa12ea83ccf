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
from flatcal.section import format_section, parse_section


@st.composite
def sections(draw):
    rows, columns = draw(st.integers(1, 5000)), draw(st.integers(1, 5000))
    y1, x1 = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    y2, x2 = draw(st.integers(y1, rows)), draw(st.integers(x1, columns))
    return (rows, columns), f"[{x1}:{x2},{y1}:{y2}]"


@given(sections())
@settings(deadline=None, max_examples=200, derandomize=True)
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
