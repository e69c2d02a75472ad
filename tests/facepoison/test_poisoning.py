from dataclasses import dataclass, replace

import pytest
import torch
from tiny import Keep, tiny_extractor
from torch import nn

from facepoison import end_to_end, game, poisoning, protocol, shipped
from facepoison.attacks.presets import ATTACKS, find_attack
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
    return protocol.Data(pictures, gallery, probes, (0, 3), {}, pictures)


@pytest.fixture
def extractor():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Extractor(network, Preprocessing(size=16), name="colour", sha256="0")


@dataclass(frozen=True)
class Blue(Keep):
    """An attack that paints pictures blue."""

    name: str = "blue"
    title: str = "Blue"

    def __call__(self, pixels, surrogates, *, seed, public=None):
        blue = torch.tensor([10, 10, 250], dtype=torch.uint8)
        return blue.view(1, 3, 1, 1).expand_as(pixels).clone()


@pytest.fixture
def networks(extractor):
    return dict.fromkeys(protocol.choose().surrogates, extractor)


def test_clean_pictures_in_place_of_poison_leave_the_clean_error(monkeypatch, data, extractor, networks):
    result = game.play(data, poisoning.poison_users(protocol.choose(), Keep(), data, networks), extractor)
    assert result.rate.value == result.rate.clean_error.value == 0
    assert result.rate.n == 2


def test_users_who_look_like_somebody_else_are_missed(monkeypatch, data, extractor, networks):
    result = game.play(data, poisoning.poison_users(protocol.choose(), Blue(), data, networks), extractor)
    assert result.rate.value == 1
    assert result.rate.clean_error.value == 0
    assert 0 < result.rate.low < 1
    assert result.rate.high == 1


def test_linear_recognisers_are_fitted_once_for_the_same_embeddings(monkeypatch, data, extractor, networks):
    posts = poisoning.poison_users(protocol.choose(), Blue(), data, networks)
    real, fitted = game.linear_rounds, []

    def counted(*rest):
        fitted.append(rest)
        return real(*rest)

    counted.__module__ = real.__module__  # the key of what is cached names it
    monkeypatch.setattr(game, "linear_rounds", counted)
    first, again = (game.play(data, posts, extractor, recogniser="linear") for _ in range(2))
    assert len(fitted) == 1
    assert torch.equal(first.poisoned.distance, again.poisoned.distance)
    assert first.rate == again.rate
    assert first.rate.value == 1
    clean = game.play(data, data.to_publish(posts.people), extractor, recogniser="linear")
    assert len(fitted) == 2
    assert clean.rate.value == 0


def test_all_gallery_pictures_of_the_users_are_poisoned_and_no_other(monkeypatch, data, extractor, networks):
    posts = poisoning.poison_users(protocol.choose(), Blue(), data, networks)
    owned = torch.isin(data.pictures.identities, torch.tensor(data.users))
    in_gallery = torch.zeros(len(data.pictures), dtype=torch.bool)
    in_gallery[data.gallery] = True
    own = owned & in_gallery
    assert len(posts) == int(own.sum())
    assert posts.people == data.users
    shades = data.pictures.pixels[own][:, 0, 0, 0].tolist()
    assert sorted(data.to_publish(data.users).pixels[:, 0, 0, 0].tolist()) == sorted(shades)


def test_an_unknown_attack_is_refused():
    with pytest.raises(InputError, match="attack 'magic' is unknown: use one of fawkes_v03_high, "):
        find_attack("magic")


def test_every_attack_of_the_protocol_is_there():
    setting = protocol.choose()
    assert set(setting.attacks) <= set(ATTACKS)
    assert set(setting.retrained_attacks) <= set(setting.attacks)


def test_an_attack_takes_as_many_surrogates_as_the_original_does():
    setting = protocol.choose()
    taken = {
        name: len(poisoning.surrogates_of(setting, attack))
        for name, attack in ATTACKS.items()
        if name in setting.attacks
    }
    assert taken == {"fawkes_v03_high": 1, "fawkes_v1_low": 1, "fawkes_v1_mid": 2, "fawkes_v1_high": 2, "lowkey": 3}
    roles = {
        name: poisoning.role(setting, "fawkes_v1_high", name) for name in (setting.undefended, *setting.surrogates)
    }
    assert list(roles.values()) == ["undefended", "white-box", "white-box", "unseen"]


def test_what_comes_with_the_book_is_taken_for_all_but_the_live_users(monkeypatch, data, networks, tmp_path):
    setting = replace(protocol.choose(), live_users=1)
    inputs = poisoning.shipped_inputs(setting, Keep(), networks)
    marked = data.to_publish(data.users).pixels
    marked[:, :, 5, 5] = 7
    assert poisoning.source(setting, Keep(), networks) == "computed here"
    shipped.ship("poison-keep", inputs, {"pixels": marked}, 60.0, marked, tmp_path)
    monkeypatch.setattr(shipped.find, "__defaults__", (tmp_path,))
    posts = poisoning.poison_users(setting, Keep(), data, networks)
    assert poisoning.source(setting, Keep(), networks) == "shipped"
    live = posts.identities == data.users[0]
    assert not bool((posts.pixels[live][:, :, 5, 5] == 7).any())
    assert bool((posts.pixels[~live][:, :, 5, 5] == 7).all())
    here = poisoning.computed_subset(setting, Keep(), posts, networks)
    assert here.people == data.users[:1]
    assert torch.equal(here.pixels, posts.pixels[live])
    assert poisoning.shipped_gap(setting, Keep(), data, posts, networks) == float("inf")


def test_what_carries_over_is_one_without_a_change_and_less_with_one(monkeypatch, data, extractor, networks):
    clean = data.to_publish(data.users).pixels
    kept, blue = (
        poisoning.own_cosines(
            extractor, clean, poisoning.poison_users(protocol.choose(), attack, data, networks).pixels
        )
        for attack in (Keep(), Blue())
    )
    assert torch.allclose(kept, torch.ones(len(kept)))
    assert (blue < 0.9).all()


def test_both_sides_of_the_split_know_who_is_on_them(data):
    places = torch.arange(len(data.pictures)).view(-1, 1)
    gallery, labels, probes, probe_labels = data.sides(places)
    assert torch.equal(gallery.flatten() // 4, labels)
    assert torch.equal(probes.flatten() // 4, probe_labels)
    assert sorted([*gallery.flatten().tolist(), *probes.flatten().tolist()]) == list(range(24))


def test_decisions_name_the_user_or_a_number(monkeypatch, data, extractor, networks):
    posts = poisoning.poison_users(protocol.choose(), Blue(), data, networks)
    rows = game.decisions(data, posts, extractor, data.users[0])
    assert len(rows) == 1
    number, who, distance, own = rows[0]
    assert (number, who.startswith("person ")) == ("1", True)
    assert float(distance) < float(own)


def test_rivals_are_the_probe_the_users_own_and_a_stranger(monkeypatch, data, extractor, networks):
    posts = poisoning.poison_users(protocol.choose(), Blue(), data, networks)
    user = data.users[0]
    identities = data.pictures.identities
    probe, own, stranger = game.rivals(data, posts, extractor, user)
    assert torch.equal(probe, data.pictures.pixels[data.probes_of(user)][0])
    assert any(torch.equal(own, picture) for picture in posts.of(user).pixels)
    others = data.gallery[identities[data.gallery] != user]
    assert any(torch.equal(stranger, picture) for picture in data.pictures.pixels[others])


def test_a_training_is_kept_and_another_one_differs(monkeypatch, data, networks):
    preset = replace(end_to_end.END_TO_END, draws=64)
    calls = []
    real = end_to_end.play_round
    monkeypatch.setattr(end_to_end, "play_round", lambda *given, **more: calls.append(1) or real(*given, **more))
    setting = replace(protocol.choose(), n_retrained=1)
    posts = poisoning.poison_users(setting, Blue(), data, networks)
    start = tiny_extractor(0, 16)
    first, again = (end_to_end.retrain(setting, data, posts, start, preset=preset) for _ in range(2))
    assert first.protection.rate.n == 1
    assert len(calls) == 2  # a clean round and the user's, once
    assert torch.equal(first.protection.poisoned.distance, again.protection.poisoned.distance)
    other = end_to_end.retrain(setting, data, posts, start, training=1, preset=preset)
    assert not torch.equal(first.protection.poisoned.distance, other.protection.poisoned.distance)


def test_rounds_that_come_with_the_book_are_taken_for_all_but_the_live_users(monkeypatch, data, networks, tmp_path):
    monkeypatch.setattr(shipped.find, "__defaults__", (tmp_path,))
    setting, preset = replace(protocol.choose(), n_retrained=2, live_users=1), replace(end_to_end.END_TO_END, draws=64)
    posts, trainer = poisoning.poison_users(setting, Blue(), data, networks), tiny_extractor(0, 16)
    trained = []
    real = end_to_end.play_round
    monkeypatch.setattr(
        end_to_end, "play_round", lambda *given, **more: trained.append(given[3]) or real(*given, **more)
    )
    whole = end_to_end.retrain(setting, data, posts, trainer, preset=preset, attack="blue")
    assert len(trained) == 3  # nothing is shipped: the clean round and both users'
    published = {user: posts.of(user).pixels for user in data.users}
    inputs = end_to_end.rounds_inputs(setting, "blue", published, trainer, preset, 0)
    packed = end_to_end.rounds_packed(whole.rounds)
    marked = {name: -array if name.endswith("distance") else array for name, array in packed.items()}
    shipped.ship(end_to_end.rounds_file("blue", 0), inputs, marked, 60.0, posts.pixels, tmp_path)

    def again(**how):
        trained.clear()
        monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / f"store {len(how)}"))
        return end_to_end.retrain(replace(setting, **how), data, posts, trainer, preset=preset, attack="blue")

    taken = again()
    assert not trained
    assert torch.equal(taken.rounds[None]["distance"], -whole.rounds[None]["distance"])
    assert torch.equal(taken.own_fit, whole.own_fit)
    live = again(live_trained=("blue",))
    assert len(trained) == 2  # the clean round and the first user's
    assert torch.allclose(live.rounds[data.users[0]]["distance"], whole.rounds[data.users[0]]["distance"], atol=1e-4)
    assert torch.equal(live.rounds[data.users[1]]["distance"], -whole.rounds[data.users[1]]["distance"])
    assert len(again(seed=7, live_users=1).rounds) == len(trained) == 3  # of another setting none is shipped


def test_a_trainer_adds_poison_of_others_to_the_gallery_and_never_of_a_user(monkeypatch, data, networks):
    setting, preset = replace(protocol.choose(), n_retrained=1), replace(end_to_end.END_TO_END, draws=64)
    posts, galleries = poisoning.poison_users(setting, Blue(), data, networks), []
    real = end_to_end.play_round
    monkeypatch.setattr(
        end_to_end, "play_round", lambda *given, **more: galleries.append(given[1:3]) or real(*given, **more)
    )
    stranger = next(who for who in range(len(data.pictures.names)) if who not in data.users[:1])
    known = data.pictures.take(data.gallery_of(stranger))
    end_to_end.retrain(setting, data, posts, tiny_extractor(0, 16), preset=preset, known=[known])
    for pixels, labels in galleries:
        assert len(pixels) == len(labels) == len(data.gallery) + len(known.pixels)
        assert (labels[len(data.gallery) :] == stranger).all()
    of_user = data.pictures.take(data.gallery_of(data.users[0]))
    with pytest.raises(InputError, match="poison all"):
        end_to_end.retrain(setting, data, posts, tiny_extractor(0, 16), preset=preset, known=[of_user])


def test_poisons_come_faintest_first_and_none_before_them(data):
    clean = data.to_publish(data.users)
    faint, loud = clean.pixels.clone(), 255 - clean.pixels
    faint[:, :, 0, 0] ^= 1
    posts = {name: replace(clean, pixels=changed) for name, changed in (("lowkey", loud), ("fawkes_v1_high", faint))}
    found = poisoning.faintest_first(data, posts)
    assert list(found) == ["no poison", ATTACKS["fawkes_v1_high"].title, ATTACKS["lowkey"].title]
    assert torch.equal(found["no poison"].pixels, clean.pixels)
    assert found[ATTACKS["lowkey"].title] is posts["lowkey"]
