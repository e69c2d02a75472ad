"""Detection of poisoned photographs of real people, framed as they will be asked about: numbers only."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from facepoison import detect, shipped
from facepoison.attacks.presets import find_attack, title_of
from facepoison.baselines import Classifier, train_baseline
from facepoison.detect import NETWORK, RESIDUAL, Detector, DetectorRecipe
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.outcomes import Key
from facepoison.pictures import Pictures
from facepoison.pictures.framing import FRAMINGS, frame_at_random
from facepoison.pictures.splits import first_users
from facepoison.pictures.transforms import TRANSFORMATIONS
from facepoison.protocol import Data
from studies.common import RealPeople, Run, keep, poisoned, script
from studies.detecting import BASELINES, NON_POISONING, SHIPPED, scores_of, train_on
from studies.photographs import posts_of

AS_POSTED, UNTRANSFORMED = next(iter(FRAMINGS)), next(iter(TRANSFORMATIONS))
SYNTHETIC, CARRIED, PHOTOGRAPHS = "synthetic faces", "synthetic faces, then photographs", "photographs"
"""What networks were trained on."""


def detecting(run: Run, found: RealPeople) -> None:
    """What detectors say of users' clean photographs and of what they post: ``photographs_detecting``.

    Scores, one for each picture, by detector, framing or transformation, and set. Sets are what users post, their clean
    pictures, all of them, and those that thresholds are set on; who is on their pictures stands under ``person``, and
    which pictures these are under ``picture``. Transformations befall what is posted as it is, one of them every
    framing: ``FRAMING, TRANSFORMATION``.
    """
    began, asked = shipped.begin(), run.setting.protocol["photographs_detecting"]
    data = found.data
    known, limits = roles(data, asked["trained_on"], found.setting.seed)
    told = training_poisons(run, found, known, asked)
    clean = Posted.of(found, places_of(data.pictures, known))
    plans = plans_of(tuple(told), asked["draws"])
    framed = views_of(clean, told, asked["views"], run.setting.seed)
    networks = trained(run, (clean.sources[1], {name: each.sources[1] for name, each in told.items()}), framed, plans)
    baselines = plain(framed, run.setting.seed)
    own = torch.cat([data.gallery_of(user) for user in data.users])
    sets = {
        NON_POISONING: Posted.of(found, places_of(data.pictures, data.users)),
        "thresholds": Posted.of(found, places_of(data.pictures, limits)),
    }
    posts = posts_of(run, found, asked["attacks"])
    sets |= {name: Posted.of(found, own, each.pixels) for name, each in posts.items()}
    arrays: dict[Key, Tensor] = {}
    for name, each in sets.items():
        arrays |= {("person", name): data.pictures.identities[each.places], ("picture", name): each.places}
    few = (UNTRANSFORMED, asked["transformed"])
    some = [network for network, plan in zip(networks, plans, strict=True) if plan.after_all]
    others = [network for network, plan in zip(networks, plans, strict=True) if not plan.after_all]
    arrays |= ask(run, [*_shipped(), *some], sets, tuple(TRANSFORMATIONS), few, baselines)
    arrays |= ask(run, others, sets, few, few[:1])
    inputs = found.said | asked
    inputs |= {"people trained on": len(known), "people that thresholds are set on": len(limits)}
    keep(run, "photographs_detecting", arrays, inputs, began)


def roles(data: Data, share: float, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the crowd, drawn by seed, those whose pictures detectors are trained on and those that thresholds are set on.

    Args:
        data: The people; users are in neither role.
        share: Of the crowd that is trained on, between 0 and 1.
        seed: Of the order.

    Raises:
        InputError: either would be nobody.
    """
    everybody = first_users(data.pictures, len(data.pictures.names), seed)
    crowd = tuple(who for who in everybody if who not in data.users)
    first = round(share * len(crowd))
    if not 0 < first < len(crowd):
        raise InputError(f"trained_on {share}: {first} of the crowd's {len(crowd)} people; leave some in either role")
    return crowd[:first], crowd[first:]


def places_of(pictures: Pictures, people: Sequence[int], count: int | None = None) -> Tensor:
    """Places of people's pictures, by default all, else the first so many, int64, person by person."""
    return torch.cat([(pictures.identities == who).nonzero().flatten()[:count] for who in people])


@dataclass(frozen=True)
class Posted:
    """Pictures as they are posted, and what it takes to frame them otherwise.

    Attributes:
        places: Of the clean pictures among all, int64 (N,).
        sources: What a framing takes: clean crops, what is posted of them, chips, matrices.
    """

    places: Tensor
    sources: tuple[Tensor, Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, found: RealPeople, places: Tensor, posted: Tensor | None = None) -> Posted:
        """The pictures at some places, posted as they are or as given.

        Raises:
            InputError: the people have no chips.
        """
        if found.chips is None:
            raise InputError("photographs: no chips were cut out of them: read them as the other studies on crowds do")
        clean, (chips, matrices) = found.data.pictures.pixels[places], found.chips
        return cls(places, (clean, clean if posted is None else posted, chips[places], matrices[places]))

    def views(self, times: int, seed: int, name: str) -> Tensor:
        """Every picture framed at random so many times, uint8 (N * times, 3, 112, 112); a stream for each name."""
        stream = generator(seed, "framed", name)
        return torch.cat([frame_at_random(*self.sources, stream) for _ in range(times)])


def training_poisons(run: Run, found: RealPeople, known: Sequence[int], asked: Mapping[str, Any]) -> dict[str, Posted]:
    """By attack the poison that detectors are trained on, made on the trainer's surrogates.

    Of everybody trained on the first pictures; other people that a cloak takes a face from are trained on as well.
    """
    pictures, made = found.data.pictures, {}
    setting = replace(found.setting, surrogates=tuple(asked["surrogates"]))
    public = pictures.take(places_of(pictures, known))
    for name, count in asked["poisoned"].items():
        places = places_of(pictures, known, count)
        title = f"{title_of(name)}, to train on"
        poison = poisoned(run, find_attack(name), pictures.take(places), setting, found.extractors, public, title)
        made[name] = Posted.of(found, places, poison.pixels)
    return made


@dataclass(frozen=True)
class FramedPlan:
    """How a detector is trained.

    Attributes:
        recipe: By which.
        attacks: That it meets.
        start: File of the network that it goes on from; None for one that starts from nothing.
        framed: Whether it meets pictures framed at random, and not only as posted.
        after_all: Whether it is asked after every transformation.
    """

    recipe: DetectorRecipe
    attacks: tuple[str, ...]
    start: str | None = None
    framed: bool = True
    after_all: bool = True


def plans_of(attacks: tuple[str, ...], draws: int) -> list[FramedPlan]:
    """Networks on pictures and on residuals, from nothing and going on from synthetic faces, and variants of one.

    The variants are of the network on residuals from nothing: for each attack one that has not met it, and one that
    has met pictures as posted only. Networks that know synthetic faces have met every attack.
    """

    def recipe(like: DetectorRecipe, name: str) -> DetectorRecipe:
        return replace(like, name=f"{like.name}, {name}", draws=draws)

    plans = []
    for like in (NETWORK, RESIDUAL):
        plans.append(FramedPlan(recipe(like, PHOTOGRAPHS), attacks))
        plans.append(FramedPlan(recipe(like, CARRIED), attacks, SHIPPED[like.name]))
    for own in attacks:
        others = tuple(each for each in attacks if each != own)
        plans.append(FramedPlan(recipe(RESIDUAL, f"all but {title_of(own)}"), others, after_all=False))
    return [*plans, FramedPlan(recipe(RESIDUAL, f"{AS_POSTED} only"), attacks, framed=False, after_all=False)]


Material = tuple[Tensor, dict[str, Tensor]]
"""What detectors are trained on: clean pictures, and by attack poisoned ones."""


def views_of(clean: Posted, told: Mapping[str, Posted], times: int, seed: int) -> Material:
    """All pictures framed at random so many times.

    That is done before training, not anew whenever a picture is drawn: as there are about as many views of clean
    pictures as are drawn, one is hardly met twice.
    """
    return clean.views(times, seed, "clean"), {name: each.views(times, seed, name) for name, each in told.items()}


def trained(run: Run, as_posted: Material, framed: Material, plans: Sequence[FramedPlan]) -> list[Detector]:
    """Networks by plans; each training resumes from a file under ``run.scratch``."""
    made = []
    for plan in plans:
        clean, poisons = framed if plan.framed else as_posted
        start = detect.load_detector(plan.start) if plan.start else None
        made.append(train_on(run, plan.recipe, clean, {name: poisons[name] for name in plan.attacks}, start))
        run.say(f"{plan.recipe.name}: trained")
    return made


def plain(framed: Material, seed: int) -> dict[str, Classifier]:
    """Baselines, trained on the same views, each taken once."""
    how = {"transformed": NETWORK.transformed, "times": 1, "seed": seed}
    return {kind: train_baseline(kind, *framed, **how) for kind in BASELINES}  # type: ignore[arg-type]


def _shipped() -> list[Detector]:
    """The networks that come with the book, trained on synthetic faces."""
    networks = [detect.load_detector(file) for file in SHIPPED.values()]
    for network, name in zip(networks, SHIPPED, strict=True):
        network.name = f"{name}, {SYNTHETIC}"
    return networks


def ask(
    run: Run,
    networks: Sequence[Detector],
    sets: Mapping[str, Posted],
    transformations: Sequence[str],
    in_framings: Sequence[str],
    baselines: Mapping[str, Classifier] | None = None,
) -> dict[Key, Tensor]:
    """Scores (pictures,) by detector, framing or transformation, and set, computed shard by shard.

    Args:
        run: Told how it goes.
        networks: Asked, under their names.
        sets: What they are asked about.
        transformations: What befalls pictures as posted.
        in_framings: What befalls them in every other framing.
        baselines: Asked besides.
    """
    found: dict[Key, Tensor] = {}
    for framing, frame in FRAMINGS.items():
        after = transformations if framing == AS_POSTED else in_framings
        for name, each in sets.items():  # one by one: enlarged pictures are large
            made = scores_of(run, networks, {name: frame(*each.sources)}, after, baselines)
            found |= {(who, named(framing, what), name): values for (who, what, _), values in made.items()}
            run.say(f"{name}, {framing}: asked about")
    return found


def named(framing: str, transformation: str) -> str:
    """What pictures come as, in a key: a transformation of pictures as posted, another framing, or both."""
    if framing == AS_POSTED:
        return transformation
    return framing if transformation == UNTRANSFORMED else f"{framing}, {transformation}"


if __name__ == "__main__":
    sys.exit(script(__doc__, [], on_crowds=[detecting]))
