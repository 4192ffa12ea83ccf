"""Recipes: hashes of all that determines the pixels of an output.

An output that stands with the recipe that a new run would follow is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from flatcal import __version__
from flatcal.engine.user_mask import UserMask
from flatcal.plan import FramePlan, MasterPlan, Step
from flatcal.recipe import Config

# What of a frame's plan determines its pixels and header, beside the raw file and the steps.
_PIXEL_FACTS = {"kind", "exposure_time_s", "filter", "date", "unit", "shape", "detectors"}

# What of the settings of outputs determines the pixels of all that is made.
_PIXEL_SETTINGS = {"dtype", "uncertainty"}


@dataclass(frozen=True, slots=True)
class Recipes:
    """The recipes of a run.

    Attributes
    ----------
    config : Config
        Its settings.
    digests : callable
        Gives name and SHA-256 of the raw file of each of some frames.
    mask : UserMask or None
        Pixels that the user marks.
    of_master : callable
        Gives the recipe of a master that has been made, by its name.
    """

    config: Config
    digests: Callable[[Sequence[FramePlan]], list[tuple[str, str]]]
    mask: UserMask | None
    of_master: Callable[[str], str]

    def of_raw_master(
        self, master: MasterPlan, frames: Sequence[FramePlan], zero_adu: float | None
    ) -> str:
        """Of a master of bias or dark frames, and its value without dark current."""
        settings = {**self.config.combine.model_dump(), "zero_adu": zero_adu}
        return self._of("average", frames, master.steps, settings)

    def of_flat_master(self, frames: Sequence[FramePlan]) -> str:
        """Of a master of flats."""
        content: dict[str, Any] = {
            "operation": "average of flats over their medians",
            "flats": [(frame.file, self.of_frame(frame)) for frame in frames],
            "combine": self.config.combine.model_dump(),
        }
        if any(frame.colour_matrix for frame in frames):
            content["colours"] = [frame.colour_matrix for frame in frames]
        return _hash(content)

    def of_frame(self, frame: FramePlan) -> str:
        """Of the pixels of a calibrated frame, whether or not it is written."""
        looks = any(step.name == "find_cosmic_rays" for step in frame.steps)
        settings = self.config.cosmic_rays.model_dump() if looks else None
        return self._of("calibrate", [frame], frame.steps, settings)

    @staticmethod
    def of_mosaic(images: Mapping[str, str]) -> str:
        """Of a file of several images, from the recipe of each by its extension."""
        return _hash({"operation": "several images in one file", "images": list(images.items())})

    @staticmethod
    def of_factors(flat_recipe: str) -> str:
        """Of the factors into which a master flat is split."""
        return _hash({"operation": "split", "flat": flat_recipe})

    def _of(
        self,
        operation: str,
        frames: Sequence[FramePlan],
        steps: Sequence[Step],
        settings: dict[str, Any] | None,
    ) -> str:
        masters = {step.master for step in steps if step.master is not None}
        return _hash(
            {
                "flatcal": __version__,
                "operation": operation,
                "inputs": self.digests(frames),
                "frames": [frame.model_dump(mode="json", include=_PIXEL_FACTS) for frame in frames],
                "steps": [step.model_dump(exclude={"reason"}) for step in steps],
                "masters": {name: self.of_master(name) for name in sorted(masters)},
                "settings": settings,
                "marked": "" if self.mask is None else self.mask.digest,
                "output": self.config.output.model_dump(include=_PIXEL_SETTINGS),
            }
        )


def _hash(content: Any) -> str:
    """SHA-256 over the JSON of everything that determines the pixels of an output."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()
