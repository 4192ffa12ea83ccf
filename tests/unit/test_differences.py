"""Who is right where flatcal and ccdproc 2.5.1 differ: both against numbers worked out by hand.

Rows of docs/differences.md that are about numbers. What only flatcal refuses, with what message,
is in test_steps.py, test_combine.py and test_collection.py.
"""

from __future__ import annotations

import logging
import warnings

import ccdproc
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty

import flatcal

pytestmark = pytest.mark.filterwarnings("ignore:divide by zero|invalid value:RuntimeWarning")


def image(values, dtype=float, **options):
    return CCDData(np.atleast_2d(np.array(values, dtype)), unit="adu", **options)


def check(call, truth, theirs):
    """Ours is the truth; theirs is what is said of it, and not the truth."""
    truth, theirs = np.atleast_2d(truth), np.atleast_2d(theirs)
    np.testing.assert_allclose(call(flatcal), truth, rtol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = np.ma.filled(np.ma.asarray(call(ccdproc), float), np.nan)
    np.testing.assert_allclose(found, theirs, rtol=1e-6)
    assert not np.allclose(theirs, truth, equal_nan=True)


# -- steps -------------------------------------------------------------------------------


def test_unsigned_integers_do_not_wrap():
    frame, bias = image([10], np.uint16), image([12], np.uint16)
    check(lambda m: m.subtract_bias(frame, bias).data, -2, 65534)


def test_uncertainty_of_an_integer_frame_over_a_flat():
    """1000 over 1 +- 0.01 is 1000 +- 10."""
    frame = image([1000, 1000], np.uint16, uncertainty=StdDevUncertainty(np.zeros((1, 2))))
    flat = image([1.0, 1.0], uncertainty=StdDevUncertainty(np.full((1, 2), 0.01)))
    wrapped = 0.01 * np.sqrt(1000**2 % 65536)
    check(lambda m: m.flat_correct(frame, flat).uncertainty.array, [10, 10], [wrapped, wrapped])


def test_a_masked_overscan_pixel_does_not_count():
    mask = np.array([[False, False, True, False]])
    frame = image([50, 10, 1000, 10], mask=mask)
    check(
        lambda m: m.subtract_overscan(frame, overscan=frame[:, 1:]).data[:, :1], 40, 50 - 1020 / 3
    )


def test_the_norm_of_a_flat_is_that_of_its_good_pixels():
    flat = image([2, 2, 998], mask=np.array([[False, False, True]]))
    frame = image([6, 6, 6])
    check(lambda m: m.flat_correct(frame, flat).data[:, :2], [6, 6], [1002, 1002])


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
def test_what_a_flat_cannot_correct_is_known_as_such(bad):
    flat, frame = image([2, bad, 2]), image([6, 7, 6])

    def result(module):
        with np.errstate(all="ignore"):
            return module.flat_correct(frame, flat, norm_value=2)

    ours, theirs = result(flatcal), result(ccdproc)
    np.testing.assert_array_equal(ours.mask, [[False, True, False]])
    np.testing.assert_array_equal(ours.data, [[6, 7, 6]])
    assert theirs.mask is None or not np.any(theirs.mask)
    assert not 0 < theirs.data[0, 1] < np.inf


def test_min_value_of_an_integer_flat():
    """0 becomes 0.5, and the mean of 0.5, 1 and 1 is 0.8333."""
    flat, frame = image([0, 1, 1], np.int32), image([6, 6, 6])
    check(
        lambda m: m.flat_correct(frame, flat, min_value=0.5).data[:, 1:],
        [5, 5],
        [4, 4],
    )


def test_a_pixel_that_was_bad_stays_bad():
    frame = image([1, 1], mask=np.array([[True, False]]))
    masks = {
        module: module.ccd_process(frame, bad_pixel_mask=np.array([[False, True]])).mask.tolist()
        for module in (flatcal, ccdproc)
    }
    assert masks == {flatcal: [[True, True]], ccdproc: [[False, True]]}


def test_a_dark_that_holds_its_bias_is_not_scaled():
    """Bias 1000, 2 ADU/s: the dark of 60 s has 1120, the frame of 30 s has 60 of current."""
    meta = {"exptime": 60.0, "BIASSUB": False}
    dark = image([1120], meta=meta)
    frame = image([560], meta={"exptime": 30.0, "BIASSUB": True})  # 500 of light
    times = {"exposure_time": "exptime", "exposure_unit": u.s, "scale": True}
    with pytest.raises(flatcal.FlatcalError) as caught:
        flatcal.subtract_dark(frame, dark, **times)
    assert caught.value.slug == "dark-holds-bias"
    assert ccdproc.subtract_dark(frame, dark, **times).data[0, 0] == 0


def test_a_second_bias_is_refused():
    frame, bias = image([1500.0]), image([1000.0])
    once = flatcal.subtract_bias(frame, bias)
    with pytest.raises(flatcal.FlatcalError) as caught:
        flatcal.subtract_bias(once, bias)
    assert caught.value.slug == "state"
    twice = ccdproc.subtract_bias(ccdproc.subtract_bias(frame, bias), bias)
    assert twice.data[0, 0] == -500


def test_a_frame_and_a_master_of_one_row_do_not_fit():
    frame, bias = image([[5.0, 5.0], [5.0, 5.0]]), image([1.0, 1.0])
    with pytest.raises(flatcal.FlatcalError):
        flatcal.subtract_bias(frame, bias)
    assert ccdproc.subtract_bias(frame, bias).shape == (2, 2)


def test_the_deviation_warns_of_negative_pixels_alone(caplog):
    options = {"gain": 1 * u.electron / u.adu, "readnoise": 5 * u.electron}
    with caplog.at_level(logging.WARNING):
        flatcal.create_deviation(image([10.0]), **options)
        assert not caplog.records
        ccdproc.create_deviation(image([10.0]), **options)
        assert caplog.records


# -- combining ---------------------------------------------------------------------------


def combined(module, values, masks=None, **options):
    masks = masks or [None] * len(values)
    frames = [
        image([value], mask=None if mask is None else np.array([[mask]]))
        for value, mask in zip(values, masks, strict=True)
    ]
    return np.ma.masked_array(*_planes(module.combine(frames, **options)))


def _planes(result):
    return result.data, False if result.mask is None else result.mask


def test_a_flat_twice_as_bright_as_the_others_is_no_outlier():
    """Nine of about 100 and one of 208, brought to 1: the bright one has 1.04, and counts."""
    values = [100.0, 101.0, 99.0, 100.5, 99.5, 100.2, 99.8, 100.1, 99.9, 208.0]
    options = {"scale": [0.01] * 9 + [0.005], "sigma_clip": True, "sigma_clip_func": np.ma.median}
    options |= {"sigma_clip_dev_func": "mad_std", "sigma_clip_high_thresh": 10}
    of_nine = np.mean(values[:9]) / 100
    check(lambda m: combined(m, values, **options), (9 * of_nine + 1.04) / 10, of_nine)


def test_an_outlier_in_the_faintest_flat_is_found():
    """Ten flats that fall from 40,000 to 22,000 ADU; the last is 3 x too bright in the pixel."""
    levels = np.linspace(40_000, 22_000, 10)
    values = levels * (1 + 0.002 * np.cos(np.arange(10)))
    values[-1] *= 3
    options = {"scale": (1 / levels).tolist(), "sigma_clip": True, "sigma_clip_func": np.ma.median}
    options |= {"sigma_clip_low_thresh": 5, "sigma_clip_high_thresh": 5}
    options["sigma_clip_dev_func"] = "mad_std"
    assert combined(flatcal, values, **options)[0, 0] == pytest.approx(1, abs=0.001)
    assert combined(ccdproc, values, **options)[0, 0] == pytest.approx(1.196, abs=0.01)


def test_weights_of_masked_pixels_do_not_count():
    masks, weights = [False, True, True], np.ones(3)
    check(lambda m: combined(m, [1.0, 1.0, 1.0], masks, weights=weights), 1, 1 / 3)


def test_extremes_are_those_of_good_pixels():
    """900 is bad; of 1, 2, 3, 40 the lowest and the highest go, and 2.5 is left."""
    values, masks = [1.0, 2.0, 3.0, 40.0, 900.0], [False] * 4 + [True]
    check(lambda m: combined(m, values, masks, clip_extrema=True), 2.5, np.mean([2, 3, 40]))


def test_a_bad_pixel_has_no_say_in_clipping():
    values, masks = [10, 11, 12, 11, 900, 1e6], [False] * 5 + [True]
    options = {"sigma_clip": True, "sigma_clip_low_thresh": 1.5, "sigma_clip_high_thresh": 1.5}
    options |= {"sigma_clip_func": np.ma.median, "sigma_clip_dev_func": np.ma.std}
    ours = combined(flatcal, values, masks, **options)
    assert ours[0, 0] == 11
    assert combined(ccdproc, values, masks, **options)[0, 0] != 11


def test_absolute_limits_come_before_all_else():
    """60,000 is saturated; of 100, 101 and 103 the extremes go."""
    options = {"clip_extrema": True, "minmax_clip": True, "minmax_clip_max": 50_000}
    check(lambda m: combined(m, [100.0, 101.0, 103.0, 60_000.0], **options), 101, 102)


def test_a_misspelt_keyword_is_not_swallowed():
    with pytest.raises(TypeError, match="sigma_clip_dev_func"):
        combined(flatcal, [1.0, 2.0], signma_clip_dev_func=np.ma.std)
    assert combined(ccdproc, [1.0, 2.0], signma_clip_dev_func=np.ma.std)[0, 0] == 1.5


def test_the_header_of_a_master_is_not_that_of_its_first_frame():
    frames = [image([1.0], meta=fits.Header({"EXPTIME": t, "FILTER": "V"})) for t in (1.0, 3.0)]
    assert flatcal.combine(frames).header["EXPTIME"] == 2
    assert ccdproc.combine(frames).header["EXPTIME"] == 1
