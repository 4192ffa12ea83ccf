"""What a report shows, without a browser."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from matplotlib import pyplot as plt
from PIL import Image
from typer.testing import CliRunner

import flatcal
from flatcal import build_plan, run_plan
from flatcal.cli import app
from flatcal.errors import ConfigError, OutputError
from flatcal.recipe import Config, parse_config
from flatcal.report.gather import gather_report
from flatcal.report.html import render_report
from flatcal.report.page import has_report, write_report
from flatcal.report.pictures import block_for, coarse_grid, cut_out, shrink, thumbnail
from flatcal.report.plots import count_values, times_of
from flatcal.report.samples import rows_after_each_step, spread_bands
from flatcal.report.tested import write_tested_report
from flatcal.text import readable
from flatcal.verify.night import open_night
from flatcal.watching import watch

SETTINGS = """\
[camera]
overscan_section = "[520:544,1:1032]"
trim_section = "[1:512,1:1032]"
gain_electron_per_adu = 2.0
read_noise_electron = 11.0
"""


@pytest.fixture(scope="module")
def lfc(lfc_night, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    run_plan(build_plan(lfc_night.raw, parse_config(SETTINGS, "x")), out)
    return out


# -- text --------------------------------------------------------------------------------


def test_control_characters_are_shown_as_pictures():
    assert readable("a\x1b[31mb\x07\x9b\u202ec\x7f") == "a\u241b[31mb\u2407\ufffd\ufffdc\u2421"
    assert readable("Größe 5 µm, 日本\n") == "Größe 5 µm, 日本\n"


def test_long_text_is_cut_and_says_so():
    assert readable("x" * 10_000, 10) == "xxxxxxxxxx... (10000 characters)"


@pytest.mark.parametrize("command", ["inspect", "plan"])
def test_the_terminal_is_not_commanded_by_a_header(command, tmp_path, put_frame):
    raw = tmp_path / "raw"
    # A header holds no control characters; the name of a file may.
    put_frame(raw / "\x1b[31mred.fits", "COMPARISON", 1.0)
    put_frame(raw / ("x" * 200 + ".fits"), "COMPARISON", 1.0)
    told = CliRunner().invoke(app, [command, str(raw)]).output
    assert "\x1b" not in told
    assert "\u241b[31mred.fits" in told


# -- pictures ----------------------------------------------------------------------------


def test_shrinking_averages_blocks_also_at_the_ends():
    values = np.arange(35, dtype=np.float32).reshape(5, 7)
    values[0, 0] = np.nan
    small = shrink(values, 2)
    assert small.shape == (3, 4)
    assert small[0, 0] == pytest.approx((1 + 7 + 8) / 3)
    assert small[1, 1] == pytest.approx(np.mean(values[2:4, 2:4]))
    assert small[2, 3] == values[4, 6]
    assert block_for((4096, 4096), 512 * 512) == 8


def test_a_cut_out_keeps_every_pixel_and_its_place():
    values = np.arange(200 * 300, dtype=np.float32).reshape(200, 300)
    part = cut_out(values, 299, 0, "", "", "")
    assert part.values.shape == (96, 96)
    assert part.values[0, -1] == values[0, 299]
    assert (part.first_x, part.first_y) == (205, 1)


def test_a_grid_averages_unequal_parts():
    values = np.random.default_rng(1).normal(size=(130, 70))
    grid = coarse_grid(values)
    assert grid.shape == (64, 64)
    starts = [np.linspace(0, size, 64, endpoint=False).astype(int) for size in (130, 70)]
    part = values[starts[0][5] : starts[0][6], starts[1][9] : starts[1][10]]
    assert grid[5, 9] == pytest.approx(part.mean())


def test_a_thumbnail_goes_from_blue_to_red_with_row_0_at_the_bottom():
    png = thumbnail(np.array([[0.9, 0.9], [1.0, 1.1]]), 0.9, 1.1)
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    assert pixels[1, 0].tolist() == [5, 80, 160]
    assert pixels[0].tolist() == [[255, 255, 255], [170, 20, 40]]


# -- plots -------------------------------------------------------------------------------


def test_a_histogram_of_tenths_is_no_comb():
    rng = np.random.default_rng(2)
    tenths = np.round(rng.normal(1000, 1.3, 200_000), 1)
    line = count_values("", tenths)
    middle = line.y[(line.x > 999) & (line.x < 1001)]
    assert middle.min() > 0.7 * middle.max()
    assert line.y.sum() > 0.999 * tenths.size


def test_times_are_used_only_where_all_frames_have_different_ones():
    assert times_of(["2026-01-01T00:00:01", "2026-01-01T00:00:03"]).tolist() == [
        1767225601000.0,
        1767225603000.0,
    ]
    assert times_of(["2026-01-01", "2026-01-01"]) is None
    assert times_of(["2026-01-01T00:00:01", "soon"]) is None


# -- a night -----------------------------------------------------------------------------


def test_the_last_step_gives_what_the_run_wrote(lfc):
    night = open_night(lfc)
    science = next(f for f in night.plan.frames if f.output and f.output.startswith("science/"))
    bands = spread_bands(science.kept_shape)
    stages = dict(rows_after_each_step(night, science, bands))
    assert list(stages) == ["raw", "less overscan", "less dark", "over flat"]
    written = fits.getdata(lfc / science.output)
    rows = np.concatenate([written[band] for band in bands])
    assert np.array_equal(stages["over flat"], rows)


def test_a_report_shows_each_part(lfc):
    view = gather_report(lfc)
    assert [m.name for m in view.masters][:2] == ["master_bias", "master_dark_7s"]
    assert {note.slug for note in view.caveats} == {"unit-missing"}
    titles = [plot.title for filter_view in view.filters for plot in filter_view.plots]
    assert titles.count("level of each flat") == 2
    assert "science before and after each step" in titles
    assert [len(f.ratios) for f in view.filters] == [3, 3]
    columns, rows = view.detectors[0].plots
    assert columns.span == (519.5, 544.5)
    assert np.ptp(rows.lines[0].y) < 50
    assert len(view.frames) == 23
    dark = next(m for m in view.masters if m.name == "master_dark_300s")
    assert any(picture.marks for picture in dark.pictures)


def test_the_rejection_map_counts_what_the_master_lost(tmp_path, put_frame):
    raw = tmp_path / "raw"
    for number in range(6):
        bias = np.random.default_rng(number).normal(1000, 3, (24, 32)).round().astype(np.uint16)
        if number == 2:
            bias[5, 7] = 30_000
        put_frame(raw / f"b{number}.fits", "BIAS", 0.0, bias)
    run_plan(build_plan(raw), tmp_path / "out")
    (master,) = gather_report(tmp_path / "out").masters
    (lost,) = (p for p in master.pictures if p.title.startswith("rejection map"))
    assert lost.block == 1
    assert lost.values[5, 7] == 1
    n_used = fits.getdata(tmp_path / "out/masters/master_bias.fits", "NUSED")
    assert np.array_equal(lost.values, 6 - n_used.astype(float))


def test_the_page_is_one_small_file_without_addresses(lfc):
    text = write_report(lfc).read_text(encoding="utf-8")
    assert len(text) < 15e6
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.search(r'(?:src|href)="(?!#|data:)', own)


def test_a_report_says_what_is_gone(lfc, tmp_path, raw_is_said_to_be_at):
    out = tmp_path / "out"
    shutil.copytree(lfc, out)
    (out / "masters/master_bias.fits").unlink()
    raw_is_said_to_be_at(out, tmp_path / "gone")
    view = gather_report(out)
    assert any("no longer at" in text for text in view.missing)
    assert any("master_bias.fits" in text for text in view.masters[0].missing)
    assert view.masters[0].pictures == ()
    assert "Not shown" in render_report(view)


# -- notebooks ---------------------------------------------------------------------------


def test_plots_are_axes_with_the_figures_of_the_run(lfc):
    ax = flatcal.plot_flats(lfc, "master_flat_gp")
    levels = ax.lines[0].get_ydata()
    goodmed = [fits.getval(path, "GOODMED") for path in sorted((lfc / "flats").glob("*.fits"))[:3]]
    assert levels == pytest.approx(goodmed)
    own = plt.figure().gca()
    assert flatcal.plot_histograms(lfc, "ccd.022.0.fits", own) is own
    assert [text.get_text() for text in own.get_legend().get_texts()] == [
        "raw", "less overscan", "less dark", "over flat",
    ]  # fmt: skip
    assert flatcal.plot_overscan(lfc).get_xlabel() == "column"
    assert len(flatcal.plot_photon_transfer(lfc).lines) == 3
    with pytest.raises(ConfigError, match="holds no master_flat_X"):
        flatcal.plot_flats(lfc, "master_flat_X")
    plt.close("all")


def test_notebooks_show_plan_result_and_collection_as_tables(tmp_path, put_frame):
    raw = tmp_path / "raw"
    put_frame(raw / "<b>1.fits", "BIAS", 0.0, OBJECT="<i>x</i>")
    put_frame(raw / "x.fits", "COMPARISON", 1.0)
    plan = build_plan(raw)
    result = run_plan(plan, tmp_path / "out")
    for shown in (plan, result, flatcal.ImageFileCollection(raw, keywords=["object"])):
        text = shown._repr_html_()
        assert "<table" in text
        assert "<b>1" not in text
        assert "<i>x" not in text
    assert "master_bias" in plan._repr_html_()
    assert "masters/master_bias.fits" in result._repr_html_()
    assert "x.fits</td><td>failed" in result._repr_html_()


# -- the commands ------------------------------------------------------------------------


def run(*arguments):
    code = "from flatcal.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_run_without_a_terminal_renews_a_report_but_begins_none(tmp_path, put_frame):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number in range(2):
        put_frame(raw / f"b{number}.fits", "BIAS", 0.0)
    log = tmp_path / "log.jsonl"
    quiet = run("run", raw, out, "--quiet", "--log", log)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    messages = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(m["message"] == "wrote masters/master_bias.fits" for m in messages)
    assert all(set(m) == {"time", "level", "logger", "message"} for m in messages)
    assert not (out / "report.html").exists()
    assert "2 frames" in (write_report(out)).read_text()
    put_frame(raw / "b2.fits", "BIAS", 0.0)
    run("run", raw, out)
    assert "3 frames" in (out / "report.html").read_text()


def test_a_page_of_others_in_the_place_of_the_report_is_not_replaced(tmp_path, put_frame):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number in range(2):
        put_frame(raw / f"b{number}.fits", "BIAS", 0.0)
    page = out / "report.html"
    out.mkdir()
    page.write_text("my own diary")
    made = run("run", raw, out)
    told = f"{page} was not written by flatcal; move it away, or say run --overwrite"
    assert (made.returncode, made.stderr) == (0, f"flatcal: {told} [output-exists]\n")
    assert "1 output written" in made.stdout
    assert (out / "run.json").exists()
    for refusing in (
        lambda: write_report(out),
        lambda: write_tested_report(out),
        lambda: next(watch(raw, out, Config())),
    ):
        with pytest.raises(OutputError, match=r"output-exists"):
            refusing()
    assert not has_report(out)
    assert page.read_text() == "my own diary"
    assert run("run", raw, out, "--overwrite").returncode == 0
    assert "2 frames" in page.read_text()
    assert has_report(out)
    write_report(out)


def test_quiet_still_tells_what_failed(tmp_path, put_frame):
    raw = tmp_path / "raw"
    put_frame(raw / "b.fits", "BIAS", 0.0)
    put_frame(raw / "x.fits", "COMPARISON", 1.0)
    told = run("run", raw, tmp_path / "out", "--quiet")
    assert told.returncode == 1
    assert told.stdout == ""
    assert "x.fits" in told.stderr
    assert "[kind-unknown]" in told.stderr


def test_help_has_an_example():
    told = CliRunner().invoke(app, ["watch", "--help"]).output
    assert "Example: flatcal watch" in told
