"""Plans of flatcal, cut down to what a row measures."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from benchmarks.places import Night
from benchmarks.settings import read_config
from flatcal import Plan, RunResult, build_plan, run_plan


def plan_night(night: Night, kinds: Collection[str], *, planes: bool) -> Plan:
    """The plan of a night with the frames and masters of some kinds only."""
    plan = build_plan(night.raw, read_config(night, planes=planes))
    return plan.model_copy(
        update={
            "masters": tuple(m for m in plan.masters if m.kind in kinds),
            "frames": tuple(f for f in plan.frames if f.kind in kinds),
        }
    )


def plan_masters(night: Night, *, planes: bool) -> Plan:
    """The plan of the bias and dark masters."""
    return plan_night(night, {"bias", "dark"}, planes=planes)


def plan_flats(night: Night, *, planes: bool) -> Plan:
    """The plan of the flats, with the masters that they need and without a master flat."""
    plan = plan_night(night, {"bias", "dark", "flat"}, planes=planes)
    masters = tuple(m for m in plan.masters if m.kind != "flat")
    return plan.model_copy(update={"masters": masters})


def restore(state: Path, out: Path) -> None:
    """Bring an output folder into the state after the masters."""
    if out.exists():
        shutil.rmtree(out)

    def put(source: str, target: str) -> None:
        # flatcal replaces files, it does not write into them: a link keeps the state as it is.
        if source.endswith(".fits"):
            Path(target).hardlink_to(source)
        else:
            shutil.copyfile(source, target)

    shutil.copytree(state, out, copy_function=put)


def run_flats(plan: Plan, out: Path, jobs: int | None = None) -> RunResult:
    """Run the plan of the flats, for which all masters must stand already."""
    result = run_plan(plan, out, jobs=jobs)
    wanted = {frame.output for frame in plan.frames if frame.kind == "flat"}
    if result.failed or set(result.made) != wanted:
        raise RuntimeError(f"the run made {result.made} instead of the flats alone")
    return result
