"""Running a plan from its first bias to its last science frame, and resuming an earlier run."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from flatcal import __version__
from flatcal.engine.headers import frame_header, master_header, read_header, recipe_hash
from flatcal.engine.masters import Master, load_master, make_master
from flatcal.engine.products import (
    Planes,
    Workers,
    calibrate_frame,
    combine_flats,
    combine_raw,
)
from flatcal.engine.store import OutputStore, check_output
from flatcal.errors import BrokenFileError, FlatcalError, FrameError
from flatcal.frame import Caveat, Kind
from flatcal.io import RawFrame
from flatcal.plan import FramePlan, MasterPlan, Plan, Step
from flatcal.records import InputRecord, Outcome, ProductRecord, RunRecord, Status

logger = logging.getLogger(__name__)

DEFAULT_MEMORY_BYTES = 2 * 2**30

# What of a frame's plan determines its pixels and header, beside the raw file and the steps.
_PIXEL_FACTS = {"kind", "exposure_time_s", "filter", "date", "unit", "shape", "detector"}

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
        For the row bands that are combined at once.
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
    OutputError
        When the output folder cannot be used. Nothing has been written then.
    """
    folder = Path(out)
    check_output(Path(plan.raw), folder)
    jobs = jobs or os.cpu_count() or 1
    store = OutputStore(folder, overwrite=overwrite)
    pool = ThreadPoolExecutor(jobs)
    try:
        run = _Run(plan, store, Workers(pool, jobs, memory_bytes), progress or _silent)
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
        self.progress = progress
        self.frames = {frame.file: frame for frame in plan.frames}
        self.inputs: dict[str, InputRecord] = {}
        self.products: dict[str, ProductRecord] = {}
        self.masters: dict[str, Master] = {}
        self.failures: dict[str, Caveat] = {}
        self.master_failures: dict[str, Caveat] = {}
        self.made: set[str] = set()
        self.n_done = 0
        self.n_total = len(plan.masters) + sum(f.action == "calibrate" for f in plan.frames)
        self.lock = Lock()

    def run(self) -> RunResult:
        """Make everything in the order of its needs."""
        started, clock = datetime.now(UTC), time.monotonic()
        self._hash_inputs()
        for master in self._masters(Kind.BIAS, Kind.DARK):
            self._try_master(master, self._make_raw_master)
        self._calibrate(Kind.FLAT)
        for master in self._masters(Kind.FLAT):
            self._try_master(master, self._make_flat_master)
        self._calibrate(Kind.SCIENCE)
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

    def _hash_inputs(self) -> None:
        """SHA-256 of each raw frame, from the earlier run where the file has not changed."""

        def digest(frame: FramePlan) -> None:
            try:
                record = self._input_record(frame)
            except FlatcalError as error:
                self._fail(frame.file, error)
            else:
                with self.lock:
                    self.inputs[frame.file] = record

        wanted = [frame for frame in self.plan.frames if frame.action != "refuse"]
        _wait(self.workers.pool.submit(digest, frame) for frame in wanted)

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
        return [master for master in self.plan.masters if master.kind in kinds]

    def _try_master(self, master: MasterPlan, make: Callable[[MasterPlan], None]) -> None:
        try:
            make(master)
        except FlatcalError as error:
            logger.warning("%s cannot be made: %s", master.name, error)
            self.master_failures[master.name] = Caveat(error.slug, error.text)
        self._step_done(master.name)

    def _good_inputs(self, master: MasterPlan) -> list[FramePlan]:
        good = [self.frames[file] for file in master.inputs if file not in self.failures]
        if not good:
            cause = self.failures[master.inputs[0]]
            raise FrameError(cause.slug, f"no frame can be used; {master.inputs[0]}: {cause.text}")
        return good

    def _make_raw_master(self, master: MasterPlan) -> None:
        """Combine bias or dark frames; one that turns out broken is left out and named."""

        def make(frames: Sequence[FramePlan]) -> Planes:
            return combine_raw(
                self.raw, frames, master.steps, self._master,
                self.plan.config.combine, self.workers,
            )  # fmt: skip

        while True:
            frames = self._good_inputs(master)
            combine = self.plan.config.combine.model_dump()
            recipe = self._recipe("average", frames, master.steps, combine)
            try:
                self._produce_master(master, frames, recipe, make)
            except BrokenFileError as error:
                broken = error.path.relative_to(self.raw).as_posix()
                self._fail(broken, error)
            else:
                return

    def _flats_with_light(self, master: MasterPlan) -> list[FramePlan]:
        """Flats that can be divided by their median; the others fail."""
        for frame in self._good_inputs(master):
            level = self.products[_output(frame)].median_adu
            if level is None or level <= 0:
                told = "it has no good pixel" if level is None else f"its median is {level:g}"
                text = f"{told}, so it is not used in {master.name}; leave the file out"
                self._fail(frame.file, FrameError("flat-level", text))
        return self._good_inputs(master)

    def _make_flat_master(self, master: MasterPlan) -> None:
        frames = self._flats_with_light(master)
        parts = [self.products[_output(frame)] for frame in frames]
        recipe = recipe_hash(
            {
                "operation": "average of flats over their medians",
                "flats": [(part.output, part.recipe) for part in parts],
                "combine": self.plan.config.combine.model_dump(),
            }
        )

        def make(frames: Sequence[FramePlan]) -> Planes:
            paths = [self.store.out / part.output for part in parts]
            medians = [part.median_adu or 0.0 for part in parts]
            settings = self.plan.config.combine
            return combine_flats(paths, medians, frames, settings, self.workers)

        self._produce_master(master, frames, recipe, make)

    def _produce_master(
        self,
        master: MasterPlan,
        frames: Sequence[FramePlan],
        recipe: str,
        make: Callable[[Sequence[FramePlan]], Planes],
    ) -> None:
        if self._is_current(master.output, master.kind, recipe, frames):
            return
        self.store.check_replaceable(master.output)
        planes = make(frames)
        raws = [read_header(self.raw / f.file, _hdu(f)) for f in frames]
        in_memory = make_master(
            planes.data.copy(),
            None if planes.std is None else planes.std.copy(),
            planes.flags.copy(),
            master.lost_bias,
        )
        self._write(
            master.output, master.kind, planes, master_header(raws, master, frames), recipe, frames
        )
        self.masters[master.name] = in_memory

    def _master(self, name: str) -> Master:
        """A master by its name: made in this run, or read from the output folder."""
        with self.lock:
            master = self.masters.get(name)
            if master is None:
                plan = self.plan.master(name)
                path = self.store.out / self._product_of(name).output
                master = load_master(path, plan.lost_bias)
                self.masters[name] = master
            return master

    def _product_of(self, master: str) -> ProductRecord:
        product = self.products.get(self.plan.master(master).output)
        if product is None:
            cause = self.master_failures[master]
            raise FrameError(cause.slug, f"{master} could not be made: {cause.text}")
        return product

    # -- frames ------------------------------------------------------------------------

    def _calibrate(self, kind: Kind) -> None:
        frames = [f for f in self.plan.frames if f.kind is kind and f.action == "calibrate"]
        _wait(
            self.workers.pool.submit(self._try_frame, frame)
            for frame in frames
            if frame.file not in self.failures
        )

    def _try_frame(self, frame: FramePlan) -> None:
        try:
            self._make_frame(frame)
        except FlatcalError as error:
            self._fail(frame.file, error)
        self._step_done(frame.file)

    def _make_frame(self, frame: FramePlan) -> None:
        output = _output(frame)
        recipe = self._recipe("calibrate", [frame], frame.steps, None)
        assert frame.kind is not None
        if self._is_current(output, frame.kind, recipe, [frame]):
            return
        self.store.check_replaceable(output)
        planes = calibrate_frame(self.raw, frame, self._master)
        header = frame_header(read_header(self.raw / frame.file, _hdu(frame)), frame)
        self._write(output, frame.kind, planes, header, recipe, [frame])

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
                "masters": {name: self._product_of(name).recipe for name in sorted(masters)},
                "settings": settings,
            }
        )

    def _is_current(
        self, output: str, kind: Kind, recipe: str, frames: Sequence[FramePlan]
    ) -> bool:
        known = self.store.current(output, kind, recipe, [frame.file for frame in frames])
        if known is not None:
            logger.info("%s is up to date", output)
            with self.lock:
                self.products[output] = known
        return known is not None

    def _write(
        self,
        output: str,
        kind: Kind,
        planes: Planes,
        header: Any,
        recipe: str,
        frames: Sequence[FramePlan],
    ) -> None:
        inputs = [(frame.file, self.inputs[frame.file].sha256) for frame in frames]
        product = self.store.write(output, kind, planes, header, recipe, inputs)
        with self.lock:
            self.made.add(output)
            self.products[output] = product

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


def _wait(futures: Iterable[Future[None]]) -> None:
    for future in list(futures):
        future.result()
