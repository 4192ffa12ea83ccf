"""Errors of masters that an average of frames has as a whole, since all frames lost the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from flatcal.engine.calibrated_frame import CalibratedFrame
from flatcal.engine.masters import Master
from flatcal.plan import FramePlan

Array = NDArray[Any]


def inherited_errors(
    masters: Callable[[Collection[str]], Mapping[str, Master]],
    frames: Sequence[FramePlan],
    readers: Sequence[CalibratedFrame],
    factors: Array,
) -> list[tuple[Array, Any]]:
    """Errors of the masters that flats have lost, which their average has as well.

    The average holds the error of each master once, times the sum of the factors with which it went
    off the flats. A dark that has lost a bias adds the error of that bias again, with the other
    sign.

    Parameters
    ----------
    masters : callable
        Gives masters by their names.
    frames : sequence of FramePlan
        The flats.
    readers : sequence of CalibratedFrame
        The same, with the factors of their darks.
    factors : ndarray, shape (n_frames,)
        What each flat is multiplied by in the average.

    Returns
    -------
    list of tuple
        Standard deviation of each master, and the factor of its variance: first the positive ones.
    """
    off: dict[str, float] = {}
    for frame, reader, factor in zip(frames, readers, factors, strict=True):
        for step in frame.steps:
            if step.master is not None:
                scale = reader.preparation.dark_scale if step.name == "subtract_dark" else 1.0
                off[step.master] = off.get(step.master, 0.0) + float(factor * scale)
    squares = {name: share * share for name, share in off.items()}
    found = masters(off)
    for name, share in off.items():
        lost = found[name].lost_bias
        if lost in off:
            squares[lost] += (off[lost] - share) ** 2 - off[lost] ** 2 - share * share
            off[lost] -= share
    return [
        (found[name].std, readers[0].preparation.dtype.type(square))
        for name, square in sorted(squares.items(), key=lambda item: -item[1])
        if found[name].std.size
    ]
