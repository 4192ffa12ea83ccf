"""The report in a browser: what is drawn, read, searched and printed."""

from __future__ import annotations

import re

import numpy as np
import pytest
from astropy.io import fits

from flatcal import build_plan, load_config, run_plan
from flatcal.report.tested import write_tested_report

pytestmark = pytest.mark.usefixtures("browser")


@pytest.fixture(scope="module")
def report(tmp_path_factory, make_night):
    folder = tmp_path_factory.mktemp("report")
    raw, settings = make_night(folder)
    run_plan(build_plan(raw, load_config(settings)), folder / "out")
    return write_tested_report(folder / "out")


def panel_of(page, title):
    panel = page.locator("figure.picture", has=page.locator("figcaption", has_text=title)).first
    panel.scroll_into_view_if_needed()
    panel.locator('.bokeh[data-state="drawn"]').wait_for()
    return panel


def test_the_readout_shows_the_true_value_of_a_pixel(report, open_page):
    page = open_page(report.as_uri())
    panel = panel_of(page, re.compile("^master_dark_10s"))
    # HOT of the conftest, as x and y from 1.
    panel.locator("input.x").fill("21")
    panel.locator("input.y").fill("11")
    value = fits.getdata(report.parent / "masters/master_dark_10s.fits")[10, 20]
    assert value == 5000
    assert panel.locator("output").inner_text() == "x 21 y 11: 5000 ADU"


def test_the_pointer_reads_the_pixel_below_it(report, open_page):
    page = open_page(report.as_uri())
    panel = panel_of(page, re.compile("^master_flat_V"))
    box = panel.locator(".bokeh").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    told = panel.locator("output")
    page.wait_for_function("e => e.textContent.startsWith('x ')", arg=told.element_handle())
    x, y, value = re.fullmatch(r"x (\d+) y (\d+): ([\d.]+)", told.inner_text()).groups()
    flat = fits.getdata(report.parent / "masters/master_flat_V.fits")
    assert float(value) == pytest.approx(flat[int(y) - 1, int(x) - 1], rel=1e-6)


def test_the_stretch_moves(report, open_page):
    page = open_page(report.as_uri())
    panel = panel_of(page, re.compile("^master_flat_V"))
    canvas = panel.locator(".bokeh")
    before, told = canvas.screenshot(), panel.locator(".stretch").inner_text()
    panel.locator("input.white").fill("40")
    page.wait_for_timeout(300)
    assert panel.locator(".stretch").inner_text() != told
    assert canvas.screenshot() != before
    flat = fits.getdata(report.parent / "masters/master_flat_V.fits")
    high = float(panel.locator(".stretch").inner_text().split()[2])
    assert high == pytest.approx(np.percentile(flat, 40), rel=2e-3)


def test_keys_move_zoom_and_show_all_again(report, open_page):
    page = open_page(report.as_uri())
    panel = panel_of(page, re.compile("^master_bias"))
    room = panel.locator(".bokeh")
    box = room.bounding_box()

    def x_at(part):
        """The column below the pointer, there in the width of the figure."""
        page.wait_for_timeout(200)
        page.mouse.move(5, 5)
        page.mouse.move(box["x"] + box["width"] * part, box["y"] + box["height"] * 0.5)
        page.wait_for_timeout(200)
        return int(panel.locator("output").inner_text().split()[1])

    left, right = x_at(0.3), x_at(0.7)
    room.focus()
    page.keyboard.press("+")
    zoomed = x_at(0.7) - x_at(0.3)
    assert zoomed == pytest.approx(0.8 * (right - left), abs=2)
    page.keyboard.press("ArrowRight")
    assert x_at(0.3) == pytest.approx(left + 0.1 * (right - left) + 0.08 * 64, abs=3)
    page.keyboard.press("0")
    assert (x_at(0.3), x_at(0.7)) == (left, right)


def test_search_finds_a_frame_and_its_reasons(report, open_page):
    page = open_page(report.as_uri())
    page.keyboard.press("/")
    page.keyboard.type("flat2")
    rows = page.locator("#frame-table tbody tr:visible")
    assert rows.count() == 1
    assert "master_dark_10s" in rows.locator("pre").inner_text()
    assert page.locator("#found").inner_text() == "1 of 11 frames"


def test_every_figure_is_drawn_and_has_words_for_those_who_do_not_see(report, open_page):
    page = open_page(report.as_uri())
    page.wait_for_selector("body[data-drawn=all]", timeout=60_000)
    rooms = page.locator(".bokeh")
    assert rooms.count() > 10
    assert page.locator('.bokeh:not([data-state="drawn"])').count() == 0
    assert all(rooms.nth(i).get_attribute("aria-label") for i in range(rooms.count()))
    images = page.locator("img")
    assert images.count() == 4
    assert all("flat" in images.nth(i).get_attribute("alt") for i in range(images.count()))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1366, 390])
def test_nothing_is_wider_than_the_screen(report, open_page, theme, width):
    page = open_page(report.as_uri(), viewport={"width": width, "height": 800}, color_scheme=theme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (theme == "light")


def test_the_theme_can_be_changed_by_a_key(report, open_page):
    page = open_page(report.as_uri(), color_scheme="light")
    page.keyboard.press("t")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(20, 23, 27)"


HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}"


def test_text_of_headers_is_shown_and_not_obeyed(tmp_path, put_frame, write, open_page):
    raw = tmp_path / "raw"
    write_bias, write_dark, write_flat = write
    for number in range(2):
        write_bias(raw, put_frame, number)
        write_dark(raw, put_frame, number)
        write_flat(raw, put_frame, number, 20_000, FILTER=HOSTILE, name=f"<b>{number}$$x$$.fits")
    out = tmp_path / "out"
    run_plan(build_plan(raw), out)
    page = open_page(write_tested_report(out).as_uri())
    page.on("dialog", lambda dialog: pytest.fail("a header was obeyed"))
    page.wait_for_selector("body[data-drawn=all]", timeout=60_000)
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("#filters h3").first.inner_text().startswith(HOSTILE)
    assert page.locator("#frame-table b").count() == 0
