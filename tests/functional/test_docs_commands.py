"""The commands, settings and programs of the pages are run, in the order of each page.

Each page gets a folder of its own with the nights that it speaks of. A block of settings becomes
the file ``night.toml``, a block of Python is executed, a command of flatcal must end with 0.
The tutorial is no page of this test: it is executed when the documentation is built.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from flatcal.cli import app
from flatcal.simulate import simulate_mosaic
from flatcal.simulate.night import Exposure

ROOT = Path(__file__).parents[2]
ROWS, COLUMNS, WIDTH = 1024, 1024, 1056
BIAS_ADU, DARK_ADU_PER_S, GAIN_ELECTRON_PER_ADU, READ_NOISE_ELECTRON = 1000, 0.2, 1.8, 9.0
SETTINGS = """\
[camera]
overscan_section = "[1027:1056,1:1024]"
trim_section = "[1:1024,1:1024]"
gain_electron_per_adu = 1.8
read_noise_electron = 9.0
"""


def frame(rng: np.random.Generator, light_adu: float, exposure_s: float) -> np.ndarray:
    """A frame of the camera of the pages: 32 columns of overscan, light in the first two."""
    electron = (light_adu + DARK_ADU_PER_S * exposure_s) * GAIN_ELECTRON_PER_ADU
    signal = np.zeros((ROWS, WIDTH))
    signal[:, :COLUMNS] = rng.poisson(electron, (ROWS, COLUMNS)) / GAIN_ELECTRON_PER_ADU
    signal[:, COLUMNS : COLUMNS + 2] = light_adu * np.array([0.02, 0.01])
    noise = rng.normal(BIAS_ADU, READ_NOISE_ELECTRON / GAIN_ELECTRON_PER_ADU, (ROWS, WIDTH))
    return np.clip(np.rint(signal + noise), 0, 65535).astype(np.uint16)


@pytest.fixture(scope="session")
def example_night(tmp_path_factory):
    """A night of a camera that flatcal does not know."""
    folder = tmp_path_factory.mktemp("example")
    rng = np.random.default_rng(20250131)
    log = [(f"bias-{i}", "Bias Frame", 0.0, 0.0) for i in (1, 2, 3)]
    log += [(f"dark10-{i}", "Dark Frame", 10.0, 0.0) for i in (1, 2, 3)]
    log += [(f"dark300-{i}", "Dark Frame", 300.0, 0.0) for i in (1, 2, 3)]
    log += [(f"flat-{i}", "Flat Field", 10.0, 21000.0 - 500 * i) for i in (1, 2, 3)]
    log += [("ngc1", "Light Frame", 300.0, 200.0)]
    for minute, (name, kind, exposure_s, light_adu) in enumerate(log):
        header = fits.Header({"IMAGETYP": kind, "EXPTIME": exposure_s, "INSTRUME": "Example CCD"})
        header["DATE-OBS"] = f"2026-01-31T20:{minute:02d}:00"
        header["BUNIT"] = "adu"
        if light_adu:
            header["FILTER"] = "V"
        data = frame(rng, light_adu, exposure_s)
        fits.PrimaryHDU(data, header).writeto(folder / f"{name}.fits")
    return folder


def copy_night(night: Path, to: Path, *leave_out: str) -> Path:
    shutil.copytree(night, to, ignore=shutil.ignore_patterns(*leave_out))
    return to


def run(command: str) -> None:
    """Run a command of flatcal in this process; globs, ~ and > as a shell would."""
    command, _, file = command.partition(" > ")
    words = shlex.split(command, comments=True)[1:]
    words = [os.path.expanduser(word) for word in words]  # noqa: PTH111
    words = [found for word in words for found in sorted(glob.glob(word)) or [word]]  # noqa: PTH207
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"
    if file:
        Path(file).write_text(result.stdout)


# -- what a page needs beside the night ----------------------------------------------------


def short_flats(raw: Path) -> None:
    for flat in raw.glob("flat-*"):
        fits.setval(flat, "EXPTIME", value=2.0)


def twilight(raw: Path) -> None:
    for exposure_s, flat in enumerate(sorted(raw.glob("flat-*")), start=1):
        fits.setval(flat, "EXPTIME", value=1.2 * exposure_s)


def flats_called_light(raw: Path) -> None:
    for flat in raw.glob("flat-*"):
        fits.setval(flat, "IMAGETYP", value="Light Frame")


def in_folders_of_siril(raw: Path) -> None:
    folders = {"biases": "bias*", "darks": "dark*", "flats": "flat-*", "lights": "ngc*"}
    for folder, pattern in folders.items():
        (raw / folder).mkdir()
        for path in sorted(raw.glob(f"{pattern}.fits")):
            fits.setval(path, "IMAGETYP", value="Light Frame")
            path.rename(raw / folder / path.name)


def sections_in_header(raw: Path) -> None:
    for path in raw.glob("*.fits"):
        fits.setval(path, "BIASSEC", value="[1025:1056,1:1024]")
        fits.setval(path, "TRIMSEC", value="[1:1024,1:1024]")


def night_of_a_mosaic(raw: Path) -> None:
    for path in raw.iterdir():
        path.unlink()
    log = [Exposure("bias")] * 3 + [Exposure("dark", 300.0)] * 3
    log += [Exposure("flat", 70.0, 20_000.0, "g'")] * 3 + [Exposure("science", 300.0, 900.0, "g'")]
    simulate_mosaic("lfc", raw, 2, log=log)
    (text,) = (text for _, text in blocks(ROOT / "docs/how-to/mosaics.md") if "[camera]" in text)
    (raw.parent / "night.toml").write_text(text)


def two_nights(raw: Path) -> None:
    here = raw.parent
    copy_night(raw, here / "night1" / "raw")
    copy_night(raw, here / "night2" / "raw", "bias*", "dark*", "flat*")
    for night in ("night1", "night2"):
        (here / night / "flatcal.toml").write_text(SETTINGS)


def reduced_nights(raw: Path) -> None:
    two_nights(raw)
    run("flatcal run night1/raw night1/reduced -c night.toml")
    # The page on the library also makes a lost table again from the files beside it.
    shutil.copytree("night1/reduced/masters", "masters.sqlite.files")


def reduced_calibration(raw: Path) -> None:
    run("flatcal run raw calibration/reduced -c night.toml")
    (raw.parent / "shared").mkdir()


def reduced_night(_raw: Path) -> None:
    run("flatcal run raw OUT -c night.toml")


PREPARE: dict[str, Callable[[Path], None]] = {
    "dark-lengths.md": short_flats,
    "twilight-flats.md": twilight,
    "light-frames.md": flats_called_light,
    "earlier-nights.md": two_nights,
    "library.md": reduced_nights,
    "mosaics.md": night_of_a_mosaic,
    "overscan.md": sections_in_header,
    "siril.md": in_folders_of_siril,
    "shared-library.md": reduced_calibration,
    "verify.md": reduced_night,
}
# Its lines of Python are parts of a notebook, or need a cluster or a server.
NOT_EXECUTED = {"README.md", "verify.md", "cluster.md", "remote.md"}
# Commands of these are run where there is a server: test_library_postgres.py, tests/remote and
# tests/cluster.
SERVERS = ("postgresql://", "s3://", "tcp://host")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def commands_in(text: str) -> list[str]:
    lines = [line.removeprefix("$ ") for line in text.splitlines()]
    return [line for line in lines if line.startswith(("flatcal ", "export "))]


PAGES = [
    page
    for page in sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))
    if "tutorial" not in page.parts and any(commands_in(text) for _, text in blocks(page))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_runs(page, example_night, cg16m_night, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FLATCAL_LIBRARY", raising=False)
    raw = copy_night(example_night, tmp_path / "raw")
    (tmp_path / "RAW").symlink_to(raw)  # where a page leaves the name of the folder open
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "cg16m").symlink_to(cg16m_night.raw.parent)
    settings = tmp_path / "night.toml"
    settings.write_text(SETTINGS)
    PREPARE.get(page.name, lambda _: None)(raw)
    names: dict[str, object] = {}
    for language, text in blocks(page):
        if language == "toml":
            # Settings of another subject stand beside those of the camera.
            camera = "" if "[camera]" in text else SETTINGS
            settings.write_text(camera + "\n" + text)
        elif language == "python" and page.name not in NOT_EXECUTED:
            exec(compile(text, page.name, "exec"), names)
            plt.close("all")
        elif language == "":
            for command in commands_in(text):
                run_shown(command, settings, monkeypatch)


def run_shown(command: str, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if command.startswith("export "):
        name, _, value = command.removeprefix("export ").partition("=")
        monkeypatch.setenv(name, value)
    elif not any(server in command for server in SERVERS):
        if command.startswith("flatcal config init"):
            settings.unlink()
        run(command)


def test_gain_and_read_noise_measured_as_the_page_says_are_true(
    example_night, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").symlink_to(example_night)
    names: dict[str, float] = {}
    for language, text in blocks(ROOT / "docs" / "how-to" / "camera.md"):
        if language == "python":
            exec(compile(text, "camera.md", "exec"), names)
    # The patch has 40 000 pixels: the variance is known to 0.7 %, of two patches together to 1 %.
    assert names["gain_electron_per_adu"] == pytest.approx(GAIN_ELECTRON_PER_ADU, rel=0.03)
    assert names["read_noise_electron"] == pytest.approx(READ_NOISE_ELECTRON, rel=0.04)
