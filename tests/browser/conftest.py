"""A browser, and a small night whose pixels are known."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright, so nothing is tested in a browser"
)

BROWSER = os.environ.get("FLATCAL_BROWSER") or shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHAPE = (48, 64)
SETTINGS = """\
[camera]
gain_electron_per_adu = 2.0
read_noise_electron = 8.0
"""
HOT = (10, 20)  # row and column, from 0
FLAT_LEVELS = (20_000, 21_000, 22_000, 30_000)


@pytest.fixture(scope="session")
def browser():
    if BROWSER is None:
        pytest.skip("no chromium, so nothing is tested in a browser")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Open an address without a network beyond this machine; errors in the page fail the test."""
    contexts, errors = [], []

    def open_it(address, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: errors.append(request.url) if is_far(request) else None)
        page.goto(address)
        return page

    def is_far(request):
        near = ("file:", "data:", "blob:", "http://127.0.0.1:")
        return not request.url.startswith(near)

    yield open_it
    for context in contexts:
        context.close()
    assert errors == []


def write_bias(folder, put_frame, number):
    rng = np.random.default_rng(number)
    data = rng.normal(1000, 4, SHAPE).round().astype(np.uint16)
    put_frame(folder / f"bias{number}.fits", "BIAS", 0.0, data)


def write_dark(folder, put_frame, number):
    rng = np.random.default_rng(100 + number)
    data = rng.normal(1005, 4, SHAPE).round().astype(np.uint16)
    data[HOT] = 5000
    put_frame(folder / f"dark{number}.fits", "DARK", 10.0, data)


def write_flat(folder, put_frame, number, level, name=None, **cards):
    rng = np.random.default_rng(200 + number)
    # The last flat has a dark corner that the others have not: it should be left out.
    light = np.full(SHAPE, float(level))
    if level == FLAT_LEVELS[-1]:
        light[:20, :20] *= 0.5
    data = (1005 + rng.normal(light, np.sqrt(light / 2 + 16))).round().astype(np.uint16)
    cards = {"FILTER": "V", "DATE_OBS": f"2026-01-01T01:0{number}:00", **cards}
    put_frame(folder / (name or f"flat{number}.fits"), "FLAT", 10.0, data, **cards)


def write_night(folder, put_frame):
    for number in range(3):
        write_bias(folder, put_frame, number)
        write_dark(folder, put_frame, number)
    for number, level in enumerate(FLAT_LEVELS):
        write_flat(folder, put_frame, number, level)
    rng = np.random.default_rng(300)
    data = (1005 + rng.normal(300, 20, SHAPE)).round().astype(np.uint16)
    put_frame(folder / "object.fits", "LIGHT", 10.0, data, FILTER="V")
    return folder


@pytest.fixture(scope="session")
def make_night(put_frame):
    """Make the raw folder of the night, and its settings, in a folder."""

    def make(folder):
        settings = folder / "night.toml"
        settings.write_text(SETTINGS)
        return write_night(folder / "raw", put_frame), settings

    return make


@pytest.fixture
def night(tmp_path, make_night):
    """The raw folder of a night that may be changed, and its settings."""
    return make_night(tmp_path)


@pytest.fixture
def write():
    """What writes frames of the night."""
    return write_bias, write_dark, write_flat
