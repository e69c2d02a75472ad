"""Studies of detection: whether poison is recognised as poison, and what a trainer does with that."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

import fingerprint
from facepoison import calibration, detect, game, poisoning, shipped, store
from facepoison.attacks.lowkey import LOWKEY, LowKey, lowkey
from facepoison.attacks.presets import find_attack, title_of
from facepoison.attacks.similarity import change
from facepoison.baselines import Baseline, baseline_scores, train_baseline
from facepoison.detect import NETWORK, PLAIN, RESIDUAL, Detector, DetectorRecipe, train_detector
from facepoison.device import batches
from facepoison.evaluation import difference, share
from facepoison.extractors import Extractor
from facepoison.extractors.cards import write_weights
from facepoison.extractors.catalog import load_extractor
from facepoison.pictures import Pictures
from facepoison.pictures.transforms import TRANSFORMATIONS, transform
from facepoison.protocol import Data, load_data, load_extractors, registered, synthetic_people
from facepoison.shards import Shard, compute
from facepoison.trainer import quarantine
from studies.common import Run, counting, crowd_setting, poisoned, script, write

BASELINES: tuple[Baseline, ...] = ("linear baseline", "boosted trees")
SHIPPED = {NETWORK.name: "network", RESIDUAL.name: "residual"}
"""Networks that come with the book, and their files."""
AT_A_TIME = 2000  # pictures that are transformed at a time
TAKEN_TIMES = 3  # how often a baseline sees each picture, transformed anew
EVERYTHING = "everything"  # one threshold, set on clean pictures after every transformation
Score = Callable[[Tensor], Tensor]
Row = dict[str, Any]


def people_of(population: str) -> Pictures:
    """Clean pictures of one of the populations that only detection knows."""
    return synthetic_people(registered(), population, *registered().protocol["detecting"][population])


def taught_poisons(run: Run, chosen: Mapping[str, Any] | None = None) -> dict[str, Pictures]:
    """By attack the poison that detectors learn from, made on the trainer's surrogates of the first people taught.

    Args:
        run: Told how it goes.
        chosen: Section of the protocol whose ``poisoned`` says by which attacks, of how many people and pictures; by
            default ``detecting``.
    """
    asked, setting = run.setting.protocol["detecting"], run.setting
    setting = replace(setting, surrogates=tuple(asked["surrogates"]))
    networks, public = {name: load_extractor(name) for name in setting.surrogates}, load_data(setting).public
    made = {}
    for attack, size in (chosen or asked)["poisoned"].items():
        made[attack] = poisoned(run, find_attack(attack), first_taught(*size), setting, networks, public)
    return made


def first_taught(people: int, pictures: int) -> Pictures:
    """The first clean pictures of the first people whom detectors are taught with."""
    everybody = people_of("taught")
    place = torch.arange(len(everybody)) % (len(everybody) // len(everybody.names))
    return poisoning.first_of(everybody.take(place < pictures), people)


def users_poisons(run: Run) -> dict[str, Pictures]:
    """By attack what the first of the crowd post, all of their pictures; weaker attacks by fewer of them."""
    asked, setting = run.setting.protocol["detecting"], crowd_setting(run.setting)
    data, networks = load_data(setting), load_extractors(setting)
    posted = {}
    for attack in ("fawkes_v1_high", "lowkey", *asked["weaker"]):
        users = data.users[: asked["weaker_users" if attack in asked["weaker"] else "users"]]
        places = torch.cat([(data.pictures.identities == user).nonzero().flatten() for user in users])
        clean = data.pictures.take(places)
        posted[attack] = poisoned(run, find_attack(attack), clean, setting, networks, data.public)
    return posted


@dataclass(frozen=True)
class Lesson:
    """What a detector is taught: how, and which attacks."""

    recipe: DetectorRecipe
    attacks: tuple[str, ...]


def lessons(asked: Mapping[str, Any]) -> dict[str, Lesson]:
    """The networks that the protocol's ``detecting`` asks for, by what tables call them.

    Those that know all attacks, then those that know one, then those that know all but one.
    """
    every = tuple(asked["attacks"])
    plain = replace(PLAIN, draws=asked["plain_draws"])
    whole = [replace(recipe, draws=asked["draws"]) for recipe in (NETWORK, RESIDUAL)]
    return {recipe.name: Lesson(recipe, every) for recipe in (*whole, plain)} | with_fewer(whole[0], every)


def with_fewer(recipe: DetectorRecipe, attacks: tuple[str, ...]) -> dict[str, Lesson]:
    """Lessons by one recipe: each attack alone, then all but each."""
    told: dict[str, tuple[str, ...]] = {f"{title_of(attack)} alone": (attack,) for attack in attacks}
    for own in attacks:
        told[f"all but {title_of(own)}"] = tuple(each for each in attacks if each != own)
    return {name: Lesson(replace(recipe, name=name), chosen) for name, chosen in told.items()}


def taught(run: Run, lesson: Lesson) -> Detector:
    """A network after its lesson; resumes from a file under ``run.scratch``."""
    poisons = taught_poisons(run)
    chosen = {attack: poisons[attack].pixels for attack in lesson.attacks}
    return learnt(run, lesson.recipe, people_of("taught").pixels, chosen)


def learnt(
    run: Run, recipe: DetectorRecipe, clean: Tensor, poisons: Mapping[str, Tensor], start: Detector | None = None
) -> Detector:
    """A network trained by a recipe on pictures; resumes from a file under ``run.scratch``."""
    how = {"seed": run.setting.seed, "start": start, "scratch": run.scratch / "detecting", "report": run.say}
    return train_detector(clean, poisons, recipe, **how)  # type: ignore[arg-type]


def detectors(run: Run) -> None:
    """The networks that come with the book, into ``data/detectors``."""
    asked = run.setting.protocol["detecting"]
    for name, file in SHIPPED.items():
        began = shipped.begin()
        lesson = lessons(asked)[name]
        network = taught(run, lesson)
        said: dict[str, object] = {"command": run.command, "recipe": asdict(lesson.recipe)}
        said |= shipped.provenance(began, time.time() - began.at) | {"test": "data/results/detecting.json"}
        write_weights(detect.DETECTORS / f"{file}.safetensors", network, said, half=True)


def scored(detector: Detector) -> Score:
    """How poisoned pictures look to a network, computed once and then kept."""

    def score(pixels: Tensor) -> Tensor:
        return store.remember(
            "scores",
            lambda: {"scores": detect.scores(detector, pixels)},
            by=[detect.scores],
            detector=detector,
            pixels=pixels,
        ).arrays["scores"]

    return score


@dataclass(frozen=True)
class Asked:
    """Scores of one detector by transformation: of two sets of clean pictures, and of what is posted, by attack.

    Attributes:
        thresholds: By transformation, of the people thresholds are set on.
        honest: By transformation, of the people false alarms are counted on.
        posted: By transformation and attack.
    """

    thresholds: dict[str, Tensor]
    honest: dict[str, Tensor]
    posted: dict[str, dict[str, Tensor]]


def only_of(answer: Asked, attacks: Iterable[str]) -> Asked:
    """What a detector said, of some attacks only."""
    wanted = tuple(attacks)
    posted = {
        transformation: {attack: some[attack] for attack in wanted} for transformation, some in answer.posted.items()
    }
    return replace(answer, posted=posted)


def ask(
    run: Run,
    detectors: Mapping[str, Score],
    thresholds: Pictures,
    honest: Pictures,
    posted: Mapping[str, Pictures],
    few: Mapping[str, tuple[str, ...]],
) -> dict[str, Asked]:
    """What detectors say of clean pictures and of posted ones after every transformation.

    Args:
        run: Told of every transformation done.
        detectors: By name.
        thresholds: Clean pictures that thresholds are set on.
        honest: Clean pictures that false alarms are counted on.
        posted: By attack.
        few: By detector the transformations that it is asked about, if not all.
    """
    answers = {name: Asked({}, {}, {}) for name in detectors}
    wanted = {transformation for name in detectors for transformation in few.get(name, tuple(TRANSFORMATIONS))}
    for transformation in (each for each in TRANSFORMATIONS if each in wanted):
        sets = {
            "thresholds": transform(thresholds.pixels, transformation),
            "honest": transform(honest.pixels, transformation),
        }
        posts = {attack: transform(each.pixels, transformation) for attack, each in posted.items()}
        for name, score in detectors.items():
            if transformation in few.get(name, tuple(TRANSFORMATIONS)):
                answers[name].thresholds[transformation] = score(sets["thresholds"])
                answers[name].honest[transformation] = score(sets["honest"])
                answers[name].posted[transformation] = {attack: score(pixels) for attack, pixels in posts.items()}
        run.say(f"{transformation}: asked")
    return answers


def rows_of(
    name: str, answer: Asked, people: Mapping[str, Tensor], honest: Tensor, allowed: list[float]
) -> Iterator[Row]:
    """Rows of one detector: for each transformation, attack and share of false alarms allowed, what is found.

    Thresholds are set on clean pictures transformed in the same way.

    Args:
        name: The detector's.
        answer: What it said.
        people: By attack, who is on the posted pictures.
        honest: Who is on the pictures that false alarms are counted on.
        allowed: Shares of false alarms to allow.
    """
    for transformation, clean in answer.thresholds.items():
        for attack, posted in answer.posted[transformation].items():
            area = detect.area(answer.honest[transformation], posted)
            for each in allowed:
                limit = detect.threshold(clean, each)
                row = {
                    "detector": name,
                    "attack": attack,
                    "transformation": transformation,
                    "allowed": each,
                    "area": area,
                }
                row |= {"threshold": limit, "found": share(posted > limit, people[attack])}
                row["false_alarms"] = share(answer.honest[transformation] > limit, honest)
                if transformation == "untransformed":  # so that one user's share can be made again and compared
                    row["by_user"] = [
                        float((posted[people[attack] == who] > limit).float().mean()) for who in _order(people[attack])
                    ]
                yield row


def table_of(
    answers: Mapping[str, Asked], posted: Mapping[str, Pictures], honest: Pictures, allowed: list[float]
) -> list[Row]:
    """The rows of ``rows_of`` for one detector after the other, all asked about the same pictures."""
    people = {attack: each.identities for attack, each in posted.items()}
    return [
        row for name, answer in answers.items() for row in rows_of(name, answer, people, honest.identities, allowed)
    ]


def _order(people: Tensor) -> list[int]:
    """Who is on pictures, in the order of first appearance."""
    return list(dict.fromkeys(people.tolist()))


def detecting(run: Run) -> None:
    """Detectors before users and attacks, after everything that befalls pictures: ``detecting*.json``.

    ``detecting`` holds what is found, ``detecting_crossed`` the same of detectors that know fewer attacks,
    ``detecting_honest`` whom one threshold for all of them flags, ``detecting_accounts`` ten pictures against one,
    ``detecting_roc`` points of curves.
    """
    asked, began = run.setting.protocol["detecting"], shipped.begin()
    poisons = {attack: each.pixels for attack, each in taught_poisons(run).items()}
    clean, posted = people_of("taught").pixels, users_poisons(run)
    networks = {name: taught(run, lesson) for name, lesson in lessons(asked).items()}
    networks |= {name: detect.load_detector(file) for name, file in SHIPPED.items()}
    baselines = {
        kind: train_baseline(
            kind, clean, poisons, transformed=NETWORK.transformed, times=TAKEN_TIMES, seed=run.setting.seed
        )
        for kind in BASELINES
    }
    thresholds, honest = people_of("thresholds"), people_of("honest")
    by_name: dict[str, Score] = {name: scored(network) for name, network in networks.items()}
    by_name |= {kind: lambda pixels, own=own: baseline_scores(own, pixels) for kind, own in baselines.items()}  # type: ignore[misc]
    whole = [NETWORK.name, RESIDUAL.name, PLAIN.name, *BASELINES]
    both = ("untransformed", asked["transformed"])
    few: dict[str, tuple[str, ...]] = {name: both for name in by_name if name not in whole}
    crossing = [NETWORK.name, *few]
    few[PLAIN.name] = (*both, "noise")
    answers = ask(run, by_name, thresholds, honest, posted, few)
    people = {attack: each.identities for attack, each in posted.items()}
    allowed = asked["allowed"]
    main = set(asked["attacks"])

    def wanted(row: Row) -> bool:  # weaker strengths are asked of the first network only
        return row["attack"] in main or row["detector"] == NETWORK.name

    rows = [row for name in whole for row in rows_of(name, answers[name], people, honest.identities, allowed)]
    write(run, "detecting", [row for row in rows if wanted(row)], asked, began)
    rows = [row for name in crossing for row in rows_of(name, answers[name], people, honest.identities, allowed)]
    rows = [row for row in rows if row["transformation"] in both and row["attack"] in main]
    write(run, "detecting_crossed", rows, asked, began)
    flags = [
        row
        for name in whole
        for set_on in (
            "untransformed",
            *([EVERYTHING] if answers[name].thresholds.keys() == TRANSFORMATIONS.keys() else []),
        )
        for row in flagged_of(
            name,
            only_of(answers[name], asked["attacks"] if set_on == EVERYTHING and name == NETWORK.name else ()),
            people,
            honest.identities,
            allowed,
            set_on,
        )
    ]
    write(run, "detecting_honest", flags, asked, began)
    answer = answers[NETWORK.name]
    mine = {attack: people[attack] for attack in asked["attacks"]}
    answer = only_of(answer, mine)
    # at the larger share of false alarms: accounts are too few for less
    how = (asked["account"], max(allowed))
    accounts = list(accounts_of(answer, mine, thresholds.identities, honest.identities, *how))
    write(run, "detecting_accounts", accounts, asked, began)
    curves = [
        row
        for name in (NETWORK.name, RESIDUAL.name)
        for row in curves_of(name, only_of(answers[name], mine), mine, honest.identities, both)
    ]
    write(run, "detecting_roc", curves, asked, began)


def shipped_posts() -> dict[str, Pictures]:
    """By attack the poisons that come with the book."""
    setting = registered()
    data, networks, attacks = load_data(setting), load_extractors(setting), setting.protocol["detecting"]["attacks"]
    return {name: poisoning.poison_users(setting, find_attack(name), data, networks) for name in attacks}


def calibrations(run: Run) -> None:
    """What scores of the networks that come with the book mean, on synthetic faces: into ``data/detectors``.

    From the clean pictures that thresholds are set on and the poisons that come with the book, all untransformed.
    """
    clean, posted = people_of("thresholds"), shipped_posts()
    for name, file in SHIPPED.items():
        score = scored(detect.load_detector(file))
        parts = [score(clean.pixels), *(score(each.pixels) for each in posted.values())]
        weights = detect.DETECTORS / f"{file}.safetensors"
        fitted = calibration.fit(
            torch.cat(parts),
            torch.cat([torch.full((len(part),), number > 0) for number, part in enumerate(parts)]),
            torch.cat([clean.identities, *(len(clean.names) + each.identities for each in posted.values())]),
            made_on="synthetic faces, untransformed",
            detector=fingerprint.of_file(weights),
        )
        calibration.write(fitted, calibration.beside(weights))
        run.say(f"{name}: calibrated")


def detecting_crossed_transformed(run: Run) -> None:
    """What networks on residuals find that know one attack, two or three: ``detecting_crossed_transformed.json``."""
    _crossed_transformed(run, "detecting_crossed_transformed", RESIDUAL)


def detecting_crossed_pictures(run: Run) -> None:
    """The same of networks on pictures, from the same lessons: ``detecting_crossed_pictures.json``."""
    _crossed_transformed(run, "detecting_crossed_pictures", NETWORK)


def _crossed_transformed(run: Run, table: str, recipe: DetectorRecipe) -> None:
    """Attack learnt from x attack posted x transformation, with as many poisons by one attack as by another.

    Asked about are the poisons that come with the book.

    Args:
        run: Told how it goes.
        table: The study; what the protocol does not ask under its name stands under ``detecting_crossed_transformed``.
        recipe: How the networks learn, but for the number of draws.
    """
    began = shipped.begin()
    asked = run.setting.protocol["detecting_crossed_transformed"] | run.setting.protocol[table]
    whole, posted = run.setting.protocol["detecting"], shipped_posts()
    poisons = {attack: each.pixels for attack, each in taught_poisons(run, asked).items()}
    recipe, every = replace(recipe, draws=asked["draws"]), tuple(poisons)
    by_name: dict[str, Score] = {}
    for name, lesson in (with_fewer(recipe, every) | {"all three": Lesson(recipe, every)}).items():
        chosen = {attack: poisons[attack] for attack in lesson.attacks}
        by_name[name] = scored(learnt(run, lesson.recipe, people_of("taught").pixels, chosen))
    thresholds, honest = people_of("thresholds"), people_of("honest")
    answers = ask(run, by_name, thresholds, honest, posted, dict.fromkeys(by_name, tuple(asked["transformations"])))
    write(run, table, table_of(answers, posted, honest, whole["allowed"]), asked, began)


def detecting_both(run: Run) -> None:
    """What the networks that come with the book find, each and together by the mean of their logits.

    Into ``detecting_both.json``. Asked about are the poisons that come with the book, after every transformation.
    """
    asked, began = run.setting.protocol["detecting_both"], shipped.begin()
    posted, thresholds, honest = shipped_posts(), people_of("thresholds"), people_of("honest")
    answers = ask(run, shipped_networks(), thresholds, honest, posted, {})
    allowed = run.setting.protocol["detecting"]["allowed"]
    write(run, "detecting_both", table_of(answers, posted, honest, allowed), asked, began)


def shipped_networks() -> dict[str, Score]:
    """The networks that come with the book, each and then together, by what tables call them."""
    by_name = {name: scored(detect.load_detector(file)) for name, file in SHIPPED.items()}
    return by_name | {registered().protocol["detecting_both"]["together"]: mean_of(*by_name.values())}


def mean_of(*scores: Score) -> Score:
    """How poisoned pictures look to several networks together: the mean of their logits, each counting alike."""
    return lambda pixels: torch.stack([score(pixels) for score in scores]).mean(dim=0)


def detecting_strangers(run: Run) -> None:
    """False alarms of the networks that come with the book, on very many people: ``detecting_strangers.json``.

    At the thresholds of ``detecting``, and for both networks at once at those of ``detecting_both``.
    """
    asked, began = run.setting.protocol["detecting_strangers"], shipped.begin()
    clean = synthetic_people(run.setting, "strangers", *asked["people"])
    score = shipped_networks()
    limits = {
        (row["detector"], row["transformation"], row["allowed"]): row["threshold"]
        for table in ("detecting_both", "detecting")  # where a network stands in both, the latter counts
        for row in shipped.read_table(table).rows
        if row["detector"] in score
    }
    rows = []
    for transformation in TRANSFORMATIONS:
        parts = [transform(clean.pixels[some], transformation) for some in batches(len(clean), AT_A_TIME)]
        found = {name: own(torch.cat(parts)) for name, own in score.items()}
        for (name, after, allowed), limit in limits.items():
            if after == transformation:
                row = {"detector": name, "transformation": transformation, "allowed": allowed, "threshold": limit}
                rows.append(row | {"false_alarms": share(found[name] > limit, clean.identities)})
        run.say(f"{transformation}: asked")
    write(run, "detecting_strangers", rows, asked, began)


def flagged_of(
    name: str,
    answer: Asked,
    people: Mapping[str, Tensor],
    honest: Tensor,
    allowed: Iterable[float],
    set_on: str = EVERYTHING,
) -> Iterator[Row]:
    """Whom one threshold flags, after every transformation: of clean pictures and of posted ones.

    Args:
        name: The detector's.
        answer: What it said.
        people: By attack, who is on the posted pictures.
        honest: Who is on the pictures that false alarms are counted on.
        allowed: Shares of false alarms to allow.
        set_on: The transformation after which clean pictures set the threshold, or ``EVERYTHING`` for all together.
    """
    scores = torch.cat(
        [own for transformation, own in answer.thresholds.items() if set_on in (transformation, EVERYTHING)]
    )
    for each in allowed:
        limit = detect.threshold(scores, each)
        for transformation in answer.honest:
            row = {"detector": name, "transformation": transformation, "allowed": each, "set_on": set_on}
            yield row | {"posted": "clean", "flagged": share(answer.honest[transformation] > limit, honest)}
            for attack, posted in answer.posted[transformation].items():
                yield row | {"posted": attack, "flagged": share(posted > limit, people[attack])}


def accounts_of(
    answer: Asked, people: Mapping[str, Tensor], thresholds: Tensor, honest: Tensor, size: int, allowed: float
) -> Iterator[Row]:
    """One picture of an account against ``size`` of them, by transformation and attack.

    Args:
        answer: What a detector said.
        people: By attack, who is on the posted pictures.
        thresholds: Who is on the pictures that thresholds are set on.
        honest: Who is on those that false alarms are counted on.
        size: Pictures that an account is judged by.
        allowed: Share of false alarms to allow.
    """
    for transformation in answer.honest:
        for pictures in (1, size):
            limit = detect.threshold(
                detect.by_account(answer.thresholds[transformation], thresholds, pictures)[0], allowed
            )
            wrong, whose = detect.by_account(answer.honest[transformation], honest, pictures)
            false_alarms = share(wrong > limit, whose)
            for attack, posted in answer.posted[transformation].items():
                found, users = detect.by_account(posted, people[attack], pictures)
                row = {"attack": attack, "transformation": transformation, "pictures": pictures, "allowed": allowed}
                yield row | {"found": share(found > limit, users), "false_alarms": false_alarms}


def curves_of(
    name: str, answer: Asked, people: Mapping[str, Tensor], honest: Tensor, transformations: Iterable[str]
) -> Iterator[Row]:
    """Points of one detector's ROC curves, from few false alarms to many, of thresholds that all attacks share.

    Args:
        name: The detector's.
        answer: What it said.
        people: By attack, who is on the posted pictures.
        honest: Who is on the pictures that false alarms are counted on.
        transformations: After which there is to be a curve.
    """
    for transformation in transformations:
        clean = answer.honest[transformation]
        for wanted in torch.logspace(-3.5, 0, 22, dtype=torch.float64).tolist():
            n = len(clean)
            limit = float(clean.sort().values[max(0, n - 1 - round(wanted * n))]) if wanted < 1 else -torch.inf
            row: Row = {"detector": name, "transformation": transformation, "threshold": max(limit, -1e9)}
            row["false_alarms"] = share(clean > limit, honest)
            for attack, posted in answer.posted[transformation].items():
                row[attack] = share(posted > limit, people[attack])
            yield row


def at_gallery(data: Data, posts: Pictures) -> Pictures:
    """Of what users post, all of their pictures, the part that the trainer finds in the gallery."""
    places = [(data.pictures.identities == user).nonzero().flatten() for user in posts.people]
    return posts.take(torch.isin(torch.cat(places), data.gallery))


@dataclass(frozen=True)
class Sifting:
    """What a trainer does with a detector's alarms, and how lenient it may be.

    Attributes:
        accurate: The trainer's extractor.
        robust: The one for what is set aside.
        allowed: Shares of false alarms to allow, in turn.
        leaked: Clean pictures of each user that the trainer has besides.
    """

    accurate: Extractor
    robust: Extractor
    allowed: Sequence[float]
    leaked: int


def sifted(
    run: Run, data: Data, posted: Mapping[str, Pictures], score: Score, thresholds: Tensor, how: Sifting
) -> Iterator[Row]:
    """Protection with a detector in front of the recogniser: dropped or set aside, with and without a leak.

    Args:
        run: Told of every attack done.
        data: Pictures, gallery and probes.
        posted: By attack, what users post, all of their pictures.
        score: The detector.
        thresholds: What it says of the clean pictures that thresholds are set on.
        how: What the trainer does.
    """
    clean = score(data.pictures.pixels)
    for attack, each in posted.items():
        posts = at_gallery(data, each)
        some = replace(data, users=posts.people)
        met = {"nothing leaked": posts, "one leaked": game.leaked(some, posts, how.leaked, run.setting.seed)}
        plain = game.play(some, posts, how.accurate)
        for policy, outcome in (("nothing", plain), ("robust for all", game.play(some, posts, how.robust))):
            row = {"attack": attack, "policy": policy, "leak": "nothing leaked", "allowed": 0.0}  # no detector
            yield row | {"protection": outcome.rate, "paid": difference(outcome.clean, plain.clean)}
        for leak, published in met.items():
            for allowed in how.allowed:
                limit = detect.threshold(thresholds, allowed)
                flags = clean > limit, score(published.pixels) > limit
                for policy, network in (("drop", None), ("set aside", how.robust)):
                    outcome = quarantine(some, published, *flags, how.accurate, network)
                    row = {"attack": attack, "policy": policy, "leak": leak, "allowed": allowed}
                    yield row | {"protection": outcome.rate, "paid": difference(outcome.clean, plain.clean)}
        run.say(f"{attack}: sifted")


def sifting(run: Run) -> None:
    """A detector in front of the recogniser, over thresholds: ``sifting.json``."""
    asked, began = run.setting.protocol["sifting"], shipped.begin()
    data = load_data(crowd_setting(run.setting))
    posted = users_poisons(run)
    score = scored(detect.load_detector("network"))
    how = Sifting(load_extractor(asked["trainer"]), load_extractor(asked["robust"]), asked["allowed"], asked["leaked"])
    limits = score(people_of("thresholds").pixels)
    rows = list(sifted(run, data, {attack: posted[attack] for attack in asked["attacks"]}, score, limits, how))
    write(run, "sifting", rows, asked, began)


def evade(
    clean: Tensor,
    surrogates: Sequence[Extractor],
    detector: Detector,
    preset: LowKey,
    how: Mapping[str, float],
    seed: int,
) -> store.Arrays:
    """LowKey that a detector's alarm holds back as well, uint8 (N, 3, H, W) under ``"pixels"``."""
    return {
        "pixels": lowkey(
            clean,
            surrogates,
            preset,
            seed=seed,
            perceptual=detect.Evading(detector, how["weight"], how["visible"], how["margin"]),
        )
    }


def evading_shard(
    clean: Tensor, surrogates: Sequence[Extractor], network: Detector, asked: Mapping[str, Any], seed: int
) -> Shard:
    """LowKey that a detector's alarm holds back as well: uint8 (N, 3, H, W), computed once and then kept.

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
    return replace(clean, pixels=torch.cat([kept.arrays["pixels"] for kept in made]))


def replies(
    data: Data,
    published: Mapping[str, Pictures],
    detectors: Mapping[str, Score],
    thresholds: Tensor,
    honest: Pictures,
    extractor: Extractor,
    allowed: Iterable[float],
) -> Iterator[Row]:
    """Of what users post, with and without a reply to the detector: who finds it, and how well it still protects.

    Args:
        data: Pictures, gallery, probes and the users.
        published: By what tables call it.
        detectors: By name.
        thresholds: Clean pictures that thresholds are set on, uint8 (N, 3, H, W).
        honest: Clean pictures that false alarms are counted on.
        extractor: The trainer's, who has no detector.
        allowed: Shares of false alarms to allow.
    """
    for name, posts in published.items():
        who, clean = posts.identities, data.to_publish(posts.people)
        row: Row = {"posted": name, "protection": game.play(data, posts, extractor).rate}
        row["psnr"] = float(change(clean.pixels, posts.pixels).psnr.mean())
        for detector, score in detectors.items():
            for each in allowed:
                limit = detect.threshold(score(thresholds), each)
                found = {"detector": detector, "allowed": each, "found": share(score(posts.pixels) > limit, who)}
                found["false_alarms"] = share(score(honest.pixels) > limit, honest.identities)
                yield row | found


def evading(run: Run) -> None:
    """LowKey that also fools the detector, and the detector that learns from it: ``evading.json``."""
    asked, began = run.setting.protocol["evading"], shipped.begin()
    whole, setting = run.setting.protocol["detecting"], crowd_setting(run.setting)
    data, network = load_data(setting), detect.load_detector("network")
    users = data.users[: asked["users"]]
    usual = at_gallery(data, users_poisons(run)["lowkey"])
    data, usual = game.among(data, usual, data.users, users)
    surrogates = [load_extractor(name) for name in setting.surrogates]
    reply = craft_replies(run, data.to_publish(usual.people), surrogates, network, asked)
    known = first_taught(asked["people"], whole["poisoned"]["lowkey"][1])
    poisons = {attack: each.pixels for attack, each in taught_poisons(run).items()}
    surrogates = [load_extractor(name) for name in whole["surrogates"]]
    poisons["the reply"] = craft_replies(run, known, surrogates, network, asked).pixels
    recipe = replace(NETWORK, name="network, trained again", draws=asked["draws"])
    again = learnt(run, recipe, people_of("taught").pixels, poisons, network)
    detectors = {each.name: scored(each) for each in (network, detect.load_detector("residual"), again)}
    published = {"lowkey": usual, "lowkey that evades": reply}
    extractor = load_extractor(run.setting.protocol["sifting"]["trainer"])
    clean = people_of("thresholds").pixels, people_of("honest")
    write(run, "evading", list(replies(data, published, detectors, *clean, extractor, whole["allowed"])), asked, began)


if __name__ == "__main__":
    sys.exit(
        script(
            __doc__,
            [
                detectors,
                calibrations,
                detecting,
                detecting_crossed_transformed,
                detecting_crossed_pictures,
                detecting_both,
                detecting_strangers,
                sifting,
                evading,
            ],
        )
    )
