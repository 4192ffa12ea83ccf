"""``python -m benchmarks.worker TASK JSON``: one task in a process of its own.

TASK is ``module.function`` below `benchmarks`; only that module is imported, so that the peak
memory of one program does not hold the libraries of another. The last line of the standard
output is the result in JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.measure import Measure, peak_bytes
from benchmarks.places import Job, Places


def encode_job(job: Job) -> str:
    """A job as the JSON that a worker is given."""
    return json.dumps(
        {
            "root": str(job.places.root),
            "small": job.places.small,
            "out": str(job.out),
            "keep": job.keep,
            "args": dict(job.args),
        }
    )


def decode_job(text: str) -> Job:
    """The inverse of `encode_job`."""
    told: dict[str, Any] = json.loads(text)
    places = Places(Path(told["root"]), told["small"])
    return Job(places, Path(told["out"]), told["keep"], told["args"])


def main(arguments: list[str]) -> None:
    """Do one task and print its result."""
    task, job = arguments
    # Warnings about odd headers cost time in all programs alike and would bury the result.
    warnings.simplefilter("ignore")
    module, function = task.split(".")
    result = getattr(import_module(f"benchmarks.{module}"), function)(decode_job(job))
    if result is None:
        result = Measure(0.0, peak_bytes())
    sys.stdout.flush()
    print(result.to_json() if isinstance(result, Measure) else json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
