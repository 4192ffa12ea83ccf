"""Disks, rights, memory, raw files and threads that fail while a run is at work.

Every fault is made, not imagined: a small disk, a file that is cut, a limit of the system. After
it, what stands under a final name is whole, raw files are untouched, the message names the cause,
and the next run ends with the outputs of a night that nobody disturbed.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from astropy.io import fits
from kills import contents, require_whole
from nights import SETTINGS, program

from flatcal.camera import CameraSettings
from flatcal.engine import frames as engine
from flatcal.engine.run import run_plan
from flatcal.engine.store import check_output
from flatcal.errors import BrokenFileError, ConfigError, OutputError
from flatcal.facts import read_frames
from flatcal.io import replacing
from flatcal.planning import build_plan
from flatcal.raw_frame import RawFrame
from flatcal.recipe import parse_config
from flatcal.report.gather import gather_report
from flatcal.verify import verify_output

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")


def slugs(result):
    return {error.slug for outcome in result.failed for error in outcome.errors}


def attempt(plan, out):
    """The result of a run, or the error that ended it."""
    try:
        return run_plan(plan, out, jobs=2), None
    except OutputError as error:
        return None, error


def images(out):
    return {name: content for name, content in contents(out).items() if name.endswith(".fits")}


def images_of(undisturbed):
    return {name: made for name, made in undisturbed.wanted.items() if name.endswith(".fits")}


def plan_of(raw):
    return build_plan(raw, parse_config(SETTINGS, "night.toml"))


def resume(undisturbed, out):
    """What stands is whole; and the next run ends with what an undisturbed one makes."""
    require_whole(out, undisturbed.wanted)
    result = run_plan(undisturbed.plan, out, jobs=2)
    assert result.failed == ()
    assert contents(out) == undisturbed.wanted


# -- disks and rights --------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A disk of its own; a function changes how it is mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder],
            check=True, capture_output=True,
        )  # fmt: skip

    try:
        mount("size=6M")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", "-l", folder], check=True)


@needs_root
def test_a_full_disk(undisturbed, disk):
    folder, remount = disk
    out = folder / "out"
    result, error = attempt(undisturbed.plan, out)
    if error is None:
        assert slugs(result) == {"output-not-writable"}
    else:  # not even run.json could be written
        assert error.slug == "output-not-writable"
        assert "No space left on device" in error.text
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    remount("size=100M")
    resume(undisturbed, out)


@needs_root
def test_a_disk_that_is_read_only(undisturbed, disk):
    folder, remount = disk
    remount("size=100M")
    out = folder / "out"
    run_plan(undisturbed.plan, out, jobs=2)
    (out / "science/science-light0.fits").unlink()
    remount("ro")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        run_plan(undisturbed.plan, out, jobs=2)
    assert caught.value.slug == "output-not-writable"
    remount("rw,size=100M")
    resume(undisturbed, out)


def test_a_limit_on_the_size_of_files(undisturbed, tmp_path):
    """As a full disk or a quota, where no disk can be mounted."""
    out = tmp_path / "out"
    done = in_a_process(
        undisturbed, out, "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, hard))"
    )
    assert done == "{'output-not-writable'}"
    resume(undisturbed, out)


def test_rights_that_are_lost_midway(undisturbed):
    """Of the folder of science frames, and as root of root itself, who may write anywhere."""
    folder = Path(tempfile.mkdtemp(prefix="flatcal-rights-"))
    folder.chmod(0o777)
    out = folder / "out"

    def lose(_what, done, _total):
        if done == 5:
            (out / "science").chmod(0o555)
            if os.getuid() == 0:
                for path in (folder, *folder.rglob("*")):
                    os.chown(path, NOBODY, -1)
                os.seteuid(NOBODY)

    raw = folder / "raw"
    try:
        shutil.copytree(undisturbed.raw, raw)
        try:
            result = run_plan(plan_of(raw), out, jobs=2, progress=lose)
            assert slugs(result) == {"output-not-writable"}
            assert {outcome.file[:5] for outcome in result.failed} == {"light"}
            assert all("Permission denied" in o.errors[0].text for o in result.failed)
        finally:
            os.seteuid(os.getuid())
            (out / "science").chmod(0o755)
        assert run_plan(plan_of(raw), out, jobs=2).failed == ()
        assert images(out) == images_of(undisturbed)
    finally:
        shutil.rmtree(folder)


def test_an_output_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    sync, rename = os.fsync, Path.replace

    def fsync(descriptor):
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink()}")
        sync(descriptor)

    def replace(path, target):
        done.append(f"rename {path}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    with replacing(tmp_path / "a.fits") as part:
        part.write_text("new")
    assert done == [f"sync {part}", f"rename {part}", f"sync {tmp_path}"]


def test_new_output_folders_are_on_the_disk(tmp_path, monkeypatch):
    done, sync = [], os.fsync

    def fsync(descriptor):
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    out = tmp_path / "nights/one"
    check_output(tmp_path / "raw", out)
    assert done == [tmp_path, out.parent, *[out] * 3]
    done.clear()
    check_output(tmp_path / "raw", out)
    assert done == []


def test_a_master_that_has_been_damaged_calibrates_nothing(undisturbed, tmp_path):
    """One bit of one pixel, with size and time as they were; an earlier run has written it."""
    out = tmp_path / "out"
    run_plan(undisturbed.plan, out, jobs=2)
    bias, science = out / "masters/master_bias.fits", out / "science/science-light0.fits"
    content = bytearray(bias.read_bytes())
    content[100_000] ^= 1  # of the values
    bias.write_bytes(content)
    science.unlink()
    (failed,) = run_plan(undisturbed.plan, out, jobs=2).failed
    assert failed.file == "light0.fits"
    assert failed.errors[0].slug == "file-broken"
    assert str(bias) in failed.errors[0].text
    assert not science.exists()
    bias.unlink()
    resume(undisturbed, out)


# -- raw files ---------------------------------------------------------------------------


def rewrite(path):
    with path.open("r+b") as file:
        file.seek(-2880, 2)
        file.write(b"\1" * 2880)


def grow(path):
    with path.open("ab") as file:
        file.write(bytes(2880))


def shrink(path):
    os.truncate(path, path.stat().st_size - 2880)


def write_again(path):
    path.write_bytes(path.read_bytes())


CHANGES = [rewrite, grow, shrink, write_again]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("stays_open", [True, False])
def test_a_raw_file_that_changes_while_it_is_read_is_named(
    undisturbed, tmp_path, change, stays_open, monkeypatch
):
    path = tmp_path / "b.fits"
    shutil.copy2(undisturbed.raw / "bias0.fits", path)
    (frame,) = read_frames(tmp_path, path.name, CameraSettings(), ())
    if not stays_open:
        monkeypatch.setattr("flatcal.raw_frame._OpenFiles.admit", lambda _: False)

    def read():
        with RawFrame(path, frame.storage, frame.setup.shape) as raw:
            raw.stored_rows(slice(0, 100))
            change(path)
            # If it stayed open, this may be of the new content: the end tells. Else opening tells.
            raw.stored_rows(slice(100, 200))
            assert stays_open

    with pytest.raises(BrokenFileError) as caught:
        read()
    assert caught.value.slug == "file-changed"
    assert caught.value.path == path


def as_floats(hdu):
    return fits.PrimaryHDU(hdu.data.astype("f4"), hdu.header)


def packed(hdu):
    return fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(hdu.data, hdu.header)])


def in_place(path, content):
    path.write_bytes(content)


def by_a_new_name(path, content):
    """As rsync does."""
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


@pytest.mark.parametrize("stays_open", [True, False])
@pytest.mark.parametrize("change", [in_place, by_a_new_name])
@pytest.mark.parametrize(
    ("name", "form"), [("f.fits", as_floats), ("p.fits.fz", packed), ("z.fits.gz", as_floats)]
)
def test_what_astropy_reads_is_of_one_file(
    undisturbed, tmp_path, name, form, change, stays_open, monkeypatch
):
    """A file that another takes the place of is read to its end while it is open."""
    path = tmp_path / name
    with fits.open(undisturbed.raw / "bias0.fits") as hdus:
        image = hdus[0].data.astype("f4")
        form(hdus[0]).writeto(path)
        hdus[0].data = hdus[0].data + np.uint16(1000)
        form(hdus[0]).writeto(tmp_path / f"later-{name}")
    before = path.read_bytes()
    (frame,) = read_frames(tmp_path, name, CameraSettings(), ())
    if not stays_open:
        monkeypatch.setattr("flatcal.raw_frame._OpenFiles.admit", lambda _: False)
    columns = slice(0, frame.setup.shape[1])

    def read():
        with RawFrame(path, frame.storage, frame.setup.shape) as raw:
            values = [raw.values(slice(0, 100), columns, np.float32)]
            change(path, (tmp_path / f"later-{name}").read_bytes())
            values.append(raw.values(slice(100, 200), columns, np.float32))
            assert stays_open
            return np.concatenate(values), raw.sha256()

    if stays_open and change is by_a_new_name:
        values, digest = read()
        np.testing.assert_array_equal(values, image[:200])
        assert digest == hashlib.sha256(before).hexdigest()
    else:
        with pytest.raises(BrokenFileError, match=r"\[file-changed\]"):
            read()


def change_while_it_is_read(change, file, monkeypatch):
    """Change a raw file when a run has read the first of its pixels; what was read, in a list."""
    read, done = RawFrame.stored_rows, []

    def read_and_change(frame, rows):
        pixels = read(frame, rows)
        if frame.path.name == file and not done:
            done.append(rows)
            change(frame.path)
        return pixels

    monkeypatch.setattr(RawFrame, "stored_rows", read_and_change)
    return done


def made_of(file, out):
    """The outputs that name a raw file among their inputs."""
    found = set()
    for path in out.rglob("*.fits"):
        header = fits.getheader(path)
        inputs = [header[f"INF{number:04d}"] for number in range(1, header["NINPUT"] + 1)]
        assert inputs
        if file in inputs:
            found.add(path.relative_to(out).as_posix())
    return found


MADE_OF = {
    "light1.fits": {"science/science-light1.fits"},
    "flat1.fits": {"flats/flat-flat1.fits", "masters/master_flat_V.fits"},
    "dark1.fits": {"masters/master_dark_60s.fits"},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("file", MADE_OF)
def test_a_raw_file_that_changes_while_a_run_reads_it_fails_alone(
    undisturbed, tmp_path, monkeypatch, file, change
):
    raw, out, fresh = tmp_path / "raw", tmp_path / "out", tmp_path / "fresh"
    shutil.copytree(undisturbed.raw, raw)
    plan = plan_of(raw)
    done = change_while_it_is_read(change, file, monkeypatch)
    result = run_plan(plan, out, jobs=2)
    assert done
    (failed,) = result.failed
    (error,) = failed.errors
    assert failed.file == file
    assert error.slug in ("file-changed", "file-broken" if change is shrink else "")
    assert str(raw / file) in error.text
    # Nothing is made of it; masters are made of the others.
    assert made_of(file, out) == set()
    own = {name for name in MADE_OF[file] if not name.startswith("masters/")}
    assert images(out).keys() == images_of(undisturbed).keys() - own
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    monkeypatch.undo()
    # The next plan takes the file as it is now, and ends as if it had been so from the start.
    run_plan(plan_of(raw), out, jobs=2, overwrite=True)
    run_plan(plan_of(raw), fresh, jobs=2)
    assert made_of(file, fresh) == (set() if change is shrink else MADE_OF[file])
    assert contents(out) == contents(fresh)


@pytest.mark.parametrize("file", ["light1.fits", "dark1.fits"])
def test_a_raw_file_that_is_deleted_while_it_is_open_is_read_to_its_end(
    undisturbed, tmp_path, monkeypatch, file
):
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(undisturbed.raw, raw)
    plan = plan_of(raw)
    done = change_while_it_is_read(Path.unlink, file, monkeypatch)
    result = run_plan(plan, out, jobs=2)
    assert done
    assert not (raw / file).exists()
    assert result.failed == ()
    assert images(out) == images_of(undisturbed)


def test_a_raw_file_that_is_deleted_between_two_readings_is_left_out_of_the_second(
    undisturbed, tmp_path, monkeypatch
):
    """A flat is read for its own output, and again for the master."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(undisturbed.raw, raw)
    plan = plan_of(raw)
    change_while_it_is_read(Path.unlink, "flat1.fits", monkeypatch)
    (failed,) = run_plan(plan, out, jobs=2).failed
    assert (failed.file, failed.errors[0].slug) == ("flat1.fits", "file-broken")
    assert str(raw / "flat1.fits") in failed.errors[0].text
    assert made_of("flat1.fits", out) == {"flats/flat-flat1.fits"}
    flat = "flats/flat-flat1.fits"
    assert images(out)[flat] == undisturbed.wanted[flat]


@pytest.mark.parametrize("call", ["preadv", "fsync"])
def test_a_disk_that_hangs_is_told_by_the_name_of_the_file(
    undisturbed, tmp_path, monkeypatch, caplog, call
):
    """The run goes on when it answers again."""
    monkeypatch.setattr("flatcal.waiting.LONG_S", 0.05)
    monkeypatch.setattr("flatcal.waiting._LOOK_EVERY_S", 0.01)
    act, told, hung = getattr(os, call), Event(), []

    def hang(descriptor, *arguments):
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)  # folders are synced before the run
        if is_file and not hung:
            hung.append(descriptor)
            told.wait(60)
        return act(descriptor, *arguments)

    def progress(what, _done, _total):
        if hung and "has not answered" in what:
            told.set()

    monkeypatch.setattr(os, call, hang)
    run_plan(undisturbed.plan, tmp_path / "out", jobs=2, progress=progress)
    assert told.is_set()
    folder = undisturbed.raw if call == "preadv" else tmp_path / "out"
    assert f"{folder}/" in caplog.text
    assert contents(tmp_path / "out").keys() == undisturbed.wanted.keys()


# -- memory, files, interruption, threads ------------------------------------------------


def in_a_process(undisturbed, out, statement):
    """Set a limit when everything is loaded, and run; the slugs of what failed."""
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from flatcal import run_plan\n"
        "from flatcal.plan import Plan\n"
        "plan = Plan.model_validate_json(sys.stdin.read())\n"
        "run_plan(plan, sys.argv[2], jobs=1)\n"
        "hard = resource.RLIM_INFINITY\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * 4096\n"
        f"{statement}\n"
        "result = run_plan(plan, sys.argv[1], jobs=1, memory_bytes=2**31)\n"
        "print({error.slug for o in result.failed for error in o.errors})\n"
        "print([error.text for o in result.failed for error in o.errors], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, out, out.parent / "warm-up"],
        input=undisturbed.plan.model_dump_json(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "defect" not in done.stdout, done.stderr
    return done.stdout.strip()


def test_too_little_memory_is_told(undisturbed, tmp_path):
    limit = "resource.setrlimit(resource.RLIMIT_AS, (used + 4_000_000, hard))"
    out = tmp_path / "out"
    assert in_a_process(undisturbed, out, limit) == "{'resources'}"
    resume(undisturbed, out)


def test_64_open_files_are_enough_for_200_frames(tmp_path, put_frame):
    raw = tmp_path / "raw"
    data = np.random.default_rng(1).normal(1000, 10, (16, 20)).astype(np.uint16)
    for n in range(200):
        put_frame(raw / f"b{n}.fits", "BIAS", 0.0, data + n % 3, BUNIT="adu")
    packed = raw / "packed.fits.gz"
    packed.write_bytes(gzip.compress((raw / "b0.fits").read_bytes()))
    config = tmp_path / "night.toml"
    config.write_text(SETTINGS)
    made = {}
    for limit in (64, 1024):
        run = program(
            "run", raw, tmp_path / str(limit), "-c", config,
            preexec_fn=lambda limit=limit: resource.setrlimit(
                resource.RLIMIT_NOFILE, (limit, limit)
            ),
        )  # fmt: skip
        out, err = run.communicate()
        assert run.returncode == 0, out + err
        made[limit] = contents(tmp_path / str(limit))
    assert made[64] == made[1024]


def test_ctrl_c_ends_a_run_within_a_second_or_two(tmp_path, put_frame):
    raw, out = tmp_path / "raw", tmp_path / "out"
    data = np.random.default_rng(1).normal(1000, 10, (1500, 1500)).astype(np.uint16)
    for n in range(3):
        put_frame(raw / f"b{n}.fits", "BIAS", 0.0, data, BUNIT="adu")
    first = put_frame(raw / "s0.fits", "LIGHT", 60.0, data, BUNIT="adu", FILTER="V")
    for n in range(1, 120):
        (raw / f"s{n}.fits").symlink_to(first)
    config = tmp_path / "night.toml"
    config.write_text(f"{SETTINGS}[dark]\nrequired=false\n[science]\nflat_required=false\n")
    run = program("run", raw, out, "-c", config, "-j", "2")
    until = time.monotonic() + 60
    while not list((out / "science").glob("*.fits")) and time.monotonic() < until:
        time.sleep(0.02)
        assert run.poll() is None, run.communicate()
    run.send_signal(signal.SIGINT)
    clock = time.monotonic()
    _, told = run.communicate(timeout=30)
    assert time.monotonic() - clock < 5  # measured on an idle machine: 0.3 s
    assert run.returncode == 130
    assert "flatcal: interrupted; " in told
    assert "of 121 outputs done and kept" in told
    assert "Traceback" not in told
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    made = list((out / "science").glob("*.fits"))
    assert 0 < len(made) < 120


def test_an_exception_in_a_thread_takes_one_frame_with_it(undisturbed, tmp_path, monkeypatch):
    whole = engine.calibrate_frame

    def fail_at_one(raw, *arguments, **keywords):
        if raw.path.name == "light1.fits":
            raise ZeroDivisionError("by a defect")
        return whole(raw, *arguments, **keywords)

    monkeypatch.setattr(engine, "calibrate_frame", fail_at_one)
    out = tmp_path / "out"
    result = run_plan(undisturbed.plan, out, jobs=2)
    assert {o.file: [e.slug for e in o.errors] for o in result.failed} == {
        "light1.fits": ["defect"]
    }
    assert "light1.fits: ZeroDivisionError: by a defect" in result.failed[0].errors[0].text
    monkeypatch.undo()
    resume(undisturbed, out)


# -- folders that go while a run is at work ----------------------------------------------------


def spoil(out, raw, how):
    shutil.rmtree(out / "science")
    if how == "becomes a file":
        (out / "science").write_text("mine")
    elif how == "becomes a link into the raw folder":
        (out / "science").symlink_to(raw)


@pytest.mark.parametrize(
    "how", ["is removed", "becomes a file", "becomes a link into the raw folder"]
)
def test_a_folder_of_outputs_that_goes_is_told_and_no_raw_folder_written(
    undisturbed, tmp_path, how
):
    out, raw = tmp_path / "out", tmp_path / "raw"
    shutil.copytree(undisturbed.raw, raw)
    before = sorted(raw.iterdir())

    def progress(_what, done, _total):
        if done == 1:
            spoil(out, raw, how)

    with pytest.raises(OutputError, match=r"science.*\[output-not-writable\]"):
        run_plan(plan_of(raw), out, jobs=2, progress=progress)
    assert sorted(raw.iterdir()) == before
    (out / "science").unlink(missing_ok=True)
    assert run_plan(plan_of(raw), out, jobs=2).failed == ()


def test_records_of_two_runs_are_told(undisturbed, tmp_path):
    """As a run leaves them that is killed between the two, or a hand that has changed the plan."""
    out = tmp_path / "out"
    run_plan(undisturbed.plan, out, jobs=2)
    whole = contents(out)
    plan, text = undisturbed.plan, (out / "plan.json").read_text()
    fewer = plan.model_copy(update={"frames": plan.frames[:-1], "masters": plan.masters[1:]})
    huge = [frame.model_copy(update={"shape": (1, 8 * 10**9)}) for frame in plan.frames]
    others = (fewer, plan.model_copy(update={"frames": tuple(huge)}))
    for changed in (*(other.model_dump_json(indent=1) for other in others), text + "\n"):
        assert changed != text
        (out / "plan.json").write_text(changed)
        for read in (gather_report, verify_output):
            with pytest.raises(ConfigError, match=r"are not of one run.*run again.*\[no-run\]"):
                read(out)
    # The next run, which makes nothing, leaves them so that they can be read again.
    assert run_plan(undisturbed.plan, out, jobs=2).made == ()
    assert contents(out) == whole
    assert len(gather_report(out).masters) == 3
