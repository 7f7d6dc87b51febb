"""Changes of colour, in floats: what they make is not rounded or cut off before it is normalised."""

from __future__ import annotations

import dataclasses
import itertools
import math
from statistics import NormalDist

import numpy as np

from cupynn.data.transforms import Transform, to_float

GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # luma of ITU-R BT.601, as Pillow's and OpenCV's grey
ORDERS = np.array(list(itertools.permutations(range(3))))

# Principal components of ImageNet's RGB values on the scale 0..1: the eigenvalues of their covariance, and the axes as
# columns. From AlexNet's authors by way of fb.resnet.torch and MXNet.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
AXES = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


@dataclasses.dataclass(frozen=True)
class ColourJitter(Transform):
    """Brightness, contrast and saturation by random factors, in random order; float32 on the scale 0..1.

    Each factor f is evenly spread over 1 - v..1 + v, with v the argument of its name. Brightness: f x. Contrast:
    f x + (1 - f) m, with m the mean grey of the image. Saturation: f x + (1 - f) g, with g the grey of each pixel.
    As in fb.resnet.torch, values may leave 0..1.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    uniforms = 4  # three factors, the order

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"ColourJitter: {name} must lie in 0..1; got {value}")

    def __call__(self, images: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        _require_rgb("ColourJitter", images)
        x = to_float(images)
        grey = GREY[0] * x[:, :1] + GREY[1] * x[:, 1:2] + GREY[2] * x[:, 2:]
        mean = grey.reshape(len(x), math.prod(x.shape[2:])).mean(axis=1, dtype=np.float64)
        a, b, c = (row.astype(np.float32)[:, None, None, None] for row in self._coefficients(uniforms, mean))
        result = a * x
        result += b * grey + c
        return result

    def _coefficients(self, uniforms: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """a, b and c (N,) so that all three changes of an image x with the greys g come to a x + b g + c.

        The weights of grey add up to 1, so the grey of a x + b g + c is (a + b) g + c, and `mean` likewise.
        """
        spread = np.array([self.brightness, self.contrast, self.saturation])
        factors = 1 + spread * (2 * uniforms[:, :3] - 1)
        orders = ORDERS[(uniforms[:, 3] * len(ORDERS)).astype(np.int64)]
        a, b, c = np.ones(len(mean)), np.zeros(len(mean)), np.zeros(len(mean))
        for change in orders.T:
            f = factors[np.arange(len(mean)), change]
            contrast, saturation = change == 1, change == 2
            # Each change comes once: b is 0 before saturation, c is 0 before contrast.
            c = np.select([contrast, saturation], [(1 - f) * (a + b) * mean, c], f * c)
            a, b = f * a, np.where(saturation, (1 - f) * a, f * b)
        return a, b, c


@dataclasses.dataclass(frozen=True)
class Lighting(Transform):
    """Adds to all pixels of an image one random colour along ImageNet's principal components [Krizhevsky et al. 2012].

    y = x + sum over the components i of axis_i eigenvalue_i a_i, with a_i normal of deviation `std`; float32 on the
    scale 0..1, which values may leave.
    """

    std: float = 0.1
    uniforms = 3

    def __post_init__(self) -> None:
        if self.std < 0:
            raise ValueError(f"Lighting: std must be at least 0; got {self.std}")

    def __call__(self, images: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        _require_rgb("Lighting", images)
        normal = NormalDist(0, 1).inv_cdf
        amounts = self.std * np.array([normal(u) for u in uniforms.ravel()]).reshape(-1, 1, 3) * EIGENVALUES
        # Not a matrix product, whose rounding may depend on the number of rows.
        colours = (amounts * AXES).sum(axis=2).astype(np.float32)
        return to_float(images) + colours[:, :, None, None]


def _require_rgb(name: str, images: np.ndarray) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"{name}: images must have shape (N, 3, H, W); they have shape {images.shape}")
