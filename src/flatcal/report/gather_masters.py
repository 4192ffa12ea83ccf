"""The masters of a run as a report shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flatcal.errors import FlatcalError
from flatcal.frame import Kind
from flatcal.plan import MasterPlan
from flatcal.records import ProductRecord
from flatcal.report.pictures import (
    PICTURE_PIXELS,
    Picture,
    cut_out,
    finite_percentiles,
    make_picture,
    read_planes,
)
from flatcal.report.plots import count_values
from flatcal.report.views import Line, MasterView, Plot
from flatcal.verify.night import ReducedNight

Array = NDArray[Any]

# A page of 15 MB has room for so many pixels of pictures of masters.
_ALL_PIXELS: Final = 1_400_000
# A pixel stands out of a dark by so many times the scatter of all.
_HOT_SIGMA: Final = 10.0
_MARKED: Final = 300
_LISTED: Final = 10


def gather_masters(night: ReducedNight) -> Iterator[MasterView]:
    """All masters, in the order in which they are made.

    A master that cannot be read is there, with the reason instead of its pictures.
    """
    made = [m for m in night.plan.masters if m.output in night.run.products]
    most_pixels = min(PICTURE_PIXELS, _ALL_PIXELS // max(1, len(made)))
    for master in night.plan.masters:
        product = night.run.products.get(master.output)
        if master.stored is not None:
            facts = (("from the library", master.stored.path), ("of", master.reason))
            yield MasterView(master.name, master.kind.value, facts)
        elif product is None:
            yield MasterView(master.name, master.kind.value, (), missing=("it was not made",))
        else:
            yield _view(night, master, product, most_pixels)


def _view(
    night: ReducedNight, master: MasterPlan, product: ProductRecord, most_pixels: int
) -> MasterView:
    facts = _facts(master, product)
    try:
        planes = read_planes(night.out / product.output)
        bias = _bias_of(night, master)
    except FlatcalError as error:
        return MasterView(master.name, master.kind.value, tuple(facts), missing=(error.text,))
    values, flags = planes["PRIMARY"], planes.get("MASK")
    good = np.isfinite(values) if flags is None else (flags == 0) & np.isfinite(values)
    plots = [_histogram(master, values, good), *_rejected(product)]
    unit = "" if master.kind is Kind.FLAT else night.frames[product.inputs[0]].unit.upper()
    pictures = [make_picture(values, master.name, f"the {master.name}", unit, most_pixels)]
    if master.kind is Kind.DARK:
        facts += _hot_pixels(master, values, good, bias, unit, pictures, most_pixels)
    pictures += _cut_outs(master, values, good, unit)
    if "NUSED" in planes:
        lost = len(product.inputs) - planes["NUSED"].astype(np.float32)
        what = f"frames that were rejected or bad in each pixel of {master.name}"
        title = "rejection map: frames left out of each pixel"
        pictures.append(make_picture(lost, title, what, "frames", most_pixels // 4))
        facts.append(("pixels that lost a frame", f"{np.count_nonzero(lost > 0) / lost.size:.2%}"))
    return MasterView(
        master.name,
        master.kind.value,
        tuple(facts),
        tuple(pictures),
        tuple(plots),
    )


def _facts(master: MasterPlan, product: ProductRecord) -> list[tuple[str, str]]:
    facts = [
        ("file", product.output),
        ("made of", master.reason),
    ]
    if master.kind is Kind.DARK:
        facts.append(("exposure time", f"{master.exposure_time_s:g} s"))
    if len(product.inputs) < len(master.inputs):
        facts.append(("of these were used", str(len(product.inputs))))
    if master.steps:
        facts.append(("each frame first", "; ".join(map(str, master.steps))))
    if product.median_adu is not None:
        facts.append(("median", f"{product.median_adu:.6g}"))
    facts.append(("pixels flagged", str(product.n_flagged)))
    return facts


def _bias_of(night: ReducedNight, master: MasterPlan) -> Array | None:
    """The bias that a dark still holds, if the night has one of its shape."""
    if master.kind is not Kind.DARK or master.lost_bias:
        return None
    for bias, product in night.masters(Kind.BIAS):
        if bias.setup == master.setup and bias.shape == master.shape:
            return read_planes(night.out / product.output)["PRIMARY"]
    return None


def _hot_pixels(
    master: MasterPlan,
    values: Array,
    good: Array,
    bias: Array | None,
    unit: str,
    pictures: list[Picture],
    most_pixels: int,
) -> list[tuple[str, str]]:
    """Add the map of dark current with its hot pixels marked; tell how many there are."""
    holds_bias = bias is None and not master.lost_bias
    current = values if bias is None else values - bias
    what, unit_of_rate = "dark with its bias", unit
    if not holds_bias and master.exposure_time_s > 0:
        current = current / np.float32(master.exposure_time_s)
        what, unit_of_rate = "dark current", f"{unit}/s"
    low, middle, high = finite_percentiles(current[good], (15.865, 50, 84.135))
    threshold = middle + _HOT_SIGMA * (high - low) / 2
    rows, columns = np.nonzero(good & (current > threshold))
    order = np.argsort(current[rows, columns])[::-1]
    marks = [(int(columns[i]) + 1, int(rows[i]) + 1) for i in order[:_MARKED]]
    picture = make_picture(
        current, f"{what}, the hottest pixels marked", f"the {what} of {master.name} with "
        f"{len(rows)} hot pixels", unit_of_rate, most_pixels // 2,
    )  # fmt: skip
    pictures.append(
        Picture(
            picture.title, picture.alt, picture.values, picture.block, 1, 1, unit_of_rate,
            tuple(marks),
        )
    )  # fmt: skip
    hottest = ", ".join(f"x {x} y {y}: {current[y - 1, x - 1]:.4g}" for x, y in marks[:_LISTED])
    facts = [
        (f"median {what}", f"{middle:.4g} {unit_of_rate}"),
        ("hot pixels", f"{len(rows)} more than {threshold:.4g} {unit_of_rate}, "
         f"{_HOT_SIGMA:g} times the scatter above the median"),
    ]  # fmt: skip
    if hottest:
        facts.append((f"hottest, {unit_of_rate}", hottest))
    return facts


def _cut_outs(master: MasterPlan, values: Array, good: Array, unit: str) -> Iterator[Picture]:
    rows, columns = values.shape
    yield cut_out(values, columns // 2, rows // 2, "centre, every pixel", master.name, unit)
    if good.any():
        middle = float(np.median(values[good][::97]))
        farthest = np.where(good, np.abs(values - middle), -1)
        y, x = np.unravel_index(int(np.argmax(farthest)), values.shape)
        title = f"about x {x + 1} y {y + 1}, farthest from the median"
        yield cut_out(values, int(x), int(y), title, master.name, unit)


def _rejected(product: ProductRecord) -> Iterator[Plot]:
    """Part of the pixels of each frame that was rejected."""
    if not product.rejected:
        return
    shares = 100 * np.array(product.rejected, float)
    yield Plot(
        title="pixels rejected of each frame",
        alt=f"rejected of {len(shares)} frames: {shares.min():.2g} to {shares.max():.2g} percent",
        x_label="number of the frame",
        y_label="percent",
        lines=(Line("", np.arange(1, len(shares) + 1), shares),),
        dots=True,
        names=product.inputs,
    )


def _histogram(master: MasterPlan, values: Array, good: Array) -> Plot:
    unit = "parts of the median" if master.kind is Kind.FLAT else "ADU"
    line = count_values("", values[good])
    return Plot(
        title=f"values of {master.name}",
        alt=f"histogram of the good pixels of {master.name}",
        x_label=unit,
        y_label="pixels",
        lines=(line,),
        log_y=True,
    )
