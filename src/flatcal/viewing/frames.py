"""Frames of a run at each stage of their calibration, region by region."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.errors import ConfigError
from flatcal.frame import Kind
from flatcal.plan import KEEPS_VALUES, FramePlan
from flatcal.report.page import has_report, write_report
from flatcal.report.pictures import block_for, shrink
from flatcal.report.samples import (
    output_rows,
    raw_rows,
    rows_after_each_step,
)
from flatcal.verify.night import ReducedNight, open_night
from flatcal.viewing.overrule import overrule

Array = NDArray[Any]

# Pixels that go to the page at once: 4 MB, which a browser draws in a tenth of a second.
_MOST_PIXELS: Final = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A part of an image.

    Attributes
    ----------
    values : ndarray of float32
        Pixels, or averages of blocks where the part has more than a page can draw.
    block : int
        Side of the blocks.
    first_x, first_y : int
        The first pixel, from 1.
    shape : tuple of int
        Rows and columns of the whole image.
    unit : str
        Of the values.
    """

    values: Array
    block: int
    first_x: int
    first_y: int
    shape: tuple[int, int]
    unit: str


class Viewer:
    """A run that is looked at.

    Parameters
    ----------
    out : Path
        The output folder.
    settings : Path or None
        Settings that the run was made with; ``flatcal.toml`` in the output folder by default.

    Raises
    ------
    ConfigError
        When the folder holds no run.
    """

    def __init__(self, out: Path, settings: Path | None = None) -> None:
        self.out = out
        self.settings = settings or out / "flatcal.toml"
        self.night = open_night(out)
        self._lock = Lock()

    def frames(self) -> list[dict[str, Any]]:
        """All raw frames and masters, with the stages at which they can be seen."""
        status = {outcome.file: outcome for outcome in self.night.run.outcomes}
        listed: list[dict[str, Any]] = [
            {
                "file": frame.file,
                "kind": frame.kind.value if frame.kind else "?",
                "filter": frame.filter,
                "status": status[frame.file].status.value,
                "reason": status[frame.file].reason,
                "stages": list(self._stages(frame)),
            }
            for frame in self.night.plan.frames
        ]
        listed += [
            {
                "file": master.output,
                "kind": f"master {master.kind.value}",
                "filter": master.filter,
                "status": "made",
                "reason": master.reason,
                "stages": ["master"],
            }
            for master in self.night.plan.masters
            if master.output in self.night.run.products
        ]
        return listed

    def _stages(self, frame: FramePlan) -> Iterator[str]:
        if frame.storage is None or frame.shape is None:
            return
        yield "raw"
        if frame.action != "calibrate":
            return
        # In the order of the steps; the last is what was written.
        yield from (step.name for step in frame.steps if step.name not in KEEPS_VALUES)
        if frame.kind is Kind.FLAT and frame.output in self.night.run.products:
            yield "ratio"

    def region(
        self, file: str, stage: str, rows: slice | None = None, columns: slice | None = None
    ) -> Region:
        """Part of a frame, or all of it.

        Parameters
        ----------
        file : str
            Path below the raw folder, or of a master below the output folder.
        stage : str
            One of those that `frames` gives.
        rows, columns : slice, optional
            From 0; cut to the image.

        Raises
        ------
        ConfigError
            When there is no such frame or stage.
        BrokenFileError
            When a file cannot be read.
        """
        night = self.night
        if stage == "master":
            master = next((m for m in night.plan.masters if m.output == file), None)
            if master is None or master.output not in night.run.products:
                raise ConfigError("plan-file", f"{file}: no such master in {self.out}")
            wanted = _cut(rows, columns, master.shape)
            whole = output_rows(night.out / master.output, [wanted[0]])
            assert whole is not None
            unit = "" if master.kind is Kind.FLAT else "ADU"
            return _region(whole[:, wanted[1]], wanted, master.shape, unit)
        frame = night.frames.get(file)
        if frame is None or stage not in self._stages(frame):
            raise ConfigError("plan-file", f"{file}: no such frame or stage {stage!r}")
        assert frame.shape is not None
        if stage == "raw":
            wanted = _cut(rows, columns, frame.shape)
            values = raw_rows(night, frame, [wanted[0]])[:, wanted[1]]
            return _region(values, wanted, frame.shape, frame.unit.upper())
        wanted = _cut(rows, columns, frame.kept_shape)
        unit = "" if stage == "ratio" else frame.unit.upper()
        values = _at_stage(night, frame, stage, wanted[0])[:, wanted[1]]
        return _region(values, wanted, frame.kept_shape, unit)

    def overrule(self, file: str, *, leave_out: bool) -> str:
        """Leave a frame out or take it in again; tell what was made anew."""
        with self._lock:
            result = overrule(self.night, file, self.settings, leave_out=leave_out)
            self.night = open_night(self.out)
            if has_report(self.out):
                write_report(self.out)
        made = ", ".join(result.made) or "nothing"
        verb = "left out" if leave_out else "taken in again"
        return f"{file} is {verb} by {self.settings}; made anew: {made}"


def _at_stage(night: ReducedNight, frame: FramePlan, stage: str, rows: slice) -> Array:
    """Rows of the image that is kept, as they are after a step."""
    if stage == "ratio":
        assert frame.part_of is not None
        flat = output_rows(night.out / (frame.output or ""), [rows])
        master = output_rows(night.path_of_master(frame.part_of), [rows], coloured=True)
        median = night.run.products[frame.output or ""].median_adu or 1.0
        assert flat is not None
        assert master is not None
        return np.asarray(flat / np.where(master > 0, master, 1) / median, np.float32)
    changing: list[str] = [step.name for step in frame.steps if step.name not in KEEPS_VALUES]
    after = list(rows_after_each_step(night, frame, [rows]))
    return after[1 + changing.index(stage)][1]


def _cut(rows: slice | None, columns: slice | None, shape: tuple[int, int]) -> tuple[slice, slice]:
    parts = []
    for part, size in zip((rows, columns), shape, strict=True):
        start, stop = (0, size) if part is None else (max(0, part.start), min(size, part.stop))
        if start >= stop:
            start, stop = 0, size
        parts.append(slice(start, stop))
    return parts[0], parts[1]


def _region(
    values: Array, wanted: tuple[slice, slice], shape: tuple[int, int], unit: str
) -> Region:
    block = block_for((values.shape[0], values.shape[1]), _MOST_PIXELS)
    first_x, first_y = wanted[1].start + 1, wanted[0].start + 1
    return Region(shrink(values, block), block, first_x, first_y, shape, unit)
