"""What a run knows of its raw files: their hashes, and which of them failed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import Lock

from flatcal.extension import file_of
from flatcal.frame import Caveat
from flatcal.plan import FramePlan
from flatcal.records import InputRecord

logger = logging.getLogger(__name__)


class Inputs:
    """The raw files of a run.

    Attributes
    ----------
    records : dict of str to InputRecord
        Files whose hash is known.
    failures : dict of str to Caveat
        Frames that cannot be used, and why.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self.records: dict[str, InputRecord] = {}
        self.failures: dict[str, Caveat] = {}

    def keep(self, file: str, record: InputRecord) -> None:
        """Keep the hash of a file."""
        with self._lock:
            self.records[file] = record

    def fail(self, file: str, why: Caveat) -> None:
        """Take a frame as one that cannot be used."""
        logger.warning("%s: %s [%s]", file, why.text, why.slug)
        with self._lock:
            self.failures[file] = why

    def good(self, frames: Sequence[FramePlan]) -> list[FramePlan]:
        """Those that have not failed."""
        return [frame for frame in frames if frame.file not in self.failures]

    def unknown(self, frames: Sequence[FramePlan]) -> list[list[FramePlan]]:
        """The frames of each file that has not been read yet."""
        files: dict[str, list[FramePlan]] = {}
        for frame in self.good(frames):
            files.setdefault(file_of(frame.file), []).append(frame)
        return [its for file, its in files.items() if file not in self.records]

    def digests(self, frames: Sequence[FramePlan]) -> list[tuple[str, str]]:
        """Name and SHA-256 of files that are known."""
        return [(frame.file, self.records[file_of(frame.file)].sha256) for frame in frames]
