"""Camera profiles, and the settings by which a header is read.

A profile is a TOML file in ``cameras/``: how its headers are recognised, which keywords they
use, which sections are kept, and what is known of the detector. The same settings stand in
the ``[camera]`` table of a configuration, where they overrule the profile.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from flatcal.extension import split_name
from flatcal.frame import Kind
from flatcal.overscan_model import LevelFunction, Statistic

Cards = Mapping[str, Any]


def _as_keywords(value: Any) -> Any:
    """One keyword or several, in the capitals of a header."""
    several = (value,) if isinstance(value, str) else value
    if isinstance(several, list | tuple) and all(isinstance(word, str) for word in several):
        return tuple(word.upper() for word in several)
    return several


Keywords = Annotated[tuple[str, ...], BeforeValidator(_as_keywords)]


# Text is no number and no switch, whatever it spells.
Number = Annotated[float, Field(strict=True)]
Count = Annotated[int, Field(strict=True)]
Switch = Annotated[bool, Field(strict=True)]


class Strict(BaseModel):
    """Frozen, and a misspelt name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class KindRule(Strict):
    """Frames that match are of this kind.

    Attributes
    ----------
    kind : Kind
        The kind.
    file : str or None
        Glob over the path below the raw folder, or over the bare file name.
    header : dict
        Keyword to value; text is a glob without regard to case, numbers compare as numbers.
    """

    kind: Kind
    file: str | None = None
    header: dict[str, str | float | bool] = Field(default_factory=dict)

    def matches(self, file: str, cards: Cards) -> bool:
        """Whether a frame of this path and header is meant."""
        if self.file is None and not self.header:
            return False
        if self.file is not None and not matches_file(self.file, file):
            return False
        return all(
            card_matches(cards.get(key.upper()), value) for key, value in self.header.items()
        )

    def __str__(self) -> str:
        parts = [f"file {self.file}"] if self.file else []
        parts += [f"{key} = {value}" for key, value in self.header.items()]
        return " and ".join(parts)


class AmplifierSettings(Strict):
    """One of several amplifiers that share an image.

    What is left out of gain, read noise and limits is that of the camera.
    """

    name: str = Field(min_length=1)
    data_section: str = Field(description="FITS section of its part of the raw image")
    overscan_section: str = Field(default="none", description="'none', or a FITS section")
    gain_electron_per_adu: Number | None = Field(default=None, gt=0)
    read_noise_electron: Number | None = Field(default=None, ge=0)
    saturation_adu: Number | None = Field(default=None, gt=0)
    linear_to_adu: Number | None = Field(default=None, gt=0)


class ExtensionSettings(Strict):
    """What is known of one detector of a mosaic, over what is said of the whole camera.

    Attributes
    ----------
    gain_electron_per_adu, read_noise_electron, saturation_adu, linear_to_adu : float or None
        As in `CameraSettings`.
    """

    gain_electron_per_adu: Number | None = Field(default=None, gt=0)
    read_noise_electron: Number | None = Field(default=None, ge=0)
    saturation_adu: Number | None = Field(default=None, gt=0)
    linear_to_adu: Number | None = Field(default=None, gt=0)


class CameraSettings(Strict):
    """How a camera's headers are read and what is known of its detector.

    Every setting may be left out: a configuration overrules a profile only in what it names.
    """

    exposure_keyword: Keywords | None = None
    exposure_unit: Literal["s", "ms", "us"] | None = None
    filter_keyword: Keywords | None = None
    kind_keyword: Keywords | None = None
    set_temperature_keyword: Keywords | None = None
    readout_mode_keyword: Keywords | None = None
    gain_setting_keyword: Keywords | None = None
    overscan_section: str | None = Field(
        default=None, description="'none', 'header', or a FITS section"
    )
    overscan_statistic: Statistic | None = None
    overscan_model: LevelFunction | None = None
    overscan_order: Count | None = Field(
        default=None, ge=0, le=30, description="degree of a polynomial, pieces of a spline"
    )
    overscan_low_sigma: Number | None = Field(default=None, gt=0)
    overscan_high_sigma: Number | None = Field(default=None, gt=0)
    overscan_iterations: Count | None = Field(default=None, ge=0)
    parallel_overscan_section: str | None = Field(
        default=None, description="'none', or a FITS section above or below the image"
    )
    trim_section: str | None = Field(
        default=None, description="'none', 'header', or a FITS section"
    )
    gain_electron_per_adu: Number | None = Field(default=None, gt=0)
    read_noise_electron: Number | None = Field(default=None, ge=0)
    saturation_adu: Number | None = Field(default=None, gt=0)
    linear_to_adu: Number | None = Field(default=None, gt=0)
    linearity_coefficients: tuple[Number, ...] | None = Field(
        default=None, description="c1, c2, ...: true = raw (1 + c1 raw + c2 raw^2 + ...)"
    )
    linearity_table: str | None = Field(
        default=None, description="text file of raw and true counts above the bias level"
    )
    bad_pixel_mask: str | None = Field(
        default=None, description="FITS image, not 0 where a pixel is bad"
    )
    unit: Literal["adu", "electron"] | None = None
    amplifiers: tuple[AmplifierSettings, ...] | None = Field(
        default=None, description="one table for each amplifier, where several share an image"
    )
    assemble_amplifiers: Switch | None = Field(
        default=None, description="false keeps each as an image of its own"
    )
    colour_matrix: Literal["header", "none", "RGGB", "BGGR", "GRBG", "GBRG"] | None = None
    extensions: dict[str, ExtensionSettings] | None = Field(
        default=None, description="detectors of a mosaic, by the names of their extensions"
    )

    def of_extension(self, name: str) -> CameraSettings:
        """The settings with what is known of one detector of a mosaic."""
        own = (self.extensions or {}).get(name)
        return self if own is None else self.model_copy(update=own.model_dump(exclude_none=True))

    def overruled_by(self, other: CameraSettings) -> CameraSettings:
        """The settings with every value that `other` names taken from there."""
        named = {
            name: value
            for name in CameraSettings.model_fields
            if (value := getattr(other, name)) is not None
        }
        own = {name: getattr(self, name) for name in CameraSettings.model_fields}
        return CameraSettings(**(own | named))


class CameraProfile(CameraSettings):
    """A camera that flatcal knows.

    Attributes
    ----------
    name : str
        Name of the camera in plans and outputs.
    source : str
        Where the facts come from.
    match : dict
        Keyword to glob; all must match for the profile to apply.
    shape : tuple of int or None
        Rows and columns that the sections are meant for.
    dark_required : bool
        False where the dark current is negligible.
    kinds : tuple of KindRule
        Rules tried before the header's own words.
    """

    name: str
    source: str = ""
    match: dict[str, str] = Field(default_factory=dict)
    shape: tuple[int, int] | None = None
    dark_required: bool = True
    kinds: tuple[KindRule, ...] = ()


GENERIC = CameraProfile(
    name="",
    source="keywords in common use",
    exposure_keyword=("EXPTIME", "EXPOSURE", "ITIME", "EXP_TIME", "EXPOSTIM"),
    exposure_unit="s",
    filter_keyword=("FILTER", "FILTNAM", "FILTERID"),
    kind_keyword=("IMAGETYP", "OBSTYPE", "FRAMETYP", "IMAGETYPE"),
    set_temperature_keyword=("SET-TEMP", "CCDTSET", "SETTEMP"),
    readout_mode_keyword=("READOUTM", "READMODE", "READ-SPD", "READSPD"),
    gain_setting_keyword=("GAIN", "OFFSET"),
    overscan_section="header",
    overscan_statistic="median",
    overscan_model="per_row",
    parallel_overscan_section="none",
    trim_section="header",
    colour_matrix="header",
)


@cache
def load_profiles() -> tuple[CameraProfile, ...]:
    """All profiles that ship with flatcal, each completed by the generic keywords."""
    folder = resources.files("flatcal") / "cameras"
    profiles = []
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".toml"):
            raw = tomllib.loads(file.read_text(encoding="utf-8"))
            profile = CameraProfile.model_validate(raw)
            completed = dict(GENERIC.overruled_by(profile))
            profiles.append(profile.model_copy(update=completed))
    return tuple(profiles)


def find_profile(cards: Cards) -> CameraProfile:
    """The profile whose match fits a header, or the generic one."""
    for profile in load_profiles():
        if profile.match and all(
            card_matches(cards.get(key), value) for key, value in profile.match.items()
        ):
            return profile
    return GENERIC


def find_profile_by_name(name: str) -> CameraProfile:
    """The profile of that name, or the generic one."""
    return next((p for p in load_profiles() if p.name == name), GENERIC)


def matches_file(pattern: str, file: str) -> bool:
    """Whether a glob fits the path below the raw folder or its last part.

    One that ends in an extension, as in '*.fits[CHIP2]', fits that image alone; one without fits
    all images of a file.
    """
    wanted, extension = split_name(pattern)
    path, its_extension = split_name(file)
    if extension and extension != its_extension:
        return False
    return fnmatch.fnmatchcase(path, wanted) or fnmatch.fnmatchcase(path.rsplit("/", 1)[-1], wanted)


def card_matches(found: Any, wanted: str | float | bool) -> bool:
    """Whether a card's value is the wanted one: numbers as numbers, text as a glob."""
    if found is None:
        return False
    if isinstance(wanted, str):
        return fnmatch.fnmatchcase(str(found).strip().lower(), wanted.strip().lower())
    return bool(found == wanted)
