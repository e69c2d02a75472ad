import pytest
import torch
from tiny import Invert, tiny_extractor

from facepoison import adapt, end_to_end, protocol, shipped, shipping
from facepoison.errors import InputError
from facepoison.pictures import Pictures
from facepoison.pictures.splits import split

ASKED = protocol.read_protocol()["shipped"]


@pytest.fixture
def made(monkeypatch, tmp_path):
    """The registered setting with six people of four pictures each, of whom two poison by turning pictures around."""
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "store"))
    pixels = torch.randint(0, 256, (24, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pictures = Pictures(pixels, torch.arange(6).repeat_interleave(4), tuple("abcdef"))
    data = protocol.Data(pictures, *split(pictures, 1), (0, 3), {}, pictures)
    extractor = tiny_extractor(0, 16)
    for module in (shipping, end_to_end):
        monkeypatch.setattr(module, "END_TO_END", end_to_end.EndToEnd(draws=64))
    monkeypatch.setattr(
        end_to_end.retrain, "__kwdefaults__", end_to_end.retrain.__kwdefaults__ | {"preset": end_to_end.END_TO_END}
    )
    monkeypatch.setattr(shipping, "load_data", lambda setting: data)
    monkeypatch.setattr(
        shipping, "load_extractors", lambda setting: dict.fromkeys((setting.undefended, *setting.surrogates), extractor)
    )
    monkeypatch.setattr(shipping, "find_attack", lambda name: Invert(name=name))
    folder = tmp_path / "shipped"
    monkeypatch.setattr(shipped.ship, "__defaults__", (folder,))
    monkeypatch.setattr(shipped.find, "__defaults__", (folder,))
    return data, folder


def test_all_that_the_protocol_names_is_made_with_a_card(made):
    data, folder = made
    setting, lines = protocol.choose(), []
    shipping.make_shipped(setting, lines.append)
    networks = shipping.load_extractors(setting)
    first = ASKED["poisons"][0]
    assert lines[:2] == [f"poisons, {first}: 6 of 6", f"poisons, {ASKED['poisons'][1]}: 6 of 6"]
    for attack in ASKED["poisons"]:
        posts = shipping.shipped_posts(setting, Invert(name=attack), data, networks)
        assert torch.equal(posts.pixels, 255 - data.to_publish(data.users).pixels)
    published = {user: posts.of(user).pixels for user in data.users}
    given = ("lowkey", published, networks[setting.undefended], shipping.END_TO_END, setting.n_trainings - 1)
    kept = shipped.find(f"rounds-lowkey-{setting.n_trainings - 1}", end_to_end.rounds_inputs(setting, *given))
    assert set(kept.arrays) == {f"{who}-{what}" for who in ("clean", 0, 3) for what in ("distance", "gallery")}
    trainer = protocol.trainers_own(setting)
    for where in (setting, trainer):
        assert (folder / f"{adapt.public_file(where, Invert(name='lowkey'))}.safetensors").is_file()
    assert adapt.public_file(setting, Invert()) != adapt.public_file(trainer, Invert())


def test_one_kind_of_one_attack_is_made_alone(made):
    shipping.make_shipped(protocol.choose(), lambda line: None, ["poisons"], ["lowkey"])
    assert sorted(path.name for path in made[1].iterdir()) == ["poison-lowkey.json", "poison-lowkey.safetensors"]


def test_rounds_without_poisons_and_unknown_kinds_are_refused(made):
    with pytest.raises(InputError, match="run make shipped"):
        shipping.make_shipped(protocol.choose(), lambda line: None, ["rounds"])
    with pytest.raises(InputError, match="use poisons, rounds, public"):
        shipping.make_shipped(protocol.choose(), lambda line: None, ["table"])
