"""Combiner and combine against ccdproc, and where they mean to differ."""

from __future__ import annotations

import gzip
import inspect
import shutil
import tracemalloc
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.stats import mad_std
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ccdproc

import flatcal
from flatcal.combiner import Combiner, sigma_func
from flatcal.combining import combine
from flatcal.errors import FrameError

few = settings(max_examples=30, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def make_frames(seed, n_frames, shape=(5, 7), dtype="f8", masked=False):
    """Frames of one scene, with outliers; every pixel is good in the first frame."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n_frames):
        data = rng.normal(1000, 10, shape)
        data[rng.random(shape) < 0.1] += 300
        mask = rng.random(shape) < 0.2 if masked and i else None
        header = fits.Header({"EXPTIME": 10.0 + i, "FILTER": "r", "OBJECT": f"n{i}"})
        frames.append(CCDData(data.astype(dtype), unit="adu", mask=mask, meta=header))
    return frames


def assert_like(result, oracle):
    tight = {"rtol": 1e-10} if result.data.dtype == np.float64 else {"rtol": 1e-5}
    assert result.data.dtype == oracle.data.dtype
    np.testing.assert_allclose(result.data, oracle.data, **tight)
    np.testing.assert_allclose(result.uncertainty.array, oracle.uncertainty.array, **tight)
    np.testing.assert_array_equal(result.mask, oracle.mask)
    assert result.unit == oracle.unit
    assert isinstance(result.uncertainty, StdDevUncertainty)
    assert result.meta["NCOMBINE"] == oracle.meta.get("NCOMBINE", result.meta["NCOMBINE"])


@given(
    seeds, st.integers(1, 9), st.booleans(), st.booleans(),
    st.sampled_from(["average", "median", "sum"]), st.sampled_from([None, "f4", "f8"]),
)  # fmt: skip
@few
def test_combiner_is_that_of_ccdproc(seed, n_frames, masked, scaled, method, dtype):
    frames = make_frames(seed, n_frames, masked=masked)
    before = [frame.data.copy() for frame in frames]
    results = []
    for module in (flatcal, ccdproc):
        combiner = module.Combiner(frames, dtype=dtype and np.dtype(dtype))
        combiner.scaling = np.linspace(1, 2, n_frames) if scaled else None
        results.append(getattr(combiner, f"{method}_combine")())
    assert_like(*results)
    for frame, data in zip(frames, before, strict=True):
        np.testing.assert_array_equal(frame.data, data)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.median_combine(median_func=np.ma.median),
        lambda c: c.median_combine(uncertainty_func=np.nanstd),
        lambda c: c.median_combine(scale_to=0.5),
        lambda c: c.average_combine(scale_func=np.ma.mean),
        lambda c: c.average_combine(scale_func=np.ma.average, uncertainty_func=np.ma.std),
        lambda c: c.average_combine(scale_to=np.arange(1.0, 7).reshape(6, 1, 1)),
        lambda c: c.average_combine(uncertainty_func=np.nanvar),
        lambda c: c.sum_combine(sum_func=np.ma.sum),
        lambda c: c.sum_combine(scale_to=2, uncertainty_func=np.nanvar),
    ],
)
def test_functions_of_the_user(call, masked):
    frames = make_frames(3, 6, masked=masked)
    assert_like(call(Combiner(frames)), call(ccdproc.Combiner(frames)))


@pytest.mark.parametrize("shape", [(6,), (6, 5, 7)])
@pytest.mark.parametrize("method", ["average_combine", "sum_combine"])
def test_weights(shape, method):
    frames = make_frames(4, 6)
    weights = np.random.default_rng(0).uniform(1, 2, shape)
    results = []
    for module in (flatcal, ccdproc):
        combiner = module.Combiner(frames)
        combiner.weights = weights
        results.append(getattr(combiner, method)())
    assert_like(*results)


def test_weights_of_masked_pixels_do_not_count():
    frames = [CCDData(np.full((1, 1), value), unit="adu") for value in (1.0, 3.0)]
    frames[1].mask = np.array([[True]])
    combiner = Combiner(frames)
    combiner.weights = np.array([1.0, 2.0])
    assert combiner.average_combine().data == 1


@given(
    seeds, st.integers(2, 9), st.booleans(),
    st.sampled_from([np.ma.median, np.median, np.nanmedian, "median", "mean", np.ma.mean]),
    st.sampled_from([mad_std, "mad_std", np.std, np.ma.std, "std", sigma_func]),
    st.sampled_from([0.7, 1.5]),
)  # fmt: skip
@few
def test_sigma_clipping_is_that_of_ccdproc(seed, n_frames, scaled, func, dev_func, low):
    frames = make_frames(seed, n_frames)
    if scaled:
        frames = [frame.multiply(2.0 + i) for i, frame in enumerate(frames)]
    ours, theirs = Combiner(frames), ccdproc.Combiner(frames)
    ours.sigma_clipping(low, 1.1, func, dev_func)
    theirs.sigma_clipping(low, 1.1, func, dev_func)
    np.testing.assert_array_equal(ours.data_arr.mask, theirs.data_arr.mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a pixel without any value left
        oracle = theirs.average_combine()
    assert_like(ours.average_combine(), oracle)


def column(values, mask=None):
    """Frames of one pixel each."""
    mask = [False] * len(values) if mask is None else mask
    return [
        CCDData(np.array([[float(value)]]), unit="adu", mask=np.array([[bad]]))
        for value, bad in zip(values, mask, strict=True)
    ]


def kept(combiner):
    return list(~combiner.data_arr.mask[:, 0, 0])


def test_masked_pixels_do_not_enter_the_statistics_of_clipping():
    frames = column([10, 11, 12, 11, 900, 1e6], [False] * 5 + [True])
    combiner = Combiner(frames)
    combiner.sigma_clipping(1.5, 1.5, np.ma.median, np.ma.std)
    assert kept(combiner) == [True] * 4 + [False] * 2


def test_scaling_comes_before_rejection():
    frames = column([100, 200, 400, 800, 90])
    combiner = Combiner(frames)
    combiner.scaling = [1, 0.5, 0.25, 0.125, 1]
    combiner.sigma_clipping(3, 3, "median", "mad_std")
    assert kept(combiner) == [True] * 4 + [False]
    by_rank = Combiner(frames)
    by_rank.scaling = [1, 0.5, 0.25, 0.125, 1]
    by_rank.clip_extrema(nlow=1)
    assert kept(by_rank) == [True] * 4 + [False]
    thresholds = Combiner(frames)
    thresholds.scaling = [1, 0.5, 0.25, 0.125, 1]
    thresholds.minmax_clipping(95, 500)
    assert kept(thresholds) == [True, True, True, False, False]


def test_thresholds_none_and_negative():
    frames = column([1, 10, 10.1, 10.2, 10.1, 90])
    for low, high, expected in ((None, 3, [True] * 5 + [False]), (-3, None, [False] + [True] * 5)):
        combiner = Combiner(frames)
        combiner.sigma_clipping(low, high, "median", "mad_std")
        assert kept(combiner) == expected


def test_more_keywords_of_sigma_clip():
    frames = column([10, 10.1, 10.2, 10.1, 30, 900])
    combiner = Combiner(frames)
    combiner.sigma_clipping(1.5, 1.5, "mean", "std", maxiters=5)
    assert kept(combiner) == [True] * 4 + [False] * 2
    with pytest.raises(TypeError, match=r"'dev_funk'.*'dev_func'"):
        combiner.sigma_clipping(dev_funk=np.std)


@given(seeds, st.integers(2, 7), st.integers(0, 3), st.integers(0, 3))
@few
def test_clip_extrema_is_that_of_ccdproc(seed, n_frames, low, high):
    low, high = min(low, n_frames), min(high, n_frames)
    frames = make_frames(seed, n_frames)
    ours, theirs = Combiner(frames), ccdproc.Combiner(frames)
    ours.clip_extrema(low, high)
    theirs.clip_extrema(low, high)
    np.testing.assert_array_equal(ours.data_arr.mask, theirs.data_arr.mask)


def test_masked_pixels_are_no_extrema():
    combiner = Combiner(column([1, 2, 3, 4, 5, 99], [True, False, False, False, False, True]))
    combiner.clip_extrema(nlow=1, nhigh=None)
    assert kept(combiner) == [False, False, True, True, True, False]
    combiner.clip_extrema(nlow=None, nhigh=2)
    assert kept(combiner) == [False, False, True, False, False, False]
    combiner.clip_extrema(nlow=5, nhigh=5)
    assert not any(kept(combiner))


@pytest.mark.parametrize("levels", [(990, None), (None, 1010), (990, 1010)])
def test_minmax_clipping_is_that_of_ccdproc(levels):
    frames = make_frames(5, 6, masked=True)
    ours, theirs = Combiner(frames), ccdproc.Combiner(frames)
    ours.minmax_clipping(*levels)
    theirs.minmax_clipping(*levels)
    np.testing.assert_array_equal(ours.data_arr.mask, theirs.data_arr.mask)


@pytest.mark.parametrize("method", ["average_combine", "median_combine", "sum_combine"])
def test_pixels_without_any_good_value(method):
    frames = column([1, np.nan, 3], [True, False, True])
    result = getattr(Combiner(frames), method)()
    assert result.mask.all()
    assert result.data == 0 if method == "sum_combine" else np.isnan(result.data)


def inv_median(a):
    return 1 / np.median(a)


def test_scale_functions_see_good_pixels():
    frames = make_frames(6, 3)
    combiner = Combiner(frames)
    combiner.scaling = inv_median
    expected = [1 / np.median(frame.data) for frame in frames]
    np.testing.assert_allclose(combiner.scaling.ravel(), expected)
    assert combiner.scaling.shape == (3, 1, 1)
    frames[1].mask = frames[1].data > 1050
    combiner = Combiner(frames)
    combiner.scaling = inv_median
    expected[1] = 1 / np.median(frames[1].data[~frames[1].mask])
    np.testing.assert_allclose(combiner.scaling.ravel(), expected)
    combiner.scaling = lambda a: 1 / np.ma.average(a[1:4])
    np.testing.assert_allclose(combiner.scaling[0], 1 / frames[0].data[1:4].mean())
    with pytest.raises(ValueError, match="finite"):
        combiner.scaling = lambda a: np.nan


@pytest.mark.parametrize(
    ("value", "error"), [(3, TypeError), ([1.0, 2.0], ValueError), (np.ones(4), ValueError)]
)
def test_scaling_that_does_not_fit(value, error):
    with pytest.raises(error):
        Combiner(make_frames(0, 3)).scaling = value
    with pytest.raises((TypeError, ValueError)):
        Combiner(make_frames(0, 3)).weights = value


def test_combiner_refuses():
    first, other = make_frames(0, 1)[0], make_frames(0, 1, shape=(5, 8))[0]
    with pytest.raises(TypeError, match="list"):
        Combiner(None)
    with pytest.raises(ValueError, match="no frame"):
        Combiner([])
    with pytest.raises(TypeError, match="ndarray"):
        Combiner([first.data])
    with pytest.raises(TypeError, match=r"shape.*\(5, 7\).*\(5, 8\)"):
        Combiner([first, other])
    other = CCDData(first.data, unit="electron")
    with pytest.raises(TypeError, match=r"unit.*adu.*electron"):
        Combiner([first, other])


METHODS = {
    "Combiner.__init__": (Combiner.__init__, ccdproc.Combiner.__init__),
    "combine": (combine, ccdproc.combine),
    "sigma_func": (sigma_func, ccdproc.sigma_func),
} | {
    name: (getattr(Combiner, name), getattr(ccdproc.Combiner, name))
    for name in (
        "clip_extrema", "minmax_clipping", "sigma_clipping", "median_combine", "average_combine",
        "sum_combine",
    )
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_signatures_are_those_of_ccdproc(name):
    ours, theirs = (
        [
            (p.name, getattr(p.default, "__name__", p.default), p.kind)
            for p in inspect.signature(function).parameters.values()
        ]
        for function in METHODS[name]
    )
    assert ours == theirs


def test_sigma_func():
    values = np.random.default_rng(0).normal(0, 1, (5, 6))
    values[0, 0] = np.nan
    for arguments in ({}, {"axis": 0}, {"axis": 0, "ignore_nan": True}):
        np.testing.assert_array_equal(
            sigma_func(values, **arguments), ccdproc.sigma_func(values, **arguments)
        )


# --- combine -----------------------------------------------------------------------------------


def write(frames, folder, dtype):
    files = []
    for i, frame in enumerate(frames):
        hdus = [fits.PrimaryHDU(frame.data.astype(dtype), frame.header)]
        hdus[0].header["BUNIT"] = "ADU"
        if frame.mask is not None:
            hdus.append(fits.ImageHDU(frame.mask.astype(np.uint8), name="MASK"))
        files.append(folder / f"f{i}.fits")
        fits.HDUList(hdus).writeto(files[-1])
    return files


CLIPPED = {
    "method": "average", "sigma_clip": True, "sigma_clip_low_thresh": 2,
    "sigma_clip_high_thresh": 1.5, "sigma_clip_func": np.ma.median,
    "sigma_clip_dev_func": mad_std,
}  # fmt: skip
WAYS = {
    "clipped": CLIPPED,
    "average": {},
    "median": {"method": "median"},
    "sum": {"method": "sum"},
    "mean and std": {"sigma_clip": True, "sigma_clip_low_thresh": 1.5},
    "clipped median": CLIPPED | {"method": "median"},
    "extrema": {"clip_extrema": True, "nlow": 1, "nhigh": 2},
    "levels": {"minmax_clip": True, "minmax_clip_min": 980, "minmax_clip_max": 1100},
    "uncertainty": {"combine_uncertainty_function": np.nanstd},
    "single": CLIPPED | {"dtype": np.float32},
    "scaled": {"scale": np.linspace(1, 2, 6)},
    "weighted": {"weights": np.linspace(1, 2, 6)},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mem_limit", [350e6, 3000, 1])
def test_combine_is_that_of_ccdproc(way, mem_limit):
    frames = make_frames(7, 6, shape=(11, 5))
    before = [frame.data.copy() for frame in frames]
    oracle = ccdproc.combine(frames, **WAYS[way])
    assert_like(combine(frames, mem_limit=mem_limit, **WAYS[way]), oracle)
    for frame, data in zip(frames, before, strict=True):
        np.testing.assert_array_equal(frame.data, data)


@pytest.mark.parametrize("way", ["clipped", "median", "mean and std", "scaled"])
@pytest.mark.parametrize("dtype", ["u2", "i2", "f4", "f8", "i4"])
def test_combine_of_files_is_that_of_ccdproc(way, dtype, tmp_path):
    files = write(make_frames(8, 6, shape=(11, 5)), tmp_path, dtype)
    oracle = ccdproc.combine([str(file) for file in files], **WAYS[way])
    assert_like(combine(files, mem_limit=2000, **WAYS[way]), oracle)


def test_masks_in_files_and_frames_are_one(tmp_path):
    frames = make_frames(9, 6, masked=True)
    for frame in frames:
        frame.data[0, 0] = np.nan
    files = write(frames, tmp_path, "f8")
    for way in (CLIPPED, {"sigma_clip": True}):
        by_file, by_frame = combine(files, **way), combine(frames, **way)
        np.testing.assert_array_equal(by_file.data, by_frame.data)
        np.testing.assert_array_equal(by_file.mask, by_frame.mask)
        assert by_file.mask[0, 0]
    by_combiner = Combiner(frames).average_combine()
    assert_like(combine(files), by_combiner)


def test_ways_to_name_files(tmp_path):
    files = write(make_frames(10, 3), tmp_path, "f4")
    expected = combine(files).data
    names = [str(file) for file in files]
    for images in (names, np.array(names), ",".join(names), ", ".join(names), iter(files)):
        np.testing.assert_array_equal(combine(images).data, expected)
    for one in (files[0], names[0]):
        assert combine(one).meta["NCOMBINE"] == 1
    for wrong in (3, make_frames(0, 1)[0]):
        with pytest.raises(ValueError, match="list of images"):
            combine(wrong)
    with pytest.raises(ValueError, match="empty"):
        combine([])


def test_extensions_units_and_compressed_files(tmp_path):
    frames = make_frames(11, 2)
    paths = [tmp_path / f"e{i}.fits" for i in range(2)]
    for path, frame in zip(paths, frames, strict=True):
        extension = fits.ImageHDU(frame.data, name="SCI")
        primary = fits.PrimaryHDU(header=fits.Header({"OBSERVER": "me"}))
        fits.HDUList([primary, extension]).writeto(path)
    expected = combine(frames).data
    with pytest.raises(FrameError, match="unit='adu'"):
        combine(paths)
    result = combine(paths, unit="adu")
    np.testing.assert_array_equal(result.data, expected)
    assert result.meta["OBSERVER"] == "me"
    np.testing.assert_array_equal(combine(paths, unit=u.adu, hdu="SCI").data, expected)
    empty = tmp_path / "empty.fits"
    fits.PrimaryHDU().writeto(empty)
    with pytest.raises(FrameError, match="no image"):
        combine([empty], unit="adu")
    zipped = [path.with_suffix(".fits.gz") for path in paths]
    for path, target in zip(paths, zipped, strict=True):
        with path.open("rb") as source, gzip.open(target, "wb") as out:
            shutil.copyfileobj(source, out)
    np.testing.assert_array_equal(combine(zipped, unit="adu", mem_limit=1).data, expected)


def test_unit_that_is_none(tmp_path):
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(np.ones((2, 2)), fits.Header({"BUNIT": "furlong of light"})).writeto(path)
    with pytest.raises(FrameError, match="furlong"):
        combine([path])


def test_the_guides_call_and_its_misspelt_keyword(tmp_path):
    files = write(make_frames(12, 6), tmp_path, "u2")
    arguments = {
        "method": "average", "scale": inv_median, "sigma_clip": True,
        "sigma_clip_low_thresh": 5, "sigma_clip_high_thresh": 5,
        "sigma_clip_func": np.ma.median, "mem_limit": 350e6,
    }  # fmt: skip
    result = flatcal.combine(files, sigma_clip_dev_func=mad_std, **arguments)
    np.testing.assert_allclose(np.median(result.data), 1, rtol=0.01)
    with pytest.raises(TypeError, match=r"'signma_clip_dev_func'.*'sigma_clip_dev_func'"):
        flatcal.combine(files, signma_clip_dev_func=mad_std, **arguments)


def test_frames_are_scaled_before_they_are_clipped():
    frames = column([100, 200, 400, 800, 90])
    scale = [1, 0.5, 0.25, 0.125, 1]
    for how in ({"method": "average"}, {"combine_uncertainty_function": np.nanstd}):
        result = combine(frames, scale=scale, **(CLIPPED | how))
        assert result.data == 100


def test_scale_function_sees_good_pixels_only():
    frames = make_frames(13, 3)
    frames[0].mask = np.zeros(frames[0].shape, bool)
    frames[0].mask[0] = True
    frames[0].data[0] = 1e6
    result = combine(frames, scale=inv_median)
    expected = np.mean([frame.data / np.median(frame.data[1:]) for frame in frames], axis=0)
    np.testing.assert_allclose(result.data[1:], expected[1:], rtol=0.02)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"method": "mode"}, ValueError),
        ({"scale": [1, 2]}, ValueError),
        ({"weights": [1, 2, 3]}, TypeError),
        ({"weights": np.ones(2)}, ValueError),
        ({"memlimit": 3}, TypeError),
        ({"completely_unknown": 3}, TypeError),
    ],
)
def test_combine_refuses(arguments, error):
    with pytest.raises(error):
        combine(make_frames(0, 3), **arguments)


def test_images_that_differ_are_named(tmp_path):
    first = write(make_frames(0, 1), tmp_path, "f4")
    (tmp_path / "other").mkdir()
    other = write(make_frames(0, 1, shape=(3, 3)), tmp_path / "other", "f4")
    with pytest.raises(TypeError, match=r"f0\.fits has \(5, 7\).*other.*\(3, 3\)"):
        combine(first + other)


def test_header_holds_what_all_agree_on():
    frames = make_frames(14, 3)
    for i, frame in enumerate(frames):
        frame.header["DATE-OBS"] = f"2020-01-0{3 - i}T03:04:05"
        frame.header["FILTER"] = "rgr"[i]
        frame.header["INSTRUME"] = "LFC"
        frame.header["HISTORY"] = f"read {i}"
        frame.header["COMMENT"] = "good seeing"
    header = combine(frames).header
    assert header["EXPTIME"] == 11
    assert (header["EXPTMIN"], header["EXPTMAX"]) == (10, 12)
    assert header["DATE-OBS"] == "2020-01-01T03:04:05"
    assert header["DATE-END"] == "2020-01-03T03:04:05"
    assert header["INSTRUME"] == "LFC"
    assert header["NCOMBINE"] == 3
    assert str(header["COMMENT"]) == "good seeing"
    assert not {"FILTER", "OBJECT", "HISTORY"} & set(header)
    assert frames[0].header["FILTER"] == "r"
    same = combine([frames[0], frames[0]]).header
    assert same["EXPTIME"] == 10
    assert "EXPTMIN" not in same


def test_headers_that_are_dictionaries_or_incomplete():
    frames = [CCDData(np.ones((2, 2)), unit="adu", meta={"exptime": 1.0, "DATE-OBS": "1/2/99"})]
    frames.append(CCDData(np.ones((2, 2)), unit="adu", meta={"exptime": 2.0}))
    meta = combine(frames).meta
    assert meta == {"exptime": 1.5, "EXPTMIN": 1.0, "EXPTMAX": 2.0, "NCOMBINE": 2}


def sky(crval):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.cdelt = [crval, 20], [1e-3, 1e-3]
    return wcs


@pytest.mark.parametrize(("values", "kept"), [((10, 10), True), ((10, 11), False)])
def test_wcs_is_kept_when_all_agree(values, kept, tmp_path):
    frames = [CCDData(np.ones((3, 3)), unit="adu", wcs=sky(value)) for value in values]
    paths = [tmp_path / f"{i}.fits" for i in range(2)]
    for frame, path in zip(frames, paths, strict=True):
        frame.write(path)
    for images in (frames, paths):
        result = combine(images)
        assert (result.wcs is not None) is kept
        assert "CTYPE1" not in result.header
        assert "CRVAL1" not in result.header
        result.write(tmp_path / "out.fits", overwrite=True)
        assert ("CTYPE1" in fits.getheader(tmp_path / "out.fits")) is kept
    if kept:
        np.testing.assert_allclose(result.wcs.wcs.crval, [10, 20])


def test_output_file(tmp_path):
    path = tmp_path / "master.fits"
    files = write(make_frames(15, 3), tmp_path, "u2")
    result = combine(files, output_file=path)
    written = CCDData.read(path)
    np.testing.assert_array_equal(written.data, result.data)
    assert written.uncertainty is not None
    assert written.header["NCOMBINE"] == 3
    assert "BZERO" not in written.header
    with pytest.raises(OSError, match="exist"):
        combine(files, output_file=path)
    combine(files, output_file=path, overwrite_output=True)


@pytest.mark.parametrize("way", ["clipped", "median", "mean and std", "extrema"])
def test_memory_stays_within_the_limit(way):
    shape, limit = (512, 512), 4e6
    frames = make_frames(16, 8, shape=shape, dtype="f4")
    combine(frames[:1])
    tracemalloc.start()
    combine(frames, mem_limit=limit, **WAYS[way])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result_bytes = shape[0] * shape[1] * 17
    assert peak - result_bytes < 1.1 * limit
