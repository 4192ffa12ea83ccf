"""What tells whether a file is as it was; by itself, as the start of a program needs no more."""

from __future__ import annotations

from typing import NamedTuple


class FileStatus(NamedTuple):
    """Size and identity of a file, here or at an address.

    Attributes
    ----------
    size_bytes : int
        Its size.
    mtime_ns : int
        Time of its last change in nanoseconds; 0 where a server does not tell.
    etag : str
        Tag that the server gives to its content; empty for a file of this machine.
    """

    size_bytes: int
    mtime_ns: int
    etag: str
