"""Frames combined in bands of rows, in whichever process a band is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.calibrated_frame import CalibratedFrame
from flatcal.engine.colours import Tint, TintedFrame, kept_pattern
from flatcal.engine.setting import Setting, open_calibrated
from flatcal.engine.stacking import Stacking, combine_regions
from flatcal.engine.workers import Workers
from flatcal.flags import INHERITED
from flatcal.plan import FramePlan, Step
from flatcal.projection import unpacked_row_bytes

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Member:
    """One of the frames that are combined.

    Attributes
    ----------
    frame : FramePlan
        The raw frame.
    steps : tuple of Step
        Done to it as it is read.
    refined_scale : float or None
        Factor of its dark, where it has been refined.
    tint : dict of str to float or None
        What its pixels of each colour are multiplied by.
    """

    frame: FramePlan
    steps: tuple[Step, ...]
    refined_scale: float | None = None
    tint: Tint | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """What is combined to one master, and how.

    Attributes
    ----------
    name : str
        Of the master.
    members : tuple of Member
        The frames.
    stackings : tuple of Stacking
        How they are combined: what each amplifier has read by itself.
    shape : tuple of int
        Rows and columns of the result.
    """

    name: str
    members: tuple[Member, ...]
    stackings: tuple[Stacking, ...]
    shape: tuple[int, int]

    def row_bytes(self, dtype: np.dtype[Any]) -> int:
        """What a row takes while it is worked on."""
        n_bytes = len(self.members) * (dtype.itemsize + 1) + dtype.itemsize + 4
        n_bytes += 2 * dtype.itemsize + 4 if self.halo_rows else 0
        # What each of several amplifiers has read is copied.
        n_bytes += dtype.itemsize if any(m.tint for m in self.members) else 0
        n_bytes *= 2 if len(self.stackings) > 1 else 1
        return self.shape[1] * n_bytes + max(unpacked_row_bytes(m.frame) for m in self.members)

    @property
    def halo_rows(self) -> int:
        """Rows above and below a band whose rejected pixels bear on it."""
        return self.stackings[0].halo_rows


# Receives a band that has been combined: its rows, the standard error from the scatter of the
# values kept, how many were kept, and the pixels that were rejected in each frame.
Receive = Callable[[slice, Array, Array, Array], None]


class Combining(Protocol):
    """Where bands are worked on.

    Attributes
    ----------
    workers : Workers
        Threads of this process.
    """

    workers: Workers

    def combine(
        self, stack: Stack, readers: Sequence[CalibratedFrame], data: Array, receive: Receive
    ) -> None:
        """Combine all bands of a stack.

        Parameters
        ----------
        stack : Stack
            The frames.
        readers : sequence of CalibratedFrame
            The same, open in this process.
        data : ndarray, of the shape of the stack
            Receives the result: the average of what is kept, of all values where none is.
        receive : callable
            Called for each band when its rows of `data` are there.
        """
        ...


@contextmanager
def open_members(
    members: Sequence[Member], setting: Setting
) -> Iterator[tuple[CalibratedFrame, ...]]:
    """The frames, open for the time of the context."""
    with ExitStack() as opened:
        readers = (
            opened.enter_context(open_calibrated(setting, m.frame, m.steps, m.refined_scale))
            for m in members
        )
        yield tuple(
            _tinted(reader, member, setting)
            for reader, member in zip(readers, members, strict=True)
        )


def _tinted(reader: CalibratedFrame, member: Member, setting: Setting) -> CalibratedFrame:
    if member.tint is None:
        return reader
    pattern = kept_pattern(reader, member.frame.colour_matrix)
    return TintedFrame(reader, pattern, setting.buffers, member.tint)


def combine_band(
    stack: Stack,
    readers: Sequence[CalibratedFrame],
    setting: Setting,
    band: slice,
    data: Array,
    error: Array,
    n_used: Array,
) -> Array:
    """Combine one band.

    Parameters
    ----------
    stack : Stack
        How.
    readers : sequence of CalibratedFrame
        Its frames.
    setting : Setting
        Type and memory.
    band : slice
        Rows.
    data, error : ndarray, shape (rows of the band, columns)
        Receive the average, and its standard error from the scatter of the values kept.
    n_used : ndarray of int32, same shape
        Receives how many were kept; where none was, `data` is the average of all.

    Returns
    -------
    ndarray of int64, shape (n_frames,)
        Pixels that were rejected in each frame.
    """
    n, (rows, columns) = len(readers), stack.shape
    halo, kind, lend = stack.halo_rows, setting.dtype.type, setting.buffers.lend
    start, stop = max(0, band.start - halo), min(rows, band.stop + halo)
    wide, inner = slice(start, stop), slice(band.start - start, band.stop - start)
    regions = readers[0].preparation.regions
    shape, planes = (n, stop - start, columns), (data, error, n_used)
    with ExitStack() as lent:
        values, bad = (lent.enter_context(lend(shape, t)) for t in (setting.dtype, np.uint8))
        for reader, its_values, its_flags in zip(readers, values, bad, strict=True):
            # A defect of the detector is in all frames: the average is the best there is.
            reader.read_bad(start, stop, its_values, its_flags, INHERITED)
        of_wide: Sequence[Array] = planes
        if wide != band:
            of_wide = [lent.enter_context(lend(shape[1:], p.dtype)) for p in planes]
        rejected = combine_regions(regions, stack.stackings, band, wide, values, bad, of_wide)
        if wide != band:
            for plane, its_wide in zip(planes, of_wide, strict=True):
                plane[:] = its_wide[inner]
        empty = n_used == 0
        if empty.any():
            scales = stack.stackings[0].scales.astype(kind)[:, None]
            data[empty] = (values[:, inner][:, empty] * scales).mean(axis=0)
    return rejected
