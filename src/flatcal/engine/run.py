"""Running a plan from its first bias to its last science frame, and resuming an earlier run."""

from __future__ import annotations

import json
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

from pydantic import ValidationError

from flatcal import __version__
from flatcal.engine.headers import (
    add_flag_legend,
    add_inputs,
    frame_header,
    master_header,
    read_header,
    recipe_hash,
)
from flatcal.engine.masters import Master, load_master, make_master
from flatcal.engine.products import (
    Planes,
    Workers,
    calibrate_frame,
    combine_flats,
    combine_raw,
)
from flatcal.errors import FlatcalError, FrameError, OutputError
from flatcal.frame import Caveat, Kind
from flatcal.headers import read_header_cards
from flatcal.io import RawFrame, write_image, write_text
from flatcal.kernels.stats import median_of_good
from flatcal.plan import FramePlan, MasterPlan, Plan, Step
from flatcal.records import InputRecord, Outcome, ProductRecord, RunRecord, Status

logger = logging.getLogger(__name__)

FOLDERS = ("masters", "flats", "science")
DEFAULT_MEMORY_BYTES = 2 * 2**30

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
    n_made, n_current : int
        Outputs that were made, and those that were up to date.
    left_over : tuple of str
        Files of earlier runs that are not in the plan.
    """

    out: Path
    record: RunRecord
    n_made: int
    n_current: int
    left_over: tuple[str, ...]

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
    with ThreadPoolExecutor(jobs) as pool:
        workers = Workers(pool, jobs, memory_bytes)
        return _Run(plan, folder, workers, overwrite, progress or (lambda *_: None)).run()


def check_output(raw: Path, out: Path) -> None:
    """Refuse an output folder that lies in the raw folder or cannot be written."""
    raw, real = raw.resolve(), out.resolve()
    if real == raw or raw in real.parents or real in raw.parents:
        raise OutputError(
            "output-in-raw", f"output {real} and raw {raw} lie in one another; choose another"
        )
    try:
        for name in FOLDERS:
            (out / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            "output-not-writable", f"{out} cannot be made: {error.strerror or error}"
        ) from error
    if not all(os.access(out / name, os.W_OK) for name in FOLDERS):
        raise OutputError("output-not-writable", f"{out} cannot be written; choose another folder")


class _NotMadeError(Exception):
    """A frame or master that cannot be made, with the reason for its outcome."""

    def __init__(self, caveat: Caveat) -> None:
        super().__init__(caveat.text)
        self.caveat = caveat


class _Run:
    """One run: what is known while it goes on."""

    def __init__(
        self, plan: Plan, out: Path, workers: Workers, overwrite: bool, progress: Progress
    ) -> None:
        self.plan = plan
        self.raw = Path(plan.raw)
        self.out = out
        self.workers = workers
        self.overwrite = overwrite
        self.progress = progress
        self.frames = {frame.file: frame for frame in plan.frames}
        self.previous = _previous_record(out)
        self.inputs: dict[str, InputRecord] = {}
        self.products: dict[str, ProductRecord] = {}
        self.masters: dict[str, Master] = {}
        self.failures: dict[str, Caveat] = {}
        self.n_made = 0
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
        return self._finish(record)

    # -- inputs ------------------------------------------------------------------------

    def _hash_inputs(self) -> None:
        """SHA-256 of each raw frame, from the earlier run where the file has not changed."""
        wanted = [frame for frame in self.plan.frames if frame.action != "refuse"]

        def digest(frame: FramePlan) -> None:
            try:
                record = self._input_record(frame)
            except FlatcalError as error:
                self._fail(frame.file, error)
            else:
                self.inputs[frame.file] = record

        _wait(self.workers.pool.submit(digest, frame) for frame in wanted)

    def _input_record(self, frame: FramePlan) -> InputRecord:
        storage = frame.storage
        assert storage is not None
        assert frame.shape is not None
        known = self.previous.inputs.get(frame.file) if self.previous else None
        if known and (known.size_bytes, known.mtime_ns) == (storage.size_bytes, storage.mtime_ns):
            return known
        with RawFrame(self.raw / frame.file, storage, frame.shape) as raw:
            digest = raw.sha256()
        return InputRecord(size_bytes=storage.size_bytes, mtime_ns=storage.mtime_ns, sha256=digest)

    def _fail(self, file: str, error: FlatcalError) -> None:
        logger.warning("%s: %s", file, error)
        with self.lock:
            self.failures[file] = Caveat(error.slug, error.text)

    # -- masters -----------------------------------------------------------------------

    def _masters(self, *kinds: Kind) -> list[MasterPlan]:
        return [master for master in self.plan.masters if master.kind in kinds]

    def _try_master(self, master: MasterPlan, make: Callable[[MasterPlan], None]) -> None:
        try:
            make(master)
        except (_NotMadeError, FrameError) as failure:
            logger.warning("%s cannot be made: %s", master.name, failure)
        self._step_done(master.name)

    def _good_inputs(self, master: MasterPlan) -> list[FramePlan]:
        good = [self.frames[file] for file in master.inputs if file not in self.failures]
        if not good:
            slug = "file-broken"
            raise _NotMadeError(Caveat(slug, f"none of the frames of {master.name} can be used"))
        return good

    def _make_raw_master(self, master: MasterPlan) -> None:
        frames = self._good_inputs(master)
        recipe = self._recipe("average", frames, master.steps)

        def make() -> Planes:
            return combine_raw(
                self.raw, frames, master.steps, self._master,
                self.plan.config.combine, self.workers,
            )  # fmt: skip

        self._produce_master(master, frames, recipe, make)

    def _make_flat_master(self, master: MasterPlan) -> None:
        frames = self._good_inputs(master)
        parts = [self.products[_output(frame)] for frame in frames]
        recipe = recipe_hash(
            {
                "operation": "average of flats over their medians",
                "flats": [part.recipe for part in parts],
                "combine": self.plan.config.combine.model_dump(),
            }
        )

        def make() -> Planes:
            paths = [self.out / part.output for part in parts]
            medians = [part.median_adu for part in parts]
            return combine_flats(paths, medians, frames, self.plan.config.combine, self.workers)

        self._produce_master(master, frames, recipe, make)

    def _produce_master(
        self,
        master: MasterPlan,
        frames: Sequence[FramePlan],
        recipe: str,
        make: Callable[[], Planes],
    ) -> None:
        path = self.out / master.output
        files = [frame.file for frame in frames]
        if not self._is_current(master.output, recipe):
            self._check_replaceable(path)
            planes = make()
            raws = [read_header(self.raw / f.file, _hdu(f)) for f in frames]
            header = master_header(raws, master, frames)
            self.masters[master.name] = make_master(
                planes.data.copy(),
                None if planes.std is None else planes.std.copy(),
                planes.flags.copy(),
                recipe,
                bias_removed=master.bias_removed,
            )
            self._write(master.output, header, planes, recipe, files, master.kind)

    def _master(self, name: str) -> Master:
        """A master by its name: made in this run, or read from the output folder."""
        with self.lock:
            master = self.masters.get(name)
            if master is None:
                plan = self.plan.master(name)
                product = self.products.get(plan.output)
                if product is None:
                    raise _NotMadeError(Caveat("file-broken", f"{name} could not be made"))
                path = self.out / plan.output
                master = load_master(path, product.recipe, bias_removed=plan.bias_removed)
                self.masters[name] = master
            return master

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
        except _NotMadeError as failure:
            with self.lock:
                self.failures[frame.file] = failure.caveat
        except FrameError as error:
            self._fail(frame.file, error)
        self._step_done(frame.file)

    def _make_frame(self, frame: FramePlan) -> None:
        output = _output(frame)
        recipe = self._recipe("calibrate", [frame], frame.steps)
        if self._is_current(output, recipe):
            return
        self._check_replaceable(self.out / output)
        planes = calibrate_frame(self.raw, frame, self._master)
        header = frame_header(read_header(self.raw / frame.file, _hdu(frame)), frame)
        assert frame.kind is not None
        self._write(output, header, planes, recipe, [frame.file], frame.kind)

    # -- outputs -----------------------------------------------------------------------

    def _recipe(self, operation: str, frames: Sequence[FramePlan], steps: Sequence[Step]) -> str:
        """Hash of everything that determines an output made from raw frames."""
        masters = {step.master for step in steps if step.master is not None}
        return recipe_hash(
            {
                "flatcal": __version__,
                "operation": operation,
                "inputs": [self.inputs[frame.file].sha256 for frame in frames],
                "frames": [frame.model_dump(mode="json", include=_PIXEL_FACTS) for frame in frames],
                "steps": [step.model_dump(exclude={"reason"}) for step in steps],
                "masters": {name: self._product_of(name).recipe for name in sorted(masters)},
                "combine": self.plan.config.combine.model_dump(),
            }
        )

    def _product_of(self, master: str) -> ProductRecord:
        product = self.products.get(self.plan.master(master).output)
        if product is None:
            raise _NotMadeError(Caveat("file-broken", f"{master} could not be made"))
        return product

    def _is_current(self, output: str, recipe: str) -> bool:
        """Whether an earlier run made this output from the same things in the same way."""
        known = self.previous.products.get(output) if self.previous else None
        path = self.out / output
        if known is None or known.recipe != recipe or not path.is_file():
            return False
        try:
            current = read_header_cards(path).get("RECIPE") == recipe
        except (FrameError, OSError):
            return False
        if current:
            logger.info("%s is up to date", output)
            with self.lock:
                self.products[output] = known
        return current

    def _check_replaceable(self, path: Path) -> None:
        """Never replace what flatcal did not write, unless asked to."""
        if self.overwrite or not path.exists():
            return
        try:
            ours = "FLATCAL" in read_header_cards(path)
        except (FrameError, OSError):
            ours = False
        if not ours:
            raise _NotMadeError(
                Caveat("output-exists", f"{path} was not written by flatcal; say --overwrite")
            )

    def _write(
        self,
        output: str,
        header: Any,
        planes: Planes,
        recipe: str,
        files: Sequence[str],
        kind: Kind,
    ) -> None:
        n_flagged = int((planes.flags != 0).sum())
        if planes.std is not None:
            header["ERRSRC"] = (planes.std_source, "what UNCERT comes from")
        median = median_of_good(planes.data, planes.flags)
        add_flag_legend(header, n_flagged)
        add_inputs(header, [(file, self.inputs[file].sha256) for file in files], recipe)
        write_image(self.out / output, header, planes.data, planes.std, planes.flags)
        logger.info("wrote %s: %d inputs, median %.6g", output, len(files), median)
        with self.lock:
            self.n_made += 1
            self.products[output] = ProductRecord(
                output=output,
                kind=kind,
                recipe=recipe,
                inputs=tuple(files),
                median_adu=median,
                n_flagged=n_flagged,
            )

    def _step_done(self, what: str) -> None:
        with self.lock:
            self.n_done += 1
            done = self.n_done
        self.progress(what, done, self.n_total)

    # -- the end -----------------------------------------------------------------------

    def _outcome(self, frame: FramePlan) -> Outcome:
        failure = self.failures.get(frame.file)
        errors = frame.errors if failure is None else (*frame.errors, failure)
        part_of = frame.part_of if not errors and self._was_made(frame.part_of) else None
        if errors:
            status, reason = Status.FAILED, errors[0].text
        elif frame.action == "calibrate":
            status, reason = Status.CALIBRATED, frame.reason
        elif part_of is None:
            status, reason = Status.FAILED, f"{frame.part_of} could not be made"
        else:
            status, reason = Status.USED, frame.reason
        return Outcome(
            file=frame.file,
            kind=frame.kind,
            status=status,
            output=frame.output if status is Status.CALIBRATED else None,
            part_of=part_of,
            reason=reason,
            caveats=frame.caveats,
            errors=errors,
        )

    def _was_made(self, master: str | None) -> bool:
        return master is not None and self.plan.master(master).output in self.products

    def _finish(self, record: RunRecord) -> RunResult:
        """Write plan.json and run.json, unless nothing has changed since the earlier run."""
        timeless = {"started", "seconds"}
        same = self.previous is not None and record.model_dump(
            exclude=timeless
        ) == self.previous.model_dump(exclude=timeless)
        if same and not self.n_made and self.previous is not None:
            record = self.previous
        write_text(self.out / "plan.json", self.plan.model_dump_json(indent=1) + "\n")
        write_text(self.out / "run.json", record.model_dump_json(indent=1) + "\n")
        return RunResult(
            out=self.out,
            record=record,
            n_made=self.n_made,
            n_current=len(self.products) - self.n_made,
            left_over=self._left_over(),
        )

    def _left_over(self) -> tuple[str, ...]:
        present = {
            path.relative_to(self.out).as_posix()
            for name in FOLDERS
            for path in (self.out / name).glob("*.fits")
        }
        return tuple(sorted(present - set(self.products)))


# What of a frame's plan determines its pixels and header, beside the raw file and the steps.
_PIXEL_FACTS = {"kind", "exposure_time_s", "filter", "unit", "shape", "detector"}


def _previous_record(out: Path) -> RunRecord | None:
    """run.json of an earlier run, if it can be understood."""
    try:
        return RunRecord.model_validate_json((out / "run.json").read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError):
        return None


def _output(frame: FramePlan) -> str:
    assert frame.output is not None
    return frame.output


def _hdu(frame: FramePlan) -> int:
    assert frame.storage is not None
    return frame.storage.hdu


def _wait(futures: Iterable[Future[None]]) -> None:
    for future in list(futures):
        future.result()
