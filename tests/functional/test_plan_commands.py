"""One frame's story, and plans that are saved and run as they are."""

import json
import os
import shutil

import pytest
from test_cli import flatcal, refusal

from flatcal import load_config
from flatcal.planning import build_plan
from flatcal.saved_plan import load_plan


@pytest.fixture
def night(cg16m_night, tmp_path):
    """A copy of the simulated night, which tests may change, and its saved plan."""
    raw = tmp_path / "raw"
    shutil.copytree(cg16m_night.raw, raw)
    done = flatcal("plan", raw, "-c", cg16m_night.config, "--json")
    saved = tmp_path / "plan.json"
    saved.write_text(done.stdout)
    return raw, cg16m_night.config, saved


def test_the_story_of_a_frame_has_every_reason(cg16m_night):
    done = flatcal("plan", cg16m_night.raw, "-c", cg16m_night.config, "--explain", "flat-025.fits")
    assert done.returncode == 0
    plan = build_plan(cg16m_night.raw, load_config(cg16m_night.config))
    frame = plan.find_frame("flat-025.fits")
    for text in (
        *(step.reason for step in frame.steps), *(str(step) for step in frame.steps),
        *frame.considered, frame.kind_reason, frame.output, frame.part_of,
        plan.master("master_bias").reason, "1 s", "filter r",
    ):  # fmt: skip
        assert text in done.stdout


def test_the_story_of_a_refused_frame_names_every_dark(cg16m_night, tmp_path):
    config = tmp_path / "never.toml"
    config.write_text(cg16m_night.config.read_text() + '\n[dark]\nscale = "never"\n')
    done = flatcal("plan", cg16m_night.raw, "-c", config, "--explain", "flat-025.fits")
    assert done.returncode == 3
    assert "dark of 90 s (11 frames, -25 C): 89 s from the frame's 1 s" in done.stdout
    assert "[dark-exposure]" in done.stdout


def test_a_plan_states_the_overscan_and_ends_with_what_is_missing(cg16m_night, tmp_path):
    config = tmp_path / "never.toml"
    config.write_text(cg16m_night.config.read_text() + '\n[dark]\nscale = "never"\n')
    done = flatcal("plan", cg16m_night.raw, "-c", config)
    assert done.returncode == 3
    assert "columns 1025 to 1037 are nowhere near the bias level" in done.stdout
    lines = done.stdout.splitlines()
    title = lines.index("cannot be calibrated, and what would cure it:")
    assert lines[title - 2] == "33 frames: 21 into masters, 0 to calibrate, 12 refused"
    flats, science = lines[title + 1], lines[-1]
    assert flats.endswith("take darks of 1 s, or set dark.scale = 'auto' [dark-exposure]")
    assert science.startswith("  science-032.fits, science-033.fits: ")
    assert "see the flats, or set science.flat_required = false" in science


def test_a_frame_that_is_not_there_is_said_so(cg16m_night):
    done = flatcal("plan", cg16m_night.raw, "--explain", "flat-999.fits")
    refusal(done, "plan-file", 2)


def test_a_saved_plan_is_run_as_it_is(night, tmp_path):
    raw, config, saved = night
    flatcal("run", raw, tmp_path / "direct", "-c", config)
    done = flatcal("run", raw, tmp_path / "out", "--plan", saved)
    assert done.returncode == 0
    for name in ("plan.json", "flats/flat-025.fits", "masters/master_flat_r.fits"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "direct" / name).read_bytes()
    assert load_plan(tmp_path / "out" / "plan.json") == load_plan(saved)


@pytest.mark.parametrize("change", ["touched", "gone"])
def test_a_plan_whose_inputs_have_changed_is_refused(night, tmp_path, change):
    raw, _, saved = night
    if change == "touched":
        os.utime(raw / "flat-025.fits", ns=(1, 1))
    else:
        (raw / "flat-025.fits").unlink()
    done = flatcal("run", raw, tmp_path / "out", "--plan", saved)
    assert "flat-025.fits changed since" in refusal(done, "plan-file", 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", "{}", '{"schema_version": 99}'])
def test_what_is_no_plan_is_refused(night, tmp_path, content):
    raw, _, saved = night
    saved.write_text(content)
    refusal(flatcal("run", raw, tmp_path / "out", "--plan", saved), "plan-file", 2)


def test_a_saved_plan_of_another_folder_and_with_other_settings_is_refused(night, tmp_path):
    raw, config, saved = night
    shutil.copytree(raw, tmp_path / "other")
    done = flatcal("run", tmp_path / "other", tmp_path / "out", "--plan", saved)
    assert str(raw) in refusal(done, "plan-file", 2)
    done = flatcal("run", raw, tmp_path / "out", "--plan", saved, "-c", config)
    refusal(done, "plan-file", 2)


def test_what_json_holds_is_the_schema_that_is_documented(night):
    _, _, saved = night
    assert json.loads(saved.read_text())["schema_version"] == 1
