import pytest

from facepoison.experiment import called
from facepoison.protocol import read_protocol
from facepoison.studies.detecting import lessons


@pytest.fixture
def asked():
    return read_protocol()["detecting"]


def test_nine_networks_are_taught_each_by_its_own_name(asked):
    found = lessons(asked)
    assert len(found) == 9
    assert all(name == lesson.recipe.name for name, lesson in found.items())


def test_three_know_all_attacks_three_know_one_and_three_know_all_but_one(asked):
    found, every = lessons(asked), set(asked["attacks"])
    names = list(found)
    assert all(set(found[name].attacks) == every for name in names[:3])
    for attack in every:
        assert found[f"{called(attack)} alone"].attacks == (attack,)
        rest = found[f"all but {called(attack)}"].attacks
        assert set(rest) == every - {attack}
        assert len(rest) == len(every) - 1


def test_they_differ_in_what_they_are_asked_about_and_in_nothing_else(asked):
    found = lessons(asked)
    recipes = [lesson.recipe for lesson in found.values()]
    assert [recipe.residual for recipe in recipes] == [False, True] + [False] * 7
    assert [recipe.handled > 0 for recipe in recipes] == [True, True, False] + [True] * 6
    assert [recipe.draws for recipe in recipes] == [asked["draws"]] * 2 + [asked["plain_draws"]] + [asked["draws"]] * 6
    assert len({(recipe.batch, recipe.rate, recipe.weight_decay, recipe.bfloat16) for recipe in recipes}) == 1
