"""The added time of a simulated iris: measured, and taken out of short exposures."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.nddata import CCDData, StdDevUncertainty

import flatcal
from flatcal.errors import FrameError, StateError

GAIN, READ_NOISE = 1.5, 6.0
SHAPE = (160, 200)
SHORT_S, LONG_S = 0.5, 20.0


@pytest.fixture(scope="module")
def added_s():
    """An iris: the middle is open for 40 ms more than asked for, the corners for 5 ms less."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    distance = np.hypot(y - 80, x - 100) / np.hypot(80, 100)
    return 0.040 - 0.045 * distance**2


def expose(rng, rate, exposure_s, added_s):
    electrons = rng.poisson(rate * (exposure_s + added_s) * GAIN)
    adu = (electrons + rng.normal(0, READ_NOISE, SHAPE)) / GAIN
    std = np.sqrt(np.maximum(adu, 0) / GAIN + (READ_NOISE / GAIN) ** 2)
    return CCDData(adu, unit="adu", uncertainty=StdDevUncertainty(std))


@pytest.fixture(scope="module")
def flats(added_s):
    """A lamp that 0.5 s fill to some thousand ADU, and 20 s of it behind a filter of 5 %."""
    rng = np.random.default_rng(31)
    y, _ = np.mgrid[: SHAPE[0], : SHAPE[1]]
    rate = (2000 - 3 * y) * rng.normal(1, 0.01, SHAPE)
    short = [expose(rng, rate, SHORT_S, added_s) for _ in range(12)]
    long = [expose(rng, rate, LONG_S, added_s) for _ in range(4)]
    return short, long


def measure(flats, **options):
    times = {"short_exposure_time_s": SHORT_S, "long_exposure_time_s": LONG_S}
    return flatcal.measure_shutter(*flats, **times | options)


def test_the_map_is_that_of_the_iris(flats, added_s):
    """To its own error, which is less than half a millisecond."""
    found = measure(flats)
    inside = (slice(10, -10), slice(10, -10))
    off = (found.added_time_s - added_s)[inside]
    # The average over a box of so curved a map is off by a tenth of a millisecond.
    assert np.all(np.abs(off) < 5 * found.error_s[inside] + 0.0001)
    pulls = (off / found.error_s[inside])[::16, ::16]  # 108 boxes that share no pixel
    assert pulls.std() == pytest.approx(1, abs=0.25)
    assert found.error_s[inside].max() < 0.0005


def test_a_corrected_frame_has_what_its_exposure_time_gives(flats, added_s):
    """Of 0.2 s the shutter added a fifth in the middle; what is left is the error of the map."""
    found = measure(flats)
    rate = 50_000.0
    frame = CCDData(
        rate * (0.2 + added_s), unit="adu", uncertainty=StdDevUncertainty(0.2 + added_s),
        mask=np.arange(SHAPE[1]) == 3 * np.ones(SHAPE, int),
    )  # fmt: skip
    assert np.ptp(frame.data) > 0.15 * rate * 0.2
    corrected = flatcal.correct_shutter(frame, found, 0.2)
    inside = (slice(10, -10), slice(10, -10))
    left = np.abs(corrected.data[inside] / (rate * 0.2) - 1)
    assert np.all(left < (5 * found.error_s[inside] + 0.0001) / 0.19)
    np.testing.assert_allclose(
        corrected.uncertainty.array / corrected.data, frame.uncertainty.array / frame.data
    )
    np.testing.assert_array_equal(corrected.mask, frame.mask)
    assert corrected.unit == frame.unit
    with pytest.raises(StateError, match="already"):
        flatcal.correct_shutter(corrected, found, 0.2)


def test_masked_pixels_do_not_count(flats, added_s):
    short, long = flats
    spoilt = [flat.copy() for flat in short]
    for flat in spoilt:
        flat.data[40:60, 50:80] = 60_000
        flat.data[100, 100] = np.nan
        flat.mask = flat.data == 60_000
    found = measure((spoilt, long), box_pixels=8)
    unknown = np.isnan(found.added_time_s)
    assert unknown[50, 65]
    assert not unknown[100, 100]
    inside = np.zeros(SHAPE, bool)
    inside[10:-10, 10:-10] = True
    known = inside & ~unknown
    assert np.count_nonzero(known) > 20_000
    # At the edge of the mask a box holds few pixels, whose scatter is known badly.
    off = np.abs(found.added_time_s - added_s)[known]
    assert np.mean(off > 5 * found.error_s[known] + 0.0001) < 1e-3
    corrected = flatcal.correct_shutter(short[0], found, SHORT_S)
    np.testing.assert_array_equal(corrected.mask, unknown)


def test_what_cannot_be_measured_is_refused(flats):
    short, long = flats
    small = [CCDData(np.ones((4, 4)), unit="adu")] * 2
    dark = [CCDData(np.zeros(SHAPE), unit="adu")] * 2
    for bad, options, told in (
        ((short, long), {"long_exposure_time_s": 1.0}, "too much alike"),
        ((short[:1], long), {}, "1 short flats"),
        ((short, small), {}, r"\(4, 4\)"),
        ((dark, dark), {}, "no pixel"),
    ):
        with pytest.raises(FrameError, match=told) as caught:
            measure(bad, **options)
        assert caught.value.slug == "shutter"
    found = measure(flats)
    with pytest.raises(FrameError, match="cannot be corrected"):
        flatcal.correct_shutter(short[0], found, 0.001)
    with pytest.raises(FrameError, match=r"\(4, 4\)"):
        flatcal.correct_shutter(small[0], found, 1.0)
