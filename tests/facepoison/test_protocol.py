from dataclasses import replace

import pytest
import torch

from facepoison import protocol
from facepoison.errors import InputError
from facepoison.extractors.recipes import RECIPES
from facepoison.pictures import Pictures
from facepoison.pictures.folders import Report
from facepoison.pictures.splits import first_users, hold_out
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


def parted(counts, least=10, most=10, share=0.2):
    return protocol.part_people(counts, range(len(counts)), least=least, most=most, share=share, source="faces")


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ([10] * 8 + [3] * 16, (8, 11, 5)),  # all who have enough
        ([3] * 16 + [10] * 8, (8, 11, 5)),
        ([30] + [5] * 19, (1, 15, 4)),
        ([10] * 79 + [5] * 265, (10, 265, 69)),  # no more than there is time for
        ([10] * 79, (10, 53, 16)),
        ([10] * 10, (6, 2, 2)),  # as many as are public are left who do not poison
        ([9] * 10, (6, 2, 2)),  # nobody has enough: everybody has
        ([2] * 6, (2, 2, 2)),
        ([2] * 4, (1, 1, 2)),
        ([10, 10, 10, 2], (1, 1, 2)),
    ],
)
def test_who_poisons_follows_from_the_folder(counts, sizes):
    users, crowd, public = parted(counts)
    assert (len(users), len(crowd), len(public)) == sizes
    assert sorted(users + crowd + public) == list(range(len(counts)))
    able = [n >= 10 for n in counts]
    assert all(able[user] for user in users) or not any(able)
    assert not any(able[who] for who in public) or sum(able) > len(counts) - len(public)


def test_fewer_than_four_people_are_too_few_and_it_is_said_what_is_missing():
    with pytest.raises(
        InputError, match="faces: 3 people with two pictures or more: give at least 4: one who"
    ) as caught:
        parted([2, 2, 2])
    assert "\n" not in str(caught.value)


def folder_of(monkeypatch, tmp_path, names, counts):
    """The data of a folder with so many pictures of each person, every picture of one colour."""
    identities = torch.tensor([who for who, n in enumerate(counts) for _ in range(n)])
    shades = torch.tensor([sum(map(ord, names[who])) % 251 for who in identities.tolist()], dtype=torch.uint8)
    pictures = Pictures(shades[:, None, None, None].expand(-1, 3, 2, 2).clone(), identities, tuple(names))
    report = Report(len(identities), len(identities), 0, ())
    monkeypatch.setattr(protocol, "read_folder", lambda root, progress: (pictures, report))
    return protocol.load_data(protocol.choose(dataset=str(tmp_path)))


def test_a_folders_people_are_the_same_in_whatever_order_they_are_read(monkeypatch, tmp_path):
    names, counts = [f"person {i:02}" for i in range(20)], [10 + i % 3 if i % 2 else 3 for i in range(20)]
    data = folder_of(monkeypatch, tmp_path, names, counts)
    back = folder_of(monkeypatch, tmp_path, names[::-1], counts[::-1])

    def named(data):
        return [data.pictures.names[user] for user in data.users], set(data.pictures.names), set(data.public.names)

    assert named(data) == named(back)
    assert set(named(data)[0]) == set(names[1::2])
    assert set(data.public.names) < set(names[::2])
    assert set(data.pictures.names) == set(names) - set(data.public.names)
    for part in (data.pictures, data.public):
        for who, name in enumerate(part.names):
            mine = part.of(who).pixels
            assert len(mine) == counts[names.index(name)]
            assert (mine == sum(map(ord, name)) % 251).all()
    assert all(len(data.gallery_of(user)) >= 7 and len(data.probes_of(user)) >= 3 for user in data.users)


@pytest.mark.parametrize("n", [3, 12])
def test_where_all_or_none_have_enough_the_last_of_all_are_public(monkeypatch, tmp_path, n):
    names = [f"person {i:02}" for i in range(20)]
    data = folder_of(monkeypatch, tmp_path, names, [n] * 20)
    everybody = Pictures(torch.zeros(40, 3, 2, 2, dtype=torch.uint8), torch.arange(20).repeat(2), tuple(names))
    rest, public = hold_out(everybody, protocol.read_protocol()["public"]["folder_share"], seed=1)
    assert (data.pictures.names, data.public.names) == (rest.names, public.names)
    assert data.users == first_users(rest, 10, seed=1)
