"""Facts from headers: every oddity is told, no file is dropped, no exception escapes."""

import gzip
import os
import threading

import numpy as np
import pytest
from astropy.io import fits

from flatcal.errors import FrameError
from flatcal.frame import Kind
from flatcal.geometry import overscan_candidates
from flatcal.index import find_frames
from flatcal.recipe import Config, parse_config
from flatcal.section import format_section


@pytest.fixture
def look(tmp_path, put_frame):
    """Write one frame with some cards and return what is found out about it."""

    def write_and_look(name="x.fits", config=None, **cards):
        put_frame(tmp_path / name, **{"imagetyp": "FLAT", "exposure": 2.0, **cards})
        (frame,) = find_frames(tmp_path, config or Config())
        return frame

    return write_and_look


def slugs(notes):
    return [note.slug for note in notes]


def patch_card(path, keyword, text):
    """Replace a card by text that astropy would not write."""
    content = bytearray(path.read_bytes())
    place = content.index(f"{keyword:<8}=".encode())
    assert place % 80 == 0
    content[place : place + 80] = f"{keyword:<8}= {text}".ljust(80).encode("latin-1")
    path.write_bytes(content)
    return path


# -- kind --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spelling", "kind"),
    [
        ("bias", "bias"),
        ("Bias Frame", "bias"),
        ("BIAS", "bias"),
        ("zero", "bias"),
        ("Zero Frame", "bias"),
        ("offset", "bias"),
        ("Dark Frame", "dark"),
        ("DARK", "dark"),
        ("Flat Field", "flat"),
        ("FLATFIELD", "flat"),
        ("Flat Frame", "flat"),
        ("SKYFLAT", "flat"),
        ("SKY-FLAT", "flat"),
        ("sky flat", "flat"),
        ("LAMPFLAT", "flat"),
        ("domeflat", "flat"),
        ("Dome_Flat", "flat"),
        ("Twilight Flat", "flat"),
        ("Light Frame", "science"),
        ("LIGHT", "science"),
        ("OBJECT", "science"),
        ("object  ", "science"),
        ("EXPOSE", "science"),
    ],
)
def test_kinds_in_the_spellings_of_the_field(look, spelling, kind):
    frame = look(imagetyp=spelling)
    assert frame.kind.value == kind
    assert frame.errors == ()
    assert frame.kind_reason == f"IMAGETYP = {spelling.strip()}"


@pytest.mark.parametrize("keyword", ["OBSTYPE", "FRAMETYP"])
def test_kind_under_other_keywords(look, keyword):
    frame = look(imagetyp=None, **{keyword: "Flat"})
    assert frame.kind is Kind.FLAT
    assert frame.kind_reason == f"{keyword} = Flat"


def test_a_word_that_is_no_kind_is_passed_over_for_the_next_keyword(look):
    assert look(imagetyp="Tricolour", OBSTYPE="DARK").kind is Kind.DARK


@pytest.mark.parametrize("keyword", ["FRAME", "ESO_DPR_TYPE"])
def test_kind_under_keywords_of_indi_and_eso(tmp_path, keyword):
    header = fits.Header({f"HIERARCH {keyword.replace('_', ' ')}": "DARK", "EXPTIME": 2.0})
    fits.PrimaryHDU(IMAGE, header).writeto(tmp_path / "x.fits")
    assert only(tmp_path).kind is Kind.DARK


def test_a_frame_of_coordinates_is_no_kind(look):
    """FRAME = 'FK5' stands for what RADESYS is today."""
    assert look(FRAME="FK5").kind is Kind.FLAT


@pytest.mark.parametrize("imagetyp", [None, "", "comparison", 7, "biased", "UNKNOWN"])
def test_a_kind_that_nothing_tells_is_an_error_not_a_guess(look, imagetyp):
    frame = look(imagetyp=imagetyp)
    assert frame.kind is None
    assert slugs(frame.errors) == ["kind-unknown"]
    assert "--kind" in frame.errors[0].text


@pytest.mark.parametrize("name", ["flat-1.fits", "flats/x.fits", "x.fits"])
@pytest.mark.parametrize("imagetyp", ["comparison", "focus", "Tricolor Image"])
def test_a_kind_that_flatcal_has_not_is_no_other_one(look, name, imagetyp):
    """Reason: the header says what it is; a name such as flat-1 would make a wrong flat of it."""
    frame = look(name, imagetyp=imagetyp, OBJECT="flat")
    assert frame.kind is None
    assert slugs(frame.errors) == ["kind-unknown"]
    assert f"IMAGETYP = {imagetyp!r}" in frame.errors[0].text


@pytest.mark.parametrize(
    ("imagetyp", "title", "kind"),
    [
        ("OBJECT", "sky flat", "flat"),
        ("object", "Twilight Flat 3", "flat"),
        ("OBJECT", "dflat", "flat"),
        ("OBJECT", "dome flat V", "flat"),
        ("OBJECT", "flat_r_01", "flat"),
        ("EXPOSE", "bias", "bias"),
        ("OBJECT", "dark 300s", "dark"),
        ("OBJECT", "dark flat", "dark"),
        (None, "Bias frame 12", "bias"),
        ("unknown", "zero", "bias"),
        (None, "skyflat", "flat"),
    ],
)
def test_object_tells_the_kind_where_the_header_says_no_more_than_open_shutter(
    look, imagetyp, title, kind
):
    """Reason: at many telescopes only the title, typed by the observer, tells flats apart."""
    frame = look(imagetyp=imagetyp, OBJECT=title, exposure=1.0)
    assert frame.kind is Kind(kind)
    assert frame.kind_reason == f"OBJECT = {title}"
    (hint,) = (c for c in frame.caveats if c.slug == "kind-hint")
    assert f'header = {{ OBJECT = "{title}" }}' in hint.text


@pytest.mark.parametrize(
    "title",
    ["Dark nebula B33", "M33 dark", "Flatiron", "zero point field", "flat dark bias", "M31", "", 7]
    + ["offset star", "bias and flat", "darkest", "None"],
)
def test_a_title_that_speaks_of_more_than_a_kind_tells_none(look, title):
    """Reason: a dark nebula is science."""
    frame = look(imagetyp="OBJECT", OBJECT=title)
    assert frame.kind is Kind.SCIENCE
    assert "kind-hint" not in slugs(frame.caveats)


@pytest.mark.parametrize("imagetyp", ["Light Frame", "SCIENCE"])
def test_a_title_against_a_program_that_says_light_is_a_caveat(look, imagetyp):
    """Reason: titles are left standing from the frames before; programs set the type each time."""
    frame = look(imagetyp=imagetyp, OBJECT="sky flat")
    assert frame.kind is Kind.SCIENCE
    (hint,) = (c for c in frame.caveats if c.slug == "kind-hint")
    assert "OBJECT = sky flat speaks of a flat" in hint.text


def test_a_dark_of_no_time_that_is_called_bias_agrees(look):
    """Lick Observatory has no type for a bias."""
    frame = look(imagetyp=None, OBSTYPE="DARK", exposure=0.0, OBJECT="bias")
    assert (frame.kind, frame.kind_reason) == (Kind.BIAS, "OBSTYPE = DARK of 0 s")
    assert "kind-hint" not in slugs(frame.caveats)


@pytest.mark.parametrize(
    ("name", "kind", "pattern"),
    [
        ("bias_1.fits", "bias", "*bias*"),
        ("flats01.fits", "flat", "*flat*"),
        ("Dark_ASIImg_10sec_frame0001.fit", "dark", "*Dark*"),
        ("IC310_1.fits", "science", "*IC310*"),
        ("m31-V-001.fits", "science", "*m31*"),
        ("NGC 7000_L_3.fits", "science", "*NGC 7000*"),
        ("Light_Veil_001.fits", "science", "*Light*"),
        ("darks/300s/x1.fits", "dark", "*darks/*"),
        ("2024-05-13/flats V/x1.fits", "flat", "*flats V/*"),
        ("Lights/x1.fits", "science", "*Lights/*"),
        ("flats/flat_1.fits", "flat", "*flat*"),
    ],
)
def test_names_tell_the_kind_where_the_header_is_silent(look, tmp_path, name, kind, pattern):
    """Reason: hard/string-exptime has no other sign. Each carries a caveat, and its own cure."""
    frame = look(name, imagetyp=None, exposure=1.0)
    assert frame.kind is Kind(kind)
    assert frame.kind_reason.startswith(("file name ", "folder "))
    (hint,) = (c for c in frame.caveats if c.slug == "kind-hint")
    assert f"--kind '{kind}={pattern}'" in hint.text
    (again,) = find_frames(tmp_path, Config().with_kinds([f"{kind}={pattern}"]))
    assert again.kind is Kind(kind)
    assert "kind-hint" not in slugs(again.caveats)


@pytest.mark.parametrize(
    "name",
    ["flats/dark_1.fits", "flat_dark_1.fits", "M31_flat.fits", "master_flat_V.fits"]
    + ["flat-stacked.fits", "flat_mean.fits", "dark_sub_1.fits", "M31_calibrated.fits"]
    + [
        "dark-subtracted-in-camera/x.fits",
        "d1001.fits",
        "m0001.fits",
        "coj2m002.fits",
        "lat30.fits",
    ]
    + ["twilight.fits", "biased/x.fits", "superflat.fits", "raw/2024/x.fits"],
)
def test_names_that_speak_of_two_kinds_or_of_work_tell_none(look, name):
    """Reason: what is not sure must be said by the observer."""
    frame = look(name, imagetyp=None)
    assert frame.kind is None
    assert slugs(frame.errors) == ["kind-unknown"]


def test_a_dark_of_no_time_by_its_name_is_a_bias(look):
    frame = look("dark_1.fits", imagetyp=None, exposure=0.0)
    assert frame.kind is Kind.BIAS
    (hint,) = (c for c in frame.caveats if c.slug == "kind-hint" and "alone" in c.text)
    assert "--kind 'bias=*dark*'" in hint.text


@pytest.mark.parametrize(
    "imagetyp",
    ["Master Dark", "masterFlat", "MASTER_LIGHT", "Master Bias Frame", "Dark master", "Stacked"],
)
def test_masters_are_not_raw_frames(look, tmp_path, imagetyp):
    """Reason: a master among raw frames would count as one of them; rules do not change it."""
    look(imagetyp=imagetyp)
    for config in (Config(), Config().with_kinds(["dark=*"])):
        (frame,) = find_frames(tmp_path, config)
        assert slugs(frame.errors) == ["already-calibrated"]
        assert f"IMAGETYP = {imagetyp!r}" in frame.errors[0].text


def test_a_dark_of_no_time_is_a_bias(look):
    frame = look(imagetyp="DARK", exposure=0.0)
    assert frame.kind is Kind.BIAS
    assert frame.kind_reason == "IMAGETYP = DARK of 0 s"


def test_a_very_short_dark_is_a_dark(look):
    assert look(imagetyp="DARK", exposure=1e-4).kind is Kind.DARK


def test_rules_go_before_the_header(look):
    config = Config().with_kinds(["flat=sky*"])
    frame = look("sky1.fits", config, imagetyp="Light Frame")
    assert frame.kind is Kind.FLAT
    assert frame.kind_reason == "file sky*"


def test_a_rule_of_cards_goes_before_the_header(look):
    config = parse_config("[[kinds]]\nkind='flat'\nheader={OBJECT='*flat*'}", "n")
    assert look(config=config, imagetyp="LIGHT", OBJECT="Twilight Flat 3").kind is Kind.FLAT


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("flat-001.fits", "flat"),
        ("FLATS_V.fits", "flat"),
        ("night_Bias3.fits", "bias"),
        ("darks-expos60s.fits", "dark"),
        ("zero.0001.fits", "bias"),
    ],
)
def test_a_file_name_against_the_header_is_a_caveat_and_the_header_wins(look, name, word):
    frame = look(name, imagetyp="Light Frame")
    assert frame.kind is Kind.SCIENCE
    (hint,) = (c for c in frame.caveats if c.slug == "kind-hint")
    assert f"the file name says {word}" in hint.text
    assert frame.errors == ()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("FLAT-001.fits", "flat"),
        ("zero1.fits", "bias"),
        ("Darks.fits", "dark"),
        ("n_flat.fit", "flat"),
    ],
)
@pytest.mark.parametrize("imagetyp", ["Light Frame", "?"])
def test_the_kind_rule_of_the_hint_does_what_it_says(look, tmp_path, name, kind, imagetyp):
    """Whoever pastes the advice gets what it promises, whatever the case of the name."""
    frame = look(name, imagetyp=imagetyp)
    text = next(n.text for n in (*frame.errors, *frame.caveats) if n.slug.startswith("kind-"))
    rule = text.split("--kind '")[1].split("'")[0]
    (again,) = find_frames(tmp_path, Config().with_kinds([rule]))
    assert again.kind is Kind(kind)


@pytest.mark.parametrize(
    "name", ["biased.fits", "flatland.fits", "m51.fits", "flat_dark.fits", "superflat.fits"]
)
def test_names_that_say_nothing_sure_give_no_hint(look, name):
    assert "kind-hint" not in slugs(look(name, imagetyp="Light Frame").caveats)


def test_the_folder_of_a_file_is_no_hint(look):
    assert "kind-hint" not in slugs(look("flats/m51.fits", imagetyp="Light Frame").caveats)


# -- exposure time -----------------------------------------------------------------------


@pytest.mark.parametrize("imagetyp", ["DARK", "FLAT", "LIGHT"])
def test_a_missing_exposure_time_is_an_error_that_names_the_keywords(look, imagetyp):
    frame = look(imagetyp=imagetyp, exposure=None)
    assert slugs(frame.errors) == ["exposure-missing"]
    assert "EXPTIME, EXPOSURE" in frame.errors[0].text
    assert frame.exposure_time_s is None


def test_a_bias_needs_no_exposure_time(look):
    frame = look(imagetyp="BIAS", exposure=None)
    assert frame.errors == ()
    assert frame.exposure_time_s == 0


@pytest.mark.parametrize("keyword", ["EXPOSURE", "ITIME", "EXPOSTIM"])
def test_exposure_times_under_other_keywords(look, keyword):
    assert look(exposure=None, **{keyword: 12.5}).exposure_time_s == 12.5


def test_an_empty_exptime_leaves_the_word_to_exposure(look):
    assert look(exposure="", EXPOSURE=3).exposure_time_s == 3


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2.5", 2.5), (" 60 ", 60.0), ("6,4E-05", 6.4e-5), ("1,5", 1.5), ("1,5D1", 15.0)],
)
def test_an_exposure_time_as_text_is_read_with_a_caveat(look, text, seconds):
    frame = look(exposure=text)
    assert frame.exposure_time_s == pytest.approx(seconds, rel=1e-12)
    assert frame.errors == ()
    (caveat,) = (c for c in frame.caveats if c.slug == "exposure-text")
    assert text.strip() in caveat.text


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "long", "1,000.5", "1:30", "60 s", "True"])
def test_text_that_is_no_exposure_time_is_an_error(look, text):
    frame = look(exposure=text)
    assert slugs(frame.errors) == ["exposure-not-a-number"]
    assert f"EXPTIME = {text!r}" in frame.errors[0].text
    assert frame.exposure_time_s is None


@pytest.mark.parametrize("value", [-0.5, True, False, 3 + 4j])
def test_a_value_that_is_no_exposure_time_is_an_error(look, value):
    assert slugs(look(exposure=value).errors) == ["exposure-not-a-number"]


@pytest.mark.parametrize("imagetyp", ["BIAS", "DARK"])
def test_a_negative_exposure_time_is_no_bias(look, imagetyp):
    assert slugs(look(imagetyp=imagetyp, exposure=-1.0).errors) == ["exposure-not-a-number"]


@pytest.mark.parametrize(
    ("card", "seconds"), [("6,4E-05", 6.4e-5), ("   1,25 / s", 1.25), ("  '  2.0'", 2.0)]
)
def test_cards_that_are_not_valid_fits_are_read_with_a_caveat(tmp_path, put_frame, card, seconds):
    patch_card(put_frame(tmp_path / "x.fits", "FLAT", 1.0), "EXPTIME", card)
    (frame,) = find_frames(tmp_path, Config())
    assert frame.exposure_time_s == pytest.approx(seconds, rel=1e-12)
    assert "exposure-text" in slugs(frame.caveats)


@pytest.mark.parametrize("card", ["nan", "NaN / s", "1e999", "6,4,5", "--", "0x10"])
def test_cards_that_hold_no_number_are_errors(tmp_path, put_frame, card):
    patch_card(put_frame(tmp_path / "x.fits", "FLAT", 1.0), "EXPTIME", card)
    (frame,) = find_frames(tmp_path, Config())
    assert slugs(frame.errors) == ["exposure-not-a-number"]


def test_the_unit_of_exposure_times_can_be_said(look):
    config = parse_config("[camera]\nexposure_unit='ms'\nexposure_keyword='SHUTTER'", "n")
    assert look(config=config, SHUTTER=2500).exposure_time_s == 2.5


# -- unit --------------------------------------------------------------------------------


@pytest.mark.parametrize("bunit", ["ADU", "adu", " Adu ", "counts", "DN", "COUNT"])
def test_adu_in_any_spelling_is_understood(look, bunit):
    frame = look(BUNIT=bunit)
    assert frame.setup.unit == "adu"
    assert not {"bad-unit", "unit-missing"} & set(slugs((*frame.errors, *frame.caveats)))


def test_electron_is_a_unit(look):
    assert look(BUNIT="electron").setup.unit == "electron"


@pytest.mark.parametrize("bunit", [None, "", "  "])
def test_a_missing_unit_is_a_caveat(look, bunit):
    frame = look(BUNIT=bunit)
    assert frame.setup.unit == "adu"
    assert "unit-missing" in slugs(frame.caveats)


@pytest.mark.parametrize("bunit", ["Jy", "ADU/s", "ADUU", "electron/s", 1])
def test_an_unknown_unit_is_an_error(look, bunit):
    frame = look(BUNIT=bunit)
    assert slugs(frame.errors) == ["bad-unit"]
    assert repr(str(bunit)) in frame.errors[0].text


def test_the_configuration_overrules_an_unknown_unit(look):
    frame = look(BUNIT="Jy", config=parse_config("[camera]\nunit='adu'", "n"))
    assert frame.errors == ()


# -- sections: images have 10 rows and 12 columns ----------------------------------------


@pytest.mark.parametrize(
    ("biassec", "expected"),
    [
        ("[11:12,1:10]", (slice(0, 10), slice(10, 12))),
        ("[ 11: 12,   1: 10]", (slice(0, 10), slice(10, 12))),
        ("[11:12,*]", (slice(0, 10), slice(10, 12))),
        ("[11:12, :]", (slice(0, 10), slice(10, 12))),
    ],
)
def test_an_overscan_section_of_the_header_is_used(look, biassec, expected):
    frame = look(BIASSEC=biassec, TRIMSEC="[1:10,1:10]")
    assert frame.geometry.overscan_section == expected
    assert frame.geometry.trim_section == (slice(0, 10), slice(0, 10))
    assert "overscan-unknown" not in slugs(frame.caveats)
    assert biassec.strip() in frame.geometry.reason


@pytest.mark.parametrize(
    "biassec",
    ["[4096:4109]", "UNKNOWN", "[11:14,1:10]", "[11:12,1:12]", "[0:2,1:10]", "[13:14,1:10]"]
    + ["11:12,1:10", "[11.0:12,1:10]", "[-2:-1,1:10]", "[[11:12,1:10]]", "0", "[]", "[0:0,0:0]"],
)
def test_an_overscan_section_that_is_not_one_is_told_and_not_used(look, biassec):
    frame = look(BIASSEC=biassec)
    assert frame.geometry.overscan_section is None
    (caveat,) = (c for c in frame.caveats if c.slug == "overscan-unknown")
    assert biassec in caveat.text
    assert frame.errors == ()


@pytest.mark.parametrize(
    "biassec",
    ["[12:11,1:10]", "[11:12,10:1]", "[11:13,1:10]", "[11:12,1:11]", "[10:11,0:9]", "[10:12,0:10]"],
)
def test_an_odd_overscan_section_that_is_clear_is_used_and_told(look, biassec):
    """Reason: a level along rows has no direction, and a whole axis shows where counting begins."""
    frame = look(BIASSEC=biassec, TRIMSEC="[1:10,1:10]")
    assert frame.errors == ()
    assert frame.geometry.overscan_section == (slice(0, 10), slice(10, 12))
    (caveat,) = (c for c in frame.caveats if c.slug == "overscan-unknown")
    assert f"BIASSEC = {biassec}" in caveat.text
    assert "read as [11:12,1:10]" in caveat.text


def test_an_overscan_that_is_a_row_short_serves_all_rows_and_is_told(look):
    frame = look(BIASSEC="[11:12,1:9]", TRIMSEC="[1:10,1:10]")
    assert frame.geometry.overscan_section == (slice(0, 10), slice(10, 12))
    (caveat,) = (c for c in frame.caveats if c.slug == "overscan-unknown")
    assert "rows 1 to 9" in caveat.text


@pytest.mark.parametrize(("rows", "used"), [("3:7", True), ("6:10", True), ("1:4", False)])
def test_an_overscan_serves_when_it_covers_half_the_rows(look, rows, used):
    frame = look(BIASSEC=f"[11:12,{rows}]", TRIMSEC="[1:10,1:10]")
    assert (frame.geometry.overscan_section is not None) is used
    assert "overscan-unknown" in slugs(frame.caveats)


def test_an_overscan_of_rows_is_never_taken_for_one_of_columns(look):
    """'[1:12,9:10]' are rows above the image; its columns are full of light."""
    frame = look(BIASSEC="[1:12,9:10]", TRIMSEC="[1:12,1:8]")
    assert frame.geometry.overscan_section is None
    assert "overscan-unknown" in slugs(frame.caveats)


def test_an_overscan_of_rows_is_not_used_without_a_trim_section_either(look):
    frame = look(BIASSEC="[1:12,9:10]")
    assert frame.geometry.overscan_section is None
    assert "overscan-unknown" in slugs(frame.caveats)


def test_an_overscan_of_rows_in_the_settings_is_an_error(look):
    text = "[camera]\noverscan_section='[1:12,9:10]'\ntrim_section='[1:12,1:8]'"
    assert slugs(look(config=parse_config(text, "n")).errors) == ["bad-section"]


def test_datasec_serves_where_trimsec_is_not_valid(look):
    frame = look(TRIMSEC="[1:8, :", DATASEC="[2:9,1:10]")
    assert frame.geometry.trim_section == (slice(0, 10), slice(1, 9))
    assert "overscan-unknown" in slugs(frame.caveats)


def test_a_trim_section_of_the_whole_image_trims_nothing(look):
    assert look(TRIMSEC="[1:12,1:10]").geometry.trim_section is None


@pytest.mark.parametrize("name", ["overscan_section", "trim_section"])
@pytest.mark.parametrize("section", ["[1:2]", "[1:13,1:10]", "[5:4,1:10]", "all", ""])
def test_a_bad_section_in_the_settings_is_an_error_of_the_frame(look, name, section):
    frame = look(config=parse_config(f"[camera]\n{name}='{section}'", "n"))
    assert slugs(frame.errors) == ["bad-section"]


def test_sections_in_the_settings_overrule_the_header(look):
    text = "[camera]\noverscan_section='none'\ntrim_section='[1:10,1:10]'"
    frame = look(config=parse_config(text, "n"), BIASSEC="[11:12,1:10]", TRIMSEC="[1:5,1:5]")
    assert frame.geometry.overscan_section is None
    assert frame.geometry.trim_section == (slice(0, 10), slice(0, 10))


@pytest.mark.parametrize(
    ("cards", "expected", "reason"),
    [
        ({"DATASEC": "[1:10,1:10]"}, "[11:12,1:10]", "outside of DATASEC = [1:10,1:10]"),
        ({"TRIMSEC": "[1:10,2:9]"}, "[11:12,2:9]", "outside of TRIMSEC = [1:10,2:9]"),
        # Borders that are cut off are no overscan: DATASEC goes first.
        ({"TRIMSEC": "[3:8,1:10]", "DATASEC": "[1:10,1:10]"}, "[11:12,1:10]", "outside of DATA"),
        ({"DATASEC": "[4:11,1:10]"}, "[1:3,1:10]", "outside of DATASEC"),
        ({"DATASEC": "[0:9,0:9]"}, "[11:12,1:10]", "outside of DATASEC = [0:9,0:9]"),
        ({"TRIMSEC": "[1:11, :]"}, "[12:12,1:10]", "outside of TRIMSEC"),
        # Lick Observatory: columns and rows after the image; for each amplifier.
        ({"COVER": 2}, "[11:12,1:10]", "COVER = 2"),
        ({"COVER": 2, "AMPSROW": 2}, "[9:12,1:10]", "COVER = 2"),
        ({"NOVER": 3, "ROVER": 1}, "[10:12,1:9]", "NOVER = 3"),
        ({"OVERSCAN": 2}, "[11:12,1:10]", "OVERSCAN = 2"),
        ({"CCDSEC": "[1:10,1:10]"}, "[11:12,1:10]", "more columns than the 10 of CCDSEC"),
        ({"CCDSEC": "[20:1,1:20]", "CCDSUM": "2 2"}, "[11:12,1:10]", "more columns than the 10"),
        ({}, None, "speaks of no columns"),
        ({"DATASEC": "[1:12,1:10]"}, None, "speaks of no columns"),
        ({"DATASEC": "UNKNOWN", "CCDSEC": "UNKNOWN", "OVERSCAN": "none"}, None, "speaks of no"),
        ({"COVER": 0, "OVERSCAN": True, "NOVER": 99}, None, "speaks of no columns"),
        ({"CCDSEC": "[1:2048,1:2048]"}, None, "leaves no columns"),
        ({"CCDSEC": "[1:20,1:20]", "CCDSUM": "0 0"}, None, "leaves no columns"),
    ],
)
def test_columns_that_may_be_an_overscan(cards, expected, reason):
    """Reason: many headers name the image alone; which of the others are good is measured."""
    section, told = overscan_candidates(cards, (10, 12))
    assert (section and format_section(section)) == expected
    assert reason in told


def test_columns_that_may_be_an_overscan_are_told_and_not_used(look):
    frame = look(DATASEC="[1:10,1:10]")
    assert frame.geometry.overscan_section is None
    assert frame.geometry.trim_section == (slice(0, 10), slice(0, 10))
    assert "[11:12,1:10] may be one: outside of DATASEC" in frame.geometry.reason


@pytest.mark.parametrize(
    ("cards", "overscan", "kept"),
    [
        ({"COVER": 2}, "[11:12,1:10]", "[1:10,1:10]"),
        ({"COVER": 2, "ROVER": 1}, "[11:12,1:9]", "[1:10,1:9]"),
        ({"COVER": 2, "DATASEC": "[2:9,1:10]"}, "[11:12,1:10]", "[2:9,1:10]"),
        ({"COVER": 2, "BIASSEC": "[12:12,1:10]"}, "[12:12,1:10]", "[1:10,1:10]"),
        ({"COVER": 2, "BIASSEC": "UNKNOWN"}, "[11:12,1:10]", "[1:10,1:10]"),
    ],
)
def test_the_overscan_that_cover_counts_is_used(look, cards, overscan, kept):
    geometry = look(**cards).geometry
    assert format_section(geometry.overscan_section) == overscan
    assert format_section(geometry.trim_section) == kept
    assert "COVER = 2" in geometry.reason


@pytest.mark.parametrize("count", [0, 12, 99, -1, "2", True])
def test_a_cover_that_counts_no_columns_is_none(look, count):
    geometry = look(COVER=count).geometry
    assert (geometry.overscan_section, geometry.trim_section) == (None, None)


def test_a_cover_that_contradicts_what_is_kept_is_named_and_not_used(look):
    frame = look(COVER=2, DATASEC="[1:12,1:10]")
    assert frame.geometry.overscan_section is None
    (text,) = (c.text for c in frame.caveats if c.slug == "overscan-unknown")
    assert "COVER = 2 is not used: of its columns some are kept ([1:12,1:10])" in text


# -- other values ------------------------------------------------------------------------


def test_filters_are_stripped(look):
    assert look(FILTER=" g' ").filter == "g'"


def test_a_filter_number_is_text(look):
    assert look(FILTER=2).filter == "2"


@pytest.mark.parametrize(("value", "expected"), [(-25, -25.0), ("-5", -5.0), ("off", None)])
def test_set_temperatures(look, value, expected):
    assert look(SET_TEMP=value).set_temperature_c == expected


@pytest.mark.parametrize(
    "cards", [{"XBINNING": 2, "YBINNING": 1}, {"CCDSUM": "2 1"}, {"BINX": "2", "BINY": "1"}]
)
def test_binning_under_its_keywords(look, cards):
    assert look(**cards).setup.binning == (2, 1)


def test_no_binning_is_one_by_one(look):
    assert look().setup.binning == (1, 1)


@pytest.mark.parametrize("ccdsum", ["", "UNKNOWN", "2", "two two", "0 0"])
def test_a_ccdsum_that_says_nothing_is_one_by_one(look, ccdsum):
    assert look(CCDSUM=ccdsum).setup.binning == (1, 1)


def test_unknown_noise_is_a_caveat_and_known_noise_is_none(look):
    assert "noise-unknown" in slugs(look().caveats)


def test_known_noise_is_no_caveat(look):
    text = "[camera]\ngain_electron_per_adu=2\nread_noise_electron=5\nsaturation_adu=50000"
    frame = look(config=parse_config(text, "n"))
    assert "noise-unknown" not in slugs(frame.caveats)
    assert frame.detectors[0].saturation_adu == 50000


@pytest.mark.parametrize("cards", [{"AMPSROW": 2}, {"AMPSCOL": 2}, {"AMPSROW": 2, "AMPSCOL": 2}])
def test_several_amplifiers_are_refused(look, cards):
    assert slugs(look(**cards).errors) == ["several-amplifiers"]


def test_one_amplifier_is_fine(look):
    assert look(AMPSROW=1, AMPSCOL=1).errors == ()


def test_a_dark_subtracted_in_the_camera_is_refused(look):
    assert slugs(look(CCDSFPT=5).errors) == ["dark-in-camera"]


def test_ccdsfpt_1_is_fine(look):
    assert look(CCDSFPT=1).errors == ()


@pytest.mark.parametrize("cards", [{"COMBINED": True}, {"FLATCAL": "0.1"}])
def test_products_are_not_raw_frames(look, cards):
    assert slugs(look(**cards).errors) == ["already-calibrated"]


def test_an_output_with_its_planes_is_named_as_a_product(tmp_path):
    primary = fits.PrimaryHDU(np.ones((4, 4), np.float32), fits.Header({"FLATCAL": "0.1.0"}))
    mask = fits.ImageHDU(np.zeros((4, 4), np.uint8), name="MASK")
    fits.HDUList([primary, mask]).writeto(tmp_path / "flat-a.fits")
    (frame,) = find_frames(tmp_path, Config())
    assert slugs(frame.errors) == ["already-calibrated"]


@pytest.mark.parametrize(("exposure", "slugs_there"), [(0.001, []), (60.0, ["kind-hint"])])
def test_a_bias_that_was_exposed_is_a_caveat(look, exposure, slugs_there):
    frame = look(imagetyp="BIAS", exposure=exposure)
    assert [slug for slug in slugs(frame.caveats) if slug == "kind-hint"] == slugs_there


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [("uint8", 255), ("uint16", 65535), ("int16", 32767), ("uint32", 2**32 - 1), ("f4", None)],
)
def test_saturation_is_the_largest_value_that_the_file_can_hold(tmp_path, dtype, largest):
    fits.PrimaryHDU(np.ones((8, 8), dtype)).writeto(tmp_path / "x.fits")
    (frame,) = find_frames(tmp_path, Config())
    assert frame.detectors[0].saturation_adu == largest


@pytest.mark.parametrize("word", ["DARKFLAT", "Dark Flat", "FlatDark"])
def test_a_dark_for_flats_is_a_dark(look, word):
    assert look(imagetyp=word).kind is Kind.DARK


def test_combined_f_is_a_raw_frame(look):
    assert look(COMBINED=False).errors == ()


@pytest.mark.parametrize("value", [-100, 100, "-100", 0.5])
def test_a_pedestal_is_a_caveat_with_its_value(look, value):
    """Reason: it stays in the frame where bias or dark do not hold it."""
    frame = look(PEDESTAL=value)
    assert frame.errors == ()
    (caveat,) = (c for c in frame.caveats if c.slug == "pedestal")
    assert f"PEDESTAL = {float(value):g}" in caveat.text


@pytest.mark.parametrize("value", [0, 0.0, None, "", "none", False])
def test_no_pedestal_is_no_caveat(look, value):
    assert "pedestal" not in slugs(look(PEDESTAL=value).caveats)


def test_all_errors_of_a_frame_are_told(look):
    frame = look(imagetyp="?", exposure="x", BUNIT="Jy", AMPSROW=2, CCDSFPT=5)
    assert set(slugs(frame.errors)) == {
        "kind-unknown",
        "exposure-not-a-number",
        "bad-unit",
        "several-amplifiers",
        "dark-in-camera",
    }


def test_a_known_camera_of_another_size_is_refused_until_sections_are_set(look):
    frame = look(INSTRUME="Aspen CG16M")
    assert slugs(frame.errors) == ["frame-shape"]
    assert "10 x 12" in frame.errors[0].text
    assert "4096 x 4109" in frame.errors[0].text


def test_sections_make_a_known_camera_of_another_size_usable(look):
    text = "[camera]\noverscan_section='none'\ntrim_section='[1:10,1:10]'"
    frame = look(config=parse_config(text, "n"), INSTRUME="Aspen CG16M")
    assert frame.errors == ()
    assert frame.setup.camera == "Aspen CG16M"
    assert frame.detectors[0].gain_electron_per_adu == 1.5


# -- structure of files ------------------------------------------------------------------


def header_of(**cards):
    return fits.Header({"IMAGETYP": "FLAT", "EXPTIME": 2.0, **cards})


IMAGE = np.arange(120, dtype=np.uint16).reshape(10, 12)


def only(folder, config=None):
    (frame,) = find_frames(folder, config or Config())
    return frame


def test_a_plain_uint16_image_is_known_as_such(tmp_path):
    fits.PrimaryHDU(IMAGE, header_of()).writeto(tmp_path / "x.fits")
    frame = only(tmp_path)
    assert frame.storage.plain_uint16
    assert frame.setup.shape == (10, 12)
    raw = (tmp_path / "x.fits").read_bytes()
    stored = np.frombuffer(raw, ">i2", 120, frame.storage.data_offset)
    np.testing.assert_array_equal(stored.astype(int) + 32768, IMAGE.ravel())


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint32", "float32", "float64", "uint8"])
def test_images_of_other_types_are_taken_but_not_as_plain_uint16(tmp_path, dtype):
    fits.PrimaryHDU(IMAGE.astype(dtype), header_of()).writeto(tmp_path / "x.fits")
    frame = only(tmp_path)
    assert frame.errors == ()
    assert not frame.storage.plain_uint16


def test_uint16_with_blank_or_scale_is_not_plain(tmp_path):
    hdu = fits.PrimaryHDU(IMAGE, header_of())
    hdu.writeto(tmp_path / "x.fits")
    fits.setval(tmp_path / "x.fits", "BLANK", value=-32768)
    assert not only(tmp_path).storage.plain_uint16


def test_a_tile_compressed_image_is_taken(tmp_path):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(IMAGE, header_of())]).writeto(
        tmp_path / "x.fits.fz"
    )
    frame = only(tmp_path)
    assert frame.errors == ()
    assert (frame.setup.shape, frame.storage.hdu) == ((10, 12), 1)
    assert not frame.storage.plain_uint16
    assert frame.exposure_time_s == 2


@pytest.mark.parametrize("name", ["x.fits.gz", "x.FIT.GZ", "x.fits"])
def test_a_zipped_image_is_taken_by_its_content(tmp_path, name):
    plain = tmp_path / "plain"
    fits.PrimaryHDU(IMAGE, header_of()).writeto(plain)
    (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    frame = only(tmp_path)
    assert frame.errors == ()
    assert frame.setup.shape == (10, 12)
    assert not frame.storage.plain_uint16


def test_an_image_in_the_first_extension_is_taken_with_the_primary_cards(tmp_path):
    primary = fits.PrimaryHDU(header=header_of(FILTER="V", OBJECT="primary"))
    image = fits.ImageHDU(IMAGE, fits.Header({"OBJECT": "image"}))
    fits.HDUList([primary, image]).writeto(tmp_path / "x.fits")
    frame = only(tmp_path)
    assert frame.errors == ()
    assert (frame.filter, frame.object, frame.storage.hdu) == ("V", "image", 1)


def test_a_table_beside_the_image_does_no_harm(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])])
    fits.HDUList([fits.PrimaryHDU(IMAGE, header_of()), table]).writeto(tmp_path / "x.fits")
    assert only(tmp_path).errors == ()


def write_colours(path):
    fits.PrimaryHDU(np.zeros((3, 10, 12), np.uint16), header_of()).writeto(path)


def write_spectrum(path):
    fits.PrimaryHDU(np.zeros(12, np.uint16), header_of()).writeto(path)


def write_no_image(path):
    fits.PrimaryHDU(header=header_of()).writeto(path)


def write_table_only(path):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])])
    fits.HDUList([fits.PrimaryHDU(header=header_of()), table]).writeto(path)


def write_truncated(path):
    fits.PrimaryHDU(np.zeros((100, 100), np.uint16), header_of()).writeto(path)
    path.write_bytes(path.read_bytes()[:-5000])


def write_header_cut(path):
    fits.PrimaryHDU(IMAGE, header_of()).writeto(path)
    path.write_bytes(path.read_bytes()[:300])


def write_truncated_fz(path):
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 60000, (100, 100)).astype(np.uint16)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(noise, header_of())]).writeto(path)
    path.write_bytes(path.read_bytes()[:-9000])


def write_truncated_gz(path):
    rng = np.random.default_rng(1)
    plain = path.with_suffix(".plain")
    fits.PrimaryHDU(rng.integers(0, 60000, (100, 100)).astype(np.uint16)).writeto(plain)
    path.write_bytes(gzip.compress(plain.read_bytes())[:-9000])


def write_corrupt_gz(path):
    write_truncated_gz(path)
    content = bytearray(path.read_bytes())
    content[2000:2100] = b"\xff" * 100
    path.write_bytes(content)


def write_no_columns(path):
    fits.PrimaryHDU(np.zeros((10, 0), np.uint16), header_of()).writeto(path)


def write_float_size(path):
    fits.PrimaryHDU(IMAGE, header_of()).writeto(path)
    patch_card(path, "NAXIS1", "12.5")


def write_negative_size(path):
    fits.PrimaryHDU(IMAGE, header_of()).writeto(path)
    patch_card(path, "NAXIS2", "-10")


def write_bad_bitpix(path):
    fits.PrimaryHDU(IMAGE, header_of()).writeto(path)
    patch_card(path, "BITPIX", "'16'")


def write_fz_without_size(path):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(IMAGE, header_of())]).writeto(path)
    patch_card(path, "ZNAXIS1", "'x'")


BROKEN = {
    "colours": (write_colours, "colour-image"),
    "spectrum": (write_spectrum, "image-type"),
    "no image": (write_no_image, "image-type"),
    "table only": (write_table_only, "image-type"),
    "no columns": (write_no_columns, "image-type"),
    "truncated": (write_truncated, "file-broken"),
    "header cut off": (write_header_cut, "file-broken"),
    "truncated fz": (write_truncated_fz, "file-broken"),
    "truncated gz": (write_truncated_gz, "file-broken"),
    "corrupt gz": (write_corrupt_gz, "file-broken"),
    "float size": (write_float_size, "file-broken"),
    "negative size": (write_negative_size, "file-broken"),
    "bad bitpix": (write_bad_bitpix, "file-broken"),
    "bad size of tiles": (write_fz_without_size, "file-broken"),
    "empty": (lambda path: path.touch(), "file-broken"),
    "text": (lambda path: path.write_text("not FITS at all\n" * 500), "file-broken"),
    "one byte": (lambda path: path.write_bytes(b"S"), "file-broken"),
    "zeros": (lambda path: path.write_bytes(bytes(8640)), "file-broken"),
    "dangling link": (lambda path: path.symlink_to(path.with_name("gone")), "file-broken"),
    "link to itself": (lambda path: path.symlink_to(path), "file-broken"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_has_its_entry_with_an_error_and_harms_no_other(tmp_path, put_frame, case):
    write, slug = BROKEN[case]
    write(tmp_path / "broken.fits")
    put_frame(tmp_path / "good.fits", "FLAT", 2.0)
    broken, good = find_frames(tmp_path, Config())
    assert (broken.file, good.file) == ("broken.fits", "good.fits")
    assert slugs(broken.errors)[0] == slug
    assert good.errors == ()


def test_a_pipe_has_its_entry_and_is_not_waited_for(tmp_path, put_frame):
    os.mkfifo(tmp_path / "pipe.fits")
    put_frame(tmp_path / "x.fits", "FLAT", 2.0)
    found = []
    thread = threading.Thread(target=lambda: found.extend(find_frames(tmp_path, Config())))
    thread.daemon = True
    thread.start()
    thread.join(2)
    assert [frame.file for frame in found] == ["pipe.fits", "x.fits"]
    assert slugs(found[0].errors) == ["file-broken"]


def test_a_file_name_that_is_not_text_has_its_entry(tmp_path, put_frame):
    path = put_frame(tmp_path / "x.fits", "FLAT", 2.0)
    odd = os.fsencode(tmp_path) + b"/caf\xe9.fits"
    try:
        path.rename(os.fsdecode(odd))
    except OSError:
        pytest.skip("this file system takes no such names")
    frame = only(tmp_path)
    assert slugs(frame.errors) == ["file-broken"]
    assert frame.file.encode() == rb"caf\xe9.fits"


def test_a_header_in_another_alphabet_is_read(tmp_path, put_frame):
    path = put_frame(tmp_path / "x.fits", "FLAT", 2.0, OBJECT="x" * 20)
    patch_card(path, "OBJECT", "'caf\xe9'   / \xb0C")
    frame = only(tmp_path)
    assert frame.errors == ()
    assert frame.object == "caf?"


# -- the folder --------------------------------------------------------------------------


def test_files_of_all_suffixes_below_the_folder_are_found_in_order(tmp_path, put_frame):
    names = ["B.FIT", "a/x.fits", "a/y.fts", "b.fit", "z/z/z.fits"]
    for name in [*names, "a/notes.txt", "a/.hidden.fits", "c.fitsx"]:
        put_frame(tmp_path / name, "FLAT", 1.0)
    assert [frame.file for frame in find_frames(tmp_path, Config())] == names


def test_a_folder_with_the_name_of_an_image_is_a_folder(tmp_path, put_frame):
    put_frame(tmp_path / "x.fits" / "y.fits", "FLAT", 1.0)
    assert only(tmp_path).file == "x.fits/y.fits"


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.touch()])
def test_no_folder_or_no_fits_file_is_an_error(tmp_path, make):
    path = tmp_path / "raw.fits"
    make(path)
    with pytest.raises(FrameError) as caught:
        find_frames(path, Config())
    assert caught.value.slug == "empty-folder"
    assert str(path) in str(caught.value)


def test_headers_alone_are_read(tmp_path):
    """Images of 128 GB that are holes in a sparse file: nothing could read their pixels."""
    header = fits.PrimaryHDU(np.zeros((1, 1), np.uint16), header_of()).header
    header["NAXIS1"] = header["NAXIS2"] = 250_000
    text = header.tostring(padding=True).encode()
    for name in ("a.fits", "b.fits"):
        with (tmp_path / name).open("wb") as file:
            file.write(text)
            try:
                file.truncate(len(text) + -(-2 * 250_000**2 // 2880) * 2880)
            except OSError:
                pytest.skip("this file system holds no such files")
    frames = find_frames(tmp_path, Config())
    assert [frame.setup.shape for frame in frames] == [(250_000, 250_000)] * 2
    assert [frame.errors for frame in frames] == [(), ()]


@pytest.mark.parametrize(
    ("cards", "name"),
    [
        ({"FILTER": "V"}, "V"),
        ({"FILTER1": "CLEAR", "FILTER2": "B"}, "B"),
        ({"FILTER1": "V", "FILTER2": "ND1"}, "V+ND1"),
        ({"FILTER1": "Clear"}, "Clear"),
        ({"FILTER": "r", "FILTER1": "CLEAR"}, "r"),
    ],
)
def test_filter_of_one_or_several_wheels(look, cards, name):
    frame = look(**cards)
    assert frame.filter == name
    assert "filter-missing" not in slugs(frame.caveats)


@pytest.mark.parametrize(("kind", "said"), [("FLAT", True), ("LIGHT", True), ("DARK", False)])
def test_a_flat_or_science_frame_without_filter_is_a_caveat(look, kind, said):
    assert ("filter-missing" in slugs(look(imagetyp=kind).caveats)) == said


def test_a_keyword_of_the_settings_may_be_in_small_letters(look):
    config = parse_config('[camera]\nfilter_keyword = "colour"\n', "night.toml")
    assert look(config=config, COLOUR="V").filter == "V"


@pytest.mark.parametrize(
    "cards",
    [
        {"BIASSUB": True},
        {"SUBBIAS": "ccd=<CCDData>"},
        {"ZEROCOR": "Nov 23 12:07 Zero is zero.fits"},
    ],
)
def test_a_frame_that_has_been_reduced_already_is_refused(look, cards):
    assert slugs(look(**cards).errors) == ["already-calibrated"]


def test_a_card_of_the_camera_named_like_one_of_iraf_is_fine(look):
    assert look(OVERSCAN="none").errors == ()


@pytest.mark.parametrize(
    "cards",
    [{"BIASSEC": "[9:12,1:10]"}, {"BIASSEC": "[7:12,1:10]", "TRIMSEC": "[1:8,1:10]"}],
)
def test_an_overscan_in_what_is_kept_is_refused(look, cards):
    assert slugs(look(**cards).errors) == ["bad-section"]


@pytest.mark.parametrize(("sensor", "said"), [(12.0, True), (-19.6, False)])
def test_a_cooler_that_is_off_is_a_caveat(look, sensor, said):
    frame = look(**{"SET-TEMP": -20.0, "CCD-TEMP": sensor})
    assert ("temperature-off" in slugs(frame.caveats)) == said
