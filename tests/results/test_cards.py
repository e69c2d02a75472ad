"""Shipped results stand on the protocol as it was when they were computed, and as it is."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from facepoison import outcomes, protocol
from studies.detecting import SHIPPED

DATA = Path(__file__).parents[2] / "data"
TABLES = {
    "adaptive": "adapting",
    "adaptive_end_to_end": "adapting_end_to_end",
    "carrying": "carrying",
    "costs": "costs",
    "crossed": "crossed",
    "crowd": "crowd",
    "crowd_size": "crowd",
    "detecting": "detecting",
    "detecting_real": "detecting_real",
    "detecting_real_accounts": "detecting_real",
    "detecting_real_both": "detecting_real_both",
    "detecting_real_honest": "detecting_real",
    "detecting_real_roc": "detecting_real",
    "detecting_real_weaker": "detecting_real_weaker",
    "end_to_end_later": "waiting",
    "evading": "evading",
    "evading_real": "evading_real",
    "more_surrogates": "waiting",
    "photographs": "photographs",
    "photographs_adapting": "photographs_adapting",
    "photographs_clean": "photographs",
    "photographs_few": "photographs",
    "photographs_size": "photographs",
    "precision": "precision",
    "sifting": "sifting",
    "sifting_real": "detecting_real",
    "strangers": "strangers",
    "unknown": "unknown",
}


SIMULATED = {"coverage"}
"""Tables in which nobody's pictures appear, real or synthetic, and for which the protocol decides nothing."""


def cards():
    """Cards of everything that was computed under the protocol, by file."""
    made = [*DATA.glob("shipped/*.json"), *(DATA / "detectors" / f"{name}.json" for name in SHIPPED.values())]
    found = {path.name: json.loads(path.read_text()) for path in made}
    return found | {path.name: card_of(path) for path in DATA.glob("results/*.json")}


def card_of(path):
    """The card of a table, or of raw outcomes, which lie beside it."""
    return json.loads(path.read_text())["card"]


@pytest.mark.parametrize(("name", "card"), cards().items())
def test_a_card_names_the_protocol_that_its_commit_had(name, card):
    file = f"{card['commit'].removesuffix('+changes')}:data/protocol.toml"
    shown = subprocess.run(["git", "-C", DATA, "show", file], capture_output=True, check=False)
    shallow = subprocess.run(
        ["git", "-C", DATA, "rev-parse", "--is-shallow-repository"], capture_output=True, check=False
    )
    if shallow.stdout.strip() != b"false":
        pytest.skip("this checkout has no whole history")
    assert not shown.returncode, f"{file} is not in this checkout's history"
    assert card["protocol"] == hashlib.sha256(shown.stdout).hexdigest()[:12]


def test_every_table_is_about_what_the_protocol_asks_now():
    assert set(TABLES) == {path.stem for path in DATA.glob("results/*.json")} - SIMULATED
    for name, section in TABLES.items():
        asked, inputs = protocol.read_protocol()[section], card_of(DATA / "results" / f"{name}.json")["inputs"]
        assert {key: inputs.get(key) for key in asked} == asked, name


def test_raw_outcomes_are_the_files_of_their_cards_and_none_is_above_five_megabytes():
    files = sorted(DATA.glob("results/*.safetensors"))
    assert files
    for path in files:
        assert outcomes.read_outcomes(path.stem).card["bytes"] == path.stat().st_size < 5_000_000
