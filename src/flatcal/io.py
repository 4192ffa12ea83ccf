"""Files opened and their errors named; files written whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from threading import RLock
from typing import Any

from astropy.io import fits

from flatcal.errors import BrokenFileError, FlatcalError, FrameError, OutputError, StorageError
from flatcal.headers import open_file, unzipping
from flatcal.storage import Place, RemotePath
from flatcal.waiting import awaiting

logger = logging.getLogger(__name__)

# Within which `is_ours` looks for a mark.
_BYTES_TO_MARK = 200

_WARNINGS_LOCK = RLock()

_PART = re.compile(r"\..+\.part-(\d+)")

# The system has no room for more open files, or for what is kept of remote ones.
_LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOSPC)


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
