"""Running a plan from its first bias to its last science frame, and resuming an earlier run."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from flatcal import __version__
from flatcal.engine.buffers import Buffers
from flatcal.engine.executor import Executor, Threads
from flatcal.engine.frames import Bench, FrameDone, FrameTask, hdu_of, output_of
from flatcal.engine.headers import master_header, read_header
from flatcal.engine.illumination import find_illumination
from flatcal.engine.inputs import Inputs
from flatcal.engine.lock import locking
from flatcal.engine.masters import Master, make_master
from flatcal.engine.order import Order
from flatcal.engine.products import Found, Planes, combine_flats, combine_raw, find_of
from flatcal.engine.recipes import Recipes
from flatcal.engine.result import RunResult, find_misfits, outcome_of
from flatcal.engine.setting import Setting
from flatcal.engine.shelf import MasterShelf, MasterSource
from flatcal.engine.split import FlatPart, write_part
from flatcal.engine.store import FOLDERS, OutputStore, check_output
from flatcal.engine.user_mask import UserMask, load_user_mask
from flatcal.engine.workers import Workers
from flatcal.errors import (
    BrokenFileError,
    ClusterError,
    ConfigError,
    FlatcalError,
    FrameError,
    StorageError,
)
from flatcal.extension import extension_of, file_of
from flatcal.extras import require_extra
from flatcal.frame import Caveat, Kind
from flatcal.headers import scan_first_image
from flatcal.io import owning_up, remove_stale_parts
from flatcal.kernels.compiled import telling_of_compilation
from flatcal.plan import OVERSCAN_STEPS, FramePlan, MasterPlan, Plan
from flatcal.projection import DEFAULT_MEMORY_BYTES, Stage, master_bytes, project_memory
from flatcal.records import ProductRecord, RunRecord
from flatcal.storage import Place, name_below, place_of

if TYPE_CHECKING:
    from flatcal.engine.cluster import Cluster

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


def run_plan(
    plan: Plan,
    out: str | Place,
    *,
    jobs: int | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
    engine: Literal["threads", "dask"] = "threads",
    scheduler: str | None = None,
    dashboard: Callable[[str], None] | None = None,
) -> RunResult:
    """Run a plan.

    Parameters
    ----------
    plan : Plan
        From `build_plan`.
    out : str, Path or RemotePath
        The output folder or address; made if it is not there.
    jobs : int, optional
        Threads, or processes of a cluster on this machine; as many as cores when left out.
    memory_bytes : int, optional
        Limit of all arrays in memory at once, on a cluster in each of its processes; the program
        itself takes about 200 MB more.
    overwrite : bool, optional
        Replace files in the output folder that flatcal did not write.
    progress : callable, optional
        Called as ``progress(what, done, total)`` after each output.
    engine : str, optional
        'threads' of this process, or 'dask': the processes of a Dask cluster, which see raw and
        output folder under the same paths as this one. The outputs are the same bytes.
    scheduler : str, optional
        Address of the Dask scheduler, as ``tcp://host:8786``; a cluster on this machine, for the
        time of the run, when left out.
    dashboard : callable, optional
        Called with the address of the Dask dashboard, when the cluster is there.

    Returns
    -------
    RunResult
        With one outcome for each input frame.

    Raises
    ------
    ConfigError
        When the plan cannot fit in the memory, the mask of bad pixels cannot be read, or the extra
        [dask] is not installed. Nothing has been written then.
    ClusterError
        When the cluster cannot be used, or is lost; what is done is kept.
    OutputError
        When the output folder cannot be used, or another run is using it. Nothing has been
        written then.
    """
    if engine not in ("threads", "dask"):
        raise ConfigError("bad-config", f"engine {engine!r} is neither 'threads' nor 'dask'")
    if scheduler is not None and engine != "dask":
        raise ConfigError("bad-config", f"the scheduler {scheduler} needs the engine dask")
    projection = project_memory(plan)
    projection.require(memory_bytes)
    mask = load_user_mask(plan.config.camera.bad_pixel_mask)
    folder, raw = place_of(out), place_of(plan.raw)
    with ExitStack() as stack:
        cluster = None
        if engine == "dask":
            require_extra("dask", "distributed")
            from flatcal.engine.cluster import connect  # noqa: PLC0415

            cluster = stack.enter_context(connect(scheduler, jobs))
            if dashboard is not None:
                dashboard(cluster.dashboard)
        jobs = jobs or os.cpu_count() or 1
        check_output(raw, folder)
        stack.enter_context(locking(folder))
        remove_stale_parts((folder, *(folder / name for name in FOLDERS)))
        store = OutputStore.resume(folder, overwrite=overwrite)
        pool = ThreadPoolExecutor(jobs)
        workers = Workers(pool, jobs, memory_bytes, projection)
        run = _Run(plan, store, workers, mask, progress or _silent, cluster)
        try:
            with telling_of_compilation(run.tell_of_compilation):
                return run.run()
        finally:
            # Interrupted, what has begun is given up, and no output is left half made.
            run.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if cluster is not None:
                cluster.forget(run.id)
                # What workers that were lost had in work, on whatever machine.
                remove_stale_parts((folder / name for name in FOLDERS), of_all=True)


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
        cluster: Cluster | None,
    ) -> None:
        self.plan = plan
        self.raw = place_of(plan.raw)
        self.store = store
        self.workers = workers
        self.shelf = MasterShelf(
            self._load_master, lambda name: master_bytes(plan, name), self._wait_for_writing
        )
        self.buffers = Buffers()
        self.setting = Setting(self.raw, plan.config, self.shelf.get_all, self.buffers, mask)
        self.id = uuid4().hex
        self.executor: Executor
        if cluster is None:
            bench = Bench(self.setting, store, self._recipe_of, self._leave)
            self.executor = Threads(workers, bench)
        else:
            self.executor = cluster.executor(workers, self.setting.dtype, self._order)
        self.progress = progress
        self.frames = {frame.file: frame for frame in plan.frames}
        self.inputs = Inputs()
        self.recipes = Recipes(plan.config, self.inputs.digests, mask, self._recipe_of)
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
            except (ClusterError, StorageError):
                raise
            except BrokenFileError as error:
                name = name_below(self.raw, error.path)
                broken = [file for file in master.inputs if file_of(file) == name]
                for file in broken:
                    self.inputs.fail(file, Caveat(error.slug, error.text))
                if broken:
                    continue
                self._fail_master(master.name, error)
            except FlatcalError as error:
                self._fail_master(master.name, error)
            break
        self._step_done(master.name)

    def _fail_master(self, name: str, error: FlatcalError) -> None:
        if isinstance(error, StorageError):
            raise error
        logger.warning("%s cannot be made: %s", name, error)
        self.master_failures[name] = Caveat(error.slug, error.text)

    def _good_inputs(self, master: MasterPlan) -> list[FramePlan]:
        frames = [self.frames[file] for file in master.inputs]
        self._do("hash", self.inputs.unknown(frames))
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
            lambda: combine_raw(self.setting, self.executor, master, frames, zero),
        )  # fmt: skip

    def _zero_of(self, master: MasterPlan) -> float | None:
        """Value without dark current, where it is known: all above it has shot noise."""
        if master.level_of and master.level_of not in self.master_failures:
            return self._product_of(master.level_of).median_adu
        has_overscan = any(step.name in OVERSCAN_STEPS for step in master.steps)
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
            self._for_frames("level", [[frame] for frame in everyone])
        for frame in self._good_inputs(master):
            self._require_light(frame, master)
        frames = self._good_inputs(master)
        levels = [self.levels[frame.file] for frame in frames]
        self._produce_master(
            master, frames, self.recipes.of_flat_master(frames),
            lambda: combine_flats(self.setting, self.executor, master, frames, levels),
        )  # fmt: skip

    def _require_light(self, frame: FramePlan, master: MasterPlan) -> None:
        level = self.levels[frame.file].median_adu
        if level is None or level <= 0:
            told = "it has no good pixel" if level is None else f"its median is {level:g}"
            text = f"{told}, so it is not used in {master.name}; leave the file out"
            self.inputs.fail(frame.file, Caveat("flat-level", text))

    def _leave(self) -> None:
        """An interrupted run ends here."""
        if self.stopped.is_set():
            raise KeyboardInterrupt

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
        raws = [read_header(self.raw / file_of(f.file), hdu_of(f)) for f in frames]
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
        if self.plan.config.output.compress:  # which takes memory of its own
            self._wait_for_writing(master.name)

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
                path = self.store.out / master.output
                header = read_header(path, scan_first_image(path).index)
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
        return self._source_of(name).load(self.setting.dtype)

    def _source_of(self, name: str) -> MasterSource:
        """Where a master can be read, when it has been written."""
        plan, n_bytes = self.plan.master(name), master_bytes(self.plan, name)
        if (stored := plan.stored) is not None:
            lost_bias = self._lost_bias(plan)
            zero = 0.0 if lost_bias or plan.kind is not Kind.DARK else None
            return MasterSource(Path(stored.path), lost_bias, zero, stored.sha256, n_bytes, stored)
        self._wait_for_writing(name)
        product = self._product_of(name)
        path = self.store.out.absolute() / product.output
        return MasterSource(path, plan.lost_bias, self._zero_of(plan), product.recipe, n_bytes)

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
        # Of a cube the hash is found once, before its planes are read.
        self._do("hash", self.inputs.unknown([f for f in chosen if extension_of(f.file)]))
        outputs: dict[str, list[FramePlan]] = {}
        for frame in chosen:
            if frame.file in self.inputs.failures:
                self._step_done(frame.file)
            else:
                outputs.setdefault(file_of(output_of(frame)), []).append(frame)
        self._for_frames("write", list(outputs.values()))

    def _for_frames(
        self, do: Literal["level", "write"], groups: Sequence[Sequence[FramePlan]]
    ) -> None:
        """Do something for each of some frames of a kind, or images of a file, several at once."""
        if not groups:
            return
        assert groups[0][0].kind is not None
        stage = self.workers.stage(groups[0][0].kind.value)
        self._make_room(stage.what)
        # Those with the same masters one after the other: few masters are in memory at once.
        self._do(
            do, sorted(groups, key=lambda g: [step.master or "" for step in g[0].steps]), stage
        )

    def _do(
        self,
        do: Literal["hash", "level", "write"],
        groups: Iterable[Sequence[FramePlan]],
        stage: Stage | None = None,
    ) -> None:
        tasks = [
            FrameTask(
                do,
                frame,
                self.inputs.records.get(file_of(frame.file)),
                self.store.known_input(str(self.raw), file_of(frame.file)),
                frame.output is not None and self.store.may_replace(frame.output),
                tuple(others),
                self._absent([frame, *others]) if do == "write" else (),
            )
            for frame, *others in groups
        ]
        self.executor.run_frames(tasks, stage, self._receive)

    def _absent(self, images: Sequence[FramePlan]) -> tuple[str, ...]:
        """Extensions of a file of several images that are not among these."""
        file, there = file_of(images[0].file), {frame.file for frame in images}
        if file == images[0].file:
            return ()
        return tuple(extension_of(f) for f in self.frames if file_of(f) == file and f not in there)

    def _receive(self, task: FrameTask, done: FrameDone) -> None:
        """Take note of what came of a frame, or of the images of a file."""
        if done.record is not None:
            self.inputs.keep(file_of(task.frame.file), done.record)
        for frame, its in done.of_each(task):
            if its.failure is not None:
                self.inputs.fail(frame.file, its.failure)
            with self.lock:
                if its.found is not None:
                    self.levels[frame.file] = its.found
                if its.product is not None:
                    self.products[its.product.output] = its.product
                    if its.is_made:
                        self.made.add(its.product.output)
            if task.do == "write":
                self._step_done(frame.file)

    def _make_room(self, stage: str) -> None:
        """Drop masters that a stage leaves no memory for, and what the last stage worked in."""
        workers = self.workers
        self.buffers.clear()
        self.shelf.make_room(workers.stage(stage).room_bytes(workers.jobs, workers.memory_bytes))

    def _order(self, stage: Stage | None, masters: Iterable[str], jobs: int) -> Order:
        """What the processes of a cluster have to know for a stage that needs some masters."""
        mask = self.plan.config.camera.bad_pixel_mask
        sources: dict[str, MasterSource | Caveat] = {}
        for name in masters:
            try:
                sources[name] = self._source_of(name)
            except FrameError as error:
                sources[name] = Caveat(error.slug, error.text)
        return Order(
            id=uuid4().hex,
            run=self.id,
            version=__version__,
            raw=self.raw,
            out=self.store.out.absolute(),
            mask=None if mask is None else Path(mask).absolute(),
            config=self.plan.config,
            stage=stage,
            jobs=jobs,
            memory_bytes=self.workers.memory_bytes,
            masters=sources,
        )

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
