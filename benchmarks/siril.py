"""Siril: a stack of flats with winsorised sigma clipping, the default of its scripts.

Its k-MAD clipping is nearer to what the others do, but took three times as long. Its numbers go
from 0 to 1, so it is given the same flats over 65535; it brings its result to the level of a
reference frame, so results are compared after division by their medians. The time of an empty
script is subtracted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.contenders import Contender, find_program, make_home
from benchmarks.measure import Measure
from benchmarks.places import Places
from benchmarks.process import Ended, ProgramError, run_program

_EMPTY_RUNS = 3

_START = """\
requires 1.0.0
set32bits
setext fit
"""
_STACK = "stack flat_ rej w 5 5 -norm=mul -out=master\n"


def make_combination() -> Contender:
    """The combination of ten flats."""

    def run(places: Places, out: Path, _keep: bool) -> Measure:
        (out / "home").mkdir()
        for path in places.night("cg16m").siril.iterdir():
            # In a fresh folder: beside the frames it keeps statistics that it would find again.
            (out / path.name).hardlink_to(path)
        start = median(_call("", out).measure.seconds for _ in range(_EMPTY_RUNS))
        ended = _call(_STACK, out)
        if not (out / "master.fit").is_file():
            raise ProgramError(f"Siril has written no stack:\n{ended.text}")
        (out / "master.fit").rename(out / "master.fits")
        return replace(ended.measure, seconds=ended.measure.seconds - start)

    return Contender("Siril", run, _missing)


def _missing() -> str:
    return "" if find_program("siril-cli") else "not installed"


def _call(script: str, out: Path) -> Ended:
    (out / "script.ssf").write_text(_START + script)
    command = [find_program("siril-cli"), "-d", out, "-s", out / "script.ssf"]
    return run_program(command, out, environment=make_home(out / "home"))
