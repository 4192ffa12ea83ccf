"""Files in the user's cache folder, which remember what was read from a folder of raw frames.

There is one file for each raw folder and purpose; nothing is ever written into a raw folder. What
is remembered holds only while size, times and inode of a raw file are those of the time it was
read. So the cache may be deleted at any time, and where it cannot be written all works without it.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import ModuleType
from typing import Final

from flatcal._version import __version__
from flatcal.file_status import FileStatus
from flatcal.storage import RemotePath

logger = logging.getLogger(__name__)

MAX_BYTES: Final = 256 * 2**20
MAX_FOLDERS: Final = 1000
# The coarsest clock of a file system, that of FAT, ticks every two seconds.
SETTLED_NS: Final = 2_000_000_000

StrPath = str | os.PathLike[str] | RemotePath
# Size, times of change of content and of anything in nanoseconds, inode.
Stamp = tuple[int, int, int, int]


def stamp_of(path: StrPath, known: FileStatus | None = None) -> Stamp:
    """What tells whether a file is as it was; of a remote one, as it was found before if it was."""
    if isinstance(path, RemotePath):
        size_bytes, mtime_ns, etag = known or path.status()
        tag = int.from_bytes(blake2b(etag.encode(), digest_size=6).digest())
        return size_bytes, mtime_ns, mtime_ns, tag
    status = os.stat(path)  # noqa: PTH116  (a Path for each file takes longer than all else)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def is_settled(stamp: Stamp, read_ns: int | None = None) -> bool:
    """Whether a change of a file after it was read would show in its stamp.

    The clock of its file system might not tell it from one within the two seconds before (as with
    git's index).

    Parameters
    ----------
    stamp : tuple of int
        Of the file.
    read_ns : int, optional
        When it was read, in nanoseconds, or before; now by default.
    """
    if read_ns is None:
        read_ns = time.time_ns()
    return max(stamp[1], stamp[2]) < read_ns - SETTLED_NS


def find_place(folder: StrPath, purpose: str, what: str = "") -> Path | None:
    """The file that remembers a folder; None where there can be none.

    Parameters
    ----------
    folder : path
        The raw folder.
    purpose : str
        Name of the folder within the cache, and suffix of its files.
    what : str
        Tells several files about one folder apart.
    """
    home = cache_folder()
    real = real_name(folder)
    # A cache inside the folder that is read would change what it is to remember.
    if home is None or Path(os.path.realpath(home)).is_relative_to(real):
        return None
    key = blake2b(f"{what} {real}".encode(errors="surrogateescape"), digest_size=16).hexdigest()
    return home / purpose / f"{key}.{purpose}"


def real_name(folder: StrPath) -> str:
    """What a folder is called, whatever way leads to it."""
    return str(folder) if isinstance(folder, RemotePath) else os.path.realpath(folder)


def cache_folder() -> Path | None:
    """The user's cache folder for this program, or None if the user has none."""
    if chosen := os.environ.get("FLATCAL_CACHE_DIR"):
        return Path(chosen)
    try:
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
            return Path(local, "flatcal", "Cache")
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "flatcal"
        chosen = os.environ.get("XDG_CACHE_HOME", "")
        return Path(chosen if Path(chosen).is_absolute() else Path.home() / ".cache", "flatcal")
    except RuntimeError:  # no home folder
        return None


def version_of(modules: Sequence[ModuleType]) -> str:
    """The version of the code that reads: what another has read is not trusted."""
    code = 0
    for module in modules:
        # Where the program is in an archive, its version has to do.
        with suppress(OSError):
            code = zlib.crc32(Path(module.__file__ or "").read_bytes(), code)
    return f"flatcal {__version__} {code:08x}"


def save(file: Path, content: bytes) -> None:
    """Write a file of the cache, if that is possible, and drop the oldest when there are many."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, content)
        _drop_oldest(file.parent, file.suffix)
    except OSError as error:
        logger.debug("nothing can be remembered in %s: %s", file, error)


def _replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, also when another process writes it at the same time."""
    with NamedTemporaryFile(
        dir=file.parent, prefix="new-", suffix=file.suffix, delete=False
    ) as stream:
        new = Path(stream.name)
        try:
            stream.write(content)
            stream.close()
            new.replace(file)
        except OSError:
            new.unlink(missing_ok=True)
            raise


def _drop_oldest(folder: Path, suffix: str) -> None:
    found = [(file.stat(), file) for file in folder.glob(f"*{suffix}")]
    found.sort(key=lambda each: each[0].st_mtime_ns, reverse=True)
    total_bytes = 0
    for number, (status, file) in enumerate(found):
        total_bytes += status.st_size
        if number >= MAX_FOLDERS or total_bytes > MAX_BYTES:
            file.unlink(missing_ok=True)
