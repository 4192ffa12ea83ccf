"""flatcal: plan, explain, validate and run the calibration of CCD and CMOS frames.

Names are loaded when they are first used, so that ``import flatcal`` and the command line
start at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from flatcal._version import __version__

_HOME = {
    "Config": "recipe",
    "load_config": "recipe",
    "Plan": "plan",
    "build_plan": "plan",
    "RunResult": "engine.run",
    "run_plan": "engine.run",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flatcal' has no attribute {name!r}")
    value = getattr(import_module(f"flatcal.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
