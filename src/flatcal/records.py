"""What a run did: one outcome per input frame, one record per output, in run.json."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from flatcal.camera import Strict
from flatcal.frame import Caveat, Kind
from flatcal.user_cache import Stamp

# The page of a run, in its output folder.
REPORT: Final = "report.html"


class Status(StrEnum):
    """What became of an input frame."""

    CALIBRATED = "calibrated"
    USED = "used"
    FAILED = "failed"
    LEFT_OUT = "left out"


class Outcome(Strict):
    """What became of one input frame.

    Attributes
    ----------
    file : str
        Path below the raw folder.
    kind : Kind or None
        Its kind.
    status : Status
        Calibrated, used in a master, or failed.
    output : str or None
        Calibrated file below the output folder.
    part_of : str or None
        Master that it went into.
    reason : str
        What was done, or why it failed.
    caveats, errors : tuple of Caveat
        What the observer should know; why it failed.
    """

    file: str
    kind: Kind | None
    status: Status
    output: str | None = None
    part_of: str | None = None
    reason: str = ""
    caveats: tuple[Caveat, ...] = ()
    errors: tuple[Caveat, ...] = ()


class InputRecord(Strict):
    """A raw file as it was when it was read, so that a later run need not read it again.

    Attributes
    ----------
    size_bytes, mtime_ns : int
        Size and time of its last change.
    ctime_ns, inode : int
        Time of the last change of anything about it, and its number in the file system, as
        `flatcal.user_cache.stamp_of` tells them; 0 in records of flatcal that had none.
    etag : str
        Tag that a server gave to its content.
    sha256 : str
        Of its content.
    """

    size_bytes: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 0
    etag: str = ""
    sha256: str

    @property
    def stamp(self) -> Stamp:
        """What tells whether the file is as it was."""
        return self.size_bytes, self.mtime_ns, self.ctime_ns, self.inode


class ProductRecord(Strict):
    """One output.

    Attributes
    ----------
    output : str
        File below the output folder.
    kind : Kind
        Of the output.
    recipe : str
        SHA-256 over everything that determines its pixels.
    inputs : tuple of str
        Raw files that went into it.
    median_adu : float or None
        Median of its good pixels, None when it has none.
    n_flagged : int
        Pixels that are not good.
    refined_scale : float or None
        Factor of the dark, where it was refined on hot pixels.
    rejected : tuple of float or None
        Of a master, the share of the pixels of each input that was rejected.
    slopes : tuple of float or None
        Of a master flat, how much each flat changes over the image against the others.
    unlike : tuple of float or None
        Of a master flat, the share of each flat that differs from the others, slope aside.
    """

    output: str
    kind: Kind
    recipe: str
    inputs: tuple[str, ...]
    median_adu: float | None
    n_flagged: int
    refined_scale: float | None = None
    rejected: tuple[float, ...] | None = None
    slopes: tuple[float, ...] | None = None
    unlike: tuple[float, ...] | None = None


class RunRecord(Strict):
    """The content of run.json; the only output that holds the time of the run.

    It is written after plan.json, whose SHA-256 it holds: whoever reads both can tell whether they
    are of one run.
    """

    schema_version: Literal[1] = 1
    flatcal_version: str
    plan_sha256: str = ""
    started: str
    seconds: float
    raw: str
    inputs: dict[str, InputRecord]
    products: dict[str, ProductRecord]
    outcomes: tuple[Outcome, ...]
