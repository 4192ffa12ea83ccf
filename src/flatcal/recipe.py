"""The configuration: TOML text to frozen settings, with all mistakes reported at once."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from flatcal.camera import CameraSettings, Count, KindRule, Number, Strict, Switch, matches_file
from flatcal.errors import ConfigError
from flatcal.frame import Kind

# The eight neighbours: of stars in twilight flats the outlier is only the core. Of three flats with
# 150 stars in a million pixels each, 2.7e-4 of the pixels of the master were more than 4 sigma off
# without, and 0.9e-4 with it; noise alone makes 0.6e-4.
FLAT_GROW_PIXELS: Final = 1.5


class DarkSettings(Strict):
    """How a dark is chosen.

    Attributes
    ----------
    required : bool or None
        False calibrates frames without a dark when none fits; None follows the camera profile.
    tolerance_s : float
        A dark this close in exposure time is subtracted unscaled.
    temperature_tolerance_c : float
        Largest difference of set temperatures.
    scale : 'auto', 'never' or 'always'
        Whether a dark may be scaled when none is close enough; 'always' even where dark current
        was measured not to grow with time.
    scale_up : bool
        Whether a shorter dark may be scaled up.
    refine : bool
        Whether the factor of a scaled dark is refined on the hot pixels of each frame.
    """

    required: Switch | None = None
    tolerance_s: Number = Field(default=0.5, ge=0)
    temperature_tolerance_c: Number = Field(default=0.5, ge=0)
    scale: Literal["auto", "never", "always"] = "auto"
    scale_up: Switch = False
    refine: Switch = False


class CombineSettings(Strict):
    """How masters are combined: what is rejected, and what becomes of the rest.

    Attributes
    ----------
    method : 'average' or 'median'
        How what is kept is combined.
    weights : 'equal' or 'inverse_variance'
        Weights of an average.
    reject : 'noise', 'sigma', 'winsorised', 'minmax' or 'none'
        How outliers are told.
    low_sigma, high_sigma : float
        Thresholds below and above the centre, in standard deviations.
    center : 'median' or 'mean'
        What deviations are counted from, for 'sigma'.
    spread : 'mad' or 'std'
        What they are measured by, for 'sigma'.
    iterations : int
        How often at the most, for 'sigma' and 'winsorised'.
    n_low, n_high : int
        How many values are left out, for 'minmax'.
    low_threshold_adu, high_threshold_adu : float or None
        Values beyond them are left out, whatever `reject` is.
    grow_pixels : float or None
        Radius around a rejected pixel in which the others of its frame are rejected as well;
        None is `FLAT_GROW_PIXELS` in flats whose noise is known, else 0.
    """

    method: Literal["average", "median"] = "average"
    weights: Literal["equal", "inverse_variance"] = "equal"
    reject: Literal["noise", "sigma", "winsorised", "minmax", "none"] = "noise"
    low_sigma: Number = Field(default=5.0, gt=0)
    high_sigma: Number = Field(default=5.0, gt=0)
    center: Literal["median", "mean"] = "median"
    spread: Literal["mad", "std"] = "mad"
    iterations: Count = Field(default=1, ge=1)
    n_low: Count = Field(default=1, ge=0)
    n_high: Count = Field(default=1, ge=0)
    low_threshold_adu: Number | None = None
    high_threshold_adu: Number | None = None
    grow_pixels: Number | None = Field(default=None, ge=0, le=50)

    def grow_of(self, kind: Kind, *, by_noise: bool) -> float:
        """The radius for frames of a kind, whose outliers are told by their noise or not."""
        if self.grow_pixels is not None:
            return self.grow_pixels
        return FLAT_GROW_PIXELS if kind is Kind.FLAT and by_noise else 0.0

    @model_validator(mode="after")
    def _refuse_what_has_no_effect(self) -> Self:
        """A setting that would be ignored is a mistake of the one who sets it."""
        for name, needed, values in (
            ("low_sigma", "reject", ("noise", "sigma", "winsorised")),
            ("high_sigma", "reject", ("noise", "sigma", "winsorised")),
            ("center", "reject", ("sigma",)),
            ("spread", "reject", ("sigma",)),
            ("iterations", "reject", ("sigma", "winsorised")),
            ("n_low", "reject", ("minmax",)),
            ("n_high", "reject", ("minmax",)),
            ("weights", "method", ("average",)),
        ):
            default = type(self).model_fields[name].default
            if getattr(self, name) != default and getattr(self, needed) not in values:
                allowed = " or ".join(f'"{value}"' for value in values)
                raise ValueError(
                    f'{name} has no effect with {needed} = "{getattr(self, needed)}"; '
                    f"leave it out, or set {needed} = {allowed}"
                )
        if self.reject == "minmax" and self.n_low + self.n_high == 0:
            raise ValueError('n_low and n_high are 0, so nothing is rejected; set reject = "none"')
        low, high = self.low_threshold_adu, self.high_threshold_adu
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"low_threshold_adu = {low:g} is not below high_threshold_adu = {high:g}"
            )
        return self


class ScienceSettings(Strict):
    """What science frames need.

    Attributes
    ----------
    flat_required : bool
        False calibrates science frames without a flat when there is none in their filter.
    """

    flat_required: Switch = True


# Of the files that are written, by whether they are compressed.
OUTPUT_SUFFIXES: Final = {False: ".fits", True: ".fits.fz"}


class CosmicRaySettings(Strict):
    """Whether cosmic rays are looked for in science frames, and how they are told.

    Attributes
    ----------
    find : 'no', 'flag' or 'clean'
        'flag' flags the pixels, 'clean' replaces their values as well.
    sigma : float
        Least Laplacian of a hit, over the noise.
    neighbour_fraction : float
        The share of that which is enough beside a hit.
    contrast : float
        Least ratio of that to what stars have; more where cores of sharp stars are flagged.
    """

    find: Literal["no", "flag", "clean"] = "no"
    sigma: Number = Field(default=4.5, gt=0)
    neighbour_fraction: Number = Field(default=0.3, gt=0, le=1)
    contrast: Number = Field(default=5.0, gt=0)

    @model_validator(mode="after")
    def _refuse_what_has_no_effect(self) -> Self:
        if self.find == "no" and self.model_dump(exclude_defaults=True):
            raise ValueError('the other settings have no effect with find = "no"; set "flag"')
        return self


class OutputSettings(Strict):
    """What is written.

    Attributes
    ----------
    dtype : 'float32' or 'float64'
        Type of the calculation and of the pixels written.
    uncertainty : bool
        Whether outputs get an UNCERT plane.
    mask : bool
        Whether calibrated frames get the planes MASK and FLAGS; masters always have theirs.
    flats : bool
        Whether the calibrated flats are written; without them the master flats are made
        straight from the raw ones.
    split_flat : bool
        Whether each master flat is also written apart, as illumination and pixel response.
    compress : bool
        Whether outputs are tile-compressed without loss, as ``.fits.fz``.
    """

    dtype: Literal["float32", "float64"] = "float32"
    uncertainty: Switch = True
    mask: Switch = True
    flats: Switch = True
    split_flat: Switch = False
    compress: Switch = False

    @property
    def suffix(self) -> str:
        """Of the files that are written."""
        return OUTPUT_SUFFIXES[self.compress]


class ExcludeRule(Strict):
    """Frames that are left out, as if they had not been taken.

    Attributes
    ----------
    file : str
        Glob over the path below the raw folder, or over the bare file name.
    reason : str
        Why, for the plan and the report.
    """

    file: str
    reason: str = ""


class Config(Strict):
    """The whole configuration; every setting has a default."""

    camera: CameraSettings = CameraSettings()
    kinds: tuple[KindRule, ...] = ()
    exclude: tuple[ExcludeRule, ...] = ()
    dark: DarkSettings = DarkSettings()
    combine: CombineSettings = CombineSettings()
    science: ScienceSettings = ScienceSettings()
    cosmic_rays: CosmicRaySettings = CosmicRaySettings()
    output: OutputSettings = OutputSettings()

    def exclusion(self, file: str) -> ExcludeRule | None:
        """The rule by which a frame is left out, if there is one."""
        return next((rule for rule in self.exclude if matches_file(rule.file, file)), None)

    def with_kinds(self, rules: Iterable[str]) -> Config:
        """The configuration with rules of the form ``kind=glob`` tried first.

        Raises
        ------
        ConfigError
            When a rule is not of that form.
        """
        first = tuple(_parse_kind_rule(rule) for rule in rules)
        return self.model_copy(update={"kinds": first + self.kinds})

    def with_output(self, **changes: Any) -> Config:
        """The configuration with other settings of `output`; None leaves one as it is.

        Raises
        ------
        ConfigError
            When a value is not allowed.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        try:
            output = OutputSettings.model_validate(self.output.model_dump() | given)
        except ValidationError as error:
            mistakes = [_describe({**d, "loc": ("output", *d["loc"])}) for d in error.errors()]
            raise ConfigError("bad-config", "\n".join(mistakes)) from error
        return self.model_copy(update={"output": output})


def _parse_kind_rule(text: str) -> KindRule:
    kind, found, pattern = text.partition("=")
    if not found or kind not in list(Kind) or not pattern:
        raise ConfigError(
            "bad-config",
            f"--kind {text!r} is not of the form KIND=PATTERN with a kind of "
            f"{', '.join(Kind)}; for example --kind 'flat=flat-*'",
        )
    return KindRule(kind=Kind(kind), file=pattern)


def load_config(path: str | Path) -> Config:
    """Read a configuration file.

    Parameters
    ----------
    path : str or Path
        TOML file.

    Returns
    -------
    Config
        The frozen settings.

    Raises
    ------
    ConfigError
        Names every mistake with file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("bad-config", f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError("bad-config", f"{path} is not text in UTF-8: {error}") from error
    config = parse_config(text, str(path))
    files = {}
    for name in ("bad_pixel_mask", "linearity_table"):
        file = getattr(config.camera, name)
        if file is None:
            continue
        try:
            # As people expect: beside the settings, wherever the command is called from.
            files[name] = str((path.parent / file).resolve())
        except (ValueError, RuntimeError) as error:  # a null byte; links in a circle
            told = f"{path}: camera.{name} = {file!r} is no name of a file: {error}"
            raise ConfigError("bad-config", told) from error
    return config.model_copy(update={"camera": config.camera.model_copy(update=files)})


def parse_config(text: str, name: str) -> Config:
    """Turn TOML text into settings; `name` stands in the messages. See `load_config`."""
    try:
        return _parse(text, name)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        # Python's own limits: of digits that it turns into a number or back, and of depth.
        told = f"{name} holds a number of thousands of digits, or brackets nested too deeply"
        raise ConfigError("bad-config", told) from error


def _parse(text: str, name: str) -> Config:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("bad-config", f"{name}: not valid TOML: {error}") from error
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = _lines_of_keys(text)
        numbered = [(_line_of(tuple(d["loc"]), lines), _describe(d)) for d in error.errors()]
        mistakes = [f"{name}:{line}: {mistake}" for line, mistake in sorted(numbered)]
        raise ConfigError("bad-config", "\n".join(mistakes)) from error


def _line_of(location: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]) -> int:
    """Line of a setting, or of the table that it should stand in."""
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 1)


def _describe(detail: Any) -> str:
    location = tuple(detail["loc"])
    key = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        return f"{key} is not a setting{_suggestion(location)}"
    if detail["type"] == "missing":
        return f"{key} is missing"
    if detail["type"] == "model_type":
        return f"{key} = {detail['input']!r}: it is a table, [{key}]"
    if detail["type"] == "value_error":
        return f"{key}: {detail['ctx']['error']}"
    if key in _RULES:
        return f"{key} = {detail['input']!r}: it is a list of tables, [[{key}]]"
    return f"{key} = {detail['input']!r}: {detail['msg'].lower()}"


# Settings that are lists of tables.
_RULES: dict[str, Any] = {"kinds": KindRule, "exclude": ExcludeRule}


def _suggestion(location: tuple[str | int, ...]) -> str:
    model: Any = Config
    for part in location[:-1]:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            model = _RULES.get(part, annotation)
    close = difflib.get_close_matches(str(location[-1]), model.model_fields, n=1)
    known = ", ".join(model.model_fields)
    return f"; did you mean {close[0]}?" if close else f"; known here: {known}"


_TABLE = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"""\s*(["']?)([\w.-]+)\1\s*=""")


def _lines_of_keys(text: str) -> dict[tuple[str | int, ...], int]:
    """Line of each table and key, by its path; tomllib does not tell positions."""
    lines: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _TABLE.match(line):
            path = match[2]
            table = tuple(path.split("."))
            if match[1] == "[[":
                index = counts.get(path, 0)
                counts[path] = index + 1
                table = (*table, index)
            lines[table] = number
        elif match := _KEY.match(line):
            lines[(*table, *match[2].split("."))] = number
    return lines
