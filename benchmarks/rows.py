"""The rows: what is measured, who takes part, what must agree, and the goals."""

from __future__ import annotations

from pathlib import Path

from benchmarks import disk, iraf, siril
from benchmarks.contenders import Contender, by_ccdproc, by_flatcal, by_index, by_worker
from benchmarks.lines import Bounded, Costs, Faster, Steady, Within
from benchmarks.places import Places
from benchmarks.row import Check, Need, Row, agree, need, same_bits

MIB = 2**20
# What the program and its libraries take beside the arrays that the limit is for.
_PROGRAM_BYTES = 250_000_000

CG16M = need("make_night", camera="cg16m")
LFC = need("make_night", camera="lfc")


def _masters(camera: str, *, planes: bool) -> Need:
    return need("make_masters", camera=camera, planes=planes)


def _calibrated(camera: str) -> tuple[Need, ...]:
    """Masters and calibrated flats as plain images."""
    return (
        _masters(camera, planes=False),
        need("make_plain_masters", camera=camera),
        need("make_flats", camera=camera),
        need("make_plain_flats", camera=camera),
    )


def _loop(name: str, camera: str, *, planes: bool = False) -> Contender:
    return by_worker(name, "flatcal_tasks.calibrate_flats", camera=camera, planes=planes)


_GUIDE, _FLOAT32 = "ccdproc, as in the guide", "ccdproc, writing float32"


def _ccdproc_loops(camera: str) -> list[Contender]:
    """The guide's loop, which writes float64, and the same with half the bytes to write."""
    return [
        by_ccdproc(name, "ccdproc_tasks.calibrate_flats", camera=camera, float32=name == _FLOAT32)
        for name in (_GUIDE, _FLOAT32)
    ]


# Two roundings to float32 of values below 65536.
_ROUNDING_ADU = 0.01

EXAMPLE_2_LOOP = Row(
    "example2-loop",
    "Example 2: calibrate ten flats of 4096 x 4109, trim, bias, scaled dark; write float32",
    (
        _loop("flatcal, data", "cg16m"),
        *_ccdproc_loops("cg16m"),
        iraf.make_loop(),
        disk.make_loop("cg16m"),
    ),
    (
        Faster("flatcal, data", _GUIDE, 10),
        Faster("flatcal, data", _FLOAT32),
        Faster("flatcal, data", "IRAF", 8),
        Costs("flatcal, data", "dd", 1.5),
    ),
    (
        agree("flatcal, data", _GUIDE, "flats", limit=_ROUNDING_ADU),
        agree("flatcal, data", _FLOAT32, "flats", limit=_ROUNDING_ADU),
        agree("flatcal, data", "IRAF", "flats", limit=_ROUNDING_ADU),
    ),
    (CG16M, *_calibrated("cg16m")),
)

EXAMPLE_2_PLANES = Row(
    "example2-planes",
    "The same with the planes UNCERT and MASK",
    (_loop("flatcal, UNCERT + MASK", "cg16m", planes=True), _loop("flatcal, data", "cg16m")),
    (Costs("flatcal, UNCERT + MASK", "flatcal, data", 2.5),),
    (agree("flatcal, UNCERT + MASK", "flatcal, data", "flats", limit=0),),
    (CG16M, _masters("cg16m", planes=True), _masters("cg16m", planes=False)),
)

EXAMPLE_1_LOOP = Row(
    "example1-loop",
    "Example 1: calibrate ten flats of 4128 x 2080, overscan, trim, unscaled dark",
    (
        _loop("flatcal, data", "lfc"),
        *_ccdproc_loops("lfc"),
    ),
    (Faster("flatcal, data", _GUIDE, 8), Faster("flatcal, data", _FLOAT32)),
    tuple(
        agree("flatcal, data", rival, "flats", limit=_ROUNDING_ADU) for rival in (_GUIDE, _FLOAT32)
    ),
    (LFC, _masters("lfc", planes=False), need("make_plain_masters", camera="lfc")),
)

_ENGINE, _NOTEBOOK = "flatcal's engine", "flatcal.combine"

COMBINE_10 = Row(
    "combine-10",
    "Combine ten flats over their medians, 5 sigma about the median by the MAD, average",
    (
        by_worker(_ENGINE, "engine_tasks.combine_ten_flats"),
        by_worker(_NOTEBOOK, "notebook_tasks.combine_files", package="flatcal"),
        by_ccdproc("ccdproc", "notebook_tasks.combine_files", package="ccdproc"),
        siril.make_combination(),
        iraf.make_combination(),
    ),
    (
        Faster(_ENGINE, "ccdproc", 80),
        Faster(_ENGINE, "Siril", 20),
        Faster(_ENGINE, "IRAF", 14),
        Faster(_ENGINE, "ccdproc", part="combination", label=f"{_ENGINE}, medians known"),
        Faster(_NOTEBOOK, "ccdproc"),
    ),
    # Each rejects by another rule: ccdproc before it scales, Siril by winsorised deviations, IRAF
    # by plain ones, and flatcal.combine without the least noise that the engine knows a frame to
    # have. Where none rejects they agree to rounding.
    tuple(
        agree(_ENGINE, rival, limit=1e-5, share=0.05, worst=0.02, relative=True)
        for rival in (_NOTEBOOK, "ccdproc", "Siril", "IRAF")
    ),
    (CG16M, *_calibrated("cg16m"), need("make_siril_flats", camera="cg16m")),
)

_COUNTS = (10, 20, 40, 80)
_LIMITS = {"256 MiB": 256 * MIB, "512 MiB": 512 * MIB, "2 GiB": 2048 * MIB}


def _many(n_frames: int, limit: str) -> str:
    return f"{n_frames} frames, {limit}"


COMBINE_N = Row(
    "combine-n",
    "Combine 10, 20, 40 and 80 raw flats of 4128 x 2080 within a limit of memory",
    tuple(
        by_worker(
            _many(n_frames, limit),
            "engine_tasks.combine_many",
            n_frames=n_frames,
            memory_bytes=memory_bytes,
        )
        for limit, memory_bytes in _LIMITS.items()
        for n_frames in _COUNTS
    ),
    tuple(
        line
        for limit, memory_bytes in _LIMITS.items()
        for line in (
            Steady(f"each frame, {limit}", {_many(n, limit): n for n in _COUNTS}, 0.30),
            Bounded(
                f"peak of a run, {limit}",
                [_many(n, limit) for n in _COUNTS],
                memory_bytes + _PROGRAM_BYTES,
            ),
        )
    ),
    tuple(
        same_bits(_many(n_frames, "256 MiB"), _many(n_frames, limit))
        for n_frames in _COUNTS
        for limit in ("512 MiB", "2 GiB")
    ),
    (LFC, need("link_many_flats", counts=_COUNTS)),
)


def _run_night(name: str, *, planes: bool, night_of: str = "cg16m") -> Contender:
    def arguments(places: Places, out: Path) -> list[str]:
        night = places.night(night_of)
        return ["run", str(night.raw), str(out), "-c", str(night.config(planes=planes))]

    return by_flatcal(name, arguments)


_NIGHT_PLANES, _NIGHT_DATA = "flatcal run, UNCERT + MASK", "flatcal run, data"

NIGHT = Row(
    "night",
    "A night of Example 2, 33 frames: masters, flats, master flat, science",
    (
        _run_night(_NIGHT_PLANES, planes=True),
        _run_night(_NIGHT_DATA, planes=False),
        by_ccdproc("ccdproc", "ccdproc_tasks.reduce_night"),
    ),
    (Faster(_NIGHT_PLANES, "ccdproc", 35), Faster(_NIGHT_DATA, "ccdproc", 35)),
    (
        agree(_NIGHT_PLANES, _NIGHT_DATA, "masters", "flats", "science", limit=0),
        # Of few frames the MAD is now and then far too small. flatcal knows the least noise
        # that a frame has and rejects less, so the masters differ in some pixels.
        agree(_NIGHT_DATA, "ccdproc", "flats", limit=0.05, share=0.05, worst=50),
        agree(_NIGHT_DATA, "ccdproc", "science", limit=0.05, share=0.12, worst=50),
    ),
    (CG16M, _masters("cg16m", planes=False), need("make_plain_masters", camera="cg16m")),
    most_rounds=3,
)

_MOSAIC, _CHIPS = "flatcal run, a file of two chips", "flatcal run, a file for each chip"

MOSAIC = Row(
    "mosaic",
    "A night of two chips of 4128 x 2080, 23 exposures, in multi-extension files",
    (
        _run_night(_MOSAIC, planes=True, night_of="mosaic"),
        _run_night(_CHIPS, planes=True, night_of="chips"),
    ),
    (Costs(_MOSAIC, _CHIPS, 1.1),),
    (agree(_MOSAIC, _CHIPS, "masters", limit=0),),
    (need("make_mosaic"),),
    most_rounds=3,
)

_FUNCTIONS = (
    "subtract_overscan", "trim_image", "subtract_bias", "subtract_dark", "flat_correct",
    "gain_correct", "create_deviation", "ccd_process", "Combiner average", "Combiner median",
    "combine",
)  # fmt: skip

NOTEBOOK = Row(
    "notebook",
    "Functions of a notebook on one image of 4096 x 4096; the last three on five",
    tuple(
        by_worker(package, "notebook_tasks.call_functions", package=package)
        if package == "flatcal"
        else by_ccdproc(package, "notebook_tasks.call_functions", package=package)
        for package in ("flatcal", "ccdproc")
    ),
    tuple(
        Faster("flatcal", "ccdproc", 1, part=name, rival_part=name, label=name)
        for name in _FUNCTIONS
    ),
    # The mean of the flat, by which the flat is divided, is rounded to float32 in ccdproc.
    (agree("flatcal", "ccdproc", limit=0.05),),
    (CG16M, *_calibrated("cg16m")),
)

INDEX = Row(
    "index",
    "Table of the headers of 2,000 files with 73 keywords",
    (
        by_index("flatcal, new folder", "flatcal"),
        by_index("flatcal, seen before", "flatcal", again=True),
        by_index("ccdproc", "ccdproc"),
    ),
    (
        Faster("flatcal, new folder", "ccdproc", 5),
        Faster("flatcal, seen before", "ccdproc", 50),
    ),
    (
        Check("flatcal, new folder", "ccdproc", "compare_tables"),
        Check("flatcal, seen before", "ccdproc", "compare_tables"),
    ),
    (need("make_index"),),
)

HELP = Row(
    "help",
    "The whole process",
    (by_flatcal("flatcal --help", lambda _places, _out: ["--help"]),),
    (Within("flatcal --help", 0.3),),
)

_LOOP = {"camera": "cg16m", "planes": False}
_CORES = (
    ("combine ten flats", "engine_tasks.combine_flats_on", {}, 1.7),
    ("calibrate ten flats", "engine_tasks.calibrate_on", {}, 1.7),
    ("calibrate and write them", "flatcal_tasks.calibrate_flats", _LOOP, None),
)

CORES = Row(
    "cores",
    "Two threads against one",
    tuple(
        by_worker(f"{what}, -j {jobs}", task, jobs=jobs, **args)
        for what, task, args, _ in _CORES
        for jobs in (2, 1)
    ),
    tuple(Faster(f"{what}, -j 2", f"{what}, -j 1", least) for what, _, _, least in _CORES),
    tuple(same_bits(f"{what}, -j 2", f"{what}, -j 1") for what, *_ in _CORES[:2]),
    (CG16M, *_calibrated("cg16m")),
)

ROWS = (
    EXAMPLE_2_LOOP, EXAMPLE_2_PLANES, EXAMPLE_1_LOOP, COMBINE_10, COMBINE_N, NIGHT, MOSAIC,
    NOTEBOOK, INDEX, HELP, CORES,
)  # fmt: skip
