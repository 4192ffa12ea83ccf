"""The kernels against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatcal.flags import Flag
from flatcal.kernels import arithmetic, stats
from flatcal.kernels.combine import (
    MAD_TO_STD,
    combine_clipped,
    combine_median,
)
from flatcal.kernels.sorting import BLOCK, sort_frames, sorting_network
from flatcal.kernels.stats import median_of_good
from flatcal.projection import median_room

NO_FLAGS = np.empty((0, 0), np.uint8)

few = settings(max_examples=60, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
float_types = st.sampled_from([np.float32, np.float64])


def random_stack(seed, n_frames, n_pixels, dtype, tied, missing):
    rng = np.random.default_rng(seed)
    stack = rng.normal(1000, 10, (n_frames, n_pixels))
    stack[rng.random(stack.shape) < 0.05] += 500
    if tied:
        stack = np.round(stack / 10) * 10
    if missing:
        stack[rng.random(stack.shape) < 0.3] = np.nan
        stack[rng.random(stack.shape) < 0.1] = rng.choice([np.inf, -np.inf])
    return stack.astype(dtype)


def middle(values):
    """Median as the kernel rounds it."""
    values, half = np.sort(values), values.dtype.type(0.5)
    return half * values[(len(values) - 1) // 2] + half * values[len(values) // 2]


def clipped_reference(column, low, high, least):
    """Average, standard error and count of one pixel."""
    good = column[np.isfinite(column)]
    if not good.size:
        return np.nan, np.nan, 0
    center = middle(good)
    std = max(column.dtype.type(MAD_TO_STD) * middle(np.abs(good - center)), least)
    if np.isfinite(low):
        good = good[good >= center - column.dtype.type(low) * std]
    if np.isfinite(high):
        good = good[good <= center + column.dtype.type(high) * std]
    good = good.astype(np.float64)
    if not good.size:
        return np.nan, np.nan, 0
    error = good.std(ddof=1) / np.sqrt(good.size) if good.size > 1 else np.nan
    return good.mean(), error, good.size


@given(
    seeds, st.integers(1, 25), st.integers(1, 9), float_types, st.booleans(), st.booleans(),
    st.sampled_from([0.5, 2.0, 5.0, np.inf]), st.sampled_from([0.0, 3.0, np.inf]), st.booleans(),
    st.sampled_from([0.0, 7.0]),
)  # fmt: skip
@few
def test_combine_clipped(seed, n_frames, n_pixels, dtype, tied, missing, low, high, scaled, least):
    stack = random_stack(seed, n_frames, n_pixels, dtype, tied, missing)
    before = stack.copy()
    scales = np.linspace(0.5, 2, n_frames).astype(dtype) if scaled else np.ones(n_frames, dtype)
    average, error = np.empty(n_pixels, dtype), np.empty(n_pixels, dtype)
    n_used = np.empty(n_pixels, np.int32)
    n_rejected = np.zeros(n_frames, np.int64)
    combine_clipped(
        stack, NO_FLAGS, scales, np.empty((0, 2), dtype), dtype(0),
        dtype(low), dtype(high), dtype(least), average, error, n_used, n_rejected,
    )  # fmt: skip
    assert n_rejected.sum() == np.isfinite(stack).sum() - n_used.sum()
    expected = [clipped_reference(column, low, high, least) for column in (stack.T * scales)]
    np.testing.assert_array_equal(n_used, [count for _, _, count in expected])
    tolerance = {"rtol": 1e-6 if dtype is np.float32 else 1e-12}
    np.testing.assert_allclose(average, [mean for mean, _, _ in expected], **tolerance)
    np.testing.assert_allclose(
        error, [std for _, std, _ in expected], rtol=1e-5 if dtype is np.float32 else 1e-10,
        atol=1e-9,
    )  # fmt: skip
    np.testing.assert_array_equal(stack, before)


@given(seeds, st.integers(1, 25), st.integers(1, 9), float_types, st.booleans(), st.booleans())
@few
def test_combine_median(seed, n_frames, n_pixels, dtype, tied, missing):
    stack = random_stack(seed, n_frames, n_pixels, dtype, tied, missing)
    median, error = np.empty(n_pixels, dtype), np.empty(n_pixels, dtype)
    n_used = np.empty(n_pixels, np.int32)
    combine_median(stack, NO_FLAGS, np.ones(n_frames, dtype), median, error, n_used)
    for column, m, e, n in zip(stack.T, median, error, n_used, strict=True):
        good = column[np.isfinite(column)]
        assert n == good.size
        if n == 0:
            assert np.isnan(m)
            assert np.isnan(e)
        else:
            assert m == middle(good)
            expected = MAD_TO_STD * middle(np.abs(good - m)) / np.sqrt(n)
            np.testing.assert_allclose(e, expected, rtol=1e-6)


def test_stacks_longer_than_a_block():
    stack = random_stack(1, 7, 2 * BLOCK + 13, np.float32, False, True)
    average, error = np.empty((2, stack.shape[1]), np.float32)
    n_used = np.empty(stack.shape[1], np.int32)
    infinite = np.float32(np.inf)
    combine_clipped(
        stack, NO_FLAGS, np.ones(7, "f4"), np.empty((0, 2), "f4"), np.float32(0),
        infinite, infinite, np.float32(0), average, error, n_used, np.zeros(7, np.int64),
    )  # fmt: skip
    good = np.isfinite(stack)
    expected = np.where(good, stack, 0).sum(axis=0, dtype="f8") / np.maximum(good.sum(axis=0), 1)
    np.testing.assert_allclose(average[n_used > 0], expected[n_used > 0], rtol=1e-6)
    np.testing.assert_array_equal(n_used, good.sum(axis=0))


@given(seeds, st.integers(1, 25), st.booleans())
@few
def test_network_sorts_any_number_of_frames(seed, n_frames, tied):
    block = np.random.default_rng(seed).integers(0, 4 if tied else 10**6, (n_frames, 5))
    values = block.astype(np.float32)
    expected, block = np.sort(values, axis=0), np.empty_like(values)
    sort_frames(values, sorting_network(n_frames), block)
    np.testing.assert_array_equal(block, expected)


def as_in_a_file(values):
    """FITS unsigned integers as the kernels read them: big-endian bytes in a native array."""
    return (values.astype(np.int32) - 32768).astype(">i2").view("<u2")


@given(seeds, float_types)
@few
def test_decode(seed, dtype):
    values = np.random.default_rng(seed).integers(0, 65536, (3, 7)).astype(np.uint16)
    values.flat[:4] = 0, 32767, 32768, 65535
    out = np.empty(values.shape, dtype)
    none, no_level = np.empty((0, 0), dtype), np.empty(0, dtype)
    arithmetic.calibrate_uint16(
        as_in_a_file(values), 0, no_level, none, none, dtype(1), none, *[dtype(np.inf)] * 2, out,
        np.empty((0, 0), np.uint16),
    )  # fmt: skip
    np.testing.assert_array_equal(out, values)


def planes(seed, shape, dtype):
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 65536, shape).astype(np.uint16)
    level = rng.normal(300, 3, shape[0]).astype(dtype)
    bias, dark = (rng.normal(mean, 3, shape).astype(dtype) for mean in (700, 20))
    flat = rng.normal(1, 0.3, shape).astype(dtype)
    flat[rng.random(shape) < 0.1] = 0
    flat[rng.random(shape) < 0.1] = np.nan
    return raw, level, bias, dark, flat


@given(
    seeds, st.tuples(st.integers(1, 5), st.integers(1, 9)), float_types, st.sets(st.integers(0, 3)),
    st.sampled_from([1.0, 0.0123]),
)  # fmt: skip
@few
def test_calibration_is_its_steps_in_numpy(seed, shape, dtype, present, scale):
    raw, level, bias, dark, flat = planes(seed, shape, dtype)
    scale = dtype(scale)
    expected = raw.astype(dtype)
    if 0 in present:
        expected = expected - level[:, None]
    if 1 in present:
        expected = expected - bias
    if 2 in present:
        expected = expected - scale * dark
    if 3 in present:
        expected = expected / np.where(flat > 0, flat, dtype(1))
    arguments = (
        level if 0 in present else np.empty(0, dtype),
        *(
            plane if step in present else np.empty((0, 0), dtype)
            for step, plane in ((1, bias), (2, dark))
        ),
        scale,
        flat if 3 in present else np.empty((0, 0), dtype),
    )
    in_place = raw.astype(dtype)
    arithmetic.calibrate(in_place, *arguments)
    assert in_place.tobytes() == expected.tobytes()
    fused, flags = np.empty(shape, dtype), np.empty(shape, np.uint16)
    wide = as_in_a_file(np.pad(raw, ((0, 0), (2, 1)), constant_values=65535))
    arithmetic.calibrate_uint16(wide, 2, *arguments, dtype(50000), dtype(60000), fused, flags)
    assert fused.tobytes() == expected.tobytes()
    expected_flags = np.where(raw > 50000, Flag.NON_LINEAR, 0)
    expected_flags[raw >= 60000] = Flag.SATURATED
    if 3 in present:
        expected_flags |= np.where(flat > 0, 0, Flag.FLAT_INVALID)
    np.testing.assert_array_equal(flags, expected_flags)


@given(seeds, st.tuples(st.integers(1, 6), st.integers(1, 5)))
@few
def test_charge_spills_along_the_column(seed, shape):
    rng = np.random.default_rng(seed)
    saturated = rng.random((shape[0] + 2, shape[1])) < 0.3
    others = np.uint16(Flag.HOT) * (rng.random(shape) < 0.5)
    expected = others | np.where(saturated[1:-1], Flag.SATURATED, 0)
    beside = (saturated[:-2] | saturated[2:]) & ~saturated[1:-1]
    expected |= np.where(beside, Flag.BLED, 0)
    outer = np.where(saturated, np.uint16(Flag.SATURATED), np.uint16(0))
    flags = others | outer[1:-1]
    arithmetic.flag_bled(flags, outer[0], outer[-1])
    np.testing.assert_array_equal(flags, expected)


def test_flags_of_floats():
    pixels = np.array([[1.0, np.nan, np.inf, 9.0]], dtype=np.float32)
    flags = np.empty(pixels.shape, np.uint16)
    arithmetic.flag_image(
        pixels, np.float32(np.inf), np.float32(9), np.empty((0, 0), np.float32), flags
    )
    bad = Flag.NON_FINITE
    np.testing.assert_array_equal(flags, [[0, bad, bad | Flag.SATURATED, Flag.SATURATED]])


def test_flag_numbers_are_those_of_the_table():
    for name in ("SATURATED", "NON_FINITE", "FLAT_INVALID", "NON_LINEAR", "BLED"):
        assert int(getattr(arithmetic, name)) == Flag[name].value


@pytest.mark.parametrize("with_dark", [True, False])
@pytest.mark.parametrize("zero", [0.0, 6.0])
@pytest.mark.parametrize("with_flat", [True, False])
def test_propagation_is_the_formula(with_dark, zero, with_flat, shot_variance):
    rng = np.random.default_rng(5)
    shape, none = (4, 6), np.empty((0, 0))
    light, dark, flat = (
        rng.uniform(50, 90, shape),
        rng.uniform(5, 9, shape),
        rng.uniform(0.5, 2, shape),
    )
    flat[0, 0] = -1
    bias_std, dark_std, flat_std = rng.uniform(0.1, 1, (3, *shape))
    values = rng.choice([1, -1], shape) * light
    divisor = np.where(flat > 0, flat, 1) if with_flat else 1
    scale, gain, read_variance, factor = 0.25, 1.7, 12.0, 0.5
    out = np.empty(shape)
    arithmetic.propagate(
        values, read_variance, gain, bias_std, factor, dark if with_dark else none,
        dark_std if with_dark else none, scale, zero, flat if with_flat else none,
        flat_std if with_flat else none, out,
    )  # fmt: skip
    current = scale * (dark - zero) if with_dark else 0
    variance = shot_variance(values * divisor + current, 1 / gain, read_variance)
    variance += factor * bias_std**2
    if with_dark:
        variance += (scale * dark_std) ** 2
    variance /= divisor**2
    if with_flat:
        variance += (values * flat_std / divisor) ** 2
    np.testing.assert_allclose(out, np.sqrt(variance), rtol=1e-12)


def test_propagation_is_the_scatter_of_simulated_frames():
    rng = np.random.default_rng(11)
    n, gain, noise, scale = 200_000, 2.0, 4.0, 0.5
    light, current, flat_level = 400.0, 60.0, 0.8
    bias_std, dark_std, flat_std = 0.7, 1.5, 0.01
    # Counts in ADU of light through the flat and of dark current, then the masters' own errors.
    counts = rng.poisson((light * flat_level + scale * current) * gain, n) / gain
    counts = counts + rng.normal(0, noise, n) - rng.normal(0, bias_std, n)
    counts -= scale * rng.normal(current, dark_std, n)
    result = counts / rng.normal(flat_level, flat_std, n)

    def plane(value):
        return np.full((1, 1), value)

    out = np.empty((1, 1))
    arithmetic.propagate(
        plane(light), noise**2, gain, plane(bias_std), 1.0, plane(current), plane(dark_std), scale,
        0.0, plane(flat_level), plane(flat_std), out,
    )  # fmt: skip
    np.testing.assert_allclose(out[0, 0], result.std(), rtol=0.01)


def test_propagation_knows_that_frame_and_dark_lost_the_same_bias():
    rng = np.random.default_rng(12)
    n, noise, scale, bias_std, raw_dark_std = 200_000, 4.0, 0.7, 3.0, 1.5
    bias = rng.normal(0, bias_std, n)
    dark = rng.normal(0, raw_dark_std, n) - bias
    result = rng.normal(0, noise, n) - bias - scale * dark

    def plane(value):
        return np.full((1, 1), value)

    out, none = np.empty((1, 1)), np.empty((0, 0))
    arithmetic.propagate(
        plane(0.0), noise**2, 1.0, plane(bias_std), 1 - 2 * scale, plane(0.0),
        plane(np.hypot(raw_dark_std, bias_std)), scale, 0.0, none, none, out,
    )  # fmt: skip
    np.testing.assert_allclose(out[0, 0], result.std(), rtol=0.01)


def test_shot_noise_does_not_follow_the_noise_of_its_pixel():
    """At 30 electrons with a noise of 5 the pull would have a mean of -1 / (2 sigma) = -0.07."""
    rng = np.random.default_rng(13)
    shape, light, noise = (300, 400), 30.0, 5.0
    values = rng.poisson(light, shape) + rng.normal(0, noise, shape)
    values[::7, ::5] += 2000  # stars and hot pixels have the noise of their own light
    out, none = np.empty(shape), np.empty((0, 0))
    arithmetic.propagate(
        values, noise**2, 1.0, none, 0.0, none, none, 1.0, 0.0, none, none, out
    )  # fmt: skip
    bright = values > 1000
    np.testing.assert_allclose(out[bright], np.sqrt(values[bright] + noise**2), rtol=1e-12)
    alone = ~bright & ~np.roll(bright, 1, axis=1) & ~np.roll(bright, -1, axis=1)
    pull = ((values - light) / out)[alone]
    assert abs(pull.mean()) < 0.02
    assert pull.std() == pytest.approx(1, abs=0.02)
    beside = ~bright & ~alone  # one neighbour is bright, which is not its own light
    assert np.median(out[beside]) == pytest.approx(np.sqrt(light + noise**2), rel=0.03)


def test_median_of_good_pixels():
    image = np.array([[1.0, 2.0, np.nan], [3.0, 100.0, np.inf]])
    assert median_of_good(image) == 2.5
    assert median_of_good(image, image == 100) == 2
    assert median_of_good(np.ones((2, 2))) == 1
    assert np.isnan(median_of_good(image, np.ones(image.shape, np.uint8)))


@few
@given(seeds, float_types, st.integers(1, 40_000), st.sampled_from(["normal", "two", "ramp"]))
def test_median_of_good_is_exact(seed, dtype, n, shape):
    """Also where the sample deceives, with a sample small enough to be one."""
    rng = np.random.default_rng(seed)
    values = {
        "normal": rng.normal(1000, 10, n),
        "two": np.where(np.arange(n) % 2, rng.normal(0, 1, n), 1e6),
        "ramp": np.sort(rng.normal(0, 1, n)),
    }[shape].astype(dtype)
    values[rng.random(n) < 0.05] = rng.choice([np.nan, np.inf, -np.inf])
    bad = (rng.random(n) < 0.1).astype(np.uint8)
    good = values[(bad == 0) & np.isfinite(values)].astype(np.float64)
    expected = np.median(good) if good.size else np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "_SMALL", 1 << 8)
        found = median_of_good(values, bad)
    assert found == pytest.approx(expected, rel=1e-15, nan_ok=True)


def test_median_of_good_where_the_sample_misses_the_median():
    """Every pixel of the sample is 0, nearly all others are above 1."""
    values = np.random.default_rng(1).uniform(1, 2, 1 << 17).astype(np.float32)
    values[:: stats._SHARE + 1] = 0
    assert median_of_good(values) == np.median(values.astype(np.float64))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1 << 17, (1 << 17) + 1])
@pytest.mark.parametrize("levels", [1, 2, 3, 40])
def test_median_of_good_where_many_pixels_are_equal(dtype, n, levels):
    rng = np.random.default_rng(levels)
    values = rng.choice(np.linspace(-3, 9, levels), n).astype(dtype)
    values[::100] = np.inf
    bad = (rng.random(n) < 0.1).astype(np.uint8)
    good = values[(bad == 0) & np.isfinite(values)].astype(np.float64)
    assert median_of_good(values, bad) == np.median(good)


@pytest.mark.parametrize("columns", [4096, 4095, 1])
def test_the_sample_of_the_median_comes_from_all_columns(columns):
    """A vignetted image, whose columns differ by far more than their noise."""
    rows = (1 << 20) // columns
    image = np.add.outer(np.zeros(rows), np.linspace(-1, 1, columns) ** 2).astype(np.float32)
    sample = stats._sample(image.ravel(), np.empty(0, np.uint8), columns)
    assert np.median(sample) == pytest.approx(np.median(image), abs=0.01)
    assert sample.max() == pytest.approx(image.max(), abs=0.01)


@pytest.mark.parametrize("levels", [None, 3, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_median_of_an_image_that_passes_by_in_pieces(seed, dtype, levels):
    """Exact, whatever share is bad and however many values are equal."""
    rng = np.random.default_rng(seed)
    image = rng.normal(1000, 30, (601, 700)).astype(dtype)
    if levels is not None:
        image = np.round(image / 120 * levels)
    image[rng.random(image.shape) < 0.01] = np.nan
    flags = (rng.random(image.shape) < 0.1 * seed).astype(np.uint8)
    inside = np.empty(median_room(image.size), dtype)
    running = stats.RunningMedian.for_rows(image[::20], flags[::20], inside)
    for start in range(0, 601, 37):
        running.add(image[start : start + 37], flags[start : start + 37])
    good = image[np.isfinite(image) & (flags == 0)]
    assert running.find() == np.median(good.astype(np.float64))
    assert running.n_good == good.size


def test_a_sample_that_deceives_is_not_believed():
    image = np.arange(600_000, dtype=np.float32).reshape(600, 1000)
    inside = np.empty(median_room(image.size), np.float32)
    none = np.zeros((600, 1000), np.uint8)
    running = stats.RunningMedian.for_rows(image[:10], none[:10], inside)
    running.add(image, none)
    assert running.find() is None


def test_a_running_median_without_a_good_pixel():
    image, flags = np.ones((9, 9), np.float32), np.ones((9, 9), np.uint8)
    inside = np.empty(median_room(81), np.float32)
    running = stats.RunningMedian.for_rows(image, flags, inside)
    running.add(image, flags)
    assert np.isnan(running.find())


def test_more_equal_values_than_there_is_room_for_are_no_deceit():
    image = np.full((500, 1000), 7, np.float32)
    image[:100], image[400:] = 3, 9
    none = np.zeros(image.shape, np.uint8)
    running = stats.RunningMedian.for_rows(
        image[::50], none[::50], np.empty(median_room(image.size), np.float32)
    )
    running.add(image, none)
    assert running.find() == 7


some_flags = st.integers(0, 2**32 - 1).map(
    lambda seed: (
        np.random.default_rng(seed).integers(0, 1 << 11, (2, 7, 130))
        * (np.random.default_rng(seed).random((2, 7, 130)) < 0.3)
    ).astype(np.uint16)
)


@few
@given(some_flags, st.integers(0, 0xFFFF))
def test_flags_of_a_master_are_taken_over_or_told_as_one(both, known):
    flags, its = both
    expected = flags | (its & known) | np.where(its & (~known & 0xFFFF), 1 << 15, 0)
    arithmetic.inherit_flags(flags, its, np.uint16(known), np.uint16(1 << 15))
    np.testing.assert_array_equal(flags, expected)


@few
@given(some_flags, st.integers(0, 0xFFFF))
def test_bad_pixels_are_marked_and_counted(both, counted):
    flags = both[0]
    bad = np.full(flags.shape, 7, np.uint8)
    n_bad = arithmetic.mark_bad(flags, np.uint16(counted), bad)
    np.testing.assert_array_equal(bad, (flags & counted) != 0)
    assert n_bad == np.count_nonzero(flags & counted)
    assert arithmetic.any_bit(flags) == np.bitwise_or.reduce(flags, axis=None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_unlike_their_block_are_flagged(dtype):
    rng = np.random.default_rng(3)
    image = rng.normal(1, 0.3, (70, 133)).astype(dtype)
    image[5, 7] = np.nan
    around = rng.normal(1, 0.1, (3, 5)).astype(dtype)
    flags = rng.integers(0, 2, image.shape).astype(np.uint16)
    of_pixel = np.kron(around, np.ones((32, 32), dtype))[:70, :133]
    low, high = dtype(0.5) * of_pixel, dtype(1.5) * of_pixel
    expected = flags | np.where((image < low) | (image > high), 8, 0)
    arithmetic.flag_unlike(image, around, 32, 0.5, 1.5, np.uint16(8), flags)
    np.testing.assert_array_equal(flags, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_flat_is_divided_by_its_level(dtype):
    rng = np.random.default_rng(4)
    flat = rng.normal(500, 400, (20, 33)).astype(dtype)
    flags = (rng.random(flat.shape) < 0.2).astype(np.uint16) * np.uint16(2)
    expected = np.where(flags, dtype(1), flat / dtype(500))
    expected_flags = flags | np.where(expected <= 0, arithmetic.FLAT_INVALID, 0)
    arithmetic.normalise_flat(flat, flags, dtype(500))
    np.testing.assert_array_equal(flat, expected)
    np.testing.assert_array_equal(flags, expected_flags)
