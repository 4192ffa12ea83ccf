"""Files of a library: named after their content, written whole, never changed."""

from __future__ import annotations

import hashlib
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from flatcal.errors import BrokenFileError, FlatcalError, FrameError, OutputError
from flatcal.headers import open_file
from flatcal.io import make_folder, replacing

# A copy in work that nothing was written to for so long is one that a killed program left. The
# number of its process tells nothing: it may run on another computer.
_STALE_S: Final = 3600


def hash_file(path: Path) -> str:
    """SHA-256 of a file.

    Raises
    ------
    BrokenFileError
        When it cannot be read (file-broken).
    """
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except FrameError as error:
        raise BrokenFileError(error.slug, error.text, path) from error
    except OSError as error:
        raise BrokenFileError(
            "file-broken", f"{path} cannot be read: {error.strerror or error}", path
        ) from error


def make_store(folder: Path) -> None:
    """Make the folder of a new library."""
    try:
        make_folder(folder)
    except OSError as error:
        raise FlatcalError(
            "library",
            f"the folder {folder} of the library cannot be made: {error.strerror or error}; "
            "name another",
        ) from error


def keep_copy(source: Path, sha256: str, target: Path) -> None:
    """Copy a file into the library, unless its copy is there and sound.

    The folder is not made here: where it is gone its disk may not be mounted.

    Parameters
    ----------
    source : Path
        The file.
    sha256 : str
        What the copy must have.
    target : Path
        The copy.

    Raises
    ------
    FlatcalError
        When it cannot be copied, or the file changed meanwhile (library).
    """
    try:
        if target.is_file() and hash_file(target) == sha256:
            return
        _remove_stale_parts(target.parent)
        # The row that refers to the file must not outlive it, which `replacing` sees to.
        with replacing(target) as part:
            with open_file(source) as original, part.open("xb") as copy:
                shutil.copyfileobj(original, copy, 1 << 20)
            if hash_file(part) != sha256:
                raise FlatcalError("library", f"{source} changed while it was copied; add it again")
            part.chmod(part.stat().st_mode & 0o444)
    except OSError as error:
        cause = error.__cause__ if isinstance(error, OutputError) else error
        raise FlatcalError(
            "library",
            f"{source} cannot be copied to {target}: {getattr(cause, 'strerror', None) or cause}",
        ) from error


def _remove_stale_parts(folder: Path) -> None:
    for part in folder.glob(".*.part*"):
        # Another program may remove it too.
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > _STALE_S:
                part.unlink()
