"""FITS headers of the two cameras, with the quirks that the real ones have."""

from __future__ import annotations

from datetime import datetime, timedelta

from astropy.io import fits

from flatcal.simulate.cameras import Camera, FrameKind

SET_TEMPERATURE_C = -25.0


def make_header(
    camera: Camera,
    kind: FrameKind,
    *,
    exposure_time_s: float,
    filter_name: str,
    frame_number: int,
    ccd_temperature_c: float,
) -> fits.Header:
    """Return the header of one raw frame, without the cards that describe the array.

    There is no gain and no read noise in it, as in the real headers.
    """
    header = fits.Header()
    header["OBJECT"] = "simulated field" if kind == "science" else kind
    header["IMAGETYP"] = camera.image_types[kind]
    header["EXPTIME"] = (exposure_time_s, "[s] exposure time")
    header["FILTER"] = filter_name
    header["DATE-OBS"] = (date_of(camera, frame_number), "UTC, start of the exposure")
    header["TELESCOP"] = camera.telescope
    header["INSTRUME"] = camera.instrument
    header["ORIGIN"] = ("flatcal simulation", "not a real observation")
    if camera.name == "lfc":
        add_lfc_cards(header, camera)
    elif camera.name == "cg16m":
        add_cg16m_cards(header, camera, ccd_temperature_c)
    return header


def date_of(camera: Camera, frame_number: int) -> str:
    """Return DATE-OBS of a frame; it depends on the number of the frame only."""
    start = datetime.fromisoformat(camera.start)
    return (start + timedelta(seconds=frame_number * camera.cadence_s)).isoformat(
        timespec="milliseconds"
    )


def add_lfc_cards(header: fits.Header, camera: Camera) -> None:
    """Add the sections; there is no BUNIT, and BIASSEC is one row short, as in the real frames."""
    header["CCDSUM"] = "1 1"
    first, last = camera.image_columns + 1, camera.columns
    header["BIASSEC"] = f"[{first}:{last},1:{camera.rows - 1}]"
    header["DATASEC"] = f"[1:{camera.image_columns},1:{camera.rows}]"


def add_cg16m_cards(header: fits.Header, camera: Camera, ccd_temperature_c: float) -> None:
    """Add unit, cooling and sections; the sections are not valid FITS, as in the real frames."""
    header["BUNIT"] = "adu"
    header["XBINNING"] = 1
    header["YBINNING"] = 1
    header["SET-TEMP"] = (SET_TEMPERATURE_C, "[deg C] set temperature")
    header["CCD-TEMP"] = (round(ccd_temperature_c, 2), "[deg C] at the start of the exposure")
    header["BIASSEC"] = f"[{camera.image_columns}:{camera.columns}]"
    header["TRIMSEC"] = f"[1:{camera.image_columns}, :]"
