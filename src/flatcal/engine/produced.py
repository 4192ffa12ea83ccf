"""What a run has made: outputs that stand, masters that are being written or could not be made."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Lock
from typing import Any

from flatcal.engine.products import Planes
from flatcal.engine.shelf import MasterSource
from flatcal.engine.store import OutputStore
from flatcal.engine.workers import Workers
from flatcal.errors import FlatcalError, FrameError, StorageError
from flatcal.frame import Caveat, Kind
from flatcal.io import owning_up
from flatcal.plan import OVERSCAN_STEPS, FramePlan, MasterPlan, Plan
from flatcal.projection import master_bytes
from flatcal.records import ProductRecord

logger = logging.getLogger(__name__)


class Produced:
    """The outputs of a run.

    Parameters
    ----------
    plan : Plan
        What is run.
    store : OutputStore
        The output folder.
    workers : Workers
        Threads that write masters.

    Attributes
    ----------
    products : dict of str to ProductRecord
        Outputs that stand, or are being written.
    made : set of str
        Those that this run has written; the others stood from an earlier one.
    failures : dict of str to Caveat
        Masters that could not be made, and why.
    """

    def __init__(self, plan: Plan, store: OutputStore, workers: Workers) -> None:
        self._plan = plan
        self._store = store
        self._workers = workers
        self._writing: dict[str, Future[None]] = {}
        self._lock = Lock()
        self.products: dict[str, ProductRecord] = {}
        self.made: set[str] = set()
        self.failures: dict[str, Caveat] = {}

    def take(self, product: ProductRecord, *, is_made: bool) -> None:
        """Take note of an output that stands."""
        with self._lock:
            self.products[product.output] = product
            if is_made:
                self.made.add(product.output)

    def take_current(
        self, output: str, kind: Kind, recipe: str, frames: Sequence[FramePlan]
    ) -> bool:
        """Take a master of an earlier run, if it is what would be made of the frames now."""
        files = [frame.file for frame in frames]
        known = self._store.current(output, kind, recipe, files, has_mask=True)
        if known is not None:
            logger.info("%s is up to date", output)
            self.take(known, is_made=False)
        return known is not None

    def fail(self, name: str, error: FlatcalError) -> None:
        """Take a master as one that cannot be made; a lost storage ends the run."""
        if isinstance(error, StorageError):
            raise error
        logger.warning("%s cannot be made: %s", name, error)
        self.failures[name] = Caveat(error.slug, error.text)

    # -- writing -----------------------------------------------------------------------

    def write(self, name: str, product: ProductRecord, header: Any, planes: Planes) -> None:
        """Begin to write a master; when it cannot be, what needs it is told why."""
        self.take(product, is_made=False)
        self._writing[name] = self._workers.submit(
            lambda: self._write(name, product, header, planes)
        )

    def _write(self, name: str, product: ProductRecord, header: Any, planes: Planes) -> None:
        try:
            with owning_up(name):
                self._store.write_master(product.output, header, planes)
        except FlatcalError as error:
            with self._lock:
                self.fail(name, error)
                del self.products[product.output]
        else:
            self.take(product, is_made=True)

    def wait_for(self, name: str) -> None:
        """Wait until a master is no longer being written; how it went is asked later."""
        if name in self._writing:
            wait([self._writing[name]])

    def finish(self) -> None:
        """Wait for masters that are still being written."""
        for future in self._writing.values():
            future.result()

    # -- masters that others need ------------------------------------------------------

    def of(self, name: str) -> ProductRecord:
        """What is known of a master that this run, or an earlier one, has made."""
        product = self.products.get(self._plan.master(name).output)
        if product is None:
            cause = self.failures[name]
            raise FrameError(cause.slug, f"{name} could not be made: {cause.text}")
        return product

    def recipe_of(self, name: str) -> str:
        """Hash of what determined the pixels of a master."""
        stored = self._plan.master(name).stored
        return self.of(name).recipe if stored is None else stored.sha256

    def zero_of(self, master: MasterPlan) -> float | None:
        """Value without dark current, where it is known: all above it has shot noise."""
        if master.level_of and master.level_of not in self.failures:
            return self.of(master.level_of).median_adu
        has_overscan = any(step.name in OVERSCAN_STEPS for step in master.steps)
        return 0.0 if master.lost_bias or has_overscan or master.kind is not Kind.DARK else None

    def source_of(self, name: str) -> MasterSource:
        """Where a master can be read, when it has been written."""
        plan, n_bytes = self._plan.master(name), master_bytes(self._plan, name)
        if (stored := plan.stored) is not None:
            lost_bias = self._lost_bias(plan)
            zero = 0.0 if lost_bias or plan.kind is not Kind.DARK else None
            return MasterSource(Path(stored.path), lost_bias, zero, stored.sha256, n_bytes, stored)
        self.wait_for(name)
        product = self.of(name)
        path = self._store.out.absolute() / product.output
        return MasterSource(path, plan.lost_bias, self.zero_of(plan), product.recipe, n_bytes)

    def _lost_bias(self, dark: MasterPlan) -> str:
        """Name of the bias that a dark of the library has lost, if this plan has it."""
        masters = self._plan.masters
        same = (m.name for m in masters if m.stored and m.stored.recipe == dark.lost_bias)
        return next(same, dark.lost_bias)
