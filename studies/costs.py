"""What the trainer's answers to poison cost people who do not poison: clean pictures alone, and many of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from facepoison import detect, game, outcomes, shipped
from facepoison.evaluation import Answers, Protection, rate
from facepoison.extractors import Extractor
from facepoison.extractors.catalog import load_extractor
from facepoison.outcomes import Key, read_outcomes
from facepoison.pictures import Pictures
from facepoison.pictures.splits import split
from facepoison.protocol import Data, Setting, load_data, synthetic_people
from facepoison.trainer import believed, cascade, others_distances, quarantine, top_two
from studies.common import Run, keep, script
from studies.detecting import scored

Answer = Callable[[Data], Answers]


def galleries(setting: Setting, asked: Mapping[str, Any]) -> list[Data]:
    """The people of the protocol's ``costs``, cut into galleries, everybody a user who poisons nothing."""
    whole = synthetic_people(setting, "costs", *asked["people"])
    people = asked["people"][0] // asked["galleries"]
    public, found = load_data(setting).public, []
    for first in range(0, asked["people"][0], people):
        own = whole.take(((whole.identities >= first) & (whole.identities < first + people)).nonzero().flatten())
        pictures = replace(own, identities=own.identities - first, names=own.names[first : first + people])
        gallery, probes = split(pictures, setting.seed, setting.gallery_share)
        found.append(Data(pictures, gallery, probes, tuple(range(people)), {}, public))
    return found


def unpoisoned(data: Data) -> Pictures:
    """What users publish who poison nothing: their gallery pictures as they are."""
    return data.to_publish(data.users)


def alone(data: Data, extractor: Extractor) -> Protection:
    """A gallery before one extractor, 1-NN."""
    return game.play(data, unpoisoned(data), extractor)


def joined(parts: list[Answers]) -> Answers:
    """The answers of several galleries as of one: everybody keeps a number of their own."""
    step = 1 + max(int(part.user.max()) for part in parts)
    rows = [
        (part.user + place * step, part.probe, part.true, part.predicted[:, : part.k], part.distance[:, : part.k])
        for place, part in enumerate(parts)
    ]
    user, probe, true, predicted, distance = map(torch.cat, zip(*rows, strict=True))
    return Answers(user, probe, true, predicted, distance, parts[0].k)


def ways(asked: Mapping[str, Any]) -> dict[str, Answer]:
    """The trainer's answers to poison by what tables call them, each as what it says of a clean gallery."""
    networks = {name: load_extractor(name) for name in (asked["accurate"], *asked["robust"])}
    accurate, robust = networks[asked["accurate"]], networks[asked["both"]]
    own = read_outcomes("detecting").arrays[detect.NETWORK.name, "untransformed", "thresholds"]
    limit = detect.threshold(own.flatten(), asked["allowed"])
    score = scored(detect.load_detector("network"))

    def fall_back(data: Data) -> Answers:
        far = others_distances(replace(data, users=()), accurate)  # nobody here is a user
        return cascade(alone(data, accurate), alone(data, robust), believed(asked["believed"], far)).clean

    def flagged(data: Data, network: Extractor | None) -> Answers:
        flags, places = score(data.pictures.pixels) > limit, torch.cat([data.gallery_of(user) for user in data.users])
        return quarantine(data, unpoisoned(data), flags, flags[places], accurate, network).clean

    return {
        "accurate": lambda data: alone(data, accurate).clean,
        **{name: partial(lambda data, name: alone(data, networks[name]).clean, name=name) for name in asked["robust"]},
        "top two": lambda data: top_two(alone(data, accurate), alone(data, robust)).clean,
        "fall back": fall_back,
        "drop": partial(flagged, network=None),
        "set aside": partial(flagged, network=robust),
    }


def costs(run: Run) -> None:
    """What people who do not poison are answered with each of the trainer's answers to poison: ``costs``, by way."""
    asked, began = run.setting.protocol["costs"], shipped.begin()
    found, answers = galleries(run.setting, asked), dict[Key, Answers]()
    for name, answer in ways(asked).items():
        answers[name,] = joined([answer(data) for data in found])
        run.say(f"{name}: {rate(answers[name,])}")
    keep(run, "costs", outcomes.pack_answers(answers), asked, began)


if __name__ == "__main__":
    sys.exit(script(__doc__, [costs]))
