"""Masters read from their files."""

from __future__ import annotations

from hashlib import file_digest
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.masters import Master, make_master
from flatcal.errors import BrokenFileError, FrameError
from flatcal.fits_checksum import RunningSum
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

# Bytes that are read, summed and swapped while they are in a near cache.
_PIECE_BYTES: Final = 1 << 19


def load_master(path: Place, lost_bias: str, dtype: Any, zero: float | None) -> Master:
    """Read a master that has been written, now or by an earlier run.

    The checksums of what is read are verified, for it bears on every frame that it calibrates.

    Parameters
    ----------
    path : Path or RemotePath
        The file.
    lost_bias, zero
        As for `make_master`.
    dtype : dtype
        Of the values and their standard deviation.

    Raises
    ------
    BrokenFileError
        When it cannot be read, or has been damaged.
    """
    types = {"PRIMARY": dtype, "UNCERT": dtype, "FLAGS": np.uint16}
    with naming(path):
        hdus = {str(hdu.cards.get("EXTNAME", "PRIMARY")): hdu for hdu in scan_hdus(path)}
        planes = {
            name: _read_plane(path, name, hdus[name], kind)
            for name, kind in types.items()
            if name in hdus
        }
        return make_master(
            planes["PRIMARY"], planes.get("UNCERT"), planes["FLAGS"], lost_bias, zero
        )


def _read_plane(path: Place, name: str, hdu: HduInfo, dtype: Any) -> Array:
    stored = _STORED.get(int(str(hdu.cards["BITPIX"])))
    if stored is None or hdu.compressed or hdu.zipped or "BZERO" in hdu.cards:
        # Its sum is that of the pixels as they are stored, packed or not.
        with open_fits(path, disable_image_compression=True) as hdus:
            if hdus[hdu.index].verify_datasum() == 0:
                raise _damaged(path, name)
        with open_fits(path) as hdus:
            return np.ascontiguousarray(hdus[hdu.index].data, dtype)
    shape = int(str(hdu.cards["NAXIS2"])), int(str(hdu.cards["NAXIS1"]))
    pixels = np.empty(shape, stored.newbyteorder("="))
    with open_file(path, buffering=0) as file:
        file.seek(hdu.data_offset)
        found = _read_and_swap(file, pixels.reshape(-1))
    told = str(hdu.cards.get("DATASUM", found)).strip()
    if told != str(found):
        raise _damaged(path, name)
    return pixels.view(np.uint16) if dtype is np.uint16 else pixels.astype(dtype, copy=False)


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


def _damaged(path: Place, name: str) -> BrokenFileError:
    return BrokenFileError(
        "file-broken",
        f"the pixels of {path} are not those that were written (DATASUM of {name}); remove the "
        "file and run again",
        path,
    )


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
