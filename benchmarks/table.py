"""The table: on the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.turns import RowResult

_COLUMNS = (
    "flatcal", "time", "against", "its time", "ratio", "goal", "met", "MB", "its MB",
)  # fmt: skip
_NUMBERS = {"time", "its time", "ratio", "MB", "its MB"}
_WIDTH = 150  # of the terminal's table where there is no terminal

START, END = "<!-- table -->", "<!-- /table -->"
SMALL = "SMALL FRAMES: a test of the measuring itself. These figures mean nothing."


def print_table(results: Sequence[RowResult], machine: Sequence[str], *, small: bool) -> None:
    """Print the table."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    table = Table(header_style="bold")
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column in _NUMBERS else "left")
    for result in results:
        table.add_section()
        table.add_row(f"[bold]{result.row.name}[/bold]")
        for line in result.lines:
            table.add_row(*astuple(line))
    for text in (*machine, *([SMALL] if small else [])):
        console.print(text, markup=False)
    console.print(table)
    if small:
        console.print(SMALL, markup=False)


def make_markdown(results: Sequence[RowResult], machine: Sequence[str], *, small: bool) -> str:
    """The table and what was compared, as Markdown."""
    parts = [f"**{SMALL}**\n"] if small else []
    parts += [f"{text}  " for text in machine[:-1]] + [machine[-1]]
    for result in results:
        parts += ["", f"**{result.row.name}.** {result.row.title}", ""]
        parts += _markdown_rows([_COLUMNS, *map(astuple, result.lines)])
        if result.notes:
            parts += ["", *(f"- {text}" for text in result.notes)]
    return "\n".join(parts) + "\n"


def write_readme(page: Path, markdown: str) -> None:
    """Put the table into its place in a page.

    Raises
    ------
    ValueError
        The page has no such place.
    """
    text = page.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{page} has no place for the table, {START} and {END}")
    page.write_text(f"{before}{START}\n\n{markdown}\n{END}{after}", encoding="utf-8")


def _markdown_rows(rows: Sequence[Iterable[str]]) -> list[str]:
    head, *body = [[cell or " " for cell in row] for row in rows]
    rule = ["--:" if name in _NUMBERS else "---" for name in head]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *body)]
