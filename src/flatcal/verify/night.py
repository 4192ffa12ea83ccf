"""The output folder of a run, and the raw frames that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from flatcal.errors import ConfigError, FrameError
from flatcal.extension import file_of
from flatcal.frame import Detector, Kind
from flatcal.io import read_file
from flatcal.overscan_model import PER_ROW
from flatcal.photon_transfer.raw import RawImage, RawPart
from flatcal.plan import FramePlan, MasterPlan, Plan, Step
from flatcal.records import ProductRecord, RunRecord
from flatcal.section import Section, parse_sections
from flatcal.storage import Place, place_of

_Record = TypeVar("_Record", bound=BaseModel)


@dataclass(frozen=True)
class ReducedNight:
    """What a run has made, by its plan.json and run.json.

    Attributes
    ----------
    out : Path or RemotePath
        The output folder.
    plan : Plan
        The plan.
    run : RunRecord
        What became of it.
    """

    out: Place
    plan: Plan
    run: RunRecord

    @cached_property
    def frames(self) -> dict[str, FramePlan]:
        """Plan of each raw frame, by its file."""
        return {frame.file: frame for frame in self.plan.frames}

    @property
    def raw(self) -> Place:
        """The raw folder."""
        return place_of(self.plan.raw)

    @property
    def why_no_raw(self) -> str:
        """Why no test of raw frames is possible; empty where they are there."""
        return "" if self.raw.is_dir() else f"the raw frames are no longer at {self.raw}"

    def masters(self, kind: Kind) -> list[tuple[MasterPlan, ProductRecord]]:
        """Masters of a kind that the run has made."""
        return [
            (master, self.run.products[master.output])
            for master in self.plan.masters
            if master.kind is kind and master.output in self.run.products
        ]

    def calibrated(self, kind: Kind) -> list[FramePlan]:
        """Frames of a kind that were calibrated and written."""
        return [
            frame
            for frame in self.plan.frames
            if frame.kind is kind and frame.output in self.run.products
        ]

    def inputs(self, product: ProductRecord) -> list[FramePlan]:
        """The raw frames that went into an output."""
        return [self.frames[file] for file in product.inputs]

    def path_of_master(self, name: str) -> Place:
        """File of a master, in the output folder or in the library."""
        master = self.plan.master(name)
        return self.out / master.output if master.stored is None else Path(master.stored.path)

    def raw_image(self, frame: FramePlan, steps: tuple[Step, ...]) -> RawImage:
        """How a raw frame is read, with the overscan and the section of these steps."""
        assert frame.storage is not None
        assert frame.shape is not None
        by_name = {step.name: step for step in steps}
        overscan, trim = by_name.get("subtract_overscan"), by_name.get("trim_image")
        data = _sections_of(trim, frame.shape)
        data = data or ((slice(0, frame.shape[0]), slice(0, frame.shape[1])),)
        parallel = _sections_of(by_name.get("subtract_parallel_overscan"), frame.shape)
        return RawImage(
            self.raw / file_of(frame.file),
            frame.storage,
            frame.shape,
            tuple(
                RawPart(section, beside, detector.saturation_adu)
                for section, beside, detector in zip_longest(
                    data, _sections_of(overscan, frame.shape), frame.detectors
                )
            ),
            (overscan.statistic if overscan else None) or "median",
            (overscan.model if overscan else None) or PER_ROW,
            parallel[0][0] if parallel else None,
        )


def _sections_of(step: Step | None, shape: tuple[int, int]) -> tuple[Section, ...]:
    if step is None or step.section is None:
        return ()
    return parse_sections(step.section, shape)


def open_night(out: str | Place) -> ReducedNight:
    """Read plan.json and run.json of an output folder.

    Raises
    ------
    ConfigError
        When one of them is not there or is of another version, or they are not of one run.
    """
    folder = place_of(out)
    planned = _read(folder / "plan.json")
    plan = _parse(folder / "plan.json", Plan, planned)
    run = _parse(folder / "run.json", RunRecord, _read(folder / "run.json"))
    found = sha256(planned).hexdigest()
    if run.plan_sha256 != found:
        raise ConfigError(
            "no-run",
            f"plan.json and run.json in {folder} are not of one run: the plan has the SHA-256 "
            f"{found[:12]}, and the run had one with {run.plan_sha256[:12] or 'none'}; run again",
        )
    return ReducedNight(folder, plan, run)


def _read(path: Place) -> bytes:
    try:
        return read_file(path)
    except (FrameError, OSError) as error:
        why = getattr(error, "strerror", None) or getattr(error, "text", error)
        text = f"{path} cannot be read: {why}; name the output folder of a run"
        raise ConfigError("no-run", text) from error


def _parse(path: Place, model: type[_Record], content: bytes) -> _Record:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        text = f"{path} is not of this version of flatcal; run again with it"
        raise ConfigError("no-run", text) from error


def read_variance_adu2(detector: Detector) -> float:
    """Square of the read noise in ADU, of a detector whose noise is known."""
    assert detector.gain_electron_per_adu is not None
    assert detector.read_noise_electron is not None
    return (detector.read_noise_electron / detector.gain_electron_per_adu) ** 2
