"""The frames of a raw folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from flatcal.errors import FrameError
from flatcal.facts import read_frame
from flatcal.frame import Frame
from flatcal.header_cache import remembered_units
from flatcal.headers import FITS_SUFFIXES, scanning_by
from flatcal.recipe import Config


def find_frames(raw: str | Path, config: Config) -> tuple[Frame, ...]:
    """Read the headers of all FITS files in a folder and below it.

    Parameters
    ----------
    raw : str or Path
        The raw folder.
    config : Config
        The configuration.

    Returns
    -------
    tuple of Frame
        In the order of their paths. A file that cannot be read is there with its error.

    Raises
    ------
    FrameError
        When there is no such folder, or no FITS file in it.
    """
    root = Path(raw)
    if not root.is_dir():
        raise FrameError("empty-folder", f"{root} is not a folder")
    with remembered_units(root) as scan, scanning_by(scan):
        frames = tuple(
            read_frame(root, file, config.camera, config.kinds)
            for file in sorted(_fits_files(root))
        )
    if not frames:
        raise FrameError(
            "empty-folder",
            f"no FITS file in {root} or below it (looked for {', '.join(FITS_SUFFIXES)})",
        )
    return frames


def _fits_files(root: Path) -> Iterator[str]:
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        # A link to a folder is followed, but none in a circle.
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        for name in names:
            if name.lower().endswith(FITS_SUFFIXES) and not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()
