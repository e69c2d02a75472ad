"""The oblivious trainer: waits for better extractors, and runs them over pictures that were poisoned long ago."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from scipy import stats
from torch import Tensor

from facepoison.attacks.base import Progress
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.experiment import play
from facepoison.extractors import Extractor
from facepoison.pictures import Pictures
from facepoison.protection import Protection
from facepoison.protocol import Data
from facepoison.recognition import Recogniser


def by_extractor(
    data: Data,
    posts: Mapping[str, Pictures],
    networks: Mapping[str, Extractor],
    recogniser: Recogniser = "nearest",
    progress: Progress | None = None,
) -> dict[tuple[str, str], Protection]:
    """The same published pictures before one extractor after the other.

    Args:
        data: Pictures, gallery, probes and users.
        posts: By attack, what the users publish.
        networks: By name, the extractors that the trainer comes to have.
        recogniser: What the trainer does with the embeddings.
        progress: Told of every pair of attack and extractor done.

    Returns:
        The outcome by attack and extractor.
    """
    results: dict[tuple[str, str], Protection] = {}
    for attack, name in itertools.product(posts, networks):
        results[attack, name] = play(data, posts[attack], networks[name], recogniser=recogniser)
        if progress:
            progress(len(results), len(posts) * len(networks))
    return results


def _some(posts: Pictures, count: Callable[[int], int], seed: int, purpose: str) -> Tensor:
    """For each user some of their pictures, drawn by seed: bool (M,); ``count`` says how many of how many.

    A larger count takes the same pictures and more.
    """
    chosen = torch.zeros(len(posts), dtype=torch.bool)
    for user in posts.people:
        places = (posts.identities == user).nonzero().flatten()
        order = torch.randperm(len(places), generator=generator(seed, purpose, posts.names[user]))
        chosen[places[order[: count(len(places))]]] = True
    return chosen


def switched(old: Pictures, new: Pictures, share: float, seed: int) -> Pictures:
    """What users publish who change to another attack: ``share`` of their pictures come later and carry the new poison.

    Raises:
        InputError: the two are not of the same people, or the share is not between 0 and 1.
    """
    if not torch.equal(old.identities, new.identities) or not 0 <= share <= 1:
        raise InputError(f"switched: share {share}, {len(old)} and {len(new)} pictures; give the same people's")
    later = _some(old, lambda n: round(share * n), seed, "switch")
    return replace(old, pixels=torch.where(later[:, None, None, None], new.pixels, old.pixels))


def leaked(data: Data, posts: Pictures, n: int, seed: int) -> Pictures:
    """What the trainer has of users of whom ``n`` pictures, or all if they have no more, got out without poison.

    Raises:
        InputError: ``n`` is negative.
    """
    if n < 0:
        raise InputError(f"leaked: {n} clean pictures; give 0 or more")
    clean = _some(posts, lambda own: min(n, own), seed, "leak")
    originals = data.to_publish(posts.people).pixels
    return replace(posts, pixels=torch.where(clean[:, None, None, None], originals, posts.pixels))


def among(data: Data, posts: Pictures, people: Sequence[int], users: Sequence[int]) -> tuple[Data, Pictures]:
    """Some users among some of the people: the data without everybody else's pictures, and what these users publish.

    Raises:
        InputError: a user is not among the people.
    """
    if not set(users) <= set(people):
        raise InputError(f"among: users {sorted(set(users) - set(people))} are not among the people; take them in")
    identities, here = data.pictures.identities, torch.tensor(people)
    gallery, probes = (side[torch.isin(identities[side], here)] for side in (data.gallery, data.probes))
    few = replace(data, gallery=gallery, probes=probes, users=tuple(users))
    return few, posts.take(torch.isin(posts.identities, torch.tensor(users)))


def answers_in_words(name: str, answers: Mapping[str, Sequence[bool]]) -> str:
    """How many probes an extractor names by attack, as a sentence for those who do not see the picture."""
    said = [f"{sum(right)} of {len(right)} probes despite {attack}" for attack, right in answers.items()]
    return f"{name} names {' and '.join(said)}."


CHANGES = {
    "architecture": ("same", "other"),
    "identities": ("same", "other"),
    "augmentation": ("same", "stronger"),
    "people": ("300", "900"),
}
"""Levels of the factors of the study ``carrying``, compared with the surrogate, as tables show them."""


@dataclass(frozen=True)
class Effect:
    """What a factor does: the mean at its second level minus that at its first, with a 95 % interval."""

    factor: str
    value: float
    low: float
    high: float
    n: int


def half_factorial(factors: Sequence[str]) -> list[dict[str, int]]:
    """All runs of half a factorial in two levels, 0 and 1, each with a level for every factor.

    The last factor's level is the product of the others' (as signs), so that every factor is seen at both levels
    equally often and none goes along with another; effects of pairs of factors go along with those of other pairs, and
    single ones with those of all others together (Box, Hunter and Hunter 2005, chapter 6).
    """
    runs = []
    for levels in itertools.product((0, 1), repeat=len(factors) - 1):
        sign = 1
        for level in levels:
            sign *= 2 * level - 1
        runs.append(dict(zip(factors, (*levels, (sign + 1) // 2), strict=True)))
    return runs


def effects(levels: Sequence[Mapping[str, int]], response: Iterable[float], confidence: float = 0.95) -> list[Effect]:
    """Main effects in a balanced design of two levels, by least squares; what they leave over is taken as error.

    The error may be larger at one level of a factor than at the other: as in Welch's test (Biometrika 34, 1947) the
    degrees of freedom of Student's t are those that Satterthwaite's rule gives, all of them where both are alike and
    half where one level has all of the error.

    Args:
        levels: Of each run, 0 or 1 by factor.
        response: Of each run.
        confidence: Of the intervals.

    Raises:
        InputError: there are too few runs to tell effects from error, or their numbers differ.
    """
    factors = list(levels[0]) if levels else []
    y = torch.tensor(list(response), dtype=torch.float64)
    free = len(y) - len(factors) - 1
    if len(levels) != len(y) or free < 1:
        raise InputError(f"effects: {len(levels)} runs, {len(y)} responses, {len(factors)} factors; give more runs")
    x = torch.tensor([[1.0, *(2 * run[factor] - 1 for factor in factors)] for run in levels], dtype=torch.float64)
    found = torch.linalg.lstsq(x, y).solution
    left = (y - x @ found).square()
    error = 2 * float(left.sum() / free / len(y)) ** 0.5
    effects = []
    for place, factor in enumerate(factors, start=1):
        one, other = (float(left[x[:, place] == side].sum()) for side in (-1, 1))
        known = free / 2 * (one + other) ** 2 / (one**2 + other**2) if one + other else free
        value, margin = 2 * float(found[place]), float(stats.t.ppf((1 + confidence) / 2, known)) * error
        effects.append(Effect(factor, value, value - margin, value + margin, len(y)))
    return effects
