from dataclasses import replace

import pytest
import torch

from facepoison import tables
from facepoison.experiment import called
from facepoison.pictures import Pictures
from facepoison.protocol import read_protocol
from facepoison.studies import detecting
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


def levels(pixels):
    """A detector of brightness."""
    return pixels[:, 0, 0, 0].float()


def grey(*shades):
    return torch.tensor(shades, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).clone()


@pytest.fixture
def people():
    return torch.tensor([0, 0, 1, 1])


@pytest.fixture
def answer(people):
    """Of four clean pictures to set thresholds on, four others, and four posted by each of two attacks."""
    clean, other = (Pictures(grey(*shades), people, ("a", "b")) for shades in ((10, 20, 30, 40), (5, 15, 41, 42)))
    posted = {name: detecting.Posted(people, clean.pixels, grey(*shades)) for name, shades in ATTACKS.items()}
    said = []
    found = detecting.ask(said.append, {"level": levels}, clean, other, posted, {"level": ("as taken",)})
    assert said == ["as taken: asked"]  # nothing is handled that nobody is asked about
    return found["level"]


ATTACKS = {"faint": (30, 50, 60, 70), "loud": (90, 91, 92, 93)}


def test_rows_hold_what_lies_above_the_threshold_and_what_really_is_flagged(answer, people):
    who = dict.fromkeys(ATTACKS, people)
    rows = list(detecting.rows_of("level", answer, who, people, [0.0, 0.5]))
    found = {(row["attack"], row["allowed"]): (row["found"].value, row["false_alarms"].value) for row in rows}
    assert found == {
        ("faint", 0.0): (0.75, 0.5),
        ("faint", 0.5): (1.0, 0.5),
        ("loud", 0.0): (1.0, 0.5),
        ("loud", 0.5): (1.0, 0.5),
    }
    assert [row["by_user"] for row in rows[:2]] == [[0.5, 1.0], [1.0, 1.0]]
    assert [row["area"] for row in rows[::2]] == [pytest.approx(14 / 16), 1.0]


def test_accounts_are_judged_by_all_of_their_pictures(answer, people):
    who = dict.fromkeys(ATTACKS, people)
    low = replace(
        answer,
        thresholds={"as taken": answer.thresholds["as taken"] / 10},  # means are of scores cut at 10
        honest={"as taken": answer.honest["as taken"] / 10},
        posted={"as taken": {name: scores / 10 for name, scores in answer.posted["as taken"].items()}},
    )
    rows = list(detecting.accounts_of(low, who, people, people, 2, 0.0))
    one, two = (tables.only(rows, attack="faint", pictures=size) for size in (1, 2))
    assert (one["found"].value, one["found"].probes, one["false_alarms"].value) == (0.75, 4, 0.5)
    assert (two["found"].value, two["found"].probes, two["false_alarms"].value) == (1.0, 2, 0.5)


def test_curves_go_from_few_false_alarms_to_all(answer, people):
    who = dict.fromkeys(ATTACKS, people)
    rows = list(detecting.curves_of("level", answer, who, people, ["as taken"]))
    flagged, found = ([row[column].value for row in rows] for column in ("false_alarms", "faint"))
    assert flagged == sorted(flagged)
    assert found == sorted(found)
    assert (flagged[0], flagged[-1], found[-1]) == (0.0, 1.0, 1.0)
    assert "loud" not in next(detecting.curves_of("x", detecting.only_of(answer, ["faint"]), who, people, ["as taken"]))
