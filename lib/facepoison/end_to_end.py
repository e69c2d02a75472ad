"""The end-to-end recogniser: its extractor is trained together with a linear head, anew in every user's round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.fine_tuning import END_TO_END, EndToEnd, check_rgb, play_round
from facepoison.intervals import CONFIDENCE
from facepoison.protection import Protection, check_rounds, compared, own_probes
from facepoison.store import Arrays


@dataclass(frozen=True)
class EndToEndOutcome:
    """The protocol played with the end-to-end recogniser, and how well it learnt what it was given.

    Attributes:
        protection: The rate and the answers; distances are negative log-probabilities.
        clean_fit: Share of the clean gallery that the clean round's recogniser names as labelled.
        fit: The same of each user's round, poison included, float64 (n,), in the order of the protection's users.
        own_fit: The same of the user's own poisoned pictures alone, float64 (n,): high where the poison was learnt.
        rounds: What ``play`` gave in every user's round, and under None in the clean one.
    """

    protection: Protection
    clean_fit: float
    fit: Tensor
    own_fit: Tensor
    rounds: Mapping[int | None, Arrays]


def end_to_end(
    extractor: Extractor,
    gallery: Tensor,
    labels: Tensor,
    probes: Tensor,
    probe_labels: Tensor,
    poisoned: Mapping[int, Tensor],
    preset: EndToEnd = END_TO_END,
    *,
    seed: int,
    k: int = 1,
    confidence: float = CONFIDENCE,
    progress: Callable[[int, int], None] | None = None,
    play: Callable[..., Arrays] = play_round,
    played: Mapping[int | None, Arrays] | None = None,
) -> EndToEndOutcome:
    """Play the protocol end to end: a training on the clean gallery, then one for each user, who alone poisons.

    Args:
        extractor: Where each training starts; it stays as it is.
        gallery: Everyone's clean gallery pictures, uint8 RGB (G, 3, H, W).
        labels: Who is on them, int64 (G,), not negative.
        probes: Everyone's clean probes, uint8 (P, 3, H, W).
        probe_labels: Who is on them, int64 (P,).
        poisoned: For each user all gallery pictures as published, uint8 (g, 3, H, W), in the gallery's order.
        preset: How to train.
        seed: Of all rounds: they differ in the poison, not in the draws.
        k: An answer is right if the true identity is among the ``k`` most probable.
        confidence: Of the intervals.
        progress: Told of every round that is over, and of how many there are: the users' and the clean one.
        play: What plays a round, called as ``play_round`` is; put a remembering one here.
        played: Rounds that have been played already, by user, the clean one under None.

    Raises:
        InputError: as in ``fine_tune`` and ``protection.protection``.
    """
    check_rgb(gallery, "gallery")
    check_rgb(probes, "probes")
    check_rounds(labels, probes, probe_labels, poisoned)
    for user, published in poisoned.items():
        check_rgb(published, f"user {user}")
        if published.shape[1:] != gallery.shape[1:]:
            raise InputError(
                f"user {user}: pictures {tuple(published.shape[1:])}, gallery {tuple(gallery.shape[1:])}; use one size"
            )
    users, own = tuple(poisoned), own_probes(probe_labels, poisoned)

    def told(done: int) -> None:
        if progress:
            progress(done, len(users) + 1)

    rounds = dict(played or {})
    if None not in rounds:
        rounds[None] = play(extractor, gallery, labels, probes[torch.cat(own)], preset, seed=seed)
    told(1)
    for done, (user, places) in enumerate(zip(users, own, strict=True), start=2):
        if user not in rounds:
            published = gallery.clone()
            published[labels == user] = poisoned[user]
            rounds[user] = play(extractor, published, labels, probes[places], preset, seed=seed)
        told(done)
    right = {user: (answers["gallery"] == labels.cpu()).double() for user, answers in rounds.items()}
    after = torch.cat([rounds[user]["distance"] for user in users])
    return EndToEndOutcome(
        compared(users, own, rounds[None]["distance"], after, k=k, confidence=confidence),
        float(right[None].mean()),
        torch.stack([right[user].mean() for user in users]),
        torch.stack([right[user][labels.cpu() == user].mean() for user in users]),
        rounds,
    )
