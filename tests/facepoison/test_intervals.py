from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from facepoison import intervals
from facepoison.errors import InputError
from facepoison.intervals import (
    area_interval,
    difference_interval,
    mean_of,
    median_interval,
    of_two,
    share_interval,
    unseen,
)


def people(n, seed=0, low=0.0, high=1.0):
    return np.random.default_rng(seed).uniform(low, high, n)


def scores(n, seed=0, shift=1.0, each=4):
    """Clean and poisoned scores of the same people, who differ."""
    stream = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n), each)
    level = stream.normal(size=n)[owner]
    return level + stream.normal(size=n * each), owner, level + shift + stream.normal(size=n * each), owner


@pytest.mark.parametrize("n", [1, 2, 3, 20, 200])
def test_value_is_inside_and_more_confidence_is_wider(n):
    shares, gaps = people(n), people(n, 1, -1, 1)
    levels = (0.5, 0.8, 0.95, 0.99)
    for value, ends in (
        (shares.mean(), [share_interval(shares, 6 * n, level) for level in levels]),
        (gaps.mean(), [difference_interval(gaps, level) for level in levels]),
        (np.median(gaps), [median_interval(gaps, level) for level in levels]),
        (area_interval(*scores(n))[0], [area_interval(*scores(n), level)[1:] for level in levels]),
    ):
        for low, high in ends:
            assert low <= value <= high
        for (low, high), (lower, higher) in pairwise(ends):
            assert lower <= low
            assert high <= higher


@pytest.mark.parametrize("n", [1, 5, 100, 2000])
def test_where_all_are_alike_the_interval_is_exactly_binomial(n):
    exact = stats.binomtest(0, n).proportion_ci(0.95, "exact").high
    assert share_interval(np.zeros(n), 6 * n) == pytest.approx((0, exact))
    assert share_interval(np.ones(n), 6 * n) == pytest.approx((1 - exact, 1))
    assert difference_interval(np.zeros(n)) == pytest.approx((-exact, exact), rel=1e-3)
    owner = np.repeat(np.arange(n), 3)
    clean = np.linspace(0, 1, 3 * n)
    assert area_interval(clean, owner, clean + 2, owner) == pytest.approx((1, 1 - exact, 1))
    assert area_interval(clean + 2, owner, clean, owner) == pytest.approx((0, 0, exact))


def test_nobody_of_2000_who_differs_leaves_a_fifth_of_a_point():
    low, high = difference_interval(np.zeros(2000))
    assert -0.002 < low < 0 < high < 0.002


@pytest.mark.parametrize(("k", "n"), [(1, 3), (3, 10), (2, 100), (40, 2000), (60, 100)])
def test_people_of_two_kinds_are_binomial(k, n):
    exact = stats.binomtest(k, n).proportion_ci(0.95, "exact")
    kinds = np.repeat([1.0, 0.0], [k, n - k])
    assert share_interval(kinds, n) == pytest.approx((exact.low, exact.high), rel=0.2, abs=0.01)
    low, high = intervals.bounded_ends([0.0, 1.0], [n - k, k], 0.0, 1.0)
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-5)


@pytest.mark.parametrize("n", [3, 20, 200])
def test_mirrored_people_give_the_mirrored_interval(n):
    shares, gaps = people(n), people(n, 1, -1, 1)
    low, high = share_interval(shares, 6 * n)
    assert share_interval(1 - shares, 6 * n) == pytest.approx((1 - high, 1 - low))
    low, high = difference_interval(gaps)
    assert difference_interval(-gaps) == pytest.approx((-high, -low), abs=1e-6)
    clean, owner, poisoned, _ = scores(n)
    value, low, high = area_interval(clean, owner, poisoned, owner)
    assert area_interval(poisoned, owner, clean, owner) == pytest.approx((1 - value, 1 - high, 1 - low))


def test_random_weights_are_those_of_dirichlet():
    """Gaffke's ends are quantiles of means under uniform random weights, one more person having the worst value."""
    stream = np.random.default_rng(0)
    for n in (1, 2, 5, 40):
        gaps = people(n, n, -0.3, 0.6)
        weights = stream.dirichlet(np.ones(n + 1), 100_000)
        drawn = [np.quantile(weights @ np.append(gaps, worst), tail) for worst, tail in ((-1, 0.025), (1, 0.975))]
        assert difference_interval(gaps) == pytest.approx(drawn, abs=0.01)


def test_median_interval_is_made_of_peoples_own_values():
    values = people(20, high=40)
    test = stats.quantile_test(values).confidence_interval(0.95)  # scipy's ends, found by another way
    assert median_interval(torch.tensor(values)) == pytest.approx((test.low, test.high))
    assert median_interval(np.exp(values)) == pytest.approx((np.exp(test.low), np.exp(test.high)))
    assert median_interval([3.0] * 6) == (3.0, 3.0)
    assert median_interval([3.0] * 5) == (-np.inf, np.inf)  # all on one side of the median: 1 in 16


def test_area_is_that_of_the_ranks_and_counts_people():
    clean, owner, poisoned, _ = scores(30)
    value, low, high = area_interval(clean, owner, poisoned, owner)
    pairs = len(clean) * len(poisoned)
    assert value == pytest.approx(stats.mannwhitneyu(poisoned, clean).statistic / pairs)
    _, below, above = area_interval(clean, owner, poisoned, owner + 100)
    assert above - below > high - low  # of the same people the differences of levels cancel
    copies = [np.tile(each, 10) for each in (clean, owner, poisoned, owner + 100)]
    assert area_interval(*copies) == pytest.approx((value, below, above), abs=0.003)  # copies of pictures add little


def test_an_area_is_a_mean_of_shares_of_either_side_and_never_surer_than_they_are():
    clean, owner, poisoned, other = scores(25, shift=2.0)
    value, *ends = area_interval(clean, owner, poisoned, other)
    for shares in intervals.area_shares(clean, owner, poisoned, other):
        assert shares.shape == (25,)
        assert shares.mean() == pytest.approx(value)
        low, high = share_interval(shares, 25 * 100)
        assert ends[0] <= low + 1e-6 <= high <= ends[1] + 1e-6
    lost = np.where(other < 2, -50.0, poisoned)  # two whom nobody finds
    shares = intervals.area_shares(clean, owner, lost, other)[1]
    assert shares[:2].tolist() == [0, 0]
    assert area_interval(clean, owner, lost, other)[1] == pytest.approx(share_interval(shares, 25 * 100)[0])


def test_variance_of_an_area_is_that_of_leaving_people_out():
    """The jackknife over people gives nearly the same variance, also with unequal numbers of pictures."""
    clean, owner, poisoned, other = scores(60, each=5)
    clean, owner = clean[::2], owner[::2]
    poisoned, other = poisoned[other > 20], other[other > 20]
    _, variance, n = intervals.area_parts(clean, owner, poisoned, other)
    assert n == 39
    left = [
        intervals.area_parts(clean[owner != i], owner[owner != i], poisoned[other != i], other[other != i])[0]
        for i in range(60)
    ]
    assert np.var(left) * 59 == pytest.approx(variance, rel=0.1)


def test_two_estimates_are_put_together_as_errors_are():
    low, high = of_two((0.7, 0.6, 0.78), (0.4, 0.36, 0.46))
    assert low == pytest.approx(0.3 - (0.1**2 + 0.06**2) ** 0.5)
    assert high == pytest.approx(0.3 + (0.08**2 + 0.04**2) ** 0.5)
    assert of_two((0.4, 0.36, 0.46), (0.7, 0.6, 0.78)) == pytest.approx((-high, -low))


def test_mean_of_estimates_averages_ends():
    assert mean_of([(0.5, 0.4, 0.7), (0.1, 0.0, 0.2)]) == pytest.approx((0.2, 0.45))
    assert mean_of([(0.5, 0.4, 0.7)]) == (0.4, 0.7)


def test_unseen_people_bound_any_mean():
    assert unseen(0.0, 20, 0.0, 1.0, 0.95) == pytest.approx((0.0, 0.16843), abs=1e-5)
    low, high = unseen(0.5, 20, -1.0, 1.0, 0.95)
    assert (low, high) == pytest.approx((0.5 - 1.5 * 0.16843, 0.5 + 0.5 * 0.16843), abs=1e-4)


def covered(truth, ends):
    return np.mean([low <= truth <= high for low, high in ends])


def test_coverage_of_people_and_not_of_pictures():
    """300 experiments with 40 people who mostly always or never fail: pooled pictures cover far too seldom."""
    stream, n, m, truth = np.random.default_rng(0), 40, 10, 0.3
    hits = stream.binomial(m, stream.beta(0.3 * truth, 0.3 * (1 - truth), (300, n)))
    assert covered(truth, [share_interval(row / m, n * m) for row in hits]) >= 0.93
    pooled = [intervals.clopper_pearson_ends(row.mean() / m, n * m) for row in hits]
    assert covered(truth, pooled) < 0.7


def test_coverage_where_few_people_change():
    """Of 60 people one in 40 changes wholly: Student's t sees nobody in a fifth of the experiments."""
    stream, n, truth = np.random.default_rng(0), 60, 0.025
    gaps = (stream.random((300, n)) < truth).astype(float)
    changed = gaps.sum(axis=1)
    ends = np.stack(intervals.bounded_ends([0.0, 1.0], np.stack([n - changed, changed], axis=1), -1.0, 1.0), axis=1)
    assert difference_interval(gaps[0]) == pytest.approx(ends[0].tolist())
    assert covered(truth, ends) >= 0.93
    mean, margin = gaps.mean(axis=1), stats.t.ppf(0.975, n - 1) * gaps.std(axis=1, ddof=1) / n**0.5
    assert covered(truth, np.stack([mean - margin, mean + margin], axis=1)) < 0.85


def test_coverage_of_areas():
    found = [area_interval(*scores(20, seed, 3.0)) for seed in range(300)]
    truth = stats.norm.cdf(3.0 / 2)  # two strangers: levels and noise of either have variance 1
    assert covered(truth, [ends for _, *ends in found]) >= 0.93


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: share_interval([], 0),
        lambda: share_interval([0.5, 1.5], 4),
        lambda: share_interval([0.5, 0.5], 1),
        lambda: share_interval([0.5, 0.5], 4, 1.0),
        lambda: difference_interval([0.5, -1.5]),
        lambda: difference_interval([[0.5]]),
        lambda: median_interval([1.0, np.nan]),
        lambda: area_interval([1.0], [0, 1], [2.0], [0]),
        lambda: of_two((0.5, 0.6, 0.7), (0.5, 0.4, 0.7)),
        lambda: mean_of([]),
    ],
)
def test_bad_input_is_one_line(wrong):
    with pytest.raises(InputError, match="give"):
        wrong()
