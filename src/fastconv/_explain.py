"""What a convolution will be computed by, at what cost."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastconv import _engines
from fastconv._calls import make_plan
from fastconv._engines import reason_against
from fastconv._engines.extended import Extended
from fastconv._layout import channels_first
from fastconv._memory import unread
from fastconv._validation import (
    DILATION,
    GROUP,
    PAD,
    STRIDE,
    IntOrPerAxis,
    Pad,
    as_dtype,
    as_flag,
    as_shape,
)
from fastconv._workers import given_workers


class Explanation(NamedTuple):
    """What `explain` says of a call; it prints as a table.

    Attributes
    ----------
    engine : str
        The engine that computes it.
    refused : dict of str to str
        The others, each with the reason why it does not.
    out_shape : tuple of int
        The result's shape, in the call's layout.
    flop : int
        Additions and multiplications of direct convolution, whatever the engine: two for each
        weight and position, without bias.
    workspace : int
        Bytes of working memory, packed weights among them, beyond the arguments and the result.
    """

    engine: str
    refused: dict[str, str]
    out_shape: tuple[int, ...]
    flop: int
    workspace: int

    def __repr__(self) -> str:
        rows = {
            "engine": self.engine,
            "result": str(self.out_shape),
            "work": f"{self.flop / 1e9:.3g} GFLOP",
            "workspace": f"{self.workspace / 2**20:.3g} MiB",
        }
        rows |= {f"not {name}": reason for name, reason in self.refused.items()}
        width = max(map(len, rows))
        return "\n".join(f"{name:{width}}  {text}" for name, text in rows.items())


def explain(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    *,
    stride: IntOrPerAxis = STRIDE,
    pad: Pad = PAD,
    dilation: IntOrPerAxis = DILATION,
    group: int = GROUP,
    pad_mode: str = "constant",
    layout: str = "NCHW",
    engine: str = "auto",
    dtype: npt.DTypeLike = np.float32,
    workers: int | None = None,
    prepared: bool = False,
) -> Explanation:
    """Say which engine computes a convolution, why the others do not, and what it costs.

    Nothing is computed: no arrays are needed.

    Parameters
    ----------
    x_shape : tuple of int, (N, C, *S), or (N, *S, C) if the layout is NHWC
    w_shape : tuple of int, (F, C/group, *K), or (*K, C/group, F)
        The shapes of images and filters.
    stride, pad, dilation, group, pad_mode, layout, engine, workers
        As for `conv_forward`.
    dtype : dtype
        What the call computes in, float32 or float64.
    prepared : bool
        Whether a `PreparedConv` is called. Its workspace counts the packed weights, which it keeps.

    Returns
    -------
    Explanation
        Its attributes are `engine`, `refused`, `out_shape`, `flop` and `workspace` (for native,
        C-contiguous arrays; in the forward pass). It prints as a table.

    Raises
    ------
    TypeError, ValueError
        As `conv_forward` does for arrays of such shapes.

    Examples
    --------
    >>> import fastconv
    >>> told = fastconv.explain((8, 64, 56, 56), (64, 64, 3, 3), pad=1, workers=1)
    >>> told.engine, told.out_shape, told.flop
    ('winograd', (8, 64, 56, 56), 1849688064)
    >>> fastconv.explain((1, 3, 32, 32), (16, 3, 3, 3), pad=1).refused["winograd"]
    'it pays from 16 channels and filters a group on, got C 3, F 16, group 1'
    """
    images, weights = as_shape("x_shape", x_shape), as_shape("w_shape", w_shape)
    given = (stride, pad, dilation, group, pad_mode, layout, engine)
    keeps = as_flag("prepared", prepared)
    kind = as_dtype("dtype", dtype)
    threads = given_workers(workers)
    available = _engines.all_engines()
    plan = make_plan(
        available, "conv", images, kind.char, weights, kind.char, None, None, given, keeps
    )
    g, serving = plan.geometry, plan.serving
    inner = serving.engine if isinstance(serving, Extended) else serving
    layer = g.without_pad() if isinstance(serving, Extended) else g
    preferred = f"{inner.NAME} is asked before it" if engine == "auto" else f"engine={engine!r}"
    refused = {
        other.NAME: reason_against(other, layer, kind, keeps=keeps) or preferred
        for other in available
        if other is not inner
    }
    workspace = 0
    if math.prod(plan.result_shape):
        x = channels_first(unread(images, kind), plan.layout)
        out = channels_first(unread(plan.result_shape, kind), plan.layout)
        workspace = serving.workspace(g, x, out, threads, keeps=keeps)
    return Explanation(
        engine=inner.NAME,
        refused=refused,
        out_shape=plan.result_shape,
        flop=2 * math.prod(g.result_shape) * g.taps // g.group,
        workspace=workspace,
    )
