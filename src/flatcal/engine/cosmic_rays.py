"""Cosmic rays in a calibrated frame, by L.A.Cosmic.

Source of the method: van Dokkum 2001, PASP 113, 1420; the program is astroscrappy.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.engine.level import level_of
from flatcal.engine.products import Found, Take, calibrate_frame, rounded
from flatcal.engine.setting import Setting, calibrated
from flatcal.extras import require_extra
from flatcal.flags import Flag
from flatcal.plan import FramePlan
from flatcal.raw_frame import RawFrame
from flatcal.recipe import CosmicRaySettings

Array = NDArray[Any]

# Pixels about a saturated one whose edges are its own, in steps of two.
_AROUND_SATURATED = 2

# Pixels at each edge where nothing is looked for: half of a star cannot be told from a hit.
_EDGE = 8


def calibrate_and_find(
    raw: RawFrame, setting: Setting, plan: FramePlan, *, with_std: bool, hashed: bool, take: Take
) -> Found:
    """Calibrate one frame and flag its cosmic rays, which takes it as a whole.

    See `calibrate_frame`; `take` receives all rows at once.
    """
    settings, shape, lend = setting.config.cosmic_rays, plan.kept_shape, setting.buffers.lend
    with ExitStack() as stack:
        data = stack.enter_context(lend(shape, setting.dtype))
        std = stack.enter_context(lend(shape, setting.dtype))
        flags = stack.enter_context(lend(shape, np.uint16))
        row = 0

        def keep(its_data: Array, its_std: Array | None, _bad: Array, its_flags: Array) -> None:
            nonlocal row
            assert its_std is not None
            rows = slice(row, row + len(its_data))
            data[rows], std[rows], flags[rows] = its_data, its_std, its_flags
            row = rows.stop

        found = calibrate_frame(raw, setting, plan, with_std=True, hashed=hashed, take=keep)
        hits, cleaned = find_cosmic_rays(data, std, flags, settings)
        flags[hits] |= np.uint16(Flag.COSMIC_RAY)
        if settings.find == "clean":
            data[hits] = cleaned[hits]
        bad = (flags != 0).view(np.uint8)
        regions = calibrated(raw, setting, plan, plan.steps).preparation.regions
        take(data, std if with_std else None, bad, flags)
        return replace(
            found,
            median_adu=rounded(level_of(data, bad, regions)),
            n_flagged=int(np.count_nonzero(bad)),
            std_source=found.std_source if with_std else None,
        )


def find_cosmic_rays(
    data: Array, std: Array, flags: Array, settings: CosmicRaySettings
) -> tuple[Array, Array]:
    """Find hits of cosmic rays, and what would be there without them.

    Parameters
    ----------
    data, std : ndarray of float32 or float64, shape (rows, columns)
        Calibrated values and their standard deviation, in any unit. The noise is that of the frame,
        with its flat, and not guessed from the values by gain and read noise.
    flags : ndarray of uint16, same shape
        What is flagged is no hit; nor is what surrounds saturated pixels, or lies at an edge: an
        image of 16 rows or columns is all edge.
    settings : CosmicRaySettings
        Thresholds.

    Returns
    -------
    hits : ndarray of bool
        Hits.
    cleaned : ndarray of float32
        Values, in hits the mean of the good ones in 5 x 5 pixels.
    """
    require_extra("cosmicray", "astroscrappy")
    from astroscrappy import detect_cosmics  # noqa: PLC0415
    from astroscrappy.utils import dilate5, sepmedfilt5  # noqa: PLC0415

    if min(data.shape) <= 2 * _EDGE:
        return np.zeros(data.shape, np.bool_), data
    known = np.isfinite(data) & np.isfinite(std)
    bad = (flags != 0) | ~known
    saturated = flags & np.uint16(Flag.SATURATED | Flag.BLED) != 0
    if saturated.any():
        bad |= dilate5(saturated, _AROUND_SATURATED)
    if bad.all():
        return np.zeros(data.shape, np.bool_), data
    planes = []
    for plane in (data, std):
        filled = np.where(known, plane, np.median(plane[~bad])).astype(np.float32)
        # A flagged value would lend edges to its neighbours.
        filled[flags != 0] = sepmedfilt5(filled)[flags != 0]
        planes.append(filled)
    image, noise = planes
    np.square(noise, out=noise)
    hits, cleaned = detect_cosmics(
        image,
        inmask=bad,
        invar=noise,
        satlevel=np.inf,  # those are flagged
        sepmed=False,  # along rows and then columns is faster, and flags blended stars
        sigclip=settings.sigma,
        sigfrac=settings.neighbour_fraction,
        objlim=settings.contrast,
    )
    inside = np.zeros(data.shape, np.bool_)
    inside[_EDGE:-_EDGE, _EDGE:-_EDGE] = True
    return hits & inside, cleaned
