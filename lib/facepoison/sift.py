"""What a trainer does with pictures that look poisoned: drop them, or have the robust extractor recognise them."""

from __future__ import annotations

import torch
from torch import Tensor

from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.pictures import Pictures
from facepoison.protection import Protection, compared, own_probes
from facepoison.protocol import Data, embeddings
from facepoison.recognition import identity_distances


def sift(
    data: Data,
    posts: Pictures,
    flagged: Tensor,
    flagged_posts: Tensor,
    extractor: Extractor,
    robust: Extractor | None = None,
    *,
    k: int = 1,
) -> Protection:
    """The protocol with a detector in front: every user in turn poisons, everybody else may be flagged by mistake.

    Flagged pictures are dropped, or, where there is a robust extractor, set aside: recognised by that one alone, all
    others by the accurate one alone. A probe goes to whose picture is nearest in either; so that distances of two
    extractors can be compared, each is divided by the extractor's median distance between clean probes and the nearest
    clean picture of the same person. Somebody all of whose pictures are dropped is never recognised.

    Args:
        data: Pictures, gallery, probes and users.
        posts: What the users publish instead of their gallery pictures.
        flagged: Which of all clean pictures look poisoned, bool (N,).
        flagged_posts: Which of the published ones do, bool (M,).
        extractor: The trainer's accurate one.
        robust: For pictures set aside; None drops them.
        k: An answer is right if the true identity is among the ``k`` nearest.

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
    identities, n = data.pictures.identities, len(data.pictures.names)
    owner, users = posts.identities, posts.people
    own = own_probes(identities[data.probes], users)
    asked = torch.cat(own)
    before = torch.full((len(asked), n), torch.inf)
    rounds = torch.full((len(asked),), torch.inf)  # of each probe to its user's published pictures
    for network, aside in ((extractor, False), (robust, True)):
        if network is None:
            continue
        clean, published = embeddings(network, data.pictures.pixels), embeddings(network, posts.pixels)
        probes, gallery = clean[data.probes], clean[data.gallery]
        unit = float(_nearest_own(gallery, identities[data.gallery], probes, identities[data.probes]).median())
        kept = flagged[data.gallery] == aside
        if bool(kept.any()):
            near = identity_distances(gallery[kept], identities[data.gallery][kept], probes[asked], n)
            before = torch.minimum(before, near / unit)
        start = 0
        for user, places in zip(users, own, strict=True):
            mine = published[(owner == user) & (flagged_posts == aside)]
            rows = slice(start, start + len(places))
            if len(mine):
                near = (
                    identity_distances(mine, torch.zeros(len(mine), dtype=torch.int64), probes[places], 1)[:, 0] / unit
                )
                rounds[rows] = torch.minimum(rounds[rows], near)
            start = rows.stop
    after = before.clone()
    whose = torch.cat([torch.full((len(places),), user) for user, places in zip(users, own, strict=True)])
    after[torch.arange(len(asked)), whose] = rounds
    return compared(users, own, before, after, k=k)


def _nearest_own(gallery: Tensor, labels: Tensor, probes: Tensor, who: Tensor) -> Tensor:
    """How far each probe is from the nearest gallery picture of the same person, float (P,)."""
    far = torch.cdist(probes, gallery)
    return far.masked_fill(who[:, None] != labels, torch.inf).amin(dim=1)
