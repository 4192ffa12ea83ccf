"""Gain, read noise and photon transfer curve, measured from flats and bias frames."""

from flatcal.photon_transfer.curve import (
    PhotonTransferCurve,
    fit_photon_transfer,
    shot_variance,
)
from flatcal.photon_transfer.pairs import GainMeasurement, measure_gain, measure_photon_transfer
from flatcal.photon_transfer.point import PhotonTransferPoint

__all__ = [
    "GainMeasurement",
    "PhotonTransferCurve",
    "PhotonTransferPoint",
    "fit_photon_transfer",
    "measure_gain",
    "measure_photon_transfer",
    "shot_variance",
]
