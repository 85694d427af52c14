from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]
_Sizes = npt.NDArray[np.intp]

ROWS: int
VECTORS: int
NARROW_ROWS: int
TAPS: int
LANE_VECTORS: int
BAND: int
SUM_UNIT: int
PIECE: int
PIECE_STEP: int
ALIGNED: int

def lanes(itemsize: int) -> int: ...
def pack(
    sizes: _Sizes,
    w: _Array,
    offsets: _Sizes,
    packed: _Array,
    transposed: bool,
    begin: int,
    end: int,
) -> bool: ...
def convolve(
    sizes: _Sizes,
    x: _Array,
    weights: _Array,
    bias: _Array | None,
    out: _Array,
    space: _Array,
    begin: int,
    end: int,
) -> None: ...
def convolve_at_once(
    sizes: _Sizes,
    x: _Array,
    w: _Array,
    offsets: _Sizes,
    bias: _Array | None,
    out: _Array,
    space: _Array,
    blocks: int,
    units: int,
    weights: int,
) -> None: ...
def weight_gradient(
    sizes: _Sizes,
    dots: bool,
    x: _Array,
    dout: _Array,
    dw: _Array,
    db: _Array | None,
    space: _Array,
    first_block: int,
    end_block: int,
    begin: int,
    end: int,
) -> None: ...
def bias_gradient(
    dout: _Array,
    db: _Array,
    piece: int,
    first_sample: int,
    end_sample: int,
    begin: int,
    end: int,
) -> None: ...
