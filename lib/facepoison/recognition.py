"""Recognisers: who is on a picture, by the embeddings of a gallery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from facepoison.device import batches
from facepoison.errors import InputError

Metric = Literal["euclidean", "cosine"]
CELLS = 2**24  # distances held at a time, 64 MiB


@dataclass(frozen=True)
class Nearest:
    """The identities nearest to each of P probes, nearest first, all different.

    Attributes:
        labels: int64 (P, k).
        distances: float32 (P, k), from a probe to the identity's nearest gallery picture.
    """

    labels: Tensor
    distances: Tensor


def check_unit(embeddings: Tensor, what: str) -> None:
    """Refuse embeddings that are not finite rows of unit length.

    Raises:
        InputError: naming ``what`` they are.
    """
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise InputError(f"{what}: {embeddings.dtype} {tuple(embeddings.shape)}; give float embeddings (N, D)")
    lengths = embeddings.float().norm(dim=1)
    if not bool(((lengths - 1).abs() < 1e-2).all()):  # half precision stays well inside; a NaN does not
        raise InputError(f"{what}: embeddings are not at unit length; pass them through extractors.normalise")


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
    check_unit(gallery, "gallery")
    check_unit(probes, "probes")
    if gallery.shape[1] != probes.shape[1]:
        raise InputError(
            f"probes: {probes.shape[1]} dimensions, gallery {gallery.shape[1]}; use one extractor for both"
        )
    if labels.dtype != torch.int64 or labels.shape != gallery.shape[:1] or not len(labels):
        raise InputError(
            f"gallery: {len(gallery)} embeddings, labels {labels.dtype} {tuple(labels.shape)}; one int64 each"
        )
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
    """
    known = int(labels.max()) + 1 if len(labels) else 0
    return closest(identity_distances(gallery, labels, probes, known, metric), k)


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
    check_unit(gallery, "gallery")
    check_unit(probes, "probes")
    cosines = probes.float() @ gallery.float().T
    alike = probe_labels[:, None] == labels
    return cosines[alike], cosines[~alike]
