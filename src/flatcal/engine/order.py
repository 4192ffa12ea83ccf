"""What a process of a cluster must know to work on one stage of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flatcal.engine.shelf import MasterSource
from flatcal.errors import FrameError
from flatcal.frame import Caveat
from flatcal.projection import Stage
from flatcal.recipe import Config
from flatcal.storage import Place


@dataclass(frozen=True, slots=True)
class Order:
    """An order to the processes of a cluster; it holds no pixels.

    Attributes
    ----------
    id : str
        Its own name.
    run : str
        Name of the run.
    version : str
        Of the flatcal that gives it.
    raw, out : Path or RemotePath
        Raw and output folder, the same for all processes.
    mask : Path or None
        File of the user's mask.
    config : Config
        Settings.
    stage : Stage or None
        Gives the memory; None where no pixels are calibrated.
    jobs : int
        Threads of a process that may be at work at once.
    memory_bytes : int
        Limit of all arrays of a process.
    masters : mapping
        Where the masters are that the stage needs, or why one is missing.
    """

    id: str
    run: str
    version: str
    raw: Place
    out: Place
    mask: Path | None
    config: Config
    stage: Stage | None
    jobs: int
    memory_bytes: int
    masters: Mapping[str, MasterSource | Caveat]

    def source(self, name: str) -> MasterSource:
        """Where a master is.

        Raises
        ------
        FrameError
            When it could not be made.
        """
        found = self.masters[name]
        if isinstance(found, Caveat):
            raise FrameError(found.slug, found.text)
        return found
