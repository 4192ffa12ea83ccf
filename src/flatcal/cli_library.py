"""The commands of the library of masters.

As in `flatcal.cli`, imports that cost time stand inside the commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flatcal.cli_streams import tell
from flatcal.frame import Kind
from flatcal.stored import MasterStatus, StoredMaster
from flatcal.text import one_line, readable

if TYPE_CHECKING:
    from flatcal.library import Library

EXIT_MASTER_FAILED = 1

library_app = typer.Typer(
    help="The library of masters: what earlier nights made, for nights that lack their own.",
    no_args_is_help=True,
)

Where = Annotated[
    str | None,
    typer.Option(
        "--library",
        metavar="WHERE",
        envvar="FLATCAL_LIBRARY",
        help="A file, or postgresql://USER@HOST/DATABASE; in the user's data folder by default.",
    ),
]
Store = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="Folder of the files, for PostgreSQL; once."),
]
Number = Annotated[int, typer.Argument(metavar="ID", help="Number of a master.")]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="What should be known of it.")]
First = Annotated[
    str | None, typer.Option("--from", metavar="DAY", help="First day it may serve: 2026-01-31.")
]
Last = Annotated[
    str | None, typer.Option("--to", metavar="DAY", help="Last day it may serve: 2026-01-31.")
]


@library_app.command()
def add(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Masters of a run.")],
    library: Where = None,
    store: Store = None,
    first: First = None,
    last: Last = None,
    note: Note = "",
) -> None:
    """Keep copies of masters; exit 1 when a file is refused, with the others kept."""
    from flatcal.errors import FlatcalError  # noqa: PLC0415
    from flatcal.library import replaced_note  # noqa: PLC0415

    refused = False
    with _open(library, store, create=True) as masters:
        known = set(masters.entries())
        for file in files:
            try:
                master = masters.add(file, valid_from=first, valid_to=last, note=note)
            except FlatcalError as error:
                tell(readable(str(error)))
                refused = True
                continue
            if master.id in known:
                typer.echo(f"{file} is there already as {master.id} ({master.status}), unchanged")
                continue
            known.add(master.id)
            typer.echo(f"{file} is kept as {master.id}")
            for old in masters.entries(MasterStatus.RETIRED).values():
                if isinstance(old, StoredMaster) and old.note.endswith(replaced_note(master.id)):
                    typer.echo(f"{old.id}, added from the same path, is retired")
    if refused:
        raise typer.Exit(EXIT_MASTER_FAILED)


@library_app.command("list")
def list_all(library: Where = None) -> None:
    """Show all masters, also bad and retired ones; exit 1 when one cannot be read."""
    with _open(library) as masters:
        entries = masters.entries().values()
    _print_masters([entry for entry in entries if isinstance(entry, StoredMaster)])
    if _tell_broken(entries):
        raise typer.Exit(EXIT_MASTER_FAILED)


@library_app.command()
def find(
    library: Where = None,
    kind: Annotated[Kind | None, typer.Option("--kind", help="Kind of master.")] = None,
    camera: Annotated[str | None, typer.Option("--camera", help="Name of the camera.")] = None,
    filter_name: Annotated[str | None, typer.Option("--filter", help="Filter of flats.")] = None,
    date: Annotated[
        str | None, typer.Option("--date", metavar="DAY", help="Day on which it may serve.")
    ] = None,
    status: Annotated[
        MasterStatus, typer.Option("--status", help="What it was marked.")
    ] = MasterStatus.GOOD,
    paths: Annotated[bool, typer.Option("--paths", help="Print the files alone.")] = False,
) -> None:
    """Show the masters that have all that is asked for."""
    from flatcal.library.dates import parse_day  # noqa: PLC0415

    parse_day(date)  # of a frame any text is taken as a date, but not of a person
    with _open(library) as masters:
        found = masters.find(kind, camera, status, filter_name=filter_name, date=date)
    if paths:
        for master in found:
            typer.echo(master.path)
    else:
        _print_masters(found)


@library_app.command()
def show(number: Number, library: Where = None) -> None:
    """Show all that is known of one master."""
    with _open(library) as masters:
        master = masters.get(number)
    facts = {name: getattr(master, name) for name in StoredMaster.__slots__ if name != "setup"}
    facts |= {name: getattr(master.setup, name) for name in master.setup.__slots__}
    for name, value in facts.items():
        typer.echo(f"{name:<18} {'' if value is None else value}".rstrip())


@library_app.command()
def retire(number: Number, library: Where = None, note: Note = "") -> None:
    """Let a master serve no more."""
    mark(number, MasterStatus.RETIRED, library, note)


@library_app.command()
def mark(
    number: Number,
    status: Annotated[MasterStatus, typer.Argument(help="Only a good master serves.")],
    library: Where = None,
    note: Note = "",
) -> None:
    """Mark a master as good, bad or retired."""
    with _open(library) as masters:
        master = masters.set_status(number, status, note)
    typer.echo(f"{master.id} is {master.status}" + (f": {master.note}" if master.note else ""))


@library_app.command()
def limit(number: Number, library: Where = None, first: First = None, last: Last = None) -> None:
    """Say from which to which day a master may serve; what is left out is no limit."""
    with _open(library) as masters:
        master = masters.set_validity(number, first, last)
    typer.echo(f"{master.id} may serve {_validity(master) or 'on any day'}")


@library_app.command()
def verify(
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="ID", help="All good masters by default.")
    ] = None,
    library: Where = None,
    store: Store = None,
) -> None:
    """Check that files are there and unchanged; exit 1 when one is not."""
    from flatcal.errors import FlatcalError  # noqa: PLC0415

    sound = 0
    with _open(library, store) as masters:
        checked = numbers or list(masters.entries(MasterStatus.GOOD))
        for number in checked:
            try:
                masters.verify(number)
                sound += 1
            except FlatcalError as error:
                tell(readable(str(error)))
    typer.echo(f"{sound} of {len(checked)} masters are there and unchanged")
    if sound < len(checked):
        raise typer.Exit(EXIT_MASTER_FAILED)


@library_app.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="Another library.")],
    library: Where = None,
    store: Store = None,
) -> None:
    """Copy another library, with all that is known of its masters, into a new one."""
    with _open(source) as old, _open(library, store, create=True) as new:
        broken = _tell_broken(old.entries().values())
        lost = new.copy_from(old, skip_broken=True)
        for master in lost:
            typer.echo(f"flatcal: the file of {master.id} is gone from {old.where}", err=True)
        typer.echo(f"{len(new.find(status=None)) - len(lost)} masters are copied to {new.where}")
    if lost or broken:
        raise typer.Exit(EXIT_MASTER_FAILED)


def _open(where: str | None, store: Path | None = None, *, create: bool = False) -> Library:
    from flatcal.library import default_library, open_library  # noqa: PLC0415

    return open_library(where or default_library(), store=store, create=create)


def _tell_broken(entries: Iterable[StoredMaster | Exception]) -> bool:
    """Say which masters cannot be read; whether there are any."""
    broken = [entry for entry in entries if isinstance(entry, Exception)]
    for error in broken:
        tell(readable(str(error)))
    return bool(broken)


def _validity(master: StoredMaster) -> str:
    first = f"from {master.valid_from}" if master.valid_from else ""
    last = f"to {master.valid_to}" if master.valid_to else ""
    return " ".join(filter(None, (first, last)))


def _print_masters(masters: Sequence[StoredMaster]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    if not masters:
        typer.echo("no masters")
        return
    table = Table(header_style="bold")
    for column in ("id", "kind", "frames", "taken", "camera", "image", "status"):
        table.add_column(column, overflow="fold")
    for master in masters:
        cells = (
            str(master.id),
            _describe_kind(master),
            str(master.n_frames),
            _describe_dates(master),
            _describe_camera(master),
            _describe_image(master),
            master.status.value,
        )
        # Text of headers may hold what looks like markup, or escapes.
        table.add_row(*(escape(one_line(cell)) for cell in cells))
    console = Console(highlight=False)
    console.print(table)
    for master in masters:
        limits = _validity(master)
        remarks = "; ".join(filter(None, (limits and f"may serve {limits}", master.note)))
        if remarks:
            # One line each, however narrow the terminal: so they can be searched and copied.
            console.print(f"{master.id}: {one_line(remarks)}", markup=False, soft_wrap=True)


def _describe_kind(master: StoredMaster) -> str:
    exposure = f" {master.exposure_time_s:.6g} s" if master.kind is Kind.DARK else ""
    name = f" {master.filter or 'no filter'}" if master.kind is Kind.FLAT else ""
    cold = master.set_temperature_c
    temperature = "" if cold is None or master.kind is Kind.FLAT else f" {cold:g} C"
    return f"{master.kind}{exposure}{name}{temperature}"


def _describe_camera(master: StoredMaster) -> str:
    setup = master.setup
    return ", ".join(filter(None, (setup.name, setup.readout_mode, setup.gain_setting)))


def _describe_image(master: StoredMaster) -> str:
    rows, columns = master.setup.shape
    x, y = master.setup.binning
    return f"{rows} x {columns}" + ("" if (x, y) == (1, 1) else f", binned {x} x {y}")


def _describe_dates(master: StoredMaster) -> str:
    first, last = master.date_first[:10], master.date_last[:10]
    return first if first == last else f"{first} to {last}"
