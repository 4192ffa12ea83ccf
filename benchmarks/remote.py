"""``python -m benchmarks.remote``: a night from an S3 server on this machine, against its disk.

The server is moto's, in Python and on the same cores: the times tell what flatcal adds to reading
and writing files, not how fast S3 is; the requests and bytes are those that S3 would see. With
``--latency`` each reply comes so much later, as from a server that is far away.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from benchmarks.s3 import BUCKET, Proxy, Request, environment, s3_server, upload
from flatcal import build_plan, load_config, run_plan
from flatcal.demo import simulate_nights
from flatcal.index import find_frames
from flatcal.verify import verify_output

_STEPS = ("inspect", "plan", "run", "run again", "verify")


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that was measured."""

    name: str
    seconds: float
    requests: tuple[Request, ...]


def main() -> int:
    """Run the command."""
    options = _parse()
    if options.work:
        return _work(*options.work)
    root = Path(tempfile.mkdtemp(prefix="flatcal-bench-", dir=options.folder))
    try:
        return _measure(root, small=options.small, latency_s=options.latency / 1000)
    finally:
        shutil.rmtree(root)


def _measure(root: Path, *, small: bool, latency_s: float) -> int:
    night = next(simulate_nights(root / "night", "lfc", full_size=not small))
    sizes = [path.stat().st_size for path in night.raw.iterdir()]
    console = Console(highlight=False)
    for line in describe_machine(root):
        console.print(line)
    console.print(f"{len(sizes)} frames, {sum(sizes) / 1e6:.0f} MB; latency {latency_s * 1e3:g} ms")
    with ExitStack() as stack:
        server = stack.enter_context(s3_server())
        proxy = stack.enter_context(Proxy(server, latency_s=latency_s))
        upload(server, night.raw, "raw")
        for name in ("warm", "local"):  # what has to be compiled is compiled in the first
            here = list(
                _watch(root / name, str(night.raw), str(root / f"out-{name}"), night.config)
            )
        there = list(
            _watch(root / "s3", f"s3://{BUCKET}/raw", f"s3://{BUCKET}/out", night.config, proxy)
        )
    console.print(_table(here, there, len(sizes)))
    return 0


def _watch(
    cache: Path, raw: str, out: str, config: Path, proxy: Proxy | None = None
) -> Iterator[_Step]:
    """Let a process of its own take the steps one by one, and see what passes in each."""
    where: Mapping[str, str] = os.environ if proxy is None else environment(proxy.address)
    command = [sys.executable, "-m", "benchmarks.remote", "--work", raw, out, str(config)]
    with subprocess.Popen(
        command, env={**where, "FLATCAL_CACHE_DIR": str(cache)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as worker:  # fmt: skip
        assert worker.stdin is not None
        assert worker.stdout is not None
        for name in _STEPS:
            if proxy is not None:
                proxy.requests.clear()
            worker.stdin.write("go on\n")
            worker.stdin.flush()
            seconds = json.loads(worker.stdout.readline())
            yield _Step(name, seconds, tuple(proxy.requests) if proxy else ())


def _work(raw: str, out: str, config: str) -> int:
    """Take a step for each line that comes, and say how long it took."""
    settings = load_config(config)
    plan = None
    for name in _STEPS:
        sys.stdin.readline()
        started = perf_counter()
        if name == "inspect":
            find_frames(raw, settings)
        elif name == "plan":
            plan = build_plan(raw, settings)
        elif name == "verify":
            verify_output(out)
        else:
            assert plan is not None
            result = run_plan(plan, out)
            if result.failed or bool(result.made) != (name == "run"):
                raise RuntimeError(f"{name} made {result.made}, and failed {result.failed}")
        print(json.dumps(perf_counter() - started), flush=True)
    return 0


def _table(here: list[_Step], there: list[_Step], n_frames: int) -> Table:
    table = Table(title="a night from S3 against this machine", title_justify="left")
    for column in ("step", "here, s", "S3, s", "requests", "per frame", "fetched, MB", "sent, MB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for local, remote in zip(here, there, strict=True):
        requests = remote.requests
        table.add_row(
            local.name,
            f"{local.seconds:.2f}",
            f"{remote.seconds:.2f}",
            str(len(requests)),
            f"{len(requests) / n_frames:.1f}",
            f"{sum(r.received_bytes for r in requests) / 1e6:.2f}",
            f"{sum(r.sent_bytes for r in requests) / 1e6:.2f}",
        )
    return table


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remote", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR",
        help="where frames and outputs go, in a folder that is removed afterwards (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--small", action="store_true", help="frames of a quarter of their size")
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="MS", help="of each reply (default 0)"
    )
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
