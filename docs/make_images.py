"""Make the picture of the README from the demo: python docs/make_images.py DEMO_FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from astropy.io import fits
from matplotlib.figure import Figure

from flatcal import show_image


def main(demo: Path) -> None:
    flat = fits.getdata(demo / "cg16m" / "reduced" / "masters" / "master_flat_r.fits")
    figure = Figure(figsize=(6, 5.2), dpi=80)
    ax = figure.add_subplot()
    show_image(flat, cmap="gray", percl=99.5, fig=figure, ax=ax)
    ax.set_title("master flat in r, ten frames")
    figure.savefig(Path(__file__).parent / "images" / "master_flat.png", bbox_inches="tight")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
