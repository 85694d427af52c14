"""Arrays that results are written to, and arrays as kernels can read them.

Kernels read any strides but only aligned elements in native byte order, and write arrays whose
elements do not overlap. What a caller hands in need not be so: it is then worked on as a copy.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastconv._validation import Array, check_target

# Packed weights that stay from call to call, by the engine and what else they depend on.
Kept: TypeAlias = dict[tuple[object, ...], Any]


def allocate(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], *, zero: bool = False
) -> Array:
    """A new array; MemoryError names it and its size in bytes."""
    try:
        return np.zeros(shape, dtype) if zero else np.empty(shape, dtype)
    except MemoryError:
        size = math.prod(shape) * dtype.itemsize
        raise MemoryError(f"{name}: no memory for {size} bytes, shape {shape}, {dtype}") from None


def scratches(workers: int, room: int, dtype: np.dtype[Any]) -> list[Array]:
    """A scratch for each worker, of so many numbers.

    They are one array: glibc keeps what was freed up to twice the size of the largest array so far,
    so that several would be given back to the system, and memory anew costs 0.5 ms a MB.
    """
    if workers == 1:  # a list of rows takes 0.6 us more, a tenth of the smallest call
        return [allocate("the scratch", (room,), dtype)]
    return list(allocate("the scratch", (workers, room), dtype))


def is_native(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether a kernel can read the array in place: dtype, byte order, alignment, whole strides."""
    if array.dtype is not dtype and array.dtype != dtype:
        return False
    flags = array.flags
    if not flags.aligned:
        return False
    if flags.c_contiguous or dtype.alignment == dtype.itemsize:  # then aligned strides are whole
        return True
    return all(step % dtype.itemsize == 0 for step in array.strides)


def as_native(array: Array, dtype: np.dtype[Any]) -> Array:
    """The array itself where a kernel can read it in place, else a copy that it can."""
    return array if is_native(array, dtype) else _copy(array, dtype)


def as_native_call(
    x: Array, w: Array, b: Array | None, dtype: np.dtype[Any]
) -> tuple[Array, Array, Array | None]:
    """Images and weights as they are where kernels can read them, and a contiguous bias."""
    return as_native(x, dtype), as_native(w, dtype), None if b is None else as_contiguous(b, dtype)


def as_contiguous(array: Array, dtype: np.dtype[Any]) -> Array:
    """The array itself where it is native and C-contiguous, else a copy that is."""
    return array if array.flags.c_contiguous and is_native(array, dtype) else _copy(array, dtype)


def apart(array: Array, other: Array) -> Array:
    """The array itself, or a copy where it may share memory with the other.

    `np.matmul` takes another routine (syrk) for a matrix and its own transpose, which rounds
    otherwise than the product of two equal matrices.
    """
    return _copy(array, array.dtype) if np.may_share_memory(array, other) else array


def _copy(array: Array, dtype: np.dtype[Any]) -> Array:
    copy = allocate("a copy of an array", array.shape, dtype)
    with np.errstate(all="ignore"):  # a signalling NaN is no concern of the caller's
        np.copyto(copy, array)
    return copy


def as_constant(array: Array) -> Array:
    """A copy that cannot be written to, native and C-contiguous."""
    copy = _copy(array, np.dtype(array.dtype.char))
    copy.flags.writeable = False
    return copy


def unread(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """What has the shape and strides of a C-contiguous array, but no memory: not to be read."""
    strides = [dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return np.lib.stride_tricks.as_strided(np.empty(1, dtype), shape, strides, writeable=False)


class Staged:
    """An array that is read a few samples at a time, as kernels can read it.

    The room for copies is made beforehand: a call that finds no memory has then written nothing.
    """

    __slots__ = ("array", "room")

    def __init__(self, array: Array, room: Array | None) -> None:
        self.array = array
        self.room = room

    def __getitem__(self, part: slice) -> Array:
        samples = self.array[part]
        if self.room is None:
            return samples
        copy = self.room[: len(samples)]
        np.copyto(copy, samples)
        return copy


def staged(array: Array, dtype: np.dtype[Any], samples: int, *, contiguous: bool = False) -> Staged:
    """Stage an array that will be read at most so many samples at a time."""
    first = array[:samples]
    in_place = is_native(first, dtype) and (first.flags.c_contiguous or not contiguous)
    return Staged(array, None if in_place else allocate("a copy of samples", first.shape, dtype))


def parts(size: int, step: int) -> Iterator[slice]:
    """Cut range(size) into slices of `step`."""
    for first in range(0, size, step):
        yield slice(first, min(first + step, size))


def overlaps_itself(array: Array) -> bool:
    """Whether two elements may share memory; false only where strides prove that none do."""
    if array.flags.c_contiguous:
        return False
    extent = array.itemsize
    for step, size in sorted(
        (abs(step), size) for step, size in zip(array.strides, array.shape, strict=True) if size > 1
    ):
        if step < extent:
            return True
        extent = step * (size - 1) + extent
    return False


class Target(NamedTuple):
    """An array that a result goes to.

    Attributes
    ----------
    work : ndarray
        What the layers below write: native, no two elements in the same place. It is `result`
        itself wherever possible.
    result : ndarray
        What the caller gets: the array that was handed in, if one was.
    """

    work: Array
    result: Array

    def finish(self) -> Array:
        """Bring the result from `work` to `result`, where they differ, and return it."""
        if self.work is self.result:
            return self.result
        plain = np.asarray(self.result)  # a subclass may have a copyto of its own
        if not np.may_share_memory(self.work, plain):
            np.copyto(plain, self.work)
        return self.result


def as_target(
    name: str,
    given: Array | None,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    inputs: tuple[Array | None, ...],
    *,
    accumulate: bool = False,
    contiguous: bool = False,
) -> Target:
    """The target for a result, from the caller's array or, where that is None, a new one.

    A caller's array that overlaps an input, overlaps itself or is not native, or not C-contiguous
    where that is needed, gets a temporary. With `accumulate` the target starts from what the
    caller's array holds, or zeros.
    """
    if given is None:
        new = allocate(name, shape, dtype, zero=accumulate)
        return Target(new, new)
    check_target(name, given, shape, dtype)
    plain = np.asarray(given)
    if (
        is_native(plain, dtype)
        and (plain.flags.c_contiguous or not contiguous)
        and not overlaps_itself(plain)
        and not any(np.may_share_memory(plain, array) for array in inputs if array is not None)
    ):
        return Target(plain, given)
    work = allocate(name, shape, dtype)
    if accumulate:
        np.copyto(work, plain)
    return Target(work, given)
