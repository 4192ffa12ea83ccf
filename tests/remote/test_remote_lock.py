"""One run at a time at an output address."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier

import pytest

from benchmarks.s3 import BUCKET, client_of
from flatcal.engine.holder import this_holder
from flatcal.engine.lock import LOCK_NAME, locking
from flatcal.errors import OutputError
from flatcal.storage import place_of


@pytest.fixture
def lock(server, outside):
    """Bucket and key of the lock, and a client that looks at it."""
    key = f"{outside.rpartition('/')[2]}/{LOCK_NAME}"
    return client_of(server), {"Bucket": BUCKET, "Key": key}


def is_there(lock):
    client, where = lock
    return bool(client.list_objects_v2(Bucket=BUCKET, Prefix=where["Key"]).get("Contents"))


def put_dead(lock, **changed):
    """The lock of a process of this machine that is no more."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    about = {**json.loads(this_holder()), "pid": ended.pid, **changed}
    lock[0].put_object(**lock[1], Body=json.dumps(about).encode())


def test_a_lock_is_there_while_it_is_held(reach, outside, lock):
    reach()
    with locking(place_of(outside)):
        assert is_there(lock)
        with (
            pytest.raises(OutputError, match=r"in use by process \d+ on .*output-busy"),
            locking(place_of(outside)),
        ):
            pass
        assert is_there(lock)
    assert not is_there(lock)


def test_a_lock_of_a_dead_process_is_taken_over_by_one(reach, outside, lock):
    reach()
    put_dead(lock)
    both = Barrier(4)

    def try_to_hold(_number):
        both.wait()
        with ExitStack() as stack:
            told = "held"
            try:
                stack.enter_context(locking(place_of(outside)))
            except OutputError as error:
                told = error.slug
            both.wait()
        return told

    with ThreadPoolExecutor(4) as pool:
        told = sorted(pool.map(try_to_hold, range(4)))
    assert told == ["held", "output-busy", "output-busy", "output-busy"]
    assert not is_there(lock)


def test_a_lock_of_another_machine_is_left(reach, outside, lock):
    reach()
    put_dead(lock, host="elsewhere")
    with pytest.raises(OutputError, match=f"on elsewhere.*remove {outside}/{LOCK_NAME}"):
        locking(place_of(outside)).__enter__()
    assert is_there(lock)


def test_a_lost_answer_does_not_lock_the_one_out_who_has_asked(reach, outside, lock):
    reach(lambda method, key, times: "cut" if method == "PUT" and times == 1 else None)
    # The cut reply has no body: what is lost then is the connection after it.
    with locking(place_of(outside)):
        assert is_there(lock)
    assert not is_there(lock)


def test_a_lock_that_became_anothers_is_not_removed(reach, outside, lock):
    reach()
    with locking(place_of(outside)):
        lock[0].put_object(**lock[1], Body=this_holder())
    assert is_there(lock)
