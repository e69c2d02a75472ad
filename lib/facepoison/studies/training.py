"""Studies of how extractors are trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from facepoison import shipped, timeline
from facepoison.extractors.cards import read_card
from facepoison.extractors.catalog import find_entry
from facepoison.extractors.training import find_recipe, train
from facepoison.protocol import read_protocol
from facepoison.studies.common import Say, write

TESTED: tuple[Literal["rank_1", "tar"], ...] = ("rank_1", "tar")


def precision(say: Say, scratch: Path) -> None:
    """Own extractors trained in float32 beside what training them in bfloat16 gave: ``precision.json``."""
    asked, began = read_protocol()["precision"], shipped.begin()
    rows: list[dict[str, Any]] = []
    for name in asked["extractors"]:
        recipe = replace(find_recipe(name), bfloat16=False)
        card = train(recipe, scratch / "precision", scratch, timeline.measure_unseen, report=say)
        for how, each in (("bfloat16", read_card(find_entry(name))), ("float32", card)):
            rates = {what: timeline.tested(each, what) for what in TESTED}
            rows.append({"extractor": name, "precision": how} | rates)
    write("precision", rows, asked, began)
