"""Pixels of raw files against astropy, and outputs that are whole or not there."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from flatcal import fits_writer
from flatcal.camera import CameraSettings
from flatcal.errors import BrokenFileError, OutputError
from flatcal.facts import read_frames
from flatcal.fits_writer import write_image, writing_image
from flatcal.io import replacing, write_text
from flatcal.raw_frame import RawFrame

ROWS, COLUMNS = 9, 14


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# -- outputs -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_half_way_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "image.fits"
    path.write_text("old")

    def write():
        with replacing(path) as part:
            part.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["image.fits"]


def test_an_error_half_way_leaves_no_new_file(tmp_path):
    def write():
        with replacing(tmp_path / "image.fits") as part:
            part.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert names(tmp_path) == []


def test_a_full_device_is_told_with_the_name_of_the_file(tmp_path):
    path = tmp_path / "image.fits"
    path.write_text("old")

    def write():
        with replacing(path) as part:
            part.write_text("half of the n")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError) as caught:
        write()
    assert caught.value.slug == "output-not-writable"
    assert str(path) in caught.value.text
    assert "No space left on device" in caught.value.text
    assert path.read_text() == "old"
    assert names(tmp_path) == ["image.fits"]


def test_the_file_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "image.fits"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert part.parent == tmp_path  # a rename within one file system
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["image.fits"]


def planes():
    rng = np.random.default_rng(1)
    data = rng.normal(100, 10, (ROWS, COLUMNS)).astype(np.float32)
    std = rng.uniform(1, 2, (ROWS, COLUMNS)).astype(np.float32)
    return data, std, rng.integers(0, 3, (ROWS, COLUMNS), np.uint8)


def test_an_image_is_written_as_it_is(tmp_path):
    data, std, flags = planes()
    path = tmp_path / "image.fits"
    header = fits.Header({"BUNIT": "adu"})
    write_image(path, header, {"PRIMARY": data, "UNCERT": std, "MASK": flags})
    with fits.open(path) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "UNCERT", "MASK"]
        for hdu, expected in zip(hdus, (data, std, flags), strict=True):
            np.testing.assert_array_equal(hdu.data, expected)
        assert hdus["UNCERT"].header["UTYPE"] == "StdDevUncertainty"
        assert hdus["UNCERT"].header["BUNIT"] == "adu"
    assert names(tmp_path) == ["image.fits"]


def test_an_image_in_bands_is_the_same_file(tmp_path):
    data, std, flags = planes()
    images = {"PRIMARY": data, "UNCERT": std, "MASK": flags}
    dtypes = {name: image.dtype for name, image in images.items()}
    write_image(tmp_path / "whole.fits", fits.Header({"BUNIT": "adu"}), images)
    path, header = tmp_path / "bands.fits", fits.Header({"BUNIT": "adu"})
    with writing_image(path, header, 0, data.shape, dtypes) as writer:
        for start in range(0, ROWS, 4):
            band = slice(start, start + 4)
            writer.write(data[band], std[band], flags[band])
        writer.finish(header)
    assert path.read_bytes() == (tmp_path / "whole.fits").read_bytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_checksums_are_those_of_astropy(tmp_path, dtype):
    """Warnings are errors here: astropy warns of a checksum that does not fit."""
    data, std, flags = planes()
    path = tmp_path / "image.fits"
    header = fits.Header({"BUNIT": "adu"})
    images = {"PRIMARY": data.astype(dtype), "UNCERT": std.astype(dtype), "MASK": flags}
    write_image(path, header, images)
    with fits.open(path, checksum=True) as hdus:
        for hdu in hdus:
            assert hdu.data is not None
            assert hdu.verify_checksum() == 1
            assert hdu.verify_datasum() == 1
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.warns(AstropyUserWarning, match="verification failed"):
        fits.open(path, checksum=True).close()


def test_a_header_has_room_for_more_cards_and_is_filled_up(tmp_path):
    data, *_ = planes()
    path = tmp_path / "image.fits"
    for n_cards in (0, 1, 39, 40):
        header = fits.Header({"BUNIT": "adu"})
        with writing_image(path, header, 40, data.shape, {"PRIMARY": data.dtype}) as writer:
            writer.write(data)
            for number in range(n_cards):
                header[f"KEY{number}"] = number
            writer.finish(header)
        with fits.open(path, checksum=True) as hdus:
            np.testing.assert_array_equal(hdus[0].data, data)
            assert sum(keyword.startswith("KEY") for keyword in hdus[0].header) == n_cards


def test_a_header_that_is_too_long_is_refused(tmp_path):
    data, *_ = planes()
    header = fits.Header({"BUNIT": "adu"})

    def write():
        with writing_image(
            tmp_path / "a.fits", header, 0, data.shape, {"PRIMARY": data.dtype}
        ) as writer:
            writer.write(data)
            header.extend((f"KEY{number}", number) for number in range(40))
            writer.finish(header)

    with pytest.raises(ValueError, match="in a place of 2880"):
        write()
    assert names(tmp_path) == []


def test_an_image_with_rows_missing_gets_no_name(tmp_path):
    data, *_ = planes()
    path, header = tmp_path / "a.fits", fits.Header({"BUNIT": "adu"})

    def write():
        with writing_image(path, header, 0, data.shape, {"PRIMARY": data.dtype}) as writer:
            writer.write(data[:-1])
            writer.finish(header)

    with pytest.raises(RuntimeError, match=f"{data[-1].nbytes} bytes of pixels"):
        write()
    assert names(tmp_path) == []


def test_an_image_that_cannot_be_written_whole_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "image.fits"
    path.write_text("old")
    data, std, _ = planes()

    def write_half(file, content):
        file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fits_writer, "write_whole", write_half)
    with pytest.raises(OutputError, match="cannot be written: No space left"):
        write_image(path, fits.Header({"BUNIT": "adu"}), {"PRIMARY": data, "UNCERT": std})
    assert path.read_text() == "old"
    assert names(tmp_path) == ["image.fits"]


def test_a_text_that_is_there_is_left_alone(tmp_path):
    path = tmp_path / "run.json"
    write_text(path, "größer\n")
    os.utime(path, ns=(10**18, 10**18))
    number = path.stat().st_ino
    write_text(path, "größer\n")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (10**18, number)
    write_text(path, "other\n")
    assert path.read_bytes() == b"other\n"
    assert path.stat().st_mtime_ns != 10**18
    assert names(tmp_path) == ["run.json"]


# -- raw files ---------------------------------------------------------------------------

HEADER = {"IMAGETYP": "BIAS", "EXPTIME": 0.0, "BUNIT": "adu"}


def image():
    """Values of the whole range, the ends of which are in it."""
    data = np.random.default_rng(2).integers(0, 65536, (ROWS, COLUMNS)).astype(np.uint16)
    data[0, :4] = 0, 65535, 32767, 32768
    return data


def write_plain(folder):
    path = folder / "b.fits"
    fits.PrimaryHDU(image(), fits.Header(HEADER)).writeto(path)
    return path


def write_extension(folder):
    path = folder / "b.fits"
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image(), fits.Header(HEADER))]
    fits.HDUList(hdus).writeto(path)
    return path


def write_float(folder):
    path = folder / "b.fits"
    fits.PrimaryHDU(image().astype(np.float32) / 7, fits.Header(HEADER)).writeto(path)
    return path


def write_int16(folder):
    path = folder / "b.fits"
    fits.PrimaryHDU((image() // 2).astype(np.int16), fits.Header(HEADER)).writeto(path)
    return path


def write_fz(folder):
    path = folder / "b.fits.fz"
    hdu = fits.CompImageHDU(image(), fits.Header(HEADER), tile_shape=(4, 5))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    return path


def write_gz(folder):
    path = write_plain(folder)
    packed = folder / "b.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


WRITERS = {
    "plain": write_plain,
    "extension": write_extension,
    "float": write_float,
    "int16": write_int16,
    "fz": write_fz,
    "gz": write_gz,
}
PLAIN = {"plain", "extension"}
REGIONS = [(slice(0, ROWS), slice(0, COLUMNS)), (slice(2, 7), slice(3, 11)), (slice(8, 9),) * 2]


def open_raw(path):
    (frame,) = read_frames(path.parent, path.name, CameraSettings(), ())
    assert frame.errors == ()
    return RawFrame(path, frame.storage, frame.setup.shape)


def astropy_pixels(path):
    with fits.open(path) as hdus:
        return next(hdu.data.copy() for hdu in hdus if hdu.data is not None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", WRITERS)
def test_values_are_those_of_astropy(tmp_path, name, dtype):
    path = WRITERS[name](tmp_path)
    expected = astropy_pixels(path)
    with open_raw(path) as raw:
        for rows, columns in REGIONS:
            values = raw.values(rows, columns, dtype)
            assert values.dtype == dtype  # of native byte order
            assert values.flags.c_contiguous
            np.testing.assert_array_equal(values, expected[rows, columns].astype(dtype))


@pytest.mark.parametrize("name", WRITERS)
def test_stored_rows_are_those_of_the_file(tmp_path, name):
    path = WRITERS[name](tmp_path)
    with open_raw(path) as raw:
        assert raw.is_plain == (name in PLAIN)
        for rows, _ in REGIONS if raw.is_plain else []:
            # Big-endian, with BZERO 32768 taken off.
            values = raw.stored_rows(rows).view(">i2").astype(int) + 32768
            np.testing.assert_array_equal(values, astropy_pixels(path)[rows])


@pytest.mark.parametrize("name", WRITERS)
def test_raw_files_are_opened_for_reading_only(tmp_path, name):
    """Without the right to write, and without a trace."""
    path = WRITERS[name](tmp_path)
    os.utime(path, ns=(10**18, 10**18))
    content = path.read_bytes()
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        with open_raw(path) as raw:
            raw.values(*REGIONS[0], np.float32)
            raw.sha256()
            modes = open_modes(path)
    finally:
        tmp_path.chmod(0o755)
    assert modes <= {os.O_RDONLY}
    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns == 10**18
    assert names(tmp_path) == [path.name]


def open_modes(path):
    """How this process holds a file open, as Linux tells; nothing elsewhere."""
    found = set()
    for link in Path("/proc/self/fd").glob("*"):
        if link.exists() and link.resolve() == path.resolve():
            text = Path(f"/proc/self/fdinfo/{link.name}").read_text()
            flags = next(line for line in text.splitlines() if line.startswith("flags:"))
            found.add(int(flags.split()[1], 8) & os.O_ACCMODE)
    return found


def longer(path):
    status = path.stat()
    with path.open("ab") as file:
        file.write(bytes(2880))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def touched(path):
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))


@pytest.mark.parametrize("change", [longer, touched])
def test_a_file_that_has_changed_is_not_read(tmp_path, change):
    path = write_plain(tmp_path)
    (frame,) = read_frames(tmp_path, path.name, CameraSettings(), ())
    change(path)
    with pytest.raises(BrokenFileError) as caught:
        RawFrame(path, frame.storage, frame.setup.shape)
    assert caught.value.slug == "file-changed"
    assert caught.value.path == path
    assert str(path) in caught.value.text


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    path = WRITERS["plain"](tmp_path)
    told = f"{path} ends at byte .*copy the file again"

    def read():
        with open_raw(path) as raw:
            os.truncate(path, raw.storage.data_offset + 5)
            raw.stored_rows(slice(0, ROWS))

    with pytest.raises(BrokenFileError, match=told):
        read()


def test_a_file_that_has_gone_is_named(tmp_path):
    path = write_plain(tmp_path)
    (frame,) = read_frames(tmp_path, path.name, CameraSettings(), ())
    path.unlink()
    with pytest.raises(BrokenFileError) as caught:
        RawFrame(path, frame.storage, frame.setup.shape)
    assert (caught.value.slug, caught.value.path) == ("file-broken", path)


def test_damaged_tiles_are_an_error_with_the_path(tmp_path):
    path = tmp_path / "b.fits.fz"
    data = np.random.default_rng(3).integers(990, 1010, (24, 30)).astype(np.int32)
    hdu = fits.CompImageHDU(data, fits.Header(HEADER), compression_type="GZIP_1")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    content = bytearray(path.read_bytes())
    content[-2880:-1000] = b"\x55" * 1880
    path.write_bytes(content)
    with open_raw(path) as raw, pytest.raises(BrokenFileError) as caught:
        raw.values(slice(0, 24), slice(0, 30), np.float32)
    assert (caught.value.slug, caught.value.path) == ("file-broken", path)
    assert str(path) in caught.value.text


@pytest.mark.parametrize("cards", [{}, {"BSCALE": 2.0, "BZERO": 1.0}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_that_are_no_numbers_are_read_without_a_warning(tmp_path, dtype, cards):
    """Also signalling ones, at which arithmetic takes offence, and those beyond the type."""
    path = tmp_path / "b.fits"
    data = image().astype(np.float64)
    data.view(np.uint64)[0, :2] = 0x7FF8_0000_0000_0000, 0x7FF4_0000_0000_0000
    data[0, 2:4] = np.inf, 1e300
    hdu = fits.PrimaryHDU(data, fits.Header(HEADER))
    hdu.writeto(path)
    for keyword, value in cards.items():
        fits.setval(path, keyword, value=value)
    with open_raw(path) as raw:
        values = raw.values(*REGIONS[0], dtype)
    assert np.isnan(values[0, :2]).all()
    assert np.isinf(values[0, 2])
    assert np.isinf(values[0, 3]) == (dtype is np.float32)
