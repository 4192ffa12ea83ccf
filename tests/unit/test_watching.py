"""Frames are taken up when they are whole, waited for, and calibrated once their masters exist."""

from __future__ import annotations

import numpy as np
import pytest

from flatcal.errors import FrameError
from flatcal.recipe import Config
from flatcal.watching import watch


class EndedError(Exception):
    """Ends a watch that would go on."""


def data(level, shape=(24, 32)):
    return np.full(shape, level, np.uint16)


def states_of(raw, out, *at_sleep):
    """What a watch finds that calls these functions one after the other where it waits."""
    waiting = iter(at_sleep)

    def sleep(_seconds):
        try:
            next(waiting)()
        except StopIteration:
            raise EndedError from None

    found = []

    def keep():
        for state in watch(raw, out, Config(), sleep=sleep):
            found.append(state)

    with pytest.raises(EndedError):
        keep()
    return found


def nothing():
    """Wait once more."""


@pytest.fixture
def raw(tmp_path, put_frame):
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(2):
        put_frame(folder / f"b{number}.fits", "BIAS", 0.0, data(1000 + number))
        put_frame(folder / f"d{number}.fits", "DARK", 10.0, data(1010 + number))
    return folder


def test_a_file_counts_when_it_has_not_changed_between_two_looks(raw, tmp_path, put_frame):
    flat = tmp_path / "whole.fits"
    put_frame(flat, "FLAT", 10.0, data(20_000), FILTER="V")
    content = flat.read_bytes()
    arriving = raw / "f.fits"
    states = states_of(
        raw,
        tmp_path / "out",
        lambda: arriving.write_bytes(content[:4000]),
        nothing,
        nothing,
        lambda: arriving.write_bytes(content),
        nothing,
        nothing,
    )
    # In the first round with a result the flat is there in part, and does not count.
    assert states[0].growing == ("f.fits",)
    assert len(states[0].result.record.outcomes) == 4
    assert len(states) == 2
    assert states[1].growing == ()
    assert "flats/flat-f.fits" in states[1].result.made
    assert "masters/master_bias.fits" not in states[1].result.made


def test_a_flat_waits_for_its_dark_and_a_master_is_made_again(raw, tmp_path, put_frame):
    put_frame(raw / "f.fits", "FLAT", 30.0, data(20_000), FILTER="V")
    states = states_of(
        raw,
        tmp_path / "out",
        nothing,
        lambda: put_frame(raw / "d30.fits", "DARK", 30.0, data(1020)),
        nothing,
        lambda: put_frame(raw / "b9.fits", "BIAS", 0.0, data(1003)),
        nothing,
        nothing,
    )
    assert states[0].waiting == ("f.fits",)
    assert states[0].alerts == ()
    assert states[1].waiting == ()
    assert "flats/flat-f.fits" in states[1].result.made
    assert "masters/master_bias.fits" in states[2].result.made


def test_a_watch_that_was_ended_goes_on(raw, tmp_path, put_frame):
    out = tmp_path / "out"
    assert len(states_of(raw, out, nothing, nothing)[0].result.made) == 2
    put_frame(raw / "f.fits", "FLAT", 10.0, data(20_000), FILTER="V")
    (again,) = states_of(raw, out, nothing, nothing)
    assert again.result.made == ("flats/flat-f.fits", "masters/master_flat_V.fits")


def test_an_empty_folder_is_waited_for_and_a_missing_one_is_an_error(tmp_path):
    empty = tmp_path / "raw"
    empty.mkdir()
    assert states_of(empty, tmp_path / "out", nothing, nothing) == []
    with pytest.raises(FrameError, match="is not a folder"):
        next(watch(tmp_path / "none", tmp_path / "out", Config()))


def test_a_frame_without_a_kind_raises_an_alert(raw, tmp_path, put_frame):
    put_frame(raw / "x.fits", "COMPARISON", 10.0, data(5000))
    (state,) = states_of(raw, tmp_path / "out", nothing, nothing)
    (alert,) = state.alerts
    assert alert.file == "x.fits"
    assert "[kind-unknown]" in alert.text
