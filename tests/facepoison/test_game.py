from dataclasses import replace

import pytest
import torch
from tiny import embedded_crowd

from facepoison import game
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.evaluation import Answers, Protection
from facepoison.extractors import normalise
from facepoison.game import measure_protection, named
from facepoison.pictures import Pictures
from facepoison.protocol import Data
from facepoison.recognition import nearest


def test_each_user_poisons_alone():
    """The same as playing every round in full: gather that user's gallery anew and ask the recogniser."""
    gallery, labels, probes, asked = embedded_crowd(spread=0.9)
    stream = generator(1, "poison")
    users = (4, 1, 3)
    poisoned = {user: normalise(torch.randn(5, 16, generator=stream)) for user in users}
    outcome = measure_protection(gallery, labels, probes, asked, poisoned)
    for user in users:
        changed = gallery.clone()
        changed[labels == user] = poisoned[user]
        own = (asked == user).nonzero().flatten()
        rows = outcome.poisoned.user == user
        for table, known in ((outcome.poisoned, changed), (outcome.clean, gallery)):
            found = nearest(known, labels, probes[own], k=game.HELD)
            assert torch.equal(table.predicted[rows], found.labels)
            torch.testing.assert_close(table.distance[rows], found.distances)
            assert torch.equal(table.probe[rows], own)
            assert (table.true[rows] == user).all()
    assert outcome.poisoned.users == users
    assert outcome.rate.value == pytest.approx(outcome.poisoned.by_user.mean().item())
    assert outcome.rate.clean_error.value == pytest.approx(outcome.clean.by_user.mean().item())


def test_poison_far_from_everyone_protects_and_no_poison_does_not():
    gallery, labels, probes, asked = embedded_crowd(spread=0.1)
    away = measure_protection(gallery, labels, probes, asked, {u: -gallery[labels == u] for u in range(6)})
    assert away.rate.value == 1
    assert away.rate.clean_error.value == 0
    same = measure_protection(gallery, labels, probes, asked, {u: gallery[labels == u] for u in range(6)})
    assert same.rate.value == same.rate.clean_error.value == 0
    assert torch.equal(same.poisoned.predicted, same.clean.predicted)


def test_top_k_is_right_more_often():
    gallery, labels, probes, asked = embedded_crowd(people=12, spread=2.0)
    result = measure_protection(gallery, labels, probes, asked, {u: gallery[labels == u] for u in range(12)})
    values = [result.top(k).rate.value for k in (1, 3, 5)]
    assert values[0] > values[1] > values[2]
    assert result.rate.value == values[0]
    with pytest.raises(InputError, match="top 6: 5 identities are held of each answer; ask for 1 to 5"):
        result.top(6)


def test_of_few_people_answers_hold_all():
    gallery, labels, probes, asked = embedded_crowd(people=3, spread=2.0)
    result = measure_protection(gallery, labels, probes, asked, {1: gallery[labels == 0]})
    assert result.poisoned.predicted.sort(dim=1).values.tolist() == [[0, 1, 2]] * 4
    assert result.top(3).rate.value == 0


def test_who_is_out_of_a_round_is_no_candidate():
    far = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    out = far.clone()
    out[:, 0] = torch.tensor([torch.inf, 0.9])
    result = game.compared((0, 2), [torch.tensor([4]), torch.tensor([7])], far, out)
    assert result.clean.predicted.tolist() == [[0, 1, 2], [2, 1, 0]]
    assert result.poisoned.predicted.tolist() == [[1, 2, -1], [2, 1, 0]]
    assert result.poisoned.top(3).wrong.tolist() == [True, False]
    assert (result.poisoned.user.tolist(), result.poisoned.probe.tolist()) == ([0, 2], [4, 7])


def test_rounds_that_cannot_be_played_are_refused_in_one_line():
    gallery, labels, probes, asked = embedded_crowd()
    own = gallery[labels == 2]
    with pytest.raises(InputError, match="no user"):
        measure_protection(gallery, labels, probes, asked, {})
    with pytest.raises(InputError, match="user 2: 4 poisoned of 5 gallery pictures; poison all"):
        measure_protection(gallery, labels, probes, asked, {2: own[1:]})
    with pytest.raises(InputError, match="user 9: 0 gallery pictures and 0 probes"):
        measure_protection(gallery, labels, probes, asked, {9: own})
    with pytest.raises(InputError, match="gallery: embeddings are not at unit length"):
        measure_protection(gallery, labels, probes, asked, {2: 3 * own})
    with pytest.raises(InputError, match="one int64 each"):
        measure_protection(gallery, labels, probes, asked[1:], {2: own})


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
    assert named(Protection(answers, answers), 2) == [True, False]
    assert data.probes_of(2).tolist() == [28, 29]
