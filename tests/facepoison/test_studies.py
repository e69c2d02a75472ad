import pytest
import torch
from tiny import tiny_extractor, tiny_pictures

from facepoison import protocol
from facepoison.evaluation import difference
from facepoison.pictures import Pictures
from studies import adapting, common, costs


def test_the_adaptive_trainings_vary_one_thing_at_a_time_and_none_comes_twice():
    asked = protocol.read_protocol()["adapting"]
    trainings = adapting.trainings(asked)
    assert len({tuple(each.items()) for each in trainings}) == len(trainings)
    people, draws = max(asked["curve_people"]), max(asked["curve_draws"])
    whole = [each for each in trainings if (each["people"], each["draws"]) == (people, draws)]
    assert [each["arm"] for each in whole if each["seed"] == asked["seeds"][0]] == asked["arms"]
    assert {each["seed"] for each in whole if each["arm"] == "both"} == set(asked["seeds"])
    others = [each for each in trainings if each not in whole]
    assert {each["arm"] for each in others} == {"both"}
    assert {each["people"] for each in others} == set(asked["curve_people"])
    assert {each["draws"] for each in others} == set(asked["curve_draws"])
    assert all((each["people"] == people) != (each["draws"] == draws) for each in others)
    precise = [each for each in others if each["precision"] == "float32"]
    assert [each | {"precision": "bfloat16"} in others for each in precise] == [True]


def test_the_crowd_is_everybody_a_user_and_starts_with_the_people_of_the_chapters():
    setting = common.crowd_setting(protocol.choose())
    assert setting.n_users == setting.people == protocol.read_protocol()["crowd"]["people"]
    assert setting.people > protocol.choose().people
    assert setting.seed == protocol.choose().seed


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Eight people in two galleries."""
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path))
    whole = Pictures(tiny_pictures(32), torch.arange(8).repeat_interleave(4), tuple("abcdefgh"))
    monkeypatch.setattr(costs, "synthetic_people", lambda setting, population, *asked: whole)
    monkeypatch.setattr(costs, "load_data", lambda setting: protocol.Data(whole, None, None, (), {}, whole))
    return costs.galleries(protocol.choose(), {"people": [8, 4], "galleries": 2})


def test_galleries_cut_people_without_leaving_or_mixing_any(small):
    assert [data.users for data in small] == [(0, 1, 2, 3)] * 2
    assert [data.pictures.names for data in small] == [tuple("abcd"), tuple("efgh")]
    assert torch.equal(small[1].pictures.pixels, tiny_pictures(32)[16:])
    for data in small:
        assert sorted([*data.gallery.tolist(), *data.probes.tolist()]) == list(range(16))


def test_costs_are_counted_over_the_people_of_all_galleries(small):
    usual = costs.joined([costs.alone(data, tiny_extractor(0)).clean for data in small])
    other = costs.joined([costs.alone(data, tiny_extractor(1)).clean for data in small])
    assert len(usual.users) == 8
    assert difference(usual, usual).value == 0
    assert difference(other, usual).n == 8
    places = torch.cat([small[0].gallery_of(user) for user in small[0].users])
    assert torch.equal(costs.unpoisoned(small[0]).pixels, small[0].pictures.pixels[places])


def test_what_answers_to_poison_cost_is_decided_beforehand():
    asked = protocol.read_protocol()["costs"]
    assert asked["people"][0] % asked["galleries"] == 0
    assert asked["both"] in asked["robust"]
    populations = protocol.read_protocol()["populations"]
    assert len(set(populations.values())) == len(populations)
