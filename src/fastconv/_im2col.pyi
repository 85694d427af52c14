from typing import Any

import numpy as np
import numpy.typing as npt

def im2col(
    x: npt.NDArray[Any],
    cols: npt.NDArray[Any],
    sizes: npt.NDArray[np.intp],
    begin: int,
    end: int,
    force_nd: bool = False,
) -> None: ...
def col2im(
    cols: npt.NDArray[Any],
    x: npt.NDArray[Any],
    sizes: npt.NDArray[np.intp],
    begin: int,
    end: int,
    force_nd: bool = False,
) -> None: ...
