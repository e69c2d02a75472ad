"""Intervals over people: how far a number measured on some of them may be from that of all there might be.

People are the independent units; pictures of one person are not. Every method here was simulated
(``benchmarks/coverage.py``, shown in the appendix on intervals). Functions whose names end in ``_ends`` take many
samples at once, which is what the simulation does; the others take one sample and refuse bad input.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from facepoison.errors import InputError

CONFIDENCE = 0.95
MANY = 10  # pictures a person; the simulation vouches for Korn and Graubard's interval up to here

Numbers: TypeAlias = NDArray[np.float64]
WithEnds: TypeAlias = tuple[float, float, float]
"""A value with the lower and the upper end of its interval."""

_STEP = 0.05  # of the trapezoidal rule below: ends are right to 1e-6
_PLACES = np.arange(0.0, 6.0, _STEP)
_HALVINGS = 32  # of the bracket of a root


def unseen(mean: float, n: int, lowest: float, highest: float, confidence: float) -> tuple[float, float]:
    """How far a mean over ``n`` people can be off just because some kind of person was not among them.

    With the given confidence (half of the rest on either side) at most a share q = 1 - ((1 - confidence) / 2)^(1 / n)
    of all people is of a kind that did not turn up; those may have any value from ``lowest`` to ``highest``. At a mean
    of 0 or 1 of a rate this is the exact binomial interval (Clopper and Pearson, 1934) with people as trials.
    """
    q = 1 - ((1 - confidence) / 2) ** (1 / n)
    return mean - q * (mean - lowest), mean + q * (highest - mean)


def share_interval(by_person: ArrayLike, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval for the mean over people of each one's share, such as the share of a user's probes that fail.

    Up to ``MANY`` pictures a person it is Korn and Graubard's (Survey Methodology 24, 1998), see ``effective_ends``.
    The variance over people is small by luck where a rare kind of person did not turn up; the interval is therefore
    never narrower than ``unseen`` allows. With more pictures a person that luck is worse, and it is Gaffke's: see
    ``bounded_ends``. At 0 and 1 both are the exact binomial interval with people as trials.

    Args:
        by_person: Each person's share (n,), 0 to 1.
        trials: Pictures or probes of all of them together, at least one a person.
        confidence: 0.95 for a 95 % interval.

    Returns:
        The lower and the upper end, within [0, 1].

    Raises:
        InputError: no people, fewer trials than people, shares out of range, or a confidence that is no probability.
    """
    shares = _sample(by_person, "share_interval", confidence)
    n = len(shares)
    if trials < n or shares.min() < 0 or shares.max() > 1:
        raise InputError(f"share_interval: {n} people, {trials} trials; give a trial or more a person, shares in 0..1")
    mean = float(shares.mean())
    low, high = unseen(mean, n, 0.0, 1.0, confidence)
    if n == 1:  # one person says next to nothing about others
        return low if mean == 1 else 0.0, high if mean == 0 else 1.0
    if trials > MANY * n and 0 < mean < 1:
        values, counts = np.unique(shares, return_counts=True)
        below, above = bounded_ends(values, counts, 0.0, 1.0, confidence)
        return float(below), float(above)
    below, above = effective_ends(mean, shares.var(ddof=1) / n, n, trials, confidence)
    return min(low, float(below)), max(high, float(above))


def difference_interval(gaps: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval for the mean over people of the difference of two shares of the same person.

    Gaffke's: see ``bounded_ends``. Where nobody differs it is as wide as the share of people who may differ unseen:
    0.2 points to either side for 2,000 people, 3.6 for 100.

    Args:
        gaps: Each person's difference (n,), -1 to 1.
        confidence: 0.95 for a 95 % interval.

    Returns:
        The lower and the upper end, within [-1, 1].

    Raises:
        InputError: no people, differences out of range, or a confidence that is no probability.
    """
    sample = _sample(gaps, "difference_interval", confidence)
    if np.abs(sample).max() > 1:
        raise InputError(f"difference_interval: up to {np.abs(sample).max():.3g}; give differences in -1..1")
    values, counts = np.unique(sample, return_counts=True)
    low, high = bounded_ends(values, counts, -1.0, 1.0, confidence)
    return float(low), float(high)


def median_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval for the median over people of a quantity without bounds, such as decibels, levels or a cosine.

    The ends are people's own values, as many from the bottom and the top as a fair coin allows (Thompson, Annals of
    Mathematical Statistics 7, 1936). It assumes nothing but people who are independent. A mean cannot have that:
    without bounds no interval holds for every distribution (Bahadur and Savage, same annals 27, 1956).

    Args:
        values: Each person's (n,), finite.
        confidence: 0.95 for a 95 % interval.

    Returns:
        The lower and the upper end; infinite where people are too few, at 95 % fewer than six.

    Raises:
        InputError: no people, values that are not finite, or a confidence that is no probability.
    """
    low, high = median_ends(_sample(values, "median_interval", confidence), confidence)
    return float(low), float(high)


def area_interval(
    clean: ArrayLike,
    clean_people: ArrayLike,
    poisoned: ArrayLike,
    poisoned_people: ArrayLike,
    confidence: float = CONFIDENCE,
) -> WithEnds:
    """Area under a detector's ROC curve with an interval over people, who may stand on both sides.

    The variance over people (Obuchowski, Biometrics 53, 1997) gives an effective sample size, which goes into Clopper
    and Pearson's interval as Korn and Graubard do it for shares. That variance is small by luck where a few people are
    never found and hardly any of them turned up; with ``unseen`` alone coverage was under 94 % there. With equally many
    pictures of each person the area is also the mean over poisoned people of a share, that of the clean pictures below
    theirs, and the same over clean people: the interval is never narrower than Gaffke's for either, which assumes
    nothing of these shares, see ``bounded_ends``. Gaffke's would not do alone: it knows how people of one side differ
    and not those of both. Where no clean picture scores higher than a poisoned one the interval is the exact binomial
    one with people as trials.

    Args:
        clean: Scores of clean pictures (N,).
        clean_people: Whose they are (N,).
        poisoned: Scores of poisoned pictures (M,), higher if more suspicious.
        poisoned_people: Whose they are (M,).
        confidence: 0.95 for a 95 % interval.

    Returns:
        The area, and the ends of its interval within [0, 1].

    Raises:
        InputError: a side is empty, scores and people differ in number, or are not finite, or a confidence that is no
            probability.
    """
    sides = []
    for scores, people in ((clean, clean_people), (poisoned, poisoned_people)):
        known, owners = _sample(scores, "area_interval", confidence), np.asarray(people)
        if known.shape != owners.shape:
            raise InputError(f"area_interval: {len(known)} scores of {owners.shape} people; give one person a score")
        sides += [known, owners]
    area, variance, n = area_parts(*sides)
    value = float(area)
    low, high = unseen(value, n, 0.0, 1.0, confidence)
    if n == 1:
        return value, low if value == 1 else 0.0, high if value == 0 else 1.0
    below, above = effective_ends(value, variance, n, min(len(sides[0]), len(sides[2])), confidence)
    ends = [low, high, float(below), float(above)]
    for shares in area_shares(*sides) if 0 < value < 1 else ():
        ends += [float(end) for end in bounded_ends(shares, np.ones(len(shares)), 0.0, 1.0, confidence)]
    return value, min(ends), max(ends)


def of_two(first: WithEnds, second: WithEnds) -> tuple[float, float]:
    """Interval for the first minus the second of two estimates that have nothing to do with each other.

    MOVER (Zou and Donner, Statistics in Medicine 27, 2008; Newcombe 1998 for shares): the distances from value to end
    are put together as standard errors are, so that lopsided intervals stay lopsided. Estimates that rise and fall
    together, such as those of the same people, have a difference that varies less: the interval is then too wide.

    Args:
        first: Value, lower and upper end.
        second: The same of the other, at the same confidence.

    Raises:
        InputError: a value lies outside its interval.
    """
    _check_estimates([first, second], "of_two")
    low, high = mover_ends(first, second)
    return float(low), float(high)


def mean_of(estimates: Iterable[WithEnds]) -> tuple[float, float]:
    """Interval for the mean of several estimates of the same people, of which no more is known: the ends averaged.

    A mean varies at most as much as its parts do on average, and that much only if they rise and fall in step; the
    interval is therefore too wide rather than too narrow.

    Args:
        estimates: Value, lower and upper end of each, at the same confidence.

    Raises:
        InputError: there are none, or a value lies outside its interval.
    """
    known = list(estimates)
    _check_estimates(known, "mean_of")
    return sum(one[1] for one in known) / len(known), sum(one[2] for one in known) / len(known)


def _sample(values: ArrayLike, what: str, confidence: float) -> Numbers:
    """Numbers of people, checked."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample) or not np.isfinite(sample).all() or not 0 < confidence < 1:
        raise InputError(
            f"{what}: {sample.shape} numbers, confidence {confidence}; give one finite number or more, a level in 0..1"
        )
    return sample


def _check_estimates(estimates: Sequence[WithEnds], what: str) -> None:
    if not estimates or any(not low <= value <= high for value, low, high in estimates):
        raise InputError(f"{what}: {len(estimates)} estimates; give one or more, each a value between its two ends")


def effective_ends(
    mean: ArrayLike, variance: ArrayLike, n: int, trials: int, confidence: float = CONFIDENCE
) -> tuple[Numbers, Numbers]:
    """Korn and Graubard's interval for shares from their means and the variances of these means, many at once.

    Survey Methodology 24 (1998): the effective sample size mean (1 - mean) / variance, reduced by (t_trials / t_n)^2
    for the few people that the variance comes from and never more than ``trials``, goes into Clopper and Pearson's
    interval. At 0 and 1 that size is ``n``.

    Args:
        mean: Of people's shares, 0 to 1, any shape.
        variance: Of the mean over people, of the same shape.
        n: People, at least 2.
        trials: Pictures or probes of all of them.
        confidence: 0.95 for a 95 % interval.
    """
    p, spread = np.asarray(mean, dtype=np.float64), np.asarray(variance, dtype=np.float64)
    tail = (1 - confidence) / 2
    inside = (p > 0) & (p < 1)
    size = np.where(spread > 0, p * (1 - p) / np.where(spread > 0, spread, 1.0), float(trials))
    size = size * (stats.t.ppf(tail, max(1, trials - 1)) / stats.t.ppf(tail, n - 1)) ** 2
    size = np.where(inside, np.minimum(size, float(trials)), float(n))
    return clopper_pearson_ends(p, size, confidence)


def clopper_pearson_ends(mean: ArrayLike, size: ArrayLike, confidence: float = CONFIDENCE) -> tuple[Numbers, Numbers]:
    """Clopper and Pearson's interval (Biometrika 26, 1934) for shares of ``size`` trials, whole numbers or not."""
    p, trials = np.asarray(mean, dtype=np.float64), np.asarray(size, dtype=np.float64)
    hits, tail = p * trials, (1 - confidence) / 2
    low = stats.beta.ppf(tail, np.where(p > 0, hits, 1.0), trials - hits + 1)
    high = stats.beta.ppf(1 - tail, hits + 1, np.where(p < 1, trials - hits, 1.0))
    return np.where(p > 0, low, 0.0), np.where(p < 1, high, 1.0)


def chance_above(values: ArrayLike, counts: ArrayLike, bound: ArrayLike) -> Numbers:
    """How likely a mean with random weights, uniform over all that sum to 1, is above a bound; many at once.

    The weighted mean is above the bound just if the sum of (value - bound) times independent exponential variables is
    above 0. The chance of that is an integral over the variables' moment generating function along a line through its
    saddle point, where one smooth peak is left of it (Rice, SIAM J. Sci. Stat. Comput. 1, 1980).

    Args:
        values: What is averaged (..., k).
        counts: How often each value is there (..., k); 0 for not at all.
        bound: (...).
    """
    gaps = np.asarray(values, dtype=np.float64) - np.asarray(bound, dtype=np.float64)[..., None]
    gaps, often = np.broadcast_arrays(gaps, np.asarray(counts, dtype=np.float64))
    gaps = np.where(often > 0, gaps, 0.0)
    scale = np.sqrt((often * gaps**2).sum(axis=-1, keepdims=True))
    gaps = gaps / np.where(scale > 0, scale, 1.0)
    flip = (often * gaps).sum(axis=-1) > 0  # the smaller of the two chances is computed
    gaps = np.where(flip[..., None], -gaps, gaps)
    largest = gaps.max(axis=-1)
    end = 1 / np.where(largest > 0, largest, 1.0)
    low, high = np.zeros_like(end), end
    for _ in range(_HALVINGS):
        point = (low + high) / 2
        slope = (often * gaps / np.maximum(1 - point[..., None] * gaps, 1e-300)).sum(axis=-1)
        low, high = np.where(slope * point < 1, point, low), np.where(slope * point < 1, high, point)
    point = low
    rest = 1 - point[..., None] * gaps
    tilted = gaps / rest
    width = 1 / np.sqrt((often * tilted**2).sum(axis=-1) + 1 / point**2)
    start, many = point[..., None], often[..., None, :]
    area = np.zeros_like(point)
    for places in np.array_split(_PLACES, min(len(_PLACES), 1 + gaps.size // 300)):  # so that a part fits in the cache
        along = width[..., None] * np.sinh(places)
        moved = tilted[..., None, :] * along[..., None]
        size = np.exp(-(many * np.log1p(moved**2)).sum(axis=-1) / 2)
        angle = (many * np.arctan(moved)).sum(axis=-1)
        peak = size * (start * np.cos(angle) + along * np.sin(angle)) / (start**2 + along**2)
        area += (peak * np.cosh(places) * np.where(places > 0, _STEP, _STEP / 2)).sum(axis=-1)
    chance = area * width / np.pi * np.exp(-(often * np.log(rest)).sum(axis=-1))
    chance = np.where(largest > 0, np.clip(chance, 0.0, 1.0), 0.0)
    above: Numbers = np.where(flip, 1 - chance, chance)
    return above


def bounded_ends(
    values: ArrayLike, counts: ArrayLike, lowest: float, highest: float, confidence: float = CONFIDENCE
) -> tuple[Numbers, Numbers]:
    """Gaffke's interval for the mean of a bounded quantity, many samples at once.

    Mathematical Methods of Statistics 14 (2005); Learned-Miller and Thomas, arXiv 1905.06208 (2019): one more person
    with the worst possible value is put beside those seen, and the end is the quantile of the mean under random
    weights, uniform over all that sum to 1. Where people have only the two extreme values it is Clopper and Pearson's
    interval. It assumes nothing but the bounds; no case is known where it covers less than it says.

    Args:
        values: What people have (..., k), ``lowest`` to ``highest``.
        counts: How many have it (..., k).
        lowest: Least possible value.
        highest: Largest possible value.
        confidence: 0.95 for a 95 % interval.
    """
    tail = (1 - confidence) / 2
    low = _weighted_quantile(values, counts, lowest, tail)
    flipped = -np.asarray(values, dtype=np.float64)
    return low, -_weighted_quantile(flipped, counts, -highest, tail)


def _weighted_quantile(values: ArrayLike, counts: ArrayLike, worst: float, tail: float) -> Numbers:
    """The lower quantile of the mean under random weights, with one more person who has the worst value."""
    known, often = np.broadcast_arrays(np.asarray(values, dtype=np.float64), np.asarray(counts, dtype=np.float64))
    spot, one = np.full((*known.shape[:-1], 1), worst), np.ones((*known.shape[:-1], 1))
    known, often = np.concatenate([known, spot], axis=-1), np.concatenate([often, one], axis=-1)
    low = np.full(known.shape[:-1], worst)
    high = (known * often).sum(axis=-1) / often.sum(axis=-1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = chance_above(known, often, middle) >= 1 - tail
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return low


def median_ends(samples: ArrayLike, confidence: float = CONFIDENCE) -> tuple[Numbers, Numbers]:
    """Thompson's interval (1936) for medians, from samples (..., n), many at once; see ``median_interval``."""
    values = np.sort(np.asarray(samples, dtype=np.float64), axis=-1)
    n = values.shape[-1]
    k = int(stats.binom.ppf((1 - confidence) / 2, n, 0.5))  # fewer than k people fall short with at most that chance
    if k < 1:
        return np.full(values.shape[:-1], -np.inf), np.full(values.shape[:-1], np.inf)
    return values[..., k - 1], values[..., n - k]


def mover_ends(
    first: Sequence[ArrayLike], second: Sequence[ArrayLike], correlation: ArrayLike = 0.0
) -> tuple[Numbers, Numbers]:
    """MOVER for first - second of (value, low, high) each (Zou and Donner 2008), many at once."""
    (a, la, ha), (b, lb, hb) = (tuple(np.asarray(x, dtype=np.float64) for x in one) for one in (first, second))
    r = np.asarray(correlation, dtype=np.float64)
    down = (a - la) ** 2 + (hb - b) ** 2 - 2 * r * (a - la) * (hb - b)
    up = (ha - a) ** 2 + (b - lb) ** 2 - 2 * r * (ha - a) * (b - lb)
    return a - b - np.sqrt(np.maximum(down, 0)), a - b + np.sqrt(np.maximum(up, 0))


def area_parts(
    clean: ArrayLike, clean_people: ArrayLike, poisoned: ArrayLike, poisoned_people: ArrayLike
) -> tuple[Numbers, Numbers, int]:
    """Area under the ROC curve, its variance over people (Obuchowski, Biometrics 53, 1997), and the people behind it.

    Args:
        clean: Scores of clean pictures (..., N).
        clean_people: Whose they are (N,).
        poisoned: Scores of poisoned pictures (..., M).
        poisoned_people: Whose they are (M,); the same people may stand on both sides.

    Returns:
        Areas (...), their variances (...), and the smaller of the two numbers of people.
    """
    passed, beaten = _placements(clean, poisoned)
    n, m = passed.shape[-1], beaten.shape[-1]
    area = beaten.mean(axis=-1)
    everyone = np.unique(np.concatenate([np.asarray(clean_people), np.asarray(poisoned_people)]))
    off_clean, some = _by_person(passed - area[..., None], clean_people, everyone)
    off_poisoned, others = _by_person(beaten - area[..., None], poisoned_people, everyone)

    def spread(one: Numbers, other: Numbers, people: int) -> Numbers:
        total: Numbers = (one * other).sum(axis=-1) * people / max(1, people - 1)
        return total

    variance = spread(off_clean, off_clean, some) / n**2 + spread(off_poisoned, off_poisoned, others) / m**2
    variance = variance + 2 * spread(off_clean, off_poisoned, len(everyone)) / (n * m)
    return area, np.maximum(variance, 0.0), min(some, others)


def area_shares(
    clean: ArrayLike, clean_people: ArrayLike, poisoned: ArrayLike, poisoned_people: ArrayLike
) -> tuple[Numbers, Numbers]:
    """Each person's share of the pairs with a picture of the other side that are in order, 0 to 1.

    Args:
        clean: Scores of clean pictures (..., N).
        clean_people: Whose they are (N,).
        poisoned: Scores of poisoned pictures (..., M).
        poisoned_people: Whose they are (M,).

    Returns:
        Shares of the clean people (..., P), and of the poisoned ones (..., Q); the mean of either over pictures is the
        area.
    """
    passed, beaten = _placements(clean, poisoned)
    shares = []
    for values, people in ((passed, clean_people), (beaten, poisoned_people)):
        here, pictures = np.unique(np.asarray(people), return_counts=True)
        shares.append(np.clip(_by_person(values, people, here)[0] / pictures, 0.0, 1.0))
    return shares[0], shares[1]


def _placements(clean: ArrayLike, poisoned: ArrayLike) -> tuple[Numbers, Numbers]:
    """Share of poisoned pictures above each clean one (..., N), and of clean ones below each poisoned one (..., M)."""
    below, above = np.asarray(clean, dtype=np.float64), np.asarray(poisoned, dtype=np.float64)
    n, m = below.shape[-1], above.shape[-1]
    ranks = stats.rankdata(np.concatenate([below, above], axis=-1), axis=-1)
    passed: Numbers = 1 - (ranks[..., :n] - stats.rankdata(below, axis=-1)) / m
    beaten: Numbers = (ranks[..., n:] - stats.rankdata(above, axis=-1)) / n
    return passed, beaten


def _by_person(values: Numbers, people: ArrayLike, everyone: NDArray[Any]) -> tuple[Numbers, int]:
    """Sums for each of all people (..., P), 0 for those who are not there, and how many are."""
    owner = np.asarray(people)
    order = np.argsort(owner, kind="stable")
    here, starts = np.unique(owner[order], return_index=True)
    sums = np.zeros((*values.shape[:-1], len(everyone)))
    sums[..., np.searchsorted(everyone, here)] = np.add.reduceat(values[..., order], starts, axis=-1)
    return sums, len(here)
