"""The steps against ccdproc on random frames, and where they mean to differ."""

from __future__ import annotations

import inspect
import logging
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.modeling.models import Polynomial1D
from astropy.nddata import (
    CCDData,
    IncompatibleUncertaintiesException,
    InverseVariance,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ccdproc

from flatcal import steps
from flatcal.errors import DarkExposureError, FlatcalWarning, FrameError, SectionError, StateError
from flatcal.kernels.arithmetic import calibrate
from flatcal.overscan_model import OverscanModel
from flatcal.state import removed_steps

OWN_CARDS = {"OSCANSUB", "TRIMMED", "BIASSUB", "DARKSUB", "FLATDIV"}
GAIN = 1.6 * u.electron / u.adu
NOISE = 8.0 * u.electron

few = settings(max_examples=40, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
# Frames of one row are printed in the header's record, where the oracle got another type.
tall_shapes = st.tuples(st.integers(2, 9), st.integers(1, 9))
frame_types = st.sampled_from(["f8", "f4", "u2", ">f8", ">f4", ">u2", "i4"])
master_types = st.sampled_from(["f8", "f4", ">f4", "u2"])
uncertainty_types = st.sampled_from([None, StdDevUncertainty, VarianceUncertainty, InverseVariance])


def make(rng, shape, dtype="f8", kind=None, masked=False, level=1000.0, exposure=30.0, unit="adu"):
    """Random frame with the header of a camera."""
    values = np.abs(rng.normal(level, level / 10, shape))
    header = fits.Header({"EXPTIME": exposure, "OBJECT": "NGC 1", "GAIN": 1.6})
    return CCDData(
        values.astype(dtype),
        unit=unit,
        meta=header,
        uncertainty=None if kind is None else kind(rng.uniform(1, 9, shape)),
        mask=rng.random(shape) < 0.3 if masked else None,
    )


def state_of(ccd: CCDData) -> tuple:
    """Everything that a step must not change."""
    uncertainty = None if ccd.uncertainty is None else ccd.uncertainty.array.tobytes()
    mask = None if ccd.mask is None else ccd.mask.tobytes()
    header = ccd.meta.tostring() if isinstance(ccd.meta, fits.Header) else str(ccd.meta)
    return ccd.data.tobytes(), ccd.data.dtype, uncertainty, mask, header, ccd.unit


def assert_like(result: CCDData, oracle: CCDData) -> None:
    """Same values, uncertainty, mask, unit and header as ccdproc's result."""
    assert result.data.dtype.isnative
    tight = {"rtol": 1e-11, "atol": 1e-9} if result.data.dtype == "f8" else {}
    np.testing.assert_allclose(result.data, oracle.data, **(tight or {"rtol": 1e-5, "atol": 1e-2}))
    assert result.unit == oracle.unit
    assert (result.mask is None) == (oracle.mask is None)
    if oracle.mask is not None:
        np.testing.assert_array_equal(result.mask, oracle.mask)
    assert type(result.uncertainty) is type(oracle.uncertainty)
    if oracle.uncertainty is not None:
        np.testing.assert_allclose(
            result.uncertainty.array, oracle.uncertainty.array, rtol=1e-5 if not tight else 1e-10
        )
        assert result.uncertainty.unit == oracle.uncertainty.unit
    names = set(result.meta) - OWN_CARDS
    assert {key: str(result.meta[key]) for key in names} == {
        key: str(oracle.meta[key]) for key in oracle.meta
    }


@given(seeds, shapes, frame_types, uncertainty_types, st.booleans(), st.booleans(), st.booleans())
@few
def test_overscan_is_that_of_ccdproc(seed, shape, dtype, kind, masked, median, by_column):
    rng = np.random.default_rng(seed)
    ccd = make(rng, shape, dtype, kind, masked)
    before = state_of(ccd)
    # Masked overscan pixels do not count here, which ccdproc has otherwise.
    part = CCDData(ccd[:, shape[1] // 2 :].data, unit="adu")
    axis = 1
    if by_column:
        part, axis = CCDData(ccd[shape[0] // 2 :].data, unit="adu"), 0
    arguments = {"overscan": part, "overscan_axis": axis, "median": median}
    assert_like(
        steps.subtract_overscan(ccd, **arguments), ccdproc.subtract_overscan(ccd, **arguments)
    )
    assert state_of(ccd) == before


@given(seeds, st.sampled_from(["f8", "u2"]), st.sampled_from([None, 0, 1]))
@few
def test_overscan_model_and_section(seed, dtype, axis):
    rng = np.random.default_rng(seed)
    ccd = make(rng, (12, 9), dtype)
    section = "[1:9, 8:12]" if axis == 0 else "[6:9, 1:12]"
    arguments = {"fits_section": section, "overscan_axis": axis, "model": Polynomial1D(1)}
    result = steps.subtract_overscan(ccd, **arguments)
    oracle = ccdproc.subtract_overscan(ccd, **arguments)
    np.testing.assert_allclose(result.data, oracle.data, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("model", [Polynomial1D(1), OverscanModel("polynomial", 1)])
def test_a_model_goes_through_rows_without_a_good_overscan_pixel(model):
    level = 100 + 2.5 * np.arange(12.0)
    ccd = CCDData(np.repeat(level[:, None], 6, axis=1), unit="adu", mask=np.zeros((12, 6), bool))
    ccd.data[3, 4:] = 1e6
    ccd.mask[3, 4:] = True
    result = steps.subtract_overscan(ccd, overscan=ccd[:, 4:], model=model)
    np.testing.assert_allclose(result.data[:, :4], 0, atol=1e-9)


def test_the_model_of_a_run_leaves_outliers_out():
    level = 100 + 2.5 * np.arange(60.0)
    level[[5, 6, 40]] += 300
    ccd = CCDData(np.repeat(level[:, None], 6, axis=1), unit="adu")
    result = steps.subtract_overscan(
        ccd, fits_section="[5:6,1:60]", model=OverscanModel("legendre", 1)
    )
    good = ~np.isin(np.arange(60), [5, 6, 40])
    np.testing.assert_allclose(result.data[good], 0, atol=1e-8)


def test_masked_overscan_pixels_do_not_count():
    ccd = CCDData(np.full((3, 6), 100.0), unit="adu", mask=np.zeros((3, 6), bool))
    ccd.data[0, 5] = 1e6
    ccd.mask[0, 5] = True
    ccd.mask[2, 4:] = True
    for median in (False, True):
        result = steps.subtract_overscan(ccd, overscan=ccd[:, 4:], median=median)
        np.testing.assert_array_equal(result.data[:2, :4], 0)
        assert np.isnan(result.data[2]).all()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, TypeError),
        ({"overscan": np.ones((4, 2))}, TypeError),
        ({"fits_section": 5}, TypeError),
        ({"fits_section": "[1:9,1:4]"}, SectionError),
        ({"overscan": CCDData(np.ones((3, 2)), unit="adu")}, FrameError),
        ({"overscan": CCDData(np.ones((4, 2)), unit="s")}, u.UnitsError),
        ({"fits_section": "[1:2,1:4]", "add_keywords": False}, TypeError),
    ],
)
def test_overscan_refuses(arguments, error):
    with pytest.raises(error):
        steps.subtract_overscan(CCDData(np.ones((4, 4)), unit="adu"), **arguments)


@given(seeds, shapes, frame_types, uncertainty_types, st.booleans(), st.data())
@few
def test_trim_is_that_of_ccdproc(seed, shape, dtype, kind, masked, data):
    ccd = make(np.random.default_rng(seed), shape, dtype, kind, masked)
    before = state_of(ccd)
    x = data.draw(st.integers(1, shape[1]))
    y = data.draw(st.integers(1, shape[0]))
    section = f"[{x}:{shape[1]},{y}:{shape[0]}]"
    result = steps.trim_image(ccd, section)
    assert_like(result, ccdproc.trim_image(ccd, section))
    assert_like(steps.trim_image(ccd[y - 1 :, x - 1 :]), ccdproc.trim_image(ccd[y - 1 :, x - 1 :]))
    assert result.data.dtype == ccd.data.dtype.newbyteorder("=")
    assert not np.shares_memory(result.data, ccd.data)
    assert state_of(ccd) == before


def test_trim_keeps_the_sky_in_place_and_may_be_repeated():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [10, 20], [5, 5], [1e-3, 1e-3]
    ccd = CCDData(np.ones((9, 9)), unit="adu", wcs=wcs)
    twice = steps.trim_image(steps.trim_image(ccd, "[2:9,1:9]"), "[1:8,3:9]")
    assert list(twice.wcs.wcs.crpix) == [4, 3]
    assert list(ccd.wcs.wcs.crpix) == [5, 5]
    with pytest.raises(TypeError, match="fits_section"):
        steps.trim_image(ccd, 5)


@given(
    seeds, tall_shapes, frame_types, master_types, uncertainty_types, uncertainty_types,
    st.booleans(), st.booleans(),
)  # fmt: skip
@few
def test_bias_is_that_of_ccdproc(seed, shape, dtype, master_type, kind, own, masked, own_mask):
    rng = np.random.default_rng(seed)
    ccd = make(rng, shape, dtype, kind, masked)
    # astropy refuses to mix kinds of uncertainty.
    master = make(rng, shape, master_type, own if kind is None else kind, own_mask, level=300)
    before = state_of(ccd), state_of(master)
    oracle_of = CCDData(ccd, copy=True)
    if "u" in dtype and "u" in master_type:
        oracle_of.data = oracle_of.data.astype("f8")  # where ccdproc wraps below zero
    result = steps.subtract_bias(ccd, master)
    assert_like(result, ccdproc.subtract_bias(oracle_of, master))
    assert (state_of(ccd), state_of(master)) == before
    assert removed_steps(result.meta) == {"bias"}


@pytest.mark.parametrize(
    ("frame", "master", "expected"),
    [
        ("f4", "f8", "f4"), ("f8", "f4", "f8"), ("u2", "f4", "f4"), ("u2", "f8", "f8"),
        ("i4", "f4", "f8"), (">f4", ">f8", "f4"), (">u2", ">f4", "f4"), ("u2", "u2", "f4"),
        ("f2", "f4", "f4"), ("u1", "f4", "f4"),
    ],
)  # fmt: skip
def test_working_type(frame, master, expected):
    rng = np.random.default_rng(0)
    ccd, bias = make(rng, (3, 4), frame, level=100), make(rng, (3, 4), master, level=110)
    assert steps.subtract_bias(ccd, bias).data.dtype == np.dtype(expected)
    assert steps.flat_correct(ccd, bias).data.dtype == np.dtype(expected)


def test_unsigned_frames_do_not_wrap():
    ccd = CCDData(np.full((2, 2), 10, np.uint16), unit="adu")
    master = CCDData(np.full((2, 2), 12, np.uint16), unit="adu")
    assert (steps.subtract_bias(ccd, master).data == -2).all()


def test_units_and_shapes_are_named_in_errors():
    ccd = CCDData(np.ones((3, 4)), unit="adu")
    seconds, other = CCDData(np.ones((3, 4)), unit="s"), CCDData(np.ones((1, 4)), unit="adu")
    for call in (
        lambda master: steps.subtract_bias(ccd, master),
        lambda master: steps.subtract_dark(
            ccd, master, dark_exposure=1 * u.s, data_exposure=1 * u.s
        ),
    ):
        with pytest.raises(u.UnitsError, match=r"'adu'.*'s'"):
            call(seconds)
        with pytest.raises(ValueError, match=r"\(3, 4\).*\(1, 4\)"):
            call(other)
        with pytest.raises(TypeError, match="master"):
            call(np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(1, 4\)"):
        steps.flat_correct(ccd, other)


def test_units_of_one_kind_are_converted():
    ccd = CCDData(np.full((2, 2), 5.0), unit=u.V, uncertainty=StdDevUncertainty(np.ones((2, 2))))
    master = CCDData(
        np.full((2, 2), 500.0), unit=u.mV, uncertainty=StdDevUncertainty(np.full((2, 2), 1e3))
    )
    result = steps.subtract_bias(ccd, master)
    np.testing.assert_allclose(result.data, 4.5)
    np.testing.assert_allclose(result.uncertainty.array, np.sqrt(2))


def test_kinds_of_uncertainty_mix_and_unknown_ones_are_refused():
    plane = np.full((2, 2), 4.0)
    ccd = CCDData(plane, unit="adu", uncertainty=StdDevUncertainty(plane))
    master = CCDData(plane, unit="adu", uncertainty=VarianceUncertainty(plane))
    result = steps.subtract_bias(ccd, master)
    np.testing.assert_allclose(result.uncertainty.array, np.sqrt(20))
    unknown = CCDData(plane, unit="adu", uncertainty=UnknownUncertainty(plane))
    with pytest.raises(IncompatibleUncertaintiesException):
        steps.subtract_bias(ccd, unknown)
    assert isinstance(steps.trim_image(unknown).uncertainty, UnknownUncertainty)


@given(
    seeds, tall_shapes, frame_types, master_types, uncertainty_types, st.booleans(), st.booleans(),
    st.floats(0.5, 300),
)  # fmt: skip
@few
def test_dark_is_that_of_ccdproc(seed, shape, dtype, master_type, kind, masked, scale, exposure):
    rng = np.random.default_rng(seed)
    ccd = make(rng, shape, dtype, kind, masked, exposure=exposure)
    master = make(rng, shape, master_type, kind, level=30, exposure=90.0)
    before = state_of(ccd), state_of(master)
    oracle_of = CCDData(ccd, copy=True)
    if "u" in dtype and "u" in master_type:
        oracle_of.data = oracle_of.data.astype("f8")
    arguments = {"exposure_time": "exptime", "exposure_unit": u.s, "scale": scale}
    result = steps.subtract_dark(ccd, master, **arguments)
    assert_like(result, ccdproc.subtract_dark(oracle_of, master, **arguments))
    assert (state_of(ccd), state_of(master)) == before
    assert removed_steps(result.meta) == {"dark"}


def test_ways_to_give_the_exposure_times():
    rng = np.random.default_rng(1)
    ccd, master = make(rng, (3, 3), exposure=60.0), make(rng, (3, 3), exposure=90.0)
    by_name = steps.subtract_dark(ccd, master, None, None, "EXPTIME", u.s, True)
    keyword = steps.Keyword("exptime", unit=u.s)
    for arguments in (
        {"exposure_time": keyword},
        {"data_exposure": 1 * u.min, "dark_exposure": 90 * u.s},
    ):
        result = steps.subtract_dark(ccd, master, scale=True, **arguments)
        np.testing.assert_allclose(result.data, by_name.data, rtol=1e-14)
    assert keyword.value is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, TypeError),
        ({"exposure_time": "exptime"}, TypeError),
        ({"dark_exposure": 1 * u.s}, TypeError),
        ({"dark_exposure": 1 * u.s, "exposure_time": "exptime"}, TypeError),
        ({"dark_exposure": 1, "data_exposure": 1}, TypeError),
        ({"dark_exposure": 0 * u.s, "data_exposure": 1 * u.s, "scale": True}, FrameError),
        ({"dark_exposure": 1 * u.m, "data_exposure": 1 * u.s, "scale": True}, u.UnitsError),
        ({"exposure_time": "nothing", "exposure_unit": u.s}, FrameError),
        ({"exposure_time": "object", "exposure_unit": u.s}, FrameError),
    ],
)
def test_dark_refuses(arguments, error):
    rng = np.random.default_rng(1)
    with pytest.raises(error):
        steps.subtract_dark(make(rng, (3, 3)), make(rng, (3, 3)), **arguments)


def with_cards(ccd: CCDData, **cards) -> CCDData:
    ccd = ccd.copy()
    ccd.header.update(cards)
    return ccd


def test_state_decides_which_dark_fits():
    rng = np.random.default_rng(1)
    frame, dark = make(rng, (3, 3)), make(rng, (3, 3))
    arguments = {"exposure_time": "exptime", "exposure_unit": u.s}
    with pytest.raises(StateError) as caught:
        steps.subtract_dark(frame, with_cards(dark, BIASSUB=False), scale=True, **arguments)
    assert caught.value.slug == "dark-holds-bias"
    both = steps.subtract_dark(frame, with_cards(dark, BIASSUB=False), **arguments)
    assert removed_steps(both.meta) == {"bias", "dark"}
    with pytest.raises(StateError) as caught:
        steps.subtract_dark(
            with_cards(frame, BIASSUB=True), with_cards(dark, BIASSUB=False), **arguments
        )
    assert caught.value.slug == "state"
    without_bias = with_cards(dark, subbias="ccd=<CCDData>, master=<CCDData>")
    with pytest.warns(FlatcalWarning, match="subtract_bias before") as warned:
        result = steps.subtract_dark(frame, without_bias, scale=True, **arguments)
    assert warned[0].filename == __file__
    assert warned[0].message.slug == "bias-still-in-frame"
    np.testing.assert_allclose(result.data, frame.data - dark.data)
    steps.subtract_dark(with_cards(frame, BIASSUB=True), without_bias, scale=True, **arguments)


@pytest.mark.parametrize(
    "step",
    [
        lambda ccd: steps.subtract_overscan(ccd, fits_section="[3:4,1:4]"),
        lambda ccd: steps.subtract_bias(ccd, CCDData(np.ones((4, 4)), unit=ccd.unit)),
        lambda ccd: steps.subtract_dark(
            ccd, CCDData(np.ones((4, 4)), unit=ccd.unit),
            dark_exposure=1 * u.s, data_exposure=1 * u.s,
        ),
        lambda ccd: steps.flat_correct(ccd, CCDData(np.ones((4, 4)), unit=ccd.unit)),
        lambda ccd: steps.gain_correct(ccd, GAIN),
    ],
)  # fmt: skip
@pytest.mark.parametrize("meta", [{}, fits.Header()])
def test_no_step_is_done_twice(step, meta):
    ccd = CCDData(np.ones((4, 4)), unit="adu", meta=meta)
    done = step(ccd)
    assert len(removed_steps(done.meta)) == 1
    with pytest.raises(StateError) as caught:
        step(done)
    assert caught.value.slug == "state"


ONES = CCDData(np.ones((4, 4)), unit="adu")
SECONDS = {"dark_exposure": 1 * u.s, "data_exposure": 1 * u.s}


@pytest.mark.parametrize("meta", [{}, fits.Header()])
@pytest.mark.parametrize(
    "subtract",
    [
        steps.subtract_bias,
        lambda ccd, master: steps.subtract_dark(ccd, master, **SECONDS),
    ],
)
def test_overscan_must_be_gone_from_frame_and_master_alike(subtract, meta):
    bare = CCDData(ONES, meta=meta)
    for mine in (True, False):
        frame = with_cards(bare, OSCANSUB=mine)
        subtract(frame, with_cards(bare, OSCANSUB=mine))
        subtract(frame, bare)
        subtract(bare, frame)
        pattern = "gone.*= T.*frame.*inside.*= F" if mine else "inside.*= F.*frame.*gone.*= T"
        with pytest.raises(StateError, match=pattern) as caught:
            subtract(frame, with_cards(bare, OSCANSUB=not mine))
        assert caught.value.slug == "state"


def test_nothing_is_subtracted_after_the_flat():
    divided = with_cards(ONES, FLATDIV=True)
    for subtract in (
        lambda ccd: steps.subtract_overscan(ccd, fits_section="[3:4,1:4]"),
        lambda ccd: steps.subtract_bias(ccd, ONES),
        lambda ccd: steps.subtract_dark(ccd, ONES, **SECONDS),
    ):
        with pytest.raises(StateError, match=r"FLATDIV = T"):
            subtract(divided)
        subtract(with_cards(ONES, FLATDIV=False))
    steps.gain_correct(steps.trim_image(divided), GAIN)


def test_flat_does_not_divide_a_frame_known_to_be_raw():
    with pytest.raises(StateError, match=r"BIASSUB = F.*DARKSUB = F"):
        steps.flat_correct(with_cards(ONES, BIASSUB=False, DARKSUB=False), ONES)
    for cards in (
        {"BIASSUB": False}, {"DARKSUB": False}, {"BIASSUB": False, "DARKSUB": True},
        {"BIASSUB": True, "DARKSUB": False},
        {"OSCANSUB": True, "BIASSUB": False, "DARKSUB": False},
    ):  # fmt: skip
        steps.flat_correct(with_cards(ONES, **cards), ONES)


def test_state_in_headers_of_ccdproc_and_others():
    assert removed_steps(fits.Header()) == frozenset()
    header = fits.Header({"BIASSUB": False, "subdark": "x", "HIERARCH FLAT_CORRECT": "flatcor"})
    assert removed_steps(header) == {"dark", "flat"}
    assert removed_steps({"subbias": "x", "BIASSUB": False}) == frozenset()
    assert removed_steps({"subtract_bias": ("subbias", "short"), "subbias": "x"}) == {"bias"}
    ccd = CCDData(np.ones((4, 4)), unit="adu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_ccdproc = ccdproc.subtract_overscan(ccdproc.trim_image(ccd), fits_section="[3:4,1:4]")
    assert removed_steps(by_ccdproc.meta) == {"trim", "overscan"}


@given(
    seeds, tall_shapes, frame_types,
    st.sampled_from(["f8", "f4", ">f4", "u2"]), uncertainty_types, st.booleans(),
    st.sampled_from([None, 0.9, 950.0]), st.sampled_from([None, 800.0]),
)  # fmt: skip
@few
def test_flat_is_that_of_ccdproc(seed, shape, dtype, flat_type, kind, masked, low, norm):
    rng = np.random.default_rng(seed)
    ccd = make(rng, shape, dtype, kind, masked)
    # A masked flat has another norm; with a norm that is given they agree again.
    flat = make(rng, shape, flat_type, kind, masked and norm is not None)
    before = state_of(ccd), state_of(flat)
    result = steps.flat_correct(ccd, flat, low, norm)
    # ccdproc rounds a float32 flat to float32 again, and cuts min_value to the type of the flat.
    oracle_flat = CCDData(flat, copy=True)
    oracle_flat.data = flat.data.astype("f8")
    oracle_of = CCDData(ccd, copy=True)
    if kind is not None and "f" not in dtype:
        oracle_of.data = ccd.data.astype("f8")  # where the squares in astropy wrap
    assert_like(result, ccdproc.flat_correct(oracle_of, oracle_flat, low, norm))
    assert (state_of(ccd), state_of(flat)) == before


def test_norm_of_the_flat_is_that_of_good_pixels_only():
    flat = CCDData(np.full((4, 4), 2.0), unit="adu", mask=np.zeros((4, 4), bool))
    flat.data[0] = [1e6, np.nan, np.inf, 2.0]
    flat.mask[0, 0] = True
    frame = CCDData(np.full((4, 4), 6.0), unit="adu")
    result = steps.flat_correct(frame, flat)
    np.testing.assert_array_equal(result.data, 6.0)
    np.testing.assert_array_equal(result.mask[0], [True, True, True, False])
    assert not result.mask[1:].any()


def test_flat_pixels_not_above_zero_are_masked_and_keep_their_value():
    flat = CCDData(np.array([[2.0, 0.0], [-1.0, 2.0]]), unit="adu")
    frame = CCDData(
        np.full((2, 2), 7, np.uint16), unit="adu", uncertainty=StdDevUncertainty(np.ones((2, 2)))
    )
    result = steps.flat_correct(frame, flat, norm_value=2)
    np.testing.assert_array_equal(result.data, 7)
    np.testing.assert_array_equal(result.mask, [[False, True], [True, False]])
    np.testing.assert_array_equal(result.uncertainty.array, 1)


def test_level_of_the_flat_must_be_above_zero():
    frame = CCDData(np.ones((2, 2)), unit="adu")
    flat = CCDData(np.ones((2, 2)), unit="adu", mask=np.ones((2, 2), bool))
    for norm in (0, -1):
        with pytest.raises(ValueError, match=r"norm_value.*greater than zero"):
            steps.flat_correct(frame, flat, norm_value=norm)
    with pytest.raises(FrameError, match="mean"):
        steps.flat_correct(frame, flat)


def test_unit_of_the_norm():
    frame, flat = make(np.random.default_rng(0), (3, 3)), make(np.random.default_rng(1), (3, 3))
    for norm in (2 * u.adu, 2 * u.electron, 2 * u.dimensionless_unscaled):
        result = steps.flat_correct(frame, flat, norm_value=norm)
        oracle = ccdproc.flat_correct(frame, flat, norm_value=norm)
        assert result.unit == oracle.unit
        np.testing.assert_allclose(result.data, oracle.data)


@given(seeds, shapes, frame_types, uncertainty_types, st.booleans())
@few
def test_gain_is_that_of_ccdproc(seed, shape, dtype, kind, masked):
    ccd = make(np.random.default_rng(seed), shape, dtype, kind, masked)
    before = state_of(ccd)
    assert_like(steps.gain_correct(ccd, GAIN), ccdproc.gain_correct(ccd, GAIN))
    assert_like(
        steps.gain_correct(ccd, gain=1, gain_unit=u.electron / u.adu),
        ccdproc.gain_correct(ccd, gain=1, gain_unit=u.electron / u.adu),
    )
    assert_like(steps.gain_correct(ccd, 3.0), ccdproc.gain_correct(ccd, 3.0))
    assert state_of(ccd) == before


def test_gain_from_a_keyword():
    ccd = make(np.random.default_rng(0), (3, 3))
    result = steps.gain_correct(ccd, steps.Keyword("gain", unit=u.electron / u.adu))
    np.testing.assert_allclose(result.data, 1.6 * ccd.data)
    assert result.unit == u.electron
    for wrong in ("1.6", np.ones((3, 3)), None):
        with pytest.raises(TypeError, match="gain"):
            steps.gain_correct(ccd, wrong)


@given(seeds, shapes, frame_types, st.booleans(), st.booleans())
@few
def test_deviation_is_that_of_ccdproc(seed, shape, dtype, disregard_nan, masked):
    rng = np.random.default_rng(seed)
    ccd = make(rng, shape, dtype, None, masked)
    if "f" in dtype:
        ccd.data -= 1000
    before = state_of(ccd)
    result = steps.create_deviation(ccd, GAIN, NOISE, disregard_nan)
    assert_like(result, ccdproc.create_deviation(ccd, GAIN, NOISE, disregard_nan))
    np.testing.assert_array_equal(result.data, ccd.data)
    assert not np.shares_memory(result.data, ccd.data)
    assert state_of(ccd) == before


def test_deviation_says_when_a_pixel_is_negative(caplog):
    ccd = CCDData(np.array([[-3.0, 4.0]]), unit="adu")
    with caplog.at_level(logging.WARNING):
        steps.create_deviation(ccd, readnoise=1 * u.adu, disregard_nan=True)
        steps.create_deviation(CCDData(np.ones((1, 2)), unit="adu"), readnoise=1 * u.adu)
        assert not caplog.records
        steps.create_deviation(ccd, readnoise=1 * u.adu)
    assert "1 negative" in caplog.text
    assert caplog.records[0].name.startswith("flatcal")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, ValueError),
        ({"readnoise": 5.0}, TypeError),
        ({"readnoise": NOISE, "gain": 2.0}, TypeError),
        ({"readnoise": NOISE}, u.UnitsError),
    ],
)
def test_deviation_refuses(arguments, error):
    with pytest.raises(error):
        steps.create_deviation(CCDData(np.ones((2, 2)), unit="adu"), **arguments)


@given(seeds, st.sampled_from(["f8", "f4", ">u2"]), st.booleans(), st.booleans(), st.booleans())
@few
def test_process_is_that_of_ccdproc(seed, dtype, error, gain_first, with_gain):
    rng = np.random.default_rng(seed)
    ccd = make(rng, (8, 12), dtype, level=5000)
    ccd.data[:, 9:] = rng.integers(900, 1000, (8, 3))
    unit = u.electron if with_gain and gain_first else u.adu
    master_type = "f8" if dtype == "f8" else "f4"  # ccdproc rounds a float32 flat twice
    masters = [make(rng, (8, 9), master_type, level=level, unit=unit) for level in (300, 20, 9000)]
    arguments = {
        "oscan": ccd[:, 9:], "trim": "[1:9, 1:8]", "error": error and with_gain,
        "gain": GAIN if with_gain else None, "readnoise": NOISE,
        "bad_pixel_mask": rng.random((8, 9)) < 0.2, "gain_corrected": gain_first,
        "exposure_key": "exptime", "exposure_unit": u.s, "dark_scale": True, "min_value": 100.0,
    } | dict(zip(("master_bias", "dark_frame", "master_flat"), masters, strict=True))  # fmt: skip
    before = state_of(ccd), [state_of(master) for master in masters]
    oracle = ccdproc.ccd_process(ccd, **arguments)
    result = steps.ccd_process(ccd, **arguments)
    assert_like(result, oracle)
    assert (state_of(ccd), [state_of(master) for master in masters]) == before
    bare = steps.ccd_process(ccd, add_keyword=False, **arguments)
    assert bare.meta.tostring() == ccd.meta.tostring()


def test_process_makes_a_copy_and_unites_masks():
    mask = np.array([[True, False]])
    ccd = CCDData(np.ones((1, 2)), unit="adu", mask=mask)
    copy = steps.ccd_process(ccd)
    assert not np.shares_memory(copy.data, ccd.data)
    both = steps.ccd_process(ccd, bad_pixel_mask=np.array([[0, 1]]))
    assert both.mask.all()
    assert not ccd.mask.all()
    assert not np.shares_memory(both.data, ccd.data)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"oscan": 3}, TypeError),
        ({"trim": 3}, TypeError),
        ({"gain": 2.0}, TypeError),
        ({"master_bias": np.ones((2, 2))}, TypeError),
        ({"dark_frame": "dark.fits"}, TypeError),
        ({"master_flat": 1}, TypeError),
        ({"bad_pixel_mask": "bad"}, TypeError),
        ({"bad_pixel_mask": np.ones(3)}, FrameError),
        ({"error": True}, ValueError),
        ({"masterbias": None}, TypeError),
    ],
)
def test_process_refuses(arguments, error):
    with pytest.raises(error):
        steps.ccd_process(CCDData(np.ones((2, 2)), unit="adu"), **arguments)


NAMES = (
    "ccd_process", "create_deviation", "flat_correct", "gain_correct", "subtract_bias",
    "subtract_dark", "subtract_overscan", "trim_image",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_those_of_ccdproc(name):
    ours = list(inspect.signature(getattr(steps, name)).parameters.values())
    theirs = list(inspect.signature(getattr(ccdproc, name)).parameters.values())
    assert [(p.name, p.default, p.kind) for p in ours[:-1]] == [
        (p.name, p.default, p.kind) for p in theirs
    ]
    assert ours[-1].name == "add_keyword"
    assert ours[-1].default is True


@pytest.mark.parametrize(
    "make_argument",
    [
        lambda module: True,
        lambda module: False,
        lambda module: None,
        lambda module: "reduced",
        lambda module: {"step": "bias done", "other": 3},
        lambda module: {},
        lambda module: module.Keyword("bias", value="subtracted"),
        lambda module: {"subtract_bias": "by hand"},
    ],
)
@pytest.mark.parametrize("meta", [{}, fits.Header({"EXPTIME": 3.0})])
def test_header_records_are_those_of_ccdproc(make_argument, meta):
    ccd = CCDData(np.ones((3, 3)), unit="adu", meta=meta)
    results = [
        module.subtract_bias(ccd, master=ccd, add_keyword=make_argument(module)).meta
        for module in (steps, ccdproc)
    ]
    ours, theirs = ({key: meta[key] for key in meta} for meta in results)
    recorded = ours.pop("BIASSUB", False)
    assert recorded is bool(make_argument(steps))
    for values in (ours, theirs):
        if isinstance(values.get("subtract_bias"), tuple):
            values["subtract_bias"] = values["subtract_bias"][0]
    assert {key: str(value) for key, value in ours.items()} == {
        key: str(value) for key, value in theirs.items()
    }


def test_automatic_records_can_be_switched_off():
    ccd = CCDData(np.ones((3, 3)), unit="adu")
    with steps.conf.set_temp("auto_logging", False):
        assert not steps.subtract_bias(ccd, ccd).meta
        assert steps.subtract_bias(ccd, ccd, add_keyword="mine").meta == {
            "mine": None, "BIASSUB": True,
        }  # fmt: skip


def test_results_keep_wcs_psf_and_flags_without_sharing_them():
    wcs = WCS(naxis=2)
    plane = np.ones((3, 3))
    ccd = CCDData(plane, unit="adu", wcs=wcs, psf=plane.copy(), flags=plane.copy(), meta={"a": 1})
    result = steps.subtract_bias(ccd, CCDData(plane, unit="adu"))
    assert result.wcs is not ccd.wcs
    assert result.meta["a"] == 1
    np.testing.assert_array_equal(result.psf, ccd.psf)
    assert not np.shares_memory(result.psf, ccd.psf)
    assert not np.shares_memory(result.flags, ccd.flags)
    assert "BIASSUB" not in ccd.meta
    assert steps.subtract_bias(CCDData(plane, unit="adu"), ccd).wcs is not None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_give_the_bits_of_the_fused_kernel(dtype):
    rng = np.random.default_rng(3)
    shape = (300, 1100)
    raw = rng.integers(500, 60000, shape).astype(np.uint16)
    bias, dark = (rng.normal(level, 3, shape).astype(dtype) for level in (400, 20))
    flat = rng.normal(1, 0.1, shape).astype(dtype)
    level = rng.normal(100, 3, 300).astype(dtype)
    fused = raw.astype(dtype)
    calibrate(fused, level, bias, dark, dtype(0.375), flat)
    done = CCDData(raw if dtype is np.float32 else raw.astype(dtype), unit="adu")
    overscan = CCDData(np.repeat(level[:, None], 2, axis=1), unit="adu")
    done = steps.subtract_overscan(done, overscan=overscan, median=True)
    done = steps.subtract_bias(done, CCDData(bias, unit="adu"))
    times = {"dark_exposure": 8 * u.s, "data_exposure": 3 * u.s}
    done = steps.subtract_dark(done, CCDData(dark, unit="adu"), scale=True, **times)
    done = steps.flat_correct(done, CCDData(flat, unit="adu"), norm_value=1)
    assert done.data.dtype == dtype
    assert done.data.tobytes() == fused.tobytes()


def test_memory_mapped_and_strided_frames(tmp_path):
    path = tmp_path / "frame.fits"
    fits.PrimaryHDU(np.arange(12, dtype="f4").reshape(3, 4)).writeto(path)
    ccd = CCDData.read(path, unit="adu")
    result = steps.subtract_bias(ccd[:, 1:], ccd[:, :-1])
    np.testing.assert_array_equal(result.data, 1)
    cube = CCDData(np.ones((2, 3, 4)), unit="adu")
    assert steps.subtract_bias(cube, cube).shape == (2, 3, 4)


def image(exposure, **cards) -> CCDData:
    return CCDData(np.ones((2, 2)), unit="adu", meta={"EXPTIME": exposure} | cards)


def test_nearest_dark_of_the_guide():
    assert steps.find_nearest_dark_exposure(image(70.011), {7, 70, 300}) == 70
    assert steps.find_nearest_dark_exposure(image(1.21), [90.0], tolerance=None) == 90
    assert isinstance(steps.find_nearest_dark_exposure(image(7), np.array([7, 70])), float)
    assert steps.find_nearest_dark_exposure(image(60), [50, 70], tolerance=10) == 50


def test_nearest_dark_too_far_names_everything():
    with pytest.raises(DarkExposureError, match=r"90 s.*67 s.*23 s.*f\.fits.*tolerance 0\.5") as e:
        steps.find_nearest_dark_exposure(image(23.0, FILENAME="f.fits"), [90.0, 300.0])
    assert isinstance(e.value, RuntimeError)
    assert e.value.slug == "dark-exposure"
    with pytest.raises(DarkExposureError, match="NGC 1"):
        steps.find_nearest_dark_exposure(image(23.0, OBJECT="NGC 1"), [90.0])
    with pytest.raises(DarkExposureError, match="the image"):
        steps.find_nearest_dark_exposure(image(23.0, OBJECT=" "), [90.0])
    with pytest.raises(DarkExposureError, match="no dark"):
        steps.find_nearest_dark_exposure(image(23.0), [])


def test_nearest_dark_at_the_tolerance_itself():
    for exposure, dark, tolerance in ((1.0, 1.1, 0.1), (1.1, 1.0, 0.1), (70.2, 70.0, 0.2)):
        assert steps.find_nearest_dark_exposure(image(exposure), [dark], tolerance) == dark
    with pytest.raises(DarkExposureError, match=r"1\.101 s is 0\.101 s from the 1 s"):
        steps.find_nearest_dark_exposure(image(1.0), [1.101], 0.1)


@pytest.mark.parametrize("wrong", ["23", None, float("nan"), -1.0, True])
def test_exposure_that_is_not_a_number(wrong):
    with pytest.raises(FrameError) as caught:
        steps.find_nearest_dark_exposure(image(wrong), [23.0])
    assert caught.value.slug == "exposure-not-a-number"
    with pytest.raises(FrameError):
        steps.find_nearest_dark_exposure(image(23.0), [wrong])


def test_exposure_that_is_missing():
    with pytest.raises(FrameError) as caught:
        steps.find_nearest_dark_exposure(CCDData(np.ones(3), unit="adu"), [23.0])
    assert caught.value.slug == "exposure-missing"


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"name": "k"}, None),
        ({"name": "k", "value": "text"}, "text"),
        ({"name": "k", "value": 3, "unit": u.s}, 3 * u.s),
        ({"name": "k", "value": 3 * u.s}, 3 * u.s),
    ],
)
def test_keyword(arguments, value):
    ours, theirs = steps.Keyword(**arguments), ccdproc.Keyword(**arguments)
    assert ours.value == theirs.value == value
    assert ours.unit == theirs.unit
    assert ours.name in repr(ours)
    if ours.unit is not None:
        assert ours.value_from({"k": 5.0}) == theirs.value_from({"k": 5.0}) == ours.value


def test_keyword_refuses():
    with pytest.raises(ValueError, match="unit"):
        steps.Keyword("k", value=3)
    with pytest.raises(ValueError, match="unit"):
        steps.Keyword("k", unit=u.s, value="text")
