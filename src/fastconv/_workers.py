"""How many threads a call may use, and the threads that help it."""

# The small modules beneath threading and queue: those take 2 ms to import, a tenth of what
# `import fastconv` may, and an import at the first call could be caught halfway by a fork.
import _thread
import itertools
import os
import sys
from _queue import SimpleQueue
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any, TypeAlias

from fastconv._bell import Bell, Summons
from fastconv._validation import as_int, show

Step: TypeAlias = Callable[[Any, int, int], None]
# Where pieces of work begin, those of each thread.
Parts: TypeAlias = list[deque[int]]

# Nanoseconds. After a share a helper stays awake for as long as that is old, PATIENCE at most:
# calls that follow each other find it awake, however late it came to the first of them. (OpenBLAS's
# stay awake for 2**26 cycles, some 30 ms.) A caller waits awake as long as waking it would take.
PATIENCE, END_PATIENCE = 2_000_000, 500_000
# From the ring for a share until the caller is in its kernel, as long as it holds the GIL.
GRACE = 15_000


# --- how many -------------------------------------------------------------------------------------


def as_workers(workers: object) -> int:
    """The number of threads for a call; None means the default for this process."""
    return default_workers() if workers is None else as_int("workers", workers, 1)


def given_workers(workers: object) -> int | None:
    """The number of threads asked for by a call or by FASTCONV_NUM_THREADS; None where by neither.

    The default takes 2 us to find out, so it is left to calls large enough to share.
    """
    if workers is None and "FASTCONV_NUM_THREADS" not in os.environ:
        return None
    return as_workers(workers)


def default_workers() -> int:
    """FASTCONV_NUM_THREADS, else OMP_NUM_THREADS, else the processors this process may use.

    All three may change while the process runs, so they are asked each time. That takes 3 us, most
    of it in `os.environ`.

    Raises
    ------
    ValueError
        If FASTCONV_NUM_THREADS is set to anything but an integer of at least 1.
    """
    own = os.environ.get("FASTCONV_NUM_THREADS")
    if own and (own := own.strip()):
        count = _as_count(own)
        if not count:
            raise ValueError(f"FASTCONV_NUM_THREADS must be an int >= 1, got {show(own)}")
        return count
    shared = os.environ.get("OMP_NUM_THREADS")
    if shared and (count := _as_count(shared.split(",")[0].strip())):
        return count
    return _processors()


def _as_count(text: str) -> int:
    """The number that a variable gives, 0 where it gives none or an absurd one."""
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _processors() -> int:
    """The processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- a call's work on several threads -------------------------------------------------------------


def spread(step: Step, spaces: Sequence[Any], units: int, chunk: int) -> None:
    """Call step(space, begin, end) until range(units) is covered, by a thread for each space.

    A call of `step` gets at most `chunk` units, and each thread keeps one space for itself. The
    calling thread works too; helpers that come late find less to do, or nothing. With one space, or
    units for one piece only, no other thread is touched.

    Each thread has a part of the units, and takes from the others' when that is done: in calls that
    follow each other it then mostly meets the same numbers, which its own cache still has.

    A step should release the GIL and last at most 50 ms or so: no piece is begun after an exception
    in any thread (Ctrl-C among them), but those begun are waited for. When this function returns or
    raises, no thread is in a step, and none but the traceback holds a space.

    A second thread adds 30 us to half the time of one if it is awake, and 80 to 300 if it must be
    woken, on two virtual cores.
    """
    if len(spaces) == 1 or units <= chunk:
        space = spaces[0]
        for begin in range(0, units, chunk):
            step(space, begin, min(begin + chunk, units))
        return
    begins = range(0, units, chunk)
    spaces = spaces[: len(begins)]
    ends = [len(begins) * k // len(spaces) for k in range(len(spaces) + 1)]
    parts = [deque(begins[first:end]) for first, end in itertools.pairwise(ends)]
    shares = [
        _Share(step, space, parts[k:] + parts[:k], units, chunk)
        for k, space in enumerate(spaces[1:], 1)
    ]
    failure: BaseException | None = None
    try:
        _helpers.send(shares)
        _work(step, spaces[0], parts, units, chunk)
    except BaseException as error:
        failure = error
    busy = True
    while busy:  # until the shares have ended, whatever comes: Ctrl-C may come again
        try:
            _drop(parts)
            for share in shares:
                share.end()
            busy = False
        except BaseException as error:
            failure = error
    for share in shares:
        failure = share.failure if failure is None else failure
        share.failure = None
    if failure is not None:
        try:
            raise failure
        finally:
            failure = None  # its traceback holds this frame


def _work(step: Step, space: Any, parts: Parts, units: int, chunk: int) -> None:
    """Do the pieces of the first part, then those that are left of the others, last ones first."""
    for k, part in enumerate(parts):
        take = part.pop if k else part.popleft
        while part:
            try:
                begin = take()
            except IndexError:  # another thread was quicker
                break
            step(space, begin, min(begin + chunk, units))


def _drop(parts: Parts) -> None:
    """See that no piece is begun any more."""
    for part in parts:
        part.clear()


class _Share:
    """What one helper may do of a call.

    Who takes `turn` decides: a helper, which keeps it for all its steps, or the caller at the end,
    which keeps it for good. It is re-entrant, so that the caller can try again after Ctrl-C without
    knowing how far it came. A caller that must wait listens for `ended` first, which its helper
    rings when it needs the GIL no more.
    """

    __slots__ = ("begun", "ended", "failure", "made", "turn", "work")

    def __init__(self, step: Step, space: Any, parts: Parts, units: int, chunk: int) -> None:
        self.turn = _thread.RLock()
        self.work: tuple[Step, Any, Parts, int, int] | None
        self.work = step, space, parts, units, chunk
        self.failure: BaseException | None = None
        self.begun = False
        self.ended = Bell()
        self.made = perf_counter_ns()

    def run(self) -> None:
        """Do the work, in a helper, unless the caller has ended it."""
        # What has ended has no work, though to the thread that ended it `turn` stays open.
        if self.work and self.turn.acquire(blocking=False):
            self.begun = True
            try:
                _work(*self.work)
            except BaseException as error:
                self.failure = error
                _drop(self.work[2])
            finally:
                self.turn.release()

    def end(self) -> None:
        """See that no helper begins the work, or wait for the one that has."""
        if self.begun:
            self.ended.listen(END_PATIENCE)
        self.turn.acquire()
        self.work = None


class _Helpers:
    """Threads that run the shares of any call; an idle one holds nothing and keeps nothing alive.

    `summons` rings for shares, since one that sleeps in the queue takes long to wake.

    Not a ThreadPoolExecutor: at exit that refuses work and waits for its threads. Nor
    threading.Thread, which waits until a new thread runs, and that may never be.
    """

    def __init__(self) -> None:
        self.shares: SimpleQueue[_Share] = SimpleQueue()
        self.summons = Summons()
        self.idle: deque[None] = deque()  # an item for each thread that waits for a share
        self.threads = 0
        self.starting = _thread.allocate_lock()

    def send(self, shares: list[_Share]) -> None:
        """Have the shares run as soon as threads are free for them, or not at all."""
        missing = self.shares.qsize() + len(shares) - len(self.idle)
        if missing > 0:
            self._start(missing, max(_processors() - 1, len(shares)))
        for share in shares:
            self.shares.put(share)
        self.summons.ring(len(shares))

    def _start(self, count: int, limit: int) -> None:
        """Start `count` threads, or as many as there may be."""
        with self.starting:
            for _ in range(min(count, limit - self.threads)):
                if sys.is_finalizing():  # a thread started now would never run
                    return
                self.threads += 1  # before, since Ctrl-C may come just after
                try:
                    _thread.start_new_thread(self._serve, ())
                except RuntimeError:  # no more threads: those there are must do, or the caller
                    self.threads -= 1
                    return

    def _serve(self) -> None:
        ended: Bell | None = None
        patience = caller = 0
        while True:
            self.idle.append(None)
            heard = self.summons.rings
            time = patience if self.shares.empty() else 0
            caller = self.summons.attend(heard, time, GRACE, caller, ended)
            share = self.shares.get()
            self.idle.pop()
            caller = self.summons.leave(caller)
            share.run()
            ended = share.ended
            patience = min(perf_counter_ns() - share.made, PATIENCE)


_helpers = _Helpers()


def _begin_anew() -> None:
    """Forget the helpers, in a forked process: no thread has come along, though locks it held."""
    global _helpers
    _helpers = _Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
