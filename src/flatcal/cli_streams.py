"""The standard streams of the program, which may be closed, full, or not know a letter."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path

import typer


def prepare_streams() -> None:
    """Let output that is closed take anything, and spell out letters that a terminal lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # It takes the number of the stream as well, which a file of a night would get else.
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def tell(text: str) -> None:
    """Say it on standard error, where that can be written."""
    with suppress(OSError):
        typer.echo(f"flatcal: {text}", err=True)


def drop_full_stream() -> str | None:
    """The name of a standard stream that cannot be written, even a line feed; it is given up."""
    for name, stream in (("standard output", sys.stdout), ("standard error", sys.stderr)):
        try:
            print(file=stream, flush=True)
        except OSError:
            # Python would try once more at its end, and end with a code of its own.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            return name
    return None
