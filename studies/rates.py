"""Rows of rates, which studies of real people keep in place of scores: what is found, by whom, at which threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from facepoison import detect, game
from facepoison.attacks.similarity import change
from facepoison.errors import InputError
from facepoison.evaluation import difference, share
from facepoison.extractors import Extractor
from facepoison.pictures import Pictures
from facepoison.pictures.transforms import TRANSFORMATIONS, transform
from facepoison.protocol import Data
from facepoison.trainer import quarantine
from studies.common import Run, at_gallery

EVERYTHING = "everything"  # one threshold, set on clean pictures after every transformation
Score = Callable[[Tensor], Tensor]
Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """Scores of one detector by transformation: of two sets of clean pictures, and of what is posted, by attack.

    Attributes:
        thresholds: By transformation, of the people thresholds are set on.
        non_poisoning: By transformation, of the people false alarms are counted on.
        posted: By transformation and attack.
    """

    thresholds: dict[str, Tensor]
    non_poisoning: dict[str, Tensor]
    posted: dict[str, dict[str, Tensor]]


def ask(
    run: Run,
    detectors: Mapping[str, Score],
    thresholds: Pictures,
    non_poisoning: Pictures,
    posted: Mapping[str, Pictures],
    few: Mapping[str, tuple[str, ...]],
) -> dict[str, Asked]:
    """What detectors say of clean pictures and of posted ones after every transformation.

    Args:
        run: Told of every transformation done.
        detectors: By name.
        thresholds: Clean pictures that thresholds are set on.
        non_poisoning: Clean pictures that false alarms are counted on.
        posted: By attack.
        few: By detector the transformations that it is asked about, if not all.
    """
    answers = {name: Asked({}, {}, {}) for name in detectors}
    wanted = {transformation for name in detectors for transformation in few.get(name, tuple(TRANSFORMATIONS))}
    for transformation in (each for each in TRANSFORMATIONS if each in wanted):
        sets = {
            "thresholds": transform(thresholds.pixels, transformation),
            "non-poisoning": transform(non_poisoning.pixels, transformation),
        }
        posts = {attack: transform(each.pixels, transformation) for attack, each in posted.items()}
        for name, score in detectors.items():
            if transformation in few.get(name, tuple(TRANSFORMATIONS)):
                answers[name].thresholds[transformation] = score(sets["thresholds"])
                answers[name].non_poisoning[transformation] = score(sets["non-poisoning"])
                answers[name].posted[transformation] = {attack: score(pixels) for attack, pixels in posts.items()}
        run.say(f"{transformation}: asked")
    return answers


def rows_of(
    name: str, answer: Asked, people: Mapping[str, Tensor], non_poisoning: Tensor, allowed: list[float]
) -> Iterator[Row]:
    """Rows of one detector: for each transformation, attack and share of false alarms allowed, what is found.

    Thresholds are set on clean pictures transformed in the same way.

    Args:
        name: The detector's.
        answer: What it said.
        people: By attack, who is on the posted pictures.
        non_poisoning: Who is on the pictures that false alarms are counted on.
        allowed: Shares of false alarms to allow.
    """
    for transformation, clean in answer.thresholds.items():
        for attack, posted in answer.posted[transformation].items():
            area = detect.area(answer.non_poisoning[transformation], posted)
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
                row["false_alarms"] = share(answer.non_poisoning[transformation] > limit, non_poisoning)
                if transformation == "untransformed":  # so that one user's share can be made again and compared
                    row["by_user"] = [
                        float((posted[people[attack] == who] > limit).float().mean()) for who in _order(people[attack])
                    ]
                yield row


def table_of(
    answers: Mapping[str, Asked], posted: Mapping[str, Pictures], non_poisoning: Pictures, allowed: list[float]
) -> list[Row]:
    """The rows of ``rows_of`` for one detector after the other, all asked about the same pictures."""
    sides = {attack: each.identities for attack, each in posted.items()}, non_poisoning.identities
    return [row for name, answer in answers.items() for row in rows_of(name, answer, *sides, allowed)]


def _order(people: Tensor) -> list[int]:
    """Who is on pictures, in the order of first appearance."""
    return list(dict.fromkeys(people.tolist()))


def mean_of(*scores: Score) -> Score:
    """How poisoned pictures look to several networks together: the mean of their logits, each counting alike."""
    return lambda pixels: torch.stack([score(pixels) for score in scores]).mean(dim=0)


def flagged_of(
    name: str,
    answer: Asked,
    people: Mapping[str, Tensor],
    non_poisoning: Tensor,
    allowed: Iterable[float],
    set_on: str = EVERYTHING,
) -> Iterator[Row]:
    """Whom one threshold flags, after every transformation: of clean pictures and of posted ones.

    Args:
        name: The detector's.
        answer: What it said.
        people: By attack, who is on the posted pictures.
        non_poisoning: Who is on the pictures that false alarms are counted on.
        allowed: Shares of false alarms to allow.
        set_on: The transformation after which clean pictures set the threshold, or ``EVERYTHING`` for all together.
    """
    scores = torch.cat(
        [own for transformation, own in answer.thresholds.items() if set_on in (transformation, EVERYTHING)]
    )
    for each in allowed:
        limit = detect.threshold(scores, each)
        for transformation in answer.non_poisoning:
            row = {"detector": name, "transformation": transformation, "allowed": each, "set_on": set_on}
            wrong = answer.non_poisoning[transformation] > limit
            yield row | {"posted": "clean", "flagged": share(wrong, non_poisoning)}
            for attack, posted in answer.posted[transformation].items():
                yield row | {"posted": attack, "flagged": share(posted > limit, people[attack])}


def by_account(logits: Tensor, people: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """One score for every ``size`` pictures of an account: the mean of their logits, cut to +-10.

    Args:
        logits: Scores (N,).
        people: Whose pictures they are, int64 (N,).
        size: Pictures that are judged together; what is left over is not.

    Returns:
        The scores (A,), and whose accounts they are, int64 (A,).

    Raises:
        InputError: nobody has so many pictures.
    """
    found, owners = [], []
    for person in people.unique().tolist():  # type: ignore[no-untyped-call]
        own = logits[people == person].clamp(-10, 10)
        whole = own[: len(own) // size * size].view(-1, size).mean(dim=1)
        found.append(whole)
        owners += [person] * len(whole)
    if not owners:
        raise InputError(f"accounts: nobody has {size} pictures; judge them by fewer")
    return torch.cat(found), torch.tensor(owners)


def accounts_of(
    answer: Asked, people: Mapping[str, Tensor], thresholds: Tensor, non_poisoning: Tensor, size: int, allowed: float
) -> Iterator[Row]:
    """One picture of an account against ``size`` of them, by transformation and attack.

    Args:
        answer: What a detector said.
        people: By attack, who is on the posted pictures.
        thresholds: Who is on the pictures that thresholds are set on.
        non_poisoning: Who is on those that false alarms are counted on.
        size: Pictures that an account is judged by.
        allowed: Share of false alarms to allow.
    """
    for transformation in answer.non_poisoning:
        for pictures in (1, size):
            limit = detect.threshold(by_account(answer.thresholds[transformation], thresholds, pictures)[0], allowed)
            wrong, whose = by_account(answer.non_poisoning[transformation], non_poisoning, pictures)
            false_alarms = share(wrong > limit, whose)
            for attack, posted in answer.posted[transformation].items():
                found, users = by_account(posted, people[attack], pictures)
                row = {"attack": attack, "transformation": transformation, "pictures": pictures, "allowed": allowed}
                yield row | {"found": share(found > limit, users), "false_alarms": false_alarms}


def curves_of(
    name: str, answer: Asked, people: Mapping[str, Tensor], non_poisoning: Tensor, transformations: Iterable[str]
) -> Iterator[Row]:
    """Points of one detector's ROC curves, from few false alarms to many, of thresholds that all attacks share.

    Args:
        name: The detector's.
        answer: What it said.
        people: By attack, who is on the posted pictures.
        non_poisoning: Who is on the pictures that false alarms are counted on.
        transformations: After which there is to be a curve.
    """
    for transformation in transformations:
        clean = answer.non_poisoning[transformation]
        for wanted in torch.logspace(-3.5, 0, 22, dtype=torch.float64).tolist():
            n = len(clean)
            limit = float(clean.sort().values[max(0, n - 1 - round(wanted * n))]) if wanted < 1 else -torch.inf
            row: Row = {"detector": name, "transformation": transformation, "threshold": max(limit, -1e9)}
            row["false_alarms"] = share(clean > limit, non_poisoning)
            for attack, posted in answer.posted[transformation].items():
                row[attack] = share(posted > limit, people[attack])
            yield row


@dataclass(frozen=True)
class Quarantine:
    """What a trainer does with a detector's alarms, and how lenient it may be.

    Attributes:
        accurate: The trainer's extractor.
        robust: The one for what is quarantined.
        allowed: Shares of false alarms to allow, in turn.
        leaked: Clean pictures of each user that the trainer has besides.
    """

    accurate: Extractor
    robust: Extractor
    allowed: Sequence[float]
    leaked: int


def quarantined(
    run: Run, data: Data, posted: Mapping[str, Pictures], score: Score, thresholds: Tensor, how: Quarantine
) -> Iterator[Row]:
    """Protection with a detector in front of the recogniser: flagged pictures dropped or quarantined, a leak or none.

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
        run.say(f"{attack}: quarantined")


def replies(
    data: Data,
    published: Mapping[str, Pictures],
    detectors: Mapping[str, Score],
    thresholds: Tensor,
    non_poisoning: Pictures,
    extractor: Extractor,
    allowed: Iterable[float],
) -> Iterator[Row]:
    """Of what users post, with and without a reply to the detector: who finds it, and how well it still protects.

    Args:
        data: Pictures, gallery, probes and the users.
        published: By what tables call it.
        detectors: By name.
        thresholds: Clean pictures that thresholds are set on, uint8 (N, 3, H, W).
        non_poisoning: Clean pictures that false alarms are counted on.
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
                found["false_alarms"] = share(score(non_poisoning.pixels) > limit, non_poisoning.identities)
                yield row | found
