"""The commands to look at a night: report, watch, view.

As in `flatcal.cli`, imports that cost time stand inside the commands.
"""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flatcal.cli_options import (
    ConfigFile,
    Jobs,
    KindRules,
    LogFile,
    Memory,
    OutFolder,
    Quiet,
    RawFolder,
    Verbose,
    folder_here,
    memory_limit,
    read_config,
)

if TYPE_CHECKING:
    from flatcal.report.html import Alert
    from flatcal.watching import State

_SHOWN = 5
_LONGEST_S = 86_400


def report(out: OutFolder, _verbose: Verbose = 0) -> None:
    """Test what a run has made, and write OUT/report.html, which opens without a network."""
    from flatcal.report.tested import write_tested_report  # noqa: PLC0415

    typer.echo(write_tested_report(out))


def _seconds(value: float) -> float:
    # Neither is infinity below it, nor what is no number.
    if not value <= _LONGEST_S:
        raise typer.BadParameter(f"{value} is not a number of seconds up to {_LONGEST_S}, a day.")
    return value


def watch(
    raw: RawFolder,
    out: OutFolder,
    config: ConfigFile = None,
    kind: KindRules = None,
    interval_s: Annotated[
        float,
        typer.Option(
            "--interval", min=0.1, callback=_seconds, help="Seconds between looks at the folder."
        ),
    ] = 2.0,
    jobs: Jobs = None,
    memory: Memory = None,
    quiet: Quiet = False,
    _log: LogFile = None,
    _verbose: Verbose = 0,
) -> None:
    """Calibrate frames as they arrive, and keep OUT/report.html up to date; Ctrl-C ends it."""
    from flatcal.watching import watch as watch_folder  # noqa: PLC0415

    said: set[Alert] = set()
    try:
        for state in watch_folder(
            folder_here(raw, "watch"),
            folder_here(out, "watch"),
            read_config(config, kind),
            interval_s=interval_s,
            jobs=jobs,
            memory_bytes=memory_limit(memory),
        ):
            _say(state, said, quiet=quiet)
    except KeyboardInterrupt:
        typer.echo("flatcal: ended; start it again to go on", err=True)


def _say(state: State, said: set[Alert], *, quiet: bool) -> None:
    """Alerts once each, with the bell of the terminal, and a line of what was done."""
    from flatcal.text import readable  # noqa: PLC0415

    for alert in state.alerts:
        if alert not in said:
            said.add(alert)
            bell = "\a" if typer.get_text_stream("stdout").isatty() else ""
            typer.secho(f"{bell}{readable(f'{alert.file}: {alert.text}')}", fg="red", bold=True)
    if quiet:
        return
    result = state.result
    more = f" and {len(result.made) - _SHOWN} more" if len(result.made) > _SHOWN else ""
    made = ", ".join(map(readable, result.made[:_SHOWN])) + more if result.made else "nothing new"
    waiting = f"; {len(state.waiting)} wait for their masters" if state.waiting else ""
    growing = f"; {len(state.growing)} are not complete yet" if state.growing else ""
    typer.echo(f"{len(result.record.outcomes)} frames: made {made}{waiting}{growing}")


def view(
    out: OutFolder,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="Settings of the run, into which a frame that is left out is written; "
            "flatcal.toml in OUT by default.",
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only say the address.")] = False,
    _verbose: Verbose = 0,
) -> None:
    """Step through the frames of a run at full resolution, blink them, and leave frames out."""
    from flatcal.errors import OutputError  # noqa: PLC0415
    from flatcal.viewing import Viewer, make_server  # noqa: PLC0415

    try:
        server = make_server(Viewer(folder_here(out, "view"), config), port)
    except OSError as error:
        told = f"port {port} cannot be used: {error.strerror or error}; choose another --port"
        raise OutputError("resources", told) from error
    typer.echo(f"{server.url} (Ctrl-C ends it)")
    if not no_browser:
        webbrowser.open(server.url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
