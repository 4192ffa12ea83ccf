"""flatcal: plan, explain, validate and run the calibration of CCD and CMOS frames.

Names are loaded when they are first used, so that ``import flatcal`` and the command line
start at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from flatcal._version import __version__

_HOME = {
    "CCDData": "steps",
    "Combiner": "combiner",
    "Config": "recipe",
    "FlatcalError": "errors",
    "FlatcalWarning": "errors",
    "ImageFileCollection": "collection",
    "Keyword": "steps",
    "OverscanModel": "overscan_model",
    "Plan": "plan",
    "RunResult": "engine.result",
    "build_plan": "planning",
    "ccd_process": "steps",
    "combine": "combining",
    "conf": "steps",
    "correct_linearity": "steps",
    "correct_shutter": "steps",
    "cosmicray_lacosmic": "steps",
    "create_deviation": "steps",
    "find_nearest_dark_exposure": "steps",
    "flat_correct": "steps",
    "gain_correct": "steps",
    "load_config": "recipe",
    "load_plan": "saved_plan",
    "measure_gain": "photon_transfer",
    "measure_photon_transfer": "photon_transfer",
    "measure_shutter": "steps",
    "open_library": "library",
    "plot_flats": "report.axes",
    "plot_histograms": "report.axes",
    "plot_overscan": "report.axes",
    "plot_photon_transfer": "report.axes",
    "run_plan": "engine.run",
    "show_image": "report.show",
    "sigma_func": "combiner",
    "style_path": "report.show",
    "subtract_bias": "steps",
    "subtract_dark": "steps",
    "subtract_overscan": "steps",
    "trim_image": "steps",
}

__all__ = [  # noqa: RUF022  (the order of the table above)
    "CCDData",
    "Combiner",
    "Config",
    "FlatcalError",
    "FlatcalWarning",
    "ImageFileCollection",
    "Keyword",
    "OverscanModel",
    "Plan",
    "RunResult",
    "build_plan",
    "ccd_process",
    "combine",
    "conf",
    "correct_linearity",
    "correct_shutter",
    "cosmicray_lacosmic",
    "create_deviation",
    "find_nearest_dark_exposure",
    "flat_correct",
    "gain_correct",
    "load_config",
    "load_plan",
    "measure_gain",
    "measure_photon_transfer",
    "measure_shutter",
    "open_library",
    "plot_flats",
    "plot_histograms",
    "plot_overscan",
    "plot_photon_transfer",
    "run_plan",
    "show_image",
    "sigma_func",
    "style_path",
    "subtract_bias",
    "subtract_dark",
    "subtract_overscan",
    "trim_image",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flatcal' has no attribute {name!r}")
    value = getattr(import_module(f"flatcal.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
