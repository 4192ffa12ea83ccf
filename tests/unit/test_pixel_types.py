"""Raw pixels of every type and packing, from the bytes of the file to the calibrated frame.

The oracle decodes stored numbers by hand (physical value = BZERO + BSCALE x stored, FITS standard
4.0, section 4.4.2) and calibrates in plain numpy.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits

from flatcal.cli import main
from flatcal.engine.run import run_plan
from flatcal.index import find_frames
from flatcal.planning import build_plan
from flatcal.recipe import parse_config

SETTINGS = """\
[camera]
gain_electron_per_adu = 1.5
read_noise_electron = 6
saturation_adu = {saturation}
[combine]
reject = "none"
[dark]
required = false
"""
LEVELS = {"BIAS": 1000, "FLAT": 20_000, "LIGHT": 3000}
SHAPE = (40, 56)


def light(rng, kind):
    """Whole numbers, so that each type of pixels can hold them."""
    level = LEVELS[kind]
    return np.round(rng.normal(level, np.sqrt(4**2 + (level - LEVELS["BIAS"]) / 1.5), SHAPE))


# Type in the file, BZERO and BSCALE: stored = (value - BZERO) / BSCALE.
TYPES = {
    "int16": (np.int16, 0, 1),
    "uint16": (np.int16, 32768, 1),
    "int32": (np.int32, 0, 1),
    "uint32": (np.int32, 2**31, 1),
    "int64": (np.int64, 0, 1),
    "float32": (np.float32, 0, 1),
    "float64": (np.float64, 0, 1),
    "halves": (np.int32, 0, 0.5),
    "doubles": (np.int16, 0, 2),
    "odd zero": (np.int16, 12000, 1),
    "negative": (np.int32, 0, -1),
    "scaled floats": (np.float32, 100, 4),
    "uint8": (np.uint8, 900, 100),
}


def write_raw(path, values, name, blanks=None, **cards):
    """A file written byte by byte: no library decides how numbers are stored."""
    dtype, zero, scale = TYPES[name]
    stored = np.round((values - zero) / scale) if np.issubdtype(dtype, np.integer) else (
        values - zero
    ) / scale  # fmt: skip
    stored = stored.astype(dtype)
    if blanks is not None:
        blank, where = blanks
        stored[where] = blank
        if np.issubdtype(dtype, np.integer):
            cards["BLANK"] = blank
    bits = stored.dtype.itemsize * 8 * (1 if np.issubdtype(dtype, np.integer) else -1)
    header = fits.Header(
        [("SIMPLE", True), ("BITPIX", bits), ("NAXIS", 2)]
        + [("NAXIS1", values.shape[1]), ("NAXIS2", values.shape[0])]
        + ([("BZERO", zero), ("BSCALE", scale)] if (zero, scale) != (0, 1) else [])
        + list(cards.items())
    )
    content = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
    padding = b"\0" * (-len(content) % 2880)
    path.write_bytes(header.tostring().encode() + content + padding)
    return stored.astype(float) * scale + zero


def night_of(folder, write, seed=3):
    """Three bias frames, three flats and a science frame; the values that `write` returns."""
    folder.mkdir()
    rng, values = np.random.default_rng(seed), {}
    for kind, n in (("BIAS", 3), ("FLAT", 3), ("LIGHT", 1)):
        for i in range(n):
            cards = {"IMAGETYP": kind, "EXPTIME": 0.0 if kind == "BIAS" else 10.0, "BUNIT": "adu"}
            if kind != "BIAS":
                cards["FILTER"] = "V"
            path = folder / f"{kind}{i}.fits"
            values.setdefault(kind, []).append(write(path, light(rng, kind), **cards))
    return {kind: np.array(frames) for kind, frames in values.items()}


def calibrated_by_hand(values):
    bias = values["BIAS"].mean(axis=0)
    flats = values["FLAT"] - bias
    flat = (flats / np.median(flats, axis=(1, 2))[:, None, None]).mean(axis=0)
    return (values["LIGHT"][0] - bias) / (flat / np.median(flat))


def reduce(raw, out, saturation=60_000):
    config = parse_config(SETTINGS.format(saturation=saturation), "night.toml")
    result = run_plan(build_plan(raw, config), out)
    assert result.failed == ()
    with fits.open(out / "science/science-LIGHT0.fits") as hdus:
        return hdus[0].data.astype(float), hdus["FLAGS"].data.copy(), hdus["UNCERT"].data.copy()


@pytest.mark.parametrize("name", TYPES)
def test_every_type_gives_its_values(tmp_path, name):
    values = night_of(tmp_path / "raw", lambda p, v, **cards: write_raw(p, v, name, **cards))
    data, flags, _ = reduce(tmp_path / "raw", tmp_path / "out")
    np.testing.assert_allclose(data, calibrated_by_hand(values), rtol=3e-6)
    assert np.count_nonzero(flags) == 0


BLANKS = {
    "int16": -32768,
    "uint16": -32768,  # 0 once BZERO is added
    "uint32": -(2**31),
    "int32": -(2**31),
    "halves": 17,
    "uint8": 255,
    "float32": np.nan,
    "float64": np.nan,
    "scaled floats": np.nan,
}


@pytest.mark.parametrize("name", BLANKS)
def test_blank_pixels_are_flagged_and_not_used(tmp_path, name):
    """In a bias, in a flat and in the science frame, each at a place of its own."""
    places = {"BIAS0": (4, 5), "FLAT1": (6, 7), "LIGHT0": (8, 9)}

    def write(path, pixels, **cards):
        place = places.get(path.stem)
        blanks = None if place is None else (BLANKS[name], place)
        values = write_raw(path, pixels, name, blanks, **cards)
        if place is not None:
            values[place] = np.nan
        return values

    values = night_of(tmp_path / "raw", write)
    data, flags, _ = reduce(tmp_path / "raw", tmp_path / "out")
    assert flags[8, 9] & 2  # NON_FINITE
    assert np.count_nonzero(flags) == 1
    bias = np.nanmean(values["BIAS"], axis=0)
    flats = values["FLAT"] - bias
    flat = np.nanmean(flats / np.nanmedian(flats, axis=(1, 2))[:, None, None], axis=0)
    expected = (values["LIGHT"][0] - bias) / (flat / np.median(flat))
    good = np.isfinite(expected)
    assert np.count_nonzero(~good) == 1
    np.testing.assert_allclose(data[good], expected[good], rtol=3e-6)
    with fits.open(tmp_path / "out/masters/master_bias.fits") as hdus:
        assert hdus["NUSED"].data[4, 5] == 2
    with fits.open(tmp_path / "out/masters/master_flat_V.fits") as hdus:
        assert hdus["NUSED"].data[6, 7] == 2


@pytest.mark.parametrize(("keyword", "text"), [("BSCALE", "0"), ("BZERO", "'none'")])
def test_a_scale_that_gives_no_values_is_refused(tmp_path, keyword, text):
    path = tmp_path / "x.fits"
    values = light(np.random.default_rng(1), "LIGHT")
    write_raw(path, values, "halves", IMAGETYP="LIGHT", EXPTIME=1.0)
    content = path.read_bytes()
    place = content.index(f"{keyword:8}=".encode())
    card = f"{keyword:8}= {text}".ljust(80).encode()
    path.write_bytes(content[:place] + card + content[place + 80 :])
    (frame,) = find_frames(tmp_path, parse_config("", "x"))
    assert [(e.slug, keyword in e.text) for e in frame.errors] == [("image-type", True)]


def test_the_largest_value_is_that_of_either_end(tmp_path):
    """Of a negative BSCALE the least number of the file is the largest value."""
    write_raw(tmp_path / "x.fits", light(np.random.default_rng(1), "LIGHT"), "negative")
    (frame,) = find_frames(tmp_path, parse_config("", "x"))
    assert frame.detectors[0].saturation_adu == 2**31


# -- tiles -------------------------------------------------------------------------------

TILES = {
    "rice": {"compression_type": "RICE_1", "tile_shape": (16, 24)},
    "gzip": {"compression_type": "GZIP_1"},
    "gzip shuffled": {"compression_type": "GZIP_2", "tile_shape": (40, 56)},
    "hcompress": {"compression_type": "HCOMPRESS_1", "tile_shape": (16, 16)},
    "plio": {"compression_type": "PLIO_1", "tile_shape": (7, 56)},
    "none": {"compression_type": "NOCOMPRESS"},
}


def tiles_writer(options, dtype):
    def write(path, values, **cards):
        hdu = fits.CompImageHDU(values.astype(dtype), fits.Header(cards), **options)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(f"{path}.fz")
        return values

    return write


@pytest.mark.parametrize("name", TILES)
def test_every_packing_gives_its_values(tmp_path, name, monkeypatch, capsys):
    """Through the commands that read raw frames and what is made of them."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    values = night_of(raw, tiles_writer(TILES[name], np.int32))
    data, flags, _ = reduce(raw, out)
    np.testing.assert_allclose(data, calibrated_by_hand(values), rtol=3e-6)
    assert np.count_nonzero(flags) == 0
    settings = tmp_path / "night.toml"
    settings.write_text(SETTINGS.format(saturation=60_000))
    for words in (
        ("inspect", raw),
        ("plan", raw, "-c", settings),
        ("show", raw / "FLAT0.fits.fz", "-o", tmp_path / "x.png"),
        ("verify", out),
    ):
        monkeypatch.setattr(sys, "argv", ["flatcal", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0, capsys.readouterr()


@pytest.mark.skipif(shutil.which("fpack") is None, reason="no fpack (Debian: libcfitsio-bin)")
@pytest.mark.parametrize("name", ["int16", "uint16", "int32", "float32"])
def test_blank_pixels_that_cfitsio_has_packed_are_flagged(tmp_path, name):
    """Lossless, Rice's algorithm for integers and gzip for floats, by the program of CFITSIO."""

    def write(path, pixels, **cards):
        blanks = (BLANKS[name], (8, 9)) if path.stem == "LIGHT0" else None
        values = write_raw(path, pixels, name, blanks, **cards)
        how = ("-g", "-q", "0") if name == "float32" else ()
        subprocess.run(["fpack", *how, "-D", "-Y", path], check=True, capture_output=True)
        return values

    values = night_of(tmp_path / "raw", write)
    data, flags, _ = reduce(tmp_path / "raw", tmp_path / "out")
    assert np.flatnonzero(flags).tolist() == [8 * SHAPE[1] + 9]
    expected = calibrated_by_hand(values)
    expected[8, 9] = data[8, 9] = 0
    np.testing.assert_allclose(data, expected, rtol=3e-6)
