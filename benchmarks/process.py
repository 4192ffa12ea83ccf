"""Starting processes and measuring them from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.measure import Measure, in_bytes
from benchmarks.places import Job
from benchmarks.worker import encode_job

REPOSITORY = Path(__file__).resolve().parents[1]
_TOLD_OF_FAILURE = 12  # last lines of a program that failed


class ProgramError(Exception):
    """A program that was to be measured failed."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that has ended well.

    Attributes
    ----------
    measure : Measure
        Of the whole process; its peak is that of the largest of its children, if that is more.
    text : str
        What it printed.
    """

    measure: Measure
    text: str


def run_program(
    command: Sequence[str | Path],
    folder: Path,
    *,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program to its end.

    Parameters
    ----------
    command : sequence of str or path
        Program and arguments.
    folder : Path
        Where it runs.
    stdin : str
        What it reads.
    environment : mapping, optional
        Variables beside those of this process.

    Raises
    ------
    ProgramError
        It ended with an error; the last lines that it printed are told.
    """
    (folder / "stdin.txt").write_text(stdin)
    log = folder / "log.txt"
    with (folder / "stdin.txt").open() as given, log.open("w") as told:
        started = perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=given,
            stdout=told,
            stderr=subprocess.STDOUT,
        )
        try:
            # Not Popen.wait: only wait4 tells the memory of this one child.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # interrupted: it must not write on into a folder that is removed
            process.kill()
            process.wait()
            raise
        seconds = perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    text = log.read_text(errors="replace")
    if process.returncode != 0:
        lines = "\n".join(text.splitlines()[-_TOLD_OF_FAILURE:])
        raise ProgramError(f"{Path(command[0]).name} ended with {process.returncode}:\n{lines}")
    return Ended(Measure(seconds, in_bytes(usage.ru_maxrss)), text)


def run_worker(task: str, job: Job, environment: Mapping[str, str] | None = None) -> str:
    """Run a task of `benchmarks.worker`.

    Returns
    -------
    str
        Its last line.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    ended = run_program(
        [sys.executable, "-m", "benchmarks.worker", task, encode_job(job)],
        job.out,
        environment={
            **(environment or {}),
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        },
    )
    return ended.text.splitlines()[-1]
