"""Making the plan of a night: each choice is taken here, and its reason written down."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from flatcal.camera import find_profile_by_name
from flatcal.entries import (
    day_of,
    describe_group,
    describe_origin,
    entry_of,
    geometry_steps,
    identity_of,
    linearity_steps,
    name_details,
    stored_name,
)
from flatcal.extension import file_of, with_extension
from flatcal.extras import require_extra
from flatcal.frame import Caveat, Frame, Kind, Setup
from flatcal.index import find_frames
from flatcal.kinds import word_in_name
from flatcal.linearity import find_nonlinear
from flatcal.look_cache import remembered_looks
from flatcal.matching import (
    ENOUGH_TO_REJECT,
    DarkChoice,
    Group,
    choose_bias,
    choose_dark,
    choose_flat,
    describe_difference,
    explain_darks,
    group_bias,
    group_darks,
    group_flats,
    same_setup,
    same_temperature,
    stored_group,
)
from flatcal.naming import distinct, output_names, slug
from flatcal.overscan import apply_overscan
from flatcal.plan import FOLDER_OF, FramePlan, MasterPlan, Plan, Step
from flatcal.recipe import Config
from flatcal.rejection import describe_impossible, require_some_left
from flatcal.second_look import second_look
from flatcal.second_look.seen import see
from flatcal.storage import Place, place_of
from flatcal.stored import StoredMaster
from flatcal.survey import Look


class Shelf(Protocol):
    """What can name stored masters for a frame: a library."""

    def candidates(self, kind: Kind, setup: Setup, date: str) -> Sequence[StoredMaster]:
        """Good masters of a set-up that may serve on a date, the nearest in time first."""
        ...


def build_plan(
    raw: str | Place,
    config: Config | None = None,
    *,
    library: Shelf | None = None,
    jobs: int | None = None,
) -> Plan:
    """Plan the calibration of a folder of raw frames.

    Parameters
    ----------
    raw : str, Path or RemotePath
        The raw folder; its subfolders are included.
    config : Config, optional
        Settings; the defaults when left out.
    library : Library, optional
        Gives masters of other nights where the folder has none that fit.
    jobs : int, optional
        Threads that look at pixels; one for each core when left out.

    Returns
    -------
    Plan
        With every frame, also those that are refused.

    Raises
    ------
    FrameError
        When there is no FITS file.
    ConfigError
        When the settings need a library that is not installed.
    """
    config = config or Config()
    if config.cosmic_rays.find != "no":
        require_extra("cosmicray", "astroscrappy")
    return plan_found(place_of(raw), find_frames(raw, config), config, library, jobs=jobs)


def plan_found(
    root: Place,
    frames: Sequence[Frame],
    config: Config,
    library: Shelf | None = None,
    *,
    jobs: int | None = None,
) -> Plan:
    """Plan some frames of a folder after a look at their pixels; see `build_plan`."""
    kept = [frame for frame in frames if config.exclusion(frame.file) is None]
    looks = remembered_looks(root, kept, jobs or os.cpu_count() or 1)
    frames = apply_overscan(frames, looks, config.camera)
    frames = second_look(frames, looks, config.dark)
    return plan_frames(root, frames, config, library, looks)


def plan_frames(
    raw: Place,
    frames: Sequence[Frame],
    config: Config,
    library: Shelf | None = None,
    looks: Mapping[str, Look] = MappingProxyType({}),
) -> Plan:
    """Plan frames that have been read; see `build_plan`."""
    return _Planner(frames, config, library, looks).plan(raw)


class _Planner:
    """Works out a plan; lives only while `plan_frames` runs."""

    def __init__(
        self,
        frames: Sequence[Frame],
        config: Config,
        library: Shelf | None,
        looks: Mapping[str, Look],
    ) -> None:
        self.frames = frames
        self.config = config
        self.library = library
        self.stored: dict[int, Group] = {}
        good = [f for f in frames if not f.errors and config.exclusion(f.file) is None]
        self.bias_groups = group_bias(_of(Kind.BIAS, good), config.dark)
        self.dark_groups = group_darks(_of(Kind.DARK, good), config.dark)
        self.darks_of: dict[str, list[Group]] = {}
        for group in self.dark_groups:
            self.darks_of.setdefault(_detector_of(group.first), []).append(group)
        self.nonlinear = find_nonlinear(self.dark_groups, see(frames, looks), config.dark)
        self.names: dict[int, str] = {}
        self._name(self.bias_groups, ["master_bias"] * len(self.bias_groups))
        self._name(
            self.dark_groups,
            [f"master_dark_{group.exposure_time_s:.6g}s" for group in self.dark_groups],
        )
        self.targets = [*_of(Kind.FLAT, good), *_of(Kind.SCIENCE, good)]
        self.choices = {frame.file: self._choose(frame) for frame in self.targets}
        # Darks of the night that lose their bias.
        self.bare_darks = {
            id(choice.dark)
            for choice in self.choices.values()
            if isinstance(choice, DarkChoice) and choice.scaled and choice.dark.stored is None
        }
        self.bare_darks |= {
            id(group)
            for group in self.dark_groups
            if linearity_steps(group.first) and self._bias(group.first) is not None
        }
        self.choices = {
            frame.file: self._with_bias(frame, self.choices[frame.file]) for frame in self.targets
        }
        flats = [f for f in _of(Kind.FLAT, good) if not isinstance(self.choices[f.file], Caveat)]
        self.flat_groups = group_flats(flats)
        self._name(
            self.flat_groups,
            [f"master_flat_{slug(group.first.filter)}" for group in self.flat_groups],
        )
        self.group_of = {
            frame.file: group
            for group in (*self.bias_groups, *self.dark_groups, *self.flat_groups)
            for frame in group.frames
        }

    def _name(self, groups: Sequence[Group], bases: Sequence[str]) -> None:
        names = distinct(bases, [name_details(group.first) for group in groups])
        self.names.update({id(group): name for group, name in zip(groups, names, strict=True)})

    # -- choices ---------------------------------------------------------------------

    def _dark_required(self, frame: Frame) -> bool:
        if self.config.dark.required is not None:
            return self.config.dark.required
        assert frame.setup is not None
        return find_profile_by_name(frame.setup.camera).dark_required

    def _choose(self, frame: Frame) -> DarkChoice | Caveat | None:
        """The dark, None for going without, or the refusal."""
        bias = self._bias(frame)
        choice = choose_dark(frame, self._darks(frame), bias, self.config.dark, self.nonlinear)
        stored = self._stored(Kind.DARK, frame)
        if isinstance(choice, Caveat) and stored:
            # What the darks of the night say of the camera holds for those of the library too.
            figures = self._nonlinear_figures(frame)
            nonlinear = {id(group): figures for group in stored} if figures else {}
            from_library = choose_dark(frame, stored, bias, self.config.dark, nonlinear)
            if isinstance(from_library, DarkChoice):
                choice = _of_several(from_library, stored)
            elif not self.dark_groups:
                choice = from_library
        if isinstance(choice, DarkChoice) or self._dark_required(frame):
            return choice
        if bias is None:
            text = "goes without a dark, and no bias fits it either; take bias frames"
            return Caveat("no-bias", text)
        return None

    def _darks(self, frame: Frame) -> Sequence[Group]:
        """The darks of its detector; all that there are where it has none, for a refusal."""
        return self.darks_of.get(_detector_of(frame), self.dark_groups)

    def _nonlinear_figures(self, frame: Frame) -> str:
        """Why darks of the set-up and temperature of a frame cannot be scaled, or nothing."""
        tolerance_c = self.config.dark.temperature_tolerance_c
        for group in self._darks(frame):
            alike = same_setup(frame, group.first)
            if alike and same_temperature(frame, group.first, tolerance_c):
                return self.nonlinear.get(id(group), "")
        return ""

    def _bias(self, frame: Frame) -> Group | None:
        """The bias for a frame, from its night or else from the library."""
        return choose_bias(frame, self.bias_groups, self.config.dark) or choose_bias(
            frame, self._stored(Kind.BIAS, frame), self.config.dark
        )

    def _stored(self, kind: Kind, frame: Frame) -> list[Group]:
        """Masters of the library that might serve a frame; each is one group for all frames."""
        if self.library is None:
            return []
        assert frame.setup is not None
        groups = []
        for stored in self.library.candidates(kind, frame.setup, frame.date):
            if kind is Kind.DARK and linearity_steps(frame) and not stored.lost_bias:
                continue  # made where no bias fitted, so that it could not be made linear
            group = self.stored.setdefault(stored.id, stored_group(stored))
            self.names.setdefault(id(group), f"library_{stored.id}_{stored_name(stored)}")
            groups.append(group)
        return groups

    def _has_no_bias(self, dark: Group) -> bool:
        """Whether a master dark has lost its bias, or will have."""
        return id(dark) in self.bare_darks if dark.stored is None else dark.stored.lost_bias

    def _with_bias(
        self, frame: Frame, choice: DarkChoice | Caveat | None
    ) -> DarkChoice | Caveat | None:
        """The choice, or a refusal where the frame must lose its bias by itself and none fits."""
        if not isinstance(choice, DarkChoice):
            return choice
        bare, fits = self._has_no_bias(choice.dark), self._bias(frame) is not None
        if linearity_steps(frame) and not (bare and fits):
            text = "counts are made linear above the bias level, and no bias fits "
            text += "the dark of this frame" if fits else "this frame"
            return Caveat("no-bias", f"{text}; take bias frames at its set temperature")
        if fits or not bare:
            return choice
        name = self.names[id(choice.dark)]
        why = "" if choice.dark.stored else ", because other frames need it scaled,"
        return Caveat(
            "no-bias",
            f"{name} has lost its bias{why} and no bias fits this frame; take bias frames at "
            "its set temperature",
        )

    def _calibration_steps(self, frame: Frame) -> tuple[Step, ...]:
        choice = self.choices[frame.file]
        assert not isinstance(choice, Caveat)
        steps = list(geometry_steps(frame))
        if choice is None:
            reason = "no dark fits and none is required, so the bias is subtracted by itself"
            return (*steps, *self._bias_step(frame, reason), *linearity_steps(frame))
        dark_reason = choice.reason
        if self._has_no_bias(choice.dark):
            reason = "other frames need this dark scaled, so it holds no bias"
            if choice.scaled:
                reason = "the dark is scaled, so the bias is subtracted by itself"
            elif linearity_steps(frame):
                reason = "counts are made linear above the bias level"
            elif choice.dark.stored is not None:
                reason = "the dark of the library holds no bias"
            steps += [*self._bias_step(frame, reason), *linearity_steps(frame)]
        else:
            dark_reason += "; the bias stays in the dark and goes with it"
        name = self.names[id(choice.dark)]
        refine = choice.scaled and self.config.dark.refine
        steps.append(
            Step(
                name="subtract_dark",
                master=name,
                scale=choice.scale,
                refine=refine,
                reason=dark_reason,
            )
        )
        return tuple(steps)

    def _bias_step(self, frame: Frame, reason: str) -> list[Step]:
        bias = self._bias(frame)
        assert bias is not None
        others = [group for group in self._stored(Kind.BIAS, frame) if group is not bias]
        reason += describe_origin(bias, choose_bias(frame, others, self.config.dark))
        return [Step(name="subtract_bias", master=self.names[id(bias)], reason=reason)]

    # -- the parts of the plan ---------------------------------------------------------

    def plan(self, raw: Place) -> Plan:
        """Put everything together."""
        outputs = self._outputs()
        members = {file: self.names[id(group)] for file, group in self.group_of.items()}
        frames = tuple(
            self._frame_plan(frame, outputs.get(frame.file), members.get(frame.file))
            for frame in self.frames
        )
        masters = tuple(self._masters())
        return Plan(
            raw=str(raw.resolve()),
            config=self.config,
            masters=(*self._stored_masters((*frames, *masters)), *masters),
            frames=frames,
        )

    def _stored_masters(self, users: Sequence[FramePlan | MasterPlan]) -> list[MasterPlan]:
        """The masters of the library that some frame or master needs."""
        used = {step.master for user in users for step in user.steps}
        named = {self.names[id(group)]: group for group in self.stored.values()}
        return [
            MasterPlan(
                name=name,
                kind=group.kind,
                **identity_of(group.first),
                exposure_time_s=group.exposure_time_s,
                filter=group.first.filter if group.kind is Kind.FLAT else "",
                reason=f"from the library: {describe_group(group)}, {day_of(group)}",
                stored=group.stored,
            )
            for name, group in named.items()
            if name in used
        ]

    def _outputs(self) -> dict[str, str]:
        outputs: dict[str, str] = {}
        for kind, folder in FOLDER_OF.items():
            frames = [frame for frame in self.targets if frame.kind is kind]
            # The images of a mosaic go into one file, the planes of a cube into one each.
            files = list(dict.fromkeys(map(_file_of_output, frames)))
            names = dict(
                zip(files, output_names(files, kind.value, self.config.output.suffix), strict=True)
            )
            outputs |= {
                frame.file: with_extension(
                    f"{folder}/{names[_file_of_output(frame)]}", _detector_of(frame)
                )
                for frame in frames
            }
        return outputs

    def _masters(self) -> list[MasterPlan]:
        masters = [self._raw_master(group) for group in self.bias_groups]
        masters += [self._raw_master(group) for group in self.dark_groups]
        # The steps of a flat are its own, for each flat may have another dark.
        masters += [self._master(group, ()) for group in self.flat_groups]
        return masters

    def _raw_master(self, group: Group) -> MasterPlan:
        steps = geometry_steps(group.first)
        if id(group) in self.bare_darks:
            linear = linearity_steps(group.first)
            reason = "counts are made linear above the bias level"
            if not linear:
                reason = "the dark is to be scaled without its bias"
            steps += (*self._bias_step(group.first, reason), *linear)
        elif group.kind is Kind.DARK:
            bias = choose_bias(group.first, self.bias_groups, self.config.dark)
            return self._master(group, steps, self.names[id(bias)] if bias else "")
        return self._master(group, steps)

    def _master(self, group: Group, steps: tuple[Step, ...], level_of: str = "") -> MasterPlan:
        name = self.names[id(group)]
        require_some_left(self.config.combine, name, len(group.frames))
        return MasterPlan(
            name=name,
            kind=group.kind,
            **identity_of(group.first),
            output=f"masters/{name}{self.config.output.suffix}",
            inputs=tuple(frame.file for frame in group.frames),
            steps=steps,
            exposure_time_s=group.exposure_time_s,
            filter=group.first.filter if group.kind is Kind.FLAT else "",
            reason=describe_group(group),
            level_of=level_of,
        )

    def _frame_plan(self, frame: Frame, output: str | None, part_of: str | None) -> FramePlan:
        if (rule := self.config.exclusion(frame.file)) is not None:
            why = f": {rule.reason}" if rule.reason else ""
            return entry_of(frame, "leave_out", reason=f"left out by [[exclude]] {rule.file}{why}")
        if frame.errors:
            return entry_of(frame, "refuse", reason=frame.errors[0].text)
        if frame.kind in (Kind.BIAS, Kind.DARK):
            master = f"averaged into {part_of}"
            few = self._few_frames(frame) + self._useless_rejection(frame)
            return entry_of(frame, "combine", part_of=part_of, reason=master, caveats=few)
        choice = self._without_noise(frame) or self.choices[frame.file]
        darks = (*self._darks(frame), *self._stored(Kind.DARK, frame))
        considered = explain_darks(frame, darks, choice, self.config.dark)
        if isinstance(choice, Caveat):
            return entry_of(
                frame, "refuse", errors=(choice,), reason=choice.text, considered=considered
            )
        steps = self._calibration_steps(frame)
        caveats = choice.caveats if choice is not None else ()
        if choice is None and self.config.dark.required is False:
            caveats = (Caveat("no-dark", "calibrated without a dark, as asked"),)
        caveats += self._few_frames(frame) + self._useless_rejection(frame)
        if frame.kind is Kind.SCIENCE:
            stored = self._stored(Kind.FLAT, frame)
            flat = choose_flat(frame, self.flat_groups) or choose_flat(frame, stored)
            if flat is not None:
                name = self.names[id(flat)]
                next_best = choose_flat(frame, [group for group in stored if group is not flat])
                reason = (
                    f"flats in filter {frame.filter or 'none'}{describe_origin(flat, next_best)}"
                )
                steps += (Step(name="flat_correct", master=name, reason=reason),)
            elif self.config.science.flat_required:
                return self._refuse_without_flat(frame)
            else:
                caveats += (Caveat("no-flat", "calibrated without a flat, as asked"),)
        written = frame.kind is Kind.SCIENCE or self.config.output.flats
        return entry_of(
            frame, "calibrate" if written else "combine",
            steps=steps + self._cosmic_ray_steps(frame),
            output=output if written else None, part_of=part_of, caveats=caveats,
            considered=considered, reason="; ".join(step.reason for step in steps[-2:]),
        )  # fmt: skip

    def _few_frames(self, frame: Frame) -> tuple[Caveat, ...]:
        """A caveat for a frame whose group is too small for outliers to be rejected.

        That a dark stands alone is told to the frames that need it.
        """
        group = self.group_of.get(frame.file)
        if group is None or group.kind is Kind.DARK or len(group.frames) >= ENOUGH_TO_REJECT:
            return ()
        text = f"{self.names[id(group)]} is made of fewer than {ENOUGH_TO_REJECT} frames"
        return (Caveat("few-frames", f"{text}; outliers in them are not rejected"),)

    def _useless_rejection(self, frame: Frame) -> tuple[Caveat, ...]:
        """A caveat for a frame of whose group the settings can reject nothing."""
        group = self.group_of.get(frame.file)
        if group is None or len(group.frames) < ENOUGH_TO_REJECT:
            return ()
        name = self.names[id(group)]
        caveat = describe_impossible(self.config.combine, name, len(group.frames))
        return (caveat,) if caveat else ()

    def _refuse_without_flat(self, frame: Frame) -> FramePlan:
        told = f"no flat in filter {frame.filter or 'none'}"
        there = sorted({group.first.filter or "one without name" for group in self.flat_groups})
        alike = [g.first for g in self.flat_groups if g.first.filter == frame.filter]
        named = word_in_name(frame.file)
        if alike:
            told += f" that fits ({describe_difference(frame, alike[0])}); take flats"
        elif any(flat.filter == frame.filter for flat in _of(Kind.FLAT, self.frames)):
            told += " that is not refused itself; see the flats"
        elif named is not None and named[0] is Kind.FLAT:
            told += f"; if this is a flat, as its name says, say --kind 'flat=*{named[1]}*'"
        elif there:
            told += f" (there are: {', '.join(there)}); take flats"
        else:
            told += " (there are no flats); take flats"
        error = Caveat("no-flat", f"{told}, or set science.flat_required = false")
        return entry_of(frame, "refuse", errors=(error,), reason=error.text)

    def _looks_for_cosmic_rays(self, frame: Frame) -> bool:
        return frame.kind is Kind.SCIENCE and self.config.cosmic_rays.find != "no"

    def _without_noise(self, frame: Frame) -> Caveat | None:
        """Why cosmic rays cannot be looked for in a frame, where they are to be."""
        if not self._looks_for_cosmic_rays(frame) or all(d.noise_known for d in frame.detectors):
            return None
        return Caveat(
            "cosmic-rays",
            "cosmic rays are told by the noise, and gain or read noise is not known; set "
            "camera.gain_electron_per_adu and camera.read_noise_electron, or "
            'cosmic_rays.find = "no"',
        )

    def _cosmic_ray_steps(self, frame: Frame) -> tuple[Step, ...]:
        if not self._looks_for_cosmic_rays(frame):
            return ()
        find = self.config.cosmic_rays.find
        assert find != "no"
        return (Step(name="find_cosmic_rays", statistic=find, reason="as the settings say"),)


def _detector_of(frame: Frame) -> str:
    """Which detector of a mosaic it is; empty where there is one."""
    return frame.setup.detector if frame.setup else ""


def _file_of_output(frame: Frame) -> str:
    """What an output file is named after."""
    return file_of(frame.file) if _detector_of(frame) else frame.file


def _of(kind: Kind, frames: Sequence[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame.kind is kind]


def _of_several(choice: DarkChoice, stored: Sequence[Group]) -> DarkChoice:
    """A dark of the library, with the next in date of the same exposure time named as well."""
    taken = choice.dark
    alike = [
        group
        for group in stored
        if group is not taken
        and group.exposure_time_s == taken.exposure_time_s
        and group.first.set_temperature_c == taken.first.set_temperature_c
    ]
    return replace(
        choice, reason=choice.reason + describe_origin(taken, alike[0] if alike else None)
    )
