"""The adaptive trainer: has the attack too, and trains on pictures that it poisoned itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from facepoison import shipped
from facepoison.attacks.base import Attack, Progress
from facepoison.extractors import Extractor
from facepoison.extractors.catalog import load_extractor
from facepoison.fine_tuning import EndToEnd, fine_tune
from facepoison.pictures import Pictures
from facepoison.poisoning import live_and_shipped, poison_inputs, surrogates_of
from facepoison.protocol import Data, Setting
from facepoison.store import Arrays, cached, of_weights

ROBUST = EndToEnd("robust training", draws=160_000, rate=1e-3, bfloat16=True)
"""As many draws as FaceCure makes (500 steps x 10 epochs x batches of 32), each a person drawn uniformly and then one
of the person's pictures, clean or poisoned; the rest is as in ``fine_tuning.EndToEnd``, which says why, but for the
extractor's rate. End-to-end training takes what clean accuracy bears; that is too little here. The rate was chosen on
20 of the trainer's own people, none of them a user, whose poison was not trained on: rates 1e-4, 5e-4 and 2e-3 (16,000
draws, 80 people poisoned by both attacks) left LowKey protecting 97, 65 and 65 % of their probes, 1e-3 and 3e-3 (40,000
draws, 140 people) 20 and 22 %; nobody's clean pictures were missed."""


def poison_public(
    setting: Setting,
    attack: Attack,
    data: Data,
    networks: Mapping[str, Extractor],
    people: int,
    pictures: int,
    progress: Progress | None = None,
) -> tuple[Pictures, Pictures]:
    """What a small robust training learns from: public people, and poison that the trainer made of some of them.

    Args:
        setting: Gives the seed and the surrogates.
        attack: Which.
        data: Holds the public people.
        networks: Extractors by name, the surrogates among them.
        people: How many people are poisoned, the first ones.
        pictures: How many pictures of each person are taken, the first ones, or as many as there are.
        progress: Told of pictures done.

    Returns:
        All public people's clean pictures, and the poisoned ones, numbered alike.
    """
    clean, some = public_pictures(data, people, pictures)
    found = shipped.find(public_file(setting, attack), public_inputs(setting, attack, networks, people, pictures))
    return clean, live_and_shipped(setting, attack, some, networks, data.public, found, progress)


def public_pictures(data: Data, people: int, pictures: int) -> tuple[Pictures, Pictures]:
    """The first pictures of all public people, and those of the first of them, of whom the trainer makes poison."""
    who = data.public.identities
    everybody = range(len(data.public.names))
    clean = data.public.take(torch.cat([(who == each).nonzero().flatten()[:pictures] for each in everybody]))
    return clean, clean.take((clean.identities < people).nonzero().flatten())


def public_file(setting: Setting, attack: Attack) -> str:
    """Name of the file of poisoned public pictures that come with the book, without ending."""
    return "-".join(["public", attack.name, "on", *surrogates_of(setting, attack)])


def public_inputs(
    setting: Setting, attack: Attack, networks: Mapping[str, Extractor], people: int, pictures: int
) -> dict[str, object]:
    """What decides the poison of public people, as the card of what comes with the book names it."""
    known = {"public": setting.protocol["public"], "people": people, "pictures": pictures}
    return poison_inputs(setting, attack, networks) | known


def by_people(pixels: Tensor) -> Pictures:
    """Pictures of numbered people, as many of each: from uint8 (people, pictures of each, 3, H, W)."""
    people = torch.arange(len(pixels)).repeat_interleave(pixels.shape[1])
    return Pictures(pixels.flatten(0, 1), people, tuple(map(str, range(len(pixels)))))


def adversarial_fine_tuning(
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
        >>> fp.adversarial_fine_tuning(extractor, faces, {"eights": poisoned}, short, seed=1).name
        'deepid_2014 trained on eights'
    """
    seen = [clean, *poisons.values()]
    pixels = torch.cat([each.pixels for each in seen])
    labels = torch.cat([each.identities for each in seen])

    def train() -> Arrays:
        model = fine_tune(extractor, pixels, labels, preset, seed=seed, scratch=scratch, report=report)
        return dict(model.extractor.network.state_dict())

    if scratch is None:
        parts = {"extractor": extractor, "pixels": pixels, "labels": labels, "preset": preset, "seed": seed}
        state = cached("robust", train, by=[fine_tune, load_extractor], **parts).arrays
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
