"""Calibration steps for notebooks: CCDData in, a new CCDData out, arguments as in ccdproc."""

from astropy.nddata import CCDData

from flatcal.steps._logging import conf
from flatcal.steps.bias import subtract_bias
from flatcal.steps.cosmic_rays import cosmicray_lacosmic
from flatcal.steps.dark import find_nearest_dark_exposure, subtract_dark
from flatcal.steps.flat import flat_correct
from flatcal.steps.gain import create_deviation, gain_correct
from flatcal.steps.keyword import Keyword
from flatcal.steps.linearity import correct_linearity
from flatcal.steps.overscan import subtract_overscan, trim_image
from flatcal.steps.process import ccd_process
from flatcal.steps.shutter import ShutterMap, correct_shutter, measure_shutter

__all__ = [
    "CCDData",
    "Keyword",
    "ShutterMap",
    "ccd_process",
    "conf",
    "correct_linearity",
    "correct_shutter",
    "cosmicray_lacosmic",
    "create_deviation",
    "find_nearest_dark_exposure",
    "flat_correct",
    "gain_correct",
    "measure_shutter",
    "subtract_bias",
    "subtract_dark",
    "subtract_overscan",
    "trim_image",
]
