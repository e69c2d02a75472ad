"""How the book's own extractors are trained: one recipe each, on made identities that appear nowhere else.

Everything random is drawn from generators named by seed, purpose and step, so that a training that was killed goes on
from its last checkpoint to the same weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fingerprint
from facepoison.device import batches, device_kind, generator, pick_device, versions
from facepoison.errors import InputError
from facepoison.extractors import Extractor, Preprocessing, embed
from facepoison.extractors.architectures import ARCHITECTURES, DIMENSIONS
from facepoison.pictures import to_float
from facepoison.pictures.procedural import make_pictures
from facepoison.store import written_whole

CONTRACT = Preprocessing(size=64)
SHARD = 25  # identities in one file of training pictures
Loss = Literal["softmax", "cosface", "arcface"]


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training pictures; every amount is drawn uniformly for each picture.

    Attributes:
        shift: Largest shift, in pixels of 64.
        zoom: Largest relative change of size.
        turn: Largest rotation in radians.
        colour: Largest relative change of each channel's gain; brightness and contrast change by twice as much.
        blur: Largest weight of a Gaussian blur with sigma 1.
        noise: Largest standard deviation of Gaussian noise, on [0, 1].
        cutout: Chance that a square of 12 to 24 pixels is painted over.
    """

    shift: float = 4.0
    zoom: float = 0.08
    turn: float = 0.12
    colour: float = 0.1
    blur: float = 0.8
    noise: float = 0.03
    cutout: float = 0.3


@dataclass(frozen=True)
class Recipe:
    """Everything that a training depends on.

    Attributes:
        name: The extractor's name in the catalogue.
        architecture: Its key in ``ARCHITECTURES``.
        identities: How many made identities it learns from; ``held_out`` more are kept for validation.
        per_person: Pictures of each.
        epochs: Passes over the training pictures.
        loss: What turns cosines into logits; ``scale`` and ``margin`` are those of the margin losses. The margin grows
            from zero over the first quarter of the steps, without which small networks do not start.
        rate: Highest learning rate of AdamW, reached after ``warm_up`` steps and followed by a cosine to zero.
        calm: Share of the steps, at the end, over which augmentation fades to a third.
        seed: Seed of weights, order and augmentation, and of the pictures.
    """

    name: str
    architecture: str
    identities: int
    per_person: int
    epochs: int
    loss: Loss
    scale: float = 1.0
    margin: float = 0.0
    held_out: int = 60
    batch: int = 128
    rate: float = 2.5e-3
    warm_up: int = 200
    weight_decay: float = 0.05
    augmentation: Augmentation = Augmentation()
    calm: float = 0.25
    seed: int = 0
    population: str = ""

    @property
    def people(self) -> str:
        """The population that its identities come from: one of its own, unless another is named."""
        return self.population or f"training/{self.name}"

    @property
    def steps(self) -> int:
        """Number of updates of the weights."""
        return self.epochs * (self.identities * self.per_person // self.batch)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("arcface_2019", "narrow iResNet", 1200, 20, 30, "arcface", scale=24.0, margin=0.3),
        Recipe("vggface2_2018", "narrow SE-ResNet", 800, 20, 30, "softmax"),
        Recipe("mobilefacenet_2018", "narrow MobileFaceNet", 800, 20, 20, "cosface", scale=20.0, margin=0.25),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of an own extractor.

    Raises:
        InputError: there is no recipe of that name.
    """
    if name not in RECIPES:
        raise InputError(f"recipe '{name}' is unknown: use one of {', '.join(RECIPES)}")
    return RECIPES[name]


def training_pictures(recipe: Recipe, folder: Path, device: str = "auto", report: Callable[[str], None] = print) -> Tensor:
    """The pictures of a recipe, rendered once into files of ``SHARD`` identities each; a killed rendering resumes.

    Returns:
        uint8 (identities + held_out, per_person, 3, 64, 64).

    Raises:
        InputError: a file cannot be written.
    """
    total = recipe.identities + recipe.held_out
    shards: list[Tensor] = []
    start, made = time.perf_counter(), 0
    for part in batches(total, SHARD):
        path = folder / f"pictures-{part.start:05}-{part.stop:05}.safetensors"
        if not path.is_file():
            n = part.stop - part.start
            pictures = make_pictures(
                recipe.people, n, recipe.per_person, CONTRACT.size, recipe.seed, first=part.start, device=device
            )
            with written_whole(path) as scratch:
                save_file({"pixels": pictures.pixels.contiguous()}, scratch)
            made += n
            left = (time.perf_counter() - start) / made * (total - part.stop)
            report(f"{recipe.name}: rendered {part.stop} of {total} identities, {left / 60:.1f} min left")
        shards.append(load_file(path)["pixels"])
    return torch.cat(shards).unflatten(0, (total, recipe.per_person))


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

    taps = torch.exp(-(torch.arange(-2.0, 3.0, device=device) ** 2) / 2)
    kernel = (taps[:, None] * taps / taps.sum() ** 2).expand(3, 1, 5, 5)
    blurred = F.conv2d(F.pad(out, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
    out = torch.lerp(out, blurred, (how.blur * amount * draw(-1, 1, 1, 1, 1)).clamp(min=0))  # half stay sharp

    gain = 1 + how.colour * amount * draw(-1, 1, 3, 1, 1)
    contrast = 1 + 2 * how.colour * amount * draw(-1, 1, 1, 1, 1)
    brightness = 1 + 2 * how.colour * amount * draw(-1, 1, 1, 1, 1)
    mean = out.mean((1, 2, 3), keepdim=True)
    out = ((out - mean) * contrast + mean) * gain * brightness

    noise = torch.randn(out.shape, generator=rng).to(device)
    out = out + how.noise * amount * draw(0, 1, 1, 1, 1) * noise

    side = draw(12, 24, 1, 1, 1) / 64 * height / 2
    y, x = draw(0, height, 1, 1, 1), draw(0, width, 1, 1, 1)
    rows_, columns = torch.arange(height, device=device).view(1, 1, -1, 1), torch.arange(width, device=device)
    covered = ((rows_ - y).abs() < side) & ((columns - x).abs() < side) & (draw(0, 1, 1, 1, 1) < how.cutout * amount)
    return torch.where(covered, draw(0, 1, 3, 1, 1), out).clamp(0, 1)


def margin_logits(cosines: Tensor, labels: Tensor, loss: Loss, scale: float, margin: float) -> Tensor:
    """Logits (B, C) of a margin loss from the cosines between embeddings and class weights.

    CosFace (Wang et al. 2018) subtracts the margin from the cosine of the right class, ArcFace (Deng et al. 2019) adds it
    to the angle; where that would pass 180 degrees, ArcFace falls back to a line that keeps falling.
    """
    right = cosines.gather(1, labels[:, None])
    if loss == "cosface":
        hard = right - margin
    else:
        sine = (1 - right.square()).clamp(min=1e-6).sqrt()
        beyond = right < math.cos(math.pi - margin)
        turned = right * math.cos(margin) - sine * math.sin(margin)
        hard = torch.where(beyond, right - margin * math.sin(margin), turned)
    return scale * cosines.scatter(1, labels[:, None], hard)


class Head(nn.Module):
    """The classifier that is thrown away after training."""

    def __init__(self, classes: int, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.weight = nn.Parameter(torch.randn(classes, DIMENSIONS) * 0.1)

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
        """Logits (B, C) of embeddings (B, D) for the recipe's loss."""
        if self.recipe.loss == "softmax":
            return embeddings @ self.weight.T
        cosines = F.normalize(embeddings) @ F.normalize(self.weight).T
        return margin_logits(cosines, labels, self.recipe.loss, self.recipe.scale, margin)


def rank_1(extractor: Extractor, pixels: Tensor) -> float:
    """Share of probes whose nearest gallery picture (cosine) shows the same identity.

    Args:
        extractor: What embeds.
        pixels: uint8 (identities, pictures of each, 3, H, W); the first 70 % of each person's pictures are gallery.
    """
    people, each = pixels.shape[:2]
    embeddings = embed(extractor, pixels.flatten(0, 1)).unflatten(0, (people, each))
    cut = round(0.7 * each)
    gallery, probes = embeddings[:, :cut].flatten(0, 1), embeddings[:, cut:].flatten(0, 1)
    nearest = (probes @ gallery.T).argmax(1) // cut
    truth = torch.arange(people, device=nearest.device).repeat_interleave(each - cut)
    return float((nearest == truth).float().mean())


def as_extractor(network: nn.Module, name: str) -> Extractor:
    """A copy of a network in training as a frozen extractor, for measuring it."""
    import copy

    return Extractor(copy.deepcopy(network), CONTRACT, name=name, sha256="in training")
