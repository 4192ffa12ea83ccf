"""A combined band in a file of the output folder, on its way from one process to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.errors import ClusterError
from flatcal.headers import open_file
from flatcal.io import naming_output
from flatcal.storage import Place, RemotePath

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class BandPart:
    """Where a band lies, with what needs no file.

    Attributes
    ----------
    path : Path or RemotePath
        Its file: value, error and count, one after the other, as they are in memory.
    rejected : ndarray of int64, shape (n_frames,)
        Pixels that were rejected in each frame.
    """

    path: Place
    rejected: Array

    @classmethod
    def write(
        cls, path: Place, data: Array, error: Array, n_used: Array, rejected: Array
    ) -> BandPart:
        """Write a band to a new file.

        Raises
        ------
        OutputError
            When it cannot be written; nothing is left then.
        """
        with naming_output(path):
            if isinstance(path, RemotePath):
                path.create(b"".join(plane.data for plane in (data, error, n_used)))
                return cls(path, rejected)
            try:
                with path.open("xb") as file:
                    for plane in (data, error, n_used):
                        file.write(plane.data)
            except OSError:
                path.unlink(missing_ok=True)
                raise
        return cls(path, rejected)

    def read(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> tuple[Array, Array, Array]:
        """Value, error and count of so many rows and columns; the file is removed.

        Raises
        ------
        ClusterError
            When the file is not there: the folder is not the same for all processes.
        """
        planes = np.empty(shape, dtype), np.empty(shape, dtype), np.empty(shape, np.int32)
        try:
            with open_file(self.path) as file:
                n_read = sum(file.readinto(plane.data.cast("B")) for plane in planes)  # type: ignore[attr-defined]
            self.path.unlink()
        except OSError as error:
            raise ClusterError(
                "cluster",
                f"a worker has written {self.path}, which cannot be read here "
                f"({error.strerror}); the output folder must be the same for all processes",
            ) from error
        if n_read != sum(plane.nbytes for plane in planes):
            raise ClusterError("cluster", f"{self.path} is not whole here; see the file system")
        return planes
