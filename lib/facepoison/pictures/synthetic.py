"""Synthetic faces as ``Pictures``, rendered in batches on any device."""

from __future__ import annotations

from collections.abc import Callable

import torch

from facepoison.device import batches, pick_device
from facepoison.errors import InputError
from facepoison.pictures import Pictures
from syntheticfaces import draw_nuisance, draw_people, render

BATCH = 16  # pictures a batch on a CPU: the tensors of 64 px stay in its cache


def make_pictures(
    population: str,
    n: int,
    per_person: int,
    size: int,
    seed: int,
    *,
    first: int = 0,
    strength: float = 1.0,
    device: torch.device | str = "auto",
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pictures:
    """Render ``per_person`` pictures of each of ``n`` identities.

    Args:
        population: Name of the population; populations share no identity.
        n: How many identities.
        per_person: Pictures of each.
        size: Height and width in pixels, a multiple of 8.
        seed: Seed of people and pictures.
        first: Number of the first identity, to render a population in parts.
        strength: Nuisance strength from 0 to 1.
        device: Where to render: a torch device, its name, or ``"auto"``.
        batch: Pictures at a time; by default what suits the device.
        progress: Called with pictures done and pictures in all after every batch.

    Returns:
        The pictures on the CPU, identity by identity, with names such as ``"training/00017"``.

    Raises:
        InputError: see `draw_people`, `draw_nuisance` and `render`, or an unknown device.

    Example:
        >>> import facepoison as fp
        >>> faces = fp.make_pictures("examples", 4, 3, 32, seed=1)
        >>> faces.pixels.shape
        torch.Size([12, 3, 32, 32])
        >>> faces.names[:2]
        ('examples/00000', 'examples/00001')
    """
    where = pick_device(device) if isinstance(device, str) else device
    if batch is None:
        batch = BATCH if where.type == "cpu" else 512
    if batch < 1:
        raise InputError(f"batch is {batch}: give at least 1")
    people = draw_people(population, first, n, seed).repeat_interleave(per_person, 0)
    nuisance = draw_nuisance(population, first, n, per_person, seed, strength)
    parts = []
    for some in batches(len(people), batch):
        parts.append(render(people[some].to(where), nuisance[some].to(where), size).cpu())
        if progress is not None:
            progress(min(some.stop, len(people)), len(people))
    names = tuple(f"{population}/{i:05d}" for i in range(first, first + n))
    return Pictures(torch.cat(parts), torch.arange(n).repeat_interleave(per_person), names)
