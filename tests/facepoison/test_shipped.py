import json

import pytest
import torch

from facepoison import shipped
from facepoison.errors import InputError

INPUTS = {"attack": "x", "seed": 1, "surrogates": {"a": "0"}}


@pytest.fixture
def folder(tmp_path):
    shipped.ship("poison-x", INPUTS, {"pixels": torch.arange(12, dtype=torch.uint8)}, 2.5, torch.zeros(3), tmp_path)
    return tmp_path


def test_what_was_shipped_is_found_by_its_inputs_with_a_card(folder):
    found = shipped.find("poison-x", INPUTS, folder)
    assert torch.equal(found.arrays["pixels"], torch.arange(12, dtype=torch.uint8))
    assert set(found.card) == {
        "command",
        "inputs",
        "pictures",
        "sha256",
        "bytes",
        "commit",
        "device",
        "versions",
        "seconds",
    }
    assert found.card["seconds"] == 2.5


@pytest.mark.parametrize("other", [{**INPUTS, "seed": 2}, {**INPUTS, "surrogates": {"a": "1"}}, {"attack": "x"}])
def test_nothing_is_found_for_other_inputs(folder, other):
    assert shipped.find("poison-x", other, folder) is None


def test_nothing_is_found_where_nothing_is(folder):
    assert shipped.find("poison-y", INPUTS, folder) is None


def test_a_file_that_is_not_its_cards_is_refused(folder):
    path = folder / "poison-x.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="restore both, or run make shipped"):
        shipped.find("poison-x", INPUTS, folder)


def test_no_file_that_ships_is_above_five_megabytes_and_each_has_its_card():
    files = sorted(shipped.FOLDER.glob("*.safetensors"))
    assert files
    for path in files:
        card = json.loads(path.with_suffix(".json").read_text())
        assert path.stat().st_size == card["bytes"] < 5_000_000
