"""The protocol: one user at a time poisons, and the rate at which the recogniser then fails on that user."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from facepoison.errors import InputError
from facepoison.intervals import (
    CONFIDENCE,
    area_interval,
    difference_interval,
    mean_of,
    median_interval,
    of_two,
    share_interval,
)
from facepoison.recognition import Metric, Recogniser, closest, identity_distances, linear_rounds
from facepoison.store import written_whole


@dataclass(frozen=True)
class Answers:
    """What a recogniser answered to users' clean probes, one row for each probe, users in order.

    Attributes:
        user: Whose round it is, int64 (R,): the only one whose gallery pictures are poisoned.
        probe: Place of the probe among all probes, int64 (R,).
        true: Who is on it, int64 (R,).
        predicted: The identities answered, nearest first, int64 (R, k).
        distance: Their distances, float32 (R, k); of a recogniser that gives probabilities, the negative logarithms.
    """

    user: Tensor
    probe: Tensor
    true: Tensor
    predicted: Tensor
    distance: Tensor

    @property
    def users(self) -> tuple[int, ...]:
        """The users, in the order of the rows."""
        return tuple(dict.fromkeys(self.user.tolist()))

    @property
    def wrong(self) -> Tensor:
        """Whether the true identity is missing from a probe's answers, bool (R,)."""
        return ~(self.predicted == self.true[:, None]).any(dim=1)

    @property
    def by_user(self) -> Tensor:
        """Each user's error, float64 (n,), in the order of ``users``."""
        return torch.stack([self.wrong[self.user == user].double().mean() for user in self.users])


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
    """The outcome of the protocol: the rate, and the answers with and without poison that it comes from."""

    rate: Rate
    poisoned: Answers
    clean: Answers


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


def averaged(rates: Iterable[Rate]) -> Estimate:
    """The mean of several rates of the same people; see ``intervals.mean_of``."""
    known = list(rates)
    ends = mean_of((each.value, each.low, each.high) for each in known)
    return Estimate(sum(each.value for each in known) / len(known), min(each.n for each in known), *ends)


def named(result: Protection, user: int) -> list[bool]:
    """For each of a user's clean probes whether the recogniser gave it the right name although the user poisons."""
    own = result.poisoned.user == user
    right: list[bool] = (result.poisoned.predicted[own, 0] == result.poisoned.true[own]).tolist()
    return right


def own_probes(probe_labels: Tensor, users: Iterable[int]) -> list[Tensor]:
    """Places of each user's probes, int64, by the identities on all probes, int64 (P,)."""
    return [(probe_labels == user).nonzero().flatten() for user in users]


def compared(
    users: Sequence[int],
    own: Sequence[Tensor],
    before: Tensor,
    after: Tensor,
    *,
    k: int = 1,
    confidence: float = CONFIDENCE,
) -> Protection:
    """The outcome of the protocol, whatever the recogniser, from what it says of the users' probes in the two rounds.

    Args:
        users: Who poisons, one at a time.
        own: Places of each one's probes, int64.
        before: How far every identity is from the users' probes in the clean round, lower being nearer (R, n): rows of
            the first user, then of the second, and so on; infinite for identities not in the gallery.
        after: The same, each user's rows in that user's own round.
        k: An answer is right if the true identity is among the ``k`` nearest.
        confidence: Of the intervals.

    Raises:
        InputError: ``k`` is out of range.
    """
    probe = torch.cat(list(own)).cpu()
    true = torch.tensor([user for user, places in zip(users, own, strict=True) for _ in range(len(places))])

    def answers(distances: Tensor) -> Answers:
        found = closest(distances, k)
        return Answers(true, probe, true.clone(), found.labels.cpu(), found.distances.cpu())

    poisoned, clean = answers(after), answers(before)
    return Protection(rate(poisoned, clean, confidence), poisoned, clean)


def protection(
    gallery: Tensor,
    labels: Tensor,
    probes: Tensor,
    probe_labels: Tensor,
    poisoned: Mapping[int, Tensor],
    *,
    k: int = 1,
    metric: Metric = "euclidean",
    recogniser: Recogniser = "nearest",
    confidence: float = CONFIDENCE,
    linear: Callable[..., tuple[Tensor, Tensor]] | None = None,
) -> Protection:
    """Play the protocol with a recogniser of embeddings, one user after the other.

    In a user's round all of that user's gallery pictures are poisoned and everybody else's are clean; the recogniser is
    asked about that user's clean probes.

    Args:
        gallery: Clean unit embeddings of everyone's gallery pictures (G, D).
        labels: Their identities, int64 (G,), not negative.
        probes: Clean unit embeddings of everyone's probes (P, D).
        probe_labels: Their identities, int64 (P,).
        poisoned: For each user the unit embeddings (g, D) of all their gallery pictures as published.
        k: An answer is right if the true identity is among the ``k`` nearest, or most probable.
        metric: Of the nearest neighbour, as in ``recognition.identity_distances``; the linear recogniser has none.
        recogniser: ``"nearest"`` neighbour, or ``"linear"``: a logistic regression for each round
            (``recognition.fit_linear``), whose distances are negative log-probabilities.
        confidence: Of the intervals.
        linear: What plays the linear recogniser's rounds, called as ``recognition.linear_rounds`` is, which does so by
            default; put a remembering one here.

    Raises:
        InputError: embeddings or labels are wrong, there is no user, a user has no probe, no gallery picture, or
            another number of poisoned embeddings than of gallery pictures, or the recogniser is unknown.

    Example:
        >>> import torch
        >>> import facepoison as fp
        >>> clean, who = torch.eye(2), torch.tensor([0, 1])
        >>> result = fp.measure_protection(clean, who, clean, who, {0: torch.tensor([[-1.0, 0.0]])})
        >>> result.rate.value, result.rate.clean_error.value
        (1.0, 0.0)
        >>> result.poisoned.predicted.tolist()
        [[1]]
    """
    check_rounds(labels, probes, probe_labels, poisoned)
    users, own = tuple(poisoned), own_probes(probe_labels, poisoned)
    asked = [probes[places] for places in own]
    if recogniser == "nearest":
        before, after = _nearest_rounds(gallery, labels, asked, poisoned, metric)
    elif recogniser == "linear":
        before, after = (linear or linear_rounds)(gallery, labels, asked, poisoned)
    else:
        raise InputError(f"recogniser '{recogniser}': unknown; use nearest or linear")
    return compared(users, own, before, after, k=k, confidence=confidence)


def check_rounds(labels: Tensor, probes: Tensor, probe_labels: Tensor, poisoned: Mapping[int, Tensor]) -> None:
    """Refuse rounds that cannot be played: see ``protection``; ``probes`` may be embeddings or pictures.

    Raises:
        InputError: saying which.
    """
    if not poisoned:
        raise InputError("protection: no user; give what at least one of them publishes")
    if probe_labels.dtype != torch.int64 or probe_labels.shape != probes.shape[:1]:
        got = f"{probe_labels.dtype} {tuple(probe_labels.shape)}"
        raise InputError(f"probes: {len(probes)} given, labels {got}; one int64 each")
    for (user, published), places in zip(poisoned.items(), own_probes(probe_labels, poisoned), strict=True):
        pictures = int((labels == user).sum())
        if not pictures or not len(places):
            raise InputError(f"user {user}: {pictures} gallery pictures and {len(places)} probes; needs one of each")
        if len(published) != pictures:
            raise InputError(f"user {user}: {len(published)} poisoned of {pictures} gallery pictures; poison all")


def _nearest_rounds(
    gallery: Tensor, labels: Tensor, asked: Sequence[Tensor], poisoned: Mapping[int, Tensor], metric: Metric
) -> tuple[Tensor, Tensor]:
    """Distances of the users' probes without and with poison, as ``compared`` takes them.

    Those to the clean gallery are computed once; each round replaces one column of them, its user's.
    """
    before = identity_distances(gallery, labels, torch.cat(list(asked)), int(labels.max()) + 1, metric)
    after = before.clone()
    start = 0
    for (user, embeddings), probes in zip(poisoned.items(), asked, strict=True):
        rows = slice(start, start + len(probes))
        zeros = torch.zeros(len(embeddings), dtype=torch.int64, device=embeddings.device)
        after[rows, user] = identity_distances(embeddings, zeros, probes, 1, metric)[:, 0]
        start = rows.stop
    return before, after


def write_answers(path: Path, tables: Sequence[tuple[Answers, Mapping[str, object]]], names: Sequence[str]) -> None:
    """Write answers as a CSV file, a row for each probe, whole or not at all.

    Args:
        path: The file.
        tables: Answers, each with further columns that are the same for all its rows, e.g. extractor, attack,
            recogniser, seed: the same columns for all. Of several predicted identities the nearest is written.
        names: Names of the identities by their numbers.

    Raises:
        InputError: the file cannot be written, or the columns differ.
    """
    columns = list(tables[0][1]) if tables else []
    if any(list(more) != columns for _, more in tables):
        raise InputError(f"table: every part needs the columns {', '.join(columns)}")
    with written_whole(path) as scratch, scratch.open("w", newline="") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(["user", "probe", "true", "predicted", "distance", *columns])
        for answers, more in tables:
            rows = zip(
                answers.user.tolist(),
                answers.probe.tolist(),
                answers.true.tolist(),
                answers.predicted[:, 0].tolist(),
                answers.distance[:, 0].tolist(),
                strict=True,
            )
            for user, probe, true, predicted, distance in rows:
                table.writerow([names[user], probe, names[true], names[predicted], f"{distance:.6f}", *more.values()])
