"""What is done with one raw frame by itself, in whichever process: hash, level, calibrate, write.

Nothing of the run is changed here: all that was found out comes back in a `FrameDone`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from astropy.io import fits

from flatcal.engine.cosmic_rays import calibrate_and_find
from flatcal.engine.headers import frame_header, read_header
from flatcal.engine.products import Found, calibrate_frame
from flatcal.engine.recipes import Recipes
from flatcal.engine.setting import Setting, open_raw
from flatcal.engine.store import OutputStore
from flatcal.errors import FlatcalError, StorageError
from flatcal.extension import file_of
from flatcal.fits_writer import ImageWriter
from flatcal.frame import Caveat
from flatcal.io import naming, owning_up
from flatcal.plan import FramePlan
from flatcal.raw_frame import RawFrame
from flatcal.records import InputRecord, ProductRecord
from flatcal.user_cache import Stamp, stamp_of

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
    """

    setting: Setting
    store: OutputStore
    recipe_of: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class FrameTask:
    """Something that is to be done with a frame, and what the run knows of it.

    It may concern several images of one file: their hash, and the output that holds them all.

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
    others : tuple of FramePlan
        The further images of the file.
    absent : tuple of str
        Extensions of the file that the output will not hold.
    """

    do: Literal["hash", "level", "write"]
    frame: FramePlan
    record: InputRecord | None
    earlier: InputRecord | None
    replaceable: bool
    others: tuple[FramePlan, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def frames(self) -> tuple[FramePlan, ...]:
        """All that it concerns."""
        return (self.frame, *self.others)


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
    others : tuple of FrameDone
        What came of the further images of the file; empty where it is the same.
    """

    record: InputRecord | None = None
    failure: Caveat | None = None
    found: Found | None = None
    product: ProductRecord | None = None
    is_made: bool = False
    others: tuple[FrameDone, ...] = ()

    def of_each(self, task: FrameTask) -> Iterator[tuple[FramePlan, FrameDone]]:
        """What came of each frame of a task; what is wrong with the file is wrong with all."""
        others = self.others or [FrameDone(failure=self.failure)] * len(task.others)
        return zip(task.frames, (self, *others), strict=True)


class Layout(NamedTuple):
    """What is to be written of a frame.

    Attributes
    ----------
    header : Header
        As it is before the pixels are known.
    dtypes : dict of str to dtype
        Its planes.
    """

    header: fits.Header
    dtypes: dict[str, Any]


def work_on_frame(bench: Bench, task: FrameTask) -> FrameDone:
    """Do a task; what goes wrong with the frame is told, not raised.

    Raises
    ------
    StorageError
        When the server of an address stays away, for which no frame is to blame.
    """
    work = FrameWork(bench, task)
    try:
        with owning_up(task.frame.file):
            return work.do()
    except StorageError:
        raise
    except FlatcalError as error:
        return FrameDone(work.record, Caveat(error.slug, error.text))


class FrameWork:
    """One task while it is done."""

    def __init__(self, bench: Bench, task: FrameTask) -> None:
        self.bench = bench
        self.task = task
        self.frame = task.frame
        self.record = task.record
        self._stamp: Stamp | None = None

    def do(self) -> FrameDone:
        """Do the task."""
        if self.task.do == "hash":
            self.hash()
            return FrameDone(self.record)
        if self.task.do == "level":
            return self._find_level()
        return self._current() or self._write()

    def _open(self) -> RawFrame:
        """The raw file, open.

        Its stamp is of before: that of a file which takes its place now is never taken for its own.
        """
        frame, setting = self.frame, self.bench.setting
        assert frame.storage is not None
        path = setting.raw_folder / file_of(frame.file)
        with naming(path):
            self._stamp = stamp_of(path, frame.storage.stamp)
        return open_raw(setting, frame)

    def _know(self) -> bool:
        """Whether the hash of the open file is known, from this run or an earlier one."""
        earlier = self.task.earlier
        if self.record is None and earlier and earlier.stamp == self._stamp:
            self.record = earlier
        return self.record is not None

    def _keep(self, raw: RawFrame) -> None:
        """Keep the hash of the open file; what has not been hashed yet is read."""
        if not self._know():
            assert self._stamp is not None
            size_bytes, mtime_ns, ctime_ns, inode = self._stamp
            self.record = InputRecord(
                size_bytes=size_bytes, mtime_ns=mtime_ns, ctime_ns=ctime_ns, inode=inode,
                etag=raw.storage.etag, sha256=raw.sha256(),
            )  # fmt: skip

    def hash(self) -> None:
        """Hash the raw file, unless that is known."""
        if self.record is None:
            with self._open() as raw:
                self._keep(raw)

    def _find_level(self) -> FrameDone:
        def leave(*_rows: Any) -> None:
            self.bench.store.leave()

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
        self.hash()
        assert self.frame.kind is not None
        known = store.current(
            output, self.frame.kind, self.recipe(), [self.frame.file], has_mask=self._has_mask
        )
        if known is None:
            if not self.task.replaceable:
                store.require_ours(output)
            return None
        return FrameDone(self.record, found=found_in(known), product=known)

    def _write(self) -> FrameDone:
        """Hash, calibrate and write a frame, all in one pass over its pixels."""
        frame, layout = self.frame, self.lay_out()
        with self.bench.store.writing(
            output_of(frame), layout.header, frame.file, frame.kept_shape, layout.dtypes
        ) as writer:
            return self.fill(writer, layout)

    def lay_out(self) -> Layout:
        """Header and planes of the frame when it is written."""
        frame, setting = self.frame, self.bench.setting
        has_std = setting.config.output.uncertainty and frame.noise_known
        dtypes: dict[str, Any] = {"PRIMARY": setting.dtype}
        dtypes |= {"UNCERT": setting.dtype} if has_std else {}
        dtypes |= {"MASK": np.uint8, "FLAGS": np.int16} if self._has_mask else {}
        raw = read_header(setting.raw_folder / file_of(frame.file), hdu_of(frame))
        return Layout(frame_header(raw, frame), dtypes)

    def fill(self, writer: ImageWriter, layout: Layout) -> FrameDone:
        """Calibrate the frame into the place that an output has for it."""
        frame, setting, (header, dtypes) = self.frame, self.bench.setting, layout
        assert frame.kind is not None
        # Closed before the output gets its name: closing tells whether the file has changed.
        with self._open() as raw:

            def take(data: Any, std: Any, bad: Any, flags: Any) -> None:
                self.bench.store.leave()
                planes = {
                    "PRIMARY": data,
                    "UNCERT": std,
                    "MASK": bad,
                    "FLAGS": flags.view(np.int16),
                }
                writer.write(*(planes[name] for name in dtypes))

            hashed = not self._know()
            looks = any(step.name == "find_cosmic_rays" for step in frame.steps)
            calibrate = calibrate_and_find if looks else calibrate_frame
            found = calibrate(
                raw, setting, frame, with_std="UNCERT" in dtypes, hashed=hashed, take=take
            )
            self._keep(raw)
            product = self.bench.store.describe(
                output_of(frame), frame.kind, found, header, self.recipe(), self._digests([frame]),
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

    def recipe(self) -> str:
        """Of the calibrated frame, whose raw file has been hashed."""
        setting = self.bench.setting
        recipes = Recipes(setting.config, self._digests, setting.mask, self.bench.recipe_of)
        return recipes.of_frame(self.frame)


def output_of(frame: FramePlan) -> str:
    """File of a calibrated frame below the output folder."""
    assert frame.output is not None
    return frame.output


def found_in(product: ProductRecord) -> Found:
    """What was found out about a calibrated frame when it was made."""
    return Found(product.median_adu, product.n_flagged, None, product.refined_scale)


def hdu_of(frame: FramePlan) -> int:
    """Number of the HDU that holds the pixels of a raw frame."""
    assert frame.storage is not None
    return frame.storage.hdu
