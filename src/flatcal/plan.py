"""The plan: for every frame what is done to it, with which masters and numbers, and why.

A plan is frozen, and goes to JSON and back. `flatcal.planning` makes it from headers alone;
running it decides nothing new, so what `flatcal plan` shows is what `flatcal run` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from flatcal.camera import Strict
from flatcal.errors import ConfigError
from flatcal.extension import file_of
from flatcal.frame import Caveat, Detector, Kind, Setup, Storage
from flatcal.overscan_model import OverscanModel, Statistic
from flatcal.recipe import Config
from flatcal.section import parse_sections, shape_of_sections
from flatcal.stored import StoredMaster
from flatcal.text import html_table

StepName = Literal[
    "subtract_overscan",
    "subtract_parallel_overscan",
    "trim_image",
    "subtract_bias",
    "correct_linearity",
    "subtract_dark",
    "flat_correct",
    "find_cosmic_rays",
]

# Steps after which the values that are left are those of before.
KEEPS_VALUES: Final = ("trim_image", "find_cosmic_rays")


# Those that take off the level of an overscan.
OVERSCAN_STEPS: Final = ("subtract_overscan", "subtract_parallel_overscan")

# Where calibrated frames are written.
FOLDER_OF: Final = {Kind.FLAT: "flats", Kind.SCIENCE: "science"}

Action = Literal["combine", "calibrate", "refuse", "leave_out"]


class Step(Strict):
    """One step of calibration.

    Attributes
    ----------
    name : str
        What is done; the function of the same name, where there is one, does it too.
    section, statistic : str or None
        FITS section, and for the overscan the statistic along each row, or column of a parallel
        one; for cosmic rays 'flag' or 'clean'. Where several amplifiers share the image it is that
        of each, in the order of the frame's detectors, with a plus sign between them.
    model : OverscanModel or None
        How the level of the overscan varies along the rows.
    curve : str or None
        Name of the curve that makes counts linear.
    master : str or None
        Name of the master that is used.
    scale : float
        Factor of the dark.
    refine : bool
        Whether the factor is refined on the hot pixels of the frame.
    reason : str
        Why it is done so.
    """

    name: StepName
    section: str | None = None
    statistic: Statistic | Literal["flag", "clean"] | None = None
    model: OverscanModel | None = None
    curve: str | None = None
    master: str | None = None
    scale: float = 1.0
    refine: bool = False
    reason: str = ""

    @property
    def _statistic(self) -> str:
        return (self.statistic or "").replace("_", " ")

    @property
    def level(self) -> str:
        """How the level of a row is found."""
        if self.model is None or not self.model.is_fitted:
            return self._statistic
        return f"{self.model} through row {self._statistic}s"

    def __str__(self) -> str:
        if self.name == "subtract_overscan":
            return f"overscan {self.level} of {self.section}"
        if self.name == "subtract_parallel_overscan":
            return f"parallel overscan {self._statistic} of {self.section}"
        if self.name == "trim_image":
            return f"trim to {self.section}"
        if self.name == "correct_linearity":
            return f"linear by {self.curve}"
        if self.name == "find_cosmic_rays":
            return f"{self.statistic} cosmic rays"
        scale = f" x {self.scale:.4g}" if self.scale != 1 else ""
        verb = "/" if self.name == "flat_correct" else "-"
        refined = ", refined on hot pixels" if self.refine else ""
        return f"{verb} {self.master}{scale}{refined}"


def shape_after(steps: Iterable[Step], shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that steps leave of an image."""
    for step in steps:
        if step.name == "trim_image" and step.section is not None:
            return shape_of_sections(parse_sections(step.section, shape))
    return shape


class FramePlan(Strict):
    """What is done to one raw frame.

    Attributes
    ----------
    file : str
        Path below the raw folder; of one image of several with its extension, as in
        'm001.fits[CHIP2]'.
    kind : Kind or None
        Its kind; None when it is not known.
    kind_reason : str
        What told the kind.
    action : str
        'combine' for a bias or dark, and for a flat that is not written by itself; 'calibrate'
        for a flat or science frame; 'refuse'; 'leave_out' for one that the settings exclude.
    exposure_time_s, set_temperature_c : float or None
        Exposure time in seconds and set temperature in degrees Celsius; None where the header is
        silent.
    filter, object, date : str
        As in the header.
    camera : str
        Name of its profile, or else INSTRUME.
    shape : tuple of int or None
        Rows and columns as read out.
    unit : str
        Unit of the pixels, 'adu' or 'electron'.
    steps : tuple of Step
        In this order.
    output : str or None
        File below the output folder; of one image of several with its extension.
    part_of : str or None
        Name of the master that the frame goes into.
    reason : str
        Why the frame is treated so.
    considered : tuple of str
        The darks that there were, and what became of each.
    caveats, errors : tuple of Caveat
        What the observer should know; why the frame is refused.
    storage : Storage or None
        Where the pixels lie in the file; None for a frame that cannot be read.
    colour_matrix : str
        As of a `Frame`.
    detectors : tuple of Detector
        Noise and range of each amplifier; none for a frame that cannot be read.
    """

    file: str
    kind: Kind | None
    kind_reason: str = ""
    action: Action
    exposure_time_s: float | None = None
    set_temperature_c: float | None = None
    filter: str = ""
    object: str = ""
    date: str = ""
    camera: str = ""
    shape: tuple[int, int] | None = None
    unit: str = "adu"
    steps: tuple[Step, ...] = ()
    output: str | None = None
    part_of: str | None = None
    reason: str = ""
    considered: tuple[str, ...] = ()
    caveats: tuple[Caveat, ...] = ()
    errors: tuple[Caveat, ...] = ()
    storage: Storage | None = None
    colour_matrix: str = ""
    detectors: tuple[Detector, ...] = ()

    @property
    def noise_known(self) -> bool:
        """Whether the noise of every pixel can be predicted."""
        return all(detector.noise_known for detector in self.detectors)

    @property
    def kept_shape(self) -> tuple[int, int]:
        """Rows and columns that its steps leave."""
        assert self.shape is not None
        return shape_after(self.steps, self.shape)


class MasterPlan(Strict):
    """What a master is made of.

    Attributes
    ----------
    name : str
        For example 'master_dark_60s'.
    kind : Kind
        bias, dark or flat.
    output : str
        File below the output folder.
    inputs : tuple of str
        Raw files, for a flat those of its calibrated flats.
    steps : tuple of Step
        Done to each input before combining (for a flat they are done to each flat by itself).
    exposure_time_s : float
        Mean exposure time of the inputs.
    filter : str
        Of a flat.
    reason : str
        What the inputs have in common.
    level_of : str
        Name of the bias whose level a dark still holds, which tells how much of it is current;
        empty when it has lost its bias, or no bias of the night fits.
    shape : tuple of int
        Rows and columns.
    setup : Setup
        What frames must agree in to be served by it.
    set_temperature_c : float or None
        Set temperature of the detector.
    stored : StoredMaster or None
        The master of the library that it is; it then has no inputs and no output.
    """

    name: str
    kind: Kind
    shape: tuple[int, int]
    setup: Setup
    set_temperature_c: float | None = None
    output: str = ""
    inputs: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    exposure_time_s: float = 0.0
    filter: str = ""
    reason: str = ""
    level_of: str = ""
    stored: StoredMaster | None = None

    @property
    def lost_bias(self) -> str:
        """Name of the bias that went off the frames of a dark; empty when it holds its bias."""
        if self.stored is not None:
            return self.stored.bias_recipe if self.stored.lost_bias else ""
        return next((s.master or "" for s in self.steps if s.name == "subtract_bias"), "")


class Plan(Strict):
    """The plan of a night.

    Attributes
    ----------
    schema_version : int
        Of the JSON form.
    raw : str
        The raw folder.
    config : Config
        The settings it was made with.
    masters : tuple of MasterPlan
        In the order in which they can be made.
    frames : tuple of FramePlan
        One for each file, in the order of the files.
    """

    schema_version: Literal[1] = 1
    raw: str
    config: Config
    masters: tuple[MasterPlan, ...] = ()
    frames: tuple[FramePlan, ...] = Field(default=())

    def _repr_html_(self) -> str:
        """Masters and frames as a notebook shows them."""
        masters = [
            (m.name, str(len(m.inputs)), m.reason, "; ".join(map(str, m.steps)))
            for m in self.masters
        ]
        frames = [
            (
                frame.file,
                frame.kind.value if frame.kind else "?",
                "; ".join(map(str, frame.steps)) or frame.action,
                "; ".join(error.text for error in frame.errors) or frame.reason,
            )
            for frame in self.frames
        ]
        return html_table(
            f"masters of {self.raw}", ("master", "frames", "made of", "each frame first"), masters
        ) + html_table("frames", ("file", "kind", "what is done", "why"), frames)

    @property
    def refused(self) -> tuple[FramePlan, ...]:
        """Frames that cannot be calibrated."""
        return tuple(frame for frame in self.frames if frame.action == "refuse")

    def master(self, name: str) -> MasterPlan:
        """The master of that name."""
        return next(master for master in self.masters if master.name == name)

    def find_frame(self, name: str) -> FramePlan:
        """The frame of that path below the raw folder, or of that file name alone.

        Raises
        ------
        ConfigError
            When there is none, or more than one.
        """
        exact = [frame for frame in self.frames if frame.file == name]
        last = Path(name).name
        found = exact or [
            f for f in self.frames if last in (Path(f.file).name, Path(file_of(f.file)).name)
        ]
        if len(found) == 1:
            return found[0]
        files = ", ".join(frame.file for frame in found[:3])
        told = f"several frames are called so: {files}" if found else f"no such file in {self.raw}"
        raise ConfigError("plan-file", f"{name}: {told}")
