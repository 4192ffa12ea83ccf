"""What is known of one raw frame before a pixel is read, and what outputs say of themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from typing import Final

from flatcal.file_status import FileStatus
from flatcal.overscan_model import PER_ROW, OverscanModel, Statistic
from flatcal.section import Section

# A card has room for so many characters beside its comment.
_LONGEST: Final = 25


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
        Byte at which its data begin, or those of its plane.
    plain_uint16 : bool
        True for uncompressed big-endian 16-bit integers with BZERO 32768, which the kernels
        decode; everything else is decoded by astropy.
    size_bytes, mtime_ns : int
        Size and modification time of the file when its header was read.
    etag : str
        Tag that a server gave to its content; empty for a file of this machine.
    plane : int or None
        Which plane of a cube it is, from 0; None for an image of two axes.
    """

    hdu: int
    data_offset: int
    plain_uint16: bool
    size_bytes: int
    mtime_ns: int
    etag: str = ""
    plane: int | None = None

    @property
    def stamp(self) -> FileStatus:
        """What tells whether the file is as it was."""
        return FileStatus(self.size_bytes, self.mtime_ns, self.etag)


@dataclass(frozen=True, slots=True)
class LinearityCurve:
    """The true counts for those that a detector gives, both above the bias level.

    Attributes
    ----------
    coefficients : tuple of float
        c1, c2 and on of ``true = raw (1 + c1 raw + c2 raw^2 + ...)``; empty for a table.
    table : str
        File of a table.
    digest : str
        SHA-256 of its numbers.
    """

    coefficients: tuple[float, ...] = ()
    table: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """What tells it from other curves, as a header holds it."""
        if self.table:
            return f"table {self.digest[:12]}"
        numbers = " ".join(f"{c:.9g}" for c in self.coefficients)
        if len(numbers) > _LONGEST:
            numbers = sha256(numbers.encode()).hexdigest()[:12]
        return f"polynomial {numbers}"


@dataclass(frozen=True, slots=True)
class Detector:
    """Noise and range of what one amplifier reads, as far as they are known.

    Attributes
    ----------
    gain_electron_per_adu, read_noise_electron : float or None
        None when neither the configuration nor the profile tells.
    saturation_adu : float or None
        Raw values from here on are flagged as saturated; None flags none.
    linear_to_adu : float or None
        Raw values above it are flagged as not linear; None flags none.
    linearity : LinearityCurve or None
        What makes the counts above the bias level linear; None for a detector that is.
    amplifier : str
        Name of the amplifier; empty where there is but one.
    """

    gain_electron_per_adu: float | None
    read_noise_electron: float | None
    saturation_adu: float | None
    linear_to_adu: float | None = None
    linearity: LinearityCurve | None = None
    amplifier: str = ""

    @property
    def noise_known(self) -> bool:
        """Whether the noise of a single frame can be predicted."""
        return self.gain_electron_per_adu is not None and self.read_noise_electron is not None


@dataclass(frozen=True, slots=True)
class Amplifier:
    """The pixels that one amplifier reads, and what is known of their noise.

    Attributes
    ----------
    data_section : tuple of slice or None
        Its part of the image, in the raw image; None where it is all of it.
    overscan_section : tuple of slice or None
        The pixels whose level along each row is subtracted from that row; None for no overscan.
    detector : Detector
        Its gain, read noise and range.
    """

    data_section: Section | None
    overscan_section: Section | None
    detector: Detector


@dataclass(frozen=True, slots=True)
class Geometry:
    """Which pixels are kept and which give the overscan level, and who says so.

    Attributes
    ----------
    amplifiers : tuple of Amplifier
        In most cameras one. The data sections of several are moved together to one image; all of
        them have an overscan, or none.
    overscan_statistic : str
        'median', 'mean' or 'clipped_mean'.
    reason : str
        Where the sections come from.
    overscan_model : OverscanModel
        How the level varies along the rows.
    parallel_overscan_section : tuple of slice or None
        Rows above or below the image of one amplifier, over the columns that are kept, whose
        statistic along each column is subtracted from that column once the rows have lost their
        level; None for none.
    """

    amplifiers: tuple[Amplifier, ...]
    overscan_statistic: Statistic
    reason: str
    overscan_model: OverscanModel = PER_ROW
    parallel_overscan_section: Section | None = None

    @property
    def is_divided(self) -> bool:
        """Whether several amplifiers share the image."""
        return len(self.amplifiers) > 1

    @property
    def names_amplifiers(self) -> bool:
        """Whether its amplifiers are those of an image that several share, kept apart or not."""
        return bool(self.amplifiers[0].detector.amplifier)

    @property
    def trim_section(self) -> Section | None:
        """What is kept where there is one amplifier; None keeps all."""
        (only,) = self.amplifiers
        return only.data_section

    @property
    def overscan_section(self) -> Section | None:
        """The overscan where there is one amplifier; None for none."""
        (only,) = self.amplifiers
        return only.overscan_section

    @property
    def data_sections(self) -> tuple[Section, ...]:
        """The data sections; empty where all of the raw image is kept."""
        return tuple(a.data_section for a in self.amplifiers if a.data_section is not None)

    @property
    def overscan_sections(self) -> tuple[Section, ...]:
        """The overscans; empty where there is none."""
        return tuple(a.overscan_section for a in self.amplifiers if a.overscan_section is not None)

    def with_overscan(self, section: Section | None, reason: str) -> Geometry:
        """The same with another overscan of its one amplifier."""
        (only,) = self.amplifiers
        return replace(self, amplifiers=(replace(only, overscan_section=section),), reason=reason)


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
    detector : str
        Which of the detectors of a mosaic it is, by its extension; empty where there is one.
    linearity : str
        Name of the curve that makes counts linear; empty for none.
    """

    camera: str
    shape: tuple[int, int]
    binning: tuple[int, int]
    readout_mode: str
    gain_setting: str
    unit: str
    pedestal_adu: float = 0.0
    detector: str = ""
    linearity: str = ""

    @property
    def name(self) -> str:
        """The camera, and which of its detectors."""
        return f"{self.camera} {self.detector}" if self.detector else self.camera


@dataclass(frozen=True, slots=True)
class Frame:
    """One raw frame.

    Attributes
    ----------
    file : str
        Path below the raw folder, with '/' between its parts; of one image of several with its
        extension, see `flatcal.extension`.
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
    colour_matrix : str
        Colours of the first 2 x 2 pixels of the raw image, row by row, as 'RGGB'; empty for a
        detector without.
    setup, storage, geometry
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
    colour_matrix: str = ""
    setup: Setup | None = None
    storage: Storage | None = None
    geometry: Geometry | None = None
    caveats: tuple[Caveat, ...] = ()
    errors: tuple[Caveat, ...] = ()

    @property
    def detectors(self) -> tuple[Detector, ...]:
        """Noise and range of each amplifier; none of a frame with errors in its sections."""
        return () if self.geometry is None else tuple(a.detector for a in self.geometry.amplifiers)
