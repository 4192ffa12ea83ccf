"""The memory of a run: what is projected, what is refused, and what is really taken."""

from __future__ import annotations

import gc
import re
import tracemalloc
from contextlib import suppress
from threading import Barrier, BrokenBarrierError

import numpy as np
import pytest
import test_engine
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import SETTINGS, poke

import flatcal.engine.store
from flatcal.cli_options import parse_size
from flatcal.engine.run import run_plan
from flatcal.errors import ConfigError
from flatcal.frame import Kind, Setup, Storage
from flatcal.plan import FramePlan, MasterPlan, Plan, Step
from flatcal.planning import build_plan
from flatcal.projection import Projection, Stage, project_memory
from flatcal.recipe import Config, parse_config

night = test_engine.night


def plan_of(raw, text=SETTINGS):
    return build_plan(raw, parse_config(text, "n"))


# -- figures by hand ---------------------------------------------------------------------

# Masters, result, least and most of a thread. The images have 24 x 30 = 720 pixels, of float32:
# a master has value, uncertainty and flags, 10 bytes; a result has the average, its error, a
# count, flags and a mask, 13 bytes; a row of three frames has 90 values and marks of bad ones, 30
# errors and counts, and 30 raw values. Where outliers of a flat are rejected with their neighbours,
# a row above and one below a band are read as well, and each row has the average, error and count
# of the band with them, 12 bytes (20 of float64) a pixel: 3 and 26 rows of 1110 (1830) bytes. A
# frame in work has value, uncertainty, flags and a mask, 11 bytes.
FLOAT32 = {
    "master_bias": (0, 9360, 750, 18_000),
    "master_dark_10s": (0, 9360, 750, 18_000),
    "master_dark_60s": (7200, 9360, 750, 18_000),
    "master_flat_g": (7200, 9360, 3330, 28_860),
    "master_flat_r": (14_400, 9360, 3330, 28_860),
    "flat": (0, 0, 22_320, 22_320),
    "science": (0, 0, 29_520, 29_520),
}
FLOAT64 = {
    "master_bias": (0, 15_120, 1230, 29_520),
    "master_dark_10s": (0, 15_120, 1230, 29_520),
    "master_dark_60s": (12_960, 15_120, 1230, 29_520),
    "master_flat_g": (12_960, 15_120, 5490, 47_580),
    "master_flat_r": (25_920, 15_120, 5490, 47_580),
    "flat": (0, 0, 39_600, 39_600),
    "science": (0, 0, 52_560, 52_560),
}
NO_UNCERTAINTY = {
    name: (masters, 6480 if result else 0, *thread)
    for name, (masters, result, *thread) in FLOAT32.items()
} | {"flat": (0, 0, 19_440, 19_440), "science": (0, 0, 26_640, 26_640)}


# A plane of which nothing shrinks, packed: 4.5 planes of 4 bytes to each pixel.
COMPRESSED = {
    name: (masters, result + 12_960, *thread) if result else (0, 0, *(t + 12_960 for t in thread))
    for name, (masters, result, *thread) in FLOAT32.items()
}


@pytest.mark.parametrize(
    ("output", "stages", "least"),
    [
        ("", FLOAT32, 29_520),
        ("dtype='float64'", FLOAT64, 52_560),
        ("uncertainty=false", NO_UNCERTAINTY, 26_640),
        ("compress=true", COMPRESSED, 42_480),
    ],
)
def test_a_small_night_by_hand(night, output, stages, least):
    projection = project_memory(plan_of(night, f"{SETTINGS}[output]\n{output}\n"))
    figures = {
        s.what: (s.masters_bytes, s.result_bytes, s.least_bytes, s.most_bytes)
        for s in projection.stages
    }
    assert figures == stages
    assert projection.least_bytes == least


def test_what_a_stage_gives_its_threads_by_hand():
    stage = Stage("x", masters_bytes=100, result_bytes=50, least_bytes=10, most_bytes=40)
    given_of = {160: (1, 10, 100), 175: (2, 12, 101), 200: (4, 12, 102), 999: (4, 40, 789)}
    for limit, (threads, each, room) in given_of.items():
        assert stage.threads(4, limit) == threads
        assert stage.thread_bytes(threads, limit) == each
        assert stage.room_bytes(4, limit) == room
    # The masters, the result, and four threads with what they want at the most.
    assert Projection((stage,)).peak_bytes(4, 999) == 100 + 50 + 160


@pytest.mark.parametrize(
    ("n", "columns", "most"),
    # 12 MiB; 64 rows of 4096 pixels of each frame; 96 MiB.
    [(3, 4096, 12 << 20), (40, 4096, 64 * 4096 * (40 * 5 + 10)), (200, 4096, 96 << 20)],
)
def test_bands_are_higher_where_many_frames_are_combined(n, columns, most):
    projection = project_memory(make_plan(n, (4096, columns), "float32", uncertainty=True))
    assert projection.stage("master_bias").most_bytes == most


# -- limits ------------------------------------------------------------------------------


def make_plan(n, shape, dtype, uncertainty):
    """A plan without files: n each of bias, dark, flat and science, each calibrated by all."""
    names = {kind: f"master_{kind}" for kind in (Kind.BIAS, Kind.DARK, Kind.FLAT)}
    bias, dark, flat = (
        Step(name=step, master=names[kind])
        for step, kind in zip(
            ("subtract_bias", "subtract_dark", "flat_correct"), names, strict=True
        )
    )
    steps = {Kind.FLAT: (bias, dark), Kind.SCIENCE: (bias, dark, flat)}
    config = Config().with_output(dtype=dtype, uncertainty=uncertainty)
    frames = tuple(
        FramePlan(
            file=f"{kind}{i}", kind=kind, shape=shape, steps=steps.get(kind, ()),
            action="calibrate" if kind in steps else "combine",
            storage=Storage(0, 2880, True, 5760, 0),
        )
        for kind in Kind
        for i in range(n)
    )  # fmt: skip
    masters = tuple(
        MasterPlan(
            name=name, kind=kind, shape=shape, output=f"masters/{name}.fits",
            setup=Setup("camera", shape, (1, 1), "", "", "adu"),
            inputs=tuple(f"{kind}{i}" for i in range(n)),
            steps=(bias,) if kind is Kind.DARK else (),
        )
        for kind, name in names.items()
    )  # fmt: skip
    return Plan(raw="/raw", config=config, masters=masters, frames=frames)


@given(
    st.integers(1, 60),
    st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    st.sampled_from(["float32", "float64"]),
    st.booleans(),
    st.integers(1, 128),
    st.floats(1, 50),
)
@settings(max_examples=60)
def test_a_limit_that_is_not_below_the_least_is_kept(n, shape, dtype, uncertainty, jobs, factor):
    projection = project_memory(make_plan(n, shape, dtype, uncertainty))
    limit = int(projection.least_bytes * factor) + 1
    projection.require(limit)
    assert projection.peak_bytes(jobs, limit) <= limit
    for stage in projection.stages:
        threads = stage.threads(jobs, limit)
        each = stage.thread_bytes(threads, limit)
        assert 1 <= threads <= jobs
        assert stage.least_bytes <= each <= stage.most_bytes
        assert stage.masters_bytes <= stage.room_bytes(jobs, limit)
        assert stage.room_bytes(jobs, limit) + stage.result_bytes + threads * each <= limit
    assert projection.peak_bytes(1, projection.least_bytes) == projection.least_bytes


def needs_of(plan):
    """What each master and frame needs at the least by itself."""
    nothing = project_memory(plan, 0)
    assert nothing.stages == ()
    return {**nothing.large_masters, **nothing.large_frames}


def test_a_plan_of_which_nothing_fits_is_refused_before_anything_is_written(night, tmp_path):
    plan = plan_of(night)
    with pytest.raises(ConfigError) as caught:
        run_plan(plan, tmp_path / "out", memory_bytes=min(needs_of(plan).values()) - 1)
    assert caught.value.slug == "memory-limit"
    assert not (tmp_path / "out").exists()
    least = project_memory(plan).least_bytes
    assert run_plan(plan, tmp_path / "out", memory_bytes=least).failed == ()


def test_what_does_not_fit_by_itself_fails_and_the_rest_is_made(night, tmp_path):
    plan = plan_of(night)
    needs = needs_of(plan)
    assert max(needs.values()) == project_memory(plan).least_bytes
    limit = max(needs.values()) - 1
    large = {name for name, needed in needs.items() if needed > limit}
    kinds = {frame.file: frame.kind for frame in plan.frames}
    assert {kinds[name] for name in large} == {Kind.SCIENCE}
    result = run_plan(plan, tmp_path / "out", memory_bytes=limit)
    assert {o.file: [e.slug for e in o.errors] for o in result.failed} == {
        name: ["memory-limit"] for name in large
    }
    whole = run_plan(plan, tmp_path / "whole")
    for output in whole.made:
        made, expected = tmp_path / "out" / output, tmp_path / "whole" / output
        is_large = any(f.output == output for f in plan.frames if f.file in large)
        assert made.exists() is not is_large
        assert is_large or made.read_bytes() == expected.read_bytes()
    # With more memory the rest is made, and nothing else.
    again = run_plan(plan, tmp_path / "out", memory_bytes=limit + 1)
    assert (again.failed, len(again.made)) == ((), len(large))


def test_the_frames_of_a_master_that_does_not_fit_fail_with_it(night, tmp_path):
    plan = plan_of(night)
    bias = plan.master("master_bias")
    first = next(frame for frame in plan.frames if frame.file in bias.inputs)
    # So many that one row of each is more than a frame; the files need not be there.
    copies = [first.model_copy(update={"file": f"copy{n}.fits"}) for n in range(1000)]
    larger = bias.model_copy(update={"inputs": tuple(copy.file for copy in copies)})
    plan = plan.model_copy(
        update={
            "masters": tuple(larger if m is bias else m for m in plan.masters),
            "frames": (*plan.frames, *copies),
        }
    )
    limit = 30_000
    assert [name for name, needed in needs_of(plan).items() if needed > limit] == [bias.name]
    result = run_plan(plan, tmp_path / "out", memory_bytes=limit)
    errors = {o.file: [e.slug for e in o.errors] for o in result.failed}
    users = {f.file for f in plan.frames if any(s.master == bias.name for s in f.steps)}
    assert {*larger.inputs, *users} <= set(errors)
    assert {slug for slugs in errors.values() for slug in slugs} == {"memory-limit"}


def test_a_frame_that_does_not_fit_takes_no_threads_from_the_others():
    plan = make_plan(3, (100, 100), "float32", uncertainty=True)
    huge = plan.frames[-1].model_copy(update={"file": "huge", "shape": (16_000, 16_000)})
    both = plan.model_copy(update={"frames": (*plan.frames, huge)})
    limit = 64 << 20
    alone, beside = project_memory(plan, limit), project_memory(both, limit)
    assert beside.stages == alone.stages
    assert set(beside.large_frames) == {"huge"}
    masters = sum(10 * 100 * 100 for _ in plan.masters)
    # Its values and bits as a whole, where its median is not bracketed.
    assert beside.large_frames["huge"] == 5 * 16_000 * 16_000 + masters
    beside.require(limit)
    # Within as much memory as it needs it is one of them.
    assert project_memory(both, 2**40) == project_memory(both)


@given(st.integers(10_000, 2**42), st.floats(0, 1))
def test_the_refusal_tells_both_figures_and_the_first_is_enough(least, share):
    limit = min(int(share * least), least - 1)
    with pytest.raises(ConfigError) as caught:
        Projection((Stage("x", 0, 0, least, least),)).require(limit)
    text = caught.value.text
    needed, given_ = re.search(r"at least (.+?) of memory.* limit of (.+?);", text).groups()
    # Whoever types the figure that is told must not be refused again.
    assert least <= parse_size(needed) <= 1.02 * least + 2**20 / 100
    assert needed != given_


# -- what is really taken ----------------------------------------------------------------

SHAPE = (512, 2048)
# Of the run: headers and the sample of a median; of each thread: raw and swapped rows.
RUN_BYTES, THREAD_BYTES = 2_000_000, 1_000_000
NO_DARKS = "[dark]\nrequired=false\n[science]\nflat_required=false\n"


@pytest.fixture(scope="module")
def put(tmp_path_factory, put_frame):
    """Write frames of noise about a level into folders of their own.

    Code that is loaded when it is first used is loaded here, or it would count as memory of a run.
    """
    root, rng = tmp_path_factory.mktemp("large"), np.random.default_rng(8)

    def write(night, name, kind, exposure, level, shape=SHAPE, spread=30, **cards):
        data = rng.integers(level, level + spread, shape, np.uint16)
        return put_frame(root / night / name, kind, exposure, data, BUNIT="adu", **cards)

    for kind, level in (("BIAS", 900), ("DARK", 1000), ("FLAT", 20_000), ("LIGHT", 1300)):
        write("small", f"{kind}.fits", kind, 10.0 * (kind != "BIAS"), level, (300, 2000))
    for i, text in enumerate((SETTINGS, "", SETTINGS + NO_DARKS)):
        run_plan(plan_of(root / "small", text), root / f"out-{i}")
    return write


@pytest.fixture(scope="module")
def many(put):
    """Many frames of one kind."""
    paths = [put("many", f"d{i}.fits", "DARK", 10.0, 1000, (128, 2048)) for i in range(30)]
    return paths[0].parent


@pytest.fixture(scope="module")
def filters(put):
    """Four filters, each with its own exposure time, so with its own dark and flat."""
    for i, name in enumerate("abcd"):
        exposure = 10.0 * (i + 1)
        put("filters", f"d{name}.fits", "DARK", exposure, 1000)
        put("filters", f"f{name}.fits", "FLAT", exposure, 20_000, FILTER=name)
        path = put("filters", f"s{name}.fits", "LIGHT", exposure, 1300, FILTER=name)
    return path.parent


@pytest.fixture(scope="module")
def mosaic(put, tmp_path_factory):
    """Four detectors in each file, each with its own dark and flat."""
    folder, rng = tmp_path_factory.mktemp("mosaic"), np.random.default_rng(9)
    for kind, level in (("DARK", 1000), ("FLAT", 20_000), ("LIGHT", 1300)):
        cards = {"IMAGETYP": kind, "EXPTIME": 10.0, "FILTER": "r", "BUNIT": "adu"}
        chips = [
            fits.ImageHDU(rng.integers(level, level + 30, SHAPE, np.uint16), name=f"CHIP{n}")
            for n in range(4)
        ]
        for number in range(1 + (kind == "LIGHT")):
            primary = fits.PrimaryHDU(header=fits.Header(cards))
            fits.HDUList([primary, *chips]).writeto(folder / f"{kind}{number}.fits")
    return folder


def assert_within(plan, out, jobs, factor):
    """Run with a limit of so many times the least, and look at all memory that was taken."""
    limit = int(project_memory(plan).least_bytes * factor)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = run_plan(plan, out, jobs=jobs, memory_bytes=limit)
        taken = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert result.failed == ()
    over = taken - limit - RUN_BYTES - THREAD_BYTES * jobs
    pixels = SHAPE[0] * SHAPE[1]
    assert over <= 0, f"{over} bytes, {over / pixels:.1f} a pixel, over the limit of {limit}"


@pytest.mark.parametrize(("jobs", "factor"), [(1, 1), (2, 2), (2, 10)])
def test_the_bands_of_many_frames_keep_the_limit(many, tmp_path, jobs, factor):
    assert_within(plan_of(many), tmp_path / "out", jobs, factor)


@pytest.mark.parametrize(("jobs", "factor"), [(1, 1), (1, 2)])
def test_a_night_keeps_the_limit(filters, tmp_path, jobs, factor):
    assert_within(plan_of(filters), tmp_path / "out", jobs, factor)


def write_together(monkeypatch, folder, n):
    """Let outputs in a folder be written when so many are to be, or after a while."""
    all_there = Barrier(n)

    def wait_in(name):
        real = getattr(flatcal.engine.store, name)

        def write(path, *planes, **options):
            if path.parent.name == folder:
                with suppress(BrokenBarrierError):
                    all_there.wait(1.5)
            return real(path, *planes, **options)

        monkeypatch.setattr(flatcal.engine.store, name, write)

    wait_in("write_image")  # masters
    wait_in("writing_image")  # frames


def test_frames_with_different_masters_at_once_keep_the_limit(filters, tmp_path, monkeypatch):
    """Each thread holds the masters of its frame, also after the shelf has dropped them."""
    write_together(monkeypatch, "science", 4)
    assert_within(plan_of(filters), tmp_path / "out", jobs=4, factor=2)


def test_masters_that_wait_for_a_slow_disk_count(put, tmp_path, monkeypatch):
    """The first two of three are still being written when the last one is made."""
    write_together(monkeypatch, "masters", 3)
    for i in range(3):
        path = put("slow", f"d{i}.fits", "DARK", 10.0 * (i + 1), 1000)
    assert_within(plan_of(path.parent), tmp_path / "out", jobs=3, factor=1)


def test_frames_of_two_sizes_keep_the_limit(put, tmp_path):
    for name, shape in (("a", SHAPE), ("b", (340, 2000))):
        put("sizes", f"b{name}.fits", "BIAS", 0.0, 1000, shape)
        for i in range(2):
            path = put("sizes", f"s{name}{i}.fits", "LIGHT", 10.0, 1300, shape)
    assert_within(plan_of(path.parent, SETTINGS + NO_DARKS), tmp_path / "out", jobs=2, factor=1.5)


def test_an_uncertainty_from_the_scatter_keeps_the_limit(put, tmp_path):
    for i in range(3):
        path = put("scatter", f"d{i}.fits", "DARK", 10.0, 1000)
        poke(path, 3, 3, 65535)
    assert_within(plan_of(path.parent, ""), tmp_path / "out", jobs=1, factor=1)


def test_the_median_of_few_different_values_keeps_the_limit(put, tmp_path):
    """A sample cannot bracket it: a third of all pixels have the very same value."""
    path = put("integers", "d.fits", "DARK", 10.0, 1000, spread=3)
    assert_within(plan_of(path.parent), tmp_path / "out", jobs=1, factor=1)


@pytest.mark.parametrize(("jobs", "factor"), [(1, 1), (2, 2)])
def test_the_images_of_a_mosaic_keep_the_limit_of_one_at_a_time(mosaic, tmp_path, jobs, factor):
    plan = plan_of(mosaic)
    # The masters of one detector, of four.
    (pixels,) = {master.shape[0] * master.shape[1] for master in plan.masters}
    assert len(plan.masters) == 8
    assert project_memory(plan).least_bytes < 4 * 10 * pixels
    assert_within(plan, tmp_path / "out", jobs, factor)


def test_compressed_outputs_keep_the_limit(filters, tmp_path):
    text = SETTINGS + "[output]\ncompress=true\n"
    assert_within(plan_of(filters, text), tmp_path / "out", jobs=2, factor=1)


def as_tiles(path, data, header):
    hdu = fits.CompImageHDU(data, header, compression_type="RICE_1", tile_shape=(100, 300))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)


def as_doubles(path, data, header):
    fits.PrimaryHDU(data.astype(float), header).writeto(path)


def as_scaled(path, data, header):
    hdu = fits.PrimaryHDU(data.astype(np.int32), header)
    hdu.header["BSCALE"] = 0.5  # the values double to make the file's integers
    hdu.data *= 2
    fits.PrimaryHDU(hdu.data, hdu.header).writeto(path)


@pytest.mark.parametrize("overscan", ["none", "[2001:2048,1:512]"])
@pytest.mark.parametrize("write", [as_tiles, as_doubles, as_scaled])
def test_raw_frames_that_astropy_reads_keep_the_limit(put, tmp_path, write, overscan):
    """Of these all of a frame is unpacked at once, in two types one after the other."""
    rng = np.random.default_rng(4)
    data = rng.integers(1300, 1330, SHAPE, np.uint16)
    data[3, 3] = 65535  # so that the master has flags
    (tmp_path / "raw").mkdir()
    for i, kind in enumerate(("DARK", "LIGHT", "LIGHT")):
        header = fits.Header({"IMAGETYP": kind, "EXPTIME": 10.0, "BUNIT": "adu"})
        write(tmp_path / f"raw/{i}.fits", data, header)
    text = SETTINGS + f'overscan_section="{overscan}"\ntrim_section="[1:2000,1:512]"\n' + NO_DARKS
    assert_within(plan_of(tmp_path / "raw", text), tmp_path / "out", jobs=2, factor=1)


def test_frames_in_which_cosmic_rays_are_looked_for_keep_the_limit(filters, tmp_path):
    text = SETTINGS + '[cosmic_rays]\nfind="flag"\n'
    assert_within(plan_of(filters, text), tmp_path / "out", jobs=1, factor=1)


def test_flats_of_a_colour_matrix_keep_the_limit(put, tmp_path):
    for i in range(3):
        put("colour", f"d{i}.fits", "DARK", 10.0, 1000)
        path = put("colour", f"f{i}.fits", "FLAT", 10.0, 20_000, FILTER="a", BAYERPAT="RGGB")
    assert_within(plan_of(path.parent), tmp_path / "out", jobs=2, factor=1)
