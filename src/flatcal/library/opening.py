"""Where a library is, and where its files are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sqlalchemy import select

from flatcal.errors import FlatcalError
from flatcal.library.catalogue import Library
from flatcal.library.database import Database, absolute_path
from flatcal.library.files import make_store
from flatcal.library.tables import MASTERS


def default_library() -> Path:
    """The user's own library, in the folder where the system keeps data of programs."""
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        data = Path(local) if local else Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        chosen = Path(os.environ.get("XDG_DATA_HOME", ""))
        data = chosen if chosen.is_absolute() else Path.home() / ".local" / "share"
    return data / "flatcal" / "masters.sqlite"


def open_library(
    where: str | Path, *, store: str | Path | None = None, create: bool = True
) -> Library:
    """Open a library of masters, and make it when it is missing.

    Parameters
    ----------
    where : str or Path
        A file of SQLite, or the URL of a database of PostgreSQL,
        ``postgresql://USER@HOST/DATABASE``.
    store : str or Path, optional
        Folder of the files of a library in PostgreSQL. It is needed once, when the library is
        made, and then remembered. Another folder is taken later if the files have been moved
        there. A library in a file has its folder beside it.
    create : bool
        Whether to make a library that is missing, rather than to refuse.

    Returns
    -------
    Library
        To be closed, best by a ``with`` block.

    Raises
    ------
    FlatcalError
        When it cannot be opened or made, or another version of flatcal has made it (library).
    """
    database = Database(where)
    try:
        return Library(database, _find_store(database, store, create))
    except BaseException:
        database.close()
        raise


def _find_store(database: Database, store: str | Path | None, create: bool) -> Path:
    wanted = None if store is None else absolute_path(store)
    beside = database.file and database.file.with_name(f"{database.file.name}.files")
    if beside and wanted not in (None, beside):
        raise FlatcalError(
            "library",
            f"the library {database.shown} keeps its files beside it, in {beside}; "
            "a folder can be chosen only for one in PostgreSQL",
        )
    # To look into a file of SQLite would make it.
    missing = database.file is not None and _is_missing(database.file)
    remembered = None if missing else database.read_store()
    if remembered is None:
        folder = beside or wanted
        if not create:
            raise FlatcalError(
                "library",
                f"there is no library at {database.shown}; flatcal library add makes one",
            )
        if folder is None:
            raise FlatcalError(
                "library",
                f"there is no library at {database.shown} yet; to make one, "
                "name the folder for its files with --store",
            )
        make_store(folder)
        remembered = database.create("" if beside else str(folder))
    if beside:
        return beside
    if wanted not in (None, Path(remembered)):
        _move_store(database, Path(remembered), wanted)
        return wanted
    return Path(remembered)


def _is_missing(file: Path) -> bool:
    try:
        return not file.exists()
    except OSError:
        return False  # it will be told when it is opened


def _move_store(database: Database, old: Path, new: Path) -> None:
    """Take another folder for the files, but not one that a slip of the finger names."""
    with database.reading() as connection:
        files = connection.execute(select(MASTERS.c.file).order_by(MASTERS.c.id)).scalars()
        lost = next((file for file in files if not (new / file).is_file()), None)
    if lost is not None or not new.is_dir():
        raise FlatcalError(
            "library",
            f"the library {database.shown} has its files in {old}, and {new} does not hold "
            f"{lost or 'them'}; move the files first, then name the new folder",
        )
    database.move_store(str(new))
