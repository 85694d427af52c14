"""How many threads a call may use."""

import os

from fastconv._validation import as_int, show


def as_workers(workers: object) -> int:
    """The number of threads for a call; None means the default for this process."""
    return default_workers() if workers is None else as_int("workers", workers, 1)


def default_workers() -> int:
    """FASTCONV_NUM_THREADS, else OMP_NUM_THREADS, else the processors this process may use.

    Raises
    ------
    ValueError
        If FASTCONV_NUM_THREADS is set to anything but an integer of at least 1.
    """
    own = os.environ.get("FASTCONV_NUM_THREADS", "").strip()
    if own:
        count = _as_count(own)
        if not count:
            raise ValueError(f"FASTCONV_NUM_THREADS must be an int >= 1, got {show(own)}")
        return count
    shared = _as_count(os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip())
    if shared:
        return shared
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _as_count(text: str) -> int:
    """The number that a variable gives, 0 where it gives none or an absurd one."""
    return int(text) if text.isdecimal() and len(text) < 10 else 0
