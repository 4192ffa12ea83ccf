"""The plan: for every frame what is done to it, with which masters and numbers, and why.

A plan is frozen, and goes to JSON and back. `flatcal.planning` makes it from headers alone;
running it decides nothing new, so what `flatcal plan` shows is what `flatcal run` does.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flatcal.camera import Strict
from flatcal.frame import Caveat, Detector, Kind, Storage
from flatcal.recipe import Config

StepName = Literal[
    "subtract_overscan", "trim_image", "subtract_bias", "subtract_dark", "flat_correct"
]


class Step(Strict):
    """One step of calibration.

    Attributes
    ----------
    name : str
        The function of the same name does it.
    section, statistic : str or None
        FITS section, and for the overscan the statistic along each row.
    master : str or None
        Name of the master that is used.
    scale : float
        Factor of the dark.
    reason : str
        Why it is done so.
    """

    name: StepName
    section: str | None = None
    statistic: str | None = None
    master: str | None = None
    scale: float = 1.0
    reason: str = ""

    def __str__(self) -> str:
        if self.name == "subtract_overscan":
            return f"overscan {self.statistic} of {self.section}"
        if self.name == "trim_image":
            return f"trim to {self.section}"
        scale = f" x {self.scale:.4g}" if self.scale != 1 else ""
        verb = "/" if self.name == "flat_correct" else "-"
        return f"{verb} {self.master}{scale}"


class FramePlan(Strict):
    """What is done to one raw frame.

    Attributes
    ----------
    file : str
        Path below the raw folder.
    kind : Kind or None
        Its kind; None when it is not known.
    kind_reason : str
        What told the kind.
    action : str
        'combine' for a bias or dark, and for a flat that is not written by itself; 'calibrate'
        for a flat or science frame; 'refuse'.
    exposure_time_s, filter, object, date
        As in the header.
    steps : tuple of Step
        In this order.
    output : str or None
        File below the output folder.
    part_of : str or None
        Name of the master that the frame goes into.
    reason : str
        Why the frame is treated so.
    caveats, errors : tuple of Caveat
        What the observer should know; why the frame is refused.
    storage, detector
        See `flatcal.frame`; None for a frame that cannot be read.
    """

    file: str
    kind: Kind | None
    kind_reason: str = ""
    action: Literal["combine", "calibrate", "refuse"]
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
    caveats: tuple[Caveat, ...] = ()
    errors: tuple[Caveat, ...] = ()
    storage: Storage | None = None
    detector: Detector | None = None


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
    """

    name: str
    kind: Kind
    output: str
    inputs: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    exposure_time_s: float = 0.0
    filter: str = ""
    reason: str = ""

    @property
    def lost_bias(self) -> str:
        """Name of the bias that went off the frames of a dark; empty when it holds its bias."""
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

    @property
    def refused(self) -> tuple[FramePlan, ...]:
        """Frames that cannot be calibrated."""
        return tuple(frame for frame in self.frames if frame.action == "refuse")

    def master(self, name: str) -> MasterPlan:
        """The master of that name."""
        return next(master for master in self.masters if master.name == name)
