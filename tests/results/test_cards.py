"""Shipped results stand on the protocol as it was when they were computed, and as it is."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from facepoison import protocol, shipped
from studies.detecting import SHIPPED

DATA = Path(__file__).parents[2] / "data"
TABLES = {
    "adaptive": "adapting",
    "adaptive_end_to_end": "adapting_end_to_end",
    "adaptive_real": "adapting_real",
    "carrying": "carrying",
    "costs": "costs",
    "crowd": "crowd",
    "crowd_size": "crowd",
    "detecting": "detecting",
    "detecting_accounts": "detecting",
    "detecting_both": "detecting_both",
    "detecting_crossed": "detecting",
    "detecting_crossed_transformed": "detecting_crossed_transformed",
    "detecting_crossed_pictures": "detecting_crossed_pictures",
    "detecting_honest": "detecting",
    "detecting_real": "detecting_real",
    "detecting_real_accounts": "detecting_real",
    "detecting_real_both": "detecting_real_both",
    "detecting_real_honest": "detecting_real",
    "detecting_real_roc": "detecting_real",
    "detecting_real_weaker": "detecting_real_weaker",
    "detecting_roc": "detecting",
    "detecting_strangers": "detecting_strangers",
    "end_to_end_later": "waiting",
    "evading": "evading",
    "evading_real": "evading_real",
    "more_surrogates": "waiting",
    "precision": "precision",
    "real_recognisers": "real",
    "real_waiting": "real",
    "sifting": "sifting",
    "sifting_real": "detecting_real",
    "unknown": "unknown",
}


SIMULATED = {"coverage"}
"""Tables in which nobody's pictures appear, real or synthetic, and for which the protocol decides nothing."""


def cards():
    """Cards of everything that was computed under the protocol, by file."""
    made = [*DATA.glob("shipped/*.json"), *(DATA / "detectors" / f"{name}.json" for name in SHIPPED.values())]
    found = {path.name: json.loads(path.read_text()) for path in made}
    return found | {path.name: shipped.read_table(path.stem).card for path in DATA.glob("results/*.json")}


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
        asked, inputs = protocol.read_protocol()[section], shipped.read_table(name).card["inputs"]
        assert {key: inputs.get(key) for key in asked} == asked, name
