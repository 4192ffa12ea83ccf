"""Looks that were taken before, so that of an unchanged folder no pixel is sampled again.

They lie in the user's cache; see `flatcal.user_cache` for when they hold. A look also depends on
which section is kept and where saturation begins, which settings may change.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from flatcal import raw_frame, survey, user_cache
from flatcal.extension import file_of
from flatcal.frame import Frame
from flatcal.section import format_sections
from flatcal.storage import Place
from flatcal.survey import Look, look_at
from flatcal.user_cache import Stamp

logger = logging.getLogger(__name__)

# Digits of floats shrink to a third at the lowest level already.
_LEVEL: Final = 1


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a look depends on.

    Attributes
    ----------
    stamp : tuple of int
        Of the file.
    hdu : int
        Index of the image in it.
    kept : str
        Sections that are kept, and those of the overscans of several amplifiers.
    saturation_adu : tuple of float or None
        Where saturation of each amplifier begins.
    """

    stamp: Stamp
    hdu: int
    kept: str
    saturation_adu: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class _Book:
    """All that is remembered of a folder: what it is of, and looks by file."""

    about: str
    looks: dict[str, tuple[_Asked, Look]]


_BOOK: Final = TypeAdapter(_Book)


def remembered_looks(raw: Place, frames: Sequence[Frame], jobs: int) -> dict[str, Look]:
    """Look at all frames like `flatcal.survey.look_at`, but not again at unchanged ones.

    Parameters
    ----------
    raw : Path or RemotePath
        The raw folder.
    frames : sequence of Frame
        As their headers have told.
    jobs : int
        Threads.
    """
    file = user_cache.find_place(raw, "looks")
    if file is None:
        return look_at(raw, frames, jobs)
    about = f"{user_cache.real_name(raw)} by {user_cache.version_of((survey, raw_frame))}"
    known = _load(file, about)
    asked = {frame.file: _ask(raw, frame) for frame in frames if not frame.errors}
    looks = {
        name: known[name][1]
        for name, ask in asked.items()
        if name in known and known[name][0] == ask
    }
    new = look_at(raw, [frame for frame in frames if frame.file not in looks], jobs)
    fresh = {
        name: (ask, new[name])
        for name, ask in asked.items()
        if name in new and ask is not None and user_cache.is_settled(ask.stamp)
    }
    if fresh:
        there = {frame.file for frame in frames}
        kept = {name: entry for name, entry in known.items() if name in there}
        content = _BOOK.dump_json(_Book(about, kept | fresh))
        user_cache.save(file, zlib.compress(content, _LEVEL))
    return looks | new


def _ask(raw: Place, frame: Frame) -> _Asked | None:
    """What a look at a frame depends on; None where its file is gone."""
    assert frame.storage is not None
    assert frame.geometry is not None
    try:
        stamp = user_cache.stamp_of(raw / file_of(frame.file), frame.storage.stamp)
    except OSError:
        return None
    kept = format_sections(frame.geometry.data_sections)
    if frame.geometry.is_divided:
        kept += f" less {format_sections(frame.geometry.overscan_sections)}"
    limits = tuple(detector.saturation_adu for detector in frame.detectors)
    return _Asked(stamp, frame.storage.hdu, kept, limits)


def _load(file: Path, about: str) -> Mapping[str, tuple[_Asked, Look]]:
    try:
        book = _BOOK.validate_json(zlib.decompress(file.read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, zlib.error) as error:
        logger.debug("remembered looks in %s are not used: %s", file, error)
        return {}
    return book.looks if book.about == about else {}
