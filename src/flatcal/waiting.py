"""What a program waits for, told by name when it does not come back: a disk or server that hangs.

A read that the system does not give back cannot be ended; but it can be said which one it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread, get_ident
from time import monotonic
from typing import Final

logger = logging.getLogger(__name__)

# Longer than any read of a disk that is well takes, also of one that has to spin up.
LONG_S: Final = 30.0
_LOOK_EVERY_S: Final = 5.0

# File, and since when, by thread.
_awaited: dict[int, tuple[str, float]] = {}


@contextmanager
def awaiting(what: object) -> Iterator[None]:
    """Within this the thread waits for a file; of those within one another the outer one counts."""
    thread = get_ident()
    if thread in _awaited:
        yield
        return
    _awaited[thread] = (str(what), monotonic())
    try:
        yield
    finally:
        del _awaited[thread]


@contextmanager
def telling_of_waits(tell: Callable[[str], None]) -> Iterator[None]:
    """Tell, once for each, which files have been waited for for long.

    Parameters
    ----------
    tell : callable
        Receives what is to be said; called by a thread of its own.
    """
    ended = Event()

    def watch() -> None:
        told: set[tuple[int, float]] = set()
        while not ended.wait(_LOOK_EVERY_S):
            for thread, (what, since) in tuple(_awaited.items()):
                waited_s = monotonic() - since
                if waited_s > LONG_S and (thread, since) not in told:
                    told.add((thread, since))
                    text = f"{what} has not answered for {waited_s:.0f} s: its disk or server hangs"
                    logger.error("%s", text)
                    tell(text)

    with suppress(RuntimeError):  # no memory for one more thread
        Thread(target=watch, name="flatcal-waits", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
