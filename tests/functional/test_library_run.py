"""Runs that take masters from a library and add their own, over two nights of one camera."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from test_cli import flatcal, said

SCIENCE = "science/science-032.fits"


@pytest.fixture(scope="module")
def kept(cg16m_night, tmp_path_factory):
    """The reduced night, a library that has its masters, and a night with science frames alone."""
    folder = tmp_path_factory.mktemp("nights")
    library = folder / "lib" / "masters.sqlite"
    words = ("-c", cg16m_night.config, "--library", library)
    done = flatcal("run", cg16m_night.raw, folder / "first", *words, "--keep-masters")
    assert done.returncode == 0
    assert "library 2: master_dark_90s.fits" in done.stdout
    second = folder / "second"
    second.mkdir()
    for number in (32, 33):
        shutil.copy2(cg16m_night.raw / f"science-0{number}.fits", second)
    return folder / "first", second, words


@pytest.fixture
def own(kept, tmp_path):
    """The same with a library that the test may change."""
    first, second, (option, config, name, library) = kept
    shutil.copytree(library.parent, tmp_path / "lib")
    return first, second, (option, config, name, tmp_path / "lib" / library.name)


def test_science_calibrated_from_the_library_is_that_of_its_own_night(kept, cg16m_night, tmp_path):
    """To the bit; and its sky is that of the simulator to a part of its noise."""
    first, second, words = kept
    assert flatcal("run", second, tmp_path / "out", *words).returncode == 0
    data, header = fits.getdata(tmp_path / "out" / SCIENCE, header=True)
    np.testing.assert_array_equal(data, fits.getdata(first / SCIENCE))
    assert (header["DARKNAME"], header["FLATNAME"]) == (
        "library_2_dark_90s.fits",
        "library_3_flat_r.fits",
    )
    (truth,) = (f for f in cg16m_night.truth.frames if f.file == "science-032.fits")
    assert np.median(data) == pytest.approx(truth.signal_adu, abs=0.5)


def test_a_retired_master_is_not_chosen(own, tmp_path):
    _, second, words = own
    assert flatcal("library", "retire", "2", *words[2:]).returncode == 0
    said(flatcal("plan", second, *words), "no-dark", 3)
    said(flatcal("run", second, tmp_path / "out", *words), "no-dark", 1)


def test_a_master_whose_file_was_changed_fails_the_frames_that_need_it(own, tmp_path):
    _, second, words = own
    (dark,) = Path(words[3].parent, "masters.sqlite.files").glob("dark-*")
    dark.chmod(0o644)
    content = bytearray(dark.read_bytes())
    content[-20_000] ^= 1
    dark.write_bytes(content)
    done = flatcal("run", second, tmp_path / "out", *words)
    assert done.returncode != 0
    assert not (tmp_path / "out" / SCIENCE).exists()
    assert dark.name in done.stdout + done.stderr


def test_masters_of_a_run_come_into_the_library_once(own, cg16m_night, tmp_path):
    _, _, words = own
    done = flatcal("run", cg16m_night.raw, tmp_path / "out", *words, "--keep-masters")
    assert done.returncode == 0
    listed = flatcal("library", "find", "--paths", *words[2:])
    assert len(listed.stdout.split()) == 3
