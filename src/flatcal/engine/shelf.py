"""The masters that a run holds in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from flatcal.engine.masters import Master


class MasterShelf:
    """Masters in memory, those that were used least recently dropped when room is needed.

    Parameters
    ----------
    load : callable
        Reads a master by its name, when it is not on the shelf.
    """

    def __init__(self, load: Callable[[str], Master]) -> None:
        self._load = load
        self._masters: OrderedDict[str, Master] = OrderedDict()
        self._room_bytes = 0
        self._lock = Lock()

    def get(self, name: str) -> Master:
        """The master of that name."""
        with self._lock:
            if name not in self._masters:
                self._masters[name] = self._load(name)
            self._masters.move_to_end(name)
            self._drop(keep=1)
            return self._masters[name]

    def put(self, name: str, master: Master) -> None:
        """Keep a master that was just made."""
        with self._lock:
            self._masters[name] = master

    def make_room(self, room_bytes: int) -> None:
        """Hold no more than this from now on."""
        with self._lock:
            self._room_bytes = room_bytes
            self._drop(keep=0)

    def _drop(self, keep: int) -> None:
        while len(self._masters) > keep and self._held_bytes() > self._room_bytes:
            self._masters.popitem(last=False)

    def _held_bytes(self) -> int:
        return sum(m.data.nbytes + m.std.nbytes + m.flags.nbytes for m in self._masters.values())
