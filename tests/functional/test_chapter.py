"""The guide's chapter on calibrating flats, cell by cell, beside the same cells with ccdproc.

The cells run as they stand; only two imports are changed. After each cell every image, number
and list that both notebooks hold is compared.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import warnings
from contextlib import chdir
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.stats import mad_std
from matplotlib import pyplot as plt

from flatcal import (
    FlatcalWarning,
    ImageFileCollection,
    combine,
    style_path,
    subtract_bias,
    subtract_overscan,
    trim_image,
)
from flatcal.simulate import make_detector

CHAPTER = Path(
    os.environ.get(
        "FLATCAL_CHAPTER", Path(__file__).resolve().parents[3] / "shared" / "chapter.txt"
    )
)
pytestmark = [
    pytest.mark.skipif(
        not CHAPTER.is_file(), reason=f"no chapter at {CHAPTER}; set FLATCAL_CHAPTER"
    ),
    # astropy's reader says so of every frame with DATE-OBS and without MJD-OBS
    pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning"),
]

IMPORTS = {
    "flatcal": {
        "import ccdproc as ccdp": "import flatcal as ccdp",
        "from convenience_functions import show_image": "from flatcal import show_image",
    },
    "ccdproc": {
        "from convenience_functions import show_image": "def show_image(*args, **kwargs): pass",
    },
}
# float32 against float64: two roundings of values below 65536
CLOSE = {"rtol": 1e-6, "atol": 0.01}
NOT_COMPARED = {"BITPIX", "BZERO", "BSCALE"}


def read_cells(heading: str, until: str | None = None) -> list[str]:
    text = CHAPTER.read_text()
    part = text[text.index(heading) : text.index(until) if until else None]
    return re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL)


def preamble() -> list[str]:
    return read_cells("### Function definition", "## Example 1")


class Notebook:
    """Runs cells in a folder of its own; the value of a cell's last expression is ``_``."""

    def __init__(self, package: str, folder: Path) -> None:
        self.package = package
        self.folder = folder
        self.names: dict[str, Any] = {}
        folder.mkdir()
        shutil.copy(style_path(), folder / "guide.mplstyle")

    def run(self, cell: str) -> None:
        for old, new in IMPORTS[self.package].items():
            cell = cell.replace(old, new)
        tree = ast.parse(cell)
        if isinstance(tree.body[-1], ast.Expr):
            name = ast.Name("_", ast.Store())
            tree.body[-1] = ast.Assign([name], tree.body[-1].value)
        with chdir(self.folder):
            exec(compile(ast.fix_missing_locations(tree), "<cell>", "exec"), self.names)
        plt.close("all")


@pytest.fixture
def notebooks(tmp_path):
    with mpl.rc_context():
        yield [Notebook(package, tmp_path / package) for package in IMPORTS]
    shutil.rmtree(tmp_path)  # two gigabytes


def run_cells(notebooks: list[Notebook], cells: list[str]) -> None:
    ours, theirs = notebooks
    for cell in cells:
        ours.run(cell)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs.run(cell)
        assert_same_state(ours.names, theirs.names, cell)


def assert_same_state(ours: dict[str, Any], theirs: dict[str, Any], cell: str) -> None:
    assert set(theirs) <= set(ours)
    for name, value in theirs.items():
        if isinstance(value, CCDData):
            assert_same_image(ours[name], value, f"{name} after {cell}")
        elif isinstance(value, dict) and name == "combined_darks":
            assert ours[name].keys() == value.keys()
        elif isinstance(value, np.ndarray):
            assert ours[name].tolist() == value.tolist()
        elif isinstance(value, int | float | str | set | Path | np.floating):
            assert ours[name] == value, f"{name} after {cell}"


def assert_same_image(ours: CCDData, theirs: CCDData, where: str) -> None:
    assert ours.unit == theirs.unit, where
    np.testing.assert_allclose(ours.data, theirs.data, **CLOSE, err_msg=where)
    assert (ours.mask is None) == (theirs.mask is None), where
    if theirs.mask is not None:
        np.testing.assert_array_equal(ours.mask, theirs.mask, err_msg=where)
    assert (ours.uncertainty is None) == (theirs.uncertainty is None), where
    if theirs.uncertainty is not None:
        np.testing.assert_allclose(
            ours.uncertainty.array, theirs.uncertainty.array, **CLOSE, err_msg=where
        )


def assert_same_files(notebooks: list[Notebook], reduced: str, n_files: int) -> None:
    """Compare what the folder loops wrote: pixels, and every card that ccdproc wrote."""
    ours, theirs = (notebook.folder / reduced for notebook in notebooks)
    written = [path.name for path in theirs.iterdir() if not path.is_symlink()]
    assert len(written) == n_files
    for name in written:
        one, other = CCDData.read(ours / name), CCDData.read(theirs / name)
        assert_same_image(one, other, name)
        for keyword in set(other.header) - NOT_COMPARED:
            assert one.header[keyword] == other.header[keyword], f"{keyword} in {name}"


def expose(folder: Path, camera: str, log: list[tuple[str, float, float]]) -> None:
    """Write raw frames of (kind, exposure time in s, level in ADU) of the real size."""
    folder.mkdir()
    detector = make_detector(camera, full_size=True)
    for number, (kind, exposure_time_s, level) in enumerate(log, start=1):
        data, header, truth = detector.expose(
            kind, exposure_time_s, level_adu=level, frame_number=number
        )
        fits.PrimaryHDU(data, header).writeto(folder / truth.file)


def write_master(frames: list[CCDData], path: Path) -> CCDData:
    """Combine as the guide's earlier chapters do."""
    master = combine(
        frames,
        method="average",
        sigma_clip=True,
        sigma_clip_low_thresh=5,
        sigma_clip_high_thresh=5,
        sigma_clip_func=np.ma.median,
        sigma_clip_dev_func=mad_std,
        dtype=np.float32,
    )
    master.meta["combined"] = True
    master.write(path)
    return master


def link(notebooks: list[Notebook], raw: Path, masters: Path, reduced: str) -> None:
    """Let both notebooks see the same raw frames and masters."""
    for notebook in notebooks:
        (notebook.folder / raw.name).symlink_to(raw)
        (notebook.folder / reduced).mkdir()
        for master in masters.iterdir():
            (notebook.folder / reduced / master.name).symlink_to(master)


def test_example_1_darks_are_not_scaled(notebooks, tmp_path):
    raw, masters = tmp_path / "example-cryo-LFC", tmp_path / "masters"
    masters.mkdir()
    darks = [("dark", time, 0.0) for time in (7.0, 70.0, 300.0) for _ in range(2)]
    flats = [("flat", 7.0, 20_000.0), ("flat", 70.011, 19_800.0)]
    expose(raw, "lfc", [("bias", 0.0, 0.0), *darks, *flats])
    files = ImageFileCollection(raw)
    for time in (7.0, 70.0, 300.0):
        frames = [
            trim_image(subtract_overscan(ccd, overscan=ccd[:, 2055:], median=True)[:, :2048])
            for ccd in files.ccds(imagetyp="dark", exptime=time, ccd_kwargs={"unit": "adu"})
        ]
        write_master(frames, masters / f"combined_dark_{time:.3f}.fits")
    link(notebooks, raw, masters, "example1-reduced")

    run_cells(notebooks, preamble() + read_cells("## Example 1", "## Example 2"))

    assert notebooks[0].names["closest_dark"] in (7.0, 70.0)
    assert_same_files(notebooks, "example1-reduced", len(flats))


def test_example_2_darks_are_scaled(notebooks, tmp_path):
    raw, masters = tmp_path / "example-thermo-electric", tmp_path / "masters"
    masters.mkdir()
    flats = [("flat", 1.0, 44_000.0), ("flat", 1.21, 37_000.0)]
    log = [("bias", 0.0, 0.0)] * 2 + [("dark", 90.0, 0.0)] * 2 + flats
    expose(raw, "cg16m", log)
    files = ImageFileCollection(raw)
    biases = [trim_image(ccd[:, :4096]) for ccd in files.ccds(imagetyp="bias")]
    bias = write_master(biases, masters / "combined_bias.fits")
    darks = [subtract_bias(trim_image(ccd[:, :4096]), bias) for ccd in files.ccds(imagetyp="dark")]
    write_master(darks, masters / "combined_dark_90.000.fits")
    link(notebooks, raw, masters, "example2-reduced")
    *steps, loop = read_cells("## Example 2")

    run_cells(notebooks, preamble() + steps)
    # The guide's loop forgets to subtract the bias from the flats.
    with pytest.warns(FlatcalWarning) as caught:
        run_cells(notebooks, [loop])

    own = [warning for warning in caught if issubclass(warning.category, FlatcalWarning)]
    assert [warning.message.slug for warning in own] == ["bias-still-in-frame"] * len(flats)
    assert {warning.filename for warning in own} == {"<cell>"}
    assert_same_files(notebooks, "example2-reduced", len(flats))
