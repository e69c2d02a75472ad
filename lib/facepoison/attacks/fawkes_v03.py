"""Fawkes v0.3: a cloak that pulls the features of a user's pictures towards those of somebody far away."""

from __future__ import annotations

import hashlib
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
    raw_embeddings,
    to_tanh,
)
from facepoison.attacks.similarity import dssim_to
from facepoison.device import batches, generator
from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.extractors.prepared import prepared
from facepoison.pictures import Pictures, to_float

_BATCH = 16  # pictures at a time on a CPU


@dataclass(frozen=True)
class FawkesV03:
    """A mode of Fawkes v0.3, as its authors' code sets it (Shan et al., USENIX Security 2020, arXiv 2002.08327).

    Attributes:
        name: What files and tables of results call it.
        title: What people call it.
        threshold: Budget of structural dissimilarity, (1 - SSIM) / 2.
        steps: Iterations.
        rate: Learning rate of Adadelta in the first third of the steps.
        extractors: How many extractors the original mode uses; here those that are given are used.
        penalty: Weight of the squared excess over the threshold.
        furthest: Among how many of the furthest identities the target is drawn.
        pull: How far to aim, in differences between the mean features of the target and of the user.
        drop: What the learning rate is multiplied by after the first and after the second third of the steps.
    """

    name: str
    title: str
    threshold: float
    steps: int
    rate: float
    extractors: int = 1
    penalty: float = 1e6
    furthest: int = 20
    pull: float = 2.0
    drop: float = 0.8
    targeted: ClassVar[bool] = True

    def __call__(
        self,
        pixels: Tensor,
        surrogates: Sequence[Extractor],
        *,
        seed: int,
        public: Pictures | None = None,
        batch: int | None = None,
    ) -> Tensor:
        """All pictures that one user publishes as ``fawkes_v03`` cloaks them, uint8 (N, 3, H, W).

        Raises:
            InputError: there is no ``public``, out of which the target is drawn; or as ``fawkes_v03``.
        """
        if public is None:
            raise InputError(f"{self.title}: no public pictures; give those of other people, one of whom it imitates")
        return fawkes_v03(pixels, surrogates, self, public=public, seed=seed, batch=batch)


FAWKES_V03_HIGH = FawkesV03("fawkes_v03_high", "Fawkes v0.3 high", threshold=0.008, steps=500, rate=10.0)
"""The mode of Fawkes v0.3 that changes most."""


@torch.no_grad()
def raw_features(surrogate: Extractor, pixels: Tensor, batch: int = 128) -> Tensor:
    """Embeddings (N, D), not normalised, on the surrogate's device, of uint8 pictures (N, 3, H, W) on any device."""
    device = surrogate.mean.device
    return torch.cat(
        [raw_embeddings(surrogate, to_float(pixels[some].to(device))) for some in batches(len(pixels), batch)]
    )


def identity_means(features: Tensor, identities: Tensor) -> tuple[Tensor, Tensor]:
    """The identities that have pictures, int64 (M,) ascending, and their mean features (M, D).

    Args:
        features: Of the pictures, (N, D).
        identities: Of the pictures, int64 (N,).
    """
    present, row = torch.unique(identities.to(features.device), return_inverse=True)
    sums = features.new_zeros(len(present), features.shape[1]).index_add(0, row, features)
    return present, sums / row.bincount(minlength=len(present))[:, None]


def _furthest_rows(own: Sequence[Tensor], means: Sequence[Tensor], furthest: int) -> Tensor:
    """Rows of the identities that are furthest from the user, int64 (K,), the furthest first.

    Args:
        own: The user's mean features (D,), for each surrogate.
        means: Mean features (M, D) of the pool's identities, for each surrogate; their distances are summed.
        furthest: How many at most: K is this, or M where the pool has fewer.
    """
    distances = [(theirs - mine).norm(dim=1) for mine, theirs in zip(own, means, strict=True)]
    order: Tensor = torch.stack(distances).sum(dim=0).argsort(descending=True, stable=True)
    return order[:furthest]


def choose_target(own: Sequence[Tensor], means: Sequence[Tensor], furthest: int, seed: int) -> int:
    """Row of the identity to imitate: one of the furthest from the user, all equally likely.

    Args:
        own: As for ``_furthest_rows``.
        means: As for ``_furthest_rows``.
        furthest: As for ``_furthest_rows``.
        seed: It alone decides which of them in order of distance.
    """
    rows = _furthest_rows(own, means, furthest)
    return int(rows[int(torch.randint(len(rows), (), generator=generator(seed, "fawkes v0.3 target")))])


def own_seed(pixels: Tensor, seed: int) -> int:
    """A user's own seed, from one for all users and the pictures, uint8 (N, 3, H, W), that the user publishes.

    With one seed for all, everybody would imitate, say, the seventh furthest.
    """
    whose = hashlib.sha256(pixels.cpu().numpy().tobytes()).hexdigest()
    return generator(seed, "user", whose).initial_seed()


def rate_at(step: int, preset: FawkesV03) -> float:
    """Learning rate of a step, counted from 0."""
    return preset.rate * preset.drop ** (3 * step // preset.steps)


def feature_distance(
    pictures: Tensor, targets: Sequence[Tensor], lengths: Sequence[Tensor], surrogates: Sequence[Extractor]
) -> Tensor:
    """How far features are from their targets, relative to the targets' length, summed over surrogates.

    Args:
        pictures: Float (B, 3, H, W) in [0, 1].
        targets: Features to come near (B, D), for each surrogate.
        lengths: Their Euclidean lengths (B,), for each surrogate.
        surrogates: The user's extractors.

    Returns:
        (B,), 0 on the target.
    """
    seen = channels_last(pictures)
    return torch.stack(
        [
            (raw_embeddings(surrogate, seen) - target).norm(dim=1) / length
            for surrogate, target, length in zip(surrogates, targets, lengths, strict=True)
        ]
    ).sum(dim=0)


def cloak_towards(
    clean: Tensor, targets: Sequence[Tensor], surrogates: Sequence[Extractor], preset: FawkesV03
) -> Tensor:
    """The attack itself, on float pictures.

    Args:
        clean: Pictures (B, 3, H, W) in [0, 1].
        targets: Features to come near (B, D), not normalised, for each surrogate.
        surrogates: The user's extractors.
        preset: The mode.

    Returns:
        The kept iterate of each picture, in [0, 1], not rounded.

    Raises:
        InputError: a gradient is not finite.
    """
    clean = channels_last(clean)  # and so is all that comes of it
    centre, unlike = to_tanh(clean), dssim_to(clean)
    lengths = [target.norm(dim=1) for target in targets]
    modifier = torch.zeros_like(clean).requires_grad_()
    optimiser = Adadelta(modifier.detach())
    best, best_objective = clean, clean.new_full((len(clean),), torch.inf)
    for step in range(preset.steps + 1):  # the last round only looks at what the last step led to
        with torch.set_grad_enabled(step < preset.steps):
            picture = from_tanh(centre + modifier)
            excess = (unlike(picture) - preset.threshold).clamp(min=0)
            objective = preset.penalty * excess.square() + feature_distance(picture, targets, lengths, surrogates)
        with torch.no_grad():
            better = objective < best_objective
            best = torch.where(better[:, None, None, None], picture, best)
            best_objective = torch.where(better, objective, best_objective)
        if step < preset.steps:
            gradient = input_gradient(objective, modifier)
            with torch.no_grad():
                optimiser.step(modifier, gradient, rate_at(step, preset))
    return best.detach().contiguous()


def fawkes_v03(
    pixels: Tensor,
    surrogates: Sequence[Extractor],
    preset: FawkesV03 = FAWKES_V03_HIGH,
    *,
    public: Pictures,
    seed: int,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Cloak all pictures of one user with Fawkes v0.3.

    Targeted: a target is drawn among the ``furthest`` identities of a public pool whose mean features are furthest from
    the user's own; with several surrogates, by the sum of their distances. Each picture x then minimises
    ``penalty * max(DSSIM - threshold, 0)^2 + sum_f ||t - f(x')|| / ||t||`` with
    ``t = f(x) + pull * (mean f(target's pictures) - mean f(user's pictures))``, over a modifier in tanh space, with
    Adadelta (decay 0.95, epsilon 1e-7). Nothing but the penalty bounds the change.

    Where our notes on the original say nothing, this is the plain reading: features are as the extractor gives them,
    for only v1.0 is known to bring them to unit length; the start is the picture itself, where the penalty is flat and
    the distance is not, so that no noise is needed and the seed draws nothing but the target; the learning rate falls
    twice, after the first and after the second third of the steps; of all iterates, start and last included, the one
    with the smallest objective is kept, which may lie a little over the threshold.

    The original works at 224 x 224 with its own extractor. Here pictures keep their own size and the surrogates are
    those that are given; the thresholds carry over. Rounding comes last and may move DSSIM by a few parts in a
    thousand.

    Args:
        pixels: uint8 RGB (N, 3, H, W), at least 11 px a side: all pictures that one user publishes.
        surrogates: The user's extractors, all on one device, where the work is done.
        preset: The mode; name it wherever a result is shown.
        public: Pictures of other people, of any size; the user must not be among them. Where they show fewer than
            ``furthest`` identities, all of these may be drawn.
        seed: For the target: with the pictures it decides which it is in order of distance (``own_seed``).
        batch: Pictures at a time, by default what suits the device.
        progress: Told of each batch done.

    Returns:
        The cloaked pictures, uint8, shape and device of ``pixels``. One picture's cloak depends on the user's others
        through their mean features, but not on the batch (but for rounding: other batches, like other machines, sum in
        another order).

    Raises:
        InputError: pictures or surrogates cannot be used, or the pool is empty.

    Example:
        >>> from dataclasses import replace
        >>> import facepoison as fp
        >>> faces = fp.make_pictures("examples", 3, 2, 64, seed=1)
        >>> own, public = faces.of(0), faces.take(faces.identities > 0)
        >>> short = replace(fp.FAWKES_V03_HIGH, steps=3)  # of 500, to be quick
        >>> extractor = fp.load_extractor("deepid_2014")
        >>> fp.fawkes_v03(own.pixels, [extractor], short, public=public, seed=1).shape
        torch.Size([2, 3, 64, 64])
    """
    check_pixels(pixels)
    if not len(public):
        raise InputError("public: no pictures to draw a target from; give those of at least one other person")
    check_pixels(public.pixels)
    device = check_surrogates(surrogates, pixels[:1])
    ready = [prepared(surrogate) for surrogate in surrogates]
    own = [raw_features(surrogate, pixels).mean(dim=0) for surrogate in ready]
    means = [identity_means(raw_features(surrogate, public.pixels), public.identities)[1] for surrogate in ready]
    chosen = choose_target(own, means, preset.furthest, own_seed(pixels, seed))
    shifts = [preset.pull * (theirs[chosen] - mine) for mine, theirs in zip(own, means, strict=True)]

    def attack(some: Tensor) -> Tensor:
        clean = to_float(some)
        with torch.no_grad():
            targets = [raw_embeddings(f, clean) + shift for f, shift in zip(ready, shifts, strict=True)]
        return cloak_towards(clean, targets, ready, preset)

    return in_batches(attack, pixels, device, batch, progress, _BATCH)
