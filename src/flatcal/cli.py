"""The command line: parse, call one function, print, exit with a code.

Imports that cost time stand inside the commands that need them, so that ``--help`` is quick.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flatcal._version import __version__
from flatcal.cli_library import library_app
from flatcal.cli_look import report, view, watch
from flatcal.cli_options import (
    ConfigFile,
    Engine,
    Jobs,
    KindRules,
    LogFile,
    Memory,
    OutFolder,
    Quiet,
    RawFolder,
    Scheduler,
    Verbose,
    folder_here,
    memory_limit,
    read_config,
)
from flatcal.cli_streams import drop_full_stream, prepare_streams, tell
from flatcal.text import readable

if TYPE_CHECKING:
    from flatcal.engine.result import RunResult
    from flatcal.plan import Plan

EXIT_FRAME_FAILED = 1
EXIT_TEST_FAILED = 1
EXIT_USAGE = 2
EXIT_PLAN_REFUSES = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="flatcal",
    help="Calibrate CCD and CMOS frames: plan, explain, validate, run.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Configuration files.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(library_app, name="library")

LibraryOption = Annotated[
    str | None,
    typer.Option(
        "--library",
        metavar="WHERE",
        envvar="FLATCAL_LIBRARY",
        help="Library that gives masters which the folder lacks.",
    ),
]
FullSize = Annotated[bool, typer.Option("--full-size", help="The real geometry of the cameras.")]
CameraName = Annotated[str, typer.Option("--camera", help="lfc, cg16m or both.")]


def main() -> None:
    """Entry point: every error on purpose becomes one line and an exit code."""
    from flatcal.errors import FlatcalError  # noqa: PLC0415

    prepare_streams()
    try:
        app(standalone_mode=True)
    except FlatcalError as error:
        tell(readable(str(error)))
        sys.exit(EXIT_USAGE)
    except MemoryError as error:
        why = f"the system refused memory: {error or 'nothing is left'}"
        tell(f"{why}; raise the limit (ulimit -v) [resources]")
        sys.exit(EXIT_USAGE)
    except OSError as error:
        stream = drop_full_stream()
        if stream is None:
            raise
        tell(f"{stream} cannot be written: {error.strerror} [output-not-writable]")
        sys.exit(EXIT_USAGE)
    except SystemExit as end:
        # So typer ends what was interrupted, unless the command had more to say of it.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            tell("interrupted")
        raise


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"flatcal {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command(epilog="Example: flatcal inspect RAW")
def inspect(
    raw: RawFolder, config: ConfigFile = None, kind: KindRules = None, _verbose: Verbose = 0
) -> None:
    """Show what is in a folder: kinds, exposures, filters, temperatures, and what is wrong."""
    from flatcal.index import find_frames  # noqa: PLC0415
    from flatcal.report.terminal import print_frames  # noqa: PLC0415

    print_frames(find_frames(raw, read_config(config, kind)))


@app.command(epilog="Example: flatcal measure RAW")
def measure(
    raw: RawFolder,
    config: ConfigFile = None,
    kind: KindRules = None,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as JSON.")] = False,
    _verbose: Verbose = 0,
) -> None:
    """Measure gain and read noise from the flats and bias frames of a folder."""
    from flatcal.index import find_frames  # noqa: PLC0415
    from flatcal.photon_transfer.night import measure_detectors  # noqa: PLC0415
    from flatcal.report.measured import print_detectors  # noqa: PLC0415

    report = measure_detectors(raw, find_frames(raw, read_config(config, kind)))
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        print_detectors(report)


@app.command(epilog="Example: flatcal plan RAW -c night.toml --explain flat-003.fits")
def plan(
    raw: RawFolder,
    config: ConfigFile = None,
    kind: KindRules = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole plan as JSON.")] = False,
    library: LibraryOption = None,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="FILE", help="The whole story of one frame.")
    ] = None,
    _verbose: Verbose = 0,
) -> None:
    """Show what would be done to each frame and why; exit 3 when a frame cannot be calibrated."""
    from flatcal.report.explain import print_explanation  # noqa: PLC0415
    from flatcal.report.terminal import print_plan  # noqa: PLC0415

    made = _plan(raw, config, kind, library)
    if explain is not None:
        print_explanation(made, made.find_frame(explain))
    elif as_json:
        typer.echo(made.model_dump_json(indent=1))
    else:
        print_plan(made)
    if made.refused:
        raise typer.Exit(EXIT_PLAN_REFUSES)


@app.command(epilog="Example: flatcal run RAW OUT -c night.toml")
def run(
    raw: RawFolder,
    out: OutFolder,
    config: ConfigFile = None,
    kind: KindRules = None,
    jobs: Jobs = None,
    memory: Memory = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32 (the default) or float64.")
    ] = None,
    no_write_flats: Annotated[
        bool,
        typer.Option("--no-write-flats", help="Master flats straight from the raw flats."),
    ] = False,
    library: LibraryOption = None,
    keep_masters: Annotated[
        bool, typer.Option("--keep-masters", help="Add the masters that are made to the library.")
    ] = False,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Run a saved plan (plan --json) unchanged."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that flatcal did not write.")
    ] = False,
    engine: Engine = "threads",
    scheduler: Scheduler = None,
    quiet: Quiet = False,
    _log: LogFile = None,
    _verbose: Verbose = 0,
) -> None:
    """Calibrate a night: masters, flats, master flats, science; exit 1 when a frame failed."""
    reached = "no output was finished"
    try:
        from flatcal.engine.run import run_plan  # noqa: PLC0415
        from flatcal.report.terminal import (  # noqa: PLC0415
            print_failures,
            print_result,
            progress_bar,
        )

        memory_bytes = memory_limit(memory)
        if keep_masters and library is None:
            raise typer.BadParameter("--keep-masters needs --library")
        kept_from = folder_here(out, "--keep-masters") if keep_masters else None
        if plan_file is None:
            flats = False if no_write_flats else None
            made = _plan(
                raw, config, kind, library, jobs=jobs, create=keep_masters, dtype=dtype, flats=flats
            )
        else:
            made = _saved_plan(plan_file, raw, (config, kind, dtype, no_write_flats or None))
        with progress_bar(hidden=quiet) as progress:

            def show(what: str, done: int, total: int) -> None:
                nonlocal reached
                reached = f"{done} of {total} outputs done and kept in {out}"
                progress(what, done, total)

            result = run_plan(
                made,
                out,
                jobs=jobs,
                memory_bytes=memory_bytes,
                overwrite=overwrite,
                progress=show,
                engine=engine,
                scheduler=scheduler,
                dashboard=None if quiet else _show_dashboard,
            )
        if quiet:
            print_failures(result)
        else:
            print_result(result)
        if kept_from is not None and library is not None:
            _keep_masters(library, [kept_from / made for made in result.made])
        _report(result, overwrite=overwrite)
    except KeyboardInterrupt:
        tell(f"interrupted; {reached}, run again to go on")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if result.failed:
        raise typer.Exit(EXIT_FRAME_FAILED)


@app.command(epilog="Example: flatcal verify OUT")
def verify(
    out: OutFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Every test as JSON.")] = False,
    _verbose: Verbose = 0,
) -> None:
    """Test what a run has made against its own noise; exit 1 when a test fails."""
    from flatcal.report.verified import print_verification  # noqa: PLC0415
    from flatcal.verify import verify_output  # noqa: PLC0415

    verification = verify_output(out)
    if as_json:
        typer.echo(verification.model_dump_json(indent=1))
    else:
        print_verification(verification)
    if verification.failed:
        raise typer.Exit(EXIT_TEST_FAILED)


@app.command(epilog="Example: flatcal show OUT/masters/master_flat_V.fits -o flat.png")
def show(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="FITS image; FILE[CHIP2] for an extension.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PNG", help="Picture to write.")
    ] = None,
) -> None:
    """Show an image in a window, or write it as a picture with -o; stretched by percentiles."""
    from flatcal.report.show import show_file  # noqa: PLC0415

    if picture := show_file(file, output):
        typer.echo(picture)


for command, example in (
    (report, "flatcal report OUT"),
    (watch, "flatcal watch /data/tonight OUT -c night.toml"),
    (view, "flatcal view OUT -c night.toml"),
):
    app.command(epilog=f"Example: {example}")(command)


@app.command(epilog="Example: flatcal simulate demo --camera lfc")
def simulate(out: OutFolder, camera: CameraName = "both", full_size: FullSize = False) -> None:
    """Write simulated raw nights of two cameras, with the truth beside them."""
    from flatcal.demo import simulate_nights  # noqa: PLC0415

    for night in simulate_nights(folder_here(out, "simulate"), camera, full_size=full_size):
        typer.echo(f"{night.raw}  (settings {night.config}, truth {night.truth_file})")


@app.command(epilog="Example: flatcal demo")
def demo(
    out: Annotated[Path, typer.Argument(metavar="[OUT]", help="Output folder.")] = Path("demo"),
    camera: CameraName = "both",
    full_size: FullSize = False,
) -> None:
    """Simulate the guide's two nights, reduce them, and compare the result with the truth."""
    from flatcal.demo import run_demo  # noqa: PLC0415

    if not run_demo(out, camera, full_size=full_size):
        raise typer.Exit(EXIT_FRAME_FAILED)


@config_app.command("init", epilog="Example: flatcal config init RAW -o night.toml")
def config_init(
    raw: RawFolder,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write.")
    ] = None,
) -> None:
    """Draft a configuration for the camera of a folder, with what its headers say."""
    from flatcal.draft import draft_config  # noqa: PLC0415
    from flatcal.errors import OutputError  # noqa: PLC0415
    from flatcal.io import write_text  # noqa: PLC0415

    text = draft_config(raw)
    if output is None:
        typer.echo(text, nl=False)
        return
    if output.exists():
        raise OutputError("output-exists", f"{output} is there already; choose another name")
    write_text(output, text)
    typer.echo(f"wrote {output}")


def _show_dashboard(link: str) -> None:
    typer.echo(f"dashboard: {link}", err=True)


def _report(result: RunResult, *, overwrite: bool) -> None:
    """Write the report where somebody looks, and where one would be out of date without.

    A report takes a second or two, as long as the run of a small night; programs that run flatcal
    by the hundred have no use for it. A page of others in its place is only told: the run is done.
    """
    from flatcal.errors import OutputError  # noqa: PLC0415
    from flatcal.records import REPORT  # noqa: PLC0415
    from flatcal.storage import status_of  # noqa: PLC0415

    report_file = result.out / REPORT
    if report_file.exists():
        # The records keep their time where nothing has changed.
        times = [status_of(result.out / name).mtime_ns for name in ("plan.json", "run.json")]
        wanted = overwrite or status_of(report_file).mtime_ns < max(times)
    else:
        wanted = sys.stdout.isatty()
    if not wanted:
        return
    from flatcal.report.page import write_report  # noqa: PLC0415

    try:
        path = write_report(result.out, overwrite=overwrite)
    except OutputError as error:
        if error.slug != "output-exists":
            raise
        tell(readable(str(error)))
        return
    if sys.stdout.isatty():
        typer.echo(f"report: {path}")


def _keep_masters(library: str, files: list[Path]) -> None:
    """Add the masters; where that fails, the next run would not, for it makes them no more."""
    from flatcal.errors import FlatcalError  # noqa: PLC0415
    from flatcal.library import open_library  # noqa: PLC0415

    left = [file for file in files if file.parent.name == "masters"]
    try:
        with open_library(library) as opened:
            while left:
                file = left[0]
                kept = opened.add(file)
                del left[0]
                typer.echo(f"library {kept.id}: {file.name}")
    except FlatcalError as error:
        words = shlex.join(["flatcal", "library", "add", *map(str, left)])
        raise FlatcalError(error.slug, f"{error.text}; not in the library yet: {words}") from error


def _plan(
    raw: str,
    config: Path | None,
    kinds: list[str] | None,
    library: str | None,
    *,
    jobs: int | None = None,
    create: bool = False,
    **output: object,
) -> Plan:
    """The plan; a --kind that fits no file is a mistake of the one who typed it.

    A library that is to keep the masters of a run may be a new one.
    """
    from flatcal.camera import matches_file  # noqa: PLC0415
    from flatcal.errors import ConfigError  # noqa: PLC0415
    from flatcal.planning import build_plan  # noqa: PLC0415

    settings = read_config(config, kinds, **output)
    if library is None:
        made = build_plan(raw, settings, jobs=jobs)
    else:
        from flatcal.library import open_library  # noqa: PLC0415

        with open_library(library, create=create) as opened:
            made = build_plan(raw, settings, library=opened.good_masters(), jobs=jobs)
    for rule in kinds or ():
        pattern = rule.partition("=")[2]
        if not any(matches_file(pattern, frame.file) for frame in made.frames):
            raise ConfigError("bad-config", f"--kind {rule!r} fits no file in {raw}")
    return made


def _saved_plan(path: Path, raw: str, settings: tuple[object, ...]) -> Plan:
    """A saved plan, which nothing else may bear on."""
    from flatcal.errors import ConfigError  # noqa: PLC0415
    from flatcal.saved_plan import load_plan  # noqa: PLC0415
    from flatcal.storage import place_of  # noqa: PLC0415

    if any(settings):
        raise ConfigError(
            "plan-file",
            "--plan runs a plan as it is: leave out --config, --kind and what is written",
        )
    plan = load_plan(path)
    folder = place_of(raw).resolve()
    if place_of(plan.raw) != folder:
        raise ConfigError("plan-file", f"{path} is the plan of {plan.raw}, not of {folder}")
    return plan
