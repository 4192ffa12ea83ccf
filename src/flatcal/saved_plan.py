"""A plan that was saved: read again, and seen to be one that can be run.

A plan that was built holds what is asked for here. One from a file may have been changed by hand,
or be no honest one; what is wrong with it is told before anything is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final, get_args

from pydantic import ValidationError

from flatcal.colour import PATTERNS
from flatcal.errors import ConfigError, SectionError
from flatcal.extension import extension_of, file_of, plane_key
from flatcal.frame import Kind
from flatcal.naming import is_safe
from flatcal.overscan_model import Statistic
from flatcal.plan import (
    FOLDER_OF,
    OVERSCAN_STEPS,
    FramePlan,
    MasterPlan,
    Plan,
    Step,
    shape_after,
)
from flatcal.section import parse_sections
from flatcal.storage import Place, RemotePath, place_of, status_of

# The master that a step needs, and the kinds in the order in which they are made.
_NEEDS: Final = {"subtract_bias": Kind.BIAS, "subtract_dark": Kind.DARK, "flat_correct": Kind.FLAT}
_ORDER: Final = (Kind.BIAS, Kind.DARK, Kind.FLAT, Kind.SCIENCE)

_LONGEST_NAME_BYTES: Final = 255


def load_plan(path: str | Place) -> Plan:
    """Read a plan that was saved as JSON, and see that it still holds.

    Parameters
    ----------
    path : str, Path or RemotePath
        What ``flatcal plan --json`` printed, or plan.json of an output folder.

    Returns
    -------
    Plan
        Unchanged.

    Raises
    ------
    ConfigError
        When it is no plan of this version, contradicts itself, or a raw file is not as it was when
        planned.
    """
    try:
        plan = Plan.model_validate_json(place_of(path).read_bytes())
    except OSError as error:
        raise ConfigError(
            "plan-file", f"{path} cannot be read: {error.strerror or error}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            "plan-file", f"{path} is no plan of this version ({where}: {first['msg']}); plan again"
        ) from error
    wrong = next(_contradictions(plan), None)
    if wrong is not None:
        raise ConfigError("plan-file", f"{path} cannot be run: {wrong}; plan again")
    raw = place_of(plan.raw)
    if isinstance(raw, RemotePath):
        raw, _ = raw.listed()
    changed = [frame.file for frame in plan.frames if _has_changed(raw, frame)]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(
            "plan-file",
            f"{', '.join(changed[:3])}{more} changed since {path} was made; plan again",
        )
    return plan


def _has_changed(raw: Place, frame: FramePlan) -> bool:
    if frame.storage is None:
        return False
    try:
        return status_of(raw / file_of(frame.file)) != frame.storage.stamp
    except OSError:
        return True


# -- what contradicts itself; each part takes for granted that those before it found nothing -------


def _contradictions(plan: Plan) -> Iterator[str]:
    yield from _of_names(plan)
    for number, master in enumerate(plan.masters):
        yield from _of_master(plan, master, {m.name: m for m in plan.masters[:number]})
    masters = {master.name: master for master in plan.masters}
    members = {file: master.name for master in plan.masters for file in master.inputs}
    for frame in plan.frames:
        yield from _of_frame(plan, frame, masters, members.get(frame.file))


def _of_names(plan: Plan) -> Iterator[str]:
    files = [frame.file for frame in plan.frames]
    stored = [master.stored.path for master in plan.masters if master.stored]
    for name in (plan.raw, *files, *stored):
        if "\0" in name:
            yield f"{name!r} can be no file"
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            yield f"{name!r} lies outside the raw folder"
    yield from _repeated("frame", files)
    yield from _repeated("master", [master.name for master in plan.masters])
    yield from _repeated("input", [file for master in plan.masters for file in master.inputs])
    outputs = [frame.output for frame in plan.frames if frame.output is not None]
    outputs += [master.output for master in plan.masters if master.stored is None]
    yield from _repeated("output", [output.casefold() for output in outputs])
    # The images of a file have one output file, and nothing else has it.
    raw_of: dict[str, str] = {}
    for frame in plan.frames:
        if frame.output is not None:
            raw = file_of(frame.file) if extension_of(frame.output) else frame.file
            if raw_of.setdefault(file_of(frame.output).casefold(), raw) != raw:
                yield f"output {file_of(frame.output)!r} is that of several frames"


def _repeated(what: str, names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"{what} {name!r} stands there twice"
        seen.add(name)


def _of_output(plan: Plan, who: str, output: str, folder: str) -> Iterator[str]:
    path = PurePosixPath(file_of(output))
    name, suffix = path.name, plan.config.output.suffix
    if f"{folder}/{name}" != str(path) or str(path) != file_of(output):
        yield f"output {output!r} of {who} is no file in {folder}/"
    if name.startswith(".") or not name.endswith(suffix) or not is_safe(name):
        yield f"output {output!r} of {who} is no name of a {suffix} file"
    n_bytes = len(name.encode(errors="replace"))
    if n_bytes > _LONGEST_NAME_BYTES:
        yield (
            f"the name of the output of {who} has {n_bytes} bytes, and file systems take "
            f"{_LONGEST_NAME_BYTES}"
        )


def _of_master(plan: Plan, master: MasterPlan, before: Mapping[str, MasterPlan]) -> Iterator[str]:
    who = f"master {master.name!r}"
    if master.kind is Kind.SCIENCE:
        yield f"{who} is one of science frames"
    if min(master.shape) < 1:
        yield f"{who} has the shape {master.shape}"
    bias = before.get(master.level_of)
    if master.level_of and (bias is None or bias.kind is not Kind.BIAS or bias.stored):
        yield f"{who} has the level of {master.level_of!r}, which is no bias made before it"
    if master.stored is not None:
        if master.inputs or master.steps or master.output or master.level_of:
            yield f"{who} is of the library, and has inputs, steps or an output all the same"
        return
    yield from _of_output(plan, who, master.output, "masters")
    if not master.inputs:
        yield f"{who} has no inputs"
    if master.kind is Kind.FLAT and master.steps:
        yield f"{who} has steps, which are those of its flats"
    frames = {frame.file: frame for frame in plan.frames}
    for file in master.inputs:
        frame = frames.get(file)
        if frame is None or frame.kind is not master.kind or frame.part_of != master.name:
            yield f"input {file!r} of {who} is no {master.kind.value} frame that goes into it"
            return
        yield from _of_content(frame)
        if master.kind is not Kind.FLAT:
            yield from _of_steps(who, frame, master.kind, master.steps, before)
            yield from _of_shapes(who, master.steps, frame, [master])


def _of_frame(
    plan: Plan, frame: FramePlan, masters: Mapping[str, MasterPlan], part_of: str | None
) -> Iterator[str]:
    who = f"frame {frame.file!r}"
    if frame.part_of != part_of:
        yield f"{who} goes into {frame.part_of!r}, but is an input of {part_of!r}"
    if frame.action not in ("combine", "calibrate"):
        if frame.steps or frame.output is not None or part_of is not None:
            yield f"{who} is not used, and has steps, an output or a master all the same"
        return
    yield from _of_content(frame)
    kind = frame.kind or Kind.SCIENCE
    written = kind is Kind.SCIENCE or (kind is Kind.FLAT and plan.config.output.flats)
    if (frame.action == "calibrate") is not written or (frame.output is not None) is not written:
        yield f"{who}, a {kind.value}, is {'' if written else 'not '}to be calibrated and written"
    if kind is not Kind.SCIENCE and part_of is None:
        yield f"{who}, a {kind.value}, goes into no master"
    if frame.output is not None:
        yield from _of_output(plan, who, frame.output, FOLDER_OF[kind])
        if extension_of(frame.output) not in ("", extension_of(frame.file)):
            yield f"output {frame.output!r} of {who} is that of another extension"
        try:
            plane_key(extension_of(frame.output), "PRIMARY")
        except ValueError:
            yield f"output {frame.output!r} of {who} names no extension"
    if kind not in FOLDER_OF:
        if frame.steps:
            yield f"{who}, a {kind.value}, has steps, which are those of its master"
        return
    yield from _of_steps(who, frame, kind, frame.steps, masters)
    used = [masters[step.master] for step in frame.steps if step.master is not None]
    used += [masters[part_of]] if part_of is not None else []
    yield from _of_shapes(who, frame.steps, frame, used)


def _of_content(frame: FramePlan) -> Iterator[str]:
    who = f"frame {frame.file!r}"
    for name in ("kind", "shape", "storage", "detectors"):
        if not getattr(frame, name):
            yield f"{who} has no {name}"
    if frame.shape is not None and min(frame.shape) < 1:
        yield f"{who} has the shape {frame.shape}"
    for detector in frame.detectors:
        gain, noise = detector.gain_electron_per_adu, detector.read_noise_electron
        if (gain is not None and not 0 < gain < math.inf) or (noise is not None and not noise >= 0):
            yield f"{who} has the gain {gain} and the read noise {noise}"
    if frame.colour_matrix and frame.colour_matrix not in PATTERNS:
        yield f"{who} has the colour matrix {frame.colour_matrix!r}"


def _of_steps(
    who: str,
    frame: FramePlan,
    kind: Kind,
    steps: Iterable[Step],
    masters: Mapping[str, MasterPlan],
) -> Iterator[str]:
    yield from _repeated(f"{who}: step", [step.name for step in steps])
    for step in steps:
        needed = _NEEDS.get(step.name)
        master = masters.get(step.master or "")
        if needed is None:
            fits = step.master is None
        else:
            its_turn = _ORDER.index(needed) < _ORDER.index(kind)
            fits = its_turn and master is not None and master.kind is needed
        if not fits:
            yield f"{who}: step {step.name} cannot have the master {step.master!r}"
        if not math.isfinite(step.scale):
            yield f"{who}: step {step.name} has the factor {step.scale}"
        if step.name == "correct_linearity" and not all(d.linearity for d in frame.detectors):
            yield f"{who}: step {step.name} has no curve for {frame.file!r}"
        if step.name == "find_cosmic_rays" and not frame.noise_known:
            yield f"{who}: step {step.name} needs the noise, which is not known"
        if step.name in OVERSCAN_STEPS and step.statistic not in (None, *get_args(Statistic)):
            yield f"{who}: step {step.name} has the statistic {step.statistic!r}"
        if step.name in (*OVERSCAN_STEPS, "trim_image"):
            yield from _of_section(who, frame, step)


def _of_section(who: str, frame: FramePlan, step: Step) -> Iterator[str]:
    if step.section is None or frame.shape is None:
        yield f"{who}: step {step.name} has no section"
        return
    try:
        n_found = len(parse_sections(step.section, frame.shape))
    except SectionError as error:
        yield f"{who}: {error.text}"
        return
    n_wanted = 1 if step.name == "subtract_parallel_overscan" else len(frame.detectors)
    if n_found != n_wanted:
        yield f"{who}: step {step.name} has {n_found} sections, and should have {n_wanted}"


def _of_shapes(
    who: str, steps: Iterable[Step], frame: FramePlan, masters: Iterable[MasterPlan]
) -> Iterator[str]:
    assert frame.shape is not None
    try:
        shape = shape_after(steps, frame.shape)
    except SectionError as error:
        yield f"{who}: {error.text}"
        return
    if len(frame.detectors) > 1 and not any(step.name == "trim_image" for step in steps):
        yield f"{who} has several detectors, and no step trim_image with their sections"
    for master in masters:
        if master.shape != shape:
            yield f"{frame.file!r} has the shape {shape}, and master {master.name!r} {master.shape}"
