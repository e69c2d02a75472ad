"""The study of detection on photographs: roles, framings and what is kept, on synthetic faces."""

from dataclasses import replace

import pytest
import torch
from tiny import Invert, tiny_extractor

from facepoison import detect, outcomes
from facepoison.detect import RESIDUAL, Detector, train_detector
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.pictures.chips import CHIP
from facepoison.pictures.framing import FRAMINGS
from facepoison.pictures.geometry import CROP_TO_CHIP
from facepoison.pictures.splits import split
from facepoison.pictures.synthetic import make_pictures
from facepoison.pictures.transforms import TRANSFORMATIONS, transform
from facepoison.protocol import Data, read_protocol, registered
from studies import photographs_detecting as study
from studies.common import RealPeople, Run
from studies.photographs_detecting import Posted


@pytest.fixture(scope="module")
def chips():
    return make_pictures("tests", 9, 4, 152, seed=1)


@pytest.fixture
def found(chips):
    """Two users, and seven people of the crowd; crops are cut out of chips."""
    faces = replace(chips, pixels=chips.pixels[..., 20:132, 19:131].contiguous())
    gallery, probes = split(faces, 1)
    data = Data(faces, gallery, probes, (4, 0), {}, faces.take(~torch.isin(faces.identities, torch.tensor([0, 4]))))
    cut = chips.pixels[..., :CHIP, :CHIP].contiguous(), torch.tensor(CROP_TO_CHIP).expand(len(faces), 2, 3)
    return RealPeople(replace(registered(), surrogates=("tiny",)), data, {"tiny": tiny_extractor(0)}, {}, cut)


def network(name):
    """A detector of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name))
        return Detector(name=name, sha256=name).eval().requires_grad_(False)


def patterned(pixels, seed=1):
    """Pictures with a pattern that is finer than faces and coarser than pixels, another for each."""
    coarse = 10.0 * torch.randn(len(pixels), 3, 56, 56, generator=generator(seed, "pattern"))
    fine = torch.nn.functional.interpolate(coarse, pixels.shape[-1], mode="bilinear")
    return (pixels.float() + fine).round().clamp(0, 255).to(torch.uint8)


def test_nobody_of_the_crowd_is_in_two_roles_and_no_user_in_any(found):
    known, limits = study.roles(found.data, 0.6, seed=1)
    assert len(known) == 4
    assert sorted((*known, *limits, *found.data.users)) == list(range(9))
    assert study.roles(found.data, 0.6, seed=1) == (known, limits)
    assert study.roles(found.data, 0.6, seed=2) != (known, limits)


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_somebody_is_left_in_either_role(share, found):
    with pytest.raises(InputError, match="leave some in either role"):
        study.roles(found.data, share, seed=1)


def test_places_are_given_person_by_person_in_the_order_asked_for(found):
    assert study.places_of(found.data.pictures, (3, 1), 2).tolist() == [12, 13, 4, 5]
    assert study.places_of(found.data.pictures, (3,)).tolist() == list(range(12, 16))


def test_the_protocol_trains_on_other_surrogates_than_the_users_and_asks_about_poison_that_is_made_anyway():
    whole = read_protocol()
    asked = whole["photographs_detecting"]
    assert not set(asked["surrogates"]) & set(whole["extractors"]["other"]["surrogates"])
    assert asked["attacks"] == whole["photographs"]["attacks"]
    assert set(asked["poisoned"]) < set(asked["attacks"])
    assert asked["transformed"] in TRANSFORMATIONS


def test_plans_leave_out_each_attack_once_and_differ_in_one_thing_from_the_network_on_residuals():
    plans = study.plans_of(("lowkey", "fawkes_v1_high"), 640)
    names = [plan.recipe.name for plan in plans]
    assert len(set(names)) == len(plans) == 7
    assert {plan.recipe.draws for plan in plans} == {640}
    whole = plans[names.index("network on residuals, photographs")]
    variants = [plan for plan in plans if not plan.after_all]
    assert [plan.attacks for plan in variants] == [("fawkes_v1_high",), ("lowkey",), whole.attacks]
    assert [plan.framed for plan in variants] == [True, True, False]
    assert {replace(plan.recipe, name="") for plan in variants} == {replace(whole.recipe, name="")}
    assert [plan.start for plan in plans] == [None, "network", None, "residual", None, None, None]


def test_pictures_are_posted_as_they_are_unless_poison_is_given_and_views_hang_on_the_name(found):
    places = study.places_of(found.data.pictures, (2, 5))
    clean = Posted.of(found, places)
    assert torch.equal(clean.sources[0], clean.sources[1])
    poison = Posted.of(found, places, patterned(clean.sources[0]))
    assert torch.equal(poison.sources[2], found.chips[0][places])
    one, again, other = (poison.views(2, 1, name) for name in ("a", "a", "b"))
    assert one.shape == (16, 3, 112, 112)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[:8], one[8:])
    with pytest.raises(InputError, match="no chips"):
        Posted.of(replace(found, chips=None), places)


def test_networks_learn_from_the_views_and_attacks_of_their_plan(found, tmp_path, monkeypatch):
    told, loaded = [], network("loaded")
    monkeypatch.setattr(study.detect, "load_detector", lambda name: loaded)
    monkeypatch.setattr(study, "train_on", lambda run, recipe, *given: told.append(given) or network(recipe.name))
    plain = torch.zeros(1), {"lowkey": torch.ones(1), "fawkes_v1_high": torch.ones(2)}
    framed = torch.zeros(3), {"lowkey": torch.ones(4), "fawkes_v1_high": torch.ones(5)}
    plans = study.plans_of(tuple(plain[1]), 640)
    made = study.trained(Run("", lambda line: None, tmp_path), plain, framed, plans)
    assert [each.name for each in made] == [plan.recipe.name for plan in plans]
    for plan, (clean, poisons, start) in zip(plans, told, strict=True):
        side = framed if plan.framed else plain
        assert clean is side[0]
        assert [*poisons] == [*plan.attacks]
        assert all(poisons[name] is side[1][name] for name in poisons)
        assert (start is loaded) == bool(plan.start)


def test_what_is_asked_is_each_picture_in_every_framing_and_after_transformations_as_posted(
    found, tmp_path, monkeypatch
):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path))
    posted = Posted.of(found, torch.arange(3), patterned(found.data.pictures.pixels[:3]))
    detector = network("one")
    scores = study.ask(Run("", lambda line: None, tmp_path), [detector], {"a": posted}, ("untransformed", "noise"), ())
    assert set(scores) == {("one", name, "a") for name in ("untransformed", "noise")}
    after = ("untransformed", "JPEG 75")
    scores = study.ask(Run("", lambda line: None, tmp_path), [detector], {"a": posted}, after[:1], after)
    others = [name for name in FRAMINGS if name != "as posted"]
    assert {key[1] for key in scores} == {"untransformed", *others, *(f"{name}, JPEG 75" for name in others)}
    for framing in others:
        seen = FRAMINGS[framing](*posted.sources)
        torch.testing.assert_close(scores["one", framing, "a"], detect.scores(detector, seen))
        expected = detect.scores(detector, transform(seen, "JPEG 75"))
        torch.testing.assert_close(scores["one", f"{framing}, JPEG 75", "a"], expected)


@pytest.mark.slow
def test_a_network_that_met_all_framings_tells_a_pattern_on_other_people_in_each_of_them(found):
    def posts(people, seed):
        places = study.places_of(found.data.pictures, people)
        return Posted.of(found, places), Posted.of(found, places, patterned(found.data.pictures.pixels[places], seed))

    clean, told = posts((1, 2, 3, 5, 6), 1)
    framed = study.views_of(clean, {"pattern": told}, 3, 1)
    detector = train_detector(*framed, replace(RESIDUAL, draws=960, batch=16, transformed=0.1), seed=1)
    for framing in FRAMINGS.values():
        seen = [detect.scores(detector, framing(*each.sources)) for each in posts((7, 8, 0, 4), 2)]
        assert detect.area(*seen) > 0.8


@pytest.mark.slow
def test_the_study_keeps_scores_of_users_and_thresholds_of_people_who_are_neither_and_untaught(
    found, tmp_path, monkeypatch
):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "store"))
    whole = found.setting.protocol
    small = whole["photographs_detecting"] | {"surrogates": ["tiny"], "poisoned": {"fawkes_v1_high": 2}, "views": 1}
    setting = replace(found.setting, protocol=whole | {"photographs_detecting": small})
    run = replace(Run("", lambda line: None, tmp_path), setting=setting)
    monkeypatch.setattr(study, "find_attack", lambda name: Invert())
    own = found.data.to_publish(found.data.users)
    monkeypatch.setattr(study, "posts_of", lambda run, found, attacks: {"keep": own})
    monkeypatch.setattr(study, "TRANSFORMATIONS", {name: TRANSFORMATIONS[name] for name in ("untransformed", "noise")})
    monkeypatch.setattr(study, "FRAMINGS", {name: FRAMINGS[name] for name in ("as posted", "chip")})
    monkeypatch.setattr(study, "BASELINES", ("linear baseline",))
    told = []
    monkeypatch.setattr(study, "train_on", lambda run, recipe, *given: told.append(given) or network(recipe.name))
    real = outcomes.write_outcomes
    monkeypatch.setattr(outcomes, "write_outcomes", lambda *given, **how: real(*given, **how, folder=tmp_path))
    study.detecting(run, found)
    kept = outcomes.read_outcomes("photographs_detecting", tmp_path)
    people = {name: set(kept.arrays["person", name].tolist()) for name in ("non-poisoning", "thresholds", "keep")}
    assert people["keep"] == people["non-poisoning"] == {0, 4}
    known, limits = study.roles(found.data, small["trained_on"], setting.seed)
    assert people["thresholds"] == set(limits)
    assert kept.card["inputs"]["people trained on"] == len(known)
    pixels = found.data.pictures.pixels
    assert torch.equal(pixels[kept.arrays["picture", "keep"]], own.pixels)
    assert len(kept.arrays["picture", "non-poisoning"]) == 8
    as_posted = told[-1]  # the plan that is not framed
    assert torch.equal(as_posted[0], pixels[study.places_of(found.data.pictures, known)])
    assert torch.equal(as_posted[1]["fawkes_v1_high"], 255 - pixels[study.places_of(found.data.pictures, known, 2)])
    names = {key[0] for key in kept.arrays} - {"person", "picture"}
    trained = {plan.recipe.name for plan in study.plans_of(("fawkes_v1_high",), 64)}
    assert names == trained | {f"{name}, synthetic faces" for name in study.SHIPPED} | {"linear baseline"}
    for key, scores in kept.arrays.items():
        assert scores.shape == kept.arrays["person", key[-1]].shape
    assert ("linear baseline", "chip, JPEG 75", "keep") in kept.arrays
