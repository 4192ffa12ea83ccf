"""The verdict on an overscan: hypothesis tests over many simulated nights, and what is done.

The simulator here is a few lines of numpy. It draws the figures of a look from the errors that
they have in theory; the code that looks at pixels has no part in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from flatcal.camera import CameraSettings
from flatcal.errors import MESSAGES
from flatcal.frame import Amplifier, Caveat, Detector, Frame, Geometry, Kind, Setup
from flatcal.index import find_frames
from flatcal.overscan import OverscanVerdict, apply_overscan, judge_overscan
from flatcal.recipe import parse_config
from flatcal.survey import Look, Strip, look_at

IMAGE_COLUMNS = 1000
SHAPE = (500, IMAGE_COLUMNS)
LEAK = {k: 0.05 * np.exp(-k / 2) for k in range(7)}
ALL = slice(1000, 1032)
GOOD = slice(1007, 1032)
UNDERSHOOT = {0: -101.0, 1: 7.4, 2: 2.8, 3: 1.5}


@dataclass(frozen=True)
class Sky:
    """A camera and a night of it, as `Sky(n_bias=1)`.

    `wander` is the standard deviation of the bias level over the frames, `follow` how much of it
    is in the overscan, `own` what the overscan wanders by itself; `leak` and `offsets` are parts
    of the light and ADU by column of the overscan; `bad` are standard deviations.
    """

    n_bias: int = 5
    n_dark: int = 0
    n_flat: int = 3
    n_columns: int = 32
    n_rows: int = 256
    noise: float = 5.0
    wander: float = 0.0
    follow: float = 1.0
    own: float = 0.0
    offset: float = 5.0
    light: float = 20000.0
    saturated: float = 0.0
    row_drift: float = 0.0
    at_right: bool = True
    whole: bool = False
    leak: dict[int, float] = field(default_factory=dict)
    offsets: dict[int, float] = field(default_factory=dict)
    bad: dict[int, float] = field(default_factory=dict)

    def expose(self, seed: int = 0) -> tuple[list[Frame], dict[str, Look]]:
        rng = np.random.default_rng(seed)
        frames, looks = [], {}
        for kind, number in (
            (Kind.BIAS, self.n_bias),
            (Kind.DARK, self.n_dark),
            (Kind.FLAT, self.n_flat),
        ):
            for _ in range(number):
                frame = self.frame(f"{len(frames):02}.fits", kind)
                frames.append(frame)
                looks[frame.file] = self.look(rng, kind)
        return frames, looks

    @property
    def image(self) -> slice:
        first = 0 if self.at_right else self.n_columns
        return slice(first, first + IMAGE_COLUMNS)

    def frame(self, file: str, kind: Kind) -> Frame:
        shape = (SHAPE[0], IMAGE_COLUMNS + self.n_columns)
        trim = None if self.whole else (slice(0, SHAPE[0]), self.image)
        return Frame(
            file,
            kind=kind,
            setup=Setup("", shape, (1, 1), "", "", "adu"),
            geometry=Geometry(
                (Amplifier(trim, None, Detector(None, None, 65535.0)),), "median", "from the header"
            ),
        )

    def look(self, rng: np.random.Generator, kind: Kind) -> Look:
        moved = rng.normal(0, self.wander)
        light = self.light * rng.uniform(0.8, 1.2) if kind is Kind.FLAT else 0.0
        level = 1000 + moved + light + rng.normal(0, self.noise / 200)
        columns = np.full(
            self.n_columns, 1000 + self.offset + self.follow * moved + rng.normal(0, self.own)
        )
        noise = np.full(self.n_columns, self.noise)
        for column, part in self.leak.items():
            columns[column] += part * light
            noise[column] = np.hypot(noise[column], np.sqrt(part * light))
        for column, adu in self.offsets.items():
            columns[column] += adu
        for column, sigma in self.bad.items():
            noise[column] = sigma
        drift = np.linspace(0, self.row_drift, 16)
        order = slice(None) if self.at_right else slice(None, None, -1)
        strip = Strip(
            start=self.image.stop if self.at_right else 0,
            at_right=self.at_right,
            n_rows=self.n_rows,
            # The median of n values has an error of sigma (pi / 2 / n)^(1/2), and their scatter
            # by differences one of 1.7 sigma / n^(1/2).
            levels=tuple(
                rng.normal(columns, noise * (np.pi / 2 / self.n_rows) ** 0.5)[order] + drift.mean()
            ),
            scatters=tuple(noise[order] * rng.normal(1, 1.7 / self.n_rows**0.5, len(noise))),
            band_levels=tuple(columns[-1] + drift),
        )
        saturated = self.saturated if kind is Kind.FLAT else 0.0
        return Look(level, self.noise, saturated, level, level, ((level,),), (strip,))


def judge(sky: Sky, seed: int = 0) -> OverscanVerdict:
    verdict = judge_overscan(*sky.expose(seed))
    assert verdict is not None
    return verdict


def share(sky: Sky, test: Any, nights: int = 60) -> float:
    """Part of many nights for which something holds."""
    return float(np.mean([test(judge(sky, seed)) for seed in range(nights)]))


def useful(verdict: OverscanVerdict) -> bool:
    return verdict.useful


def whole(verdict: OverscanVerdict) -> bool:
    return not verdict.dropped


# -- does it follow the bias -------------------------------------------------------------


@pytest.mark.parametrize("n_bias", [3, 5, 10])
def test_an_overscan_that_wanders_with_the_bias_is_useful(n_bias):
    assert share(Sky(n_bias=n_bias, wander=10), useful) == 1
    assert share(Sky(n_bias=10, wander=10), lambda v: v.follows) == 1


@pytest.mark.parametrize("n_bias", [3, 5, 10])
def test_one_that_wanders_alone_is_not(n_bias):
    assert share(Sky(n_bias=n_bias, own=25), useful) <= 0.02


def test_one_that_stands_still_while_the_bias_wanders_is_not():
    assert share(Sky(n_bias=5, wander=10, follow=0), useful) <= 0.04
    assert share(Sky(n_bias=10, wander=10, follow=0, own=10), useful) <= 0.02


@pytest.mark.parametrize("n_bias", [0, 1, 2, 3, 10])
def test_one_that_is_as_steady_as_the_bias_is_kept(n_bias):
    assert share(Sky(n_bias=n_bias), useful) == 1


def test_wander_below_the_error_of_a_row_does_not_matter():
    """1.25 x 5 / sqrt(32) is 1.1 ADU."""
    assert share(Sky(n_bias=10, own=0.5), useful) == 1


@pytest.mark.parametrize("n_bias", [1, 2, 10])
def test_a_level_that_is_nowhere_near_the_bias_is_not_useful(n_bias):
    for offset in (300.0, -300.0):
        assert share(Sky(n_bias=n_bias, offset=offset), useful) == 0
        assert share(Sky(n_bias=n_bias, offset=offset, own=25), useful) == 0


def test_but_it_is_when_it_wanders_with_the_bias():
    assert share(Sky(n_bias=10, offset=300, wander=10), useful) == 1


def test_without_bias_frames_it_must_not_be_above_the_darkest_frame():
    verdict = judge(Sky(n_bias=0, n_dark=3, offset=300))
    assert not verdict.useful
    assert "1300 against 1000 ADU" in verdict.text
    below = judge(Sky(n_bias=0, n_dark=3, offset=-300))
    assert (below.useful, below.tested) == (True, False)
    assert "no bias frame" in below.text


def test_one_lit_bias_frame_does_not_spoil_the_verdict():
    frames, looks = Sky(n_bias=5, wander=5).expose()
    looks["02.fits"] = replace(looks["02.fits"], level=looks["02.fits"].level + 3000)
    assert judge_overscan(frames, looks).useful


def test_noise_below_the_rounding_does_not_make_a_near_level_far():
    assert judge(Sky(noise=0.3, offset=12)).useful


# -- which columns -----------------------------------------------------------------------


@pytest.mark.parametrize("sky", [Sky(), Sky(n_bias=1, n_flat=1), Sky(n_bias=0), Sky(n_flat=0)])
def test_good_columns_are_all_kept(sky):
    assert share(sky, whole, nights=120) >= 0.985


def test_good_columns_of_a_narrow_overscan_are_all_kept():
    for sky in (Sky(n_columns=10), Sky(n_columns=10, n_bias=1, n_flat=1, n_rows=64)):
        assert share(sky, lambda v: v.useful and not v.dropped, nights=120) >= 0.985


@pytest.mark.parametrize("at_right", [True, False])
def test_columns_into_which_light_leaks_are_dropped(at_right):
    sky = Sky(leak=LEAK, at_right=at_right)
    expected = slice(1007, 1032) if at_right else slice(0, 25)
    assert share(sky, lambda v: v.useful and v.columns == expected) >= 0.985
    assert "up to 5 % of a flat's light" in judge(sky).text
    assert judge(sky).holds_light is False


def test_columns_that_undershoot_are_dropped():
    exact = share(Sky(n_bias=10, offsets=UNDERSHOOT), lambda v: v.columns == slice(1004, 1032))
    assert exact >= 0.985
    # A tail that is within the tolerance of 5 ADU / 6 stays.
    tail = Sky(n_bias=10, offsets={**UNDERSHOOT, 4: 0.5, 5: 0.3})
    assert share(tail, lambda v: v.columns == slice(1004, 1032)) >= 0.95


def test_a_constant_offset_is_not_taken_for_a_leak_into_faint_flats():
    """0.55 ADU, tolerated without light, would be a leak of 0.055 % into flats of 1000 ADU."""
    sky = Sky(n_bias=10, n_flat=10, n_rows=1024, light=1000, offsets={2: 0.55})
    assert share(sky, whole) >= 0.98


def test_bad_columns_are_dropped_and_the_longest_run_is_kept():
    assert judge(Sky(bad={30: 20.0})).columns == slice(1000, 1030)
    assert judge(Sky(bad={4: 0.0})).columns == slice(1005, 1032)
    assert judge(Sky(offsets={9: 60000.0})).columns == slice(1010, 1032)
    assert "noisy or dead" in judge(Sky(bad={4: 20.0})).text


def test_of_equal_runs_the_one_far_from_the_image_is_kept():
    assert judge(Sky(n_columns=31, bad={15: 20.0})).columns == slice(1016, 1031)
    assert judge(Sky(n_columns=31, bad={15: 20.0}, at_right=False)).columns == slice(0, 15)


def test_saturated_and_faint_flats_say_nothing_of_a_leak():
    for sky in (Sky(leak=LEAK, saturated=0.5), Sky(leak=LEAK, light=50.0), Sky(n_flat=0)):
        verdict = judge(sky)
        assert verdict.useful
        assert not verdict.tested
        assert "no flat shows whether light leaks" in verdict.text


def test_columns_of_the_image_are_not_taken_for_an_overscan():
    lit = Sky(leak=dict.fromkeys(range(32), 0.9))
    verdict = judge(lit)
    assert (verdict.useful, verdict.holds_light) == (False, True)
    assert "90% of the light" in verdict.text


def test_the_bias_level_that_drifts_into_flats_is_no_light():
    """45 ADU, 9 times the noise, are more than a fifth of the light of a faint flat."""
    frames, looks = Sky(light=150.0).expose()
    for frame in frames[-3:]:
        (strip,) = looks[frame.file].strips
        up = replace(strip, levels=tuple(level + 45 for level in strip.levels))
        looks[frame.file] = replace(
            looks[frame.file], level=looks[frame.file].level + 45, strips=(up,)
        )
    assert judge_overscan(frames, looks).useful


@pytest.mark.parametrize("useless", [False, True])
def test_of_columns_on_both_sides_the_useful_and_more_numerous_are_taken(useless):
    """Left 10 good columns; right 25 good and 7 with light, or 32 that are nowhere near."""
    left, right = Sky(n_columns=10, at_right=False), Sky(leak=LEAK, offset=300.0 * useless)
    frames, looks = right.expose()
    _, others = left.expose()
    for file, look in looks.items():
        looks[file] = replace(look, strips=(*others[file].strips, *look.strips))
    assert judge_overscan(frames, looks).columns == (slice(0, 10) if useless else GOOD)


def test_fewer_than_four_columns_are_not_enough():
    assert judge(Sky(n_columns=4)).useful
    verdict = judge(Sky(n_columns=3))
    assert (verdict.useful, verdict.columns, len(verdict.dropped)) == (False, None, 3)


def test_no_columns_or_no_looks_give_no_verdict():
    frames, looks = Sky(whole=True).expose()
    assert judge_overscan(frames, looks) is None
    frames, looks = Sky().expose()
    assert judge_overscan(frames, {}) is None
    assert judge_overscan([], looks) is None
    assert judge_overscan(frames, looks, slice(0, 10)) is None


def test_figures_are_what_was_put_in():
    verdict = judge(Sky(n_bias=200, wander=8, own=1, row_drift=12, offset=-7))
    figures = {figure.name: figure for figure in verdict.figures}
    for name, value, tolerance in (
        ("noise of a pixel", 5, 0.2),
        ("bias frames", 200, 0),
        ("usable flats", 3, 0),
        ("wander of the bias level", 8, 1.5),
        ("wander after subtraction", 1, 0.2),
        ("drift from row to row", 12, 0.2),
        ("error of a row's level", 1.2533 * 5 / 32**0.5, 0.05),
    ):
        assert figures[name].value == pytest.approx(value, abs=tolerance), name
    level = figures["overscan level"].value - figures["bias level"].value
    assert level == pytest.approx(-7 + 6, abs=0.3)  # with half of the drift from row to row
    assert verdict.drift == pytest.approx(8 * 5.5, rel=0.3)
    assert {figure.unit for figure in verdict.figures} == {"", "ADU", "of a flat's light"}


# -- what is done ------------------------------------------------------------------------


def with_section(frames: list[Frame], columns: slice | None) -> list[Frame]:
    section = None if columns is None else (slice(0, SHAPE[0]), columns)
    return [
        replace(f, geometry=f.geometry.with_overscan(section, f.geometry.reason)) for f in frames
    ]


def apply(
    sky: Sky, setting: str | None = None, columns: slice | None = None
) -> tuple[slice | None, list[Caveat], str]:
    """Columns, caveats and reason that all frames of a night get."""
    frames, looks = sky.expose()
    found = apply_overscan(
        with_section(frames, columns), looks, CameraSettings(overscan_section=setting)
    )
    assert [frame.file for frame in found] == [frame.file for frame in frames]
    assert len({frame.geometry.reason for frame in found}) == 1
    first = found[0]
    assert all(frame.geometry == first.geometry for frame in found)
    assert all(frame.caveats == first.caveats for frame in found)
    assert all(caveat.slug in MESSAGES for caveat in first.caveats)
    section = first.geometry.overscan_section
    assert section is None or section[0] == slice(0, SHAPE[0])
    return None if section is None else section[1], list(first.caveats), first.geometry.reason


def test_the_good_columns_of_what_the_header_names_are_used():
    for setting in (None, "header"):
        columns, caveats, reason = apply(Sky(leak=LEAK, wander=10), setting, ALL)
        assert (columns, caveats) == (GOOD, [])
        assert reason.startswith("from the header; measured: columns 1008 to 1032 follow the bias")


def test_only_columns_that_the_header_names_are_used():
    assert apply(Sky(wander=10), "header", slice(1010, 1020))[0] == slice(1010, 1020)


def test_columns_that_no_header_names_are_used_when_they_could_be_tested():
    assert apply(Sky(leak=LEAK), "header")[:2] == (GOOD, [])
    assert apply(Sky(n_bias=1), "header")[:2] == (ALL, [])


@pytest.mark.parametrize("sky", [Sky(n_flat=0), Sky(n_bias=0), Sky(light=50.0)])
def test_and_otherwise_named(sky):
    columns, (caveat,), _ = apply(sky, "header")
    assert (columns, caveat.slug) == (None, "overscan-doubt")
    assert "camera.overscan_section" in caveat.text
    assert apply(sky, "header", ALL)[:2] == (ALL, [])


def test_a_useless_overscan_is_dropped_with_its_figures():
    for named in (ALL, None):
        columns, (caveat,), reason = apply(Sky(n_bias=10, offset=300, own=25), "header", named)
        assert (columns, caveat.slug) == (None, "overscan-dropped")
        for text in (caveat.text, reason):
            assert "nowhere near the bias level" in text
            assert "against 1000 ADU" in text


def test_columns_of_the_image_that_are_not_kept_are_no_overscan():
    lit = Sky(leak=dict.fromkeys(range(32), 0.9))
    assert apply(lit, "header")[:2] == (None, [])
    assert apply(Sky(n_columns=3), "header")[:2] == (None, [])
    columns, (caveat,), _ = apply(lit, "header", ALL)
    assert (columns, caveat.slug) == (None, "overscan-dropped")


def test_a_section_in_the_settings_is_used_as_it_is():
    assert apply(Sky(leak=LEAK), "[1008:1032,1:500]", GOOD)[:2] == (GOOD, [])
    columns, (caveat,), _ = apply(Sky(leak=LEAK), "[1001:1032,1:500]", ALL)
    assert (columns, caveat.slug) == (ALL, "overscan-doubt")
    assert "columns 1001 to 1007 left out: up to 5 % of a flat's light" in caveat.text
    assert "camera.overscan_section = '[1008:1032,1:500]'" in caveat.text
    columns, (caveat,), _ = apply(Sky(n_bias=10, offset=300, own=25), "[1001:1032,1:500]", ALL)
    assert (columns, caveat.slug) == (ALL, "overscan-doubt")
    assert "camera.overscan_section = 'none'" in caveat.text


def test_none_stays_none_and_is_named_when_a_drift_is_missed():
    columns, (caveat,), _ = apply(Sky(n_bias=10, wander=10), "none")
    assert (columns, caveat.slug) == (None, "overscan-doubt")
    assert "'[1001:1032,1:500]'" in caveat.text
    small = Sky(n_bias=10, n_columns=128, wander=1.2)
    assert judge(small).follows
    assert judge(small).drift < small.noise
    few = Sky(n_bias=2, wander=10)
    assert judge(few).useful
    assert judge(few).drift > few.noise
    useless = (Sky(n_bias=10, wander=10, follow=0), Sky(offset=300, own=25))
    for sky in (small, few, *useless, Sky(n_bias=10)):
        columns, caveats, reason = apply(sky, "none")
        assert (columns, caveats) == (None, [])
        assert "measured: columns 1001 to 1" in reason


def test_an_overscan_in_an_image_that_is_kept_whole_is_named():
    sky = Sky(whole=True, n_columns=32)
    frames, looks = sky.expose()
    # The look is at the last 64 columns: half of them hold light, the rest is dark.
    for frame in frames:
        look = looks[frame.file]
        (strip,) = look.strips
        strip = replace(
            strip,
            start=968,
            levels=(*[look.level] * 32, *strip.levels),
            scatters=strip.scatters * 2,
        )
        looks[frame.file] = replace(look, strips=(strip,))
    found = apply_overscan(frames, looks, CameraSettings())
    for frame in found:
        assert [caveat.slug for caveat in frame.caveats] == ["overscan-missed"]
        assert "columns 1001 to 1032 get no light" in frame.caveats[0].text
        assert frame.geometry.overscan_section is None
    without_flats = frames[:5]
    assert apply_overscan(without_flats, looks, CameraSettings()) == tuple(without_flats)


def test_a_frame_with_errors_or_without_a_look_changes_nothing_for_the_others():
    frames, looks = Sky(leak=LEAK).expose()
    broken = Frame("broken.fits", errors=(Caveat("file-broken", "x"),))
    unseen = replace(frames[0], file="unseen.fits")
    found = apply_overscan([broken, unseen, *frames], looks, CameraSettings())
    assert found[0] == broken
    assert {frame.geometry.overscan_section[1].start for frame in found[1:]} == {1007}


def test_set_ups_are_judged_apart():
    frames, looks = Sky(leak=LEAK).expose()
    other_frames, other_looks = Sky().expose()
    other_frames = [
        replace(f, file=f"other/{f.file}", setup=replace(f.setup, gain_setting="2"))
        for f in other_frames
    ]
    looks |= {f"other/{file}": look for file, look in other_looks.items()}
    found = apply_overscan([*frames, *other_frames], looks, CameraSettings())
    starts = [frame.geometry.overscan_section[1].start for frame in found]
    assert starts == [1007] * len(frames) + [1000] * len(other_frames)


def test_frames_whose_headers_differ_get_one_overscan():
    frames, looks = Sky().expose()
    mixed = [*with_section(frames[:5], slice(1004, 1032)), *with_section(frames[5:], None)]
    found = apply_overscan(mixed, looks, CameraSettings())
    assert {f.geometry.overscan_section[1].start for f in found} == {1004}


def test_nothing_was_looked_at():
    frames, _ = Sky().expose()
    named = with_section(frames, ALL)
    assert apply_overscan(named, {}, CameraSettings()) == tuple(named)


# -- the simulated cameras, with their pixels --------------------------------------------


def plan_geometry(night, toml: str) -> tuple[Frame, ...]:
    config = parse_config(toml, "test")
    frames = find_frames(night.raw, config)
    return apply_overscan(frames, look_at(night.raw, frames, 2), config.camera)


def test_the_simulated_lfc_keeps_the_columns_without_light(lfc_night):
    toml = '[camera]\noverscan_section = "header"\ntrim_section = "[1:512,1:1032]"\n'
    found = plan_geometry(lfc_night, toml)
    camera = lfc_night.truth.camera
    first = camera.image_columns + camera.leak_columns
    for frame in found:
        assert frame.geometry.overscan_section == (slice(0, 1032), slice(first, camera.columns))
        assert "follow the bias level" in frame.geometry.reason
        assert not {c.slug for c in frame.caveats} & {"overscan-doubt", "overscan-dropped"}
    levels = [f.overscan_level_adu for f in lfc_night.truth.frames if f.kind != "flat"]
    drift = max(levels) - min(levels)
    assert drift > 15
    assert f"drifts by {drift:.2g} ADU" in found[0].geometry.reason


def test_the_simulated_cg16m_uses_none(cg16m_night):
    toml = '[camera]\noverscan_section = "{}"\ntrim_section = "[1:1024,1:1024]"\n'
    for setting, slugs in (("header", {"overscan-dropped"}), ("none", set())):
        for frame in plan_geometry(cg16m_night, toml.format(setting)):
            assert frame.geometry.overscan_section is None
            assert "nowhere near the bias level" in frame.geometry.reason
            found = {c.slug for c in frame.caveats if c.slug in ("overscan-doubt", *slugs)}
            assert found == slugs
