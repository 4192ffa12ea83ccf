"""The page of a watch, open in a browser while frames arrive."""

from __future__ import annotations

import pytest

from flatcal import load_config
from flatcal.watching import watch

pytestmark = pytest.mark.usefixtures("browser")


def test_a_new_frame_appears_and_a_bright_one_raises_an_alert(
    night, tmp_path, put_frame, write, open_page
):
    raw, settings = night
    out = tmp_path / "out"
    states = watch(raw, out, load_config(settings), sleep=lambda _: None)
    assert next(states).alerts == ()
    page = open_page((out / "report.html").as_uri())
    assert page.locator("#frame-table tbody tr").count() == 11
    assert page.locator("#alerts p").count() == 0

    write[2](raw, put_frame, 7, 58_000, name="bright.fits")
    state = next(states)
    # Other rules may have their doubts about such a frame as well.
    assert {alert.file for alert in state.alerts} == {"bright.fits"}
    assert "near saturation" in state.alerts[0].text
    page.locator("#frame-table summary", has_text="bright.fits").wait_for(timeout=15_000)
    assert "bright.fits near saturation" in page.locator("#alerts").inner_text()
