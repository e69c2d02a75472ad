"""The study of detection on photographs, with other people's extractors: numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import fingerprint
from facepoison import detect, experiment, shipped, store
from facepoison.adapt import ROBUST, harden
from facepoison.baselines import baseline_scores, train_baseline
from facepoison.detect import NETWORK, RESIDUAL, Detector, Recipe
from facepoison.extractors import Extractor
from facepoison.pictures import Pictures
from facepoison.pictures.splits import first_users, split
from facepoison.protocol import Data, Setting, read_protocol
from facepoison.studies.common import RealPeople, Say, write
from facepoison.studies.detecting import (
    BASELINES,
    SHIPPED,
    TAKEN_TIMES,
    Posted,
    Score,
    Sifting,
    accounts_of,
    ask,
    curves_of,
    learnt,
    rows_of,
    scored,
    sifted,
)

CARRIED = "made faces, then photographs"
SCRATCH = fingerprint.LIB.parent / "_build" / "training"


@dataclass(frozen=True)
class Roles:
    """Who of real people is what; nobody is both.

    Attributes:
        asked: Whose poison is to be found, and on whose clean pictures false alarms are counted.
        taught: Whose pictures the trainer poisons and teaches detectors with.
    """

    asked: tuple[int, ...]
    taught: tuple[int, ...]


def roles(pictures: Pictures, taught: int, seed: int) -> Roles:
    """The last of the list that the users are the first of are taught, everybody else is asked about."""
    everybody = first_users(pictures, len(pictures.names), seed)
    return Roles(everybody[:-taught], everybody[-taught:])


def first_of(pictures: Pictures, people: tuple[int, ...], count: int) -> Tensor:
    """Places of the first pictures of people, int64, person by person."""
    return torch.cat([(pictures.identities == who).nonzero().flatten()[:count] for who in people])


def detecting_real(say: Say, found: RealPeople) -> None:
    """Detectors taught on some people's photographs, asked about others': ``detecting_real*.json``, ``sifting_real``.

    ``detecting_real`` holds what is found after every handling, ``detecting_real_accounts`` ten pictures against one,
    ``detecting_real_roc`` points of curves, ``sifting_real`` what a trainer does with it. Thresholds are set on public
    people's clean pictures. Beside the networks taught on photographs stand those that learnt from made faces.
    """
    began, asked, whole = shipped.begin(), read_protocol()["detecting_real"], read_protocol()["detecting"]
    setting, pictures, public = found.setting, found.data.pictures, found.data.public
    who = roles(pictures, asked["taught"], setting.seed)
    told = _poisoned(say, found, replace(setting, surrogates=tuple(asked["surrogates"])), who.taught, asked["poisoned"])
    posts = _poisoned(say, found, setting, who.asked, asked["asked"])
    clean = pictures.take(torch.isin(pictures.identities, torch.tensor(who.taught)))
    honest = pictures.take(torch.isin(pictures.identities, torch.tensor(who.asked)))
    detectors = _detectors(say, clean.pixels, {attack: each.poisoned for attack, each in told.items()}, asked)
    answers = ask(say, detectors, public, honest, posts, {})
    people = {attack: each.people for attack, each in posts.items()}
    inputs = found.said | {"faces": found.said["pictures"]} | asked
    inputs |= {"taught_people": len(who.taught), "asked_people": len(who.asked)}
    inputs |= {"honest_pictures": len(honest), "threshold_people": len(public.names), "threshold_pictures": len(public)}
    command = "python -m facepoison study detecting_real --faces FOLDER"
    how = (people, honest.identities, asked["allowed"])
    rows = [row for name, answer in answers.items() for row in rows_of(name, answer, *how)]
    write("detecting_real", rows, inputs, began, command)
    chosen = f"{RESIDUAL.name}, {CARRIED}"
    size = whole["account"]
    accounts = accounts_of(answers[chosen], people, public.identities, honest.identities, size, min(asked["allowed"]))
    write("detecting_real_accounts", list(accounts), inputs, began, command)
    pair = [f"{kind}, {CARRIED}" for kind in (NETWORK.name, RESIDUAL.name)]
    both = ("as taken", whole["handled"])
    curves = [row for name in pair for row in curves_of(name, answers[name], people, honest.identities, both)]
    write("detecting_real_roc", curves, inputs, began, command)
    start, robust = found.extractors[asked["trainer"]], _robust(say, found, who.taught, told, asked)
    sift = Sifting(start, robust, asked["allowed"], asked["leaked"])
    limits = answers[chosen].thresholds["as taken"]
    some = _first_pictures(found.data, asked["asked"], setting)
    rows = list(sifted(say, some, posts, detectors[chosen], limits, sift))
    write("sifting_real", rows, inputs, began, command)


def _poisoned(say: Say, found: RealPeople, how: Setting, people: tuple[int, ...], count: int) -> dict[str, Posted]:
    """By attack the first pictures of people, poisoned on a setting's surrogates."""
    pictures, made = found.data.pictures, {}
    for attack in read_protocol()["detecting_real"]["attacks"]:
        parts = []
        for who in people:
            own = pictures.pixels[first_of(pictures, (who,), count)]
            kept = experiment.poison(how, experiment.PRESETS[attack], own, found.extractors, found.data.public)
            parts.append(kept.arrays["pixels"])
            say(f"{attack}, {count} pictures: {len(parts)} of {len(people)} people")
        places = first_of(pictures, people, count)
        made[attack] = Posted(pictures.identities[places], pictures.pixels[places], torch.cat(parts))
    return made


def _detectors(say: Say, clean: Tensor, poisons: Mapping[str, Tensor], asked: Mapping[str, Any]) -> dict[str, Score]:
    """Detectors by name: taught on photographs alone, on made faces alone, on both; on one attack; plain ones."""

    def teach(recipe: Recipe, name: str, told: Mapping[str, Tensor], start: Detector | None = None) -> Score:
        how = replace(recipe, name=name, draws=asked["draws"])
        return scored(learnt(say, SCRATCH, how, clean, told, start))

    found: dict[str, Score] = {}
    for like in (NETWORK, RESIDUAL):
        made = detect.load_detector(SHIPPED[like.name])
        found[f"{like.name}, made faces"] = scored(made)
        found[f"{like.name}, photographs"] = teach(like, f"{like.name}, photographs", poisons)
        found[f"{like.name}, {CARRIED}"] = teach(like, f"{like.name}, {CARRIED}", poisons, made)
    for attack, pixels in poisons.items():  # from nothing: the networks that know made faces have met every attack
        name = f"{RESIDUAL.name}, photographs, {experiment.called(attack)} alone"
        found[name] = teach(RESIDUAL, name, {attack: pixels})
    seed = read_protocol()["registered"]["seed"]
    for kind in BASELINES:
        plain = train_baseline(kind, clean, poisons, handled=NETWORK.handled, times=TAKEN_TIMES * 3, seed=seed)
        found[kind] = lambda pixels, plain=plain: baseline_scores(plain, pixels)  # type: ignore[misc]
    return found


def _robust(
    say: Say, found: RealPeople, people: tuple[int, ...], told: Mapping[str, Posted], asked: Mapping[str, Any]
) -> Extractor:
    """The trainer's extractor, trained on the same poison of the same people that detectors are taught with."""
    pictures = found.data.pictures
    preset = replace(ROBUST, name="robust training", draws=asked["robust_draws"], rate=asked["robust_rate"])
    clean = pictures.take(first_of(pictures, people, asked["poisoned"]))
    poisons = {attack: Pictures(each.poisoned, each.people, pictures.names) for attack, each in told.items()}
    start, seed = found.extractors[asked["trainer"]], found.setting.seed
    parts = {"preset": preset, "start": start.sha256, "seed": seed, "clean": clean.pixels}
    parts |= {attack: each.pixels for attack, each in poisons.items()}
    digest = fingerprint.of_text(repr(store.describe(parts)))[:12]
    checkpoint = SCRATCH / "detecting" / f"robust-{digest}.pt"
    return harden(start, clean, poisons, preset, seed=seed, checkpoint=checkpoint, report=say)


def _first_pictures(data: Data, count: int, setting: Setting) -> Data:
    """The same people with their first pictures only, split anew: so many as users post."""
    everybody = tuple(range(len(data.pictures.names)))
    pictures = data.pictures.take(first_of(data.pictures, everybody, count))
    gallery, probes = split(pictures, setting.seed, setting.gallery_share)
    return replace(data, pictures=pictures, gallery=gallery, probes=probes)
