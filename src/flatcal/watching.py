"""At the telescope: frames are calibrated as they arrive, and a page shows the state of the night.

All that is known lies in the two folders, so a watch that was ended goes on where it was: a run
makes only what is missing, and alerts follow from the frames that are there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flatcal.engine.result import RunResult
from flatcal.engine.run import run_plan
from flatcal.errors import FrameError
from flatcal.extension import file_of
from flatcal.frame import Frame, Kind
from flatcal.index import find_frames
from flatcal.io import require_ours, write_text
from flatcal.look_cache import remembered_looks
from flatcal.plan import FramePlan, Plan
from flatcal.planning import plan_found
from flatcal.recipe import Config
from flatcal.report.html import Alert
from flatcal.report.page import require_our_report, write_report
from flatcal.survey import Look

# A flat should stay below this part of saturation: cameras bend before they saturate.
_NEAR_SATURATION: Final = 0.8
# Refusals that end by themselves when the calibration frames are taken.
WAITING: Final = frozenset(("no-dark", "no-bias", "no-flat", "dark-exposure"))
# Caveats that doubt whether a frame belongs: see `flatcal.second_look`.
_DOUBTS: Final = frozenset(("kind-doubt", "filter-doubt", "flat-level-doubt"))

# What tells pages that are open that there is a new one, and how it begins.
_VERSION_FILE: Final = "report-version.js"
_VERSION: Final = "window.flatcal_version"

_Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class State:
    """What one round of a watch found and did.

    Attributes
    ----------
    result : RunResult
        Of the run.
    alerts : tuple of Alert
        All that stand.
    waiting : tuple of str
        Frames whose masters do not exist yet.
    growing : tuple of str
        Files that are not complete.
    """

    result: RunResult
    alerts: tuple[Alert, ...]
    waiting: tuple[str, ...]
    growing: tuple[str, ...]


def watch(
    raw: Path,
    out: Path,
    config: Config,
    *,
    interval_s: float = 2.0,
    jobs: int | None = None,
    memory_bytes: int | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[State]:
    """Calibrate the frames of a folder as they arrive.

    Parameters
    ----------
    raw, out : Path
        The raw folder, in which frames appear, and the output folder.
    config : Config
        Settings.
    interval_s : float
        Seconds between two looks at the raw folder.
    jobs, memory_bytes
        See `run_plan`.
    sleep : callable
        Waits for so many seconds; whatever it raises ends the watch.

    Yields
    ------
    State
        After each round in which a frame was complete that was not before. A frame is complete
        when its size and time have not changed between two looks, and header and data are whole.

    Raises
    ------
    FrameError
        When the raw folder is not there.
    OutputError
        When the page, or what tells that it is new, would replace a file of others.
    """
    require_our_report(out)
    require_ours(out / _VERSION_FILE, _VERSION.encode())
    before: dict[str, _Stamp] = {}
    done: dict[str, _Stamp] | None = None
    while True:
        frames = _frames_there(raw, config)
        stamps = {frame.file: stamp for frame in frames if (stamp := _stamp(raw, frame.file))}
        complete = [f for f in frames if f.file in stamps and is_complete(f, stamps, before)]
        now = {frame.file: stamps[frame.file] for frame in complete}
        if complete and now != done:
            growing = tuple(frame.file for frame in frames if frame.file not in now)
            plan = plan_found(raw, complete, config, jobs=jobs)
            result = run_plan(plan, out, jobs=jobs, memory_bytes=memory_bytes)
            looks = remembered_looks(raw, complete, jobs or 1)
            alerts = tuple(find_alerts(plan, looks))
            _write_page(out, alerts)
            waiting = tuple(frame.file for frame in plan.refused if _waits(frame))
            yield State(result, alerts, waiting, growing)
            done = now
        before = stamps
        sleep(interval_s)


def _frames_there(raw: Path, config: Config) -> Sequence[Frame]:
    """The frames of the folder; none in one that is still empty."""
    try:
        return find_frames(raw, config)
    except FrameError:
        if not raw.is_dir():
            raise
        return ()


def _stamp(raw: Path, file: str) -> _Stamp | None:
    try:
        status = (raw / file_of(file)).stat()
    except OSError:  # it is gone again, as temporary files go
        return None
    return status.st_size, status.st_mtime_ns


def is_complete(frame: Frame, stamps: Mapping[str, _Stamp], before: Mapping[str, _Stamp]) -> bool:
    """Whether a file is whole and has not changed since the look before.

    Parameters
    ----------
    frame : Frame
        As its header tells now.
    stamps, before : mapping
        Size and time of each file, now and at the look before.
    """
    is_broken = any(error.slug == "file-broken" for error in frame.errors)
    return not is_broken and before.get(frame.file) == stamps[frame.file]


def _waits(frame: FramePlan) -> bool:
    return all(error.slug in WAITING for error in frame.errors)


def find_alerts(plan: Plan, looks: Mapping[str, Look]) -> Iterator[Alert]:
    """What can still be mended tonight: levels near saturation, and frames that do not belong.

    Parameters
    ----------
    plan : Plan
        Of the frames that are there.
    looks : mapping
        Look of each frame by its file.
    """
    for frame in plan.frames:
        if frame.action == "leave_out":
            continue
        limits = [d.saturation_adu for d in frame.detectors if d.saturation_adu is not None]
        look, limit = looks.get(frame.file), min(limits, default=None)
        if frame.kind is Kind.FLAT and look and limit and look.high >= _NEAR_SATURATION * limit:
            yield Alert(
                frame.file,
                f"near saturation: its brightest percent is above {look.high:.0f} ADU, "
                f"{look.high / limit:.0%} of {limit:g} ADU; take it again with less light",
            )
        for error in frame.errors:
            if error.slug not in WAITING:
                yield Alert(frame.file, f"{error.text} [{error.slug}]")
        for caveat in frame.caveats:
            if caveat.slug in _DOUBTS:
                yield Alert(frame.file, f"{caveat.text} [{caveat.slug}]")


def _write_page(out: Path, alerts: Sequence[Alert]) -> None:
    """The page first, then what tells pages that are open that it is new."""
    version = str(time.time_ns())
    write_report(out, alerts=alerts, live=version)
    write_text(out / _VERSION_FILE, f'{_VERSION} = "{version}";\n')
