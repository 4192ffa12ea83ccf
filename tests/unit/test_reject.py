"""Each rejection against a few lines of numpy, and against ccdproc where it is right."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.stats import sigma_clip
from hypothesis import given, settings
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ccdproc

import flatcal
from flatcal.engine.noise import NoiseModel, model_noise, shares_of_variance
from flatcal.engine.stacking import Stacking
from flatcal.kernels import reject
from flatcal.kernels.combine import combine_clipped, combine_weighted
from flatcal.recipe import CombineSettings
from flatcal.rejection import describe_impossible, describe_losses, most_sigma

few = settings(max_examples=30, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from([np.float32, np.float64])


def random_stack(seed, n, n_pixels, kind, missing=True):
    rng = np.random.default_rng(seed)
    stack = rng.normal(1000, 10, (n, n_pixels))
    stack[rng.random(stack.shape) < 0.1] += 300
    if missing:
        stack[rng.random(stack.shape) < 0.1] = np.nan
    flags = (rng.random(stack.shape) < 0.1).astype(np.uint8) * 4 * missing
    scales = rng.uniform(0.5, 2, n).astype(kind)
    return stack.astype(kind), flags, scales


def marked(kernel, stack, flags, scales, *numbers):
    before = flags.copy()
    kernel(stack, flags, scales, *numbers)
    assert np.array_equal(flags[before != 0], before[before != 0])
    return flags == reject.REJECTED


@given(
    seeds, st.integers(1, 14), kinds, st.sampled_from(["mean", "median"]),
    st.sampled_from(["std", "mad_std"]), st.sampled_from([0.8, 1.7, np.inf]),
    st.sampled_from([1.1, 3.0]), st.sampled_from([1, 2, 20]),
)  # fmt: skip
@few
def test_scatter_is_sigma_clip_of_astropy(seed, n, kind, center, spread, low, high, iterations):
    stack, flags, scales = random_stack(seed, n, 9, kind)
    values = np.where(flags == 0, (stack * scales[:, None]).astype(kind), np.nan).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are not finite
        clipped = sigma_clip(
            np.ma.masked_invalid(values), sigma_lower=low, sigma_upper=high, maxiters=iterations,
            axis=0, cenfunc=center, stdfunc=spread,
        )  # fmt: skip
    rejected = marked(
        reject.reject_scatter, stack, flags, scales, center == "mean", spread == "std", False,
        low, high, 0.0, iterations,
    )  # fmt: skip
    np.testing.assert_array_equal(rejected, np.ma.getmaskarray(clipped) & np.isfinite(values))


def test_what_is_known_to_scatter_is_not_rejected():
    stack = np.array([[10.0], [10.0], [10.0], [13.0]])
    for least, expected in ((0.0, True), (2.0, False)):
        rejected = marked(
            reject.reject_scatter, stack, np.zeros((4, 1), np.uint8), np.ones(4),
            False, False, False, 3.0, 3.0, least, 1,
        )  # fmt: skip
        assert rejected[3, 0] == expected


def winsorised_std(values):
    """AMC Technical Brief 6, about the median."""
    center, std = np.median(values), values.std(ddof=1)
    for _ in range(100):
        before = std
        std = 1.134 * np.clip(values, center - 1.5 * std, center + 1.5 * std).std(ddof=1)
        if abs(std - before) <= 5e-4 * before:
            return std
    return std


@given(seeds, st.integers(2, 14), st.sampled_from([1.5, 3.0]))
@few
def test_winsorised(seed, n, sigma):
    stack, flags, scales = random_stack(seed, n, 7, np.float64, missing=False)
    values = stack * scales[:, None]
    expected = np.zeros(values.shape, bool)
    for x, column in enumerate(values.T):
        std = winsorised_std(column)
        expected[:, x] = np.abs(column - np.median(column)) > sigma * std
    rejected = marked(
        reject.reject_scatter, stack, flags, scales, False, False, True, sigma, sigma, 0.0, 1
    )
    np.testing.assert_array_equal(rejected, expected)


def test_the_winsorised_deviation_is_the_true_one():
    values = np.random.default_rng(2).normal(0, 10, (4000, 1))
    values[:40] = 500
    limits = {}
    for sigma in (2.0, 4.0):
        rejected = marked(
            reject.reject_scatter, values, np.zeros(values.shape, np.uint8), np.ones(4000),
            False, False, True, sigma, sigma, 0.0, 1,
        )  # fmt: skip
        limits[sigma] = np.abs(values[~rejected]).max() / sigma
    assert limits[2.0] == pytest.approx(10, rel=0.05)


@given(seeds, st.integers(1, 14), kinds, st.integers(0, 3), st.integers(0, 3), st.booleans())
@few
def test_extremes_go_by_rank(seed, n, kind, n_low, n_high, tied):
    stack, flags, scales = random_stack(seed, n, 9, kind)
    if tied:
        stack, scales = np.round(stack / 20), np.ones(n, kind)
    good = np.isfinite(stack) & (flags == 0)
    expected = np.zeros(stack.shape, bool)
    for x in range(stack.shape[1]):
        frames = np.flatnonzero(good[:, x])
        ranked = frames[np.argsort((stack * scales[:, None])[frames, x], kind="stable")]
        expected[ranked[:n_low], x] = True
        expected[ranked[max(0, ranked.size - n_high) :], x] = True
    rejected = marked(reject.reject_extremes, stack, flags, scales, n_low, n_high)
    np.testing.assert_array_equal(rejected, expected)


def by_noise(column, terms, zero, low, high):
    """Which values of a column of good ones are rejected by the noise model."""
    distance = column - np.median(column)
    std = np.sqrt(terms[:, 0] * max(np.median(column) - zero, 0) + terms[:, 1])
    half = np.sort(np.abs(distance))[(column.size - 1) // 2]
    far = (distance < -low * std) | (distance > high * std)
    return far & (np.abs(distance) > half)


@given(
    seeds, st.integers(1, 14), st.sampled_from([0.0, 990.0, 2000.0]),
    st.sampled_from([2.0, np.inf]), st.sampled_from([1.3, 4.0]),
)  # fmt: skip
@few
def test_noise(seed, n, zero, low, high):
    stack, _, scales = random_stack(seed, n, 9, np.float64)
    flags = np.zeros(stack.shape, np.uint8)
    rng = np.random.default_rng(seed)
    terms = np.column_stack([rng.uniform(0, 0.2, n), rng.uniform(20, 100, n)])
    values = stack * scales[:, None]
    expected = np.zeros(stack.shape, bool)
    for x in range(stack.shape[1]):
        good = np.isfinite(stack[:, x])
        if good.any():
            expected[good, x] = by_noise(values[good, x], terms[good], zero, low, high)
    assert expected.sum(axis=0).max() <= n // 2
    # The kernel that only marks and the one that averages at once are of one mind.
    average, error, n_used = np.empty(9), np.empty(9), np.empty(9, np.int32)
    n_rejected = np.zeros(n, np.int64)
    combine_clipped(
        stack, flags, scales, terms, zero, low, high, 0.0, average, error, n_used, n_rejected
    )
    rejected = marked(reject.reject_noise, stack, flags, scales, terms, zero, low, high)
    np.testing.assert_array_equal(rejected, expected)
    np.testing.assert_array_equal(n_rejected, expected.sum(axis=1))
    kept = np.ma.masked_array(values, expected | ~np.isfinite(values))
    np.testing.assert_allclose(average, kept.mean(axis=0).filled(np.nan), rtol=1e-12)


def test_levels_apply_before_scaling():
    stack = np.array([[1.0], [5.0], [9.0], [np.nan]])
    flags = np.zeros((4, 1), np.uint8)
    reject.reject_levels(stack, flags, 2.0, None)
    assert flags[:, 0].tolist() == [reject.REJECTED, 0, 0, 0]
    reject.reject_levels(stack, flags, None, 5.0)
    assert flags[:, 0].tolist() == [reject.REJECTED, 0, reject.REJECTED, 0]


@pytest.mark.parametrize(("radius", "count"), [(0.5, 1), (1, 5), (1.5, 9), (2, 13)])
def test_grow_is_a_disc_in_the_same_frame(radius, count):
    flags = np.zeros((2, 7, 8), np.uint8)
    flags[1, 3, 4] = reject.REJECTED
    flags[1, 3, 5] = 1
    reject.grow_rejected(flags, np.array([2, 3 * 8 + 4]), radius)
    y, x = np.indices((7, 8))
    disc = (y - 3) ** 2 + (x - 4) ** 2 <= radius**2
    assert disc.sum() == count
    assert not flags[0].any()
    assert flags[1, 3, 5] == 1
    disc[3, 5] = disc[3, 4] = False
    np.testing.assert_array_equal(flags[1] == reject.GROWN, disc)


@given(seeds, st.integers(1, 12), kinds, st.booleans())
@few
def test_weighted_average(seed, n, kind, whole):
    stack, flags, scales = random_stack(seed, n, 9, kind)
    weights = np.random.default_rng(seed).uniform(0.1, 3, (n, 9 if whole else 1))
    average, error, n_used = np.empty(9, kind), np.empty(9, kind), np.empty(9, np.int32)
    combine_weighted(stack, flags, scales, weights, average, error, n_used)
    values = (stack * scales[:, None]).astype(float)
    w = np.where(np.isfinite(values) & (flags == 0), np.broadcast_to(weights, (n, 9)), 0)
    values = np.where(w > 0, values, 0)
    count = (w > 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (w * values).sum(axis=0) / w.sum(axis=0)
        square = (w**2 * (values - mean) ** 2).sum(axis=0) * count / (count - 1)
        expected = np.sqrt(square) / w.sum(axis=0)
    rtol = 1e-10 if kind is np.float64 else 1e-6
    np.testing.assert_array_equal(n_used, count)
    np.testing.assert_allclose(average, mean, rtol=rtol)
    np.testing.assert_allclose(error, expected, rtol=10 * rtol, atol=1e-9)


# -- which kernels the settings mean -----------------------------------------------------


def stacked(settings_of, n=8, scales=None, weights=None, noise=None, grow=0.0):
    rng = np.random.default_rng(9)
    stack = rng.normal(1000, 10, (n, 12, 15))
    stack[rng.random(stack.shape) < 0.03] += 500
    stacking = Stacking(
        CombineSettings(**settings_of), np.ones(n) if scales is None else scales,
        np.ones(n) if weights is None else weights, noise, 5.0, grow,
    )  # fmt: skip
    planes = np.empty((12, 15)), np.empty((12, 15)), np.empty((12, 15), np.int32)
    n_rejected = stacking.combine(
        stack.copy(), np.zeros(stack.shape, np.uint8), slice(0, 12), *planes
    )
    return stack, planes, n_rejected


@pytest.mark.parametrize("noise", [None, NoiseModel(np.tile([0.0, 100.0], (8, 1)), 0.0)])
@pytest.mark.parametrize("grow", [0.0, 1.5, 3.0])
def test_at_once_or_in_steps_is_the_same(noise, grow):
    _, at_once, n_at_once = stacked({}, noise=noise, grow=grow)
    # A threshold that nothing reaches takes the other way.
    _, in_steps, n_in_steps = stacked({"high_threshold_adu": 1e6}, noise=noise, grow=grow)
    assert n_at_once.sum() > 20
    np.testing.assert_array_equal(n_at_once, n_in_steps)
    for one, other in zip(at_once, in_steps, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_grow_takes_the_neighbours_of_their_frame():
    _, (_, _, before), n_before = stacked({})
    _, (_, _, after), n_after = stacked({}, grow=1.0)
    assert n_before.sum() == 8 * 12 * 15 - before.sum()
    assert n_after.sum() == 8 * 12 * 15 - after.sum()
    assert 3.5 < n_after.sum() / n_before.sum() < 5


@pytest.mark.parametrize("rows", [slice(0, 5), slice(4, 9), slice(8, 12)])
@pytest.mark.parametrize("method", ["median", "average"])
def test_a_band_with_its_halo_is_a_part_of_the_whole(rows, method):
    stack, whole, _ = stacked({"method": method}, grow=2.0)
    halo = slice(max(0, rows.start - 2), min(12, rows.stop + 2))
    stacking = Stacking(CombineSettings(method=method), np.ones(8), np.ones(8), None, 5.0, 2.0)
    part = np.ascontiguousarray(stack[:, halo])
    shape = part.shape[1:]
    planes = np.empty(shape), np.empty(shape), np.empty(shape, np.int32)
    inner = slice(rows.start - halo.start, rows.stop - halo.start)
    stacking.combine(part, np.zeros(part.shape, np.uint8), inner, *planes)
    for one, other in zip(planes, whole, strict=True):
        np.testing.assert_array_equal(one[inner], other[rows])


def test_median_and_minmax_and_none():
    stack, (median, _, _), _ = stacked({"method": "median", "reject": "none"})
    np.testing.assert_allclose(median, np.median(stack, axis=0), rtol=1e-12)
    stack, (mean, _, _), n_rejected = stacked({"reject": "minmax", "n_low": 2, "n_high": 1})
    np.testing.assert_allclose(mean, np.sort(stack, axis=0)[2:-1].mean(axis=0), rtol=1e-12)
    assert n_rejected.sum() == 3 * 12 * 15
    stack, (mean, _, _), n_rejected = stacked({"reject": "none"})
    np.testing.assert_allclose(mean, stack.mean(axis=0), rtol=1e-12)
    assert not n_rejected.any()


# -- noise -------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_noise_that_is_larger_than_predicted_is_found(factor):
    rng = np.random.default_rng(3)
    sample = rng.normal(1000, 10 * factor, (5, 20_000))
    sample[0] += 40  # one frame is unlike the others
    sample[:, ::50] += 800
    model = model_noise(np.tile([0.0, 100 - 1 / 12], (5, 1)), np.ones(5), sample, lost_bias=False)
    assert model.zero == pytest.approx(1000, abs=10)
    assert np.sqrt(model.terms[:, 1]) == pytest.approx(10 * max(factor, 1), rel=0.03)


def test_the_variance_of_a_combination_is_that_of_its_simulation():
    rng = np.random.default_rng(4)
    weights = np.array([1.0, 2.0, 3.0, 1.0])
    values = rng.normal(0, 1, (200_000, 4))
    assert shares_of_variance("average", weights)[4] == pytest.approx(
        np.average(values, axis=1, weights=weights).var()
        / np.average(np.ones(4), weights=weights**2),
        rel=0.02,
    )
    for n in (1, 2, 3, 4):
        share = shares_of_variance("median", np.ones(4))[n]
        assert share == pytest.approx(np.median(values[:, :n], axis=1).var(), rel=0.02)


# -- what cannot be rejected -------------------------------------------------------------


@pytest.mark.parametrize("center", ["mean", "median"])
@pytest.mark.parametrize("n", [3, 10, 23, 24, 26, 27, 40])
def test_a_lone_outlier_hides_in_its_own_standard_deviation(center, n):
    column = np.zeros((n, 1))
    column[n // 2] = 1e6
    rejected = marked(
        reject.reject_scatter, column, np.zeros((n, 1), np.uint8), np.ones(n),
        center == "mean", True, False, 5.0, 5.0, 0.0, 1,
    )  # fmt: skip
    assert rejected.any() == (n >= {"mean": 27, "median": 24}[center])
    assert rejected.any() == (most_sigma(center, n) > 5)
    caveat = describe_impossible(
        CombineSettings(reject="sigma", center=center, spread="std"), "master_bias", n
    )
    assert (caveat is None) == rejected.any()
    if caveat:
        assert f"take {27 if center == 'mean' else 24} frames" in caveat.text
        assert f"most {most_sigma(center, n):.2f} standard" in caveat.text


@pytest.mark.parametrize(
    ("how", "n"), [({}, 3), ({"reject": "sigma"}, 3), ({"reject": "winsorised"}, 10)]
)
def test_the_other_rejections_find_a_lone_outlier(how, n):
    assert describe_impossible(CombineSettings(**how), "m", n) is None
    rng = np.random.default_rng(6)
    stack = rng.normal(1000, 10, (n, 40, 50))
    hit = rng.random((40, 50)) < 0.3
    stack[1, hit] += 2000
    noise = NoiseModel(np.tile([0.0, 100.0], (n, 1)), 0.0)
    stacking = Stacking(CombineSettings(**how), np.ones(n), np.ones(n), noise, 10.0)
    planes = np.empty((40, 50)), np.empty((40, 50)), np.empty((40, 50), np.int32)
    flags = np.zeros(stack.shape, np.uint8)
    n_rejected = stacking.combine(stack, flags, slice(0, 40), *planes)
    assert n_rejected[1] == pytest.approx(hit.sum(), rel=0.01)
    assert np.abs(planes[0][hit] - 1000).max() < 40


def test_a_frame_that_loses_far_more_than_its_siblings_is_named():
    shares = {"a": 0.001, "b": 0.002, "c": 0.4, "d": 0.001}
    assert list(describe_losses("m", shares)) == ["c"]
    assert "40 %" in describe_losses("m", shares)["c"].text
    assert not describe_losses("m", dict.fromkeys("abc", 0.3))
    assert not describe_losses("m", {"a": 0.0, "b": 0.009})
    assert not describe_losses("m", {"a": 0.5})


# -- facts about ccdproc 2.5.1 -----------------------------------------------------------


def drifting_flats(seed=7, n=10):
    """Flats whose level falls, the faintest with an outlier of three times its value."""
    rng = np.random.default_rng(seed)
    levels = np.linspace(40_000, 10_000, n)
    flats = [rng.poisson(level, (30, 40)).astype(float) for level in levels]
    flats[-1][10, 10] *= 3
    return [CCDData(flat, unit="adu") for flat in flats]


def combined(module):
    return module.combine(
        drifting_flats(), method="average", scale=lambda flat: 1 / np.median(flat),
        sigma_clip=True, sigma_clip_low_thresh=5, sigma_clip_high_thresh=5,
        sigma_clip_func=np.ma.median, sigma_clip_dev_func=flatcal.sigma_func
        if module is flatcal else ccdproc.combiner.sigma_func,
    ).data  # fmt: skip


def test_an_outlier_in_the_faintest_of_drifting_flats():
    assert combined(flatcal)[10, 10] == pytest.approx(1, abs=0.01)
    assert combined(ccdproc)[10, 10] == pytest.approx(1.196, abs=0.02)


def bright_sibling(module):
    rng = np.random.default_rng(8)
    flats = [rng.poisson(20_000 * (1 + (i == 3)), (30, 40)).astype(float) for i in range(10)]
    combiner = module.Combiner([CCDData(flat, unit="adu") for flat in flats])
    combiner.scaling = lambda flat: 1 / np.ma.median(flat)
    combiner.sigma_clipping(5, 5, "median", "mad_std")
    return combiner.data_arr.mask.mean(axis=(1, 2))


def test_a_flat_twice_as_bright_as_its_siblings_is_kept():
    assert bright_sibling(ccdproc)[3] == 1
    assert bright_sibling(flatcal)[3] == 0  # 1.3 % at the most of the others
    assert bright_sibling(flatcal).max() < 0.02
