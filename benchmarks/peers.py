"""Who is timed: each contender gets a problem ready and returns the call to time.

A preparation makes ready what a user of that library would make ready once: its own views of the
arrays, a session that holds the weights, a result to write into where the library takes one. It
raises `UnavailableError` with the reason where the library is not installed or has no such
operation. What a call returns is judged once, before it is timed (`Judge`).
"""

import importlib
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np

import fastconv

from .layers import Layer
from .numpy_path import Array, NumpyConv, NumpyLowering, NumpyPool

POOL_KINDS = ("max_pool", "avg_pool", "max_pool_backward", "avg_pool_backward")
KINDS = ("forward", "backward", "im2col", "col2im", *POOL_KINDS)


class Problem:
    """One layer's data, the same numbers for every contender.

    Parameters
    ----------
    layer : Layer
    threads : int
        How many each contender may use.
    convert : callable
        Makes of the float32 data what is to be computed with.
    """

    def __init__(
        self, layer: Layer, threads: int = 1, convert: Callable[[Array], Array] = np.asarray
    ) -> None:
        self.layer, self.threads, self.convert = layer, threads, convert

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

    def _normal(self, seed: int, shape: tuple[int, ...]) -> Array:
        return self.convert(np.random.default_rng(seed).standard_normal(shape, np.float32))


Run = Callable[[], Any]
Prepare = Callable[[Problem], Run]


class UnavailableError(Exception):
    """This contender cannot take part; the message says why."""


def require(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UnavailableError(f"{module.split('.')[0]} is not installed") from None


# --- fastconv -----------------------------------------------------------------------------------


def engine_names() -> tuple[str, ...]:
    """The engines, and before them "auto", the choice among them, where there is one."""
    names = fastconv.engines()
    return names if len(names) == 1 else ("auto", *names)


def forward_call(engine: str, p: Problem) -> Run:
    call = partial(
        fastconv.conv_forward,
        p.x,
        p.w,
        p.b,
        stride=p.layer.strides,
        pad=p.layer.pads,
        dilation=p.layer.dilations,
        group=p.layer.group,
        engine=engine,
        out=np.empty(p.layer.out_shape, p.x.dtype),
        workers=p.threads,
    )
    try:
        call()
    except ValueError as error:
        if engine in ("auto", fastconv.engines()[-1]):  # they serve everything
            raise
        raise UnavailableError(str(error)) from error
    return call


def fastconv_forward(engine: str, p: Problem) -> Run:
    call = forward_call(engine, p)
    return lambda: call()[0]


def fastconv_backward(engine: str, p: Problem) -> Run:
    _, cache = forward_call(engine, p)()
    dx, dw, db = np.empty_like(p.x), np.empty_like(p.w), np.empty_like(p.b)

    def run() -> Any:
        dw.fill(0)  # dw and db are added to
        db.fill(0)
        return fastconv.conv_backward(p.dout, cache, dx=dx, dw=dw, db=db)

    return run


def fastconv_im2col(p: Problem) -> Run:
    return partial(
        fastconv.im2col,
        p.x,
        p.layer.kernel_size,
        stride=p.layer.strides,
        pad=p.layer.pads,
        dilation=p.layer.dilations,
        out=np.empty(p.layer.cols_shape, p.x.dtype),
    )


def fastconv_col2im(p: Problem) -> Run:
    return partial(
        fastconv.col2im,
        p.cols,
        p.layer.x_shape,
        p.layer.kernel_size,
        stride=p.layer.strides,
        pad=p.layer.pads,
        dilation=p.layer.dilations,
        out=np.empty(p.layer.x_shape, p.cols.dtype),
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


def scipy_forward(p: Problem) -> Run:
    """`scipy.ndimage.correlate`, before `scipy.signal.correlate` by 48 to 56 ms on image_filter."""
    layer = p.layer
    (pad_h, pad_w), (KH, KW) = layer.pads, layer.kernel_size
    same_size = KH % 2 and KW % 2 and (pad_h, pad_w) == (KH // 2, KW // 2)
    plain = layer.strides == layer.dilations == (1, 1) and same_size
    if not (layer.N == layer.C == layer.F == 1 and plain):
        raise UnavailableError("SciPy has no convolution over channels")
    correlate = require("scipy.ndimage").correlate
    x, w, b, out = p.x[0, 0], p.w[0, 0], p.b[0], np.empty(layer.out_shape, p.x.dtype)

    def run() -> Array:
        correlate(x, w, mode="constant", output=out[0, 0])
        np.add(out, b, out=out)
        return out

    return run


# --- PyTorch ------------------------------------------------------------------------------------


def use_torch(p: Problem) -> Any:
    torch = require("torch")
    torch.set_num_threads(p.threads)
    return torch


def torch_forward(p: Problem) -> Run:
    torch = use_torch(p)
    x, w, b = map(torch.from_numpy, (p.x, p.w, p.b))
    layer = p.layer

    def run() -> Any:
        with torch.inference_mode():
            return torch.nn.functional.conv2d(
                x, w, b, layer.strides, layer.pads, layer.dilations, layer.group
            )

    return run


def torch_backward(p: Problem) -> Run:
    torch = use_torch(p)
    inputs = [torch.from_numpy(array).requires_grad_() for array in (p.x, p.w, p.b)]
    layer, dout = p.layer, torch.from_numpy(p.dout)
    out = torch.nn.functional.conv2d(
        *inputs, layer.strides, layer.pads, layer.dilations, layer.group
    )
    return partial(torch.autograd.grad, out, inputs, dout, retain_graph=True)


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
        (layer.H, layer.W),
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
        out=torch.empty(layer.cols_shape),
    )


def torch_out_fold(p: Problem) -> Run:
    """The operation behind `fold`, which has no `out=` itself: the result's memory is reused."""
    torch, layer = use_torch(p), p.layer
    return partial(
        torch.ops.aten.col2im.out,
        torch.from_numpy(p.cols),
        (layer.H, layer.W),
        layer.kernel_size,
        layer.dilations,
        layer.pads,
        layer.strides,
        out=torch.empty(layer.x_shape),
    )


def torch_window(p: Problem) -> tuple[Any, ...]:
    return p.layer.kernel_size, p.layer.strides, p.layer.pads


def torch_pool(operation: str, p: Problem, x: Any) -> Any:
    functional = use_torch(p).nn.functional
    if operation == "max_pool":
        return functional.max_pool2d(x, *torch_window(p))
    return functional.avg_pool2d(x, *torch_window(p), count_include_pad=False)


def torch_pool_forward(operation: str, p: Problem) -> Run:
    torch = use_torch(p)
    x = torch.from_numpy(p.x)

    def run() -> Any:
        with torch.inference_mode():
            return torch_pool(operation, p, x)

    return run


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
        out=torch.empty(shape),
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
        out=torch.empty(p.layer.out_shape),
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
        grad_input=torch.empty(p.layer.x_shape),
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
        grad_input=torch.empty(p.layer.x_shape),
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
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    out = np.empty(p.layer.out_shape, p.x.dtype)
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
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        operation,
        [helper.make_tensor_value_info("x", float32, layer.x_shape)],
        [helper.make_tensor_value_info("out", float32, layer.out_shape)],
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
                "numpy": numpy_forward,
                "scipy": scipy_forward,
                "torch": torch_forward,
                "onnxruntime": onnxruntime_forward,
            }
        case "backward":
            ours = {name: partial(fastconv_backward, name) for name in engine_names()}
            return ours | {"numpy": numpy_backward, "torch": torch_backward}
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
    kernel = layer.KH * layer.KW
    return {
        "forward": (layer.taps,),
        "backward": (layer.F // layer.group * kernel, batch_positions, batch_positions),
        "im2col": (0,),
        "col2im": (kernel,),
        "max_pool": (0,),
        "avg_pool": (kernel,),
        "max_pool_backward": (kernel,),
        "avg_pool_backward": (kernel,),
    }[kind]


class Judge:
    """Holds what a call must return, in float64, and how far from it each element may be.

    Direct sums in float32 (unit roundoff u) may err by ``(4*sqrt(K) + 8) * u * S``, with K the
    length of the sum and S the sum of the magnitudes of its terms; copies (K = 0) not at all.
    """

    def __init__(self, kind: str, layer: Layer) -> None:
        def result(problem: Problem) -> list[Array]:
            return as_arrays(contenders(kind)["numpy"](problem)())

        values = Problem(layer, convert=lambda array: array.astype(np.float64))
        sizes = Problem(layer, convert=lambda array: np.abs(array, dtype=np.float64))
        if kind == "max_pool_backward":
            sizes.x = values.x  # no term of the sums, but what places them
        self.expected, magnitudes = result(values), result(sizes)
        self.bounds = [
            (4 * K**0.5 + 8) * 2.0**-24 * S if K else np.zeros_like(S)
            for K, S in zip(reduction_lengths(kind, layer), magnitudes, strict=True)
        ]

    def check(self, result: Any) -> None:
        """Raise AssertionError where a result is too far from what it must be."""
        for got, expected, bound in zip(as_arrays(result), self.expected, self.bounds, strict=True):
            assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
            error = np.abs(got - expected)
            wrong = ~(error <= bound)  # also where it is NaN
            assert not wrong.any(), (
                f"{wrong.sum()} of {wrong.size} values are wrong, by up to {error.max()}"
            )
