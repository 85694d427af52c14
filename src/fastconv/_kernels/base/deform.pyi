from typing import Any

import numpy as np
import numpy.typing as npt

def sample(
    x: npt.NDArray[Any],
    offset: npt.NDArray[Any],
    mask: npt.NDArray[Any] | None,
    cols: npt.NDArray[Any],
    sizes: npt.NDArray[np.intp],
    begin: int,
    end: int,
    groups: int,
) -> None: ...
def scatter(
    cols: npt.NDArray[Any],
    x: npt.NDArray[Any],
    offset: npt.NDArray[Any],
    mask: npt.NDArray[Any] | None,
    dx: npt.NDArray[Any] | None,
    doffset: npt.NDArray[Any] | None,
    dmask: npt.NDArray[Any] | None,
    sizes: npt.NDArray[np.intp],
    begin: int,
    end: int,
    groups: int,
) -> None: ...
