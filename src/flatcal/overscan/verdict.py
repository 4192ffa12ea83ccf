"""The verdict on an overscan, in figures and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flatcal.frame import Frame
from flatcal.overscan.columns import MEDIAN_ERROR, collect_columns
from flatcal.overscan.evidence import LEAST_COLUMNS, Evidence, weigh
from flatcal.survey import Look


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class OverscanVerdict:
    """Whether an overscan is useful, and why.

    Attributes
    ----------
    useful : bool
        Whether it should be subtracted, as far as could be tested.
    columns : slice or None
        Those that agree with one another and get no light; None when there are not enough.
    dropped : tuple of int
        The others.
    tested : bool
        Whether there were both bias frames and flats.
    follows : bool
        Whether the bias level wanders, and the overscan with it.
    holds_light : bool
        Whether the columns belong to the image.
    drift, noise : float
        Peak to peak of the level over all frames but flats, and the noise of a pixel, in the
        unit of the raw values.
    figures : tuple of Figure
        Everything that was measured.
    text : str
        The verdict with the figures that it rests on.
    left_out : str
        The columns that should not be used, and why; empty when all are good.
    """

    useful: bool
    columns: slice | None
    dropped: tuple[int, ...]
    tested: bool
    follows: bool
    holds_light: bool
    drift: float
    noise: float
    figures: tuple[Figure, ...]
    text: str
    left_out: str


def judge_overscan(
    frames: Sequence[Frame], looks: Mapping[str, Look], within: slice | None = None
) -> OverscanVerdict | None:
    """Judge the columns beside the image.

    Parameters
    ----------
    frames : sequence of Frame
        Of one set-up, and with one section that is kept.
    looks : mapping
        Look of each frame by its file.
    within : slice or None
        Columns to which the judgement is restricted; None for all.

    Returns
    -------
    OverscanVerdict or None
        None when no column lies outside of what is kept, or no frame could be looked at. Of
        columns left and right of the image the useful ones are taken, and of these the more
        numerous.
    """
    seen = [frame for frame in frames if frame.file in looks and is_trimmed(frame)]
    own = [looks[frame.file] for frame in seen]
    n_strips = len(own[0].strips) if own else 0
    candidates = (collect_columns(seen, own, strip, within) for strip in range(n_strips))
    verdicts = [_judge(weigh(found), seen[0]) for found in candidates if found is not None]
    return max(verdicts, key=lambda v: (v.useful, _width(v.columns)), default=None)


def _width(columns: slice | None) -> int:
    return columns.stop - columns.start if columns else 0


def is_trimmed(frame: Frame) -> bool:
    """Whether columns lie outside of what is kept."""
    assert frame.geometry is not None
    assert frame.setup is not None
    trim = frame.geometry.trim_section
    return trim is not None and trim[1] != slice(0, frame.setup.shape[1])


def name_columns(columns: slice) -> str:
    """Columns as FITS counts them, from 1."""
    if columns.stop == columns.start + 1:
        return f"column {columns.stop}"
    return f"columns {columns.start + 1} to {columns.stop}"


def _judge(found: Evidence, frame: Frame) -> OverscanVerdict:
    assert frame.setup is not None
    unit = "ADU" if frame.setup.unit == "adu" else frame.setup.unit
    columns = found.columns
    kept = found.place if found.enough else None
    numbers = range(columns.start, columns.start + columns.n_columns)
    return OverscanVerdict(
        useful=found.useful,
        columns=kept,
        dropped=tuple(n for n in numbers if kept is None or not kept.start <= n < kept.stop),
        tested=found.n_biases > 0 and bool(columns.flats.any()),
        follows=found.follows,
        holds_light=found.is_lit,
        drift=found.drift,
        noise=columns.noise,
        figures=_figures(found, unit),
        text="; ".join(_clauses(found, unit)),
        left_out="; ".join(_left_out(found, unit)),
    )


def _figures(found: Evidence, unit: str) -> tuple[Figure, ...]:
    columns, tests = found.columns, found.tests
    bands = columns.band_levels - columns.band_levels.mean(axis=1, keepdims=True)
    n_pixels = columns.n_rows * found.n_used
    error = MEDIAN_ERROR * columns.noise / n_pixels**0.5
    part = "of a flat's light"
    figures = [
        Figure("noise of a pixel", columns.noise, unit),
        Figure("bias frames", found.n_biases, ""),
        Figure("usable flats", int(np.count_nonzero(columns.flats)), ""),
        Figure("overscan level", found.zero, unit),
        Figure("bias level", found.bias, unit),
        Figure("wander of the bias level", found.wander, unit),
        Figure("wander after subtraction", found.left, unit),
        Figure("error of a frame's level", error, unit),
        Figure("error of a row's level", found.row_error, unit),
        Figure("drift over the night", found.drift, unit),
        Figure("drift from row to row", float(np.ptp(np.median(bands, axis=0))), unit),
        Figure("light in all columns", found.light, part),
    ]
    for name, values, its_unit in (
        ("largest offset of a column kept", tests.offsets, unit),
        ("largest leak into a column kept", tests.leaks, part),
    ):
        if values is not None:
            figures.append(Figure(name, float(np.abs(values[found.used]).max()), its_unit))
    return tuple(figures)


# -- words -------------------------------------------------------------------------------


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _clauses(found: Evidence, unit: str) -> Iterator[str]:
    if found.is_lit or not found.enough:
        yield _no_overscan(found)
        return
    at = f"{_number(found.zero)} against {_number(found.bias)} {unit}"
    yield f"{name_columns(found.place)} {_relation(found, at)}"
    if found.enough_biases:
        yield (
            f"over {found.n_biases} bias frames it wanders by {_number(found.wander)} {unit}, "
            f"and by {_number(found.left)} {unit} once they are subtracted"
        )
    elif found.n_biases and found.is_near:
        few = "1 bias frame is" if found.n_biases == 1 else f"{found.n_biases} bias frames are"
        yield f"{few} too few to see whether they follow it"
    if found.useful:
        if found.drift > found.row_error:
            yield f"their level drifts by {_number(found.drift)} {unit} over the night"
        yield from _left_out(found, unit)
        if not found.columns.flats.any():
            yield "no flat shows whether light leaks into them"


def _no_overscan(found: Evidence) -> str:
    first = found.columns.start
    whole = name_columns(slice(first, first + found.columns.n_columns))
    if found.is_lit:
        return f"{whole} get {found.light:.0%} of the light of flats: they belong to the image"
    return f"no {LEAST_COLUMNS} of {whole} that stand side by side agree with one another"


def _relation(found: Evidence, at: str) -> str:
    """How the overscan stands to the bias level."""
    if not found.n_biases:
        if not found.is_near:
            return f"are far above the darkest frame, {at}, so this is not the bias level"
        return "may follow the bias level or not: there is no bias frame to see it"
    if found.follows:
        return f"follow the bias level, {at}"
    if not found.is_near:
        return f"are nowhere near the bias level, {at}"
    return f"{'do not follow' if found.strays else 'are near'} the bias level, {at}"


def _left_out(found: Evidence, unit: str) -> Iterator[str]:
    """The columns on either side of those that are kept, and what is wrong with them."""
    tests, first = found.tests, found.columns.start
    for side in (slice(0, found.used.start), slice(found.used.stop, found.columns.n_columns)):
        wrong = []
        if tests.offsets is not None and tests.is_offset[side].any():
            worst = np.abs(tests.offsets[side]).max()
            wrong.append(f"up to {_number(worst)} {unit} off in frames without light")
        if tests.leaks is not None and tests.is_lit[side].any():
            worst = 100 * np.abs(tests.leaks[side]).max()
            wrong.append(f"up to {worst:.2g} % of a flat's light")
        if tests.is_bad[side].any():
            bad = np.flatnonzero(tests.is_bad[side]) + first + side.start
            wrong.append(f"{name_columns(slice(bad[0], bad[-1] + 1))} noisy or dead")
        if wrong:
            name = name_columns(slice(first + side.start, first + side.stop))
            yield f"{name} left out: {', '.join(wrong)}"
