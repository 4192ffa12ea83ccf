"""The memory that a run will take, projected from its plan before a pixel is read.

Only arrays are counted. The program itself, with its libraries, takes about 200 MB more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from flatcal.errors import ConfigError
from flatcal.frame import Kind
from flatcal.plan import FramePlan, MasterPlan, Plan, Step

# Pixels that are read and calibrated at once, while they are in a near cache.
READ_PIXELS = 1 << 18

# Of one raw pixel that astropy reads. Measured at the most: 19, of doubles with an overscan.
_UNPACKED_BYTES = 20

# Of one pixel of a frame in which cosmic rays are looked for, beside its planes. Measured: 53.
_COSMIC_RAY_BYTES = 56

# Bands of about this many bytes keep a thread busy; larger ones leave the shared cache. Where many
# frames are combined a band is larger, if memory allows: `READ_PIXELS` of each, because to begin
# with a frame costs as much as some rows of it (measured for 80 frames: three times faster).
BAND_BYTES = 12 * 2**20
MOST_BAND_BYTES = 8 * BAND_BYTES


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a run whose arrays are in memory at the same time.

    Attributes
    ----------
    what : str
        The master that is made, or the kind of frames; of a frame by itself its file.
    masters_bytes : int
        The masters it needs.
    result_bytes : int
        The result, where all threads work on one.
    least_bytes : int
        What one thread needs in addition, at the least.
    most_bytes : int
        What one thread takes when there is room.
    """

    what: str
    masters_bytes: int
    result_bytes: int
    least_bytes: int
    most_bytes: int

    @property
    def fixed_bytes(self) -> int:
        """What does not depend on the number of threads."""
        return self.masters_bytes + self.result_bytes

    @property
    def needed_bytes(self) -> int:
        """Without which it cannot be."""
        return self.fixed_bytes + self.least_bytes

    def thread_bytes(self, jobs: int, limit: int) -> int:
        """What each of some threads may take within a limit."""
        return max(self.least_bytes, min(self.most_bytes, (limit - self.fixed_bytes) // jobs))

    def threads(self, jobs: int, limit: int) -> int:
        """How many threads can work at once within a limit, one at the least."""
        return max(1, min(jobs, (limit - self.fixed_bytes) // self.least_bytes))

    def room_bytes(self, jobs: int, limit: int) -> int:
        """What is left of a limit for masters."""
        threads = self.threads(jobs, limit)
        return limit - self.result_bytes - threads * self.thread_bytes(threads, limit)


@dataclass(frozen=True, slots=True)
class Projection:
    """The memory that a run takes, in its stages.

    Attributes
    ----------
    stages : tuple of Stage
        Of all that fits within the limit.
    large_masters, large_frames : mapping of str to int
        Masters and files that do not fit, and what each needs.
    """

    stages: tuple[Stage, ...]
    large_masters: Mapping[str, int] = field(default_factory=dict)
    large_frames: Mapping[str, int] = field(default_factory=dict)

    @property
    def least_bytes(self) -> int:
        """Without which something of the run cannot be made."""
        needed = (stage.needed_bytes for stage in self.stages)
        large = (*self.large_masters.values(), *self.large_frames.values())
        return max((*needed, *large), default=0)

    def peak_bytes(self, jobs: int, limit: int) -> int:
        """With some threads, and a limit that is not below `least_bytes`."""
        return max(
            (s.masters_bytes + limit - s.room_bytes(jobs, limit) for s in self.stages),
            default=0,
        )

    def stage(self, what: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.what == what)

    def require(self, limit: int) -> None:
        """Refuse a limit within which nothing can be made.

        Raises
        ------
        ConfigError
            It names both figures.
        """
        if self.least_bytes > limit and all(s.needed_bytes > limit for s in self.stages):
            raise ConfigError(
                "memory-limit",
                f"the plan needs at least {format_size(self.least_bytes)} of memory, more than "
                f"the limit of {format_size(limit, math.floor)}; raise --memory",
            )


def project_memory(plan: Plan, limit: float = math.inf) -> Projection:
    """Project the memory of a run.

    Parameters
    ----------
    plan : Plan
        Of the run.
    limit : float
        Masters and frames that need more by themselves are left out of the stages, so that they
        take neither threads nor room from the others.
    """
    return _Projector(plan).project(limit)


def tell_too_large(needed: int, limit: int) -> str:
    """Why a master or frame that needs so many bytes cannot be made."""
    return (
        f"it needs at least {format_size(needed)} of memory, more than the limit of "
        f"{format_size(limit, math.floor)}; raise --memory"
    )


def median_room(n_pixels: int) -> int:
    """Values for which a median needs room; see `flatcal.kernels.stats.RunningMedian`.

    Twice what is expected to lie in its bracket; of a small image all.
    """
    return min(n_pixels, n_pixels // 25 + (1 << 16)) + 1024


def master_bytes(plan: Plan, name: str) -> int:
    """Bytes of a master in memory: value, uncertainty and flags."""
    rows, columns = plan.master(name).shape
    return rows * columns * (2 * np.dtype(plan.config.output.dtype).itemsize + 2)


def unpacked_row_bytes(frame: FramePlan) -> int:
    """What a raw row takes as stored, scaled and as values, where astropy reads it; else 0."""
    assert frame.storage is not None
    assert frame.shape is not None
    return 0 if frame.storage.plain_uint16 else _UNPACKED_BYTES * frame.shape[1]


def format_size(n_bytes: int, rounded: Callable[[float], int] = math.ceil) -> str:
    """Bytes as people write them: 512 MiB, 1.5 GiB.

    Parameters
    ----------
    n_bytes : int
        The size.
    rounded : callable
        Rounds the last digit: up, unless said otherwise, so that what is told is enough.
    """
    unit, size = ("GiB", n_bytes / 2**30) if n_bytes >= 2**30 else ("MiB", n_bytes / 2**20)
    tens = 1 if size >= 100 else 10 if size >= 10 else 100 if size >= 1 else 1000
    return f"{rounded(size * tens) / tens:g} {unit}"


class _Projector:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.frames = {frame.file: frame for frame in plan.frames}
        self.value_bytes = np.dtype(plan.config.output.dtype).itemsize
        # Where outputs are compressed: a plane, its rows when compressed, those in one piece, and
        # once more as a file. Of values without any order, which do not shrink: 4.2 planes.
        self.packing_bytes = 9 * self.value_bytes // 2 * plan.config.output.compress

    def project(self, limit: float) -> Projection:
        masters = [self._master(m) for m in self.plan.masters if m.stored is None]
        stages = [stage for stage in masters if stage.needed_bytes <= limit]
        large_frames: dict[str, int] = {}
        for kind in (Kind.FLAT, Kind.SCIENCE):
            frames = [self._frame(f) for f in self.plan.frames if f.kind is kind and f.steps]
            large_frames |= {f.what: f.needed_bytes for f in frames if f.needed_bytes > limit}
            fitting = [frame for frame in frames if frame.needed_bytes <= limit]
            if fitting:
                stages.append(self._together(kind, fitting))
        large_masters = {m.what: m.needed_bytes for m in masters if m.needed_bytes > limit}
        return Projection(tuple(stages), large_masters, large_frames)

    def _master(self, master: MasterPlan) -> Stage:
        """Average, error, count, flags and a mask; a band of all frames, with its error."""
        frames = [self.frames[file] for file in master.inputs]
        rows, columns = master.shape
        steps = [master.steps] if master.steps else [frame.steps for frame in frames]
        planes = 2 if self.plan.config.output.uncertainty else 1
        result = rows * columns * (planes * self.value_bytes + 5 + self.packing_bytes)
        if master.kind is Kind.FLAT and frames[0].colour_matrix:
            result += rows * columns * (self.value_bytes + 1)  # the levels of one flat at a time
        row = columns * (len(frames) * (self.value_bytes + 1) + self.value_bytes + 4 + 2)
        row += columns * self.value_bytes if frames[0].colour_matrix else 0  # factors of a flat
        row += max(map(unpacked_row_bytes, frames))
        # Rows above and below whose rejected pixels bear on a band; what it makes is as high.
        halo = 2 * int(self.plan.config.combine.grow_of(master.kind, by_noise=True))
        row += columns * (2 * self.value_bytes + 4) if halo else 0
        row *= 2 if len(frames[0].detectors) > 1 else 1  # what each has read is copied
        least = (1 + halo) * row
        wanted = max(BAND_BYTES, (READ_PIXELS // columns + halo) * row)
        band = max(least, min((rows + halo) * row, wanted, MOST_BAND_BYTES))
        return Stage(master.name, self._masters_of(steps), result, least, band)

    def _frame(self, frame: FramePlan) -> Stage:
        """A band of a frame, or its values and flags as a whole; and its masters.

        A frame passes by in bands, but is whole in memory where its dark is refined, or where the
        bracket of its median has failed.
        """
        planes = 2 if self.plan.config.output.uncertainty else 1
        n_pixels, n_band = math.prod(frame.kept_shape), _band_pixels(frame)
        bands = n_band * (planes * self.value_bytes + 3)
        median = median_room(n_pixels) * self.value_bytes if n_band < n_pixels else 0
        each = max(n_pixels * (self.value_bytes + 1), bands + median)
        each += unpacked_row_bytes(frame) * frame.kept_shape[0]
        if any(step.name == "find_cosmic_rays" for step in frame.steps):
            each += n_pixels * (2 * self.value_bytes + 3 + _COSMIC_RAY_BYTES)
        each += n_pixels * self.packing_bytes
        return Stage(frame.file, self._masters_of([frame.steps]), 0, each, each)

    def _together(self, kind: Kind, frames: Sequence[Stage]) -> Stage:
        """Frames of a kind, several at once; it needs no more than the largest by itself."""
        sets = {frozenset(step.master for step in self.frames[f.what].steps) for f in frames}
        if len(sets) == 1:
            each = max(frame.least_bytes for frame in frames)
            return Stage(kind.value, frames[0].masters_bytes, 0, each, each)
        # Threads may be at frames that need different masters.
        each = max(frame.needed_bytes for frame in frames)
        return Stage(kind.value, 0, 0, each, each)

    def _masters_of(self, steps: Iterable[Sequence[Step]]) -> int:
        names = {step.master for its in steps for step in its if step.master is not None}
        return sum(master_bytes(self.plan, name) for name in names)


def _band_pixels(frame: FramePlan) -> int:
    """Pixels that are calibrated at once: all of a frame that is not plain."""
    assert frame.storage is not None
    rows, columns = frame.kept_shape
    plain = frame.storage.plain_uint16
    return rows * columns if not plain else min(rows, max(1, READ_PIXELS // columns)) * columns
