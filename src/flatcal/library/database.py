"""The database of a library: how it is opened, and one writer at a time.

SQLite keeps its rollback journal. Its write-ahead log would be faster, but it does not work over
a network file system, nor for those who may only read.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from flatcal.errors import FlatcalError
from flatcal.library.tables import ABOUT, MASTERS, METADATA, SCHEMA_VERSION

BUSY_S: Final = 30
CONNECT_S: Final = 10

# Any number that no other program is likely to lock: "flatcal" in ASCII.
_WRITER_LOCK: Final = int.from_bytes(b"flatcal")
_FOR_WRITING: Final = "flatcal_writing"
# SQLSTATE of a lock that was waited for in vain.
_PG_BUSY: Final = "55P03"
_HOW: Final = "is not understood; name a file, or postgresql://USER@HOST/DATABASE"


class Database:
    """A database that holds, or may come to hold, a library.

    Parameters
    ----------
    where : str or Path
        A file of SQLite, or the URL of a database of PostgreSQL.

    Attributes
    ----------
    file : Path or None
        Of SQLite.
    shown : str
        The place without any password.

    Raises
    ------
    FlatcalError
        When the place is neither (library).
    """

    def __init__(self, where: str | Path) -> None:
        url = _parse_place(where)
        self.file = Path(url.database or "") if url.drivername == "sqlite" else None
        self.shown = str(self.file or _without_secrets(url))
        self._engine = _sqlite_engine(url) if self.file else _postgresql_engine(url)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the library."""
        with self._naming(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction beside which no other program writes, so that what it reads stays true."""
        with self._naming(), self._engine.connect() as connection:
            connection.execution_options(**{_FOR_WRITING: True})
            with connection.begin():
                yield connection

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise FlatcalError("library", f"the library {self.shown} {self._why(error)}") from error

    def _why(self, error: DBAPIError) -> str:
        cause: Any = error.orig
        if getattr(cause, "sqlstate", "") == _PG_BUSY or "database is locked" in str(cause):
            return f"is busy: another program has been writing for {BUSY_S} s; try again"
        remedy = "name a file that you may read and write" if self.file else "check URL and rights"
        return f"cannot be used: {' '.join(str(cause).split())}; {remedy}"

    def read_store(self) -> str | None:
        """Where the files of the library are; None when there is no library yet.

        Raises
        ------
        FlatcalError
            When another version of flatcal made the library, or another program the file (library).
        """
        with self.reading() as connection:
            return self._read_store(connection)

    def _read_store(self, connection: Connection) -> str | None:
        tables = inspect(connection)
        if not tables.has_table(ABOUT.name):
            # A database of PostgreSQL may be shared, a file is not.
            if self.file and tables.get_table_names():
                raise FlatcalError(
                    "library", f"{self.file} is a file of another program; name another file"
                )
            return None
        versions = connection.execute(select(ABOUT.c.schema_version)).scalars().all()
        version = versions[0] if len(versions) == 1 else None
        if not isinstance(version, int):
            said = ", ".join(map(reprlib.repr, versions)) or "no version"
            raise FlatcalError(
                "library",
                f"the library {self.shown} is damaged: its table {ABOUT.name} says {said}, not "
                f"version {SCHEMA_VERSION}; restore it from a copy, or add the masters in its "
                "folder of files to a new library",
            )
        if version != SCHEMA_VERSION:
            age, remedy = "a newer", "update flatcal"
            if version < SCHEMA_VERSION:
                age, remedy = "an older", "add the masters in its folder of files to a new library"
            raise FlatcalError(
                "library",
                f"the library {self.shown} was made by {age} flatcal (version {version} of its "
                f"tables, this flatcal knows {SCHEMA_VERSION}); {remedy}",
            )
        return str(connection.execute(select(ABOUT.c.store)).scalar_one())

    def create(self, store: str) -> str:
        """Make the tables, and tell where the files are: another program may have been faster."""
        with self.writing() as connection:
            found = self._read_store(connection)
            if found is None:
                METADATA.create_all(connection)
                about = {"id": 1, "schema_version": SCHEMA_VERSION, "store": store}
                connection.execute(insert(ABOUT).values(about))
            return store if found is None else found

    def continue_numbers(self, connection: Connection) -> None:
        """Let new masters be numbered after those that came with their numbers."""
        # SQLite does so by itself.
        if self.file is None:
            serial = func.pg_get_serial_sequence(MASTERS.name, MASTERS.c.id.name)
            connection.execute(select(func.setval(serial, func.max(MASTERS.c.id))))

    def move_store(self, store: str) -> None:
        """Remember another folder."""
        with self.writing() as connection:
            connection.execute(update(ABOUT).values(store=store))


def _parse_place(where: str | Path) -> URL:
    if isinstance(where, Path) or "://" not in where:
        return _sqlite_url(where)
    try:
        url = make_url(where)
    except (ArgumentError, ValueError) as error:
        # The text is not repeated: it may hold a password.
        raise FlatcalError("library", f"the place of the library {_HOW}") from error
    backend = url.get_backend_name()
    if backend == "sqlite" and url.database:
        return _sqlite_url(url.database)
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise FlatcalError("library", f"the place of the library, {backend}, {_HOW}")


def _without_secrets(url: URL) -> str:
    plain = url.set(drivername="postgresql").difference_update_query(("password", "sslpassword"))
    return plain.render_as_string(hide_password=True)


def absolute_path(path: str | Path) -> Path:
    """The path from the root on, also of one that begins with ~."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise FlatcalError(
            "library", f"{path} is in the home of a user that is not known; write the path out"
        ) from error


def _sqlite_url(path: str | Path) -> URL:
    return URL.create("sqlite", database=str(absolute_path(path)))


def _text(content: bytes) -> str | bytes:
    """Text of SQLite; what is none is told with the row that holds it."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def _leave_transactions_to_us(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.text_factory = _text

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer takes the lock at once: one that read first could find that it may not write.
        writes = connection.get_execution_options().get(_FOR_WRITING)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql_engine(url: URL) -> Engine:
    args = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_S}
    try:
        engine = create_engine(
            # What is read after the lock was taken must be what is there then.
            url,
            isolation_level="READ COMMITTED",
            # A pipeline may keep a library open for days.
            pool_pre_ping=True,
            connect_args=args,
        )
    except ModuleNotFoundError as error:
        raise FlatcalError(
            "library", "PostgreSQL needs the package psycopg: pip install 'flatcal[postgresql]'"
        ) from error

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get(_FOR_WRITING):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_S}s'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")

    return engine
