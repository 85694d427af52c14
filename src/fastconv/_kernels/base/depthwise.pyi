from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]
_Sizes = npt.NDArray[np.intp]

ROWS: int
ALIGNED: int

def lanes(itemsize: int) -> int: ...
def convolve(
    sizes: _Sizes,
    x: _Array,
    w: _Array,
    bias: _Array | None,
    out: _Array,
    space: _Array,
    begin: int,
    end: int,
) -> None: ...
def weight_gradient(
    sizes: _Sizes,
    x: _Array,
    dout: _Array,
    dw: _Array,
    space: _Array,
    first_pass: int,
    end_pass: int,
    begin: int,
    end: int,
) -> None: ...
def all_finite(array: _Array) -> bool: ...
