"""Exceptions and warnings, each with a slug that docs/messages.md explains.

A message says what is wrong, both values, which file and what to do, and ends with its slug
in square brackets. ``MESSAGES`` is the one table of slugs: the documentation page is made
from it, and raising an unlisted slug is itself an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

MESSAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bad-config": (
            "The configuration file has mistakes. All of them are listed, each with its line. "
            "docs/configuration.md names every setting with its default."
        ),
        "bad-pixel-mask": (
            "The mask of camera.bad_pixel_mask cannot be read, or is not of the size of the raw "
            "image or of what is kept of it. It is a FITS image that is not 0 where a pixel is "
            "bad; its path is relative to the settings file."
        ),
        "bad-section": (
            "A section is not of the form [x1:x2,y1:y2] (FITS order: x first, counted from 1, "
            "both ends included), or reaches outside the image. Write it out in the "
            "configuration."
        ),
        "bad-unit": (
            "BUNIT names a unit that flatcal does not know. ADU in any spelling, counts, DN and "
            "electron are understood; set camera.unit when the header is wrong."
        ),
        "bias-still-in-frame": (
            "The dark has lost its bias, so it was meant to be scaled, but the frame it is "
            "subtracted from still holds its bias. Call subtract_bias first."
        ),
        "cluster": (
            "The Dask cluster of --scheduler does not answer, has no workers, was lost, or runs "
            "another version of flatcal. All processes of a cluster need the same flatcal, and see "
            "raw and output folder under the same paths. What is done is kept; run again to go on."
        ),
        "colour-image": (
            "The cube is an image in three colours, not a series of exposures: CTYPE3 says so, or "
            "it has three planes and says nothing. Use the raw frames of one plane. If its planes "
            "are exposures, split it into files, or have CTYPE3 = 'TIME' written."
        ),
        "cube": (
            "The file is a cube of exposures. Each plane is a frame of its own, with an output of "
            "its own; the exposure time of the header is taken as that of each plane."
        ),
        "colour-matrix": (
            "The header names a colour matrix that is not known, or that does not fit the light of "
            "the flats. Say in camera.colour_matrix which colours the first 2 x 2 pixels have, row "
            'by row, or "none".'
        ),
        "cosmic-rays": (
            "Cosmic rays are told by the noise of the frame, which is not known. Set gain and read "
            'noise of the camera, or cosmic_rays.find = "no".'
        ),
        "dark-exposure": (
            "No dark is as long as the frame within dark.tolerance_s, and none can be scaled. "
            "Take darks of that exposure time, add bias frames so that a longer dark can be "
            "scaled down, or widen the tolerance."
        ),
        "dark-holds-bias": (
            "A dark that still holds its bias cannot be scaled: the bias would be scaled too. "
            "Subtract the bias from the darks first."
        ),
        "dark-in-camera": (
            "The camera has already subtracted a dark from this frame (SBIG CCDSFPT = 5). "
            "Subtracting another would remove dark and bias twice."
        ),
        "defect": (
            "flatcal itself has failed where it must not; only this output is missing. Please "
            "report it, with the file and with what flatcal -vv prints."
        ),
        "empty-folder": "There is no FITS file in the folder or below it.",
        "exposure-missing": (
            "The header has no exposure time under any of the camera's keywords. Name the right "
            "keyword in camera.exposure_keyword."
        ),
        "exposure-text": (
            "The exposure time is text or has a decimal comma. It is read as the number that it "
            "spells, and the frame carries this caveat."
        ),
        "exposure-not-a-number": (
            "The exposure time is not a finite number that is zero or more. Correct the header, "
            "or name another keyword in camera.exposure_keyword."
        ),
        "filter-missing": (
            "The header names no filter, so the frame is matched with other frames without one. "
            "Name the keyword in camera.filter_keyword."
        ),
        "gain-doubt": (
            "The gain or read noise that a card, a profile or a setting names is not what the "
            "flats and bias frames show. A card GAIN is often an index of the controller. Set "
            "camera.gain_electron_per_adu and camera.read_noise_electron to what was measured."
        ),
        "gain-not-measured": (
            "Gain and read noise are measured from two flats of one filter and two bias frames of "
            "the same set-up, neither dark nor saturated. Take them, or say with --kind which "
            "frames they are."
        ),
        "library": (
            "The library of masters cannot be opened or changed, an entry of its table cannot be "
            "read, or the file of a master in it is gone or was changed. The message says what is "
            "wrong and what to do; docs/library.md tells how a library is kept."
        ),
        "memory-limit": (
            "A master or frame needs more memory than --memory allows, with the masters and "
            "results that must be there at the same time. It fails, and the rest is made; where "
            "nothing fits, nothing is written. flatcal plan says how much a run needs at the "
            "least. If the file is larger than any of your cameras makes, leave it out."
        ),
        "plan-file": (
            "A saved plan cannot be used: it is not a plan of this version, it contradicts itself "
            "(the message says where), a raw file is no longer as it was planned, or the plan has "
            "no such frame. A plan is run as it is or not at all; make it anew with "
            "flatcal plan --json."
        ),
        "rejects-nothing": (
            "With this threshold, and a plain standard deviation, an outlier hides in the standard "
            "deviation that it makes itself: among n values it lies at most sqrt(n - 1) from the "
            "mean, n / sqrt(n - 1) from the median. Use the MAD or the noise model, or a lower "
            "threshold; docs/combining.md has the figures."
        ),
        "resources": (
            "The system refused memory or open files. Raise the limit (ulimit -n for files), or "
            "run with fewer threads."
        ),
        "temperature-off": (
            "The sensor was not near the set temperature when the frame was taken, so its dark "
            "current is not that of darks at the set temperature."
        ),
        "file-changed": "A raw file changed between the planning and the reading of it.",
        "file-broken": (
            "The file cannot be read as FITS, or holds fewer bytes than its header announces. "
            "Copy it again from the camera's computer."
        ),
        "filter-doubt": (
            "The illumination of this flat is clearly that of the flats in another filter, and not "
            "that of its own. Its header is followed. Look at the frame and at the log; take it "
            "out of the folder, or correct its header, if the filter is wrong."
        ),
        "flat-level": (
            "The flat has no level above zero that it could be normalised by: norm_value, or the "
            "mean of its good pixels, is zero, negative or not a number."
        ),
        "flat-level-doubt": (
            "The flat is saturated, or its brightest 1 % are above 90 % of saturation; or it has "
            "hardly any light, or much less than the others in its filter. It is combined with "
            "them all the same, and all count alike. Take it out of the folder if it is no good."
        ),
        "flat-unlike": (
            "Held against the median of the other flats of its filter, each over its median, this "
            "flat has a slope of more than 0.5 % over the image, or differs in more than 0.3 % of "
            "its area (dust that has moved, stars, a reflection), and in either more than three "
            "times as much as the others typically do. Look at the flat; leave it out if it is no "
            "good. Fewer than four flats cannot tell which is the odd one."
        ),
        "folder-closed": (
            "A folder below the raw folder cannot be listed, so nothing is known of the frames in "
            "it. See to its rights or its disk and run again, or take it out of the raw folder."
        ),
        "frame-rejected": (
            "Far more pixels of this frame than of its siblings were rejected when they were "
            "combined: more than 1 %, and more than three times what the others typically lose. "
            "Its level or pattern is not that of the others (light, clouds, another temperature), "
            "or something passed through it. Look at the frame; leave it out if it is no good."
        ),
        "frame-shape": (
            "The image has another shape or binning than the masters that it needs, or than the "
            "camera profile's sections allow."
        ),
        "image-type": (
            "The file holds no two-dimensional image, one whose further axes are no exposures, or "
            "one so large that it cannot come from a sensor; or its BSCALE or BZERO give no pixel "
            "values."
        ),
        "kind-doubt": (
            "The level of this bias or dark is so far above that of its siblings that light must "
            "have fallen on it. Its header is followed. Say its kind with --kind or in [[kinds]], "
            "or take it out of the folder."
        ),
        "kind-hint": (
            "The kind of the frame rests on little: on OBJECT, or on the name of file or folder, "
            "alone; or the file name or OBJECT speaks of another kind than the header. Confirm or "
            "correct it with --kind 'flat=PATTERN' or in [[kinds]]."
        ),
        "kind-unknown": (
            "Neither the configuration, the camera profile, the header nor the names of file and "
            "folder say whether the frame is a bias, dark, flat or science frame. Say it with "
            "--kind or in [[kinds]]."
        ),
        "missing-extra": (
            "The option or the address needs a library that flatcal does without otherwise. It "
            "comes with the extra that the message names."
        ),
        "mixed-binning": "Frames of different binning lie in the folder; each is matched apart.",
        "noise-unknown": (
            "Gain or read noise of the camera is not known, so calibrated frames carry no UNCERT "
            "plane, and that of masters comes from the scatter of their frames. "
            "Set camera.gain_electron_per_adu and camera.read_noise_electron."
        ),
        "no-bias": "A bias is needed and there is no bias frame that fits.",
        "no-dark": (
            "There is no dark that fits this frame's camera, shape, binning and temperature. "
            "Take darks, or set dark.required = false where dark current is negligible."
        ),
        "nothing-left": (
            "combine.reject = 'minmax' would leave out all values of a master's pixels. Lower "
            "combine.n_low and combine.n_high, choose another combine.reject, or take more frames."
        ),
        "not-a-master": (
            "The file is not a master that this version of flatcal made, so the library cannot "
            "tell which frames it may serve. Make the master anew with flatcal run, and add the "
            "file of OUT/masters."
        ),
        "no-flat": (
            "There is no flat in this filter that could be calibrated. Take flats, or set "
            "science.flat_required = false."
        ),
        "no-run": (
            "The folder holds no finished run: plan.json or run.json is not there, or was written "
            "by another version, or they are not of one run, which ended between the two. Name the "
            "output folder of flatcal run, or run again: what is up to date is not made anew."
        ),
        "other-images": (
            "The file holds images besides those that are calibrated: previews, or planes whose "
            "names say that they are no exposures (masks, weights, errors). They are left out."
        ),
        "output-busy": (
            "Another run is at work in the output folder. The message says which process on which "
            "machine has held it since when. Wait for it to end."
        ),
        "output-exists": (
            "The output folder holds files that this command did not make or that would change. "
            "Choose another folder, or say --overwrite."
        ),
        "output-in-raw": (
            "The output folder lies inside the raw folder (or the other way round), so that a "
            "second run would take outputs for raw frames. Choose a folder beside it."
        ),
        "output-not-writable": (
            "The output folder, another file that was asked for, or standard output cannot be "
            "written. What was made before is kept; run again when there is room."
        ),
        "remote-address": (
            "An address such as s3://bucket/night cannot be used: it names no folder, holds a "
            "password, is of a kind that fsspec does not know, or the command works on folders of "
            "this machine only."
        ),
        "remote-storage": (
            "The server of an address stays away, busy or silent after several tries, or answers "
            "what cannot be used. Nothing is left half made: see that the server is there, and run "
            "again to go on. docs/remote.md says how often and how long it is tried."
        ),
        "overscan-doubt": (
            "Measurement contradicts the overscan that the settings or the camera profile name, or "
            "there are too few frames to test one that no header names. Nothing is changed; the "
            "figures and the setting to change stand in the message. docs/overscan.md says what "
            "is measured."
        ),
        "overscan-dropped": (
            "The overscan that the header names is not used, because its level is nowhere near "
            "that of the bias, does not follow it, or comes from columns with light. Name "
            "camera.overscan_section to use it all the same."
        ),
        "overscan-missed": (
            "The whole image is kept, but columns at its end get no light in any flat. They may be "
            "an overscan that no header names, or the shadow of a mask. Set "
            "camera.overscan_section and camera.trim_section if they are an overscan."
        ),
        "linearity-curve": (
            "The curve that makes counts linear cannot be used: it does not grow, it is no table "
            "of raw and true counts above the bias level, or the table is not the one that was "
            "planned with. The message names the setting or the file."
        ),
        "overscan-model": (
            "The model of the overscan level contradicts itself: a setting has no effect with it, "
            "or it has more parameters than the rows can tell. The message names the setting."
        ),
        "overscan-unknown": (
            "The header gives the overscan, or the section that is kept, in an odd way. The "
            "message says how it was understood, or that it is not used; name "
            "camera.overscan_section and camera.trim_section to decide it."
        ),
        "amplifier-extensions": (
            "Extensions of the file are amplifiers of one detector, as their CCDSEC tells. Each is "
            "calibrated by itself and written back as an extension; they are not joined."
        ),
        "already-calibrated": (
            "The header says that something was removed from the frame already, or that it was "
            "made of several frames. The message names the step, the program and the card. It is "
            "not taken for a raw frame; use the file as the camera wrote it."
        ),
        "pedestal": (
            "Software has added a constant to all pixels, as SBIG and MaxIm DL note in PEDESTAL. "
            "It goes only with a bias or dark that holds the same, so frames of different "
            "PEDESTAL do not serve one another. Write all frames with the same."
        ),
        "several-amplifiers": (
            "Several amplifiers share this image, each with its own bias level and overscan, and "
            "the header does not tell which pixels are whose. Name them in camera.amplifiers, a "
            "table for each, or say camera.amplifiers = [] if there is one."
        ),
        "extension-failed": (
            "Not one image of a file of several could be calibrated, so there is no output. Each "
            "of them is named with what was wrong with it."
        ),
        "few-frames": (
            "A master bias or flat comes from fewer than three frames, so outliers in them cannot "
            "be rejected. Take more frames."
        ),
        "temperature-unchecked": (
            "The header has no set temperature, so darks of any temperature are taken, and the "
            "sensor was several degrees warmer or colder for this dark. Name the keyword of the "
            "temperature in camera.set_temperature_keyword and widen dark.temperature_tolerance_c "
            "to what the sensor wanders by."
        ),
        "single-dark": (
            "The master dark comes from fewer than three frames, so cosmic rays in it cannot be "
            "rejected and pass into every frame that it calibrates."
        ),
        "shutter": (
            "The added time of a shutter cannot be measured from these flats, or not be applied to "
            "this frame. Two short and two long flats of one lamp are needed, without bias and "
            "dark; the map fits frames of the same size."
        ),
        "state": (
            "The step does not fit what has already been removed from the frame, for example a "
            "second bias subtraction."
        ),
        "worker-lost": (
            "Several processes of the cluster ended, one after the other, at work on this output; "
            "only it is missing. Most often the system ended them for want of memory: give "
            "each process about 500 MB more than --memory."
        ),
        "unit-missing": "The header has no BUNIT; pixel values are taken as ADU.",
    }
)


class FlatcalError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    slug : str
        Key of `MESSAGES`.
    text : str
        What is wrong, with both values, the file and the remedy.
    """

    def __init__(self, slug: str, text: str) -> None:
        if slug not in MESSAGES:
            raise KeyError(f"slug {slug!r} is not in the table of messages")
        self.slug = slug
        self.text = text
        super().__init__(f"{text} [{slug}]")

    def __reduce__(self) -> tuple[object, ...]:
        """How it goes from one process to another."""
        return type(self), (self.slug, self.text)


class ConfigError(FlatcalError, ValueError):
    """The configuration or the command line is wrong."""


class SectionError(FlatcalError, ValueError):
    """A section cannot be understood or lies outside the image."""


class FrameError(FlatcalError, ValueError):
    """A frame cannot be used as it is."""


class BrokenFileError(FrameError):
    """A raw file cannot be read, or has changed since it was planned.

    Parameters
    ----------
    slug, text : str
        As for `FlatcalError`.
    path : Path or RemotePath
        The file.
    """

    def __init__(self, slug: str, text: str, path: Any) -> None:
        super().__init__(slug, text)
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        """How it goes from one process to another."""
        return type(self), (self.slug, self.text, self.path)


class StateError(FlatcalError, ValueError):
    """A step does not fit the processing state of the frame."""


class DarkExposureError(FlatcalError, RuntimeError):
    """No dark is close enough in exposure time."""


class OutputError(FlatcalError, OSError):
    """The output folder cannot be used."""


class ClusterError(FlatcalError, RuntimeError):
    """The cluster cannot be used, or was lost."""


class StorageError(FlatcalError, RuntimeError):
    """The server of an address cannot be reached or used; no file is to blame for it."""


class FlatcalWarning(UserWarning):
    """Something that the observer should know, with the slug of its explanation."""

    def __init__(self, slug: str, text: str) -> None:
        if slug not in MESSAGES:
            raise KeyError(f"slug {slug!r} is not in the table of messages")
        self.slug = slug
        super().__init__(f"{text} [{slug}]")
