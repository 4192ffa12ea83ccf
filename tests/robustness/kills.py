"""Runs that are killed at random moments, and what they leave.

Each run is a process of its own that is killed without warning. What stands under a final name
must then be, byte for byte, what a run makes that nobody disturbs; and the run that comes after
must end with exactly that, with nothing left over.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from flatcal.engine.run import run_plan
from flatcal.plan import Plan
from flatcal.planning import build_plan
from flatcal.recipe import Config, load_config


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of an output folder; run.json without the times of the run."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        if path.name == "run.json":
            record = json.loads(content)
            content = json.dumps({**record, "started": "", "seconds": 0}).encode()
        found[path.relative_to(folder).as_posix()] = content
    return found


def start(plan: Plan, out: Path) -> int:
    """Start a run in a process that can be killed."""
    pid = os.fork()
    if pid == 0:
        try:
            run_plan(plan, out, jobs=2)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return pid


def kill_after(plan: Plan, out: Path, seconds: float) -> bool:
    """Run for so long; True when the run was killed, not at its end by then."""
    pid = start(plan, out)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise AssertionError("a run has failed that nobody disturbed")
    return os.WIFSIGNALED(status)


def require_whole(out: Path, wanted: dict[str, bytes]) -> int:
    """No image under a final name may differ from the one of an undisturbed run; how many stand."""
    found = {name: content for name, content in contents(out).items() if name.endswith(".fits")}
    for name, content in found.items():
        assert content == wanted[name], f"{name} is not whole after a kill"
    return len(found)


def try_kills(plan: Plan, folder: Path, kills: int, seed: int) -> dict[str, int | float]:
    """Kill runs until so many have died; figures."""
    rng = random.Random(seed)
    raw_before = contents(Path(plan.raw))
    # The kernels are loaded here, so that the processes spend their time with the night.
    run_plan(plan, folder / "warm-up", jobs=2)
    clock = time.monotonic()
    assert os.waitpid(start(plan, folder / "undisturbed"), 0)[1] == 0
    length_s = time.monotonic() - clock
    wanted = contents(folder / "undisturbed")
    figures = {"kills": 0, "nights": 0, "outputs": len(wanted), "run_s": round(length_s, 2)}
    figures |= {"files_left_whole": 0, "left_half_made": 0}
    while figures["kills"] < kills:
        out = folder / f"out{figures['nights']}"
        # One kill, or several in a row on the same folder.
        for _ in range(rng.choice([1, 1, 2, 4])):
            if kill_after(plan, out, rng.uniform(0, length_s)):
                figures["kills"] += 1
            if out.is_dir():
                figures["files_left_whole"] += require_whole(out, wanted)
                parts = [p for p in out.rglob("*") if ".part-" in p.name]
                figures["left_half_made"] += len(parts)
        assert os.waitpid(start(plan, out), 0)[1] == 0
        assert contents(out) == wanted, "resumed, the outputs differ from those undisturbed"
        shutil.rmtree(out)
        figures["nights"] += 1
    assert contents(Path(plan.raw)) == raw_before, "a raw file has changed"
    return figures


def main() -> int:
    """Kill runs of a night, print figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    plan = build_plan(chosen.raw, load_config(chosen.config) if chosen.config else Config())
    with tempfile.TemporaryDirectory(prefix="flatcal-kills-") as folder:
        print(json.dumps(try_kills(plan, Path(folder), chosen.kills, chosen.seed), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
