"""The plan of a night: for every frame the right masters and numbers, from headers alone."""

import os
import random
from collections import Counter

import numpy as np
import pytest
from astropy.io import fits
from pydantic import ValidationError

from flatcal.index import find_frames
from flatcal.plan import Plan
from flatcal.planning import build_plan, plan_frames
from flatcal.recipe import Config, load_config, parse_config
from flatcal.stored import StoredMaster

SETTINGS = "[camera]\ngain_electron_per_adu=1\nread_noise_electron=5\n"


@pytest.fixture
def night(tmp_path, put_frame):
    """Write frames given as 'kind exposure filter' and return a function that plans them."""
    raw = tmp_path / "raw"

    def write(kind, n=1, exposure=0.0, **cards):
        start = len(list(raw.glob("*"))) if raw.exists() else 0
        for number in range(start, start + n):
            put_frame(raw / f"n{number:03d}.fits", kind, exposure, BUNIT="adu", **cards)

    def plan(text=""):
        return build_plan(raw, parse_config(SETTINGS + text, "night.toml"))

    return write, plan


def by_kind(plan, kind):
    return [frame for frame in plan.frames if frame.kind == kind]


def steps(frame):
    """Names of the steps with their masters."""
    return [step.master or step.name for step in frame.steps]


def error_slugs(plan):
    return Counter(error.slug for frame in plan.refused for error in frame.errors)


# -- the nights of the guide -------------------------------------------------------------


@pytest.fixture(scope="module")
def lfc_plan(lfc_night):
    return build_plan(lfc_night.raw, load_config(lfc_night.config))


@pytest.fixture(scope="module")
def cg16m_plan(cg16m_night):
    return build_plan(cg16m_night.raw, load_config(cg16m_night.config))


def test_kinds_and_times_are_those_of_the_simulator(lfc_night, lfc_plan, cg16m_night, cg16m_plan):
    for night, plan in ((lfc_night, lfc_plan), (cg16m_night, cg16m_plan)):
        told = {f.file: (f.kind.value, f.exposure_time_s) for f in plan.frames}
        assert told == {f.file: (f.kind, f.exposure_time_s) for f in night.truth.frames}
        assert plan.refused == ()


def test_each_flat_of_the_lfc_has_the_dark_of_its_time_unscaled_and_no_bias(lfc_night, lfc_plan):
    filters = {frame.file: frame.filter for frame in lfc_night.truth.frames}
    flats = by_kind(lfc_plan, "flat")
    assert len(flats) == 6
    for flat in flats:
        dark = {"g'": "master_dark_70s", "i'": "master_dark_7s"}[filters[flat.file]]
        assert steps(flat) == ["subtract_overscan", "trim_image", dark]
        assert flat.steps[-1].scale == 1
        assert flat.part_of == {"g'": "master_flat_gp", "i'": "master_flat_ip"}[flat.filter]


def test_science_of_the_lfc_has_its_dark_and_the_flat_of_its_filter(lfc_plan):
    assert [steps(frame) for frame in by_kind(lfc_plan, "science")] == [
        ["subtract_overscan", "trim_image", "master_dark_300s", "master_flat_gp"],
        ["subtract_overscan", "trim_image", "master_dark_300s", "master_flat_ip"],
    ]


def test_darks_of_the_lfc_keep_their_bias(lfc_plan):
    masters = {master.name: master for master in lfc_plan.masters}
    assert set(masters) == {"master_bias", "master_flat_gp", "master_flat_ip"} | {
        f"master_dark_{exposure}s" for exposure in (7, 70, 300)
    }
    for exposure in (7, 70, 300):
        dark = masters[f"master_dark_{exposure}s"]
        assert not dark.lost_bias
        assert [step.name for step in dark.steps] == ["subtract_overscan", "trim_image"]
        assert (dark.exposure_time_s, len(dark.inputs)) == (exposure, 3)


def test_the_overscan_of_the_lfc_leaves_out_the_columns_with_light(lfc_plan):
    (section,) = {f.steps[0].section for f in lfc_plan.frames if f.action == "calibrate"}
    assert section == "[520:544,1:1032]"


def test_twilight_flats_lose_their_bias_and_the_scaled_dark(cg16m_plan):
    flats = by_kind(cg16m_plan, "flat")
    assert [flat.exposure_time_s for flat in flats] == [1.0] * 5 + [1.02, 1.06, 1.11, 1.16, 1.21]
    for flat in flats:
        assert steps(flat) == ["trim_image", "master_bias", "master_dark_90s"]
        assert flat.steps[-1].scale == pytest.approx(flat.exposure_time_s / 90, rel=1e-12)


def test_science_shares_the_scaled_dark_and_so_loses_its_bias_by_itself(cg16m_plan):
    (dark,) = (master for master in cg16m_plan.masters if master.kind == "dark")
    assert dark.lost_bias
    assert [step.name for step in dark.steps] == ["trim_image", "subtract_bias"]
    for frame in by_kind(cg16m_plan, "science"):
        assert steps(frame) == ["trim_image", "master_bias", "master_dark_90s", "master_flat_r"]
        assert frame.steps[2].scale == 1


def test_every_frame_has_a_reason_and_each_master_its_inputs(cg16m_plan, lfc_plan):
    for plan in (cg16m_plan, lfc_plan):
        assert all(frame.reason for frame in plan.frames)
        for frame in plan.frames:
            assert (frame.part_of is not None) == (frame.kind != "science")
            if frame.part_of:
                assert frame.file in plan.master(frame.part_of).inputs
        outputs = [f.output for f in plan.frames if f.output] + [m.output for m in plan.masters]
        assert len(set(outputs)) == len(outputs)


def test_masters_come_after_those_that_they_need(cg16m_plan):
    made = set()
    for master in cg16m_plan.masters:
        inputs = [frame for frame in cg16m_plan.frames if frame.file in master.inputs]
        needed = {s.master for s in (*master.steps, *(s for f in inputs for s in f.steps))}
        assert needed - {None} <= made
        made.add(master.name)


# -- bias exactly where the dark has lost it ---------------------------------------------


def test_in_a_mixed_night_each_dark_keeps_or_loses_its_bias_for_all(night):
    write, plan = night
    write("BIAS", 3)
    write("DARK", 3, 10.0)
    write("DARK", 3, 60.0)
    write("FLAT", 1, 10.0, FILTER="g")
    write("FLAT", 1, 2.0, FILTER="g")
    write("FLAT", 1, 60.2, FILTER="g")
    write("LIGHT", 1, 60.0, FILTER="g")
    made = plan()
    matched, scaled, long = by_kind(made, "flat")
    assert steps(matched) == ["master_dark_10s"]
    assert steps(scaled) == ["master_bias", "master_dark_60s"]
    assert scaled.steps[1].scale == pytest.approx(2 / 60)
    assert steps(long) == ["master_bias", "master_dark_60s"]
    assert long.steps[1].scale == 1
    assert steps(by_kind(made, "science")[0]) == ["master_bias", "master_dark_60s", "master_flat_g"]
    assert not made.master("master_dark_10s").lost_bias
    assert made.master("master_dark_60s").lost_bias


def test_bias_goes_once_from_every_frame_whatever_the_night(night):
    """A frame loses its bias by itself, or with a dark that holds it: never both or neither."""
    write, plan = night
    rng = random.Random(5)
    write("BIAS", 3)
    for exposure in (5.0, 30.0, 300.0):
        write("DARK", rng.choice([1, 3]), exposure)
    for _ in range(12):
        write(rng.choice(["FLAT", "LIGHT"]), 1, rng.choice([1.0, 5.0, 30.3, 100.0, 299.9]))
    made = plan("[dark]\nscale_up=true\n")
    calibrated = [frame for frame in made.frames if frame.action == "calibrate"]
    assert len(calibrated) == 12
    for frame in calibrated:
        (dark,) = (step.master for step in frame.steps if step.name == "subtract_dark")
        alone = sum(step.name == "subtract_bias" for step in frame.steps)
        assert alone + (not made.master(dark).lost_bias) == 1


def test_without_bias_frames_matched_darks_do(night):
    write, plan = night
    write("DARK", 3, 10.0)
    write("FLAT", 1, 10.0, FILTER="g")
    write("FLAT", 1, 2.0, FILTER="g")
    made = plan()
    matched, unmatched = by_kind(made, "flat")
    assert steps(matched) == ["master_dark_10s"]
    assert error_slugs(made) == {"dark-exposure": 1}
    assert unmatched.action == "refuse"
    assert made.master("master_flat_g").inputs == (matched.file,)


def test_without_darks_frames_are_refused(night):
    write, plan = night
    write("BIAS", 3)
    write("FLAT", 2, 10.0)
    write("LIGHT", 1, 10.0)
    assert error_slugs(plan()) == {"no-dark": 3}


def test_without_darks_the_bias_alone_is_subtracted_when_asked(night):
    write, plan = night
    write("BIAS", 3)
    write("FLAT", 2, 10.0)
    made = plan("[dark]\nrequired=false\n")
    assert made.refused == ()
    assert [steps(frame) for frame in by_kind(made, "flat")] == [["master_bias"]] * 2


def test_a_frame_that_goes_without_a_dark_says_so(night):
    write, plan = night
    write("BIAS", 3)
    write("DARK", 3, 600.0, SET_TEMP=-20)
    write("FLAT", 1, 10.0, FILTER="r")
    (flat,) = by_kind(plan("[dark]\nrequired=false\n"), "flat")
    slugs = [c.slug for c in flat.caveats if c.slug != "flat-level-doubt"]  # it has no pixels
    assert slugs == ["no-dark", "few-frames"]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_master_of_fewer_than_three_frames_is_a_caveat(night, n):
    write, plan = night
    write("BIAS", n)
    write("DARK", 3, 10.0)
    write("FLAT", n, 10.0)
    for frame in (*by_kind(plan(), "bias"), *by_kind(plan(), "flat")):
        assert ("few-frames" in [c.slug for c in frame.caveats]) == (n < 3)


def test_without_dark_and_bias_frames_are_refused_whatever_is_asked(night):
    write, plan = night
    write("FLAT", 2, 10.0)
    assert error_slugs(plan("[dark]\nrequired=false\n")) == {"no-bias": 2}


def test_a_temperature_between_those_of_dark_and_bias_is_no_accident(night):
    """The dark fits the flat and the bias fits the flat, but not the one the other."""
    write, plan = night
    write("BIAS", 3, SET_TEMP=-10.4)
    write("DARK", 3, 60.0, SET_TEMP=-9.6)
    write("FLAT", 1, 10.0, SET_TEMP=-10.0)
    made = plan()
    assert error_slugs(made) == {"dark-exposure": 1}


def test_a_dark_that_another_needs_without_bias_is_refused_where_there_is_no_bias(night):
    """The first flat has a bias and scales the dark; the second has none for itself."""
    write, plan = night
    write("BIAS", 3, SET_TEMP=-10.0)
    write("DARK", 3, 60.0, SET_TEMP=-10.4)
    write("FLAT", 1, 10.0, SET_TEMP=-10.0)
    write("FLAT", 1, 60.0, SET_TEMP=-10.8)
    made = plan()
    first, second = by_kind(made, "flat")
    assert steps(first) == ["master_bias", "master_dark_60s"]
    assert made.master("master_dark_60s").lost_bias
    assert [e.slug for e in second.errors] == ["no-bias"]


# -- flats for science -------------------------------------------------------------------


def science_night(write):
    write("DARK", 3, 10.0)
    write("FLAT", 2, 10.0, FILTER="g")
    write("FLAT", 2, 10.0, FILTER="r")
    write("LIGHT", 1, 10.0, FILTER="g")
    write("LIGHT", 1, 10.0, FILTER="H alpha")
    write("LIGHT", 1, 10.0)


def test_science_has_the_flat_of_its_filter_or_is_refused_naming_those_there_are(night):
    write, plan = night
    science_night(write)
    g, halpha, none = by_kind(plan(), "science")
    assert steps(g) == ["master_dark_10s", "master_flat_g"]
    assert [e.slug for f in (halpha, none) for e in f.errors] == ["no-flat", "no-flat"]
    assert "no flat in filter H alpha (there are: g, r)" in halpha.errors[0].text
    assert "filter none" in none.errors[0].text
    assert "science.flat_required" in none.errors[0].text


def test_science_without_a_flat_is_calibrated_when_asked_with_a_caveat(night):
    write, plan = night
    science_night(write)
    made = plan("[science]\nflat_required=false\n")
    g, halpha, _ = by_kind(made, "science")
    assert made.refused == ()
    assert steps(g) == ["master_dark_10s", "master_flat_g"]
    assert g.caveats == ()
    assert steps(halpha) == ["master_dark_10s"]
    assert [c.slug for c in halpha.caveats] == ["no-flat"]


def test_a_flat_that_is_refused_gives_no_master(night):
    write, plan = night
    write("DARK", 3, 10.0)
    write("FLAT", 2, 2.0, FILTER="g")
    write("LIGHT", 1, 10.0, FILTER="g")
    made = plan()
    assert error_slugs(made) == {"dark-exposure": 2, "no-flat": 1}
    (science,) = by_kind(made, "science")
    assert "take flats" not in science.errors[0].text  # they are there, but refused
    assert [master.kind for master in made.masters] == ["dark"]


def test_filters_that_differ_only_in_capitals_have_masters_of_their_own(night):
    write, plan = night
    write("DARK", 3, 10.0)
    for name in ("r", "R", "g'", "gp"):
        write("FLAT", 1, 10.0, FILTER=name)
    outputs = [m.output.lower() for m in plan().masters if m.kind == "flat"]
    assert len(set(outputs)) == 4


# -- two set-ups in one folder -----------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ({"SET_TEMP": -5}, {"SET_TEMP": -10}, ("-5C", "-10C")),
        ({"XBINNING": 1, "YBINNING": 1}, {"XBINNING": 2, "YBINNING": 2}, ("bin1x1", "bin2x2")),
        ({"INSTRUME": "cam A"}, {"INSTRUME": "cam B"}, ("cam-A", "cam-B")),
        ({"READOUTM": "fast"}, {"READOUTM": "slow"}, ("fast", "slow")),
        ({"GAIN": 1}, {"GAIN": 4}, ("1", "4")),
    ],
)
def test_two_set_ups_in_a_folder_are_kept_apart(night, one, other, words):
    write, plan = night
    sets = {}
    for cards, word in zip((one, other), words, strict=True):
        write("BIAS", 3, **cards)
        write("DARK", 3, 60.0, **cards)
        write("FLAT", 2, 10.0, **cards)
        write("LIGHT", 1, 60.0, **cards)
        sets[word] = cards
    made = plan()
    assert made.refused == ()
    for place, frame in enumerate(by_kind(made, "science")):
        used = {step.master for step in frame.steps}
        assert {f"master_bias_{words[place]}", f"master_dark_60s_{words[place]}"} <= used
        for name in used:
            inputs = made.master(name).inputs
            # Of the 18 files the first nine are of the first set-up.
            assert {int(file[1:4]) // 9 for file in inputs} <= {place} or "flat" in name
    if "SET_TEMP" not in one:
        assert len([m for m in made.masters if m.kind == "flat"]) == 2


def test_two_sizes_in_a_folder_are_kept_apart(night):
    write, plan = night
    small = np.full((5, 6), 1000, np.uint16)
    write("BIAS", 3)
    write("DARK", 3, 60.0)
    write("FLAT", 1, 60.0)
    write("FLAT", 1, 60.0, data=small)
    made = plan()
    assert error_slugs(made) == {"no-dark": 1}
    (refused,) = made.refused
    assert refused.shape == (5, 6)
    assert "shape 10 x 12 is not 5 x 6" in refused.errors[0].text


def test_frames_with_overscans_of_their_own_are_not_treated_by_that_of_others(night, tmp_path):
    """Steps of a master are those of all its frames, if pixels give frames no common overscan."""
    write, _ = night
    write("DARK", 2, 60.0, BIASSEC="[11:12,1:10]", TRIMSEC="[1:8,1:10]")
    write("DARK", 1, 60.0, BIASSEC="[9:10,1:10]", TRIMSEC="[1:8,1:10]")
    made = plan_frames(tmp_path / "raw", find_frames(tmp_path / "raw", Config()), Config())
    sections = {frame.file: biassec(made, frame) for frame in made.frames}
    for master in made.masters:
        assert {sections[file] for file in master.inputs} == {master.steps[0].section}


def biassec(plan, frame):
    return fits.getval(f"{plan.raw}/{frame.file}", "BIASSEC")


# -- form --------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", ["lfc", "cg16m"])
def test_a_plan_goes_through_json_unchanged(camera, lfc_plan, cg16m_plan):
    plan = {"lfc": lfc_plan, "cg16m": cg16m_plan}[camera]
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_a_plan_with_refusals_and_rules_goes_through_json_unchanged(night, tmp_path):
    write, plan = night
    science_night(write)
    (tmp_path / "raw" / "broken.fits").write_text("nothing")
    made = plan("[[kinds]]\nkind='flat'\nfile='x*'\nheader={A='b', C=1, D=true}\n")
    assert len(made.refused) == 3
    assert Plan.model_validate_json(made.model_dump_json()) == made


def test_plans_are_frozen(lfc_plan):
    with pytest.raises(ValidationError, match="frozen"):
        lfc_plan.frames[0].action = "refuse"


def test_the_plan_does_not_depend_on_the_order_in_the_folder(night, tmp_path):
    write, plan = night
    write("BIAS", 2, SET_TEMP=-10)
    write("DARK", 2, 60.0, SET_TEMP=-10)
    write("DARK", 2, 60.3, SET_TEMP=-10.3)
    write("DARK", 2, 60.6, SET_TEMP=-10.6)
    write("FLAT", 2, 60.4, SET_TEMP=-10.2, FILTER="r")
    write("FLAT", 2, 1.0, SET_TEMP=-10.2, FILTER="R")
    made = plan()
    other = tmp_path / "other"
    other.mkdir()
    names = sorted(path.name for path in (tmp_path / "raw").iterdir())
    random.Random(3).shuffle(names)
    for name in names:
        os.link(tmp_path / "raw" / name, other / name)
    again = build_plan(other, made.config)
    assert again.model_copy(update={"raw": made.raw}) == made


def test_frames_planned_in_any_order_get_the_same_decisions(night, tmp_path):
    write, plan = night
    write("BIAS", 3)
    for exposure in (60.0, 60.3, 300.0, 299.8):
        write("DARK", 2, exposure)
    for exposure in (1.0, 60.1, 299.9):
        write("FLAT", 2, exposure, FILTER="r")
    config = plan().config
    frames = list(find_frames(tmp_path / "raw", config))
    made = plan_frames(tmp_path / "raw", frames, config)
    for seed in range(3):
        random.Random(seed).shuffle(frames)
        again = plan_frames(tmp_path / "raw", frames, config)
        assert {f.file: f for f in again.frames} == {f.file: f for f in made.frames}
        assert {m.name: m for m in again.masters} == {m.name: m for m in made.masters}


def test_planning_takes_a_folder_as_text_and_defaults(night, tmp_path):
    write, _ = night
    write("DARK", 3, 60.0)
    made = build_plan(str(tmp_path / "raw"))
    assert made.config == Config()
    assert made.raw == str((tmp_path / "raw").resolve())


def test_planning_opens_no_file_for_writing_and_changes_nothing(night, tmp_path):
    write, plan = night
    science_night(write)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*.fits")}
    plan()
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*.fits")} == before
    assert {p.name for p in tmp_path.iterdir()} == {"raw"}


def test_pixels_are_not_read(tmp_path):
    """Images of 128 GB that are holes in a sparse file: nothing could read them."""
    for number, (kind, exposure) in enumerate([("DARK", 5.0), ("FLAT", 5.0), ("LIGHT", 5.0)]):
        cards = {"IMAGETYP": kind, "EXPTIME": exposure}
        header = fits.PrimaryHDU(np.zeros((1, 1), np.uint16), fits.Header(cards)).header
        header["NAXIS1"] = header["NAXIS2"] = 250_000
        text = header.tostring(padding=True).encode()
        with (tmp_path / f"{number}.fits").open("wb") as file:
            file.write(text)
            try:
                file.truncate(len(text) + -(-2 * 250_000**2 // 2880) * 2880)
            except OSError:
                pytest.skip("this file system holds no such files")
    made = build_plan(tmp_path)
    assert made.refused == ()
    assert [frame.shape for frame in made.frames] == [(250_000, 250_000)] * 3


# -- what pixels say ---------------------------------------------------------------------


@pytest.fixture
def lit_night(tmp_path, put_frame):
    """Bias, darks whose level follows a law of time, and a flat of 20 s; a function plans them."""
    rng = np.random.default_rng(11)

    def plan(law, text="", wander=0.0):
        def put(name, kind, exposure, level, **cards):
            data = rng.normal(level, 5, (64, 64)).round().astype(np.uint16)
            path = tmp_path / f"raw/{name}.fits"
            path.unlink(missing_ok=True)
            put_frame(path, kind, exposure, data, BUNIT="adu", **cards)

        for i in range(3):
            put(f"b{i}", "BIAS", 0.0, 1000 + (i - 1) * wander)
            for exposure in (30.0, 60.0, 300.0):
                put(f"d{exposure:g}-{i}", "DARK", exposure, 1000 + law(exposure))
        put("f", "FLAT", 20.0, 20_000, FILTER="r")
        return build_plan(tmp_path / "raw", parse_config(SETTINGS + text, "night.toml"))

    return plan


def test_darks_that_grow_with_time_are_scaled(lit_night):
    (flat,) = by_kind(lit_night(lambda t: 0.5 * t), "flat")
    assert steps(flat) == ["master_bias", "master_dark_300s"]


def test_a_bias_level_that_wanders_is_no_dark_current(lit_night):
    """By 4 ADU; the darks of 30 s were taken when it was high."""
    law = lambda t: 0.05 * t + (8 if t == 30 else 0)  # noqa: E731
    (flat,) = by_kind(lit_night(law, wander=4.0), "flat")
    assert steps(flat) == ["master_bias", "master_dark_300s"]
    (flat,) = by_kind(lit_night(law), "flat")
    assert [error.slug for error in flat.errors] == ["dark-exposure"]


def test_darks_that_do_not_grow_with_time_are_not_scaled(lit_night):
    """A camera that glows at read-out: 40 ADU after 30 s and after 300 s."""
    (flat,) = by_kind(lit_night(lambda t: 40 + 0.01 * t), "flat")
    (error,) = flat.errors
    assert error.slug == "dark-exposure"
    assert "does not grow with time: darks of 30 s hold 40" in error.text
    assert "set dark.scale = 'always'" in error.text


def test_nor_is_a_dark_of_the_library_of_the_same_camera(lit_night, tmp_path):
    made = lit_night(lambda t: 40 + 0.01 * t)
    shelf = Shelf("dark", lost_bias=True, exposure=200.0)
    again = build_plan(tmp_path / "raw", made.config, library=shelf)
    (flat,) = by_kind(again, "flat")
    assert "does not grow with time" in flat.errors[0].text
    lit = lit_night(lambda t: 0.5 * t, "[dark]\nscale='always'\n")
    (flat,) = by_kind(build_plan(tmp_path / "raw", lit.config, library=shelf), "flat")
    assert steps(flat) == ["master_bias", "master_dark_300s"]


def test_scaling_can_be_asked_for_all_the_same(lit_night):
    (flat,) = by_kind(lit_night(lambda t: 40 + 0.01 * t, '[dark]\nscale="always"\n'), "flat")
    assert steps(flat) == ["master_bias", "master_dark_300s"]


class Shelf:
    """Two masters of each kind in a library, the nearer in date first."""

    def __init__(self, *kinds, lost_bias=False, exposure=20.0):
        self.kinds = kinds
        self.exposure = exposure
        self.lost_bias = lost_bias

    def candidates(self, kind, setup, date):
        if kind not in self.kinds:
            return []
        place = {"dark": 0, "bias": 10, "flat": 20}[kind]
        common = {
            "kind": kind, "sha256": "", "recipe": "", "setup": setup, "trim_section": "",
            "overscan": False, "parallel_overscan": False, "exposure_time_s": self.exposure,
            "set_temperature_c": None, "filter": "r",
            "lost_bias": self.lost_bias, "bias_recipe": "", "n_frames": 9, "date_last": "",
            "valid_from": "", "valid_to": "", "added": "", "status": "good", "note": "",
            "flatcal_version": "",
        }  # fmt: skip
        return [
            StoredMaster(id=place + 7, path="7.fits", date_first="2024-05-01", **common),
            StoredMaster(id=place + 3, path="3.fits", date_first="2024-01-01", **common),
        ]


NEAREST = "from the library, of 2024-05-01, nearer in date than that of 2024-01-01 (library {})"


def test_of_several_masters_of_the_library_the_nearest_in_date_is_taken(night, tmp_path):
    write, plan = night
    write("FLAT", 3, 20.0, FILTER="r")
    made = build_plan(tmp_path / "raw", plan().config, library=Shelf("dark"))
    for flat in by_kind(made, "flat"):
        assert steps(flat) == ["library_7_dark_20s"]
        assert NEAREST.format(3) in flat.steps[0].reason
        taken, other = flat.considered
        assert "library 7 of 2024-05-01): taken" in taken
        assert other.endswith("as long as the one taken, which is nearer in date")
    assert made.master("library_7_dark_20s").stored.id == 7
    assert plan().refused


def test_of_bias_dark_and_flat_of_the_library_the_next_in_date_is_named_too(night, tmp_path):
    write, plan = night
    write("LIGHT", 1, 5.0, FILTER="r")
    shelf = Shelf("bias", "dark", "flat", lost_bias=True)
    (frame,) = by_kind(build_plan(tmp_path / "raw", plan().config, library=shelf), "science")
    assert steps(frame) == ["library_17_bias", "library_7_dark_20s", "library_27_flat_r"]
    for step, number in zip(frame.steps, (13, 3, 23), strict=True):
        assert step.reason.endswith(NEAREST.format(number))


def test_masters_of_the_night_are_not_said_to_come_from_a_library(night, tmp_path):
    write, plan = night
    write("BIAS", 3)
    write("DARK", 3, 60.0)
    write("LIGHT", 1, 60.0, FILTER="r")
    shelf = Shelf("bias", "dark", "flat")
    (frame,) = by_kind(build_plan(tmp_path / "raw", plan().config, library=shelf), "science")
    assert steps(frame) == ["master_dark_60s", "library_27_flat_r"]
    assert "library" not in frame.steps[0].reason


# -- what software has added -------------------------------------------------------------


def test_frames_of_different_pedestals_do_not_serve_one_another(night):
    """MaxIm DL adds 100 ADU to some; their darks would leave that in the others."""
    write, plan = night
    for pedestal in (0, -100):
        write("BIAS", 3, PEDESTAL=pedestal)
        write("DARK", 3, 60.0, PEDESTAL=pedestal)
    write("FLAT", 3, 10.0, PEDESTAL=-100, FILTER="r")
    write("LIGHT", 1, 60.0, PEDESTAL=-100, FILTER="r")
    made = plan()
    assert made.refused == ()
    for frame in (*by_kind(made, "flat"), *by_kind(made, "science")):
        assert steps(frame)[:2] == ["master_bias_pedestal-100", "master_dark_60s_pedestal-100"]
    assert made.master("master_dark_60s_pedestal-100").inputs == (
        "n009.fits",
        "n010.fits",
        "n011.fits",
    )


def test_a_dark_without_the_pedestal_of_the_frame_is_refused_with_both(night):
    write, plan = night
    write("BIAS", 3)
    write("DARK", 3, 60.0)
    write("FLAT", 1, 60.0, PEDESTAL=-100)
    (refused,) = plan().refused
    assert "60 s (pedestal 0 is not -100)" in refused.errors[0].text


def test_flats_that_do_not_fit_for_their_set_up_are_not_said_to_be_missing(night):
    write, plan = night
    for gain in (1, 4):
        write("DARK", 3, 10.0, GAIN=gain)
    write("FLAT", 3, 10.0, FILTER="r", GAIN=1)
    write("LIGHT", 1, 10.0, FILTER="r", GAIN=4)
    (refused,) = plan().refused
    assert "no flat in filter r that fits (gain setting 1 is not 4)" in refused.errors[0].text


def test_a_frame_whose_name_says_flat_is_not_told_to_take_flats(tmp_path, put_frame):
    for i in range(3):
        put_frame(tmp_path / f"d{i}.fits", "DARK", 10.0)
    put_frame(tmp_path / "Flat-1.fits", "LIGHT", 10.0, FILTER="r")
    (refused,) = build_plan(tmp_path).refused
    assert "if this is a flat, as its name says, say --kind 'flat=*Flat*'" in refused.errors[0].text
