from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.evaluation import Answers, Protection
from facepoison.extractors import Extractor, Preprocessing
from facepoison.game import play
from facepoison.pictures import Pictures
from facepoison.pictures.splits import split
from facepoison.protocol import Data, embeddings
from facepoison.trainer import believed, cascade, quarantine, top_two

PEOPLE, EACH = 12, 8
USERS = (0, 3, 7)


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "store"))


class Part(nn.Module):
    """The mean colour of the upper or of the lower half."""

    def __init__(self, upper):
        super().__init__()
        self.upper = upper

    def forward(self, pictures):
        return (pictures[:, :, :8] if self.upper else pictures[:, :, 8:]).mean(dim=(2, 3))


@pytest.fixture
def accurate():
    return Extractor(Part(True), Preprocessing(16), name="upper", sha256="upper")


@pytest.fixture
def robust():
    """Poison never touches what it looks at."""
    return Extractor(Part(False), Preprocessing(16), name="lower", sha256="lower")


@pytest.fixture
def data():
    """People whom colour tells apart, mostly; both halves of a picture show it, each with an error of its own."""
    stream = generator(1, "sift people")
    own = torch.nn.functional.normalize(torch.randn(PEOPLE, 3, generator=stream)) * 100
    identities = torch.arange(PEOPLE).repeat_interleave(EACH)
    halves = own[identities][:, None] + 12 * torch.randn(PEOPLE * EACH, 2, 3, generator=stream)
    levels = (128 + halves).clamp(0, 255).round().to(torch.uint8)
    pixels = levels.permute(0, 2, 1).repeat_interleave(8, 2)[..., None].repeat(1, 1, 1, 16)
    pictures = Pictures(pixels, identities, tuple("abcdefghijkl"))
    gallery, probes = split(pictures, 1)
    return Data(pictures, gallery, probes, USERS, {}, pictures)


@pytest.fixture
def posts(data):
    """Users turn their upper halves into the opposite colour."""
    clean = data.to_publish(data.users)
    pixels = clean.pixels.clone()
    pixels[:, :, :8] = 255 - pixels[:, :, :8]
    return replace(clean, pixels=pixels)


def none(data, posts):
    return torch.zeros(len(data.pictures), dtype=torch.bool), torch.zeros(len(posts), dtype=torch.bool)


def of(posts, user):
    return posts.identities == user


@pytest.mark.parametrize("poisons", [True, False])
def test_where_nothing_is_flagged_it_is_the_plain_game(data, posts, accurate, robust, poisons):
    published = posts if poisons else data.to_publish(data.users)
    plain = play(data, published, accurate)
    assert 0 < plain.clean.by_user.mean() < 0.7  # people are told apart, and not always
    for second in (None, robust):
        outcome = quarantine(data, published, *none(data, published), accurate, second)
        assert outcome.rate == plain.rate
        for got, expected in ((outcome.poisoned, plain.poisoned), (outcome.clean, plain.clean)):
            for field in ("user", "probe", "true", "predicted"):
                assert torch.equal(getattr(got, field), getattr(expected, field))


def test_distances_are_counted_in_those_between_clean_pictures_of_one_person(data, posts, accurate):
    seen, who = embeddings(accurate, data.pictures.pixels), data.pictures.identities
    places = data.probes.tolist()
    own = [torch.cdist(seen[place][None], seen[data.gallery_of(int(who[place]))]).min() for place in places]
    unit = float(torch.stack(own).median())
    plain, outcome = play(data, posts, accurate), quarantine(data, posts, *none(data, posts), accurate)
    torch.testing.assert_close(outcome.clean.distance * unit, plain.clean.distance, atol=1e-3, rtol=0)
    torch.testing.assert_close(outcome.poisoned.distance * unit, plain.poisoned.distance, atol=1e-3, rtol=0)


def test_pictures_quarantined_for_the_same_extractor_change_nothing(data, posts, accurate):
    plain, stream = play(data, posts, accurate), generator(2)
    for share in (0.2, 0.5, 1.0):
        flags = [torch.rand(len(flag), generator=stream) < share for flag in none(data, posts)]
        outcome = quarantine(data, posts, *flags, accurate, accurate)
        assert torch.equal(outcome.poisoned.predicted, plain.poisoned.predicted)
        assert torch.equal(outcome.clean.predicted, plain.clean.predicted)


def test_who_loses_all_pictures_is_never_recognised(data, accurate):
    clean = data.to_publish(data.users)
    plain = play(data, clean, accurate)
    for place, user in enumerate(data.users):
        flagged, flagged_posts = none(data, clean)
        outcome = quarantine(data, clean, flagged, flagged_posts | of(clean, user), accurate)
        expected = plain.poisoned.by_user.clone()
        expected[place] = 1
        assert plain.poisoned.by_user[place] < 1
        assert torch.equal(outcome.poisoned.by_user, expected)
        assert torch.equal(outcome.clean.wrong, plain.clean.wrong)


def test_what_other_users_publish_is_not_met_in_a_round(data, posts, accurate):
    first, second = data.users[:2]
    pixels = posts.pixels.clone()
    pixels[of(posts, second)] = data.pictures.pixels[data.gallery_of(first)]  # would give the first user away
    others = replace(posts, pixels=pixels)
    flagged, flagged_posts = none(data, posts)
    for flags in (flagged_posts, of(posts, first)):
        outcome = quarantine(data, others, flagged, flags, accurate)
        assert outcome.poisoned.by_user[0] == play(data, others, accurate).poisoned.by_user[0] == 1


def test_an_extractor_that_sees_through_recognises_what_is_quarantined(data, posts, accurate, robust):
    flagged, flagged_posts = none(data, posts)
    assert play(data, posts, accurate).rate.value == 1
    assert quarantine(data, posts, flagged, ~flagged_posts, accurate).rate.value == 1
    apart = quarantine(data, posts, flagged, ~flagged_posts, accurate, robust)
    assert apart.rate.value < 0.6
    assert torch.equal(apart.clean.wrong, play(data, posts, accurate).clean.wrong)
    first = data.users[0]
    alone = quarantine(data, posts, flagged, of(posts, first), accurate, robust)
    assert alone.poisoned.by_user[0] == apart.poisoned.by_user[0] < 1
    assert (alone.poisoned.by_user[1:] == 1).all()


def test_one_leaked_clean_picture_that_passes_is_enough_to_be_found(data, posts, accurate):
    flagged, flagged_posts = none(data, posts)
    pixels = posts.pixels.clone()
    leaked = [int(of(posts, user).nonzero()[0]) for user in data.users]
    pixels[leaked] = data.to_publish(data.users).pixels[leaked]
    flagged_posts[:] = True
    flagged_posts[leaked] = False
    one = replace(posts, pixels=pixels)
    assert quarantine(data, one, flagged, flagged_posts, accurate).rate.value < 1


def test_non_poisoning_people_pay_for_pictures_flagged_by_mistake(data, posts, accurate, robust):
    flagged, flagged_posts = none(data, posts)
    user = data.users[1]
    flagged[data.gallery_of(user)] = True
    plain = play(data, posts, accurate)
    dropped = quarantine(data, posts, flagged, flagged_posts, accurate)
    expected = plain.clean.by_user.clone()
    expected[1] = 1
    assert plain.clean.by_user[1] < 1
    assert torch.equal(dropped.clean.by_user, expected)
    assert dropped.rate.clean_error.value == pytest.approx(float(expected.mean()))
    assert torch.equal(dropped.poisoned.wrong, plain.poisoned.wrong)  # in their own round users are poisoned anyway
    apart = quarantine(data, posts, flagged, flagged_posts, accurate, robust)
    assert apart.clean.by_user[1] < 1


def test_somebody_whose_pictures_are_dropped_is_mistaken_for_nobody(data, posts, accurate):
    flagged, flagged_posts = none(data, posts)
    taken_for = int(play(data, posts, accurate).poisoned.predicted[0, 0])
    assert taken_for != data.users[0]
    flagged[data.gallery_of(taken_for)] = True
    outcome = quarantine(data, posts, flagged, flagged_posts, accurate)
    assert not bool((outcome.poisoned.predicted[outcome.poisoned.user != taken_for] == taken_for).any())


def test_probes_are_asked_whether_or_not_they_look_poisoned(data, posts, accurate):
    flagged, flagged_posts = none(data, posts)
    plain = quarantine(data, posts, flagged, flagged_posts, accurate)
    flagged[data.probes] = True
    again = quarantine(data, posts, flagged, flagged_posts, accurate)
    assert again.rate == plain.rate
    assert torch.equal(again.poisoned.distance, plain.poisoned.distance)


def test_a_flag_is_needed_for_every_picture(data, posts, accurate):
    flagged, flagged_posts = none(data, posts)
    with pytest.raises(InputError, match=r"flags: \(95,\) of 96 pictures, \(18,\) of 18 published"):
        quarantine(data, posts, flagged[1:], flagged_posts, accurate)
    with pytest.raises(InputError, match=r"flags: \(96,\) of 96 pictures, \(17,\) of 18 published"):
        quarantine(data, posts, flagged, flagged_posts[1:], accurate)


def answers(predicted, distance, probe=(0, 1, 2, 3)):
    user = torch.tensor([4, 4, 7, 7])
    return Answers(
        user, torch.tensor(probe), user.clone(), torch.tensor(predicted)[:, None], torch.tensor(distance)[:, None]
    )


CLEAN = answers([4, 4, 7, 7], [0.1, 0.1, 0.1, 0.1])
ACCURATE = Protection(answers([4, 1, 7, 1], [0.2, 0.9, 0.3, 0.4]), CLEAN)
ROBUST = Protection(answers([1, 4, 7, 1], [0.5, 0.6, 0.5, 0.6]), CLEAN)


def test_one_of_two_candidates_is_enough():
    both = top_two(ACCURATE, ROBUST)
    assert both.poisoned.predicted.tolist() == [[4, 1], [1, 4], [7, 7], [1, 1]]
    assert both.poisoned.wrong.tolist() == [False, False, False, True]
    assert both.rate.value == 0.25
    assert both.rate.clean_error.value == 0


@pytest.mark.parametrize(
    ("farthest", "predicted"),
    [(-1.0, [1, 4, 7, 1]), (0.35, [4, 4, 7, 1]), (0.4, [4, 4, 7, 1]), (2.0, [4, 1, 7, 1])],
)
def test_the_robust_one_answers_where_the_accurate_one_finds_nobody_near(farthest, predicted):
    both = cascade(ACCURATE, ROBUST, farthest)
    assert both.poisoned.predicted[:, 0].tolist() == predicted
    first, second = ACCURATE.poisoned.distance, ROBUST.poisoned.distance
    assert torch.equal(both.poisoned.distance, torch.where(first <= farthest, first, second))
    assert both.rate.value == sum(who != true for who, true in zip(predicted, [4, 4, 7, 7], strict=True)) / 4
    assert both.rate.clean_error.value == 0


def test_the_threshold_lets_a_share_of_clean_probes_through():
    distances = torch.arange(1, 11) / 10
    for share in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
        let = float((distances <= believed(share, distances)).double().mean())
        assert let >= share
        assert let < share + 0.1


@pytest.mark.parametrize(("share", "n"), [(-0.1, 3), (1.1, 3), (0.5, 0)])
def test_a_threshold_needs_a_share_and_distances(share, n):
    with pytest.raises(InputError, match="threshold"):
        believed(share, torch.ones(n))


@pytest.mark.parametrize("combine", [top_two, partial(cascade, farthest=0.5)])
def test_answers_to_different_probes_are_not_combined(combine):
    with pytest.raises(InputError, match="different probes"):
        combine(ACCURATE, replace(ROBUST, clean=answers([4, 4, 7, 7], [0.1] * 4, probe=(0, 1, 2, 9))))
