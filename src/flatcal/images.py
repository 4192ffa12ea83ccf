"""Which images of a file are exposures: one, one in each of several extensions, planes of a cube.

What is left out, and what cannot be taken for exposures, is named with its reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from flatcal.headers import HduInfo
from flatcal.notes import Notes

# More than any sensor has; and more to a byte than noise leaves in any packed image.
_MAX_PIXELS: Final = 10**11
_MAX_PACKING: Final = 10_000
# An image of fewer pixels than this part of the largest of its file is a preview of it: a fourth
# of its width and height. Guide chips of mosaics have a half or a fourth.
_THUMBNAIL: Final = 1 / 16
# What programs call the planes that go with an image.
_COMPANION: Final = re.compile(
    r"(?:.*_)?(?:UNCERT|ERR|ERROR|SIGMA|VAR|VARIANCE|IVAR|WEIGHT|MASK|BPM|DQ|FLAGS|NUSED)",
    re.IGNORECASE,
)
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_.+-]+")
# CTYPE3 of an axis along which there are exposures (FITS standard 4.0, table 30, for times).
_TIMES: Final = ("", "TIME", "UTC", "TAI", "TT", "FRAME", "EXPOSURE", "IMAGE")
_COLOURS: Final = 3


@dataclass(frozen=True, slots=True)
class Image:
    """One exposure in a file.

    Attributes
    ----------
    hdu : HduInfo
        Its HDU.
    name : str
        Its name within the file; empty where it is the only one.
    plane : int or None
        Which plane of a cube it is, from 0; None for an image of two axes.
    is_extension : bool
        Whether it is one of several images of the file, each of a detector of its own.
    """

    hdu: HduInfo
    name: str = ""
    plane: int | None = None
    is_extension: bool = False


def find_images(hdus: Sequence[HduInfo], notes: Notes) -> tuple[Image, ...]:
    """The exposures of a file; none, with an error in the notes, where it has none.

    Parameters
    ----------
    hdus : sequence of HduInfo
        Of the file.
    notes : Notes
        Receives caveats and errors.
    """
    images = [hdu for hdu in hdus if _axes(hdu)]
    if len(images) > 1:
        images = _leave_out_others(images, notes)
    if len(images) > 1:
        return _several(hdus, images, notes)
    axes = _axes(images[0]) if images else ()
    if len(axes) not in (2, 3):
        notes.error("image-type", f"an image of 2 axes is needed, the file's has {len(axes)}")
        return ()
    if 0 in axes:
        notes.error("image-type", f"an image of {_size(axes)} pixels has none")
        return ()
    return _planes(hdus, images[0], notes)


def _axes(hdu: HduInfo) -> tuple[int, ...]:
    """Lengths of the axes of an image, without those of length 1 beyond the second.

    Empty for a HDU that is no image.
    """
    if hdu.index > 0 and not hdu.compressed and hdu.cards.get("XTENSION") != "IMAGE":
        return ()
    n_axes = hdu.cards.get("NAXIS")
    if not isinstance(n_axes, int):
        return ()
    sizes = [hdu.cards.get(f"NAXIS{n}") for n in range(1, n_axes + 1)]
    axes = [size for size in sizes if isinstance(size, int)]
    while len(axes) > 2 and axes[-1] == 1:
        axes.pop()
    return tuple(axes)


def _size(axes: Sequence[int]) -> str:
    return " x ".join(map(str, axes))


def _leave_out_others(images: Sequence[HduInfo], notes: Notes) -> list[HduInfo]:
    """The images of a file without those that are no exposures, which are named."""
    most = max(prod(_axes(hdu)[:2]) for hdu in images)
    kept, others = [], []
    for hdu in images:
        axes, name = _axes(hdu), str(hdu.cards.get("EXTNAME", "")).strip()
        if len(axes) == 1 or 0 in axes:
            others.append(f"[{name or hdu.index}] ({_size(axes)} pixels)")
        elif _COMPANION.fullmatch(name):
            others.append(f"[{name}] (no exposure, by its name)")
        elif prod(axes[:2]) < _THUMBNAIL * most:
            others.append(f"[{name or hdu.index}] ({_size(axes)} pixels, a preview)")
        else:
            kept.append(hdu)
    if others:
        notes.caveat("other-images", f"left out of the file: {', '.join(others)}")
    return kept


def _several(hdus: Sequence[HduInfo], images: Sequence[HduInfo], notes: Notes) -> tuple[Image, ...]:
    """Images in several extensions, each of a detector of its own."""
    names = _names(images)
    cube = next((n for n, hdu in zip(names, images, strict=True) if len(_axes(hdu)) > 2), None)
    if cube is not None:
        notes.error("image-type", f"[{cube}] is a cube beside other images; split the file first")
        return ()
    announced, there = hdus[0].cards.get("NEXTEND"), len(hdus) - 1
    if isinstance(announced, int) and announced > there:
        notes.error(
            "file-broken",
            f"the file holds {there} extensions, its header announces {announced} (NEXTEND); "
            "copy it again",
        )
    # Only the last can be cut off; it is not known what followed it.
    _check_complete(hdus[-1], notes)
    for hdu in images:
        _check_size(hdu, notes)
    _name_amplifiers(images, names, notes)
    return tuple(
        Image(hdu, name, _only_plane(hdu), is_extension=True)
        for hdu, name in zip(images, names, strict=True)
    )


def _only_plane(hdu: HduInfo) -> int | None:
    """The plane of an image of two axes: None, or the first of a cube of one plane."""
    return None if hdu.cards["NAXIS"] == 2 else 0


def _names(images: Sequence[HduInfo]) -> list[str]:
    """EXTNAME where it is a plain name; with EXTVER where several share it; or else the number."""
    keys = [
        (str(hdu.cards.get("EXTNAME", "")).strip(), hdu.cards.get("EXTVER", 1)) for hdu in images
    ]
    by_name = Counter(name.casefold() for name, _ in keys)
    by_both = Counter((name.casefold(), version) for name, version in keys)
    names = []
    for hdu, (name, version) in zip(images, keys, strict=True):
        is_plain = bool(_SAFE_NAME.fullmatch(name)) and not name.isdigit()
        if is_plain and by_name[name.casefold()] == 1:
            names.append(name)
        elif is_plain and by_both[name.casefold(), version] == 1 and isinstance(version, int):
            names.append(f"{name},{version}")
        else:
            names.append(str(hdu.index))
    return names


def _name_amplifiers(images: Sequence[HduInfo], names: Sequence[str], notes: Notes) -> None:
    """A caveat where extensions are amplifiers of one detector, as CCDSEC tells."""
    parts: dict[str, dict[str, str]] = {}
    for hdu, name in zip(images, names, strict=True):
        if section := str(hdu.cards.get("CCDSEC", "")).strip():
            chip = str(hdu.cards.get("CCDNAME", "")).strip()
            parts.setdefault(chip, {})[name] = section
    for chip, sections in parts.items():
        if len(set(sections.values())) > 1:
            told = ", ".join(sections)
            notes.caveat(
                "amplifier-extensions",
                f"{told} are amplifiers of one detector{f' ({chip})' if chip else ''}, by CCDSEC; "
                "each is calibrated and written by itself, they are not joined",
            )


def _planes(hdus: Sequence[HduInfo], hdu: HduInfo, notes: Notes) -> tuple[Image, ...]:
    """The only image of a file, or the exposures of its cube."""
    axes = _axes(hdu)
    if len(axes) == 3 and not _are_exposures({**hdus[0].cards, **hdu.cards}, axes[2], notes):
        return ()
    _check_complete(hdu, notes)
    _check_size(hdu, notes)
    if len(axes) == 2 or notes.errors:
        return (Image(hdu, plane=_only_plane(hdu)),)
    notes.caveat(
        "cube",
        f"a cube of {axes[2]} exposures, each calibrated by itself; the exposure time of the "
        "header is taken as that of each",
    )
    width = len(str(axes[2]))
    return tuple(Image(hdu, f"plane {plane + 1:0{width}}", plane) for plane in range(axes[2]))


def _are_exposures(cards: Mapping[str, Any], n_planes: int, notes: Notes) -> bool:
    """Whether the planes of a cube are exposures, as far as its header can tell."""
    told = str(cards.get("CTYPE3", "")).strip().upper()
    said = f"CTYPE3 = '{told}'" if told else "no CTYPE3"
    if told.startswith(("RGB", "COLO")) or (n_planes == _COLOURS and not told):
        notes.error(
            "colour-image",
            f"a cube of {n_planes} planes and {said} is an image in colours, not exposures; use "
            "the raw frames, or split it if it holds exposures",
        )
        return False
    if told not in _TIMES:
        notes.error("image-type", f"the planes of a cube with {said} are no exposures; split it")
        return False
    return True


def _check_complete(hdu: HduInfo, notes: Notes) -> None:
    if hdu.stored_bytes < hdu.data_bytes:
        notes.error(
            "file-broken",
            f"the file holds {hdu.stored_bytes} bytes of pixels, its header announces "
            f"{hdu.data_bytes}; copy it again",
        )


def _check_size(hdu: HduInfo, notes: Notes) -> None:
    axes = _axes(hdu)
    if notes.errors:
        return
    if hdu.compressed and hdu.zipped:
        # Each of its tiles would be sought from the first byte of the file.
        notes.error("file-broken", "a packed image in a zipped file; unzip the file first")
    elif prod(axes) > min(_MAX_PIXELS, _MAX_PACKING * hdu.data_bytes):
        notes.error(
            "image-type",
            f"an image of {_size(axes[1::-1])} pixels in {hdu.data_bytes} bytes is none of a "
            "sensor; leave the file out",
        )
