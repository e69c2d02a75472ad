"""What recognisers answered, made into numbers over people: rates, differences and other estimates with intervals."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from facepoison.errors import InputError
from facepoison.intervals import (
    CONFIDENCE,
    area_interval,
    difference_interval,
    median_interval,
    of_two,
    share_interval,
)
from facepoison.store import written_whole


@dataclass(frozen=True)
class Answers:
    """What a recogniser answered to users' clean probes, one row for each probe, users in order.

    Attributes:
        user: Whose round it is, int64 (R,): the only one whose gallery pictures are poisoned.
        probe: Place of the probe among all probes, int64 (R,).
        true: Who is on it, int64 (R,).
        predicted: The identities answered, nearest first, int64 (R, n); -1 where there were no more.
        distance: Their distances, float32 (R, n); of a recogniser that gives probabilities, the negative logarithms.
        k: An answer is right if the true identity is among the first ``k``.
    """

    user: Tensor
    probe: Tensor
    true: Tensor
    predicted: Tensor
    distance: Tensor
    k: int = 1

    def top(self, k: int) -> Answers:
        """The same answers, right if the true identity is among the first ``k``.

        Raises:
            InputError: so many are not held.
        """
        held = self.predicted.shape[1]
        if not 1 <= k <= held:
            raise InputError(f"top {k}: {held} identities are held of each answer; ask for 1 to {held}")
        return replace(self, k=k)

    @property
    def users(self) -> tuple[int, ...]:
        """The users, in the order of the rows."""
        return tuple(dict.fromkeys(self.user.tolist()))

    @property
    def wrong(self) -> Tensor:
        """Whether the true identity is missing from the first ``k``, bool (R,)."""
        return ~(self.predicted[:, : self.k] == self.true[:, None]).any(dim=1)

    @property
    def by_user(self) -> Tensor:
        """Each user's error, float64 (n,), in the order of ``users``."""
        wrong = self.wrong.double()
        return torch.stack([wrong[self.user == user].mean() for user in self.users])


@dataclass(frozen=True)
class Rate:
    """A protection rate, or any error averaged over users, with what it stands on.

    Attributes:
        value: Mean over users of each one's share of wrong answers, 0 to 1.
        n: Users.
        probes: Their probes, all together.
        low: Lower end of the interval for the mean over all users there might be.
        high: Its upper end.
        clean_error: The same for the same users before poisoning; None where the rate is itself clean.
    """

    value: float
    n: int
    probes: int
    low: float
    high: float
    clean_error: Rate | None = None

    def __str__(self) -> str:
        clean = "" if self.clean_error is None else f", clean error {self.clean_error.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n} users, {self.probes} probes{clean})"


@dataclass(frozen=True)
class Estimate:
    """A number over people that is no rate, with its interval: a difference of two rates, a median, an area."""

    value: float
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class Protection:
    """The outcome of the game: what the recogniser answered without poison and, user by user, with it."""

    poisoned: Answers
    clean: Answers

    @cached_property
    def rate(self) -> Rate:
        """The protection rate, its clean error beside it."""
        return rate(self.poisoned, self.clean)

    def top(self, k: int) -> Protection:
        """The same answers, right if the true identity is among the first ``k``; see ``Answers.top``."""
        return Protection(self.poisoned.top(k), self.clean.top(k))


def rate(answers: Answers, clean: Answers | None = None, confidence: float = CONFIDENCE) -> Rate:
    """The error averaged over users, with its interval, beside the same users' clean error where that is given.

    Raises:
        InputError: there are no answers, or the clean ones are about other users.

    Example:
        >>> import torch
        >>> import facepoison as fp
        >>> answers = fp.Answers(
        ...     user=torch.tensor([0, 0, 1, 1]),
        ...     probe=torch.arange(4),
        ...     true=torch.tensor([0, 0, 1, 1]),
        ...     predicted=torch.tensor([[0], [1], [1], [1]]),
        ...     distance=torch.zeros(4, 1),
        ... )
        >>> error = fp.rate(answers)
        >>> error.value, error.n, error.probes
        (0.25, 2, 4)
    """
    if not len(answers.user):
        raise InputError("rate: no answers; a rate needs at least one user with a probe")
    if clean is not None and clean.users != answers.users:
        raise InputError("rate: clean answers are about other users; ask the same users both times")
    errors, probes = answers.by_user, len(answers.user)
    low, high = share_interval(errors.numpy(), probes, confidence)
    before = None if clean is None else rate(clean, None, confidence)
    return Rate(float(errors.mean()), len(errors), probes, low, high, before)


def share(hits: Tensor, people: Tensor, confidence: float = CONFIDENCE) -> Rate:
    """How often something happens, averaged over people, with an interval that counts people as independent.

    Args:
        hits: Whether it happened, bool (N,).
        people: Whom each belongs to, int64 (N,).
        confidence: Of the interval.

    Raises:
        InputError: there are none, or the two differ in length.

    Example:
        >>> import torch
        >>> import facepoison as fp
        >>> hits = fp.share(torch.tensor([True, True, False, True]), torch.tensor([0, 0, 1, 1]))
        >>> hits.value, hits.n
        (0.75, 2)
    """
    shares = by_person(hits, people)
    low, high = share_interval(shares.numpy(), len(hits), confidence)
    return Rate(float(shares.mean()), len(shares), len(hits), low, high)


def median_of_people(values: Tensor, people: Tensor, confidence: float = CONFIDENCE) -> Estimate:
    """The median over people of what was measured on their pictures, of which each person has the mean.

    Args:
        values: Of each picture, (N,).
        people: Whose it is, int64 (N,).
        confidence: Of the interval; see ``intervals.median_interval``.

    Raises:
        InputError: there are none, or the two differ in length.
    """
    means = by_person(values, people)
    return Estimate(float(means.quantile(0.5)), len(means), *median_interval(means.tolist(), confidence))


def area_of_people(clean: Tensor, poisoned: Tensor, people: Tensor) -> Estimate:
    """``detect.area`` of the same people's clean and poisoned pictures with its interval over people.

    Args:
        clean: Scores (N,).
        poisoned: Scores of the poisoned counterparts (N,).
        people: Whose they are, int64 (N,).
    """
    who = people.tolist()
    value, low, high = area_interval(clean.tolist(), who, poisoned.tolist(), who)
    return Estimate(value, len(set(who)), low, high)


def rank_one(gallery: Tensor, labels: Tensor, probes: Tensor, probe_labels: Tensor) -> Rate:
    """Share of clean probes whose nearest gallery picture shows the right person, averaged over people.

    Args:
        gallery: Of the gallery's pictures (G, D): embeddings, or any numbers that pictures are to be compared by.
        labels: Who is on them, int64 (G,).
        probes: Of the probes (P, D).
        probe_labels: Who is on them, int64 (P,).

    Example:
        >>> import facepoison as fp
        >>> faces = fp.make_pictures("examples", 4, 3, 64, seed=1)
        >>> embeddings = fp.embed(fp.load_extractor("deepid_2014", "cpu"), faces.pixels)
        >>> gallery, probes = fp.split(faces, seed=1)
        >>> who = faces.identities
        >>> right = fp.rank_one(embeddings[gallery], who[gallery], embeddings[probes], who[probes])
        >>> right.value, right.n
        (1.0, 4)
    """
    return share(named_right(gallery, labels, probes, probe_labels), probe_labels)


def named_right(gallery: Tensor, labels: Tensor, probes: Tensor, probe_labels: Tensor) -> Tensor:
    """Whether the gallery picture nearest to each clean probe shows the right person, bool (P,); see ``rank_one``."""
    return labels[torch.cdist(probes, gallery).argmin(dim=1)] == probe_labels


def by_person(values: Tensor, people: Tensor) -> Tensor:
    """Each person's mean of something measured on pictures, float64 (n,), in ascending order of their numbers.

    Args:
        values: Of each picture, numbers or truth values (N,).
        people: Whose it is, int64 (N,).

    Raises:
        InputError: there are none, or the two differ in length.
    """
    if not len(values) or values.shape != people.shape:
        raise InputError(f"{tuple(values.shape)} values of {tuple(people.shape)} people; give one person each")
    return torch.stack([values[people == person].double().mean() for person in people.unique()])  # type: ignore[no-untyped-call]


def difference(a: Answers, b: Answers, confidence: float = CONFIDENCE) -> Estimate:
    """How much larger the users' errors are in ``a`` than in ``b``, paired by user.

    Raises:
        InputError: the users are not the same.

    Example:
        >>> from dataclasses import replace
        >>> import torch
        >>> import facepoison as fp
        >>> who = torch.tensor([0, 0, 1, 1])
        >>> right = fp.Answers(who, torch.arange(4), who, who[:, None], torch.zeros(4, 1))
        >>> wrong = replace(right, predicted=torch.tensor([[0], [1], [1], [1]]))
        >>> fp.difference(wrong, right).value
        0.25
    """
    if not len(a.user) or a.users != b.users:
        raise InputError("difference: the two are about different users; ask the same users both times")
    return paired(a.by_user, b.by_user, confidence)


def paired(
    first: Tensor | Sequence[float], second: Tensor | Sequence[float], confidence: float = CONFIDENCE
) -> Estimate:
    """The mean over people of one share less another of the same person; see ``intervals.difference_interval``.

    Args:
        first: Each person's share (n,), 0 to 1.
        second: The other, of the same people in the same order.
        confidence: Of the interval.

    Raises:
        InputError: they differ in number, or there are none.
    """
    one, other = (torch.as_tensor(each, dtype=torch.float64) for each in (first, second))
    if one.shape != other.shape or not len(one):
        raise InputError(f"difference: {len(one)} people and {len(other)}; give both shares of each")
    gaps = (one - other).tolist()
    return Estimate(sum(gaps) / len(gaps), len(gaps), *difference_interval(gaps, confidence))


def apart(first: Rate | Estimate, second: Rate | Estimate) -> Estimate:
    """One rate less another where nothing but their intervals is known; see ``intervals.of_two``.

    Of the same people they rise and fall together, and the interval is wider than it need be.
    """
    ends = of_two((first.value, first.low, first.high), (second.value, second.low, second.high))
    return Estimate(first.value - second.value, min(first.n, second.n), *ends)


def write_answers(path: Path, results: Mapping[tuple[str, str, str], Protection], seed: int) -> None:
    """Write every answer to every probe as a CSV file, a row for each, whole or not at all.

    Of several identities answered the nearest is written. People are numbered, not named: they may be real.

    Args:
        path: The file.
        results: By attack, extractor and recogniser, which are columns.
        seed: Another column.

    Raises:
        InputError: the file cannot be written.
    """
    with written_whole(path) as scratch, scratch.open("w", newline="") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(["user", "probe", "true", "predicted", "distance", "attack", "extractor", "recogniser", "seed"])
        for how, result in results.items():
            answers = result.poisoned
            columns = (answers.user, answers.probe, answers.true, answers.predicted[:, 0], answers.distance[:, 0])
            for *who, distance in zip(*(column.tolist() for column in columns), strict=True):
                table.writerow([*who, f"{distance:.6f}", *how, seed])
