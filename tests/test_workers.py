"""The threads that share a call's work: who works, what ends them, and what they leave behind."""

import _thread
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fastconv import _workers
from fastconv._bell import Bell, Summons
from fastconv._workers import spread

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and fork are POSIX")
WAIT = 20  # seconds after which a thing that should have happened has not
MILLISECOND = 1_000_000  # nanoseconds


@pytest.fixture
def fresh(monkeypatch):
    """A pool of its own for the test."""
    monkeypatch.setattr(_workers, "_helpers", _workers._Helpers())


@pytest.fixture
def one_helper(fresh, monkeypatch):
    """A pool of one helper, as on two processors."""
    monkeypatch.setattr(_workers, "_processors", lambda: 2)


def assert_parallel(threads):
    """See that so many threads work at once."""
    together = threading.Barrier(threads)
    spread(lambda *_: together.wait(timeout=WAIT), range(threads), threads, 1)


class Busy:
    """A helper kept in a step, by another caller, until the block ends."""

    def __enter__(self):
        self.in_step, self.release = threading.Barrier(3), threading.Event()
        self.caller = threading.Thread(target=spread, args=(self.step, "ab", 2, 1))
        self.caller.start()
        self.in_step.wait(timeout=WAIT)
        return self

    def step(self, *_):
        self.in_step.wait(timeout=WAIT)
        assert self.release.wait(timeout=WAIT)

    def __exit__(self, *_):
        self.release.set()
        self.caller.join(timeout=WAIT)
        assert not self.caller.is_alive()


# --- the work -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spaces", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("units", "chunk"), [(0, 3), (1, 3), (3, 3), (4, 3), (9, 3), (100, 7), (50, 1), (5, 100)]
)
def test_every_unit_is_done_once(spaces, units, chunk):
    done = []

    def step(space, begin, end):
        time.sleep(0.0001)
        done.append((space, begin, end, _thread.get_ident()))

    spread(step, range(spaces), units, chunk)
    pieces = sorted((begin, end) for _, begin, end, _ in done)
    assert pieces == [(begin, min(begin + chunk, units)) for begin in range(0, units, chunk)]
    users = {(space, thread) for space, _, _, thread in done}
    assert len(users) == len({space for space, _ in users}) == len({thread for _, thread in users})


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_as_many_threads_as_spaces(threads):
    """However few processors there are."""
    assert_parallel(threads)


def test_the_caller_takes_the_first_space():
    used, both = {}, threading.Barrier(2)

    def step(space, *_):
        both.wait(timeout=WAIT)
        used[space] = _thread.get_ident()

    spread(step, "ab", 2, 1)
    assert used["a"] == _thread.get_ident() != used["b"]


@pytest.mark.parametrize(("spaces", "units", "chunk"), [("a", 9, 2), ("abc", 9, 9), ("ab", 0, 1)])
def test_no_other_thread_for_one_space_or_one_piece(fresh, spaces, units, chunk):
    used = set()
    spread(lambda space, *_: used.add((space, _thread.get_ident())), spaces, units, chunk)
    assert used <= {("a", _thread.get_ident())}
    assert _workers._helpers.threads == 0


def test_no_more_threads_than_pieces(one_helper):
    spread(lambda *_: None, range(9), 3, 1)
    assert _workers._helpers.threads == 2


def test_work_is_shared_by_speed():
    """Pieces go to who is free: a slow thread holds nobody up."""
    counts = Counter()

    def step(space, *_):
        time.sleep(0.05 if space == "slow" else 0.001)
        counts[space] += 1

    spread(step, ["quick", "slow"], 30, 1)
    assert counts["quick"] > 20


# --- the pool -------------------------------------------------------------------------------------


def test_the_pool_is_shared_and_limited(one_helper):
    threads, callers = set(), 20
    together = threading.Barrier(callers)

    def call(_):
        together.wait(timeout=WAIT)
        for _ in range(10):
            spread(lambda space, *_: threads.add((space, _thread.get_ident())), "ab", 20, 1)
            spread(lambda *_: time.sleep(0.0001), "ab", 4, 1)

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, range(callers), timeout=WAIT))
    assert _workers._helpers.threads == 1
    assert len({thread for space, thread in threads if space == "b"}) <= 1


def test_callers_at_once_get_helpers_of_their_own(fresh, monkeypatch):
    """Where there are processors for them."""
    monkeypatch.setattr(_workers, "_processors", lambda: 4)
    with Busy(), Busy():
        assert_parallel(2)
    assert _workers._helpers.threads == 3


def test_a_call_does_not_wait_for_a_busy_helper(one_helper):
    done = []
    with Busy():
        spread(lambda space, begin, _: done.append((space, begin)), "ab", 4, 1)
    assert done == [("a", begin) for begin in (0, 1, 3, 2)]
    assert_parallel(2)


def test_each_thread_has_a_part_of_its_own(one_helper):
    both, done = threading.Barrier(2), {"a": [], "b": []}

    def step(space, begin, end):
        done[space].append((begin, end))
        both.wait(10)

    for _ in range(3):
        spread(step, "ab", 12, 2)
        assert done == {"a": [(0, 2), (2, 4), (4, 6)], "b": [(6, 8), (8, 10), (10, 12)]}
        done["a"].clear()
        done["b"].clear()


def test_a_helper_that_becomes_free_joins_in(one_helper):
    joined = threading.Event()

    def step(space, begin, _):
        if space == "b":
            joined.set()
        else:
            busy.release.set()
            joined.wait(timeout=WAIT)

    with Busy() as busy:
        spread(step, "ab", 2, 1)
    assert joined.is_set()


def test_many_callers_at_once():
    callers, units = 20, 40
    together = threading.Barrier(callers)

    def call(seed):
        x = np.random.default_rng(seed).standard_normal((units, 3000))
        out = np.zeros_like(x)
        step = lambda _, begin, end: np.sqrt(np.abs(x[begin:end]), out=out[begin:end])  # noqa: E731
        together.wait(timeout=WAIT)
        for workers in (2, 3, 4, 2):
            out[...] = 0
            spread(step, range(workers), units, 3)
            np.testing.assert_array_equal(out, np.sqrt(np.abs(x)))

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, range(callers), timeout=WAIT))


def test_steps_that_spread(one_helper):
    """Also by a helper, to which the rest of its own call comes back."""
    done = []

    def outer(_, begin, __):
        spread(lambda _, inner, __: done.append((begin, inner)), "ab", 5, 1)
        time.sleep(0.001)

    for _ in range(20):
        done.clear()
        spread(outer, "abc", 6, 1)
        assert sorted(done) == [(a, b) for a in range(6) for b in range(5)]
    assert_parallel(3)


def test_steps_that_use_a_pool_that_spreads():
    done = []

    def inner(_, begin, __):
        time.sleep(0.0005)
        done.append(begin)

    with ThreadPoolExecutor(2) as pool:

        def outer(*_):
            pool.submit(spread, inner, "abc", 5, 1).result(timeout=WAIT)

        spread(outer, "abc", 6, 1)
    assert sorted(done) == sorted([*range(5)] * 6)


def test_threads_that_cannot_be_started(fresh, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", refuse)
        done = []
        spread(lambda space, begin, _: done.append((space, begin)), "abc", 4, 1)
    assert sorted(done) == [("a", begin) for begin in range(4)]
    assert _workers._helpers.threads == 0
    assert_parallel(3)


def refuse(*_):
    raise RuntimeError("can't start new thread")


# --- threads that stay awake ----------------------------------------------------------------------


def test_a_bell_is_heard_by_all_that_listen():
    bell, heard, listening = Bell(), [], threading.Barrier(4)

    def listen():
        listening.wait(timeout=WAIT)
        heard.append(bell.listen(WAIT * 1000 * MILLISECOND))

    threads = [threading.Thread(target=listen) for _ in range(3)]
    for thread in threads:
        thread.start()
    listening.wait(timeout=WAIT)
    time.sleep(0.02)
    assert not heard
    bell.ring()
    for thread in threads:
        thread.join(timeout=WAIT)
    assert heard == [True] * 3


def test_a_bell_that_rang_before_is_heard_at_once():
    bell = Bell()
    bell.ring()
    assert bell.listen(WAIT * 1000 * MILLISECOND)


@pytest.mark.parametrize("time_", [-1, 0, 1, 20 * MILLISECOND])
def test_listening_ends(time_):
    begin = time.monotonic_ns()
    assert not Bell().listen(time_)
    assert time_ <= time.monotonic_ns() - begin < WAIT * 1000 * MILLISECOND


def test_only_later_summons_are_heard():
    summons = Summons()
    summons.ring(1)
    summons.ring(1)
    assert summons.rings == 2
    begin = time.monotonic_ns()
    summons.attend(2, 20 * MILLISECOND, WAIT * 1000 * MILLISECOND, -1, None)
    assert 20 * MILLISECOND <= time.monotonic_ns() - begin < WAIT * 1000 * MILLISECOND


def test_who_is_summoned_gives_the_caller_time():
    summons = Summons()
    summons.ring(1)
    begin = time.monotonic_ns()
    summons.attend(0, 0, WAIT * 1000 * MILLISECOND, -1, None)  # there is no time to hear it
    assert time.monotonic_ns() - begin < WAIT * 1000 * MILLISECOND
    begin = time.monotonic_ns()
    summons.attend(0, 1, 20 * MILLISECOND, -1, None)
    assert time.monotonic_ns() - begin >= 20 * MILLISECOND


def test_the_end_of_a_share_is_rung_before_the_next_is_awaited():
    summons, done = Summons(), Bell()
    helper = threading.Thread(
        target=summons.attend, args=(0, WAIT * 1000 * MILLISECOND, 0, -1, done)
    )
    helper.start()
    assert done.listen(WAIT * 1000 * MILLISECOND)
    assert helper.is_alive()
    summons.ring(1)
    helper.join(timeout=WAIT)
    assert not helper.is_alive()


@contextmanager
def kept_on(processors):
    """Keep the calling thread on these processors."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def pairs_of_processors():
    """Two processors each way round, if there are two."""
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        return []
    one, other = sorted(os.sched_getaffinity(0))[:2]
    return [(one, other), (other, one)]


def present_processor():
    """Where the calling thread runs: field 39 of what the system tells of it."""
    return int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[36])


@pytest.mark.parametrize("asleep", [False, True])
@pytest.mark.parametrize(("caller", "other"), pairs_of_processors())
def test_helpers_leave_the_processor_of_the_caller(caller, other, asleep):
    def serve():
        begun.set()
        if asleep:
            while not summons.rings:
                time.sleep(0.001)
            summons.leave(-1)
        else:
            summons.attend(0, WAIT * 1000 * MILLISECOND, 0, -1, None)
        seen.append(os.sched_getaffinity(0))

    for _ in range(20):  # until the system leaves the caller where it was put
        summons, seen, begun = Summons(), [], threading.Event()
        with kept_on({caller}):  # the helper is put there too
            helper = threading.Thread(target=serve)
            helper.start()
        assert begun.wait(timeout=WAIT)
        with kept_on({caller}):
            os.sched_setaffinity(0, {caller, other})  # no reason to move
            places = [present_processor()]
            summons.ring(1)
            places.append(present_processor())
            helper.join(timeout=WAIT)
        if places == [caller, caller]:
            break
    assert seen == [{other}]


@pytest.mark.skipif(not pairs_of_processors(), reason="Linux, two processors")
@pytest.mark.parametrize("processors", [1, 2])
def test_helpers_stay_where_other_processors_are_too_few(processors):
    summons, allowed = Summons(), set(sorted(os.sched_getaffinity(0))[:processors])
    with kept_on(allowed):
        summons.ring(processors)
        with ThreadPoolExecutor(1) as pool:
            place = pool.submit(lambda: (summons.leave(-1), os.sched_getaffinity(0))[1]).result()
    assert place == allowed


def test_helpers_that_come_late_stay_awake(fresh):
    """Else one that sleeps at each call of many would never be in time."""
    helpers, waits = _workers._helpers, []

    class ListenedError(Exception):
        """The helper has listened after the share."""

    class Ear:
        rings = 0

        def attend(self, heard, wait, *_):
            waits.append(wait)
            if len(waits) == 2:
                raise ListenedError

        def leave(self, known):
            return known

    helpers.summons = Ear()
    share = _workers._Share(None, None, [], 0, 1)
    share.end()  # too late
    time.sleep(0.001)
    helpers.shares.put(share)
    with pytest.raises(ListenedError):
        helpers._serve()
    assert waits == [0, pytest.approx(_workers.PATIENCE, rel=0.5)]


@pytest.mark.parametrize("work", [MILLISECOND // 2, 20 * MILLISECOND])
def test_helpers_fall_asleep(fresh, work):
    spread(lambda *_: Bell().listen(work), range(3), 3, 1)
    time.sleep(0.02)
    begin = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - begin < 0.02


# --- what is left ---------------------------------------------------------------------------------


def assert_forgotten(call):
    """Let `call` use two spaces, and see that nothing holds them afterwards."""
    spaces = [np.zeros(3), np.zeros(3)]
    held = [weakref.ref(space) for space in spaces]
    gc.disable()
    try:
        call(spaces)
        spaces.clear()
        assert [ref() for ref in held] == [None, None]
    finally:
        gc.enable()


def test_helpers_hold_nothing_after_a_call():
    for _ in range(200):
        assert_forgotten(lambda spaces: spread(lambda x, *_: x.sum(), spaces, 3, 1))
    together = threading.Barrier(2)
    assert_forgotten(lambda spaces: spread(lambda x, *_: together.wait(timeout=WAIT), spaces, 2, 1))


def test_a_share_that_no_helper_took_holds_nothing(one_helper):
    with Busy():
        assert_forgotten(lambda spaces: spread(lambda x, *_: x.sum(), spaces, 3, 1))


@pytest.mark.parametrize("failing", [0, 1])
def test_an_exception_holds_only_what_its_traceback_does(failing):
    both = threading.Barrier(2)

    def call(spaces):
        def step(space, *_):
            both.wait(timeout=WAIT)
            if space is spaces[failing]:
                raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            spread(step, spaces, 2, 1)

    assert_forgotten(call)


# --- exceptions -----------------------------------------------------------------------------------


class Steps:
    """Steps of 20 ms that count how many run and ran; one of the threads may fail in its second."""

    def __init__(self, failing=None, error=ValueError("no")):  # noqa: B008
        self.failing, self.error, self.both = failing, error, threading.Barrier(2)
        self.running, self.begun = [], Counter()

    def __call__(self, space, *_):
        self.begun[space] += 1
        if self.begun[space] == 1:
            self.both.wait(timeout=WAIT)
        self.running.append(space)
        try:
            if space == self.failing and self.begun[space] == 2:
                raise self.error
            time.sleep(0.02)
        finally:
            self.running.remove(space)


@pytest.mark.parametrize("error", [ValueError("no"), IndexError("no"), MemoryError(), SystemExit()])
@pytest.mark.parametrize("failing", ["a", "b"])
def test_an_exception_ends_the_call(failing, error):
    steps = Steps(failing, error)
    with pytest.raises(type(error)) as info:
        spread(steps, "ab", 1000, 1)
    assert info.value is error
    assert not steps.running
    assert steps.begun.total() <= 5
    ran = steps.begun.total()
    time.sleep(0.05)
    assert steps.begun.total() == ran
    assert_parallel(2)


def test_exceptions_in_all_threads_at_once():
    both = threading.Barrier(2)

    def step(space, *_):
        both.wait(timeout=WAIT)
        raise ValueError(space)

    with pytest.raises(ValueError, match="a"):
        spread(step, "ab", 9, 1)
    assert_parallel(2)


def test_an_exception_with_one_space():
    with pytest.raises(ZeroDivisionError):
        spread(lambda *_: 1 // 0, "a", 9, 1)


# --- processes of their own -----------------------------------------------------------------------

CHILD = """
import atexit, _thread, hashlib, os, random, signal, sys, threading, time
from fastconv import _workers
from fastconv._workers import spread

def assert_parallel(threads):
    together = threading.Barrier(threads)
    spread(lambda *_: together.wait(timeout=20), range(threads), threads, 1)

def squares(threads=2):
    out = [None] * 20
    def step(_, begin, end):
        out[begin] = begin * begin
    spread(step, range(threads), 20, 1)
    return out == [n * n for n in range(20)]

DATA = bytes(2_000_000)
def kernel(*_):
    hashlib.sha256(DATA)  # some ms without the GIL, deaf to signals as a kernel is
"""


def child(code):
    """Run a Python of its own, and see that it ends well and complains of nothing."""
    done = subprocess.run([sys.executable, "-c", CHILD + code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr, done.stderr.decode()
    return done.stdout.decode().splitlines()


def test_import_starts_and_imports_nothing():
    code = (
        "import sys, numpy; before = set(sys.modules); import fastconv; import _thread;"
        "print({'threading', 'queue', 'concurrent.futures'} & set(sys.modules) - before);"
        "print(fastconv._workers._helpers.threads, _thread._count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n0 0\n"


FORK = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads, since 3.12

def check_in_child():
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            assert _workers._helpers.threads == 0
            assert_parallel(3)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
FORKS = {
    "after a call": "assert_parallel(2); check_in_child(); assert_parallel(2)",
    "with the lock taken": """
assert_parallel(2)
with _workers._helpers.starting:
    check_in_child()
assert_parallel(4)
""",
    "while others are in a call": """
ended = []
def others():
    while not ended:
        spread(kernel, range(2), 2, 1)
threads = [threading.Thread(target=others) for _ in range(3)]
for thread in threads:
    thread.start()
try:
    for _ in range(10):
        check_in_child()
finally:
    ended.append(True)
for thread in threads:
    thread.join(20)
    assert not thread.is_alive()
""",
    "in a child": "assert_parallel(2); check_in_child()\nif os.fork() == 0:\n    check_in_child()",
}


@posix
@pytest.mark.parametrize("when", FORKS)
def test_fork(when):
    child(FORK + FORKS[when])


# The steps send the signals themselves, so that they come at the wanted moment.
INTERRUPT = """
signal.signal(signal.SIGINT, signal.default_int_handler)
running, begun, sent = [], [], []

def interrupt():
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

def guarded(step):
    def counted(space, begin, end):
        begun.append(begin)
        running.append(space)
        try:
            step(space, begin, end)
        finally:
            running.remove(space)
    return counted

both = threading.Barrier(2)
def in_a_step(space, begin, end):
    if begin in (0, 5_000):  # the first one of both threads
        both.wait(20)
    if begin == 10:
        interrupt()
    kernel()

def while_waiting(space, begin, end):
    both.wait(20)
    if space == 1:
        time.sleep(0.1)
        interrupt()
        time.sleep(0.2)

def again_and_again(space, begin, end):
    both.wait(20)
    for _ in range(20 * space):
        time.sleep(0.01)
        interrupt()

def with_one_space(space, begin, end):
    if begin == 10:
        interrupt()
    kernel()

spaces = [0] if NAME == "with_one_space" else [0, 1]
units = 2 if NAME in ("while_waiting", "again_and_again") else 10_000
try:
    spread(guarded(globals()[NAME]), spaces, units, 1)
except KeyboardInterrupt:
    assert not running, running
    assert time.monotonic() - sent[0] < 1
    assert len(begun) < 100, begun
    time.sleep(0.1)
    assert not running
    print("interrupted")
assert_parallel(2)
print(_workers._helpers.threads <= max(1, _workers._processors() - 1))
"""


@posix
@pytest.mark.parametrize(
    "name", ["in_a_step", "while_waiting", "again_and_again", "with_one_space"]
)
def test_ctrl_c(name):
    assert child(f"NAME = {name!r}\n{INTERRUPT}") == ["interrupted", "True"]


# A handler raises only within `spread`, so wherever in it a signal comes, the test itself goes on.
ANY_MOMENT = """
def handler(_, frame):
    while frame:
        if frame.f_code is spread.__code__:
            raise KeyboardInterrupt
        frame = frame.f_back
signal.signal(signal.SIGINT, handler)

ended, running = [], []
def disturb():
    while not ended:
        time.sleep(random.random() * 0.002)
        os.kill(os.getpid(), signal.SIGINT)

def step(space, *_):
    running.append(space)
    time.sleep(0.0001) if space else [n * n for n in range(500)]
    running.remove(space)

disturber = threading.Thread(target=disturb)
disturber.start()
interrupted, end = 0, time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        spread(step, [0, 1, 2], 6, 1)
    except KeyboardInterrupt:
        interrupted += 1
    helpers = [space for space in running if space]
    assert not helpers, helpers
    running.clear()
ended.append(True)
disturber.join()
assert interrupted > 50, interrupted
assert_parallel(3)
assert _workers._helpers.threads <= max(2, _workers._processors() - 1)
"""


@posix
def test_ctrl_c_at_any_moment():
    child(ANY_MOMENT)


EXITS = {
    "idle": "assert_parallel(3); print(squares())",
    "in atexit": "assert_parallel(2); atexit.register(lambda: print(squares(3)))",
    "first in atexit": "atexit.register(lambda: print(squares()))",
    "in a thread that outlives the main one": """
def late():
    threading.main_thread().join()
    print(squares(3))
threading.Thread(target=late).start()
""",
    "in a daemon thread": """
def for_ever():
    while True:
        spread(kernel, range(3), 6, 1)
for _ in range(3):
    threading.Thread(target=for_ever, daemon=True).start()
time.sleep(0.1)
atexit.register(lambda: print(squares(3)))
""",
}


@pytest.mark.parametrize("when", EXITS)
def test_exit(when):
    for _ in range(3):
        start = time.monotonic()
        assert child(EXITS[when]) == ["True"]
        assert time.monotonic() - start < WAIT


def test_exit_where_no_thread_can_be_started_any_more():
    code = """
_thread.start_new_thread = None  # would be a TypeError
sys.is_finalizing = lambda: True
print(squares())
"""
    assert child(code) == ["True"]
