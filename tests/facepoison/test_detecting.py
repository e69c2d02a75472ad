"""Studies of detection: what is trained on, what is asked, and what is kept of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_extractor, tiny_pictures

from facepoison import detect, outcomes
from facepoison.attacks.presets import title_of
from facepoison.baselines import statistics
from facepoison.detect import RESIDUAL, Detector
from facepoison.errors import InputError
from facepoison.evaluation import rate
from facepoison.pictures import Pictures
from facepoison.pictures.transforms import transform
from facepoison.protocol import read_protocol, registered
from studies import detecting
from studies.common import Run
from studies.detecting import crossed_plans, plans


@pytest.fixture
def asked():
    return read_protocol()["detecting"]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def telling(said):
    """A run that does nothing but note its lines."""
    return Run("", said.append, Path())


def test_three_networks_know_all_attacks_and_differ_in_what_they_are_asked_about_and_in_nothing_else(asked):
    found = plans(asked)
    assert all(name == plan.recipe.name for name, plan in found.items())
    assert all(plan.attacks == tuple(asked["attacks"]) for plan in found.values())
    recipes = [plan.recipe for plan in found.values()]
    assert [recipe.residual for recipe in recipes] == [False, True, False]
    assert [recipe.transformed > 0 for recipe in recipes] == [True, True, False]
    assert [recipe.draws for recipe in recipes] == [asked["draws"]] * 2 + [asked["plain_draws"]]
    assert len({(recipe.batch, recipe.rate, recipe.weight_decay, recipe.bfloat16) for recipe in recipes}) == 1


def test_crossed_plans_are_each_attack_alone_all_but_each_and_all():
    found = {plan.recipe.name: plan.attacks for plan in crossed_plans(RESIDUAL, ("a", "b", "c"))}
    assert found == {
        f"{RESIDUAL.name}, {name}": attacks
        for name, attacks in {
            "a alone": ("a",),
            "b alone": ("b",),
            "c alone": ("c",),
            "all but a": ("b", "c"),
            "all but b": ("a", "c"),
            "all but c": ("a", "b"),
            "all attacks": ("a", "b", "c"),
        }.items()
    }
    recipes = {replace(plan.recipe, name=RESIDUAL.name) for plan in crossed_plans(RESIDUAL, ("a", "b", "c"))}
    assert recipes == {RESIDUAL}


def test_the_protocol_crosses_attacks_that_are_trained_on_and_posted(asked):
    crossed = read_protocol()["crossed"]
    assert set(crossed["attacks"]) == set(asked["attacks"])
    assert all(asked["poisoned"][attack][0] >= crossed["people"] for attack in crossed["attacks"])
    assert crossed["users"] <= min(asked["users"], asked["weaker_users"])
    known = [f"{RESIDUAL.name}, {title_of(attack)} alone" for attack in crossed["attacks"]]
    made = crossed_plans(RESIDUAL, tuple(crossed["attacks"]))
    assert [plan.recipe.name for plan in made[:3]] == known


def people(n, pictures, seed, size=24):
    """Pictures of people, as many of each."""
    who = torch.arange(n).repeat_interleave(pictures)
    return Pictures(tiny_pictures(n * pictures, size, seed), who, tuple(map(str, range(n))))


def network(name, seed):
    """A detector of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Detector(name=name, sha256=name).eval().requires_grad_(False)
    return made


def test_networks_are_trained_once_and_each_from_its_own_attacks(store, tmp_path, monkeypatch):
    monkeypatch.setattr(detecting, "SCRATCH", tmp_path)
    monkeypatch.setattr(detecting, "people_of", lambda population: people(4, 2, 1))
    poisons, said = {"a": people(2, 2, 2), "b": people(2, 3, 3)}, []
    short = replace(RESIDUAL, draws=16, batch=8)
    given = [detecting.Plan(replace(short, name=name), tuple(name)) for name in ("a", "ab")]
    made = detecting.train_all(telling(said), given, poisons)
    assert [each.name for each in made] == ["a", "ab"]
    assert said == ["trained: 1 of 2 networks", "trained: 2 of 2 networks"]
    told = {attack: poisons[attack].pixels for attack in "ab"}
    alike = detect.train_detector(people(4, 2, 1).pixels, told, given[1].recipe, seed=1)
    assert made[1].sha256 == alike.sha256 != made[0].sha256
    assert len(list(store.glob("detector/*.safetensors"))) == 2

    def never(*given, **how):
        raise AssertionError("trained again")

    never.__module__ = detect.__name__
    monkeypatch.setattr(detecting, "train_weights", never)
    assert [each.sha256 for each in detecting.train_all(telling([]), given, poisons)] == [each.sha256 for each in made]


class Mean:
    """A baseline that sums statistics."""

    def decision_function(self, x):
        return x.sum(axis=1)


def test_what_detectors_say_is_kept_by_detector_transformation_set_person_and_picture(store, monkeypatch):
    monkeypatch.setattr(detecting, "AT_A_TIME", 4)  # a set is asked about in several goes
    networks = [network("one", 1), network("two", 2)]
    sets = {"few": people(3, 2, 1), "more": people(2, 5, 2)}
    found = detecting.ask(telling([]), networks, sets, ("untransformed", "JPEG 75"), {"plain": Mean()})
    names, after = ("one", "two", "plain"), ("untransformed", "JPEG 75")
    assert set(found) == {(name, each, some) for name in names for each in after for some in sets}
    for (name, each, some), scores in found.items():
        assert scores.shape == (len(sets[some].people), len(sets[some]) // len(sets[some].people))
        pixels = transform(sets[some].pixels, each)
        if name == "plain":
            expected = statistics(pixels).sum(dim=1)
        else:
            expected = detect.scores(networks[names.index(name)], pixels)
        torch.testing.assert_close(scores.flatten().double(), expected.double(), atol=1e-4, rtol=1e-4)
    assert ("plain", "JPEG 75", "few") not in detecting.ask(telling([]), networks, sets, after)


@pytest.mark.parametrize("who", [[0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1]])
def test_people_have_as_many_pictures_each(who):
    pictures = Pictures(tiny_pictures(len(who)), torch.tensor(who), ("a", "b"))
    with pytest.raises(InputError, match="give as many of each"):
        detecting.by_row(torch.zeros(len(who)), pictures)


@pytest.fixture
def kept(crowd, store, tmp_path, monkeypatch):
    """What studies need beside the crowd, in small, and where they write to."""
    brightness = network("brightness", 1)
    monkeypatch.setattr(brightness, "forward", lambda seen: 9 * (0.5 - seen.mean(dim=(1, 2, 3))))
    sizes = {"users": 2, "weaker_users": 2}
    black = {"lowkey": 0, "fawkes_v1_high": 40}
    places = torch.cat([(crowd.pictures.identities == user).nonzero().flatten() for user in crowd.users])
    own = crowd.pictures.take(places)
    posted = {name: replace(own, pixels=torch.full_like(own.pixels, level)) for name, level in black.items()}
    whole = registered().protocol
    small = whole | {"detecting": whole["detecting"] | sizes, "sifting": whole["sifting"] | {"allowed": [0.1, 0.0]}}
    monkeypatch.setattr(detecting, "load_data", lambda setting: crowd)
    dark = replace(people(10, 2, 5), pixels=people(10, 2, 5).pixels // 2)  # so that no clean picture is flagged
    monkeypatch.setattr(detecting, "people_of", lambda population: dark)
    known = {"network": brightness, "residual": network("residual", 3)}
    monkeypatch.setattr(detecting.detect, "load_detector", lambda name: known[name])
    monkeypatch.setattr(detecting, "load_extractor", lambda name: tiny_extractor(int(name == "robust_both")))
    monkeypatch.setattr(detecting, "users_poisons", lambda run, attacks: {name: posted[name] for name in attacks})
    written = tmp_path / "results"
    real = outcomes.write_outcomes
    monkeypatch.setattr(outcomes, "write_outcomes", lambda *given, **how: real(*given, **how, folder=written))
    return written, replace(telling([]), setting=replace(registered(), protocol=small))


def test_sifting_keeps_answers_whose_rates_are_those_of_the_rounds(kept, crowd):
    folder, run = kept
    detecting.sifting(run)
    found = outcomes.read_outcomes("sifting", folder)
    for attack in ("lowkey", "fawkes_v1_high"):
        for policy in ("drop", "quarantine"):
            for leak, protected in (("nothing leaked", 1.0), ("one leaked", 0.0)):
                answers = outcomes.unpack_answers(found, (attack, leak, policy, "0"))
                clean = outcomes.unpack_answers(found, ("clean", "nothing leaked", policy, "0"))
                error = rate(answers, clean)
                assert (error.n, error.clean_error.value) == (2, 0.0)
                if policy == "drop":  # black pictures are all flagged
                    assert error.value == protected
        assert (
            outcomes.unpack_answers(found, (attack, "nothing leaked", "nothing", "no detector")).predicted.shape[1] == 2
        )
    assert found.card["inputs"]["allowed"] == [0.1, 0.0]


def test_evading_keeps_scores_of_both_poisons_and_what_they_still_protect(kept, crowd, monkeypatch):
    def grey(run, clean, *how):
        return replace(clean, pixels=torch.full_like(clean.pixels, 200))

    again = network("again", 2)
    told = []
    monkeypatch.setattr(detecting, "craft_replies", grey)
    monkeypatch.setattr(detecting, "first_trained_on", lambda *size: people(2, 2, 7))
    monkeypatch.setattr(detecting, "training_poisons", lambda run: {"a": people(2, 2, 8)})
    monkeypatch.setattr(detecting, "train_on", lambda run, recipe, clean, poisons, start: told.append(poisons) or again)
    folder, run = kept
    detecting.evading(run)
    assert [set(poisons) for poisons in told] == [{"a", "the reply"}]
    found = outcomes.read_outcomes("evading", folder)
    posted = ("lowkey", "lowkey that evades")
    for name in posted:
        scores = found.arrays["brightness", "untransformed", name]
        assert scores.shape == (2, len(crowd.gallery_of(4)))
        assert bool((scores > 4).all()) == (name == "lowkey")  # black, and bright
        assert found.arrays["PSNR, dB", "untransformed", name].shape == scores.shape
        error = rate(*(outcomes.unpack_answers(found, ("answers", each)) for each in (name, "clean")))
        assert (error.n, error.clean_error.value) == (2, 0.0)
    assert found.arrays["again", "untransformed", "thresholds"].shape == (10, 2)


def test_a_reply_is_kept_and_belongs_to_one_detector(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path))
    monkeypatch.setattr(detecting, "LOWKEY", replace(detecting.LOWKEY, steps=2))
    asked, said = {"weight": 0.05, "margin": 4.0}, []
    first, second = (Detector(name=name, sha256=name).eval().requires_grad_(False) for name in ("first", "second"))
    own = Pictures(tiny_pictures(5, 64), torch.tensor([0, 0, 1, 1, 1]), ("a", "b"))
    made = detecting.craft_replies(telling(said), own, [tiny_extractor(0)], first, asked)
    assert (made.pixels.shape, made.pixels.dtype) == (own.pixels.shape, torch.uint8)
    assert said == ["evading: 1 of 2 people", "evading: 2 of 2 people"]
    assert len(list(tmp_path.glob("evading/*.safetensors"))) == 2
    again = detecting.craft_replies(telling(said), own, [tiny_extractor(0)], first, asked)
    assert torch.equal(again.pixels, made.pixels)
    assert len(list(tmp_path.glob("evading/*.safetensors"))) == 2
    detecting.craft_replies(telling(said), own, [tiny_extractor(0)], second, asked)
    detecting.craft_replies(telling(said), own, [tiny_extractor(0)], first, asked | {"margin": 2.0})
    assert len(list(tmp_path.glob("evading/*.safetensors"))) == 6
