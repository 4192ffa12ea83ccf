"""Look at an image: on the screen, in a notebook, or as a PNG file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.nddata import CCDData, block_reduce
from astropy.visualization import (
    AsymmetricPercentileInterval,
    ImageNormalize,
    LinearStretch,
    LogStretch,
)
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatcal.errors import FrameError, OutputError
from flatcal.extension import plane_key, split_name
from flatcal.headers import HduInfo, Value, scan_hdus
from flatcal.io import naming, naming_output, replacing


def style_path() -> Path:
    """Return the path of the matplotlib style with larger letters, for `plt.style.use`.

    `plt.style.use("flatcal.report.flatcal")` is the same style.
    """
    return Path(__file__).with_name("flatcal.mplstyle")


def show_image(
    image: CCDData | npt.ArrayLike,
    percl: float = 99,
    percu: float | None = None,
    is_mask: bool = False,
    figsize: tuple[float, float] | None = (10, 10),
    cmap: str = "viridis",
    log: bool = False,
    clip: bool = True,
    show_colorbar: bool = True,
    show_ticks: bool = True,
    fig: Figure | None = None,
    ax: Axes | None = None,
    input_ratio: int | None = None,
) -> Axes:
    """Draw an image with a percentile stretch.

    An image with more pixels than the figure is first averaged in blocks, so that noise and
    small features look as they would at that scale, not as a thinned-out sample of pixels.

    Parameters
    ----------
    image : CCDData or array, shape (rows, columns)
        The image; row 0 is drawn at the bottom.
    percl : float
        Percentile of the values at the low end of the colours. Without `percu` the percentile
        at the high end, and 100 minus it at the low end.
    percu : float, optional
        Percentile at the high end.
    is_mask : bool
        The image is a mask: a block in which any pixel is set is drawn as set.
    figsize : tuple of float, optional
        Width and height in inches of a new figure.
    cmap : str
        Name of a matplotlib colour map.
    log : bool
        Stretch by the logarithm.
    clip : bool
        Draw values beyond the ends in the colours of the ends.
    show_colorbar, show_ticks : bool
        Draw the colour bar (with the unit of a CCDData); draw ticks and their numbers.
    fig, ax : matplotlib Figure and Axes, optional
        Where to draw instead of in a new figure; either can be left out.
    input_ratio : int, optional
        Side of the blocks in pixels, instead of the one that fits the figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes with the image, in pixels of the full image counted from 0.

    Raises
    ------
    FrameError
        The image has not two axes (image-type).
    """
    if ax is None:
        ax = (fig or plt.figure(figsize=figsize)).gca()
    pixels, unit = _pixels_and_unit(image)
    block = input_ratio or _block_that_fits(pixels.shape, ax)
    reduced = _reduce(pixels, block, is_mask)
    if is_mask:
        norm = ImageNormalize(vmin=0, vmax=1)
    else:
        low, high = (100 - percl, percl) if percu is None else (percl, percu)
        norm = _make_norm(reduced, low, high, log, clip)
    rows, columns = reduced.shape
    drawn = ax.imshow(
        reduced,
        origin="lower",
        cmap=cmap,
        norm=norm,
        extent=(-0.5, columns * block - 0.5, -0.5, rows * block - 0.5),
    )
    if show_colorbar:
        # These fractions make the bar as high as a square image.
        bar = ax.figure.colorbar(
            drawn, ax=ax, label=unit, fraction=0.046 * rows / columns, pad=0.04
        )
        # A norm that clips would put ticks beyond the ends of the bar onto its ends.
        bar.set_ticks([tick for tick in bar.get_ticks() if norm.vmin <= tick <= norm.vmax])
    if not show_ticks:
        ax.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    return ax


def save_png(image: CCDData | npt.ArrayLike, path: str | Path, title: str = "") -> Path:
    """Draw an image by `show_image` into a PNG file, without a screen.

    Parameters
    ----------
    image : CCDData or array, shape (rows, columns)
        The image.
    path : path
        The file to write; one that is there is replaced.
    title : str
        Text above the image.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    FrameError
        The image has not two axes (image-type).
    OutputError
        The file cannot be written (output-not-writable); one that was there is as it was.
    """
    figure = Figure(figsize=(10, 10))
    show_image(image, cmap="gray", fig=figure).set_title(title)
    path = Path(path)
    # What is no file, such as /dev/stdout, is written to and not replaced.
    is_other = path.exists() and not path.is_file()
    with naming_output(path) if is_other else replacing(path) as part:
        figure.savefig(part or path, format="png", dpi=100, bbox_inches="tight")
    return path


def show_file(path: str | Path, output: str | Path | None = None) -> Path | None:
    """Show the first image of a FITS file, with its kind, exposure time and filter as title.

    Parameters
    ----------
    path : path
        The FITS file; with an extension, as in 'm001.fits[CHIP2]', that image.
    output : path, optional
        PNG file to write instead of opening a window.

    Returns
    -------
    pathlib.Path or None
        The PNG file, when one is written.

    Raises
    ------
    FrameError
        The file cannot be read (file-broken), or holds no image (image-type).
    OutputError
        There is no display to open a window on, or the PNG file cannot be written.
    """
    file, extension = split_name(str(path))
    try:
        hdus = scan_hdus(file)
    except OSError as error:
        raise FrameError("file-broken", f"{path} cannot be opened: {error.strerror}") from error
    hdu = _find_image(hdus, path, extension)
    title = _describe(Path(path).name, {**hdus[0].cards, **hdu.cards})
    with naming(Path(path)):
        pixels = fits.getdata(file, hdu.index)
    if output is not None:
        return save_png(pixels, output, title)
    if plt.get_backend().lower() == "agg":
        raise OutputError("output-not-writable", "there is no display; say -o FILE.png")
    show_image(pixels, cmap="gray").set_title(title)
    plt.show()
    return None


def _find_image(hdus: tuple[HduInfo, ...], path: str | Path, extension: str) -> HduInfo:
    for hdu in _with_name(hdus, extension) if extension else hdus:
        if hdu.cards.get("NAXIS") == 2 and hdu.cards.get("XTENSION", "IMAGE") == "IMAGE":
            if hdu.stored_bytes < hdu.data_bytes:
                raise FrameError(
                    "file-broken",
                    f"{path} holds {hdu.stored_bytes} bytes of pixels, its header announces "
                    f"{hdu.data_bytes}; copy the file again",
                )
            return hdu
    raise FrameError("image-type", f"{path} holds no image with two axes; show another file")


def _with_name(hdus: tuple[HduInfo, ...], extension: str) -> list[HduInfo]:
    """The HDU of that name, or else of that number."""
    name, version = plane_key(extension, "PRIMARY")
    named = [
        hdu
        for hdu in hdus
        if str(hdu.cards.get("EXTNAME")).casefold() == name.casefold()
        and hdu.cards.get("EXTVER", 1) == version
    ]
    return named or [hdu for hdu in hdus if str(hdu.index) == extension]


def _describe(name: str, cards: dict[str, Value]) -> str:
    parts = [cards.get("IMAGETYP"), cards.get("EXPTIME"), cards.get("FILTER")]
    if isinstance(parts[1], int | float):
        parts[1] = f"{parts[1]:g} s"
    return ", ".join([name, *(str(part) for part in parts if part not in (None, ""))])


def _pixels_and_unit(image: CCDData | npt.ArrayLike) -> tuple[npt.NDArray[Any], str]:
    pixels, unit = (image.data, str(image.unit)) if isinstance(image, CCDData) else (image, "")
    pixels = np.asarray(pixels)
    if pixels.ndim != 2:
        raise FrameError(
            "image-type", f"the image has {pixels.ndim} axes, {pixels.shape}; show one with two"
        )
    return pixels, unit


def _block_that_fits(shape: tuple[int, ...], ax: Axes) -> int:
    """Return the side of the blocks that leave about as many pixels as the screen has there."""
    return max(1, int(max(shape[1] / ax.bbox.width, shape[0] / ax.bbox.height)))


def _reduce(pixels: npt.NDArray[Any], block: int, is_mask: bool) -> npt.NDArray[np.float64]:
    reduced = block_reduce(pixels, block, func=np.max if is_mask else np.mean)
    return np.asarray(reduced != 0 if is_mask else reduced, dtype=np.float64)


def _make_norm(
    pixels: npt.NDArray[np.float64], low: float, high: float, log: bool, clip: bool
) -> ImageNormalize:
    vmin, vmax = 0.0, 1.0
    if np.isfinite(pixels).any():
        vmin, vmax = AsymmetricPercentileInterval(low, high).get_limits(pixels)
    if vmin == vmax:
        vmax = vmin + 1.0  # a constant image still needs a range of colours
    stretch = LogStretch() if log else LinearStretch()
    return ImageNormalize(vmin=vmin, vmax=vmax, stretch=stretch, clip=clip)
