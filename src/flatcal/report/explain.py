"""The whole story of one frame: what it is, what is done to it, and why nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from flatcal.plan import FramePlan, Plan
from flatcal.text import readable


def print_explanation(plan: Plan, frame: FramePlan) -> None:
    """Tell the story of a frame.

    Parameters
    ----------
    plan : Plan
        Of its night.
    frame : FramePlan
        The frame.
    """
    console = Console(highlight=False, soft_wrap=True)
    for line in explain_frame(plan, frame):
        console.print(readable(line), markup=False)


def explain_frame(plan: Plan, frame: FramePlan) -> Iterator[str]:
    """The story of a frame, line by line; see `print_explanation`."""
    yield f"{frame.file}: {', '.join(_facts(frame))}"
    if frame.kind_reason:
        yield f"  it is a {frame.kind.value if frame.kind else '?'} because of {frame.kind_reason}"
    yield from _part("what is done", (f"{step}\n      {step.reason}" for step in frame.steps))
    yield from _part("darks, the nearest first", iter(frame.considered))
    masters = [step.master for step in frame.steps if step.master is not None]
    if frame.part_of is not None:
        masters.append(frame.part_of)
    yield from _part("masters", (f"{name}: {plan.master(name).reason}" for name in masters))
    yield from _part("caveats", (f"{c.text} [{c.slug}]" for c in frame.caveats))
    yield from _part("cannot be calibrated", (f"{e.text} [{e.slug}]" for e in frame.errors))
    yield from _part("what becomes of it", _ends(frame))


def _facts(frame: FramePlan) -> Iterator[str]:
    yield frame.kind.value if frame.kind else "of unknown kind"
    if frame.exposure_time_s is not None:
        yield f"{frame.exposure_time_s:g} s"
    if frame.filter:
        yield f"filter {frame.filter}"
    if frame.set_temperature_c is not None:
        yield f"set to {frame.set_temperature_c:g} C"
    if frame.camera:
        yield frame.camera
    if frame.shape is not None:
        yield f"{frame.shape[0]} x {frame.shape[1]}"
    if frame.date:
        yield frame.date


def _part(title: str, lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number == 0:
            yield f"  {title}:"
        yield f"    {line}"


def _ends(frame: FramePlan) -> Iterator[str]:
    if frame.output is not None:
        yield f"written as {frame.output}"
    if frame.part_of is not None:
        yield f"goes into {frame.part_of}"
    if frame.action == "leave_out":
        yield frame.reason
    if frame.action == "refuse":
        yield "refused; the other frames are not held up by it"
