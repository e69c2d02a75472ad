"""Studies of detection: whether poison is recognised as poison, and what a trainer does with that."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

import fingerprint
from facepoison import calibration, detect, game, outcomes, poisoning, shipped, store
from facepoison.attacks.lowkey import LOWKEY, LowKey, lowkey
from facepoison.attacks.presets import find_attack, title_of
from facepoison.attacks.similarity import change
from facepoison.baselines import Baseline, Classifier, statistics, train_baseline
from facepoison.detect import NETWORK, PLAIN, RESIDUAL, Detector, DetectorRecipe, train_detector
from facepoison.device import batches
from facepoison.errors import InputError
from facepoison.evaluation import Answers
from facepoison.extractors import Extractor
from facepoison.extractors.cards import write_weights
from facepoison.extractors.catalog import load_extractor
from facepoison.outcomes import Key
from facepoison.pictures import Pictures
from facepoison.pictures.transforms import TRANSFORMATIONS, transform
from facepoison.protocol import load_data, load_extractors, registered, synthetic_people
from facepoison.shards import Shard, compute
from facepoison.trainer import quarantine
from studies.common import SCRATCH, Run, at_gallery, counting, crowd_poisons, crowd_setting, keep, poisoned, script
from studies.rates import Score

BASELINES: tuple[Baseline, ...] = ("linear baseline", "boosted trees")
SHIPPED = {NETWORK.name: "network", RESIDUAL.name: "residual"}
"""Networks that come with the book, and their files."""
NON_POISONING = "non-poisoning"
"""The set of clean pictures that false alarms are counted on."""
TAKEN_TIMES = 3  # how often a baseline sees each picture, transformed anew
AT_A_TIME = 5000  # pictures that are transformed and asked about in one go


def people_of(population: str) -> Pictures:
    """Clean pictures of one of the populations that only detection knows."""
    return synthetic_people(registered(), population, *registered().protocol["detecting"][population])


def clean_sets() -> dict[str, Pictures]:
    """The clean pictures that thresholds are set on, and those that false alarms are counted on."""
    return {"thresholds": people_of("thresholds"), NON_POISONING: people_of("honest")}


def training_poisons(run: Run) -> dict[str, Pictures]:
    """By attack the poison that detectors are trained on: of the first people for that, on the trainer's surrogates."""
    asked, setting = run.setting.protocol["detecting"], run.setting
    setting = replace(setting, surrogates=tuple(asked["surrogates"]))
    networks, public = {name: load_extractor(name) for name in setting.surrogates}, load_data(setting).public
    made = {}
    for attack, size in asked["poisoned"].items():
        made[attack] = poisoned(run, find_attack(attack), first_trained_on(*size), setting, networks, public)
    return made


def first_trained_on(people: int, pictures: int) -> Pictures:
    """The first clean pictures of the first people whom detectors are trained on."""
    everybody = people_of("taught")
    place = torch.arange(len(everybody)) % (len(everybody) // len(everybody.names))
    return poisoning.first_of(everybody.take(place < pictures), people)


def users_poisons(run: Run, attacks: Iterable[str]) -> dict[str, Pictures]:
    """By attack what the first of the crowd post, all of their pictures; weaker attacks by fewer of them."""
    asked, posted = run.setting.protocol["detecting"], {}
    for attack in attacks:
        users = asked["weaker_users" if attack in asked["weaker"] else "users"]
        posted[attack] = crowd_poisons(run, find_attack(attack), users)
    return posted


@dataclass(frozen=True)
class Plan:
    """How a detector is trained, and on which attacks."""

    recipe: DetectorRecipe
    attacks: tuple[str, ...]


def plans(asked: Mapping[str, Any]) -> dict[str, Plan]:
    """The networks that the protocol's ``detecting`` asks for, by name; all know every attack."""
    recipes = [replace(recipe, draws=asked["draws"]) for recipe in (NETWORK, RESIDUAL)]
    recipes.append(replace(PLAIN, draws=asked["plain_draws"]))
    return {recipe.name: Plan(recipe, tuple(asked["attacks"])) for recipe in recipes}


def crossed_plans(recipe: DetectorRecipe, attacks: tuple[str, ...]) -> list[Plan]:
    """Plans by one recipe: each attack alone, then all but each, then all."""
    told: dict[str, tuple[str, ...]] = {f"{title_of(attack)} alone": (attack,) for attack in attacks}
    for own in attacks:
        told[f"all but {title_of(own)}"] = tuple(each for each in attacks if each != own)
    told["all attacks"] = attacks
    return [Plan(replace(recipe, name=f"{recipe.name}, {name}"), chosen) for name, chosen in told.items()]


def train_weights(
    clean: Tensor, poisons: Sequence[tuple[str, Tensor]], recipe: DetectorRecipe, seed: int
) -> store.Arrays:
    """A detector's weights after training; resumes from a file."""
    how = {"seed": seed, "scratch": SCRATCH / "detecting", "report": lambda line: print(line, flush=True)}
    return dict(train_detector(clean, dict(poisons), recipe, **how).state_dict())  # type: ignore[arg-type]


def train_all(run: Run, given: Iterable[Plan], poisons: Mapping[str, Pictures]) -> list[Detector]:
    """Networks trained on the people for that, each training a shard that is cached.

    Args:
        run: Told of each that is done.
        given: The plans.
        poisons: By attack.
    """
    clean, seed, shards, known = people_of("taught").pixels, run.setting.seed, [], list(given)
    told = [{attack: poisons[attack].pixels for attack in plan.attacks} for plan in known]
    for plan, own in zip(known, told, strict=True):
        parts = {"clean": clean, "poisons": list(own.items()), "recipe": plan.recipe, "seed": seed}
        shards.append(Shard("detector", train_weights, parts, by=(train_detector,)))  # as ``detect.trained`` caches it
    progress, done = counting(run, "trained", "networks"), itertools.count(1)
    compute(shards, run.pool, lambda _: progress(next(done), len(shards)))
    return [detect.trained(clean, own, plan.recipe, seed=seed) for plan, own in zip(known, told, strict=True)]


def train_on(
    run: Run, recipe: DetectorRecipe, clean: Tensor, poisons: Mapping[str, Tensor], start: Detector | None = None
) -> Detector:
    """A network trained by a recipe on pictures; resumes from a file under ``run.scratch``."""
    how = {"seed": run.setting.seed, "start": start, "scratch": run.scratch / "detecting", "report": run.say}
    return train_detector(clean, poisons, recipe, **how)  # type: ignore[arg-type]


def detectors(run: Run) -> None:
    """The networks that come with the book, into ``data/detectors``."""
    began, known = shipped.begin(), plans(run.setting.protocol["detecting"])
    given = [known[name] for name in SHIPPED]
    networks = train_all(run, given, training_poisons(run))
    for network, plan, file in zip(networks, given, SHIPPED.values(), strict=True):
        said: dict[str, object] = {"command": run.command, "recipe": asdict(plan.recipe)}
        said |= began.card() | {"test": "data/results/detecting.json"}
        write_weights(detect.DETECTORS / f"{file}.safetensors", network, said, half=True)


def scored(detector: Detector) -> Score:
    """How poisoned pictures look to a network, computed once and then cached."""

    def score(pixels: Tensor) -> Tensor:
        return store.cached(
            "scores",
            lambda: {"scores": detect.scores(detector, pixels)},
            by=[detect.scores],
            detector=detector,
            pixels=pixels,
        ).arrays["scores"]

    return score


def marks(networks: Sequence[Detector], pixels: Tensor, transformation: str, plainly: bool) -> store.Arrays:
    """What networks say of pictures after a transformation, by their places, and the statistics for baselines."""
    seen = transform(pixels, transformation)
    made = {str(place): detect.scores(network, seen) for place, network in enumerate(networks)}
    return made | ({"statistics": statistics(seen)} if plainly else {})


def ask(
    run: Run,
    networks: Sequence[Detector],
    sets: Mapping[str, Pictures],
    transformations: Iterable[str],
    baselines: Mapping[str, Classifier] | None = None,
) -> dict[Key, Tensor]:
    """Scores (people, pictures of each) by detector, transformation and set.

    Args:
        run: Told of every shard done, which is a set or a part of it after a transformation.
        networks: Asked, under their names.
        sets: Pictures, as many of each person, those of one person together.
        transformations: What the pictures go through before.
        baselines: Asked besides.

    Raises:
        InputError: a set's pictures lie otherwise.
    """
    flat = scores_of(run, networks, {name: each.pixels for name, each in sets.items()}, transformations, baselines)
    return {key: by_row(each, sets[key[2]]) for key, each in flat.items()}


def scores_of(
    run: Run,
    networks: Sequence[Detector],
    sets: Mapping[str, Tensor],
    transformations: Iterable[str],
    baselines: Mapping[str, Classifier] | None = None,
) -> dict[Key, Tensor]:
    """Scores (pictures,) by detector, transformation and set; see ``ask``, whose sets are pictures of people."""
    kinds, parts, shards = dict(baselines or {}), [], []
    for transformation, (name, pixels) in itertools.product(transformations, sets.items()):
        for some in batches(len(pixels), AT_A_TIME):
            known = {"networks": list(networks), "pixels": pixels[some], "transformation": transformation}
            by = (detect.scores, statistics, transform)
            shards.append(Shard("scores", marks, known | {"plainly": bool(kinds)}, by))
            parts.append((transformation, name))
    progress, done = counting(run, "asked", "shards"), itertools.count(1)
    found: dict[Key, list[Tensor]] = {}
    made = compute(shards, run.pool, lambda _: progress(next(done), len(shards)))
    for part, result in zip(parts, made, strict=True):
        for place, network in enumerate(networks):
            found.setdefault((network.name, *part), []).append(result.arrays[str(place)])
        for kind, model in kinds.items():
            own = torch.from_numpy(model.decision_function(result.arrays["statistics"].numpy()))
            found.setdefault((kind, *part), []).append(own)
    return {key: torch.cat(each) for key, each in found.items()}


def by_row(values: Tensor, pictures: Pictures) -> Tensor:
    """Values of pictures with a row for each person, in the order of first appearance.

    Raises:
        InputError: people have different numbers of pictures, or theirs do not lie together.
    """
    people = len(pictures.people)
    rows = pictures.identities.view(people, -1) if len(pictures) % people == 0 else None
    if rows is None or not bool((rows == rows[:, :1]).all()):
        raise InputError(f"{len(pictures)} pictures of {people} people: give as many of each, those of one together")
    return values.view(people, -1)


def detecting(run: Run) -> None:
    """What detectors say of clean pictures and of poison, after every transformation: ``detecting``."""
    asked, began = run.setting.protocol["detecting"], shipped.begin()
    poisons, clean = training_poisons(run), people_of("taught").pixels
    plain = train_all(run, [plans(asked)[PLAIN.name]], poisons)
    networks = [detect.load_detector(file) for file in SHIPPED.values()]
    told = {attack: each.pixels for attack, each in poisons.items()}
    baselines: dict[str, Classifier] = {}
    for kind in BASELINES:
        how = {"times": TAKEN_TIMES, "seed": run.setting.seed}
        baselines[kind] = train_baseline(kind, clean, told, transformed=NETWORK.transformed, **how)
    sets = clean_sets() | users_poisons(run, dict.fromkeys((*asked["attacks"], *asked["weaker"])))
    found = ask(run, networks, sets, TRANSFORMATIONS, baselines)
    found |= ask(run, plain, sets, ("untransformed", asked["transformed"], "noise"))
    keep(run, "detecting", found, asked, began)


def crossed(run: Run) -> None:
    """What networks say that know one attack, two or all, from as many poisons by each: ``crossed``."""
    asked, began = run.setting.protocol["crossed"], shipped.begin()
    every = tuple(asked["attacks"])
    poisons = {attack: poisoning.first_of(each, asked["people"]) for attack, each in training_poisons(run).items()}
    recipes = [replace(recipe, draws=asked["draws"]) for recipe in (NETWORK, RESIDUAL)]
    networks = train_all(run, [plan for recipe in recipes for plan in crossed_plans(recipe, every)], poisons)
    posted = {name: poisoning.first_of(each, asked["users"]) for name, each in users_poisons(run, every).items()}
    keep(run, "crossed", ask(run, networks, clean_sets() | posted, asked["transformations"]), asked, began)


def strangers(run: Run) -> None:
    """What the networks that come with the book say of very many people who do not poison: ``strangers``."""
    asked, began = run.setting.protocol["strangers"], shipped.begin()
    sets = {"strangers": synthetic_people(run.setting, "strangers", *asked["people"])}
    networks = [detect.load_detector(file) for file in SHIPPED.values()]
    keep(run, "strangers", ask(run, networks, sets, asked["transformations"]), asked, began)


def calibrations(run: Run) -> None:
    """What scores of the networks that come with the book mean, on synthetic faces: into ``data/detectors``.

    From the clean pictures that thresholds are set on and the poisons that come with the book, all untransformed.
    """
    clean, setting = people_of("thresholds"), run.setting
    data, extractors, attacks = (
        load_data(setting),
        load_extractors(setting),
        run.setting.protocol["detecting"]["attacks"],
    )
    posted = [poisoning.poison_users(setting, find_attack(name), data, extractors) for name in attacks]
    for name, file in SHIPPED.items():
        score = scored(detect.load_detector(file))
        parts = [score(clean.pixels), *(score(each.pixels) for each in posted)]
        weights = detect.DETECTORS / f"{file}.safetensors"
        fitted = calibration.fit(
            torch.cat(parts),
            torch.cat([torch.full((len(part),), number > 0) for number, part in enumerate(parts)]),
            torch.cat([clean.identities, *(len(clean.names) + each.identities for each in posted)]),
            made_on="synthetic faces, untransformed",
            detector=fingerprint.of_file(weights),
        )
        calibration.write(fitted, calibration.beside(weights))
        run.say(f"{name}: calibrated")


def sifting(run: Run) -> None:
    """What a recogniser answers with a detector in front of it, over thresholds: ``sifting``.

    Answers stand under an attack, or ``clean`` for the round without one, and what has leaked, what happens to flagged
    pictures and the FPR aimed at; every answer is of two identities.
    """
    asked, began = run.setting.protocol["sifting"], shipped.begin()
    data, score = load_data(crowd_setting(run.setting)), scored(detect.load_detector("network"))
    accurate, robust = load_extractor(asked["trainer"]), load_extractor(asked["robust"])
    limits, clean = score(people_of("thresholds").pixels), score(data.pictures.pixels)
    answers: dict[Key, Answers] = {}
    for attack, each in users_poisons(run, asked["attacks"]).items():
        posts = at_gallery(data, each)
        some = replace(data, users=posts.people)
        met = {"nothing leaked": posts, "one leaked": game.leaked(some, posts, asked["leaked"], run.setting.seed)}
        for policy, network in (("nothing", accurate), ("robust for all", robust)):
            outcome = game.play(some, posts, network).top(2)
            answers[attack, "nothing leaked", policy, "no detector"] = outcome.poisoned
            answers["clean", "nothing leaked", policy, "no detector"] = outcome.clean
        for (leak, published), allowed in itertools.product(met.items(), asked["allowed"]):
            limit = detect.threshold(limits, allowed)
            flags = clean > limit, score(published.pixels) > limit
            for policy, second in (("drop", None), ("quarantine", robust)):
                outcome = quarantine(some, published, *flags, accurate, second).top(2)
                answers[attack, leak, policy, f"{allowed:g}"] = outcome.poisoned
                answers["clean", "nothing leaked", policy, f"{allowed:g}"] = outcome.clean  # nobody's leak is in it
        run.say(f"{attack}: quarantined")
    keep(run, "sifting", outcomes.pack_answers(answers), asked, began)


def evade(
    clean: Tensor,
    surrogates: Sequence[Extractor],
    detector: Detector,
    preset: LowKey,
    how: Mapping[str, float],
    seed: int,
) -> store.Arrays:
    """LowKey that a detector's alarm holds back as well, uint8 (N, 3, H, W) under ``"pixels"``."""
    alarm = detect.Evading(detector, how["weight"], how["visible"], how["margin"])
    return {"pixels": lowkey(clean, surrogates, preset, seed=seed, perceptual=alarm)}


def evading_shard(
    clean: Tensor, surrogates: Sequence[Extractor], network: Detector, asked: Mapping[str, Any], seed: int
) -> Shard:
    """LowKey that a detector's alarm holds back as well: uint8 (N, 3, H, W), computed once and then cached.

    Args:
        clean: The pictures, uint8 (N, 3, H, W).
        surrogates: What it is made on.
        network: The detector.
        asked: The protocol's ``weight`` and ``margin``; see ``detect.Evading``.
        seed: Of the poison.
    """
    how = {"weight": asked["weight"], "visible": LOWKEY.weight, "margin": asked["margin"]}
    parts = {"clean": clean, "surrogates": list(surrogates), "detector": network, "preset": LOWKEY}
    return Shard("evading", evade, parts | {"how": how, "seed": seed}, by=(lowkey, detect.Evading, load_extractor))


def craft_replies(
    run: Run, clean: Pictures, surrogates: Sequence[Extractor], network: Detector, asked: Mapping[str, Any]
) -> Pictures:
    """``evading_shard`` of each person's pictures, with a line for each."""
    shards = [evading_shard(clean.of(who).pixels, surrogates, network, asked, run.setting.seed) for who in clean.people]
    progress, done = counting(run, "evading", "people"), itertools.count(1)
    made = compute(shards, run.pool, lambda _: progress(next(done), len(shards)))
    return replace(clean, pixels=torch.cat([each.arrays["pixels"] for each in made]))


def evading(run: Run) -> None:
    """LowKey that also fools the detector, and the detector that is trained on it: ``evading``.

    Beside scores it holds PSNR, and what the undefended trainer answers under ``answers`` and what was posted.
    """
    asked, began = run.setting.protocol["evading"], shipped.begin()
    whole, setting = run.setting.protocol["detecting"], crowd_setting(run.setting)
    data, network = load_data(setting), detect.load_detector("network")
    users = data.users[: asked["users"]]
    usual = at_gallery(data, users_poisons(run, ["lowkey"])["lowkey"])
    data, usual = game.among(data, usual, data.users, users)
    own = data.to_publish(usual.people)
    reply = craft_replies(run, own, [load_extractor(name) for name in setting.surrogates], network, asked)
    known = first_trained_on(asked["people"], whole["poisoned"]["lowkey"][1])
    poisons = {attack: each.pixels for attack, each in training_poisons(run).items()}
    surrogates = [load_extractor(name) for name in whole["surrogates"]]
    poisons["the reply"] = craft_replies(run, known, surrogates, network, asked).pixels
    recipe = replace(NETWORK, name="network, trained again", draws=asked["draws"])
    again = train_on(run, recipe, people_of("taught").pixels, poisons, network)
    posted = {"lowkey": usual, "lowkey that evades": reply}
    networks = [network, detect.load_detector("residual"), again]
    found = ask(run, networks, clean_sets() | posted, ["untransformed"])
    extractor, answers = load_extractor(run.setting.protocol["sifting"]["trainer"]), dict[Key, Answers]()
    for name, each in posted.items():
        outcome = game.play(data, each, extractor).top(2)
        answers |= {("answers", name): outcome.poisoned, ("answers", "clean"): outcome.clean}
        found["PSNR, dB", "untransformed", name] = by_row(change(own.pixels, each.pixels).psnr, own)
    keep(run, "evading", found | outcomes.pack_answers(answers), asked, began)


if __name__ == "__main__":
    sys.exit(script(__doc__, [detectors, calibrations, detecting, crossed, strangers, sifting, evading]))
