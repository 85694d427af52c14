from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]
_Sizes = npt.NDArray[np.intp]

ROWS: int
VECTORS: int
TILES: int
ALIGNED: int

def lanes(itemsize: int) -> int: ...
def largest(numbers: _Array) -> float: ...
def pack(
    sizes: _Sizes,
    w: _Array,
    packed: _Array,
    peaks: _Array,
    space: _Array,
    begin: int,
    end: int,
) -> None: ...
def convolve(
    sizes: _Sizes,
    x: _Array,
    w: _Array,
    packed: _Array | None,
    bias: _Array | None,
    out: _Array,
    peaks: _Array,
    space: _Array,
    begin: int,
    end: int,
) -> None: ...
