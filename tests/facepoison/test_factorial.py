import numpy as np
import pytest
import torch

from facepoison import factorial
from facepoison.device import generator
from facepoison.errors import InputError


def test_half_a_factorial_is_balanced_and_no_two_factors_go_together():
    runs = factorial.half_factorial(["a", "b", "c", "d"])
    signs = torch.tensor([[2.0 * run[name] - 1 for name in "abcd"] for run in runs])
    assert len(runs) == 8 == len({tuple(run.values()) for run in runs})
    assert torch.equal(signs.T @ signs, 8 * torch.eye(4))
    assert torch.equal(signs[:, 3], signs[:, :3].prod(dim=1))


@pytest.mark.parametrize("kind", ["even", "skewed", "rates near zero", "uneven"])
def test_intervals_of_effects_hold_the_truth_as_often_as_they_say(kind):
    runs, rng = factorial.half_factorial(("a", "b", "c", "d")) * 2, np.random.default_rng(1)
    hits = []
    for _ in range(1500):
        if kind == "even":
            rest = rng.normal(0, 0.1, 16)
        elif kind == "skewed":
            rest = 0.1 * (rng.exponential(1, 16) - 1)
        elif kind == "uneven":
            rest = rng.normal(0, [0.4 if run["a"] else 0.02 for run in runs])
        else:  # what ten users' probes say of extractors whose true rates differ
            true = 1 / (1 + np.exp(4 - rng.normal(0, 0.5, 16)))
            rest = rng.binomial(6, rng.beta(2 * true, 2 * (1 - true), (10, 16))).mean(axis=0) / 6
        effect = factorial.effects(runs, rest + np.array([0.3 * run["a"] for run in runs]))
        hits += [[each.low <= (0.3 if factor == "a" else 0) <= each.high for factor, each in effect.items()]]
    assert (np.mean(hits, axis=0) >= 0.94).all()


def test_effects_are_differences_of_means_with_sound_intervals():
    runs = factorial.half_factorial(["a", "b", "c", "d"]) * 2
    rng = generator(0)
    hits = 0
    for _ in range(200):
        noise = torch.randn(16, generator=rng, dtype=torch.float64)
        response = [3.0 * run["a"] - 1.0 * run["d"] + float(e) for run, e in zip(runs, noise, strict=True)]
        found = factorial.effects(runs, response)
        level = [[y for run, y in zip(runs, response, strict=True) if run["a"] == at] for at in (0, 1)]
        assert found["a"].value == pytest.approx(sum(level[1]) / 8 - sum(level[0]) / 8)
        hits += found["a"].low < 3.0 < found["a"].high
    assert 180 <= hits <= 199  # 95 % of 200, give or take
    with pytest.raises(InputError, match="give more runs"):
        factorial.effects(runs[:5], range(5))
