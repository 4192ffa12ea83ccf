"""Lick Kast blue, read by two amplifiers: from the profile through a run, against plain numpy.

There are two flats of one lamp and an arc, but no bias frame: the arc stands in for it, since only
arithmetic is tested with it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from flatcal import Config, build_plan, run_plan
from flatcal.index import find_frames
from flatcal.recipe import parse_config
from flatcal.verify import verify_output

# Counted from 0: image and overscan of each amplifier.
AMPLIFIERS = ((slice(0, 1024), slice(2049, 2080)), (slice(1024, 2048), slice(2080, 2111)))
FLATS = ("b1020.fits", "b1021.fits")


@pytest.fixture(scope="module")
def raw(data_folder: Path) -> Path:
    return data_folder / "hard" / "two-amps"


@pytest.fixture(scope="module")
def out(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kast")
    config = parse_config('[combine]\nreject = "none"\n', "here").with_kinds(["bias=b1003*"])
    result = run_plan(build_plan(raw, config), out)
    assert result.failed == ()
    return out


def assemble(raw: Path, file: str) -> np.ndarray:
    image = fits.getdata(raw / file).astype(np.float64)
    return np.hstack(
        [image[:, own] - np.median(image[:, beside], axis=1)[:, None] for own, beside in AMPLIFIERS]
    )


def test_the_profile_knows_both_amplifiers(raw: Path) -> None:
    for frame in find_frames(raw, Config()):
        assert frame.errors == ()
        assert [d.amplifier for d in frame.detectors] == ["left", "right"]
        assert frame.filter == "452/3306"


def test_the_header_alone_gives_the_same_halves(raw: Path, tmp_path: Path) -> None:
    """COVER, AMPSROW and DNAXIS1, without the profile: all 32 columns of each overscan."""
    data, header = fits.getdata(raw / "b1020.fits", header=True)
    del header["VERSION"]
    fits.PrimaryHDU(data, header).writeto(tmp_path / "unknown.fits", output_verify="ignore")
    (frame,) = find_frames(tmp_path, Config().with_kinds(["flat=*"]))
    assert frame.errors == ()
    rows = slice(0, 350)
    assert [(a.data_section, a.overscan_section) for a in frame.geometry.amplifiers] == [
        ((rows, slice(0, 1024)), (rows, slice(2048, 2080))),
        ((rows, slice(1024, 2048)), (rows, slice(2080, 2112))),
    ]


def test_masters_and_flats_are_those_of_plain_numpy(raw: Path, out: Path) -> None:
    bias = assemble(raw, "b1003.fits")
    flats = {file: assemble(raw, file) - bias for file in FLATS}
    with fits.open(out / "masters/master_bias.fits") as hdus:
        np.testing.assert_allclose(hdus[0].data, bias, atol=1e-3)
    levels = []
    for file, flat in flats.items():
        with fits.open(out / f"flats/flat-{file}") as hdus:
            np.testing.assert_allclose(hdus[0].data, flat, atol=1e-2)
            good = hdus["MASK"].data == 0
        halves = [np.median(flat[:, own][good[:, own]]) for own, _ in AMPLIFIERS]
        levels.append(np.mean(halves))
    expected = np.mean([f / level for f, level in zip(flats.values(), levels, strict=True)], axis=0)
    (path,) = (out / "masters").glob("master_flat_*.fits")
    with fits.open(path) as hdus:
        good = hdus["FLAGS"].data == 0
        ratio = hdus[0].data[good] / expected[good]
    # All but the norm, which is that of the good pixels.
    assert good.mean() > 0.5
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=2e-6)


def test_the_flats_differ_by_the_noise_of_each_amplifier(out: Path) -> None:
    checks = [c for c in verify_output(out).checks if c.test == "flat-photons"]
    assert [c.subject.rsplit(", ", 1)[1] for c in checks] == ["amplifier left", "amplifier right"]
    assert [c.figure for c in checks] == pytest.approx([1, 1], abs=0.04)
