"""Arrays that lie oddly in memory, and one table of the operations that take arrays.

An operation is run as ``operation.run(inputs, targets)``: `inputs` maps every name in
`operation.inputs` to an array, `targets` some of those in `operation.outputs` to arrays to write.
It returns the results in the order of `operation.outputs`.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cases import GENERAL
from numpy.lib.stride_tricks import as_strided

import fastconv
from fastconv import caffe

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Shape = tuple[int, ...]


# --- comparing ----------------------------------------------------------------------------------


def assert_same_bits(got: Array, wanted: Array) -> None:
    """Equal to the bit, signs of zeros and payloads of NaNs included, whatever the byte order."""
    assert got.shape == wanted.shape
    assert got.dtype.newbyteorder("=") == wanted.dtype.newbyteorder("=")
    kind = wanted.dtype.newbyteorder("=")
    assert got.astype(kind).tobytes() == wanted.astype(kind).tobytes()


def root(array: Array) -> Array:
    """The array that owns the memory, or the outermost one that is an array."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class Unchanged:
    """A context in which arrays, and whatever lies around them in memory, must not change."""

    def __init__(self, *arrays: Array) -> None:
        self.owners = [root(array) for array in arrays]

    def __enter__(self) -> None:
        self.before = [owner.tobytes() for owner in self.owners]

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is not None:
            return
        for owner, before in zip(self.owners, self.before, strict=True):
            assert owner.tobytes() == before, "an array was changed"


def refuses(error: type[Exception], match: str, call: Callable[[], object], *arrays: Array) -> None:
    """The call raises exactly this error and leaves the arrays as they are."""
    with Unchanged(*arrays), pytest.raises(error, match=match) as info:
        call()
    assert info.type is error


# --- odd memory ---------------------------------------------------------------------------------


class Subclass(np.ndarray):
    """A subclass that cannot be computed with: only its memory is of use."""

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a ufunc saw the subclass")

    def __array_function__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a NumPy function saw the subclass")


def in_pieces(array: Array) -> Array:
    """Every other element of a larger array, on every axis."""
    whole = np.full([2 * size + 1 for size in array.shape], 77, array.dtype)
    view = whole[tuple(slice(1, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def reversed_axes(array: Array) -> Array:
    """Negative strides on every axis."""
    every = tuple(slice(None, None, -1) for _ in array.shape)
    return array[every].copy()[every]


def inner_slice(array: Array) -> Array:
    """All but the first and the last of the second axis (the first where there is one)."""
    axis = min(array.ndim - 1, 1)
    whole = np.full([size + 2 * (k == axis) for k, size in enumerate(array.shape)], 77, array.dtype)
    view = whole[(slice(None),) * axis + (slice(1, -1),)]
    view[...] = array
    return view


def misaligned(array: Array) -> Array:
    """One byte off."""
    view = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned or not array.size
    return view


def packed_field(array: Array) -> Array:
    """A field of packed records: strides that are no multiple of the item's size."""
    records = np.zeros(array.shape, np.dtype([("tag", np.uint8, 3), ("value", array.dtype)]))
    records["value"] = array
    return records["value"]


def big_endian(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder(">"))


def memory_mapped(array: Array) -> Array:
    with tempfile.TemporaryFile() as file:
        view = np.memmap(file, array.dtype, "w+", shape=array.shape)
    view[...] = array
    return view


def of_subclass(array: Array) -> Array:
    return array.copy().view(Subclass)


def axes_of_stride_0(array: Array) -> Array:
    """Axes of size 1 get stride 0, as ``a[:, None]`` makes them."""
    strides = tuple(
        0 if size == 1 else step for size, step in zip(array.shape, array.strides, strict=True)
    )
    return as_strided(array, array.shape, strides)


WRITABLE: dict[str, Callable[[Array], Array]] = {
    "plain": np.array,
    "in pieces": in_pieces,
    "reversed": reversed_axes,
    "Fortran": lambda array: np.array(array, order="F"),
    "inner slice": inner_slice,
    "misaligned": misaligned,
    "packed field": packed_field,
    "big-endian": big_endian,
    "memory-mapped": memory_mapped,
    "subclass": of_subclass,
    "axes of stride 0": axes_of_stride_0,
}


def read_only(array: Array) -> Array:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def read_only_map(array: Array) -> Array:
    with tempfile.NamedTemporaryFile() as file:
        array.tofile(file.name)
        return np.memmap(file.name, array.dtype, "r", shape=array.shape)


def expanded(axis: int) -> Callable[[Array], Array]:
    """The first of an axis for all of it: stride 0."""

    def expand(array: Array) -> Array:
        where = min(axis, array.ndim - 1)
        return np.broadcast_to(array.take([0], where), array.shape)

    return expand


def constant(array: Array) -> Array:
    """One number, expanded along every axis."""
    return np.broadcast_to(array.reshape(-1)[0], array.shape)


ODD = {
    **{name: make for name, make in WRITABLE.items() if name != "plain"},
    "read-only": read_only,
    "read-only map": read_only_map,
    "expanded on axis 0": expanded(0),
    "expanded on axis 1": expanded(1),
    "expanded on the last axis": expanded(9),
    "constant": constant,
    "big-endian, misaligned": lambda array: misaligned(big_endian(array)),
    "big-endian, in pieces": lambda array: in_pieces(big_endian(array)),
}


def plain(array: Array) -> Array:
    """A copy in native byte order, C-contiguous, of no subclass."""
    return np.array(array, array.dtype.newbyteorder("="), order="C", subok=False)


# --- the operations -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """A public function with parameters of its own."""

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    run: Callable[[Arrays, Arrays], tuple[Array, ...]]
    adds: tuple[str, ...] = ()
    takes_any_type: bool = True

    def random(self, dtype: npt.DTypeLike, seed: int = 0) -> dict[str, Array]:
        """Normally distributed inputs."""
        rng = np.random.default_rng(seed)
        return {
            name: rng.standard_normal(shape).astype(dtype) for name, shape in self.inputs.items()
        }

    def starts(self, dtype: npt.DTypeLike) -> dict[str, Array]:
        """What the targets hold before: ones for those that are added to, else NaN."""
        return {
            name: np.full(shape, 1 if name in self.adds else np.nan, dtype)
            for name, shape in self.outputs.items()
        }


def _forward_and_backward(
    name: str, x: Shape, w: Shape, filters: int, **params: Any
) -> dict[str, Operation]:
    """The two operations of a convolution or a transposed one."""
    kind = name.split()[0]
    forward, backward = getattr(fastconv, f"{kind}_forward"), getattr(fastconv, f"{kind}_backward")
    inputs = {"x": x, "w": w, "b": (filters,)}
    out = forward(*map(np.zeros, inputs.values()), **params)[0].shape

    def run_forward(given: Arrays, targets: Arrays) -> tuple[Array, ...]:
        return forward(given["x"], given["w"], given["b"], **targets, **params)[:1]

    def run_backward(given: Arrays, targets: Arrays) -> tuple[Array, ...]:
        _, cache = forward(given["x"], given["w"], given["b"], **params)
        return backward(given["dout"], cache, **targets)

    gradients = {f"d{name}": shape for name, shape in inputs.items()}
    return {
        f"{name}, forward": Operation(inputs, {"out": out}, run_forward),
        f"{name}, backward": Operation(
            {**inputs, "dout": out}, gradients, run_backward, adds=("dw", "db")
        ),
    }


def _by_each_engine(
    name: str, x: Shape, w: Shape, filters: int, **params: Any
) -> dict[str, Operation]:
    """The two operations, by the engine that "auto" takes, and by each of the others."""
    operations = _forward_and_backward(name, x, w, filters, **params)
    for engine in GENERAL[1:]:
        by_engine = f"{name} by {engine}"
        operations |= _forward_and_backward(by_engine, x, w, filters, engine=engine, **params)
    return operations


def _pool(kind: str, x: Shape, **params: Any) -> dict[str, Operation]:
    """The two operations of a pool."""
    forward = getattr(fastconv, f"{kind}_pool_forward")
    backward = getattr(fastconv, f"{kind}_pool_backward")
    out = forward(np.zeros(x), **params)[0].shape

    def run_forward(given: Arrays, targets: Arrays) -> tuple[Array, ...]:
        return forward(given["x"], **targets, **params)[:1]

    def run_alone(given: Arrays, targets: Arrays) -> tuple[Array, ...]:
        return (getattr(fastconv, f"{kind}_pool")(given["x"], **targets, **params),)

    def run_backward(given: Arrays, targets: Arrays) -> tuple[Array, ...]:
        _, cache = forward(given["x"], **params)
        return (backward(given["dout"], cache, **targets),)

    name = f"{kind}_pool {params.get('layout', '')}".rstrip()
    return {
        name: Operation({"x": x}, {"out": out}, run_alone),
        f"{name}, forward": Operation({"x": x}, {"out": out}, run_forward),
        f"{name}, backward": Operation({"x": x, "dout": out}, {"dx": x}, run_backward),
    }


WINDOW = {"stride": (2, 1), "pad": [(1, 0), (2, 1)], "dilation": (1, 2)}
KERNEL = (3, 2)
X, COLS = (2, 4, 6, 5), (2, 24, 18)


def _im2col(given: Arrays, targets: Arrays) -> tuple[Array, ...]:
    return (fastconv.im2col(given["x"], KERNEL, **WINDOW, **targets),)


def _col2im(given: Arrays, targets: Arrays) -> tuple[Array, ...]:
    return (fastconv.col2im(given["cols"], X, KERNEL, **WINDOW, **targets),)


def _blocks(given: Arrays, targets: Arrays) -> tuple[Array, ...]:
    cols = np.empty(COLS, _widest(given))
    for samples, positions, part in fastconv.im2col_blocks(
        given["x"], KERNEL, **WINDOW, max_bytes=24 * 8 * 7
    ):
        cols[samples, :, positions] = part
    return (cols,)


def _widest(given: Arrays) -> npt.DTypeLike:
    """The type of the results, where the arrays are of types that are taken."""
    kinds = {array.dtype.type for array in given.values() if isinstance(array, np.ndarray)}
    return np.float32 if kinds == {np.float32} else np.float64


def _step(
    step: Callable[..., None],
    inputs: dict[str, Shape],
    name: str,
    shape: Shape,
    *,
    adds: bool = False,
    **params: Any,
) -> Operation:
    """One of the five steps: it writes into an array that it must be given."""

    def run(given: Arrays, targets: Arrays) -> tuple[Array, ...]:
        target = targets[name] if name in targets else np.zeros(shape, _widest(given))
        step(**given, **{name: target}, **params)
        return (target,)

    return Operation(inputs, {name: shape}, run, adds=(name,) if adds else ())


def _layer(kind: type[caffe.BaseConvolutionLayer], x: Shape, w: Shape, out: Shape) -> Operation:
    """A layer, forward and backward, with blobs over the arrays that are given."""

    def run(given: Arrays, targets: Arrays) -> tuple[Array, ...]:
        layer = kind(out[1], KERNEL, stride=2, pad=1, group=2, dtype=_widest(given))
        layer.blobs = [caffe.Blob(given["w"]), caffe.Blob(given["b"])]
        bottom, top = [caffe.Blob(given["x"])], [caffe.Blob()]
        layer.setup(bottom, top)
        layer.forward(bottom, top)
        top[0].diff[...] = np.asarray(given["dout"])
        layer.backward(top, [True], bottom)
        return top[0].data, bottom[0].diff, layer.blobs[0].diff, layer.blobs[1].diff

    inputs = {"x": x, "w": w, "b": (out[1],), "dout": out}
    results = {"top": out, "dx": x, "dw": w, "db": (out[1],)}
    return Operation(inputs, results, run, takes_any_type=False)


def _deform_forward(given: Arrays, targets: Arrays) -> tuple[Array, ...]:
    return fastconv.deform_conv_forward(
        given["x"],
        given["offset"],
        given["w"],
        given["b"],
        mask=given["mask"],
        **DEFORMED,
        **targets,
    )[:1]


def _deform_backward(given: Arrays, targets: Arrays) -> tuple[Array, ...]:
    arrays = (given[name] for name in ("x", "offset", "w", "b"))
    _, cache = fastconv.deform_conv_forward(*arrays, mask=given["mask"], **DEFORMED)
    return fastconv.deform_conv_backward(given["dout"], cache, **targets)


DEFORMED = {**WINDOW, "group": 2, "offset_group": 2}
DEFORM_INPUTS: dict[str, Shape] = {
    "x": X,
    "offset": (2, 24, 3, 6),
    "mask": (2, 12, 3, 6),
    "w": (6, 2, *KERNEL),
    "b": (6,),
}
DEFORM_OUT = (2, 6, 3, 6)


OPERATIONS: dict[str, Operation] = {
    **_by_each_engine("conv", X, (6, 2, *KERNEL), 6, group=2, **WINDOW),
    **_by_each_engine("conv 1x1", (2, 4, 3, 5), (3, 4, 1, 1), 3),
    **_by_each_engine("conv 1d depthwise", (3, 4, 7), (4, 1, 3), 4, group=4, stride=2),
    **_by_each_engine("conv 3d NHWC", (2, 3, 4, 3, 2), (2, 2, 2, 2, 3), 3, layout="NHWC"),
    **_forward_and_backward(
        "conv 3x3", X, (6, 2, 3, 3), 6, group=2, pad=[(1, 0), (2, 1)], engine="winograd"
    ),
    **_forward_and_backward(
        "deconv 3x3 NHWC", (2, 3, 6, 4), (3, 3, 5, 4), 5, pad=1, layout="NHWC", engine="winograd"
    ),
    **_forward_and_backward(
        "conv 5x4", X, (6, 2, 5, 4), 6, group=2, pad=[(3, 1), (2, 4)], engine="fft"
    ),
    **_forward_and_backward(
        "deconv 5x4 NHWC", (2, 3, 6, 4), (5, 4, 5, 4), 5, pad=1, layout="NHWC", engine="fft"
    ),
    **_by_each_engine("deconv", (2, 4, 3, 4), (4, 3, *KERNEL), 6, group=2, **WINDOW),
    **_by_each_engine("deconv 1x1 NHWC", (2, 3, 2, 4), (1, 1, 3, 4), 3, layout="NHWC"),
    **_by_each_engine("conv reflect", X, (6, 2, *KERNEL), 6, group=2, pad_mode="reflect", **WINDOW),
    **_by_each_engine(
        "deconv wrap", (2, 4, 3, 4), (4, 3, *KERNEL), 6, group=2, pad_mode="wrap", **WINDOW
    ),
    **_pool("max", X, kernel_size=(3, 2), stride=(2, 1), pad=[(1, 1), (0, 1)], dilation=(1, 2)),
    **_pool("max", (2, 4, 3, 5), kernel_size=2, ceil_mode=True, layout="NHWC"),
    **_pool("avg", X, kernel_size=(3, 2), stride=(2, 1), pad=1, ceil_mode=True),
    **_pool("avg", (2, 4, 3, 5), kernel_size=2, pad=1, count_include_pad=True, layout="NHWC"),
    "deform_conv, forward": Operation(DEFORM_INPUTS, {"out": DEFORM_OUT}, _deform_forward),
    "deform_conv, backward": Operation(
        {**DEFORM_INPUTS, "dout": DEFORM_OUT},
        {f"d{name}": shape for name, shape in DEFORM_INPUTS.items()},
        _deform_backward,
        adds=("dw", "db"),
    ),
    "im2col": Operation({"x": X}, {"out": COLS}, _im2col),
    "col2im": Operation({"cols": COLS}, {"out": X}, _col2im),
    "im2col_blocks": Operation({"x": X}, {}, _blocks),
    "forward_gemm": _step(
        caffe.forward_gemm, {"x": (4, 6, 5), "w": (6, 2, 3, 2)}, "out", (6, 3, 6), group=2, **WINDOW
    ),
    "forward_gemm 1x1": _step(
        caffe.forward_gemm, {"x": (4, 3, 5), "w": (2, 4, 1, 1)}, "out", (2, 3, 5)
    ),
    "forward_bias": _step(caffe.forward_bias, {"b": (3,)}, "out", (3, 2, 4), adds=True),
    "backward_gemm": _step(
        caffe.backward_gemm,
        {"dout": (6, 3, 6), "w": (6, 2, 3, 2)},
        "dx",
        (4, 6, 5),
        group=2,
        **WINDOW,
    ),
    "backward_gemm 1x1": _step(
        caffe.backward_gemm, {"dout": (2, 3, 5), "w": (2, 4, 1, 1)}, "dx", (4, 3, 5)
    ),
    "weight_gemm": _step(
        caffe.weight_gemm,
        {"x": (4, 6, 5), "dout": (6, 3, 6)},
        "dw",
        (6, 2, 3, 2),
        adds=True,
        group=2,
        **WINDOW,
    ),
    "weight_gemm 1x1": _step(
        caffe.weight_gemm, {"x": (4, 3, 5), "dout": (2, 3, 5)}, "dw", (2, 4, 1, 1), adds=True
    ),
    "backward_bias": _step(caffe.backward_bias, {"dout": (3, 2, 4)}, "db", (3,), adds=True),
    "ConvolutionLayer": _layer(caffe.ConvolutionLayer, X, (6, 2, *KERNEL), (2, 6, 3, 3)),
    "DeconvolutionLayer": _layer(caffe.DeconvolutionLayer, X, (4, 3, *KERNEL), (2, 6, 11, 8)),
}
