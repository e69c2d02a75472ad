"""Training an extractor and a linear head together on a gallery of pictures, poison and all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facepoison.device import batches, generator
from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.pictures import check_pictures, to_float
from facepoison.store import Arrays
from facepoison.training import Training, learn

_ASKED = 128  # pictures that are answered at a time


@dataclass(frozen=True)
class EndToEnd:
    """How extractor and head are trained together.

    FaceCure trains for 500 steps x 10 epochs x batches of 32, that is 160,000 draws: plain identity classification
    with a softmax head, a person drawn uniformly and then one of the person's pictures. Here it is 5,000 draws, each
    made the same way, because every user's round trains anew and must not need a GPU. The rest
    is our choice: AdamW, both rates and their course, decay, mirroring as the only augmentation, batch
    normalisation by the statistics that came with the extractor.

    The rates were chosen on clean pictures alone: 60 synthetic people of the population ``validation``, 20 pictures
    each, ``arcface_2019``, two seeds; no poisoned picture was looked at. Of extractor's rates 0, 3e-5, 1e-4, 3e-4 with
    head's 1e-2, and 3e-5, 1e-4, 3e-4, 1e-3 with 3e-2, the highest was taken that still named all 360 probes with both
    seeds, so that the extractor learns as much as its clean accuracy bears; accuracy alone could not choose, and the
    rule was settled with that clean grid in view. (Among those that named all, 3e-5 with 3e-2 gave slightly higher
    probabilities.)

    Attributes:
        name: What it is called in tables.
        draws: Pictures drawn, all steps together.
        batch: Pictures in a step.
        rate: Highest learning rate of the extractor.
        head_rate: Highest learning rate of the head.
        weight_decay: Of both.
        mirror: Whether pictures are mirrored, each with a chance of one half.
        warm_up: Share of the steps over which the rates grow, before they follow a cosine to zero.
        bfloat16: As of ``Training``.
    """

    name: str = "end to end"
    draws: int = 5000
    batch: int = 32
    rate: float = 1e-4
    head_rate: float = 1e-2
    weight_decay: float = 0.01
    mirror: bool = True
    warm_up: float = 0.1
    bfloat16: bool = False

    @property
    def steps(self) -> int:
        """Number of updates of the weights, as many as there are whole batches in the draws."""
        return self.draws // self.batch


END_TO_END = EndToEnd()


class Tuned(nn.Module):
    """A copy of an extractor with a linear head on its embeddings, to be trained together.

    The head takes raw embeddings, standardised by what the extractor made of the gallery before training, so that its
    rate suits extractors of any scale; it starts at zero. Batch normalisation keeps the statistics that the extractor
    came with, so that a picture's answer never depends on its batch; its gains and shifts are trained. Weights that an
    extractor holds as buffers, as some converted from ONNX do, stay as they are.

    Attributes:
        identities: Whom the head knows, int64 (C,), ascending.

    Raises:
        InputError: the extractor has no weights that can be trained.
    """

    def __init__(self, extractor: Extractor, identities: Tensor, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        if not any(weight.is_floating_point() for weight in extractor.network.parameters()):
            raise InputError(f"{extractor.name}: has no weights to train, as its graph does not convert; use another")
        self.extractor = copy.deepcopy(extractor).to(memory_format=torch.channels_last)
        for weight in self.extractor.network.parameters():
            weight.requires_grad_(weight.is_floating_point())
        self.head = nn.Linear(len(mean), len(identities), device=mean.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        for name, tensor in {"identities": identities, "shift": mean, "scale": scale}.items():
            self.register_buffer(name, tensor)
        self.identities: Tensor
        self.shift: Tensor
        self.scale: Tensor

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (B, C) of RGB float pictures (B, 3, H, W) in [0, 1]."""
        embeddings = self.extractor(pictures.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.head((embeddings - self.shift) / self.scale)
        return logits


def draw(labels: Tensor, n: int, stream: torch.Generator) -> Tensor:
    """Places of ``n`` pictures, int64 (n,): each time a person drawn uniformly, then one of the person's pictures.

    Args:
        labels: Who is on each picture, int64 (G,), 0 to C - 1 with none left out.
        n: How many, with repetition.
        stream: Where chance comes from.
    """
    counts = labels.bincount()
    person = torch.randint(len(counts), (n,), generator=stream)
    within = (torch.rand(n, generator=stream, dtype=torch.float64) * counts[person]).long()
    return labels.argsort(stable=True)[(counts.cumsum(0) - counts)[person] + within]


@torch.no_grad()
def _ask(model: nn.Module, pixels: Tensor, device: torch.device) -> Tensor:
    """What a model says of uint8 pictures (N, 3, H, W), float32 (N, ...) on the CPU."""
    return torch.cat([model(to_float(pixels[some].to(device))).float().cpu() for some in batches(len(pixels), _ASKED)])


def fine_tune(
    extractor: Extractor,
    pixels: Tensor,
    labels: Tensor,
    preset: EndToEnd,
    *,
    seed: int,
    scratch: Path | None = None,
    report: Callable[[str], None] | None = None,
    every: float = 60.0,
) -> Tuned:
    """Train a copy of an extractor together with a head to name the people of a gallery.

    Args:
        extractor: Where training starts; it stays as it is.
        pixels: The gallery as the trainer found it, uint8 RGB (G, 3, H, W).
        labels: Who is on each picture, int64 (G,), not negative, of two people or more.
        preset: How to train.
        seed: Of the draws; galleries with the same labels are drawn from in the same order.
        scratch: As of ``learn``; a killed training resumes to the same.
        report: As of ``learn``.
        every: As of ``learn``.

    Returns:
        The trained copy, frozen, in evaluation mode, on the extractor's device.

    Raises:
        InputError: pictures or labels are wrong, the preset has no step, the extractor has no weights that can be
            trained, or training ran away.
    """
    check_pictures(pixels, "gallery")
    if labels.dtype != torch.int64 or labels.shape != pixels.shape[:1] or not len(labels):
        got = f"{labels.dtype} {tuple(labels.shape)}"
        raise InputError(f"gallery: {len(pixels)} pictures, labels {got}; one int64 each")
    if preset.steps < 1:
        raise InputError(f"{preset.name}: {preset.draws} draws make no batch of {preset.batch}; draw more")
    identities, dense = labels.cpu().unique(return_inverse=True)  # type: ignore[no-untyped-call]
    if len(identities) < 2 or int(identities[0]) < 0:
        raise InputError(f"gallery: identities {identities.tolist()}; give two or more, none negative")
    device = extractor.mean.device
    before = _ask(extractor, pixels, device)
    scale = before.std(dim=0, correction=0)
    scale = torch.where(scale < 1e-6, 1.0, scale)
    model = Tuned(extractor, identities.to(device), before.mean(dim=0).to(device), scale.to(device))
    weights = [weight for weight in model.extractor.network.parameters() if weight.requires_grad]
    groups = [{"params": weights, "lr": preset.rate}, {"params": [*model.head.parameters()], "lr": preset.head_rate}]
    optimiser = torch.optim.AdamW(groups, weight_decay=preset.weight_decay)
    n = preset.steps * preset.batch
    places = draw(dense, n, generator(seed, "end to end", "draws")).view(-1, preset.batch)
    mirrored = torch.rand(n, generator=generator(seed, "end to end", "mirror")).view_as(places) < 0.5 * preset.mirror

    def batch(step: int) -> tuple[Tensor, Tensor]:
        some = places[step]
        pictures = to_float(pixels[some].to(device))
        pictures = torch.where(mirrored[step, :, None, None, None].to(device), pictures.flip(3), pictures)
        return pictures, dense[some].to(device)

    parts = {"extractor": extractor, "pixels": pixels, "labels": labels, "preset": preset, "seed": seed}
    warm_up = preset.warm_up * preset.steps
    training = Training(preset.name, preset.steps, warm_up, preset.bfloat16, batch, F.cross_entropy, parts)
    learn(training, model, optimiser, scratch=scratch, report=report, every=every)
    return model.eval().requires_grad_(False)


def play_round(
    extractor: Extractor, gallery: Tensor, labels: Tensor, probes: Tensor, preset: EndToEnd, *, seed: int
) -> Arrays:
    """One round: train on a gallery as published, then ask about clean probes, and about the gallery itself.

    Args:
        extractor: Where training starts.
        gallery: uint8 RGB (G, 3, H, W), with whatever poison is in it.
        labels: Who is on each picture, int64 (G,).
        probes: Clean pictures, uint8 (P, 3, H, W).
        preset: How to train.
        seed: Of the training.

    Returns:
        ``distance``: negative log-probabilities of the identities 0 to n - 1, float32 (P, n), n - 1 being the highest
        label; infinite for identities not in the gallery. ``gallery``: whom the trained recogniser takes each gallery
        picture for, int64 (G,).

    Raises:
        InputError: as in ``fine_tune``, or the probes are wrong.
    """
    check_pictures(probes, "probes")
    model = fine_tune(extractor, gallery, labels, preset, seed=seed)
    device, identities = extractor.mean.device, model.identities.cpu()
    distance = torch.full((len(probes), int(labels.max()) + 1), torch.inf)
    distance[:, identities] = -_ask(model, probes, device).log_softmax(dim=1)
    return {"distance": distance, "gallery": identities[_ask(model, gallery, device).argmax(dim=1)]}
