"""Who holds the lock of an output folder, as it stands in the lock."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import uuid4

from flatcal.errors import OutputError
from flatcal.io import is_alive
from flatcal.storage import Place


def this_holder() -> bytes:
    """What this process writes into a lock; no two locks are alike."""
    return json.dumps(
        {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "token": uuid4().hex,
        }
    ).encode()


def read_holder(content: bytes) -> Mapping[str, object]:
    """What a lock tells, nothing where it is not whole."""
    try:
        found = json.loads(content)
        return {key: found[key] for key in ("pid", "host", "since")}
    except (ValueError, LookupError, TypeError):
        return {}


def is_dead(holder: Mapping[str, object]) -> bool:
    """Whether it ran on this machine and is no more."""
    pid = holder.get("pid")
    return isinstance(pid, int) and holder["host"] == socket.gethostname() and not is_alive(pid)


def is_this(holder: Mapping[str, object]) -> bool:
    """Whether it has the number of this process, on this machine."""
    return holder.get("pid") == os.getpid() and holder["host"] == socket.gethostname()


def busy(lock: Place, holder: Mapping[str, object]) -> OutputError:
    """The error that names the holder."""
    who = "process {pid} on {host} since {since}".format_map(holder) if holder else "another run"
    return OutputError(
        "output-busy",
        f"{lock.parent} is in use by {who}; wait for it, or remove {lock} if it is no more",
    )
