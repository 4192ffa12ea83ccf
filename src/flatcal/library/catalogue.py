"""What a library can do: keep a master, find masters, say which may serve."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, update

from flatcal.errors import FlatcalError
from flatcal.frame import Kind, Setup
from flatcal.library.choice import GoodMasters, is_valid
from flatcal.library.database import Database
from flatcal.library.dates import may_be_same_night, parse_day
from flatcal.library.files import hash_file, keep_copy
from flatcal.library.header import read_master_row
from flatcal.library.tables import MASTERS, ROWS, SETUP_COLUMNS, read_row, stored_master
from flatcal.stored import MasterStatus, StoredMaster

# Masters of one path that agree in these are the same master, made again.
_SAME_MASTER: Final = ("source", "kind", "filter", *SETUP_COLUMNS)
_NUMBERS_END: Final = 1 << 63


def replaced_note(master_id: int) -> str:
    """The note of a master that was retired because another took its place."""
    return f"replaced by {master_id}"


class Library:
    """Masters that were kept; see `open_library`.

    Parameters
    ----------
    database : Database
        Holds the tables of the library.
    store : Path
        Folder of its files.

    Attributes
    ----------
    where : str
        The file or URL, without any password.
    store : Path
        Folder of the files.
    """

    def __init__(self, database: Database, store: Path) -> None:
        self._database = database
        self.where = database.shown
        self.store = store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database."""
        self._database.close()

    def add(
        self,
        path: str | Path,
        *,
        valid_from: str | None = None,
        valid_to: str | None = None,
        note: str = "",
    ) -> StoredMaster:
        """Keep a copy of a master.

        A file that is kept already, told by its content, is left as it is: its status, validity
        and note do not change, but a copy that was lost or damaged is made good.

        A master takes the place of an earlier good one that was added from the same path, is of
        the same kind, set-up and filter, and whose dates overlap with its own or are not known:
        the earlier one is retired. A master of another night that was added from that path stays.

        Parameters
        ----------
        path : str or Path
            A master that a run has written.
        valid_from, valid_to : str, optional
            The first and the last day it may serve, as 2026-01-31; no limit by default.
        note : str
            Whatever should be known of it.

        Returns
        -------
        StoredMaster
            As it is in the library.

        Raises
        ------
        FlatcalError
            The file is no master of flatcal (not-a-master), is broken (file-broken), or cannot
            be kept (library).
        """
        source = Path(path).resolve()
        # What is read between two equal hashes, this one and that of the copy, is in the copy.
        sha256 = hash_file(source)
        row = read_master_row(source) | _validity(valid_from, valid_to)
        row |= {
            "file": f"{row['kind']}-{sha256}.fits{'.fz' * (source.suffix == '.fz')}",
            "sha256": sha256,
            # Names of files may hold bytes that are no text.
            "source": os.fsencode(source).decode(errors="backslashreplace"),
            "added": datetime.now(UTC),
            "status": MasterStatus.GOOD.value,
            "note": note,
        }
        keep_copy(source, sha256, self.store / str(row["file"]))
        with self._database.writing() as connection:
            known = select(MASTERS.c.id).where(MASTERS.c.sha256 == sha256)
            master_id = connection.execute(known).scalar()
            if master_id is None:
                new = insert(MASTERS).values(row).returning(MASTERS.c.id)
                master_id = connection.execute(new).scalar_one()
                self._retire_replaced(connection, row, master_id)
            return self._master(self._row(connection, master_id))

    def get(self, master_id: int) -> StoredMaster:
        """The master of that number.

        Raises
        ------
        FlatcalError
            When there is none, or it cannot be read (library).
        """
        with self._database.reading() as connection:
            return self._master(self._row(connection, master_id))

    def entries(self, status: MasterStatus | None = None) -> dict[int, StoredMaster | FlatcalError]:
        """All masters by their numbers; for one that cannot be read, why.

        Parameters
        ----------
        status : MasterStatus or None
            None for any.
        """
        return self._entries([] if status is None else [_may_be("status", status, MasterStatus)])

    def find(
        self,
        kind: Kind | None = None,
        camera: str | None = None,
        status: MasterStatus | None = MasterStatus.GOOD,
        *,
        filter_name: str | None = None,
        date: str | None = None,
        recipe: str | None = None,
    ) -> list[StoredMaster]:
        """The masters that have all that is asked for, in the order in which they were added.

        Parameters
        ----------
        kind : Kind, optional
            bias, dark or flat.
        camera : str, optional
            Name of the camera.
        status : MasterStatus or None
            None for any.
        filter_name : str, optional
            Filter of flats; letter by letter.
        date : str, optional
            Date on which they may serve, as in `candidates`.
        recipe : str, optional
            Hash of what determined the pixels.

        Raises
        ------
        FlatcalError
            When one that may be asked for cannot be read: without it others would be found in
            silence (library).
        """
        wanted = {"camera": camera, "filter": filter_name, "recipe": recipe}
        rules = _equal({name: value for name, value in wanted.items() if value is not None})
        rules += [_may_be("kind", kind, Kind)] if kind is not None else []
        rules += [_may_be("status", status, MasterStatus)] if status is not None else []
        entries = self._entries(rules).values()
        broken = [entry for entry in entries if isinstance(entry, FlatcalError)]
        if broken:
            more = f" (and {len(broken) - 1} more: flatcal library list)" * (len(broken) > 1)
            raise FlatcalError("library", broken[0].text + more)
        found = [entry for entry in entries if isinstance(entry, StoredMaster)]
        return [master for master in found if date is None or is_valid(master, date)]

    def candidates(self, kind: Kind, setup: Setup, date: str) -> list[StoredMaster]:
        """The masters that may serve a frame, as far as set-up and date can tell.

        They are good, of that set-up, and valid on that date; both ends of the validity count.
        A frame whose date is not known takes only masters without any limit. Temperature,
        exposure time, filter and sections are not looked at.

        Parameters
        ----------
        kind : Kind
            bias, dark or flat.
        setup : Setup
            Of the frame; all of it must agree.
        date : str
            DATE-OBS of the frame, as written; empty if not known.

        Returns
        -------
        list of StoredMaster
            The nearest in time first, from the frame to the nearest frame of the master; of
            those equally near the one that was added last.
        """
        return self.good_masters().candidates(kind, setup, date)

    def good_masters(self) -> GoodMasters:
        """The good masters as they are now: to choose for many frames without asking again."""
        return GoodMasters(tuple(self.find()))

    def set_status(self, master_id: int, status: MasterStatus, note: str = "") -> StoredMaster:
        """Say whether a master may be chosen; only a good one is.

        Parameters
        ----------
        master_id : int
            Its number.
        status : MasterStatus
            good, bad or retired.
        note : str
            The reason; an empty one leaves the note as it is.
        """
        return self._update(master_id, {"status": status.value} | ({"note": note} if note else {}))

    def set_validity(
        self, master_id: int, valid_from: str | None, valid_to: str | None
    ) -> StoredMaster:
        """Say from which to which day a master may serve; None for no limit."""
        return self._update(master_id, _validity(valid_from, valid_to))

    def verify(self, master_id: int) -> StoredMaster:
        """Check that the file of a master is there and is what was added.

        Raises
        ------
        FlatcalError
            When it is gone, or its SHA-256 is another (library).
        """
        master = self.get(master_id)
        remedy = f"add the master again, or mark {master_id} bad"
        if not Path(master.path).is_file():
            raise FlatcalError("library", f"master {master_id}: {master.path} is gone; {remedy}")
        found = hash_file(Path(master.path))
        if found != master.sha256:
            raise FlatcalError(
                "library",
                f"master {master_id}: {master.path} was changed, its SHA-256 is {found[:12]}... "
                f"and was {master.sha256[:12]}...; {remedy}",
            )
        return master

    def copy_from(self, other: Library, *, skip_broken: bool = False) -> list[StoredMaster]:
        """Take over all masters of another library, with their numbers, into this empty one.

        Parameters
        ----------
        other : Library
            Stays as it is.
        skip_broken : bool
            Whether to leave out those that cannot be read, which `entries` tells, rather than to
            refuse.

        Returns
        -------
        list of StoredMaster
            The masters whose files are gone: only what was known of them is here.

        Raises
        ------
        FlatcalError
            When this library is not empty, or a master of the other cannot be read (library).
        """
        with other._database.reading() as connection:
            rows = connection.execute(ROWS.order_by(MASTERS.c.id)).all()
        checked = []
        for row in rows:
            try:
                checked.append(read_row(row, other.where))
            except FlatcalError:
                if not skip_broken:
                    raise
        lost = []
        with self._database.writing() as connection:
            if connection.execute(select(MASTERS.c.id).limit(1)).first() is not None:
                raise FlatcalError(
                    "library",
                    f"the library {self.where} holds masters, so that numbers would clash; "
                    "copy into a new one",
                )
            for facts in checked:
                copy = self.store / facts.file
                if (other.store / facts.file).is_file():
                    keep_copy(other.store / facts.file, facts.sha256, copy)
                else:
                    lost.append(stored_master(facts, self.store))
                connection.execute(insert(MASTERS).values(facts.model_dump()))
            self._database.continue_numbers(connection)
        return lost

    def _master(self, row: Row[Any]) -> StoredMaster:
        return stored_master(read_row(row, self.where), self.store)

    def _entries(
        self, rules: Sequence[ColumnElement[bool]]
    ) -> dict[int, StoredMaster | FlatcalError]:
        with self._database.reading() as connection:
            rows = connection.execute(ROWS.where(*rules).order_by(MASTERS.c.id)).all()
        entries: dict[int, StoredMaster | FlatcalError] = {}
        for row in rows:
            try:
                entries[row.id] = self._master(row)
            except FlatcalError as error:
                entries[row.id] = error
        return entries

    def _row(self, connection: Connection, master_id: int) -> Row[Any]:
        row = None
        # No database takes a longer number.
        if abs(master_id) < _NUMBERS_END:
            row = connection.execute(ROWS.where(MASTERS.c.id == master_id)).first()
        if row is None:
            raise FlatcalError(
                "library",
                f"there is no master {master_id} in {self.where}; flatcal library list shows them",
            )
        return row

    def _update(self, master_id: int, values: Mapping[str, object]) -> StoredMaster:
        with self._database.writing() as connection:
            self._row(connection, master_id)
            change = update(MASTERS).where(MASTERS.c.id == master_id).values(**values)
            connection.execute(change)
            row = self._row(connection, master_id)
        # The change is kept also where the rest cannot be read.
        return self._master(row)

    def _retire_replaced(self, connection: Connection, row: Mapping[str, Any], new_id: int) -> None:
        """Retire the masters whose place a new one takes; see `add`."""
        same = {name: row[name] for name in _SAME_MASTER} | {"status": MasterStatus.GOOD.value}
        found = connection.execute(ROWS.where(*_equal(same), MASTERS.c.id != new_id)).all()
        earlier = [read_row(each, self.where) for each in found]
        dates = row["date_first"], row["date_last"]
        replaced = [
            each.id
            for each in earlier
            if may_be_same_night(dates, (each.date_first, each.date_last))
        ]
        words = replaced_note(new_id)
        note = func.coalesce(func.nullif(MASTERS.c.note, "") + "; " + words, words)
        change = update(MASTERS).where(MASTERS.c.id.in_(replaced))
        connection.execute(change.values(status=MasterStatus.RETIRED.value, note=note))


def _may_be(column: str, wanted: str, known: type[StrEnum]) -> ColumnElement[bool]:
    """Not what is known to be another: what makes no sense is to be told, not left out."""
    return MASTERS.c[column].not_in([each.value for each in known if each != wanted])


def _equal(wanted: Mapping[str, object]) -> list[ColumnElement[bool]]:
    return [MASTERS.c[name] == value for name, value in wanted.items()]


def _validity(valid_from: str | None, valid_to: str | None) -> dict[str, object]:
    first, last = parse_day(valid_from), parse_day(valid_to)
    if first is not None and last is not None and first > last:
        raise FlatcalError(
            "library", f"valid from {first} to {last}: the last day is before the first"
        )
    return {"valid_from": first, "valid_to": last}
