"""What the trainer's answers to poison cost people who do not poison: clean pictures alone, and many of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from facepoison import detect, experiment, shipped, together
from facepoison.extractors import Extractor
from facepoison.extractors.catalog import load_extractor
from facepoison.outcomes import read_outcomes
from facepoison.pictures import Pictures
from facepoison.pictures.splits import split
from facepoison.protection import Answers, Protection, difference, rate
from facepoison.protocol import Data, load_data, read_protocol, synthetic_people
from facepoison.sift import sift
from studies.common import Run, registered, script, write
from studies.detecting import scored

Answer = Callable[[Data], Answers]


def galleries(asked: Mapping[str, Any]) -> list[Data]:
    """The people of the protocol's ``costs``, cut into galleries, everybody a user who poisons nothing."""
    setting = registered()
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
    return experiment.play(data, unpoisoned(data), extractor)


def joined(parts: list[Answers]) -> Answers:
    """The answers of several galleries as of one: everybody keeps a number of their own."""
    step = 1 + max(int(part.user.max()) for part in parts)
    moved = [replace(part, user=part.user + place * step) for place, part in enumerate(parts)]
    names = ("user", "probe", "true", "predicted", "distance")
    return Answers(*(torch.cat([getattr(part, name) for part in moved]) for name in names))


def ways(asked: Mapping[str, Any]) -> dict[str, Answer]:
    """The trainer's answers to poison by what tables call them, each as what it says of a clean gallery."""
    networks = {name: load_extractor(name) for name in (asked["accurate"], *asked["robust"])}
    accurate, robust = networks[asked["accurate"]], networks[asked["both"]]
    own = read_outcomes("detecting").arrays[detect.NETWORK.name, "untransformed", "thresholds"]
    limit = detect.threshold(own.flatten(), asked["allowed"])
    score = scored(detect.load_detector("network"))

    def two(data: Data, combine: together.Combine) -> Answers:
        return together.together(alone(data, accurate), alone(data, robust), combine).clean

    def fall_back(data: Data) -> Answers:
        far = together.others_distances(replace(data, users=()), accurate)  # nobody here is a user
        return two(data, together.fall_back(together.believed(asked["believed"], far)))

    def flagged(data: Data, network: Extractor | None) -> Answers:
        flags, places = score(data.pictures.pixels) > limit, torch.cat([data.gallery_of(user) for user in data.users])
        return sift(data, unpoisoned(data), flags, flags[places], accurate, network).clean

    return {
        "accurate": lambda data: alone(data, accurate).clean,
        **{name: partial(lambda data, name: alone(data, networks[name]).clean, name=name) for name in asked["robust"]},
        "top two": partial(two, combine=together.top_two),
        "fall back": fall_back,
        "drop": partial(flagged, network=None),
        "set aside": partial(flagged, network=robust),
    }


def costs(run: Run) -> None:
    """The clean error with each of the trainer's answers to poison, less that without any: ``costs.json``."""
    asked, began = read_protocol()["costs"], shipped.begin()
    found, rows = galleries(asked), []
    usual: Answers | None = None
    for name, answer in ways(asked).items():
        clean = joined([answer(data) for data in found])
        usual = usual or clean
        rows.append({"way": name, "clean_error": rate(clean), "cost": difference(clean, usual)})
        run.say(f"{name}: {rows[-1]['clean_error']}")
    write(run, "costs", rows, asked, began)


if __name__ == "__main__":
    sys.exit(script(__doc__, [costs]))
