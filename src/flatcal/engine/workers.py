"""Threads, and how many of them a stage of a run may use at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from threading import Event, Semaphore

from flatcal.projection import Projection, Stage


@dataclass(frozen=True, slots=True)
class Workers:
    """Threads and the memory that they may take.

    Attributes
    ----------
    pool : ThreadPoolExecutor
        Of `jobs` threads.
    jobs : int
        Threads.
    memory_bytes : int
        Limit of all arrays.
    projection : Projection
        What the stages of the run need.
    """

    pool: ThreadPoolExecutor
    jobs: int
    memory_bytes: int
    projection: Projection

    def stage(self, what: str) -> Stage:
        """The stage of that name; see `Projection`."""
        return self.projection.stage(what)

    def submit(self, task: Callable[[], None]) -> Future[None]:
        """Start a task beside the others."""
        return self.pool.submit(task)

    def run(self, tasks: Iterable[Callable[[], object]], stage: Stage | None = None) -> None:
        """Run tasks, no more at once than the memory of the stage allows, and wait for all.

        When one fails, those that have not begun are not begun; its exception is raised when
        the others have ended.
        """
        at_once = self.jobs if stage is None else stage.threads(self.jobs, self.memory_bytes)
        gate, failed = Semaphore(at_once), Event()

        def gated(task: Callable[[], object]) -> None:
            with gate:
                if failed.is_set():
                    return
                try:
                    task()
                except BaseException:
                    failed.set()
                    raise

        futures = [self.pool.submit(gated, task) for task in tasks]
        wait(futures)
        for future in futures:
            future.result()

    def run_bands(
        self,
        rows: int,
        row_bytes: int,
        stage: Stage,
        task: Callable[[slice], None],
        halo_rows: int = 0,
    ) -> None:
        """Run a task on bands of rows, as high as the memory of the stage allows.

        Parameters
        ----------
        rows : int
            Of the image.
        row_bytes : int
            What a row takes while it is worked on.
        stage : Stage
            Gives the memory.
        task : callable
            Receives the rows of its band.
        halo_rows : int
            Rows that a band takes in addition, above and below together.
        """
        bands = cut_bands(rows, row_bytes, stage, self.jobs, self.memory_bytes, halo_rows)
        self.run([partial(task, band) for band in bands], stage)


def cut_bands(
    rows: int, row_bytes: int, stage: Stage, jobs: int, memory_bytes: int, halo_rows: int = 0
) -> list[slice]:
    """Bands of rows, as high as a limit of memory allows where so many threads are at work.

    See `Workers.run_bands`.
    """
    at_once = stage.threads(jobs, memory_bytes)
    step = max(1, stage.thread_bytes(at_once, memory_bytes) // row_bytes - halo_rows)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
