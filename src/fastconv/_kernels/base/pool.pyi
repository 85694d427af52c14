from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]
_Sizes = npt.NDArray[np.intp]
_Part = tuple[int, int, int, int]
_Taps = npt.NDArray[np.intc]

def max_forward(
    x: _Array,
    out: _Array,
    kept: _Array | None,
    sizes: _Sizes,
    part: _Part,
    room: _Array,
    rows: _Sizes,
    taps: _Taps,
) -> None: ...
def max_backward(
    kept: _Array,
    dout: _Array,
    dx: _Array,
    sizes: _Sizes,
    part: _Part,
    rows: _Sizes,
    taps: _Taps,
) -> None: ...
def max_fits(kept: _Array, sizes: _Sizes, part: _Part) -> bool: ...
def average_forward(
    x: _Array, out: _Array, sizes: _Sizes, part: _Part, room: _Array, rows: _Sizes, counted: _Sizes
) -> None: ...
def average_backward(
    dout: _Array,
    dx: _Array,
    sizes: _Sizes,
    part: _Part,
    room: _Array,
    rows: _Sizes,
    counted: _Sizes,
) -> None: ...
