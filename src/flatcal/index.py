"""The frames of a raw folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flatcal.errors import ConfigError, FrameError
from flatcal.extension import extension_of
from flatcal.facts import printable_name, read_frames
from flatcal.frame import Caveat, Frame
from flatcal.header_cache import remembered_units
from flatcal.headers import FITS_SUFFIXES, HduInfo, Scanner, StrPath, scanning_by
from flatcal.io import quiet_astropy
from flatcal.recipe import Config
from flatcal.storage import Place, RemotePath, place_of
from flatcal.transfer import REQUESTS_AT_ONCE


def find_frames(raw: str | Place, config: Config) -> tuple[Frame, ...]:
    """Read the headers of all FITS files in a folder and below it.

    Parameters
    ----------
    raw : str, Path or RemotePath
        The raw folder.
    config : Config
        The configuration.

    Returns
    -------
    tuple of Frame
        In the order of their paths, and of the images in a file. A file that cannot be read is
        there with its error, a folder that cannot be listed likewise.

    Raises
    ------
    FrameError
        When there is no such folder, or no FITS file in it.
    ConfigError
        When the configuration names an extension that none of the files has.
    """
    root = place_of(raw)
    if not root.is_dir():
        raise FrameError("empty-folder", f"{root} is not a folder")
    closed: list[Frame] = []
    if isinstance(root, RemotePath):
        root, found = root.listed()
        files = [file for file in found if _is_frame(file.rpartition("/")[2])]
    else:
        files = sorted(_fits_files(root, closed))
    with remembered_units(root) as scan, scanning_by(_scan_ahead(scan, root, files)):
        frames = tuple(
            frame
            for file in files
            for frame in read_frames(root, file, config.camera, config.kinds)
        )
    frames += tuple(closed)
    if not frames:
        raise FrameError(
            "empty-folder",
            f"no FITS file in {root} or below it (looked for {', '.join(FITS_SUFFIXES)})",
        )
    _require_extensions(config.camera.extensions or (), {extension_of(f.file) for f in frames})
    return frames


def _require_extensions(named: Iterable[str], there: set[str]) -> None:
    """Refuse settings for an extension that is not there: its name is misspelt."""
    for name in sorted(set(named) - there):
        known = ", ".join(sorted(there - {""})) or "none"
        raise ConfigError(
            "bad-config",
            f"camera.extensions.{name}: no file has such an extension (they have: {known}); "
            "correct the name",
        )


def _is_frame(name: str) -> bool:
    return name.lower().endswith(FITS_SUFFIXES) and not name.startswith(".")


def _scan_ahead(scan: Scanner, root: Place, files: Sequence[str]) -> Scanner:
    """Read remote headers many at once, for to wait for a server takes no core."""
    if isinstance(root, Path):
        return scan
    paths = [root / file for file in files]

    def try_to_scan(path: RemotePath) -> tuple[HduInfo, ...] | Exception:
        try:
            return scan(path)
        except (FrameError, OSError) as error:  # to be raised where it is told
            return error

    with quiet_astropy(), ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        found = dict(zip(map(str, paths), pool.map(try_to_scan, paths), strict=True))

    def scanned(path: StrPath) -> tuple[HduInfo, ...]:
        result = found[str(path)]
        if isinstance(result, Exception):
            raise result
        return result

    return scanned


def _fits_files(root: Path, closed: list[Frame]) -> Iterator[str]:
    """Files below a folder; folders that cannot be listed are added as frames with an error."""

    def tell(error: OSError) -> None:
        folder = printable_name(os.path.relpath(error.filename, root))
        text = f"the folder cannot be listed ({error.strerror}), so its frames are left out"
        closed.append(Frame(folder, errors=(Caveat("folder-closed", text),)))

    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=tell):
        # A link to a folder is followed, but none in a circle.
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        for name in names:
            if _is_frame(name):
                yield (Path(folder) / name).relative_to(root).as_posix()
