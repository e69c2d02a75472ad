from dataclasses import dataclass, replace

import pytest
import torch
from tiny import Keep, tiny_extractor, tiny_pictures

from facepoison.attacks import people as shards_of
from facepoison.attacks.fawkes_v03 import FAWKES_V03_HIGH
from facepoison.attacks.lowkey import LOWKEY_MSE
from facepoison.attacks.people import poison_people
from facepoison.errors import InputError
from facepoison.pictures import Pictures


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "store"))


def people(n, each, size=24):
    names = tuple(map(str, range(n)))
    return Pictures(tiny_pictures(n * each)[..., :size, :size], torch.arange(n).repeat_interleave(each), names)


def kept(tmp_path):
    return sorted(tmp_path.rglob("poison/*.safetensors"))


def test_people_are_poisoned_as_users_are_and_a_killed_run_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_of, "FULL", 6)
    attack, surrogates, everybody = replace(LOWKEY_MSE, steps=2), [tiny_extractor(1)], people(5, 3)
    told = []
    whole = poison_people(attack, everybody, surrogates, seed=1, progress=lambda *done: told.append(done))
    assert told == [(6, 15), (12, 15), (15, 15)]  # whole people, until a batch is full
    assert torch.equal(whole.identities, everybody.identities)
    alone = torch.cat([attack(everybody.of(who).pixels, surrogates, seed=1) for who in everybody.people])
    assert (whole.pixels.int() - alone.int()).abs().max() <= 1  # company in a batch changes rounding alone
    made = kept(tmp_path)
    made[1].unlink()
    assert torch.equal(poison_people(attack, everybody, surrogates, seed=1).pixels, whole.pixels)
    assert kept(tmp_path) == made
    others = replace(everybody, pixels=everybody.pixels.clone())
    others.pixels[0] = 90  # other people's poison is never taken for theirs
    assert not torch.equal(poison_people(attack, others, surrogates, seed=1).pixels[0], whole.pixels[0])
    assert len(kept(tmp_path)) == len(made) + 1


def test_an_interrupted_run_goes_on_where_it_stopped(monkeypatch):
    calls = []

    @dataclass(frozen=True)
    class Stops(Keep):
        def __call__(self, pixels, surrogates, *, seed, public=None):
            calls.append(len(pixels))
            if len(calls) == 2:
                raise KeyboardInterrupt
            return pixels.clone()

    monkeypatch.setattr(shards_of, "FULL", 1)
    with pytest.raises(KeyboardInterrupt):
        poison_people(Stops(), people(2, 3), [], seed=1)
    poison_people(Stops(), people(2, 3), [], seed=1)
    assert len(calls) == 3  # the first person's pictures were kept


def test_a_targeted_attack_has_each_persons_pictures_alone_and_sees_the_public():
    attack, surrogates, everybody = replace(FAWKES_V03_HIGH, steps=2), [tiny_extractor(1)], people(3, 2)
    public = people(3, 1)
    whole = poison_people(attack, everybody, surrogates, seed=1, public=public)
    own = [attack(everybody.of(who).pixels, surrogates, seed=1, public=public) for who in everybody.people]
    assert torch.equal(whole.pixels, torch.cat(own))
    with pytest.raises(InputError, match="no public pictures"):
        poison_people(attack, everybody, surrogates, seed=1)


def test_public_pictures_are_no_part_of_what_does_not_look_at_them(tmp_path):
    attack, surrogates = replace(LOWKEY_MSE, steps=2), [tiny_extractor(1)]
    for public in (None, people(2, 1), people(3, 1)):
        poison_people(attack, people(2, 2), surrogates, seed=1, public=public)
    assert len(kept(tmp_path)) == 1


def test_whoever_is_scattered_is_refused():
    scattered = replace(people(2, 2), identities=torch.tensor([0, 1, 0, 1]))
    with pytest.raises(InputError, match="sort them by person"):
        poison_people(Keep(), scattered, [], seed=1)


def test_nobody_is_poisoned_to_nothing():
    nobody = people(2, 2).take(torch.zeros(0, dtype=torch.int64))
    assert len(poison_people(Keep(), nobody, [], seed=1)) == 0
