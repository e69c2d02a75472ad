"""How the book's own extractors are trained: one recipe each, on made identities that appear nowhere else.

Everything random is drawn from generators named by seed, purpose and step, so that a training that was killed goes on
from its last checkpoint to the same weights.
"""

from __future__ import annotations

import copy
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
from safetensors import safe_open
from safetensors.torch import save_file
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
        colour: Largest relative change of each channel's gain; contrast changes by twice, brightness by as much.
        blur: Largest weight of a blur with binomial weights 1, 2, 1, of a third of the pictures.
        noise: Largest standard deviation of Gaussian noise on [0, 1], of another third.
        cutout: Chance that a square of 12 to 24 pixels is painted over.
    """

    shift: float = 2.0
    zoom: float = 0.03
    turn: float = 0.05
    colour: float = 0.05
    blur: float = 0.7
    noise: float = 0.02
    cutout: float = 0.1


@dataclass(frozen=True)
class Recipe:
    """Everything that a training depends on.

    Attributes:
        name: The extractor's name in the catalogue.
        architecture: Its key in ``ARCHITECTURES``.
        identities: How many made identities it learns from; ``held_out`` more are kept for validation.
        per_person: Pictures of each.
        epochs: Passes over the training pictures.
        loss: What turns cosines into logits; ``scale`` and ``margin`` are those of the margin losses. The margin is
            zero for the first fifth of the steps and grows over the next two: small networks do not start otherwise.
        rate: Highest learning rate of AdamW, reached after ``warm_up`` steps and followed by a cosine to zero.
        calm: Share of the steps, at the end, over which augmentation fades to a third.
        bfloat16: Whether the network computes in bfloat16 (its weights stay float32).
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
    bfloat16: bool = True
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
        Recipe("arcface_2019", "narrow iResNet", 3000, 20, 12, "arcface", scale=24.0, margin=0.3),
        Recipe("vggface2_2018", "narrow SE-ResNet", 1500, 20, 15, "softmax"),
        Recipe("mobilefacenet_2018", "narrow MobileFaceNet", 1500, 20, 12, "cosface", 20.0, 0.25, bfloat16=False),
        Recipe("cosface_2018", "narrow SphereFace network", 1500, 20, 12, "cosface", 20.0, 0.25, bfloat16=False),
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


def training_pictures(
    recipe: Recipe, folder: Path, device: str = "auto", report: Callable[[str], None] = print
) -> tuple[Tensor, float]:
    """The pictures of a recipe, rendered once into files of ``SHARD`` identities each; a killed rendering resumes.

    Returns:
        uint8 (identities + held_out, per_person, 3, 64, 64), and the seconds that rendering took, whenever it was.

    Raises:
        InputError: a file cannot be written.
    """
    total = recipe.identities + recipe.held_out
    shards: list[Tensor] = []
    seconds, now, made = 0.0, 0.0, 0
    for part in batches(total, SHARD):
        path = folder / f"pictures-{part.start:05}-{part.stop:05}.safetensors"
        n = part.stop - part.start
        if not path.is_file():
            start = time.perf_counter()
            pictures = make_pictures(
                recipe.people, n, recipe.per_person, CONTRACT.size, recipe.seed, first=part.start, device=device
            )
            took = time.perf_counter() - start
            with written_whole(path) as scratch:
                save_file({"pixels": pictures.pixels.contiguous()}, scratch, metadata={"seconds": repr(took)})
            now, made = now + took, made + n
            left = now / made * (total - part.stop) / 60
            report(f"{recipe.name}: rendered {part.stop} of {total} identities, {left:.1f} min left")
        with safe_open(path, "pt") as shard:
            shards.append(shard.get_tensor("pixels"))
            seconds += float(shard.metadata()["seconds"])
    pixels = torch.cat(shards)
    return pixels.view(total, recipe.per_person, *pixels.shape[1:]), seconds


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

    noise = torch.randn(out[-third:].shape, generator=rng).to(device)
    out[-third:] += how.noise * amount * draw(0, 1, 1, 1, 1)[-third:] * noise

    side = draw(12, 24, 1, 1, 1) / 64 * height / 2
    y, x = draw(0, height, 1, 1, 1), draw(0, width, 1, 1, 1)
    rows_, columns = torch.arange(height, device=device).view(1, 1, -1, 1), torch.arange(width, device=device)
    covered = ((rows_ - y).abs() < side) & ((columns - x).abs() < side) & (draw(0, 1, 1, 1, 1) < how.cutout * amount)
    return torch.where(covered, draw(0, 1, 3, 1, 1), out).clamp(0, 1)


def margin_logits(cosines: Tensor, labels: Tensor, loss: Loss, scale: float, margin: float) -> Tensor:
    """Logits (B, C) of a margin loss from the cosines between embeddings and class weights.

    CosFace (Wang et al. 2018) subtracts the margin from the cosine of the right class, ArcFace (Deng et al. 2019) adds
    it to the angle; where that would pass 180 degrees, ArcFace falls back to a line that keeps falling.
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

    def __init__(self, classes: int, loss: Loss) -> None:
        super().__init__()
        self.cosine = loss != "softmax"
        self.weight = nn.Parameter(torch.randn(classes, DIMENSIONS) * 0.1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Scores (B, C) of embeddings (B, D): cosines for the margin losses, products for softmax."""
        if self.cosine:
            return F.normalize(embeddings) @ F.normalize(self.weight).T
        return embeddings @ self.weight.T


def rank_1(extractor: Extractor, pixels: Tensor) -> float:
    """Share of probes whose nearest gallery picture (cosine) shows the same identity.

    Args:
        extractor: What embeds.
        pixels: uint8 (identities, pictures of each, 3, H, W); the first 70 % of each person's pictures are gallery.
    """
    people, each = pixels.shape[:2]
    embeddings = embed(extractor, pixels.flatten(0, 1)).view(people, each, -1)
    cut = round(0.7 * each)
    gallery, probes = embeddings[:, :cut].flatten(0, 1), embeddings[:, cut:].flatten(0, 1)
    nearest = (probes @ gallery.T).argmax(1) // cut
    truth = torch.arange(people, device=nearest.device).repeat_interleave(each - cut)
    return float((nearest == truth).float().mean())


def snapshot(network: nn.Module, name: str) -> Extractor:
    """A copy of a network in training as a frozen extractor, for measuring it."""
    return Extractor(copy.deepcopy(network), CONTRACT, name=name, sha256="in training")


def schedule(recipe: Recipe, step: int) -> tuple[float, float, float]:
    """Learning rate, margin and amount of augmentation at a step."""
    done = step / recipe.steps
    warm = min(1.0, (step + 1) / recipe.warm_up)
    rate = recipe.rate * warm * (1 + math.cos(math.pi * done)) / 2
    margin = recipe.margin * min(1.0, max(0.0, (done - 0.2) / 0.4))
    amount = 1 - 2 / 3 * max(0.0, (done - (1 - recipe.calm)) / recipe.calm)
    return rate, margin, amount


def fit(
    recipe: Recipe,
    pixels: Tensor,
    checkpoint: Path,
    device: torch.device,
    report: Callable[[str], None],
    *,
    every: float = 60.0,
) -> tuple[nn.Module, float]:
    """Train a network on pictures uint8 (identities, pictures of each, 3, H, W), resuming from ``checkpoint``.

    Args:
        recipe: What to train.
        pixels: The training pictures.
        checkpoint: File that the state is kept in.
        device: Where to compute.
        report: Receives lines on how it goes.
        every: Seconds between two checkpoints; each also reports.

    Returns:
        The network, in training mode on ``device``, and the seconds that all runs together took.
    """
    people, each = pixels.shape[:2]
    flat = pixels.flatten(0, 1)
    torch.manual_seed(generator(recipe.seed, recipe.name, "weights").initial_seed())  # layers draw from the global one
    network = ARCHITECTURES[recipe.architecture]().to(device).to(memory_format=torch.channels_last).train()
    head = Head(people, recipe.loss).to(device)
    weights = [*network.parameters(), *head.parameters()]
    vectors = [weight for weight in weights if weight.numel() == max(weight.shape)]  # biases, slopes, norms: no decay
    others = [weight for weight in weights if weight.numel() != max(weight.shape)]
    groups = [{"params": others, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.rate, fused=True)
    step, before = 0, 0.0
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        head.load_state_dict(state["head"])
        optimiser.load_state_dict(state["optimiser"])
        step, before = int(state["step"]), float(state["seconds"])
        report(f"{recipe.name}: goes on from step {step} of {recipe.steps}")

    per_epoch = len(flat) // recipe.batch
    start = last = time.perf_counter()
    first = step
    losses, hits, seen = 0.0, 0, 0
    while step < recipe.steps:
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(flat), generator=generator(recipe.seed, recipe.name, "order", epoch))
        some = order[place * recipe.batch : (place + 1) * recipe.batch]
        labels = (some // each).to(device)
        rate, margin, amount = schedule(recipe, step)
        rng = generator(recipe.seed, recipe.name, "augmentation", step)
        pictures = augment(to_float(flat[some].to(device)), recipe.augmentation, rng, amount)
        inputs = ((pictures - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
            embeddings = network(inputs)
        scores = head(embeddings.float())
        logits = margin_logits(scores, labels, recipe.loss, recipe.scale, margin) if head.cosine else scores
        loss = F.cross_entropy(logits, labels)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        step += 1
        losses, hits, seen = (
            losses + loss.item() * len(some),
            hits + int((scores.argmax(1) == labels).sum()),
            seen + len(some),
        )
        now = time.perf_counter()
        if now - last > every or step == recipe.steps:
            left = (now - start) / (step - first) * (recipe.steps - step) / 60
            report(
                f"{recipe.name}: step {step} of {recipe.steps}, loss {losses / seen:.3f}, accuracy {hits / seen:.1%}, "
                f"{seen / (now - last):.0f} pictures/s, {left:.1f} min left"
            )
            state = {
                "network": network.state_dict(),
                "head": head.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "seconds": before + now - start,
            }
            with written_whole(checkpoint) as scratch:
                torch.save(state, scratch)
            last, losses, hits, seen = now, 0.0, 0, 0
    return network, before + time.perf_counter() - start


def commit() -> str:
    """The commit that the code stands at, with ``+changes`` where files differ from it; empty outside a checkout."""
    git = ["git", "-C", str(fingerprint.LIB)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return ""
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."], capture_output=True, check=False)
    return head.stdout.strip() + ("+changes" if changed.returncode else "")


def train(
    recipe: Recipe, weights: Path, scratch: Path, device: str = "auto", report: Callable[[str], None] = print
) -> dict[str, object]:
    """Render a recipe's pictures, train, validate and write ``NAME.safetensors`` with its card ``NAME.json``.

    Args:
        recipe: What to train.
        weights: Folder for the weights and the card.
        scratch: Folder for pictures and checkpoints, from which a killed training resumes.
        device: Where to compute.
        report: Receives lines on how it goes.

    Returns:
        The card.

    Raises:
        InputError: the device is not there, or a file cannot be written.
    """
    where = pick_device(device)
    code = fingerprint.of_modules("facepoison.extractors.training")  # as it is now, not as it may be in an hour
    stands_at = commit()
    drawn = fingerprint.of_modules("facepoison.pictures.procedural")
    asked = json.dumps([recipe.people, recipe.seed, recipe.per_person, recipe.identities + recipe.held_out])
    folder = scratch / f"{recipe.name}-{fingerprint.of_text(drawn, asked)[:12]}"
    pixels, rendering = training_pictures(recipe, folder, device, report)
    own, unseen = pixels[: recipe.identities], pixels[recipe.identities :]

    whole = fingerprint.of_text(drawn, json.dumps(asdict(recipe)))[:12]
    network, seconds = fit(recipe, own, folder / f"checkpoint-{whole}.pt", where, report)
    halved = copy.deepcopy(network).half().float()
    validation = {
        "identities": recipe.held_out,
        "pictures_each": recipe.per_person,
        "rank_1": rank_1(snapshot(network, recipe.name), unseen),
        "rank_1_half_precision": rank_1(snapshot(halved, recipe.name), unseen),
    }
    keep_half = validation["rank_1_half_precision"] >= validation["rank_1"]
    state = {
        key: (value.half() if keep_half and value.is_floating_point() else value).cpu().contiguous()
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")  # of no use once training is over
    }
    path = weights / f"{recipe.name}.safetensors"
    with written_whole(path) as half_written:
        save_file(state, half_written)
    card: dict[str, object] = {
        "command": f"python -m facepoison train {recipe.name}",
        "recipe": asdict(recipe),
        "sha256": fingerprint.of_file(path),
        "bytes": path.stat().st_size,
        "precision": "float16" if keep_half else "float32",
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "pictures_sha256": hashlib.sha256(pixels.numpy().tobytes()).hexdigest(),
        "code_sha256": code,
        "commit": stands_at,
        "device": device_kind(device),
        "versions": versions(),
        "seconds": {"rendering": round(rendering), "training": round(seconds)},
        "validation": validation,
    }
    with written_whole(path.with_suffix(".json")) as half_written:
        half_written.write_text(json.dumps(card, indent=2) + "\n")
    report(f"{recipe.name}: rank-1 {validation['rank_1']:.1%} on {recipe.held_out} unseen identities, {path}")
    return card
