"""Designed experiments in two levels: half a factorial, and what each factor does in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import torch
from scipy import stats

from facepoison.errors import InputError
from facepoison.evaluation import Estimate
from facepoison.intervals import CONFIDENCE

CHANGES = {
    "architecture": ("same", "other"),
    "identities": ("same", "other"),
    "augmentation": ("same", "stronger"),
    "people": ("300", "900"),
}
"""Levels of the factors of the study ``carrying``, compared with the surrogate, as tables show them."""


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


def effects(
    levels: Sequence[Mapping[str, int]], response: Iterable[float], confidence: float = CONFIDENCE
) -> dict[str, Estimate]:
    """Main effects in a balanced design of two levels, by least squares; what they leave over is taken as error.

    The error may be larger at one level of a factor than at the other: as in Welch's test (Biometrika 34, 1947) the
    degrees of freedom of Student's t are those that Satterthwaite's rule gives, all of them where both are alike and
    half where one level has all of the error.

    Args:
        levels: Of each run, 0 or 1 by factor.
        response: Of each run.
        confidence: Of the intervals.

    Returns:
        By factor the mean at its second level minus that at its first; n counts runs.

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
    effects = {}
    for place, factor in enumerate(factors, start=1):
        one, other = (float(left[x[:, place] == side].sum()) for side in (-1, 1))
        known = free / 2 * (one + other) ** 2 / (one**2 + other**2) if one + other else free
        value, margin = 2 * float(found[place]), float(stats.t.ppf((1 + confidence) / 2, known)) * error
        effects[factor] = Estimate(value, len(y), value - margin, value + margin)
    return effects
