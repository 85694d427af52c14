"""Convolution of any rank, forward and backward."""

from fastconv._calls import Cache, begin_backward, begin_forward
from fastconv._validation import (
    DILATION,
    GROUP,
    PAD,
    STRIDE,
    Array,
    ArrayLike,
    ConvParam,
    IntOrPerAxis,
    Pad,
)


def conv_forward(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    conv_param: ConvParam | None = None,
    *,
    stride: IntOrPerAxis = STRIDE,
    pad: Pad = PAD,
    dilation: IntOrPerAxis = DILATION,
    group: int = GROUP,
    pad_mode: str = "constant",
    layout: str = "NCHW",
    engine: str = "auto",
    out: Array | None = None,
    workers: int | None = None,
) -> tuple[Array, Cache]:
    """Convolve a batch with filters and keep what the backward pass needs.

    ``out[n, f, o...] = b[f] + sum(x[n, c, o*stride - pad + k*dilation] * w[f, c, k...])`` over
    the channels c of f's group and the kernel indices k, with zeros outside x. (Mathematically a
    cross-correlation: the kernel is not flipped.) The rank, any from 1 up, is ``w.ndim - 2``.

    Parameters
    ----------
    x : array_like, (N, C, *S), or (N, *S, C) if the layout is NHWC
        The images, float32 or float64. N may be 0.
    w : array_like, (F, C/group, *K), or (*K, C/group, F) if the layout is NHWC
        The filters.
    b : array_like, (F,), optional
        The bias.
    conv_param : dict, optional
        `stride`, `pad`, `dilation` and `group` as CS231n's course passes them; a name in it must
        not also be given as a keyword.
    stride : int or one an axis
        Input cells from one output position to the next, at least 1.
    pad : int, one an axis, (before, after) an axis, "same" or "valid"
        Cells of zeros around the image, at least 0. "same" pads for an output of
        ``ceil(S / stride)``, the odd cell at the end; "valid" is 0.
    dilation : int or one an axis
        Input cells from one kernel element to the next, at least 1.
    group : int
        Groups that C and F are split into; group g of the filters sees group g of the channels.
    pad_mode : {"constant", "reflect", "edge", "wrap"}
        What the padding holds, in the words of `np.pad`: zeros, or the image mirrored at its first
        and last cell, these cells repeated, or the image continued from its other side. All but
        zeros take a padded copy of x.
    layout : {"NCHW", "NHWC"}
        The order of axes of x, w and out (for any rank).
    engine : str
        "auto" or one of `engines()`: "depthwise" slides filters over single channels (group == C);
        "winograd", for kernels of up to 7x7, and strided ones of as much a phase, takes 2 to 6
        times fewer multiplications; "fft",
        for large kernels of stride 1, transforms tiles by `scipy.fft`, if SciPy is installed;
        "fused" forms the product without a column matrix, "caffe" from one, as Caffe does. "auto"
        takes the first of them that serves, "winograd" and "fft" only for layers large enough to
        gain (see Notes).
    out : ndarray, optional
        Where to write the result; it may overlap the inputs.
    workers : int, optional
        Threads to use; by default `config()["workers"]`, but one where a layer is small. Their
        number does not change the result. The engine "caffe" uses one, and its matrix product those
        of NumPy's BLAS.

    Returns
    -------
    out : ndarray, (N, F, *O), or (N, *O, F)
        ``O = (S + pad before + pad after - dilation*(K - 1) - 1) // stride + 1``; of the larger of
        the arrays' types.
    cache : object
        For `conv_backward`. It refers to x, w and b, which must not be changed until then.

    Raises
    ------
    TypeError
        An array that is not float32 or float64 (nothing is cast silently) or is masked; a parameter
        that is not an integer.
    ValueError
        Shapes or parameters that do not fit, a kernel larger than the padded input, sizes that are
        too large, an engine that cannot serve the call.
    MemoryError
        No room for the result, packed weights or working memory.

    Notes
    -----
    The operation is that of Jia et al., "Caffe: Convolutional Architecture for Fast Feature
    Embedding" (2014). The engines "depthwise" and "fused" need 8 MiB a thread at most beyond their
    arguments, the result and a packed copy of w, unless a kernel alone is larger; an argument that
    is not native (byte order, alignment, or the smaller of two types) is copied. "winograd" needs
    as much, where the transformed copy of w is 4 times as large as w for 3x3 kernels, 1 to 8 times
    for others; "fft" too, see below.

    "winograd" rounds more: its errors are relative to the largest results of a layer, not to each
    one's own terms, and exact integers and zeros do not stay exact. In float32 they are at most
    2e-5 of ``max|out|`` (1e-5 for kernels of one axis, 4e-6 where results of 3x3 kernels are
    computed in tiles of 2x2, which small images are), or of a gradient's largest number; other
    engines' are below 1e-6. ``engine="fused"`` turns it off. NaN and Inf come out where the other
    engines have them: samples with such numbers, or with so large or small ones that it could not
    hold this promise, are computed by "fused". The batch has no part in the choice.

    "fft" computes in the type of its result. Its errors are relative to the largest numbers around:
    at most ``log2(n) * u * |x| * |w|``, with the Euclidean norms of a tile of n cells and of a
    filter, and the unit roundoff u. In float32 they were up to 4e-7 of ``max|out|`` for kernels of
    15x15 and more, as those of direct sums are (and, like these, more where all results are small
    differences of large numbers); but exact integers and zeros do not stay exact, and a dark part
    of an image beside a bright one has the bright one's error. ``engine="fused"`` turns it off.
    NaN, Inf and what could overflow it leaves to "fused". Its transformed copy of w has a tile for
    each kernel, of 1.3 MB at most or twice as long an axis as the kernel; "auto" does not take it
    where they have more than 64 MiB together.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(36.0).reshape(1, 1, 6, 6)
    >>> w = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> out, cache = fastconv.conv_forward(x, w)
    >>> out[0, 0]
    array([[ 366.,  402.,  438.,  474.],
           [ 582.,  618.,  654.,  690.],
           [ 798.,  834.,  870.,  906.],
           [1014., 1050., 1086., 1122.]])
    """
    given = (stride, pad, dilation, group, pad_mode, layout, engine)
    call = begin_forward("conv", x, w, b, conv_param, given, out, workers)
    call.convolve()
    return call.finish(), call.cache()


def conv(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    conv_param: ConvParam | None = None,
    *,
    stride: IntOrPerAxis = STRIDE,
    pad: Pad = PAD,
    dilation: IntOrPerAxis = DILATION,
    group: int = GROUP,
    pad_mode: str = "constant",
    layout: str = "NCHW",
    engine: str = "auto",
    out: Array | None = None,
    workers: int | None = None,
) -> Array:
    """Convolve a batch with filters: `conv_forward` without the cache.

    Parameters, shapes and errors are those of `conv_forward`.

    Returns
    -------
    out : ndarray, (N, F, *O), or (N, *O, F)
        The result.

    Examples
    --------
    A Sobel filter on one image:

    >>> import numpy as np
    >>> import fastconv
    >>> image = np.array([[0.0, 0, 5, 5]] * 3)
    >>> sobel = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    >>> fastconv.conv(image[None, None], sobel[None, None])
    array([[[[20., 20.]]]])
    """
    given = (stride, pad, dilation, group, pad_mode, layout, engine)
    call = begin_forward("conv", x, w, b, conv_param, given, out, workers)
    call.convolve()
    return call.finish()


def conv_backward(
    dout: ArrayLike,
    cache: Cache,
    *,
    propagate_down: tuple[bool, bool, bool] = (True, True, True),
    dx: Array | None = None,
    dw: Array | None = None,
    db: Array | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """Compute the gradients of a convolution.

    Parameters
    ----------
    dout : array_like, (N, F, *O), or (N, *O, F) if the forward call's layout was NHWC
        The gradient of the loss with respect to the forward result.
    cache : object
        What `conv_forward` returned with that result; its engine and workers serve this call too.
    propagate_down : (bool, bool, bool)
        Whether dx, dw and db are wanted. One that is not costs nothing and comes back as None.
    dx : ndarray, optional
        An array of x's shape to overwrite with the gradient.
    dw, db : ndarray, optional
        Arrays of w's and b's shape to add the gradients to, as Caffe does; zero them to start.
        dx, dw and db must not overlap each other.

    Returns
    -------
    dx, dw, db : ndarray or None
        Of the shapes of x, w and b and the largest type among those and dout. None for what was not
        asked for, and for db where the forward call had no bias.

    Raises
    ------
    TypeError
        dout or a given array of the wrong type, or a cache that is none.
    ValueError
        A shape other than the forward call's, a read-only target, a cache of another operation.
    MemoryError
        No room for a gradient, packed weights or working memory.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x, w, b = np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)), np.zeros(1)
    >>> out, cache = fastconv.conv_forward(x, w, b)
    >>> dx, dw, db = fastconv.conv_backward(np.ones_like(out), cache)
    >>> dx[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    >>> db
    array([4.])
    """
    forward, call = begin_backward("conv", dout, cache, propagate_down, dx, dw, db)
    geometry, workers = forward.geometry, forward.workers
    if call.dx_work is not None:
        call.engine.backward_x(geometry, call.dout, forward.w, None, call.dx_work, workers)
    db_work = None if call.db is None else call.db.work
    if call.dw_work is not None:
        call.engine.backward_w(geometry, forward.x, call.dout, call.dw_work, workers, db_work)
    elif db_work is not None:
        call.engine.backward_b(call.dout, db_work, workers)
    return call.finish()
