"""The configuration: defaults, and every mistake named with its line."""

import pytest
from pydantic import ValidationError

from flatcal.errors import ConfigError
from flatcal.frame import Kind
from flatcal.recipe import Config, load_config, parse_config


def mistakes(text):
    """The lines of the message, without the slug at its end."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "night.toml")
    assert str(caught.value).endswith("[bad-config]")
    return caught.value.text.splitlines()


def test_an_empty_file_gives_the_defaults():
    config = parse_config("", "night.toml")
    assert config == Config()
    assert config.dark.tolerance_s == 0.5
    assert config.dark.temperature_tolerance_c == 0.5
    assert config.dark.scale == "auto"
    assert config.dark.scale_up is False
    assert config.dark.required is None
    assert config.combine.low_sigma == config.combine.high_sigma == 5.0
    assert config.science.flat_required is True
    assert config.kinds == ()
    assert set(config.camera.model_dump().values()) == {None}


def test_every_setting_can_be_said():
    config = parse_config(
        """
        [camera]
        exposure_keyword = ["EXPOSURE", "EXPTIME"]
        exposure_unit = "ms"
        filter_keyword = "FILTNAM"
        overscan_section = "none"
        trim_section = "[1:10,1:10]"
        gain_electron_per_adu = 2
        read_noise_electron = 0
        saturation_adu = 60000.5
        unit = "electron"
        [[kinds]]
        kind = "flat"
        file = "f*"
        header = { OBJECT = "*sky*", N = 3 }
        [dark]
        required = false
        tolerance_s = 0
        scale = "never"
        scale_up = true
        [combine]
        low_sigma = 3.5
        [science]
        flat_required = false
        """,
        "night.toml",
    )
    assert config.camera.exposure_keyword == ("EXPOSURE", "EXPTIME")
    assert config.camera.filter_keyword == ("FILTNAM",)
    assert config.camera.gain_electron_per_adu == 2.0
    assert config.camera.saturation_adu == 60000.5
    assert config.kinds[0].kind is Kind.FLAT
    assert config.kinds[0].header == {"OBJECT": "*sky*", "N": 3}
    assert (config.dark.required, config.dark.tolerance_s) == (False, 0.0)
    assert config.science.flat_required is False


def test_all_mistakes_are_told_at_once_each_with_its_line():
    found = mistakes(
        "[drak]\n"  # 1
        "tolerance_s = 1\n"
        "\n"
        "[dark]\n"
        "tolerence_s = 1\n"  # 5
        "tolerance_s = -1\n"  # 6
        "scale = 'sometimes'\n"  # 7
        "\n"
        "[[kinds]]\n"
        "kind = 'flat'\n"
        "file = 'f*'\n"
        "# a comment = 3\n"
        "[[kinds]]\n"
        "kind = 'light'\n"  # 14
        "file = 'x*'\n"
        "[camera]\n"
        "gain_electron_per_adu = 'two'\n"  # 17
    )
    lines = sorted(int(line.split(":")[1]) for line in found)
    assert lines == [1, 5, 6, 7, 14, 17]
    assert all(line.startswith("night.toml:") for line in found)


@pytest.mark.parametrize(
    ("text", "line", "meant"),
    [
        ("[drak]\n", 1, "dark"),
        ("\n[dark]\ntolerence_s = 1\n", 3, "tolerance_s"),
        ("[dark]\n'tolerence_s' = 1\n", 2, "tolerance_s"),
        ("[camera]\ngain_electrons_per_adu = 1\n", 2, "gain_electron_per_adu"),
        ("[camera]\n[camera.x]\n", 2, None),
        ("[[kinds]]\nkind = 'flat'\n[[kinds]]\nkind = 'dark'\nfiel = 'x'\n", 5, "file"),
        ("dark = { tolerence_s = 1 }\n", 1, "tolerance_s"),
        ("dark.tolerence_s = 1\n", 1, "tolerance_s"),
        ("[ dark ]\nscale_upp = true\n", 2, "scale_up"),
    ],
)
def test_a_misspelt_name_is_told_with_what_was_meant(text, line, meant):
    (found,) = mistakes(text)
    assert found.startswith(f"night.toml:{line}: ")
    assert "is not a setting" in found
    if meant:
        assert found.endswith(f"did you mean {meant}?")
    else:
        assert "known here: exposure_keyword, " in found


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("dark = 5", 1),
        ("[dark]\ntolerance_s = -0.1", 2),
        ("[dark]\ntolerance_s = nan", 2),
        ("[dark]\ntolerance_s = inf", 2),
        ("[camera]\nsaturation_adu = inf", 2),
        ('[dark]\ntolerance_s = "0.5"', 2),
        ("[camera]\ngain_electron_per_adu = true", 2),
        ('[science]\nflat_required = "no"', 2),
        ("[dark]\ntolerance_s = [1]", 2),
        ("[dark]\n\ntemperature_tolerance_c = -1", 3),
        ("[dark]\nscale = true", 2),
        ("[dark]\nscale_up = 'perhaps'", 2),
        ("[combine]\nlow_sigma = 0", 2),
        ("[camera]\ngain_electron_per_adu = 0", 2),
        ("[camera]\nread_noise_electron = -1", 2),
        ("[camera]\nsaturation_adu = -5", 2),
        ("[camera]\nunit = 'Jy'", 2),
        ("[camera]\noverscan_section = 5", 2),
        ("[camera]\nexposure_unit = 'min'", 2),
        ("[camera]\nexposure_keyword = 3", 2),
        ("[science]\nflat_required = 7", 2),
        ("\nkinds = 'flat'", 2),
        ("\n[kinds]\nflat = 'f*'", 2),
        ("\n[[kinds]]\nfile = 'f*'", 2),
        ("[[kinds]]\nkind = 'flats'\nfile = 'f*'", 2),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(text, line):
    (found,) = mistakes(text)
    assert found.startswith(f"night.toml:{line}: ")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[dark\n[camera]\n", "line 1"),
        ("[dark]\ntolerance_s = 0,5\n", "line 2"),
        ("x = 1\nx = 2\ny = 3", "line 2"),
        ("[dark", "end of document"),
    ],
)
def test_what_is_not_toml_is_told_with_file_and_place(text, where):
    (found,) = mistakes(text)
    assert found.startswith("night.toml: not valid TOML: ")
    assert where in found


def test_a_file_that_cannot_be_read_is_a_mistake_of_the_configuration(tmp_path):
    latin1 = tmp_path / "latin1.toml"
    latin1.write_bytes("# é\n".encode("latin-1"))
    for path in (tmp_path / "absent.toml", tmp_path, latin1):
        with pytest.raises(ConfigError, match=path.name) as caught:
            load_config(path)
        assert caught.value.slug == "bad-config"


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000,
        "a = " + "9" * 5000,
        "[dark]\ntolerance_s = 0x" + "f" * 5000,
        '[camera]\nbad_pixel_mask = "a\\u0000b"',
        '[camera]\nlinearity_table = "a\\u0000b"',
    ],
)
def test_what_python_does_not_take_is_a_mistake_of_the_configuration(tmp_path, text):
    path = tmp_path / "night.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=path.name) as caught:
        load_config(path)
    assert caught.value.slug == "bad-config"
    assert len(str(caught.value)) < 300


def test_a_file_is_read_and_named(tmp_path):
    path = tmp_path / "night.toml"
    path.write_text("[dark]\nscale_up = true\n")
    assert load_config(str(path)).dark.scale_up
    path.write_text("[dark]\nscale_pu = true\n")
    with pytest.raises(ConfigError, match=rf"{path}:2: dark\.scale_pu"):
        load_config(path)


def test_settings_are_frozen():
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.dark.scale = "never"
    with pytest.raises(ValidationError, match="frozen"):
        config.kinds = ()


def test_kind_rules_of_the_command_line_come_first_and_leave_the_rest():
    config = parse_config("[[kinds]]\nkind = 'dark'\nfile = 'd*'\n", "night.toml")
    both = config.with_kinds(["flat=flat-*", "science=a=b.fits"])
    assert [(rule.kind.value, rule.file) for rule in both.kinds] == [
        ("flat", "flat-*"),
        ("science", "a=b.fits"),
        ("dark", "d*"),
    ]
    assert len(config.kinds) == 1


@pytest.mark.parametrize("rule", ["flat", "flat=", "=x", "light=x*", "Flat=x", "flat:x", ""])
def test_a_bad_kind_rule_is_refused_with_an_example(rule):
    with pytest.raises(ConfigError, match="KIND=PATTERN") as caught:
        Config().with_kinds([rule])
    assert repr(rule) in str(caught.value)
    assert "bias, dark, flat, science" in str(caught.value)


def test_a_rule_fits_the_path_or_the_last_part_and_all_its_cards():
    (rule,) = Config().with_kinds(["flat=flat-*"]).kinds
    assert rule.matches("flat-1.fits", {})
    assert rule.matches("a/b/flat-1.fits", {})
    assert not rule.matches("a/Flat-1.fits", {})
    config = parse_config(
        "[[kinds]]\nkind = 'flat'\nfile = 'f*'\nheader = { OBJECT = '*sky*', N = 3 }\n", "n"
    )
    (rule,) = config.kinds
    assert rule.matches("f", {"OBJECT": "Twilight SKY 1", "N": 3.0})
    assert not rule.matches("f", {"OBJECT": "Twilight SKY 1", "N": 4})
    assert not rule.matches("f", {"OBJECT": "Twilight SKY 1"})
    assert not rule.matches("g", {"OBJECT": "Twilight SKY 1", "N": 3})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("n_low = 2", 'n_low has no effect with reject = "noise"; leave it out, or set reject'),
        ('reject = "sigma"\nn_high = 0', 'or set reject = "minmax"'),
        ('reject = "none"\nlow_sigma = 3.0', '"noise" or "sigma" or "winsorised"'),
        ('reject = "winsorised"\nspread = "std"', 'or set reject = "sigma"'),
        ("iterations = 3", '"sigma" or "winsorised"'),
        ('method = "median"\nweights = "inverse_variance"', 'or set method = "average"'),
        ('reject = "minmax"\nn_low = 0\nn_high = 0', "nothing is rejected"),
        ("low_threshold_adu = 5.0\nhigh_threshold_adu = 5.0", "5 is not below"),
    ],
)
def test_settings_of_combining_that_do_not_go_together_are_told(text, told):
    (line,) = mistakes(f"\n[combine]\n{text}")
    assert line.startswith("night.toml:2: combine: ")
    assert told in line
