from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]
_Sizes = npt.NDArray[np.intp]

ROWS: int
VECTORS: int
ALIGNED: int

def lanes(itemsize: int) -> int: ...
def weight_gradient(
    sizes: _Sizes,
    x: _Array,
    dout: _Array,
    dw: _Array,
    peaks: _Array,
    space: _Array,
    first_piece: int,
    end_piece: int,
    begin: int,
    end: int,
) -> None: ...
