"""Looks at pixels are remembered while the files and what is asked of them are the same."""

import os
import zlib

import numpy as np
import pytest

from flatcal import build_plan, user_cache
from flatcal.index import find_frames
from flatcal.look_cache import remembered_looks
from flatcal.recipe import Config, parse_config
from flatcal.survey import look_at


@pytest.fixture
def raw(tmp_path, put_frame, all_settled, monkeypatch):
    """Bias frames and flats with an overscan, and an empty cache."""
    monkeypatch.setenv("FLATCAL_CACHE_DIR", str(tmp_path / "cache"))
    rng = np.random.default_rng(4)
    for i in range(3):
        for kind, exposure, light in (("BIAS", 0.0, 0), ("FLAT", 2.0, 9000)):
            data = rng.normal(1000, 5, (64, 80))
            data[:, :64] += light
            cards = {"TRIMSEC": "[1:64,1:64]", "BIASSEC": "[65:80,1:64]", "BUNIT": "adu"}
            path = tmp_path / f"raw/{kind}{i}.fits"
            put_frame(path, kind, exposure, data.round().astype(np.uint16), **cards)
    return tmp_path / "raw"


@pytest.fixture
def opened(monkeypatch):
    """Names of the raw files whose pixels are read from now on."""
    names = []
    from flatcal.raw_frame import RawFrame  # noqa: PLC0415

    def enter(self):
        names.append(self.path.name)
        return real(self)

    real = RawFrame.__enter__
    monkeypatch.setattr(RawFrame, "__enter__", enter)
    return names


def look(raw, config=None):
    frames = find_frames(raw, config or Config())
    return frames, remembered_looks(raw, frames, 2)


def test_an_unchanged_folder_is_not_sampled_again_and_gives_the_same(raw, opened):
    frames, first = look(raw)
    assert len(opened) == len(first) == 6
    opened.clear()
    assert look(raw)[1] == first
    assert opened == []
    assert first == look_at(raw, frames, 1)


def test_a_plan_from_memory_is_the_same_plan(raw, opened):
    first = build_plan(raw)
    assert len(opened) == 6
    opened.clear()
    assert build_plan(raw) == first
    assert opened == []


def test_only_what_is_new_or_changed_is_sampled(raw, opened, put_frame):
    look(raw)
    opened.clear()
    os.utime(raw / "BIAS1.fits", ns=(1, 1))
    put_frame(raw / "new.fits", "BIAS", 0.0, np.full((64, 80), 1000, np.uint16))
    _, looks = look(raw)
    assert sorted(opened) == ["BIAS1.fits", "new.fits"]
    assert len(looks) == 7
    (raw / "new.fits").unlink()
    assert len(look(raw)[1]) == 6


@pytest.mark.parametrize("text", ["trim_section='[1:60,1:64]'", "saturation_adu=9500"])
def test_settings_that_change_the_look_are_heeded(raw, opened, text):
    before = look(raw)[1]
    opened.clear()
    config = parse_config(f"[camera]\n{text}\n", "x")
    frames, looks = look(raw, config)
    assert len(opened) == 6
    assert looks == look_at(raw, frames, 1)
    assert looks != before


def test_a_file_that_has_just_changed_is_not_remembered(raw, opened, monkeypatch):
    monkeypatch.setattr(user_cache, "SETTLED_NS", 2_000_000_000)
    look(raw)
    opened.clear()
    look(raw)
    assert len(opened) == 6


@pytest.mark.parametrize("damage", [b"", b"nothing", zlib.compress(b"{}"), zlib.compress(b"[1]")])
def test_a_broken_cache_is_ignored_and_replaced(raw, opened, tmp_path, damage):
    first = look(raw)[1]
    (file,) = (tmp_path / "cache/looks").iterdir()
    file.write_bytes(damage)
    opened.clear()
    assert look(raw)[1] == first
    assert len(opened) == 6
    opened.clear()
    assert look(raw)[1] == first
    assert opened == []


def test_what_another_version_has_seen_is_not_trusted(raw, opened, monkeypatch):
    look(raw)
    opened.clear()
    monkeypatch.setattr(user_cache, "__version__", "9")
    look(raw)
    assert len(opened) == 6


def test_without_a_cache_all_works(raw, opened, monkeypatch):
    first = look(raw)[1]
    monkeypatch.setenv("FLATCAL_CACHE_DIR", str(raw / "cache"))
    opened.clear()
    assert look(raw)[1] == first
    assert len(opened) == 6
    assert not (raw / "cache").exists()
