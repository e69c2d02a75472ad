"""Tiny random extractors and pictures, so that attacks run in a blink."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from facepoison.device import generator
from facepoison.extractors import Extractor, Preprocessing, normalise


def tiny_extractor(seed=0, size=24, dimensions=16):
    """A smooth convolutional network with random weights."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.SiLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.SiLU(),
        nn.Flatten(),
        nn.LazyLinear(dimensions),
    )
    network(torch.zeros(1, 3, size, size))
    stream = generator(seed, "tiny extractor")
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(1.5 * torch.randn(weight.shape, generator=stream) / max(1, weight[0].numel()) ** 0.5)
        # Embeddings of different pictures point in different directions, as those of a trained extractor do.
        network[-1].bias -= network((tiny_pictures(64, size, seed) / 255 - 0.5) / 0.5).mean(dim=0)
    return Extractor(network, Preprocessing(size), name=f"tiny {seed}", sha256=f"tiny {seed}")


def tiny_pictures(n=3, size=24, seed=0):
    """Pictures, uint8 (n, 3, size, size): smooth blobs with some texture, black and white included."""
    stream = generator(seed, "tiny pictures")
    coarse = torch.rand(n, 3, 5, 5, generator=stream)
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)
    texture = 0.1 * torch.randn(n, 3, size, size, generator=stream)
    return ((smooth * 1.2 - 0.1 + texture).clamp(0, 1) * 255).round().to(torch.uint8)


@dataclass(frozen=True)
class Keep:
    """An attack that changes nothing."""

    name: str = "keep"
    title: str = "Keep"
    extractors: int = 3
    targeted: ClassVar[bool] = False

    def __call__(self, pixels, surrogates, *, seed, public=None):
        return pixels.clone()


@dataclass(frozen=True)
class Invert(Keep):
    """An attack that gives negatives."""

    name: str = "invert"
    title: str = "Invert"

    def __call__(self, pixels, surrogates, *, seed, public=None):
        return 255 - pixels


def embedded_crowd(people=6, known=5, asked=4, spread=0.5, seed=0):
    """Unit embeddings around one centre for each identity: gallery, labels, probes, labels."""
    stream = generator(seed, "crowd")
    centres = torch.randn(people, 16, generator=stream)

    def around(each):
        labels = torch.arange(people).repeat_interleave(each)
        return normalise(centres[labels] + spread * torch.randn(len(labels), 16, generator=stream)), labels

    return *around(known), *around(asked)
