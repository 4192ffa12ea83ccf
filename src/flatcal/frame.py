"""What is known of one raw frame before a pixel is read, and what outputs say of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from flatcal.section import Section


class Kind(StrEnum):
    """The kinds of frame."""

    BIAS = "bias"
    DARK = "dark"
    FLAT = "flat"
    SCIENCE = "science"


@dataclass(frozen=True, slots=True)
class Caveat:
    """Something the observer should know about a frame, with the slug that explains it.

    Attributes
    ----------
    slug : str
        Name of the message.
    text : str
        The message, with its values.
    """

    slug: str
    text: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Where the pixels lie in the file.

    Attributes
    ----------
    hdu : int
        Index of the image HDU.
    data_offset : int
        Byte at which its data begin.
    plain_uint16 : bool
        True for uncompressed big-endian 16-bit integers with BZERO 32768, which the kernels
        decode; everything else is decoded by astropy.
    size_bytes, mtime_ns : int
        Size and modification time of the file when its header was read.
    """

    hdu: int
    data_offset: int
    plain_uint16: bool
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """Which pixels are kept and which give the overscan level, and who says so.

    Attributes
    ----------
    trim_section : tuple of slice or None
        The image that is kept; None keeps all.
    overscan_section : tuple of slice or None
        The pixels whose statistic along each row is subtracted from that row; None for no
        overscan.
    overscan_statistic : str
        'median' or 'mean'.
    reason : str
        Where the sections come from.
    """

    trim_section: Section | None
    overscan_section: Section | None
    overscan_statistic: str
    reason: str


@dataclass(frozen=True, slots=True)
class Detector:
    """Noise and range of the detector, as far as they are known.

    Attributes
    ----------
    gain_electron_per_adu, read_noise_electron : float or None
        None when neither the configuration nor the profile tells.
    saturation_adu : float or None
        Raw values from here on are flagged as saturated; None flags none.
    linear_to_adu : float or None
        Raw values above it are flagged as not linear; None flags none.
    """

    gain_electron_per_adu: float | None
    read_noise_electron: float | None
    saturation_adu: float | None
    linear_to_adu: float | None = None

    @property
    def noise_known(self) -> bool:
        """Whether the noise of a single frame can be predicted."""
        return self.gain_electron_per_adu is not None and self.read_noise_electron is not None


@dataclass(frozen=True, slots=True)
class Setup:
    """What must agree between a frame and the masters that it needs.

    Attributes
    ----------
    camera : str
        Name of the camera.
    shape : tuple of int
        Rows and columns as read out.
    binning : tuple of int
        Along x and y.
    readout_mode, gain_setting : str
        As the header has them; empty where it says nothing.
    unit : str
        'adu' or 'electron'.
    pedestal_adu : float
        PEDESTAL: the constant that takes off what software has added to all pixels.
    """

    camera: str
    shape: tuple[int, int]
    binning: tuple[int, int]
    readout_mode: str
    gain_setting: str
    unit: str
    pedestal_adu: float = 0.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One raw frame.

    Attributes
    ----------
    file : str
        Path below the raw folder, with '/' between its parts.
    kind : Kind or None
        None when nothing tells the kind.
    kind_reason : str
        What told it.
    exposure_time_s, set_temperature_c, sensor_temperature_c : float or None
        Seconds and degrees Celsius; None where the header is silent.
    filter : str
        Empty where the header has none.
    object : str
        What the header says was observed.
    date : str
        DATE-OBS or its like, as written.
    setup, storage, geometry, detector
        None only when the frame has errors.
    caveats : tuple of Caveat
        What the observer should know.
    errors : tuple of Caveat
        Why the frame cannot be used at all.
    """

    file: str
    kind: Kind | None = None
    kind_reason: str = ""
    exposure_time_s: float | None = None
    set_temperature_c: float | None = None
    sensor_temperature_c: float | None = None
    filter: str = ""
    object: str = ""
    date: str = ""
    setup: Setup | None = None
    storage: Storage | None = None
    geometry: Geometry | None = None
    detector: Detector | None = None
    caveats: tuple[Caveat, ...] = ()
    errors: tuple[Caveat, ...] = ()
