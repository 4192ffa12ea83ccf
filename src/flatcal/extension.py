"""Names of images within files: 'm001.fits[CHIP2]', as astropy, IRAF and CFITSIO write them.

A file of one image goes by its own name. Of several, each has the name of its extension in
brackets behind that of the file; a plane of a cube is 'f.fits[plane 03]', counted from 1. An output
that holds several images is named alike. No name of a FITS file ends in a bracket, so both parts
can be told from the whole.
"""

from __future__ import annotations

import glob
import re
from typing import Final

_NAME: Final = re.compile(
    r"(.*\.(?:fits|fit|fts)(?:\.(?:fz|gz|bz2))?)\[([^\[\]]+)\]", re.IGNORECASE | re.DOTALL
)


def split_name(name: str) -> tuple[str, str]:
    """The file and the extension of a name; the latter is empty for a file of one image."""
    match = _NAME.fullmatch(name) if name.endswith("]") else None
    return (match[1], match[2]) if match else (name, "")


def file_of(name: str) -> str:
    """The file of a name."""
    return split_name(name)[0]


def extension_of(name: str) -> str:
    """The extension of a name; empty for a file of one image."""
    return split_name(name)[1]


def with_extension(file: str, extension: str) -> str:
    """The name of an image of a file."""
    return f"{file}[{extension}]" if extension else file


def exact_pattern(name: str) -> str:
    """The glob that fits this name alone."""
    file, extension = split_name(name)
    return with_extension(glob.escape(file), extension)


def plane_key(extension: str, plane: str) -> tuple[str, int]:
    """EXTNAME and EXTVER of a plane in an output of several images.

    Parameters
    ----------
    extension : str
        The image: 'CHIP2', 'SCI,2' for EXTNAME and EXTVER, or '2' for one that has no name.
    plane : str
        PRIMARY for the image itself, UNCERT, MASK or FLAGS.
    """
    name, _, version = extension.partition(",")
    name = f"EXT{name}" if name.isdigit() else name
    return (name if plane == "PRIMARY" else f"{name}_{plane}"), int(version or 1)
