"""The demonstration: simulated nights, reduced by the pipeline and compared with the truth."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from flatcal.engine.result import RunResult
from flatcal.engine.run import run_plan
from flatcal.errors import ConfigError, OutputError
from flatcal.io import open_fits, write_text
from flatcal.naming import stem
from flatcal.planning import build_plan
from flatcal.recipe import load_config
from flatcal.report.page import write_report
from flatcal.report.show import show_file
from flatcal.report.terminal import print_plan, print_result, progress_bar
from flatcal.section import format_section
from flatcal.simulate import CAMERA_NAMES, Camera, NightTruth, simulate_night
from flatcal.storage import Place

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Night:
    """A simulated night.

    Attributes
    ----------
    raw, config, truth_file : Path
        Raw folder, settings for it, and the truth.
    truth : NightTruth
        The truth.
    """

    raw: Path
    config: Path
    truth_file: Path
    truth: NightTruth


@dataclass(frozen=True, slots=True)
class Check:
    """How far a result is from the truth.

    Attributes
    ----------
    what : str
        The result.
    value, limit : float
        The distance, and how far it may be.
    unit : str
        Of both.
    """

    what: str
    value: float
    limit: float
    unit: str

    @property
    def passed(self) -> bool:
        """Whether the distance is within the limit."""
        return abs(self.value) <= self.limit


def simulate_nights(out: Path, camera: str, *, full_size: bool) -> Iterator[Night]:
    """Write the raw nights of one camera or both.

    Parameters
    ----------
    out : Path
        Gets a folder for each camera, with its settings and truth beside ``raw``.
    camera : str
        'lfc', 'cg16m' or 'both'.
    full_size : bool
        The real geometry instead of a quarter of its width and height.
    """
    names = CAMERA_NAMES if camera == "both" else (camera,)
    for name in names:
        if name not in CAMERA_NAMES:
            known = ", ".join((*CAMERA_NAMES, "both"))
            raise ConfigError("bad-config", f"camera {name!r} is not one of {known}")
        raw = out / name / "raw"
        if raw.is_dir() and any(raw.iterdir()):
            raise OutputError("output-exists", f"{raw} holds files; choose another folder")
        try:
            truth = simulate_night(name, raw, full_size=full_size)
        except OSError as error:
            text = f"{raw} cannot be written: {error.strerror or error}"
            raise OutputError("output-not-writable", text) from error
        night = Night(raw, out / name / "flatcal.toml", out / name / "truth.npz", truth)
        truth.save(night.truth_file)
        write_text(night.config, _settings(truth.camera))
        yield night


def _settings(camera: Camera) -> str:
    """Settings for a simulated camera; a quarter-size one has its own sections."""
    rows, columns = camera.image_slice
    trim = format_section((_explicit(rows, camera.rows), _explicit(columns, camera.columns)))
    overscan = "none"
    if camera.name == "lfc":
        clean = camera.clean_overscan_slice[1]
        overscan = format_section((slice(0, camera.rows), _explicit(clean, camera.columns)))
    return (
        "[camera]\n"
        f'overscan_section = "{overscan}"\n'
        f'trim_section = "{trim}"\n'
        f"gain_electron_per_adu = {camera.gain_electron_per_adu}\n"
        f"read_noise_electron = {camera.read_noise_electron}\n"
    )


def _explicit(part: slice, size: int) -> slice:
    return slice(*part.indices(size)[:2])


def run_demo(out: Path, camera: str, *, full_size: bool) -> bool:
    """Simulate, reduce, and compare with the truth.

    Returns
    -------
    bool
        Whether every result is as near to the truth as its noise allows.
    """
    console = Console(highlight=False)
    passed = True
    started = time.monotonic()
    for night in simulate_nights(out, camera, full_size=full_size):
        name = night.truth.camera.name
        console.rule(f"{night.truth.camera.instrument} ({name})")
        plan = build_plan(night.raw, load_config(night.config))
        print_plan(plan)
        reduced = night.raw.parent / "reduced"
        with progress_bar() as progress:
            result = run_plan(plan, reduced, progress=progress)
        print_result(result)
        checks = compare(night.truth, result)
        _print_checks(console, checks)
        passed &= all(check.passed for check in checks) and not result.failed
        picture = show_file(_first_flat(reduced), night.raw.parent / "master_flat.png")
        console.print(f"picture of a master flat: {picture}", markup=False)
        console.print(f"report: {write_report(reduced)}", markup=False)
    console.print(f"demo took {time.monotonic() - started:.1f} s")
    return passed


def _first_flat(reduced: Path) -> Path:
    return sorted((reduced / "masters").glob("master_flat_*.fits"))[0]


def compare(truth: NightTruth, result: RunResult) -> list[Check]:
    """Distances of flats, master flats and science frames from the truth.

    The means of residuals are held against their predicted errors; the scatter of the
    residuals over the predicted standard deviation must be 1.

    Parameters
    ----------
    truth : NightTruth
        What the simulator put in.
    result : RunResult
        What the pipeline gave.
    """
    frames = {frame.file: frame for frame in truth.frames}
    checks = []
    for kind in ("flat", "science"):
        levels, pulls = [], []
        for product in result.record.products.values():
            if not product.output.startswith(f"{'flats' if kind == 'flat' else kind}/"):
                continue
            frame = frames[product.inputs[0]]
            expected = truth.expected_signal(frame)
            if kind == "science":
                expected = truth.expected_flattened(frame)
            level, pull = _residual(result.out / product.output, expected)
            levels.append(level)
            pulls.append(pull)
        worst = max(levels, key=abs)
        checks.append(Check(f"{kind} level, worst of {len(levels)}", worst, 3.0, "ADU"))
        worst = max(pulls, key=lambda pull: abs(pull - 1))
        checks.append(Check(f"{kind} scatter over predicted, minus 1", worst - 1, 0.05, ""))
    for product in result.record.products.values():
        if product.kind == "flat" and product.output.startswith("masters/"):
            checks.append(_flat_check(truth, result.out / product.output))
    return checks


def _residual(path: Place, expected: Array) -> tuple[float, float]:
    """Median residual in ADU, and robust scatter of residuals over their prediction."""
    with open_fits(path) as hdus:
        good = hdus["MASK"].data == 0
        residual = (hdus[0].data - expected)[good]
        predicted = hdus["UNCERT"].data[good]
    pull = residual / predicted
    low, high = np.percentile(pull, (15.865, 84.135))
    return float(np.median(residual)), float(high - low) / 2


def _flat_check(truth: NightTruth, path: Place) -> Check:
    """Robust scatter of master flat over truth in percent; a tenth over its noise is allowed."""
    with open_fits(path) as hdus:
        good = hdus["MASK"].data == 0
        ratio = (hdus[0].data / truth.flat_response[hdus[0].header["FILTER"]])[good]
        predicted = np.median(hdus["UNCERT"].data[good])
    ratio /= np.median(ratio)
    low, high = np.percentile(ratio, (15.865, 84.135))
    limit = 1.1 * float(predicted) * 100
    return Check(f"{stem(path.name)} over truth, scatter", float(high - low) / 2 * 100, limit, "%")


def _print_checks(console: Console, checks: Sequence[Check]) -> None:
    table = Table(title="distance from the truth", title_justify="left", header_style="bold")
    for column in ("result", "distance", "allowed", ""):
        table.add_column(column)
    for check in checks:
        table.add_row(
            check.what,
            f"{check.value:.3g} {check.unit}",
            f"{check.limit:.3g} {check.unit}",
            "right" if check.passed else "WRONG",
        )
    console.print(table)
