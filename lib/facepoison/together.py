"""Two recognisers together: an accurate one, and a robust one for what the accurate one is not to be trusted with.

Robust training costs accuracy; the paper's trainers therefore keep both extractors [blog]. Everything here is worked
out from what either answered to the same probes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.protection import Answers, Protection, rate
from facepoison.protocol import Data, embeddings

Combine = Callable[[Answers, Answers], Answers]


def top_two(accurate: Answers, robust: Answers) -> Answers:
    """Two candidates for each probe, the first of either recogniser: right if one of them is.

    Raises:
        InputError: the two are not about the same probes.
    """
    _check(accurate, robust)
    return Answers(
        accurate.user,
        accurate.probe,
        accurate.true,
        torch.cat([accurate.predicted[:, :1], robust.predicted[:, :1]], dim=1),
        torch.cat([accurate.distance[:, :1], robust.distance[:, :1]], dim=1),
    )


def fall_back(farthest: float) -> Combine:
    """The accurate recogniser's answer, and the robust one's where the accurate one's nearest is further than that.

    Args:
        farthest: Largest distance at which the accurate recogniser is believed.

    Returns:
        A function of both recognisers' answers; it refuses answers to different probes.
    """

    def combine(accurate: Answers, robust: Answers) -> Answers:
        _check(accurate, robust)
        near = accurate.distance[:, :1] <= farthest
        return Answers(
            accurate.user,
            accurate.probe,
            accurate.true,
            torch.where(near, accurate.predicted[:, :1], robust.predicted[:, :1]),
            torch.where(near, accurate.distance[:, :1], robust.distance[:, :1]),
        )

    return combine


def together(accurate: Protection, robust: Protection, combine: Combine) -> Protection:
    """What the protocol gives when both recognisers are asked and their answers combined, with poison and without.

    Raises:
        InputError: the two are not about the same probes.
    """
    poisoned, clean = combine(accurate.poisoned, robust.poisoned), combine(accurate.clean, robust.clean)
    return Protection(rate(poisoned, clean), poisoned, clean)


def believed(share: float, distances: torch.Tensor) -> float:
    """The distance that a share of clean probes stays within: where to put the threshold of ``fall_back``.

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


def others_distances(data: Data, extractor: Extractor) -> torch.Tensor:
    """How far the clean probes of everybody who is no user are from the nearest picture of the clean gallery.

    Float (N,), Euclidean between unit embeddings.
    """
    gallery, _, probes, asked = data.sides(embeddings(extractor, data.pictures.pixels))
    others = ~torch.isin(asked, torch.tensor(data.users))
    return torch.cdist(probes[others], gallery).amin(dim=1)


def _check(accurate: Answers, robust: Answers) -> None:
    """Raise InputError unless two recognisers answered the same probes in the same rounds."""
    same = torch.equal(accurate.user, robust.user) and torch.equal(accurate.probe, robust.probe)
    if not same:
        raise InputError("two recognisers: they were asked about different probes; play both with the same data")
