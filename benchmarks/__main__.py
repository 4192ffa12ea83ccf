"""``python -m benchmarks``: build, compare, time, and print the table."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.places import Places
from benchmarks.row import Row
from benchmarks.rows import ROWS
from benchmarks.table import make_markdown, print_table, write_readme
from benchmarks.turns import Bench, RowResult, run_row, skip_row

_README = Path(__file__).with_name("README.md")
_ENDED = 128 + signal.SIGTERM


def main() -> int:
    """Run the command; 1 when a program failed or results disagree."""
    options = _parse()
    # Ended from outside, the folder is removed all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_ENDED))
    root = Path(tempfile.mkdtemp(prefix="flatcal-bench-", dir=options.folder))
    bench = Bench(Places(root, options.small), options.rounds)
    machine = (*describe_machine(root), f"{options.rounds} rounds, medians")
    try:
        results = [_run(bench, row, options.only) for row in ROWS]
    finally:
        if options.keep:
            print(f"kept {root}", file=sys.stderr)
        else:
            shutil.rmtree(root)
    print_table(results, machine, small=options.small)
    markdown = make_markdown(results, machine, small=options.small)
    if options.markdown:
        options.markdown.write_text(markdown, encoding="utf-8")
    if options.readme:
        write_readme(_README, markdown)
    failed = [result.row.name for result in results if result.failed]
    if failed:
        print(f"FAILED or different results: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(bench: Bench, row: Row, only: Sequence[str] | None) -> RowResult:
    if only and row.name not in only:
        return skip_row(row, "not asked for")
    return run_row(bench, row)


def _parse() -> argparse.Namespace:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=_fast_folder(), metavar="DIR",
        help="where frames and outputs go, in a folder that is removed afterwards (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=_positive, default=5, metavar="N", help="default 5")
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"rows: {', '.join(names)}"
    )
    parser.add_argument(
        "--small", action="store_true",
        help="frames of a quarter of their size, to test the measuring; the figures mean nothing",
    )  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="do not remove the folder")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument(
        "--readme", action="store_true", help="put the table into benchmarks/README.md"
    )
    return parser.parse_args()


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("it must be 1 or more")
    return number


def _fast_folder() -> Path:
    """A folder in memory, where there is one: disks differ more than programs."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() else Path(tempfile.gettempdir())


if __name__ == "__main__":
    sys.exit(main())
