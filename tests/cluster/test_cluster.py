"""Runs on real scheduler and worker processes, held against the same runs on threads."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask.config
import numpy as np
import pytest
from astropy.io import fits
from distributed import Client
from processes import Processes, free_port

from flatcal._version import __version__
from flatcal.engine import cluster
from flatcal.engine.run import run_plan
from flatcal.errors import BrokenFileError, ClusterError, ConfigError, FrameError, OutputError
from flatcal.planning import build_plan
from flatcal.projection import project_memory
from flatcal.recipe import load_config, parse_config
from flatcal.records import RunRecord

SETTINGS = "[camera]\ngain_electron_per_adu=1.5\nread_noise_electron=6\n"


def outputs(folder):
    """Every file of an output folder; run.json as what it tells, without the times of the run."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found[path.relative_to(folder).as_posix()] = path.read_bytes()
    record = RunRecord.model_validate_json(found["run.json"])
    return found | {"run.json": record.model_dump(exclude={"started", "seconds"})}


def plan_of(night):
    return build_plan(night.raw, load_config(night.config))


@pytest.fixture(scope="module")
def on_threads(lfc_night, cg16m_night, tmp_path_factory):
    """What threads make of the two nights."""
    made = {}
    for name, night in {"lfc": lfc_night, "cg16m": cg16m_night}.items():
        out = tmp_path_factory.mktemp(name) / "out"
        run_plan(plan_of(night), out)
        made[name] = outputs(out)
    return made


@pytest.mark.parametrize("camera", ["lfc", "cg16m"])
def test_two_workers_make_the_bytes_of_threads(camera, request, on_threads, shared, tmp_path):
    plan = plan_of(request.getfixturevalue(f"{camera}_night"))
    # The least memory: many small bands, one task at a time.
    least = project_memory(plan).least_bytes
    told = []
    result = run_plan(
        plan, tmp_path / "out", memory_bytes=least, progress=lambda *step: told.append(step),
        engine="dask", scheduler=shared.address,
    )  # fmt: skip
    assert outputs(tmp_path / "out") == on_threads[camera]
    assert set(result.made) == set(result.record.products)
    assert [done for _, done, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, _, total in told} == {len(told)}


def test_pixels_do_not_pass_through_the_scheduler(cg16m_night, shared, tmp_path):
    """All that it sends and receives for a night is less than one frame, or one plane of a band."""
    plan = plan_of(cg16m_night)
    before = shared.meter.n_bytes
    run_plan(plan, tmp_path / "out", engine="dask", scheduler=shared.address)
    passed = shared.meter.n_bytes - before
    frame = next(Path(plan.raw).glob("*.fits")).stat().st_size
    assert 0 < passed < frame // 2, f"{passed} bytes passed, a frame has {frame}"


def test_workers_keep_nothing_of_a_run_that_has_ended(small, shared, tmp_path):
    def held():  # goes to the workers as code
        return len(sys.modules["flatcal.engine.cluster_tasks"]._SHOPS)

    plan = small_plan(small)
    during = []
    with Client(shared.address, set_as_default=False) as client:
        run_plan(
            plan, tmp_path / "out", engine="dask", scheduler=shared.address,
            progress=lambda what, *_: what == "light1.fits" and during.append(client.run(held)),
        )  # fmt: skip
        after = client.run(held)
    assert any(during[0].values())
    assert list(after.values()) == [0, 0]


NIGHT = {"BIAS": (0.0, 1000), "DARK": (60.0, 1060), "FLAT": (2.0, 20_000), "LIGHT": (60.0, 3000)}


@pytest.fixture
def small(tmp_path, put_frame):
    """Three frames of each kind, of some bands each."""
    raw, rng = tmp_path / "raw", np.random.default_rng(5)
    for kind, (exposure, level) in NIGHT.items():
        for n in range(3):
            data = rng.normal(level, 10, (300, 200)).astype(np.uint16)
            put_frame(
                raw / f"{kind.lower()}{n}.fits", kind, exposure, data, BUNIT="adu", FILTER="V"
            )
    return raw


def small_plan(raw, text=SETTINGS):
    return build_plan(raw, parse_config(text, "night.toml"))


@pytest.mark.parametrize(
    "text",
    [
        "[output]\nflats=false\nsplit_flat=true\n",
        "[combine]\nmethod='median'\nreject='winsorised'\n[output]\nuncertainty=false\nmask=false\n",
    ],
)
def test_other_settings_make_the_bytes_of_threads(small, shared, tmp_path, text):
    plan = small_plan(small, SETTINGS + text)
    run_plan(plan, tmp_path / "threads")
    run_plan(plan, tmp_path / "dask", engine="dask", scheduler=shared.address)
    assert outputs(tmp_path / "dask") == outputs(tmp_path / "threads")


def test_either_engine_goes_on_where_the_other_has_ended(small, shared, tmp_path):
    out, plan = tmp_path / "out", small_plan(small)
    run_plan(plan, out)
    whole, record = outputs(out), (out / "run.json").stat()
    assert run_plan(plan, out, engine="dask", scheduler=shared.address).made == ()
    assert (out / "run.json").stat() == record
    for name in ("science/science-light1.fits", "masters/master_dark_60s.fits"):
        (out / name).unlink()
        result = run_plan(plan, out, engine="dask", scheduler=shared.address)
        assert result.made == (name,)
        assert outputs(out) == whole
    (out / "flats/flat-flat2.fits").unlink()
    assert run_plan(plan, out).made == ("flats/flat-flat2.fits",)
    assert outputs(out) == whole


def test_files_of_several_images_and_cubes_make_the_bytes_of_threads(shared, tmp_path):
    """Of one science file an image has no dark: it fails, and the others are written."""
    raw, rng = tmp_path / "raw", np.random.default_rng(6)
    raw.mkdir()
    for kind, (exposure, level) in NIGHT.items():
        header = fits.Header({"IMAGETYP": kind, "EXPTIME": exposure, "BUNIT": "adu", "FILTER": "V"})
        for n in range(3):
            chips = ("A", "B", "C") if (kind, n) == ("LIGHT", 1) else ("A", "B")
            images = [
                fits.ImageHDU(rng.normal(level, 10, (300, 200)).astype(np.uint16), name=chip)
                for chip in chips
            ]
            file = raw / f"{kind.lower()}{n}.fits"
            fits.HDUList([fits.PrimaryHDU(header=header), *images]).writeto(file)
        cube = rng.normal(level, 10, (4, 100, 200)).astype(np.uint16)
        fits.PrimaryHDU(cube, header).writeto(raw / f"{kind.lower()}-cube.fits")
    plan = small_plan(raw)
    result = run_plan(plan, tmp_path / "threads")
    assert [o.file for o in result.failed] == ["light1.fits[C]"]
    run_plan(plan, tmp_path / "dask", engine="dask", scheduler=shared.address)
    assert outputs(tmp_path / "dask") == outputs(tmp_path / "threads")
    assert run_plan(plan, tmp_path / "dask", engine="dask", scheduler=shared.address).made == ()


def test_what_fails_on_threads_fails_alike_on_workers(small, shared, tmp_path):
    """Frames that break after planning, an output that is somebody's, flats without a dark."""
    plan = small_plan(small)
    for name in ("bias1", "flat0", "light2"):
        path = small / f"{name}.fits"
        path.write_bytes(path.read_bytes()[:-3000])
    for engine, more in {"threads": {}, "dask": {"scheduler": shared.address}}.items():
        theirs = tmp_path / engine / "science/science-light0.fits"
        theirs.parent.mkdir(parents=True)
        theirs.write_text("a letter")
        result = run_plan(plan, tmp_path / engine, engine=engine, **more)
        slugs = {o.file: [e.slug for e in o.errors] for o in result.failed}
        assert slugs == {
            "bias1.fits": ["file-changed"],
            "flat0.fits": ["file-changed"],
            "light0.fits": ["output-exists"],
            "light2.fits": ["file-changed"],
        }
    made, wanted = (outputs(tmp_path / engine) for engine in ("dask", "threads"))
    here, there = (str(tmp_path / engine) for engine in ("threads", "dask"))
    assert str(made.pop("run.json")).replace(there, here) == str(wanted.pop("run.json"))
    assert made == wanted


def test_frames_whose_master_failed_name_its_reason(small, shared, tmp_path):
    plan = small_plan(small)
    for path in small.glob("dark*.fits"):
        path.unlink()
    results = [
        run_plan(plan, tmp_path / "threads"),
        run_plan(plan, tmp_path / "dask", engine="dask", scheduler=shared.address),
    ]
    assert len(results[1].failed) == 9
    assert results[0].failed == results[1].failed


@pytest.mark.parametrize(
    "error",
    [
        FrameError("flat-level", "a.fits has no level"),
        OutputError("output-busy", "OUT is in use"),
        BrokenFileError("file-broken", "b.fits is cut", Path("b.fits")),
        ClusterError("cluster", "no workers"),
    ],
)
def test_errors_go_from_process_to_process(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


# -- when processes end ------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """A cluster that a test may harm."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    with Processes(folder) as processes:
        processes.wait_until_up()
        yield processes


def test_a_worker_that_is_killed_in_the_middle_changes_no_byte(
    own, cg16m_night, on_threads, tmp_path
):
    """Two of three are killed: one at work on bands of a master, one at work on flats."""
    for _ in range(3):
        own.add_worker()
    out, plan = tmp_path / "out", plan_of(cg16m_night)
    ended = threading.Event()

    def kill_at_first_band():
        while not ended.is_set():
            if list(out.glob("masters/.master_bias-*")):
                own.workers[0].kill()
                return
            time.sleep(0.0005)

    def kill_at_third_flat(what, _done, _total):
        if what.startswith("flat-"):
            flats.append(what)
            if len(flats) == 3:
                own.workers[1].kill()

    flats = []
    watcher = threading.Thread(target=kill_at_first_band)
    watcher.start()
    try:
        result = run_plan(
            plan, out, memory_bytes=project_memory(plan).least_bytes,
            progress=kill_at_third_flat, engine="dask", scheduler=own.address,
        )  # fmt: skip
    finally:
        ended.set()
        watcher.join()
    killed = [worker.wait(10) for worker in own.workers[:2]]
    assert killed == [-signal.SIGKILL] * 2
    assert own.workers[2].poll() is None
    assert result.failed == ()
    assert outputs(out) == on_threads["cg16m"]


def test_an_output_that_ends_its_workers_fails_alone(small, tmp_path):
    """The system ends a process that takes too much memory; here something loaded before does."""
    deadly = tmp_path / "deadly.py"
    deadly.write_text(
        "import os, flatcal.engine.cluster_tasks as tasks\n"
        "whole = getattr(tasks, 'whole', tasks.do_task)  # this may be loaded twice\n"
        "def work(bench, task):\n"
        "    if task.do == 'write' and task.frame.file == 'light1.fits':\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return whole(bench, task)\n"
        "tasks.whole, tasks.do_task = whole, work\n"
    )
    # The first death makes suspects of all that a worker has; the second is proof.
    with Processes(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as own:
        own.wait_until_up()
        for _ in range(3):
            own.add_worker(DASK_DISTRIBUTED__WORKER__PRELOAD=str([str(deadly)]))
        out = tmp_path / "out"
        result = run_plan(small_plan(small), out, engine="dask", scheduler=own.address)
    assert {o.file: [e.slug for e in o.errors] for o in result.failed} == {
        "light1.fits": ["worker-lost"]
    }
    assert "all workers at work on it ended (1, the last tcp://" in result.failed[0].reason


def test_a_scheduler_that_is_lost_ends_the_run_and_keeps_what_is_done(own, small, tmp_path):
    own.add_worker()
    out, plan = tmp_path / "out", small_plan(small)

    def kill(_what, done, _total):
        if done == 4:
            own.scheduler.kill()

    with pytest.raises(ClusterError, match=f"{own.address} was lost.* \\[cluster\\]"):
        run_plan(plan, out, progress=kill, engine="dask", scheduler=own.address)
    assert len(list(out.glob("*/*.fits"))) >= 4
    own.workers[0].wait(60)
    run_plan(plan, out)
    run_plan(plan, tmp_path / "whole")
    assert outputs(out) == outputs(tmp_path / "whole")


# -- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("tcp://127.0.0.1:{}", "Timed out trying to connect to tcp://127.0.0.1:.* after 0.5 s"),
        ("telegraph://127.0.0.1:{}", "telegraph"),
    ],
)
def test_a_scheduler_that_does_not_answer_is_named(small, tmp_path, address, why):
    address = address.format(free_port())
    told = f"the Dask scheduler {address} cannot be reached: .*{why}.*; start it, or correct"
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "500ms"}),
        pytest.raises(ClusterError, match=told),
    ):
        run_plan(small_plan(small), tmp_path / "out", engine="dask", scheduler=address)
    assert not (tmp_path / "out").exists()


def test_a_cluster_without_workers_is_refused(own, small, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "WORKERS_S", 0.5)
    with pytest.raises(ClusterError, match=r"has no workers within 0.5 s; .*'dask worker tcp://"):
        run_plan(small_plan(small), tmp_path / "out", engine="dask", scheduler=own.address)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("which", ["scheduler", "worker"])
def test_another_flatcal_is_refused_with_both_versions(small, tmp_path, which):
    other = tmp_path / "other/flatcal"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "_version.py").write_text("__version__ = '0.0.7'\n")
    path = {"PYTHONPATH": str(other.parent)}
    told = rf"the {which} tcp://.* has flatcal 0\.0\.7, .* {re.escape(__version__)}"
    with Processes(tmp_path, **(path if which == "scheduler" else {})) as own:
        own.wait_until_up()
        own.add_worker(**(path if which == "worker" else {}))
        with pytest.raises(ClusterError, match=told):
            run_plan(small_plan(small), tmp_path / "out", engine="dask", scheduler=own.address)
    assert not (tmp_path / "out").exists()


def test_a_scheduler_needs_the_engine(small, tmp_path):
    with pytest.raises(ConfigError, match="tcp://a:1 needs the engine dask"):
        run_plan(small_plan(small), tmp_path / "out", scheduler="tcp://a:1")
    with pytest.raises(ConfigError, match="'spark' is neither"):
        run_plan(small_plan(small), tmp_path / "out", engine="spark")


# -- the command -------------------------------------------------------------------------


def flatcal(*words, before="", **options):
    # A shell that starts the tests in the background lets them ignore interrupts.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code += f"\n{before}\nfrom flatcal.cli import main\nif __name__ == '__main__': main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
        **options,
    )


def test_without_an_address_processes_of_this_machine_do_it(small, tmp_path):
    config = tmp_path / "night.toml"
    config.write_text(SETTINGS)
    run = flatcal("run", small, tmp_path / "out", "-c", config, "--engine", "dask", "-j", 1)
    told, wrong = run.communicate(timeout=100)
    assert run.returncode == 0, told + wrong
    assert re.fullmatch(r"dashboard: http://127\.0\.0\.1:\d+/status\n", wrong)
    run_plan(small_plan(small), tmp_path / "threads")
    assert outputs(tmp_path / "out") == outputs(tmp_path / "threads")


def test_without_the_extra_one_line_names_it(small, tmp_path):
    run = flatcal(
        "run", small, tmp_path / "out", "--engine", "dask",
        before="import sys; sys.modules['distributed'] = None",
    )  # fmt: skip
    told, wrong = run.communicate(timeout=60)
    assert (run.returncode, told) == (2, "")
    assert wrong == (
        "flatcal: this needs distributed, of the extra [dask], which is not installed; "
        "pip install 'flatcal[dask]' [missing-extra]\n"
    )
    assert not (tmp_path / "out").exists()


def test_ctrl_c_ends_a_run_and_leaves_the_workers_free(shared, tmp_path, put_frame):
    raw, out = tmp_path / "raw", tmp_path / "out"
    data = np.random.default_rng(1).normal(1000, 10, (800, 800)).astype(np.uint16)
    for n in range(3):
        put_frame(raw / f"b{n}.fits", "BIAS", 0.0, data, BUNIT="adu")
    first = put_frame(raw / "s0.fits", "LIGHT", 60.0, data, BUNIT="adu", FILTER="V")
    for n in range(1, 100):
        (raw / f"s{n}.fits").symlink_to(first)
    config = tmp_path / "night.toml"
    config.write_text(f"{SETTINGS}[dark]\nrequired=false\n[science]\nflat_required=false\n")
    run = flatcal("run", raw, out, "-c", config, "--engine", "dask", "--scheduler", shared.address)
    until = time.monotonic() + 200
    while not list((out / "science").glob("*.fits")) and time.monotonic() < until:
        time.sleep(0.02)
        assert run.poll() is None, run.communicate()
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=30)
    assert run.returncode == 130, told
    assert "flatcal: interrupted; " in told
    assert "Traceback" not in told
    made = sorted(path.name for path in out.rglob("*") if path.is_file())
    assert not [name for name in made if name.startswith(".")]
    assert 1 < len(made) < 101
    time.sleep(0.5)
    assert made == sorted(path.name for path in out.rglob("*") if path.is_file())
    shutil.rmtree(raw)
