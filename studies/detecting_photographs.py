"""Studies of detection on photographs, with other people's extractors: numbers only."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from facepoison import detect, game, shipped
from facepoison.adapt import ROBUST, adversarial_fine_tuning
from facepoison.attacks.presets import find_attack, title_of
from facepoison.baselines import baseline_scores, train_baseline
from facepoison.detect import NETWORK, RESIDUAL, Detector, DetectorRecipe
from facepoison.extractors import Extractor
from facepoison.pictures import Pictures
from facepoison.pictures.splits import first_users, split
from facepoison.protocol import Data, Setting
from studies.common import RealPeople, Run, at_gallery, poisoned, script, write
from studies.detecting import BASELINES, SHIPPED, TAKEN_TIMES, craft_replies, scored, train_on
from studies.rates import (
    Quarantine,
    Score,
    accounts_of,
    ask,
    curves_of,
    flagged_of,
    mean_of,
    quarantined,
    replies,
    table_of,
)

CARRIED = "synthetic faces, then photographs"


@dataclass(frozen=True)
class Roles:
    """Who of real people is what; nobody is both.

    Attributes:
        asked: Whose poison is to be found, and on whose clean pictures false alarms are counted.
        trained_on: Whose pictures the trainer poisons and trains detectors on.
    """

    asked: tuple[int, ...]
    trained_on: tuple[int, ...]


def roles(pictures: Pictures, trained_on: int, seed: int) -> Roles:
    """The last of the list that the users are the first of are trained on, everybody else is asked about."""
    everybody = first_users(pictures, len(pictures.names), seed)
    return Roles(everybody[:-trained_on], everybody[-trained_on:])


def first_places(pictures: Pictures, people: tuple[int, ...], count: int) -> Tensor:
    """Places of the first pictures of people, int64, person by person."""
    return torch.cat([(pictures.identities == who).nonzero().flatten()[:count] for who in people])


@dataclass(frozen=True)
class Stage:
    """What stands before anything is asked of photographs.

    Attributes:
        who: Who is what.
        told: By attack, the poison of those trained on, on the trainer's surrogates.
        trained_on: All clean pictures of those trained on.
        non_poisoning: All clean pictures of those asked about.
    """

    who: Roles
    told: dict[str, Pictures]
    trained_on: Pictures
    non_poisoning: Pictures


def stage(run: Run, found: RealPeople) -> Stage:
    """Real people in their roles, and what the trainer trains detectors on."""
    asked, pictures = run.setting.protocol["detecting_real"], found.data.pictures
    who = roles(pictures, asked["taught"], found.setting.seed)
    trainer = replace(found.setting, surrogates=tuple(asked["surrogates"]))
    told = _poisoned(run, found, trainer, asked["attacks"], who.trained_on, asked["poisoned"])
    sides = [pictures.take(torch.isin(pictures.identities, torch.tensor(some))) for some in (who.trained_on, who.asked)]
    return Stage(who, told, *sides)


def detecting_real(run: Run, found: RealPeople) -> None:
    """Detectors trained on some people's photographs, asked about others': ``detecting_real*.json``, ``sifting_real``.

    ``detecting_real`` holds what is found after every transformation, ``detecting_real_honest`` whom one threshold for
    all of them flags, ``detecting_real_accounts`` ten pictures against one, ``detecting_real_roc`` points of curves,
    ``sifting_real`` what a trainer does with it. Thresholds are set on public people's clean pictures. Beside the
    networks trained on photographs stand those trained on synthetic faces.
    """
    began, asked, whole = shipped.begin(), run.setting.protocol["detecting_real"], run.setting.protocol["detecting"]
    setting, public, set_up = found.setting, found.data.public, stage(run, found)
    non_poisoning = set_up.non_poisoning
    posts = _poisoned(run, found, setting, asked["attacks"], set_up.who.asked, asked["asked"])
    detectors = _detectors(run, set_up, asked)
    answers = ask(run, detectors, public, non_poisoning, posts, {})
    people = {attack: each.identities for attack, each in posts.items()}
    inputs = _inputs(found, set_up) | asked
    write(run, "detecting_real", table_of(answers, posts, non_poisoning, asked["allowed"]), inputs, began)
    flags = (
        people,
        non_poisoning.identities,
        whole["allowed"],
    )  # after all transformations there are pictures enough for 0.1 %
    rows = [row for name, answer in answers.items() for row in flagged_of(name, answer, *flags)]
    write(run, "detecting_real_honest", rows, inputs | {"allowed_at_once": whole["allowed"]}, began)
    chosen = f"{RESIDUAL.name}, {CARRIED}"
    size = whole["account"]
    sides = public.identities, non_poisoning.identities
    accounts = accounts_of(answers[chosen], people, *sides, size, min(asked["allowed"]))
    write(run, "detecting_real_accounts", list(accounts), inputs, began)
    pair = [f"{kind}, {CARRIED}" for kind in (NETWORK.name, RESIDUAL.name)]
    both = ("untransformed", whole["transformed"])
    curves = [row for name in pair for row in curves_of(name, answers[name], people, non_poisoning.identities, both)]
    write(run, "detecting_real_roc", curves, inputs, began)
    robust = _robust(run, found, set_up, asked)
    how = Quarantine(found.extractors[asked["trainer"]], robust, asked["allowed"], asked["leaked"])
    limits = answers[chosen].thresholds["untransformed"]
    some = _first_pictures(found.data, asked["asked"], setting)
    rows = list(quarantined(run, some, posts, detectors[chosen], limits, how))
    write(run, "sifting_real", rows, inputs, began)


def detecting_real_weaker(run: Run, found: RealPeople) -> None:
    """Weaker attacks on photographs, before networks on residuals that have met none: ``detecting_real_weaker.json``.

    As ``detecting_real``, untransformed and after its one JPEG quality.
    """
    began, asked, set_up = shipped.begin(), run.setting.protocol["detecting_real_weaker"], stage(run, found)
    whole, non_poisoning = run.setting.protocol["detecting_real"], set_up.non_poisoning
    posts = _poisoned(run, found, found.setting, asked["attacks"], set_up.who.asked, asked["asked"])
    networks = [_network(run, set_up, whole, RESIDUAL, start=start) for start in (None, SHIPPED[RESIDUAL.name])]
    detectors = {network.name: scored(network) for network in networks}
    transformations = ("untransformed", run.setting.protocol["detecting"]["transformed"])
    answers = ask(run, detectors, found.data.public, non_poisoning, posts, dict.fromkeys(detectors, transformations))
    rows = table_of(answers, posts, non_poisoning, whole["allowed"])
    write(run, "detecting_real_weaker", rows, _inputs(found, set_up) | asked, began)


def detecting_real_both(run: Run, found: RealPeople) -> None:
    """Both networks that went on from synthetic faces, at once: ``detecting_real_both.json``. As ``detecting_real``."""
    began, asked, set_up = shipped.begin(), run.setting.protocol["detecting_real_both"], stage(run, found)
    whole, non_poisoning = run.setting.protocol["detecting_real"], set_up.non_poisoning
    posts = _poisoned(run, found, found.setting, whole["attacks"], set_up.who.asked, whole["asked"])
    networks = [_network(run, set_up, whole, like, start=SHIPPED[like.name]) for like in (NETWORK, RESIDUAL)]
    detectors = {f"{asked['together']}, {CARRIED}": mean_of(*map(scored, networks))}
    answers = ask(run, detectors, found.data.public, non_poisoning, posts, {})
    rows = table_of(answers, posts, non_poisoning, whole["allowed"])
    write(run, "detecting_real_both", rows, _inputs(found, set_up) | asked, began)


def evading_real(run: Run, found: RealPeople) -> None:
    """The user's reply on photographs, and the network that is trained on it: ``evading_real.json``."""
    began, asked, set_up = shipped.begin(), run.setting.protocol["evading_real"], stage(run, found)
    whole, setting = run.setting.protocol["detecting_real"], found.setting
    posted = _poisoned(run, found, setting, ["lowkey"], set_up.who.asked, whole["asked"])["lowkey"]
    some = _first_pictures(found.data, whole["asked"], setting)
    everybody, users = range(len(some.pictures.names)), set_up.who.asked[: asked["users"]]
    some, usual = game.among(some, at_gallery(some, posted), everybody, users)
    network = _network(run, set_up, whole, RESIDUAL, start=SHIPPED[RESIDUAL.name])
    surrogates = [found.extractors[name] for name in setting.surrogates]
    reply = craft_replies(run, some.to_publish(usual.people), surrogates, network, asked)
    known = set_up.who.trained_on[: asked["people"]]
    own = found.data.pictures.take(first_places(found.data.pictures, known, whole["poisoned"]))
    surrogates = [found.extractors[name] for name in whole["surrogates"]]
    poisons = {attack: each.pixels for attack, each in set_up.told.items()}
    poisons["the reply"] = craft_replies(run, own, surrogates, network, asked).pixels
    recipe = replace(RESIDUAL, name=f"{RESIDUAL.name}, trained again", draws=asked["draws"])
    again = train_on(run, recipe, set_up.trained_on.pixels, poisons, network)
    others = (
        _network(run, set_up, whole, RESIDUAL),
        _network(run, set_up, whole, NETWORK, start=SHIPPED[NETWORK.name]),
    )
    detectors = {each.name: scored(each) for each in (network, *others, again)}
    published = {"lowkey": usual, "lowkey that evades": reply}
    how = (found.data.public.pixels, set_up.non_poisoning, found.extractors[whole["trainer"]], whole["allowed"])
    rows = list(replies(some, published, detectors, *how))
    write(run, "evading_real", rows, _inputs(found, set_up) | asked, began)


def _inputs(found: RealPeople, set_up: Stage) -> dict[str, object]:
    """What cards of these studies say of the people, beside what the protocol asks."""
    public = found.data.public
    inputs = found.said | {"faces": found.said["pictures"]}
    inputs |= {"taught_people": len(set_up.who.trained_on), "asked_people": len(set_up.who.asked)}
    inputs |= {"honest_pictures": len(set_up.non_poisoning), "threshold_people": len(public.names)}
    return inputs | {"threshold_pictures": len(public)}


def _poisoned(
    run: Run, found: RealPeople, how: Setting, attacks: Sequence[str], people: tuple[int, ...], count: int
) -> dict[str, Pictures]:
    """By attack the first pictures of people, poisoned on a setting's surrogates."""
    clean = found.data.pictures.take(first_places(found.data.pictures, people, count))
    known = {name: find_attack(name) for name in attacks}
    return {
        name: poisoned(run, attack, clean, how, found.extractors, found.data.public) for name, attack in known.items()
    }


def _network(
    run: Run,
    set_up: Stage,
    asked: Mapping[str, Any],
    like: DetectorRecipe,
    *,
    start: str | None = None,
    only: str | None = None,
) -> Detector:
    """A network trained on photographs.

    Args:
        run: Told how it goes.
        set_up: What it is trained on.
        asked: The protocol's ``detecting_real``.
        like: Its recipe.
        start: File of the network that it goes on from; by default it starts from nothing.
        only: The one attack that it meets; by default all.
    """
    name = f"{like.name}, {CARRIED if start else 'photographs'}"
    name += f", {title_of(only)} alone" if only else ""
    told = {attack: each.pixels for attack, each in set_up.told.items() if only in (attack, None)}
    recipe = replace(like, name=name, draws=asked["draws"])
    return train_on(run, recipe, set_up.trained_on.pixels, told, detect.load_detector(start) if start else None)


def _detectors(run: Run, set_up: Stage, asked: Mapping[str, Any]) -> dict[str, Score]:
    """Detectors by name: trained on photographs alone, on synthetic faces alone, on both; on one attack; plain ones."""
    found: dict[str, Score] = {}
    for like in (NETWORK, RESIDUAL):
        found[f"{like.name}, synthetic faces"] = scored(detect.load_detector(SHIPPED[like.name]))
        for start in (None, SHIPPED[like.name]):
            network = _network(run, set_up, asked, like, start=start)
            found[network.name] = scored(network)
    for attack in set_up.told:  # from nothing: the networks that know synthetic faces have met every attack
        network = _network(run, set_up, asked, RESIDUAL, only=attack)
        found[network.name] = scored(network)
    seed, clean = run.setting.protocol["registered"]["seed"], set_up.trained_on.pixels
    poisons = {attack: each.pixels for attack, each in set_up.told.items()}
    for kind in BASELINES:
        plain = train_baseline(kind, clean, poisons, transformed=NETWORK.transformed, times=TAKEN_TIMES * 3, seed=seed)
        found[kind] = lambda pixels, plain=plain: baseline_scores(plain, pixels)  # type: ignore[misc]
    return found


def _robust(run: Run, found: RealPeople, set_up: Stage, asked: Mapping[str, Any]) -> Extractor:
    """The trainer's extractor, trained on the same poison of the same people that detectors are trained on."""
    pictures = found.data.pictures
    preset = replace(ROBUST, name="robust training", draws=asked["robust_draws"], rate=asked["robust_rate"])
    clean = pictures.take(first_places(pictures, set_up.who.trained_on, asked["poisoned"]))
    poisons = set_up.told
    start, seed = found.extractors[asked["trainer"]], found.setting.seed
    return adversarial_fine_tuning(
        start, clean, poisons, preset, seed=seed, scratch=run.scratch / "detecting", report=run.say
    )


def _first_pictures(data: Data, count: int, setting: Setting) -> Data:
    """The same people with their first pictures only, split anew: so many as users post."""
    everybody = tuple(range(len(data.pictures.names)))
    pictures = data.pictures.take(first_places(data.pictures, everybody, count))
    gallery, probes = split(pictures, setting.seed, setting.gallery_share)
    return replace(data, pictures=pictures, gallery=gallery, probes=probes)


if __name__ == "__main__":
    sys.exit(script(__doc__, [], [detecting_real, detecting_real_both, detecting_real_weaker, evading_real]))
