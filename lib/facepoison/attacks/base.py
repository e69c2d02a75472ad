"""What attacks share: what an attack is, checks, start noise, tanh space, sign steps, projection, batches, features."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from facepoison.attacks.similarity import WINDOW
from facepoison.device import batches, generator
from facepoison.errors import InputError
from facepoison.extractors import Drawing, Extractor, normalise
from facepoison.pictures import Pictures, check_pictures, to_float, to_uint8

Progress = Callable[[int, int], None]
"""Called after each batch with the number of pictures done and of all."""


class Attack(Protocol):
    """An attack is a value: a frozen dataclass of all its constants that is called on the pictures of one user.

    Its fields and its code are its key in the store; another budget is ``dataclasses.replace`` away.

    Attributes:
        targeted: Whether it aims at somebody else's features, so that it needs ``public`` pictures and all of a
            user's own at once.
    """

    targeted: ClassVar[bool]

    @property
    def name(self) -> str:
        """What files and tables of results call it."""

    @property
    def title(self) -> str:
        """What people call it."""

    @property
    def extractors(self) -> int:
        """How many surrogates the original uses."""

    def __call__(
        self,
        pixels: Tensor,
        surrogates: Sequence[Extractor],
        *,
        seed: int,
        public: Pictures | None = None,
        batch: int | None = None,
    ) -> Tensor:
        """Poisoned pictures for one user's, both uint8 (N, 3, H, W)."""


_TANH_SCALE = 2 - 1e-6  # keeps black and white a finite way off in tanh space, as Fawkes has it


def check_pixels(pixels: Tensor) -> None:
    """Refuse pictures that an attack would silently do the wrong thing to.

    Raises:
        InputError: not uint8 RGB (N, 3, H, W), empty, or too small to measure structural similarity on.
    """
    check_pictures(pixels, least=WINDOW)
    if int(pixels.max()) <= 1:
        warnings.warn("pictures: no level above 1 of 255; were pictures in [0, 1] cast to uint8?", stacklevel=3)


def check_surrogates(surrogates: Sequence[Extractor], picture: Tensor) -> torch.device:
    """Refuse surrogates from which no attack can follow a gradient; let those that draw at random begin anew.

    Args:
        surrogates: Extractors to poison against.
        picture: One uint8 picture (1, 3, H, W) to try them on.

    Returns:
        The device that they are all on.

    Raises:
        InputError: none given, one in training mode, on another device, or without a usable gradient.
    """
    if not surrogates:
        raise InputError("surrogates: none given; a poison needs at least one extractor")
    device = surrogates[0].mean.device
    # Off black, white and exact symmetry, where a sound network may have no gradient either.
    trial = to_float(picture.to(device)) * 0.9 + 0.05
    for surrogate in surrogates:
        if surrogate.mean.device != device:
            raise InputError(f"surrogate '{surrogate.name}': on {surrogate.mean.device}, others on {device}; move it")
        if any(module.training for module in surrogate.network.modules()):
            raise InputError(f"surrogate '{surrogate.name}': in training mode, so pictures mix; call eval() on it")
        trial.requires_grad_()
        embedding = surrogate(trial)
        if not embedding.requires_grad:
            raise InputError(f"surrogate '{surrogate.name}': detached from its input; let gradients flow through it")
        # Along a random direction: the plain sum of an embedding may be constant by construction.
        direction = torch.randn(embedding.shape, generator=generator(0, "slope")).to(embedding)
        (slope,) = torch.autograd.grad((embedding * direction).sum(), trial)
        if not bool(slope.isfinite().all()) or not bool(slope.any()):
            what = "zero" if bool(slope.isfinite().all()) else "not finite"
            raise InputError(f"surrogate '{surrogate.name}': its gradient is {what}; a poison cannot follow it")
        for part in surrogate.modules():
            if isinstance(part, Drawing):
                part.restart()
    return device


def start_noise(pixels: Tensor, radius: float, seed: int, attack: str) -> Tensor:
    """Uniform noise in +-radius, float32, shaped like the pictures and on their device.

    Each picture draws from a stream named by its own content, so that its poison depends neither on the batch nor on
    the company it is in.
    """
    draws = []
    for picture in pixels.cpu():
        name = hashlib.sha256(picture.contiguous().numpy().tobytes()).hexdigest()
        draws.append(torch.rand(picture.shape, generator=generator(seed, attack, name)))
    return ((torch.stack(draws) * 2 - 1) * radius).to(pixels.device)


def to_tanh(pictures: Tensor) -> Tensor:
    """Pictures in [0, 1] as points of the unbounded space that ``from_tanh`` maps back."""
    return torch.atanh((pictures - 0.5) * _TANH_SCALE)


def from_tanh(points: Tensor) -> Tensor:
    """Pictures in [0, 1] from any points, differentiable: no step can leave the range (Carlini and Wagner, 2017).

    ``tanh(points) / TANH_SCALE + 0.5``, where ``tanh(x) = 2 sigmoid(2 x) - 1``: so it takes a CPU a third of the time.
    """
    return torch.sigmoid(2 * points) * (2 / _TANH_SCALE) + (0.5 - 1 / _TANH_SCALE)


def project(pictures: Tensor, clean: Tensor, radius: float) -> Tensor:
    """Pictures with every value brought to within ``radius`` of the clean ones; no gradient where that cuts."""
    return clean + (pictures - clean).clamp(-radius, radius)


def sign_step(pictures: Tensor, gradient: Tensor, size: float) -> Tensor:
    """One step of ``size`` up the sign of the gradient in every value."""
    return pictures + size * gradient.sign()


class Adadelta:
    """Steps of Adadelta (Zeiler 2012, arXiv 1212.5701), every value on its own: torch's, in half of its time.

    Attributes:
        decay: Of both running means.
        epsilon: Added to both.
    """

    def __init__(self, points: Tensor, decay: float = 0.95, epsilon: float = 1e-7) -> None:
        self.decay, self.epsilon = decay, epsilon
        self._slopes, self._moves = torch.zeros_like(points), torch.zeros_like(points)

    def step(self, points: Tensor, gradient: Tensor, rate: float) -> None:
        """Move points downhill in place: by ``rate * sqrt((E[move^2] + epsilon) / (E[slope^2] + epsilon)) * slope``."""
        self._slopes.mul_(self.decay).addcmul_(gradient, gradient, value=1 - self.decay)
        move = (self._moves + self.epsilon).div_(self._slopes + self.epsilon).sqrt_().mul_(gradient)
        self._moves.mul_(self.decay).addcmul_(move, move, value=1 - self.decay)
        points.sub_(move, alpha=rate)


def input_gradient(objective: Tensor, pictures: Tensor) -> Tensor:
    """Gradient of objectives, one for each picture or their sum, with respect to the pictures: each picture's own.

    Raises:
        InputError: it is not finite, naming the first picture of the batch that it fails for.
    """
    gradient: Tensor
    (gradient,) = torch.autograd.grad(objective.sum(), pictures)
    if not bool(gradient.sum().isfinite()):  # one quick pass: nothing that is not finite goes into a finite sum
        sound = gradient.isfinite().flatten(1).all(dim=1)
        if not bool(sound.all()):
            place = int((~sound).nonzero()[0])
            what = "the gradient is not finite; check the surrogates' input range"
            raise InputError(f"picture {place} of its batch: {what}")
    return gradient


def channels_last(pictures: Tensor) -> Tensor:
    """The same pictures (B, 3, H, W) with the channels last in memory.

    Convolutions on a CPU, forwards and backwards, take as little as half of the time that way.
    """
    return pictures.contiguous(memory_format=torch.channels_last)


def raw_embeddings(surrogate: Extractor, pictures: Tensor) -> Tensor:
    """Embeddings (B, D), not normalised, of float pictures (B, 3, H, W); lay them out once for several."""
    result: Tensor = surrogate(channels_last(pictures))
    return result


def squared_distance(embeddings: Tensor, reference: Tensor) -> Tensor:
    """Squared Euclidean distance (B,) of embeddings (B, D) at unit length from a unit reference (B, D)."""
    return (normalise(embeddings) - reference).square().sum(dim=1)


def in_batches(
    attack: Callable[[Tensor], Tensor],
    pixels: Tensor,
    device: torch.device,
    batch: int | None,
    progress: Progress | None,
    on_cpu: int,
) -> Tensor:
    """Run an attack batch by batch and round its float pictures to what is published.

    Args:
        attack: Takes uint8 pictures (B, 3, H, W) on the device and returns float ones in [0, 1].
        pixels: uint8 (N, 3, H, W) on any device.
        device: Where to compute.
        batch: Pictures at a time; None takes 256 on a GPU, to keep it busy.
        progress: Told of each batch done.
        on_cpu: What None takes on a CPU: what stays in its cache.

    Returns:
        uint8 (N, 3, H, W) on the device of ``pixels``.

    Raises:
        InputError: there is to be no picture at a time.
    """
    if batch is None:
        batch = on_cpu if device.type == "cpu" else 256
    if batch < 1:
        raise InputError(f"batch: {batch} pictures at a time; use 1 or more")
    parts = []
    for some in batches(len(pixels), batch):
        parts.append(to_uint8(attack(pixels[some].to(device))).to(pixels.device))
        if progress is not None:
            progress(some.stop, len(pixels))
    return torch.cat(parts)
