"""The static game, played: each user in turn poisons the whole gallery, and the recogniser is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from facepoison import store
from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.extractors.catalog import load_extractor
from facepoison.poisons.fawkes import FAWKES_V1_HIGH, fawkes_v1
from facepoison.poisons.lowkey import LOWKEY, lowkey
from facepoison.protection import Protection, protection
from facepoison.protocol import Data, Setting, embeddings

Progress = Callable[[int, int], None]

PRESETS = {"fawkes_v1_high": FAWKES_V1_HIGH, "lowkey": LOWKEY}
"""Attacks by the name that the protocol gives them."""

ATTACKS = {"fawkes_v1_high": partial(fawkes_v1, preset=FAWKES_V1_HIGH), "lowkey": partial(lowkey, preset=LOWKEY)}


@dataclass(frozen=True)
class Poisoned:
    """What the users of one attack publish.

    Attributes:
        index: Places of the poisoned pictures in the data set, int64, shape (M,).
        pixels: The poisoned pictures, uint8, shape (M, 3, H, W).
        users: Who poisoned them.
        seconds: Seconds that making them took, whenever that was.
    """

    index: Tensor
    pixels: Tensor
    users: tuple[int, ...]
    seconds: float


def poison(setting: Setting, attack: str, pixels: Tensor, surrogates: Sequence[Extractor]) -> store.Kept:
    """Poisoned pictures, uint8 (N, 3, H, W) under ``"pixels"``, computed once and then kept.

    Raises:
        InputError: there is no attack of that name.
    """
    if attack not in ATTACKS:
        raise InputError(f"attack '{attack}' is unknown: use one of {', '.join(ATTACKS)}")
    return store.remember(
        "poison",
        lambda: {"pixels": ATTACKS[attack](pixels, surrogates, seed=setting.seed)},
        by=[ATTACKS[attack].func, load_extractor],
        attack=attack,
        preset=PRESETS[attack],
        pixels=pixels,
        surrogates=[surrogate.sha256 for surrogate in surrogates],
        seed=setting.seed,
    )


def poison_users(
    setting: Setting,
    attack: str,
    data: Data,
    surrogates: Sequence[Extractor],
    progress: Progress | None = None,
) -> Poisoned:
    """Poison all gallery pictures of every user; an interrupted run goes on with the next user."""
    parts: list[store.Kept] = []
    index = [data.gallery_of(user) for user in data.users]
    for own in index:
        parts.append(poison(setting, attack, data.pictures.pixels[own], surrogates))
        if progress:
            progress(len(parts), len(index))
    pixels = torch.cat([part.arrays["pixels"] for part in parts])
    return Poisoned(torch.cat(index), pixels, data.users, sum(part.seconds for part in parts))


def play(data: Data, poisoned: Poisoned, extractor: Extractor, k: int = 1) -> Protection:
    """A round for each user: that user's gallery pictures poisoned, everybody else's clean, the user's probes asked.

    Args:
        data: Pictures, gallery, probes and users.
        poisoned: What the users publish instead of their gallery pictures.
        extractor: The trainer's.
        k: An answer is right if the true identity is among the ``k`` nearest.
    """
    clean = embeddings(extractor, data.pictures.pixels)
    published = embeddings(extractor, poisoned.pixels)
    owner = data.pictures.identities[poisoned.index]
    return protection(*data.sides(clean), {user: published[owner == user] for user in poisoned.users}, k=k)


def carried_over(data: Data, poisoned: Poisoned, extractor: Extractor) -> Tensor:
    """Cosine between each poisoned picture and the picture that it was made from, float32 (M,): 1 where nothing moved.

    On a surrogate this is what the attack pushes down; on another extractor, what of that carries over.
    """
    clean = embeddings(extractor, data.pictures.pixels)[poisoned.index]
    return (clean * embeddings(extractor, poisoned.pixels)).sum(dim=1)
