"""One run at a time in an output folder, and what becomes of the lock of a process that is dead."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest
from kills import contents
from nights import SETTINGS, program

from flatcal.engine import lock
from flatcal.engine.lock import LOCK_NAME, locking
from flatcal.engine.run import run_plan
from flatcal.errors import OutputError

HOLD = """
import sys, time
from pathlib import Path
from flatcal.engine import lock
from flatcal.engine.lock import locking
with locking(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def refusal(folder):
    with pytest.raises(OutputError) as caught, locking(folder):
        pass
    assert caught.value.slug == "output-busy"
    return caught.value.text


def has_lock(folder):
    try:
        with locking(folder):
            return True
    except OutputError:
        return False


def put_lock(folder, **changed):
    about = {"pid": os.getpid(), "host": socket.gethostname(), "since": "2024-01-01T00:00:00"}
    (folder / LOCK_NAME).write_text(json.dumps({**about, **changed}))


@pytest.fixture
def no_flock(monkeypatch):
    """A file system without locks."""

    def refuse(_file, _operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def dead_pid():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_the_second_is_told_who_holds_the_folder(tmp_path, holder):
    told = refusal(tmp_path)
    assert f"process {holder.pid} on {socket.gethostname()} since 2" in told
    assert str(tmp_path / LOCK_NAME) in told


def test_the_lock_goes_with_the_run(tmp_path):
    with locking(tmp_path):
        assert (tmp_path / LOCK_NAME).exists()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK_NAME).exists()
    assert has_lock(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"pid": "x"}', "\0" * 2000])
def test_a_lock_that_tells_nothing_is_judged_by_the_system(tmp_path, content):
    (tmp_path / LOCK_NAME).write_text(content)
    assert has_lock(tmp_path)


@pytest.mark.parametrize("content", ["", '{"pid": "x"}'])
def test_without_locks_of_the_system_it_counts_as_held(tmp_path, no_flock, content):
    (tmp_path / LOCK_NAME).write_text(content)
    assert "in use by" in refusal(tmp_path)


def test_without_locks_of_the_system_the_number_of_the_process_tells(tmp_path, no_flock, dead_pid):
    put_lock(tmp_path)
    assert f"process {os.getpid()} on" in refusal(tmp_path)
    put_lock(tmp_path, host="elsewhere", pid=dead_pid)
    assert "on elsewhere since" in refusal(tmp_path)
    put_lock(tmp_path, pid=dead_pid)
    assert has_lock(tmp_path)
    with locking(tmp_path):
        assert f"process {os.getpid()} on" in refusal(tmp_path)


def test_the_end_of_a_run_leaves_the_lock_of_another(tmp_path):
    """After the lock of the first was removed by hand, as the message of a refusal advises."""
    with ExitStack() as first:
        first.enter_context(locking(tmp_path))
        (tmp_path / LOCK_NAME).unlink()
        with locking(tmp_path):
            first.close()
            refusal(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_written_leaves_the_one_of_another(tmp_path, monkeypatch):
    def fail():
        (tmp_path / LOCK_NAME).unlink()
        put_lock(tmp_path)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock, "this_holder", fail)
    with pytest.raises(OutputError, match="No space left"), locking(tmp_path):
        pass
    assert (tmp_path / LOCK_NAME).exists()


def test_of_many_at_once_one_holds_it(tmp_path):
    """Over a lock that is left dead each time, so that all try to take it over."""
    held, most, count, told = 0, 0, 0, set()
    guard, barrier = threading.Lock(), threading.Barrier(8)

    def try_often():
        nonlocal held, most, count
        for _ in range(25):
            if barrier.wait() == 0 and not (tmp_path / LOCK_NAME).exists():
                (tmp_path / LOCK_NAME).write_text("dead")
            barrier.wait()
            try:
                with locking(tmp_path):
                    with guard:
                        held, count = held + 1, count + 1
                        most = max(most, held)
                    time.sleep(0.001)
                    with guard:
                        held -= 1
            except OutputError as error:
                told.add(error.slug)

    threads = [threading.Thread(target=try_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert count >= 25
    assert told == {"output-busy"}


def test_parts_of_the_dead_are_removed_and_those_of_the_living_are_not(
    undisturbed, tmp_path, dead_pid, holder
):
    out = tmp_path / "out"
    (out / "science").mkdir(parents=True)
    dead = [out / f".run.json.part-{dead_pid}", out / f"science/.a.fits.part-{dead_pid}"]
    living = out / f"science/.b.fits.part-{holder.pid}"
    other = out / "science/.c.fits.part-of-a-jigsaw"
    for path in (*dead, living, other):
        path.write_text("half")
    folder = out / f"science/.d.fits.part-{dead_pid}"
    folder.mkdir()
    run_plan(undisturbed.plan, out, jobs=2)
    assert [path.exists() for path in dead] == [False, False]
    assert folder.is_dir()
    assert living.exists()
    assert other.exists()


def test_two_runs_at_once_end_with_the_outputs_of_one(undisturbed, tmp_path):
    """The others start and end while the first is at work, between two of its outputs."""
    config, out = tmp_path / "night.toml", tmp_path / "out"
    config.write_text(SETTINGS)
    others = []

    def run_others(_what, done, _total):
        if done == 2:
            runs = [program("run", undisturbed.raw, out, "-c", config) for _ in range(2)]
            others.extend((run.communicate()[1], run.returncode) for run in runs)

    result = run_plan(undisturbed.plan, out, jobs=2, progress=run_others)
    assert result.failed == ()
    assert [code for _, code in others] == [2, 2]
    for told, _ in others:
        words = " ".join(told.split())
        assert f"in use by process {os.getpid()} on {socket.gethostname()} since 2" in words
        assert words.endswith("[output-busy]")
    assert contents(out) == undisturbed.wanted


def test_a_pipe_in_place_of_the_lock_is_not_waited_for(undisturbed, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / ".flatcal.lock")
    assert run_plan(undisturbed.plan, out).failed == ()
    assert not (out / ".flatcal.lock").exists()
