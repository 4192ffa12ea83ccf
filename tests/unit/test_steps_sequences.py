"""All orders of the steps: each is refused with a reason, or does what plain numpy does.

The frame comes from a forward model written here in plain numpy, so that it is known what is in
it. Beside the pixels the test keeps account of how often level, bias and dark are still inside.
A step that flatcal accepts must leave sound accounts, and one that it refuses must be one that
would not, or one that cannot be done at all.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flatcal import steps
from flatcal.errors import FlatcalWarning, FrameError, SectionError, StateError
from flatcal.state import removed_steps

ROWS, COLUMNS, KEPT = 6, 12, 9
EXPOSURE_S, LONG_S = 30.0, 90.0
GAIN = 2.0
KEEP, OVERSCAN = f"[1:{KEPT},1:{ROWS}]", f"[{KEPT + 1}:{COLUMNS},1:{ROWS}]"

# -- the forward model: what is in the overscan has neither bias pattern nor dark nor light --

_rng = np.random.default_rng(20240513)
IN_IMAGE = np.arange(COLUMNS) < KEPT
LEVEL = 1000 + 5 * np.arange(ROWS)[:, None] * np.ones(COLUMNS)
MASTER_LEVEL = np.full((ROWS, COLUMNS), 1010.0)
BIAS = _rng.uniform(-3, 3, (ROWS, COLUMNS)) * IN_IMAGE
DARK_RATE = _rng.uniform(0.1, 2, (ROWS, COLUMNS)) * IN_IMAGE
RESPONSE = np.where(IN_IMAGE, _rng.uniform(0.8, 1.2, (ROWS, COLUMNS)), 1.0)
RESPONSE /= RESPONSE.mean()
SKY = _rng.uniform(100, 200, (ROWS, COLUMNS)) * IN_IMAGE
RAW = LEVEL + BIAS + DARK_RATE * EXPOSURE_S + RESPONSE * SKY


@dataclass(frozen=True)
class Master:
    """A master and what is in it; its cards are those that flatcal writes."""

    name: str
    level: bool
    bias: bool
    exposure_s: float = 0.0
    is_flat: bool = False
    gained: bool = False

    @property
    def pixels(self) -> np.ndarray:
        pixels = self.level * MASTER_LEVEL + self.bias * BIAS + DARK_RATE * self.exposure_s
        if self.is_flat:
            pixels = 20_000 * RESPONSE + (MASTER_LEVEL + BIAS if self.bias else 0)
        return pixels * (GAIN if self.gained else 1)

    def ccd(self, trimmed: bool) -> CCDData:
        header = fits.Header()
        header["OSCANSUB"] = (self.is_flat and not self.bias) or self.name.startswith("oscan")
        header["BIASSUB"] = not self.bias
        header["DARKSUB"] = self.is_flat and not self.bias
        header["TRIMMED"], header["FLATDIV"], header["GAINCOR"] = trimmed, False, self.gained
        pixels = self.pixels[:, :KEPT] if trimmed else self.pixels
        return CCDData(pixels, unit=u.electron if self.gained else u.adu, meta=header)


BIASES = (Master("plain", True, True), Master("oscan", False, True))
DARKS = (
    Master("plain with bias", True, True, EXPOSURE_S),
    Master("oscan with bias", False, True, EXPOSURE_S),
    Master("plain without bias", False, False, EXPOSURE_S),
    Master("oscan without bias", False, False, EXPOSURE_S),
)
FLATS = (Master("good", False, False, is_flat=True), Master("raw", True, True, is_flat=True))


@dataclass(frozen=True)
class Account:
    """How often each part is still in the frame, and what was done to the frame."""

    level: int = 1
    master_level: int = 0
    bias: int = 1
    dark: float = 1
    divided: int = 0
    good_flat: bool = True
    gain: int = 0
    trimmed: bool = False

    @property
    def is_sound(self) -> bool:
        """No part was taken out twice or by a half, and all that is gone went before the flat."""
        levels = (self.level, self.master_level) in ((1, 0), (0, 0), (1, -1))
        counts = self.bias in (0, 1) and self.dark in (0, 1)
        once = self.divided < 2 and self.gain < 2 and self.good_flat
        return levels and counts and once


@dataclass(frozen=True)
class State:
    """The same frame three times: as flatcal has it, as numpy has it, and in the books."""

    ccd: CCDData
    pixels: np.ndarray
    account: Account = field(default_factory=Account)


class MisfitError(Exception):
    """numpy cannot do it either: shapes or units differ."""


@dataclass(frozen=True)
class Step:
    """One call of a function for notebooks."""

    name: str
    master: Master | None = None
    scale: bool = False
    own_part: bool = False
    with_unit: bool = True

    def call(self, ccd: CCDData) -> CCDData:
        master = self.fitting(ccd)
        if self.name == "overscan":
            part = {"overscan": RAW_CCD[:, KEPT:]} if self.own_part else {"fits_section": OVERSCAN}
            return steps.subtract_overscan(ccd, **part)
        if self.name == "dark":
            times = (self.master.exposure_s * u.s, EXPOSURE_S * u.s)
            return steps.subtract_dark(ccd, master, *times, scale=self.scale)
        if self.name == "gain":
            return steps.gain_correct(ccd, GAIN * u.electron / u.adu if self.with_unit else GAIN)
        if self.name == "trim":
            return steps.trim_image(ccd, fits_section=KEEP)
        return {"bias": steps.subtract_bias, "flat": steps.flat_correct}[self.name](ccd, master)

    def fitting(self, ccd: CCDData) -> CCDData | None:
        """The master in the shape of the frame, as whoever writes a notebook would take it."""
        return self.master and self.master.ccd(trimmed=ccd.shape[1] == KEPT)

    def in_numpy(self, state: State) -> tuple[np.ndarray, Account]:
        """Pixels and account after the step, whatever flatcal thinks of it."""
        pixels, account = state.pixels, state.account
        master = self.master and self.master.pixels[:, : pixels.shape[1]]
        if self.name in ("bias", "dark") and state.ccd.unit != u.adu:
            raise MisfitError("units")
        match self.name:
            case "overscan":
                source = RAW[:, KEPT:] if self.own_part else pixels[:, KEPT:]
                if self.own_part and state.ccd.unit != u.adu:
                    raise MisfitError("units")
                if not source.shape[1]:
                    raise MisfitError("trimmed")
                # The frame's own overscan has all levels that are still in the frame.
                gone = (1, 0) if self.own_part else (account.level, account.master_level)
                account = replace(
                    account,
                    level=account.level - gone[0],
                    master_level=account.master_level - gone[1],
                    good_flat=account.good_flat and not account.divided,
                )
                return pixels - source.mean(axis=1, keepdims=True), account
            case "trim":
                return pixels[:, :KEPT], replace(account, trimmed=True)
            case "bias":
                return pixels - master, replace(
                    account,
                    master_level=account.master_level - self.master.level,
                    bias=account.bias - 1,
                    good_flat=account.good_flat and not (account.divided or account.gain),
                )
            case "dark":
                factor = EXPOSURE_S / self.master.exposure_s if self.scale else 1.0
                return pixels - master * factor, replace(
                    account,
                    master_level=account.master_level - self.master.level * factor,
                    bias=account.bias - self.master.bias * factor,
                    dark=account.dark - factor * self.master.exposure_s / EXPOSURE_S,
                    good_flat=account.good_flat and not (account.divided or account.gain),
                )
            case "flat":
                good = account.good_flat and not self.master.bias
                account = replace(account, divided=account.divided + 1, good_flat=good)
                return pixels / (master / master.mean()), account
        return pixels * GAIN, replace(account, gain=account.gain + 1)


def raw_ccd(cards: dict[str, bool]) -> CCDData:
    return CCDData(RAW.copy(), unit=u.adu, meta=fits.Header(cards))


RAW_CCD = raw_ccd({})
ALL_CARDS = ("OSCANSUB", "TRIMMED", "BIASSUB", "DARKSUB", "FLATDIV", "GAINCOR")
EVERYTHING = frozenset(("overscan", "trim", "bias", "dark", "flat"))
any_step = st.one_of(
    st.builds(Step, st.just("overscan"), own_part=st.booleans()),
    st.just(Step("trim")),
    st.builds(Step, st.just("bias"), st.sampled_from(BIASES)),
    st.builds(Step, st.just("dark"), st.sampled_from(DARKS)),
    st.builds(
        lambda dark: Step("dark", replace(dark, exposure_s=LONG_S), scale=True),
        st.sampled_from(DARKS),
    ),
    st.builds(Step, st.just("flat"), st.sampled_from(FLATS)),
    st.builds(Step, st.just("gain"), with_unit=st.booleans()),
)


def is_conservative(step: Step, state: State) -> bool:
    """Refused although the account would be sound: where headers do not tell enough.

    Masters and frames must be alike in the overscan step, whichever way a level went; what has
    not lost all that the frame has is not taken as its overscan; and nothing is done twice.
    """
    header = state.ccd.header
    if step.name == "overscan":
        lost = removed_steps(header)
        return "overscan" in lost or (step.own_part and bool(lost - {"trim"}))
    if step.name in ("bias", "dark"):
        done = header.get("OSCANSUB")
        return done is not None and done != step.fitting(state.ccd).header["OSCANSUB"]
    # A flat on a frame that nobody knows to be raw is done; on one known to be raw it is not.
    return step.name == "flat" and header.get("BIASSUB") is False


def take(step: Step, state: State) -> State:
    """Do one step in all three ways and hold them against each other."""
    try:
        pixels, account = step.in_numpy(state)
    except MisfitError:
        with pytest.raises((StateError, FrameError, SectionError, u.UnitsError)):
            step.call(state.ccd)
        return state
    refusal = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            ccd = step.call(state.ccd)
        except StateError as error:
            refusal = error
    if refusal is not None:
        assert refusal.slug in ("state", "dark-holds-bias")
        assert not account.is_sound or is_conservative(step, state), f"{step}: {refusal}"
        return state
    assert account.is_sound, f"{step} was accepted"
    np.testing.assert_allclose(ccd.data, pixels, rtol=1e-12, atol=1e-9)
    told = {w.message.slug for w in caught if isinstance(w.message, FlatcalWarning)}
    bias_stays = step.name == "dark" and not step.master.bias and state.account.bias == 1
    assert told == ({"bias-still-in-frame"} if bias_stays else set())
    return State(ccd, pixels, account)


@given(st.lists(any_step, max_size=6), st.booleans())
@settings(max_examples=300, derandomize=True)
@example([Step("dark", DARKS[0]), Step("bias", BIASES[0])], False)
@example([Step("bias", BIASES[0]), Step("dark", DARKS[0])], False)
@example([Step("gain", with_unit=False), Step("bias", BIASES[0])], False)
@example([Step("bias", BIASES[0]), Step("overscan", own_part=True)], False)
@example([Step("flat", FLATS[1])], False)
def test_every_sequence_is_refused_or_right(sequence, knows_to_be_raw):
    """Reason: a wrong order of steps leaves a picture that looks right."""
    state = State(raw_ccd(dict.fromkeys(ALL_CARDS, False) if knows_to_be_raw else {}), RAW)
    for step in sequence:
        state = take(step, state)
    removed = removed_steps(state.ccd.header)
    # What the header says is what is in the pixels.
    account = state.account
    assert ("bias" in removed) == (account.bias == 0)
    assert ("dark" in removed) == (account.dark == 0)
    assert ("flat" in removed) == (account.divided == 1)
    assert ("gain" in removed) == (account.gain == 1)
    assert ("trim" in removed) == account.trimmed
    assert account.level == 0 or "overscan" not in removed
    if removed >= EVERYTHING:
        assert_is_sky(state)


def assert_is_sky(state: State) -> None:
    """Every step was done: what is left is the sky, up to the mean of the flat that was used."""
    norm = (RESPONSE[:, :KEPT].mean(), RESPONSE.mean())
    truth = SKY[:, :KEPT] * (GAIN if state.account.gain else 1)
    ratio = state.ccd.data / truth
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-9)
    assert np.isclose(ratio[0, 0], norm, rtol=1e-9).any()


WAYS = {
    "bias and scaled dark": (
        Step("bias", BIASES[1]),
        Step("dark", replace(DARKS[3], exposure_s=LONG_S), scale=True),
    ),
    "one dark with its bias": (Step("dark", DARKS[1]),),
}


def all_orders(left, state, done=()):
    """Each order of the steps with the state that it ends in; what begins alike is done once."""
    if not left:
        yield done, state
    for step in left:
        after = take(step, state)
        yield from all_orders([s for s in left if s is not step], after, (*done, step.name))


@pytest.mark.parametrize("way", WAYS)
def test_all_orders_of_all_steps(way):
    """The orders that leave exactly the sky are those that every book gives, and no others.

    The overscan goes before it is cut off; everything is subtracted before the flat, and in ADU
    as long as the masters are. All other orders are refused on the way.
    """
    subtractions = WAYS[way]
    every = [*map(Step, ("overscan", "trim")), *subtractions, Step("flat", FLATS[0]), Step("gain")]
    n_right = 0
    for order, state in all_orders(every, State(raw_ccd({}), RAW)):
        place = {name: order.index(name) for name in order}
        masters = {step.name for step in subtractions}
        admissible = (
            place["overscan"] < place["trim"]
            and all(place[name] < place["flat"] for name in {"overscan", *masters})
            and all(place[name] < place["gain"] for name in masters)
        )
        complete = removed_steps(state.ccd.header) >= EVERYTHING | {"gain"}
        assert complete == admissible, order
        if complete:
            n_right += 1
            assert_is_sky(state)
    assert n_right >= 10
