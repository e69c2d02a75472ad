"""Random changes to training pictures, by amounts that a recipe names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SHRUNK = (16, 24, 32)  # sides, in pixels of 64, that low-resolution augmentation takes pictures through


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training pictures; every amount is drawn uniformly for each picture.

    Attributes:
        shift: Largest shift, in pixels of 64.
        zoom: Largest relative change of size.
        turn: Largest rotation in radians.
        colour: Largest relative change of each channel's gain; contrast changes by twice, brightness by as much.
        blur: Largest weight of a blur with binomial weights 1, 2, 1, of a third of the pictures.
        noise: Largest standard deviation of Gaussian noise on [0, 1], of another third.
        cutout: Chance that a square of 12 to 24 pixels is painted over.
        shrink: Chance that a picture is taken to a quarter, three eighths or half of its size and back.
    """

    shift: float = 2.0
    zoom: float = 0.03
    turn: float = 0.05
    colour: float = 0.05
    blur: float = 0.7
    noise: float = 0.02
    cutout: float = 0.1
    shrink: float = 0.0


USUAL = Augmentation()
CROPS = Augmentation(zoom=0.0, turn=0.0, colour=0.0, blur=0.0, noise=0.0, cutout=0.0)
STRONG = Augmentation(shift=3.0, zoom=0.06, turn=0.08, colour=0.12, blur=1.0, noise=0.03, cutout=0.2, shrink=0.3)


def augment(pictures: Tensor, how: Augmentation, rng: torch.Generator, amount: float = 1.0) -> Tensor:
    """Randomly changed copies of float pictures (B, 3, H, W) in [0, 1]; ``amount`` scales every change but the flip."""
    b, _, height, width = pictures.shape
    device = pictures.device

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * torch.rand(b, *shape, generator=rng)).to(device)

    flip = 1 - 2 * (draw(0, 1) < 0.5).float()
    turn, zoom = how.turn * amount * draw(-1, 1), 1 + how.zoom * amount * draw(-1, 1)
    shift = 2 * how.shift / 64 * amount * draw(-1, 1, 2)
    cosine, sine = torch.cos(turn) * zoom, torch.sin(turn) * zoom
    rows = [cosine * flip, -sine, shift[:, 0], sine * flip, cosine, shift[:, 1]]
    grid = F.affine_grid(torch.stack(rows, 1).view(b, 2, 3), [b, 3, height, width], align_corners=False)
    out = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)

    third = b // 3  # batches come in random order: a third of each is blurred, another is made noisy
    blurred = out[:third]
    for dim in (2, 3):
        n = blurred.shape[dim]
        edges = [blurred.narrow(dim, 0, 1), blurred, blurred.narrow(dim, n - 1, 1)]
        wide = torch.cat(edges, dim)
        blurred = (wide.narrow(dim, 0, n) + 2 * blurred + wide.narrow(dim, 2, n)) / 4
    out[:third] = torch.lerp(out[:third], blurred, how.blur * amount * draw(0, 1, 1, 1, 1)[:third])

    gain = (1 + how.colour * amount * draw(-1, 1, 3, 1, 1)) * (1 + 2 * how.colour * amount * draw(-1, 1, 1, 1, 1))
    out = out * gain + how.colour * amount * draw(-1, 1, 1, 1, 1)

    if how.shrink:  # before noise, as a camera far away has it
        choice = torch.where(draw(0, 1) < how.shrink * amount, len(SHRUNK) * draw(0, 1), -1.0).floor()
        for index, pixels in enumerate(SHRUNK):
            chosen = (choice == index).nonzero().flatten()
            if len(chosen):
                small = F.interpolate(out[chosen], (pixels * height // 64, pixels * width // 64), mode="area")
                out[chosen] = F.interpolate(small, (height, width), mode="bilinear", align_corners=False)

    noise = torch.randn(out[-third:].shape, generator=rng).to(device)
    out[-third:] += how.noise * amount * draw(0, 1, 1, 1, 1)[-third:] * noise

    side = draw(12, 24, 1, 1, 1) / 64 * height / 2
    y, x = draw(0, height, 1, 1, 1), draw(0, width, 1, 1, 1)
    rows_, columns = torch.arange(height, device=device).view(1, 1, -1, 1), torch.arange(width, device=device)
    covered = ((rows_ - y).abs() < side) & ((columns - x).abs() < side) & (draw(0, 1, 1, 1, 1) < how.cutout * amount)
    return torch.where(covered, draw(0, 1, 3, 1, 1), out).clamp(0, 1)
