"""Tasks of flatcal's product path: what `flatcal run` does, called from Python."""

from __future__ import annotations

import shutil

from benchmarks.measure import Measure, measure
from benchmarks.places import Job, Night
from benchmarks.plans import plan_flats, restore, run_flats


def calibrate_flats(job: Job) -> Measure:
    """Calibrate ten flats; the masters stand already, as in the rivals' loops."""
    planes, jobs = job.args["planes"], job.args.get("jobs")

    def run(night: Night) -> Measure:
        plan = plan_flats(night, planes=planes)
        out = job.out / "out"
        restore(night.masters(planes=planes), out)
        measured, _ = measure(lambda: run_flats(plan, out, jobs))
        return measured

    camera = job.args["camera"]
    run(job.places.warm_night(camera))
    measured = run(job.places.night(camera))
    shutil.move(job.out / "out" / "flats", job.out / "flats")
    return measured
