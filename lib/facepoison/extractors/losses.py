"""What the book's own extractors minimise: softmax, losses with a margin, and losses that compare pictures."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facepoison.extractors.architectures import DIMENSIONS
from facepoison.extractors.recipes import PAIRING, Loss, Recipe

_LENGTHS = (5.0, 55.0)  # MagFace's 10 and 110 are for 512 dimensions: a length grows with their square root
_LEAST_MARGIN = 0.45 / 0.8  # MagFace's smallest margin as a share of its largest
_LENGTH_WEIGHT = 7.0  # MagFace's 35, at a scale of 24 instead of 64 and half the length
_SPREAD = 0.33  # AdaFace's h: its extremes lie three deviations from the mean
_PACE = 0.01  # how fast AdaFace's mean and deviation of lengths follow the batches


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

    They grow on a line from ``_LEAST_MARGIN`` of ``margin`` to all of it between the two ``_LENGTHS``.
    """
    low, high = _LENGTHS
    share = (lengths.clamp(low, high) - low) / (high - low)
    return margin * (_LEAST_MARGIN + (1 - _LEAST_MARGIN) * share)


def magface_regulariser(lengths: Tensor) -> Tensor:
    """MagFace's reward for long embeddings, the mean of 1 / a + a / u^2 over lengths a (B,) up to the largest, u."""
    low, high = _LENGTHS
    inside = lengths.clamp(low, high)
    return (1 / inside + inside / high**2).mean()


def adaface_quality(lengths: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """What AdaFace takes for the quality of pictures, -1 to 1 (B,): how long their embeddings are (Kim et al. 2022)."""
    return ((lengths - mean) / (deviation + 1e-3) * _SPREAD).clamp(-1, 1)


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
        self.mean.lerp_(lengths.mean(), _PACE)
        self.deviation.lerp_(lengths.std(), _PACE)


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
        return F.cross_entropy(logits, labels) + _LENGTH_WEIGHT * magface_regulariser(lengths), right
    if recipe.loss == "adaface":
        lengths = embeddings.detach().norm(dim=1)
        head.follow(lengths)
        quality = adaface_quality(lengths, head.mean, head.deviation)
        logits = turned_logits(scores, labels, -margin * quality, margin * (1 + quality), recipe.scale)
        return F.cross_entropy(logits, labels), right
    return F.cross_entropy(margin_logits(scores, labels, recipe.loss, recipe.scale, margin), labels), right
