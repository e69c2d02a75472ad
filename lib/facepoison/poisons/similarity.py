"""How far a changed picture is from the original: structural similarity and plain pixel distances, for each picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from facepoison.errors import InputError
from facepoison.pictures import to_float

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def gaussian(size: int, sigma: float) -> Tensor:
    """A one-dimensional Gaussian window of ``size`` taps that sum to 1, float64."""
    taps = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    window = torch.exp(-taps.square() / (2 * sigma**2))
    return window / window.sum()


@lru_cache(maxsize=32)
def band(length: int, size: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix (length - size + 1, length) that slides a Gaussian window over valid positions only.

    Two products with such a band blur a picture as fast as the best convolution does, forwards and backwards, and ten
    times faster than a convolution over one channel at a time; what they compute does not hang on the batch.
    """
    positions = length - size + 1
    if positions < 1:
        raise InputError(f"picture: {length} px is less than the {size} px window; use larger pictures")
    matrix = torch.zeros(positions, length, dtype=torch.float64)
    for row in range(positions):
        matrix[row, row : row + size] = gaussian(size, sigma)
    return matrix.to(dtype).to(device)


def blurred(pictures: Tensor, size: int, sigma: float) -> Tensor:
    """Pictures (..., H, W) under a Gaussian window at valid positions: (..., H - size + 1, W - size + 1)."""
    rows = band(pictures.shape[-2], size, sigma, pictures.dtype, pictures.device)
    columns = band(pictures.shape[-1], size, sigma, pictures.dtype, pictures.device)
    return rows @ (pictures @ columns.T)


def ssim_to(others: Tensor) -> Callable[[Tensor], Tensor]:
    """Structural similarity to pictures that stay the same: what hangs on them alone is computed once; see ``ssim``."""
    twice = 2 * others
    twice_mean_b, square_b = blurred(twice, WINDOW, SIGMA), blurred(others.square(), WINDOW, SIGMA)
    power_b = (twice_mean_b / 2).square()

    def similarity(pictures: Tensor) -> Tensor:
        mean_a = blurred(pictures, WINDOW, SIGMA)
        twice_cross = blurred(pictures * twice, WINDOW, SIGMA)
        square_a = blurred(pictures * pictures, WINDOW, SIGMA)
        product, power_a = mean_a * twice_mean_b, mean_a * mean_a
        # Luminance times structure as one fraction; what hangs on the others alone is in brackets of its own.
        above = (product + K1**2) * (twice_cross - product + K2**2)
        below = (power_a + (power_b + K1**2)) * (square_a - power_a + (square_b - power_b + K2**2))
        return (above / below).mean(dim=(1, 2, 3))

    return similarity


def ssim(pictures: Tensor, others: Tensor) -> Tensor:
    """Structural similarity of each picture with its counterpart, differentiable.

    As ``tf.image.ssim`` computes it, because the thresholds of Fawkes are stated in it: Gaussian window 11 x 11 of
    sigma 1.5, K1 = 0.01, K2 = 0.03, valid positions only, mean over positions and channels (Wang et al., IEEE
    Transactions on Image Processing 13(4), 2004).

    Args:
        pictures: Float (N, C, H, W) in [0, 1], H and W at least 11.
        others: The counterparts, same shape.

    Returns:
        (N,), 1 for equal pictures.

    Raises:
        InputError: the shapes differ or a picture is smaller than the window.
    """
    if pictures.shape != others.shape or pictures.ndim != 4:
        raise InputError(f"ssim: shapes {tuple(pictures.shape)} and {tuple(others.shape)}; give two (N, C, H, W) alike")
    return ssim_to(others)(pictures)


def dssim(pictures: Tensor, others: Tensor) -> Tensor:
    """Structural dissimilarity (1 - SSIM) / 2 of each picture, (N,): 0 for equal pictures; see ``ssim``."""
    return (1 - ssim(pictures, others)) / 2


def dssim_to(others: Tensor) -> Callable[[Tensor], Tensor]:
    """Structural dissimilarity to pictures that stay the same, for attacks that ask for it at every step.

    Args:
        others: Float (N, C, H, W) in [0, 1].

    Returns:
        A function of pictures shaped like them that gives what ``dssim`` gives, in two thirds of its time.

    Raises:
        InputError: a picture is smaller than the window.
    """
    similarity = ssim_to(others)
    return lambda pictures: (1 - similarity(pictures)) / 2


def mean_change(pictures: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference of each picture (N, C, H, W), (N,), in the pictures' own unit."""
    return (pictures - others).abs().flatten(1).mean(dim=1)


def largest_change(pictures: Tensor, others: Tensor) -> Tensor:
    """Largest absolute difference (L-infinity) of each picture (N, C, H, W), (N,), in the pictures' own unit."""
    return (pictures - others).abs().flatten(1).amax(dim=1)


def squared_change(pictures: Tensor, others: Tensor) -> Tensor:
    """Mean squared difference of each picture (N, C, H, W), (N,), in the square of the pictures' own unit."""
    return (pictures - others).square().flatten(1).mean(dim=1)


def psnr(pictures: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels of each float picture in [0, 1], (N,); infinite for equal pictures."""
    return -10 * squared_change(pictures, others).log10()


@dataclass(frozen=True)
class Change:
    """How large a poison is, one number for each picture, float32 (N,).

    Attributes:
        largest: L-infinity in levels of 255.
        mean: Mean absolute difference in levels of 255.
        psnr: Decibels.
        dssim: (1 - SSIM) / 2.
    """

    largest: Tensor
    mean: Tensor
    psnr: Tensor
    dssim: Tensor


def change(clean: Tensor, poisoned: Tensor) -> Change:
    """Measure published pictures against the originals: both uint8 (N, 3, H, W), as they are looked at.

    Raises:
        InputError: they are not uint8 or their shapes differ.

    Example:
        >>> import facepoison as fp
        >>> clean = fp.make_pictures("examples", 1, 2, 32, seed=1).pixels
        >>> found = fp.change(clean, clean ^ 1)  # the lowest bit of every value
        >>> found.largest.round().tolist(), found.psnr.round().tolist()
        ([1.0, 1.0], [48.0, 48.0])
    """
    if clean.dtype != torch.uint8 or poisoned.dtype != torch.uint8:
        raise InputError(
            f"change: measured on uint8 pictures, got {clean.dtype} and {poisoned.dtype}; round them first"
        )
    before, after = to_float(clean), to_float(poisoned)
    return Change(
        largest_change(before, after) * 255, mean_change(before, after) * 255, psnr(before, after), dssim(before, after)
    )
