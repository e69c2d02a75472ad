"""Fawkes v1.0: a cloak that moves a picture's features as far as a structural similarity budget lets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from facepoison.attacks.base import (
    Adadelta,
    Progress,
    channels_last,
    check_pixels,
    check_surrogates,
    from_tanh,
    in_batches,
    input_gradient,
    project,
    raw_embeddings,
    squared_distance,
    start_noise,
    to_tanh,
)
from facepoison.attacks.similarity import dssim_to
from facepoison.extractors import Extractor, normalise
from facepoison.extractors.prepared import prepared
from facepoison.pictures import Pictures, to_float

_BATCH = 16  # pictures at a time on a CPU


@dataclass(frozen=True)
class FawkesV1:
    """A mode of Fawkes v1.0, as its authors' code sets it (Shan et al., USENIX Security 2020, arXiv 2002.08327).

    Attributes:
        name: What files and tables of results call it.
        title: What people call it.
        threshold: Budget of structural dissimilarity, (1 - SSIM) / 2.
        steps: Iterations.
        rate: Learning rate of Adadelta.
        extractors: How many extractors the original mode uses; here those that are given are used.
        penalty: Weight of the squared excess over the threshold.
        limit: Hard bound on the change of every value, as a fraction of the range.
        start: Half-width of the uniform start in tanh space.
        kick: Size of the one sign step after the first iteration, in tanh space.
        slack: Half-width of the band around the threshold, relative to it.
        ceiling: The feature weight no longer doubles above this, nor halves below its inverse.
    """

    name: str
    title: str
    threshold: float
    steps: int
    rate: float
    extractors: int
    penalty: float = 1e6
    limit: float = 15 / 255
    start: float = 1e-4
    kick: float = 0.01
    slack: float = 0.1
    ceiling: float = 129.0
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
        """One user's pictures as ``fawkes_v1`` cloaks them, uint8 (N, 3, H, W); ``public`` is of no use to it."""
        return fawkes_v1(pixels, surrogates, self, seed=seed, batch=batch)


FAWKES_V1_LOW = FawkesV1("fawkes_v1_low", "Fawkes v1.0 low", threshold=0.004, steps=40, rate=25.0, extractors=1)
"""The mode of Fawkes v1.0 that changes least."""

FAWKES_V1_MID = FawkesV1("fawkes_v1_mid", "Fawkes v1.0 mid", threshold=0.012, steps=75, rate=20.0, extractors=2)
"""The mode of Fawkes v1.0 in the middle."""

FAWKES_V1_HIGH = FawkesV1("fawkes_v1_high", "Fawkes v1.0 high", threshold=0.017, steps=150, rate=15.0, extractors=2)
"""The mode of Fawkes v1.0 that changes most."""


def next_weight(weight: Tensor, side: Tensor, dissimilarity: Tensor, preset: FawkesV1) -> tuple[Tensor, Tensor]:
    """The schedule of the feature weight, for each picture on its own.

    Below the band it doubles, above it halves; inside the band, past the ceiling, and when a picture crosses from one
    side to the other, it starts again from 1.

    Args:
        weight: Current weights (N,).
        side: Where each picture was last: 1 below the band, -1 above, 0 inside; (N,).
        dissimilarity: Where it is now, (N,).
        preset: Gives threshold, slack and ceiling.

    Returns:
        The next weights and sides.
    """
    below = (dissimilarity <= (1 - preset.slack) * preset.threshold) & (weight <= preset.ceiling)
    above = ~below & (dissimilarity >= (1 + preset.slack) * preset.threshold) & (weight >= 1 / preset.ceiling)
    crossed = (below & (side < 0)) | (above & (side > 0))
    moved = torch.where(below, weight * 2, torch.where(above, weight / 2, 1.0))
    return torch.where(crossed, 1.0, moved), below.to(side.dtype) - above.to(side.dtype)


def cloak(clean: Tensor, start: Tensor, surrogates: Sequence[Extractor], preset: FawkesV1) -> Tensor:
    """The attack itself, on float pictures.

    Args:
        clean: Pictures (B, 3, H, W) in [0, 1].
        start: The modifier to start from, in tanh space, same shape.
        surrogates: The user's extractors.
        preset: The mode.

    Returns:
        The kept iterate of each picture, in [0, 1], not rounded.
    """
    with torch.no_grad():
        references = [normalise(raw_embeddings(surrogate, clean)) for surrogate in surrogates]
    clean = channels_last(clean)  # and so is all that comes of it
    centre, unlike = to_tanh(clean), dssim_to(clean)
    modifier = channels_last(start).clone().requires_grad_()
    optimiser = Adadelta(modifier.detach())
    weight, side = clean.new_ones(len(clean)), clean.new_ones(len(clean))
    best, best_score = clean, clean.new_full((len(clean),), -torch.inf)
    for step in range(preset.steps):
        picture = project(from_tanh(centre + modifier), clean, preset.limit)
        dissimilarity = unlike(picture)
        distance = torch.stack(
            [
                squared_distance(raw_embeddings(f, picture), reference)
                for f, reference in zip(surrogates, references, strict=True)
            ]
        ).sum(dim=0)
        excess = (dissimilarity - preset.threshold).clamp(min=0)
        gradient = input_gradient(preset.penalty * excess.square() - weight * distance, modifier)
        with torch.no_grad():
            # Distances are never negative, so any iterate inside the band beats every one outside.
            inside = dissimilarity <= (1 + preset.slack) * preset.threshold
            score = torch.where(inside, distance, -dissimilarity)
            better = score > best_score
            best = torch.where(better[:, None, None, None], picture, best)
            best_score = torch.where(better, score, best_score)
            optimiser.step(modifier, gradient, preset.rate)
            if step == 0:
                modifier -= preset.kick * gradient.sign()
            weight, side = next_weight(weight, side, dissimilarity, preset)
    return best.contiguous()


def fawkes_v1(
    pixels: Tensor,
    surrogates: Sequence[Extractor],
    preset: FawkesV1 = FAWKES_V1_HIGH,
    *,
    seed: int,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Cloak pictures with Fawkes v1.0.

    Untargeted: minimises ``penalty * max(DSSIM - threshold, 0)^2 - weight * sum_f ||f(x') - f(x)||^2 / ||f(x)||`` with
    features f at unit length (so the last norm is 1), over a modifier in tanh space, with Adadelta (decay 0.95,
    epsilon 1e-7, Keras' defaults); after every step the change is cut to +-15/255. Of all iterates with DSSIM <= 1.1
    threshold the one with the largest feature distance is kept; if there is none, the one with the smallest DSSIM.

    The original works at 112 x 112 with its own extractors. Here pictures keep their own size and the surrogates are
    those that are given; the thresholds carry over. Rounding comes after the choice of the iterate and may move DSSIM
    by a few parts in a thousand.

    Args:
        pixels: uint8 RGB (N, 3, H, W), at least 11 px a side.
        surrogates: The user's extractors, all on one device, where the work is done.
        preset: The mode; name it wherever a result is shown.
        seed: For the start; a picture's cloak depends on it and on the picture, not on its company in the call (but
            for rounding: other batches, like other machines, sum in another order).
        batch: Pictures at a time, by default what suits the device.
        progress: Told of each batch done.

    Returns:
        The cloaked pictures, uint8, shape and device of ``pixels``.

    Raises:
        InputError: pictures or surrogates cannot be used.

    Example:
        >>> from dataclasses import replace
        >>> import facepoison as fp
        >>> clean = fp.make_pictures("examples", 1, 2, 64, seed=1).pixels
        >>> short = replace(fp.FAWKES_V1_HIGH, steps=3)  # of 150, to be quick
        >>> cloaked = fp.fawkes_v1(clean, [fp.load_extractor("deepid_2014")], short, seed=1)
        >>> bool((fp.change(clean, cloaked).largest.round() <= 15).all())
        True
    """
    check_pixels(pixels)
    device = check_surrogates(surrogates, pixels[:1])
    ready = [prepared(surrogate) for surrogate in surrogates]

    def attack(some: Tensor) -> Tensor:
        return cloak(to_float(some), start_noise(some, preset.start, seed, "fawkes v1.0"), ready, preset)

    return in_batches(attack, pixels, device, batch, progress, _BATCH)
