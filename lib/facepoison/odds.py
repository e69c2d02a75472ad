"""Lines of log-odds over a detector's scores, with the range that other people's lines would lie in.

Many samples at once, as in ``intervals``: ``benchmarks/coverage.py`` simulates the code that ``calibration`` uses.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from facepoison.intervals import CONFIDENCE, Numbers

_STEPS = 100  # of Newton's method, at most
_SMALL = 1e-6  # change of a line's log-odds, in the scores' own units of spread, at which it has settled
_TINY = 1e-100  # least that is divided by
_FAR = 1e9  # as far as a line is let move without a person: any log-odds of use lie within


T = TypeVar("T", float, Numbers)


class Lines(NamedTuple, Generic[T]):
    """Lines of log-odds and their ranges: numbers of one sample, or arrays (r,) of r samples.

    Attributes:
        slope: Of Platt's line, which gives the value.
        intercept: Likewise.
        careful_slope: Of Platt's line when as many labels are wrong as can be without its having shown.
        careful_intercept: Likewise.
        middle_slope: Of the line in the middle of the band, the likeliest one, or Platt's where scores do not overlap.
        middle_intercept: Likewise.
        pivot: Score at which the band is narrowest.
        least: How far the band reaches to either side of its middle there.
        opening: How much further, per unit of score, far away from there.
        start: Score above which the range is open to one side; infinite where scores overlap.
        end: Score below which it is open to the other; minus infinity where scores overlap.
    """

    slope: T
    intercept: T
    careful_slope: T
    careful_intercept: T
    middle_slope: T
    middle_intercept: T
    pivot: T
    least: T
    opening: T
    start: T
    end: T


def lines_of(
    scores: ArrayLike, poisoned: ArrayLike, people: ArrayLike, confidence: float = CONFIDENCE
) -> Lines[Numbers]:
    """Lines of samples in which clean and poisoned pictures count alike, whatever their numbers.

    The value is Platt's (1999): a logistic regression in which a label is wrong by a share of 1 / (n + 2) for n people
    of that side. The range holds three things:

    - A band around the likeliest line, that of the same regression with all labels right. Its variance over people is
      the jackknife's, which leaves out each of them in turn, with one step of Newton's method from the line of all
      (Mancl and DeRouen, Biometrics 57, 2001; Bell and McCaffrey, Survey Methodology 28, 2002; MacKinnon, Nielsen and
      Webb, Journal of Applied Econometrics 38, 2023). Student's t has n (n + 1) / (3 (n - 1)) degrees of freedom for
      the n people of the smaller side, about n / 3: Satterthwaite's rule gives a variance of a slope n / kurtosis of
      them, and the kurtosis of n normally distributed scores is 3 (n - 1) / (n + 1) on average. There are fewer by as
      much as that of all pictures is larger than 3.
    - Platt's line when as large a share of labels is wrong as there may be people unlike all those seen, 1 - 0.025^(1 /
      (n + 1)) at 95 %: it says less than the value does.
    - Certainty, where scores of the two sides do not overlap, with all people or without one of them. There is no
      likeliest line then (Albert and Anderson, Biometrika 71, 1984), or one that a single person decides: lines as
      steep as one likes fit best. The band is around Platt's line instead, and the range is open towards certainty on
      either side and both ways between. What lies between begins for each side at the score that only as large a share
      of its people pass as may be unseen of the other.

    Args:
        scores: Of pictures (r, N), finite, not all of a sample the same.
        poisoned: Which are, bool (N,).
        people: Whose they are, whole numbers (N,); at least two people on each side, who may be the same.
        confidence: 0.95 for a 95 % range.

    Returns:
        The lines; their start is finite where scores do not overlap.
    """
    x, label = np.asarray(scores, dtype=np.float64), np.asarray(poisoned, dtype=bool)
    row = np.unique(np.asarray(people), return_inverse=True)[1]
    sides = [len(np.unique(row[label == side])) for side in (False, True)]
    middle, spread = x.mean(axis=1), x.std(axis=1)
    z = (x - middle[:, None]) / spread[:, None]
    weight = np.where(label, 1 / label.sum(), 1 / (~label).sum())

    def with_wrong(wrong: list[float]) -> Numbers:
        return np.where(label, 1 - wrong[1], wrong[0])

    targets = with_wrong([1 / (side + 2) for side in sides])
    tail = (1 - confidence) / 2
    value, _ = fit_lines(z, targets, weight)
    unseen = [1 - tail ** (1 / (side + 1)) for side in sides]
    careful, _ = fit_lines(z, with_wrong(unseen), weight)
    lowest, highest = _people_ends(z, row, label)
    few = [round(side / min(sides)) for side in sides]  # people who are as much of their side as one of the smaller
    many = [max(one, int(side * rate)) for one, side, rate in zip(few, sides, unseen[::-1], strict=True)]
    apart, inner = np.zeros(len(z), dtype=bool), []
    for below, above in ((0, 1), (1, 0)):
        top, bottom = highest[below], lowest[above]
        apart |= (top[:, -1 - few[below]] <= bottom[:, 0]) | (top[:, -1] <= bottom[:, few[above]])
        inner.append(np.stack([top[:, -1 - many[below]], bottom[:, many[above]]]))
    middles = value.copy()
    likeliest, settled = fit_lines(z[~apart], label.astype(np.float64), weight)
    apart[~apart] = ~settled  # steeper than numbers can tell: as if there were no line
    middles[~apart] = likeliest[settled]
    ends = np.where(value[:, 1] > 0, *inner)
    off = _without_each(z, np.where(apart[:, None], targets, label), label, row, middles)
    variance = np.einsum("rig,rjg->rij", off, off) * (1 - 1 / off.shape[-1])
    turn = -variance[:, 0, 1] / np.maximum(variance[:, 1, 1], _TINY)
    least = np.sqrt(np.maximum(variance[:, 0, 0] + turn * variance[:, 0, 1], 0.0))
    n = min(sides)
    kurtosis = np.maximum(1.0, (z**4 @ weight) * weight.sum() / (z**2 @ weight) ** 2 / 3) * 3 * (n - 1) / (n + 1)
    factor = stats.t.ppf(1 - tail, n / kurtosis)

    def back(line: Numbers) -> tuple[Numbers, Numbers]:
        slope = line[:, 1] / spread
        return slope, line[:, 0] - slope * middle

    return Lines(
        *back(value),
        *back(careful),
        *back(middles),
        middle + spread * turn,
        factor * least,
        factor * np.sqrt(variance[:, 1, 1]) / spread,
        np.where(apart, middle + spread * ends.min(axis=0), np.inf),
        np.where(apart, middle + spread * ends.max(axis=0), -np.inf),
    )


def ranges(lines: Lines[float] | Lines[Numbers], scores: ArrayLike) -> tuple[Numbers, Numbers, Numbers]:
    """Log-odds of being poisoned at some scores, and the ends of their range, which may be infinite.

    Args:
        lines: With arrays, or numbers, that go with the scores.
        scores: Any.
    """
    x = np.asarray(scores, dtype=np.float64)
    value = lines.slope * x + lines.intercept
    careful = lines.careful_slope * x + lines.careful_intercept
    middle = lines.middle_slope * x + lines.middle_intercept
    margin = np.hypot(lines.least, lines.opening * (x - lines.pivot))
    above, below = x > lines.start, x < lines.end
    rising = np.asarray(lines.slope) > 0
    low = np.where(np.where(rising, below, above), -np.inf, middle - margin)
    high = np.where(np.where(rising, above, below), np.inf, middle + margin)
    return value, np.minimum(low, np.minimum(value, careful)), np.maximum(high, np.maximum(value, careful))


def fit_lines(scores: ArrayLike, targets: ArrayLike, weights: ArrayLike) -> tuple[Numbers, NDArray[np.bool_]]:
    """Logistic regressions on one score, by Newton's method with steps halved until the likelihood rises.

    Args:
        scores: Of pictures (r, N), spread by about 1 around about 0.
        targets: How far a picture counts as poisoned, 0 to 1, (N,) or (r, N).
        weights: How often a picture counts, (N,) or (r, N).

    Returns:
        Intercepts and slopes (r, 2), and which samples' have settled (r,).
    """
    x = np.asarray(scores, dtype=np.float64)
    target, weight = np.broadcast_to(targets, x.shape), np.broadcast_to(weights, x.shape)
    line, settled = np.zeros((len(x), 2)), np.zeros(len(x), dtype=bool)
    reached = np.full(len(x), -np.inf)
    step = np.zeros((len(x), 2))
    for _ in range(_STEPS):
        todo = np.flatnonzero(~settled)
        if not len(todo):
            break
        z, y, w = (part[todo] if len(todo) < len(x) else part for part in (x, target, weight))
        odds = line[todo, :1] + line[todo, 1:] * z
        likelihood = (w * (y * odds - np.logaddexp(0, odds))).sum(axis=1)
        worse = likelihood < reached[todo] - 1e-12
        step[todo[worse]] /= 2
        line[todo[worse]] -= step[todo[worse]]
        better = todo[~worse]
        if not len(better):
            continue
        reached[better] = likelihood[~worse]
        z, y, w, odds = (part[~worse] if worse.any() else part for part in (z, y, w, odds))
        chance = special.expit(odds)
        step[better] = _newton(*_sums(z, w * (y - chance), w * chance * (1 - chance)))
        settled[better] = np.abs(step[better]).max(axis=1) < _SMALL * (1 + np.abs(line[better]).max(axis=1))
        line[better] += step[better]
    return line, settled


def _sums(z: Numbers, score: Numbers, information: Numbers) -> list[Numbers]:
    """Sums over pictures, the last axis, of what goes into a step: two of the score, three of the information."""
    return [part.sum(axis=-1) for part in (score, score * z, information, information * z, information * z * z)]


def _newton(s0: Numbers, s1: Numbers, m0: Numbers, m1: Numbers, m2: Numbers) -> Numbers:
    """A step of Newton's method (..., 2)."""
    size = np.maximum(m0 * m2 - m1 * m1, _TINY)
    return np.stack([(m2 * s0 - m1 * s1) / size, (m0 * s1 - m1 * s0) / size], axis=-1)


def _without_each(
    z: Numbers, targets: Numbers, label: NDArray[np.bool_], row: NDArray[np.intp], line: Numbers
) -> Numbers:
    """How far lines move, by one step, when each of the people is left out: (r, 2, people)."""
    chance = special.expit(line[:, :1] + line[:, 1:] * z)
    score, information = np.asarray(targets) - chance, chance * (1 - chance)
    people, sums = int(row.max()) + 1, [np.zeros(())] * 5
    for side in (False, True):
        on = label == side
        owner = row[on]
        order = np.argsort(owner, kind="stable")
        here, starts = np.unique(owner[order], return_index=True)
        left = on.sum() - np.bincount(owner, minlength=people)
        x, u, v = (part[:, on][:, order] for part in (z, score, information))
        for place, part in enumerate((u, u * x, v, v * x, v * x * x)):
            own = np.zeros((len(z), people))
            own[:, here] = np.add.reduceat(part, starts, axis=1)
            sums[place] = sums[place] + (part.sum(axis=1)[:, None] - own) / left
    return np.clip(np.moveaxis(_newton(*sums), -1, 1), -_FAR, _FAR)


def _people_ends(z: Numbers, row: NDArray[np.intp], label: NDArray[np.bool_]) -> tuple[list[Numbers], list[Numbers]]:
    """Each person's lowest and highest score, sorted, of clean pictures and of poisoned ones."""
    lowest, highest = [], []
    for side in (False, True):
        on = label == side
        order = np.argsort(row[on], kind="stable")
        starts = np.unique(row[on][order], return_index=True)[1]
        mine = z[:, on][:, order]
        lowest.append(np.sort(np.minimum.reduceat(mine, starts, axis=1), axis=1))
        highest.append(np.sort(np.maximum.reduceat(mine, starts, axis=1), axis=1))
    return lowest, highest
