"""Frames that are calibrated as they are read: in bands, in rows that lie apart, by amplifier."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from flatcal.engine.buffers import Buffers
from flatcal.engine.calibrated_frame import sampled_rows
from flatcal.engine.colours import TintedFrame
from flatcal.engine.masters import make_master
from flatcal.engine.regions import Region, cut_rows, shifted
from flatcal.engine.setting import Setting, open_calibrated
from flatcal.flags import Flag
from flatcal.frame import Detector, Kind
from flatcal.index import find_frames
from flatcal.plan import FramePlan, Step
from flatcal.recipe import Config

SHAPE = 150, 60
# Image and overscan of one amplifier; and of two, one above the other.
ONE = ("[1:50,1:150]", "[51:60,1:150]")
TWO = ("[1:50,1:70]+[1:50,71:150]", "[51:60,1:70]+[51:60,71:150]")
DETECTOR = Detector(2.0, 6.0, 60_000.0)


@given(
    start=st.integers(0, 40), length=st.integers(1, 60), step=st.integers(1, 9),
    first=st.integers(0, 50), height=st.integers(1, 50), shift=st.integers(-3, 7),
)  # fmt: skip
def test_rows_apart_are_cut_at_the_ends_of_a_region(start, length, step, first, height, shift):
    place = slice(first, first + height), slice(2, 5)
    raw = slice(place[0].start + shift, place[0].stop + shift), slice(7, 10)
    region = Region(raw, None, place, DETECTOR)
    rows = slice(start, start + length, step)
    wanted = np.arange(start, start + length, step)
    inside = wanted[(wanted >= first) & (wanted < first + height)]
    section = region.within(rows)
    if section is None:
        assert not inside.size
        return
    np.testing.assert_array_equal(np.arange(200)[section[0]], inside)
    np.testing.assert_array_equal(wanted[shifted(section, start)[0]], inside)
    its_raw = region.raw_rows(section[0])
    np.testing.assert_array_equal(
        np.arange(its_raw.start, its_raw.stop, its_raw.step), inside + shift
    )


@pytest.fixture
def frame_of(tmp_path):
    """Write a raw frame, and open it as one that is calibrated as it is read."""
    rng = np.random.default_rng(8)
    levels = 1000 + np.arange(SHAPE[0])[:, None] / 10
    data = rng.normal(levels, 3, SHAPE)
    data[:, :50] += rng.exponential(500, (SHAPE[0], 50))
    data[rng.random(SHAPE) < 0.002] = 65_535
    dark, flat = rng.normal(5, 1, (150, 50)), rng.normal(1, 0.02, (150, 50))
    flags = (rng.random((150, 50)) < 0.02) * np.uint16(Flag.HOT)
    masters = {
        "dark": make_master(dark.astype(np.float32), None, flags, "", 0.0),
        "flat": make_master(flat.astype(np.float32), None, flags[::-1].copy(), "", 0.0),
    }

    def put(name, dtype, steps):
        path = tmp_path / name
        hdu = fits.PrimaryHDU(data.round().astype(dtype))
        hdu.header["IMAGETYP"], hdu.header["EXPTIME"] = "LIGHT", 10.0
        if path.suffix == ".gz":
            with gzip.open(path, "wb") as file:
                hdu.writeto(file)
        else:
            hdu.writeto(path)
        config = Config()
        (frame,) = find_frames(tmp_path, config)
        plan = FramePlan(
            file=name, kind=Kind.SCIENCE, action="calibrate", shape=SHAPE,
            storage=frame.storage, steps=steps, detectors=(DETECTOR,) * steps[0].section.count("["),
        )  # fmt: skip
        return open_calibrated(
            Setting(tmp_path, config, lambda _names: masters, Buffers(), None), plan, steps
        )

    return put


def steps_of(sections, statistic):
    image, overscan = sections
    return (
        Step(name="subtract_overscan", section=overscan, statistic=statistic),
        Step(name="trim_image", section=image),
        Step(name="subtract_dark", master="dark", scale=1.5),
        Step(name="flat_correct", master="flat"),
    )


@pytest.mark.parametrize("is_tinted", [False, True])
@pytest.mark.parametrize("statistic", ["median", "clipped_mean"])
@pytest.mark.parametrize("sections", [ONE, TWO])
@pytest.mark.parametrize(
    ("name", "dtype"), [("a.fits", np.uint16), ("a.fits", np.float32), ("a.fits.gz", np.uint16)]
)
def test_a_sample_holds_what_is_read_in_bands(
    frame_of, name, dtype, sections, statistic, is_tinted
):
    with frame_of(name, dtype, steps_of(sections, statistic)) as plain:
        frame = plain
        if is_tinted:
            frame = TintedFrame(plain, "RGGB", Buffers(), {"R": 2.0, "G": 3.0, "B": 5.0})
        data, bad = np.empty((150, 50), np.float32), np.empty((150, 50), np.uint8)
        frame.read_bad(0, 150, data, bad, Flag.BLED)
        rows = np.array(sampled_rows(150))
        values, its_bad = frame.read_sample()
    assert 30 < len(rows) < 50
    assert bad.any()
    np.testing.assert_array_equal(values, data[rows])
    np.testing.assert_array_equal(its_bad, bad[rows])
    assert len(frame.preparation.regions) == sections[0].count("[")
    for region in frame.preparation.regions:
        assert cut_rows(values, rows, region).size
