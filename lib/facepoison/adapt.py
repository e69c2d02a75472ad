"""The adaptive trainer: has the attack too, and trains on pictures that it poisoned itself."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from facepoison import shipped
from facepoison.device import batches
from facepoison.experiment import (
    Preset,
    Progress,
    decided_by,
    find_preset,
    maker,
    poison_each,
    poison_inputs,
    surrogates_of,
)
from facepoison.extractors import Extractor
from facepoison.extractors.catalog import load_extractor
from facepoison.fine_tuning import EndToEnd, fine_tune
from facepoison.pictures import Pictures
from facepoison.poisons.fawkes_v03 import FawkesV03
from facepoison.protocol import Data, Setting, read_protocol
from facepoison.store import Arrays, of_weights, remember, resumable, written_whole

SHARD = 10  # people in one file of poisoned pictures

ROBUST = EndToEnd("robust training", draws=160_000, rate=1e-3, bfloat16=True)
"""As many draws as FaceCure makes (500 steps x 10 epochs x batches of 32), each a person drawn uniformly and then one
of the person's pictures, clean or poisoned; the rest is as in ``fine_tuning.EndToEnd``, which says why, but for the
extractor's rate. End-to-end training takes what clean accuracy bears; that is too little here. The rate was chosen on
20 of the trainer's own people, none of them a user, whose poison was not trained on: rates 1e-4, 5e-4 and 2e-3 (16,000
draws, 80 people poisoned by both attacks) left LowKey protecting 97, 65 and 65 % of their probes, 1e-3 and 3e-3 (40,000
draws, 140 people) 20 and 22 %; nobody's clean pictures were missed."""


def poison_people(
    pixels: Tensor,
    preset: Preset,
    surrogates: Sequence[Extractor],
    folder: Path,
    seed: int,
    report: Callable[[str], None] = print,
    *,
    public: Pictures,
) -> Tensor:
    """Poison the pictures of many people, each person as a user would, in files that a killed run resumes from.

    Args:
        pixels: Clean pictures, uint8 (people, pictures of each, 3, H, W).
        preset: The attack.
        surrogates: What it is made on.
        folder: Where the files go, ``SHARD`` people each, under the key of everything that they depend on.
        seed: Of the poison.
        report: Receives lines on how it goes.
        public: Other people's pictures, for targeted attacks.

    Returns:
        The poisoned pictures, uint8, shaped as ``pixels``.

    Raises:
        InputError: the attack refuses its input, or a file cannot be written.
    """
    attack = maker(preset, surrogates, public, seed)
    shards: list[Tensor] = []
    start, made = time.perf_counter(), 0
    for some in batches(len(pixels), SHARD):
        clean = pixels[some]
        name = f"{preset.name}-{some.start:05}"
        path = resumable(folder, name, ".safetensors", pixels=clean, **decided_by(attack))
        if not path.is_file():
            poisoned = _poison_each(clean, attack, isinstance(preset, FawkesV03))
            with written_whole(path) as scratch:
                save_file({"pixels": poisoned}, scratch)
            made += len(clean)
            left = (time.perf_counter() - start) / made * (len(pixels) - some.stop) / 60
            report(f"{preset.name}: poisoned {some.stop} of {len(pixels)} people, {left:.0f} min left")
        with safe_open(path, "pt") as shard:
            shards.append(shard.get_tensor("pixels"))
    return torch.cat(shards)


def _poison_each(people: Tensor, attack: Callable[[Tensor], Tensor], alone: bool) -> Tensor:
    """Each person's pictures (people, pictures of each, 3, H, W), poisoned, a person ``alone`` or all at once.

    Fawkes v0.3 takes its aim from all pictures of one person. The other attacks look at one picture at a time, so that
    everybody's can share batches: full ones take two thirds of the time of those of four pictures.
    """
    if alone:
        return torch.stack([attack(own) for own in people])
    return attack(people.flatten(0, 1)).view_as(people)


def poison_public(
    setting: Setting,
    attack: str,
    data: Data,
    networks: Mapping[str, Extractor],
    people: int,
    pictures: int,
    progress: Progress | None = None,
) -> tuple[Pictures, Pictures]:
    """What a small robust training learns from: public people, and poison that the trainer made of some of them.

    Args:
        setting: Gives the seed and the surrogates.
        attack: The protocol's name of the attack.
        data: Holds the public people.
        networks: Extractors by name, the surrogates among them.
        people: How many people are poisoned, the first ones.
        pictures: How many pictures of each person are taken, the first ones, or as many as there are.
        progress: Told of every person done.

    Returns:
        All public people's clean pictures, and the poisoned ones, numbered alike.
    """
    clean, some = public_pictures(data, people, pictures)
    kept = shipped.find(public_file(setting, attack), public_inputs(setting, attack, networks, people, pictures))
    pixels, _, _ = poison_each(setting, attack, each_persons_pictures(some), networks, data.public, kept, progress)
    return clean, replace(some, pixels=pixels)


def public_pictures(data: Data, people: int, pictures: int) -> tuple[Pictures, Pictures]:
    """The first pictures of all public people, and those of the first of them, of whom the trainer makes poison."""
    who = data.public.identities
    everybody = range(len(data.public.names))
    clean = data.public.take(torch.cat([(who == each).nonzero().flatten()[:pictures] for each in everybody]))
    return clean, clean.take((clean.identities < people).nonzero().flatten())


def each_persons_pictures(some: Pictures) -> list[Tensor]:
    """Each person's pictures, uint8 (n, 3, H, W)."""
    return [some.of(each).pixels for each in some.identities.unique().tolist()]  # type: ignore[no-untyped-call]


def public_file(setting: Setting, attack: str) -> str:
    """Name of the file of poisoned public pictures that come with the book, without ending."""
    return "-".join(["public", attack, "on", *surrogates_of(setting, find_preset(attack))])


def public_inputs(
    setting: Setting, attack: str, networks: Mapping[str, Extractor], people: int, pictures: int
) -> dict[str, object]:
    """What decides the poison of public people, as the card of what comes with the book names it."""
    known = {"public": read_protocol()["public"], "people": people, "pictures": pictures}
    return poison_inputs(setting, attack, networks) | known


def by_people(pixels: Tensor) -> Pictures:
    """Pictures of numbered people, as many of each: from uint8 (people, pictures of each, 3, H, W)."""
    people = torch.arange(len(pixels)).repeat_interleave(pixels.shape[1])
    return Pictures(pixels.flatten(0, 1), people, tuple(map(str, range(len(pixels)))))


def harden(
    extractor: Extractor,
    clean: Pictures,
    poisons: Mapping[str, Pictures],
    preset: EndToEnd = ROBUST,
    *,
    seed: int,
    scratch: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> Extractor:
    """Train an extractor to see through poison, as FaceCure does: to name public people, poisoned or not.

    Args:
        extractor: Where training starts; it stays as it is.
        clean: The public people's clean pictures.
        poisons: Poisoned pictures by attack, of the same people or some of them, numbered alike; none at all for the
            control, which sees the same people as often and no poison.
        preset: How to train.
        seed: Of head and draws.
        scratch: Folder in which a long training keeps its state, and resumes from it. Without one the store keeps the
            training once it is done.
        report: Receives lines on how it goes.

    Returns:
        The extractor without the head, its weights rounded to half precision as files hold them, named after what it
        has seen; its hash is that of the weights.

    Raises:
        InputError: pictures are wrong, or the extractor has no weights that can be trained.

    Example:
        >>> from dataclasses import replace
        >>> import facepoison as fp
        >>> faces = fp.make_pictures("examples", 2, 2, 64, seed=1)
        >>> extractor = fp.load_extractor("deepid_2014")
        >>> poisoned = replace(faces, pixels=faces.pixels ^ 8)  # a poison that keeps the example short
        >>> short = fp.EndToEnd("two steps", draws=32, batch=16)
        >>> fp.harden(extractor, faces, {"eights": poisoned}, short, seed=1).name
        'deepid_2014 trained on eights'
    """
    parts = [clean, *poisons.values()]
    pixels = torch.cat([part.pixels for part in parts])
    labels = torch.cat([part.identities for part in parts])

    def train() -> Arrays:
        model = fine_tune(extractor, pixels, labels, preset, seed=seed, scratch=scratch, report=report)
        return dict(model.extractor.network.state_dict())

    if scratch is None:
        state = remember(
            "robust",
            train,
            by=[fine_tune, load_extractor],
            extractor=extractor,
            pixels=pixels,
            labels=labels,
            preset=preset,
            seed=seed,
        ).arrays
    else:
        state = train()
    network = copy.deepcopy(extractor.network)
    network.load_state_dict(state)
    network = network.half().float().requires_grad_(False)
    return Extractor(
        network,
        extractor.contract,
        name=f"{extractor.name} trained on {' and '.join(poisons) or 'clean pictures'}",
        sha256=of_weights(network),
    ).to(extractor.mean.device)
