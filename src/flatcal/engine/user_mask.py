"""The user's mask of bad pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.errors import ConfigError, FrameError
from flatcal.extension import plane_key
from flatcal.io import open_fits
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
        True where a pixel is bad; of several images that of the first.
    digest : str
        SHA-256 of what is marked.
    extensions : mapping of tuple to ndarray
        What is marked of each detector of a mosaic, by EXTNAME, in
        capitals, and EXTVER of its extension.
    """

    path: Path
    marked: Array
    digest: str
    extensions: Mapping[tuple[str, int], Array] = field(default_factory=dict)

    def of_extension(self, name: str) -> UserMask:
        """The mask of an image by the name of its extension; planes of a cube share one.

        Raises
        ------
        FrameError
            When the mask has no extension of that name.
        """
        if not name or name.startswith("plane "):
            return self
        extname, version = plane_key(name, "PRIMARY")
        key = (extname.upper(), version)
        if key not in self.extensions:
            raise FrameError(
                "bad-pixel-mask",
                f"{self.path} has no image for the extension {name}; give a mask with the "
                "extensions of the raw files",
            )
        return replace(self, marked=self.extensions[key])

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
    """Read a mask: a FITS image, whose pixels are bad where it is not 0; one each for mosaics.

    Raises
    ------
    ConfigError
        When there is no such image.
    """
    if path is None:
        return None
    try:
        with open_fits(Path(path)) as hdus:
            images = {
                (hdu.name or f"EXT{number}", hdu.ver): hdu.data
                for number, hdu in enumerate(hdus)
                if hdu.is_image and hdu.data is not None
            }
    except FrameError as error:
        raise ConfigError("bad-pixel-mask", error.text) from error
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError("bad-pixel-mask", f"{path} cannot be read: {error}") from error
    if not images or any(image.ndim != 2 for image in images.values()):
        raise ConfigError("bad-pixel-mask", f"{path} holds no image; give a FITS image")
    marked = {key: np.ascontiguousarray(image != 0) for key, image in images.items()}
    digest = sha256()
    for image in marked.values():
        digest.update(repr(image.shape).encode() + np.packbits(image).tobytes())
    return UserMask(Path(path), next(iter(marked.values())), digest.hexdigest(), marked)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
