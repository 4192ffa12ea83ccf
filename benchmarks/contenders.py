"""Programs that take part in a row, and how one run of each is measured."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.measure import Measure
from benchmarks.places import Job, Places
from benchmarks.process import run_program, run_worker


@dataclass(frozen=True, slots=True)
class Contender:
    """One side of a row.

    Attributes
    ----------
    name : str
        As the table tells it.
    run : callable
        ``run(places, out, keep)`` does the work once, with its output in the empty folder `out`.
    missing : callable
        Why it cannot take part; empty when it can.
    """

    name: str
    run: Callable[[Places, Path, bool], Measure]
    missing: Callable[[], str] = lambda: ""


def by_worker(
    name: str, task: str, *, missing: Callable[[], str] = lambda: "", **args: Any
) -> Contender:
    """A contender that is Python: a task of `benchmarks.worker`."""

    def run(places: Places, out: Path, keep: bool) -> Measure:
        return Measure.from_json(run_worker(task, Job(places, out, keep, args)))

    return Contender(name, run, missing)


def by_ccdproc(name: str, task: str, **args: Any) -> Contender:
    """A contender that needs ccdproc."""
    return by_worker(name, task, missing=_lacks_ccdproc, **args)


def by_flatcal(name: str, arguments: Callable[[Places, Path], list[str]]) -> Contender:
    """The command ``flatcal`` as a whole process, from its start to its end."""

    def run(places: Places, out: Path, _keep: bool) -> Measure:
        command = [Path(sys.executable).with_name("flatcal"), *arguments(places, out)]
        return run_program(command, out).measure

    return Contender(name, run)


def by_index(name: str, package: str, *, again: bool = False) -> Contender:
    """A header index, of a folder that is new to it or that it has seen in an earlier process.

    The home folder is a fresh one, so that no cache of an earlier measurement is found.
    """

    def run(places: Places, out: Path, keep: bool) -> Measure:
        home = out / "home"
        home.mkdir()
        environment = make_home(home)
        job = Job(places, out, keep, {"package": package})
        if again:
            run_worker("notebook_tasks.summarise", replace(job, keep=False), environment)
        return Measure.from_json(run_worker("notebook_tasks.summarise", job, environment))

    return Contender(name, run, _lacks_ccdproc if package == "ccdproc" else lambda: "")


def make_home(folder: Path) -> Mapping[str, str]:
    """Variables that give a program a home folder of its own: it neither finds nor leaves any."""
    return {
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "XDG_CONFIG_HOME": str(folder / ".config"),
    }


def find_program(*names: str) -> str:
    """Path of the first of some programs that is there; empty if none is."""
    return next((path for name in names if (path := shutil.which(name))), "")


def _lacks_ccdproc() -> str:
    return "" if find_spec("ccdproc") else "not installed"
