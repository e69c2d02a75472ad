"""The game: each user in turn publishes poison, everybody else does not, and the recogniser is asked about that user.

Every picture is embedded once and every round played once: answers hold several identities, so that a trainer who
looks at the first of them and one who looks at five are read from the same answers (``Protection.top``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from facepoison import store
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.evaluation import Answers, Protection
from facepoison.extractors import Extractor
from facepoison.pictures import Pictures
from facepoison.protocol import Data, embeddings
from facepoison.recognition import Metric, Recogniser, closest, identity_distances, linear_rounds

HELD = 5
"""Identities that an answer holds, if the gallery has so many: as many as any chapter looks at."""


def measure_protection(
    gallery: Tensor,
    labels: Tensor,
    probes: Tensor,
    probe_labels: Tensor,
    poisoned: Mapping[int, Tensor],
    *,
    metric: Metric = "euclidean",
    recogniser: Recogniser = "nearest",
    linear: Callable[..., tuple[Tensor, Tensor]] = linear_rounds,
) -> Protection:
    """Play with a recogniser of embeddings, one user after the other.

    In a user's round all of that user's gallery pictures are poisoned and everybody else's are clean; the recogniser is
    asked about that user's clean probes.

    Args:
        gallery: Clean unit embeddings of everyone's gallery pictures (G, D).
        labels: Their identities, int64 (G,), not negative.
        probes: Clean unit embeddings of everyone's probes (P, D).
        probe_labels: Their identities, int64 (P,).
        poisoned: For each user the unit embeddings (g, D) of all their gallery pictures as published.
        metric: Of the nearest neighbour, as in ``recognition.identity_distances``; the linear recogniser has none.
        recogniser: ``"nearest"`` neighbour, or ``"linear"``: a logistic regression for each round
            (``recognition.fit_linear``), whose distances are negative log-probabilities.
        linear: What plays the linear recogniser's rounds, called as ``recognition.linear_rounds`` is; put a
            caching one here.

    Raises:
        InputError: embeddings or labels are wrong, there is no user, a user has no probe, no gallery picture, or
            another number of poisoned embeddings than of gallery pictures, or the recogniser is unknown.

    Example:
        >>> import torch
        >>> import facepoison as fp
        >>> clean, who = torch.eye(2), torch.tensor([0, 1])
        >>> result = fp.measure_protection(clean, who, clean, who, {0: torch.tensor([[-1.0, 0.0]])})
        >>> result.rate.value, result.rate.clean_error.value
        (1.0, 0.0)
        >>> result.poisoned.predicted.tolist(), result.top(2).rate.value
        ([[1, 0]], 0.0)
    """
    check_rounds(labels, probes, probe_labels, poisoned)
    own = own_probes(probe_labels, poisoned)
    asked = [probes[places] for places in own]
    if recogniser == "nearest":
        before, after = _nearest_rounds(gallery, labels, asked, poisoned, metric)
    elif recogniser == "linear":
        before, after = linear(gallery, labels, asked, poisoned)
    else:
        raise InputError(f"recogniser '{recogniser}': unknown; use nearest or linear")
    return compared(tuple(poisoned), own, before, after)


def check_rounds(labels: Tensor, probes: Tensor, probe_labels: Tensor, poisoned: Mapping[int, Tensor]) -> None:
    """Refuse rounds that cannot be played: see ``measure_protection``; ``probes`` may be embeddings or pictures.

    Raises:
        InputError: saying which.
    """
    if not poisoned:
        raise InputError("protection: no user; give what at least one of them publishes")
    if probe_labels.dtype != torch.int64 or probe_labels.shape != probes.shape[:1]:
        got = f"{probe_labels.dtype} {tuple(probe_labels.shape)}"
        raise InputError(f"probes: {len(probes)} given, labels {got}; one int64 each")
    for (user, published), places in zip(poisoned.items(), own_probes(probe_labels, poisoned), strict=True):
        pictures = int((labels == user).sum())
        if not pictures or not len(places):
            raise InputError(f"user {user}: {pictures} gallery pictures and {len(places)} probes; needs one of each")
        if len(published) != pictures:
            raise InputError(f"user {user}: {len(published)} poisoned of {pictures} gallery pictures; poison all")


def own_probes(probe_labels: Tensor, users: Iterable[int]) -> list[Tensor]:
    """Places of each user's probes, int64, by the identities on all probes, int64 (P,)."""
    return [(probe_labels == user).nonzero().flatten() for user in users]


def _nearest_rounds(
    gallery: Tensor, labels: Tensor, asked: Sequence[Tensor], poisoned: Mapping[int, Tensor], metric: Metric
) -> tuple[Tensor, Tensor]:
    """Distances of the users' probes without and with poison, as ``compared`` takes them.

    Those to the clean gallery are computed once; each round replaces one column of them, its user's.
    """
    before = identity_distances(gallery, labels, torch.cat(list(asked)), int(labels.max()) + 1, metric)
    after = before.clone()
    start = 0
    for (user, published), probes in zip(poisoned.items(), asked, strict=True):
        rows = slice(start, start + len(probes))
        zeros = torch.zeros(len(published), dtype=torch.int64, device=published.device)
        after[rows, user] = identity_distances(published, zeros, probes, 1, metric)[:, 0]
        start = rows.stop
    return before, after


def compared(users: Sequence[int], own: Sequence[Tensor], before: Tensor, after: Tensor) -> Protection:
    """The outcome of the game, whatever the recogniser, from what it says of the users' probes in the two rounds.

    Args:
        users: Who poisons, one at a time.
        own: Places of each one's probes, int64.
        before: How far every identity is from the users' probes in the clean round, lower being nearer (R, n): rows of
            the first user, then of the second, and so on; infinite for identities not in the gallery.
        after: The same, each user's rows in that user's own round.
    """
    probe = torch.cat(list(own)).cpu()
    true = torch.tensor(users).repeat_interleave(torch.tensor([len(places) for places in own]))

    def answers(distances: Tensor) -> Answers:
        known = int(distances.isfinite().any(dim=0).sum())
        found = closest(distances, min(HELD, known))
        nobody = found.distances.isinf()  # who is in the gallery, but out of this user's round
        return Answers(true, probe, true.clone(), found.labels.masked_fill(nobody, -1).cpu(), found.distances.cpu())

    return Protection(answers(after), answers(before))


def play(data: Data, posts: Pictures, extractor: Extractor, recogniser: Recogniser = "nearest") -> Protection:
    """A round for each user: that user's gallery pictures poisoned, everybody else's clean, the user's probes asked.

    Args:
        data: Pictures, gallery, probes and users.
        posts: What the users publish instead of their gallery pictures.
        extractor: The trainer's.
        recogniser: ``"nearest"`` neighbour or ``"linear"``, on the extractor's embeddings.
    """
    clean = embeddings(extractor, data.pictures.pixels)
    published = embeddings(extractor, posts.pixels)
    by_user = {user: published[posts.identities == user] for user in posts.people}
    return measure_protection(*data.sides(clean), by_user, recogniser=recogniser, linear=_cached_linear)


def _cached_linear(
    gallery: Tensor, labels: Tensor, asked: Sequence[Tensor], poisoned: Mapping[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """As ``recognition.linear_rounds``, computed once and then cached: it takes seconds a time."""
    result = store.cached(
        "linear",
        lambda: dict(zip(("before", "after"), linear_rounds(gallery, labels, asked, poisoned), strict=True)),
        by=[linear_rounds],
        gallery=gallery,
        labels=labels,
        asked=list(asked),
        users=list(poisoned),
        poisoned=list(poisoned.values()),
    )
    return result.arrays["before"], result.arrays["after"]


def by_extractor(
    data: Data,
    posts: Mapping[str, Pictures],
    networks: Mapping[str, Extractor],
    recogniser: Recogniser = "nearest",
    progress: Callable[[int, int], None] | None = None,
) -> dict[tuple[str, str], Protection]:
    """The same published pictures before one extractor after the other: the outcome by attack and extractor.

    Args:
        data: Pictures, gallery, probes and users.
        posts: By attack, what the users publish.
        networks: By name, the extractors that the trainer comes to have.
        recogniser: What the trainer does with the embeddings.
        progress: Told of every pair of attack and extractor done.
    """
    results: dict[tuple[str, str], Protection] = {}
    for attack, name in itertools.product(posts, networks):
        results[attack, name] = play(data, posts[attack], networks[name], recogniser)
        if progress:
            progress(len(results), len(posts) * len(networks))
    return results


def _some(posts: Pictures, count: Callable[[int], int], seed: int, purpose: str) -> Tensor:
    """For each user some of their pictures, drawn by seed: bool (M,); ``count`` says how many of how many.

    A larger count takes the same pictures and more.
    """
    chosen = torch.zeros(len(posts), dtype=torch.bool)
    for user in posts.people:
        places = (posts.identities == user).nonzero().flatten()
        order = torch.randperm(len(places), generator=generator(seed, purpose, posts.names[user]))
        chosen[places[order[: count(len(places))]]] = True
    return chosen


def switched(old: Pictures, new: Pictures, share: float, seed: int) -> Pictures:
    """What users publish who change to another attack: ``share`` of their pictures come later and carry the new poison.

    Raises:
        InputError: the two are not of the same people, or the share is not between 0 and 1.
    """
    if not torch.equal(old.identities, new.identities) or not 0 <= share <= 1:
        raise InputError(f"switched: share {share}, {len(old)} and {len(new)} pictures; give the same people's")
    later = _some(old, lambda n: round(share * n), seed, "switch")
    return replace(old, pixels=torch.where(later[:, None, None, None], new.pixels, old.pixels))


def leaked(data: Data, posts: Pictures, n: int, seed: int) -> Pictures:
    """What the trainer has of users of whom ``n`` pictures, or all if they have no more, got out without poison.

    Raises:
        InputError: ``n`` is negative.
    """
    if n < 0:
        raise InputError(f"leaked: {n} clean pictures; give 0 or more")
    clean = _some(posts, lambda own: min(n, own), seed, "leak")
    originals = data.to_publish(posts.people).pixels
    return replace(posts, pixels=torch.where(clean[:, None, None, None], originals, posts.pixels))


def among(data: Data, posts: Pictures, people: Sequence[int], users: Sequence[int]) -> tuple[Data, Pictures]:
    """Some users among some of the people: the data without everybody else's pictures, and what these users publish.

    Raises:
        InputError: a user is not among the people.
    """
    if not set(users) <= set(people):
        raise InputError(f"among: users {sorted(set(users) - set(people))} are not among the people; take them in")
    identities, here = data.pictures.identities, torch.tensor(people)
    gallery, probes = (side[torch.isin(identities[side], here)] for side in (data.gallery, data.probes))
    few = replace(data, gallery=gallery, probes=probes, users=tuple(users))
    return few, posts.take(torch.isin(posts.identities, torch.tensor(users)))


def named(result: Protection, user: int) -> list[bool]:
    """For each of a user's clean probes whether the recogniser gave it the right name although the user poisons."""
    right: list[bool] = (~result.poisoned.wrong[result.poisoned.user == user]).tolist()
    return right


def decisions(data: Data, posts: Pictures, extractor: Extractor, user: int) -> list[tuple[str, ...]]:
    """For each clean probe of a user: number, whom it was taken for, that distance, and the one to the user's poison.

    People are numbered, not named: they may be real.
    """
    own = play(data, posts, extractor).poisoned
    asked = own.user == user
    probes = data.probes[own.probe[asked]]
    published = embeddings(extractor, posts.of(user).pixels)
    to_own = torch.cdist(embeddings(extractor, data.pictures.pixels)[probes], published).amin(dim=1)
    answers = zip(own.predicted[asked, 0].tolist(), own.distance[asked, 0].tolist(), to_own.tolist(), strict=True)
    return [
        (str(number), "the user" if who == user else f"person {who}", f"{distance:.2f}", f"{mine:.2f}")
        for number, (who, distance, mine) in enumerate(answers, 1)
    ]


def rivals(data: Data, posts: Pictures, extractor: Extractor, user: int) -> Tensor:
    """For each clean probe of a user three pictures: the probe, the nearest that the user posted, the nearest stranger.

    Returns:
        uint8 (3P, 3, H, W), row by row.
    """
    identities, pixels = data.pictures.identities, data.pictures.pixels
    seen, posted = embeddings(extractor, pixels), posts.of(user).pixels
    probes = data.probes_of(user)
    strangers = data.gallery[identities[data.gallery] != user]
    own = (seen[probes] @ embeddings(extractor, posted).T).argmax(dim=1)
    other = (seen[probes] @ seen[strangers].T).argmax(dim=1)
    return torch.stack([pixels[probes], posted[own], pixels[strangers[other]]], dim=1).flatten(0, 1)
