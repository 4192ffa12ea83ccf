"""All doubts about the frames of a night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flatcal.frame import Caveat, Frame, Kind
from flatcal.matching import group_bias, group_darks, group_flats
from flatcal.recipe import DarkSettings
from flatcal.second_look.flats import doubt_filters, doubt_levels
from flatcal.second_look.seen import Seen, see
from flatcal.second_look.unlit import doubt_biases, doubt_darks
from flatcal.survey import Look


def second_look(
    frames: Sequence[Frame], looks: Mapping[str, Look], settings: DarkSettings
) -> tuple[Frame, ...]:
    """Name the frames whose pixels are not what their headers say.

    Parameters
    ----------
    frames : sequence of Frame
        All of a night, with the overscan that is used.
    looks : mapping
        Look of each frame by its file.
    settings : DarkSettings
        They say what belongs together.

    Returns
    -------
    tuple of Frame
        The same frames, some with more caveats.
    """
    seen = see(frames, looks)
    groups = {
        Kind.BIAS: group_bias(_of(Kind.BIAS, seen), settings),
        Kind.DARK: group_darks(_of(Kind.DARK, seen), settings),
        Kind.FLAT: group_flats(_of(Kind.FLAT, seen)),
    }
    found: dict[str, list[Caveat]] = {}
    for frame, caveat in (
        *doubt_biases(groups[Kind.BIAS], seen),
        *doubt_darks(groups[Kind.DARK], seen, settings),
        *doubt_levels(groups[Kind.FLAT], seen),
        *doubt_filters(groups[Kind.FLAT], seen),
    ):
        found.setdefault(frame.file, []).append(caveat)
    return tuple(
        replace(frame, caveats=(*frame.caveats, *found[frame.file]))
        if frame.file in found
        else frame
        for frame in frames
    )


def _of(kind: Kind, seen: Mapping[str, Seen]) -> list[Frame]:
    return [one.frame for one in seen.values() if one.frame.kind is kind]
