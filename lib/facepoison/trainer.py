"""The trainer's answers to poison: quarantine what looks poisoned, and ask a robust extractor beside the accurate one.

Robust training costs accuracy; the paper's trainers therefore keep both extractors [blog].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from facepoison.errors import InputError
from facepoison.evaluation import Answers, Protection
from facepoison.extractors import Extractor
from facepoison.game import compared, own_probes
from facepoison.pictures import Pictures
from facepoison.protocol import Data, embeddings
from facepoison.recognition import identity_distances


def quarantine(
    data: Data,
    posts: Pictures,
    flagged: Tensor,
    flagged_posts: Tensor,
    extractor: Extractor,
    robust: Extractor | None = None,
) -> Protection:
    """The game with a detector in front: every user in turn poisons, everybody else may be flagged by mistake.

    Flagged pictures are dropped, or, where there is a robust extractor, quarantined: recognised by that one alone, all
    others by the accurate one alone. A probe goes to whose picture is nearest in either; so that distances of two
    extractors can be compared, each is divided by the extractor's median distance between clean probes and the nearest
    clean picture of the same person. Somebody all of whose pictures are dropped is never recognised.

    Args:
        data: Pictures, gallery, probes and users.
        posts: What the users publish instead of their gallery pictures.
        flagged: Which of all clean pictures look poisoned, bool (N,).
        flagged_posts: Which of the published ones do, bool (M,).
        extractor: The trainer's accurate one.
        robust: For pictures in quarantine; None drops them.

    Returns:
        The outcome; its clean round has the detector too, and so its clean error holds what all others pay.

    Raises:
        InputError: flags do not fit the pictures.
    """
    if flagged.shape != (len(data.pictures),) or flagged_posts.shape != (len(posts),):
        raise InputError(
            f"flags: {tuple(flagged.shape)} of {len(data.pictures)} pictures, {tuple(flagged_posts.shape)} of "
            f"{len(posts)} published; give one each"
        )
    n, owner, users = len(data.pictures.names), posts.identities, posts.people
    own = own_probes(data.pictures.identities[data.probes], users)
    asked = torch.cat(own)
    before = torch.full((len(asked), n), torch.inf)
    rounds = torch.full((len(asked),), torch.inf)  # of each probe to its user's published pictures
    for network, quarantined in ((extractor, False), (robust, True)):
        if network is None:
            continue
        published = embeddings(network, posts.pixels)
        gallery, labels, probes, who = data.sides(embeddings(network, data.pictures.pixels))
        to_own = torch.cdist(probes, gallery).masked_fill(who[:, None] != labels, torch.inf).amin(dim=1)
        unit = float(to_own.median())
        some = flagged[data.gallery] == quarantined
        if bool(some.any()):
            near = identity_distances(gallery[some], labels[some], probes[asked], n)
            before = torch.minimum(before, near / unit)
        start = 0
        for user, places in zip(users, own, strict=True):
            mine = published[(owner == user) & (flagged_posts == quarantined)]
            rows = slice(start, start + len(places))
            if len(mine):
                zeros = torch.zeros(len(mine), dtype=torch.int64)
                near = identity_distances(mine, zeros, probes[places], 1)[:, 0]
                rounds[rows] = torch.minimum(rounds[rows], near / unit)
            start = rows.stop
    after = before.clone()
    whose = torch.cat([torch.full((len(places),), user) for user, places in zip(users, own, strict=True)])
    after[torch.arange(len(asked)), whose] = rounds
    return compared(users, own, before, after)


def top_two(accurate: Protection, robust: Protection) -> Protection:
    """Two candidates for each probe, the first of either recogniser: right if one of them is.

    Raises:
        InputError: the two are not about the same probes.
    """

    def first_of_either(one: Answers, other: Answers) -> Answers:
        predicted = torch.cat([one.predicted[:, :1], other.predicted[:, :1]], dim=1)
        distance = torch.cat([one.distance[:, :1], other.distance[:, :1]], dim=1)
        return replace(one, predicted=predicted, distance=distance, k=2)

    return _both(accurate, robust, first_of_either)


def cascade(accurate: Protection, robust: Protection, farthest: float) -> Protection:
    """The accurate recogniser's answer, and the robust one's where the accurate one's nearest is further than that.

    Args:
        accurate: Asked first.
        robust: Asked about the rest.
        farthest: Largest distance at which the accurate recogniser is believed; see ``believed``.

    Raises:
        InputError: the two are not about the same probes.
    """

    def nearer(one: Answers, other: Answers) -> Answers:
        near = one.distance[:, :1] <= farthest
        predicted = torch.where(near, one.predicted[:, :1], other.predicted[:, :1])
        return replace(one, predicted=predicted, distance=torch.where(near, one.distance[:, :1], other.distance[:, :1]))

    return _both(accurate, robust, nearer)


def _both(accurate: Protection, robust: Protection, combine: Callable[[Answers, Answers], Answers]) -> Protection:
    """Two recognisers' answers combined, with poison and without."""
    pairs = (accurate.poisoned, robust.poisoned), (accurate.clean, robust.clean)
    if not all(torch.equal(one.user, other.user) and torch.equal(one.probe, other.probe) for one, other in pairs):
        raise InputError("two recognisers: they were asked about different probes; play both with the same data")
    poisoned, clean = (combine(*pair) for pair in pairs)
    return Protection(poisoned, clean)


def believed(share: float, distances: Tensor) -> float:
    """The distance that a share of clean probes stays within: where to put the threshold of ``cascade``.

    Args:
        share: Of the probes that the accurate recogniser is to answer, 0 to 1.
        distances: To the nearest picture of the gallery, float (N,), of clean probes of people who are no users.

    Raises:
        InputError: the share is no share, or there are no distances.
    """
    if not 0 <= share <= 1 or not len(distances):
        raise InputError(f"threshold: share {share} of {len(distances)} distances; give 0 to 1, and at least one")
    n = math.ceil(share * len(distances))
    return float(distances.kthvalue(n).values) if n else -1.0


def others_distances(data: Data, extractor: Extractor) -> Tensor:
    """How far the clean probes of everybody who is no user are from the nearest picture of the clean gallery.

    Float (N,), Euclidean between unit embeddings.
    """
    gallery, _, probes, asked = data.sides(embeddings(extractor, data.pictures.pixels))
    others = ~torch.isin(asked, torch.tensor(data.users))
    return torch.cdist(probes[others], gallery).amin(dim=1)
