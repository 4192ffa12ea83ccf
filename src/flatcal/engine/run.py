"""Running a plan from its first bias to its last science frame, and resuming an earlier run."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import groupby
from numbers import Integral
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Literal
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
from flatcal.engine.produced import Produced
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
from flatcal.free_memory import default_memory_bytes, require_room_for_libraries
from flatcal.headers import scan_first_image
from flatcal.io import owning_up, remove_stale_parts
from flatcal.kernels.compiled import telling_of_compilation
from flatcal.plan import FramePlan, MasterPlan, Plan
from flatcal.projection import Stage, master_bytes, project_memory, tell_too_large
from flatcal.records import RunRecord
from flatcal.storage import Place, name_below, place_of
from flatcal.waiting import telling_of_waits

if TYPE_CHECKING:
    from flatcal.engine.cluster import Cluster

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


def run_plan(
    plan: Plan,
    out: str | Place,
    *,
    jobs: int | None = None,
    memory_bytes: int | None = None,
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
        itself takes about 200 MB more. 2 GiB when left out, or half of the memory that this
        process may still get if that is less. No pixel depends on it.
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
        When an argument is none, nothing of the plan fits in the memory, the mask of bad pixels
        cannot be read, or the extra [dask] is not installed. Nothing has been written then. A
        master or frame that does not fit beside others that do fails by itself.
    ClusterError
        When the cluster cannot be used, or is lost; what is done is kept.
    OutputError
        When the output folder cannot be used, another run is using it, or the address space of the
        process is too small for the program. Nothing has been written then.
    """
    if engine not in ("threads", "dask"):
        raise ConfigError("bad-config", f"engine {engine!r} is neither 'threads' nor 'dask'")
    if scheduler is not None and engine != "dask":
        raise ConfigError("bad-config", f"the scheduler {scheduler} needs the engine dask")
    if jobs is not None:
        _require_whole("jobs", jobs)
    if memory_bytes is None:
        memory_bytes = default_memory_bytes()
    else:
        _require_whole("memory_bytes", memory_bytes)
    projection = project_memory(plan, memory_bytes)
    projection.require(memory_bytes)
    require_room_for_libraries()
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
        stopped = Event()

        def leave() -> None:
            if stopped.is_set():
                raise KeyboardInterrupt

        store = OutputStore.resume(folder, overwrite=overwrite, leave=leave)
        pool = ThreadPoolExecutor(jobs)
        workers = Workers(pool, jobs, memory_bytes, projection)
        run = _Run(plan, store, workers, mask, progress or _silent, cluster)
        try:
            with telling_of_compilation(run.tell_of_compilation), telling_of_waits(run.tell):
                return run.run()
        finally:
            # Interrupted, what has begun is given up, and no output is left half made.
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if cluster is not None:
                cluster.forget(run.id)
                # What workers that were lost had in work, on whatever machine.
                remove_stale_parts((folder / name for name in FOLDERS), of_all=True)


def _require_whole(name: str, value: object) -> None:
    if not isinstance(value, Integral) or value < 1:
        raise ConfigError("bad-config", f"{name} = {value!r} is no whole number above 0")


def _silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody asked for."""


def _sizes(images: Sequence[FramePlan]) -> list[tuple[int, int]]:
    return [image.kept_shape for image in images]


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
        self.produced = Produced(plan, store, workers)
        self.shelf = MasterShelf(
            self._load_master, lambda name: master_bytes(plan, name), self.produced.wait_for
        )
        self.buffers = Buffers()
        self.setting = Setting(self.raw, plan.config, self.shelf.get_all, self.buffers, mask)
        self.id = uuid4().hex
        self.executor: Executor
        if cluster is None:
            bench = Bench(self.setting, store, self.produced.recipe_of)
            self.executor = Threads(workers, bench)
        else:
            self.executor = cluster.executor(workers, self.setting.dtype, self._order)
        self.progress = progress
        self.frames = {frame.file: frame for frame in plan.frames}
        self.inputs = Inputs()
        self.recipes = Recipes(plan.config, self.inputs.digests, mask, self.produced.recipe_of)
        self.levels: dict[str, Found] = {}
        self.n_done = 0
        self.n_total = sum(m.stored is None for m in plan.masters) + sum(
            f.action == "calibrate" for f in plan.frames
        )
        self.lock = Lock()

    def run(self) -> RunResult:
        """Make everything in the order of its needs."""
        started, clock = datetime.now(UTC), time.monotonic()
        self._fail_what_is_too_large()
        for master in self._masters(Kind.BIAS, Kind.DARK):
            self._try_master(master, self._make_raw_master)
        self._calibrate(Kind.FLAT)
        for master in self._masters(Kind.FLAT):
            self._try_master(master, self._make_flat_master)
        self._calibrate(Kind.SCIENCE)
        self.produced.finish()
        if self.plan.config.output.split_flat:
            for master in self._masters(Kind.FLAT):
                self._try_to_split(master)
        misfits = find_misfits(self.plan, self.produced.products)
        record = RunRecord(
            flatcal_version=__version__,
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - clock, 3),
            raw=self.plan.raw,
            inputs=dict(sorted(self.inputs.records.items())),
            products=dict(sorted(self.produced.products.items())),
            outcomes=tuple(
                outcome_of(frame, self.inputs.failures, self.produced.failures, misfits)
                for frame in self.plan.frames
            ),
        )
        return RunResult(
            out=self.store.out,
            record=self.store.finish(self.plan, record),
            made=tuple(sorted(self.produced.made)),
            left_over=self.store.left_over(self.produced.products),
        )

    def _fail_what_is_too_large(self) -> None:
        """Name masters and frames that do not fit in the memory, before a byte of them is read."""
        projection, limit = self.workers.projection, self.workers.memory_bytes
        for name, needed in projection.large_masters.items():
            self.produced.fail(name, FrameError("memory-limit", tell_too_large(needed, limit)))
        for file, needed in projection.large_frames.items():
            self.inputs.fail(file, Caveat("memory-limit", tell_too_large(needed, limit)))

    def tell_of_compilation(self) -> None:
        """Say what the first run on a machine spends its first seconds with."""
        logger.info("compiling for this machine, once")
        self.tell("compiling for this machine, once")

    def tell(self, text: str) -> None:
        """Say what keeps the run from going on."""
        self.progress(text, self.n_done, self.n_total)

    def _step_done(self, what: str) -> None:
        with self.lock:
            self.n_done += 1
            done = self.n_done
        self.progress(what, done, self.n_total)

    # -- masters -----------------------------------------------------------------------

    def _masters(self, *kinds: Kind) -> list[MasterPlan]:
        return [m for m in self.plan.masters if m.kind in kinds and m.stored is None]

    def _try_master(self, master: MasterPlan, make: Callable[[MasterPlan], None]) -> None:
        """Make a master that fits; a frame that turns out broken is left out and named."""
        while master.name not in self.produced.failures:
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
                self.produced.fail(master.name, error)
            except FlatcalError as error:
                self.produced.fail(master.name, error)
            break
        self._step_done(master.name)

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
        zero = self.produced.zero_of(master)
        self._produce_master(
            master, frames, self.recipes.of_raw_master(master, frames, zero),
            lambda: combine_raw(self.setting, self.executor, master, frames, zero),
        )  # fmt: skip

    def _make_flat_master(self, master: MasterPlan) -> None:
        """Combine flats that can be divided by their median; the others fail."""
        everyone = self._good_inputs(master)
        if not self.plan.config.output.flats:
            known = self.store.known_failures("flat-level", self.inputs.records)
            usable = [frame for frame in everyone if frame.file not in known]
            recipe = self.recipes.of_flat_master(usable)
            if self.produced.take_current(master.output, master.kind, recipe, usable):
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

    def _produce_master(
        self,
        master: MasterPlan,
        frames: Sequence[FramePlan],
        recipe: str,
        make: Callable[[], Planes],
    ) -> None:
        if self.produced.take_current(master.output, master.kind, recipe, frames):
            return
        self.store.check_replaceable(master.output)
        self._make_room(master.name)
        # Before their pixels: an input that has changed since is found out when it is opened for
        # those, and one that is deleted then is no more needed.
        raws = [read_header(self.raw / file_of(f.file), hdu_of(f)) for f in frames]
        bias_recipe = self.produced.recipe_of(master.lost_bias) if master.lost_bias else ""
        header = master_header(raws, master, frames, bias_recipe)
        del raws  # of a long night they take memory that the pixels need
        planes = make()
        product = self.store.describe(
            master.output, master.kind, find_of(planes), header, recipe,
            self.inputs.digests(frames), has_mask=True,
        )  # fmt: skip
        zero = self.produced.zero_of(master)
        self.shelf.put(
            master.name, make_master(planes.data, planes.std, planes.flags, master.lost_bias, zero)
        )
        # The next master is begun while this one is written.
        self.produced.write(master.name, product, header, planes)
        if self.plan.config.output.compress:  # which takes memory of its own
            self.produced.wait_for(master.name)

    def _try_to_split(self, master: MasterPlan) -> None:
        """Write a master flat apart, unless it could not be made."""
        whole = self.produced.products.get(master.output)
        if whole is None:
            return
        frames = [self.frames[file] for file in whole.inputs]
        recipe = self.recipes.of_factors(whole.recipe)
        parts = {part: part.output_of(master.output) for part in FlatPart}
        try:
            current = self.produced.take_current
            if all(current(output, Kind.FLAT, recipe, frames) for output in parts.values()):
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
                self.produced.take(product, is_made=True)
        except FlatcalError as error:
            self.produced.fail(master.name, error)

    def _load_master(self, name: str) -> Master:
        """A master that this run, or an earlier one, has written."""
        return self.produced.source_of(name).load(self.setting.dtype)

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
        # Those with the same masters one after the other: few masters are in memory at once.
        ordered = sorted(groups, key=lambda g: (_sizes(g), [s.master or "" for s in g[0].steps]))
        for _, alike in groupby(ordered, _sizes):
            # What frames of one size were worked in is no room for those of another.
            self._make_room(stage.what)
            self._do(do, list(alike), stage)

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
            if its.found is not None:
                with self.lock:
                    self.levels[frame.file] = its.found
            if its.product is not None:
                self.produced.take(its.product, is_made=its.is_made)
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
                sources[name] = self.produced.source_of(name)
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
