"""What all products of a run have in common, and raw frames as they are opened with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from flatcal.engine.buffers import Buffers
from flatcal.engine.calibrated_frame import CalibratedFrame
from flatcal.engine.masters import Master
from flatcal.engine.preparation import prepare
from flatcal.engine.user_mask import UserMask
from flatcal.extension import extension_of, file_of
from flatcal.plan import FramePlan, Step
from flatcal.raw_frame import RawFrame
from flatcal.recipe import Config
from flatcal.storage import Place


@dataclass(frozen=True, slots=True)
class Setting:
    """What all products of a run have in common.

    Attributes
    ----------
    raw_folder : Path or RemotePath
        The raw folder.
    config : Config
        Settings.
    masters : callable
        Gives masters by their names.
    buffers : Buffers
        Memory for what is not kept.
    mask : UserMask or None
        Pixels that the user marks.
    """

    raw_folder: Place
    config: Config
    masters: Callable[[Collection[str]], Mapping[str, Master]]
    buffers: Buffers
    mask: UserMask | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the calculation."""
        return np.dtype(self.config.output.dtype)


def open_raw(setting: Setting, plan: FramePlan) -> RawFrame:
    """The raw file of a frame, open."""
    assert plan.storage is not None
    assert plan.shape is not None
    return RawFrame(setting.raw_folder / file_of(plan.file), plan.storage, plan.shape, whole=True)


def calibrated(
    raw: RawFrame,
    setting: Setting,
    plan: FramePlan,
    steps: Sequence[Step],
    refined_scale: float | None = None,
) -> CalibratedFrame:
    """An open frame that is calibrated as it is read."""
    assert plan.shape is not None
    mask = setting.mask and setting.mask.of_extension(extension_of(plan.file))
    preparation = prepare(
        steps,
        plan.shape,
        plan.detectors,
        setting.masters,
        setting.dtype,
        mask,
        refined_scale,
    )
    return CalibratedFrame(raw, preparation, setting.buffers)


@contextmanager
def open_calibrated(
    setting: Setting, plan: FramePlan, steps: Sequence[Step], refined_scale: float | None = None
) -> Iterator[CalibratedFrame]:
    """A frame that is calibrated as it is read, opened for the time of the context."""
    with open_raw(setting, plan) as raw:
        yield calibrated(raw, setting, plan, steps, refined_scale)
