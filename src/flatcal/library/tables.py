"""The tables of a library, and how a row becomes a `StoredMaster`."""

from __future__ import annotations

import reprlib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)
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
    Select,
    Table,
    Text,
    select,
    type_coerce,
)
from sqlalchemy.types import NullType

from flatcal.errors import FlatcalError, SectionError
from flatcal.frame import Kind, Setup
from flatcal.library.dates import parse_date
from flatcal.section import parse_sections
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
    _fact("added", DateTime(timezone=True)),
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


# All of a row as the database gives it: what makes nothing of a value must not end the others.
_AS_GIVEN: Final[list[Any]] = [type_coerce(c, NullType()).label(c.name) for c in MASTERS.columns]
ROWS: Final[Select[Any]] = select(*_AS_GIVEN)


def _truth(value: Any) -> Any:
    """SQLite keeps 0 and 1."""
    return bool(value) if value in (0, 1) else value


def _day(value: Any) -> Any:
    """SQLite keeps text."""
    return date.fromisoformat(value) if isinstance(value, str) else value


def _utc(value: Any) -> Any:
    """SQLite keeps text without a zone, PostgreSQL gives the zone of the session."""
    if isinstance(value, str):
        return datetime.strptime(value, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def _fits_date(value: Any) -> Any:
    if isinstance(value, str) and value and parse_date(value) is None:
        raise ValueError("it is not a date")
    return value


_Truth = Annotated[bool, BeforeValidator(_truth)]
_Day = Annotated[date, BeforeValidator(_day)]
_FitsDate = Annotated[str, BeforeValidator(_fits_date)]


class MasterRow(BaseModel):
    """A row of `MASTERS` that holds what each column is for.

    A table may be damaged, or changed by hand, and SQLite takes any value in any column.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)

    id: int
    kind: Literal["bias", "dark", "flat"]
    file: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    source: str
    recipe: str
    camera: str
    n_rows: PositiveInt
    n_columns: PositiveInt
    x_binning: PositiveInt
    y_binning: PositiveInt
    readout_mode: str
    gain_setting: str
    unit: str
    pedestal_adu: float
    detector: str
    linearity: str
    trim_section: str
    overscan: _Truth
    parallel_overscan: _Truth
    exposure_time_s: float
    set_temperature_c: float | None
    filter: str
    lost_bias: _Truth
    bias_recipe: str
    n_frames: PositiveInt
    date_first: _FitsDate
    date_last: _FitsDate
    valid_from: _Day | None
    valid_to: _Day | None
    added: Annotated[datetime, BeforeValidator(_utc)]
    status: Literal["good", "bad", "retired"]
    note: str
    flatcal_version: str

    @model_validator(mode="after")
    def _columns_agree(self) -> Self:
        if self.trim_section:
            try:
                parse_sections(self.trim_section, (self.n_rows, self.n_columns))
            except SectionError as error:
                raise ValueError(f"trim_section: {error.text}") from error
        if self.valid_from and self.valid_to and self.valid_from > self.valid_to:
            raise ValueError(f"valid_from {self.valid_from} is after valid_to {self.valid_to}")
        return self


def read_row(row: Row[Any], library: str) -> MasterRow:
    """A row of `ROWS`, checked.

    Parameters
    ----------
    row : Row
        As the database gives it.
    library : str
        Where the library is, to be named.

    Raises
    ------
    FlatcalError
        When a column does not hold what it is for (library).
    """
    try:
        return MasterRow.model_validate(row._asdict())
    except ValidationError as error:
        first = error.errors()[0]
        words = first["msg"].removeprefix("Value error, ")
        if first["loc"]:
            words = words[0].lower() + words[1:]
            words = f"{first['loc'][0]} is {reprlib.repr(first['input'])}: {words}"
        remedy = f"restore the table from a copy, or mark {row.id} bad to do without it"
        if row.status in (MasterStatus.BAD, MasterStatus.RETIRED):
            remedy = f"it is marked {row.status}, so it does not serve"
        raise FlatcalError(
            "library", f"master {row.id} of the library {library} cannot be read: {words}; {remedy}"
        ) from error


def stored_master(row: MasterRow, store: Path) -> StoredMaster:
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
