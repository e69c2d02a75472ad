"""Poison of many people: each person's pictures as that person would publish them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from facepoison import store
from facepoison.attacks.base import Attack
from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.extractors.catalog import load_extractor
from facepoison.pictures import Pictures
from facepoison.shards import Pool, Shard, compute

FULL = 32  # pictures in a shard at least: full batches take two thirds of the time of those of four pictures


def shards(people: Pictures, alone: bool) -> Iterator[Pictures]:
    """The pictures cut into parts that are poisoned at a time: whole people, as many as fill a batch, or one alone.

    Raises:
        InputError: somebody's pictures do not lie together.
    """
    owners, counts = torch.unique_consecutive(people.identities, return_counts=True)
    if len(owners.unique()) < len(owners):
        raise InputError("pictures to poison: those of one person do not lie together; sort them by person")
    start = stop = 0
    for count in counts.tolist():
        stop += count
        if alone or stop - start >= FULL:
            yield people.take(torch.arange(start, stop))
            start = stop
    if start < stop:
        yield people.take(torch.arange(start, stop))


def poison(
    attack: Attack, pixels: Tensor, surrogates: Sequence[Extractor], seed: int, public: Pictures | None
) -> store.Arrays:
    """Poisoned pictures, uint8 (N, 3, H, W) under ``"pixels"``, computed here and now."""
    return {"pixels": attack(pixels, surrogates, seed=seed, public=public)}


def _shard_of(
    attack: Attack, pixels: Tensor, surrogates: Sequence[Extractor], *, seed: int, public: Pictures | None = None
) -> Shard:
    """Pictures that are poisoned at a time, as a shard of that work."""
    parts = {"attack": attack, "pixels": pixels, "surrogates": tuple(surrogates), "seed": seed}
    return Shard("poison", poison, parts | {"public": public if attack.targeted else None}, by=(load_extractor,))


def poison_shard(
    attack: Attack, pixels: Tensor, surrogates: Sequence[Extractor], *, seed: int, public: Pictures | None = None
) -> store.Cached:
    """A shard's poisoned pictures, uint8 (N, 3, H, W) under ``"pixels"``, computed once and then cached."""
    return _shard_of(attack, pixels, surrogates, seed=seed, public=public).cached()


def poison_people(
    attack: Attack,
    people: Pictures,
    surrogates: Sequence[Extractor],
    *,
    seed: int,
    public: Pictures | None = None,
    progress: Callable[[int, int], None] | None = None,
    pool: Pool | None = None,
) -> Pictures:
    """What people publish: each person's pictures poisoned as that person would, cached shard by shard.

    An interrupted run goes on with the next shard, and of several processes each makes another one.

    Args:
        attack: Which.
        people: Clean pictures, those of one person together; all that the person publishes, for a targeted attack.
        surrogates: What it is made on: all of those that the attack's original would take.
        seed: Of the attack.
        public: Pictures of other people, for targeted attacks.
        progress: Told of pictures done, and of how many there are.
        pool: Who computes the shards; by default this process, one after the other.

    Returns:
        The poisoned pictures, in the order of the clean ones, with the same people.

    Raises:
        InputError: the attack refuses its input, or the store cannot be written.
    """
    parts = list(shards(people, attack.targeted))
    asked = [_shard_of(attack, part.pixels, surrogates, seed=seed, public=public) for part in parts]
    done = 0

    def tell(place: int) -> None:
        nonlocal done
        done += len(parts[place])
        if progress:
            progress(done, len(people))

    made = [each.arrays["pixels"] for each in compute(asked, pool, tell)]
    return Pictures(torch.cat([people.pixels[:0], *made]), people.identities, people.names)
