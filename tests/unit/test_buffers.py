"""What a run shares between threads: memory that is lent, masters on the shelf, the workers."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier, Event, Lock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatcal.engine.buffers import Buffers
from flatcal.engine.masters import make_master
from flatcal.engine.shelf import MasterShelf
from flatcal.engine.workers import Workers
from flatcal.errors import FrameError
from flatcal.projection import Projection, Stage

WAIT_S = 20

# -- buffers -----------------------------------------------------------------------------

SHAPES = st.one_of(
    st.tuples(st.integers(0, 40)),
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
)
DTYPES = st.sampled_from([np.uint8, np.int32, np.float32, np.float64])
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("lend"), SHAPES, DTYPES),
        st.tuples(st.just("return"), st.integers(0, 99)),
        st.tuples(st.just("clear")),
    ),
    max_size=40,
)


def loan_of(buffers, shape, dtype):
    """An array, and what is to be closed to give it back."""
    loan = ExitStack()
    return loan.enter_context(buffers.lend(shape, dtype)), loan


@given(ACTIONS)
def test_what_is_lent_belongs_to_one_borrower(actions):
    buffers, loans = Buffers(), []
    for number, (action, *words) in enumerate(actions):
        if action == "lend":
            shape, dtype = words
            array, loan = loan_of(buffers, shape, dtype)
            assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
            assert array.flags.c_contiguous
            assert array.flags.aligned
            assert array.flags.writeable
            assert not any(np.shares_memory(array, other) for other, _, _ in loans)
            array[...] = number
            loans.append((array, number, loan))
        elif action == "return" and loans:
            array, content, loan = loans.pop(words[0] % len(loans))
            assert (array == content).all()
            loan.close()
        elif action == "clear":
            buffers.clear()
    for array, content, loan in loans:
        assert (array == content).all()
        loan.close()


@pytest.mark.parametrize("n_threads", [2, 8])
def test_threads_never_get_the_same_memory(n_threads):
    buffers, all_have_written = Buffers(), Barrier(n_threads)

    def borrow(number):
        for turn in range(50):
            with buffers.lend((64 + turn % 3, 8), np.int32) as array:
                array[:] = number
                all_have_written.wait(WAIT_S)
                assert (array == number).all()
                all_have_written.wait(WAIT_S)

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(borrow, range(n_threads)))


def place(array):
    return array.__array_interface__["data"][0]


def place_of_next(buffers, size):
    with buffers.lend((size,), np.uint8) as array:
        return place(array)


def test_memory_comes_back_from_a_borrower_that_fails():
    buffers = Buffers()
    array, loan = loan_of(buffers, (9, 10), np.float64)
    loan.__exit__(FrameError, FrameError("file-broken", "as a test"), None)
    # In another shape and type as well.
    with buffers.lend((180,), np.float32) as other:
        assert place(other) == place(array)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1000, 0), (999, 0), (1001, 1), (1200, 1), (670, 0), (600, None), (1201, None), (1, None)],
)
def test_the_smallest_memory_that_fits_is_lent_unless_much_is_left_over(size, expected):
    buffers = Buffers()
    with buffers.lend((1200,), np.uint8) as large, buffers.lend((1000,), np.uint8) as small:
        places = [place(small), place(large)]
    found = place_of_next(buffers, size)
    assert (places.index(found) if found in places else None) == expected


def test_clearing_drops_what_is_not_lent():
    buffers = Buffers()
    kept, loan = loan_of(buffers, (50,), np.int32)
    kept[:] = 7
    with buffers.lend((300,), np.uint8) as array:
        free = weakref.ref(array.base)
    del array
    gc.collect()
    assert free() is not None
    buffers.clear()
    gc.collect()
    assert free() is None
    assert (kept == 7).all()
    loan.close()
    assert place_of_next(buffers, 200) == place(kept)


# -- shelf -------------------------------------------------------------------------------


class Disk:
    """Masters of 80 bytes each, without uncertainty and flags, and what was loaded."""

    def __init__(self):
        self.loaded = []

    def load(self, name):
        self.loaded.append(name)
        return master_of(10)


def master_of(n_values):
    return make_master(np.zeros((1, n_values)), None, np.zeros((1, n_values), np.uint8), "")


def shelf_of(disk):
    return MasterShelf(disk.load, lambda name: 80, lambda name: None)


def shelf_with(room, names):
    """A shelf for that many masters, asked for these in turn, and its disk."""
    disk = Disk()
    shelf = shelf_of(disk)
    shelf.make_room(80 * room)
    for name in names:
        shelf.get(name)
    return shelf, disk


@given(st.integers(0, 5), st.text("abcdef", max_size=30))
def test_the_shelf_holds_what_was_used_last_and_always_what_was_just_asked_for(room, asked):
    shelf, disk = shelf_with(room, "")
    held = []
    for name in asked:
        n_loaded = len(disk.loaded)
        shelf.get(name)
        assert (len(disk.loaded) > n_loaded) == (name not in held)
        held = [*(other for other in held if other != name), name][-max(room, 1) :]


def test_a_master_that_was_put_is_not_loaded_until_it_had_to_go():
    shelf, disk = shelf_with(2, "")
    made = master_of(10)
    shelf.put("a", made)
    assert shelf.get("a") is made
    shelf.get("b")
    shelf.get("c")
    assert shelf.get("a") is not made
    assert disk.loaded == ["b", "c", "a"]


def test_less_room_drops_masters_at_once():
    shelf, disk = shelf_with(3, "abc")
    held = weakref.ref(shelf.get("a").data)
    shelf.make_room(80)
    gc.collect()
    assert held() is not None
    shelf.make_room(79)
    gc.collect()
    assert held() is None
    assert len(disk.loaded) == 3


def test_uncertainty_and_flags_take_room_as_well():
    one = make_master(np.zeros((1, 10)), np.zeros((1, 10)), np.ones((1, 10), np.uint8), "")
    for room, stays in ((170, True), (169, False)):
        shelf, _ = shelf_with(0, "")
        shelf.put("a", one)
        shelf.make_room(room)
        assert (shelf.get("a") is one) == stays


def test_threads_that_want_the_same_master_load_it_once():
    disk, start = Disk(), Barrier(6)
    shelf = shelf_of(disk)
    shelf.make_room(80)

    def ask(_):
        start.wait(WAIT_S)
        return shelf.get("a")

    with ThreadPoolExecutor(6) as pool:
        masters = list(pool.map(ask, range(6)))
    assert disk.loaded == ["a"]
    assert all(master is masters[0] for master in masters)


# -- workers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(4) as made:
        yield made


def stage_for(at_once):
    """A stage, and the limit with which it lets so many tasks run at once."""
    return Stage("x", 0, 0, 10, 10), 10 * at_once


@pytest.mark.parametrize(("jobs", "at_once"), [(1, 1), (4, 1), (4, 3), (4, 4), (4, 9)])
def test_no_more_tasks_run_at_once_than_allowed_and_no_fewer(pool, jobs, at_once):
    stage, limit = stage_for(at_once)
    most = min(jobs, at_once)
    lock, full = Lock(), Barrier(most)
    running, seen = [], []

    def task():
        with lock:
            running.append(1)
            seen.append(len(running))
        full.wait(WAIT_S)
        Event().wait(0.002)  # time for one too many to begin
        with lock:
            running.pop()

    Workers(pool, jobs, limit, Projection((stage,))).run([task] * (6 * most), stage)
    assert len(seen) == 6 * most
    assert max(seen) == most


def test_without_a_stage_all_threads_work(pool):
    full, done = Barrier(4), []
    tasks = [lambda: done.append(full.wait(WAIT_S))] * 8
    Workers(pool, 4, 1, Projection(())).run(tasks)
    assert len(done) == 8


@pytest.mark.parametrize("jobs", [2, 4])
def test_an_error_is_raised_when_the_tasks_that_have_begun_are_done(pool, jobs):
    stage, limit = stage_for(jobs)
    all_begun, failed, ended = Barrier(jobs), Event(), []

    def fail():
        all_begun.wait(WAIT_S)
        failed.set()
        raise FrameError("file-broken", "as a test")

    def work():
        all_begun.wait(WAIT_S)
        assert failed.wait(WAIT_S)
        Event().wait(0.05)
        ended.append(1)

    workers = Workers(pool, jobs, limit, Projection((stage,)))
    with pytest.raises(FrameError, match="as a test"):
        workers.run([fail, *[work] * (jobs - 1)], stage)
    assert len(ended) == jobs - 1


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_no_task_begins_after_an_error(pool, at_once):
    stage, limit = stage_for(at_once)
    all_begun, begun_later = Barrier(at_once), []

    def fail():
        all_begun.wait(WAIT_S)
        raise FrameError("file-broken", "as a test")

    def later():
        begun_later.append(1)
        Event().wait(0.01)

    workers = Workers(pool, 4, limit, Projection((stage,)))
    with pytest.raises(FrameError):
        workers.run([*[fail] * at_once, *[later] * 20], stage)
    assert begun_later == []


@given(
    st.integers(1, 300), st.integers(1, 900), st.integers(1, 2000), st.integers(0, 9000),
    st.integers(1, 4), st.integers(0, 40_000),
)  # fmt: skip
@settings(max_examples=60)
def test_bands_cover_each_row_once_and_keep_to_the_memory(
    pool, rows, row_bytes, least, more, jobs, limit
):
    stage = Stage("x", 100, 50, least, least + more)
    bands = []
    workers = Workers(pool, jobs, limit, Projection((stage,)))
    workers.run_bands(rows, row_bytes, stage, bands.append)
    assert sorted(y for band in bands for y in range(band.start, band.stop)) == list(range(rows))
    highest = max(band.stop - band.start for band in bands)
    each = stage.thread_bytes(stage.threads(jobs, limit), limit)
    assert highest == 1 or highest * row_bytes <= each
    assert len(bands) == 1 or (highest + 1) * row_bytes > each


def test_a_master_that_another_thread_is_reading_is_waited_for_last():
    disk, begun, goes_on = Disk(), Event(), Event()

    def load_slowly(name):
        if name == "a" and not begun.is_set():
            begun.set()
            goes_on.wait(WAIT_S)
        elif name == "b":
            goes_on.set()  # while the other thread has not yet read the first
        return disk.load(name)

    shelf = MasterShelf(load_slowly, lambda name: 80, lambda name: None)
    shelf.make_room(160)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(shelf.get_all, "ab")
        assert begun.wait(WAIT_S)
        mine = shelf.get_all("ab")
        assert other.result(WAIT_S) == mine
    assert disk.loaded == ["b", "a"]
