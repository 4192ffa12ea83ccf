"""Text of headers and files, made harmless for a page, a notebook and a terminal."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

# Longer than any message of flatcal; a header that holds more is cut.
LONGEST: Final = 1000
_CONTROL_PICTURES: Final = 0x2400


def readable(text: str, longest: int = LONGEST) -> str:
    """The text without control characters, and cut where it is too long.

    Parameters
    ----------
    text : str
        Anything a header may hold: terminal escapes, marks that turn the direction of writing.
    longest : int
        Characters that are shown; what follows is told by its number.

    Returns
    -------
    str
        Each control character of ASCII but the line feed as its picture (ESC is U+241B), any
        other that is not shown as U+FFFD.
    """
    shown = text[:longest]
    if not shown.isprintable():
        shown = "".join(map(_picture, shown))
    return shown if len(text) <= longest else f"{shown}... ({len(text)} characters)"


def html_table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in HTML, as notebooks show it; whatever the cells hold is shown as text."""

    def row(cells: Sequence[str], tag: str) -> str:
        shown = (f"<{tag}>{html.escape(readable(cell))}</{tag}>" for cell in cells)
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    head = row(headings, "th")
    return (
        f'<table style="text-align:left"><caption>{html.escape(readable(caption))}</caption>'
        f"<thead>{head}</thead><tbody>{body}</tbody></table>"
    )


def one_line(text: str) -> str:
    """The text as `readable` has it, without line feeds: names of files may hold anything."""
    return readable(text.replace("\n", "\u240a"))


def _picture(character: str) -> str:
    if character == "\n" or unicodedata.category(character)[0] not in "CZ" or character == " ":
        return character
    if ord(character) < 0x20:
        return chr(_CONTROL_PICTURES + ord(character))
    return "\u2421" if character == "\x7f" else "\ufffd"
