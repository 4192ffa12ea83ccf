"""Simulated nights of cameras, and of mosaics of their detectors, with known truth.

A physical forward model from photons to raw FITS files. It shares no code with the calibration
that it serves to test: it imports nothing else of flatcal.
"""

from flatcal.simulate.cameras import CAMERA_NAMES, Camera, FrameKind, get_camera
from flatcal.simulate.detector import Detector, make_detector
from flatcal.simulate.mosaic import make_mosaic, simulate_mosaic, write_mosaic_frame
from flatcal.simulate.night import simulate_night
from flatcal.simulate.quadrants import QuadrantDetector, make_quadrant_detector
from flatcal.simulate.truth import FrameTruth, NightTruth

__all__ = [
    "CAMERA_NAMES",
    "Camera",
    "Detector",
    "FrameKind",
    "FrameTruth",
    "NightTruth",
    "QuadrantDetector",
    "get_camera",
    "make_detector",
    "make_mosaic",
    "make_quadrant_detector",
    "simulate_mosaic",
    "simulate_night",
    "write_mosaic_frame",
]
