"""Running one row: build, compare, then time all contenders in turns."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders import Contender
from benchmarks.lines import Results, Series, TableLine, format_seconds
from benchmarks.load import watched_load
from benchmarks.measure import Measure
from benchmarks.places import Job, Places
from benchmarks.process import ProgramError, run_worker
from benchmarks.row import Check, Need, Row


@dataclass(frozen=True, slots=True)
class RowResult:
    """What became of a row.

    Attributes
    ----------
    row : Row
        The row.
    lines : tuple of TableLine
        For the table; one that says why, when nothing was measured.
    notes : tuple of str
        What was compared and how well it agrees; how busy other programs were.
    failed : bool
        Whether a program failed or results disagree.
    """

    row: Row
    lines: tuple[TableLine, ...]
    notes: tuple[str, ...] = ()
    failed: bool = False


@dataclass(slots=True)
class Bench:
    """The folder of a measurement and what stands in it.

    Attributes
    ----------
    places : Places
        All folders.
    rounds : int
        Of each row.
    built : set of Need
        What has been built already.
    """

    places: Places
    rounds: int
    built: set[Need] = field(default_factory=set)


def skip_row(row: Row, why: str) -> RowResult:
    """A row that is not measured."""
    return RowResult(row, (TableLine("", met=f"skipped: {why}"),))


def run_row(bench: Bench, row: Row) -> RowResult:
    """Measure a row.

    Nothing is timed of a contender whose result differs from the others'; the row then says so.
    """
    try:
        _build(bench, row)
    except ProgramError as error:
        _say(f"{row.name}: FAILED: {error}")
        return RowResult(row, (TableLine("", met="failed"),), failed=True)
    missing = {c.name: why for c in row.contenders if (why := c.missing())}
    present = [c for c in row.contenders if c.name not in missing]
    wrong, agreements = _check(bench, row, present)
    sound = [c for c in present if c.name not in wrong]
    rounds = min(bench.rounds, row.most_rounds or bench.rounds)
    with watched_load() as load:
        timed, broken = _time(bench, row, sound, rounds)
    results: dict[str, Series | str] = {**missing, **wrong, **broken}
    results |= {name: Series(tuple(measured)) for name, measured in timed.items()}
    _say_medians(row, results)
    _say(f"{row.name}: {' '.join(load)}")
    return RowResult(
        row,
        tuple(line.evaluate(results) for line in row.lines),
        (*agreements, *load),
        failed=bool(wrong or broken),
    )


def _build(bench: Bench, row: Row) -> None:
    for need in row.needs:
        if need in bench.built:
            continue
        task, args = need
        _say(f"{row.name}: {task} {dict(args) or ''}")
        with _fresh(bench) as out:
            run_worker(f"frames.{task}", Job(bench.places, out, keep=False, args=dict(args)))
        bench.built.add(need)


def _check(bench: Bench, row: Row, contenders: list[Contender]) -> tuple[dict[str, str], list[str]]:
    """Run everyone once, which also warms up, and compare; who is wrong, and what was told."""
    wrong: dict[str, str] = {}
    told = []
    with _fresh(bench) as folder:
        outs = {contender.name: folder / str(n) for n, contender in enumerate(contenders)}
        for contender in contenders:
            _say(f"{row.name}: check and warm-up: {contender.name}")
            try:
                _run(bench, contender, outs[contender.name], keep=True)
            except ProgramError as error:
                _say(f"{row.name}: FAILED: {contender.name}: {error}")
                wrong[contender.name] = "failed"
        for check in row.checks:
            if check.theirs not in outs or check.theirs in wrong:
                continue
            if check.ours not in outs or check.ours in wrong:
                wrong[check.theirs] = "not compared"
            else:
                agrees, text = _compare(bench, check, outs, folder / "compare")
                told.append(f"{check.theirs} against {check.ours}: {text}")
                _say(f"{row.name}: {'' if agrees else 'DIFFERENT: '}{told[-1]}")
                if not agrees:
                    wrong[check.theirs] = "different result"
    return wrong, told


def _compare(bench: Bench, check: Check, outs: dict[str, Path], out: Path) -> tuple[bool, str]:
    args = {**check.args, "ours": str(outs[check.ours]), "theirs": str(outs[check.theirs])}
    job = Job(bench.places, out, keep=False, args=args)
    try:
        told = json.loads(run_worker(f"compare.{check.task}", job))
    except ProgramError as error:
        return False, f"cannot be compared: {error}"
    return told["agrees"], told["text"]


def _time(
    bench: Bench, row: Row, contenders: list[Contender], rounds: int
) -> tuple[dict[str, list[Measure]], dict[str, str]]:
    """Everyone in turns, so that what else the machine does falls on all alike."""
    timed: dict[str, list[Measure]] = {contender.name: [] for contender in contenders}
    broken: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for contender in contenders:
            if contender.name in broken:
                continue
            try:
                with _fresh(bench) as out:
                    measured = _run(bench, contender, out, keep=False)
            except ProgramError as error:
                _say(f"{row.name}: FAILED: {contender.name}: {error}")
                broken[contender.name] = "failed"
                del timed[contender.name]
            else:
                timed[contender.name].append(measured)
                seconds = format_seconds(measured.seconds)
                _say(f"{row.name}: round {number} of {rounds}: {contender.name} {seconds}")
    return timed, broken


def _run(bench: Bench, contender: Contender, out: Path, *, keep: bool) -> Measure:
    out.mkdir(exist_ok=True)
    return contender.run(bench.places, out, keep)


@contextmanager
def _fresh(bench: Bench) -> Iterator[Path]:
    """An empty folder for outputs, removed outside of all timing."""
    out = bench.places.root / "out"
    out.mkdir()
    try:
        yield out
    finally:
        shutil.rmtree(out)


def _say_medians(row: Row, results: Results) -> None:
    for name, series in results.items():
        if isinstance(series, Series):
            seconds = sorted(measured.seconds for measured in series.rounds)
            text = f"median {format_seconds(series.seconds())}"
            text += f", {format_seconds(seconds[0])} to {format_seconds(seconds[-1])}"
        else:
            text = series
        _say(f"{row.name}: {name}: {text}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
