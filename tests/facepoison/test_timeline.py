import json
from dataclasses import replace

import pytest
import torch

from facepoison import protocol, timeline
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.extractors import cards, catalog, normalise
from facepoison.extractors.catalog import count_macs, find_entry
from facepoison.timeline import accepted


def test_accepted_counts_pairs_above_the_threshold():
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 75.0, 90.0, 120.0, 125.0]))
    embeddings, labels = torch.stack((angles.cos(), angles.sin()), 1), torch.tensor([0, 0, 0, 1, 1, 1])
    # Of the nine pairs of different people the nearest are 15 and 45 degrees apart: one in nine gets through within 45.
    tar, threshold = accepted(embeddings, labels, 1 / 9)
    assert threshold == pytest.approx(torch.deg2rad(torch.tensor(45.0)).cos().item(), abs=1e-6)
    # Nearer than that are 10 degrees, not 65 and 75, of the first person's pairs and all of the second one's.
    assert (tar.value, tar.n, tar.probes) == (pytest.approx((1 / 3 + 1) / 2), 2, 6)


def test_accepted_is_the_false_accepts_where_embeddings_mean_nothing():
    embeddings = normalise(torch.randn(800, 16, generator=generator(0)))
    tar, _ = accepted(embeddings, torch.arange(100).repeat_interleave(8), 0.1)
    assert tar.low < 0.1 < tar.high


def test_measuring_asks_what_the_protocol_says_and_counts_people(monkeypatch, tmp_path):
    registered = protocol.registered()
    small = registered.protocol | {"unseen": {"people": 6, "pictures": 6, "false_accepts": 0.01}}
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path))
    extractor = catalog.load_extractor("arcface_2019", "cpu")
    said = timeline.measure_unseen(replace(registered, protocol=small), extractor)
    assert (said["identities"], said["rank_1"]["n"], said["rank_1"]["probes"]) == (6, 6, 12)
    assert said["rank_1"]["value"] > 0.8
    assert said["tar"]["far"] == 0.01
    assert said["tar"]["probes"] == 6 * 15


def test_amending_a_card_keeps_the_rest(monkeypatch, tmp_path):
    monkeypatch.setattr(cards, "WEIGHTS", tmp_path)
    entry = catalog.find_entry("arcface_2019")
    with pytest.raises(InputError, match=r"arcface_2019\.json: there is no card"):
        cards.amend_card(entry, test={})
    (tmp_path / "arcface_2019.json").write_text('{"bytes": 3}')
    cards.amend_card(entry, test={"n": 1})
    assert json.loads((tmp_path / "arcface_2019.json").read_text()) == {"bytes": 3, "test": {"n": 1}}


@pytest.mark.parametrize("entry", [e for e in catalog.catalogue().values() if e.trained], ids=lambda e: e.name)
def test_every_card_is_of_the_shipped_file_and_measured_as_the_protocol_says(entry):
    card = cards.read_card(entry)
    if entry.kind == "own":
        asked = protocol.read_protocol()["unseen"]
        assert card["sha256"] == entry.sha256
        assert card["test"]["rank_1"]["n"] == card["test"]["tar"]["n"] == asked["people"]
        assert card["test"]["tar"]["far"] == asked["false_accepts"]
        assert entry.after or len(card["curve"]["step"]) > 1


def test_the_timeline_is_everything_trained_by_year():
    setting = protocol.choose()
    years = [entry.year for entry in timeline.entries(setting)]
    assert years == sorted(years)
    assert {entry.name for entry in timeline.entries(setting)} == {
        entry.name
        for entry in catalog.catalogue().values()
        if entry.kind == "own" and entry.trained and not entry.after
    }
    assert {setting.undefended, *setting.surrogates} <= {entry.name for entry in timeline.entries(setting)}


def test_a_folders_timeline_is_what_lies_in_it_whatever_was_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / find_entry("dlib_2017").file).touch()
    (tmp_path / "mobileface_v3_2019.onnx").touch()
    setting = replace(protocol.choose(), extractors=tmp_path)
    assert [entry.name for entry in timeline.entries(setting)] == ["mobileface_v3_2019"]


def test_rows_of_cards_hold_recipe_and_result():
    cards = timeline.own_cards()
    assert list(cards) == [entry.name for entry in timeline.entries(protocol.choose())]
    recipe, result = timeline.recipe_rows(cards)[0], timeline.result_rows(cards)[0]
    assert recipe[:2] == (*result[:1], 2014) == ("deepid_2014", 2014)
    assert result[1].n == 200


def test_repeats_stand_beside_the_shipped_one(tmp_path):
    card = timeline.own_cards()["deepid_2014"]
    other = card | {"recipe": card["recipe"] | {"seed": 2}}
    (tmp_path / "deepid_2014-seed2.json").write_text(json.dumps(other))
    assert {name: list(each) for name, each in timeline.repeats(tmp_path).items()} == {"deepid_2014": [0, 2]}


def test_a_picture_costs_what_the_catalogue_counts():
    small, large = (catalog.load_extractor(name, "cpu") for name in ("deepid_2014", "arcface_2019"))
    (few, quick), (many, _) = timeline.cost(small, 16), timeline.cost(large, 16)
    assert few * 1e6 == count_macs(small.network, 64)
    assert few < many
    assert quick > 0


def test_robust_extractors_continue_the_trainers_and_stand_beside_no_other_peoples(tmp_path):
    asked = protocol.read_protocol()["adapting"]
    robust = timeline.robust(protocol.choose())
    assert list(robust) == [f"robust_{arm}" for arm in asked["arms"]]
    assert {find_entry(name).after for name in robust} == {asked["trainer"]}
    assert timeline.robust(replace(protocol.choose(), extractors=tmp_path)) == {}
    for name, card in timeline.robust_cards().items():
        assert card["recipe"]["arm"] == name.removeprefix("robust_")
        assert timeline.tested(card, "rank_1").n == protocol.read_protocol()["unseen"]["people"]
