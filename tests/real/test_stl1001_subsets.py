"""The plan for parts of a real night: what an experienced observer would do with each."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

from flatcal.planning import build_plan
from flatcal.recipe import Config, parse_config

FLATS = "flat-expos23s-Neg5*"
BIAS = "biases-Neg5*"


@pytest.fixture
def plan_of(data_folder, tmp_path):
    """Plan some of the files, given by patterns."""

    def plan(*patterns, text=""):
        raw = tmp_path / "raw"
        raw.mkdir()
        for pattern in patterns:
            files = sorted((data_folder / "stl1001").glob(pattern))
            assert files
            for file in files:
                shutil.copy2(file, raw)
        config = parse_config(text, "x") if text else Config()
        return build_plan(raw, config.with_kinds(["flat=flat-*"]))

    return plan


def flats_of(plan):
    return [frame for frame in plan.frames if frame.file.startswith("flat-")]


def told(plan):
    """The slugs that refuse the flats, and the words of the first refusal."""
    slugs = Counter(error.slug for frame in flats_of(plan) for error in frame.errors)
    return slugs, flats_of(plan)[0].errors[0].text


def darks(*exposures):
    return [f"darks-expos{exposure}s-Neg5*" for exposure in exposures]


def test_with_darks_of_30_150_and_300_s_the_longest_is_scaled_with_a_caveat(plan_of):
    """Each is a single frame, so none rejects cosmic rays; the longest brings the least noise."""
    plan = plan_of(BIAS, FLATS, *darks(30, 150, 300))
    for frame in flats_of(plan):
        bias, dark = frame.steps
        assert (bias.master, dark.master) == ("master_bias", "master_dark_300s")
        assert dark.scale == pytest.approx(23 / 300)
        assert "single-dark" in {caveat.slug for caveat in frame.caveats}
        assert len(frame.considered) == 3
    assert plan.master("master_dark_300s").lost_bias == "master_bias"


def test_darks_of_another_temperature_do_not_serve(plan_of):
    slugs, text = told(plan_of(BIAS, FLATS, "darks-expos60s-Neg10*", "bias-Neg10*"))
    assert slugs == {"no-dark": 10}
    assert "60 s (set to -10 C, not -5 C); take darks set to -5 C" in text


def test_without_a_bias_nothing_is_scaled(plan_of):
    slugs, text = told(plan_of(FLATS, *darks(30, 150, 300)))
    assert slugs == {"dark-exposure": 10}
    assert "dark exposure 30 s is 7 s from the flat's 23 s (tolerance 0.5 s)" in text
    assert "nor do others serve: 150 s (127 s off), 300 s (277 s off)" in text
    assert text.endswith("; take bias frames or darks of 23 s")


def test_a_bias_of_another_temperature_is_none(plan_of):
    slugs, _ = told(plan_of("bias-Neg10*", FLATS, *darks(30)))
    assert slugs == {"dark-exposure": 10}


def test_with_bias_but_no_darks_the_flats_are_refused_unless_that_is_wanted(plan_of):
    slugs, text = told(plan_of(BIAS, FLATS))
    assert slugs == {"no-dark": 10}
    assert "take some, or set dark.required = false" in text


def test_with_bias_but_no_darks_the_bias_is_subtracted_when_that_is_wanted(plan_of):
    plan = plan_of(BIAS, FLATS, text="[dark]\nrequired = false\n")
    for frame in flats_of(plan):
        assert [step.master for step in frame.steps] == ["master_bias"]
        assert "no-dark" in {caveat.slug for caveat in frame.caveats}


def test_the_dark_current_of_this_camera_is_linear_enough_to_scale(plan_of):
    plan = plan_of(BIAS, FLATS, "darks-expos*-Neg5*")
    assert all(frame.steps[-1].master == "master_dark_60s" for frame in flats_of(plan))
    assert plan.refused == ()
