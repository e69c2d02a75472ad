from facepoison import protocol
from facepoison.studies import adapting, common


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
    setting = common.crowd_setting()
    assert setting.n_users == setting.people == protocol.read_protocol()["crowd"]["people"]
    assert setting.people > protocol.choose().people
    assert setting.seed == protocol.choose().seed
