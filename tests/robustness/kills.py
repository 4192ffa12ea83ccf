"""Runs that are killed at any moment, and what they leave.

Each run is a process of its own that is killed without warning. An image under a final name must
then be, byte for byte, what a run makes that nobody disturbs, and a record whole; and the run that
comes after must end with exactly that, with nothing left over.
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
from collections.abc import Iterator, Sequence
from pathlib import Path

from flatcal.engine.run import run_plan
from flatcal.plan import Plan
from flatcal.planning import build_plan
from flatcal.recipe import load_config

# Into so many parts a run is divided, of which each is hit as often as the others.
PARTS = 20


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
    """Run for so long; True when it was not at its end by then."""
    pid = start(plan, out)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise AssertionError("a run has failed that nobody disturbed")
    return os.WIFSIGNALED(status)


def require_whole(out: Path, wanted: dict[str, bytes]) -> tuple[int, int]:
    """No image may differ from the one of an undisturbed run, no record be half there; how many."""
    images = records = 0
    for name, content in contents(out).items():
        if name.endswith((".fits", ".fits.fz")):
            assert content == wanted[name], f"{name} is not whole"
            images += 1
        elif name in ("plan.json", "run.json"):
            json.loads(content)
            records += 1
    return images, records


def moments(rng: random.Random) -> Iterator[float]:
    """Random moments of a run of length 1, spread evenly over it."""
    while True:
        for part in rng.sample(range(PARTS), PARTS):
            yield (part + rng.random()) / PARTS


class Night:
    """A night whose runs are killed, and what a run makes of it that nobody disturbs."""

    def __init__(self, plan: Plan, folder: Path, rng: random.Random) -> None:
        self.plan, self.moments = plan, moments(rng)
        # The kernels are loaded here, so that the processes spend their time with the night.
        run_plan(plan, folder / "warm-up", jobs=2)
        clock = time.monotonic()
        self.finish(folder / "undisturbed")
        self.length_s = time.monotonic() - clock
        self.wanted = contents(folder / "undisturbed")
        shutil.rmtree(folder)

    def finish(self, out: Path) -> None:
        """Run it to its end."""
        assert os.waitpid(start(self.plan, out), 0)[1] == 0, "a run has failed"

    def kill(self, out: Path) -> bool:
        """Run it to the next of the moments; True when it was not at its end by then."""
        return kill_after(self.plan, out, next(self.moments) * self.length_s)


def try_kills(
    plans: Sequence[Plan], folder: Path, kills: int, seed: int
) -> dict[str, int | list[int] | list[float]]:
    """Kill runs of each of the plans in turn until so many have died; figures."""
    rng = random.Random(seed)
    raw_before = [contents(Path(plan.raw)) for plan in plans]
    nights = [Night(plan, folder / "night", rng) for plan in plans]
    killed, n_nights, images, records, half_made = [0] * len(plans), 0, 0, 0, 0
    while sum(killed) < kills:
        which = n_nights % len(nights)
        night, out = nights[which], folder / f"out{n_nights}"
        # One kill, or several in a row on the same folder.
        for _ in range(rng.choice([1, 1, 2, 4])):
            killed[which] += night.kill(out)
            if out.is_dir():
                whole = require_whole(out, night.wanted)
                images, records = images + whole[0], records + whole[1]
                half_made += len([p for p in out.rglob("*") if ".part-" in p.name])
        night.finish(out)
        assert contents(out) == night.wanted, "resumed, the outputs differ from those undisturbed"
        shutil.rmtree(out)
        n_nights += 1
    assert [contents(Path(plan.raw)) for plan in plans] == raw_before, "a raw file has changed"
    return {
        "kills": killed,
        "nights": n_nights,
        "outputs": [len(night.wanted) for night in nights],
        "run_s": [round(night.length_s, 2) for night in nights],
        "images_left_whole": images,
        "records_left_whole": records,
        "left_half_made": half_made,
    }


def main() -> int:
    """Kill runs of nights in turn, print figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--night", type=Path, nargs=2, action="append", required=True, metavar=("RAW", "CONFIG")
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    plans = [build_plan(raw, load_config(config)) for raw, config in chosen.night]
    with tempfile.TemporaryDirectory(prefix="flatcal-kills-") as folder:
        print(json.dumps(try_kills(plans, Path(folder), chosen.kills, chosen.seed), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
