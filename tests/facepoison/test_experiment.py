import functools

import pytest
import torch
from torch import nn

from facepoison import experiment, protocol
from facepoison.errors import InputError
from facepoison.extractors import Extractor, Preprocessing
from facepoison.pictures import Pictures
from facepoison.pictures.splits import split


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "store"))


@pytest.fixture
def data():
    """Six people whom mean colour tells apart, four pictures each; two of them poison."""
    colours = torch.tensor(
        [[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 10], [10, 250, 250], [250, 10, 250]]
    )
    identities = torch.arange(6).repeat_interleave(4)
    pixels = colours[identities].to(torch.uint8).view(-1, 3, 1, 1).repeat(1, 1, 16, 16)
    pixels[:, :, 0, 0] = torch.arange(24, dtype=torch.uint8)[:, None]
    pictures = Pictures(pixels, identities, tuple("abcdef"))
    gallery, probes = split(pictures, 1)
    return protocol.Data(pictures, gallery, probes, (0, 3), {})


@pytest.fixture
def extractor():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Extractor(network, Preprocessing(size=16), name="colour", sha256="0")


def attack_named(monkeypatch, name, function):
    monkeypatch.setitem(experiment.ATTACKS, name, functools.partial(function))
    monkeypatch.setitem(experiment.PRESETS, name, experiment.PRESETS["lowkey"])


def keep(pixels, surrogates, seed):
    return pixels.clone()


def turn_blue(pixels, surrogates, seed):
    blue = torch.tensor([10, 10, 250], dtype=torch.uint8)
    return blue.view(1, 3, 1, 1).expand_as(pixels).clone()


def test_clean_pictures_in_place_of_poison_leave_the_clean_error(monkeypatch, data, extractor):
    attack_named(monkeypatch, "keep", keep)
    result = experiment.play(data, experiment.poison_users(protocol.choose(), "keep", data, [extractor]), extractor)
    assert result.rate.value == result.rate.clean_error.value == 0
    assert result.rate.n == 2


def test_users_who_look_like_somebody_else_are_missed(monkeypatch, data, extractor):
    attack_named(monkeypatch, "blue", turn_blue)
    result = experiment.play(data, experiment.poison_users(protocol.choose(), "blue", data, [extractor]), extractor)
    assert result.rate.value == 1
    assert result.rate.clean_error.value == 0
    assert 0 < result.rate.low < 1
    assert result.rate.high == 1


def test_all_gallery_pictures_of_the_users_are_poisoned_and_no_other(monkeypatch, data, extractor):
    attack_named(monkeypatch, "blue", turn_blue)
    posts = experiment.poison_users(protocol.choose(), "blue", data, [extractor])
    owned = torch.isin(data.pictures.identities, torch.tensor(data.users))
    in_gallery = torch.zeros(len(data.pictures), dtype=torch.bool)
    in_gallery[data.gallery] = True
    assert sorted(posts.index.tolist()) == (owned & in_gallery).nonzero().flatten().tolist()


def test_an_interrupted_run_goes_on_with_the_next_user(monkeypatch, data, extractor):
    calls = []

    def count(pixels, surrogates, seed):
        calls.append(len(pixels))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return pixels.clone()

    attack_named(monkeypatch, "count", count)
    with pytest.raises(KeyboardInterrupt):
        experiment.poison_users(protocol.choose(), "count", data, [extractor])
    told = []
    experiment.poison_users(protocol.choose(), "count", data, [extractor], lambda *done: told.append(done))
    assert len(calls) == 3  # the first user's pictures were kept
    assert told == [(1, 2), (2, 2)]


def test_an_unknown_attack_is_refused(data, extractor):
    with pytest.raises(InputError, match="attack 'magic' is unknown: use one of fawkes_v1_high, lowkey"):
        experiment.poison(protocol.choose(), "magic", data.pictures.pixels, [extractor])


def test_every_attack_of_the_protocol_is_there():
    assert set(protocol.choose().attacks) == set(experiment.ATTACKS) == set(experiment.PRESETS)


def test_what_carries_over_is_one_without_a_change_and_less_with_one(monkeypatch, data, extractor):
    for name, attack in {"keep": keep, "blue": turn_blue}.items():
        attack_named(monkeypatch, name, attack)
    kept, blue = (
        experiment.carried_over(data, experiment.poison_users(protocol.choose(), name, data, [extractor]), extractor)
        for name in ("keep", "blue")
    )
    assert torch.allclose(kept, torch.ones(len(kept)))
    assert (blue < 0.9).all()


def test_both_sides_of_the_split_know_who_is_on_them(data):
    places = torch.arange(len(data.pictures)).view(-1, 1)
    gallery, labels, probes, probe_labels = data.sides(places)
    assert torch.equal(gallery.flatten() // 4, labels)
    assert torch.equal(probes.flatten() // 4, probe_labels)
    assert sorted([*gallery.flatten().tolist(), *probes.flatten().tolist()]) == list(range(24))
