"""Which magnitudes the transforms of the engines `winograd` and `fft` will do for."""

from typing import Any, NamedTuple

import numpy as np


class Limits(NamedTuple):
    """Which magnitudes of two arrays a transform will do for.

    Below `low`, what is lost under the smallest normal numbers is not small beside the results.
    """

    low: float
    high: float
    product_high: float

    @classmethod
    def of(cls, dtype: np.dtype[Any], growth: float, product_growth: float) -> "Limits":
        """Half of what is exact, where numbers grow so much at most, and products of two."""
        numbers = np.finfo(dtype)
        high = float(numbers.max) / 2
        return cls(float(numbers.tiny / numbers.eps), high / growth, high / product_growth)

    def allow(self, images: float, weights: float) -> bool:
        """Whether none is left by images and weights whose largest magnitudes these are."""
        most, least, product = max(images, weights), min(images, weights), images * weights
        return (
            images == images
            and weights == weights
            and most <= self.high
            and product <= self.product_high
            and (least == 0 or min(least, product) >= self.low)
        )
