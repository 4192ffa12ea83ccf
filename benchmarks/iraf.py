"""IRAF: its tasks ccdproc and flatcombine, driven by a script on its standard input.

Its parameters are those that make it do the same, and among them the quickest: the masters are
held in memory (``max_cache``). Of the rejections sigclip and avsigclip, which took the same time,
sigclip is used. The time of a script that only loads the packages is subtracted.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.contenders import Contender, find_program, make_home
from benchmarks.measure import Measure
from benchmarks.places import Places
from benchmarks.process import Ended, ProgramError, run_program

_NAMES = ("irafcl", "ecl")
_EMPTY_RUNS = 3

_START = """\
set imtype = "fits"
noao
imred
ccdred
ccdred.pixeltype = "real real"
ccdred.verbose = no
ccdred.logfile = ""
"""

_CALIBRATE = """\
ccdproc ("@raw.list", output="@flats.list", ccdtype="", max_cache={cache}, fixpix=no, \
overscan=no, trim=yes, zerocor=yes, darkcor=yes, flatcor=no, trimsec="[1:{size},1:{size}]", \
zero="{masters}/master_bias.fits", dark="{masters}/master_dark_90s.fits")
"""

_COMBINE = """\
flatcombine ("@flats.list", output="master.fits", combine="average", reject="sigclip", \
ccdtype="", process=no, subsets=no, delete=no, scale="median", statsec="", nkeep=1, mclip=yes, \
lsigma=5., hsigma=5., blank=1.)
"""


def make_loop() -> Contender:
    """The loop of Example 2."""

    def run(places: Places, out: Path, _keep: bool) -> Measure:
        night = places.night("cg16m")
        (out / "flats").mkdir()
        raw = sorted(night.raw.glob("flat-*.fits"))
        _write_list(out / "raw.list", raw)
        _write_list(out / "flats.list", [Path("flats") / path.name for path in raw])
        size = 4096 if night.full_size else 1024
        # MB for both masters, which it would else read again for each flat.
        script = _CALIBRATE.format(cache=400, size=size, masters=night.plain / "masters")
        return _run(script, out, [out / "flats" / path.name for path in raw])

    return Contender("IRAF", run, _missing)


def make_combination() -> Contender:
    """The combination of ten flats."""

    def run(places: Places, out: Path, _keep: bool) -> Measure:
        night = places.night("cg16m")
        _write_list(out / "flats.list", sorted((night.plain / "flats").glob("*.fits")))
        return _run(_COMBINE, out, [out / "master.fits"])

    return Contender("IRAF", run, _missing)


def _missing() -> str:
    return "" if find_program(*_NAMES) else "not installed"


def _write_list(path: Path, names: list[Path]) -> None:
    path.write_text("".join(f"{name}\n" for name in names))


def _run(script: str, out: Path, written: list[Path]) -> Measure:
    _call("", out)  # makes the home folder
    start = median(_call("", out).measure.seconds for _ in range(_EMPTY_RUNS))
    ended = _call(script, out)
    for path in written:
        if not path.is_file():
            raise ProgramError(f"IRAF has not written {path.name}:\n{ended.text}")
    return replace(ended.measure, seconds=ended.measure.seconds - start)


def _call(script: str, out: Path) -> Ended:
    home = out / "home"
    home.mkdir(exist_ok=True)
    environment = {**make_home(home), "USER": os.environ.get("USER", "user")}
    program = find_program(*_NAMES)
    text = f"{_START}{script}logout\n"
    return run_program([program], out, stdin=text, environment=environment)
