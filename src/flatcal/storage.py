"""Where raw frames are read from and outputs go: a folder of this machine, or an address.

`Place` is either. A folder of this machine is a `pathlib.Path` and is used as ever. An address,
such as s3://bucket/night, is a `RemotePath`, which has those methods of a path that are needed;
fsspec speaks to its server. Credentials are what fsspec and the libraries below it find in the
environment; nothing of them is kept.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from io import RawIOBase
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from flatcal.errors import ConfigError, StorageError
from flatcal.extras import require_extra
from flatcal.file_status import FileStatus
from flatcal.transfer import REQUESTS_AT_ONCE, request

_ADDRESS: Final = re.compile(r"(?P<protocol>[A-Za-z][A-Za-z0-9+.-]+)://(?P<rest>.*)", re.DOTALL)
_HERE: Final = frozenset(("file", "local"))
# Their uploads appear under the name when they are complete, and not at all when they fail; they
# have no folders; and they can make an object only if there is none of its name.
_OBJECT_STORES: Final = frozenset(("s3",))
_TIMES: Final = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")
_TAGS: Final = ("ETag", "etag", "Content-MD5", "content_md5", "md5Hash", "Last-Modified")

_FIRST_WINDOW: Final = 4 * 2880
# Of planes that are read at once: large requests, but not a second copy of the whole.
_LARGEST_WINDOW: Final = 1 << 22
# Files of twice this and more are uploaded in parts of this, two at once.
_UPLOAD_BYTES: Final = 1 << 24


@dataclass(frozen=True, slots=True, order=True)
class RemotePath:
    """A file or folder at an address; where it can, it does what `pathlib.Path` does.

    Parameters
    ----------
    address : str
        For example s3://bucket/night, without a slash at its end.
    """

    address: str
    _listed: Mapping[str, FileStatus] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.address}/{name}", self._listed)

    @property
    def name(self) -> str:
        """The last part."""
        return self.address.rsplit("/", 1)[-1]

    @property
    def parts(self) -> tuple[str, ...]:
        """Server or bucket, and what follows."""
        return tuple(filter(None, self.address.split("/")[2:]))

    @property
    def parent(self) -> RemotePath:
        """What it lies in."""
        return RemotePath(self.address.rsplit("/", 1)[0], self._listed)

    def with_name(self, name: str) -> RemotePath:
        """Another one beside it."""
        return self.parent / name

    def resolve(self) -> RemotePath:
        """Itself: an address is always absolute."""
        return self

    def absolute(self) -> RemotePath:
        """Itself."""
        return self

    @property
    def protocol(self) -> str:
        """What stands before '://'."""
        return self.address.partition("://")[0]

    @property
    def is_in_object_store(self) -> bool:
        """Whether uploads are atomic, files may be made on condition, and no folders exist."""
        return self.protocol in _OBJECT_STORES

    # -- what is there -------------------------------------------------------------------

    def listed(self) -> tuple[RemotePath, list[str]]:
        """All files below it: itself, with their `status` as listed now, and their names.

        Raises
        ------
        OSError
            There is no such bucket, or it must not be listed.
        """
        inner = self._inner(self._system())
        found = self._ask("listing", lambda fs, path: fs.find(path, detail=True))
        start = len(inner) + 1
        names = {name[start:]: info for name, info in found.items() if info["type"] == "file"}
        known = {str(self / name): self._status(info) for name, info in names.items()}
        return RemotePath(self.address, known), sorted(names)

    def iterdir(self) -> Iterator[RemotePath]:
        """The files in it, none when it is not there."""
        try:
            found = self._ask("listing", lambda fs, path: fs.ls(path, detail=True))
        except FileNotFoundError:
            return
        for info in found:
            if info["type"] == "file":
                yield self / info["name"].rsplit("/", 1)[-1]

    def status(self) -> FileStatus:
        """Size and identity of a file as they are now, or were when it was listed.

        Raises
        ------
        OSError
            There is no such file.
        """
        if self._listed is not None and (known := self._listed.get(self.address)):
            return known
        return self.status_now()

    def status_now(self) -> FileStatus:
        """As `status`, always asked of the server."""
        info = self._ask("asking for", lambda fs, path: fs.info(path))
        if info["type"] != "file":
            raise IsADirectoryError(f"{self} is a folder")
        return self._status(info)

    def _status(self, info: Mapping[str, Any]) -> FileStatus:
        etag = next((str(info[key]) for key in _TAGS if info.get(key)), "")
        etag = etag.removeprefix("W/").strip('"')
        time = next((info[key] for key in _TIMES if info.get(key)), None)
        mtime_ns = _nanoseconds(time)
        if info.get("size") is None or not (etag or mtime_ns):
            raise StorageError(
                "remote-storage",
                f"the server does not tell size and ETag or time of {self}, so that a change would "
                "pass unseen; copy the files to a disk",
            )
        # A listing may tell the time more finely than the reply about one file.
        return FileStatus(int(info["size"]), mtime_ns // 10**9 * 10**9 if etag else mtime_ns, etag)

    def exists(self) -> bool:
        """Whether there is a file or a folder of that name."""
        return bool(self._kind())

    def is_file(self) -> bool:
        """Whether there is a file of that name."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether there is anything below it."""
        return self._kind() == "directory"

    def _kind(self) -> str:
        """What fsspec calls it; empty for nothing."""
        try:
            return str(self._ask("asking for", lambda fs, path: fs.info(path))["type"])
        except FileNotFoundError:
            return ""

    # -- reading -------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """The whole content of a small file."""
        return bytes(self._ask("reading", lambda fs, path: fs.cat_file(path)))

    def read_range(self, start: int, stop: int) -> bytes:
        """Bytes of a file, by one request; fewer where it ends before."""
        return bytes(
            self._ask("reading", lambda fs, path: fs.cat_file(path, start=start, end=stop))
        )

    def open(self) -> RangeReader:
        """The file, open for reading by range requests.

        Raises
        ------
        OSError
            There is no such file.
        """
        return RangeReader(self, self.status().size_bytes)

    # -- writing -------------------------------------------------------------------------

    def put(self, file: Path) -> None:
        """Upload a file of this machine under this name, whole or not at all."""
        if self.is_in_object_store:
            self._ask(
                "writing",
                lambda fs, path: fs.put_file(
                    str(file), path, chunksize=_UPLOAD_BYTES, max_concurrency=2
                ),
            )
            return
        part = self.with_name(f".{self.name}.{token_hex(4)}.part-{os.getpid()}")
        parent, goal = self.parent, self._inner(self._system())
        parent._ask("making", lambda fs, path: fs.makedirs(path, exist_ok=True))
        try:
            part._ask("writing", lambda fs, path: fs.put_file(str(file), path))
            part._ask("renaming", lambda fs, path: fs.mv(path, goal))
        finally:
            part.unlink(missing_ok=True)

    def create(self, content: bytes) -> None:
        """Make a small file, if there is none of that name.

        Raises
        ------
        FileExistsError
            There is one. On a server that cannot make files on condition, two who come within
            the same instant may both succeed.
        """
        if not self.is_in_object_store:
            parent = self.parent
            parent._ask("making", lambda fs, path: fs.makedirs(path, exist_ok=True))
        self._ask("writing", lambda fs, path: fs.pipe_file(path, content, mode="create"))

    def replace_unchanged(self, content: bytes, etag: str) -> None:
        """Replace a small file, where the server can on the condition that it has that tag.

        Raises
        ------
        OSError
            It has another by now.
        """
        condition = {"IfMatch": f'"{etag}"'} if self.is_in_object_store else {}
        self._ask("writing", lambda fs, path: fs.pipe_file(path, content, **condition))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file."""
        try:
            self._ask("removing", lambda fs, path: fs.rm_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    # -- the server ----------------------------------------------------------------------

    def _ask(self, what: str, act: Any) -> Any:
        system = self._system()
        inner = self._inner(system)
        return request(self.address, what, lambda: act(system, inner))

    def _system(self) -> Any:
        return _file_system(self.address)

    def _inner(self, system: Any) -> str:
        return str(system._strip_protocol(self.address))


Place = Path | RemotePath


def place_of(where: str | Place) -> Place:
    """The place that a text or path names.

    Raises
    ------
    ConfigError
        It is an address that cannot be used, or an extra that it needs is missing.
    """
    if isinstance(where, RemotePath):
        return where
    match = _ADDRESS.fullmatch(where) if isinstance(where, str) else None
    if match is None:
        return Path(where)
    protocol, rest = match["protocol"].lower(), match["rest"]
    protocol = "s3" if protocol == "s3a" else protocol  # two names of one bucket
    if protocol in _HERE:
        return Path(rest)
    if re.search(r"^[^/@]*:[^/@]*@", rest):
        raise ConfigError(
            "remote-address",
            f"an address of {protocol}:// holds a password, which plan.json would keep; give it in "
            "the environment or in the configuration of fsspec",
        )
    if "::" in rest or not rest.strip("/") or (protocol.startswith("http") and "?" in rest):
        raise ConfigError(
            "remote-address",
            # What follows '?' may be a signature.
            f"{str(where).partition('?')[0]} is no address of a folder such as s3://bucket/night",
        )
    return RemotePath(f"{protocol}://{rest.rstrip('/')}")


def name_below(folder: Place, place: Place) -> str | None:
    """The name of a file below a folder, with '/' between its parts; None where it is elsewhere."""
    if isinstance(folder, RemotePath) or isinstance(place, RemotePath):
        start = f"{folder}/"
        return str(place)[len(start) :] if str(place).startswith(start) else None
    return place.relative_to(folder).as_posix() if place.is_relative_to(folder) else None


def lie_in_one_another(one: Place, other: Place) -> bool:
    """Whether one of two folders is the other, or lies in it."""
    first, second = one.resolve(), other.resolve()
    if isinstance(first, RemotePath) or isinstance(second, RemotePath):
        pair = f"{first}/", f"{second}/"
        return pair[0].startswith(pair[1]) or pair[1].startswith(pair[0])
    return first == second or first in second.parents or second in first.parents


def status_of(place: Place) -> FileStatus:
    """Size and identity of a file.

    Raises
    ------
    OSError
        There is no such file.
    """
    if isinstance(place, RemotePath):
        return place.status()
    status = place.stat()
    return FileStatus(status.st_size, status.st_mtime_ns, "")


class RangeReader(RawIOBase):
    """A file that is read by range requests, with a little read ahead.

    The first request is for four blocks of FITS, which hold most headers; each that follows
    where the last has ended is twice as long, up to four megabytes.

    Parameters
    ----------
    source : object
        Has `read_range`.
    size_bytes : int
        Of the file.
    """

    def __init__(self, source: Any, size_bytes: int) -> None:
        super().__init__()
        self._source = source
        self._size = size_bytes
        self._place = 0
        self._window = b""
        self._start = 0
        self._next_bytes = _FIRST_WINDOW

    # astropy asks.
    mode = "rb"

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, without a request."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, origin + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the place on, as far as the file goes."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self._place < self._size:
            inside = self._place - self._start
            if not 0 <= inside < len(self._window):
                self._fetch(len(view) - done)
                inside = 0
            piece = self._window[inside : inside + len(view) - done]
            if not piece:
                break
            view[done : done + len(piece)] = piece
            done += len(piece)
            self._place += len(piece)
        return done

    def _fetch(self, wanted: int) -> None:
        if self._place != self._start + len(self._window):
            self._next_bytes = _FIRST_WINDOW
        n_bytes = max(self._next_bytes, min(wanted, _LARGEST_WINDOW))
        stop = min(self._size, self._place + n_bytes)
        self._window = self._source.read_range(self._place, stop)
        self._start = self._place
        self._next_bytes = min(2 * n_bytes, _LARGEST_WINDOW)


def _nanoseconds(time: Any) -> int:
    """A time as servers tell it; 0 for none."""
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time)
        except ValueError:
            return 0
    if isinstance(time, datetime):
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    # Some tell it now as a number and now as a date.
    return int(time * 1000) * 10**6 if isinstance(time, int | float) else 0


def _file_system(address: str) -> Any:
    """What speaks to the server of an address; fsspec keeps one for each server."""
    _require_libraries(address.partition("://")[0])
    import fsspec  # noqa: PLC0415  (an extra)

    protocol = address.partition("://")[0]
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in _OBJECT_STORES:
        chosen = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        # `flatcal.transfer` tries again.
        options["config_kwargs"] = {
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": 2 * REQUESTS_AT_ONCE,
            **chosen,
        }
    system, _ = fsspec.url_to_fs(address, **options)
    if protocol in _OBJECT_STORES:
        system.retries = 1
    return system


@cache
def _require_libraries(protocol: str) -> None:
    require_extra("remote", "fsspec")
    if protocol in _OBJECT_STORES:
        require_extra("remote", "s3fs")
    import fsspec  # noqa: PLC0415  (an extra)

    # Their details hold signatures and session tokens, which no log of ours is to keep.
    for library in ("botocore", "aiobotocore", "s3fs", "fsspec"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        raise ConfigError("remote-address", f"{protocol}:// cannot be used: {error}") from error
