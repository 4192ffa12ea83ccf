"""The masters that a run holds in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from threading import Lock
from typing import Any

from flatcal.engine.master_files import load_master, require_unchanged
from flatcal.engine.masters import Master
from flatcal.storage import Place
from flatcal.stored import StoredMaster


@dataclass(frozen=True, slots=True)
class MasterSource:
    """Where a master is read from, and what is known of it.

    Attributes
    ----------
    path : Path or RemotePath
        Its file.
    lost_bias : str
        Name of the bias that a dark has lost; empty when it holds its bias.
    zero : float or None
        Value that a dark has where there is no current; None takes its median.
    recipe : str
        Hash of what determined its pixels.
    n_bytes : int
        What it takes in memory.
    stored : StoredMaster or None
        The master of the library that it is.
    """

    path: Place
    lost_bias: str
    zero: float | None
    recipe: str
    n_bytes: int
    stored: StoredMaster | None = None

    def load(self, dtype: Any) -> Master:
        """Read it, if it is what it was; see `load_master`."""
        if self.stored is not None:
            require_unchanged(self.stored)
        return load_master(self.path, self.lost_bias, dtype, self.zero, self.stored)


class MasterShelf:
    """Masters in memory, those that were used least recently dropped when room is needed.

    Parameters
    ----------
    load : callable
        Reads a master by its name, when it is not on the shelf.
    size_of : callable
        Bytes of the master of that name, before it is there.
    dropped : callable
        Told the name of a master that was dropped; it returns when nothing else holds it.
    """

    def __init__(
        self,
        load: Callable[[str], Master],
        size_of: Callable[[str], int],
        dropped: Callable[[str], None],
    ) -> None:
        self._load = load
        self._size_of = size_of
        self._dropped = dropped
        self._masters: OrderedDict[str, Master] = OrderedDict()
        self._room_bytes = 0
        self._lock = Lock()
        self._loading: dict[str, Lock] = {}
        self._reserved: dict[str, int] = {}

    def get(self, name: str) -> Master:
        """The master of that name; different ones are read side by side."""
        with self._lock:
            its_lock = self._loading.setdefault(name, Lock())
        with its_lock:
            master = self._find(name)
            if master is None:
                try:
                    master = self._load(name)
                    self.put(name, master)
                finally:
                    with self._lock:
                        self._reserved.pop(name, None)
        return master

    def get_all(self, names: Collection[str]) -> dict[str, Master]:
        """Masters by their names; one that another thread is reading is waited for last."""
        with self._lock:
            busy = {name for name, its_lock in self._loading.items() if its_lock.locked()}
        return {name: self.get(name) for name in sorted(set(names), key=lambda n: (n in busy, n))}

    def _find(self, name: str) -> Master | None:
        """What is on the shelf; else room is made, which is taken until the master is there."""
        with self._lock:
            if name not in self._masters:
                self._reserved[name] = self._size_of(name)
                self._drop()
                return None
            self._masters.move_to_end(name)
            return self._masters[name]

    def put(self, name: str, master: Master) -> None:
        """Keep a master that was just made."""
        with self._lock:
            self._masters[name] = master

    def make_room(self, room_bytes: int) -> None:
        """Hold no more than this from now on."""
        with self._lock:
            self._room_bytes = room_bytes
            self._drop()

    def _drop(self) -> None:
        while self._masters and self._held_bytes() > self._room_bytes:
            name, _ = self._masters.popitem(last=False)
            self._dropped(name)

    def _held_bytes(self) -> int:
        held = (m.data.nbytes + m.std.nbytes + m.flags.nbytes for m in self._masters.values())
        return sum(held) + sum(self._reserved.values())
