"""Headers that were read before, so that an unchanged folder is indexed without opening a file.

They lie in the user's cache folder, one file for each raw folder; nothing is ever written into a
raw folder. What cannot be read back for whatever reason is read again from the frames: so the
cache may be deleted at any time, and where it cannot be written all works without it.

A header is taken from the cache only while size, times and inode of its file are those of the
time it was read. A file that had changed within the last two seconds is not remembered, because
the clock of its file system might not tell the next change from that one (as with git's index).
"""

from __future__ import annotations

import logging
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

import astropy

from flatcal import cards, header_bytes, headers
from flatcal._version import __version__
from flatcal.cards import HeaderCards
from flatcal.header_bytes import Entry, Unit, decode_entries, encode_entries
from flatcal.headers import HduInfo, Scanner, StrPath, choose_unit, read_header_cards, scan_file

logger = logging.getLogger(__name__)

MAX_BYTES: Final = 256 * 2**20
MAX_FOLDERS: Final = 1000
# The coarsest clock of a file system, that of FAT, ticks every two seconds.
SETTLED_NS: Final = 2_000_000_000
_SUFFIX: Final = ".headers"
_PLACE: Final = attrgetter("data_offset", "data_bytes", "stored_bytes", "compressed", "zipped")

Reader = Callable[[StrPath], Sequence[Unit]]


@contextmanager
def remembered_headers(
    folder: StrPath, ext: int | str = 0
) -> Iterator[Callable[[StrPath], HeaderCards]]:
    """Give a function that reads headers like `flatcal.headers.read_header_cards`.

    Headers that were read before are not read again; new ones are remembered when the block ends.

    Parameters
    ----------
    folder : path
        Folder of the files.
    ext : int or str
        Place or name of the unit.
    """
    if ext == 0:
        with _remembering(folder, "first", _read_first) as read:
            yield lambda path: read(path)[0][0]
    else:
        with remembered_units(folder) as scan:
            yield lambda path: choose_unit(scan(path), ext, path)


@contextmanager
def remembered_units(folder: StrPath) -> Iterator[Scanner]:
    """Give a function that reads files like `flatcal.headers.scan_file`.

    Headers that were read before are not read again; new ones are remembered when the block ends.

    Parameters
    ----------
    folder : path
        Folder of the files.
    """
    with _remembering(folder, "all", _read_all) as read:
        yield lambda path: tuple(
            HduInfo(index, header, *place) for index, (header, place) in enumerate(read(path))
        )


def _read_first(path: StrPath) -> Sequence[Unit]:
    """The first header alone, without looking where its data lie."""
    return [(read_header_cards(path), (0, 0, 0, False, False))]


def _read_all(path: StrPath) -> Sequence[Unit]:
    return [(hdu.cards, _PLACE(hdu)) for hdu in scan_file(path)]


# -- reading through the cache -----------------------------------------------------------


@contextmanager
def _remembering(folder: StrPath, what: str, read: Reader) -> Iterator[Reader]:
    home = _cache_folder()
    real = os.path.realpath(folder)
    # A cache inside the folder that is read would change what it is to remember.
    if home is None or Path(os.path.realpath(home)).is_relative_to(real):
        yield read
        return
    about = f"{what} of {real} by {_version()}"
    key = blake2b(f"{what} {real}".encode(errors="surrogateescape"), digest_size=16).hexdigest()
    file = home / "headers" / f"{key}{_SUFFIX}"
    memory = _Memory(folder, read, _load(file, about))
    yield memory.read
    if memory.fresh:
        _save(file, about, memory.entries_to_keep())


class _Memory:
    """Entries of one folder, old and new, by names within it."""

    def __init__(self, folder: StrPath, read: Reader, entries: Mapping[str, Entry]) -> None:
        self._folder = folder
        self._prefix = str(Path(folder, "x"))[:-1]
        self._read = read
        self._entries = entries
        self.fresh: dict[str, Entry] = {}

    def read(self, path: StrPath) -> Sequence[Unit]:
        """Read a file, or find that it is as it was."""
        path = os.fspath(path)
        is_inside = path.startswith(self._prefix)
        name = path[len(self._prefix) :] if is_inside else str(Path(path).absolute())
        status = os.stat(path)  # noqa: PTH116  (a Path for each file takes longer than all else)
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        entry = self._entries.get(name)
        if entry is not None and entry[0] == stamp:
            return entry[1]
        is_settled = max(status.st_mtime_ns, status.st_ctime_ns) < time.time_ns() - SETTLED_NS
        units = self._read(path)
        if is_settled:
            self.fresh[name] = stamp, units
        return units

    def entries_to_keep(self) -> dict[str, Entry]:
        """All entries in the order of their names, but those of files that are gone."""
        entries = dict(self.fresh)
        for name, entry in self._entries.items():
            if name not in entries and os.path.lexists(Path(self._folder, name)):
                entries[name] = entry
        return dict(sorted(entries.items()))


# -- files on disk -----------------------------------------------------------------------


def _cache_folder() -> Path | None:
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


def _version() -> str:
    """What reads headers here: what another version has read is not trusted."""
    code = 0
    for module in (cards, headers, header_bytes):
        # Where the program is in an archive, its version has to do.
        with suppress(OSError):
            code = zlib.crc32(Path(module.__file__ or "").read_bytes(), code)
    return f"flatcal {__version__} {code:08x} and astropy {astropy.__version__}"


def _load(file: Path, about: str) -> dict[str, Entry]:
    try:
        return decode_entries(about, file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError) as error:
        logger.debug("remembered headers in %s are not used: %s", file, error)
        return {}


def _save(file: Path, about: str, entries: Mapping[str, Entry]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, encode_entries(about, entries))
        _drop_oldest(file.parent)
    except OSError as error:
        logger.debug("headers cannot be remembered in %s: %s", file, error)


def _replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, also when another process writes it at the same time."""
    with NamedTemporaryFile(dir=file.parent, prefix="new-", suffix=_SUFFIX, delete=False) as stream:
        new = Path(stream.name)
        try:
            stream.write(content)
            stream.close()
            new.replace(file)
        except OSError:
            new.unlink(missing_ok=True)
            raise


def _drop_oldest(folder: Path) -> None:
    found = [(file.stat(), file) for file in folder.glob(f"*{_SUFFIX}")]
    found.sort(key=lambda each: each[0].st_mtime_ns, reverse=True)
    total_bytes = 0
    for number, (status, file) in enumerate(found):
        total_bytes += status.st_size
        if number >= MAX_FOLDERS or total_bytes > MAX_BYTES:
            file.unlink(missing_ok=True)
