"""Outputs that are tile-compressed without loss: the same pixels, read by all that reads others."""

from __future__ import annotations

import itertools
import shutil
import subprocess

import numpy as np
import pytest
import test_engine
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from test_engine import SETTINGS, run, slugs_of_failures, states

import flatcal.fits_writer
from flatcal.collection import ImageFileCollection
from flatcal.engine.master_files import load_master
from flatcal.errors import BrokenFileError, OutputError
from flatcal.fits_writer import write_image
from flatcal.library import open_library
from flatcal.report.page import write_report
from flatcal.report.show import show_file
from flatcal.verify import verify_output

night = test_engine.night

PACKED = SETTINGS + "[output]\ncompress=true\n"


def native(data):
    return data.astype(data.dtype.newbyteorder("="))


def planes_of(path):
    """Type and bytes of each plane, whatever way they are stored."""
    with fits.open(path) as hdus:
        images = [hdu for hdu in hdus if hdu.shape]
        return {hdu.name: (hdu.header["BITPIX"], native(hdu.data).tobytes()) for hdu in images}


def odd_planes():
    """Floats that any arithmetic would change, and all that flags can be."""
    data = np.random.default_rng(5).normal(1000, 10, (40, 50)).astype(np.float32)
    data[0, :6] = np.nan, np.inf, -np.inf, -0.0, 1e-42, np.float32(3e38)
    data[1, 0] = np.array(0x7FC12345, np.uint32).view(np.float32)  # NaN with a message
    flags = np.arange(-1000, 1000, dtype=np.int16).reshape(40, 50)
    return {"PRIMARY": data, "UNCERT": data.astype(np.float64), "FLAGS": flags}


def test_no_bit_of_any_type_changes(tmp_path):
    planes = odd_planes()
    write_image(tmp_path / "x.fits.fz", fits.Header({"BUNIT": "adu"}), planes)
    read = planes_of(tmp_path / "x.fits.fz")
    assert {name: content for name, (_, content) in read.items()} == {
        name: plane.tobytes() for name, plane in planes.items()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["x.fits.fz"]


def test_checksums_are_those_of_the_tables_and_of_the_planes(tmp_path):
    for name in ("x.fits", "x.fits.fz"):
        write_image(tmp_path / name, fits.Header({"BUNIT": "adu"}), odd_planes())
    with fits.open(tmp_path / "x.fits.fz", disable_image_compression=True) as hdus:
        assert [(h.verify_datasum(), h.verify_checksum()) for h in hdus] == [(1, 1)] * 4
        with fits.open(tmp_path / "x.fits") as plain:
            for table, image in zip(hdus[1:], plain, strict=True):
                assert table.header["ZDATASUM"] == image.header["DATASUM"]
                assert table.header["ZHECKSUM"] == image.header["CHECKSUM"]


@pytest.mark.skipif(shutil.which("funpack") is None, reason="no funpack (Debian: libcfitsio-bin)")
def test_funpack_restores_the_plain_file(tmp_path):
    """CFITSIO reads what astropy has packed: the same planes, and checksums that hold."""
    for name in ("x.fits", "x.fits.fz"):
        write_image(tmp_path / name, fits.Header({"BUNIT": "adu", "FILTER": "V"}), odd_planes())
    command = ["funpack", "-O", tmp_path / "y.fits", tmp_path / "x.fits.fz"]
    subprocess.run(command, check=True, capture_output=True)
    assert planes_of(tmp_path / "y.fits") == planes_of(tmp_path / "x.fits")
    with fits.open(tmp_path / "y.fits", checksum=True) as hdus:
        assert isinstance(hdus[0], fits.PrimaryHDU)
        assert (hdus[0].header["BUNIT"], hdus[0].header["FILTER"]) == ("adu", "V")


def test_a_run_gives_the_same_pixels_in_the_same_bytes_each_time(night, tmp_path):
    """Masters that are read again from packed files calibrate as those in memory do."""
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    assert run(night, plain).failed == run(night, packed, PACKED).failed == ()
    files = sorted(path.relative_to(plain) for path in plain.rglob("*.fits"))
    assert len(files) > 10
    assert not list(packed.rglob("*.fits"))
    for file in files:
        assert planes_of(packed / f"{file}.fz") == planes_of(plain / file), file
    before = states(packed)
    # Nothing is made again; and of a science frame that is, the masters come from their files.
    assert run(night, packed, PACKED).made == ()
    assert states(packed) == before
    (packed / "science/science-sg.fits.fz").unlink()
    assert run(night, packed, PACKED).made == ("science/science-sg.fits.fz",)
    assert states(packed).keys() == before.keys()
    name = "science/science-sg.fits.fz"
    assert states(packed)[name][0] == before[name][0]


def test_a_change_of_the_setting_makes_all_anew_and_names_what_is_left(night, tmp_path):
    out = tmp_path / "out"
    made = run(night, out).made
    again = run(night, out, PACKED)
    assert again.made == tuple(sorted(f"{name}.fz" for name in made))
    assert again.left_over == made
    assert run(night, out).left_over == again.made


def test_a_damaged_master_is_not_used(night, tmp_path):
    out = tmp_path / "out"
    run(night, out, PACKED)
    path = out / "masters/master_flat_g.fits.fz"
    with fits.open(path, disable_image_compression=True) as hdus:
        heap = hdus[1].fileinfo()["datLoc"] + hdus[1].header["NAXIS1"] * hdus[1].header["NAXIS2"]
    with path.open("r+b") as file:
        file.seek(heap + 20)
        file.write(b"\x00\xff\x00")
    (out / "science/science-sg.fits.fz").unlink()
    assert slugs_of_failures(run(night, out, PACKED))["sg.fits"] == ["file-broken"]


def unit_of(path, index):
    """Where header and data of a unit begin."""
    with fits.open(path, disable_image_compression=True) as hdus:
        about = hdus[index].fileinfo()
        return about["hdrLoc"], about["datLoc"]


def flip_unit(path, index):
    """One bit of the text of BUNIT."""
    start, _ = unit_of(path, index)
    content = bytearray(path.read_bytes())
    place = content.index(b"BUNIT   = '", start) + len("BUNIT   = '")
    content[place] ^= 1
    path.write_bytes(content)


def remove_card(path, index, keyword):
    start, _ = unit_of(path, index)
    content = path.read_bytes()
    place = content.index(keyword.ljust(8).encode() + b"=", start)
    path.write_bytes(content[:place] + b" " * 80 + content[place + 80 :])


@pytest.mark.parametrize(("text", "suffix"), [("", ""), (PACKED, ".fz")], ids=["plain", "packed"])
@pytest.mark.parametrize("plane", [0, 1], ids=["PRIMARY", "UNCERT"])
@pytest.mark.parametrize(
    "damage",
    [
        flip_unit,
        lambda path, index: remove_card(path, index, "DATASUM"),
        lambda path, index: remove_card(path, index, "CHECKSUM"),
    ],
    ids=["bit", "DATASUM", "CHECKSUM"],
)
def test_a_master_whose_header_was_changed_is_not_used(
    night, tmp_path, damage, plane, text, suffix
):
    out = tmp_path / "out"
    run(night, out, text)
    damage(out / f"masters/master_flat_g.fits{suffix}", plane + bool(suffix))
    (out / f"science/science-sg.fits{suffix}").unlink()
    assert slugs_of_failures(run(night, out, text))["sg.fits"] == ["file-broken"]


def test_a_master_of_the_library_may_lack_its_checksums(night, tmp_path):
    """The library has the SHA-256 of the file; but what is there must be right."""
    run(night, tmp_path / "out")
    path = tmp_path / "out/masters/master_bias.fits"
    for index, keyword in itertools.product(range(3), ("CHECKSUM", "DATASUM")):
        remove_card(path, index, keyword)
    with open_library(tmp_path / "masters.sqlite") as library:
        stored = library.add(path)
        assert load_master(path, "", np.float32, None, stored).data.shape
        with pytest.raises(BrokenFileError, match="DATASUM of PRIMARY is missing"):
            load_master(path, "", np.float32, None)
    flip_unit(tmp_path / "out/masters/master_flat_g.fits", 0)
    with pytest.raises(BrokenFileError, match=f"retire {stored.id}"):
        load_master(tmp_path / "out/masters/master_flat_g.fits", "", np.float32, 1.0, stored)


def test_a_disk_that_is_full_leaves_nothing(tmp_path, monkeypatch):
    """Whole or not at all: neither the packed file, nor the plain one that it is made from."""
    out, write_whole = tmp_path / "out", flatcal.fits_writer.write_whole
    out.mkdir()

    def fail(file, content):
        if str(file.name).find(".fz.") >= 0 and content.nbytes > 2880:
            raise OSError(28, "No space left on device")
        write_whole(file, content)

    monkeypatch.setattr(flatcal.fits_writer, "write_whole", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_image(out / "x.fits.fz", fits.Header({"BUNIT": "adu"}), odd_planes())
    assert list(out.iterdir()) == []


def test_all_that_reads_outputs_reads_these(night, tmp_path):
    """CCDData, a collection, verify, report, show, and a library."""
    out = tmp_path / "out"
    run(night, out, PACKED)
    plain = tmp_path / "plain"
    run(night, plain)
    frame = CCDData.read(out / "science/science-sg.fits.fz", hdu=1)
    assert isinstance(frame.uncertainty, StdDevUncertainty)
    assert frame.mask is not None
    np.testing.assert_array_equal(frame.data, fits.getdata(plain / "science/science-sg.fits"))
    found = ImageFileCollection(out / "masters", ext=1).files_filtered(
        imagetyp="flat", combined=True
    )
    assert list(found) == ["master_flat_g.fits.fz", "master_flat_r.fits.fz"]

    def verdicts(folder):
        checks = verify_output(folder).checks
        return [(c.test, c.subject.replace(".fz", ""), c.verdict, c.figure) for c in checks]

    assert verdicts(out) == verdicts(plain)
    assert write_report(out).stat().st_size > 10_000
    assert show_file(out / "masters/master_flat_g.fits.fz", tmp_path / "x.png")
    with open_library(tmp_path / "lib.sqlite", create=True) as library:
        added = library.add(out / "masters/master_bias.fits.fz")
        assert added.kind == "bias"


def test_the_packing_of_an_output_can_be_interrupted(tmp_path):
    """Between two planes, each of which takes a second or more of a large image."""
    asked = []

    def leave():
        asked.append(len(list(tmp_path.iterdir())))
        if len(asked) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "x.fits.fz", fits.Header({"BUNIT": "adu"}), odd_planes(), leave)
    assert asked == [2, 2]  # the plain file, and the packed one
    assert list(tmp_path.iterdir()) == []
