"""Gain and read noise of the cameras of a folder, from its own flats and bias frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from flatcal.camera import Strict
from flatcal.errors import FlatcalError, FrameError
from flatcal.extension import file_of
from flatcal.frame import Caveat, Frame, Kind, Setup
from flatcal.io import naming, open_fits, quiet_astropy
from flatcal.photon_transfer.curve import PhotonTransferCurve, fit_photon_transfer
from flatcal.photon_transfer.raw import (
    PAIR_PIXELS,
    RawImage,
    RawPart,
    measure_raw_pair,
    read_variance_of_pairs,
)
from flatcal.section import format_sections
from flatcal.storage import Place, place_of

# More pairs would not make the result better, only later.
_MOST_PAIRS: Final = 10
# A value that is farther off than this part of what was measured is named.
CONTRADICTS: Final = 0.05
_GAIN_CARDS: Final = ("GAIN", "EGAIN")
_READ_NOISE_CARDS: Final = ("RDNOISE", "READNOIS")


class MeasuredDetector(Strict):
    """Gain and read noise of one set-up.

    Attributes
    ----------
    camera, shape, gain_setting
        The set-up.
    amplifier : str
        Name of the amplifier; empty where there is one.
    why_not : str
        Why nothing was measured; empty where it was.
    flat_pairs, bias_pairs : tuple of tuple of str
        The files.
    curve : PhotonTransferCurve or None
        Points and fit.
    read_noise_adu, read_noise_error_adu, read_noise_electron, read_noise_error_electron
        Of a pixel, without the noise of the overscan level.
    assumed_gain_electron_per_adu, assumed_read_noise_electron : float or None
        By the configuration or the camera profile.
    caveats : tuple of Caveat
        Values of the header or of the settings that contradict the measurement; pairs that
        could not be used.
    """

    camera: str
    shape: tuple[int, int]
    gain_setting: str
    amplifier: str = ""
    why_not: str = ""
    flat_pairs: tuple[tuple[str, str], ...] = ()
    bias_pairs: tuple[tuple[str, str], ...] = ()
    curve: PhotonTransferCurve | None = None
    read_noise_adu: float | None = None
    read_noise_error_adu: float | None = None
    read_noise_electron: float | None = None
    read_noise_error_electron: float | None = None
    assumed_gain_electron_per_adu: float | None = None
    assumed_read_noise_electron: float | None = None
    caveats: tuple[Caveat, ...] = ()

    @property
    def gain_electron_per_adu(self) -> float | None:
        """Measured gain."""
        return None if self.curve is None else self.curve.gain_electron_per_adu

    @property
    def gain_error_electron_per_adu(self) -> float | None:
        """Its standard error."""
        return None if self.curve is None else self.curve.gain_error_electron_per_adu


class DetectorReport(Strict):
    """What `flatcal measure --json` prints.

    Attributes
    ----------
    schema_version : int
        Of this form.
    raw : str
        The raw folder.
    detectors : tuple of MeasuredDetector
        One for each set-up that has flats or bias frames.
    """

    schema_version: Literal[1] = 1
    raw: str
    detectors: tuple[MeasuredDetector, ...]


@dataclass(frozen=True, slots=True)
class PairedFrame:
    """A frame that may stand in a pair.

    Attributes
    ----------
    name : str
        Path below the raw folder.
    image : RawImage
        How it is read.
    alike : tuple
        Only frames that agree in this make a pair: set temperature and filter.
    order : tuple
        Neighbours in this order make a pair.
    """

    name: str
    image: RawImage
    alike: tuple[Any, ...]
    order: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class PairMeasurement:
    """What pairs of one set-up give.

    Attributes
    ----------
    curve : PhotonTransferCurve
        Points and fit.
    read_noise_adu, read_noise_error_adu : float
        Without the noise of the overscan level.
    flat_pairs, bias_pairs : tuple of tuple of str
        The files.
    left_out : tuple of str
        Pairs that could not be used, and why.
    """

    curve: PhotonTransferCurve
    read_noise_adu: float
    read_noise_error_adu: float
    flat_pairs: tuple[tuple[str, str], ...]
    bias_pairs: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]

    @property
    def read_noise_electron(self) -> float:
        """Read noise by the measured gain."""
        return self.read_noise_adu * self.curve.gain_electron_per_adu

    @property
    def read_noise_error_electron(self) -> float:
        """Standard error of the read noise."""
        gain, error = self.curve.gain_electron_per_adu, self.curve.gain_error_electron_per_adu
        return float(np.hypot(gain * self.read_noise_error_adu, error * self.read_noise_adu))


def measure_detectors(raw: str | Place, frames: Iterable[Frame]) -> DetectorReport:
    """Measure gain and read noise of every set-up of a folder.

    Parameters
    ----------
    raw : str, Path or RemotePath
        The raw folder.
    frames : iterable of Frame
        From `find_frames`; those with errors are passed over.

    Returns
    -------
    DetectorReport
        One entry for each amplifier of each set-up with flats or bias frames.
    """
    groups: dict[tuple[Setup, str], list[Frame]] = {}
    for frame in frames:
        if frame.setup and not frame.errors and frame.kind in (Kind.BIAS, Kind.FLAT):
            groups.setdefault((frame.setup, _sections(frame)), []).append(frame)
    root = place_of(raw)
    detectors = tuple(
        _measure_amplifier(root, setup, group, number)
        for (setup, _), group in groups.items()
        for number in range(len(group[0].detectors))
    )
    return DetectorReport(raw=str(root), detectors=detectors)


def _sections(frame: Frame) -> str:
    assert frame.geometry is not None
    sections = (frame.geometry.data_sections, frame.geometry.overscan_sections)
    return " less ".join(map(format_sections, sections))


def _measure_amplifier(
    root: Place, setup: Setup, frames: Sequence[Frame], number: int
) -> MeasuredDetector:
    detector = frames[0].detectors[number]
    known: dict[str, Any] = {
        "camera": setup.name,
        "shape": setup.shape,
        "gain_setting": setup.gain_setting,
        "amplifier": detector.amplifier,
        "assumed_gain_electron_per_adu": detector.gain_electron_per_adu,
        "assumed_read_noise_electron": detector.read_noise_electron,
    }
    paired = {
        kind: [_paired(root, frame, number) for frame in frames if frame.kind is kind]
        for kind in (Kind.FLAT, Kind.BIAS)
    }
    try:
        found = measure_pairs(paired[Kind.FLAT], paired[Kind.BIAS])
    except FlatcalError as error:
        return MeasuredDetector(**known, why_not=error.text)
    flat = next(frame for frame in frames if frame.file == found.flat_pairs[0][0])
    caveats = [Caveat("gain-not-measured", text) for text in found.left_out]
    measured = MeasuredDetector(
        **known,
        flat_pairs=found.flat_pairs,
        bias_pairs=found.bias_pairs,
        curve=found.curve,
        read_noise_adu=found.read_noise_adu,
        read_noise_error_adu=found.read_noise_error_adu,
        read_noise_electron=found.read_noise_electron,
        read_noise_error_electron=found.read_noise_error_electron,
    )
    caveats += _contradictions(measured, found, _header_values(root, flat))
    return measured.model_copy(update={"caveats": tuple(caveats)})


def _paired(root: Place, frame: Frame, number: int) -> PairedFrame:
    assert frame.storage is not None
    assert frame.setup is not None
    assert frame.geometry is not None
    amplifier, (rows, columns) = frame.geometry.amplifiers[number], frame.setup.shape
    data = amplifier.data_section or (slice(0, rows), slice(0, columns))
    image = RawImage(
        root / file_of(frame.file),
        frame.storage,
        frame.setup.shape,
        (RawPart(data, amplifier.overscan_section, amplifier.detector.saturation_adu),),
        frame.geometry.overscan_statistic,
    )
    alike = (frame.set_temperature_c, frame.filter if frame.kind is Kind.FLAT else "")
    order = (frame.exposure_time_s or 0.0, frame.date, frame.file)
    return PairedFrame(frame.file, image, alike, order)


def measure_pairs(
    flats: Sequence[PairedFrame], biases: Sequence[PairedFrame], most_pixels: int = PAIR_PIXELS
) -> PairMeasurement:
    """Measure gain and read noise of one set-up.

    Alike frames that are neighbours in their order make pairs, each frame in one of them; up to
    ten pairs, spread evenly over what there is.

    Parameters
    ----------
    flats, biases : sequence of PairedFrame
        Of one set-up.
    most_pixels : int
        Pixels that are read of each frame.

    Raises
    ------
    FrameError
        When there are no two alike of either, or no pair of flats can be used.
    """
    flat_pairs, bias_pairs = _choose_pairs(flats), _choose_pairs(biases)
    for what, found, pairs in (("flats", flats, flat_pairs), ("bias frames", biases, bias_pairs)):
        if not pairs:
            text = f"there are {len(found) or 'no'} {what}, and no two that are alike"
            raise FrameError("gain-not-measured", text)
    read_variance = read_variance_of_pairs(
        [(first.image, second.image) for first, second in bias_pairs], most_pixels
    )
    points, used, left_out = [], [], []
    for number, (first, second) in enumerate(flat_pairs):
        bias1, bias2 = bias_pairs[number % len(bias_pairs)]
        images = (first.image, second.image), (bias1.image, bias2.image)
        try:
            points.append(measure_raw_pair(*images, read_variance, most_pixels))
        except FlatcalError as error:
            left_out.append(f"{first.name} and {second.name}: {error.text}")
        else:
            used.append((first.name, second.name))
    if not points:
        raise FrameError("gain-not-measured", left_out[0])
    variance = read_variance[0] / biases[0].image.level_factors[0]
    read_noise = float(np.sqrt(variance))
    relative = read_variance[1] / read_variance[0] / 2 if read_variance[0] else 0.0
    return PairMeasurement(
        curve=fit_photon_transfer(points),
        read_noise_adu=read_noise,
        read_noise_error_adu=read_noise * relative,
        flat_pairs=tuple(used),
        bias_pairs=tuple((first.name, second.name) for first, second in bias_pairs),
        left_out=tuple(left_out),
    )


def _choose_pairs(frames: Sequence[PairedFrame]) -> list[tuple[PairedFrame, PairedFrame]]:
    """Neighbours that are alike, each frame once."""
    groups: dict[tuple[Any, ...], list[PairedFrame]] = {}
    for frame in sorted(frames, key=lambda frame: frame.order):
        groups.setdefault(frame.alike, []).append(frame)
    pairs = [
        pair for group in groups.values() for pair in zip(group[::2], group[1::2], strict=False)
    ]
    chosen = np.linspace(0, len(pairs) - 1, min(len(pairs), _MOST_PAIRS)).round().astype(int)
    return [pairs[number] for number in chosen]


def _header_values(root: Place, frame: Frame) -> dict[str, float]:
    """Numbers under the cards of gain and read noise."""
    assert frame.storage is not None
    path = root / file_of(frame.file)
    found: dict[str, float] = {}
    with naming(path), quiet_astropy(), open_fits(path) as hdus:
        for number in (0, frame.storage.hdu):
            cards: Mapping[str, Any] = hdus[number].header
            for card in (*_GAIN_CARDS, *_READ_NOISE_CARDS):
                value = cards.get(card)
                if isinstance(value, int | float) and not isinstance(value, bool):
                    found[card] = float(value)
    return found


def _contradictions(
    measured: MeasuredDetector, found: PairMeasurement, cards: Mapping[str, float]
) -> list[Caveat]:
    """Values that are not what was measured."""
    gain = (found.curve.gain_electron_per_adu, found.curve.gain_error_electron_per_adu)
    noise = (found.read_noise_electron, found.read_noise_error_electron)
    stated = [(f"the card {card}", cards.get(card), gain, "electron/ADU") for card in _GAIN_CARDS]
    stated += [(f"the card {c}", cards.get(c), noise, "electron") for c in _READ_NOISE_CARDS]
    stated += [
        ("gain_electron_per_adu", measured.assumed_gain_electron_per_adu, gain, "electron/ADU"),
        ("read_noise_electron", measured.assumed_read_noise_electron, noise, "electron"),
    ]
    caveats = []
    for who, value, (figure, error), unit in stated:
        if value is not None and abs(value - figure) > CONTRADICTS * figure + 5 * error:
            text = f"{who} says {value:g}, but the pairs give {figure:.4g} +- {error:.2g} {unit}"
            caveats.append(Caveat("gain-doubt", text))
    return caveats
