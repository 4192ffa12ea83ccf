"""What a person reads in the terminal: tables of frames, plans and results."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from flatcal.frame import Caveat, Frame
from flatcal.free_memory import default_memory_bytes
from flatcal.plan import FramePlan, MasterPlan, Plan
from flatcal.projection import format_size, project_memory
from flatcal.records import ProductRecord, Status
from flatcal.text import one_line, readable

if TYPE_CHECKING:
    # The engine brings the compiler of kernels, which a plan can do without.
    from flatcal.engine.result import RunResult

_FILES_SHOWN = 3
_NO_EXPOSURE = -1.0


def _console() -> Console:
    return Console(highlight=False, soft_wrap=False)


def print_frames(frames: Sequence[Frame]) -> None:
    """What is in a folder, alike frames together, and what is wrong with them."""
    console = _console()
    table = make_table(
        None, "kind", "frames", "exposure s", "filter", "set temp. C", "shape", "camera"
    )
    groups: dict[tuple[str | float, ...], list[Frame]] = {}
    for frame in frames:
        groups.setdefault(_likeness(frame), []).append(frame)
    for key, members in sorted(groups.items()):
        kind, exposure, *others = key
        shown = "" if exposure == _NO_EXPOSURE else f"{exposure:.6g}"
        add_row(table, str(kind), str(len(members)), shown, *map(str, others))
    console.print(table)
    for slug, name, values in (
        ("mixed-binning", "binnings", {f.setup.binning for f in frames if f.setup}),
        ("frame-shape", "image sizes", {f.setup.shape for f in frames if f.setup}),
    ):
        if len(values) > 1:
            found = ", ".join(f"{a} x {b}" for a, b in sorted(values))
            text = f"{len(values)} {name} ({found}); frames are matched only with their own"
            console.print(f"{text} [{slug}]", markup=False, soft_wrap=True)
    _print_caveats(console, "errors", ((f.file, f.errors) for f in frames))
    _print_caveats(console, "caveats", ((f.file, f.caveats) for f in frames))


def _likeness(frame: Frame) -> tuple[str | float, ...]:
    setup = frame.setup
    exposure = frame.exposure_time_s
    return (
        frame.kind.value if frame.kind else "?",
        _NO_EXPOSURE if exposure is None else exposure,
        "" if frame.kind is not None and frame.kind.value in ("bias", "dark") else frame.filter,
        "" if frame.set_temperature_c is None else f"{frame.set_temperature_c:g}",
        "" if setup is None else f"{setup.shape[0]} x {setup.shape[1]}",
        "" if setup is None else setup.name,
    )


def print_plan(plan: Plan) -> None:
    """The masters, the frames with equal decisions together, and what is refused."""
    console = _console()
    if plan.masters:
        table = make_table("masters", "master", "made of", "each frame first")
        for master in plan.masters:
            add_row(table, master.name, master.reason, _master_steps(master))
        console.print(table)
    table = make_table("frames", "kind", "frames", "steps", "why")
    for members in equal_decisions(f for f in plan.frames if f.steps and f.action != "refuse"):
        steps = "\n".join(describe_steps(members))
        add_row(table, _kind(members[0]), _files(members), steps, _why(members))
    if table.row_count:
        console.print(table)
    _print_overscans(console, plan)
    _print_caveats(console, "caveats", ((f.file, f.caveats) for f in plan.frames))
    for frame in plan.frames:
        if frame.action == "leave_out":
            told = readable(f"{frame.file}: {frame.reason}")
            console.print(told, markup=False, soft_wrap=True)
    used = Counter(f.action for f in plan.frames)
    console.print(
        f"{len(plan.frames)} frames: {used['combine']} into masters, "
        f"{used['calibrate']} to calibrate, {used['refuse']} refused"
        + (f", {used['leave_out']} left out" if used["leave_out"] else "")
    )
    if plan.masters:
        limit = default_memory_bytes()
        projection = project_memory(plan, limit)
        console.print(
            f"memory: {format_size(projection.least_bytes)} at the least; the limit of a run "
            f"(--memory) is {format_size(limit, math.floor)}"
        )
        large = {**projection.large_masters, **projection.large_frames}
        if large:
            sizes = [f"{one_line(name)} ({format_size(size)})" for name, size in large.items()]
            more = f" and {len(sizes) - _FILES_SHOWN} more" if len(sizes) > _FILES_SHOWN else ""
            told = f"  it is too small for {', '.join(sizes[:_FILES_SHOWN])}{more}"
            console.print(told, markup=False, soft_wrap=True)
    # Last, because it is what is left to do.
    refused = ((f.file, f.errors) for f in plan.frames)
    _print_caveats(console, "cannot be calibrated, and what would cure it", refused)


def _print_overscans(console: Console, plan: Plan) -> None:
    """The overscan of each camera, or why none is used, with the figures."""
    users = [(m.setup.name, m.steps) for m in plan.masters]
    users += [(frame.camera, frame.steps) for frame in plan.frames]
    told = {
        (camera, step.reason): None
        for camera, steps in users
        for step in steps
        if step.name in ("subtract_overscan", "trim_image")
    }
    if told:
        console.print("overscan:", style="bold")
    for camera, reason in told:
        console.print(f"  {camera}: {reason}", markup=False, soft_wrap=True)


def _kind(frame: FramePlan) -> str:
    return "?" if frame.kind is None else frame.kind.value


def _master_steps(master: MasterPlan) -> str:
    if master.stored is not None:
        return ""
    if master.steps:
        return "\n".join(str(step) for step in master.steps)
    if master.kind.value == "flat":
        return "calibrated as below, over its median"
    return "as it is"


def equal_decisions(frames: Iterable[FramePlan]) -> list[list[FramePlan]]:
    """Frames of a kind and filter to which the same is done, but for the factor of a dark."""
    groups: dict[tuple[str, str, str], list[FramePlan]] = {}
    for frame in frames:
        # Frames whose darks differ in their factor alone are one decision.
        steps = "\n".join(str(step.model_copy(update={"scale": 1.0})) for step in frame.steps)
        groups.setdefault((_kind(frame), frame.filter, steps), []).append(frame)
    return list(groups.values())


def describe_steps(members: Sequence[FramePlan]) -> list[str]:
    """The steps of the first frame, with the range of the dark's factor over all."""
    lines = []
    for place, step in enumerate(members[0].steps):
        scales = [frame.steps[place].scale for frame in members]
        if max(scales) > min(scales):
            unscaled = step.model_copy(update={"scale": 1.0})
            lines.append(f"{unscaled} x {min(scales):.4g} to {max(scales):.4g}")
        else:
            lines.append(str(step))
    return lines


def _why(members: Sequence[FramePlan]) -> str:
    """The reasons that are not said by the sections, those of the first frame for all."""
    steps = [step for step in members[0].steps if step.name in ("subtract_bias", "subtract_dark")]
    reasons = [step.reason for step in steps]
    exposures = [frame.exposure_time_s or 0.0 for frame in members]
    if len(set(exposures)) > 1:
        reasons.append(f"and alike for {min(exposures):g} to {max(exposures):g} s")
    return "\n".join(reasons)


def _files(frames: Sequence[FramePlan]) -> str:
    names = [one_line(frame.file) for frame in frames]
    if len(names) <= _FILES_SHOWN:
        return "\n".join(names)
    return f"{names[0]}\n... {len(names)} frames ...\n{names[-1]}"


def print_result(result: RunResult) -> None:
    """What a run did."""
    console = _console()
    record = result.record
    if result.n_made:
        console.print(_products_table([record.products[output] for output in result.made]))
    outcomes = record.outcomes
    _print_caveats(console, "caveats", ((o.file, o.caveats) for o in outcomes))
    _print_caveats(console, "failed", ((o.file, o.errors) for o in outcomes))
    if result.left_over:
        files = one_line(_some(result.left_over))
        console.print(f"left over from an earlier run: {files}", markup=False, soft_wrap=True)
    status = Counter(o.status for o in outcomes)
    console.print(
        f"{len(outcomes)} frames: {status[Status.USED]} used in masters, "
        f"{status[Status.CALIBRATED]} calibrated, {status[Status.FAILED]} failed"
        + (f", {status[Status.LEFT_OUT]} left out" if status[Status.LEFT_OUT] else "")
    )
    if result.n_made:
        word = "output" if result.n_made == 1 else "outputs"
        console.print(
            f"{result.n_made} {word} written, {result.n_current} up to date, in "
            f"{record.seconds:.1f} s: {result.out}",
            markup=False,
        )
    elif result.failed:
        console.print(f"nothing written, {result.n_current} up to date: {result.out}", markup=False)
    else:
        console.print(f"everything is up to date: {result.out}", markup=False)


def print_failures(result: RunResult) -> None:
    """The frames that failed, on standard error, and nothing else."""
    console = Console(stderr=True, highlight=False)
    _print_caveats(console, "failed", ((o.file, o.errors) for o in result.record.outcomes))


def _products_table(products: Sequence[ProductRecord]) -> Table:
    """Each master; calibrated frames folder by folder when there are many."""
    table = make_table("outputs", "file", "inputs", "median", "pixels flagged")
    folders: dict[str, list[ProductRecord]] = {}
    for product in sorted(products, key=lambda p: (p.kind.value, p.output)):
        folders.setdefault(product.output.split("/")[0], []).append(product)
    for folder, members in folders.items():
        if folder == "masters" or len(members) <= _FILES_SHOWN:
            for product in members:
                inputs = str(len(product.inputs))
                add_row(table, one_line(product.output), inputs, *_figures([product]))
        else:
            add_row(table, f"{folder}/ ({len(members)} files)", "1 each", *_figures(members))
    return table


def _figures(products: Sequence[ProductRecord]) -> tuple[str, str]:
    """Medians and numbers of flagged pixels, as a range when there are several."""
    medians = [p.median_adu for p in products if p.median_adu is not None]
    flagged = [p.n_flagged for p in products]
    return _range(medians, ".5g"), _range(flagged, "d")


def _range(values: Sequence[float], style: str) -> str:
    if not values:
        return ""
    low, high = format(min(values), style), format(max(values), style)
    return low if low == high else f"{low} to {high}"


def add_row(table: Table, *cells: str) -> None:
    """A row of plain text: header text may hold what looks like markup."""
    table.add_row(*(escape(readable(cell)) for cell in cells))


def make_table(title: str | None, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", show_lines=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _FILES_SHOWN} more" if len(names) > _FILES_SHOWN else ""
    return ", ".join(names[:_FILES_SHOWN]) + more


def _print_caveats(
    console: Console, title: str, notes: Iterable[tuple[str, Sequence[Caveat]]]
) -> None:
    """Equal caveats once, with the files that have them."""
    files: dict[Caveat, list[str]] = {}
    for file, caveats in notes:
        for caveat in caveats:
            files.setdefault(caveat, []).append(file)
    if not files:
        return
    console.print(f"{title}:", style="bold")
    for caveat, names in files.items():
        # One line each, however narrow the terminal: so they can be searched and copied.
        line = one_line(f"  {_some(names)}: {caveat.text} [{caveat.slug}]")
        console.print(line, markup=False, soft_wrap=True)


class _RateColumn(ProgressColumn):
    """Outputs in a second, or seconds for an output where that is more."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.3g}/s" if speed >= 1 else f"{1 / speed:.3g} s each")


@contextmanager
def progress_bar(*, hidden: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A bar with rate and remaining time on a terminal, nothing elsewhere or if it is hidden."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=hidden or not console.is_terminal,
    )
    with bar:
        task = bar.add_task("starting", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=escape(one_line(what)[-40:]), completed=done, total=total)

        yield progress
