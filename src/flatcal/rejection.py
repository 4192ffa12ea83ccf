"""Whether a rejection can do anything, and whether a frame is unlike its siblings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Final

from flatcal.errors import ConfigError
from flatcal.frame import Caveat
from flatcal.recipe import CombineSettings

# A frame that loses this share of its pixels, and so many times what its siblings lose, is named.
FAR_MORE: Final = 3.0
LEAST_SHARE: Final = 0.01
# Over a series of twilight flats the gradient of the sky changes by some tenths of a percent.
LEAST_SLOPE: Final = 0.005
# Shadows of dust take up some tenths of a percent of a flat; stars are smaller.
LEAST_UNLIKE: Final = 0.003


def most_sigma(center: str, n: int) -> float:
    """How many standard deviations a lone outlier can lie from the centre, at the most.

    One value of n lies at X and the others at 0. Then the mean is X / n and the standard
    deviation (with n) is X sqrt(n - 1) / n, however large X is. Of rejections by the MAD, by a
    winsorised standard deviation or by the noise model there is no such limit.

    Parameters
    ----------
    center : 'mean' or 'median'
        What the deviation is counted from.
    n : int
        Number of values, two or more.

    Returns
    -------
    float
        sqrt(n - 1) from the mean, n / sqrt(n - 1) from the median.
    """
    root = math.sqrt(n - 1)
    return root if center == "mean" else n / root


def describe_impossible(settings: CombineSettings, master: str, n: int) -> Caveat | None:
    """A caveat where the settings cannot reject a lone outlier among so many frames.

    Parameters
    ----------
    settings : CombineSettings
        Of the run.
    master : str
        Its name.
    n : int
        Its frames, two or more.
    """
    if settings.reject != "sigma" or settings.spread != "std":
        return None
    most, threshold = most_sigma(settings.center, n), settings.high_sigma
    if most > threshold:
        return None
    enough = n
    while most_sigma(settings.center, enough) <= threshold:
        enough += 1
    return Caveat(
        "rejects-nothing",
        f"of the {n} frames of {master} a lone outlier lies at most {most:.2f} standard "
        f"deviations above the {settings.center}, so combine.high_sigma = {threshold:g} rejects "
        f'none; take {enough} frames, lower it, or set combine.spread = "mad"',
    )


def require_some_left(settings: CombineSettings, master: str, n: int) -> None:
    """Refuse to leave out as many values as there are.

    Raises
    ------
    ConfigError
        It names the figures.
    """
    if settings.reject == "minmax" and settings.n_low + settings.n_high >= n:
        raise ConfigError(
            "nothing-left",
            f"combine.n_low = {settings.n_low} and combine.n_high = {settings.n_high} leave "
            f"nothing of the {n} frame{'s' if n > 1 else ''} of {master}; set lower ones, or "
            f"another combine.reject",
        )


def describe_losses(master: str, fractions: Mapping[str, float]) -> dict[str, Caveat]:
    """Caveats for frames of which far more pixels were rejected than of the others.

    Parameters
    ----------
    master : str
        What the frames went into.
    fractions : mapping of str to float
        Share of the pixels that were rejected, of each frame.
    """
    caveats = {}
    for file, share in fractions.items():
        others = [other for name, other in fractions.items() if name != file]
        typical = statistics.median(others) if others else share
        if share > LEAST_SHARE and share > FAR_MORE * typical:
            caveats[file] = Caveat(
                "frame-rejected",
                f"{100 * share:.3g} % of its pixels were rejected in {master}, of the other "
                f"frames typically {100 * typical:.3g} %; look at it, and leave it out if it is "
                "no good",
            )
    return caveats


def describe_unlike(
    master: str, slopes: Mapping[str, float], unlike: Mapping[str, float]
) -> dict[str, Caveat]:
    """Caveats for flats whose light or dust is not that of the others.

    Parameters
    ----------
    master : str
        What the flats went into.
    slopes : mapping of str to float
        How much each changes over the image against the median of the others.
    unlike : mapping of str to float
        Share of each that differs from them, slope aside.
    """
    caveats = {}
    for file in slopes:
        told = []
        for numbers, least, what in (
            (slopes, LEAST_SLOPE, "of slope over the image"),
            (unlike, LEAST_UNLIKE, "of its area with another pattern, such as dust that moved"),
        ):
            typical = statistics.median(number for name, number in numbers.items() if name != file)
            if numbers[file] > least and numbers[file] > FAR_MORE * typical:
                told.append(f"{numbers[file]:.2%} {what} (the others typically {typical:.2%})")
        if told:
            caveats[file] = Caveat(
                "flat-unlike",
                f"against the other flats of {master} it has {', and '.join(told)}; look at it, "
                "and leave it out if it is no good",
            )
    return caveats
