"""Masters read from their files."""

from __future__ import annotations

from hashlib import file_digest
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.masters import Master, make_master
from flatcal.errors import BrokenFileError, FrameError
from flatcal.fits_checksum import RunningSum, is_sound
from flatcal.fits_writer import whole_blocks
from flatcal.headers import HduInfo, open_file, scan_hdus
from flatcal.io import naming, open_fits
from flatcal.storage import Place
from flatcal.stored import StoredMaster

Array = NDArray[Any]

# Pixels as they stand in the files that flatcal writes, by BITPIX.
_STORED: Final[dict[int, np.dtype[Any]]] = {
    -32: np.dtype(">f4"),
    -64: np.dtype(">f8"),
    16: np.dtype(">i2"),
}

# Answers of `verify_datasum` and `verify_checksum` of astropy.
_SOUND: Final = 1
_ABSENT: Final = 2

# Bytes that are read, summed and swapped while they are in a near cache.
_PIECE_BYTES: Final = 1 << 19


def load_master(
    path: Place,
    lost_bias: str,
    dtype: Any,
    zero: float | None,
    stored: StoredMaster | None = None,
) -> Master:
    """Read a master that has been written, now or by an earlier run.

    The checksums of what is read, header and pixels, are verified, for it bears on every frame
    that it calibrates.

    Parameters
    ----------
    path : Path or RemotePath
        The file.
    lost_bias, zero
        As for `make_master`.
    dtype : dtype
        Of the values and their standard deviation.
    stored : StoredMaster, optional
        The master of the library that it is. It may lack checksums, which other programs drop: the
        library has the SHA-256 of the file.

    Raises
    ------
    BrokenFileError
        When it cannot be read, or has been damaged.
    """
    types = {"PRIMARY": dtype, "UNCERT": dtype, "FLAGS": np.uint16}
    with naming(path):
        units, start = {}, 0
        for hdu in scan_hdus(path):
            name = str(hdu.cards.get("EXTNAME", "PRIMARY"))
            units[name] = name, hdu, start
            start = hdu.data_offset + whole_blocks(hdu.data_bytes)
        planes = {
            name: _read_plane(path, *units[name], types[name], stored)
            for name in types
            if name in units
        }
        return make_master(
            planes["PRIMARY"], planes.get("UNCERT"), planes["FLAGS"], lost_bias, zero
        )


def _read_plane(
    path: Place, name: str, hdu: HduInfo, start: int, dtype: Any, library: StoredMaster | None
) -> Array:
    """The pixels of a unit, which begins at byte `start`, if they and the header are sound."""
    kind = _STORED.get(int(str(hdu.cards["BITPIX"])))
    if kind is None or hdu.compressed or hdu.zipped or "BZERO" in hdu.cards:
        # The sums are those of what is stored, packed or not.
        with open_fits(path, disable_image_compression=True) as hdus:
            unit = hdus[hdu.index]
            _require_sound(path, name, unit.verify_datasum(), unit.verify_checksum(), library)
        with open_fits(path) as hdus:
            return np.ascontiguousarray(hdus[hdu.index].data, dtype)
    shape = int(str(hdu.cards["NAXIS2"])), int(str(hdu.cards["NAXIS1"]))
    pixels = np.empty(shape, kind.newbyteorder("="))
    with open_file(path, buffering=0) as file:
        file.seek(start)
        header = file.read(hdu.data_offset - start)
        found = _read_and_swap(file, pixels.reshape(-1))
    told = hdu.cards.get("DATASUM")
    of_data = _ABSENT if told is None else int(str(told).strip() == str(found))
    of_all = int(is_sound(header, found)) if "CHECKSUM" in hdu.cards else _ABSENT
    _require_sound(path, name, of_data, of_all, library)
    return pixels.view(np.uint16) if dtype is np.uint16 else pixels.astype(dtype, copy=False)


def _require_sound(
    path: Place, name: str, of_data: int, of_all: int, library: StoredMaster | None
) -> None:
    """Refuse a plane by what `verify_datasum` and `verify_checksum` of astropy say of it."""
    allowed = {_SOUND} if library is None else {_SOUND, _ABSENT}
    for card, answer in (("DATASUM", of_data), ("CHECKSUM", of_all)):
        if answer not in allowed:
            wrong = "is missing" if answer == _ABSENT else "is another"
            remedy = "remove the file and run again" if library is None else f"retire {library.id}"
            raise BrokenFileError(
                "file-broken",
                f"{path} is not as it was written ({card} of {name} {wrong}); {remedy}",
                path,
            )


def _read_and_swap(file: IO[bytes], pixels: Array) -> int:
    """Read pixels, piece by piece, and swap their bytes; the sum of their words as stored."""
    total, step = RunningSum(), _PIECE_BYTES // pixels.itemsize
    for start in range(0, pixels.size, step):
        piece = pixels[start : start + step]
        content = piece.view(np.uint8)
        n_read = 0
        while n_read < content.size:
            n_more = file.readinto(content[n_read:].data)  # type: ignore[attr-defined]
            if not n_more:
                raise OSError(f"it ends {content.size - n_read} bytes too early, or more")
            n_read += n_more
        total.add(content)
        piece.byteswap(inplace=True)
    return total.value


def require_unchanged(stored: StoredMaster) -> None:
    """Refuse a master of the library whose file is gone or another.

    Raises
    ------
    FrameError
        It names the file.
    """
    try:
        with open_file(Path(stored.path)) as file:
            digest = file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except FrameError as error:
        raise FrameError("library", f"{error.text}; retire {stored.id}") from error
    except OSError as error:
        raise FrameError(
            "library", f"{stored.path} cannot be read: {error.strerror}; retire {stored.id}"
        ) from error
    if digest != stored.sha256:
        raise FrameError(
            "library",
            f"{stored.path} is not the file that was added to the library; retire {stored.id}",
        )
