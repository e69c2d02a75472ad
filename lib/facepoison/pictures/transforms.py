"""What clean pictures go through before anybody scrapes them: files, sizes, noise, filters, screenshots."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from facepoison.device import batches, generator
from facepoison.errors import InputError
from facepoison.pictures import to_float, to_uint8

_AT_A_TIME = 8  # pictures whose neighbourhoods fit into a cache
_WINDOW = 5  # pixels across of the beauty filter
REACH = 0.1  # how alike two values must be for it to mix them, as a fraction of the range


def jpeg(pixels: Tensor, *qualities: int) -> Tensor:
    """Pictures saved as JPEG (colour at half resolution) and opened again, once for each quality."""
    result = pixels.clone()
    for place, picture in enumerate(pixels.cpu()):
        image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
        for quality in qualities:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality)
            image = Image.open(file)
        result[place] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return result


def _scaled(pictures: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(pictures, (height, width), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def _rescaled(pictures: Tensor, share: float) -> Tensor:
    return _scaled(pictures, *(round(share * side) for side in pictures.shape[-2:]))


def shrunk(pixels: Tensor, share: float) -> Tensor:
    """Pictures made smaller, to a share of their sides, and brought back to their size."""
    small = to_uint8(_rescaled(to_float(pixels), share))
    return to_uint8(_scaled(to_float(small), *pixels.shape[-2:]))


def screenshot(pixels: Tensor, scale: float, gamma: float) -> Tensor:
    """Pictures shown larger on a screen of another tone, taken from there, saved as JPEG 90 and brought to size."""
    shown = to_uint8(_rescaled(to_float(pixels), scale) ** gamma)
    return to_uint8(_scaled(to_float(jpeg(shown, 90)), *pixels.shape[-2:]))


def sharpened(pixels: Tensor, amount: float) -> Tensor:
    """Pictures with an unsharp mask: so much of what a blur (sigma 1 pixel) takes away is added."""
    pictures = to_float(pixels)
    return to_uint8(pictures + amount * (pictures - gaussian_blur(pictures, [7, 7], [1.0, 1.0])))


def beautified(pixels: Tensor, amount: float) -> Tensor:
    """Pictures as a beauty filter leaves them: skin smoothed but not its edges, and a little more light.

    A bilateral filter (Tomasi and Manduchi, ICCV 1998) over ``_WINDOW`` pixels, mixed in by ``amount`` (0 to 1).
    """
    pictures = to_float(pixels)
    n, _, height, width = pictures.shape
    margin = _WINDOW // 2
    offsets = torch.arange(_WINDOW, device=pixels.device) - margin
    near = torch.exp(-(offsets[:, None].square() + offsets.square()).flatten() / (2 * (_WINDOW / 3) ** 2))
    parts = []
    for some in batches(n, _AT_A_TIME):
        own = pictures[some]
        around = F.unfold(F.pad(own, (margin,) * 4, mode="reflect"), _WINDOW).view(len(own), 3, -1, height, width)
        unlike = (around - own[:, :, None]).square().sum(dim=1, keepdim=True)
        weight = near[:, None, None] * torch.exp(-unlike / (2 * REACH**2))
        parts.append((around * weight).sum(dim=2) / weight.sum(dim=2))
    smooth = torch.cat(parts)
    return to_uint8((pictures + amount * (smooth - pictures)) ** (1 - 0.1 * amount))


def noisy(pixels: Tensor, deviation: float, seed: int) -> Tensor:
    """Pictures with Gaussian noise of a standard deviation, as a fraction of the range.

    Drawn by the seed and by each picture's content, so that it depends on no company.
    """
    draws = []
    for picture in pixels.cpu():
        name = hashlib.sha256(picture.contiguous().numpy().tobytes()).hexdigest()
        draws.append(torch.randn(picture.shape, generator=generator(seed, "noise", name)))
    return to_uint8(to_float(pixels) + deviation * torch.stack(draws).to(pixels.device))


TRANSFORMATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "untransformed": lambda pixels: pixels,
    "JPEG 95": lambda pixels: jpeg(pixels, 95),
    "JPEG 85": lambda pixels: jpeg(pixels, 85),
    "JPEG 75": lambda pixels: jpeg(pixels, 75),
    "JPEG 85, then 75": lambda pixels: jpeg(pixels, 85, 75),
    "resized": partial(shrunk, share=0.7),
    "resized, JPEG 85": lambda pixels: jpeg(shrunk(pixels, 0.7), 85),
    "noise": partial(noisy, deviation=0.02, seed=0),
    "sharpened": partial(sharpened, amount=0.8),
    "beauty filter": partial(beautified, amount=0.7),
    "screenshot": partial(screenshot, scale=1.6, gamma=1.05),
}
"""What pictures are asked about after, by the name that tables use: each takes and gives uint8 (N, 3, H, W)."""


def transform(pixels: Tensor, transformation: str) -> Tensor:
    """Pictures after one of ``TRANSFORMATIONS``, same shape.

    Raises:
        InputError: there is none of that name.
    """
    if transformation not in TRANSFORMATIONS:
        raise InputError(f"transformation '{transformation}' is unknown: use one of {', '.join(TRANSFORMATIONS)}")
    return TRANSFORMATIONS[transformation](pixels)


def transform_at_random(pixels: Tensor, share: float, stream: torch.Generator) -> Tensor:
    """Pictures of which a share went through something, each group of them with amounts of its own.

    What detectors are trained on. The amounts are drawn, so that those of ``TRANSFORMATIONS`` are met by chance only;
    some are resized and then saved as JPEG.

    Args:
        pixels: uint8 (N, 3, H, W).
        share: Chance that a picture is transformed.
        stream: Where chance comes from.

    Returns:
        The same pictures in the same order, uint8.
    """

    def between(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=stream).item()

    def quality() -> int:
        return round(between(60, 98))

    kinds: list[Callable[[Tensor], Tensor]] = [
        lambda some: jpeg(some, quality()),
        lambda some: jpeg(some, quality()),
        lambda some: jpeg(some, quality(), quality()),
        lambda some: shrunk(some, between(0.4, 0.95)),
        lambda some: jpeg(shrunk(some, between(0.4, 0.95)), quality()),
        lambda some: noisy(some, between(0.0, 0.04), round(between(0, 1e9))),
        lambda some: sharpened(some, between(0.0, 1.5)),
        lambda some: beautified(some, between(0.3, 1.0)),
        lambda some: screenshot(some, between(1.1, 2.0), between(0.9, 1.1)),
    ]
    n = len(pixels)
    transformed = torch.rand(n, generator=stream) < share
    kind = torch.where(transformed, torch.randint(len(kinds), (n,), generator=stream), -1)
    changed = pixels.clone()
    for number, change in enumerate(kinds):
        places = (kind == number).nonzero().flatten()
        for few in batches(len(places), 4):  # a few pictures share their amounts
            changed[places[few]] = change(pixels[places[few]])
    return changed
