"""Where everything lies below the folder of a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Night:
    """A simulated night and what is made of it beforehand.

    Attributes
    ----------
    folder : Path
        Of the night.
    camera : str
        'cg16m' or 'lfc'; 'mosaic' for two chips in one file, 'chips' for the same in a file each.
    full_size : bool
        Whether the frames have their real size.
    """

    folder: Path
    camera: str
    full_size: bool

    @property
    def raw(self) -> Path:
        """Raw frames."""
        return self.folder / "raw"

    def config(self, *, planes: bool) -> Path:
        """Settings of flatcal, with the planes UNCERT and MASK or without."""
        return self.folder / f"flatcal-{_kind(planes)}.toml"

    def masters(self, *, planes: bool) -> Path:
        """An output folder of flatcal that holds the bias and dark masters and no flat."""
        return self.folder / f"masters-{_kind(planes)}"

    @property
    def flats(self) -> Path:
        """An output folder of flatcal with masters, flats and master flat; data alone."""
        return self.folder / "flats-data"

    @property
    def plain(self) -> Path:
        """Masters and calibrated flats for the rivals: one float32 image each, few cards."""
        return self.folder / "plain"

    @property
    def siril(self) -> Path:
        """The calibrated flats over 65535, because Siril's numbers go from 0 to 1."""
        return self.folder / "siril"


@dataclass(frozen=True, slots=True)
class Places:
    """All folders of a measurement.

    Attributes
    ----------
    root : Path
        Everything lies below it.
    small : bool
        Frames of a quarter of their width and height.
    """

    root: Path
    small: bool

    def night(self, camera: str) -> Night:
        """The night that is measured."""
        return Night(self.root / "nights" / camera, camera, not self.small)

    def warm_night(self, camera: str) -> Night:
        """A small night on which a process does its work once before it is timed."""
        return Night(self.root / "warm" / camera, camera, full_size=False)

    def many_flats(self, n_frames: int) -> Path:
        """A raw folder with darks and that many flats."""
        return self.root / "many" / str(n_frames)

    @property
    def index(self) -> Path:
        """A folder of files with long headers."""
        return self.root / "index"

    @property
    def warm_index(self) -> Path:
        """A few such files."""
        return self.root / "warm-index"

    @property
    def n_index_files(self) -> int:
        """Number of files in `index`."""
        return 100 if self.small else 2000


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is asked to do.

    Attributes
    ----------
    places : Places
        All folders.
    out : Path
        An empty folder for outputs; removed afterwards.
    keep : bool
        Whether a result that lies in memory must be saved in `out`, to be compared.
    args : mapping
        Arguments of the task.
    """

    places: Places
    out: Path
    keep: bool
    args: Mapping[str, Any]


def _kind(planes: bool) -> str:
    return "planes" if planes else "data"
