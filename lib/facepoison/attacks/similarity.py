"""How far a changed picture is from the original: structural similarity and plain pixel distances, for each picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from facepoison.errors import InputError
from facepoison.pictures import to_float

WINDOW = 11
_SIGMA = 1.5
K1, K2 = 0.01, 0.03


def gaussian(size: int, sigma: float) -> Tensor:
    """A one-dimensional Gaussian window of ``size`` taps that sum to 1, float64."""
    taps = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    window = torch.exp(-taps.square() / (2 * sigma**2))
    return window / window.sum()


@lru_cache(maxsize=32)
def taps(channels: int, size: int, sigma: float) -> Tensor:
    """A Gaussian window for each channel, float32 (channels, 1, size)."""
    return gaussian(size, sigma).float().repeat(channels, 1, 1)


@lru_cache(maxsize=32)
def band(length: int, size: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix (length - size + 1, length) that slides a Gaussian window over valid positions only."""
    matrix = torch.zeros(length - size + 1, length, dtype=torch.float64)
    for row in range(len(matrix)):
        matrix[row, row : row + size] = gaussian(size, sigma)
    return matrix.to(dtype).to(device)


def _as_channels(pictures: Tensor) -> Tensor:
    """Pictures (..., H, W) as the channels of one, (1, N, H, W), the channels last in memory."""
    if pictures.ndim != 4 or len(pictures) != 1:  # reshaping what has that shape would hide that it lies so already
        pictures = pictures.reshape(1, -1, *pictures.shape[-2:])
    return pictures.contiguous(memory_format=torch.channels_last)


def blurred(pictures: Tensor, size: int, sigma: float, margin: int = 0) -> Tensor:
    """Pictures (..., H, W) under a Gaussian window at valid positions: (..., H - size + 1, W - size + 1).

    Either way down and then across, and what comes out for one picture does not hang on the others. On a CPU oneDNN
    takes every map as a channel of one picture, the channels last, and a third of the time of products with a band.
    Elsewhere two such products are as fast as the best convolution, and round no coarser than float32 does, where a
    GPU's convolutions may.

    Args:
        pictures: Of any number of dimensions; fastest as ``_as_channels`` lays them out.
        size: Taps of the window.
        sigma: Its standard deviation in pixels.
        margin: So many zeros are first put around each picture.

    Raises:
        InputError: a picture is smaller than the window.
    """
    pictures = F.pad(pictures, (margin,) * 4) if margin else pictures
    if min(pictures.shape[-2:]) < size:
        least = min(pictures.shape[-2:])
        raise InputError(f"picture: {least} px is less than the {size} px window; use larger pictures")
    kind = pictures.dtype, pictures.device
    if kind == (torch.float32, torch.device("cpu")) and torch.backends.mkldnn.enabled:
        maps = _as_channels(pictures)
        window = taps(maps.shape[1], size, sigma)
        down = F.conv2d(maps, window[..., None], groups=len(window))
        across = F.conv2d(down, window[..., None, :], groups=len(window))
        return across.view(*pictures.shape[:-2], *across.shape[-2:])
    rows, columns = (band(length, size, sigma, *kind) for length in pictures.shape[-2:])
    return rows @ (pictures @ columns.T)


class _Similarity(torch.autograd.Function):
    """Structural similarity to pictures that stay the same, with its gradient in closed form.

    Of pictures x and others y, with m, s and c the window's means of x, x^2 and 2 x y, and m' and v' mean and variance
    of y, similarity is the mean over positions and channels of ``a1 a2 / (b1 b2)``, luminance times structure, where
    ``a1 = 2 m m' + K1^2``, ``a2 = c - 2 m m' + K2^2``, ``b1 = m^2 + m'^2 + K1^2`` and ``b2 = s - m^2 + v' + K2^2``.
    Everything is of shape (1, N C, ...), the layout that ``blurred`` is fastest for.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, pictures: Tensor, twice: Tensor, twice_mean: Tensor, b1_rest: Tensor, b2_rest: Tensor
    ) -> Tensor:
        """Similarity (N,) of pictures (N, C, H, W), given 2 y, 2 m', m'^2 + K1^2 and v' + K2^2."""
        x = _as_channels(pictures)
        m, s, c = blurred(torch.cat([x, x * x, x * twice], dim=1), WINDOW, _SIGMA).chunk(3, dim=1)
        product, square = m * twice_mean, m * m
        a1, a2, b1, b2 = product + K1**2, c - product + K2**2, square + b1_rest, s - square + b2_rest
        ctx.save_for_backward(x, twice, twice_mean, m, a1, a2, b1, b2)
        return (a1 * a2 / (b1 * b2)).reshape(len(pictures), -1).mean(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient (N, C, H, W) from the slope (N,) along each similarity."""
        x, twice, twice_mean, m, a1, a2, b1, b2 = ctx.saved_tensors  # type: ignore[attr-defined]
        shape = len(slope), -1, *x.shape[2:]
        if not bool(slope.any()):  # as under a budget, where a penalty is flat
            return torch.zeros_like(x).view(shape), None, None, None, None
        # Of each channel; the mean is over positions and over the channels of a picture.
        channels = m.shape[1] // len(slope)
        each = (slope / (channels * m[0, 0].numel())).repeat_interleave(channels)[:, None, None]
        by_c = each * a1 / (b1 * b2)
        kept = by_c * a2
        by_s = -kept / b2
        by_m = twice_mean * (each * a2 / (b1 * b2) - by_c) - 2 * m * (kept / b1 + by_s)
        # The window is symmetric, so that the way back through a blur is a blur of what is padded with zeros.
        maps = blurred(torch.cat([by_m, by_s, by_c], dim=1), WINDOW, _SIGMA, margin=WINDOW - 1)
        to_x, to_square, to_cross = maps.chunk(3, dim=1)
        return (to_x + 2 * x * to_square + twice * to_cross).view(shape), None, None, None, None


@torch.no_grad()
def _ssim_to(others: Tensor) -> Callable[[Tensor], Tensor]:
    """Structural similarity to pictures that stay the same: what hangs on them alone is computed once; see ``ssim``."""
    twice = _as_channels(2 * others)
    twice_mean, square = blurred(twice, WINDOW, _SIGMA), blurred(_as_channels(others.square()), WINDOW, _SIGMA)
    power = (twice_mean / 2).square()
    fixed = twice, twice_mean, power + K1**2, square - power + K2**2
    return lambda pictures: _Similarity.apply(pictures, *fixed)


def ssim(pictures: Tensor, others: Tensor) -> Tensor:
    """Structural similarity of each picture with its counterpart, differentiable in the pictures, not in the others.

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
    return _ssim_to(others)(pictures)


def dssim(pictures: Tensor, others: Tensor) -> Tensor:
    """Structural dissimilarity (1 - SSIM) / 2 of each picture, (N,): 0 for equal pictures; see ``ssim``."""
    return (1 - ssim(pictures, others)) / 2


def dssim_to(others: Tensor) -> Callable[[Tensor], Tensor]:
    """Structural dissimilarity to pictures that stay the same, for attacks that ask for it at every step.

    Args:
        others: Float (N, C, H, W) in [0, 1].

    Returns:
        A function of pictures shaped like them that gives what ``dssim`` gives, without what hangs on the others alone.

    Raises:
        InputError: a picture is smaller than the window.
    """
    similarity = _ssim_to(others)
    return lambda pictures: (1 - similarity(pictures)) / 2


def _mean_change(pictures: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference of each picture (N, C, H, W), (N,), in the pictures' own unit."""
    return (pictures - others).abs().flatten(1).mean(dim=1)


def _largest_change(pictures: Tensor, others: Tensor) -> Tensor:
    """Largest absolute difference (L-infinity) of each picture (N, C, H, W), (N,), in the pictures' own unit."""
    return (pictures - others).abs().flatten(1).amax(dim=1)


def squared_change(pictures: Tensor, others: Tensor) -> Tensor:
    """Mean squared difference of each picture (N, C, H, W), (N,), in the square of the pictures' own unit."""
    return (pictures - others).square().flatten(1).mean(dim=1)


def squared_change_to(others: Tensor) -> Callable[[Tensor], Tensor]:
    """``squared_change`` to pictures that stay the same, as ``dssim_to`` is of ``dssim``."""
    return lambda pictures: squared_change(pictures, others)


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
        _largest_change(before, after) * 255,
        _mean_change(before, after) * 255,
        psnr(before, after),
        dssim(before, after),
    )
