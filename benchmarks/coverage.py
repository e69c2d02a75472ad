"""Coverage of the book's intervals by simulation: how often each holds the true value, and how wide it is.

python benchmarks/coverage.py [--kinds shares differences medians ...] [--draws 2000] [--seed 1] [--write]

Every kind of interval and number of people is a shard under ``_build/coverage``; a shard that is there already is not
made again, so a stopped run goes on. ``--write`` puts the lowest coverage of each method into ``data/results``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy import special, stats

from facepoison import detect, factorial, intervals, odds, shipped, tables
from facepoison.evaluation import Rate
from facepoison.store import written_whole

FOLDER = Path(__file__).resolve().parent.parent / "_build" / "coverage"
KINDS = (
    *("shares", "differences", "medians", "means", "areas", "pairs", "precision", "effects"),
    *("rare shares", "rare differences", "rare areas", "fourteen", "calibration"),
)
PEOPLE = (3, 5, 10, 20, 33, 60, 100, 200, 500, 2000)
RATES = (0.0, 0.001, 0.01, 0.05, 0.1, 0.3, 0.5)
MIRRORED = (0.7, 0.95, 0.999)
CORRELATIONS = (0.0, 0.1, 0.3, 0.6)
PICTURES = (3, 6, 10, 20)
EXPECTED = (1, 2, 2.8, 4, 5, 6, 7.5)  # people of a rare kind that a sample has on average
RARE = (0.001, 0.003, 0.01, 0.03, 0.1)  # shares of people who are another kind
LEVEL, LEAST = 0.95, 0.94
AGAIN = (0.9, 0.945)  # a coverage in here may be low by chance: the cell is drawn again, with more draws
USED = {"shares": "share_interval", "areas": "area_interval", "calibration": "calibration.fit"}
DECIDING = (
    USED["shares"],
    "Gaffke",
    "Student's t with unseen",
    "gains and losses, MOVER",
    USED["areas"],
    "MOVER",
    "ends averaged",
    "median_interval",
    "precision_of_people",
    "factorial.effects",
    USED["calibration"],
)
LARGEST = 200  # people up to whom areas, which are slow to draw, have all their draws; half of them above
FEW = 3  # pictures a person of areas of ordinary people above
PLENTY = 10_000_000  # pictures that an area is drawn again with, at most
WIDTHS = 30  # draws whose widths are averaged where a width is slow
ONLY = {  # numbers of runs of the design, of people in studies made before, and of people one may calibrate on
    "effects": (16,),
    "fourteen": (20,),
    "calibration": (8, 10, 20, 33, 60, 100, 200),
}
FALSE_ALARMS = {
    "people": 10,
    "at most": 10_000,
    "pictures": 5,
}  # people: times those whose poison is found
RESAMPLES = (100, 200)  # of the bootstrap: draws, and resamples of each


# ---------------------------------------------------------------- what is drawn from


def beta_nodes(mean, correlation, nodes=256):
    """Rates of people by quantile, and the weights of the quantiles; all the same without correlation."""
    x, w = leggauss(nodes)
    if correlation == 0 or mean in {0.0, 1.0}:
        return np.full(nodes, float(mean)), w / 2
    ab = (1 - correlation) / correlation
    return stats.beta.ppf((x + 1) / 2, mean * ab, (1 - mean) * ab), w / 2


def binomial_pmf(m, rates):
    return stats.binom.pmf(np.arange(m + 1), m, np.asarray(rates)[..., None])


def beta_binomial(m, mean, correlation):
    if correlation == 0 or mean in {0.0, 1.0}:
        return binomial_pmf(m, mean)
    ab = (1 - correlation) / correlation
    return stats.betabinom.pmf(np.arange(m + 1), m, mean * ab, (1 - mean) * ab)


def share_cases(pictures=PICTURES):
    """Family, name, values and chances of a person's share, pictures of a person."""
    usual = 6 if 6 in pictures else pictures[0]
    for rate in RATES + MIRRORED:
        for correlation, m in itertools.product(CORRELATIONS, pictures if rate not in MIRRORED else (usual,)):
            if rate > 0 or (correlation, m) == (0.0, usual):
                name = f"rate {rate}, {m} pictures"
                yield f"correlation {correlation}", name, np.arange(m + 1) / m, beta_binomial(m, rate, correlation), m
        if rate > 0:
            yield "all or nothing", f"rate {rate}", np.array([0.0, 1.0]), np.array([1 - rate, rate]), usual
    for base, rare, m in itertools.product((0.02, 0.2), RARE, sorted({usual, pictures[-1]})):
        pmf = (1 - rare) * binomial_pmf(m, base) + rare * (np.arange(m + 1) == m)
        yield "few fail wholly", f"{rare} of people, others {base}, {m} pictures", np.arange(m + 1) / m, pmf, m


def gap_pmf(m, base, change, correlation):
    """Chances of a person's gap from -1 to 1 in steps of 1/m: both rates follow one quantile of the person."""
    before, weights = beta_nodes(base, correlation)
    after, _ = beta_nodes(base + change, correlation)
    one, other = binomial_pmf(m, after), binomial_pmf(m, before)[:, ::-1]
    return sum(w * np.convolve(a, b) for w, a, b in zip(weights, one, other, strict=True))


def gap_cases():
    """Family, name, values and chances of a person's gap."""
    changes = (0.0, 0.01, 0.03, 0.1, 0.3)
    for base, change, correlation, m in itertools.product((0.0, 0.05, 0.2, 0.5), changes, (0.0, 0.3, 0.6), (3, 10)):
        if base + change > 0:
            name = f"{base} to {round(base + change, 3)}, {m} pictures"
            pmf = gap_pmf(m, base, change, correlation)
            yield f"correlation {correlation}", name, np.arange(-m, m + 1) / m, pmf
    for change in (0.0, 0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.3):
        yield "few change, one way", f"{change} of people", np.array([0.0, 1.0]), np.array([1 - change, change])
        yield (
            "few change by a picture",
            f"{change} of people, by 1/6",
            np.array([-1 / 6, 0, 1 / 6]),
            np.array([change / 4, 1 - 1.25 * change, change]),
        )
    for change, back in itertools.product((0.005, 0.02, 0.1, 0.3), (0.2, 0.5, 1.0)):
        worse = change * back
        pmf = np.array([worse, 1 - worse - change, change])
        yield "few change, both ways", f"{change} one way, {worse:.3g} the other", np.array([-1.0, 0.0, 1.0]), pmf
    for rare, m, (base, change, place) in itertools.product(
        RARE, (6, 20), ((0.02, 0.0, -1), (0.1, 0.03, -1), (0.1, 0.1, 0))
    ):
        pmf = (1 - rare) * gap_pmf(m, base, change, 0.0)
        pmf[place] += rare
        way = "up" if place else "down"
        yield (
            "few change wholly, others a little",
            f"{rare} of people {way}, others {base} to {round(base + change, 3)}, {m} pictures",
            np.arange(-m, m + 1) / m,
            pmf,
        )


def rare_share_cases(n, pictures=(3, 6, 10, 20, 100)):
    """Most people fail a little and so few wholly that a sample has hardly any or none of them."""
    for base, expected, m in itertools.product((0.05, 0.2), EXPECTED, pictures):
        rare = expected / n
        if rare < 0.9:
            pmf = (1 - rare) * binomial_pmf(m, base) + rare * (np.arange(m + 1) == m)
            name = f"{expected} expected, others {base}, {m} pictures"
            yield "hardly any fail wholly", name, np.arange(m + 1) / m, pmf, m


def rare_gap_cases(n):
    """Most people gain and so few lose wholly that a sample has hardly any or none of them."""
    for gain, expected in itertools.product((0.1, 0.5, 1.0), EXPECTED):
        rare = expected / n
        if rare < 0.9:
            name = f"{expected} expected lose wholly, others gain {gain}"
            yield "hardly any change the other way", name, np.array([-1.0, gain]), np.array([rare, 1 - rare])


# ---------------------------------------------------------------- methods, over many draws at once


def moments(values, counts):
    """Means of samples, and the variances of these means, of people counted by value."""
    n = counts.sum(axis=-1)
    mean = counts @ values / n
    square = np.einsum("rk,rk->r", counts, (values - mean[:, None]) ** 2)
    return mean, square / np.maximum(n - 1, 1) / n


def union(one, other):
    return np.minimum(one[0], other[0]), np.maximum(one[1], other[1])


def bootstrap(values, counts, rng):
    """Percentile bootstrap over people, for the first draws only."""
    first, n = counts[: RESAMPLES[0]], counts[0].sum()
    again = rng.multinomial(n, (first / n)[:, None, :], size=(len(first), RESAMPLES[1]))
    return np.quantile(again @ values / n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)


def judged(ends, truth):
    low, high = ends
    return float(((low <= truth + 1e-12) & (high >= truth - 1e-12)).mean()), float((high - low).mean()), len(low)


def gaffke(values, counts, bounds, truth):
    """Coverage from the chance at the truth, which saves finding the ends; ends of the first draws for the width."""
    rows, copies = np.unique(counts, axis=0, return_counts=True)
    covered = np.ones(len(rows), dtype=bool)
    for worst, sign in zip(bounds, (1, -1), strict=True):
        known, often = np.append(values, worst), np.column_stack([rows, np.ones(len(rows))])
        beyond = [
            intervals.chance_above(sign * known, part, np.full(len(part), sign * truth))
            for part in np.array_split(often, max(1, len(often) // 500))
        ]
        # the lower end is at most the truth where at most 97.5 % of the weighted mean lies above the truth
        edge = sign * truth <= sign * worst + 1e-12
        covered &= edge | (np.concatenate(beyond) <= (1 + LEVEL) / 2 + 1e-7)
    low, high = intervals.bounded_ends(values, counts[:WIDTHS], *bounds, LEVEL)
    return float(np.average(covered, weights=copies)), float((high - low).mean()), len(counts)


def wilson(mean, variance, n, trials):
    """Wilson's interval of the effective sample size (Dean and Pagano 2015), its factor from Student's t."""
    size = np.where(variance > 0, mean * (1 - mean) / np.where(variance > 0, variance, 1.0), 0.0)
    size = np.where((mean > 0) & (mean < 1), np.where(size > 0, np.minimum(size, trials), trials), n)
    k = stats.t.ppf((1 + LEVEL) / 2, n - 1) ** 2
    middle = (mean * size + k / 2) / (size + k)
    margin = np.sqrt(k * (mean * (1 - mean) * size + k / 4)) / (size + k)
    return middle - margin, middle + margin


def shares(n, draws, rng, cases=None):
    for family, name, values, pmf, m in cases or share_cases():
        truth = float(values @ pmf)

        def once(draws, values=values, pmf=pmf, m=m, truth=truth):
            counts = rng.multinomial(n, pmf / pmf.sum(), size=draws)
            mean, variance = moments(values, counts)
            floor = intervals.unseen(mean, n, 0.0, 1.0, LEVEL)
            korn = intervals.effective_ends(mean, variance, n, n * m, LEVEL)
            careful, wide = judged(union(korn, floor), truth), gaffke(values, counts, (0.0, 1.0), truth)
            return {
                USED["shares"]: wide if m > intervals.MANY else careful,
                "Korn-Graubard with unseen": careful,
                "Korn-Graubard": judged(korn, truth),
                "Gaffke": wide,
                "Wilson, effective size": judged(wilson(mean, variance, n, n * m), truth),
                "Clopper-Pearson, people": judged(intervals.clopper_pearson_ends(mean, n, LEVEL), truth),
                "Clopper-Pearson, pictures": judged(intervals.clopper_pearson_ends(mean, n * m, LEVEL), truth),
                "cluster bootstrap": judged(bootstrap(values, counts, rng), truth),
            }

        yield family, name, once


def split(values, counts, n):
    """Gains and losses apart, each a share of Korn and Graubard's, put together by MOVER with their correlation."""
    parts = []
    for side in (np.maximum(values, 0), np.maximum(-values, 0)):
        mean, variance = moments(side, counts)
        floor = intervals.unseen(mean, n, 0.0, 1.0, LEVEL)
        parts.append((mean, variance, *union(intervals.effective_ends(mean, variance, n, 10**6, LEVEL), floor)))
    (up, up_var, *up_ends), (down, down_var, *down_ends) = parts
    both = np.sqrt(up_var * down_var)
    covariance = -up * down / (n - 1)  # nobody has both
    correlation = np.where(both > 0, covariance / np.where(both > 0, both, 1.0), 0.0)
    return intervals.mover_ends((up, *up_ends), (down, *down_ends), correlation)


def t_ends(mean, variance, n):
    """Student's t interval from means over ``n`` people and the variances of these means."""
    margin = stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.sqrt(variance)
    return mean - margin, mean + margin


def differences(n, draws, rng, cases=None):
    for family, name, values, pmf in cases or gap_cases():
        truth = float(values @ pmf)

        def once(draws, values=values, pmf=pmf, truth=truth):
            counts = rng.multinomial(n, pmf / pmf.sum(), size=draws)
            mean, variance = moments(values, counts)
            floor = intervals.unseen(mean, n, -1.0, 1.0, LEVEL)
            student = np.clip(t_ends(mean, variance, n), -1, 1)
            log = np.log(4 / (1 - LEVEL))
            bernstein = np.sqrt(2 * n * variance * log / n) + 2 * 7 * log / (3 * (n - 1))
            added = np.column_stack([counts, np.ones(draws), np.ones(draws)])
            more, more_variance = moments(np.append(values, [-1.0, 1.0]), added)
            people = [2 * end - 1 for end in intervals.clopper_pearson_ends((1 + mean) / 2, n, LEVEL)]
            return {
                "Student's t with unseen": judged(union(student, floor), truth),
                "Student's t": judged(student, truth),
                "Gaffke": gaffke(values, counts, (-1.0, 1.0), truth),
                "gains and losses, MOVER": judged(np.clip(split(values, counts, n), -1, 1), truth),
                "t, two people added": judged(np.clip(t_ends(more, more_variance, n), -1, 1), truth),
                "empirical Bernstein": judged(np.clip((mean - bernstein, mean + bernstein), -1, 1), truth),
                "Clopper-Pearson, people": judged(people, truth),
                "cluster bootstrap": judged(bootstrap(values, counts, rng), truth),
            }

        yield family, name, once


def medians(n, draws, rng):
    def gamma(skew):
        return lambda size: rng.gamma(4 / skew**2, 1.0, size), stats.gamma.median(4 / skew**2)

    cases = {
        "normal": (rng.standard_normal, 0.0),
        "uniform": (rng.random, 0.5),
        "heavy tails (t, 5 degrees)": (lambda size: rng.standard_t(5, size), 0.0),
        **{f"gamma, skewness {skew}": gamma(skew) for skew in (0.25, 0.5, 1, 2)},
        "lognormal, skewness 6.2": (lambda size: rng.lognormal(0, 1, size), 1.0),
        "whole numbers": (lambda size: rng.poisson(2.5, size), stats.poisson.median(2.5)),
    }
    for family, (draw, truth) in cases.items() if np.isfinite(intervals.median_interval(np.zeros(n))[0]) else ():

        def once(draws, draw=draw, truth=truth):
            sample = draw((draws, n))
            first = sample[: RESAMPLES[0]]
            places = rng.integers(0, n, (RESAMPLES[1], n))
            again = np.quantile(np.median(first[:, places], axis=-1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
            return {
                "median_interval": judged(intervals.median_ends(sample, LEVEL), truth),
                "cluster bootstrap": judged(again, truth),
            }

        yield family, family, once


def means(n, draws, rng):
    """Student's t interval for means without bounds, which the book does not use: see ``intervals.median_interval``."""
    cases = {
        "normal": (rng.standard_normal, 0.0),
        "lognormal, skewness 6.2": (lambda size: rng.lognormal(0, 1, size), np.exp(0.5)),
    }
    for family, (draw, truth) in cases.items():

        def once(draws, draw=draw, truth=truth):
            sample = draw((draws, n))
            mean, variance = sample.mean(axis=1), sample.var(axis=1, ddof=1) / n
            return {"Student's t of the mean": judged(t_ends(mean, variance, n), truth)}

        yield family, family, once


def logit(mean, variance, n):
    """Student's t interval of the logit; none where that is infinite."""
    inside = (mean > 0) & (mean < 1)
    safe = np.where(inside, mean, 0.5)
    margin = stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.sqrt(variance) / (safe * (1 - safe))
    middle = np.log(safe / (1 - safe))
    ends = 1 / (1 + np.exp(margin - middle)), 1 / (1 + np.exp(-margin - middle))
    return [np.where(inside, end, mean) for end in ends]


def widened(ends, sought, shares, truth):
    """Coverage and width of ends that Gaffke's of either side's shares widen, which are sought only where they matter.

    Args:
        ends: Of the effective size with unseen, (r,) each.
        sought: Indices of draws: the first few, for the width, and all that missed the truth.
        shares: Of these, each person's of either side.
        truth: The area.
    """
    low, high = ends
    covered = (low <= truth + 1e-12) & (high >= truth - 1e-12)
    missed = np.flatnonzero(~covered[sought])
    for some in np.array_split(missed, max(1, len(missed) // 100)):
        sign = np.where(low[sought[some]] > truth, 1.0, -1.0)  # the lower end missed, or the upper one
        for side in shares:
            known = np.column_stack([side[some] * sign[:, None], np.where(sign > 0, 0.0, -1.0)])
            beyond = intervals.chance_above(known, np.ones_like(known), sign * truth)
            covered[sought[some]] |= beyond <= (1 + LEVEL) / 2 + 1e-7
    first = sought < wide_draws(shares[0].shape[-1])
    lows, highs = zip(*(intervals.bounded_ends(side[first], 1.0, 0.0, 1.0, LEVEL) for side in shares), strict=True)
    more = np.maximum(0, low[sought[first]] - np.min(lows, axis=0)) + np.maximum(
        0, np.max(highs, axis=0) - high[sought[first]]
    )
    return float(covered.mean()), float((high - low).mean() + more.mean()), len(low)


def wide_draws(n):
    return max(2, min(WIDTHS, 20 * WIDTHS // n))


def rare_area_cases(n):
    """A detector finds most people's poison, and so few people's never that a sample has hardly any of them."""
    for area, expected, m in itertools.product((0.8, 0.95), EXPECTED, (6, 10, 20) if n <= 500 else (6, 10)):
        if expected / n < 0.9:
            name = f"{expected} expected, others {area}, {m} pictures"
            yield "hardly any never found", name, area, 0.1, True, m, expected / n


def areas(n, least, rng, cases=None):
    targets = (0.5, 0.8, 0.95, 0.99, 0.999)
    shared = ((0.0, True), (0.3, True), (0.3, False), (0.7, True), (0.7, False))
    cases = cases or [
        (
            f"people's part {part}, {'same' if same else 'other'} people",
            f"area {area}, {m} pictures",
            area,
            part,
            same,
            m,
            0.0,
        )
        for area, (part, same), m in itertools.product(targets, shared, (3, 10) if n <= LARGEST else (FEW,))
    ] + [
        ("few never found", f"{rare} of people, others {area}, {m} pictures", area, 0.3, True, m, rare)
        for area, rare, m in itertools.product((0.8, 0.999, 1.0), (0.01, 0.1), (6,) if n <= LARGEST else (FEW,))
    ]
    for family, name, area, part, same, m, rare in cases:

        def once(draws, area=area, part=part, same=same, m=m, rare=rare, family=family):
            shift = np.sqrt(2) * stats.norm.ppf(min(area, 1 - 1e-9))
            lost = 50.0 if family == "hardly any never found" else 0.0  # these score below all others
            truth = (1 - rare) * area + rare * (0.0 if lost else 0.5)
            people, size = np.repeat(np.arange(n), m), max(1, 600_000 // (n * m))
            others = people if same else people + n
            draws = min(draws, max(least, PLENTY // (n * m)))
            found, sought, shares = [], [], []
            for start in range(0, draws, size):
                r = min(size, draws - start)
                own = np.sqrt(part) * rng.standard_normal((2, r, n))
                level = own[[0, 0 if same else 1]]
                noise = np.sqrt(1 - part) * rng.standard_normal((2, r, n * m))
                clean = np.repeat(level[0], m, axis=-1) + noise[0]
                seen = np.repeat(rng.random((r, n)) >= rare, m, axis=-1)
                poisoned = np.repeat(level[1], m, axis=-1) + noise[1] + shift * seen - lost * ~seen
                value, variance, count = intervals.area_parts(clean, people, poisoned, others)
                floor = intervals.unseen(value, count, 0.0, 1.0, LEVEL)
                effective = intervals.effective_ends(value, variance, count, n * m, LEVEL)
                low, high = union(effective, floor)
                picked = np.flatnonzero((low > truth) | (high < truth) | (np.arange(start, start + r) < wide_draws(n)))
                found.append((value, variance, *floor, *effective))
                sought.append(start + picked)
                shares.append(intervals.area_shares(clean[picked], people, poisoned[picked], others))
            value, variance, *ends = (np.concatenate(each) for each in zip(*found, strict=True))
            floor, effective = ends[:2], ends[2:]
            shares = [np.concatenate(each) for each in zip(*shares, strict=True)]
            in_logits = logit(value, variance, count)
            plain = value - 1.96 * np.sqrt(variance), value + 1.96 * np.sqrt(variance)
            careful = union(effective, floor)
            return {
                USED["areas"]: widened(careful, np.concatenate(sought), shares, truth),
                "Obuchowski, effective size, with unseen": judged(careful, truth),
                "Obuchowski, effective size": judged(effective, truth),
                "Obuchowski, logit, with unseen": judged(union(in_logits, floor), truth),
                "Obuchowski, logit": judged(in_logits, truth),
                "Obuchowski": judged(np.clip(plain, 0, 1), truth),
                "Clopper-Pearson, people": judged(intervals.clopper_pearson_ends(value, n, LEVEL), truth),
                "Clopper-Pearson, pictures": judged(intervals.clopper_pearson_ends(value, n * m, LEVEL), truth),
            }

        yield family, name, once


def pairs(n, draws, rng):
    """Differences of two independent shares by MOVER, and means of two shares of the same people."""
    m = 6

    def share(counts):
        values = np.arange(m + 1) / m
        mean, variance = moments(values, counts)
        ends = union(
            intervals.effective_ends(mean, variance, n, n * m, LEVEL), intervals.unseen(mean, n, 0.0, 1.0, LEVEL)
        )
        return mean, *ends

    rates = (0.001, 0.05, 0.3, 0.5, 0.95)
    for (p, q), correlation in itertools.product(itertools.combinations_with_replacement(rates, 2), (0.0, 0.3)):

        def once(draws, p=p, q=q, correlation=correlation):
            one, other = (rng.multinomial(n, beta_binomial(m, rate, correlation), size=draws) for rate in (p, q))
            a, b = share(one), share(other)
            return {
                "MOVER": judged(intervals.mover_ends(a, b), p - q),
                "ends subtracted": judged((a[1] - b[2], a[2] - b[1]), p - q),
            }

        yield f"two independent shares, correlation {correlation}", f"{p} and {q}", once

        def both(draws, p=p, q=q, correlation=correlation):
            quantiles = rng.random((draws, n))
            shares = []
            for rate in (p, q):
                nodes = np.full(2, rate) if correlation == 0 else None
                if nodes is None:
                    ab = (1 - correlation) / correlation
                    grid = np.linspace(0, 1, 2001)[1:-1]
                    chances = np.interp(quantiles, grid, stats.beta.ppf(grid, rate * ab, (1 - rate) * ab))
                else:
                    chances = np.full((draws, n), rate)
                hits = rng.binomial(m, chances)
                counts = np.stack([(hits == k).sum(axis=1) for k in range(m + 1)], axis=1)
                shares.append((share(counts), chances))
            (a, b), truth = [each[0] for each in shares], (p + q) / 2
            return {"ends averaged": judged(((a[1] + b[1]) / 2, (a[2] + b[2]) / 2), truth)}

        yield f"mean of two shares of the same people, correlation {correlation}", f"{p} and {q}", both


def precision(n, draws, rng):
    """Precision from the poison of some people that is found and the false alarms on others' clean pictures."""
    others, m = min(FALSE_ALARMS["people"] * n, FALSE_ALARMS["at most"]), (10, FALSE_ALARMS["pictures"])
    base = 0.01  # of no influence: precision rises with the ratio of the two rates, whatever the base

    def rates(draws, people, pictures, rate, correlation):
        counts = rng.multinomial(people, beta_binomial(pictures, rate, correlation), size=draws)
        mean, variance = moments(np.arange(pictures + 1) / pictures, counts)
        floor = intervals.unseen(mean, people, 0.0, 1.0, LEVEL)
        ends = union(intervals.effective_ends(mean, variance, people, people * pictures, LEVEL), floor)
        return [Rate(*each[:1], people, people * pictures, *each[1:]) for each in zip(mean, *ends, strict=True)]

    for found, false, correlation in itertools.product((0.05, 0.5, 0.9, 0.99), (0.001, 0.01, 0.1), (0.0, 0.3)):
        truth = detect.precision(found, false, base)

        def once(draws, found=found, false=false, correlation=correlation, truth=truth):
            sides = rates(draws, n, m[0], found, correlation), rates(draws, others, m[1], false, correlation)
            asked = [(a, b) for a, b in zip(*sides, strict=True) if a.value or b.value]  # others are refused
            precise = [tables.precision_of_people(a, b, base) for a, b in asked]
            corners = [[detect.precision(a.low, b.high, base), detect.precision(a.high, b.low, base)] for a, b in asked]
            ends = np.array([[each.low, each.high] for each in precise]).reshape(-1, 2).T
            return {
                "precision_of_people": judged(ends, truth),
                "both rates at their worst": judged(np.array(corners).T, truth),
            }

        yield f"correlation {correlation}", f"{found} found, {false} false alarms", once


def effects(n, draws, rng):
    """Effects of a design in two levels over extractors, whatever is left over beside them."""
    runs = factorial.half_factorial(("a", "b", "c", "d")) * (n // 8)
    one = np.array([run["a"] for run in runs])

    def probes():  # what ten users' six probes each say of extractors whose true rates differ
        true = 1 / (1 + np.exp(4 - rng.normal(0, 0.5, n)))
        return rng.binomial(6, rng.beta(2 * true, 2 * (1 - true), (10, n))).mean(axis=0) / 6

    cases = {
        "normal": lambda: rng.normal(0, 0.1, n),
        "skewed (exponential)": lambda: 0.1 * rng.exponential(1, n),
        "heavy tails (t, 5 degrees)": lambda: 0.1 * rng.standard_t(5, n),
        "shares of probes near zero": probes,
        **{
            f"spread {ratio} times as large at one level": lambda ratio=ratio: rng.normal(
                0, 0.1 * np.where(one, ratio, 1)
            )
            for ratio in (3, 7.5, 20)
        },
    }
    for family, rest in cases.items():

        def once(draws, rest=rest):
            cover, width = [], []
            for _ in range(draws):
                found = factorial.effects(runs, rest() + 0.3 * one, LEVEL)
                truth = np.where([factor == "a" for factor in found], 0.3, 0.0)
                low, high = np.array([[each.low, each.high] for each in found.values()]).T
                cover.append((low <= truth) & (high >= truth))
                width.append(high - low)
            lowest = np.mean(cover, axis=0).min()  # of the four factors
            return {"factorial.effects": (float(lowest), float(np.mean(width)), draws)}

        yield family, family, once


def calibration_cases(n):
    """Family, name, gap, people's part, whether they are the same ones, and what else is unlike the ordinary."""
    for gap, (part, same) in itertools.product((0, 1, 2, 3, 4, 8), SIDES):
        yield f"people's part {part}, {'same' if same else 'other'} people", f"gap {gap}", gap, part, same, {}
    for gap in (1, 2, 4):
        yield "one to nine pictures", f"gap {gap}", gap, 0.3, True, {"uneven": True}
        yield "twice as many people clean", f"gap {gap}", gap, 0.3, False, {"more": 2}
        if n <= LARGEST // 5:  # more are slow to draw
            yield "ten times as many people clean", f"gap {gap}", gap, 0.3, False, {"more": 10}
        yield "poison spread twice as far", f"gap {gap}", gap, 0.3, True, {"spread": 2.0}
        yield "heavy tails (t, 5 degrees)", f"gap {gap}", gap, 0.3, True, {"tails": 5}
    for gap, rare in itertools.product((2, 4, 8), (0.01, 0.03, 0.1)):
        yield "few never found", f"{rare} of people, others gap {gap}", gap, 0.3, True, {"rare": rare}
    for gap, expected in itertools.product((4, 8), EXPECTED):
        if expected / n < 0.5:
            rare = expected / n
            yield "hardly any never found", f"{expected} expected, others gap {gap}", gap, 0.3, True, {"rare": rare}


SIDES = ((0.0, True), (0.3, True), (0.3, False), (0.6, True), (0.6, False))


def best_line(gap, rare=0.0, spread=1.0, tails=0, **_):
    """The population's line: that of all pictures there might be, which need not lie on a line."""
    x = np.linspace(-40, 40, 16_001) + gap / 2
    density = stats.t(tails).pdf if tails else stats.norm.pdf
    found = density((x - gap) / spread) / spread
    weight = np.concatenate([density(x), (1 - rare) * found + rare * density(x)]) * (x[1] - x[0])
    target = np.repeat([0.0, 1.0], len(x))
    (line,), (settled,) = odds.fit_lines(np.tile(x - gap / 2, 2)[None], target, weight)
    assert settled
    return line[1], line[0] - line[1] * gap / 2


def calibration(n, draws, rng):
    """Ranges of probabilities at five scores, of which the worst counts: the truth is the population's line."""
    for family, name, gap, part, same, other in calibration_cases(n):

        def once(draws, gap=gap, part=part, same=same, other=other):
            sides = other.get("more", 1) * n, n
            pictures = [np.full(side, each) for side, each in zip(sides, (5, 3), strict=True)]
            if other.get("uneven"):
                pictures = [1 + np.arange(side) % 9 for side in sides]
            owners = [np.repeat(np.arange(side), each) for side, each in zip(sides, pictures, strict=True)]
            label = np.repeat([False, True], [len(each) for each in owners])
            people = np.concatenate([owners[0], owners[1] + (0 if same else sides[0])])
            slope, intercept = best_line(gap, **other)
            asked = np.array([-1.0, 0.0, gap / 2, gap, gap + 1])
            truth = special.expit(slope * asked + intercept)
            held, widths, size = (
                defaultdict(list),
                defaultdict(list),
                max(1, 40_000 // len(label)),
            )  # so that a part fits in the cache

            def sample(r):
                own = [np.sqrt(part) * rng.standard_normal((r, side)) for side in sides]
                own[1] = own[0] if same else own[1]
                level = np.concatenate([each[:, owner] for each, owner in zip(own, owners, strict=True)], axis=1)
                z = level + np.sqrt(1 - part) * rng.standard_normal(level.shape)
                if other.get("tails"):  # a person's own part and the rest together
                    z = stats.t.ppf(stats.norm.cdf(z), other["tails"])
                found = rng.random((r, sides[1])) >= other.get("rare", 0.0)
                moved = found[:, owners[1]]
                z[:, label] = np.where(moved, gap + other.get("spread", 1.0) * z[:, label], z[:, label])
                return z

            def judge(method, low, high):
                held[method].append((low <= truth + 1e-9) & (high >= truth - 1e-9))
                widths[method].append(high - low)

            for start in range(0, draws, size):
                scores = sample(min(size, draws - start))
                lines = odds.lines_of(scores, label, people, LEVEL)
                _, *ends = odds.ranges(odds.Lines(*(each[:, None] for each in lines)), asked)
                judge(USED["calibration"], *special.expit(ends))
                judge("Wald, pictures", *special.expit(wald(scores, label, asked)))
                if start < (few := min(RESAMPLES[0], 12_000 // n)):
                    judge("cluster bootstrap", *bootstrapped(scores[: few - start], label, people, asked, rng))
            return {
                method: (
                    float(np.concatenate(each).mean(axis=0).min()),
                    float(np.concatenate(widths[method]).mean()),
                    sum(map(len, each)),
                )
                for method, each in held.items()
            }

        yield family, name, once


def wald(scores, label, asked):
    """The usual interval of the likeliest line, pictures as if independent; anything where there is none."""
    weight = np.where(label, 1 / label.sum(), 1 / (~label).sum()) * len(label) / 2
    clean, other = scores[:, ~label], scores[:, label]
    apart = (clean.max(axis=1) <= other.min(axis=1)) | (other.max(axis=1) <= clean.min(axis=1))
    low, high = np.full((2, len(scores), len(asked)), [[[-np.inf]], [[np.inf]]])
    line, _ = odds.fit_lines(scores[~apart], label * 1.0, weight)
    chance = special.expit(line[:, :1] + line[:, 1:] * scores[~apart])
    known = weight * chance * (1 - chance)
    m0, m1, m2 = (np.sum(known * scores[~apart] ** power, axis=1)[:, None] for power in (0, 1, 2))
    variance = (m2 - 2 * m1 * asked + m0 * asked**2) / np.maximum(m0 * m2 - m1**2, 1e-300)
    margin = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(np.maximum(variance, 0))
    middle = line[:, :1] + line[:, 1:] * asked
    low[~apart], high[~apart] = middle - margin, middle + margin
    return low, high


def bootstrapped(scores, label, people, asked, rng):
    """Percentile bootstrap over people of Platt's line, the shares of wrong labels drawn too: formerly the book's."""
    ends, again = [], RESAMPLES[1] // 2
    sides = [np.unique(people[label == side]) for side in (False, True)]
    groups = [sides[0]] if np.array_equal(*sides) else sides
    for x in scores:
        often = np.zeros((again, people.max() + 1))
        for group in groups:
            often[:, group] = rng.multinomial(len(group), np.full(len(group), 1 / len(group)), size=again)
        weight = often[:, people]
        total = np.where(label, (weight * label).sum(axis=1)[:, None], (weight * ~label).sum(axis=1)[:, None])
        wrong = [1 - rng.random((again, 1)) ** (1 / (len(side) + 1)) for side in sides]
        line, _ = odds.fit_lines(np.tile(x, (again, 1)), np.where(label, 1 - wrong[1], wrong[0]), weight / total)
        chance = special.expit(line[:, :1] + line[:, 1:] * asked)
        ends.append(np.quantile(chance, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0))
    return np.moveaxis(np.array(ends), 1, 0)


MAKERS = {
    "shares": shares,
    "differences": differences,
    "medians": medians,
    "means": means,
    "areas": areas,
    "pairs": pairs,
    "precision": precision,
    "effects": effects,
    "rare shares": lambda n, draws, rng: shares(n, draws, rng, rare_share_cases(n)),
    "rare differences": lambda n, draws, rng: differences(n, draws, rng, rare_gap_cases(n)),
    "fourteen": lambda n, draws, rng: shares(
        n, draws, rng, itertools.chain(share_cases((14,)), rare_share_cases(n, (14,)))
    ),
    "rare areas": lambda n, draws, rng: areas(n, draws, rng, rare_area_cases(n)),
    "calibration": calibration,
}


# ---------------------------------------------------------------- shards and the table


def drawn(kind, n, given):
    return given.draws // 2 if kind.endswith("areas") and n > LARGEST else given.draws


def place(kind, n, given):
    return given.folder / f"{kind.replace(' ', '_')}_{n}_{drawn(kind, n, given)}_{given.seed}.json"


def shard(kind, n, given):
    """Rows of a kind and a number of people and the seconds they took, from the file if it is there."""
    path = place(kind, n, given)
    if path.is_file():
        return json.loads(path.read_text())
    rng = np.random.default_rng([given.seed, KINDS.index(kind), n])
    start, rows = time.perf_counter(), []
    for family, name, once in MAKERS[kind](n, drawn(kind, n, given), rng):
        found = once(drawn(kind, n, given))
        if not found:  # nothing to be drawn with so few people
            continue
        unsure = any(AGAIN[0] <= found[method][0] < AGAIN[1] for method in DECIDING if method in found)
        if unsure and given.again > given.draws:
            found = once(given.again)
        rows += [
            {"kind": kind.removeprefix("rare "), "n": n, "family": family, "case": name, "method": method}
            | {"coverage": round(cover, 4), "width": float(f"{width:.4g}"), "draws": count}
            for method, (cover, width, count) in found.items()
        ]
    found = {"seconds": round(time.perf_counter() - start, 1), "rows": rows}
    with written_whole(path) as scratch:
        scratch.write_text(json.dumps(found))
    print(f"{kind}, {n} people: {len(rows)} rows, {found['seconds']:.0f} s", flush=True)
    return found


def summed_up(rows):
    """A row for each kind, method, number of people and family: the lowest coverage, where, least draws, mean width."""
    groups = defaultdict(list)
    for row in rows:
        family, part = row["family"], row["family"].startswith(("correlation", "people's part"))
        case = row | ({"case": f"{row['case']}, {family}"} if part else {})
        case["family"] = "ordinary people" if part else family
        groups[row["kind"], row["method"], row["n"], case["family"]].append(case)
    for (kind, method, n, family), cells in groups.items():
        worst = min(cells, key=lambda row: row["coverage"])
        found = {"kind": kind, "method": method, "n": n, "family": family, "lowest": worst["coverage"]}
        found |= {"at": worst["case"]} if worst["coverage"] < LEVEL else {}  # of no interest above
        width = float(f"{np.mean([row['width'] for row in cells]):.4g}")
        yield found | {"draws": min(row["draws"] for row in cells), "width": width}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--people", nargs="+", type=int, default=list(PEOPLE))
    parser.add_argument("--draws", type=int, default=2000, help="samples of each cell")
    parser.add_argument("--again", type=int, default=20_000, help="samples of a cell that looks low")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where shards are kept")
    parser.add_argument("--there", action="store_true", help="take only the shards that are there already")
    parser.add_argument("--write", action="store_true", help="write data/results/coverage.json")
    given = parser.parse_args()
    began = shipped.begin()
    given.folder.mkdir(parents=True, exist_ok=True)
    wanted = [(kind, n) for kind in given.kinds for n in ONLY.get(kind, given.people)]
    if given.there:
        wanted = [(kind, n) for kind, n in wanted if place(kind, n, given).is_file()]
    shards = [shard(kind, n, given) for kind, n in wanted]
    rows = [row for each in shards for row in each["rows"]]
    for row in summed_up(rows):
        if row["lowest"] < LEAST:
            print(f"{row['kind']}: {row['method']}, n = {row['n']}, {row['family']}: {row['lowest']} at {row['at']}")
    if given.write:
        shipped.write_table(
            "coverage",
            summed_up(rows),
            command=f"python benchmarks/coverage.py --draws {given.draws} --seed {given.seed} --write",
            inputs={"draws": given.draws, "again": given.again, "seed": given.seed, "people": given.people}
            | {"areas": {"halved above": LARGEST, "pictures again": PLENTY}},
            began=replace(began, at=time.time() - sum(each["seconds"] for each in shards)),  # whenever that was
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
