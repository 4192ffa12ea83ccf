"""Measure the report of a night of 200 frames: its size, how long it takes, how fast it opens.

``python -m benchmarks.report FOLDER [--browser chromium]``: the night is simulated in FOLDER, which
must not be there yet and takes 1 GB.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from astropy.io import fits

from flatcal import build_plan, run_plan
from flatcal.recipe import parse_config
from flatcal.report.page import write_report
from flatcal.report.tested import write_tested_report

SIDE = 1024
SETTINGS = "[camera]\ngain_electron_per_adu = 1.5\nread_noise_electron = 10.0\n"
FILTERS = "UBVRI"
EXPOSURES_S = (5.0, 60.0, 300.0)


def write_night(raw: Path) -> None:
    """30 bias frames, 45 darks of three lengths, 100 flats in five filters, 25 science frames."""
    raw.mkdir(parents=True)
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    response = 1 - 0.1 * (x**2 + y**2)
    hot = rng.random((SIDE, SIDE)) < 1e-3
    number = 0

    def write(kind: str, exposure_s: float, light: float, name: str = "") -> None:
        nonlocal number
        signal = response * light + exposure_s * (0.01 + 5 * hot)
        noise = np.sqrt(signal / 1.5 + (10 / 1.5) ** 2)
        data = 1000 + signal + noise * rng.standard_normal(signal.shape, np.float32)
        minutes, number = divmod(number, 60)[0], number + 1
        header = fits.Header({"IMAGETYP": kind, "EXPTIME": exposure_s})
        header["DATE-OBS"] = f"2026-01-01T{minutes:02d}:{number % 60:02d}:00"
        if name:
            header["FILTER"] = name
        pixels = data.round().clip(0, 65535).astype(np.uint16)
        fits.PrimaryHDU(pixels, header).writeto(raw / f"{kind.lower()}-{number:03d}.fits")

    for _ in range(30):
        write("BIAS", 0.0, 0.0)
    for exposure_s in EXPOSURES_S:
        for _ in range(15):
            write("DARK", exposure_s, 0.0)
    for name in FILTERS:
        for i in range(20):
            write("FLAT", 5.0, 25_000 - 500 * i, name)
        for _ in range(5):
            write("LIGHT", 300.0, 300.0, name)


def open_in(browser: str, page_file: Path) -> tuple[float, float]:
    """Seconds until the page can be read and used, and until all figures are drawn."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 (only for this)

    with sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
        )
        page = opened.new_page()
        clock = time.monotonic()
        page.goto(page_file.resolve().as_uri(), wait_until="load")
        page.locator("#search").fill("flat")
        usable = time.monotonic() - clock
        page.wait_for_selector("body[data-drawn=all]", timeout=120_000)
        drawn = time.monotonic() - clock
        opened.close()
    return usable, drawn


def main() -> None:
    """Measure, and print one line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    raw, out = arguments.folder / "raw", arguments.folder / "out"
    write_night(raw)
    plan = build_plan(raw, parse_config(SETTINGS, "settings"))
    result = run_plan(plan, out)
    print(f"{len(plan.frames)} frames of {SIDE} x {SIDE}: run {result.record.seconds:.1f} s")
    for what, write in (("report", write_report), ("report with tests", write_tested_report)):
        clock, busy = time.monotonic(), time.process_time()
        page = write(out)
        took, used = time.monotonic() - clock, time.process_time() - busy
        print(
            f"{what}: {took:.1f} s, {used:.1f} s of processor, {page.stat().st_size / 1e6:.1f} MB"
        )
    usable, drawn = open_in(arguments.browser, page)
    print(f"opens in {usable:.2f} s; all figures drawn after {drawn:.1f} s")


if __name__ == "__main__":
    main()
