"""Where things of one picture lie in another: similarities carried out on batches of pictures, with gradients."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

CROP, CHIP = 112, 150
"""Pixels a side of a face on the ArcFace template, and of one cut out as dlib does."""
CROP_TO_CHIP = ((1.449450, -0.008045, -6.616013), (0.008045, 1.449450, -29.505945))
"""The similarity from the one to the other that fits their templates best: see ``chips.crop_to_chip``."""


def lay(pictures: Tensor, matrix: Tensor, size: int, beyond: Literal["border", "zeros"]) -> Tensor:
    """Pictures under similarities, interpolated bilinearly; for such as make pictures larger, as nothing is smoothed.

    Args:
        pictures: Float (N, C, H, W).
        matrix: (2, 3), or (N, 2, 3) for one each: from places (x, y, 1) in a picture to places in the result, in
            pixels; whole numbers are centres of pixels.
        size: Height and width of the result.
        beyond: What lies around a picture: its border, repeated, or zeros.

    Returns:
        Float (N, C, size, size), differentiable.
    """
    matrix = matrix.to(pictures.device, torch.float64).expand(len(pictures), 2, 3)
    y, x = torch.meshgrid(*[torch.arange(size, device=pictures.device, dtype=torch.float64)] * 2, indexing="ij")
    places = torch.stack([x, y], dim=-1).reshape(1, -1, 2) - matrix[:, None, :, 2]
    sources = places @ torch.linalg.inv(matrix[:, :, :2]).mT
    corner = sources.new_tensor([pictures.shape[-1] - 1, pictures.shape[-2] - 1])
    grid = (2 * sources / corner - 1).view(-1, size, size, 2).to(pictures)
    return F.grid_sample(pictures, grid, "bilinear", beyond, align_corners=True)
