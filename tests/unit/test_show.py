"""Drawing images: stretch, blocks, axes, and PNG files from FITS files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.visualization import LogStretch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from flatcal.errors import FrameError, OutputError
from flatcal.report.show import save_png, show_file, show_image, style_path


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def ramp() -> np.ndarray:
    """Values 0 to 10000, so that percentiles are known."""
    return np.linspace(0, 10_000, 100 * 101).reshape(100, 101)


def drawn(ax):
    (image,) = ax.get_images()
    return image


@pytest.mark.parametrize(
    ("percentiles", "limits"),
    [({}, (100, 9900)), ({"percl": 90}, (1000, 9000)), ({"percl": 5, "percu": 80}, (500, 8000))],
)
def test_stretch_by_percentiles(ramp, percentiles, limits):
    norm = drawn(show_image(ramp, **percentiles)).norm
    assert (norm.vmin, norm.vmax) == pytest.approx(limits)
    assert norm.clip


def test_options(ramp):
    ax = show_image(ramp, cmap="gray", log=True, clip=False, figsize=(4, 3), show_ticks=False)
    image = drawn(ax)
    assert image.get_cmap().name == "gray"
    assert isinstance(image.norm.stretch, LogStretch)
    assert not image.norm.clip
    assert ax.figure.get_size_inches().tolist() == [4, 3]
    assert len(ax.figure.axes) == 2
    assert not any(tick.tick1line.get_visible() for tick in ax.xaxis.get_major_ticks())
    assert len(show_image(ramp, show_colorbar=False).figure.axes) == 1


def test_title_of_pyplot_goes_to_the_image(ramp):
    ax = show_image(ramp)
    plt.title("a flat")
    assert ax.get_title() == "a flat"


def test_unit_of_ccddata_labels_the_colour_bar(ramp):
    ax = show_image(CCDData(ramp, unit="adu"))
    assert ax.figure.axes[1].get_ylabel() == "adu"


@pytest.mark.parametrize("given", ["fig", "ax", "both"])
def test_drawing_in_given_axes(ramp, given):
    fig, axes = plt.subplots(1, 2)
    if given == "fig":
        plt.sca(axes[1])
    arguments = {"fig": {"fig": fig}, "ax": {"ax": axes[1]}, "both": {"fig": fig, "ax": axes[1]}}
    assert show_image(ramp, **arguments[given]) is axes[1]
    assert plt.get_fignums() == [fig.number]


def test_big_images_are_averaged_to_about_the_pixels_of_the_axes():
    ax = show_image(np.tile([[0.0, 2.0], [4.0, 6.0]], (1000, 1500)), figsize=(5, 5))
    shown = drawn(ax).get_array()
    assert 1 <= shown.shape[1] / ax.bbox.width < 2
    assert shown.mean() == pytest.approx(3.0, abs=0.01)


def test_block_size_can_be_given_and_edges_keep_their_place():
    ax = show_image(np.ones((10, 21)), input_ratio=4)
    assert drawn(ax).get_array().shape == (2, 5)
    assert drawn(ax).get_extent() == [-0.5, 19.5, -0.5, 7.5]


def test_a_block_of_a_mask_is_set_when_any_pixel_is():
    mask = np.zeros((40, 40), dtype=bool)
    mask[11, 13] = True
    shown = drawn(show_image(mask, is_mask=True, input_ratio=10)).get_array()
    assert np.argwhere(shown == 1).tolist() == [[1, 1]]
    assert set(np.unique(shown)) == {0, 1}


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_constant_images_can_be_drawn(value):
    show_image(np.full((20, 20), value)).figure.canvas.draw()


def test_masters_with_bad_pixels_keep_their_stretch(ramp):
    ramp[3, 4] = np.nan
    assert drawn(show_image(ramp)).norm.vmax == pytest.approx(9900, rel=1e-3)


@pytest.mark.parametrize("shape", [(5,), (2, 5, 5)])
def test_images_have_two_axes(shape):
    with pytest.raises(FrameError, match="image-type"):
        show_image(np.ones(shape))


@pytest.mark.parametrize("style", [style_path(), "flatcal.report.flatcal"])
def test_style(style):
    with plt.style.context(style):
        assert mpl.rcParams["font.size"] > 12
        assert mpl.rcParams["image.origin"] == "lower"


def test_saving_needs_no_pyplot_figure(ramp, tmp_path):
    path = save_png(ramp, tmp_path / "ramp.png", title="a ramp")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


@pytest.fixture
def flat(tmp_path, ramp):
    header = fits.Header({"IMAGETYP": "flat", "EXPTIME": 70.001, "FILTER": "g'"})
    fits.PrimaryHDU(ramp, header).writeto(tmp_path / "flat-01.fits")
    return tmp_path / "flat-01.fits"


def test_show_file_writes_png_with_title(flat, tmp_path, monkeypatch):
    titles = []
    figure_savefig = Figure.savefig

    def remember_title(self, *args, **kwargs):
        titles.append(self.axes[0].get_title())
        figure_savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember_title)
    assert show_file(flat, tmp_path / "flat.png") == tmp_path / "flat.png"
    assert titles == ["flat-01.fits, flat, 70.001 s, g'"]


def test_a_picture_is_written_whole_or_not_at_all(flat, tmp_path, monkeypatch):
    def fill_the_disk(_figure, path, **_options):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    show_file(flat, tmp_path / "old.png")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(Figure, "savefig", fill_the_disk)
    for name in ("new.png", "old.png"):
        with pytest.raises(OutputError, match=rf"{name} .*No space left") as caught:
            show_file(flat, tmp_path / name)
        assert caught.value.slug == "output-not-writable"
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_device_is_written_to_and_not_replaced(ramp, tmp_path):
    path = tmp_path / "null"
    path.symlink_to("/dev/null")
    save_png(ramp, path)
    assert path.is_char_device()


def test_show_file_opens_a_window(flat, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "get_backend", lambda: "tkagg")
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gca().get_title()))
    assert show_file(flat) is None
    assert shown == ["flat-01.fits, flat, 70.001 s, g'"]


def test_show_file_without_a_display_names_the_option(flat):
    with pytest.raises(OutputError, match=r"-o FILE.png \[output-not-writable\]"):
        show_file(flat)


def test_show_file_finds_the_image_in_an_extension(tmp_path, ramp):
    columns = [fits.Column("a", "E", array=np.ones(3))]
    parts = [
        fits.PrimaryHDU(header=fits.Header({"EXPTIME": "6,4E-05"})),
        fits.BinTableHDU.from_columns(columns),
        fits.CompImageHDU(ramp.astype(np.int32)),
    ]
    fits.HDUList(parts).writeto(tmp_path / "f.fits.fz")
    assert show_file(tmp_path / "f.fits.fz", tmp_path / "f.png") == tmp_path / "f.png"


def test_show_file_refuses_what_is_no_image(tmp_path, flat):
    fits.PrimaryHDU(np.ones(5)).writeto(tmp_path / "line.fits")
    with pytest.raises(FrameError, match="image-type"):
        show_file(tmp_path / "line.fits")
    flat.write_bytes(flat.read_bytes()[:10_000])
    with pytest.raises(FrameError, match=r"holds 7120 bytes of pixels, .* announces 80800"):
        show_file(flat)
