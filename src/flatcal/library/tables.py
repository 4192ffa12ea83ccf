"""The tables of a library, and how a row becomes a `StoredMaster`."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    Index,
    Integer,
    MetaData,
    Row,
    Table,
    Text,
    TypeDecorator,
)

from flatcal.frame import Kind, Setup
from flatcal.stored import MasterStatus, StoredMaster

# Raised by every change after which an older flatcal would misread a library.
SCHEMA_VERSION: Final = 3

METADATA: Final = MetaData()

# One row about the library itself.
ABOUT: Final = Table(
    "flatcal_library",
    METADATA,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    Column("schema_version", Integer, nullable=False),
    # Where the files are; empty for the folder beside an SQLite file, which moves with it.
    Column("store", Text, nullable=False),
)


class _UtcTime(TypeDecorator[datetime]):
    """A time in UTC, as PostgreSQL gives it back in the zone of the session, SQLite in none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, _dialect: object) -> datetime | None:
        if value is None or value.tzinfo is None:
            return value and value.replace(tzinfo=UTC)
        return value.astimezone(UTC)


def _fact(name: str, kind: Any, *rules: CheckConstraint) -> Column[Any]:
    return Column(name, kind, *rules, nullable=False)


MASTERS: Final = Table(
    "flatcal_master",
    METADATA,
    Column("id", Integer, primary_key=True),
    _fact("kind", Text, CheckConstraint("kind IN ('bias', 'dark', 'flat')")),
    # Name within the store.
    Column("file", Text, nullable=False, unique=True),
    Column("sha256", Text, nullable=False, unique=True),
    # Where it was when it was added.
    _fact("source", Text),
    _fact("recipe", Text),
    _fact("camera", Text),
    _fact("n_rows", Integer),
    _fact("n_columns", Integer),
    _fact("x_binning", Integer),
    _fact("y_binning", Integer),
    _fact("readout_mode", Text),
    _fact("gain_setting", Text),
    _fact("unit", Text),
    _fact("pedestal_adu", Double),
    _fact("detector", Text),
    _fact("linearity", Text),
    _fact("trim_section", Text),
    _fact("overscan", Boolean),
    _fact("parallel_overscan", Boolean),
    _fact("exposure_time_s", Double),
    Column("set_temperature_c", Double),
    _fact("filter", Text),
    _fact("lost_bias", Boolean),
    _fact("bias_recipe", Text),
    _fact("n_frames", Integer),
    _fact("date_first", Text),
    _fact("date_last", Text),
    Column("valid_from", Date),
    Column("valid_to", Date),
    _fact("added", _UtcTime),
    _fact("status", Text, CheckConstraint("status IN ('good', 'bad', 'retired')")),
    _fact("note", Text),
    _fact("flatcal_version", Text),
    CheckConstraint("valid_from <= valid_to"),
    Index("flatcal_master_source", "source"),
)


# The columns of a `Setup`.
SETUP_COLUMNS: Final = (
    "camera",
    "n_rows",
    "n_columns",
    "x_binning",
    "y_binning",
    "readout_mode",
    "gain_setting",
    "unit",
    "pedestal_adu",
    "detector",
    "linearity",
)


def stored_master(row: Row[Any], store: Path) -> StoredMaster:
    """A row of `MASTERS`, with the path of its file."""
    return StoredMaster(
        id=row.id,
        kind=Kind(row.kind),
        path=str(store / row.file),
        sha256=row.sha256,
        recipe=row.recipe,
        setup=Setup(
            row.camera,
            (row.n_rows, row.n_columns),
            (row.x_binning, row.y_binning),
            row.readout_mode,
            row.gain_setting,
            row.unit,
            row.pedestal_adu,
            row.detector,
            row.linearity,
        ),
        trim_section=row.trim_section,
        overscan=row.overscan,
        parallel_overscan=row.parallel_overscan,
        exposure_time_s=row.exposure_time_s,
        set_temperature_c=row.set_temperature_c,
        filter=row.filter,
        lost_bias=row.lost_bias,
        bias_recipe=row.bias_recipe,
        n_frames=row.n_frames,
        date_first=row.date_first,
        date_last=row.date_last,
        valid_from=_day_text(row.valid_from),
        valid_to=_day_text(row.valid_to),
        added=row.added.strftime("%Y-%m-%dT%H:%M:%SZ"),
        status=MasterStatus(row.status),
        note=row.note,
        flatcal_version=row.flatcal_version,
    )


def _day_text(day: date | None) -> str:
    return "" if day is None else day.isoformat()
