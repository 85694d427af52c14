"""Arguments: what a caller passed, converted to what the layers below take, or refused.

Every message names the parameter, the value received and the rule. Nothing is written here.
"""

import operator
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
ArrayLike: TypeAlias = npt.ArrayLike
IntOrPerAxis: TypeAlias = int | tuple[int, ...] | list[int] | Array
Pad: TypeAlias = IntOrPerAxis | str | tuple[int | tuple[int, int], ...] | list[Any]
ConvParam: TypeAlias = Mapping[str, Any]
Pairs: TypeAlias = tuple[tuple[int, int], ...]

# No axis of an array in memory is longer than this (addresses have 48 bits), so no larger parameter
# means anything; below it, no sum or product of two sizes leaves 64 bits unnoticed.
MAX_PARAMETER = 2**48
# Elements an array may have so that its bytes, at 8 an element, still count within 63 bits.
MAX_ELEMENTS = 2**60
# Axes that an array may have in NumPy.
MAX_AXES = 64
FLOATS = (np.float32, np.float64)
BOOLS = frozenset((bool, np.bool_))  # neither has subclasses


class Default(int):
    """The default of a parameter that may also come in a dict, told apart from the caller's own."""


STRIDE, PAD, DILATION, GROUP, OUTPUT_PAD = map(Default, (1, 0, 1, 1, 0))


# --- integers ---------------------------------------------------------------------------------


def is_several(value: object) -> TypeGuard[tuple[Any, ...] | list[Any] | Array]:
    """Tell a tuple, list or array of values from a single one."""
    return isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.ndim > 0)


def as_int(name: str, value: object, minimum: int) -> int:
    """One integer of at least `minimum`; a bool, float, string or None is a TypeError."""
    number = _as_index(name, value, "an int", value)
    if not minimum <= number <= MAX_PARAMETER:
        _check_range(name, (number,), minimum, value)
    return number


def as_per_axis(name: str, value: object, rank: int, minimum: int) -> tuple[int, ...]:
    """`rank` integers of at least `minimum`, from one int for all axes or one an axis."""
    expected = f"an int or {rank} int{'s' * (rank > 1)}"
    if not is_several(value):
        numbers = (_as_index(name, value, expected, value),) * rank
    elif len(value) != rank:
        raise ValueError(f"{name}: expected {expected}, got {show(value)}")
    else:
        numbers = tuple(_as_index(name, item, expected, value) for item in value)
    _check_range(name, numbers, minimum, value)
    return numbers


def as_pads(value: object, rank: int) -> Pairs | str:
    """(before, after) an axis, from an int, one an axis or pairs; or the word "same" or "valid"."""
    expected = f'an int, {rank} int{"s" * (rank > 1)} or (before, after) pairs, "same" or "valid"'
    if isinstance(value, str):
        if value not in ("same", "valid"):
            raise ValueError(f"pad: expected {expected}, got {show(value)}")
        return value
    items = value if is_several(value) else (value,) * rank
    if len(items) != rank:
        raise ValueError(f"pad: expected {expected}, got {show(value)}")
    pairs = []
    for item in items:
        pair = item if is_several(item) else (item, item)
        if len(pair) != 2:
            raise ValueError(f"pad: expected {expected}, got {show(value)}")
        before, after = (_as_index("pad", number, expected, value) for number in pair)
        _check_range("pad", (before, after), 0, value)
        pairs.append((before, after))
    return tuple(pairs)


def as_shape(name: str, value: object) -> tuple[int, ...]:
    """A shape, from a tuple, list or array of integers of at least 0."""
    if not is_several(value):
        raise TypeError(f"{name}: expected a tuple of ints, got {show(value)}")
    numbers = tuple(_as_index(name, item, "a tuple of ints", value) for item in value)
    _check_range(name, numbers, 0, value)
    if len(numbers) > MAX_AXES:
        raise ValueError(f"{name}: expected at most {MAX_AXES} axes, got {len(numbers)}")
    return numbers


def as_flag(name: str, value: object) -> bool:
    """A bool."""
    if type(value) not in BOOLS:
        raise TypeError(f"{name}: expected a bool, got {show(value)}")
    return bool(value)


def as_flags(name: str, value: object, count: int) -> tuple[bool, ...]:
    """`count` bools."""
    if not is_several(value):
        raise TypeError(f"{name}: expected {count} bools, got {show(value)}")
    if len(value) != count:
        raise ValueError(f"{name}: expected {count} bools, got {show(value)}")
    if not set(map(type, value)) <= BOOLS:
        raise TypeError(f"{name}: expected {count} bools, got {show(value)}")
    return tuple(map(bool, value))


def as_conv_params(conv_param: object, **given: object) -> dict[str, object]:
    """`given`, each value from CS231n's dict `conv_param` where that has it.

    Raises
    ------
    TypeError
        If `conv_param` is no dict, has a name that is not in `given`, or one that the caller also
        passed as a keyword.
    """
    if conv_param is None:
        return given
    if not isinstance(conv_param, Mapping):
        raise TypeError(f"conv_param: expected a dict, got {show(conv_param)}")
    keywords = {name for name, value in given.items() if not isinstance(value, Default)}
    _check_names("conv_param", conv_param, tuple(given), keywords)
    return given | dict(conv_param)


def as_pool_params(
    kernel_size: object, pool_param: object, *, stride: object, **given: object
) -> tuple[object, dict[str, object]]:
    """The kernel's size, and `stride` and `given`, each from CS231n's dict where that has it.

    The dict (`pool_height`, `pool_width`, and any of the other names) comes as `pool_param` or in
    the place of `kernel_size`.

    Raises
    ------
    TypeError
        If there is no kernel size or it comes twice, the dict is none or lacks a side of the
        kernel, or has a name that is unknown or that the caller also passed as a keyword.
    """
    if isinstance(kernel_size, Mapping) and pool_param is None:
        kernel_size, pool_param = None, kernel_size
    given = {"stride": stride, **given}
    if pool_param is None:
        if kernel_size is None:
            raise TypeError("kernel_size: expected it, or pool_param, got neither")
        return kernel_size, given
    if not isinstance(pool_param, Mapping):
        raise TypeError(f"pool_param: expected a dict, got {show(pool_param)}")
    if kernel_size is not None:
        raise TypeError(f"kernel_size: given besides pool_param, got {show(kernel_size)}")
    sides = ("pool_height", "pool_width")
    for side in sides:
        if side not in pool_param:
            raise TypeError(f"pool_param: {side!r} is missing, got {show(dict(pool_param))}")
    keywords = {
        name
        for name, value in given.items()
        if value is not None and not isinstance(value, Default)
    }
    _check_names("pool_param", pool_param, (*sides, *given), keywords)
    more = {name: value for name, value in pool_param.items() if name not in sides}
    return tuple(pool_param[side] for side in sides), given | more


def _check_names(
    what: str, param: Mapping[str, Any], names: tuple[str, ...], keywords: set[str]
) -> None:
    """Raise TypeError for a name in the dict that is none of `names`, or also a keyword's."""
    for name in param:
        if name not in names:
            raise TypeError(f"{what}: unknown name {show(name)}; the names are {', '.join(names)}")
        if name in keywords:
            raise TypeError(f"{name}: given both in {what} and as a keyword")


def _as_index(name: str, number: object, expected: str, received: object) -> int:
    if type(number) in BOOLS:
        raise TypeError(f"{name}: expected {expected}, got {show(received)}")
    try:
        return operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected {expected}, got {show(received)}") from None


def _check_range(name: str, numbers: tuple[int, ...], minimum: int, received: object) -> None:
    if min(numbers, default=minimum) < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {show(received)}")
    if max(numbers, default=minimum) > MAX_PARAMETER:
        raise ValueError(f"{name} is too large: at most 2**48, got {show(received)}")


def show(value: object) -> str:
    """The value as a message shows it, cut where it is long."""
    try:
        text = repr(value)
    except Exception:  # an int of more than 4300 digits, lists nested deeper than the stack
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- arrays -----------------------------------------------------------------------------------


def as_floating(name: str, value: object) -> Array:
    """A plain ndarray of float32 or float64, in any byte order and memory layout; no copy of one.

    Raises
    ------
    TypeError
        If it is a masked array or of another dtype: nothing is cast silently.
    """
    array = value if type(value) is np.ndarray else _as_ndarray(name, value)
    if array.dtype.type not in FLOATS:
        raise TypeError(
            f"{name}: expected float32 or float64, got {array.dtype}; "
            f"convert it first, as in np.asarray({name}).astype(np.float32)"
        )
    return array


def _as_ndarray(name: str, value: object) -> Array:
    if hasattr(value, "mask") and isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: masked arrays are not supported; pass {name}.filled(0), say")
    try:
        return np.asarray(value)
    except ValueError as error:  # a ragged list
        raise ValueError(f"{name}: cannot be made an array: {error}") from None


def as_bias(value: object, filters: int) -> Array | None:
    """The bias (F,), or None."""
    if value is None:
        return None
    bias = as_floating("b", value)
    check_bias_shape(bias.shape, filters)
    return bias


def check_bias_shape(shape: tuple[int, ...], filters: int) -> None:
    """Raise ValueError unless a bias of that shape has one number a filter."""
    if shape != (filters,):
        raise ValueError(f"b: expected shape ({filters},), got {shape}")


def as_dtype(name: str, value: object) -> np.dtype[Any]:
    """float32 or float64 in native byte order, from whatever NumPy takes for a dtype."""
    try:
        dtype: np.dtype[Any] = np.dtype(value)  # type: ignore[call-overload]
    except Exception:  # NumPy raises nearly anything here, SyntaxError too
        raise TypeError(f"{name}: expected float32 or float64, got {show(value)}") from None
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{name}: expected float32 or float64, got {dtype}")
    return dtype


def common_dtype(*arrays: Array | None) -> np.dtype[Any]:
    """The largest floating type among the arrays, in native byte order."""
    types = [array.dtype.newbyteorder("=") for array in arrays if array is not None]
    return np.result_type(*types)


def check_shape(name: str, array: Array, shape: tuple[int, ...], reason: str) -> None:
    """Raise ValueError unless the array has that shape, which `reason` explains."""
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape} ({reason}), got {array.shape}")


def check_size(name: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError for an array that no 64-bit machine can address."""
    elements = 1
    for size in shape:
        elements *= max(size, 1)
    if elements > MAX_ELEMENTS:
        raise ValueError(f"{name} is too large: {elements} elements, shape {shape} (limit 2**60)")


def check_ndarray(name: str, value: object) -> None:
    """Raise TypeError unless `value` is an ndarray, as what is written to must be."""
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an ndarray, got {type(value).__name__}")


def check_target(name: str, value: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise unless `value` is an array that results of this shape and dtype can be written to."""
    check_ndarray(name, value)
    if value.dtype != dtype and value.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {value.dtype}")
    if value.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {value.shape}")
    if not value.flags.writeable:
        raise ValueError(f"{name}: the array is read-only")
