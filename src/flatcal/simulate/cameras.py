"""The two cameras that can be simulated, as frozen tables of physical facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

FrameKind = Literal["bias", "dark", "flat", "science"]
PixelSlice = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera: its geometry, its electronics and its optics.

    Lengths called ``*_pixel`` are in pixels of this camera, so a camera at a quarter of its size
    has them divided by four. Overscan columns are electronics, not silicon: they do not shrink.

    Attributes
    ----------
    name, telescope, instrument : str
        Short name, and the values of TELESCOP and INSTRUME.
    full_size : bool
        Whether the imaging area has the real number of pixels.
    rows, image_columns, overscan_columns : int
        Geometry of the raw frame. The overscan stands on the right.
    leak_columns : int
        Number of overscan columns, next to the image, into which light leaks.
    leak_fraction, leak_scale_columns : float
        Part of the last image column's light in the first overscan column, and the number of
        columns in which the leak falls by e.
    gain_electron_per_adu, read_noise_electron : float
        Gain (electron / ADU) and gaussian read noise (electron) of each pixel read.
    linear_limit_electron, full_well_electron : float
        Charge up to which the response is linear, and the largest charge that a pixel holds.
    bias_level_adu, bias_drift_adu, bias_jitter_adu : float
        Typical bias level, half the range of its slow drift over the night, and the standard
        deviation of what is left from frame to frame.
    overscan_follows_bias : bool
        Whether the overscan level drifts together with the bias level of the image.
    overscan_offset_adu, overscan_jitter_adu : float
        Typical overscan level less the typical bias level, and its own standard deviation.
    dark_rate_electron_per_s : float
        Median dark current of the ordinary pixels.
    n_hot_pixels, max_dark_rate_electron_per_s
        Number of pixels above 4 electron/s, and the hottest that can occur.
    glow_rate_electron_per_s, glow_size_pixel
        Amplifier glow at pixel [0, 0], and the side of the square that it reaches.
    prnu, prnu_of_filter : float
        Relative standard deviation of the pixels' response that all filters share, and of the
        part that differs from filter to filter.
    gradient : mapping of str to (float, float)
        For each filter, the relative change of the illumination along rows (y) and columns (x).
    vignetting_centre, vignetting_radius, vignetting_strength
        Optical centre (y, x) as a fraction of the image, radius in the same unit where light
        begins to be lost, and the loss per squared distance beyond that radius.
    n_donuts, donut_radius_pixel
        Number of dust shadows and their typical outer radius.
    n_stars, star_sigma_pixel, max_star_flux_adu_per_s
        Number of stars, their gaussian width, and the flux of the brightest possible one.
    image_types : mapping of str to str
        The value of IMAGETYP for each kind of frame.
    start, cadence_s
        DATE-OBS of frame 0 (ISO 8601, UTC) and the time from one frame to the next.
    """

    name: str
    telescope: str
    instrument: str
    full_size: bool
    rows: int
    image_columns: int
    overscan_columns: int
    leak_columns: int
    leak_fraction: float
    leak_scale_columns: float
    gain_electron_per_adu: float
    read_noise_electron: float
    linear_limit_electron: float
    full_well_electron: float
    bias_level_adu: float
    bias_drift_adu: float
    bias_jitter_adu: float
    overscan_follows_bias: bool
    overscan_offset_adu: float
    overscan_jitter_adu: float
    dark_rate_electron_per_s: float
    n_hot_pixels: int
    max_dark_rate_electron_per_s: float
    glow_rate_electron_per_s: float
    glow_size_pixel: int
    prnu: float
    prnu_of_filter: float
    gradient: Mapping[str, tuple[float, float]]
    vignetting_centre: tuple[float, float]
    vignetting_radius: float
    vignetting_strength: float
    n_donuts: int
    donut_radius_pixel: float
    n_stars: int
    star_sigma_pixel: float
    max_star_flux_adu_per_s: float
    image_types: Mapping[str, str]
    start: str
    cadence_s: float

    @property
    def columns(self) -> int:
        """Number of columns of the raw frame."""
        return self.image_columns + self.overscan_columns

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (rows, columns) of the raw frame."""
        return self.rows, self.columns

    @property
    def image_shape(self) -> tuple[int, int]:
        """Shape (rows, columns) of the trimmed image."""
        return self.rows, self.image_columns

    @property
    def image_slice(self) -> PixelSlice:
        """The region to keep when trimming, ``[y, x]``."""
        return slice(None), slice(None, self.image_columns)

    @property
    def overscan_slice(self) -> PixelSlice:
        """The whole overscan, ``[y, x]``."""
        return slice(None), slice(self.image_columns, None)

    @property
    def clean_overscan_slice(self) -> PixelSlice:
        """The overscan without the columns into which light leaks, ``[y, x]``."""
        return slice(None), slice(self.image_columns + self.leak_columns, None)

    @property
    def filters(self) -> tuple[str, ...]:
        """The filters of the camera's night."""
        return tuple(self.gradient)

    def shrink(self, factor: int) -> Camera:
        """Return the camera with the imaging area divided by `factor` along each axis."""
        return replace(
            self,
            full_size=False,
            rows=self.rows // factor,
            image_columns=self.image_columns // factor,
            n_hot_pixels=round(self.n_hot_pixels / factor**2),
            glow_size_pixel=self.glow_size_pixel // factor,
            donut_radius_pixel=self.donut_radius_pixel / factor,
            n_stars=round(self.n_stars / factor**2),
        )

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Camera:
        """Build the camera from `dataclasses.asdict` after a passage through JSON."""
        gradient = {name: (slope[0], slope[1]) for name, slope in facts["gradient"].items()}
        centre_y, centre_x = facts["vignetting_centre"]
        return cls(**{**facts, "gradient": gradient, "vignetting_centre": (centre_y, centre_x)})


LFC = Camera(
    name="lfc",
    telescope="Palomar 200-inch",
    instrument="Large Format Camera",
    full_size=True,
    rows=4128,
    image_columns=2048,
    overscan_columns=32,
    leak_columns=7,
    leak_fraction=0.05,
    leak_scale_columns=2.0,
    gain_electron_per_adu=2.0,
    read_noise_electron=11.0,
    linear_limit_electron=100_000.0,
    full_well_electron=120_000.0,  # 61 100 ADU: the pixel is full before the converter is
    bias_level_adu=1100.0,
    bias_drift_adu=10.0,
    bias_jitter_adu=1.5,
    overscan_follows_bias=True,
    overscan_offset_adu=-5.0,
    overscan_jitter_adu=0.0,
    dark_rate_electron_per_s=0.002,
    n_hot_pixels=320,
    max_dark_rate_electron_per_s=200.0,
    glow_rate_electron_per_s=0.4,
    glow_size_pixel=200,
    prnu=0.01,
    prnu_of_filter=0.002,
    gradient={"g'": (0.06, 0.01), "i'": (0.04, -0.015)},
    vignetting_centre=(0.5, 0.5),
    vignetting_radius=0.65,
    vignetting_strength=3.0,
    n_donuts=4,
    donut_radius_pixel=45.0,
    n_stars=4000,
    star_sigma_pixel=1.8,
    max_star_flux_adu_per_s=2000.0,
    image_types={"bias": "BIAS", "dark": "DARK", "flat": "FLATFIELD", "science": "OBJECT"},
    start="2024-05-13T02:00:00",
    cadence_s=400.0,
)

CG16M = Camera(
    name="cg16m",
    telescope="0.5 m Cassegrain",
    instrument="Aspen CG16M",
    full_size=True,
    rows=4096,
    image_columns=4096,
    overscan_columns=13,
    leak_columns=0,
    leak_fraction=0.0,
    leak_scale_columns=1.0,
    gain_electron_per_adu=1.5,
    read_noise_electron=10.0,
    linear_limit_electron=80_700.0,  # 55 000 ADU with the bias
    full_well_electron=100_000.0,  # 67 900 ADU: the converter is full before the pixel is
    bias_level_adu=1200.0,
    bias_drift_adu=0.0,
    bias_jitter_adu=0.3,
    overscan_follows_bias=False,
    overscan_offset_adu=300.0,
    overscan_jitter_adu=25.0,
    dark_rate_electron_per_s=0.01,
    n_hot_pixels=4308,
    max_dark_rate_electron_per_s=400.0,
    glow_rate_electron_per_s=0.0,
    glow_size_pixel=0,
    prnu=0.01,
    prnu_of_filter=0.002,
    gradient={"r": (0.01, -0.02)},
    vignetting_centre=(0.5, 0.4),
    vignetting_radius=0.6,
    vignetting_strength=3.7,
    n_donuts=14,
    donut_radius_pixel=110.0,
    n_stars=4000,
    star_sigma_pixel=1.8,
    max_star_flux_adu_per_s=8000.0,
    image_types={"bias": "BIAS", "dark": "DARK", "flat": "FLAT", "science": "LIGHT"},
    start="2024-05-13T01:00:00",
    cadence_s=120.0,
)

SHRINK_FACTOR = 4
_CAMERAS = {camera.name: camera for camera in (LFC, CG16M)}
CAMERA_NAMES = tuple(_CAMERAS)


def get_camera(name: str, *, full_size: bool = False) -> Camera:
    """Return the camera called `name`, by default at a quarter of its linear size.

    Raises
    ------
    ValueError
        No camera has that name.
    """
    if name not in _CAMERAS:
        raise ValueError(f"no simulated camera is called {name!r}; there are {CAMERA_NAMES}")
    return _CAMERAS[name] if full_size else _CAMERAS[name].shrink(SHRINK_FACTOR)
