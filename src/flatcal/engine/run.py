"""Running a plan from its first bias to its last science frame, and resuming an earlier run."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from flatcal import __version__
from flatcal.engine.buffers import Buffers
from flatcal.engine.headers import frame_header, master_header, read_header, recipe_hash
from flatcal.engine.masters import Master, load_master, make_master, require_unchanged
from flatcal.engine.products import (
    FlatLevel,
    Planes,
    Setting,
    calibrate_frame,
    combine_flats,
    combine_raw,
)
from flatcal.engine.shelf import MasterShelf
from flatcal.engine.store import OutputStore, check_output, level_of
from flatcal.engine.workers import Workers
from flatcal.errors import BrokenFileError, FlatcalError, FrameError
from flatcal.frame import Caveat, Kind
from flatcal.io import RawFrame
from flatcal.kernels.compiled import telling_of_compilation
from flatcal.plan import FramePlan, MasterPlan, Plan, Step
from flatcal.projection import DEFAULT_MEMORY_BYTES, master_bytes, project_memory
from flatcal.records import InputRecord, Outcome, ProductRecord, RunRecord, Status

logger = logging.getLogger(__name__)

# What of a frame's plan determines its pixels and header, beside the raw file and the steps.
_PIXEL_FACTS = {"kind", "exposure_time_s", "filter", "date", "unit", "shape", "detector"}

# What of the settings of outputs determines the pixels of all that is made.
_PIXEL_SETTINGS = {"dtype", "uncertainty"}

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did.

    Attributes
    ----------
    out : Path
        The output folder.
    record : RunRecord
        The content of run.json.
    made : tuple of str
        Outputs that were made; the other products were up to date.
    left_over : tuple of str
        Files of earlier runs that this one neither made nor found up to date.
    """

    out: Path
    record: RunRecord
    made: tuple[str, ...]
    left_over: tuple[str, ...]

    @property
    def n_made(self) -> int:
        """Outputs that were made."""
        return len(self.made)

    @property
    def n_current(self) -> int:
        """Outputs that were up to date."""
        return len(self.record.products) - len(self.made)

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Outcomes of frames that failed."""
        return tuple(o for o in self.record.outcomes if o.status is Status.FAILED)


def run_plan(
    plan: Plan,
    out: str | Path,
    *,
    jobs: int | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Run a plan.

    Parameters
    ----------
    plan : Plan
        From `build_plan`.
    out : str or Path
        The output folder; made if it is not there.
    jobs : int, optional
        Threads; all cores when left out.
    memory_bytes : int, optional
        Limit of all arrays in memory at once; the program itself takes about 200 MB more.
    overwrite : bool, optional
        Replace files in the output folder that flatcal did not write.
    progress : callable, optional
        Called as ``progress(what, done, total)`` after each output.

    Returns
    -------
    RunResult
        With one outcome for each input frame.

    Raises
    ------
    ConfigError
        When the plan cannot fit in the memory. Nothing has been written then.
    OutputError
        When the output folder cannot be used. Nothing has been written then.
    """
    projection = project_memory(plan)
    projection.require(memory_bytes)
    folder = Path(out)
    check_output(Path(plan.raw), folder)
    jobs = jobs or os.cpu_count() or 1
    store = OutputStore(folder, overwrite=overwrite)
    pool = ThreadPoolExecutor(jobs)
    try:
        run = _Run(plan, store, Workers(pool, jobs, memory_bytes, projection), progress or _silent)
        with telling_of_compilation(run.tell_of_compilation):
            return run.run()
    finally:
        # Interrupted, what has begun is ended, so that no output is left half made.
        pool.shutdown(wait=True, cancel_futures=True)


def _silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody asked for."""


class _Run:
    """One run: what is known while it goes on."""

    def __init__(
        self, plan: Plan, store: OutputStore, workers: Workers, progress: Progress
    ) -> None:
        self.plan = plan
        self.raw = Path(plan.raw)
        self.store = store
        self.workers = workers
        self.shelf = MasterShelf(
            self._load_master, lambda name: master_bytes(plan, name), self._wait_for_writing
        )
        self.buffers = Buffers()
        self.setting = Setting(self.raw, plan.config, self.shelf.get, workers, self.buffers)
        self.progress = progress
        self.frames = {frame.file: frame for frame in plan.frames}
        self.inputs: dict[str, InputRecord] = {}
        self.products: dict[str, ProductRecord] = {}
        self.writing: dict[str, Future[None]] = {}
        self.levels: dict[str, FlatLevel] = {}
        self.failures: dict[str, Caveat] = {}
        self.master_failures: dict[str, Caveat] = {}
        self.made: set[str] = set()
        self.n_done = 0
        self.n_total = sum(m.stored is None for m in plan.masters) + sum(
            f.action == "calibrate" for f in plan.frames
        )
        self.lock = Lock()

    def run(self) -> RunResult:
        """Make everything in the order of its needs."""
        started, clock = datetime.now(UTC), time.monotonic()
        for master in self._masters(Kind.BIAS, Kind.DARK):
            self._try_master(master, self._make_raw_master)
        self._calibrate(Kind.FLAT)
        for master in self._masters(Kind.FLAT):
            self._try_master(master, self._make_flat_master)
        self._calibrate(Kind.SCIENCE)
        self._finish_writing()
        record = RunRecord(
            flatcal_version=__version__,
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - clock, 3),
            raw=self.plan.raw,
            inputs=dict(sorted(self.inputs.items())),
            products=dict(sorted(self.products.items())),
            outcomes=tuple(self._outcome(frame) for frame in self.plan.frames),
        )
        return RunResult(
            out=self.store.out,
            record=self.store.finish(self.plan, record),
            made=tuple(sorted(self.made)),
            left_over=self.store.left_over(self.products),
        )

    def tell_of_compilation(self) -> None:
        """Say what the first run on a machine spends its first seconds with."""
        logger.info("compiling for this machine, once")
        self.progress("compiling for this machine, once", self.n_done, self.n_total)

    def _step_done(self, what: str) -> None:
        with self.lock:
            self.n_done += 1
            done = self.n_done
        self.progress(what, done, self.n_total)

    def _fail(self, file: str, error: FlatcalError) -> None:
        logger.warning("%s: %s", file, error)
        with self.lock:
            self.failures[file] = Caveat(error.slug, error.text)

    # -- inputs ------------------------------------------------------------------------

    def _know_input(self, frame: FramePlan) -> None:
        """SHA-256 of a raw frame, from the earlier run where the file has not changed."""
        with self.lock:
            if frame.file in self.inputs or frame.file in self.failures:
                return
        try:
            record = self._input_record(frame)
        except FlatcalError as error:
            self._fail(frame.file, error)
        else:
            with self.lock:
                self.inputs[frame.file] = record

    def _input_record(self, frame: FramePlan) -> InputRecord:
        storage = frame.storage
        assert storage is not None
        assert frame.shape is not None
        known = self.store.known_input(self.plan.raw, frame.file)
        with RawFrame(self.raw / frame.file, storage, frame.shape) as raw:
            if known and (known.size_bytes, known.mtime_ns) == raw.stamp:
                return known
            size_bytes, mtime_ns = raw.stamp
            return InputRecord(size_bytes=size_bytes, mtime_ns=mtime_ns, sha256=raw.sha256())

    # -- masters -----------------------------------------------------------------------

    def _masters(self, *kinds: Kind) -> list[MasterPlan]:
        return [m for m in self.plan.masters if m.kind in kinds and m.stored is None]

    def _try_master(self, master: MasterPlan, make: Callable[[MasterPlan], None]) -> None:
        """Make a master; a frame that turns out broken is left out and named."""
        while True:
            try:
                make(master)
            except BrokenFileError as error:
                if error.path.is_relative_to(self.raw):
                    self._fail(error.path.relative_to(self.raw).as_posix(), error)
                    continue
                self._fail_master(master.name, error)
            except FlatcalError as error:
                self._fail_master(master.name, error)
            break
        self._step_done(master.name)

    def _fail_master(self, name: str, error: FlatcalError) -> None:
        logger.warning("%s cannot be made: %s", name, error)
        self.master_failures[name] = Caveat(error.slug, error.text)

    def _good_inputs(self, master: MasterPlan) -> list[FramePlan]:
        frames = [self.frames[file] for file in master.inputs]
        self.workers.run([partial(self._know_input, frame) for frame in frames])
        good = [frame for frame in frames if frame.file not in self.failures]
        if not good:
            cause = self.failures[master.inputs[0]]
            raise FrameError(cause.slug, f"no frame can be used; {master.inputs[0]}: {cause.text}")
        return good

    def _make_raw_master(self, master: MasterPlan) -> None:
        """Combine bias or dark frames."""
        frames = self._good_inputs(master)
        settings = self.plan.config.combine.model_dump()
        self._produce_master(
            master, frames, self._recipe("average", frames, master.steps, settings),
            lambda: combine_raw(self.setting, master, frames),
        )  # fmt: skip

    def _make_flat_master(self, master: MasterPlan) -> None:
        """Combine flats that can be divided by their median; the others fail."""
        everyone = self._good_inputs(master)
        if not self.plan.config.output.flats:
            known = self.store.known_failures("flat-level", self.inputs)
            usable = [frame for frame in everyone if frame.file not in known]
            if self._is_current(master.output, master.kind, self._flat_recipe(usable), usable):
                self.failures |= {f.file: known[f.file] for f in everyone if f.file in known}
                return
            self._for_frames(everyone, self._try_level)
        for frame in self._good_inputs(master):
            self._require_light(frame, master)
        frames = self._good_inputs(master)
        levels = [self.levels[frame.file] for frame in frames]
        self._produce_master(
            master, frames, self._flat_recipe(frames),
            lambda: combine_flats(self.setting, master, frames, levels),
        )  # fmt: skip

    def _flat_recipe(self, frames: Sequence[FramePlan]) -> str:
        return recipe_hash(
            {
                "operation": "average of flats over their medians",
                "flats": [(frame.file, self._frame_recipe(frame)) for frame in frames],
                "combine": self.plan.config.combine.model_dump(),
            }
        )

    def _require_light(self, frame: FramePlan, master: MasterPlan) -> None:
        level = self.levels[frame.file].median_adu
        if level is None or level <= 0:
            told = "it has no good pixel" if level is None else f"its median is {level:g}"
            text = f"{told}, so it is not used in {master.name}; leave the file out"
            self._fail(frame.file, FrameError("flat-level", text))

    def _try_level(self, frame: FramePlan) -> None:
        """Level of a flat that is not written."""
        try:
            with calibrate_frame(self.setting, frame, with_std=False) as planes:
                level = FlatLevel(level_of(planes), planes.refined_scale)
        except FlatcalError as error:
            self._fail(frame.file, error)
        else:
            with self.lock:
                self.levels[frame.file] = level

    def _produce_master(
        self,
        master: MasterPlan,
        frames: Sequence[FramePlan],
        recipe: str,
        make: Callable[[], Planes],
    ) -> None:
        if self._is_current(master.output, master.kind, recipe, frames):
            return
        self.store.check_replaceable(master.output)
        self._make_room(master.name)
        planes = make()
        raws = [read_header(self.raw / f.file, _hdu(f)) for f in frames]
        bias_recipe = self._recipe_of(master.lost_bias) if master.lost_bias else ""
        header = master_header(raws, master, frames, bias_recipe)
        product = self._describe(master.output, master.kind, planes, header, recipe, frames)
        self.shelf.put(
            master.name, make_master(planes.data, planes.std, planes.flags, master.lost_bias)
        )
        # The next master is begun while this one is written.
        self.writing[master.name] = self.workers.submit(
            lambda: self._write(product, header, planes)
        )

    def _wait_for_writing(self, name: str) -> None:
        """Wait until a master is no longer being written; how it went is asked later."""
        if name in self.writing:
            wait([self.writing[name]])

    def _finish_writing(self) -> None:
        """Wait for masters that are still being written; one that cannot be is a failure."""
        for name, future in self.writing.items():
            try:
                future.result()
            except FlatcalError as error:
                self._fail_master(name, error)

    def _load_master(self, name: str) -> Master:
        """A master that this run, or an earlier one, has written."""
        plan = self.plan.master(name)
        if plan.stored is not None:
            require_unchanged(plan.stored)
            return load_master(Path(plan.stored.path), self._lost_bias(plan), self.setting.dtype)
        product = self._product_of(name)
        if name in self.writing:
            self.writing[name].result()
        return load_master(self.store.out / product.output, plan.lost_bias, self.setting.dtype)

    def _lost_bias(self, dark: MasterPlan) -> str:
        """Name of the bias that a dark of the library has lost, if this plan has it."""
        same = (m.name for m in self.plan.masters if m.stored and m.stored.recipe == dark.lost_bias)
        return next(same, dark.lost_bias)

    def _recipe_of(self, master: str) -> str:
        stored = self.plan.master(master).stored
        return self._product_of(master).recipe if stored is None else stored.sha256

    def _product_of(self, master: str) -> ProductRecord:
        product = self.products.get(self.plan.master(master).output)
        if product is None:
            cause = self.master_failures[master]
            raise FrameError(cause.slug, f"{master} could not be made: {cause.text}")
        return product

    # -- frames ------------------------------------------------------------------------

    def _calibrate(self, kind: Kind) -> None:
        chosen = [f for f in self.plan.frames if f.kind is kind and f.action == "calibrate"]
        self._for_frames(chosen, self._try_frame)

    def _for_frames(self, frames: Sequence[FramePlan], task: Callable[[FramePlan], None]) -> None:
        """Do something for each of some frames of a kind, several at once."""
        if not frames:
            return
        assert frames[0].kind is not None
        stage = self.workers.stage(frames[0].kind.value)
        self._make_room(stage.what)
        # Those with the same masters one after the other: few masters are in memory at once.
        ordered = sorted(frames, key=lambda frame: [step.master or "" for step in frame.steps])
        self.workers.run([partial(task, frame) for frame in ordered], stage)

    def _make_room(self, stage: str) -> None:
        """Drop masters that a stage leaves no memory for, and what the last stage worked in."""
        workers = self.workers
        self.buffers.clear()
        self.shelf.make_room(workers.stage(stage).room_bytes(workers.jobs, workers.memory_bytes))

    def _try_frame(self, frame: FramePlan) -> None:
        self._know_input(frame)
        if frame.file not in self.failures:
            try:
                self._make_frame(frame)
            except FlatcalError as error:
                self._fail(frame.file, error)
        self._step_done(frame.file)

    def _make_frame(self, frame: FramePlan) -> None:
        output, recipe = _output(frame), self._frame_recipe(frame)
        assert frame.kind is not None
        if not self._is_current(output, frame.kind, recipe, [frame]):
            self.store.check_replaceable(output)
            header = frame_header(read_header(self.raw / frame.file, _hdu(frame)), frame)
            settings = self.plan.config.output
            with calibrate_frame(self.setting, frame, with_std=settings.uncertainty) as planes:
                product = self._describe(output, frame.kind, planes, header, recipe, [frame])
                self._write(product, header, planes)
        with self.lock:
            product = self.products[output]
            self.levels[frame.file] = FlatLevel(product.median_adu, product.refined_scale)

    def _frame_recipe(self, frame: FramePlan) -> str:
        """Recipe of the pixels of a calibrated frame, whether or not it is written."""
        return self._recipe("calibrate", [frame], frame.steps, None)

    # -- outputs -----------------------------------------------------------------------

    def _recipe(
        self,
        operation: str,
        frames: Sequence[FramePlan],
        steps: Sequence[Step],
        settings: dict[str, Any] | None,
    ) -> str:
        """Hash of everything that determines an output made from raw frames."""
        masters = {step.master for step in steps if step.master is not None}
        return recipe_hash(
            {
                "flatcal": __version__,
                "operation": operation,
                "inputs": [(frame.file, self.inputs[frame.file].sha256) for frame in frames],
                "frames": [frame.model_dump(mode="json", include=_PIXEL_FACTS) for frame in frames],
                "steps": [step.model_dump(exclude={"reason"}) for step in steps],
                "masters": {name: self._recipe_of(name) for name in sorted(masters)},
                "settings": settings,
                "output": self.plan.config.output.model_dump(include=_PIXEL_SETTINGS),
            }
        )

    def _is_current(
        self, output: str, kind: Kind, recipe: str, frames: Sequence[FramePlan]
    ) -> bool:
        files = [frame.file for frame in frames]
        known = self.store.current(output, kind, recipe, files, has_mask=self._has_mask(output))
        if known is not None:
            logger.info("%s is up to date", output)
            with self.lock:
                self.products[output] = known
        return known is not None

    def _describe(
        self,
        output: str,
        kind: Kind,
        planes: Planes,
        header: Any,
        recipe: str,
        frames: Sequence[FramePlan],
    ) -> ProductRecord:
        inputs = [(frame.file, self.inputs[frame.file].sha256) for frame in frames]
        product = self.store.describe(
            output, kind, planes, header, recipe, inputs, has_mask=self._has_mask(output)
        )
        with self.lock:
            self.products[output] = product
        return product

    def _has_mask(self, output: str) -> bool:
        """Whether an output has a MASK plane: a master always does."""
        return output.startswith("masters/") or self.plan.config.output.mask

    def _write(self, product: ProductRecord, header: Any, planes: Planes) -> None:
        has_mask = self._has_mask(product.output)
        try:
            self.store.write(product.output, header, planes, has_mask=has_mask)
        except FlatcalError:
            with self.lock:
                del self.products[product.output]
            raise
        with self.lock:
            self.made.add(product.output)

    # -- outcomes ----------------------------------------------------------------------

    def _outcome(self, frame: FramePlan) -> Outcome:
        errors = frame.errors
        if frame.file in self.failures:
            errors += (self.failures[frame.file],)
        elif frame.action == "combine" and frame.part_of in self.master_failures:
            errors += (self.master_failures[frame.part_of],)
        if errors:
            status = Status.FAILED
        else:
            status = Status.CALIBRATED if frame.action == "calibrate" else Status.USED
        made = frame.part_of is not None and frame.part_of not in self.master_failures
        return Outcome(
            file=frame.file,
            kind=frame.kind,
            status=status,
            output=frame.output if status is Status.CALIBRATED else None,
            part_of=frame.part_of if made and not errors else None,
            reason=errors[0].text if errors else frame.reason,
            caveats=frame.caveats,
            errors=errors,
        )


def _output(frame: FramePlan) -> str:
    assert frame.output is not None
    return frame.output


def _hdu(frame: FramePlan) -> int:
    assert frame.storage is not None
    return frame.storage.hdu
