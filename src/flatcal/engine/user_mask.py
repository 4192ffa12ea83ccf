"""The user's mask of bad pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from flatcal.errors import ConfigError, FrameError
from flatcal.section import Section, assemble_sections, shape_of_sections

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class UserMask:
    """Pixels that the user marks as bad.

    Attributes
    ----------
    path : Path
        Its file.
    marked : ndarray of bool, shape (rows, columns)
        True where a pixel is bad.
    digest : str
        SHA-256 of what is marked.
    """

    path: Path
    marked: Array
    digest: str

    def within(self, shape: tuple[int, int], sections: Sequence[Section]) -> Array:
        """What is marked of the pixels that are kept of a raw image.

        Parameters
        ----------
        shape : tuple of int
            Rows and columns of the raw image.
        sections : sequence of tuple of slice
            What is kept of it, by amplifier.

        Raises
        ------
        FrameError
            When the mask has neither the shape of the raw image nor that of what is kept.
        """
        kept = shape_of_sections(sections)
        if self.marked.shape == shape:
            marked = np.empty(kept, np.bool_)
            for section, place in zip(sections, assemble_sections(sections), strict=True):
                marked[place] = self.marked[section]
            return marked
        if self.marked.shape == kept:
            return self.marked
        raise FrameError(
            "bad-pixel-mask",
            f"{self.path} has {_size(self.marked.shape)} pixels, the raw image has {_size(shape)} "
            f"and {_size(kept)} are kept; give a mask of one of these sizes",
        )


def load_user_mask(path: str | None) -> UserMask | None:
    """Read a mask: the first image of a FITS file, whose pixels are bad where it is not 0.

    Raises
    ------
    ConfigError
        When there is no such image.
    """
    if path is None:
        return None
    try:
        with fits.open(path, memmap=False) as hdus:
            image = next((hdu.data for hdu in hdus if hdu.is_image and hdu.data is not None), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError("bad-pixel-mask", f"{path} cannot be read: {error}") from error
    if image is None or image.ndim != 2:
        raise ConfigError("bad-pixel-mask", f"{path} holds no image; give a FITS image")
    marked = np.ascontiguousarray(image != 0)
    digest = sha256(repr(marked.shape).encode() + np.packbits(marked).tobytes()).hexdigest()
    return UserMask(Path(path), marked, digest)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
