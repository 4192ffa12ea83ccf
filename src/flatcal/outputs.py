"""Reading the planes of outputs by their names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from flatcal.extension import plane_key, split_name
from flatcal.io import naming, open_fits
from flatcal.storage import Place

_PLANES: Final = ("PRIMARY", "UNCERT", "MASK", "FLAGS")


@contextmanager
def open_planes(path: Place) -> Iterator[dict[str, Any]]:
    """The HDUs of an output, by the names of its planes; the image itself is PRIMARY.

    Parameters
    ----------
    path : Path or RemotePath
        The file; of one that holds several images with the extension, as a run names it.

    Raises
    ------
    BrokenFileError
        When the file is not there or cannot be read.
    """
    name, extension = split_name(path.name)
    with naming(path), open_fits(path.with_name(name)) as hdus:
        if not extension:
            yield {hdu.name: hdu for hdu in hdus}
        else:
            keys = {plane: plane_key(extension, plane) for plane in _PLANES}
            yield {plane: hdus[key] for plane, key in keys.items() if key in hdus}
