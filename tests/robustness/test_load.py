"""Many frames, many threads, any order; the long version is `make soak`."""

from __future__ import annotations

import copy
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import CCDData
from kills import contents
from load import make_small_night, peak_of_a_run

import flatcal as ccdp
from flatcal.engine.run import run_plan
from flatcal.merge import wcs_of_header
from flatcal.plan import Plan


def test_memory_and_open_files_do_not_grow_with_the_night(tmp_path):
    """Of 60 and of 300 frames; a frame more may cost some kB of facts and records, no pixels."""
    peaks = []
    for n in (60, 300):
        raw, out = tmp_path / f"raw{n}", tmp_path / f"out{n}"
        make_small_night(raw, n, shape=(200, 300))
        # The limit bounds the bands in which frames are combined, which else grow with them.
        took = peak_of_a_run(raw, out, n_files=64, memory=8 * 2**20)
        assert took["failed"] == 0
        assert took["most_files_open"] < 64
        peaks.append(took["peak_mb"])
    assert peaks[1] - peaks[0] < 240 * 0.06  # half of the 0.12 MB of a frame's raw pixels


def shuffled(plan: Plan, seed: int) -> Plan:
    """The same plan with its frames in another order.

    The inputs of a master stay in theirs, which the plan sets: the master tells them in it.
    """
    rng = np.random.default_rng(seed)
    frames = tuple(plan.frames[i] for i in rng.permutation(len(plan.frames)))
    return plan.model_copy(update={"frames": frames})


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_the_bytes_are_the_same_on_any_threads_and_in_any_order(undisturbed, tmp_path, jobs):
    out = tmp_path / "out"
    run_plan(shuffled(undisturbed.plan, jobs), out, jobs=jobs)
    found = {name: content for name, content in contents(out).items() if name.endswith(".fits")}
    assert found == {n: c for n, c in undisturbed.wanted.items() if n.endswith(".fits")}


def test_files_that_are_listed_in_another_order_give_the_same_bytes(
    undisturbed, tmp_path, monkeypatch
):
    """The order in which a folder lists its files is that of their making on many systems."""
    walk = os.walk

    def walk_backwards(*arguments, **options):
        for folder, subfolders, names in walk(*arguments, **options):
            yield folder, subfolders, sorted(names, reverse=True)

    monkeypatch.setattr(os, "walk", walk_backwards)
    raw = tmp_path / "raw"
    raw.mkdir()
    for path in sorted(undisturbed.raw.iterdir(), reverse=True):
        (raw / path.name).write_bytes(path.read_bytes())
    again = run_plan(undisturbed.plan.model_copy(update={"raw": str(raw)}), tmp_path / "out")
    assert {o.errors[0].slug for o in again.failed} == {"file-changed"}  # by their time alone
    fresh = ccdp.build_plan(raw, undisturbed.plan.config)
    run_plan(fresh, tmp_path / "out")
    found = contents(tmp_path / "out")
    assert all(found[n] == c for n, c in undisturbed.wanted.items() if n.endswith(".fits"))


# -- the functions for notebooks from many threads ---------------------------------------


def ccd(level: float, seed: int) -> CCDData:
    """A frame with overscan columns 60 to 79, mask and header."""
    rng = np.random.default_rng(seed)
    data = rng.normal(level, 10, (50, 80))
    data[:, 60:] = rng.normal(100, 3, (50, 20))
    frame = CCDData(data, unit=u.adu, meta={"EXPTIME": 60.0, "OBJECT": "x"})
    frame.mask = data > level + 30
    return frame


FRAME, BIAS, DARK = ccd(5000, 1), ccd(1000, 2), ccd(1100, 3)
FLAT = CCDData(np.linspace(0.8, 1.2, 4000).reshape(50, 80), unit=u.one)
STACK = [ccd(1000, seed) for seed in range(10, 17)]
for one in STACK:
    one.mask[:3, :3] = True  # no frame has a good value there
COMBINER = ccdp.Combiner(STACK)
SHUTTER = ccdp.measure_shutter(
    [ccd(2000, seed)[:, :60] for seed in (20, 21)],
    [ccd(20_000, seed)[:, :60] for seed in (22, 23)],
    short_exposure_time_s=1.0, long_exposure_time_s=10.0,
)  # fmt: skip
RNG = np.random.default_rng(30)
PAIRS = [tuple(RNG.poisson(n, (2, 128, 128)) + 100.0) for n in (500, 2000, 8000, 20_000)]
BIASES = RNG.normal(100, 5, (2, 128, 128))
WCS_CARDS = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "MJD-OBS": 60000.0, "DATE-OBS": "23/02/25"}


def clip_by_astropy() -> CCDData:
    combiner = ccdp.Combiner(STACK)
    combiner.sigma_clipping(func=lambda data, axis: np.ma.median(data, axis=axis))
    return combiner.average_combine()


def level(frame: CCDData) -> float:
    return float(1 / np.median(frame))


MANY_AT_ONCE = {
    "subtract_overscan": lambda: ccdp.subtract_overscan(FRAME, overscan=FRAME[:, 60:]),
    "trim_image": lambda: ccdp.trim_image(FRAME, fits_section="[1:60,1:50]"),
    "subtract_bias": lambda: ccdp.subtract_bias(FRAME, BIAS),
    "subtract_dark": lambda: ccdp.subtract_dark(
        FRAME, DARK, exposure_time="EXPTIME", exposure_unit=u.s
    ),
    "flat_correct": lambda: ccdp.flat_correct(FRAME, FLAT),
    "gain_correct": lambda: ccdp.gain_correct(FRAME, 1.5 * u.electron / u.adu),
    "create_deviation": lambda: ccdp.create_deviation(
        FRAME, gain=1.5 * u.electron / u.adu, readnoise=6 * u.electron, disregard_nan=True
    ),
    "ccd_process": lambda: ccdp.ccd_process(FRAME, oscan="[61:80,1:50]", trim="[1:60,1:50]"),
    "correct_linearity": lambda: ccdp.correct_linearity(FRAME, [1e-6]),
    "correct_shutter": lambda: ccdp.correct_shutter(FRAME[:, :60], SHUTTER, 60.0),
    "find_nearest_dark_exposure": lambda: CCDData(
        [ccdp.find_nearest_dark_exposure(FRAME, [30.0, 60.0])], unit=u.s
    ),
    "combine": lambda: ccdp.combine(STACK, sigma_clip=True),
    "combine scaled": lambda: ccdp.combine(STACK, scale=level),
    "median": lambda: ccdp.Combiner(STACK).median_combine(),
    "clip": clip_by_astropy,
    "shared median": lambda: COMBINER.median_combine(median_func=np.ma.median),
    "shared average": lambda: COMBINER.average_combine(uncertainty_func=np.nanstd),
    "shared sum": COMBINER.sum_combine,
    "wcs_of_header": lambda: CCDData([float(wcs_of_header(WCS_CARDS).naxis)], unit=u.one),
    "measure_photon_transfer": lambda: CCDData(
        [ccdp.measure_photon_transfer(PAIRS, *BIASES).gain_electron_per_adu], unit=u.one
    ),
}
if find_spec("astroscrappy"):
    MANY_AT_ONCE["cosmicray_lacosmic"] = lambda: ccdp.cosmicray_lacosmic(FRAME)


def same(one: CCDData, other: CCDData) -> bool:
    deviations = [np.asarray(getattr(c.uncertainty, "array", 0.0)) for c in (one, other)]
    masks = [np.asarray(False if c.mask is None else c.mask) for c in (one, other)]
    return (
        np.array_equal(one.data, other.data, equal_nan=True)
        and np.array_equal(*deviations, equal_nan=True)
        and np.array_equal(*masks)
        and one.unit == other.unit
        and dict(one.meta) == dict(other.meta)
    )


def test_functions_from_many_threads_are_right_and_leave_their_inputs_alone():
    alone = {name: function() for name, function in MANY_AT_ONCE.items()}
    before, filters = copy.deepcopy([FRAME, BIAS, DARK, FLAT, *STACK]), list(warnings.filters)
    names = list(MANY_AT_ONCE) * 12
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda name: MANY_AT_ONCE[name](), names))
    wrong = {n for n, result in zip(names, together, strict=True) if not same(result, alone[n])}
    assert wrong == set()
    assert warnings.filters == filters
    now = [FRAME, BIAS, DARK, FLAT, *STACK]
    assert all(same(one, other) for one, other in zip(before, now, strict=True))


CALLS_WITH_FUNCTIONS = {
    "scaling": lambda act: setattr(ccdp.Combiner(STACK), "scaling", act),
    "median": lambda act: COMBINER.median_combine(median_func=act),
    "average": lambda act: COMBINER.average_combine(uncertainty_func=act),
    "clip": lambda act: ccdp.Combiner(STACK).sigma_clipping(func=act),
}


@pytest.mark.parametrize("name", CALLS_WITH_FUNCTIONS)
def test_calls_that_overlap_leave_the_filters_of_warnings_as_they_are(name):
    """The first ends within the second, unless that waits for it."""
    filters, call = list(warnings.filters), CALLS_WITH_FUNCTIONS[name]
    first_in, second_in, first_done = Event(), Event(), Event()

    def act_first(data: np.ndarray, axis: int | None = None) -> np.ndarray:
        first_in.set()
        second_in.wait(0.2)
        return np.ma.median(data, axis=axis)

    def act_second(data: np.ndarray, axis: int | None = None) -> np.ndarray:
        second_in.set()
        first_done.wait(0.2)
        return np.ma.median(data, axis=axis)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(call, act_first)
        assert first_in.wait(60)
        second = pool.submit(call, act_second)
        first.result(60)
        first_done.set()
        second.result(60)
    assert warnings.filters == filters


def test_folders_and_files_from_many_threads(undisturbed):
    files = sorted(undisturbed.raw.glob("bias*.fits"))
    shared, filters = ccdp.ImageFileCollection(undisturbed.raw), list(warnings.filters)

    def read(_number: int) -> tuple[list[str], list[str], float, float, int]:
        collection = ccdp.ImageFileCollection(undisturbed.raw)
        combined = ccdp.combine([str(file) for file in files], unit="adu", method="median")
        return (
            collection.files,
            list(shared.files_filtered(imagetyp="BIAS")) + shared.values("imagetyp", unique=True),
            sum(float(frame.data.sum()) for frame in shared.ccds(imagetyp="BIAS")),
            float(combined.data.sum()),
            len(ccdp.build_plan(undisturbed.raw).frames),
        )

    before = {path: path.read_bytes() for path in undisturbed.raw.iterdir()}
    alone = read(0)
    with ThreadPoolExecutor(8) as pool:
        assert all(result == alone for result in pool.map(read, range(16)))
    assert warnings.filters == filters
    assert {path: path.read_bytes() for path in Path(undisturbed.raw).iterdir()} == before
