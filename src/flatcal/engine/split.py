"""Writing a master flat apart, as its illumination and the response of its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import PurePosixPath

import numpy as np
from astropy.io import fits

from flatcal.engine.illumination import Illumination
from flatcal.engine.masters import Master
from flatcal.engine.products import Found
from flatcal.engine.store import OutputStore
from flatcal.frame import Kind
from flatcal.projection import READ_PIXELS
from flatcal.records import ProductRecord


class FlatPart(StrEnum):
    """A factor of a flat; its value is the IMAGETYP."""

    ILLUMINATION = "illumination"
    PIXEL_RESPONSE = "pixel response"

    def output_of(self, flat: str) -> str:
        """Its file beside that of the master flat."""
        path = PurePosixPath(flat)
        rest = path.name.removeprefix("master_flat")
        return str(path.with_name(self.value.replace(" ", "_") + rest))


def write_part(
    store: OutputStore,
    part: FlatPart,
    output: str,
    flat: Master,
    illumination: Illumination,
    header: fits.Header,
    recipe: str,
    inputs: Sequence[tuple[str, str]],
) -> ProductRecord:
    """Write one factor of a master flat in bands of rows.

    Parameters
    ----------
    store : OutputStore
        Where.
    part : FlatPart
        Which factor.
    output : str
        File below the folder.
    flat : Master
        The master flat.
    illumination : Illumination
        Its smooth part.
    header : Header
        That of the master flat; changed.
    recipe : str
        Hash of what determines the factor.
    inputs : sequence of tuple
        Raw files and their SHA-256.
    """
    is_response = part is FlatPart.PIXEL_RESPONSE
    header["IMAGETYP"] = (part.value, "factor of a master flat")
    for card in ("GOODMED", "ERRSRC"):
        source = header.pop(card, None)
    has_std = is_response and bool(flat.std.size)
    n_flagged = int(np.count_nonzero(flat.flags)) if is_response else 0
    shape, dtype = flat.data.shape, flat.data.dtype
    dtypes = {"PRIMARY": dtype} | ({"UNCERT": dtype} if has_std else {})
    dtypes |= {"MASK": np.dtype(np.uint8), "FLAGS": np.dtype(np.int16)}
    with store.writing(output, header, inputs[0][0], shape, dtypes) as writer:
        step = max(1, READ_PIXELS // shape[1])
        for start in range(0, shape[0], step):
            band = slice(start, min(start + step, shape[0]))
            smooth = illumination.of(band).astype(dtype)
            flags = np.zeros(smooth.shape, np.uint16)
            images = [smooth]
            if is_response:
                images = [plane[band] / smooth for plane in (flat.data, flat.std) if plane.size]
                flags |= flat.flags[band] if flat.flags.size else flags
            writer.write(*images, (flags != 0).view(np.uint8), flags.view(np.int16))
        found = Found(None, n_flagged, source if has_std else None)
        product = store.describe(output, Kind.FLAT, found, header, recipe, inputs, has_mask=True)
        writer.finish(header)
    return product
