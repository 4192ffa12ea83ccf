"""The least that any loop costs: reading its raw files and writing as many bytes as it writes."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.contenders import Contender, find_program
from benchmarks.measure import Measure
from benchmarks.places import Places
from benchmarks.process import run_program

_BLOCK = "bs=4M"
_TOLD = re.compile(r", ([\d.e+-]+) s, ")


def make_loop(camera: str) -> Contender:
    """``dd`` on the files of a loop over the flats."""

    def run(places: Places, out: Path, _keep: bool) -> Measure:
        night = places.night(camera)
        (out / "flats").mkdir()
        seconds = 0.0
        peak_bytes = 0
        for path in sorted(night.raw.glob("flat-*.fits")):
            size = (night.plain / "flats" / path.name).stat().st_size
            target = out / "flats" / path.name
            for arguments in (
                [f"if={path}", "of=/dev/null"],
                ["if=/dev/zero", f"of={target}", f"count={size}", "iflag=count_bytes"],
            ):
                ended = run_program(["dd", _BLOCK, *arguments], out, environment={"LC_ALL": "C"})
                # What dd tells of itself leaves out the start of its process.
                seconds += float(_find_seconds(ended.text))
                peak_bytes = max(peak_bytes, ended.measure.peak_bytes)
        return Measure(seconds, peak_bytes)

    return Contender("dd", run, lambda: "" if find_program("dd") else "not installed")


def _find_seconds(text: str) -> str:
    match = _TOLD.search(text)
    if match is None:
        raise ValueError(f"dd did not tell its time: {text}")
    return match[1]
