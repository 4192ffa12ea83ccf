"""Outputs that hold several images, one extension after the other, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import RawIOBase
from typing import Any

import numpy as np
from astropy.io import fits

from flatcal.fits_writer import HduPlace, ImageWriter, writing_hdus
from flatcal.storage import Place


class MosaicWriter:
    """An output of several images, each with its planes; the primary HDU has none.

    Parameters
    ----------
    file : RawIOBase
        Empty.
    header : Header
        Of the primary HDU.
    n_more_cards : int
        Cards that it may have in addition when it is finished.
    """

    def __init__(self, file: RawIOBase, header: fits.Header, n_more_cards: int) -> None:
        self._file = file
        self._primary = HduPlace(0, header, n_more_cards, np.dtype(np.uint8), (0, 0))
        self._end = self._primary.end

    @contextmanager
    def image(
        self,
        extension: str,
        header: fits.Header,
        n_more_cards: int,
        shape: tuple[int, int],
        dtypes: Mapping[str, Any],
    ) -> Iterator[ImageWriter]:
        """Write the next image, which the caller must finish; nothing is left of one that fails.

        Parameters
        ----------
        extension : str
            Its name; see `flatcal.extension`.
        header, n_more_cards, shape, dtypes
            As for `ImageWriter`.
        """
        writer = ImageWriter(
            self._file, header, n_more_cards, shape, dtypes, extension=extension, start=self._end
        )
        try:
            yield writer
        except BaseException:
            self._file.truncate(self._end)
            raise
        self._end = writer.end

    def finish(self, header: fits.Header) -> None:
        """Write the primary header, when all images have been written."""
        primary = fits.PrimaryHDU(header=header)
        primary.header.set("EXTEND", True, after="NAXIS")
        self._primary.write_header(self._file, primary.header)


@contextmanager
def writing_mosaic(
    path: Place, header: fits.Header, n_more_cards: int, leave: Callable[[], None]
) -> Iterator[MosaicWriter]:
    """An output that appears under its name when it is whole, and not at all when it fails.

    Parameters
    ----------
    path : Path or RemotePath
        The file to be; replaced if it is there. Its planes are packed if the name says so.
    header, n_more_cards
        As for `MosaicWriter`, which the caller must finish.
    leave : callable
        As for `writing_image`.
    """
    with writing_hdus(path, leave) as file:
        yield MosaicWriter(file, header, n_more_cards)
