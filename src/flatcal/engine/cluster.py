"""A run on the processes of a Dask cluster.

The scheduler sees orders, tasks and records, never pixels: calibrated frames and combined bands
go to files of the output folder, which all processes share. Work is handed out in a window, so
that the scheduler holds as much for ten million frames as for a thousand.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, Final, TypeVar

import numpy as np
from distributed import Client, Future, KilledWorker, LocalCluster, wait
from distributed.client import FuturesCancelledError
from numpy.typing import NDArray

from flatcal import __version__
from flatcal.engine.bands import Receive, Stack
from flatcal.engine.calibrated_frame import CalibratedFrame
from flatcal.engine.cluster_tasks import do_band, do_frame, forget, give_up
from flatcal.engine.frames import FrameDone, FrameTask
from flatcal.engine.order import Order
from flatcal.engine.part import BandPart
from flatcal.engine.workers import Workers, cut_bands
from flatcal.errors import ClusterError, FrameError
from flatcal.frame import Caveat
from flatcal.io import part_suffix
from flatcal.projection import Stage

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Item = TypeVar("Item")

# Seconds in which the first worker has to be there.
WORKERS_S: Final = 60.0

# Seconds between two looks at the workers, while nothing comes back.
_LOOK_S: Final = 5.0

# Seconds for which tasks in work are waited for, when a run is given up.
_GIVE_UP_S: Final = 30.0

# Tasks that are handed out for each thread of the cluster, so that none waits for the next one.
_TASKS_PER_THREAD: Final = 4


# Run by processes on this machine when they start: Ctrl-C in a terminal comes to them as well, but
# it is for the run to end them.
_PRELOAD: Final = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@contextmanager
def connect(scheduler: str | None, jobs: int | None) -> Iterator[Cluster]:
    """A cluster for the time of the context.

    Parameters
    ----------
    scheduler : str or None
        Address of its scheduler; None starts processes on this machine.
    jobs : int or None
        How many of them; None for as many as there are cores.

    Raises
    ------
    ClusterError
        When it does not answer in time, has no workers, or runs another flatcal.
    """
    if scheduler is None:
        # Memory is bounded by the run itself; and a port that is free, as there may be several.
        with (
            LocalCluster(
                n_workers=jobs or os.cpu_count() or 1, threads_per_worker=1, processes=True,
                memory_limit=0, preload=_PRELOAD, dashboard_address="127.0.0.1:0",
                silence_logs=logging.ERROR,
            ) as local,
            Client(local, set_as_default=False) as client,
        ):  # fmt: skip
            yield _checked(client)
        return
    try:
        client = Client(scheduler, set_as_default=False)
    except (OSError, ValueError, ImportError) as error:
        raise ClusterError(
            "cluster",
            f"the Dask scheduler {scheduler} cannot be reached: {error}; start it, or correct "
            "--scheduler",
        ) from error
    with client:
        yield _checked(client)


def _checked(client: Client) -> Cluster:
    address = client.scheduler.address
    try:
        client.wait_for_workers(1, timeout=WORKERS_S)
    except TimeoutError as error:
        raise ClusterError(
            "cluster",
            f"the scheduler {address} has no workers within {WORKERS_S:g} s; start them with "
            f"'dask worker {address}'",
        ) from error
    cluster = Cluster(client)
    cluster.require_same_version()
    return cluster


def _ask_version() -> Callable[[], str | None]:
    """A function that tells the version of flatcal where it runs.

    It goes there as code, as it stands within another: a process without flatcal could not even
    read the name of a function of this module.
    """

    def ask() -> str | None:
        try:
            from flatcal._version import __version__ as version  # noqa: PLC0415
        except ImportError:
            return None
        return version

    return ask


def _require_version(what: str, version: str | None) -> None:
    if version != __version__:
        told = f"flatcal {version}" if version else "no flatcal"
        raise ClusterError(
            "cluster",
            f"{what} has {told}, the run is of {__version__}; install the same everywhere",
        )


class Cluster:
    """A Dask cluster with at least one worker.

    Parameters
    ----------
    client : Client
        Connected.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._checked: set[str] = set()

    @property
    def dashboard(self) -> str:
        """Address of the Dask dashboard."""
        return str(self.client.dashboard_link)

    def require_same_version(self) -> None:
        """Refuse a scheduler or workers with another flatcal, before anything else is sent.

        Raises
        ------
        ClusterError
            It names both versions.
        """
        version = self.client.run_on_scheduler(_ask_version())
        _require_version(f"the scheduler {self.client.scheduler.address}", version)
        self.threads()

    def threads(self) -> list[int]:
        """Threads of each worker; none while there are no workers.

        Raises
        ------
        ClusterError
            When a worker has come that has another flatcal.
        """
        threads = self.client.nthreads()
        if new := sorted(threads.keys() - self._checked):
            versions = self.client.run(_ask_version(), workers=new, on_error="ignore")
            for address, version in versions.items():
                _require_version(f"the worker {address}", version)
            self._checked.update(new)
        return list(threads.values())

    def forget(self, run: str) -> None:
        """Have all workers give back what they hold for a run that has ended."""
        if self.client.status == "running":
            with suppress(OSError, TimeoutError):
                self.client.run(forget, run, on_error="ignore")

    def executor(
        self,
        workers: Workers,
        dtype: np.dtype[Any],
        order: Callable[[Stage | None, Iterable[str], int], Order],
    ) -> Dask:
        """What hands the work of a run to the cluster; see `Dask`."""
        return Dask(self, workers, dtype, order)


class Dask:
    """Frames and bands are worked on by the processes of a cluster.

    Parameters
    ----------
    cluster : Cluster
        The cluster.
    workers : Workers
        Threads of this process, for what is not worth sending.
    dtype : dtype
        Of the calculation.
    order : callable
        Gives the order for a stage, the masters that it needs, and threads of a worker.
    """

    def __init__(
        self,
        cluster: Cluster,
        workers: Workers,
        dtype: np.dtype[Any],
        order: Callable[[Stage | None, Iterable[str], int], Order],
    ) -> None:
        self.workers = workers
        self._cluster = cluster
        self._client = cluster.client
        self._dtype = dtype
        self._order = order
        self._n_threads = 1
        self._look_again = 0.0

    def run_frames(
        self,
        tasks: Sequence[FrameTask],
        stage: Stage | None,
        receive: Callable[[FrameTask, FrameDone], None],
    ) -> None:
        """See `flatcal.engine.executor.Executor`."""
        masters = {
            step.master
            for task in tasks
            for frame in task.frames
            for step in frame.steps
            if step.master
        }
        order = self._order(stage, sorted(masters), self._jobs())
        posted = self._post(order)

        def submit(task: FrameTask) -> Future:
            return self._client.submit(do_frame, posted, task, pure=False)

        def lost(task: FrameTask, why: Caveat) -> None:
            receive(task, FrameDone(task.record, why))

        self._do_all(order, tasks, submit, receive, lost)

    def combine(
        self, stack: Stack, _readers: Sequence[CalibratedFrame], data: Array, receive: Receive
    ) -> None:
        """See `flatcal.engine.bands.Combining`; the open frames are not needed."""
        jobs, stage = self._jobs(), self.workers.stage(stack.name)
        masters = {step.master for m in stack.members for step in m.steps if step.master}
        order = self._order(stage, sorted(masters), jobs)
        posted, posted_stack = self._post(order), self._post(stack)
        bands = cut_bands(
            stack.shape[0], stack.row_bytes(self._dtype), stage, jobs, self.workers.memory_bytes,
            halo_rows=2 * stack.halo_rows,
        )  # fmt: skip
        folder, suffix = order.out / "masters", part_suffix()

        def submit(band: slice) -> Future:
            return self._client.submit(
                do_band, posted, posted_stack, band, folder, suffix, pure=False
            )

        def take(band: slice, part: BandPart) -> None:
            shape = band.stop - band.start, stack.shape[1]
            data[band], error, n_used = part.read(shape, self._dtype)
            receive(band, error, n_used, part.rejected)

        try:
            self._do_all(order, bands, submit, take, _raise_lost)
        finally:
            # Of workers that were lost, or bands that nobody waits for.
            for path in folder.iterdir():
                if path.name.startswith(f".{stack.name}-") and path.name.endswith(suffix):
                    path.unlink(missing_ok=True)

    def _jobs(self) -> int:
        return max(self._cluster.threads(), default=1)

    def _post(self, something: Any) -> Future:
        """Put something where all workers find it, also when one that holds it is lost."""
        return self._client.submit(_itself, something, pure=False)

    def _do_all(
        self,
        order: Order,
        items: Sequence[Item],
        submit: Callable[[Item], Future],
        receive: Callable[[Item, Any], None],
        lost: Callable[[Item, Caveat], None],
    ) -> None:
        """Have all items done; what ends one worker after the other is lost.

        Whatever a worker holds when it ends is a suspect, so that suspects are tried again, each
        by itself.
        """
        suspects: list[Item] = []
        self._in_window(order, items, submit, receive, lambda item, _why: suspects.append(item))
        for item in suspects:
            self._in_window(order, [item], submit, receive, lost)

    def _in_window(
        self,
        order: Order,
        items: Sequence[Item],
        submit: Callable[[Item], Future],
        receive: Callable[[Item, Any], None],
        lost: Callable[[Item, Caveat], None],
    ) -> None:
        """Hand out work, a few tasks for each thread at a time, and receive what comes of it."""
        waiting = iter(items)
        pending: dict[Future, Item] = {}
        try:
            while True:
                room = max(0, self._window() - len(pending))
                pending |= {submit(item): item for item in islice(waiting, room)}
                if not pending:
                    return
                for future, result in self._ended(pending):
                    item = pending.pop(future)
                    (lost if isinstance(result, Caveat) else receive)(item, result)
        except FuturesCancelledError as error:
            address = self._client.scheduler.address
            raise ClusterError(
                "cluster", f"the scheduler {address} was lost; start it and run again"
            ) from error
        except BaseException:
            self._give_up(order, list(pending))
            raise

    def _window(self) -> int:
        """Tasks that may be handed out at once; workers come and go."""
        if time.monotonic() > self._look_again:
            self._look_again = time.monotonic() + _LOOK_S
            n_threads = sum(self._cluster.threads())
            if not n_threads:
                logger.warning("the cluster has no workers now; waiting for one")
            self._n_threads = n_threads or self._n_threads
        return self._n_threads * _TASKS_PER_THREAD

    def _ended(self, pending: Iterable[Future]) -> list[tuple[Future, Any]]:
        """Tasks that have ended with their results, none where nothing ends for a while.

        A task that took several workers with it gives a Caveat.
        """
        try:
            with self._client.as_current():
                ended = list(wait(list(pending), _LOOK_S, "FIRST_COMPLETED").done)
        except TimeoutError:
            return []
        failed = [future for future in ended if future.status == "error"]
        results: list[tuple[Future, Any]] = [(future, self._why(future)) for future in failed]
        good = [future for future in ended if future.status != "error"]
        return results + list(zip(good, self._client.gather(good), strict=True))

    def _why(self, future: Future) -> Caveat:
        """Why a task has failed, where that is no more than one output; else it is raised."""
        error = future.exception()
        if isinstance(error, KilledWorker):
            return Caveat(
                "worker-lost",
                f"all workers at work on it ended ({error.allowed_failures + 1}, the last "
                f"{error.last_worker.address}); give workers more memory than --memory",
            )
        raise error

    def _give_up(self, order: Order, pending: list[Future]) -> None:
        """Take back what has not begun, and wait for what has: it ends at its next band."""
        with suppress(OSError, TimeoutError):
            self._client.cancel(pending)
            self._client.run(give_up, order.id, _GIVE_UP_S, on_error="ignore")


def _itself(something: Item) -> Item:
    return something


def _raise_lost(_band: slice, why: Caveat) -> None:
    raise FrameError(why.slug, why.text)
