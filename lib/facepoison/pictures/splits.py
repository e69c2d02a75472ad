"""Who poisons, and which pictures are the gallery and which the probes."""

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

    Example:
        >>> import facepoison as fp
        >>> faces = fp.make_pictures("examples", 4, 5, 32, seed=1)
        >>> gallery, probes = fp.split(faces, seed=1)
        >>> len(gallery), len(probes)
        (16, 4)
        >>> faces.identities[probes].tolist()
        [0, 1, 2, 3]
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
    order = _order(pictures, seed)
    if not 1 <= n <= len(order):
        raise InputError(f"users: {n} asked for, {len(order)} identities there; ask for 1 to {len(order)}")
    return tuple(order[:n])


def hold_out(pictures: Pictures, share: float, seed: int) -> tuple[Pictures, Pictures]:
    """Part the last identities of the order that ``first_users`` counts from; at least two stay on either side.

    Args:
        pictures: At least four identities.
        share: Share of the identities to hold out, between 0 and 1, rounded.
        seed: Of the order.

    Returns:
        The rest and those held out, each with identities numbered anew in the order of their old numbers.

    Raises:
        InputError: the share is not between 0 and 1, or there are fewer than four identities.
    """
    order = _order(pictures, seed)
    if not 0 < share < 1 or len(order) < 4:
        raise InputError(
            f"pictures of {len(order)} identities, share {share} to hold out: give at least 4, and a share"
        )
    parted = min(max(round(share * len(order)), 2), len(order) - 2)
    return _only(pictures, sorted(order[:-parted])), _only(pictures, sorted(order[-parted:]))


def _order(pictures: Pictures, seed: int) -> list[int]:
    """All identities in an order drawn by seed and name."""
    present: list[int] = sorted(set(pictures.identities.tolist()))
    draw = {who: torch.rand((), generator=generator(seed, "users", pictures.names[who])).item() for who in present}
    return sorted(present, key=lambda who: (draw[who], who))


def _only(pictures: Pictures, identities: list[int]) -> Pictures:
    """The pictures of some identities, numbered anew."""
    kept = torch.isin(pictures.identities, torch.tensor(identities))
    number = torch.zeros(len(pictures.names), dtype=torch.int64)
    number[identities] = torch.arange(len(identities))
    names = tuple(pictures.names[who] for who in identities)
    return Pictures(pictures.pixels[kept], number[pictures.identities[kept]], names)
