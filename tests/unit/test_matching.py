"""Which dark, bias and flat serve a frame, and what is said when none does."""

from dataclasses import replace

import pytest

from flatcal.frame import Amplifier, Caveat, Detector, Frame, Geometry, Kind, Setup
from flatcal.matching import (
    DarkChoice,
    choose_bias,
    choose_dark,
    choose_flat,
    explain_darks,
    group_bias,
    group_darks,
    group_flats,
)
from flatcal.recipe import DarkSettings

SETUP = Setup("camera", (100, 120), (1, 1), "", "", "adu")
NOTHING = Detector(None, None, None)
WHOLE = Geometry((Amplifier(None, None, NOTHING),), "median", "")
CUT = Geometry((Amplifier((slice(0, 50), slice(0, 120)), None, NOTHING),), "median", "")
DEFAULTS = DarkSettings()


def frame(kind, exposure, name="x", temperature=-10.0, geometry=WHOLE, filter="r", **setup):  # noqa: A002
    return Frame(
        file=f"{name}.fits",
        kind=Kind(kind),
        exposure_time_s=exposure,
        set_temperature_c=temperature,
        filter=filter,
        setup=replace(SETUP, **setup),
        geometry=geometry,
    )


def darks(*exposures, n=3, **kwargs):
    return [
        frame("dark", exposure, f"d{exposure}-{i}", **kwargs)
        for exposure in exposures
        for i in range(n)
    ]


def choose(target, dark_frames, bias_frames=None, **settings):
    settings = DarkSettings(**settings)
    if bias_frames is None:
        bias_frames = [frame("bias", 0.0, "b")]
    bias = choose_bias(target, group_bias(bias_frames, settings), settings)
    return choose_dark(target, group_darks(dark_frames, settings), bias, settings)


def flat(exposure, **kwargs):
    return frame("flat", exposure, "f", **kwargs)


# -- a dark that is long enough ----------------------------------------------------------


def test_an_equal_dark_is_not_scaled():
    choice = choose(flat(60.0), darks(60.0))
    assert (choice.scaled, choice.scale, choice.caveats) == (False, 1.0, ())
    assert choice.dark.exposure_time_s == 60.0


@pytest.mark.parametrize(
    ("exposure", "dark", "tolerance"),
    [(7.0, 7.5, 0.5), (7.5, 7.0, 0.5), (1.0, 1.1, 0.1), (1.1, 1.0, 0.1), (70.1, 70.4, 0.3)],
)
def test_a_dark_at_the_very_tolerance_is_within_it(exposure, dark, tolerance):
    """As a person reads the numbers: 1.1 - 1.0 is 0.1, whatever binary fractions say."""
    choice = choose(flat(exposure), darks(dark), [], tolerance_s=tolerance)
    assert isinstance(choice, DarkChoice)
    assert not choice.scaled


@pytest.mark.parametrize(("exposure", "dark"), [(7.0, 7.501), (7.501, 7.0)])
def test_a_dark_beyond_the_tolerance_is_not_within_it(exposure, dark):
    assert isinstance(choose(flat(exposure), darks(dark), []), Caveat)


def test_no_tolerance_still_takes_an_equal_dark():
    assert not choose(flat(7.0), darks(7.0), tolerance_s=0).scaled
    assert choose(flat(7.0), darks(7.001), tolerance_s=0).scaled


@pytest.mark.parametrize(("exposure", "nearest"), [(9.9, 10.0), (10.4, 10.0), (10.6, 11.0)])
def test_the_nearest_of_several_is_taken(exposure, nearest):
    choice = choose(flat(exposure), darks(11.0, 10.0, 12.0, 300.0), tolerance_s=1.0)
    assert choice.dark.exposure_time_s == nearest
    assert not choice.scaled


def test_the_reason_names_both_times_and_the_tolerance():
    reason = choose(flat(70.001), darks(70.0)).reason
    assert all(word in reason for word in ("70 s", "70.001 s", "0.5 s", "not scaled"))


# -- a dark that is scaled ---------------------------------------------------------------


def test_the_longest_dark_is_scaled_down():
    choice = choose(flat(1.02), darks(30.0, 90.0, 10.0))
    assert choice.scaled
    assert choice.dark.exposure_time_s == 90.0
    assert choice.scale == pytest.approx(1.02 / 90, rel=1e-12)
    assert choice.caveats == ()


def test_three_darks_are_preferred_to_a_longer_single_one():
    choice = choose(flat(1.0), [*darks(60.0), *darks(300.0, n=2), *darks(150.0, n=1)])
    assert choice.dark.exposure_time_s == 60.0
    assert choice.caveats == ()


def test_three_darks_that_are_shorter_than_the_frame_are_no_reason_to_scale_up():
    choice = choose(flat(100.0), [*darks(60.0), *darks(300.0, n=1)])
    assert choice.dark.exposure_time_s == 300.0
    assert choice.scale == pytest.approx(1 / 3)


@pytest.mark.parametrize("n", [1, 2])
def test_where_all_have_few_frames_the_longest_is_scaled_with_a_caveat(n):
    choice = choose(flat(1.0), darks(60.0, 300.0, n=n))
    assert choice.dark.exposure_time_s == 300.0
    assert [c.slug for c in choice.caveats] == ["single-dark"]
    assert f"has {n} frame" in choice.caveats[0].text


def test_a_single_dark_that_is_not_scaled_has_the_caveat_too():
    choice = choose(flat(60.0), [*darks(60.0, n=1), *darks(300.0)])
    assert choice.dark.exposure_time_s == 60.0
    assert [c.slug for c in choice.caveats] == ["single-dark"]


# -- refusals ----------------------------------------------------------------------------


def test_without_a_bias_nothing_is_scaled_and_the_refusal_says_all():
    refusal = choose(flat(23.0), darks(90.0, 300.0), [])
    assert refusal.slug == "dark-exposure"
    for word in ("90 s", "23 s", "67 s", "tolerance 0.5 s", "no bias", "darks of 23 s", "300 s"):
        assert word in refusal.text
    assert "dark.tolerance_s" not in refusal.text  # 67 s is beyond any tolerance


def test_a_refusal_lists_the_nearest_candidates_and_what_is_against_each():
    others = [*darks(30.0), *darks(25.0, temperature=-5.0), *darks(60.0, 90.0, 120.0)]
    text = choose(flat(23.0), others, []).text
    assert "dark exposure 30 s is 7 s from the flat's 23 s" in text
    told = "nor do others serve: 25 s (set to -5 C, not -10 C), 60 s (37 s off), 90 s (67 s off), "
    assert f"{told}120 s (97 s off); take bias frames or darks of 23 s" in text


def test_where_all_darks_have_few_frames_the_shorter_are_not_refused_for_that():
    target, groups = flat(23.0), group_darks(darks(30.0, 300.0, n=1), DEFAULTS)
    choice = choose(target, darks(30.0, 300.0, n=1))
    taken = next(group for group in groups if group.exposure_time_s == 300.0)
    shorter, longest = explain_darks(target, groups, replace(choice, dark=taken), DEFAULTS)
    assert shorter == (
        "dark of 30 s (1 frame, -10 C): shorter than the one taken, so that it brings more noise"
    )
    assert longest.endswith(": taken")


def test_a_wider_tolerance_is_offered_for_a_small_difference():
    assert "dark.tolerance_s" in choose(flat(85.0), darks(90.0), []).text


def test_an_unscaled_dark_of_quite_another_length_is_a_caveat():
    choice = choose(flat(0.3), darks(300.0), [], tolerance_s=300.0)
    assert not choice.scaled
    assert [caveat.slug for caveat in choice.caveats] == ["dark-exposure"]


def test_a_dark_of_another_sensor_temperature_is_a_caveat_without_a_set_temperature():
    warm = [replace(dark, sensor_temperature_c=15.0) for dark in darks(60.0, temperature=None)]
    for here, slugs in ((-10.0, ["temperature-unchecked"]), (13.0, [])):
        target = replace(flat(60.0, temperature=None), sensor_temperature_c=here)
        assert [caveat.slug for caveat in choose(target, warm).caveats] == slugs


def test_scaling_can_be_forbidden():
    refusal = choose(flat(23.0), darks(90.0), scale="never")
    assert refusal.slug == "dark-exposure"
    assert "dark.scale is never" in refusal.text
    assert "bias" not in refusal.text  # there is one, and it would not help
    assert not choose(flat(90.2), darks(90.0), scale="never").scaled


def test_scaling_up_is_forbidden_unless_asked_for():
    refusal = choose(flat(300.0), darks(90.0))
    assert refusal.slug == "dark-exposure"
    assert "set dark.scale_up = true" in refusal.text


def test_scaling_up_takes_the_longest_and_is_a_caveat():
    choice = choose(flat(300.0), darks(30.0, 90.0), scale_up=True)
    assert choice.dark.exposure_time_s == 90.0
    assert choice.scale == pytest.approx(300 / 90)
    assert [c.slug for c in choice.caveats] == ["dark-exposure"]


def test_scaling_down_is_preferred_where_scaling_up_is_allowed():
    choice = choose(flat(60.0), darks(50.0, 90.0), scale_up=True)
    assert choice.dark.exposure_time_s == 90.0
    assert choice.caveats == ()


def test_a_dark_of_no_time_can_not_be_scaled():
    """A rule may call a frame of 0 s a dark; there is no current in it to scale."""
    refusal = choose(flat(60.0), darks(0.0), scale_up=True)
    assert isinstance(refusal, Caveat)
    assert refusal.slug == "dark-exposure"


def test_a_frame_of_no_time_scales_the_dark_to_nothing():
    choice = choose(frame("science", 0.0), darks(60.0))
    assert (choice.scaled, choice.scale) == (True, 0.0)


def test_no_darks_at_all():
    refusal = choose(flat(1.0), [])
    assert refusal.slug == "no-dark"
    assert "there are no darks" in refusal.text


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"camera": "other"}, ("camera other is not camera",)),
        ({"shape": (50, 60)}, ("shape 50 x 60 is not 100 x 120",)),
        ({"binning": (2, 2)}, ("binning 2 x 2 is not 1 x 1",)),
        ({"readout_mode": "fast"}, ("readout mode fast",)),
        ({"gain_setting": "4"}, ("gain setting 4",)),
        ({"gain_setting": "4"}, ("gain setting 4 is not unknown",)),
        ({"unit": "electron"}, ("unit electron is not adu",)),
        ({"pedestal_adu": -100.0}, ("pedestal -100 is not 0",)),
        ({"temperature": -5.0}, ("set to -5 C, not -10 C",)),
        ({"temperature": None}, ("no temperature", "-10 C")),
        ({"geometry": CUT}, ("section",)),
    ],
)
def test_a_dark_of_another_kind_is_refused_with_the_reason(difference, words):
    refusal = choose(flat(60.0), darks(60.0, **difference))
    assert refusal.slug == "no-dark"
    assert "60 s" in refusal.text
    for word in words:
        assert word in refusal.text


def test_a_refusal_names_each_candidate_with_its_own_reason():
    candidates = [*darks(60.0, temperature=-5.0), *darks(90.0, binning=(2, 2))]
    text = choose(flat(60.0), candidates).text
    assert "60 s (set to -5 C, not -10 C)" in text
    assert text.endswith("; take darks set to -10 C, or set dark.required = false")
    assert "90 s (binning" in text
    assert text.index("60 s (") < text.index("90 s (")


def test_a_worse_exposure_of_the_right_temperature_is_taken():
    choice = choose(flat(60.0), [*darks(60.0, temperature=0.0), *darks(90.0)])
    assert choice.dark.exposure_time_s == 90.0
    assert choice.scaled


@pytest.mark.parametrize(("other", "fits"), [(-10.5, True), (-9.5, True), (-10.51, False)])
def test_set_temperatures_agree_within_their_tolerance(other, fits):
    choice = choose(flat(60.0), darks(60.0, temperature=other))
    assert isinstance(choice, DarkChoice) is fits


@pytest.mark.parametrize(("a", "b"), [(-0.3, -0.2), (-20.1, -20.2), (-5.7, -5.8)])
def test_set_temperatures_at_the_very_tolerance_agree(a, b):
    choice = choose(
        flat(60.0, temperature=a), darks(60.0, temperature=b), [], temperature_tolerance_c=0.1
    )
    assert isinstance(choice, DarkChoice)


def test_of_darks_and_biases_within_the_tolerance_the_nearest_in_temperature_is_taken():
    for wanted in (-10.0, -9.6):
        target = flat(60.0, temperature=wanted)
        frames = [*darks(60.0, temperature=-10.0), *darks(60.0, temperature=-9.6)]
        frames = [replace(f, file=f"{i}.fits") for i, f in enumerate(frames)]
        settings = DarkSettings(temperature_tolerance_c=0.4)
        groups = group_darks(frames, DarkSettings(temperature_tolerance_c=0.1))
        choice = choose_dark(target, groups, None, settings)
        assert choice.dark.first.set_temperature_c == wanted
        other = next(g for g in groups if g is not choice.dark)
        story = explain_darks(target, groups, choice, settings)
        (line,) = (text for text in story if not text.endswith(": taken"))
        assert line.endswith("as long as the one taken, which is nearer in set temperature")
        assert f"{other.first.set_temperature_c:g} C" in line
        biases = [frame("bias", 0.0, "a", -10.0), frame("bias", 0.0, "b", -9.6)]
        chosen = choose_bias(
            target, group_bias(biases, DarkSettings(temperature_tolerance_c=0.1)), settings
        )
        assert chosen.first.set_temperature_c == wanted


def test_headers_without_temperature_agree():
    assert isinstance(
        choose(flat(60.0, temperature=None), darks(60.0, temperature=None), []), DarkChoice
    )


def test_a_bias_of_another_temperature_does_not_allow_scaling():
    refusal = choose(flat(1.0), darks(60.0), [frame("bias", 0.0, "b", temperature=-5.0)])
    assert isinstance(refusal, Caveat)
    assert "no bias" in refusal.text


# -- groups ------------------------------------------------------------------------------


def times(groups):
    return [sorted(f.exposure_time_s for f in group.frames) for group in groups]


@pytest.mark.parametrize(
    ("exposures", "expected"),
    [
        ((60.0, 60.001, 60.3), [[60.0, 60.001, 60.3]]),
        ((60.0, 60.6), [[60.0], [60.6]]),
        ((10.0, 10.1), [[10.0, 10.1]]),
        ((10.0, 10.2), [[10.0], [10.2]]),
        ((0.005, 0.01), [[0.005], [0.01]]),
        ((0.01, 0.0100001), [[0.01, 0.0100001]]),
        ((300.0, 300.4, 300.6), [[300.0, 300.4], [300.6]]),
        ((300.6, 300.0, 300.4), [[300.0, 300.4], [300.6]]),
    ],
)
def test_darks_within_a_percent_and_the_tolerance_are_one_group(exposures, expected):
    groups = group_darks(darks(*exposures, n=1), DEFAULTS)
    assert times(groups) == expected


def test_the_exposure_time_of_a_group_is_the_mean():
    (group,) = group_darks(darks(60.0, 60.2, n=1), DEFAULTS)
    assert group.exposure_time_s == pytest.approx(60.1)


@pytest.mark.parametrize(
    "difference",
    [
        {"temperature": -5.0},
        {"binning": (2, 2)},
        {"camera": "other"},
        {"gain_setting": "4"},
        {"pedestal_adu": -100.0},
    ],
)
@pytest.mark.parametrize("kind", ["bias", "dark"])
def test_frames_of_another_kind_are_a_group_apart(kind, difference):
    frames = [frame(kind, 10.0, "a"), frame(kind, 10.0, "b", **difference)]
    group = group_bias if kind == "bias" else group_darks
    assert len(group(frames, DEFAULTS)) == 2
    assert len(group([frames[0], frame(kind, 10.0, "b")], DEFAULTS)) == 1


def test_frames_of_a_group_are_in_the_order_of_their_files():
    (group,) = group_bias([frame("bias", 0.0, name) for name in "cab"], DEFAULTS)
    assert [f.file for f in group.frames] == ["a.fits", "b.fits", "c.fits"]


def test_flats_are_grouped_by_filter_whatever_their_exposure_and_temperature():
    frames = [
        frame("flat", 1.0, "a", filter="r"),
        frame("flat", 9.0, "b", filter="r", temperature=0.0),
        frame("flat", 1.0, "c", filter="g"),
        frame("flat", 1.0, "d", filter="R"),
        frame("flat", 1.0, "e", filter="r", binning=(2, 2)),
    ]
    groups = group_flats(frames)
    assert [[f.file[0] for f in group.frames] for group in groups] == [
        ["a", "b"],
        ["c"],
        ["d"],
        ["e"],
    ]
    assert choose_flat(frame("science", 5.0, "s", filter="g"), groups) is groups[1]
    assert choose_flat(frame("science", 5.0, "s", filter="B"), groups) is None
    assert choose_flat(frame("science", 5.0, "s", binning=(2, 2)), groups) is groups[3]
    assert choose_flat(frame("science", 5.0, "s", camera="other"), groups) is None
