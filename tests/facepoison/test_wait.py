from dataclasses import replace

import numpy as np
import pytest
import torch

from facepoison import factorial, game
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.evaluation import Answers, Protection, Rate
from facepoison.game import named
from facepoison.pictures import Pictures
from facepoison.protocol import Data


@pytest.fixture
def data():
    identities = torch.arange(3).repeat_interleave(10)
    pixels = torch.zeros(30, 3, 8, 8, dtype=torch.uint8)
    pictures = Pictures(pixels, identities, ("a", "b", "c"))
    places = torch.arange(30)
    return Data(pictures, places[places % 10 < 8], places[places % 10 >= 8], (2, 0), {}, pictures)


@pytest.fixture
def posts(data):
    clean = data.to_publish(data.users)
    return replace(clean, pixels=torch.full_like(clean.pixels, 7))


def per_user(posts, value):
    same = (posts.pixels == value).flatten(1).all(1)
    return [int(same[posts.identities == user].sum()) for user in posts.people]


def test_switching_changes_the_share_of_every_users_pictures_and_grows(data, posts):
    new = replace(posts, pixels=posts.pixels + 2)
    before = torch.zeros(len(posts), dtype=torch.bool)
    for share in (0.0, 0.25, 0.5, 1.0):
        mixed = game.switched(posts, new, share, seed=1)
        assert per_user(mixed, 9) == [round(8 * share)] * 2
        now = (mixed.pixels == 9).flatten(1).all(1)
        assert bool((now | ~before).all())  # who has switched stays switched
        before = now
    with pytest.raises(InputError, match=r"share 1\.5"):
        game.switched(posts, new, 1.5, seed=1)


@pytest.mark.parametrize("n", [0, 1, 5, 20])
def test_leaks_are_clean_pictures_of_every_user(data, posts, n):
    assert per_user(game.leaked(data, posts, n, seed=1), 0) == [min(n, 8)] * 2


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
        hits += [[each.low <= (0.3 if each.factor == "a" else 0) <= each.high for each in effect]]
    assert (np.mean(hits, axis=0) >= 0.94).all()


def test_effects_are_differences_of_means_with_honest_intervals():
    runs = factorial.half_factorial(["a", "b", "c", "d"]) * 2
    rng = generator(0)
    hits = 0
    for _ in range(200):
        noise = torch.randn(16, generator=rng, dtype=torch.float64)
        response = [3.0 * run["a"] - 1.0 * run["d"] + float(e) for run, e in zip(runs, noise, strict=True)]
        found = {effect.factor: effect for effect in factorial.effects(runs, response)}
        level = [[y for run, y in zip(runs, response, strict=True) if run["a"] == at] for at in (0, 1)]
        assert found["a"].value == pytest.approx(sum(level[1]) / 8 - sum(level[0]) / 8)
        hits += found["a"].low < 3.0 < found["a"].high
    assert 180 <= hits <= 199  # 95 % of 200, give or take
    with pytest.raises(InputError, match="give more runs"):
        factorial.effects(runs[:5], range(5))


def test_some_users_among_some_people_keep_their_pictures_and_the_rest_goes(data, posts):
    few, ours = game.among(data, posts, (0, 1), (0,))
    assert few.users == ours.people == (0,)
    assert data.pictures.identities[few.gallery].unique().tolist() == [0, 1]
    assert data.pictures.identities[few.probes].unique().tolist() == [0, 1]
    assert ours.identities.tolist() == [0] * 8
    with pytest.raises(InputError, match=r"users \[2\] are not among the people"):
        game.among(data, posts, (0, 1), (0, 2))


def test_who_is_named_is_said_probe_by_probe(data):
    rows, true = torch.tensor([2, 2, 0, 0]), torch.tensor([2, 2, 0, 0])
    answers = Answers(rows, rows, true, torch.tensor([[2], [1], [0], [0]]), torch.zeros(4, 1))
    result = Protection(Rate(0.25, 2, 4, 0.0, 1.0), answers, answers)
    assert named(result, 2) == [True, False]
    assert (
        wait.answers_in_words("arcface", {"LowKey": named(result, 2)}) == "arcface names 1 of 2 probes despite LowKey."
    )
    assert data.probes_of(2).tolist() == [28, 29]
