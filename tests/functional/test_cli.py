"""The command line as a user meets it: what it says, where, and its exit code.

Exit codes and the absence of tracebacks are proved in processes of their own; the many kinds of
bad input run `main` in this process, where warnings are errors.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from flatcal import __main__ as program
from flatcal import __version__, build_plan, load_config
from flatcal.cli import main
from flatcal.plan import Plan

COMMANDS = ["inspect", "plan", "run", "show", "simulate", "demo", "config", "config init"]
COMMANDS += ["library"]


TERMINAL = {"MPLBACKEND": "agg", "COLUMNS": "80", "NO_COLOR": "1"}


def process(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, before=None, **environment):
    """Run a command in a process; whatever it says, it is never a traceback."""
    code = "from flatcal.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=stdout,
        stderr=stderr,
        text=True,
        check=False,
        preexec_fn=before,
        env={**os.environ, **TERMINAL, **environment},
    )
    assert "Traceback" not in f"{done.stdout}{done.stderr}"
    return done


def flatcal(*words, columns=80):
    """Run a command in this process; an exception that escapes fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["flatcal", *map(str, words)])
        for name, value in {**TERMINAL, "COLUMNS": str(columns)}.items():
            patch.setenv(name, value)
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
            main()
    return subprocess.CompletedProcess(words, end.value.code, out.getvalue(), err.getvalue())


def test_help_imports_nothing_that_takes_long():
    heavy = {"numpy", "astropy", "numba", "scipy", "pydantic", "bokeh", "dask", "sqlalchemy"}
    code = f"import sys, flatcal.cli; print(*({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def refusal(done, slug, exit_code):
    """The one line on standard error that ends with the slug."""
    assert done.returncode == exit_code
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("flatcal: ")
    assert line.endswith(f"[{slug}]")
    return line


def said(done, slug, exit_code):
    """The line of the summary that ends with the slug, with nothing on standard error."""
    assert done.returncode == exit_code, done.stdout
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line.endswith(f"[{slug}]")]
    assert len(lines) == 1, done.stdout
    return lines[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory, put_frame):
    """A small night that can be calibrated throughout; not to be changed."""
    raw = tmp_path_factory.mktemp("small") / "raw"
    levels = {"BIAS": (0.0, 1000), "DARK": (60.0, 1060), "FLAT": (2.0, 20_000)}
    for kind, (exposure, level) in levels.items():
        data = np.full((10, 12), level, np.uint16)
        for i in range(3):
            put_frame(raw / f"{kind}{i}.fits", kind, exposure, data, BUNIT="adu", FILTER="r")
    put_frame(raw / "m51.fits", "LIGHT", 60.0, BUNIT="adu", FILTER="r")
    return raw


@pytest.fixture
def night(small, tmp_path):
    """A copy of the small night."""
    shutil.copytree(small, tmp_path / "raw")
    return tmp_path / "raw"


# -- help and usage ----------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    done = flatcal(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert done.stderr == ""


def test_the_help_names_every_command():
    done = process("--help")
    assert done.returncode == 0
    words = done.stdout.split()
    assert {command.split()[0] for command in COMMANDS} <= set(words)


def test_the_version_is_that_of_the_package():
    assert flatcal("--version").stdout == f"flatcal {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [["plan"], ["frobnicate"], ["run", "x"], ["run", "x", "y", "-j", "0"], ["plan", "x", "--zzz"]],
)
def test_wrong_usage_is_exit_2_and_says_what(words):
    done = flatcal(*words)
    assert done.returncode == 2
    assert "Error" in done.stderr
    assert done.stdout == ""


def test_wrong_usage_is_exit_2_in_a_process():
    done = process("run", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Missing argument 'OUT'" in done.stderr


# -- inspect and plan --------------------------------------------------------------------


def test_inspect_counts_the_frames_of_each_kind(small):
    done = flatcal("inspect", small, columns=200)
    assert done.returncode == 0
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in done.stdout.splitlines()
        if line.startswith("│")
    ]
    assert [(row[0], row[1], row[2], row[5]) for row in rows] == [
        ("bias", "3", "0", "10 x 12"),
        ("dark", "3", "60", "10 x 12"),
        ("flat", "3", "2", "10 x 12"),
        ("science", "1", "60", "10 x 12"),
    ]


def test_plan_says_masters_steps_and_reasons(small):
    done = flatcal("plan", small, columns=200)
    assert done.returncode == 0
    for word in ("master_bias", "master_dark_60s x 0.03333", "/ master_flat_r", "10 frames"):
        assert word in done.stdout
    assert "10 frames: 6 into masters, 4 to calibrate, 0 refused" in done.stdout


def test_plan_as_json_is_the_plan(small, tmp_path):
    (tmp_path / "night.toml").write_text("[dark]\ntolerance_s = 0.25\n")
    done = flatcal("plan", small, "--json", "-c", tmp_path / "night.toml")
    assert done.returncode == 0
    assert json.loads(done.stdout)["schema_version"] == 1
    plan = Plan.model_validate_json(done.stdout)
    assert plan == build_plan(small, load_config(tmp_path / "night.toml"))
    assert plan.config.dark.tolerance_s == 0.25


def test_plan_as_json_of_a_night_with_refusals_is_json_and_exit_3(night):
    (night / "DARK0.fits").write_text("nothing")
    fits.delval(night / "m51.fits", "EXPTIME")
    done = flatcal("plan", night, "--json")
    assert done.returncode == 3
    assert len(Plan.model_validate_json(done.stdout).refused) == 2


def test_messages_are_one_line_each_in_a_narrow_terminal(night):
    for path in night.glob("DARK*"):
        path.unlink()
    line = said(process("plan", night), "no-dark", 3)
    assert len(line) > 80
    assert "dark.required = false" in line


# -- run ---------------------------------------------------------------------------------


def test_run_makes_the_outputs_and_a_second_run_nothing(small, tmp_path):
    out = tmp_path / "out"
    done = process("run", small, out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "10 frames: 6 used in masters, 4 calibrated, 0 failed" in done.stdout
    assert "7 outputs written, 0 up to date" in done.stdout
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert files == {
        "masters/master_bias.fits",
        "masters/master_dark_60s.fits",
        "masters/master_flat_r.fits",
        "flats/flat-FLAT0.fits",
        "flats/flat-FLAT1.fits",
        "flats/flat-FLAT2.fits",
        "science/science-m51.fits",
        "plan.json",
        "run.json",
    }
    before = {name: (out / name).stat().st_mtime_ns for name in files}
    again = process("run", small, out, "-j", "1", "--memory", "1MB")
    assert (again.returncode, again.stderr) == (0, "")
    assert "everything is up to date" in again.stdout
    assert {name: (out / name).stat().st_mtime_ns for name in files} == before


def test_run_does_what_can_be_done_and_exits_1(night, tmp_path):
    fits.setval(night / "FLAT1.fits", "EXPTIME", value="soon")
    done = process("run", night, tmp_path / "out")
    line = said(done, "exposure-not-a-number", 1)
    assert "FLAT1.fits: EXPTIME = 'soon'" in line
    assert (tmp_path / "out/science/science-m51.fits").is_file()
    again = flatcal("run", night, tmp_path / "out")
    said(again, "exposure-not-a-number", 1)
    assert "up to date" in again.stdout
    assert "everything" not in again.stdout


def test_run_does_not_replace_a_file_of_others_unless_told(night, tmp_path):
    mine = tmp_path / "out/science/science-m51.fits"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    line = said(flatcal("run", night, tmp_path / "out"), "output-exists", 1)
    assert "--overwrite" in line
    assert mine.read_text() == "mine"
    done = flatcal("run", night, tmp_path / "out", "--overwrite")
    assert done.returncode == 0
    assert fits.getval(mine, "IMAGETYP") == "science"


# -- interrupted -------------------------------------------------------------------------


def interrupt(*_arguments, **_options):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("command", "told"),
    [("run", "interrupted; no output was finished, run again to go on"), ("plan", "interrupted")],
)
def test_ctrl_c_while_planning_is_told(small, tmp_path, monkeypatch, command, told):
    monkeypatch.setattr("flatcal.planning.build_plan", interrupt)
    done = flatcal(command, small, *[tmp_path / "out"] * (command == "run"))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"flatcal: {told}\n")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_while_the_report_is_written_is_told(small, tmp_path, monkeypatch):
    monkeypatch.setattr("flatcal.cli._report", interrupt)
    done = flatcal("run", small, tmp_path / "out")
    assert done.returncode == 130
    assert f"7 of 7 outputs done and kept in {tmp_path / 'out'}, run again" in done.stderr


def test_ctrl_c_while_the_program_is_loaded_is_told(monkeypatch, capsys):
    monkeypatch.setattr("flatcal.cli.main", interrupt)
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "flatcal: interrupted\n"


# -- the terminal ------------------------------------------------------------------------


def test_names_that_a_terminal_does_not_know_are_spelt_out(night, tmp_path):
    (night / "m51.fits").rename(night / "m51 \u0439.fits")
    done = process("run", night, tmp_path / "out", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "m51 \\u0439" in done.stdout


@pytest.mark.parametrize("command", ["run", "--help"])
def test_output_that_is_full_is_told_when_all_is_done(small, tmp_path, command):
    words = {"run": ("run", small, tmp_path / "out")}
    with Path("/dev/full").open("w") as full:
        done = process(*words.get(command, (command,)), stdout=full)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    told = "standard output cannot be written: No space left on device [output-not-writable]"
    assert line == f"flatcal: {told}"
    assert (tmp_path / "out" / "run.json").exists() == (command == "run")


def test_standard_error_that_is_full_is_exit_2(tmp_path):
    with Path("/dev/full").open("w") as full:
        assert process("plan", tmp_path / "gone", stderr=full).returncode == 2


def test_a_log_that_is_full_is_told_once_and_the_run_goes_on(small, tmp_path):
    done = process("run", small, tmp_path / "out", "--log", "/dev/full")
    assert done.returncode == 0
    assert "outputs written" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("flatcal: /dev/full cannot be written: No space left on device; ")
    assert line.endswith("[output-not-writable]")


@pytest.mark.parametrize("streams", [(1,), (0, 1, 2)])
def test_output_that_is_closed_takes_anything(small, tmp_path, streams):
    def close():
        for number in streams:
            os.close(number)

    done = process("run", small, tmp_path / "out", before=close)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    again = process("run", small, tmp_path / "out")
    assert "everything is up to date" in again.stdout


def test_kinds_can_be_said(night, tmp_path):
    for path in night.glob("FLAT*"):
        fits.setval(path, "IMAGETYP", value="Light Frame")
    assert "flat-FLAT0" not in flatcal("plan", night, "--json").stdout
    done = flatcal("plan", night, "--kind", "flat=FLAT*", "--json")
    assert done.returncode == 0
    assert "flats/flat-FLAT0.fits" in done.stdout


# -- other commands ----------------------------------------------------------------------


def test_a_kind_that_fits_no_file_is_refused(small):
    refusal(flatcal("plan", small, "--kind", "flat=nosuch*"), "bad-config", 2)


def test_show_writes_a_picture(small, tmp_path):
    done = process("show", small / "m51.fits", "-o", tmp_path / "x.png")
    assert done.returncode == 0
    assert done.stdout.strip() == str(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")


def test_config_init_drafts_settings_that_load_and_plan(small, tmp_path):
    done = process("config", "init", small)
    assert (done.returncode, done.stderr) == (0, "")
    draft = tmp_path / "night.toml"
    draft.write_text(done.stdout)
    assert build_plan(small, load_config(draft)).refused == ()


def test_config_init_writes_a_new_file_and_never_over_an_old_one(small, tmp_path):
    draft = tmp_path / "night.toml"
    assert flatcal("config", "init", small, "-o", draft).returncode == 0
    load_config(draft)
    draft.write_text("mine")
    line = refusal(flatcal("config", "init", small, "-o", draft), "output-exists", 2)
    assert str(draft) in line
    assert draft.read_text() == "mine"


@pytest.mark.parametrize("camera", ["lfc_night", "cg16m_night"])
def test_drafted_settings_plan_a_known_camera_of_another_size(camera, request, tmp_path):
    night = request.getfixturevalue(camera)
    draft = tmp_path / "night.toml"
    draft.write_text(flatcal("config", "init", night.raw).stdout)
    assert build_plan(night.raw, load_config(draft)).refused == ()


def test_every_setting_that_the_draft_offers_can_be_taken(small, tmp_path):
    """Take the sign away from every line that has '=': it must still load."""
    lines = flatcal("config", "init", small).stdout.splitlines()
    offered = [
        line.removeprefix("# ")
        for line in lines
        if not line.startswith("# ") or line.startswith("# [[") or " = " in line.split("  #")[0]
    ]
    draft = tmp_path / "night.toml"
    draft.write_text("\n".join(offered))
    config = load_config(draft)
    assert {rule.kind.value for rule in config.kinds} == {"bias", "dark", "flat", "science"}


def test_simulate_writes_a_night_that_plans_with_its_settings(tmp_path):
    done = flatcal("simulate", tmp_path / "sim", "--camera", "lfc")
    assert (done.returncode, done.stderr) == (0, "")
    raw, config = tmp_path / "sim/lfc/raw", tmp_path / "sim/lfc/flatcal.toml"
    assert str(raw) in done.stdout
    assert len(list(raw.iterdir())) == 23
    assert (tmp_path / "sim/lfc/truth.npz").is_file()
    assert build_plan(raw, load_config(config)).refused == ()
    refusal(flatcal("simulate", tmp_path / "sim", "--camera", "lfc"), "output-exists", 2)


# -- bad input: one clear line -----------------------------------------------------------


@pytest.mark.parametrize("command", ["inspect", "plan", "run"])
def test_an_empty_folder(tmp_path, command):
    (tmp_path / "raw").mkdir()
    words = [tmp_path / "out"] if command == "run" else []
    line = refusal(flatcal(command, tmp_path / "raw", *words), "empty-folder", 2)
    assert str(tmp_path / "raw") in line
    assert not (tmp_path / "out").exists()


def test_a_missing_folder(tmp_path):
    line = refusal(process("plan", tmp_path / "gone"), "empty-folder", 2)
    assert f"{tmp_path}/gone is not a folder" in line


def test_no_darks(night, tmp_path):
    for path in night.glob("DARK*"):
        path.unlink()
    line = said(flatcal("run", night, tmp_path / "out"), "no-dark", 1)
    assert "FLAT0.fits" in line


def test_no_dark_within_the_tolerance(night, tmp_path):
    (tmp_path / "night.toml").write_text("[dark]\nscale = 'never'\n")
    line = said(flatcal("plan", night, "-c", tmp_path / "night.toml"), "dark-exposure", 3)
    for word in ("60 s", "58 s", "2 s", "tolerance 0.5 s", "FLAT0.fits", "dark.scale"):
        assert word in line


def test_a_missing_exposure_time(night):
    fits.delval(night / "m51.fits", "EXPTIME")
    line = said(flatcal("plan", night), "exposure-missing", 3)
    assert "m51.fits" in line
    assert "EXPTIME" in line


def test_two_sizes(night, put_frame):
    data = np.full((5, 6), 1000, np.uint16)
    put_frame(night / "tiny.fits", "LIGHT", 60.0, data, BUNIT="adu", FILTER="r")
    line = said(flatcal("plan", night), "no-dark", 3)
    assert "tiny.fits" in line
    assert "5 x 6" in line
    inspected = flatcal("inspect", night)
    assert inspected.returncode == 0
    assert "5 x 6" in inspected.stdout


def test_mixed_binning(night, put_frame):
    put_frame(night / "b.fits", "LIGHT", 60.0, BUNIT="adu", FILTER="r", XBINNING=2, YBINNING=2)
    done = flatcal("inspect", night)
    assert "2 x 2" in said(done, "mixed-binning", 0)
    assert "binning" in said(flatcal("plan", night), "no-dark", 3)


def test_no_unit_is_a_caveat_and_adu_in_capitals_is_none(night):
    fits.delval(night / "m51.fits", "BUNIT")
    fits.setval(night / "FLAT0.fits", "BUNIT", value="ADU")
    line = said(flatcal("plan", night), "unit-missing", 0)
    assert line.strip().startswith("m51.fits: ")


def test_an_unknown_unit(night):
    fits.setval(night / "m51.fits", "BUNIT", value="Jy")
    assert "m51.fits: BUNIT = 'Jy'" in said(flatcal("plan", night), "bad-unit", 3)


@pytest.mark.parametrize("out", ["raw/out", "raw", "."])
def test_output_and_raw_folder_in_one_another(night, tmp_path, out):
    refusal(flatcal("run", night, tmp_path / out), "output-in-raw", 2)
    assert {path.name for path in tmp_path.iterdir()} == {"raw"}


def test_an_output_folder_that_is_a_file(small, tmp_path):
    (tmp_path / "out").write_text("mine")
    refusal(flatcal("run", small, tmp_path / "out"), "output-not-writable", 2)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc")  # noqa: PTH112
def test_an_output_folder_that_can_not_be_made(small):
    assert "/proc/out" in refusal(flatcal("run", small, "/proc/out"), "output-not-writable", 2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--memory", "lots"], "'lots'"),
        (["--memory", "0"], "'0'"),
        (["--memory=-1GiB"], "'-1GiB'"),
        (["--memory", "9" * 400 + "G"], "'999"),
        (["--kind", "light=x*"], "'light=x*'"),
        (["-c", "gone.toml"], "gone.toml"),
    ],
)
def test_a_bad_option(small, tmp_path, words, told):
    line = refusal(flatcal("run", small, tmp_path / "out", *words), "bad-config", 2)
    assert told in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seconds", ["inf", "1e300", "nan", "0"])
def test_a_bad_interval(small, tmp_path, seconds):
    done = flatcal("watch", small, tmp_path / "out", "--interval", seconds)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--interval" in done.stderr
    assert not (tmp_path / "out").exists()


def test_bad_settings_are_told_line_by_line(small, tmp_path):
    path = tmp_path / "night.toml"
    path.write_text("[dark]\ntolerence_s = 1\nscale = 'no'\n")
    done = flatcal("plan", small, "-c", path)
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert (
        f"{path}:2: dark.tolerence_s is not a setting; did you mean tolerance_s?" in first + second
    )
    assert f"{path}:3: dark.scale = 'no'" in first + second
    assert second.endswith("[bad-config]")


@pytest.mark.parametrize("name", ["gone.fits", "text.fits", "."])
def test_show_of_what_is_no_image(tmp_path, name):
    (tmp_path / "text.fits").write_text("nothing")
    done = flatcal("show", tmp_path / name, "-o", tmp_path / "x.png")
    refusal(done, "file-broken", 2)
    assert not (tmp_path / "x.png").exists()
