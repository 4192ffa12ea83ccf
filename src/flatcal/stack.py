"""Inputs of a combination, read in bands of rows: CCDData in memory, or FITS files."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any, Final, Protocol

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from numpy.typing import NDArray

from flatcal.errors import FrameError
from flatcal.headers import open_file
from flatcal.io import silencing
from flatcal.merge import wcs_of_header

Array = NDArray[Any]

# Keywords of astropy's reader of CCDData: what combine needs, what it can ignore because only
# pixels and mask are combined, and what is passed on to astropy.io.fits.open.
_USED: Final = frozenset({"hdu", "unit", "hdu_mask"})
_IGNORED: Final = frozenset(
    {"format", "hdu_flags", "hdu_psf", "hdu_uncertainty", "key_uncertainty_type"}
)
_FOR_OPEN: Final = frozenset(
    {"ignore_blank", "ignore_missing_end", "ignore_missing_simple", "memmap", "uint"}
)
_COMPRESSED: Final = frozenset({".gz", ".bz2", ".xz", ".z", ".zip"})


class Source(Protocol):
    """One input of a combination."""

    name: str
    header: MutableMapping[str, Any]
    unit: Any
    shape: tuple[int, ...]
    wcs: Any

    def band(self, rows: slice) -> tuple[Array, Array | None]:
        """Pixels of some rows, and where they are bad (not zero) if anything is known."""
        ...


class FrameSource:
    """CCDData in memory."""

    def __init__(self, ccd: CCDData, name: str) -> None:
        self.name = name
        self.header = ccd.meta
        self.unit = ccd.unit
        self.shape = ccd.shape
        self.wcs = ccd.wcs
        self._data = ccd.data
        self._mask = None if ccd.mask is None else np.broadcast_to(ccd.mask, ccd.shape)

    def band(self, rows: slice) -> tuple[Array, Array | None]:
        """Pixels and mask of some rows."""
        return self._data[rows], None if self._mask is None else self._mask[rows]


class FileSource:
    """FITS file that stays open; one band is read at a time."""

    def __init__(
        self,
        path: Path,
        files: ExitStack,
        *,
        hdu: int | str = 0,
        unit: Any = None,
        hdu_mask: str | None = "MASK",
        **open_options: Any,
    ) -> None:
        open_file(path.expanduser()).close()  # astropy would wait for ever at a pipe
        hdus = files.enter_context(fits.open(path, **open_options))
        image, self.header = _find_image(hdus, hdu, path)
        self.name = str(path)
        self.shape = image.shape
        self.unit = _unit(unit, self.header, path)
        self.wcs = wcs_of_header(self.header)
        # Two threads must not move the position in one file at the same time.
        self._lock = Lock()
        whole = path.suffix.lower() in _COMPRESSED
        self._pixels = image.data if whole else image.section
        self._mask = None
        if hdu_mask is not None and hdu_mask in hdus:
            self._mask = hdus[hdu_mask].data if whole else hdus[hdu_mask].section

    def band(self, rows: slice) -> tuple[Array, Array | None]:
        """Pixels and mask of some rows."""
        with self._lock:
            return self._pixels[rows], None if self._mask is None else self._mask[rows]


def open_sources(
    img_list: Any, files: ExitStack, reader_options: Mapping[str, Any]
) -> list[FrameSource | FileSource]:
    """Open the inputs of a combination.

    Parameters
    ----------
    img_list : iterable of CCDData or path, or str
        A text is one file name, or several with commas between them.
    files : ExitStack
        Closes the files.
    reader_options : mapping
        Keywords of the reader of CCDData, already validated.

    Raises
    ------
    ValueError
        When `img_list` is no such thing, or empty.
    TypeError
        When the inputs differ in shape or unit.
    """
    if isinstance(img_list, str):
        img_list = [name.strip() for name in img_list.split(",") if name.strip()]
    elif isinstance(img_list, os.PathLike):
        img_list = [img_list]
    elif not isinstance(img_list, Iterable) or isinstance(img_list, CCDData):
        raise ValueError(f"img_list must be a list of images, not {type(img_list).__name__}")
    used = {key: reader_options[key] for key in reader_options.keys() - _IGNORED}
    sources = [
        FrameSource(image, f"image {number}")
        if isinstance(image, CCDData)
        else FileSource(Path(image), files, **used)
        for number, image in enumerate(img_list, start=1)
    ]
    if not sources:
        raise ValueError("img_list is empty; there is nothing to combine")
    require_alike(sources)
    return sources


def require_alike(sources: Iterable[Any]) -> None:
    """Raise TypeError unless all have one shape and one unit; it names two that differ."""
    first, *others = sources
    for other in others:
        for what in ("shape", "unit"):
            mine, its = getattr(first, what), getattr(other, what)
            if mine != its:
                names = [getattr(source, "name", "an image") for source in (first, other)]
                raise TypeError(
                    f"images to combine must have one {what}: {names[0]} has {mine}, "
                    f"{names[1]} has {its}"
                )


def validate_reader_options(options: Mapping[str, Any], other_names: Iterable[str]) -> None:
    """Raise TypeError for a keyword that neither the reader nor `combine` has."""
    known = _USED | _IGNORED | _FOR_OPEN
    for name in options:
        if name not in known:
            raise unknown_keyword("combine", name, [*known, *other_names])


def unknown_keyword(function: str, name: str, known: Iterable[str]) -> TypeError:
    """TypeError for a keyword that does not exist, with the nearest one that does."""
    nearest = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return TypeError(f"{function}() has no keyword {name!r}{hint}")


def _find_image(hdus: Any, hdu: int | str, path: Path) -> tuple[Any, fits.Header]:
    """Image and header; an empty primary stands for the first extension with an image."""
    image = hdus[hdu]
    if hdu == 0 and not image.shape:
        extensions = [one for one in hdus[1:] if one.is_image and one.shape]
        if extensions:
            header = extensions[0].header.copy()
            header.extend(image.header, unique=True)
            return extensions[0], header
    if not (image.is_image and image.shape):
        raise FrameError("image-type", f"there is no image in HDU {hdu} of {path}")
    return image, image.header


def _unit(unit: Any, header: fits.Header, path: Path) -> Any:
    text = header.get("BUNIT") if unit is None else unit
    if text is None or text == "":
        raise FrameError("bad-unit", f"no BUNIT in {path}; pass unit='adu' to combine")
    if isinstance(text, str):
        text = CCDData.known_invalid_fits_unit_strings.get(text, text)
    if isinstance(text, str) and text.strip().lower() == "adu":
        return u.adu
    try:
        with silencing(u.UnitsWarning):  # astropy changes filters to parse a unit
            return u.Unit(text)
    except ValueError as error:
        raise FrameError(
            "bad-unit", f"BUNIT {text!r} in {path} is not a unit; pass unit= to combine"
        ) from error
