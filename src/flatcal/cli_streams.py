"""The standard streams of the program, which may not know a letter."""

from __future__ import annotations

import io
import sys


def prepare_streams() -> None:
    """Spell out letters that a terminal does not know: names of files may hold any."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
