from dataclasses import replace

import pytest
import torch

from facepoison import protocol
from facepoison.errors import InputError
from facepoison.extractors.recipes import RECIPES
from syntheticfaces import draw_people


def test_the_registered_setting_is_the_default_and_its_trainer_is_no_surrogate():
    registered = protocol.read_protocol()["registered"]
    setting = protocol.choose()
    assert setting == protocol.registered()
    assert {"profile": setting.profile, "dataset": setting.dataset, "seed": setting.seed} == registered
    assert setting.n_users == 20
    assert setting.undefended not in setting.surrogates


def test_a_setting_hands_the_protocol_down_and_nobody_changes_it():
    setting = protocol.choose()
    assert dict(setting.protocol) == protocol.read_protocol()
    assert replace(setting, surrogates=()).protocol is setting.protocol
    assert "crowd" not in repr(setting)
    with pytest.raises(TypeError):
        setting.protocol["crowd"] = {}


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


def test_the_user_looked_at_gets_more_probes_and_nobody_else_changes():
    setting = replace(protocol.choose(), people=3, per_person=4, n_users=2)
    data = protocol.load_data(setting)
    user = data.users[1]
    closer = protocol.look_closer(setting, data, user)
    assert len(closer.probes_of(user)) == protocol.read_protocol()["split"]["looked_at"]
    assert torch.equal(closer.pictures.pixels[: len(data.pictures)], data.pictures.pixels)
    assert torch.equal(closer.gallery, data.gallery)
    others = [who for who in range(3) if who != user]
    assert all(torch.equal(closer.probes_of(who), data.probes_of(who)) for who in others)
    longer = protocol.load_data(replace(setting, per_person=14))
    assert torch.equal(closer.pictures.pixels[12], longer.pictures.pixels[14 * user + 4])
    assert protocol.look_closer(replace(setting, dataset="folder"), data, user) is data


def test_the_trainers_own_surrogates_are_none_of_the_users(tmp_path):
    for setting in (protocol.choose(), replace(protocol.choose(), extractors=tmp_path)):
        own = protocol.trainers_own(setting)
        assert own.surrogates
        assert not set(own.surrogates) & set(protocol.read_protocol()["extractors"]["procedural"]["surrogates"])
        assert not set(own.surrogates) & set(protocol.read_protocol()["extractors"]["other"]["surrogates"])
