"""Names of outputs: short, safe in any file system, and never the same twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from flatcal.extension import split_name

_SUFFIX = re.compile(r"\.(fits?|fts)(\.(fz|gz))?$", re.IGNORECASE)
# What some file system does not take in a name.
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
# Of the 255 bytes of a name most are left to the prefix, the number and the suffix.
_LONGEST_BYTES = 200


def slug(text: str) -> str:
    """Text as part of a file name; a prime becomes 'p', as in gp for the filter g'."""
    spelt = text.strip().replace("'", "p")
    return re.sub(r"[^A-Za-z0-9.+]+", "-", spelt).strip("-.") or "none"


def stem(file: str) -> str:
    """Last part of a path without its FITS suffix; of a plane of a cube with its number."""
    return _without_suffix(file).rsplit("/", 1)[-1]


def _without_suffix(name: str) -> str:
    file, extension = split_name(name)
    plain = _SUFFIX.sub("", file)
    return f"{plain}_{slug(extension)}" if extension else plain


def output_names(files: Sequence[str], prefix: str, suffix: str = ".fits") -> list[str]:
    """Names of calibrated frames.

    The prefix keeps them apart from raw frames and other kinds; a name that begins with it has
    it already. Where raw frames of different folders share a name, their folders stand in it;
    a number tells the rest apart.

    Parameters
    ----------
    files : sequence of str
        Paths below the raw folder, or names of planes of cubes in them.
    prefix : str
        For example 'flat'.
    suffix : str
        Of the files.

    Returns
    -------
    list of str
        One name for each file.
    """
    names = [stem(file) for file in files]
    counts = Counter(name.casefold() for name in names)
    full = [
        _safe(name if counts[name.casefold()] == 1 else _without_suffix(file))
        for name, file in zip(names, files, strict=True)
    ]
    prefixed = [name if name.startswith(f"{prefix}-") else f"{prefix}-{name}" for name in full]
    return [f"{name}{suffix}" for name in numbered(prefixed)]


def _safe(name: str) -> str:
    spelt = _UNSAFE.sub("-", name)
    return spelt.encode()[:_LONGEST_BYTES].decode(errors="ignore")


def is_safe(name: str) -> bool:
    """Whether any file system takes what the name is made of."""
    return _UNSAFE.search(name) is None


def distinct(bases: Sequence[str], details: Sequence[Sequence[str]]) -> list[str]:
    """Names made distinct by as few details as are needed.

    Parameters
    ----------
    bases : sequence of str
        Names, some of them equal.
    details : sequence of sequence of str
        For each name what could tell it from others, most telling first.

    Returns
    -------
    list of str
        The names, with those details added in which equal ones differ.
    """
    names = list(bases)
    for level in range(max((len(d) for d in details), default=0)):
        folded = [name.casefold() for name in names]
        clashing = {name for name, count in Counter(folded).items() if count > 1}
        for name in clashing:
            places = [i for i, other in enumerate(folded) if other == name]
            if len({details[i][level] for i in places}) > 1:
                for i in places:
                    names[i] += f"_{details[i][level]}" if details[i][level] else ""
    return numbered(names)


def numbered(names: Sequence[str]) -> list[str]:
    """Names with a number added to the second and later of equal ones.

    Names that differ only in capitals are equal, as on the disks of many computers.
    """
    taken = {name.casefold() for name in names}
    seen: set[str] = set()
    result = []
    for name in names:
        unique, n = name, 1
        while unique.casefold() in seen or (n > 1 and unique.casefold() in taken):
            n += 1
            unique = f"{name}_{n}"
        seen.add(unique.casefold())
        result.append(unique)
    return result
