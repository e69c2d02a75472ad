"""How the book's own extractors are trained: one recipe each, on made identities that appear nowhere else.

Everything random is drawn from generators named by seed, purpose and step, so that a training that was killed goes on
from its last checkpoint to the same weights.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import fingerprint
from facepoison.device import batches, device_kind, generator, has_bfloat16, pick_device, versions
from facepoison.errors import InputError
from facepoison.extractors import Extractor, Preprocessing, embed
from facepoison.extractors.architectures import ARCHITECTURES, DIMENSIONS
from facepoison.extractors.cards import write_weights
from facepoison.pictures import to_float
from facepoison.pictures.synthetic import make_pictures
from facepoison.store import resumable, written_whole

CONTRACT = Preprocessing(size=64)
SHARD = 25  # identities in one file of training pictures
Loss = Literal["softmax", "cosface", "arcface", "triplet", "magface", "contrastive", "adaface"]
PAIRING: tuple[Loss, ...] = ("triplet", "contrastive")  # compare the pictures of a batch, without a classifier
LENGTHS = (5.0, 55.0)  # MagFace's 10 and 110 are for 512 dimensions: a length grows with their square root
LEAST_MARGIN = 0.45 / 0.8  # MagFace's smallest margin as a share of its largest
LENGTH_WEIGHT = 7.0  # MagFace's 35, at a scale of 24 instead of 64 and half the length
SPREAD = 0.33  # AdaFace's h: its extremes lie three deviations from the mean
PACE = 0.01  # how fast AdaFace's mean and deviation of lengths follow the batches
POINTS = 100  # of a learning curve
SHRUNK = (16, 24, 32)  # sides, in pixels of 64, that low-resolution augmentation takes pictures through


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
        shrink: Chance that a picture is taken to a quarter, three eighths or half of its size and back.
    """

    shift: float = 2.0
    zoom: float = 0.03
    turn: float = 0.05
    colour: float = 0.05
    blur: float = 0.7
    noise: float = 0.02
    cutout: float = 0.1
    shrink: float = 0.0


CROPS = Augmentation(zoom=0.0, turn=0.0, colour=0.0, blur=0.0, noise=0.0, cutout=0.0)
STRONG = Augmentation(shift=3.0, zoom=0.06, turn=0.08, colour=0.12, blur=1.0, noise=0.03, cutout=0.2, shrink=0.3)


@dataclass(frozen=True)
class Recipe:
    """Everything that a training depends on.

    Attributes:
        name: The extractor's name in the catalogue.
        architecture: Its key in ``ARCHITECTURES``.
        identities: How many made identities it learns from; ``held_out`` more are kept for validation.
        per_person: Pictures of each.
        epochs: Passes over the training pictures.
        loss: What is minimised; ``scale`` and ``margin`` are those of the margin losses. The margin is zero for the
            first fifth of the steps and grows over the next two: small networks do not start otherwise. That of the
            triplet loss, between squared distances, stays the same; the scale of the contrastive loss is learned and
            only begins as given.
        rate: Highest learning rate of AdamW, reached after ``warm_up`` steps and followed by a cosine to zero.
        calm: Share of the steps, at the end, over which augmentation fades to a third.
        bfloat16: Whether the network computes in bfloat16, where the device has it (its weights stay float32).
        seed: Seed of weights, order and augmentation, and of the pictures.
        population: Where its identities come from, if not from a population of its own.
        together: How many pictures of a person come together into a batch, a divisor of ``per_person`` and ``batch``;
            losses that compare the pictures of a batch need at least 2. At 1, pictures come in random order.
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
    together: int = 1

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
        Recipe("deepid_2014", "DeepID network", 500, 20, 25, "softmax", rate=1e-3, augmentation=CROPS),
        Recipe(
            "facenet_2015",
            "narrow Inception-ResNet",
            1500,
            20,
            16,
            "triplet",
            margin=0.2,
            augmentation=CROPS,
            together=4,
        ),
        Recipe("magface_2021", "narrow three-stage iResNet", 3000, 20, 12, "magface", scale=24.0, margin=0.5),
        Recipe(
            "contrastive_vit_2021",
            "narrow vision transformer",
            3000,
            20,
            7,
            "contrastive",
            scale=1 / 0.07,
            rate=2e-3,
            together=2,
        ),
        Recipe(
            "adaface_2022", "narrow IR-SE network", 3000, 20, 10, "adaface", scale=24.0, margin=0.3, augmentation=STRONG
        ),
        Recipe("edgeface_2023", "narrow EdgeNeXt", 3000, 20, 9, "cosface", scale=24.0, margin=0.3),
    )
}


@dataclass(frozen=True)
class Curve:
    """How a training went: after so many steps, mean loss and accuracy on the training pictures since the point before.

    Loss and accuracy are of augmented pictures, and with a margin that still grows the loss grows with it.
    """

    step: list[int]
    loss: list[float]
    accuracy: list[float]

    def add(self, step: int, loss: float, accuracy: float) -> None:
        """One point more, with as many digits as anybody will read."""
        self.step.append(step)
        self.loss.append(round(loss, 4))
        self.accuracy.append(round(accuracy, 4))

    def __str__(self) -> str:
        return f"loss {self.loss[-1]:.3f}, accuracy {self.accuracy[-1]:.1%}, " if self.step else ""


def find_recipe(name: str, seed: int = 0) -> Recipe:
    """The recipe of an own extractor; with another seed, the same with other people, weights, order and augmentation.

    Raises:
        InputError: there is no recipe of that name.
    """
    if name not in RECIPES:
        raise InputError(f"recipe '{name}' is unknown: use one of {', '.join(RECIPES)}")
    return replace(RECIPES[name], seed=seed)


def training_pictures(
    recipe: Recipe, scratch: Path, device: str = "auto", report: Callable[[str], None] = print
) -> tuple[Tensor, float]:
    """The pictures of a recipe, rendered once into files of ``SHARD`` identities each; a killed rendering resumes.

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
    for part in batches(total, SHARD):
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
        choice = torch.where(draw(0, 1) < how.shrink * amount, len(SHRUNK) * draw(0, 1), -1.0).floor()
        for index, pixels in enumerate(SHRUNK):
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


def margin_logits(cosines: Tensor, labels: Tensor, loss: Loss, scale: float, margin: float) -> Tensor:
    """Logits (B, C) of a margin loss, CosFace or ArcFace, from the cosines between embeddings and class weights.

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


def turned_logits(cosines: Tensor, labels: Tensor, turn: Tensor, push: Tensor, scale: float) -> Tensor:
    """Logits (B, C) of a margin loss whose margin is each picture's own.

    The angle to the right class grows by ``turn`` (B,), in radians, and stays within 0 to 180 degrees; ``push`` (B,) is
    taken from its cosine then.
    """
    right = cosines.gather(1, labels[:, None])
    angles = right.clamp(-1 + 1e-6, 1 - 1e-6).acos() + turn[:, None]
    return scale * cosines.scatter(1, labels[:, None], angles.clamp(0, math.pi).cos() - push[:, None])


def magface_margins(lengths: Tensor, margin: float) -> Tensor:
    """MagFace's margins in radians (B,) by the lengths of embeddings (Meng et al. 2021, equation 3).

    They grow on a line from ``LEAST_MARGIN`` of ``margin`` to all of it between the two ``LENGTHS``.
    """
    low, high = LENGTHS
    share = (lengths.clamp(low, high) - low) / (high - low)
    return margin * (LEAST_MARGIN + (1 - LEAST_MARGIN) * share)


def magface_regulariser(lengths: Tensor) -> Tensor:
    """MagFace's reward for long embeddings, the mean of 1 / a + a / u^2 over lengths a (B,) up to the largest, u."""
    low, high = LENGTHS
    inside = lengths.clamp(low, high)
    return (1 / inside + inside / high**2).mean()


def adaface_quality(lengths: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """What AdaFace takes for the quality of pictures, -1 to 1 (B,): how long their embeddings are (Kim et al. 2022)."""
    return ((lengths - mean) / (deviation + 1e-3) * SPREAD).clamp(-1, 1)


def triplet_loss(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """FaceNet's loss with semi-hard negatives (Schroff et al. 2015) over all pairs of a batch that show one person.

    Each pair's negative is the nearest to the anchor of those farther than the positive, or the farthest of all where
    none is farther. The loss is the mean of max(0, positive - negative + margin), in squared distances.

    Args:
        embeddings: Of unit length (B, D).
        labels: Who is on the pictures, int64 (B,): at least two people, and one of them twice.
        margin: Between squared distances, which reach up to 4.
    """
    distances = 2 - 2 * embeddings @ embeddings.T
    same = labels[:, None] == labels
    anchors, positives = (same & ~torch.eye(len(labels), dtype=torch.bool, device=same.device)).nonzero(as_tuple=True)
    near = distances[anchors, positives]
    others = distances.masked_fill(same, math.inf)[anchors]
    semi_hard = others.masked_fill(others <= near[:, None], math.inf).amin(1)
    farthest = distances.masked_fill(same, -math.inf).amax(1)[anchors]
    negatives = torch.where(semi_hard.isfinite(), semi_hard, farthest)
    return (near - negatives + margin).clamp(min=0).mean()


def contrastive_loss(embeddings: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric InfoNCE (Radford et al. 2021), with two pictures of a person in the place of picture and text.

    The one picture of a pair is to be found among all others' by the other, and the other way round. Where a person is
    there with several pairs, they are not held against each other.

    Args:
        embeddings: Of unit length (B, D).
        labels: Who is on the pictures, int64 (B,), everyone an even number of times.
        scale: What cosines are multiplied by: the inverse of the temperature.
    """
    order = labels.argsort(stable=True)
    who = labels[order][::2]
    left, right = embeddings[order].view(len(who), 2, -1).unbind(1)
    own = torch.eye(len(who), dtype=torch.bool, device=who.device)
    logits = (scale * left @ right.T).masked_fill((who[:, None] == who) & ~own, -math.inf)
    target = torch.arange(len(who), device=who.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Head(nn.Module):
    """What a loss learns or keeps beside the network; it is thrown away after training."""

    def __init__(self, classes: int, loss: Loss, scale: float) -> None:
        super().__init__()
        self.cosine = loss != "softmax"
        if loss not in PAIRING:
            self.weight = nn.Parameter(torch.randn(classes, DIMENSIONS) * 0.1)
        if loss == "contrastive":
            self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        if loss == "adaface":  # those of a batch-normalised embedding, to begin with
            self.register_buffer("mean", torch.tensor(math.sqrt(DIMENSIONS)))
            self.register_buffer("deviation", torch.tensor(1.0))
        self.mean: Tensor
        self.deviation: Tensor

    def forward(self, embeddings: Tensor) -> Tensor:
        """Scores (B, C) of embeddings (B, D): cosines for the margin losses, products for softmax."""
        if self.cosine:
            return F.normalize(embeddings) @ F.normalize(self.weight).T
        return embeddings @ self.weight.T

    def scale(self) -> Tensor:
        """The contrastive loss's scale, at most 100 as CLIP has it."""
        return self.log_scale.clamp(max=math.log(100)).exp()

    @torch.no_grad()
    def follow(self, lengths: Tensor) -> None:
        """Move AdaFace's mean and deviation of lengths towards those of a batch (B,)."""
        self.mean.lerp_(lengths.mean(), PACE)
        self.deviation.lerp_(lengths.std(), PACE)


def judge(recipe: Recipe, head: Head, embeddings: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The loss of a batch, and which of its pictures are told right, bool (B,).

    That is by the classifier or, where there is none, by the nearest other picture of the batch.

    Args:
        recipe: Says which loss.
        head: The loss's own weights.
        embeddings: Not normalised (B, D).
        labels: Who is on the pictures, int64 (B,).
        margin: The margin at this step.
    """
    if recipe.loss in PAIRING:
        unit = F.normalize(embeddings)
        loss = (
            triplet_loss(unit, labels, margin)
            if recipe.loss == "triplet"
            else contrastive_loss(unit, labels, head.scale())
        )
        nearest = (unit.detach() @ unit.detach().T).fill_diagonal_(-math.inf).argmax(1)
        return loss, labels[nearest] == labels
    scores = head(embeddings)
    right = scores.argmax(1) == labels
    if recipe.loss == "softmax":
        return F.cross_entropy(scores, labels), right
    if recipe.loss == "magface":
        lengths = embeddings.norm(dim=1)
        turn = magface_margins(lengths, margin)
        logits = turned_logits(scores, labels, turn, torch.zeros_like(turn), recipe.scale)
        return F.cross_entropy(logits, labels) + LENGTH_WEIGHT * magface_regulariser(lengths), right
    if recipe.loss == "adaface":
        lengths = embeddings.detach().norm(dim=1)
        head.follow(lengths)
        quality = adaface_quality(lengths, head.mean, head.deviation)
        logits = turned_logits(scores, labels, -margin * quality, margin * (1 + quality), recipe.scale)
        return F.cross_entropy(logits, labels), right
    return F.cross_entropy(margin_logits(scores, labels, recipe.loss, recipe.scale, margin), labels), right


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


def schedule(recipe: Recipe, step: int) -> tuple[float, float, float]:
    """Learning rate, margin and amount of augmentation at a step."""
    done = step / recipe.steps
    warm = min(1.0, (step + 1) / recipe.warm_up)
    rate = recipe.rate * warm * (1 + math.cos(math.pi * done)) / 2
    growth = 1.0 if recipe.loss == "triplet" else min(1.0, max(0.0, (done - 0.2) / 0.4))
    margin = recipe.margin * growth
    amount = 1 - 2 / 3 * max(0.0, (done - (1 - recipe.calm)) / recipe.calm)
    return rate, margin, amount


def fit(
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
        scratch: Folder in which the state is kept, under the key of all that decides the result.
        device: Where to compute.
        report: Receives lines on how it goes.
        every: Seconds between two times that the state is kept; each also reports.

    Returns:
        The network, in training mode on ``device``, the seconds that all runs together took, and the learning curve:
        steps done, and mean loss and accuracy on the training pictures of the steps since the point before.
    """
    people, each = pixels.shape[:2]
    flat = pixels.flatten(0, 1)
    torch.manual_seed(generator(recipe.seed, recipe.name, "weights").initial_seed())  # layers draw from the global one
    network = ARCHITECTURES[recipe.architecture]().to(device).to(memory_format=torch.channels_last).train()
    head = Head(people, recipe.loss, recipe.scale).to(device)
    weights = [*network.parameters(), *head.parameters()]
    vectors = [weight for weight in weights if weight.numel() == max(weight.shape)]  # biases, slopes, norms: no decay
    others = [weight for weight in weights if weight.numel() != max(weight.shape)]
    groups = [{"params": others, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.rate, fused=True)
    step, before, curve = 0, 0.0, Curve([], [], [])
    losses, hits, seen = 0.0, 0, 0
    checkpoint = resumable(scratch, recipe.name, ".pt", by=[fit], recipe=recipe, pixels=pixels, device=device.type)
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        head.load_state_dict(state["head"])
        optimiser.load_state_dict(state["optimiser"])
        step, before, curve = int(state["step"]), float(state["seconds"]), Curve(**state["curve"])
        losses, hits, seen = state["since"]
        report(f"{recipe.name}: goes on from step {step} of {recipe.steps}")

    per_epoch = len(flat) // recipe.batch
    start = last = time.perf_counter()
    first = step
    while step < recipe.steps:
        epoch, place = divmod(step, per_epoch)
        if place == 0 or step == first:
            rng = generator(recipe.seed, recipe.name, "order", epoch)
            order = arrange(people, each, recipe.batch, recipe.together, rng)
        some = order[place]
        labels = (some // each).to(device)
        rate, margin, amount = schedule(recipe, step)
        rng = generator(recipe.seed, recipe.name, "augmentation", step)
        pictures = augment(to_float(flat[some].to(device)), recipe.augmentation, rng, amount)
        inputs = ((pictures - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16 and has_bfloat16(device.type)):
            embeddings = network(inputs)
        loss, right = judge(recipe, head, embeddings.float(), labels, margin)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        step += 1
        losses, hits, seen = (
            losses + loss.item() * len(some),
            hits + int(right.sum()),
            seen + len(some),
        )
        if step * POINTS // recipe.steps > (step - 1) * POINTS // recipe.steps:
            curve.add(step, losses / seen, hits / seen)
            losses, hits, seen = 0.0, 0, 0
        now = time.perf_counter()
        if now - last > every or step == recipe.steps:
            rate = (step - first) / (now - start)
            report(
                f"{recipe.name}: step {step} of {recipe.steps}, {curve}{rate * recipe.batch:.0f} pictures/s, "
                f"{(recipe.steps - step) / rate / 60:.1f} min left"
            )
            state = {
                "network": network.state_dict(),
                "head": head.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "seconds": before + now - start,
                "curve": asdict(curve),
                "since": (losses, hits, seen),
            }
            with written_whole(checkpoint) as file:
                torch.save(state, file)
            last = now
    return network, before + time.perf_counter() - start, curve


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
    code = fingerprint.of_modules("facepoison.extractors.training")  # as it is now, not as it may be in an hour
    stands_at = fingerprint.commit()
    pixels, rendering = training_pictures(recipe, scratch, device, report)
    own, unseen = pixels[: recipe.identities], pixels[recipe.identities :]

    network, seconds, curve = fit(recipe, own, scratch, where, report)
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
