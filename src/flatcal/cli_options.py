"""Arguments and options that several commands share, and how a program says what it does."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flatcal.cli_streams import tell
from flatcal.text import readable

if TYPE_CHECKING:
    from flatcal.recipe import Config

# A Path would make one slash of the two of an address.
RawFolder = Annotated[str, typer.Argument(metavar="RAW", help="Folder or address of raw frames.")]
OutFolder = Annotated[str, typer.Argument(metavar="OUT", help="Output folder or address.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration in TOML.")
]
KindRules = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="KIND=PATTERN",
        help="Say what frames are, for example 'flat=flat-*'. May be repeated.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        help="Threads, or processes of --engine dask; as many as cores by default.",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Limit of all arrays of a process, as 512MiB; 2 GiB by default, or half of the free "
        "memory if that is less.",
    ),
]
Engine = Annotated[
    Literal["threads", "dask"],
    typer.Option("--engine", help="Threads of this process, or processes of a Dask cluster."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask scheduler, as tcp://host:8786; without it --engine dask starts processes here.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what went wrong.")]


class _Readable(logging.Formatter):
    """Lines for a terminal: names of files may hold escapes."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return readable(text, len(text))


def start_logging(verbose: int) -> int:
    """Say more on the terminal."""
    level = (logging.ERROR, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler()
    handler.setFormatter(_Readable("%(levelname)s %(name)s: %(message)s"))
    # Of the handler: the logger lets more through to the file of `log_to`.
    handler.setLevel(level)
    logging.basicConfig(level=level, handlers=[handler])
    return verbose


Verbose = Annotated[
    int,
    typer.Option(
        "--verbose", "-v", count=True, callback=start_logging, help="Say more; -vv says all."
    ),
]


class _JsonLines(logging.Formatter):
    """One JSON object on a line for each message."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        content = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content)


class _LogFile(logging.FileHandler):
    """A file that says once when it cannot be written; the program goes on without."""

    is_told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.is_told:
            self.is_told = True
            why = f"cannot be written: {error.strerror}; the work goes on, not all of it is logged"
            tell(f"{readable(self.baseFilename)} {why} [output-not-writable]")


def log_to(path: Path | None) -> Path | None:
    """Add what is logged to a file, one JSON object on a line."""
    if path is None:
        return None
    from flatcal.errors import OutputError  # noqa: PLC0415

    try:
        handler = _LogFile(path, encoding="utf-8")
    except OSError as error:
        text = f"{path} cannot be written: {error.strerror or error}"
        raise OutputError("output-not-writable", text) from error
    handler.setFormatter(_JsonLines())
    handler.setLevel(logging.INFO)
    logger = logging.getLogger("flatcal")
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    return path


LogFile = Annotated[
    Path | None,
    typer.Option(
        "--log", metavar="FILE", callback=log_to, help="Add what is done to a file of JSON lines."
    ),
]


def read_config(path: Path | None, kinds: list[str] | None, **output: object) -> Config:
    """The configuration, with what the command line says over it."""
    from flatcal.recipe import Config, load_config  # noqa: PLC0415

    config = Config() if path is None else load_config(path)
    return config.with_kinds(kinds or ()).with_output(**output)


def folder_here(where: str, command: str) -> Path:
    """A folder of this machine, where a command needs one."""
    from flatcal.errors import ConfigError  # noqa: PLC0415
    from flatcal.storage import place_of  # noqa: PLC0415

    place = place_of(where)
    if not isinstance(place, Path):
        told = f"{command} works on folders of this machine, not on {place}; copy what it needs"
        raise ConfigError("remote-address", told)
    return place


_MOST_BYTES = 1 << 63
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?))?B?\s*", re.IGNORECASE)


def memory_limit(text: str | None) -> int | None:
    """Bytes of what --memory says; None where it says nothing."""
    return None if text is None else parse_size(text)


def parse_size(text: str) -> int:
    """Bytes of a size such as 512MiB, 2GiB, 1.5GB or 1000000."""
    from flatcal.errors import ConfigError  # noqa: PLC0415

    match = _SIZE.fullmatch(text)
    if match is None or not 0 < float(match[1]) <= _MOST_BYTES:
        raise ConfigError("bad-config", f"--memory {text!r} is not a size such as 512MiB or 2GiB")
    base = 1024 if match[3] else 1000
    power = " KMGT".index((match[2] or " ").upper())
    return int(float(match[1]) * base**power)
