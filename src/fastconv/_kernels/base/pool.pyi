from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Sizes = npt.NDArray[np.intp]
Part = tuple[int, int, int, int]
Taps = npt.NDArray[np.intc]

def max_forward(
    x: Array,
    out: Array,
    kept: Array | None,
    sizes: Sizes,
    part: Part,
    room: Array,
    rows: Sizes,
    taps: Taps,
) -> None: ...
def max_backward(
    kept: Array,
    dout: Array,
    dx: Array,
    sizes: Sizes,
    part: Part,
    rows: Sizes,
    taps: Taps,
) -> None: ...
def max_fits(kept: Array, sizes: Sizes, part: Part) -> bool: ...
def average_forward(
    x: Array, out: Array, sizes: Sizes, part: Part, room: Array, rows: Sizes, counted: Sizes
) -> None: ...
def average_backward(
    dout: Array, dx: Array, sizes: Sizes, part: Part, room: Array, rows: Sizes, counted: Sizes
) -> None: ...
