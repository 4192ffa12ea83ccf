"""A configuration drafted for a folder: what its headers say, ready to be corrected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from flatcal.camera import find_profile_by_name
from flatcal.frame import Frame, Kind
from flatcal.index import find_frames
from flatcal.photon_transfer.night import MeasuredDetector, measure_detectors
from flatcal.recipe import Config, DarkSettings
from flatcal.section import format_section


def draft_config(raw: str | Path) -> str:
    """Draft a configuration for the commonest camera of a folder.

    Parameters
    ----------
    raw : str or Path
        Folder of raw frames.

    Returns
    -------
    str
        TOML that `load_config` reads. What the headers do not tell is there as a comment. Gain and
        read noise are measured, where the camera has no profile and the folder has the flats and
        bias frames for it.
    """
    frames = find_frames(raw, Config())
    known = [frame for frame in frames if frame.setup is not None]
    counts = Counter(frame.setup for frame in known)
    setup = counts.most_common(1)[0][0] if counts else None
    camera = setup.camera if setup is not None else "unknown camera"
    shape = f"{setup.shape[0]} rows x {setup.shape[1]} columns" if setup is not None else "unknown"
    example = next((frame for frame in known if frame.setup == setup), None)
    lines = [
        f"# Configuration for {camera}, {shape}.",
        "# Lines that begin with '#' are defaults or examples; take the sign away to set them.",
        "",
        "[camera]",
        *_camera_lines(raw, camera, frames, example),
        "",
        *_kind_lines(frames),
        *_dark_lines(camera),
    ]
    return "\n".join(lines) + "\n"


def _camera_lines(
    raw: str | Path, camera: str, frames: tuple[Frame, ...], example: Frame | None
) -> list[str]:
    profile = find_profile_by_name(camera)
    # A frame of another size than the profile's has no geometry: it needs its own sections.
    if profile.name and example is not None and example.geometry is not None:
        return [f"# The profile of this camera applies ({profile.source})."]
    if example is not None and example.geometry is not None and example.geometry.is_divided:
        return _amplifier_lines(raw, frames, example)
    lines = [
        "# Sections are FITS text, x first, counted from 1, both ends included; 'none' uses none.",
        *_section_lines(example),
        "# Needed for the UNCERT plane.",
        *_noise_lines(raw, frames, example),
        "# Raw values from here on are flagged as saturated.",
        "# saturation_adu = 65535",
    ]
    if example is not None and example.exposure_time_s is None:
        lines += ['# exposure_keyword = "EXPTIME"', '# exposure_unit = "s"']
    return lines


def _amplifier_lines(raw: str | Path, frames: tuple[Frame, ...], example: Frame) -> list[str]:
    """Several amplifiers that share the image, each with its noise as measured."""
    assert example.geometry is not None
    detectors = _measure(raw, frames, example)
    lines = ["# Several amplifiers share the image. Gain and read noise are needed for UNCERT."]
    for amplifier in example.geometry.amplifiers:
        name, beside = amplifier.detector.amplifier, amplifier.overscan_section
        assert amplifier.data_section is not None
        found = [d for d in detectors if d.amplifier == name]
        lines += [
            "",
            "[[camera.amplifiers]]",
            f"name = {json.dumps(name)}",
            f'data_section = "{format_section(amplifier.data_section)}"',
            f'overscan_section = "{"none" if beside is None else format_section(beside)}"',
            *_figure_lines(found),
        ]
    return lines


def _measure(
    raw: str | Path, frames: tuple[Frame, ...], example: Frame | None
) -> tuple[MeasuredDetector, ...]:
    own = [f for f in frames if example is not None and f.setup == example.setup]
    return measure_detectors(raw, own).detectors


def _noise_lines(raw: str | Path, frames: tuple[Frame, ...], example: Frame | None) -> list[str]:
    """Gain and read noise as measured, or why they were not."""
    return _figure_lines(_measure(raw, frames, example))


def _figure_lines(detectors: Sequence[MeasuredDetector]) -> list[str]:
    measured = next((found for found in detectors if found.curve is not None), None)
    if measured is None:
        reasons = {found.why_not for found in detectors} or {"there are no flats and bias frames"}
        return [
            *(f"# Not measured: {reason}." for reason in sorted(reasons)),
            "# 'flatcal measure RAW --kind ...' measures them where headers call flats otherwise.",
            "# gain_electron_per_adu = 1.0",
            "# read_noise_electron = 10.0",
        ]
    return [
        *(f"# {line}" for line in _tell_measurement(measured)),
        f"gain_electron_per_adu = {measured.gain_electron_per_adu:.4g}",
        f"read_noise_electron = {measured.read_noise_electron:.4g}",
    ]


def _tell_measurement(measured: MeasuredDetector) -> list[str]:
    """What was measured, from what, and which cards say otherwise."""
    n_flat, n_bias = len(measured.flat_pairs), len(measured.bias_pairs)
    return [
        f"Measured by flatcal from pairs of frames: {n_flat} of flats, {n_bias} of bias frames.",
        f"Gain {measured.gain_electron_per_adu:.4g} +- "
        f"{measured.gain_error_electron_per_adu:.2g} electron/ADU, read noise "
        f"{measured.read_noise_electron:.4g} +- {measured.read_noise_error_electron:.2g} electron.",
        *(caveat.text for caveat in measured.caveats),
    ]


def _section_lines(example: Frame | None) -> list[str]:
    """What the header says by itself need not be set; what it does not say is set to none."""
    geometry = example.geometry if example is not None else None
    lines = []
    for name in ("overscan_section", "trim_section"):
        section = getattr(geometry, name) if geometry is not None else None
        if section is None:
            lines.append(f'{name} = "none"')
        else:
            lines.append(f'# {name} = "header"  # here {format_section(section)}')
    return lines


def _kind_lines(frames: tuple[Frame, ...]) -> list[str]:
    unknown = [f for f in frames if any(error.slug == "kind-unknown" for error in f.errors)]
    hinted = [f for f in frames if any(caveat.slug == "kind-hint" for caveat in f.caveats)]
    lines = []
    if unknown or hinted:
        files = ", ".join(frame.file for frame in (unknown + hinted)[:3])
        lines.append(f"# Say what frames like these are: {files}")
    for kind in Kind:
        lines += [
            "# [[kinds]]",
            f'# kind = "{kind}"',
            f'# file = "{kind}*"  # or instead: header = {{ IMAGETYP = "..." }}',
            "",
        ]
    return lines


def _dark_lines(camera: str) -> list[str]:
    settings = DarkSettings()
    names = ("tolerance_s", "temperature_tolerance_c", "scale", "scale_up")
    values = [f"# {name} = {json.dumps(getattr(settings, name))}" for name in names]
    required = json.dumps(find_profile_by_name(camera).dark_required)
    return ["[dark]", *values, f"# required = {required}"]
