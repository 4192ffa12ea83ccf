"""The settings with which flatcal is measured; the only place that knows them."""

from __future__ import annotations

from benchmarks.places import Night
from flatcal.recipe import Config, load_config


def write_configs(night: Night, camera_settings: str) -> None:
    """Write a settings file with the planes UNCERT and MASK, and one without.

    Parameters
    ----------
    night : Night
        Gets the files.
    camera_settings : str
        The table ``[camera]``.
    """
    for planes in (True, False):
        word = str(planes).lower()
        output = f"\n[output]\nuncertainty = {word}\nmask = {word}\n"
        night.config(planes=planes).write_text(camera_settings + output)


def read_config(night: Night, *, planes: bool) -> Config:
    """Settings with the planes or without."""
    return load_config(night.config(planes=planes))
