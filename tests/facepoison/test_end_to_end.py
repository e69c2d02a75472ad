import copy
import dataclasses

import pytest
import torch
from tiny import tiny_extractor
from torch import nn

from facepoison.device import generator
from facepoison.end_to_end import end_to_end
from facepoison.errors import InputError
from facepoison.extractors import Extractor, Preprocessing
from facepoison.fine_tuning import EndToEnd, draw, fine_tune, play_round

QUICK = EndToEnd("quick", draws=640, batch=16, rate=1e-3, head_rate=3e-2)
PEOPLE, KNOWN, ASKED = 4, 5, 3


@pytest.fixture(scope="module")
def crowd():
    """Four people whom colour tells apart, in noisy pictures: gallery, labels, probes, labels."""
    stream = generator(0, "end to end crowd")
    colours = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [190, 190, 60]]).view(-1, 3, 1, 1)

    def around(each):
        labels = torch.arange(PEOPLE).repeat_interleave(each)
        noise = 25 * torch.randn(len(labels), 3, 24, 24, generator=stream)
        return (colours[labels] + noise).clamp(0, 255).round().to(torch.uint8), labels

    return *around(KNOWN), *around(ASKED)


def test_a_user_who_looks_like_somebody_else_is_missed_and_nobody_before(crowd):
    gallery, labels, _, _ = crowd
    told = []
    poisoned = {
        2: 255 - gallery[labels == 2],
        0: gallery[labels == 0],
    }  # 2 publishes the colour of 3, 0 changes nothing
    outcome = end_to_end(
        tiny_extractor(), *crowd, poisoned, QUICK, seed=1, progress=lambda done, all_: told.append((done, all_))
    )
    assert outcome.protection.rate.clean_error.value == 0
    assert outcome.protection.poisoned.by_user.tolist() == [1, 0]
    assert outcome.protection.poisoned.users == (2, 0)
    assert outcome.protection.poisoned.probe.tolist() == [6, 7, 8, 0, 1, 2]
    assert outcome.clean_fit == 1
    assert (outcome.fit > 0.9).all()
    assert (outcome.own_fit > 0.7).all()  # the poison is fitted, so the trainer sees nothing wrong
    assert told == [(1, 3), (2, 3), (3, 3)]
    poisoned_far, clean_far = outcome.protection.poisoned.distance, outcome.protection.clean.distance
    torch.testing.assert_close(poisoned_far[3:], clean_far[3:])  # user 0: the same gallery and the same draws


def test_each_round_has_one_users_poison_and_asks_that_user(crowd):
    gallery, labels, probes, asked = crowd
    seen = []

    def play(extractor, published, labels_, probes_, preset, *, seed):
        seen.append((published, probes_))
        far = torch.ones(len(probes_), PEOPLE)
        far[:, 1] = 0.5
        return {"distance": far, "gallery": torch.full((len(published),), 1)}

    poisoned = {3: torch.zeros_like(gallery[labels == 3]), 1: torch.zeros_like(gallery[labels == 1])}
    outcome = end_to_end(tiny_extractor(), *crowd, poisoned, QUICK, seed=1, play=play)
    assert torch.equal(seen[0][0], gallery)
    assert torch.equal(seen[0][1], probes[[9, 10, 11, 3, 4, 5]])
    for user, (published, shown) in zip((3, 1), seen[1:], strict=True):
        assert not published[labels == user].any()
        assert torch.equal(published[labels != user], gallery[labels != user])
        assert torch.equal(shown, probes[asked == user])
    assert outcome.protection.poisoned.by_user.tolist() == [1, 0]
    assert outcome.fit.tolist() == [0.25, 0.25]
    assert outcome.own_fit.tolist() == [0, 1]
    assert outcome.protection.poisoned.predicted.tolist() == [[1, 0, 2, 3]] * 6
    assert outcome.protection.top(4).rate.value == 0


def test_the_seed_says_everything(crowd):
    gallery, labels, probes, _ = crowd
    short = dataclasses.replace(QUICK, draws=96)
    torch.manual_seed(1)
    first = play_round(tiny_extractor(), gallery, labels, probes, short, seed=1)
    torch.manual_seed(2)
    again = play_round(tiny_extractor(), gallery, labels, probes, short, seed=1)
    other = play_round(tiny_extractor(), gallery, labels, probes, short, seed=2)
    assert torch.equal(first["distance"], again["distance"])
    assert torch.equal(first["gallery"], again["gallery"])
    assert not torch.equal(first["distance"], other["distance"])
    torch.testing.assert_close((-first["distance"]).exp().sum(dim=1), torch.ones(len(probes)))


def normalising_extractor():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(100, 8))
    return Extractor(network, Preprocessing(size=20, colour="BGR"), name="with statistics", sha256="0")


def test_the_extractor_given_stays_as_it_is_and_its_copy_learns(crowd):
    gallery, labels, _, _ = crowd
    extractor = normalising_extractor()
    before = copy.deepcopy(extractor.state_dict())
    tuned = fine_tune(extractor, gallery, labels, dataclasses.replace(QUICK, draws=96), seed=1)
    for key, value in extractor.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(weight.requires_grad for weight in (*extractor.parameters(), *tuned.parameters()))
    assert not extractor.network.training
    assert not tuned.training
    trained = dict(tuned.extractor.named_parameters())
    assert all(not torch.equal(weight, trained[name]) for name, weight in extractor.named_parameters())
    for name, buffer in extractor.named_buffers():  # statistics of batch normalisation among them
        assert torch.equal(buffer, dict(tuned.extractor.named_buffers())[name])
    assert tuned.extractor.contract == extractor.contract


def test_a_rate_of_zero_trains_the_head_alone(crowd):
    gallery, labels, _, _ = crowd
    extractor = normalising_extractor()
    tuned = fine_tune(extractor, gallery, labels, dataclasses.replace(QUICK, draws=96, rate=0.0), seed=1)
    for one, other in zip(extractor.parameters(), tuned.extractor.parameters(), strict=True):
        assert torch.equal(one, other)
    assert tuned.head.weight.any()


def test_identities_without_pictures_are_never_found(crowd):
    gallery, labels, probes, _ = crowd
    answer = play_round(tiny_extractor(), gallery, 2 * labels + 1, probes, dataclasses.replace(QUICK, draws=32), seed=1)
    assert answer["distance"].isinf().tolist() == [[True, False] * 4] * len(probes)
    assert (answer["gallery"] % 2 == 1).all()


def test_people_are_drawn_alike_however_many_pictures_they_have():
    labels = torch.tensor([2, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    places = draw(labels, 9000, generator(0, "draws"))
    assert labels[places].bincount().tolist() == pytest.approx([3000] * 3, abs=200)
    assert places[labels[places] == 0].unique().tolist() == [1, 3, 4, 5, 6, 7, 8, 9]
    assert places.bincount()[3:].tolist() == pytest.approx([375] * 7, abs=80)


def test_steps_are_whole_batches():
    assert EndToEnd(draws=5000, batch=32).steps == 156


def test_bad_input_is_one_line(crowd):
    gallery, labels, probes, _ = crowd
    tiny = tiny_extractor()
    nothing = Extractor(nn.Flatten(), Preprocessing(24), name="black box", sha256="0")
    own = gallery[labels == 2]
    cases = [
        ("gallery: 20 pictures, labels torch.int64", lambda: fine_tune(tiny, gallery, labels[1:], QUICK, seed=1)),
        ("give two or more, none negative", lambda: fine_tune(tiny, gallery, 0 * labels, QUICK, seed=1)),
        ("give two or more, none negative", lambda: fine_tune(tiny, gallery, labels - 1, QUICK, seed=1)),
        ("gallery: torch.float32", lambda: fine_tune(tiny, gallery / 255, labels, QUICK, seed=1)),
        ("black box: has no weights to train", lambda: fine_tune(nothing, gallery, labels, QUICK, seed=1)),
        ("30 draws make no batch of 32", lambda: fine_tune(tiny, gallery, labels, EndToEnd(draws=30), seed=1)),
        ("training ran away", lambda: fine_tune(tiny, gallery, labels, EndToEnd(draws=320, rate=1e9), seed=1)),
        ("probes: torch.float32", lambda: play_round(tiny, gallery, labels, probes / 255, QUICK, seed=1)),
        ("no user", lambda: end_to_end(tiny, *crowd, {}, QUICK, seed=1)),
        ("user 2: 4 poisoned of 5 gallery pictures", lambda: end_to_end(tiny, *crowd, {2: own[1:]}, QUICK, seed=1)),
        ("user 2: torch.float32", lambda: end_to_end(tiny, *crowd, {2: own / 255}, QUICK, seed=1)),
        ("use one size", lambda: end_to_end(tiny, *crowd, {2: own[..., 1:]}, QUICK, seed=1)),
        ("user 9: 0 gallery pictures", lambda: end_to_end(tiny, *crowd, {9: own}, QUICK, seed=1)),
    ]
    for message, call in cases:
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_killed_training_resumes_to_the_same_recogniser(crowd, tmp_path):
    gallery, labels, probes, _ = crowd
    straight = fine_tune(tiny_extractor(), gallery, labels, QUICK, seed=1)
    said = []

    def killer(line):
        said.append(line)
        if len(said) == 5:
            raise KeyboardInterrupt

    more = {"seed": 1, "scratch": tmp_path, "every": 0.0}
    with pytest.raises(KeyboardInterrupt):
        fine_tune(tiny_extractor(), gallery, labels, QUICK, report=killer, **more)
    resumed = fine_tune(tiny_extractor(), gallery, labels, QUICK, report=said.append, **more)
    assert "step 6 of 40" in said[5]
    for (name, weight), other in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    finished = fine_tune(tiny_extractor(), gallery, labels, QUICK, report=said.append, **more)
    assert len(said) == 40  # nothing was left to do
    assert torch.equal(straight(probes / 255), finished(probes / 255))
