import json
import time

import pytest
import torch

from facepoison import shipped
from facepoison.errors import InputError
from facepoison.evaluation import Estimate, Rate

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
        "protocol",
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


def test_tables_come_back_as_they_were_and_say_where_they_are_from(tmp_path):
    clean = Rate(0.0, 4, 24, 0.0, 0.6)
    rows = [{"attack": "lowkey", "share": {"a": 1}, "protection": Rate(0.5, 4, 24, 0.1, 0.9, clean)}, {"none": clean}]
    rows[1]["lost"] = Estimate(0.1, 4, -0.1, 0.3)
    asked = {"users": 4, "pictures": torch.zeros(2, 3)}
    path = shipped.write_table(
        "t",
        rows,
        command="make t",
        inputs=asked,
        began=shipped.Provenance("abc", "0123", time.time() - 1.2),
        folder=tmp_path,
    )
    table = shipped.read_table("t", tmp_path)
    assert list(table.rows) == rows
    assert {key: table.card[key] for key in ("command", "commit", "seconds")} == {
        "command": "make t",
        "commit": "abc",
        "seconds": 1.2,
    }
    assert table.card["inputs"]["pictures"][1] == [2, 3]
    path.write_text("{")
    with pytest.raises(InputError, match=r"t\.json: cannot be read"):
        shipped.read_table("t", tmp_path)
    with pytest.raises(InputError, match=r"other\.json: cannot be read"):
        shipped.read_table("other", tmp_path)
