"""Headers that were read before, so that an unchanged folder is indexed without opening a file.

They lie in the user's cache; see `flatcal.user_cache` for when they hold. What cannot be read back
for whatever reason is read again from the frames.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Final

import astropy

from flatcal import cards, header_bytes, headers, user_cache
from flatcal.cards import HeaderCards
from flatcal.header_bytes import Entry, Unit, decode_entries, encode_entries
from flatcal.headers import HduInfo, Scanner, StrPath, choose_unit, read_header_cards, scan_file
from flatcal.storage import RemotePath

logger = logging.getLogger(__name__)

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
    file = user_cache.find_place(folder, "headers", what)
    if file is None:
        yield read
        return
    version = user_cache.version_of((cards, headers, header_bytes))
    real = user_cache.real_name(folder)
    about = f"{what} of {real} by {version} and astropy {astropy.__version__}"
    memory = _Memory(folder, read, _load(file, about))
    yield memory.read
    if memory.fresh:
        user_cache.save(file, encode_entries(about, memory.entries_to_keep()))


class _Memory:
    """Entries of one folder, old and new, by names within it."""

    def __init__(self, folder: StrPath, read: Reader, entries: Mapping[str, Entry]) -> None:
        self._folder = folder
        is_remote = isinstance(folder, RemotePath)
        self._prefix = f"{folder}/" if is_remote else str(Path(str(folder), "x"))[:-1]
        self._asked: set[str] = set()
        self._read = read
        self._entries = entries
        self.fresh: dict[str, Entry] = {}

    def read(self, path: StrPath) -> Sequence[Unit]:
        """Read a file, or find that it is as it was."""
        text = str(path)
        is_inside = text.startswith(self._prefix)
        name = text[len(self._prefix) :] if is_inside else str(Path(text).absolute())
        self._asked.add(name)
        stamp = user_cache.stamp_of(path)
        entry = self._entries.get(name)
        if entry is not None and entry[0] == stamp:
            return entry[1]
        is_settled = user_cache.is_settled(stamp)
        units = self._read(path)
        if is_settled:
            self.fresh[name] = stamp, units
        return units

    def entries_to_keep(self) -> dict[str, Entry]:
        """All entries in the order of their names, but those of files that are gone."""
        entries = dict(self.fresh)
        for name, entry in self._entries.items():
            if name not in entries and self._is_there(name):
                entries[name] = entry
        return dict(sorted(entries.items()))

    def _is_there(self, name: str) -> bool:
        # All of a remote folder are asked for: nobody is to ask its server for each once more.
        if isinstance(self._folder, RemotePath):
            return name in self._asked
        return os.path.lexists(Path(self._folder, name))


def _load(file: Path, about: str) -> dict[str, Entry]:
    try:
        return decode_entries(about, file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError) as error:
        logger.debug("remembered headers in %s are not used: %s", file, error)
        return {}
