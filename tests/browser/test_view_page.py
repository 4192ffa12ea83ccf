"""The viewer in a browser: step, read, blink, and leave a frame out."""

from __future__ import annotations

import threading

import pytest
from astropy.io import fits

from flatcal import build_plan, load_config, run_plan
from flatcal.viewing import Viewer, make_server

pytestmark = pytest.mark.usefixtures("browser")


@pytest.fixture
def served(night, tmp_path):
    """Address of the viewer, the output folder, and the settings file."""
    raw, settings = night
    out = tmp_path / "out"
    run_plan(build_plan(raw, load_config(settings)), out)
    server = make_server(Viewer(out, settings))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.url, out, settings
    server.shutdown()
    thread.join()
    server.server_close()


def choose(page, file, stage="raw"):
    page.locator(f'#list li[data-file="{file}"]').click()
    page.locator(f'.bokeh[data-state="{file} {stage}"]').wait_for()


def read(page, x, y):
    page.locator("input.x").fill(str(x))
    page.locator("input.y").fill(str(y))
    return page.locator("output.readout").inner_text()


def test_frames_are_stepped_through_at_each_stage(served, night, open_page):
    url, out, _ = served
    page = open_page(url)
    choose(page, "flat0.fits")
    raw = fits.getdata(night[0] / "flat0.fits")
    assert read(page, 30, 40) == f"x 30 y 40: {raw[39, 29]} ADU"
    page.locator("#stages button", has_text="less dark").click()
    page.locator('.bokeh[data-state="flat0.fits subtract_dark"]').wait_for()
    calibrated = fits.getdata(next((out / "flats").glob("*flat0.fits")))
    assert float(read(page, 30, 40).split()[4]) == pytest.approx(calibrated[39, 29], rel=1e-7)
    page.locator("#title").click()
    page.keyboard.press("n")
    page.locator('.bokeh[data-state="flat1.fits subtract_dark"]').wait_for()


def test_two_frames_blink(served, open_page):
    page = open_page(served[0])
    choose(page, "flat0.fits")
    page.keyboard.press("k")
    choose(page, "flat3.fits")
    page.keyboard.press("b")
    page.wait_for_function("document.getElementById('title').textContent === 'flat0.fits'")
    page.wait_for_function("document.getElementById('title').textContent === 'flat3.fits'")
    page.keyboard.press("b")
    assert page.locator("#blink").get_attribute("aria-pressed") == "false"


def test_a_frame_is_left_out_and_the_master_changes_and_back(served, open_page):
    url, out, settings = served
    master, bias = out / "masters/master_flat_V.fits", out / "masters/master_bias.fits"
    before, untouched = fits.getdata(master), bias.stat().st_mtime_ns
    written = settings.read_text()
    page = open_page(url)
    choose(page, "flat3.fits")
    page.locator("#overrule").click()
    page.locator("#told", has_text="made anew").wait_for()
    assert "masters/master_flat_V.fits" in page.locator("#told").inner_text()
    assert fits.getheader(master)["NCOMBINE"] == 3
    assert (fits.getdata(master) != before).any()
    assert bias.stat().st_mtime_ns == untouched
    assert load_config(settings).exclusion("flat3.fits") is not None
    assert page.locator('#list li[data-file="flat3.fits"]').get_attribute("data-status") == (
        "left out"
    )
    page.locator("#overrule", has_text="take it in again").click()
    page.locator("#told", has_text="taken in again").wait_for()
    assert settings.read_text() == written
    assert (fits.getdata(master) == before).all()
