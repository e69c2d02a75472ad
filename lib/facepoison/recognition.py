"""Recognisers: who is on a picture, by the embeddings of a gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from facepoison.device import batches
from facepoison.errors import InputError

Metric = Literal["euclidean", "cosine"]
Recogniser = Literal["nearest", "linear"]
CELLS = 2**24  # distances held at a time, 64 MiB
_TOLERANCE = 1e-4  # largest length of a logistic regression's gradient
NEWTON_STEPS = 50
_CONJUGATE_STEPS = 300  # in each Newton step
_HALVINGS = 30  # of a Newton step that leads uphill


@dataclass(frozen=True)
class Nearest:
    """The identities nearest to each of P probes, nearest first, all different.

    Attributes:
        labels: int64 (P, k).
        distances: float32 (P, k), from a probe to the identity's nearest gallery picture.
    """

    labels: Tensor
    distances: Tensor


def _check_unit(embeddings: Tensor, what: str) -> None:
    """Refuse embeddings that are not finite rows of unit length.

    Raises:
        InputError: naming ``what`` they are.
    """
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise InputError(f"{what}: {embeddings.dtype} {tuple(embeddings.shape)}; give float embeddings (N, D)")
    lengths = embeddings.float().norm(dim=1)
    if not bool(((lengths - 1).abs() < 1e-2).all()):  # half precision stays well inside; a NaN does not
        raise InputError(f"{what}: embeddings are not at unit length; pass them through extractors.normalise")


def _check_gallery(gallery: Tensor, labels: Tensor) -> None:
    """Refuse embeddings that are not unit rows (G, D) with one int64 label each.

    Raises:
        InputError: saying which is wrong.
    """
    _check_unit(gallery, "gallery")
    if labels.dtype != torch.int64 or labels.shape != gallery.shape[:1] or not len(labels):
        raise InputError(
            f"gallery: {len(gallery)} embeddings, labels {labels.dtype} {tuple(labels.shape)}; one int64 each"
        )


def _check_probes(probes: Tensor, dimensions: int) -> None:
    """Refuse embeddings that are not unit rows (P, D) of the gallery's ``dimensions``.

    Raises:
        InputError: saying which is wrong.
    """
    _check_unit(probes, "probes")
    if probes.shape[1] != dimensions:
        raise InputError(f"probes: {probes.shape[1]} dimensions, gallery {dimensions}; use one extractor for both")


def identity_distances(gallery: Tensor, labels: Tensor, probes: Tensor, n: int, metric: Metric = "euclidean") -> Tensor:
    """Distance from each probe to the nearest gallery picture of each identity.

    Args:
        gallery: Unit embeddings (G, D).
        labels: Identity of each, int64 (G,), in [0, n).
        probes: Unit embeddings (P, D).
        n: Number of identities.
        metric: ``"euclidean"``, 0 to 2, or ``"cosine"`` (1 - cosine), 0 to 2; both put identities in the same order.

    Returns:
        float32 (P, n), infinite for identities without a gallery picture.

    Raises:
        InputError: shapes, labels or lengths are wrong.
    """
    _check_gallery(gallery, labels)
    _check_probes(probes, gallery.shape[1])
    if not 0 <= int(labels.min()) <= int(labels.max()) < n:
        raise InputError(f"labels: {int(labels.min())} to {int(labels.max())} given; must lie in [0, {n})")
    if metric not in ("euclidean", "cosine"):
        raise InputError(f"metric '{metric}': unknown; use euclidean or cosine")
    parts = []
    for some in batches(len(probes), max(1, CELLS // len(gallery))):
        cosine = 1 - (probes[some].float() @ gallery.float().T).clamp(-1, 1)
        nearest = cosine.new_full((len(cosine), n), torch.inf)
        parts.append(nearest.scatter_reduce_(1, labels.to(cosine.device).expand_as(cosine), cosine, "amin"))
    distances = torch.cat(parts) if parts else gallery.new_empty(0, n, dtype=torch.float32)
    return (2 * distances).sqrt() if metric == "euclidean" else distances


def closest(distances: Tensor, k: int = 1) -> Nearest:
    """The ``k`` nearest different identities from distances (P, n); of equally near ones the lower label comes first.

    Raises:
        InputError: fewer than ``k`` identities have a gallery picture.
    """
    known = int(distances.isfinite().any(dim=0).sum())
    if not 1 <= k <= known and len(distances):
        raise InputError(f"k: {k} nearest identities asked for, {known} in the gallery; ask for 1 to {known}")
    left, labels, values = distances.clone(), [], []
    for _ in range(k):
        value, label = left.min(dim=1)  # of equal values the first, which topk does not promise
        labels.append(label)
        values.append(value)
        left.scatter_(1, label[:, None], torch.inf)
    return Nearest(torch.stack(labels, dim=1), torch.stack(values, dim=1))


def nearest(gallery: Tensor, labels: Tensor, probes: Tensor, k: int = 1, metric: Metric = "euclidean") -> Nearest:
    """The ``k`` different identities whose gallery pictures come nearest to each probe (1-nearest-neighbour for k = 1).

    Args:
        gallery: Unit embeddings (G, D).
        labels: Identity of each, int64 (G,), not negative.
        probes: Unit embeddings (P, D).
        k: How many identities, nearest first.
        metric: As in ``identity_distances``.

    Raises:
        InputError: shapes, labels or lengths are wrong, or fewer than ``k`` identities are in the gallery.

    Example:
        >>> import torch
        >>> import facepoison as fp
        >>> gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> probes = torch.tensor([[0.8, 0.6]])
        >>> fp.nearest(gallery, torch.tensor([0, 1, 2]), probes, k=2).labels.tolist()
        [[2, 0]]
    """
    known = int(labels.max()) + 1 if len(labels) else 0
    return closest(identity_distances(gallery, labels, probes, known, metric), k)


@dataclass(frozen=True)
class Linear:
    """A linear recogniser: standardise an embedding, then multiply; the softmax of the result is its probabilities.

    Attributes:
        identities: The C identities that it knows, int64 (C,), ascending.
        mean: Of the gallery's embeddings, float64 (D,).
        scale: Their standard deviation, float64 (D,); 1 where all of them agree.
        weight: float64 (C, D).
        bias: float64 (C,).
    """

    identities: Tensor
    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def distances(self, probes: Tensor, n: int) -> Tensor:
        """Negative log-probabilities of ``n`` identities, float32 (P, n), of unit embeddings (P, D).

        They are infinite for identities that the gallery did not hold.

        Raises:
            InputError: the probes are no unit embeddings of the gallery's kind.
        """
        _check_probes(probes, len(self.mean))
        logits = (probes.double() - self.mean) / self.scale @ self.weight.T + self.bias
        far = logits.new_full((len(probes), n), torch.inf, dtype=torch.float32)
        far[:, self.identities] = -logits.log_softmax(dim=1).float()
        return far


def fit_linear(
    gallery: Tensor, labels: Tensor, poisoned: Mapping[int, Tensor] | None = None
) -> tuple[Linear, dict[int, Linear]]:
    """Linear recognisers of a clean gallery and of each user's round, in which that user's pictures are poisoned.

    Each standardises its own gallery and then minimises sum_i -log p(label_i) + |weight|^2 / 2, which is the
    multinomial logistic regression that scikit-learn calls ``LogisticRegression(C=1)``: the bias is free. Newton's
    method with preconditioned conjugate gradients (Nocedal and Wright 2006, chapters 5 and 7) solves the rounds, each
    from the clean gallery's solution, until the gradient is no longer than ``_TOLERANCE``. As the penalty makes the
    objective 1-strongly convex in the weights, these are then within about ``_TOLERANCE`` of the exact ones.

    Args:
        gallery: Clean unit embeddings (G, D).
        labels: Their identities, int64 (G,), not negative, of two people or more.
        poisoned: For each user the unit embeddings (g, D) that take the place of the user's rows.

    Returns:
        The clean gallery's recogniser, and each user's.

    Raises:
        InputError: shapes, labels or lengths are wrong, or a solution was not reached in ``NEWTON_STEPS``.
    """
    _check_gallery(gallery, labels)
    identities, dense = labels.to(gallery.device).unique(return_inverse=True)  # type: ignore[no-untyped-call]
    if int(identities[0]) < 0:
        raise InputError(f"labels: {int(identities[0])} given; none may be negative")
    if len(identities) < 2:
        raise InputError("gallery: one identity; a linear recogniser needs two or more")
    poisoned = poisoned or {}
    for user, embeddings in poisoned.items():
        _check_unit(embeddings, f"user {user}")
        own = int((labels == user).sum())
        if embeddings.shape != (own, gallery.shape[1]):
            raise InputError(
                f"user {user}: poisoned embeddings {tuple(embeddings.shape)}; give ({own}, {gallery.shape[1]})"
            )

    def solved(users: list[int], start: Tensor | None) -> tuple[list[Linear], Tensor]:
        rows = gallery.double().repeat(max(1, len(users)), 1, 1)
        for place, user in enumerate(users):
            rows[place, labels == user] = poisoned[user].double().to(rows.device)
        mean, scale = rows.mean(dim=1), rows.std(dim=1, correction=0)
        scale = torch.where(scale < 1e-12, 1.0, scale)
        rows = (rows - mean[:, None]) / scale[:, None]
        rows = torch.cat((rows, torch.ones_like(rows[..., :1])), dim=2)
        found = _logistic(rows, dense, len(identities), start)
        parts = zip(mean, scale, found.mT, strict=True)
        return [Linear(identities, m, s, both[:, :-1].contiguous(), both[:, -1]) for m, s, both in parts], found

    (clean,), start = solved([], None)
    users, rounds = list(poisoned), list[Linear]()
    # what one round needs stays in a processor's cache, what many need does not; a GPU wants many
    at_once = CELLS // (len(gallery) * len(identities)) if gallery.is_cuda else 1
    for some in batches(len(users), max(1, at_once)):
        rounds += solved(users[some], start)[0]
    return clean, dict(zip(users, rounds, strict=True))


def _logistic(rows: Tensor, labels: Tensor, n: int, start: Tensor | None) -> Tensor:
    """Weights (R, D, n) of R logistic regressions on rows (R, G, D) whose last column is 1, for the free bias."""
    weights = rows.new_zeros(len(rows), rows.shape[2], n) if start is None else start.repeat(len(rows), 1, 1)
    penalty = rows.new_ones(rows.shape[2], 1)
    penalty[-1] = 0
    truth = F.one_hot(labels, n).to(rows.dtype)

    def objective(weights: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        log_p = (rows @ weights).log_softmax(dim=2)
        return -(log_p * truth).sum(dim=(1, 2)) + (weights.square() * penalty).sum(dim=(1, 2)) / 2, log_p

    eased = None if start is None else _inverse_blocks(rows[0], (rows[0] @ start[0]).softmax(dim=1), penalty)
    going = torch.arange(len(rows), device=rows.device)  # rounds that are not there yet
    for _ in range(NEWTON_STEPS):
        now, x = weights[going], rows[going]
        value, log_p = objective(now, x)
        p = log_p.exp()
        gradient = x.mT @ (p - truth) + penalty * now
        length = gradient.norm(dim=(1, 2))
        left = length > _TOLERANCE
        if not bool(left.any()):
            return weights
        if not bool(left.all()):
            going, now, x, value, p = going[left], now[left], x[left], value[left], p[left]
            gradient, length = gradient[left], length[left]
        step = _newton_step(x, p, penalty, gradient, length, eased)
        slope = (gradient * step).sum(dim=(1, 2))
        size = torch.ones_like(value)
        for _ in range(_HALVINGS):
            after, _ = objective(now + size[:, None, None] * step, x)
            # The second term is the rounding of the objective itself, below which it cannot tell better from worse.
            short = after > value + 1e-4 * size * slope + 1e-12 * value
            if not bool(short.any()):
                break
            size = torch.where(short, size / 2, size)
        weights[going] = now + size[:, None, None] * step
    raise InputError(
        f"linear: {len(going)} rounds not solved after {NEWTON_STEPS} Newton steps, gradient "
        f"{float(length.max()):.1e}; look for embeddings that are far from all others"
    )


def _inverse_blocks(x: Tensor, p: Tensor, penalty: Tensor) -> Tensor:
    """Inverses (n, D, D) of the parts of a round's Hessian that belong to one identity each, to precondition with."""
    parts = torch.stack([x.T @ (each[:, None] * x) for each in (p * (1 - p)).T])
    parts += torch.diag(penalty.flatten() + 1e-6)  # the bias has no penalty
    inverses: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(parts))
    return inverses


def _newton_step(
    x: Tensor, p: Tensor, penalty: Tensor, gradient: Tensor, length: Tensor, eased: Tensor | None
) -> Tensor:
    """About -gradient / Hessian, by conjugate gradients on all rounds at once.

    In single precision: what is missed in one step the next one makes good, whose gradient is double.

    Args:
        x: As in ``_logistic`` (R, G, D).
        p: Probabilities (R, G, n).
        penalty: (D, 1).
        gradient: (R, D, n).
        length: Its length (R,).
        eased: Of ``_inverse_blocks``, for rounds that start near a solution; None: without.
    """
    x, p, penalty, residual = x.float(), p.float(), penalty.float(), -gradient.float()
    eased = None if eased is None else eased.float()

    def ease(residual: Tensor) -> Tensor:
        return residual if eased is None else (eased @ residual.permute(2, 1, 0)).permute(2, 1, 0)

    enough = length * length.sqrt().clamp(max=0.3)  # ever more exact: convergence is faster than linear
    step, direction = torch.zeros_like(residual), ease(residual)
    along = (residual * direction).sum(dim=(1, 2))
    for _ in range(_CONJUGATE_STEPS):
        going = residual.norm(dim=(1, 2)) > enough
        if not bool(going.any()):
            break
        turned = x @ direction
        turned = p * (turned - (p * turned).sum(dim=2, keepdim=True))
        image = x.mT @ turned + penalty * direction
        size = torch.where(going, along / (direction * image).sum(dim=(1, 2)), 0.0)[:, None, None]
        step += size * direction
        residual -= size * image
        easier = ease(residual)
        before, along = along, (residual * easier).sum(dim=(1, 2))
        direction = easier + (along / before.clamp(min=1e-30))[:, None, None] * direction
    return step.double()


def linear_rounds(
    gallery: Tensor, labels: Tensor, asked: Sequence[Tensor], poisoned: Mapping[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """Negative log-probabilities of the users' probes without and with poison, as ``game.compared`` takes them.

    Args:
        gallery: Clean unit embeddings (G, D).
        labels: Their identities, int64 (G,).
        asked: For each user the unit embeddings of the probes (p, D).
        poisoned: For each user the unit embeddings (g, D) of the gallery pictures as published, in the same order.

    Returns:
        Two of float32 (P, n), n - 1 being the highest label; infinite for identities not in the gallery.

    Raises:
        InputError: as in ``fit_linear``.
    """
    n = int(labels.max()) + 1
    clean, rounds = fit_linear(gallery, labels, poisoned)
    after = [rounds[user].distances(probes, n) for user, probes in zip(poisoned, asked, strict=True)]
    return clean.distances(torch.cat(list(asked)), n), torch.cat(after)


def pair_cosines(gallery: Tensor, labels: Tensor, probes: Tensor, probe_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of all pairs of a probe and a gallery picture: those of one person, and those of two different people.

    Args:
        gallery: Unit embeddings (G, D).
        labels: Identity of each, int64 (G,).
        probes: Unit embeddings (P, D).
        probe_labels: Identity of each, int64 (P,).

    Returns:
        Two one-dimensional tensors, together P * G long.
    """
    _check_unit(gallery, "gallery")
    _check_unit(probes, "probes")
    cosines = probes.float() @ gallery.float().T
    alike = probe_labels[:, None] == labels
    return cosines[alike], cosines[~alike]
