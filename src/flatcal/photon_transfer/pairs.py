"""Gain and read noise of a detector from two flats and two bias frames."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy.nddata import NDData
from numpy.typing import ArrayLike, NDArray

from flatcal.errors import FrameError
from flatcal.photon_transfer.boxes import BOX_PIXELS, PairStrip, measure_boxes
from flatcal.photon_transfer.curve import PhotonTransferCurve, fit_photon_transfer
from flatcal.photon_transfer.point import PhotonTransferPoint, average_boxes

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class GainMeasurement:
    """Gain and read noise with their standard errors.

    Attributes
    ----------
    gain_electron_per_adu, gain_error_electron_per_adu : float
        Gain.
    read_noise_electron, read_noise_error_electron : float
        Read noise; the error holds that of the gain.
    read_noise_adu, read_noise_error_adu : float
        The same in ADU, which does not depend on the gain.
    point : PhotonTransferPoint
        Levels, variances, and how much of the image was used.
    """

    gain_electron_per_adu: float
    gain_error_electron_per_adu: float
    read_noise_electron: float
    read_noise_error_electron: float
    read_noise_adu: float
    read_noise_error_adu: float
    point: PhotonTransferPoint


def measure_gain(
    flat1: NDData | ArrayLike,
    flat2: NDData | ArrayLike,
    bias1: NDData | ArrayLike,
    bias2: NDData | ArrayLike,
    *,
    mask: ArrayLike | None = None,
    saturation_adu: float | None = None,
    box_pixels: int = BOX_PIXELS,
) -> GainMeasurement:
    """Measure gain and read noise from two flats and two bias frames.

    The read noise is the scatter of the difference of the bias frames over the square root of
    2, the gain the level of the flats over the variance that the light adds. Both are taken in
    boxes: in each the second flat is scaled to the first, and pixels that differ by more than
    four standard deviations are left out; boxes that are unlike the others are left out too.
    So levels and gradients may differ between the flats, and stars, cosmic rays, bad columns
    and an unlit overscan do not count.

    Parameters
    ----------
    flat1, flat2 : CCDData or array, shape (rows, columns)
        Raw flats of one filter in ADU, with overscan or without.
    bias1, bias2 : CCDData or array, same shape
        Raw bias frames, treated alike.
    mask : array of bool, same shape, optional
        True where a pixel is not to be used. Masks of CCDData are heeded as well.
    saturation_adu : float, optional
        Pixels at or above it in either flat are not used.
    box_pixels : int
        Side of a box.

    Returns
    -------
    GainMeasurement
        Bright pixels share some of their charge with their neighbours (brighter-fatter
        effect), which lowers their variance: near half of the full well a single pair may give
        a gain that is several percent too high. `measure_photon_transfer` corrects for that.

    Raises
    ------
    FrameError
        When shapes differ, a frame is not in ADU, or too few boxes are good.

    References
    ----------
    J. R. Janesick, *Photon Transfer* (2007); S. B. Howell, *Handbook of CCD Astronomy*.
    """
    frames = (flat1, flat2, bias1, bias2)
    strips = _strips(frames, mask, saturation_adu, box_pixels)
    return gain_of(average_boxes(measure_boxes(strips, box_pixels)))


def gain_of(point: PhotonTransferPoint) -> GainMeasurement:
    """Gain and read noise by one pair."""
    gain, error = point.gain_electron_per_adu, point.gain_error_electron_per_adu
    read_noise = math.sqrt(point.read_variance_adu2)
    read_error = point.read_variance_error_adu2 / (2 * read_noise) if read_noise else 0.0
    return GainMeasurement(
        gain_electron_per_adu=gain,
        gain_error_electron_per_adu=error,
        read_noise_electron=gain * read_noise,
        read_noise_error_electron=math.hypot(gain * read_error, error * read_noise),
        read_noise_adu=read_noise,
        read_noise_error_adu=read_error,
        point=point,
    )


def measure_photon_transfer(
    flat_pairs: Sequence[tuple[NDData | ArrayLike, NDData | ArrayLike]],
    bias1: NDData | ArrayLike,
    bias2: NDData | ArrayLike,
    *,
    mask: ArrayLike | None = None,
    saturation_adu: float | None = None,
    box_pixels: int = BOX_PIXELS,
) -> PhotonTransferCurve:
    """Measure the photon transfer curve: variance against level, over pairs of several levels.

    Parameters
    ----------
    flat_pairs : sequence of pairs of CCDData or array
        Two flats of about one level each; a flat in one pair only.
    bias1, bias2, mask, saturation_adu, box_pixels
        As for `measure_gain`.

    Returns
    -------
    PhotonTransferCurve
        The points and the fit, with the brighter-fatter term where the levels allow it.

    Raises
    ------
    FrameError
        As for `measure_gain`.
    """
    points = [
        average_boxes(
            measure_boxes(
                _strips((flat1, flat2, bias1, bias2), mask, saturation_adu, box_pixels), box_pixels
            )
        )
        for flat1, flat2 in flat_pairs
    ]
    return fit_photon_transfer(points)


def _strips(
    frames: Sequence[NDData | ArrayLike],
    mask: ArrayLike | None,
    saturation_adu: float | None,
    box_pixels: int,
) -> Iterator[PairStrip]:
    """Rows of boxes, so that no more than these is copied."""
    images = [_pixels_of(frame) for frame in frames]
    masks = [] if mask is None else [np.asarray(mask, bool)]
    masks += [
        np.asarray(frame.mask, bool)
        for frame in frames
        if isinstance(frame, NDData) and frame.mask is not None
    ]
    shapes = {image.shape for image in (*images, *(m for m in masks if m.ndim))}
    if len(shapes) > 1 or images[0].ndim != 2:
        found = ", ".join(str(shape) for shape in sorted(shapes))
        raise FrameError(
            "frame-shape", f"flats, bias frames and mask have the shapes {found}; give one shape"
        )
    for start in range(0, images[0].shape[0] - box_pixels + 1, box_pixels):
        rows = slice(start, start + box_pixels)
        strip = [image[rows] for image in images]
        good = np.logical_and.reduce([np.isfinite(part) for part in strip])
        for bad in masks:
            good &= ~(bad[rows] if bad.ndim else bad)
        if saturation_adu is not None:
            good &= (strip[0] < saturation_adu) & (strip[1] < saturation_adu)
        yield PairStrip(strip[0], strip[1], strip[2], strip[3], good)


def _pixels_of(frame: NDData | ArrayLike) -> Array:
    if not isinstance(frame, NDData):
        return np.asarray(frame)
    if frame.unit not in (None, u.adu):
        raise FrameError(
            "bad-unit", f"a gain is measured from frames in adu, and this one is in {frame.unit}"
        )
    return np.asarray(frame.data)
