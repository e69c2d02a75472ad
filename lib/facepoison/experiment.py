"""The static game, played: each user in turn poisons the whole gallery, and the recogniser is asked for clean probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from facepoison import protocol, store
from facepoison.errors import InputError
from facepoison.extractors import Extractor, embed
from facepoison.extractors.catalog import load_extractor
from facepoison.pictures import Pictures
from facepoison.poisons.fawkes import FAWKES_V1_HIGH, fawkes_v1
from facepoison.poisons.lowkey import LOWKEY, lowkey
from facepoison.poisons.similarity import dssim, largest_change, mean_change, psnr

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
        seconds: Seconds that making them took, whenever that was.
    """

    index: Tensor
    pixels: Tensor
    seconds: float


def poison(setting: protocol.Setting, attack: str, pixels: Tensor, surrogates: Sequence[Extractor]) -> store.Kept:
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
        preset=PRESETS[attack],
        pixels=pixels,
        surrogates=[surrogate.sha256 for surrogate in surrogates],
        seed=setting.seed,
    )


def poison_users(
    setting: protocol.Setting,
    attack: str,
    pictures: Pictures,
    gallery: Tensor,
    users: Sequence[int],
    surrogates: Sequence[Extractor],
    progress: Progress | None = None,
) -> Poisoned:
    """Poison all gallery pictures of every user; an interrupted run goes on with the next user."""
    parts: list[store.Kept] = []
    index = [gallery[pictures.identities[gallery] == user] for user in users]
    for number, own in enumerate(index):
        parts.append(poison(setting, attack, pictures.pixels[own], surrogates))
        if progress:
            progress(number + 1, len(users))
    pixels = torch.cat([part.arrays["pixels"] for part in parts])
    return Poisoned(torch.cat(index), pixels, sum(part.seconds for part in parts))
