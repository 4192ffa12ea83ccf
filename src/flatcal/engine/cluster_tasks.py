"""What the processes of a cluster do: frames and bands, with the same code as threads.

A process keeps what an order needs (masters on a shelf, memory that is lent, open frames) for as
long as tasks of that order come. What it makes goes to files; back to the run go only records.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock, Semaphore
from uuid import uuid4

import numpy as np
from distributed import get_worker

from flatcal import __version__
from flatcal.engine.bands import Stack, combine_band, open_members
from flatcal.engine.buffers import Buffers
from flatcal.engine.calibrated_frame import CalibratedFrame
from flatcal.engine.frames import Bench, FrameDone, FrameTask
from flatcal.engine.masters import Master
from flatcal.engine.mosaics import do_task
from flatcal.engine.order import Order
from flatcal.engine.part import BandPart
from flatcal.engine.setting import Setting
from flatcal.engine.shelf import MasterShelf
from flatcal.engine.store import OutputStore
from flatcal.engine.user_mask import load_user_mask
from flatcal.errors import ClusterError
from flatcal.io import owning_up
from flatcal.storage import Place

# Seconds between two looks whether the tasks of an order have ended.
_LOOK_S = 0.02


class _Shop:
    """What this process holds for one run."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.n_active = 0
        self._lock = Lock()
        self._buffers = Buffers()
        self._shelf = MasterShelf(self._load, lambda name: self.order.source(name).n_bytes, _free)
        mask = None if order.mask is None else load_user_mask(str(order.mask))
        self.setting = Setting(order.raw, order.config, self._shelf.get_all, self._buffers, mask)
        self.bench = Bench(
            self.setting,
            OutputStore(order.out, leave=self._leave),
            lambda name: self.order.source(name).recipe,
        )
        self._opened = ExitStack()
        self._readers: Sequence[CalibratedFrame] = ()
        self._begin(order)

    def _begin(self, order: Order) -> None:
        self.order = order
        self._opened.close()
        self._readers = ()
        self._buffers.clear()
        jobs = min(order.jobs, get_worker().state.nthreads)
        at_once = jobs
        if order.stage is not None:
            at_once = order.stage.threads(jobs, order.memory_bytes)
            self._shelf.make_room(order.stage.room_bytes(jobs, order.memory_bytes))
        self.gate = Semaphore(at_once)

    def turn_to(self, order: Order) -> None:
        """Begin another stage of the run, of which no task is active."""
        if order.id != self.order.id:
            self._begin(order)

    def readers(self, stack: Stack) -> Sequence[CalibratedFrame]:
        """The frames of the only stack of an order, open until another order comes.

        Whether they change meanwhile is seen by the run, which has them open from first to last.
        """
        with self._lock:
            if not self._readers:
                self._readers = self._opened.enter_context(
                    open_members(stack.members, self.setting)
                )
            return self._readers

    def close(self) -> None:
        """Give back what is held."""
        self._opened.close()

    def _load(self, name: str) -> Master:
        return self.order.source(name).load(self.setting.dtype)

    def _leave(self) -> None:
        if self.order.id in _GIVEN_UP:
            raise KeyboardInterrupt


def _free(_name: str) -> None:
    """A master that was dropped is held by nothing else."""


# Of this process: what it holds for each run, and the orders that have been given up.
_SHOPS: dict[str, _Shop] = {}
_GIVEN_UP: set[str] = set()
_LOCK = Lock()


@contextmanager
def _at_work(order: Order) -> Iterator[_Shop]:
    """The shop of an order, when the memory allows one more task."""
    if order.version != __version__:
        raise ClusterError(
            "cluster",
            f"the worker {get_worker().address} has flatcal {__version__}, the run is of "
            f"{order.version}; install the same everywhere",
        )
    with _LOCK:
        for run in [run for run, shop in _SHOPS.items() if run != order.run and not shop.n_active]:
            _SHOPS.pop(run).close()
        shop = _SHOPS.get(order.run)
        if shop is None:
            shop = _SHOPS[order.run] = _Shop(order)
        shop.turn_to(order)
        shop.n_active += 1
    try:
        with shop.gate:
            if order.id in _GIVEN_UP:
                raise KeyboardInterrupt
            yield shop
    finally:
        with _LOCK:
            shop.n_active -= 1


def do_frame(order: Order, task: FrameTask) -> FrameDone | None:
    """Do a task with a frame; None when the run has been given up."""
    try:
        with _at_work(order) as shop:
            return do_task(shop.bench, task)
    except KeyboardInterrupt:
        return None


def do_band(order: Order, stack: Stack, band: slice, folder: Place, suffix: str) -> BandPart | None:
    """Combine a band into a file; None when the run has been given up."""
    try:
        with _at_work(order) as shop, owning_up(stack.name):
            shape, setting = (band.stop - band.start, stack.shape[1]), shop.setting
            data, error = (np.empty(shape, setting.dtype) for _ in range(2))
            n_used = np.empty(shape, np.int32)
            rejected = combine_band(stack, shop.readers(stack), setting, band, data, error, n_used)
            # A name of its own: another process may be at the same band, if this one is given up
            # for lost, and no file is ever written twice.
            path = folder / f".{stack.name}-{band.start}-{uuid4().hex}{suffix}"
            return BandPart.write(path, data, error, n_used, rejected)
    except KeyboardInterrupt:
        return None


def forget(run: str) -> None:
    """Give back what this process holds for a run that has ended."""
    with _LOCK:
        shop = _SHOPS.pop(run, None)
    if shop is not None:
        shop.close()


async def give_up(order_id: str, timeout_s: float) -> None:
    """End the tasks of an order in this process, and wait until they have ended."""
    _GIVEN_UP.add(order_id)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(
        shop.n_active for shop in list(_SHOPS.values()) if shop.order.id == order_id
    ):
        await asyncio.sleep(_LOOK_S)
