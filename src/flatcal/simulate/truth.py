"""What went into a simulated night: the numbers and planes that a calibration should recover."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flatcal.simulate.cameras import Camera, FrameKind
from flatcal.simulate.patterns import Plane, StarTable, add_stars

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class FrameTruth:
    """The truth of one frame.

    Attributes
    ----------
    file : str
        Name of the file, without folder.
    kind : {'bias', 'dark', 'flat', 'science'}
        Kind of the frame.
    exposure_time_s : float
        Exposure time, as in EXPTIME.
    filter : str or None
        The filter that the light passed; None for a bias or a dark, although their headers too
        say where the filter wheel stood.
    signal_adu : float
        Median level of the light in the trimmed image; in a science frame the sky's level.
    bias_level_adu : float
        Median bias of the image in this frame.
    overscan_level_adu : float
        Mean of the clean overscan in this frame.
    """

    file: str
    kind: FrameKind
    exposure_time_s: float
    filter: str | None
    signal_adu: float
    bias_level_adu: float
    overscan_level_adu: float


@dataclass(frozen=True, slots=True, eq=False)
class NightTruth:
    """The truth of one simulated night. Planes have the shape of the trimmed image.

    Attributes
    ----------
    camera : Camera
        Gain, read noise, geometry and all the rest.
    seed : int
        The seed from which everything was drawn.
    bias_adu : ndarray of float32, (rows, image columns)
        Fixed bias structure, of median 0: the level is each frame's own.
    dark_rate_adu_per_s : ndarray of float32, (rows, image columns)
        Dark current with the amplifier glow.
    flat_response : mapping of str to ndarray of float32, (rows, image columns)
        For each filter, illumination x vignetting x dust x pixel response, of median 1.
    stars : ndarray of float64, (n, 3)
        y, x (pixel of the trimmed image) and flux (ADU/s) of each star.
    frames : tuple of FrameTruth
        One for each file, in the order of observation.
    """

    camera: Camera
    seed: int
    bias_adu: Plane
    dark_rate_adu_per_s: Plane
    flat_response: Mapping[str, Plane]
    stars: StarTable
    frames: tuple[FrameTruth, ...]

    @property
    def bias_level_adu(self) -> dict[str, float]:
        """Bias level of each frame, by file name."""
        return {frame.file: frame.bias_level_adu for frame in self.frames}

    def expected_flattened(self, frame: FrameTruth) -> Plane:
        """Return the noiseless light (ADU) as it would be with a uniform response.

        This is what a frame should be after division by a flat of median 1: a constant, with
        stars in a science frame. It is linear: true below the camera's linear limit.
        """
        light = np.full(self.camera.image_shape, frame.signal_adu, dtype=np.float32)
        if frame.kind == "science":
            add_stars(light, self.stars, self.camera.star_sigma_pixel, frame.exposure_time_s)
        return light

    def expected_signal(self, frame: FrameTruth) -> Plane:
        """Return the noiseless light (ADU) that fell on the pixels, as they respond to it.

        This is what a frame should be when overscan, bias and dark have been removed and the
        flat has not yet been divided out: zero for a bias and for a dark.
        """
        light = self.expected_flattened(frame)
        if frame.filter is not None:
            light *= self.flat_response[frame.filter]
        return light

    def save(self, path: Path | str) -> None:
        """Write the truth to one .npz file without pickles: the planes, and the rest as JSON."""
        facts = {
            "format": _FORMAT,
            "camera": asdict(self.camera),
            "seed": self.seed,
            "filters": list(self.flat_response),
            "frames": [asdict(frame) for frame in self.frames],
        }
        arrays: dict[str, Any] = {
            "facts": np.array(json.dumps(facts)),
            "bias_adu": self.bias_adu,
            "dark_rate_adu_per_s": self.dark_rate_adu_per_s,
            "stars": self.stars,
        }
        # Numbered, because a filter's name (g') need not be a good member name.
        for i, response in enumerate(self.flat_response.values()):
            arrays[f"flat_response_{i}"] = response
        # An open file, because numpy would add .npz to a path that does not end in it.
        with Path(path).open("wb") as stream:
            np.savez(stream, **arrays)

    @classmethod
    def load(cls, path: Path | str) -> NightTruth:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            The file was written in another format.
        """
        with np.load(path, allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["facts"]))
            if facts["format"] != _FORMAT:
                raise ValueError(
                    f"truth of format {facts['format']} in {path}; this version reads {_FORMAT}"
                )
            responses = {
                name: arrays[f"flat_response_{i}"] for i, name in enumerate(facts["filters"])
            }
            return cls(
                camera=Camera.from_dict(facts["camera"]),
                seed=facts["seed"],
                bias_adu=arrays["bias_adu"],
                dark_rate_adu_per_s=arrays["dark_rate_adu_per_s"],
                flat_response=responses,
                stars=arrays["stars"],
                frames=tuple(FrameTruth(**frame) for frame in facts["frames"]),
            )
