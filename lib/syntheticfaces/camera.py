"""The camera that looks at the book's own faces: white balance, exposure, lens, sensor and compression."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from facepoison.device import generator
from syntheticfaces.head import Columns

TILE = 512  # side of the sheet of noise that pictures cut theirs from

# quantisation tables of the JPEG standard (ITU-T T.81, annex K) for brightness and colour
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


@cache
def _noise(device: torch.device) -> Tensor:
    """Standard normal noise (3, TILE, TILE), the same in every process."""
    return torch.randn(3, TILE, TILE, generator=generator(0, "sensor noise")).to(device)


@cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """The DCT's matrix (8, 8) and the quantisation tables (3, 1, 8, 1, 8)."""
    k = torch.arange(8.0)
    dct = torch.cos(math.pi * (2 * k + 1) * k[:, None] / 16) / 2
    dct[0] /= math.sqrt(2)
    tables = torch.tensor([LUMINANCE, CHROMINANCE, CHROMINANCE], dtype=torch.float32)
    return dct.to(device), tables.view(3, 1, 8, 1, 8).to(device)


def _blur(light: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of pictures (B, 3, H, W) by sigma (B, 1, 1, 1) pixels, with seven taps a direction."""
    taps = [torch.exp(-0.5 * (k / sigma) ** 2) for k in range(4)]
    whole = taps[0] + 2 * (taps[1] + taps[2] + taps[3])
    weights = [tap / whole for tap in taps]
    for axis in (2, 3):
        n = light.shape[axis]
        wide = F.pad(light, (3, 3, 0, 0) if axis == 3 else (0, 0, 3, 3), mode="replicate")
        light = weights[0] * light
        for k in (1, 2, 3):
            pair = wide.narrow(axis, 3 - k, n) + wide.narrow(axis, 3 + k, n)
            light = torch.addcmul(light, weights[k], pair)
    return light


def _compress(pictures: Tensor, quality: Tensor) -> Tensor:
    """Quantise the 8 x 8 DCT of pictures (B, 3, H, W) in 0 to 255 as JPEG does, colour at full resolution."""
    dct, tables = _tables(pictures.device)
    red, green, blue = pictures.unbind(1)
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    b, _, h, w = pictures.shape
    planes = torch.stack((y - 128, (blue - y) * 0.564, (red - y) * 0.713), 1).view(b, 3, h // 8, 8, w // 8, 8)
    planes = torch.matmul(planes, dct.T)
    planes = torch.matmul(dct, planes.transpose(3, 4)).transpose(3, 4)
    factor = torch.where(quality < 50, 50 / quality, 2 - quality / 50).view(b, 1, 1, 1, 1, 1)
    steps = (tables * factor).clamp_min(1)
    planes = (planes / steps).round_().mul_(steps)
    planes = torch.matmul(dct.T, planes.transpose(3, 4)).transpose(3, 4)
    y, cb, cr = torch.matmul(planes, dct).reshape(b, 3, h, w).unbind(1)
    y = y + 128
    return torch.stack((y + 1.402 * cr, y - 0.344 * cb - 0.714 * cr, y + 1.772 * cb), 1)


def develop(light: Tensor, q: Columns) -> Tensor:
    """Take the picture: linear light (B, 3, H, W) in, uint8 RGB out."""
    b, _, h, w = light.shape
    gain = torch.cat((q.red + q.exposure * 0, -0.35 * (q.red + q.blue), q.blue), 1).view(b, 3, 1, 1)
    light = light * (torch.exp2(q.exposure).unsqueeze(1) * (1 + gain))
    light = _blur(light, (q.blur.unsqueeze(1) * (h / 64) ** 0.5))
    # film-like shoulder, then gamma 2
    light = torch.sqrt_(light / (1 + 0.18 * light))
    grey = light.mean(1, keepdim=True)
    light = grey + (light - grey) * q.saturation.unsqueeze(1)
    light = (light - 0.5) * (1 + q.contrast.unsqueeze(1)) + 0.5
    corner = (
        torch.cat((q.noise_y, q.noise_x), 1).view(b, 2).mul(torch.tensor([TILE - h, TILE - w], device=light.device))
    )
    rows = corner[:, :1].long() + torch.arange(h, device=light.device)
    columns = corner[:, 1:].long() + torch.arange(w, device=light.device)
    noise = _noise(light.device)[:, rows[:, :, None], columns[:, None, :]].transpose(0, 1)
    light = torch.addcmul(light, noise, q.noise.unsqueeze(1))
    pictures = _compress(light.clamp_(0, 1).mul_(255), q.quality.view(b))
    return pictures.clamp_(0, 255).round_().to(torch.uint8)
