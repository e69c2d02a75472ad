"""LowKey: sign-gradient ascent on feature distance, with and without blur, held back by a perceptual distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from facepoison.attacks.base import (
    Progress,
    channels_last,
    check_pixels,
    check_surrogates,
    in_batches,
    input_gradient,
    raw_embeddings,
    sign_step,
    squared_distance,
    start_noise,
)
from facepoison.attacks.lpips import lpips_to
from facepoison.attacks.similarity import blurred, dssim_to, squared_change_to
from facepoison.errors import InputError
from facepoison.extractors import Extractor, normalise
from facepoison.extractors.prepared import prepared
from facepoison.pictures import Pictures, to_float

Perceptual = Callable[[Tensor], Callable[[Tensor], Tensor]]
"""A perceptual distance in two steps: of clean pictures, float (B, 3, H, W) in [0, 1], it makes a differentiable
function of others of that shape, (B,), 0 for equal ones."""

PERCEPTUAL: Mapping[str, Perceptual] = {"mse": squared_change_to, "dssim": dssim_to, "lpips": lpips_to}
"""The perceptual distances by the name that presets use; LPIPS wants its weights fetched before."""

_BATCH = 8  # pictures at a time on a CPU; each passes through a surrogate four times a step


@dataclass(frozen=True)
class LowKey:
    """A setting of LowKey (Cherepanova et al., ICLR 2021, arXiv 2101.07922).

    Attributes:
        name: What files and tables of results call it.
        title: What people call it.
        perceptual: Name of the distance that holds the attack back: a key of ``PERCEPTUAL``, or of one that is given.
        weight: Its weight against squared distances of unit features, summed over dimensions.
        steps: Iterations of sign-gradient ascent.
        step: Size of each, as a fraction of the range.
        start: Half-width of the uniform start.
        blur_size: Width of the Gaussian window in pixels.
        blur_sigma: Its standard deviation in pixels.
        extractors: How many models the original uses; here those that are given are used.
    """

    name: str
    title: str
    perceptual: str
    weight: float
    steps: int = 50
    step: float = 0.0025
    start: float = 0.005
    blur_size: int = 7
    blur_sigma: float = 3.0
    extractors: int = 4
    targeted: ClassVar[bool] = False

    def __call__(
        self,
        pixels: Tensor,
        surrogates: Sequence[Extractor],
        *,
        seed: int,
        public: Pictures | None = None,
        batch: int | None = None,
    ) -> Tensor:
        """One user's pictures as ``lowkey`` poisons them, uint8 (N, 3, H, W); ``public`` is of no use to it."""
        return lowkey(pixels, surrogates, self, seed=seed, batch=batch)


LOWKEY = LowKey("lowkey", "LowKey", perceptual="lpips", weight=0.05 * 512)
"""LowKey as published, held back by LPIPS, whose weights ``facepoison fetch lpips`` gets."""

LOWKEY_MSE = LowKey("lowkey_mse", "LowKey (MSE)", perceptual="mse", weight=330.0)
"""Another attack than LowKey, held back by the mean squared error, which needs no download; see ``lowkey``."""


def blur(pictures: Tensor, preset: LowKey) -> Tensor:
    """Pictures (B, 3, H, W) under the attack's Gaussian blur, reflected at the borders; same shape."""
    return blurred(F.pad(pictures, (preset.blur_size // 2,) * 4, mode="reflect"), preset.blur_size, preset.blur_sigma)


def mirrored(*pictures: Tensor) -> Tensor:
    """K batches (B, 3, H, W), each followed by its mirror images, (2 K B, 3, H, W): one pass is faster than 2 K."""
    return channels_last(torch.cat([view for each in pictures for view in (each, each.flip(-1))]))


def features(surrogate: Extractor, views: Tensor, batch: int) -> Tensor:
    """Embedding plus embedding of the mirror image: (K, B, D), not normalised, of ``mirrored`` batches of size B."""
    return raw_embeddings(surrogate, views).view(len(views) // (2 * batch), 2, batch, -1).sum(dim=1)


def ascend(
    clean: Tensor, start: Tensor, surrogates: Sequence[Extractor], preset: LowKey, perceptual: Perceptual
) -> Tensor:
    """The attack itself, on float pictures.

    Args:
        clean: Pictures (B, 3, H, W) in [0, 1].
        start: The change to start from, same shape.
        surrogates: The user's extractors.
        preset: The setting.
        perceptual: The distance that holds the attack back.

    Returns:
        The poisoned pictures, in [0, 1], not rounded.
    """
    with torch.no_grad():
        views, batch = mirrored(clean), len(clean)
        references = [normalise(features(surrogate, views, batch)[0]) for surrogate in surrogates]
    picture, unlike = clean + start, perceptual(clean)
    for _ in range(preset.steps):
        picture.requires_grad_()
        views = mirrored(picture, blur(picture, preset))
        # Back through one surrogate before the next begins: what its passes need is still in the cache, and then free.
        seen, pull = views.detach().requires_grad_(), torch.zeros_like(views)
        for surrogate, reference in zip(surrogates, references, strict=True):
            plain, smoothed = features(surrogate, seen, batch)
            distance = squared_distance(plain, reference) + squared_distance(smoothed, reference)
            pull += torch.autograd.grad(distance.sum() / (2 * len(references)), seen)[0]
        # The gradient of this product is that of the distances: pull, taken from the views to the picture.
        objective = (views * pull).sum() - preset.weight * unlike(picture).sum()
        gradient = input_gradient(objective, picture)
        picture = sign_step(picture.detach(), gradient, preset.step)
    return picture.clamp(0, 1)


def lowkey(
    pixels: Tensor,
    surrogates: Sequence[Extractor],
    preset: LowKey = LOWKEY,
    *,
    seed: int,
    perceptual: Perceptual | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Poison pictures with LowKey.

    Maximises ``mean_f (||F(x') - F(x)||^2 + ||F(blur(x')) - F(x)||^2) / 2 - weight * perceptual(x', x)``, where F is
    ``f(x) + f(mirrored x)`` at unit length and the clean reference is unblurred in both terms, by steps of the
    gradient's sign. Nothing bounds the change but the perceptual term and the number of steps (at most start + steps *
    step = 0.13 of the range); values are cut to [0, 1] once, at the end.

    The scale of ``weight`` is a trap. The original averages squared differences over the 512 dimensions of its features
    and weighs LPIPS by alpha = 0.05; here they are summed, whatever the surrogates' dimension, so that the same attack
    has a weight of 0.05 * 512 = 25.6. LPIPS needs weights that do not come with the book: see ``lpips.fetch_lpips``.
    Twenty photographs of ten people (112 px, two surrogates) come out at a PSNR of 32.6 dB, an SSIM of 0.89 and a mean
    change of 4.2 levels; one picture of the original's has 30.0 dB, 0.86 and 5.6.

    ``LOWKEY_MSE`` does without: it holds the attack back by the mean squared error, weighed so that synthetic
    faces of the validation population at 112 px come out at a PSNR of 30 dB, as the original's own output does
    (``benchmarks/calibrate_lowkey.py`` gives 332). Of the distances that need no download this one comes nearest
    to the original's SSIM of 0.86 as well: 0.91, where DSSIM at the same PSNR leaves 0.98, a poison hidden in textures
    that LowKey does not look for. On photographs the same weight gives 29.0 dB and 0.82.

    Args:
        pixels: uint8 RGB (N, 3, H, W), at least 11 px a side, 31 for LPIPS.
        surrogates: The user's extractors, all on one device, where the work is done.
        preset: The setting; name it wherever a result is shown.
        seed: For the start; a picture's poison depends on it and on the picture, not on its company in the call (but
            for rounding: other batches, like other machines, sum in another order).
        perceptual: The distance to use in place of the preset's.
        batch: Pictures at a time, by default what suits the device.
        progress: Told of each batch done.

    Returns:
        The poisoned pictures, uint8, shape and device of ``pixels``.

    Raises:
        InputError: pictures or surrogates cannot be used, or the preset's perceptual distance is not at hand.

    Example:
        >>> from dataclasses import replace
        >>> import facepoison as fp
        >>> clean = fp.make_pictures("examples", 1, 2, 64, seed=1).pixels
        >>> short = replace(fp.LOWKEY, steps=2)  # of 50, to be quick
        >>> poisoned = fp.lowkey(clean, [fp.load_extractor("deepid_2014")], short, seed=1)
        >>> poisoned.shape, bool((fp.change(clean, poisoned).largest > 0).all())
        (torch.Size([2, 3, 64, 64]), True)
    """
    check_pixels(pixels)
    device = check_surrogates(surrogates, pixels[:1])
    ready = [prepared(surrogate) for surrogate in surrogates]
    if perceptual is None and preset.perceptual not in PERCEPTUAL:
        known = ", ".join(PERCEPTUAL)
        raise InputError(f"perceptual distance '{preset.perceptual}': unknown; give it as perceptual=, or use {known}")
    distance = perceptual or PERCEPTUAL[preset.perceptual]

    def attack(some: Tensor) -> Tensor:
        return ascend(to_float(some), start_noise(some, preset.start, seed, "lowkey"), ready, preset, distance)

    return in_batches(attack, pixels, device, batch, progress, _BATCH)
