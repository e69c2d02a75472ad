"""How the book's own extractors are trained: one recipe each, on synthetic identities that appear nowhere else."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import fingerprint
from facepoison.device import batches, device_kind, generator, pick_device, versions
from facepoison.extractors import Extractor, Preprocessing, embed
from facepoison.extractors.architectures import ARCHITECTURES
from facepoison.extractors.cards import write_weights
from facepoison.extractors.losses import Head, judge
from facepoison.extractors.recipes import Augmentation, Recipe
from facepoison.pictures import to_float
from facepoison.pictures.synthetic import make_pictures
from facepoison.store import resumable, written_whole
from facepoison.training import Curve, Training, learn, seeded

CONTRACT = Preprocessing(size=64)
_SHARD = 25  # identities in one file of training pictures
_SHRUNK = (16, 24, 32)  # sides, in pixels of 64, that low-resolution augmentation takes pictures through


def training_pictures(
    recipe: Recipe, scratch: Path, device: str = "auto", report: Callable[[str], None] = print
) -> tuple[Tensor, float]:
    """The pictures of a recipe, rendered once into files of ``_SHARD`` identities each; a killed rendering resumes.

    Args:
        recipe: Whose.
        scratch: Folder for the files, each under the key of what decides it.
        device: Where to compute.
        report: Receives lines on how it goes.

    Returns:
        uint8 (identities + held_out, per_person, 3, 64, 64), and the seconds that rendering took, whenever it was.

    Raises:
        InputError: a file cannot be written.
    """
    total, people = recipe.identities + recipe.held_out, recipe.people
    shards: list[Tensor] = []
    seconds, now, made = 0.0, 0.0, 0
    for part in batches(total, _SHARD):
        n = part.stop - part.start
        asked = {"people": people, "seed": recipe.seed, "per_person": recipe.per_person, "size": CONTRACT.size}
        asked |= {"first": part.start, "n": n, "device": device}
        path = resumable(scratch, f"pictures-{part.start:05}", ".safetensors", by=[make_pictures], **asked)
        if not path.is_file():
            start = time.perf_counter()
            each = (n, recipe.per_person, CONTRACT.size, recipe.seed)
            pictures = make_pictures(people, *each, first=part.start, device=device)
            took = time.perf_counter() - start
            with written_whole(path) as file:
                save_file({"pixels": pictures.pixels.contiguous()}, file, metadata={"seconds": repr(took)})
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

    if how.shrink:  # before noise, as a camera far away has it
        choice = torch.where(draw(0, 1) < how.shrink * amount, len(_SHRUNK) * draw(0, 1), -1.0).floor()
        for index, pixels in enumerate(_SHRUNK):
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


def arrange(people: int, each: int, batch: int, together: int, rng: torch.Generator) -> Tensor:
    """Places of an epoch's pictures by batch, int64 (batches, batch): see ``Recipe.together``.

    Where several pictures of a person come together, everybody has a turn with so many before anybody has another, and
    the pictures of a batch stand in random order within it.
    """
    if together == 1:
        order = torch.randperm(people * each, generator=rng)
    else:
        rounds = each // together
        own = torch.rand(people, each, generator=rng).argsort(1)[:, : rounds * together].view(people, rounds, together)
        turns = [torch.randperm(people, generator=rng) for _ in range(rounds)]
        order = torch.cat([(who[:, None] * each + own[who, index]).flatten() for index, who in enumerate(turns)])
    order = order[: len(order) // batch * batch].view(-1, batch)
    if together > 1:
        order = order.gather(1, torch.rand(order.shape, generator=rng).argsort(1))
    return order


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


def schedule(recipe: Recipe, step: int) -> tuple[float, float]:
    """Margin and amount of augmentation at a step."""
    done = step / recipe.steps
    growth = 1.0 if recipe.loss == "triplet" else min(1.0, max(0.0, (done - 0.2) / 0.4))
    return recipe.margin * growth, 1 - 2 / 3 * max(0.0, (done - (1 - recipe.calm)) / recipe.calm)


def train_network(
    recipe: Recipe,
    pixels: Tensor,
    scratch: Path,
    device: torch.device,
    report: Callable[[str], None],
    *,
    every: float = 60.0,
) -> tuple[nn.Module, float, Curve]:
    """Train a network on pictures uint8 (identities, pictures of each, 3, H, W), resuming from what ``scratch`` holds.

    Args:
        recipe: What to train.
        pixels: The training pictures.
        scratch: As of ``learn``.
        device: Where to compute.
        report: As of ``learn``.
        every: As of ``learn``.

    Returns:
        The network, in training mode on ``device``, the seconds that all runs together took, and the learning curve:
        steps done, and mean loss and accuracy on the training pictures of the steps since the point before.

    Raises:
        InputError: training ran away, or the state cannot be written.
    """
    people, each = pixels.shape[:2]
    flat, per_epoch, curve = pixels.flatten(0, 1), people * each // recipe.batch, Curve()
    with seeded(recipe.seed, recipe.name, "weights"):
        network = ARCHITECTURES[recipe.architecture]()
        head = Head(people, recipe.loss, recipe.scale).to(device)
    network = network.to(device).to(memory_format=torch.channels_last).train()
    weights = [*network.parameters(), *head.parameters()]
    vectors = [weight for weight in weights if weight.numel() == max(weight.shape)]  # biases, slopes, norms: no decay
    others = [weight for weight in weights if weight.numel() != max(weight.shape)]
    groups = [{"params": others, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.rate, fused=True)

    @lru_cache(maxsize=1)
    def order(epoch: int) -> Tensor:
        rng = generator(recipe.seed, recipe.name, "order", epoch)
        return arrange(people, each, recipe.batch, recipe.together, rng)

    def batch(step: int) -> tuple[Tensor, tuple[int, Tensor, float]]:
        some = order(step // per_epoch)[step % per_epoch]
        margin, amount = schedule(recipe, step)
        rng = generator(recipe.seed, recipe.name, "augmentation", step)
        pictures = augment(to_float(flat[some].to(device)), recipe.augmentation, rng, amount)
        inputs = ((pictures - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
        return inputs, (step, (some // each).to(device), margin)

    def loss(embeddings: Tensor, along: tuple[int, Tensor, float]) -> Tensor:
        step, labels, margin = along
        value, right = judge(recipe, head, embeddings, labels, margin)
        curve.see(step, recipe.steps, value, right)
        return value

    parts = {"recipe": recipe, "pixels": pixels, "device": device.type}
    training = Training(recipe.name, recipe.steps, recipe.warm_up, recipe.bfloat16, batch, loss, parts)
    seconds = learn(training, network, optimiser, head=head, curve=curve, scratch=scratch, report=report, every=every)
    return network, seconds, curve


def train(
    recipe: Recipe,
    weights: Path,
    scratch: Path,
    measure: Callable[[Extractor], Mapping[str, object]],
    device: str = "auto",
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Render a recipe's pictures, train, validate and write ``NAME.safetensors`` with its card ``NAME.json``.

    The files of another seed than 0 are called ``NAME-seedN``.

    Args:
        recipe: What to train.
        weights: Folder for the weights and the card.
        scratch: Folder for pictures and checkpoints, from which a killed training resumes.
        measure: Tests the result on people whom neither training nor validation has seen, for the card.
        device: Where to compute.
        report: Receives lines on how it goes.

    Returns:
        The card.

    Raises:
        InputError: the device is not there, or a file cannot be written.
    """
    where = pick_device(device)
    code = fingerprint.of_modules("facepoison.extractors.train")  # as it is now, not as it may be in an hour
    stands_at = fingerprint.commit()
    pixels, rendering = training_pictures(recipe, scratch, device, report)
    own, unseen = pixels[: recipe.identities], pixels[recipe.identities :]

    network, seconds, curve = train_network(recipe, own, scratch, where, report)
    halved = copy.deepcopy(network).half().float()
    validation = {
        "identities": recipe.held_out,
        "pictures_each": recipe.per_person,
        "rank_1": rank_1(snapshot(network, recipe.name), unseen),
        "rank_1_half_precision": rank_1(snapshot(halved, recipe.name), unseen),
    }
    keep_half = validation["rank_1_half_precision"] >= validation["rank_1"]
    again = f" --seed {recipe.seed}" if recipe.seed else ""
    path = weights / f"{recipe.name}{again.replace(' --', '-').replace(' ', '')}.safetensors"
    said: dict[str, object] = {
        "command": f"python -m facepoison train {recipe.name}{again}",
        "recipe": asdict(recipe),
        "pictures_sha256": hashlib.sha256(pixels.numpy().tobytes()).hexdigest(),
        "code_sha256": code,
        "commit": stands_at,
        "device": device_kind(device),
        "versions": versions(),
        "seconds": {"rendering": round(rendering), "training": round(seconds)},
        "validation": validation,
        "test": measure(snapshot(halved if keep_half else network, recipe.name)),
        "curve": asdict(curve),
    }
    card = write_weights(path, network, said, half=keep_half)
    report(
        f"{recipe.name}: rank-1 {validation['rank_1']:.1%} on {recipe.held_out} identities kept for validation, {path}"
    )
    return card
