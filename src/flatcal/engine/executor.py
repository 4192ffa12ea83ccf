"""Where the work of a run is done: the one interface, and threads of this process behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.bands import Combining, Receive, Stack, combine_band
from flatcal.engine.calibrated_frame import CalibratedFrame
from flatcal.engine.frames import Bench, FrameDone, FrameTask
from flatcal.engine.mosaics import do_task
from flatcal.engine.workers import Workers
from flatcal.projection import Stage

Array = NDArray[Any]


class Executor(Combining, Protocol):
    """Where frames and bands are worked on."""

    def run_frames(
        self,
        tasks: Sequence[FrameTask],
        stage: Stage | None,
        receive: Callable[[FrameTask, FrameDone], None],
    ) -> None:
        """Do tasks, several at once.

        Parameters
        ----------
        tasks : sequence of FrameTask
            All of one stage.
        stage : Stage or None
            Gives the memory; None where no pixels are calibrated.
        receive : callable
            Called with each task when it is done, in any order and from any thread.
        """
        ...


class Threads:
    """Frames and bands are worked on by threads of this process.

    Parameters
    ----------
    workers : Workers
        The threads and their memory.
    bench : Bench
        What they work with.
    """

    def __init__(self, workers: Workers, bench: Bench) -> None:
        self.workers = workers
        self._bench = bench

    def run_frames(
        self,
        tasks: Sequence[FrameTask],
        stage: Stage | None,
        receive: Callable[[FrameTask, FrameDone], None],
    ) -> None:
        """See `Executor`."""

        def do(task: FrameTask) -> None:
            receive(task, do_task(self._bench, task))

        self.workers.run([partial(do, task) for task in tasks], stage)

    def combine(
        self, stack: Stack, readers: Sequence[CalibratedFrame], data: Array, receive: Receive
    ) -> None:
        """See `flatcal.engine.bands.Combining`."""
        setting = self._bench.setting
        lend = setting.buffers.lend

        def do(band: slice) -> None:
            shape = band.stop - band.start, stack.shape[1]
            with lend(shape, setting.dtype) as error, lend(shape, np.int32) as n_used:
                rejected = combine_band(stack, readers, setting, band, data[band], error, n_used)
                receive(band, error, n_used, rejected)

        stage, row_bytes = self.workers.stage(stack.name), stack.row_bytes(setting.dtype)
        self.workers.run_bands(stack.shape[0], row_bytes, stage, do, halo_rows=2 * stack.halo_rows)
