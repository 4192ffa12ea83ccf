"""What is done with one raw frame by itself, in whichever process: hash, level, calibrate, write.

Nothing of the run is changed here: all that was found out comes back in a `FrameDone`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flatcal.engine.headers import frame_header, read_header
from flatcal.engine.products import Found, calibrate_frame
from flatcal.engine.recipes import Recipes
from flatcal.engine.setting import Setting, open_raw
from flatcal.engine.store import OutputStore
from flatcal.errors import FlatcalError, StorageError
from flatcal.frame import Caveat
from flatcal.io import RawFrame, owning_up
from flatcal.plan import FramePlan
from flatcal.records import InputRecord, ProductRecord

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a process has to work on frames with.

    Attributes
    ----------
    setting : Setting
        Masters, memory and settings.
    store : OutputStore
        The output folder.
    recipe_of : callable
        Gives the recipe of a master by its name.
    leave : callable
        Raises when the run has been given up; called for each band.
    """

    setting: Setting
    store: OutputStore
    recipe_of: Callable[[str], str]
    leave: Callable[[], None]


@dataclass(frozen=True, slots=True)
class FrameTask:
    """Something that is to be done with a frame, and what the run knows of it.

    Attributes
    ----------
    do : str
        'hash' the raw file; find the 'level' of a flat that is not written; 'write' the calibrated
        frame, unless it stands.
    frame : FramePlan
        Its plan.
    record : InputRecord or None
        The raw file as this run has read it.
    earlier : InputRecord or None
        The raw file as an earlier run has read it.
    replaceable : bool
        Whether its output may be replaced whatever it is.
    """

    do: Literal["hash", "level", "write"]
    frame: FramePlan
    record: InputRecord | None
    earlier: InputRecord | None
    replaceable: bool


@dataclass(frozen=True, slots=True)
class FrameDone:
    """What came of a task.

    Attributes
    ----------
    record : InputRecord or None
        The raw file, if it is known by now.
    failure : Caveat or None
        Why the frame cannot be used.
    found : Found or None
        What was found out about its calibrated pixels.
    product : ProductRecord or None
        Its output.
    is_made : bool
        Whether that was made, not up to date.
    """

    record: InputRecord | None = None
    failure: Caveat | None = None
    found: Found | None = None
    product: ProductRecord | None = None
    is_made: bool = False


def work_on_frame(bench: Bench, task: FrameTask) -> FrameDone:
    """Do a task; what goes wrong with the frame is told, not raised.

    Raises
    ------
    StorageError
        When the server of an address stays away, for which no frame is to blame.
    """
    work = _FrameWork(bench, task)
    try:
        with owning_up(task.frame.file):
            return work.do()
    except StorageError:
        raise
    except FlatcalError as error:
        return FrameDone(work.record, Caveat(error.slug, error.text))


class _FrameWork:
    """One task while it is done."""

    def __init__(self, bench: Bench, task: FrameTask) -> None:
        self.bench = bench
        self.task = task
        self.frame = task.frame
        self.record = task.record

    def do(self) -> FrameDone:
        if self.task.do == "hash":
            self._hash()
            return FrameDone(self.record)
        if self.task.do == "level":
            return self._find_level()
        return self._current() or self._write()

    def _know(self, raw: RawFrame) -> bool:
        """Whether the hash of the open file is known, from this run or an earlier one."""
        earlier = self.task.earlier
        if self.record is None and earlier and earlier.stamp == raw.storage.stamp:
            self.record = earlier
        return self.record is not None

    def _keep(self, raw: RawFrame) -> None:
        """Keep the hash of the open file; what has not been hashed yet is read."""
        if not self._know(raw):
            self.record = InputRecord(**raw.storage.stamp._asdict(), sha256=raw.sha256())

    def _hash(self) -> None:
        if self.record is None:
            with open_raw(self.bench.setting, self.frame) as raw:
                self._keep(raw)

    def _find_level(self) -> FrameDone:
        def leave(*_rows: Any) -> None:
            self.bench.leave()

        with open_raw(self.bench.setting, self.frame) as raw:
            found = calibrate_frame(
                raw, self.bench.setting, self.frame, with_std=False, hashed=False, take=leave
            )
        return FrameDone(self.record, found=found)

    def _current(self) -> FrameDone | None:
        """The output if it is up to date, which is told by the hash of its input."""
        output, store = output_of(self.frame), self.bench.store
        if not store.holds(output):
            return None
        self._hash()
        assert self.frame.kind is not None
        known = store.current(
            output, self.frame.kind, self._recipe(), [self.frame.file], has_mask=self._has_mask
        )
        if known is None:
            if not self.task.replaceable:
                store.require_ours(output)
            return None
        found = Found(known.median_adu, known.n_flagged, None, known.refined_scale)
        return FrameDone(self.record, found=found, product=known)

    def _write(self) -> FrameDone:
        """Hash, calibrate and write a frame, all in one pass over its pixels."""
        frame, setting, store = self.frame, self.bench.setting, self.bench.store
        output = output_of(frame)
        assert frame.kind is not None
        has_std = setting.config.output.uncertainty and frame.noise_known
        dtypes: dict[str, Any] = {"PRIMARY": setting.dtype}
        dtypes |= {"UNCERT": setting.dtype} if has_std else {}
        dtypes |= {"MASK": np.uint8, "FLAGS": np.int16} if self._has_mask else {}
        header = frame_header(read_header(setting.raw_folder / frame.file, hdu_of(frame)), frame)
        with ExitStack() as stack:
            writer = stack.enter_context(
                store.writing(output, header, frame.file, frame.kept_shape, dtypes)
            )

            # Closed before the output gets its name: closing tells whether the file has changed.
            raw = stack.enter_context(open_raw(setting, frame))

            def take(data: Any, std: Any, bad: Any, flags: Any) -> None:
                self.bench.leave()
                planes = {
                    "PRIMARY": data,
                    "UNCERT": std,
                    "MASK": bad,
                    "FLAGS": flags.view(np.int16),
                }
                writer.write(*(planes[name] for name in dtypes))

            hashed = not self._know(raw)
            found = calibrate_frame(raw, setting, frame, with_std=has_std, hashed=hashed, take=take)
            self._keep(raw)
            product = store.describe(
                output, frame.kind, found, header, self._recipe(), self._digests([frame]),
                has_mask=self._has_mask,
            )  # fmt: skip
            writer.finish(header)
        return FrameDone(self.record, found=found, product=product, is_made=True)

    @property
    def _has_mask(self) -> bool:
        return self.bench.setting.config.output.mask

    def _digests(self, _frames: Any) -> list[tuple[str, str]]:
        assert self.record is not None
        return [(self.frame.file, self.record.sha256)]

    def _recipe(self) -> str:
        setting = self.bench.setting
        recipes = Recipes(setting.config, self._digests, setting.mask, self.bench.recipe_of)
        return recipes.of_frame(self.frame)


def output_of(frame: FramePlan) -> str:
    """File of a calibrated frame below the output folder."""
    assert frame.output is not None
    return frame.output


def hdu_of(frame: FramePlan) -> int:
    """Number of the HDU that holds the pixels of a raw frame."""
    assert frame.storage is not None
    return frame.storage.hdu
