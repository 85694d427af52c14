"""Who is timed: each contender gets a problem ready and returns the call to time.

A preparation makes ready what a user of that library would make ready once: its own views of the
arrays, a session that holds the weights, a result to write into where the library takes one. It
raises `UnavailableError` with the reason where the library is not installed or has no such
operation. What a call returns is judged once, before it is timed (`Judge`).
"""

import importlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

import fastconv

from .layers import Layer
from .numpy_path import Array, NumpyConv, NumpyDeconv, NumpyLowering, NumpyPool

CONV_KINDS = ("forward", "backward")
DECONV_KINDS = ("deconv", "deconv_backward")
POOL_KINDS = ("max_pool", "avg_pool", "max_pool_backward", "avg_pool_backward")
KINDS = (*CONV_KINDS, *DECONV_KINDS, "small_call", "im2col", "col2im", *POOL_KINDS)


class Problem:
    """One layer's data, the same numbers for every contender.

    Parameters
    ----------
    layer : Layer
    dtype : data type
        Of the numbers.
    threads : int
        How many each contender may use.
    convert : callable
        Makes of the data what is to be computed with.
    """

    def __init__(
        self,
        layer: Layer,
        dtype: npt.DTypeLike = np.float32,
        threads: int = 1,
        convert: Callable[[Array], Array] = np.asarray,
    ) -> None:
        self.layer, self.dtype, self.threads = layer, np.dtype(dtype), threads
        self.convert = convert

    @cached_property
    def x(self) -> Array:
        return self._normal(0, self.layer.x_shape)

    @cached_property
    def w(self) -> Array:
        return self._normal(1, self.layer.w_shape)

    @cached_property
    def b(self) -> Array:
        return self._normal(2, (self.layer.F,))

    @cached_property
    def dout(self) -> Array:
        return self._normal(3, self.layer.out_shape)

    @cached_property
    def cols(self) -> Array:
        return self._normal(4, self.layer.cols_shape)

    @cached_property
    def deconv_b(self) -> Array:
        return self._normal(5, (self.layer.C,))

    def _normal(self, seed: int, shape: tuple[int, ...]) -> Array:
        return self.convert(np.random.default_rng(seed).standard_normal(shape, self.dtype.type))


Run = Callable[[], Any]
Prepare = Callable[[Problem], Run]


class UnavailableError(Exception):
    """This contender cannot take part; the message says why."""


def require(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UnavailableError(f"{module.split('.')[0]} is not installed") from None


def parameters(p: Problem, *names: str) -> dict[str, Any]:
    """The layer's stride, pad, dilation and group under these names: what one would write of them.

    To read defaults, or a number for each axis, is a tenth of a small call's time.
    """
    layer = p.layer
    values = (layer.stride, layer.pad, layer.dilation, layer.group)
    pairs = zip(names, values, (1, 0, 1, 1), strict=False)
    return {name: value for name, value, default in pairs if value != default}


# --- fastconv -----------------------------------------------------------------------------------


def engine_names() -> tuple[str, ...]:
    """The engines, and before them "auto", the choice among them, where there is one."""
    names = fastconv.engines()
    return names if len(names) == 1 else ("auto", *names)


def conv_call(engine: str, p: Problem) -> Run:
    call = partial(fastconv.conv_forward, p.x, p.w, p.b, out=np.empty(p.layer.out_shape, p.dtype))
    return served(engine, p, call)


def deconv_call(engine: str, p: Problem) -> Run:
    out = np.empty(p.layer.x_shape, p.dtype)
    return served(engine, p, partial(fastconv.deconv_forward, p.dout, p.w, p.deconv_b, out=out))


def served(engine: str, p: Problem, call: Callable[..., Any]) -> Run:
    """The call through this engine, if it serves it."""
    given = parameters(p, "stride", "pad", "dilation", "group")
    call = partial(call, **given, engine=engine, workers=p.threads)
    try:
        call()
    except ValueError as error:
        if engine in ("auto", fastconv.engines()[-1]):  # they serve everything
            raise
        raise UnavailableError(str(error)) from error
    return call


def fastconv_forward(engine: str, p: Problem) -> Run:
    call = conv_call(engine, p)
    return lambda: call()[0]


def fastconv_prepared(p: Problem) -> Run:
    """`PreparedConv`, with its weights packed by a first call."""
    given = parameters(p, "stride", "pad", "dilation", "group")
    prepared = fastconv.PreparedConv(p.w, p.b, **given)
    out = np.empty(p.layer.out_shape, p.dtype)
    return partial(prepared, p.x, out=out, workers=p.threads)


def fastconv_backward(engine: str, p: Problem) -> Run:
    _, cache = conv_call(engine, p)()
    return gradients(fastconv.conv_backward, p.dout, cache, p.x, p.w, p.b)


def fastconv_deconv(engine: str, p: Problem) -> Run:
    call = deconv_call(engine, p)
    return lambda: call()[0]


def fastconv_deconv_backward(engine: str, p: Problem) -> Run:
    _, cache = deconv_call(engine, p)()
    return gradients(fastconv.deconv_backward, p.x, cache, p.dout, p.w, p.deconv_b)


def gradients(backward: Callable[..., Any], dout: Array, cache: Any, *inputs: Array) -> Run:
    dx, dw, db = map(np.empty_like, inputs)

    def run() -> Any:
        dw.fill(0)  # dw and db are added to
        db.fill(0)
        return backward(dout, cache, dx=dx, dw=dw, db=db)

    return run


def fastconv_small_call(engine: str, p: Problem) -> Run:
    """`conv`, which makes a new result in each call, as PyTorch does."""
    return served(engine, p, partial(fastconv.conv, p.x, p.w, p.b))


def fastconv_im2col(p: Problem) -> Run:
    return partial(
        fastconv.im2col,
        p.x,
        p.layer.kernel_size,
        **parameters(p, "stride", "pad", "dilation"),
        out=np.empty(p.layer.cols_shape, p.dtype),
    )


def fastconv_col2im(p: Problem) -> Run:
    return partial(
        fastconv.col2im,
        p.cols,
        p.layer.x_shape,
        p.layer.kernel_size,
        **parameters(p, "stride", "pad", "dilation"),
        out=np.empty(p.layer.x_shape, p.dtype),
    )


def fastconv_pool(operation: str, p: Problem) -> Run:
    call = getattr(fastconv, operation)
    return partial(call, p.x, p.layer.kernel_size, stride=p.layer.strides, pad=p.layer.pads)


def fastconv_pool_forward(operation: str, p: Problem) -> Run:
    run = fastconv_pool(f"{operation}_forward", p)
    return lambda: run()[0]


def fastconv_pool_backward(operation: str, p: Problem) -> Run:
    _, cache = fastconv_pool(f"{operation}_forward", p)()
    return partial(getattr(fastconv, f"{operation}_backward"), p.dout, cache)


# --- NumPy --------------------------------------------------------------------------------------


def numpy_forward(p: Problem) -> Run:
    return NumpyConv(p.layer, p.x, p.w, p.b).forward


def numpy_backward(p: Problem) -> Run:
    return partial(NumpyConv(p.layer, p.x, p.w, p.b).backward, p.dout)


def numpy_deconv(p: Problem) -> Run:
    return NumpyDeconv(p.layer, p.dout, p.w, p.deconv_b).forward


def numpy_deconv_backward(p: Problem) -> Run:
    return partial(NumpyDeconv(p.layer, p.dout, p.w, p.deconv_b).backward, p.x)


def numpy_im2col(p: Problem) -> Run:
    return partial(NumpyLowering(p.layer, p.x).im2col, np.empty(p.layer.cols_shape, p.x.dtype))


def numpy_col2im(p: Problem) -> Run:
    return partial(NumpyLowering(p.layer, p.x).col2im, p.cols)


def numpy_pool(operation: str, p: Problem) -> Run:
    return getattr(NumpyPool(p.layer, p.x), operation)


def numpy_max_pool_backward(p: Problem) -> Run:
    pool = NumpyPool(p.layer, p.x)
    return partial(pool.max_pool_backward, p.dout, pool.places())


def numpy_avg_pool_backward(p: Problem) -> Run:
    return partial(NumpyPool(p.layer, p.x).avg_pool_backward, p.dout)


# --- SciPy --------------------------------------------------------------------------------------


def has_same_size(layer: Layer) -> bool:
    """Whether a layer has stride 1 and results where its images have cells."""
    same_size = layer.pads == tuple(size // 2 for size in layer.kernel_size if size % 2)
    return {*layer.strides, *layer.dilations} == {1} and same_size


def scipy_forward(p: Problem) -> Run:
    """`scipy.ndimage.correlate`, before `scipy.signal.correlate` by 48 to 56 ms on image_filter."""
    layer = p.layer
    if not (layer.N == layer.C == layer.F == 1 and has_same_size(layer)):
        raise UnavailableError("SciPy has no convolution over channels")
    correlate = require("scipy.ndimage").correlate
    x, w, b, out = p.x[0, 0], p.w[0, 0], p.b[0], np.empty(layer.out_shape, p.dtype)

    def run() -> Array:
        correlate(x, w, mode="constant", output=out[0, 0])
        np.add(out, b, out=out)
        return out

    return run


def scipy_oaconvolve(p: Problem) -> Run:
    """`scipy.signal.oaconvolve`, Fourier transforms of parts, channel by channel."""
    layer = p.layer
    if not (layer.C == layer.F == layer.group and has_same_size(layer)):
        raise UnavailableError("SciPy has no convolution over channels")
    convolve = require("scipy.signal").oaconvolve
    axes = range(2, 2 + layer.rank)
    kernels = np.flip(p.w[:, 0], range(1, 1 + layer.rank))[np.newaxis]
    b = p.b.reshape(-1, *(1,) * layer.rank)

    def run() -> Any:
        out = convolve(p.x, kernels, mode="same", axes=axes)
        return np.add(out, b, out=out)

    return run


# --- PyTorch ------------------------------------------------------------------------------------


def use_torch(p: Problem) -> Any:
    torch = require("torch")
    torch.set_num_threads(p.threads)
    return torch


def torch_empty(p: Problem, shape: tuple[int, ...]) -> Any:
    torch = require("torch")
    return torch.empty(shape, dtype=getattr(torch, p.dtype.name))


class Inference(partial[Any]):
    """A call of PyTorch's to be timed under `inference_mode`."""


def surroundings(run: Run) -> AbstractContextManager[Any]:
    """What a turn is under: to enter `inference_mode` takes as long as a small convolution."""
    return require("torch").inference_mode() if isinstance(run, Inference) else nullcontext()


def torch_conv(operation: str, p: Problem) -> Callable[..., Any]:
    """`conv2d` or `conv_transpose2d`, or their sisters of other ranks, for x, w and b."""
    call = getattr(use_torch(p).nn.functional, f"{operation}{p.layer.rank}d")
    return partial(call, **parameters(p, "stride", "padding", "dilation", "groups"))


def torch_forward(p: Problem) -> Run:
    return Inference(torch_conv("conv", p), *map(use_torch(p).from_numpy, (p.x, p.w, p.b)))


def torch_backward(p: Problem) -> Run:
    return torch_gradients(torch_conv("conv", p), p.dout, p.x, p.w, p.b)


def torch_deconv(p: Problem) -> Run:
    inputs = map(use_torch(p).from_numpy, (p.dout, p.w, p.deconv_b))
    return Inference(torch_conv("conv_transpose", p), *inputs)


def torch_deconv_backward(p: Problem) -> Run:
    return torch_gradients(torch_conv("conv_transpose", p), p.x, p.dout, p.w, p.deconv_b)


def torch_gradients(operation: Callable[..., Any], dout: Array, *inputs: Array) -> Run:
    torch = require("torch")
    tensors = [torch.from_numpy(array).requires_grad_() for array in inputs]
    out = operation(*tensors)
    return partial(torch.autograd.grad, out, tensors, torch.from_numpy(dout), retain_graph=True)


def torch_unfold(p: Problem) -> Run:
    torch, layer = use_torch(p), p.layer
    return partial(
        torch.nn.functional.unfold,
        torch.from_numpy(p.x),
        layer.kernel_size,
        layer.dilations,
        layer.pads,
        layer.strides,
    )


def torch_fold(p: Problem) -> Run:
    torch, layer = use_torch(p), p.layer
    return partial(
        torch.nn.functional.fold,
        torch.from_numpy(p.cols),
        layer.in_size,
        layer.kernel_size,
        layer.dilations,
        layer.pads,
        layer.strides,
    )


def torch_out_unfold(p: Problem) -> Run:
    """The operation behind `unfold`, which has no `out=` itself: the result's memory is reused."""
    torch, layer = use_torch(p), p.layer
    return partial(
        torch.ops.aten.im2col.out,
        torch.from_numpy(p.x),
        layer.kernel_size,
        layer.dilations,
        layer.pads,
        layer.strides,
        out=torch_empty(p, layer.cols_shape),
    )


def torch_out_fold(p: Problem) -> Run:
    """The operation behind `fold`, which has no `out=` itself: the result's memory is reused."""
    torch, layer = use_torch(p), p.layer
    return partial(
        torch.ops.aten.col2im.out,
        torch.from_numpy(p.cols),
        layer.in_size,
        layer.kernel_size,
        layer.dilations,
        layer.pads,
        layer.strides,
        out=torch_empty(p, layer.x_shape),
    )


def torch_window(p: Problem) -> tuple[Any, ...]:
    return p.layer.kernel_size, p.layer.strides, p.layer.pads


def torch_pool(operation: str, p: Problem, x: Any) -> Any:
    functional = use_torch(p).nn.functional
    if operation == "max_pool":
        return functional.max_pool2d(x, *torch_window(p))
    return functional.avg_pool2d(x, *torch_window(p), count_include_pad=False)


def torch_pool_forward(operation: str, p: Problem) -> Run:
    return Inference(torch_pool, operation, p, use_torch(p).from_numpy(p.x))


def torch_pool_backward(operation: str, p: Problem) -> Run:
    torch = use_torch(p)
    x, dout = torch.from_numpy(p.x).requires_grad_(), torch.from_numpy(p.dout)
    return partial(torch.autograd.grad, torch_pool(operation, p, x), x, dout, retain_graph=True)


def torch_out_max_pool(p: Problem) -> Run:
    """The operation behind `max_pool2d`, the memory of its two results reused."""
    torch, shape = use_torch(p), p.layer.out_shape
    call = partial(
        torch.ops.aten.max_pool2d_with_indices.out,
        torch.from_numpy(p.x),
        *torch_window(p),
        out=torch_empty(p, shape),
        indices=torch.empty(shape, dtype=torch.int64),
    )
    return lambda: call()[0]


def torch_out_avg_pool(p: Problem) -> Run:
    torch = use_torch(p)
    return partial(
        torch.ops.aten.avg_pool2d.out,
        torch.from_numpy(p.x),
        *torch_window(p),
        count_include_pad=False,
        out=torch_empty(p, p.layer.out_shape),
    )


def torch_out_max_pool_backward(p: Problem) -> Run:
    torch = use_torch(p)
    aten, x = torch.ops.aten, torch.from_numpy(p.x)
    _, indices = aten.max_pool2d_with_indices(x, *torch_window(p))
    return partial(
        aten.max_pool2d_with_indices_backward.grad_input,
        torch.from_numpy(p.dout),
        x,
        *torch_window(p),
        dilation=(1, 1),
        ceil_mode=False,
        indices=indices,
        grad_input=torch_empty(p, p.layer.x_shape),
    )


def torch_out_avg_pool_backward(p: Problem) -> Run:
    torch = use_torch(p)
    return partial(
        torch.ops.aten.avg_pool2d_backward.grad_input,
        torch.from_numpy(p.dout),
        torch.from_numpy(p.x),
        *torch_window(p),
        ceil_mode=False,
        count_include_pad=False,
        divisor_override=None,
        grad_input=torch_empty(p, p.layer.x_shape),
    )


# --- ONNX Runtime -------------------------------------------------------------------------------


def onnxruntime_forward(p: Problem) -> Run:
    """Conv, its weights constants as in any exported model: the session packs them when made."""
    layer = p.layer
    return onnxruntime_node(
        p, "Conv", {"w": p.w, "b": p.b}, dilations=layer.dilations, group=layer.group
    )


def onnxruntime_node(
    p: Problem, operation: str, weights: dict[str, Array], **attributes: Any
) -> Run:
    """A model of one node, its weights inside, bound to the arrays that it reads and writes."""
    runtime, onnx = require("onnxruntime"), require("onnx")
    runtime.set_default_logger_severity(3)  # errors; it warns about the GPU it does not find
    model = node_model(onnx, p, operation, weights, attributes)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = p.threads
    options.inter_op_num_threads = 1
    # Its threads may spin within a call, but not on into the next contender's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    not_implemented = require("onnxruntime.capi.onnxruntime_pybind11_state").NotImplemented
    try:
        session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except not_implemented:
        raise UnavailableError(f"onnxruntime has no {operation} in {p.dtype}") from None
    out = np.empty(p.layer.out_shape, p.dtype)
    binding = session.io_binding()
    binding.bind_cpu_input("x", p.x)
    binding.bind_output("out", "cpu", 0, out.dtype.type, out.shape, out.ctypes.data)

    def run() -> Array:
        session.run_with_iobinding(binding)
        return out

    return run


def node_model(
    onnx: Any,
    p: Problem,
    operation: str,
    weights: dict[str, Array],
    attributes: dict[str, Any],
) -> Any:
    layer, helper, as_tensor = p.layer, onnx.helper, onnx.numpy_helper.from_array
    node = helper.make_node(
        operation,
        ["x", *weights],
        ["out"],
        kernel_shape=layer.kernel_size,
        strides=layer.strides,
        pads=(*layer.pads, *layer.pads),
        **attributes,
    )
    element_type = helper.np_dtype_to_tensor_dtype(p.dtype)
    graph = helper.make_graph(
        [node],
        operation,
        [helper.make_tensor_value_info("x", element_type, layer.x_shape)],
        [helper.make_tensor_value_info("out", element_type, layer.out_shape)],
        [as_tensor(weight, name) for name, weight in weights.items()],
    )
    # Old enough for any runtime of the last years.
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


# --- all of them --------------------------------------------------------------------------------


def contenders(kind: str) -> dict[str, Prepare]:
    """Who takes part in a kind of call; the first is ours, which the ratios are to."""
    match kind:
        case "forward":
            ours = {name: partial(fastconv_forward, name) for name in engine_names()}
            return ours | {
                "prepared": fastconv_prepared,
                "numpy": numpy_forward,
                "scipy": scipy_forward,
                "oaconvolve": scipy_oaconvolve,
                "torch": torch_forward,
                "onnxruntime": onnxruntime_forward,
            }
        case "backward":
            ours = {name: partial(fastconv_backward, name) for name in engine_names()}
            return ours | {"numpy": numpy_backward, "torch": torch_backward}
        case "deconv":
            ours = {name: partial(fastconv_deconv, name) for name in engine_names()}
            return ours | {"numpy": numpy_deconv, "torch": torch_deconv}
        case "deconv_backward":
            ours = {name: partial(fastconv_deconv_backward, name) for name in engine_names()}
            return ours | {"numpy": numpy_deconv_backward, "torch": torch_deconv_backward}
        case "small_call":
            ours = {name: partial(fastconv_small_call, name) for name in engine_names()}
            return ours | {
                "numpy": numpy_forward,
                "torch": torch_forward,
                "onnxruntime": onnxruntime_forward,
            }
        case "im2col":
            return {
                "fastconv": fastconv_im2col,
                "numpy": numpy_im2col,
                "torch": torch_unfold,
                "torch out=": torch_out_unfold,
            }
        case "col2im":
            return {
                "fastconv": fastconv_col2im,
                "numpy": numpy_col2im,
                "torch": torch_fold,
                "torch out=": torch_out_fold,
            }
        case "max_pool":
            return {
                "fastconv": partial(fastconv_pool, kind),
                "fastconv, cache": partial(fastconv_pool_forward, kind),
                "numpy": partial(numpy_pool, kind),
                "torch": partial(torch_pool_forward, kind),
                "torch out=": torch_out_max_pool,
                "onnxruntime": partial(onnxruntime_node, operation="MaxPool", weights={}),
            }
        case "avg_pool":
            return {
                "fastconv": partial(fastconv_pool, kind),
                "numpy": partial(numpy_pool, kind),
                "torch": partial(torch_pool_forward, kind),
                "torch out=": torch_out_avg_pool,
                "onnxruntime": partial(onnxruntime_node, operation="AveragePool", weights={}),
            }
        case "max_pool_backward":
            return {
                "fastconv": partial(fastconv_pool_backward, "max_pool"),
                "numpy": numpy_max_pool_backward,
                "torch": partial(torch_pool_backward, "max_pool"),
                "torch grad_input=": torch_out_max_pool_backward,
            }
        case "avg_pool_backward":
            return {
                "fastconv": partial(fastconv_pool_backward, "avg_pool"),
                "numpy": numpy_avg_pool_backward,
                "torch": partial(torch_pool_backward, "avg_pool"),
                "torch grad_input=": torch_out_avg_pool_backward,
            }
    raise ValueError(f"kind: expected one of {KINDS}, got {kind!r}")


# --- the judge ----------------------------------------------------------------------------------


def as_arrays(result: Any) -> list[Array]:
    """Return one call's results, one or several, of any library, as arrays."""
    results = result if isinstance(result, tuple | list) else (result,)
    return [np.asarray(array) for array in results]


def reduction_lengths(kind: str, layer: Layer) -> tuple[int, ...]:
    """How many products or values are summed into one element of each result."""
    batch_positions = layer.N * layer.positions
    kernel = layer.kernel_cells
    taps_back = layer.F // layer.group * kernel
    return {
        "forward": (layer.taps,),
        "backward": (taps_back, batch_positions, batch_positions),
        "deconv": (taps_back,),
        "deconv_backward": (layer.taps, batch_positions, layer.N * math.prod(layer.in_size)),
        "small_call": (layer.taps,),
        "im2col": (0,),
        "col2im": (kernel,),
        "max_pool": (0,),
        "avg_pool": (kernel,),
        "max_pool_backward": (kernel,),
        "avg_pool_backward": (kernel,),
    }[kind]


class Judge:
    """Holds what a call must return, in float64, and how far from it each element may be.

    Direct sums with unit roundoff u may err by ``(4*sqrt(K) + 8) * u * S``, with K the length of
    the sum and S the sum of the magnitudes of its terms; copies (K = 0) not at all. For float64,
    what is expected has such an error too, a tenth of the bound or less. Results that Winograd's
    algorithm gives may err by 336 * u of the largest of them, 2e-5 in float32; those of transforms
    by 17 * u, 1e-6 in float32.
    """

    def __init__(self, kind: str, layer: Layer, dtype: npt.DTypeLike = np.float32) -> None:
        def result(problem: Problem) -> list[Array]:
            return as_arrays(contenders(kind)["numpy"](problem)())

        values = Problem(layer, dtype, convert=lambda array: array.astype(np.float64))
        sizes = Problem(layer, dtype, convert=lambda array: np.abs(array, dtype=np.float64))
        if kind == "max_pool_backward":
            sizes.x = values.x  # no term of the sums, but what places them
        self.expected, magnitudes = result(values), result(sizes)
        u = np.finfo(dtype).eps / 2
        self.bounds = [
            (4 * K**0.5 + 8) * u * S if K else np.zeros_like(S)
            for K, S in zip(reduction_lengths(kind, layer), magnitudes, strict=True)
        ]
        if kind in (*CONV_KINDS, *DECONV_KINDS, "small_call"):
            taps = max(-(-k // s) for k, s in zip(layer.kernel_size, layer.strides, strict=True))
            by_tiles = len(layer.kernel_size) <= 2 and 1 < taps <= 7
            by_transforms = {*layer.strides} == {1}
            largest = np.abs(self.expected[0]).max()
            relative = 336 * u if by_tiles else 17 * u if by_transforms else 0
            self.bounds[0] = np.maximum(self.bounds[0], relative * largest)

    def check(self, result: Any) -> None:
        """Raise AssertionError where a result is too far from what it must be."""
        for got, expected, bound in zip(as_arrays(result), self.expected, self.bounds, strict=True):
            assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
            error = np.abs(got - expected)
            wrong = ~(error <= bound)  # also where it is NaN
            assert not wrong.any(), (
                f"{wrong.sum()} of {wrong.size} values are wrong, by up to {error.max()}"
            )
