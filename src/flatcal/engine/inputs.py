"""What a run knows of its raw files: their hashes, and which of them failed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import Lock

from flatcal.engine.products import Setting, open_raw
from flatcal.engine.store import OutputStore
from flatcal.errors import FlatcalError
from flatcal.frame import Caveat
from flatcal.io import RawFrame
from flatcal.plan import FramePlan
from flatcal.records import InputRecord

logger = logging.getLogger(__name__)


class Inputs:
    """The raw files of a run.

    Parameters
    ----------
    setting : Setting
        Of the run.
    store : OutputStore
        Knows the files as an earlier run has read them.

    Attributes
    ----------
    records : dict of str to InputRecord
        Those whose hash is known.
    failures : dict of str to Caveat
        Those that cannot be used, and why.
    """

    def __init__(self, setting: Setting, store: OutputStore) -> None:
        self._setting = setting
        self._store = store
        self._lock = Lock()
        self.records: dict[str, InputRecord] = {}
        self.failures: dict[str, Caveat] = {}

    def fail(self, file: str, error: FlatcalError) -> None:
        """Take a file as one that cannot be used."""
        logger.warning("%s: %s", file, error)
        with self._lock:
            self.failures[file] = Caveat(error.slug, error.text)

    def good(self, frames: Sequence[FramePlan]) -> list[FramePlan]:
        """Those that have not failed."""
        return [frame for frame in frames if frame.file not in self.failures]

    def know(self, frame: FramePlan) -> bool:
        """Hash a raw file, unless that is known; False when it cannot be used."""
        if frame.file not in self.records and frame.file not in self.failures:
            try:
                with open_raw(self._setting, frame) as raw:
                    self.keep(frame, raw)
            except FlatcalError as error:
                self.fail(frame.file, error)
        return frame.file not in self.failures

    def knows(self, frame: FramePlan, raw: RawFrame) -> bool:
        """Whether the hash of an open file is known, from this run or an earlier one."""
        if frame.file in self.records:
            return True
        known = self._store.known_input(str(self._setting.raw_folder), frame.file)
        if known is None or (known.size_bytes, known.mtime_ns) != raw.stamp:
            return False
        with self._lock:
            self.records[frame.file] = known
        return True

    def keep(self, frame: FramePlan, raw: RawFrame) -> None:
        """Keep the hash of an open file; what has not been hashed yet is read."""
        if self.knows(frame, raw):
            return
        size_bytes, mtime_ns = raw.stamp
        record = InputRecord(size_bytes=size_bytes, mtime_ns=mtime_ns, sha256=raw.sha256())
        with self._lock:
            self.records[frame.file] = record

    def digests(self, frames: Sequence[FramePlan]) -> list[tuple[str, str]]:
        """Name and SHA-256 of files that are known."""
        return [(frame.file, self.records[frame.file].sha256) for frame in frames]
