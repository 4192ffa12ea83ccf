"""Raw frames read without a copy; files written whole or not at all.

astropy says where the pixels are and makes the headers; only pixels go past it. Raw files are
opened for reading alone.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import resource
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from threading import Lock, RLock
from types import TracebackType
from typing import Any, Self

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from flatcal.errors import BrokenFileError, FlatcalError, FrameError, OutputError, StorageError
from flatcal.frame import Storage
from flatcal.headers import open_file, unzipping
from flatcal.pixel_file import PixelFile, open_pixels
from flatcal.storage import Place, RemotePath
from flatcal.waiting import awaiting

logger = logging.getLogger(__name__)

Array = NDArray[Any]

# Bytes that are read and hashed at once where they are not needed for anything else.
_READ_BYTES = 1 << 20

# Within which `is_ours` looks for a mark.
_BYTES_TO_MARK = 200

_WARNINGS_LOCK = RLock()

_PART = re.compile(r"\..+\.part-(\d+)")

# The system has no room for more open files, or for what is kept of remote ones.
_LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOSPC)


class _OpenFiles:
    """Which raw files stay open: as many as a share of the system's limit allows.

    The others are opened for each read. One whose pixels are astropy's counts as two files, so
    that no more than half of the limit is taken.
    """

    _SHARE = 4

    def __init__(self) -> None:
        self._lock = Lock()
        self._n_open = 0

    def admit(self) -> bool:
        """Whether one more may stay open."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        with self._lock:
            admitted = limit == resource.RLIM_INFINITY or self._n_open < limit // self._SHARE
            self._n_open += admitted
        return admitted

    def leave(self) -> None:
        """One that was admitted is closed."""
        with self._lock:
            self._n_open -= 1


_OPEN_FILES = _OpenFiles()


class RawFrame:
    """The pixels of one raw file, open for reading.

    Rows are read where they are needed, never mapped: of a file that shrinks or a disk that
    fails while it is read comes an error that names the file, not the end of the process.

    Parameters
    ----------
    path : Path or RemotePath
        The file.
    storage : Storage
        Where its pixels lie, as found when its header was read.
    shape : tuple of int
        Rows and columns.
    whole : bool
        Whether all of it will be read, perhaps more than once: a remote file is then fetched once.

    Raises
    ------
    BrokenFileError
        When the file has changed since, or cannot be opened; at the end of the context, when it
        has changed within.
    """

    def __init__(
        self, path: Place, storage: Storage, shape: tuple[int, int], *, whole: bool = False
    ) -> None:
        self.path = path
        self.storage = storage
        self.shape = shape
        self._whole = whole
        self._lock = Lock()
        self._units: _Units | None = None
        self._hash: Any = None
        self._hashed = 0
        self._file: PixelFile | None = self._open()
        # A remote one takes no place among the open files of the system.
        self._is_counted = isinstance(path, Path) and _OPEN_FILES.admit()
        self._stays_open = self._is_counted or isinstance(path, RemotePath)
        if not self._stays_open:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._file is not None:
                self._require_unchanged(self._file)
        finally:
            if self._file is not None:
                self._file.close()
            if self._is_counted:
                _OPEN_FILES.leave()
            if self._units is not None:
                self._units.close()

    def _open(self) -> PixelFile:
        with naming(self.path):
            file = open_pixels(self.path, self.storage.stamp, whole=self._whole)
        try:
            self._require_unchanged(file)
        except FlatcalError:
            file.close()
            raise
        return file

    def _require_unchanged(self, file: PixelFile) -> None:
        with naming(self.path):
            status = file.status()
        if status != self.storage.stamp:
            raise BrokenFileError(
                "file-changed",
                f"{self.path} had {self.storage.size_bytes} bytes when planned and has "
                f"{status.size_bytes} now, or was touched since; plan again",
                self.path,
            )

    @contextmanager
    def _opened(self) -> Iterator[PixelFile]:
        """The file, which stays open if there is room for that."""
        if self._file is not None:
            yield self._file
        else:
            file = self._open()
            try:
                yield file
                self._require_unchanged(file)
            finally:
                file.close()

    def sha256(self) -> str:
        """SHA-256 of the file; of what `hash_while_reading` has not seen, the rest is read."""
        self.hash_while_reading()
        self._hash_up_to(None)
        digest: str = self._hash.hexdigest()
        return digest

    def hash_while_reading(self) -> None:
        """Hash stored rows as they are read: from the top down, by one thread."""
        if self._hash is None:
            self._hash = hashlib.sha256()

    def _hash_up_to(self, end: int | None) -> None:
        """Hash what has not been hashed up to a byte of the file, or to its end."""
        with naming(self.path), self._opened() as file:
            while end is None or self._hashed < end:
                n_bytes = _READ_BYTES if end is None else min(_READ_BYTES, end - self._hashed)
                content = np.empty(n_bytes, np.uint8)
                n_read = file.read_into(content.data, self._hashed)
                if not n_read:
                    break
                self._hash.update(content[:n_read])
                self._hashed += n_read

    @property
    def is_plain(self) -> bool:
        """Whether the kernels can decode what `stored_rows` gives."""
        return self.storage.plain_uint16

    def stored_rows(self, rows: slice) -> Array:
        """Rows as the file holds them: the bytes of a plain image, viewed as uint16.

        Parameters
        ----------
        rows : slice
            With explicit ends.

        Raises
        ------
        BrokenFileError
            When the file ends before them or cannot be read.
        """
        pixels = self._read_stored(rows)
        offset = self._offset(rows)
        if self._hash is not None:
            self._hash_up_to(offset)
            if offset == self._hashed:
                self._hash.update(pixels)
                self._hashed += pixels.nbytes
        return pixels

    def _offset(self, rows: slice) -> int:
        start: int = rows.start
        return self.storage.data_offset + start * self.shape[1] * 2

    def _read_stored(self, rows: slice) -> Array:
        pixels = np.empty((rows.stop - rows.start, self.shape[1]), "<u2")
        offset = self._offset(rows)
        with naming(self.path), self._opened() as file:
            n_read = file.read_into(pixels.data, offset)
        if n_read != pixels.nbytes:
            raise BrokenFileError(
                "file-broken",
                f"{self.path} ends at byte {offset + n_read}, "
                f"{pixels.nbytes - n_read} bytes too early; copy the file again",
                self.path,
            )
        return pixels

    def look_at_row(self, row: int) -> Array:
        """One row beside those that are read, which takes no part in their hash.

        It is as stored of a plain file, else values of float64; shape (1, columns).
        """
        rows = slice(row, row + 1)
        if self.is_plain:
            return self._read_stored(rows)
        return self.values(rows, slice(0, self.shape[1]), np.float64)

    def look_at(self, rows: slice, columns: slice) -> Array:
        """Values of a region beside what is read, which takes no part in the hash.

        They are uint16 of a plain file, else float64.
        """
        if self.is_plain:
            return decode(self._read_stored(rows)[:, columns], np.uint16)
        return self.values(rows, columns, np.float64)

    def values(self, rows: slice, columns: slice, dtype: Any) -> Array:
        """Pixel values of a region, scaled by BZERO and BSCALE, in native byte order.

        Parameters
        ----------
        rows, columns : slice
            With explicit ends.
        dtype : dtype
            Of the result.

        Raises
        ------
        BrokenFileError
            When the data cannot be decoded.
        """
        if self.is_plain:
            return decode(self.stored_rows(rows)[:, columns], dtype)
        # astropy's lazy HDUs are not meant for several threads at once.
        with self._lock, naming(self.path), self._opened() as file:
            units = self._units or _Units(file)
            try:
                # Whole rows: astropy reads a section with fewer columns row by row.
                hdu, plane = units.hdus[self.storage.hdu], self.storage.plane
                # Axes beyond the third have a length of 1.
                before = () if plane is None else (*(0,) * (len(hdu.shape) - 3), plane)
                band = hdu.section[(*before, rows, slice(None))]
            finally:
                if self._stays_open:
                    self._units = units
                else:
                    units.close()
        wanted = (rows.stop - rows.start, self.shape[1])
        if band.shape != wanted:
            raise BrokenFileError(
                "file-broken",
                f"{self.path} has pixels of shape {band.shape} where its header announces "
                f"{wanted}; copy the file again",
                self.path,
            )
        with np.errstate(over="ignore"):  # what becomes inf is no good pixel
            return np.ascontiguousarray(band[:, columns], dtype=dtype)


class _Units:
    """An open file as astropy reads it; closing it leaves the file open."""

    def __init__(self, file: PixelFile) -> None:
        self._reader = file.reader()
        try:
            with quiet_astropy():
                # As unsigned integers its pixels would have no NaN for those that are BLANK.
                self.hdus = fits.open(unzipping(self._reader), memmap=False, uint=False)
        except BaseException:
            self._reader.close()
            raise

    def close(self) -> None:
        self.hdus.close()
        self._reader.close()  # which astropy does not where the file is zipped


def open_fits(place: Place, **options: Any) -> fits.HDUList:
    """Open a FITS file for reading by astropy.

    Parameters
    ----------
    place : Path or RemotePath
        The file; of a remote one only those parts are fetched that are used, unless it is zipped.
    **options
        Of `astropy.io.fits.open`.
    """
    if isinstance(place, RemotePath):
        return fits.open(unzipping(place.open()), memmap=False, **options)
    # astropy would wait for ever at a pipe that has taken the place of the file.
    open_file(place).close()
    return fits.open(place, memmap=False, **options)


def decode(stored: Array, dtype: Any) -> Array:
    """Values of stored pixels (see `RawFrame.stored_rows`): big-endian, BZERO 32768."""
    values: Array = (stored.byteswap() ^ np.uint16(0x8000)).astype(dtype)
    return values


def read_file(place: Place) -> bytes:
    """All of a small file, but of nothing at which a program could wait for ever.

    Raises
    ------
    FrameError
        It is a folder, a pipe or a device (file-broken).
    OSError
        It cannot be read.
    """
    if isinstance(place, RemotePath):
        return place.read_bytes()
    with open_file(place) as file:
        return file.read()


@contextmanager
def silencing(category: type[Warning]) -> Iterator[None]:
    """No warnings of that kind.

    One thread at a time, because the filters of warnings belong to the whole process: two that
    change them at once can leave them changed for good. All of flatcal that changes them does so
    here.
    """
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield


def quiet_astropy() -> AbstractContextManager[None]:
    """No warnings about odd headers: planning has named what matters of them already."""
    return silencing(Warning)


@contextmanager
def naming(path: Place) -> Iterator[None]:
    """Errors of the file system and of decoding, with the file's name and a slug."""
    try:
        with awaiting(path):
            yield
    except (BrokenFileError, StorageError):
        raise
    except FrameError as error:
        raise BrokenFileError(error.slug, error.text, path) from error
    except (OSError, MemoryError) as error:
        if isinstance(error, MemoryError) or error.errno in _LACKING:
            # Not the file's fault: it must not be named as broken and left out.
            raise OutputError("resources", f"{path} cannot be opened: {error}") from error
        text = f"{path} cannot be read: {error}; see to it, or leave it out"
        raise BrokenFileError("file-broken", text, path) from error
    except Exception as error:
        # Of a damaged file astropy and its C library may raise anything.
        text = f"{path} cannot be decoded: {error}; copy the file again"
        raise BrokenFileError("file-broken", text, path) from error


@contextmanager
def owning_up(what: str) -> Iterator[None]:
    """Lack of memory, and what must not happen, as errors that end one output and not the run."""
    try:
        yield
    except FlatcalError:
        raise
    except Exception as error:
        # Python has no exception of its own for a thread that finds no memory for its stack, and
        # numba's loader loses that of what it finds none for.
        lacks_memory = isinstance(error, MemoryError | SystemError)
        if lacks_memory or "can't start new thread" in str(error):
            why = str(error) or "nothing is left"
            raise OutputError(
                "resources", f"the system refused memory for {what}: {why}"
            ) from error
        logger.exception("a defect of flatcal, met at %s", what)
        raise FrameError(
            "defect", f"flatcal itself failed at {what}: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def replacing(path: Place) -> Iterator[Path]:
    """A file beside `path` to write, which takes its name when all went well.

    It is on the disk before it takes the name, and the name before this ends: neither a killed
    program nor a loss of power leaves half a file under the name. For a remote file it lies in the
    system's temporary folder, and is uploaded when all went well.
    """
    if isinstance(path, RemotePath):
        with _uploading(path) as part:
            yield part
        return
    part = part_of(path)
    with naming_output(path):
        try:
            yield part
            with awaiting(path):
                _sync(part)
                part.replace(path)
                sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _uploading(path: RemotePath) -> Iterator[Path]:
    with naming_output(path), TemporaryDirectory(prefix="flatcal-") as folder:
        part = Path(folder, path.name)
        yield part
        path.put(part)


@contextmanager
def naming_output(path: Place) -> Iterator[None]:
    """Errors of the system, as ones that name what cannot be written."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            "output-not-writable", f"{path} cannot be written: {error.strerror or error}"
        ) from error


def part_of(path: Path) -> Path:
    """Where a file may be while it is written: beside the other, and nobody else's."""
    # Processes of a cluster may be at the same file, with the same number on several machines.
    return path.with_name(f".{path.name}.{token_hex(4)}{part_suffix()}")


def part_suffix() -> str:
    """How the name of a file ends that this process alone has use for; see `remove_stale_parts`."""
    return f".part-{os.getpid()}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder, with those above it, that a loss of power does not take away again."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk, if its file system can."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def remove_stale_parts(folders: Iterable[Place], *, of_all: bool = False) -> None:
    """Remove files in work that processes which were killed have left.

    Parameters
    ----------
    folders : iterable of Path or RemotePath
        Folders in which no other process on another machine writes.
    of_all : bool
        Whether those of living processes go too: nobody is at work there any more.
    """
    for folder in folders:
        # At an address the number may be that of a process on any machine.
        are_left = of_all or isinstance(folder, RemotePath)
        with suppress(FileNotFoundError, NotADirectoryError):  # one that somebody has removed
            _remove_stale_parts(folder, are_left=are_left)


def _remove_stale_parts(folder: Place, *, are_left: bool) -> None:
    for path in folder.iterdir():
        match = _PART.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        pid = int(match[1])
        if are_left or pid == os.getpid() or not is_alive(pid):
            logger.info("removing %s, which an interrupted run has left", path)
            path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def is_ours(path: Place, mark: bytes) -> bool:
    """Whether there is a file that bears a mark of flatcal near its beginning."""
    try:
        with open_file(path) as file:
            return mark in file.read(_BYTES_TO_MARK)
    except (OSError, FrameError):
        return False


def require_ours(path: Place, mark: bytes) -> None:
    """Refuse to replace what does not bear it.

    Raises
    ------
    OutputError
        When there is something else under that name.
    """
    if path.exists() and not is_ours(path, mark):
        raise OutputError(
            "output-exists",
            f"{path} was not written by flatcal; move it away, or say run --overwrite",
        )


def write_text(path: Place, text: str) -> None:
    """Write a text file whole or not at all; one that holds the same text is left alone."""
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with replacing(path) as part:
        part.write_bytes(text.encode())
