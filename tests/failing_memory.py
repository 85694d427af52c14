"""NumPy's memory, made to run out: every array of a context comes from an allocator that may fail.

NumPy takes its arrays' memory from a table of C functions that can be exchanged (NEP 49). The one
here is a copy of NumPy's own with the two functions that allocate replaced.
"""

import ctypes
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

from numpy._core import _multiarray_umath

MALLOC = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
CALLOC = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)


class Handler(ctypes.Structure):
    """PyDataMem_Handler."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", ctypes.c_void_p),
        ("calloc", ctypes.c_void_p),
        ("realloc", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


def _numpy_function(index: int, *arguments: type) -> ctypes._CFuncPtr:
    """A function of NumPy's C interface, by its place in the table."""
    table = _pointer(_multiarray_umath._ARRAY_API, None)
    address = ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))[index]
    return ctypes.PYFUNCTYPE(ctypes.py_object, *arguments)(address)


def _pointer(capsule: object, name: bytes | None) -> int:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return get(capsule, name)


SET_HANDLER = _numpy_function(304, ctypes.py_object)
GET_HANDLER = _numpy_function(305)

OWN = Handler.from_address(_pointer(GET_HANDLER(), b"mem_handler"))
OWN_MALLOC = ctypes.PYFUNCTYPE(*MALLOC)(OWN.malloc)  # with the GIL held, as NumPy calls them
OWN_CALLOC = ctypes.PYFUNCTYPE(*CALLOC)(OWN.calloc)


class FailingMemory:
    """A context whose `fail_at`-th allocation of an array, counted from 0, finds no memory.

    `count` is the number of allocations so far; with no `fail_at` they are only counted.
    """

    current: "FailingMemory | None" = None

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.count = 0

    def __enter__(self) -> "FailingMemory":
        FailingMemory.current = self
        self.before = SET_HANDLER(CAPSULE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        SET_HANDLER(self.before)
        FailingMemory.current = None

    def fails(self) -> bool:
        self.count += 1
        return self.count - 1 == self.fail_at


@ctypes.CFUNCTYPE(*MALLOC)
def _malloc(context: int, size: int) -> int | None:
    fails = FailingMemory.current is not None and FailingMemory.current.fails()
    return None if fails else OWN_MALLOC(OWN.context, size)


@ctypes.CFUNCTYPE(*CALLOC)
def _calloc(context: int, count: int, size: int) -> int | None:
    fails = FailingMemory.current is not None and FailingMemory.current.fails()
    return None if fails else OWN_CALLOC(OWN.context, count, size)


HANDLER = Handler(
    b"failing",
    OWN.version,
    OWN.context,
    ctypes.cast(_malloc, ctypes.c_void_p),
    ctypes.cast(_calloc, ctypes.c_void_p),
    OWN.realloc,
    OWN.free,
)
# Arrays may outlive this module, and name their handler when they are freed.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(HANDLER))
_new = ctypes.pythonapi.PyCapsule_New
_new.restype = ctypes.py_object
_new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
NAME = ctypes.create_string_buffer(b"mem_handler")
ctypes.pythonapi.Py_IncRef(ctypes.py_object(NAME))
CAPSULE = _new(ctypes.addressof(HANDLER), ctypes.cast(NAME, ctypes.c_char_p), None)


def give_memory(
    set_attribute: Callable[[ModuleType, str, Any], None],
    engine: ModuleType,
    allocate: Callable[..., Any],
) -> None:
    """Have an engine allocate so, each worker's scratch by itself."""
    set_attribute(engine, "allocate", allocate)
    set_attribute(
        engine,
        "scratches",
        lambda workers, room, dtype: [allocate("", (room,), dtype) for _ in range(workers)],
    )
