"""Running a plan from its first bias to its last science frame, and resuming an earlier run."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy as np

from flatcal import __version__
from flatcal.engine.buffers import Buffers
from flatcal.engine.headers import frame_header, master_header, read_header
from flatcal.engine.illumination import find_illumination
from flatcal.engine.inputs import Inputs
from flatcal.engine.lock import locking
from flatcal.engine.master_files import load_master, require_unchanged
from flatcal.engine.masters import Master, make_master
from flatcal.engine.products import (
    Found,
    Planes,
    Setting,
    calibrate_frame,
    combine_flats,
    combine_raw,
    find_of,
    open_raw,
)
from flatcal.engine.recipes import Recipes
from flatcal.engine.result import RunResult, find_misfits, outcome_of
from flatcal.engine.shelf import MasterShelf
from flatcal.engine.split import FlatPart, write_part
from flatcal.engine.store import FOLDERS, OutputStore, check_output
from flatcal.engine.user_mask import UserMask, load_user_mask
from flatcal.engine.workers import Workers
from flatcal.errors import BrokenFileError, FlatcalError, FrameError
from flatcal.frame import Caveat, Kind
from flatcal.io import owning_up, remove_stale_parts
from flatcal.kernels.compiled import telling_of_compilation
from flatcal.plan import FramePlan, MasterPlan, Plan
from flatcal.projection import DEFAULT_MEMORY_BYTES, master_bytes, project_memory
from flatcal.records import ProductRecord, RunRecord

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


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
        When the plan cannot fit in the memory, or the mask of bad pixels cannot be read. Nothing
        has been written then.
    OutputError
        When the output folder cannot be used, or another run is using it. Nothing has been
        written then.
    """
    projection = project_memory(plan)
    projection.require(memory_bytes)
    mask = load_user_mask(plan.config.camera.bad_pixel_mask)
    folder = Path(out)
    check_output(Path(plan.raw), folder)
    jobs = jobs or os.cpu_count() or 1
    with locking(folder):
        remove_stale_parts((folder, *(folder / name for name in FOLDERS)))
        store = OutputStore(folder, overwrite=overwrite)
        pool = ThreadPoolExecutor(jobs)
        workers = Workers(pool, jobs, memory_bytes, projection)
        run = _Run(plan, store, workers, mask, progress or _silent)
        try:
            with telling_of_compilation(run.tell_of_compilation):
                return run.run()
        finally:
            # Interrupted, what has begun is given up, and no output is left half made.
            run.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody asked for."""


class _Run:
    """One run: what is known while it goes on."""

    def __init__(
        self,
        plan: Plan,
        store: OutputStore,
        workers: Workers,
        mask: UserMask | None,
        progress: Progress,
    ) -> None:
        self.plan = plan
        self.raw = Path(plan.raw)
        self.store = store
        self.workers = workers
        self.shelf = MasterShelf(
            self._load_master, lambda name: master_bytes(plan, name), self._wait_for_writing
        )
        self.buffers = Buffers()
        self.setting = Setting(self.raw, plan.config, self.shelf.get, workers, self.buffers, mask)
        self.progress = progress
        self.frames = {frame.file: frame for frame in plan.frames}
        self.inputs = Inputs(self.setting, store)
        self.recipes = Recipes(plan.config, self.inputs, mask, self._recipe_of)
        self.products: dict[str, ProductRecord] = {}
        self.writing: dict[str, Future[None]] = {}
        self.levels: dict[str, Found] = {}
        self.master_failures: dict[str, Caveat] = {}
        self.made: set[str] = set()
        self.n_done = 0
        self.n_total = sum(m.stored is None for m in plan.masters) + sum(
            f.action == "calibrate" for f in plan.frames
        )
        self.lock = Lock()
        self.stopped = Event()

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
        if self.plan.config.output.split_flat:
            for master in self._masters(Kind.FLAT):
                self._try_to_split(master)
        misfits = find_misfits(self.plan, self.products)
        record = RunRecord(
            flatcal_version=__version__,
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - clock, 3),
            raw=self.plan.raw,
            inputs=dict(sorted(self.inputs.records.items())),
            products=dict(sorted(self.products.items())),
            outcomes=tuple(
                outcome_of(frame, self.inputs.failures, self.master_failures, misfits)
                for frame in self.plan.frames
            ),
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

    # -- masters -----------------------------------------------------------------------

    def _masters(self, *kinds: Kind) -> list[MasterPlan]:
        return [m for m in self.plan.masters if m.kind in kinds and m.stored is None]

    def _try_master(self, master: MasterPlan, make: Callable[[MasterPlan], None]) -> None:
        """Make a master; a frame that turns out broken is left out and named."""
        while True:
            try:
                with owning_up(master.name):
                    make(master)
            except BrokenFileError as error:
                if error.path.is_relative_to(self.raw):
                    self.inputs.fail(error.path.relative_to(self.raw).as_posix(), error)
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
        self.workers.run([partial(self.inputs.know, frame) for frame in frames])
        good = self.inputs.good(frames)
        if not good:
            cause = self.inputs.failures[master.inputs[0]]
            raise FrameError(cause.slug, f"no frame can be used; {master.inputs[0]}: {cause.text}")
        return good

    def _make_raw_master(self, master: MasterPlan) -> None:
        """Combine bias or dark frames."""
        frames = self._good_inputs(master)
        zero = self._zero_of(master)
        self._produce_master(
            master, frames, self.recipes.of_raw_master(master, frames, zero),
            lambda: combine_raw(self.setting, master, frames, zero),
        )  # fmt: skip

    def _zero_of(self, master: MasterPlan) -> float | None:
        """Value without dark current, where it is known: all above it has shot noise."""
        if master.level_of and master.level_of not in self.master_failures:
            return self._product_of(master.level_of).median_adu
        has_overscan = any(step.name == "subtract_overscan" for step in master.steps)
        return 0.0 if master.lost_bias or has_overscan or master.kind is not Kind.DARK else None

    def _make_flat_master(self, master: MasterPlan) -> None:
        """Combine flats that can be divided by their median; the others fail."""
        everyone = self._good_inputs(master)
        if not self.plan.config.output.flats:
            known = self.store.known_failures("flat-level", self.inputs.records)
            usable = [frame for frame in everyone if frame.file not in known]
            if self._is_current(
                master.output, master.kind, self.recipes.of_flat_master(usable), usable
            ):
                self.inputs.failures |= {f.file: known[f.file] for f in everyone if f.file in known}
                return
            self._for_frames(everyone, self._try_level)
        for frame in self._good_inputs(master):
            self._require_light(frame, master)
        frames = self._good_inputs(master)
        levels = [self.levels[frame.file] for frame in frames]
        self._produce_master(
            master, frames, self.recipes.of_flat_master(frames),
            lambda: combine_flats(self.setting, master, frames, levels),
        )  # fmt: skip

    def _require_light(self, frame: FramePlan, master: MasterPlan) -> None:
        level = self.levels[frame.file].median_adu
        if level is None or level <= 0:
            told = "it has no good pixel" if level is None else f"its median is {level:g}"
            text = f"{told}, so it is not used in {master.name}; leave the file out"
            self.inputs.fail(frame.file, FrameError("flat-level", text))

    def _leave(self, *_rows: Any) -> None:
        """Take rows that nobody wants; an interrupted run ends here."""
        if self.stopped.is_set():
            raise KeyboardInterrupt

    def _try_level(self, frame: FramePlan) -> None:
        """Level of a flat that is not written."""
        try:
            with owning_up(frame.file), open_raw(self.setting, frame) as raw:
                found = calibrate_frame(
                    raw, self.setting, frame, with_std=False, hashed=False, take=self._leave
                )
        except FlatcalError as error:
            self.inputs.fail(frame.file, error)
        else:
            with self.lock:
                self.levels[frame.file] = found

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
        product = self._describe(
            master.output, master.kind, find_of(planes), header, recipe, frames
        )
        with self.lock:
            self.products[master.output] = product
        zero = self._zero_of(master)
        self.shelf.put(
            master.name, make_master(planes.data, planes.std, planes.flags, master.lost_bias, zero)
        )
        # The next master is begun while this one is written.
        self.writing[master.name] = self.workers.submit(
            lambda: self._write(master.name, product, header, planes)
        )

    def _try_to_split(self, master: MasterPlan) -> None:
        """Write a master flat apart, unless it could not be made."""
        whole = self.products.get(master.output)
        if whole is None:
            return
        frames = [self.frames[file] for file in whole.inputs]
        recipe = self.recipes.of_factors(whole.recipe)
        parts = {part: part.output_of(master.output) for part in FlatPart}
        try:
            if all(self._is_current(o, Kind.FLAT, recipe, frames) for o in parts.values()):
                return
            flat = self.shelf.get(master.name)
            illumination = find_illumination(flat.data, flat.flags)
            for part, output in parts.items():
                self.store.check_replaceable(output)
                header = read_header(self.store.out / master.output, 0)
                product = write_part(
                    self.store, part, output, flat, illumination, header, recipe,
                    self.inputs.digests(frames),
                )  # fmt: skip
                with self.lock:
                    self.products[output] = product
                    self.made.add(output)
        except FlatcalError as error:
            self._fail_master(master.name, error)

    def _wait_for_writing(self, name: str) -> None:
        """Wait until a master is no longer being written; how it went is asked later."""
        if name in self.writing:
            wait([self.writing[name]])

    def _finish_writing(self) -> None:
        """Wait for masters that are still being written."""
        for future in self.writing.values():
            future.result()

    def _load_master(self, name: str) -> Master:
        """A master that this run, or an earlier one, has written."""
        plan = self.plan.master(name)
        if plan.stored is not None:
            require_unchanged(plan.stored)
            lost_bias, path = self._lost_bias(plan), Path(plan.stored.path)
            zero = 0.0 if lost_bias or plan.kind is not Kind.DARK else None
            return load_master(path, lost_bias, self.setting.dtype, zero)
        if name in self.writing:
            self.writing[name].result()
        product = self._product_of(name)
        path, zero = self.store.out / product.output, self._zero_of(plan)
        return load_master(path, plan.lost_bias, self.setting.dtype, zero)

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
        try:
            with owning_up(frame.file):
                self._make_frame(frame)
        except FlatcalError as error:
            self.inputs.fail(frame.file, error)
        self._step_done(frame.file)

    def _make_frame(self, frame: FramePlan) -> None:
        output = _output(frame)
        assert frame.kind is not None
        if self.store.holds(output):
            # Whether it is up to date is told by the hash of its input.
            if not self.inputs.know(frame):
                return
            if self._is_current(output, frame.kind, self.recipes.of_frame(frame), [frame]):
                product = self.products[output]
                found = Found(product.median_adu, product.n_flagged, None, product.refined_scale)
                with self.lock:
                    self.levels[frame.file] = found
                return
            self.store.check_replaceable(output)
        found = self._write_frame(frame)
        with self.lock:
            self.levels[frame.file] = found
            self.made.add(output)

    def _write_frame(self, frame: FramePlan) -> Found:
        """Hash, calibrate and write a frame, all in one pass over its pixels."""
        output, settings = _output(frame), self.plan.config.output
        assert frame.kind is not None
        assert frame.detector is not None
        has_std = settings.uncertainty and frame.detector.noise_known
        has_mask = self._has_mask(output)
        dtypes: dict[str, Any] = {"PRIMARY": self.setting.dtype}
        dtypes |= {"UNCERT": self.setting.dtype} if has_std else {}
        dtypes |= {"MASK": np.uint8, "FLAGS": np.int16} if has_mask else {}
        header = frame_header(read_header(self.raw / frame.file, _hdu(frame)), frame)
        with ExitStack() as stack:
            writer = stack.enter_context(
                self.store.writing(output, header, frame.file, frame.kept_shape, dtypes)
            )

            # Closed before the output gets its name: closing tells whether the file has changed.
            raw = stack.enter_context(open_raw(self.setting, frame))
            hashed = not self.inputs.knows(frame, raw)

            def take(data: Any, std: Any, bad: Any, flags: Any) -> None:
                self._leave()
                planes = {
                    "PRIMARY": data,
                    "UNCERT": std,
                    "MASK": bad,
                    "FLAGS": flags.view(np.int16),
                }
                writer.write(*(planes[name] for name in dtypes))

            found = calibrate_frame(
                raw, self.setting, frame, with_std=has_std, hashed=hashed, take=take
            )
            self.inputs.keep(frame, raw)
            recipe = self.recipes.of_frame(frame)
            product = self._describe(output, frame.kind, found, header, recipe, [frame])
            writer.finish(header)
        with self.lock:
            self.products[output] = product
        return found

    # -- outputs -----------------------------------------------------------------------

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
        found: Found,
        header: Any,
        recipe: str,
        frames: Sequence[FramePlan],
    ) -> ProductRecord:
        inputs = self.inputs.digests(frames)
        return self.store.describe(
            output, kind, found, header, recipe, inputs, has_mask=self._has_mask(output)
        )

    def _has_mask(self, output: str) -> bool:
        """Whether an output has a MASK plane: a master always does."""
        return output.startswith("masters/") or self.plan.config.output.mask

    def _write(self, name: str, product: ProductRecord, header: Any, planes: Planes) -> None:
        """Write a master; when it cannot be, what needs it is told why."""
        try:
            with owning_up(name):
                self.store.write_master(product.output, header, planes)
        except FlatcalError as error:
            with self.lock:
                self._fail_master(name, error)
                del self.products[product.output]
        else:
            with self.lock:
                self.made.add(product.output)


def _output(frame: FramePlan) -> str:
    assert frame.output is not None
    return frame.output


def _hdu(frame: FramePlan) -> int:
    assert frame.storage is not None
    return frame.storage.hdu
