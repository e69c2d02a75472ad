"""Who poisons, and which pictures teach the recogniser and which question it."""

from __future__ import annotations

import torch
from torch import Tensor

from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.pictures import Pictures


def split(pictures: Pictures, seed: int, share: float = 0.7) -> tuple[Tensor, Tensor]:
    """Divide each identity's pictures into gallery and probes.

    Each identity draws from a stream named by its name: its division does not change when others come, go or are
    listed in another order.

    Args:
        pictures: At least two pictures of everyone in them.
        seed: Of the division.
        share: Share of each identity's pictures that goes to the gallery, between 0 and 1; rounded, but at least one
            picture stays on either side.

    Returns:
        Places of gallery and probes in ``pictures``, int64, ascending.

    Raises:
        InputError: the share is not between 0 and 1, or somebody has one picture only.
    """
    if not 0 < share < 1:
        raise InputError(f"share {share}: must lie between 0 and 1; the protocol's is 0.7")
    gallery, probes = [], []
    for identity in sorted(set(pictures.identities.tolist())):
        places = (pictures.identities == identity).nonzero().flatten().cpu()
        if len(places) < 2:
            raise InputError(f"identity '{pictures.names[identity]}': one picture only; add another or leave it out")
        order = torch.randperm(len(places), generator=generator(seed, "split", pictures.names[identity]))
        taken = min(max(int(share * len(places) + 0.5), 1), len(places) - 1)
        gallery.append(places[order[:taken]])
        probes.append(places[order[taken:]])
    if not gallery:
        raise InputError("pictures: none to split; give some")
    return torch.cat(gallery).sort().values, torch.cat(probes).sort().values


def first_users(pictures: Pictures, n: int, seed: int) -> tuple[int, ...]:
    """The first ``n`` identities in an order drawn by seed and name: the users of an experiment, none dropped.

    Raises:
        InputError: there are fewer identities than that.
    """
    present: list[int] = sorted(set(pictures.identities.tolist()))
    if not 1 <= n <= len(present):
        raise InputError(f"users: {n} asked for, {len(present)} identities there; ask for 1 to {len(present)}")
    draw = {who: torch.rand((), generator=generator(seed, "users", pictures.names[who])).item() for who in present}
    return tuple(sorted(present, key=lambda who: (draw[who], who))[:n])
