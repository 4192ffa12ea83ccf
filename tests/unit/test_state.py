"""What headers say was removed: the dialects of other programs, and no false alarm."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData

from flatcal import steps
from flatcal.dialects import COMBINED, DIALECTS, HISTORY_LINES, REDUCED
from flatcal.errors import StateError
from flatcal.headers import read_header_cards
from flatcal.index import find_frames
from flatcal.recipe import Config
from flatcal.state import STEP_RECORDS, bias_known_inside, read_state, removed_steps


def header_of(text: str) -> fits.Header:
    """A header as it was found, card by card."""
    header = fits.Header()
    for line in text.strip().splitlines():
        header.append(fits.Card.fromstring(line), end=True)
    return header


# -- headers as programs leave them: text, what is gone, who says so -----------------------

IRAF = """
OVERSCAN= 'Jun  2 18:18 Overscan section is [520:540,*] with mean=481.8784'
TRIM    = 'Jun  2 18:18 Trim data section is [3:510,3:510]'
ZEROCOR = 'Nov 29 14:54 Zero level correction image is Zero.fits'
FLATCOR = 'Jun  2 18:19 Flat field image is FlatV.imh with scale=138.2713'
CCDPROC = 'Jun  2 18:19 CCD processing done'
"""
# Programs that write IRAF's cards with a date of their own, or with none.
IRAF_BY_OTHERS = """
TRIM    = '2024-01-01 12:33 Trim data section is [3:510,3:510]'
ZEROCOR = 'Zero level correction image is Bias.fits'
"""
# iTelescope, in PhotonFinder's collection of headers.
MAXIM = """
PEDESTAL=                 -100 /Correction to add for zero-based ADU
SWMODIFY= 'MaxIm DL Version 5.24 140126 0KJR5' /Name of software that modified
HISTORY  Bias Subtraction (Bias 1, 4864 x 3232, Bin1 x 1, Temp -35C,
HISTORY  Exp Time 0ms)
HISTORY  Dark Subtraction (Dark 10, 4864 x 3232, Bin1 x 1, Temp -35C,
HISTORY  Exp Time 300s)
HISTORY  Flat Field (Flat SII 1, SII, 4864 x 3232, Bin1 x 1, Temp -35C,
HISTORY  Exp Time 5s)
HISTORY  Flat-Bias(Bias 1,4864 x 3232,Bin1 x 1,Temp -35C,Exp Time 0ms)
"""
SIRIL = """
STACKCNT=                   20 / Stack frames
HISTORY Calibrated with a synthetic bias of 500
HISTORY Calibrated with an optimized master dark (factor: 0.987)
HISTORY Calibrated with a master flat, normalization of 0.431
"""
BANZAI = """
RLEVEL  =                   91
L1STATOV= '1       '           / Status flag for overscan correction
L1STATTR=                    1 / Status flag for overscan trimming
L1STATBI=                    1 / Status flag for bias frame correction
L1STATDA=                    1 / Status flag for dark frame correction
L1STATFL=                   -1 / Status flag for flatfield correction
"""
PIXINSIGHT = """
HISTORY Calibration with ImageCalibration process
HISTORY ImageCalibration.masterBias.enabled: false
HISTORY ImageCalibration.masterDark.enabled: true
HISTORY ImageCalibration.masterDark.fileName: masterDark.xisf
"""
DRAGONS = """
SUBOVER = '2020-05-06T12:33:14'
TRIMOVER= '2020-05-06T12:33:14'
BIASCORR= '2020-05-06T12:33:15'
BIASIM  = 'N20200501S0001_bias.fits'
"""
CASES = {
    "iraf": (IRAF, {"overscan", "trim", "bias", "flat", REDUCED}, "IRAF"),
    "cards of iraf": (IRAF_BY_OTHERS, {"trim", "bias"}, "IRAF"),
    "iraf dark": ("DARKCOR = 'Jun 12 18:18 Dark count correction image is D'", {"dark"}, "IRAF"),
    "imcombine": ("NCOMBINE=                   10", {COMBINED}, "IRAF or its like"),
    "imcombine list": ("IMCMB001= 'bias1.fits'", {COMBINED}, "IRAF"),
    "maxim history": (MAXIM, {"bias", "dark", "flat"}, "MaxIm DL"),
    "maxim calstat": ("CALSTAT = 'BDF     '", {"bias", "dark", "flat"}, "MaxIm DL or its like"),
    "maxim dark only": ("CALSTAT = 'D'", {"dark"}, "MaxIm DL or its like"),
    "astap stack": ("CALSTAT = 'DFS'", {"dark", "flat", COMBINED}, "MaxIm DL or its like"),
    "calstat sentence": (
        "CALSTAT = 'photometric colour calibration'", {REDUCED}, "a program that writes CALSTAT"
    ),
    "maxim sum": ("SNAPSHOT=                    9", {COMBINED}, "MaxIm DL"),
    "astap": ("DARK_CNT=                   30", {REDUCED}, "ASTAP"),
    "siril": (SIRIL, {"bias", "dark", "flat", COMBINED}, "Siril"),
    "siril bias": ("HISTORY Calibrated with a master bias", {"bias"}, "Siril"),
    "siril dark": ("HISTORY Calibrated with a master dark", {"dark"}, "Siril"),
    "banzai": (BANZAI, {"overscan", "trim", "bias", "dark", REDUCED}, "BANZAI"),
    "banzai master": ("ISMASTER=                    T", {COMBINED}, "BANZAI"),
    "pixinsight": (PIXINSIGHT, {"dark", REDUCED}, "PixInsight"),
    "pixinsight master": (
        "HISTORY ImageIntegration.numberOfImages: 60", {COMBINED}, "PixInsight"
    ),
    "dragons": (DRAGONS, {"overscan", "trim", "bias"}, "DRAGONS"),
    "dragons dark": ("SUBDARK = '2020-05-06T12:33:14'", {"dark"}, "DRAGONS"),
    "gemini iraf": (
        "BIASIM  = 'gN2001_bias.fits'\nTRIMMED = 'yes'", {"bias", "trim"}, "Gemini IRAF"
    ),
    "ccdproc": ("SUBBIAS = 'ccd=<CCDData>, master=<CCDData>'", {"bias"}, "ccdproc"),
    "ccdproc in full": ("HIERARCH FLAT_CORRECT = 'flatcor'", {"flat"}, "ccdproc"),
    "hubble": ("BIASCORR= 'COMPLETE'\nDARKCORR= 'PERFORM '", {"bias"}, "calacs or calwf3"),
    "ccdsoft": ("CCDSFPT =                    5", {"dark"}, "the camera's software"),
    "ccdsoft history": ("HISTORY Auto-Dark Subtraction", {"dark"}, "the camera's software"),
    "vast": ("HISTORY Flat fielding: mff.fit", {"flat"}, "VaST"),
    "astroimagej": (
        "HISTORY Stack of 12 images using method: Median", {COMBINED}, "AstroImageJ"
    ),
    "eso": ("HIERARCH ESO PRO CATG = 'MASTER_BIAS'", {REDUCED}, "a pipeline of ESO"),
    "flatcal": ("FLATCAL = '0.1.0'\nBIASSUB =                    T", {"bias", REDUCED}, "flatcal"),
    "notebook": ("COMBINED=                    T", {COMBINED}, "flatcal or a notebook"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_programs_leave_is_understood(case):
    """Reason: each of these frames looks raw, and subtracting again is wrong in silence."""
    text, gone, program = CASES[case]
    state = read_state(header_of(text))
    assert {witness.step for witness in state.done} == gone
    assert program in {witness.program for witness in state.done}
    assert state.removed == gone & set(STEP_RECORDS)


@pytest.mark.parametrize("case", CASES)
def test_who_says_so_is_quoted_with_the_card_as_it_stands(case):
    header = header_of(CASES[case][0])
    lines = {str(card.value).strip() for card in header.cards}
    for witness in read_state(header).done:
        keyword, _, value = witness.card.partition(" = ")
        if witness.card.startswith("HISTORY "):
            assert witness.card.removeprefix("HISTORY ") in lines
        else:
            assert value == ("T" if header[keyword] is True else repr(header[keyword]))
        assert witness.card in read_state(header).describe()


@pytest.mark.parametrize("case", CASES)
def test_headers_read_fast_by_astropy_and_dictionaries_say_the_same(case, tmp_path):
    header = header_of(CASES[case][0])
    fits.PrimaryHDU(header=header).writeto(tmp_path / "x.fits")
    state = read_state(header)
    assert read_state(read_header_cards(tmp_path / "x.fits")) == state
    if "HISTORY" not in header:
        assert read_state({key.lower(): value for key, value in header.items()}) == state


@pytest.mark.parametrize("case", CASES)
def test_such_a_frame_is_refused_with_step_program_and_card(case, tmp_path):
    header = header_of(CASES[case][0])
    header["IMAGETYP"], header["EXPTIME"] = "FLAT", 2.0
    fits.PrimaryHDU(np.ones((8, 9), np.uint16), header).writeto(tmp_path / "x.fits")
    (frame,) = find_frames(tmp_path, Config())
    _, gone, program = CASES[case]
    assert [e.slug for e in frame.errors] == [
        "dark-in-camera" if case.startswith("ccdsoft") else "already-calibrated"
    ]
    assert program in frame.errors[0].text
    for step in gone & set(STEP_RECORDS):
        assert STEP_RECORDS[step].comment in frame.errors[0].text
    assert "\n" not in frame.errors[0].text


# -- cards of raw frames -----------------------------------------------------------------

RAW_CARDS = [
    {"OVERSCAN": "none"},
    {"OVERSCAN": 32},
    {"OVERSCAN": True},
    {"OVERSCAN": 1045.2},
    {"OVERSCAN": "[10:12,1:10]"},
    {"TRIM": "[49:64,1:10]"},
    {"TRIM": True},
    {"ZEROCOR": "no"},
    {"FLATCOR": "no"},
    {"FLATCOR": False},
    {"GAINCOR": False},
    {"TRIMMED": "no"},
    {"NCOMBINE": 1},
    {"SNAPSHOT": 1},
    {"STACKCNT": 1},
    {"STACKCNT": "many"},
    {"LIGH_CNT": 0, "DARK_CNT": 0},
    {"COMBINED": False},
    {"COMBINED": "no"},
    {"CALSTAT": ""},
    {"CALSTAT": "RAW"},
    {"CALSTAT": "N/A"},
    {"CALSTAT": "U"},
    {"RLEVEL": 0},
    {"RLEVEL": "N/A"},
    {"ISMASTER": False},
    {"L1STATBI": 0, "L1STATDA": "0", "L1STATFL": -1, "L1STATOV": "N/A"},
    {"BIASCORR": "PERFORM", "DARKCORR": "OMIT", "FLATCORR": "PERFORM"},
    {"BIASIM": "", "DARKIM": "none"},
    {"CCDSFPT": 1},
    {"CCDSFPT": 3},
    {"CCDSFPT": "five"},
    {"PEDESTAL": 0},
    {"HIERARCH ESO DPR CATG": "CALIB"},
    {"BIAS": 100},
    {"HISTORY": "Flat Field lamp on"},
    {"HISTORY": "Dark Subtraction off"},
    {"HISTORY": "taken for the master dark, calibrated with care"},
    {"HISTORY": "ImageCalibration.masterDark.enabled: false"},
]


@pytest.mark.parametrize("cards", RAW_CARDS, ids=str)
def test_no_false_alarm_for_what_cameras_write(cards, tmp_path):
    """Reason: a raw frame that is refused costs the observer the night."""
    header = fits.Header({"IMAGETYP": "BIAS", **cards})
    assert read_state(header).done == ()
    assert read_state(header).describe() == ""
    fits.PrimaryHDU(np.ones((8, 9), np.uint16), header).writeto(tmp_path / "x.fits")
    (frame,) = find_frames(tmp_path, Config())
    assert frame.errors == ()


def test_an_empty_header_says_nothing():
    state = read_state(fits.Header())
    assert state.testimonies == ()
    assert all(state.of(step) is None for step in STEP_RECORDS)


def test_a_lost_colon_is_no_time_of_iraf():
    """Reason: sections such as [10:12,1:10] have what looks like a time of day."""
    assert read_state({"TRIM": "[10:12,10:12]"}).testimonies == ()


# -- three answers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({}, None),
        ({"BIASSUB": True}, True),
        ({"BIASSUB": False}, False),
        ({"L1STATBI": 0}, False),
        ({"L1STATBI": 1}, True),
        ({"BIASCORR": "OMIT"}, False),
        # flatcal's own card decides alone: it was written last.
        ({"BIASSUB": False, "SUBBIAS": "x"}, False),
        ({"BIASSUB": True, "L1STATBI": 0}, True),
        # Of others, whoever has done it says so.
        ({"BIASCORR": "PERFORM", "CALSTAT": "B"}, True),
    ],
)
def test_removed_not_removed_or_unknown(cards, expected):
    assert read_state(cards).of("bias") is expected
    assert bias_known_inside(cards) is (expected is False)
    assert ("bias" in removed_steps(cards)) is (expected is True)


def test_numpy_booleans_are_booleans():
    assert removed_steps({"biassub": np.True_, "DARKSUB": np.False_}) == {"bias"}


def test_a_dictionary_may_hold_comments():
    state = read_state({"subtract_bias": ("subbias", "short name")})
    assert state.describe() == "bias subtracted by ccdproc (SUBTRACT_BIAS = 'subbias')"


# -- the steps of a notebook look at the same table ------------------------------------------


def ccd_with(**cards) -> CCDData:
    return CCDData(np.full((4, 6), 100.0), unit="adu", meta=fits.Header(cards))


@pytest.mark.parametrize(
    ("cards", "named"),
    [
        ({"ZEROCOR": "Nov 29 14:54 Zero level correction image is Z"}, "IRAF.*ZEROCOR = 'Nov"),
        ({"CALSTAT": "BD"}, "MaxIm DL.*CALSTAT = 'BD'"),
        ({"L1STATBI": 1}, r"BANZAI.*L1STATBI = 1"),
    ],
)
def test_no_second_bias_whoever_has_taken_the_first(cards, named):
    with pytest.raises(StateError, match=named):
        steps.subtract_bias(ccd_with(**cards), ccd_with())


def test_nothing_is_subtracted_after_the_flat_of_another_program():
    divided = ccd_with(FLATCOR="Jun  2 18:19 Flat field image is FlatV.imh")
    with pytest.raises(StateError, match="FLATCOR = 'Jun"):
        steps.subtract_bias(divided, ccd_with())


def test_an_overscan_is_of_the_frame_as_it_is():
    """Reason: the raw frame's overscan holds the level that the bias has taken out already."""
    raw = ccd_with()
    without_bias = steps.subtract_bias(raw, ccd_with(BIASSUB=False, OSCANSUB=False))
    with pytest.raises(StateError, match="BIASSUB = T"):
        steps.subtract_overscan(without_bias, overscan=raw[:, 4:])
    steps.subtract_overscan(without_bias, overscan=without_bias[:, 4:])
    steps.subtract_overscan(raw, overscan=raw[:, 4:])
    steps.subtract_overscan(steps.trim_image(raw[:, :4]), overscan=raw[:, 4:])


def test_a_section_of_a_trimmed_frame_is_not_that_of_the_raw_one():
    """Reason: [1:2,1:4] is the overscan on the left before trimming, and the image after."""
    trimmed = steps.trim_image(ccd_with(), fits_section="[3:6,1:4]")
    with pytest.raises(StateError, match="TRIMMED = T"):
        steps.subtract_overscan(trimmed, fits_section="[1:2,1:4]")


def test_gain_must_be_in_both_or_in_none():
    """Reason: a gain without a unit leaves ADU as the unit, and the bias is then too small."""
    gained = steps.gain_correct(ccd_with(), 2.0)
    with pytest.raises(StateError, match=r"GAINCOR = 'ccd=.*GAINCOR = F"):
        steps.subtract_bias(gained, ccd_with(GAINCOR=False))
    steps.subtract_bias(gained, ccd_with())
    steps.subtract_bias(gained, ccd_with(GAINCOR=True))


def test_a_flat_known_to_be_raw_divides_nothing():
    """Reason: its bias pedestal makes it flatter than the detector is."""
    raw_flat = ccd_with(BIASSUB=False, DARKSUB=False)
    with pytest.raises(StateError, match=r"the flat still holds its bias \(BIASSUB = F\)"):
        steps.flat_correct(ccd_with(BIASSUB=True), raw_flat)
    steps.flat_correct(ccd_with(), ccd_with())
    steps.flat_correct(ccd_with(), ccd_with(BIASSUB=True, DARKSUB=False))


# -- the tables --------------------------------------------------------------------------


def test_tables_name_known_steps_and_keywords_in_capitals():
    known = {*STEP_RECORDS, COMBINED, REDUCED}
    for dialect in DIALECTS:
        assert set(dialect.steps.values()) <= known
        assert all(keyword == keyword.upper() for keyword in dialect.steps)
    assert {line.step for line in HISTORY_LINES} <= known


@pytest.mark.parametrize(
    "value", [None, "", "x", 0, 1, 2.5, True, False, float("nan"), 3 + 4j, ("a", "b"), "T" * 70]
)
def test_any_value_is_taken_without_an_exception(value):
    read_state({keyword: value for dialect in DIALECTS for keyword in dialect.steps}).describe()
