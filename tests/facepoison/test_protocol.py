import pytest
import torch

from facepoison import protocol
from facepoison.errors import InputError
from facepoison.extractors.training import RECIPES
from facepoison.pictures.procedural import draw_people


def test_the_registered_setting_is_the_default_and_its_trainer_is_no_surrogate():
    registered = protocol.read_protocol()["registered"]
    setting = protocol.choose()
    assert {"profile": setting.profile, "dataset": setting.dataset, "seed": setting.seed} == registered
    assert setting.n_users == 20
    assert setting.undefended not in setting.surrogates


@pytest.mark.parametrize("group", ["procedural", "other"])
def test_no_trainer_is_among_the_surrogates(group):
    roles = protocol.read_protocol()["extractors"][group]
    assert roles["undefended"] not in roles["surrogates"]


def test_other_extractors_are_taken_from_beside_a_folder_or_from_where_one_says(tmp_path):
    faces, models, elsewhere = tmp_path / "faces", tmp_path / "models", tmp_path / "elsewhere"
    for folder in (faces, elsewhere):
        folder.mkdir()
    assert protocol.choose(dataset=str(faces)).extractors is None
    models.mkdir()
    assert protocol.choose(dataset=str(faces)).extractors == models
    setting = protocol.choose(dataset=str(faces), extractors=str(elsewhere))
    assert setting.extractors == elsewhere
    assert setting.size == 112
    assert setting.ran_on()["dataset"] == "folder"
    assert str(tmp_path) not in str(setting.ran_on())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"profile": "quick"}, "profile 'quick' is unknown: use one of fast, full"),
        ({"dataset": "nowhere"}, "data set 'nowhere' is neither"),
        ({"extractors": "nowhere"}, "extractors 'nowhere' is no folder"),
    ],
)
def test_unknown_names_are_refused_in_one_line(given, message):
    with pytest.raises(InputError, match=message) as caught:
        protocol.choose(**given)
    assert "\n" not in str(caught.value)


def test_no_identity_is_in_two_populations():
    seed = protocol.read_protocol()["registered"]["seed"]
    most = max(recipe.identities + recipe.held_out for recipe in RECIPES.values())
    own = [(recipe.people, recipe.seed) for recipe in RECIPES.values()]
    others = [(name, seed) for name in protocol.read_protocol()["populations"].values()]
    assert len({name for name, _ in own + others}) == len(own + others)
    people = torch.cat([draw_people(name, 0, most, drawn) for name, drawn in own + others])
    assert len(people.unique(dim=0)) == len(people) == most * len(own + others)


def test_every_number_of_the_paper_carries_its_evidence():
    numbers = protocol.paper_numbers()
    assert len(numbers) > 25
    assert {number["evidence"] for number in numbers.values()} == {"blog", "readme", "code", "repro", "fork"}
