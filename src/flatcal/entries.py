"""Entries of a plan: from frames and groups to steps, names and words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flatcal.frame import Caveat, Frame, Kind
from flatcal.matching import Group
from flatcal.naming import slug
from flatcal.plan import Action, FramePlan, Step, StepName
from flatcal.section import Section, format_sections, shape_of_sections
from flatcal.stored import StoredMaster


def describe_group(group: Group) -> str:
    """What the frames of a master have in common."""
    assert group.first.setup is not None
    n = group.n_frames
    common = [group.first.setup.name]
    if group.kind is Kind.DARK:
        common.append(f"{group.exposure_time_s:g} s")
    if group.kind is Kind.FLAT:
        common.append(f"filter {group.first.filter or 'none'}")
    if group.first.set_temperature_c is not None:
        common.append(f"{group.first.set_temperature_c:g} C")
    return f"{n} frame{'s' if n > 1 else ''} of {', '.join(common)}"


def describe_origin(taken: Group, next_best: Group | None) -> str:
    """That a master is of the library, with the one that would have been next."""
    if taken.stored is None:
        return ""
    origin = f"; from the library, of {day_of(taken)}"
    if next_best is None or next_best.stored is None:
        return origin
    than = f"that of {day_of(next_best)} (library {next_best.stored.id})"
    if day_of(next_best) == day_of(taken):
        return f"{origin}, rather than {than}"
    return f"{origin}, nearer in date than {than}"


def day_of(group: Group) -> str:
    """The day of its first frame."""
    return group.first.date[:10] or "no date"


def stored_name(stored: StoredMaster) -> str:
    """What a master of the library is called, but for its number."""
    if stored.kind is Kind.DARK:
        return f"dark_{stored.exposure_time_s:.6g}s"
    return f"flat_{slug(stored.filter)}" if stored.kind is Kind.FLAT else "bias"


def identity_of(frame: Frame) -> dict[str, Any]:
    """What tells a master from others, from one of its frames."""
    assert frame.geometry is not None
    assert frame.setup is not None
    shape, kept = frame.setup.shape, frame.geometry.data_sections
    if kept:
        shape = shape_of_sections(kept)
    return {
        "shape": shape,
        "setup": frame.setup,
        "set_temperature_c": frame.set_temperature_c,
    }


def name_details(frame: Frame) -> list[str]:
    """What could tell masters apart in their names, most telling first."""
    assert frame.setup is not None
    temperature = frame.set_temperature_c
    return [
        frame.setup.detector and slug(frame.setup.detector),
        "" if temperature is None else f"{temperature:g}C",
        f"bin{frame.setup.binning[0]}x{frame.setup.binning[1]}",
        f"{frame.setup.shape[0]}x{frame.setup.shape[1]}",
        slug(frame.setup.camera),
        slug(frame.setup.readout_mode),
        slug(frame.setup.gain_setting),
        f"pedestal{frame.setup.pedestal_adu:g}",
        slug(frame.setup.linearity),
    ]


def geometry_steps(frame: Frame) -> tuple[Step, ...]:
    """Overscan and trim, as far as they are done."""
    geometry = frame.geometry
    assert geometry is not None
    parallel = geometry.parallel_overscan_section
    overscans: tuple[tuple[StepName, Sequence[Section]], ...] = (
        ("subtract_overscan", geometry.overscan_sections),
        ("subtract_parallel_overscan", () if parallel is None else (parallel,)),
    )
    steps = tuple(
        Step(
            name=name,
            section=format_sections(sections),
            statistic=geometry.overscan_statistic,
            model=geometry.overscan_model,
            reason=geometry.reason,
        )
        for name, sections in overscans
        if sections
    )
    if geometry.data_sections:
        steps += (
            Step(
                name="trim_image",
                section=format_sections(geometry.data_sections),
                reason=geometry.reason,
            ),
        )
    return steps


def linearity_steps(frame: Frame) -> tuple[Step, ...]:
    """The correction of counts that have lost their bias, where the detector needs one."""
    assert frame.setup is not None
    if not frame.setup.linearity:
        return ()
    reason = "the curve is for counts above the bias level, and the dark has to be linear as well"
    return (Step(name="correct_linearity", curve=frame.setup.linearity, reason=reason),)


def entry_of(
    frame: Frame,
    action: Action,
    *,
    steps: tuple[Step, ...] = (),
    output: str | None = None,
    part_of: str | None = None,
    reason: str = "",
    considered: tuple[str, ...] = (),
    caveats: tuple[Caveat, ...] = (),
    errors: tuple[Caveat, ...] = (),
) -> FramePlan:
    """The entry of a frame: its facts, and what was decided."""
    return FramePlan(
        file=frame.file,
        kind=frame.kind,
        kind_reason=frame.kind_reason,
        action=action,
        exposure_time_s=frame.exposure_time_s,
        set_temperature_c=frame.set_temperature_c,
        filter=frame.filter,
        object=frame.object,
        date=frame.date,
        camera=frame.setup.name if frame.setup else "",
        shape=frame.setup.shape if frame.setup else None,
        unit=frame.setup.unit if frame.setup else "adu",
        steps=steps,
        output=output,
        part_of=part_of,
        reason=reason,
        considered=considered,
        caveats=(*frame.caveats, *caveats),
        errors=(*frame.errors, *errors),
        storage=frame.storage,
        detectors=frame.detectors,
        colour_matrix=frame.colour_matrix,
    )
